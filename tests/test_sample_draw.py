"""Samples of maps: simple random in each class, whatever the windows, threads and seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.grid import PixelGrid, Window
from pipeline.ground_area import row_areas_m2
from pipeline.sample_draw import SheetMap, count_strata, draw, ranks

_ = 255
SMALL = np.array([[0, 0, 1, 1], [0, _, 1, 2], [2, 2, 2, 2]], np.uint8)


def _read(ids: NDArray[np.uint8]) -> Callable[[Window], NDArray[np.uint8]]:
    return lambda window: ids[window.slices()]


def _map(ids: NDArray[np.uint8], sheet: str = "a", left: float = 700_000.0) -> SheetMap:
    grid = PixelGrid("EPSG:25830", left, 4_400_000.0, 0.5, 2.0, ids.shape[1], ids.shape[0])
    return SheetMap(sheet, grid, _read(ids))


def test_pixels_and_areas_of_several_sheets_are_counted() -> None:
    strata = count_strata([_map(SMALL), _map(SMALL[:1], "b")], 4, rows=2)
    assert strata.pixels.tolist() == [5, 5, 5, 0]
    assert strata.area_m2.tolist() == [5.0, 5.0, 5.0, 0.0]  # pixels of 1 m2
    assert [(number, window.row) for number, window in strata.bands] == [(0, 0), (0, 2), (1, 0)]


def test_rows_of_degrees_have_areas_of_their_own_whatever_the_bands() -> None:
    grid = PixelGrid("EPSG:4258", -1.0, 40.0, 0.1, 0.1, 4, 3)
    areas = row_areas_m2(grid)
    both = [
        count_strata([SheetMap("a", grid, _read(SMALL))], 3, rows=rows).area_m2 for rows in (1, 3)
    ]
    np.testing.assert_array_equal(both[0], both[1])
    expected = [2 * areas[0] + areas[1], 2 * areas[0] + areas[1], areas[1] + 4 * areas[2]]
    np.testing.assert_allclose(both[0], expected, rtol=1e-15)


def test_a_sample_of_all_pixels_is_all_pixels() -> None:
    points = draw(count_strata([_map(SMALL)], 3), [3, 3, 5], seed=1)
    assert [(p.row, p.col, p.stratum) for p in points] == [
        (row, col, SMALL[row, col]) for row in range(3) for col in range(4) if SMALL[row, col] != _
    ]
    assert (points[2].x, points[2].y) == (700_001.25, 4_399_999.0)  # row 0, column 2: its centre


def test_points_do_not_depend_on_bands_or_threads() -> None:
    ids = np.random.default_rng(3).integers(0, 3, (61, 47)).astype(np.uint8)
    ids[20:30, 5:40] = _
    maps = [_map(ids), _map(ids[::-1], "b")]
    found = [
        draw(count_strata(maps, 3, threads, rows), [20, 0, 31], seed=5, threads=threads)
        for threads, rows in ((1, 1), (2, 7), (3, 512))
    ]
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) == 51
    assert [(p.sheet, p.row, p.col) for p in found[0]] == sorted(
        (p.sheet, p.row, p.col) for p in found[0]
    )
    for point in found[0]:
        assert (ids if point.sheet == "a" else ids[::-1])[point.row, point.col] == point.stratum


def test_a_stratum_is_drawn_alike_however_many_points_the_others_get() -> None:
    strata = count_strata([_map(SMALL)], 3)
    alone = draw(strata, [0, 0, 2], seed=9)
    assert [p for p in draw(strata, [3, 1, 2], seed=9) if p.stratum == 2] == alone


def test_each_pixel_of_a_stratum_is_drawn_as_often() -> None:
    """Chi-square over 1000 seeds: 2 of 5 pixels each time."""
    strata = count_strata([_map(SMALL)], 3, rows=2)
    drawn = np.zeros(SMALL.shape, np.int64)
    pairs: dict[tuple[tuple[int, int], ...], int] = {}
    for seed in range(1000):
        points = draw(strata, [0, 0, 2], seed)
        places = tuple((p.row, p.col) for p in points)
        pairs[places] = pairs.get(places, 0) + 1
        for place in places:
            drawn[place] += 1
    assert drawn[SMALL != 2].sum() == 0
    # Pairs, too: 10 of them, 100 times each. The 99.9 % point of chi-square with 9 degrees of
    # freedom is 27.9.
    assert len(pairs) == 10
    assert sum((times - 100) ** 2 / 100 for times in pairs.values()) < 27.9
    # Of single pixels 400 each, variance 1000 * 0.4 * 0.6 = 240; 4 degrees of freedom, 18.5.
    assert ((drawn[SMALL == 2] - 400) ** 2).sum() / (240 * 5 / 4) < 18.5


def test_ranks_of_any_population_are_different_and_below_it() -> None:
    large = ranks(2**62, 1000, (1, 2))
    assert len(set(large.tolist())) == 1000
    assert 0 <= large.min() < large.max() < 2**62
    assert (np.diff(large) > 0).all()
    assert abs(large.astype(float).mean() / 2**62 - 0.5) < 4 / np.sqrt(12 * 1000)
    assert ranks(7, 7, (0,)).tolist() == list(range(7))
    assert ranks(7, 0, (0,)).tolist() == []
    assert ranks(10**9, 50, (3,)).tolist() == ranks(10**9, 50, (3,)).tolist()
    with pytest.raises(ValueError, match="8 of 7 cannot be drawn"):
        ranks(7, 8, (0,))


def test_more_points_than_pixels_and_ids_without_a_class_are_refused() -> None:
    strata = count_strata([_map(SMALL)], 3)
    with pytest.raises(ValueError, match="cannot be drawn"):
        draw(strata, [4, 0, 0], seed=0)
    with pytest.raises(InputError, match="sheet a: its map holds the values 2, which are no class"):
        count_strata([_map(SMALL)], 2)


def test_a_map_that_changes_between_the_passes_is_told() -> None:
    ids = SMALL.copy()
    strata = count_strata([_map(ids)], 3)
    ids[0, 0] = 1
    with pytest.raises(InputError, match="has changed while the sample was drawn"):
        draw(strata, [1, 0, 0], seed=0)
