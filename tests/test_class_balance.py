"""Classes out of balance: frequencies, weights and repeats by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.class_balance import (
    class_frequencies,
    class_shares,
    inverse_frequency_weights,
    median_frequency_weights,
    repeat_factors,
)
from pipeline.errors import TrainingError
from pipeline.records import Runs
from pipeline.shards import SplitCounts

CLASSES = ("water", "olives", "road")
IMAGE = np.zeros((3, 8, 8), np.uint8)


def counts_of(*tiles: dict[int, int]) -> SplitCounts:
    """Counts of tiles of 64 pixels, given as pixels by class id; the rest is ignored."""
    some = []
    for tile in tiles:
        pixels = np.repeat([*tile, 255], [*tile.values(), 64 - sum(tile.values())])
        label = pixels.astype(np.uint8).reshape(8, 8)
        some.append(SplitCounts.of(IMAGE, Runs.of(label), None, len(CLASSES)))
    return SplitCounts.total(some)


# Water and olives in both tiles, road in the first alone; 100 labelled pixels.
TWO = counts_of({0: 20, 1: 10, 2: 10}, {0: 30, 1: 30})


def test_frequencies_are_of_the_tiles_with_the_class() -> None:
    assert class_frequencies(TWO, CLASSES) == (0.5, 0.4, 0.25)
    assert class_shares(TWO, CLASSES) == (0.5, 0.4, 0.1)


def test_median_frequency_weights_by_hand() -> None:
    assert median_frequency_weights((0.5, 0.4, 0.25)) == (0.8, 1.0, 1.6)
    assert median_frequency_weights((0.5, 0.25)) == (0.75, 1.5)  # between the middle two


def test_inverse_frequency_weights_by_hand() -> None:
    found = inverse_frequency_weights(class_shares(TWO, CLASSES))
    assert found == pytest.approx((2 / 3, 5 / 6, 10 / 3), rel=1e-15)
    # Olives to road: raised further than by the median, as road is in one of the two tiles.
    by_median = median_frequency_weights(class_frequencies(TWO, CLASSES))
    assert found[2] / found[1] == pytest.approx(4.0)
    assert by_median[2] / by_median[1] == pytest.approx(1.6)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=12))
@settings(deadline=None)
def test_with_inverse_weights_all_classes_count_alike_and_a_pixel_1_on_average(
    pixels: list[int],
) -> None:
    names = [str(i) for i in range(len(pixels))]
    counts = SplitCounts(1, 1, (0,), (0,), tuple(pixels), (sum(pixels),) * len(pixels))
    shares = class_shares(counts, names)
    weights = inverse_frequency_weights(shares)
    assert np.dot(shares, weights) == pytest.approx(1.0)
    np.testing.assert_allclose(np.multiply(pixels, weights), sum(pixels) / len(pixels), rtol=1e-12)


@pytest.mark.parametrize("measure", [class_frequencies, class_shares])
def test_all_absent_classes_are_named(
    measure: Callable[[SplitCounts, Sequence[str]], tuple[float, ...]],
) -> None:
    with pytest.raises(TrainingError, match="2 of 3 classes have no pixel") as caught:
        measure(counts_of({1: 64}), CLASSES)
    assert list(caught.value.items) == ["water", "road"]
    assert "Give a sheet that has them the split `train`" in str(caught.value)


# Repeats


def presence(*tiles: str) -> NDArray[np.bool_]:
    """Tiles as strings of x (occurs) and . (does not)."""
    return np.array([[mark == "x" for mark in tile] for tile in tiles])


def test_repeats_by_hand() -> None:
    """Class 0 in all tiles, class 1 in two of eight, class 2 in one of eight, class 3 in none."""
    present = presence("x...", "x...", "xx..", "xxx.", "x...", "x...", "x...", "x...")
    root = np.sqrt(2.0)
    np.testing.assert_allclose(
        repeat_factors(present, 0.5), [1, 1, root, 2, 1, 1, 1, 1], rtol=1e-15
    )
    np.testing.assert_allclose(
        repeat_factors(present, 0.25), [1, 1, 1, root, 1, 1, 1, 1], rtol=1e-15
    )
    assert repeat_factors(present, 0.125).tolist() == [1.0] * 8
    # At 1 the class that is in all tiles is still not rare.
    np.testing.assert_allclose(
        repeat_factors(present, 1.0), [1, 1, 2, np.sqrt(8), 1, 1, 1, 1], rtol=1e-15
    )


def test_a_share_of_nothing_repeats_nothing() -> None:
    present = presence("x..", ".x.", "...", "..x")
    assert repeat_factors(present, 0.0).tolist() == [1.0] * 4
    found = repeat_factors(present, 1.0)
    assert found.tolist() == [2.0, 2.0, 1.0, 2.0]  # nothing labelled: nothing to repeat
    assert found.dtype == np.float64


def test_no_tiles_have_no_factors() -> None:
    assert repeat_factors(np.zeros((0, 3), np.bool_), 0.5).shape == (0,)


@given(
    st.integers(1, 40),
    st.integers(1, 6),
    st.floats(0, 1),
    st.integers(0, 999),
)
@settings(max_examples=80, deadline=None)
def test_repeats_are_those_of_the_paper_and_of_no_order(
    tiles: int, classes: int, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    present = rng.random((tiles, classes)) < rng.random(classes)
    found = repeat_factors(present, share)
    for tile in range(tiles):
        factors = [1.0]
        for c in np.flatnonzero(present[tile]):
            frequency = sum(present[other][c] for other in range(tiles)) / tiles
            factors.append(max(1.0, (share / frequency) ** 0.5))
        assert found[tile] == pytest.approx(max(factors), rel=1e-12)
    mixed = rng.permutation(tiles)
    np.testing.assert_array_equal(repeat_factors(present[mixed], share), found[mixed])
