"""Whole blocks, each read once, and tiles that add up from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.block_sweep import TileCounter, block_windows
from pipeline.grid import Window


def test_windows_of_whole_blocks() -> None:
    sheet = Window(0, 0, 1200, 900)
    assert block_windows(sheet, [sheet], 512, 512) == [
        Window(0, 0, 1200, 512),
        Window(0, 512, 1200, 388),
    ]
    assert block_windows(sheet, [], 512, 512) == []
    # Ground that ends inside of blocks, and a tile that reaches beyond the sheet.
    wanted = [Window(500, 10, 20, 20), Window(1100, 800, 256, 256)]
    assert block_windows(sheet, wanted, 512, 512) == [
        Window(0, 0, 1024, 512),
        Window(1024, 512, 176, 388),
    ]
    assert block_windows(sheet, [Window(600, 600, 10, 10)], 1, 1200) == [
        Window(0, row, 1200, 1) for row in range(600, 610)
    ]


def test_wide_rows_of_blocks_are_read_in_parts() -> None:
    sheet = Window(0, 0, 54_000, 38_000)
    found = block_windows(sheet, [sheet], 512, 512)
    assert len(found) == 75 * 7
    assert found[5:8] == [
        Window(40_960, 0, 8192, 512),
        Window(49_152, 0, 4848, 512),
        Window(0, 512, 8192, 512),
    ]
    assert sum(window.pixels for window in found) == sheet.pixels


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.lists(
        st.tuples(st.integers(0, 69), st.integers(0, 69), st.integers(1, 40), st.integers(1, 40)),
        max_size=12,
    ),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.booleans(),
    st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_tiles_add_up_from_blocks_that_are_read_once(
    width: int,
    height: int,
    places: list[tuple[int, int, int, int]],
    block: tuple[int, int],
    areas: bool,
    random: object,
) -> None:
    sheet = Window(0, 0, width, height)
    tiles = [Window(c % width, r % height, w, h) for c, r, w, h in places]
    labels = np.random.default_rng(5).choice([0, 1, 5, 255], (height, width)).astype(np.uint8)
    if areas:
        labels = labels[: height // 9 + 1, : width // 9 + 1]
        labels = labels.repeat(9, axis=0).repeat(9, axis=1)[:height, :width]
    counter = TileCounter(tiles, sheet, 6, block)
    times = np.zeros((height, width), int)
    for window in counter.windows:
        assert window.row % block[0] == 0 == window.col % block[1]
        times[window.slices()] += 1
    assert times.max(initial=0) <= 1
    windows = list(counter.windows)
    random.shuffle(windows)  # type: ignore[attr-defined]
    for window in windows:
        counter.add(window, counter.count(window, labels[window.slices()]))
    inside = [window.intersection(sheet) for window in tiles]
    expected = [
        np.bincount(labels[part.slices()].ravel(), minlength=256)[:6] for part in inside if part
    ]
    assert len(expected) == len(tiles)
    np.testing.assert_array_equal(counter.class_pixels, np.array(expected).reshape(-1, 6))


def test_labels_that_are_no_class_are_refused() -> None:
    tiles = [Window(0, 0, 4, 4)]
    counter = TileCounter(tiles, Window(0, 0, 4, 4), 3, (512, 512))
    labels = np.zeros((4, 4), np.uint8)
    labels[1, 2], labels[3, 3] = 3, 254
    with pytest.raises(ValueError, match="hold the id 3, 254; ids run from 0 to 2, or are 255"):
        counter.count(counter.windows[0], labels)
