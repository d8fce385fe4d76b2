"""Outlines: counted by hand, against a reckoning over whole arrays, whatever the windows."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.nearness import near, squared_distances
from pipeline.outlines import BINS, DISTANCES, OutlineCounts, outline_pixels, reach
from tests.outline_reckoning import distances, outlines, patches, reckoned

_ = 255


def counted(
    reference: NDArray[np.uint8], mapped: NDArray[np.uint8], classes: int, tolerance: int
) -> OutlineCounts:
    """Counts of a whole sheet, with nothing judged around it."""
    halo = reach(tolerance)
    true, said = (np.pad(ids, halo, constant_values=255) for ids in (reference, mapped))
    return OutlineCounts.of(true, said, classes, tolerance)


def test_an_outline_has_pixels_on_both_sides_and_none_along_a_mask() -> None:
    ids = np.array([[0, 0, 1, 1], [0, 0, 1, _], [0, _, 2, 2]], np.uint8)
    expected = [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0]]
    np.testing.assert_array_equal(outline_pixels(ids), np.array(expected, bool))


def test_pixels_are_counted_by_their_distance_to_the_nearest_outline() -> None:
    """A class left of column 40 and another right of it, in one row of 80 pixels."""
    reference = np.repeat(np.array([0, 1], np.uint8), 40)[None]
    mapped = reference.copy()
    mapped[0, 38:40] = 1  # distances 1 and 0
    mapped[0, 0] = 255  # distance 39, without a map
    found = counted(reference, mapped, 2, 3)
    # Each class: distances 0 and 1 in the first bin, then 2, 3, 4, 5, 6, 7-8, ... 25-32, 33-39.
    right = [2, 1, 1, 1, 1, 1, 2, 2, 2, 4, 8, 8, 7]
    np.testing.assert_array_equal(found.by_distance[1], [[0, n] for n in right])
    assert found.by_distance[0].tolist() == [[2, 0], *([0, n] for n in right[1:-1]), [0, 6]]
    assert found.class_accuracy()[0, :2].tolist() == [0.0, 1.0]
    assert found.accuracy()[0] == 0.5
    assert found.accuracy_beyond(32) == 1.0
    assert found.accuracy_beyond(1) == 1.0
    assert found.pixels.sum() == 79


def test_a_distance_is_euclidean_and_an_edge_is_in_its_bin() -> None:
    """One odd pixel: the outline is a plus of five pixels around it."""
    reference = np.zeros((81, 81), np.uint8)
    reference[40, 40] = 1
    found = counted(reference, reference, 2, 1).by_distance[..., 1]
    rows, cols = np.mgrid[-40:41, -40:41]
    plus = [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)]
    away = np.min([(rows - r) ** 2 + (cols - c) ** 2 for r, c in plus], axis=0)
    edges = [-1, *(edge**2 for edge in DISTANCES), 10**9]
    bins = [((away > a) & (away <= b)).sum() for a, b in pairwise(edges)]
    assert found.sum(axis=0).tolist() == bins
    assert found[1].tolist() == [1] + [0] * (BINS - 1)


def test_a_map_without_outlines_near_has_none_met() -> None:
    """A square in the middle, mapped 2 px off; the tolerance decides."""
    reference = np.zeros((40, 40), np.uint8)
    reference[15:25, 15:25] = 1
    mapped = np.roll(reference, 2, axis=1)
    near_enough = counted(reference, mapped, 2, 2)
    # Class 1: 36 pixels along the rim of the square; class 0: 40 around it, without the corners.
    np.testing.assert_array_equal(near_enough.boundary, [[40, 40, 40, 40], [36, 36, 36, 36]])
    assert near_enough.boundary_f().f.tolist() == [1.0, 1.0]
    # Off by 2 at tolerance 1: the upper and the lower side meet but for the last of ten pixels;
    # the side that lies inside of the other square meets at its two ends, the fourth nowhere.
    strict = counted(reference, mapped, 2, 1)
    np.testing.assert_array_equal(strict.boundary, [[40, 20, 40, 20], [36, 20, 36, 20]])
    assert strict.boundary_f().f.tolist() == [0.5, 20 / 36]


def test_a_class_without_outlines_has_no_score() -> None:
    counts = [[8, 6, 10, 5], [0, 0, 4, 0], [3, 0, 0, 0], [0, 0, 0, 0], [5, 0, 5, 0]]
    found = OutlineCounts(np.zeros((5, BINS, 2), np.int64), np.array(counts), 3).boundary_f()
    nan = math.nan
    np.testing.assert_array_equal(found.precision, [0.75, nan, 0.0, nan, 0.0])
    np.testing.assert_array_equal(found.recall, [0.5, 0.0, nan, nan, 0.0])
    np.testing.assert_array_equal(found.f, [0.6, 0.0, nan, nan, 0.0])
    assert found.mean == pytest.approx(0.2)
    nothing = OutlineCounts.empty(2, 3)
    assert math.isnan(nothing.boundary_f().mean)
    assert np.isnan(nothing.accuracy()).all()
    assert math.isnan(nothing.accuracy_beyond(4))


def test_outlines_near_a_mask_or_an_edge_are_not_judged() -> None:
    reference = np.repeat(np.array([0, 1], np.uint8), 10)[None].repeat(21, axis=0)
    whole = counted(reference, reference, 2, 3)
    # Rows 0-2 and 18-20 lie within 3 px of where nothing is judged.
    np.testing.assert_array_equal(whole.boundary, [[15] * 4, [15] * 4])
    masked, unmapped = reference.copy(), reference.copy()
    masked[10, 4] = 255  # 5 columns left of the outline pixels of class 0
    unmapped[10, 4] = 255
    for true, said in ((masked, reference), (reference, unmapped)):
        np.testing.assert_array_equal(counted(true, said, 2, 3).boundary, whole.boundary)
        fewer = counted(true, said, 2, 4).boundary
        np.testing.assert_array_equal(fewer, counted(reference, reference, 2, 4).boundary)
    masked[10, 6] = 255  # 3 columns: of class 0 the pixel in the row of the mask alone is too near
    np.testing.assert_array_equal(counted(masked, reference, 2, 3).boundary, [[14] * 4, [15] * 4])


def test_outlines_beyond_the_ground_are_near_and_are_not_judged() -> None:
    """A row of 80 pixels of which the first 30 are judged, with an outline behind pixel 39."""
    labels = np.repeat(np.array([0, 1], np.uint8), 40)[None]
    reference = labels.copy()
    reference[0, 30:] = 255
    halo = reach(3)
    true, said, every = (
        np.pad(ids, halo, constant_values=255) for ids in (reference, labels, labels)
    )
    found = OutlineCounts.of(true, said, 2, 3, every)
    # Distances of pixels 0 to 29 to pixel 39: 10 to 39. Up to 10, 12, 16, 24, 32, more.
    assert found.by_distance[0, :, 1].tolist() == [0] * 7 + [1, 2, 4, 8, 8, 7]
    assert found.by_distance.sum() == 30
    assert found.boundary.sum() == 0
    assert OutlineCounts.of(true, said, 2, 3).by_distance[0, -1].tolist() == [0, 30]
    with pytest.raises(ValueError, match="the same, with 33 on each side"):
        OutlineCounts.of(true, said, 2, 3, every[1:])


@pytest.mark.parametrize(
    ("classes", "tolerance", "masked"), [(3, 1, 0.1), (3, 3, 0.1), (11, 4, 0.1), (2, 32, 0.0)]
)
def test_counts_are_those_of_a_reckoning_over_the_whole(
    classes: int, tolerance: int, masked: float
) -> None:
    reference = patches((190, 230), classes, 25, 3, masked)
    mapped = np.roll(patches((190, 230), classes, 25, 3), (1, 2), axis=(0, 1))
    mapped[60:64, 100:130] = 255
    found = counted(reference, mapped, classes, tolerance)
    by_distance, boundary = reckoned(reference, mapped, classes, tolerance)
    np.testing.assert_array_equal(found.by_distance, by_distance)
    np.testing.assert_array_equal(found.boundary, boundary)
    assert boundary.sum(axis=0).min() > 0
    assert (by_distance.sum(axis=(0, 2)) > 0).sum() > 8


@pytest.mark.parametrize(("height", "width"), [(700, 90), (64, 1100), (333, 517)])
def test_windows_add_up_to_the_whole(height: int, width: int) -> None:
    reference = patches((700, 1100), 4, 40, 7, masked=0.15)
    mapped = np.roll(patches((700, 1100), 4, 40, 7), 3, axis=1)
    halo = reach(3)
    true, said = (np.pad(ids, halo, constant_values=255) for ids in (reference, mapped))
    total = OutlineCounts.empty(4, 3)
    for row in range(0, 700, height):
        for col in range(0, 1100, width):
            rows = slice(row, min(row + height, 700) + 2 * halo)
            cols = slice(col, min(col + width, 1100) + 2 * halo)
            total += OutlineCounts.of(true[rows, cols], said[rows, cols], 4, 3)
    assert total == counted(reference, mapped, 4, 3)
    assert total.pixels.sum() == ((reference != 255) & (mapped != 255)).sum()


def test_what_does_not_fit_is_refused() -> None:
    ids = np.zeros((80, 80), np.uint8)
    with pytest.raises(ValueError, match="the same, with 33 on each side"):
        OutlineCounts.of(ids, ids[:-1], 2, 3)
    with pytest.raises(ValueError, match="the same, with 33 on each side"):
        OutlineCounts.of(ids[:66], ids[:66], 2, 3)
    with pytest.raises(ValueError, match="an id above 1"):
        OutlineCounts.of(ids + np.uint8(7), ids, 2, 3)
    with pytest.raises(ValueError, match="do not add up"):
        OutlineCounts.empty(2, 3) + OutlineCounts.empty(2, 4)
    with pytest.raises(ValueError, match="counts of shapes"):
        OutlineCounts(np.zeros((2, BINS, 2), np.int64), np.zeros((3, 4), np.int64), 3)
    with pytest.raises(ValueError, match="whole numbers"):
        OutlineCounts(np.full((1, BINS, 2), -1), np.zeros((1, 4), np.int64), 3)


@pytest.mark.parametrize("farthest", [1, 5, 32, 60])
def test_squared_distances_are_exact(farthest: int) -> None:
    draw = np.random.default_rng(farthest)
    for share in (0.0, 0.0003, 0.02):
        marked = draw.random((260, 240)) < share
        found = squared_distances(marked, 60, farthest)
        squared = np.square(distances(marked))[60:-60, 60:-60]
        expected = np.where(squared > farthest**2 + 0.5, farthest**2 + 1, squared)
        np.testing.assert_array_equal(found, np.rint(expected))
    with pytest.raises(ValueError, match="distances of 1 to 20 pixels"):
        squared_distances(marked, 20, 21)


@pytest.mark.parametrize("radius", [0, 1, 3, 7, 32])
def test_a_disc_holds_pixels_whose_centre_is_near(radius: int) -> None:
    draw = np.random.default_rng(radius)
    bits = (draw.random((150, 170)) < 0.002).astype(np.uint8) * 5
    bits |= (draw.random((150, 170)) < 0.002).astype(np.uint8) * 2
    found = near(bits, radius, 32)
    for bit in (1, 2, 4):
        expected = distances((bits & bit) != 0)[32:-32, 32:-32] <= radius
        np.testing.assert_array_equal((found & bit) != 0, expected)
    with pytest.raises(ValueError, match="reaches beyond"):
        near(bits, 33, 32)


def test_the_reckoning_knows_outlines_as_the_pipeline_does() -> None:
    ids = patches((90, 80), 5, 9, 1, masked=0.2)
    np.testing.assert_array_equal(outlines(ids), outline_pixels(ids))
