"""Scores against scikit-learn's and torchmetrics', by hand, and of many matrices at once."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics
from torchmetrics.functional import classification as theirs

from pipeline.confusion import ConfusionMatrix
from pipeline.grid import Window
from pipeline.scores import Measures, measures, scores

CASES = 300


def close(ours: NDArray[np.float64], other: NDArray[np.float64], near: float) -> None:
    np.testing.assert_allclose(ours, other, rtol=near, atol=near)


def random_labels(seed: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """Number of classes, reference and map: agreeing more or less, often without some classes."""
    rng = np.random.default_rng(seed)
    classes, pixels = int(rng.integers(2, 9)), int(rng.integers(1, 200))
    in_reference = rng.dirichlet(np.full(classes, 0.5))
    in_map = rng.dirichlet(np.full(classes, 0.5))
    reference = rng.choice(classes, pixels, p=in_reference)
    mapped = np.where(
        rng.random(pixels) < rng.random(), reference, rng.choice(classes, pixels, p=in_map)
    )
    return classes, reference, mapped


def matrix_of(classes: int, reference: NDArray[np.int64], mapped: NDArray[np.int64]) -> Measures:
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (reference, mapped), 1)
    return measures(counts)


def test_the_cases_have_all_that_is_special() -> None:
    found = [matrix_of(*random_labels(seed)) for seed in range(CASES)]
    assert sum(bool((m.support == 0).any()) for m in found) > 50
    assert sum(bool((m.mapped == 0).any()) for m in found) > 50
    assert sum(bool(((m.support == 0) & (m.mapped > 0)).any()) for m in found) > 20
    assert sum(bool((m.support > 0).all()) for m in found) > 50
    assert sum(math.isnan(m.kappa) for m in found) > 0


@pytest.mark.parametrize("first", range(0, CASES, 100))
def test_scores_are_those_of_scikit_learn(first: int) -> None:
    for seed in range(first, first + 100):
        classes, reference, mapped = random_labels(seed)
        ours = matrix_of(classes, reference, mapped)
        present = ours.support > 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that are absent
            precision, recall, f1, support = metrics.precision_recall_fscore_support(
                reference, mapped, labels=range(classes), zero_division=np.nan
            )
            iou = metrics.jaccard_score(
                reference, mapped, labels=range(classes), average=None, zero_division=0
            )
            kappa = metrics.cohen_kappa_score(reference, mapped)
            balanced = metrics.balanced_accuracy_score(reference, mapped)
        np.testing.assert_array_equal(ours.support, support)
        close(ours.users, precision, 1e-12)
        close(ours.producers, recall, 1e-12)
        close(ours.f1[present], f1[present], 1e-12)
        close(ours.iou[present], iou[present], 1e-12)
        assert ours.overall_accuracy == pytest.approx(metrics.accuracy_score(reference, mapped))
        assert ours.balanced_accuracy == pytest.approx(balanced)
        assert ours.mean_f1 == pytest.approx(f1[present].mean())
        assert ours.mean_iou == pytest.approx(iou[present].mean())
        weighted = metrics.jaccard_score(
            reference, mapped, labels=np.flatnonzero(present), average="weighted"
        )
        assert ours.frequency_weighted_iou == pytest.approx(weighted)
        assert ours.kappa == pytest.approx(kappa, abs=1e-12, nan_ok=True)
        # Theirs are 0 for classes that the reference does not have.
        for values in (ours.producers, ours.f1, ours.iou):
            np.testing.assert_array_equal(np.isnan(values), ~present)
        np.testing.assert_array_equal(np.isnan(ours.users), ours.mapped == 0)


def test_scores_are_those_of_torchmetrics() -> None:
    for seed in range(CASES):
        k, reference, mapped = random_labels(seed)
        ours = matrix_of(k, reference, mapped)
        present, on_map = ours.support > 0, ours.mapped > 0
        said, true = torch.from_numpy(mapped), torch.from_numpy(reference)
        precision = theirs.multiclass_precision(said, true, k, average="none").numpy()
        recall = theirs.multiclass_recall(said, true, k, average="none").numpy()
        f1 = theirs.multiclass_f1_score(said, true, k, average="none").numpy()
        iou = theirs.multiclass_jaccard_index(said, true, k, average="none").numpy()
        accuracy = theirs.multiclass_accuracy(said, true, k, average="micro")
        close(ours.users[on_map], precision[on_map], 1e-6)  # theirs are float32
        close(ours.producers[present], recall[present], 1e-6)
        close(ours.f1[present], f1[present], 1e-6)
        close(ours.iou[present], iou[present], 1e-6)
        assert ours.overall_accuracy == pytest.approx(float(accuracy), abs=1e-6)
        if not math.isnan(ours.kappa):
            kappa = theirs.multiclass_cohen_kappa(said, true, k)
            assert ours.kappa == pytest.approx(float(kappa), abs=1e-5)
        if present.all():
            for mine, mean in (
                (ours.balanced_accuracy, theirs.multiclass_recall(said, true, k, average="macro")),
                (ours.mean_f1, theirs.multiclass_f1_score(said, true, k, average="macro")),
                (ours.mean_iou, theirs.multiclass_jaccard_index(said, true, k, average="macro")),
            ):
                assert mine == pytest.approx(float(mean), abs=1e-6)


def test_kappa_of_a_matrix_reckoned_by_hand() -> None:
    # Observed agreement 35/50; chance (25 x 30 + 25 x 20) / 50**2 = 0.5.
    found = measures(np.array([[20, 5], [10, 15]]))
    assert found.kappa == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    # All that is one is mapped as the other, half and half: as far from chance as can be.
    assert measures(np.array([[0, 5], [5, 0]])).kappa == pytest.approx(-1)
    # A map of one class says nothing, however many pixels are right.
    assert measures(np.array([[99, 0], [1, 0]])).kappa == 0


@pytest.mark.parametrize("pixels", [1, 2**31, 2**60])
def test_kappa_has_nothing_to_stand_on_where_all_is_one_class(pixels: int) -> None:
    found = measures(np.array([[pixels, 0], [0, 0]]))
    assert math.isnan(found.kappa)
    assert found.overall_accuracy == found.balanced_accuracy == found.mean_iou == 1


def test_kappa_of_a_province_whose_products_do_not_fit_into_64_bits() -> None:
    small = np.array([[20, 5], [10, 15]], np.int64)
    assert measures(small * 10**15).kappa == pytest.approx(0.4)
    # One pixel of 2**55 is not of the class: far below what 1 minus a float can hold.
    assert measures(np.array([[2**55, 0], [0, 1]])).kappa == 1


def test_nothing_compared_is_nan_everywhere() -> None:
    found = measures(np.zeros((3, 3), np.int64))
    for field in dataclasses.fields(found):
        values = getattr(found, field.name)
        if values.dtype == np.int64:
            assert not values.any()
        else:
            assert np.isnan(values).all(), field.name


def test_many_matrices_are_scored_as_one_by_one() -> None:
    rng = np.random.default_rng(3)
    for classes in (1, 2, 5, 17):
        counts = rng.integers(0, 10**9, (4, 3, classes, classes))
        counts[rng.random(counts.shape) < 0.4] = 0
        counts[0, 0] = 0
        counts[1, :, classes // 2] = 0  # a class that the reference does not have
        together = measures(counts)
        for place in np.ndindex(4, 3):
            alone = measures(counts[place])
            for field in dataclasses.fields(Measures):
                many, one = getattr(together, field.name), getattr(alone, field.name)
                assert many.shape == (4, 3, *one.shape), field.name
                np.testing.assert_array_equal(many[place], one, err_msg=field.name)


def test_one_matrix_has_names() -> None:
    counts = np.array([[3, 1, 0], [0, 2, 1], [0, 0, 0]])
    found, plain = scores(("olive", "water", "road"), counts), measures(counts)
    assert [entry.name for entry in found.classes] == ["olive", "water", "road"]
    assert [entry.support for entry in found.classes] == plain.support.tolist() == [4, 3, 0]
    assert [entry.users for entry in found.classes] == plain.users.tolist() == [1, 2 / 3, 0]
    assert found.kappa == float(plain.kappa)
    assert [entry.name for entry in found.present] == ["olive", "water"]
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert content["balanced_accuracy"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert content["kappa"] == found.kappa
    assert content["classes"][2]["iou"] is None
    assert list(content)[:4] == ["pixels", "overall_accuracy", "kappa", "balanced_accuracy"]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.zeros((2, 3), np.int64), r"\(2, 3\)"),
        (np.zeros(4, np.int64), r"\(4,\)"),
        (np.zeros((5, 0, 0), np.int64), r"\(5, 0, 0\)"),
        (np.zeros((2, 2)), "whole numbers"),
    ],
)
def test_what_is_no_matrix_is_refused(counts: NDArray[np.int64], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measures(counts)


def test_names_and_counts_fit_together() -> None:
    with pytest.raises(ValueError, match="3 classes need 3 x 3"):
        scores(("a", "b", "c"), np.zeros((2, 2), np.int64))


@given(
    seed=st.integers(0, 2**16),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    cuts=st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=12),
)
def test_scores_do_not_depend_on_windows(
    seed: int, size: tuple[int, int], cuts: list[tuple[bool, float]]
) -> None:
    rng = np.random.default_rng(seed)
    names = ("olive", "water", "road")
    values = np.array([0, 1, 2, 255], np.uint8)
    reference = rng.choice(values, size, p=[0.5, 0.3, 0.1, 0.1])
    mapped = rng.choice(values, size, p=[0.4, 0.3, 0.2, 0.1])
    windows = [Window(0, 0, size[1], size[0])]
    for number, (across, where) in enumerate(cuts):  # any rectangle into two, again and again
        window = windows.pop(number % len(windows))
        length = window.width if across else window.height
        cut = round(where * length)
        if across:
            parts = (window._replace(width=cut),
                     window._replace(col=window.col + cut, width=length - cut))  # fmt: skip
        else:
            parts = (window._replace(height=cut),
                     window._replace(row=window.row + cut, height=length - cut))  # fmt: skip
        windows += [part for part in parts if part.pixels]
    total = ConfusionMatrix.empty(names)
    for i in rng.permutation(len(windows)):
        pixels = windows[i].slices()
        total += ConfusionMatrix.of(names, reference[pixels], mapped[pixels])
    whole = ConfusionMatrix.of(names, reference, mapped)
    assert total == whole
    assert total.as_json() == whole.as_json()
