"""Windows and pixel grids, in whole pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grid import PixelGrid, Window, split


def test_a_window_knows_its_edges() -> None:
    window = Window(3, 4, 10, 20)
    assert (window.right, window.bottom, window.pixels) == (13, 24, 200)
    assert window.grown(2) == Window(1, 2, 14, 24)
    assert window.grown(-2) == Window(5, 6, 6, 16)


def test_windows_intersect_in_their_common_pixels() -> None:
    sheet = Window(0, 0, 6, 4)
    assert Window(4, 3, 5, 5).intersection(sheet) == Window(4, 3, 2, 1)
    assert Window(-2, -2, 3, 3).intersection(sheet) == Window(0, 0, 1, 1)
    assert sheet.intersection(sheet) == sheet
    assert Window(6, 0, 2, 2).intersection(sheet) is None
    assert Window(0, -2, 6, 2).intersection(sheet) is None


def test_slices_cut_the_window_out_of_an_array() -> None:
    pixels = np.arange(24).reshape(4, 6)
    np.testing.assert_array_equal(pixels[Window(1, 2, 2, 2).slices()], [[13, 14], [19, 20]])
    origin = Window(100, 200, 6, 4)
    np.testing.assert_array_equal(pixels[Window(105, 203, 1, 1).slices(origin)], [[23]])


def test_bounds_are_of_pixel_edges(grid: PixelGrid) -> None:
    assert grid.bounds == (700_000.0, 4_399_998.0, 700_003.0, 4_400_000.0)
    assert grid.bounds_of(Window(1, 1, 2, 1)) == (700_000.5, 4_399_999.0, 700_001.5, 4_399_999.5)
    assert grid.geotransform == (0.5, 0.0, 700_000.0, 0.0, -0.5, 4_400_000.0)
    assert grid.window == Window(0, 0, 6, 4)


def test_grids_are_the_same_to_a_thousandth_of_a_pixel(grid: PixelGrid) -> None:
    assert grid.same_pixels(replace(grid, left=grid.left + 0.0004))
    assert not grid.same_pixels(replace(grid, left=grid.left + 0.001))
    assert not grid.same_pixels(replace(grid, top=grid.top - 0.5))
    assert not grid.same_pixels(replace(grid, width=5))
    assert not grid.same_pixels(replace(grid, crs="EPSG:25829"))
    # A pixel width that is off by little is off by much at the other edge.
    wide = replace(grid, width=60_000)
    assert not wide.same_pixels(replace(wide, pixel_width=0.5 + 1e-7))


def test_blocks_go_row_by_row_and_are_cut_at_the_edges(grid: PixelGrid) -> None:
    assert list(grid.blocks(4)) == [Window(0, 0, 4, 4), Window(4, 0, 2, 4)]
    assert list(grid.blocks(3)) == [
        Window(0, 0, 3, 3), Window(3, 0, 3, 3), Window(0, 3, 3, 1), Window(3, 3, 3, 1),
    ]  # fmt: skip
    assert list(grid.blocks(100)) == [grid.window]


@given(
    st.builds(
        Window, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 30), st.integers(1, 30)
    ),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_parts_cover_each_pixel_once(window: Window, width: int, height: int) -> None:
    counts = np.zeros((window.height, window.width), np.int64)
    for part in split(window, width, height):
        assert 1 <= part.width <= width
        assert 1 <= part.height <= height
        assert part.intersection(window) == part
        counts[part.slices(window)] += 1
    assert (counts == 1).all()


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (-1, 1)])
def test_parts_have_pixels(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="sizes are positive"):
        list(split(Window(0, 0, 4, 4), width, height))


def test_a_grid_reads_as_people_say_it() -> None:
    sheet = PixelGrid("EPSG:25830", 700_000.25, 4_400_000.0, 0.5, 0.25, 400, 300)
    assert str(sheet) == "400 x 300 pixels of 0.5 x 0.25 from (700000.25, 4400000) in EPSG:25830"
    assert f"{sheet}" == str(sheet)
    assert repr(sheet).startswith("PixelGrid(")  # for programmers
