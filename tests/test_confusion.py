"""Counts, sums and scores of the confusion matrix, on arrays small enough to count by hand."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchmetrics.classification import MulticlassConfusionMatrix

from pipeline.confusion import ConfusionMatrix, confusion_counts, from_json
from pipeline.errors import InputError
from pipeline.scores import Scores

NAMES = ("olive", "water", "road", "vineyard")
_ = 255

REFERENCE = np.array([[0, 0, 0, 1], [1, 1, _, _], [2, 2, 0, 0]], np.uint8)
MAPPED = np.array([[0, 1, 0, 1], [1, 3, 0, _], [0, 0, 0, _]], np.uint8)
EXPECTED = np.array([[3, 1, 0, 0], [0, 2, 0, 1], [2, 0, 0, 0], [0, 0, 0, 0]])


def counted_one_by_one(
    reference: NDArray[np.uint8], mapped: NDArray[np.uint8], classes: int
) -> NDArray[np.int64]:
    counts = np.zeros((classes, classes), np.int64)
    for true, said in zip(reference.flat, mapped.flat, strict=True):
        if true != 255 and said != 255:
            counts[true, said] += 1
    return counts


def noise(shape: tuple[int, int], seed: int, classes: int = 4) -> NDArray[np.uint8]:
    values = np.random.default_rng(seed).integers(0, classes + 1, shape).astype(np.uint8)
    values[values == classes] = 255
    return values


def test_rows_are_the_reference_and_columns_the_map() -> None:
    counts = confusion_counts(REFERENCE, MAPPED, 4)
    np.testing.assert_array_equal(counts, EXPECTED)
    assert counts.dtype == np.int64


def test_labelled_pixels_without_a_map_are_told_apart_and_not_counted() -> None:
    matrix = ConfusionMatrix.of(NAMES, REFERENCE, MAPPED)
    assert matrix.unmapped == 1  # the last olive; the pixel above it has no label either
    assert matrix.pixels == 9
    np.testing.assert_array_equal(matrix.counts, EXPECTED)


def test_the_counts_are_those_of_counting_one_by_one_and_of_torchmetrics() -> None:
    reference, mapped = noise((37, 53), 1), noise((37, 53), 2)
    counts = confusion_counts(reference, mapped, 4)
    np.testing.assert_array_equal(counts, counted_one_by_one(reference, mapped, 4))
    both = mapped != 255
    metric = MulticlassConfusionMatrix(4, ignore_index=255)
    theirs = metric(
        torch.from_numpy(mapped[both].astype(np.int64)),
        torch.from_numpy(reference[both].astype(np.int64)),
    )
    np.testing.assert_array_equal(counts, theirs.numpy())


def test_areas_larger_than_a_chunk_count_as_one_by_one() -> None:
    """A map that follows the reference but for an edge, and noise in one corner."""
    reference = np.kron(noise((9, 7), 8), np.ones((90, 100), np.uint8))
    mapped = np.roll(reference, (2, 3), (0, 1))
    mapped[:200, :200] = noise((200, 200), 9)
    counts = confusion_counts(reference, mapped, 4)
    expected = [[((reference == i) & (mapped == j)).sum() for j in range(4)] for i in range(4)]
    np.testing.assert_array_equal(counts, expected)


def test_all_255_classes_fit() -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    counts = confusion_counts(ids, ids, 255)
    np.testing.assert_array_equal(counts, np.eye(255))


def test_an_array_that_is_no_block_of_memory_counts_the_same() -> None:
    reference, mapped = noise((20, 30), 3), noise((20, 30), 4)
    window = (slice(3, 17), slice(5, 29, 2))
    np.testing.assert_array_equal(
        confusion_counts(reference[window], mapped[window], 4),
        counted_one_by_one(reference[window], mapped[window], 4),
    )


@given(
    rows=st.integers(1, 12),
    cols=st.integers(1, 12),
    cut=st.integers(1, 12),
    seed=st.integers(0, 2**16),
)
def test_windows_add_up_to_the_sheet(rows: int, cols: int, cut: int, seed: int) -> None:
    reference, mapped = noise((rows, cols), seed), noise((rows, cols), seed + 1)
    total = ConfusionMatrix.empty(NAMES)
    for row in range(0, rows, cut):
        window = slice(row, row + cut)
        total += ConfusionMatrix.of(NAMES, reference[window], mapped[window])
    assert total == ConfusionMatrix.of(NAMES, reference, mapped)


@pytest.mark.parametrize(
    ("reference", "mapped", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), r"\(2, 3\).*\(3, 2\)"),
        (np.array([[4]], np.uint8), np.array([[0]], np.uint8), "reference holds the id 4"),
        (np.array([[0]], np.uint8), np.array([[254]], np.uint8), "map holds the id 254"),
        # A wrong id is a mistake even where the other raster hides the pixel.
        (np.array([[9]], np.uint8), np.array([[255]], np.uint8), "reference holds the id 9"),
        (np.zeros((1, 1), np.int64), np.zeros((1, 1), np.uint8), "uint8, not int64"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    reference: NDArray[np.uint8], mapped: NDArray[np.uint8], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_counts(reference, mapped, 4)


def test_sums_beyond_32_bits_and_beyond_float_are_exact() -> None:
    province = ConfusionMatrix(("a", "b"), np.array([[2**53, 1], [0, 2**31]]))
    one = ConfusionMatrix(("a", "b"), np.array([[1, 0], [0, 0]]))
    total = province + one + one + one
    assert total.counts[0, 0] == 2**53 + 3
    assert total.pixels == 2**53 + 3 + 1 + 2**31


def test_matrices_of_other_classes_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="other classes"):
        ConfusionMatrix.empty(("a", "b")) + ConfusionMatrix.empty(("b", "a"))


def test_a_matrix_cannot_be_changed_behind_its_back() -> None:
    counts = np.array([[1, 0], [0, 1]])
    matrix = ConfusionMatrix(("a", "b"), counts)
    counts[0, 0] = 7
    assert matrix.pixels == 2
    with pytest.raises(ValueError, match="read-only"):
        matrix.counts[0, 0] = 7


def test_scores_of_a_matrix_counted_by_hand() -> None:
    scores = ConfusionMatrix(NAMES, EXPECTED).scores()
    olive, water, road, vineyard = scores.classes
    assert scores.pixels == 9
    assert scores.overall_accuracy == pytest.approx(5 / 9)
    assert (olive.support, olive.mapped, olive.correct) == (4, 5, 3)
    assert olive.users == pytest.approx(3 / 5)
    assert olive.producers == pytest.approx(3 / 4)
    assert olive.f1 == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
    assert olive.iou == pytest.approx(3 / 6)
    assert water.iou == pytest.approx(2 / 4)
    # Road is in the reference and never mapped: found 0, and nothing to say of its precision.
    assert (road.producers, road.f1, road.iou) == (0, 0, 0)
    assert math.isnan(road.users)
    # Vineyard is mapped and not in the reference: all of it is wrong, the rest has no ground.
    assert vineyard.users == 0
    assert all(math.isnan(v) for v in (vineyard.producers, vineyard.f1, vineyard.iou))
    assert scores.present == (olive, water, road)
    assert scores.mean_iou == pytest.approx((3 / 6 + 2 / 4 + 0) / 3)
    assert scores.frequency_weighted_iou == pytest.approx((4 * 3 / 6 + 3 * 2 / 4 + 0) / 9)
    assert scores.mean_f1 == pytest.approx((olive.f1 + water.f1 + 0) / 3)
    by_chance = (4 * 5 + 3 * 3) / 81
    assert scores.kappa == pytest.approx((5 / 9 - by_chance) / (1 - by_chance))
    assert scores.balanced_accuracy == pytest.approx((3 / 4 + 2 / 3 + 0) / 3)


def test_nothing_compared_scores_nan_everywhere() -> None:
    scores = ConfusionMatrix.empty(NAMES).scores()
    values = [
        scores.overall_accuracy,
        scores.kappa,
        scores.mean_iou,
        scores.frequency_weighted_iou,
        scores.mean_f1,
        scores.balanced_accuracy,
        *(entry.iou for entry in scores.classes),
        *(entry.users for entry in scores.classes),
    ]
    assert all(math.isnan(value) for value in values)
    assert scores.present == ()


def test_normalised_by_row_and_by_column() -> None:
    matrix = ConfusionMatrix(NAMES, EXPECTED)
    nan = math.nan
    by_row = [[3 / 4, 1 / 4, 0, 0], [0, 2 / 3, 0, 1 / 3], [1, 0, 0, 0], [nan, nan, nan, nan]]
    by_column = [[3 / 5, 1 / 3, nan, 0], [0, 2 / 3, nan, 1], [2 / 5, 0, nan, 0], [0, 0, nan, 0]]
    np.testing.assert_allclose(matrix.by_reference(), np.array(by_row, np.float64))
    np.testing.assert_allclose(matrix.by_mapped(), np.array(by_column, np.float64))


def test_json_keeps_every_count_and_writes_nan_as_null() -> None:
    matrix = ConfusionMatrix(("Olivar de «secano»", 'a"b'), np.array([[2**60, 3], [0, 0]]), 17)
    text = matrix.as_json()
    assert from_json(text, "0722.json") == matrix
    content = json.loads(text)
    assert content["counts"] == [[2**60, 3], [0, 0]]
    assert content["scores"]["classes"][1]["iou"] is None
    assert "NaN" not in text
    assert "«secano»" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"layout": 1, "classes": ["a"', "is not JSON"),
        ("[]", "no confusion matrix of layout 1"),
        ('{"layout": 2}', "no confusion matrix of layout 1"),
        ('{"layout": 1, "classes": ["a"], "counts": [[1, 2]], "unmapped": 0}', "do not fit"),
        ('{"layout": 1, "classes": ["a"], "counts": [[1.5]], "unmapped": 0}', "do not fit"),
        ('{"layout": 1, "classes": ["a"], "counts": [[true]], "unmapped": 0}', "do not fit"),
        ('{"layout": 1, "classes": ["a"], "counts": [[1]]}', "do not fit"),
        ('{"layout": 1, "classes": ["a"], "counts": [[-1]], "unmapped": 0}', "0 or more"),
        ('{"layout": 1, "classes": ["a"], "counts": [[1e3]], "unmapped": 0}', "do not fit"),
        (f'{{"layout": 1, "classes": ["a"], "counts": [[{2**64}]], "unmapped": 0}}', "0722.json"),
        ('{"layout": 1, "classes": [], "counts": [], "unmapped": 0}', "do not fit|need 0 x 0"),
    ],
)
def test_json_that_is_no_matrix_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_json(text, "0722.json")
    assert "0722.json" in str(caught.value)


def test_csv_has_names_and_totals() -> None:
    matrix = ConfusionMatrix(("olive, rainfed", "water"), np.array([[3, 1], [0, 2]]))
    rows = list(csv.reader(matrix.as_csv().splitlines()))
    assert rows == [
        ["reference \\ mapped", "olive, rainfed", "water", "total"],
        ["olive, rainfed", "3", "1", "4"],
        ["water", "0", "2", "2"],
        ["total", "3", "3", "6"],
    ]


def test_scores_as_plain_values() -> None:
    scores: Scores = ConfusionMatrix(NAMES, EXPECTED).scores()
    values = scores.as_dict()
    assert values["overall_accuracy"] == scores.overall_accuracy
    assert [entry["name"] for entry in values["classes"]] == list(NAMES)
    assert values["classes"][3]["iou"] is None
    assert json.loads(json.dumps(values, allow_nan=False)) == values
