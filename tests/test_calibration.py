"""Calibration: by hand, against torchmetrics, and whatever the windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from pipeline.calibration import LEVELS, Calibration

_ = 255
REFERENCE = np.array([[0, 0, 1, 1], [2, _, 0, 1]], np.uint8)
MAPPED = np.array([[0, 1, 1, 1], [0, 0, 0, _]], np.uint8)
CONFIDENCE = np.array([[90, 60, 60, 100], [40, 80, _, 70]], np.uint8)


def of_levels(wrong: dict[int, int], right: dict[int, int]) -> Calibration:
    """One class with so many pixels of each per cent."""
    counts = np.zeros((1, LEVELS, 2), np.int64)
    for column, pixels in enumerate((wrong, right)):
        for level, number in pixels.items():
            counts[0, level, column] = number
    return Calibration(counts)


def random_map(seed: int, classes: int, levels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Reference, map and confidence; the surer, the more often right."""
    draw = np.random.default_rng(seed)
    mapped = draw.integers(0, classes, (60, 70))
    confidence = draw.choice(levels, mapped.shape)
    right = draw.random(mapped.shape) < (confidence / 100) ** 1.5
    reference = np.where(right, mapped, (mapped + 1) % classes)
    return np.stack([reference, mapped, confidence]).astype(np.uint8)


def test_pixels_are_counted_by_mapped_class_confidence_and_truth() -> None:
    found = Calibration.of(REFERENCE, MAPPED, CONFIDENCE, 3)
    expected = np.zeros((3, LEVELS, 2), np.int64)
    expected[0, 90, 1] = expected[0, 40, 0] = 1
    expected[1, 60, 0] = expected[1, 60, 1] = expected[1, 100, 1] = 1
    np.testing.assert_array_equal(found.counts, expected)
    assert (found.unknown, found.pixels, found.accuracy) == (1, 5, 0.6)
    assert found.mean_confidence == pytest.approx(0.7)


def test_a_map_without_confidence_has_pixels_of_unknown_confidence() -> None:
    found = Calibration.of(REFERENCE, MAPPED, None, 3)
    assert (found.unknown, found.pixels) == (6, 0)
    assert math.isnan(found.ece())
    assert math.isnan(found.accuracy)
    assert math.isnan(found.mean_confidence)
    assert found.trusted_share(0.0) is None
    assert np.isnan(found.trust().share).all()
    assert np.isnan(found.class_ece()).all()


def test_a_bin_holds_its_upper_edge_and_the_first_one_zero() -> None:
    found = of_levels({0: 1, 10: 2, 11: 4}, {20: 8, 21: 16, 100: 32}).reliability(10)
    assert found.pixels.tolist() == [3, 12, 16, 0, 0, 0, 0, 0, 0, 32]
    assert found.edges.tolist() == [i / 10 for i in range(11)]
    nan = math.nan
    np.testing.assert_allclose(
        found.confidence, [0.2 / 3, (0.44 + 1.6) / 12, 0.21, *[nan] * 6, 1.0], rtol=1e-14
    )
    np.testing.assert_array_equal(found.accuracy, [0, 8 / 12, 1, *[nan] * 6, 1])
    # 0.07 x 100 is more than 7 in floats; in whole numbers 7 % is the edge of the seventh bin.
    assert of_levels({7: 1}, {}).reliability(100).pixels[6] == 1


def test_the_error_is_the_mean_gap_between_confidence_and_accuracy() -> None:
    """60 pixels at 90 % of which 48 are right, and 40 at 50 % of which 30 are."""
    found = of_levels({90: 12, 50: 10}, {90: 48, 50: 30})
    assert found.ece() == pytest.approx(0.6 * 0.1 + 0.4 * 0.25)
    assert found.ece(1) == pytest.approx(abs(0.78 - 0.74))


@pytest.mark.parametrize("bins", [7, 10, 13])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_error_is_that_of_torchmetrics(bins: int, seed: int) -> None:
    """Apart from whole edges, which lie in the next bin there, and 100 % has a bin of its own."""
    levels = np.array([level for level in range(1, 100) if level * bins % 100])
    classes = 4
    reference, mapped, confidence = random_map(seed, classes, levels)
    found = Calibration.of(reference, mapped, confidence, classes)
    sure = torch.from_numpy(confidence.reshape(-1) / 100)
    # Probabilities of which the largest is the map's; below 25 % none could be.
    likely = sure >= 0.3
    said = torch.from_numpy(mapped.reshape(-1).astype(np.int64))
    true = torch.from_numpy(reference.reshape(-1).astype(np.int64))
    rows = ((1 - sure) / (classes - 1))[:, None].repeat(1, classes)
    rows[torch.arange(len(said)), said] = sure
    theirs = multiclass_calibration_error(rows[likely], true[likely], classes, bins, norm="l1")
    few = np.where(confidence >= 30, confidence, np.uint8(255))
    ours = Calibration.of(reference, mapped, few, classes)
    assert ours.ece(bins) == pytest.approx(float(theirs), abs=1e-6)
    # The same of each class as a question of yes or no, whatever the confidence.
    for k in range(classes):
        mine = said == k
        theirs = binary_calibration_error(sure[mine], (true == said)[mine].int(), bins, norm="l1")
        gap = found.reliability(bins, [k])
        pixels, errors = gap.pixels, np.abs(gap.accuracy - gap.confidence)
        assert found.class_ece(bins)[k] == pytest.approx(float(theirs), abs=1e-6)
        assert found.class_ece(bins)[k] == pytest.approx(np.nansum(pixels * errors) / pixels.sum())


def test_trust_is_the_accuracy_of_the_surer_pixels() -> None:
    found = of_levels({50: 30, 80: 8, 95: 1}, {50: 20, 80: 22, 95: 19})
    trust = found.trust()
    assert trust.thresholds.tolist() == list(range(101))
    assert trust.pixels[[0, 50, 51, 80, 81, 95, 96]].tolist() == [100, 100, 50, 50, 20, 20, 0]
    assert trust.share[[0, 51, 95, 96]].tolist() == [1.0, 0.5, 0.2, 0.0]
    assert trust.accuracy[[0, 51, 95]].tolist() == [0.61, 0.82, 0.95]
    assert math.isnan(trust.accuracy[96])
    assert found.trusted_share(0.95) == (81, 0.2)
    assert found.trusted_share(0.82) == (51, 0.5)
    assert found.trusted_share(0.5) == (0, 1.0)
    assert found.trusted_share(0.96) is None


@given(st.integers(0, 2**32 - 1), st.integers(1, 59), st.integers(1, 69))
def test_windows_add_up_and_classes_too(seed: int, row: int, col: int) -> None:
    reference, mapped, confidence = random_map(seed, 3, np.arange(101))
    confidence[:20, :30] = 255
    whole = Calibration.of(reference, mapped, confidence, 3)
    parts = Calibration.empty(3)
    for rows in (slice(0, row), slice(row, None)):
        for cols in (slice(0, col), slice(col, None)):
            part = np.s_[rows, cols]
            parts += Calibration.of(reference[part], mapped[part], confidence[part], 3)
    assert parts == whole
    assert whole.unknown == 600
    bins = [whole.reliability(10, [k]) for k in range(3)]
    np.testing.assert_array_equal(sum(b.pixels for b in bins), whole.reliability().pixels)
    both = whole.trust([0, 2])
    assert both.pixels[0] == whole.counts[[0, 2]].sum()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="0 to 100 per cent or 255"):
        Calibration.of(REFERENCE, MAPPED, CONFIDENCE + np.uint8(20), 3)
    with pytest.raises(ValueError, match="an id above 0"):
        Calibration.of(REFERENCE, MAPPED, CONFIDENCE, 1)
    with pytest.raises(ValueError, match="do not add up"):
        Calibration.empty(2) + Calibration.empty(3)
    with pytest.raises(ValueError, match=r"counts of shape \(classes, 101, 2\)"):
        Calibration(np.zeros((2, 100, 2), np.int64))
    with pytest.raises(ValueError, match="whole numbers"):
        Calibration(np.full((2, LEVELS, 2), -1))
    with pytest.raises(ValueError, match="0 bins"):
        Calibration.empty(2).reliability(0)
