"""Squares of ground: places that sheets share, matrices that add up, files that say the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from numpy.typing import NDArray

from pipeline.confusion import confusion_counts
from pipeline.errors import InputError
from pipeline.grid import PixelGrid, Window
from pipeline.ground_blocks import BlockMatrices, read_blocks, square_counts, write_blocks
from pipeline.tiling import lattice, lattice_cuts

NAMES = ("olive", "water", "viñedo")


def grid(left: float, top: float, width: int, height: int, pixel: float = 0.5) -> PixelGrid:
    return PixelGrid("EPSG:25830", left, top, pixel, pixel, width, height)


def matrices() -> BlockMatrices:
    counts = np.arange(27).reshape(3, 3, 3)
    places = {(5, -2): counts[0], (4, -2): counts[1], (9, -3): counts[2], (0, 0): 0 * counts[0]}
    return BlockMatrices.of(NAMES, places, "EPSG:25830", 256.0)


def test_places_come_by_row_and_column_without_empty_squares() -> None:
    found = matrices()
    assert found.places.tolist() == [[9, -3], [4, -2], [5, -2]]
    assert found.counts[:, 0, 0].tolist() == [18, 9, 0]
    assert BlockMatrices.of(NAMES, {}, "", 1.0).counts.shape == (0, 3, 3)


def test_squares_are_put_together_from_the_lattices_origin() -> None:
    blocks = matrices()
    found = blocks.coarser(2)
    assert found.side_m == 512.0
    assert found.places.tolist() == [[4, -2], [2, -1]]
    assert found.counts[:, 0, 0].tolist() == [18, 9]
    assert found.counts.sum() == blocks.counts.sum()
    assert blocks.coarser(1) == blocks
    assert blocks.coarser(2).coarser(2) == blocks.coarser(4)
    assert BlockMatrices.of(NAMES, {}, "", 1.0).coarser(4).counts.shape == (0, 3, 3)
    with pytest.raises(ValueError, match="at least once"):
        blocks.coarser(0)


def test_each_square_has_the_matrix_of_its_pixels() -> None:
    sheet = grid(700_003.0, 4_400_001.0, 61, 47)
    draw = np.random.default_rng(5)
    reference, mapped = draw.integers(0, 3, (2, 47, 61)).astype(np.uint8)
    reference[:20, 30:] = 255
    cuts = lattice_cuts(sheet, 16)  # squares of 8 m
    total: dict[tuple[int, int], NDArray[np.int64]] = {}
    for window in (Window(0, 0, 25, 47), Window(25, 0, 36, 13), Window(25, 13, 36, 34)):
        pixels = window.slices()
        for place, counts in square_counts(
            window, reference[pixels], mapped[pixels], cuts, 3
        ).items():
            total[place] = total.get(place, 0) + counts
    expected = {}
    for window, place in lattice(sheet, 16):
        pixels = window.slices()
        counts = confusion_counts(reference[pixels], mapped[pixels], 3)
        if counts.any():
            expected[place] = counts
    assert total.keys() == expected.keys()
    for place, counts in expected.items():
        np.testing.assert_array_equal(total[place], counts)
    # Column 0 lies at x = 700 003 m, in square 87 500 of 8 m, of which it has the last 10 columns.
    assert cuts[1][:2] == [(0, 10, 87_500), (10, 26, 87_501)]
    assert cuts[0][0] == (0, 2, -550_001)  # y = 4 400 001 m, counted southwards


class Watched(Sequence[Any]):
    """A list that counts how often it is asked for an item."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.asked = items, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, at: Any) -> Any:
        found = self.items[at]
        self.asked += len(found) if isinstance(at, slice) else 1
        return found


def test_a_window_looks_at_the_squares_that_it_meets_and_no_others() -> None:
    """A window of a sheet of 4000 x 4000 squares: 4 x 3 of them have pixels of it."""
    sheet = grid(700_000.0, 4_400_000.0, 64_000, 64_000)
    window = Window(32_010, 16_015, 40, 34)
    ids = np.zeros((34, 40), np.uint8)
    rows, cols = map(Watched, lattice_cuts(sheet, 16))
    found = square_counts(window, ids, ids, (rows, cols), 1)
    first = 87_500 + 2000, -550_000 + 1000  # the square of column 32 000 and of row 16 000
    expected = {
        (first[0] + right, first[1] + down): height * width
        for right, width in enumerate((6, 16, 16, 2))
        for down, height in enumerate((1, 16, 16, 1))
    }
    assert {place: int(counts[0, 0]) for place, counts in found.items()} == expected
    assert rows.asked < 100
    assert cols.asked < 100


def test_sheets_on_the_same_ground_share_places() -> None:
    one, other = grid(1000.0, 2000.0, 64, 64), grid(1008.0, 1992.0, 64, 64)
    reference = np.zeros((64, 64), np.uint8)
    found = [
        square_counts(Window(0, 0, 64, 64), reference, reference, lattice_cuts(sheet, 16), 1)
        for sheet in (one, other)
    ]
    common = found[0].keys() & found[1].keys()
    assert len(common) == 9
    assert all(found[0][place] == found[1][place] == 256 for place in common)


def test_a_file_comes_back_and_is_the_same_every_time(tmp_path: Path) -> None:
    for blocks in (matrices(), BlockMatrices.of(NAMES, {}, "EPSG:4258", 0.25)):
        paths = tmp_path / "one.parquet", tmp_path / "two.parquet"
        for path in paths:
            write_blocks(blocks, path)
        assert paths[0].read_bytes() == paths[1].read_bytes()
        found = read_blocks(paths[0])
        assert found == blocks
        assert found.places.dtype == found.counts.dtype == np.dtype(np.int64)
    assert matrices() != blocks


def test_what_is_no_such_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(InputError, match="no such file"):
        read_blocks(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        read_blocks(path)
    pyarrow.parquet.write_table(pyarrow.table({"column": [1]}), path)
    with pytest.raises(InputError, match="no matrices of squares of layout 1"):
        read_blocks(path)


def test_what_does_not_fit_is_refused() -> None:
    blocks = matrices()
    with pytest.raises(ValueError, match="other squares or classes"):
        BlockMatrices(NAMES[:2], blocks.places, "", blocks.counts, 1.0)
    with pytest.raises(ValueError, match="other squares or classes"):
        BlockMatrices(NAMES, blocks.places[:1], "", blocks.counts, 1.0)
