"""Overviews are what their definition says, whatever the size, the nodata and the parts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.overviews import MOST, Method, levels, reduced, size


def defined(pixels: NDArray[np.uint8], level: int, how: Method) -> NDArray[np.uint8]:
    """The definition, without a thought for time and memory."""
    side = 2**level
    rows, cols = (-(-n // side) for n in pixels.shape)
    beyond = [(0, rows * side - pixels.shape[0]), (0, cols * side - pixels.shape[1])]
    padded = np.pad(pixels, beyond, constant_values=255)
    under = padded.reshape(rows, side, cols, side).swapaxes(1, 2).reshape(rows, cols, side * side)
    counts = (under != 255).sum(axis=2)
    if how == "mode":
        classes = range(max(pixels[pixels != 255].tolist(), default=0) + 1)
        found = np.stack([(under == k).sum(axis=2) for k in classes]).argmax(axis=0)
    else:
        sums = np.where(under == 255, 0, under.astype(np.int64)).sum(axis=2)
        found = np.floor(sums / np.maximum(counts, 1) + 0.5).astype(np.int64)
    return np.where(counts == 0, 255, found).astype(np.uint8)


def some(shape: tuple[int, int], most: int, missing: float, seed: int = 0) -> NDArray[np.uint8]:
    """Patches of values with noise, some of them without data."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, most, (shape[0] // 7 + 1, shape[1] // 7 + 1))
    pixels = coarse.repeat(7, axis=0).repeat(7, axis=1)[: shape[0], : shape[1]]
    pixels = np.where(random.random(shape) < 0.3, random.integers(0, most, shape), pixels)
    return np.where(random.random(shape) < missing, 255, pixels).astype(np.uint8)


@pytest.mark.parametrize("how", ["mode", "average"])
@pytest.mark.parametrize("missing", [0.0, 0.4, 0.97, 1.0])
@pytest.mark.parametrize("shape", [(512, 1024), (1, 1), (1, 1500), (511, 3), (37, 1301)])
def test_overviews_are_as_defined(shape: tuple[int, int], missing: float, how: Method) -> None:
    pixels = some(shape, 5 if how == "mode" else 255, missing)
    histogram, made = reduced(pixels, 4, how)
    np.testing.assert_array_equal(histogram, np.bincount(pixels.ravel(), minlength=256))
    for level, overview in enumerate(made, 1):
        np.testing.assert_array_equal(overview, defined(pixels, level, how))


@pytest.mark.parametrize("how", ["mode", "average"])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_the_highest_level_counts_right(missing: float, how: Method) -> None:
    pixels = np.full((512, 1024), 254, np.uint8)
    pixels[:, 512:] = some((512, 512), 255, missing)
    _, made = reduced(pixels, MOST, how)
    assert made[-1].shape == (1, 2)
    for level in (3, 4, 5, 8, 9):
        np.testing.assert_array_equal(made[level - 1], defined(pixels, level, how))


def test_ties_go_to_the_smaller_class_and_majorities_are_of_all_pixels() -> None:
    tied = np.array([[3, 1], [1, 3]], np.uint8)
    assert reduced(tied, 1, "mode")[1][0].tolist() == [[1]]
    # Twice as many 2 as 0; of the four majorities, two are 0 and two are 2.
    pixels = np.array([[0, 0, 2, 2], [1, 1, 2, 2], [0, 0, 2, 2], [1, 1, 2, 2]], np.uint8)
    first, second = reduced(pixels, 2, "mode")[1]
    assert first.tolist() == [[0, 2], [0, 2]]
    assert second.tolist() == [[2]]


def test_pixels_without_data_count_for_nothing() -> None:
    pixels = np.array([[255, 255], [255, 7]], np.uint8)
    assert reduced(pixels, 1, "mode")[1][0].tolist() == [[7]]
    assert reduced(pixels, 1, "average")[1][0].tolist() == [[7]]
    assert reduced(np.array([[1, 2], [255, 255]], np.uint8), 1, "average")[1][0].tolist() == [[2]]


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(1, 1, 0), (512, 512, 0), (513, 1, 1), (1025, 3, 1), (1026, 3, 2), (54_000, 38_000, 7),
     (600_000, 10, 9)],
)  # fmt: skip
def test_levels_until_one_fits_into_a_block(width: int, height: int, expected: int) -> None:
    assert levels(width, height, 512) == expected
    assert expected == MOST or size(max(width, height), expected) <= 513
