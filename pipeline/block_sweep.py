"""A sheet gone through in windows of whole blocks: each block is decoded once.

GDAL decodes whole blocks. Windows that end inside of blocks, as tiles and ground do, make it decode
them again and again; so blocks are read in their own windows, and what is counted in each is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.counting import cell_counts
from pipeline.grid import Window
from pipeline.nomenclature import IGNORE

ACROSS = 8192
"""Columns that are read at once: 4 MB of a class raster at blocks of 512 pixels."""


def block_windows(sheet: Window, wanted: Iterable[Window], height: int, width: int) -> list[Window]:
    """Windows of whole blocks that hold all wanted pixels: read them, and no block is read twice.

    Args:
        sheet: All pixels of the raster.
        wanted: Windows of which pixels are wanted; they may overlap, and reach beyond the sheet.
        height: Rows of the raster's blocks.
        width: Columns of the raster's blocks.

    Returns:
        Row by row of blocks; at most :data:`ACROSS` columns wide, or one block where that is more.
    """
    touched = np.zeros((-(-sheet.height // height), -(-sheet.width // width)), bool)
    for window in wanted:
        part = window.intersection(sheet)
        if part is not None:
            touched[
                part.row // height : -(-part.bottom // height),
                part.col // width : -(-part.right // width),
            ] = True
    found = []
    most = max(1, ACROSS // width)
    for down, row in enumerate(touched):
        turns = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0)).tolist()
        for begin, end in zip(turns[::2], turns[1::2], strict=True):
            for first in range(begin, end, most):
                blocks = min(most, end - first)
                part = Window(first * width, down * height, blocks * width, height)
                part = part.intersection(sheet)
                assert part is not None
                found.append(part)
    return found


class TileCounter:
    """Counts the labelled pixels of a sheet's tiles, a window of whole blocks at a time.

    Each block is decoded once, however many tiles it is part of: what a window has of a tile is
    added to what other windows have of it. :meth:`count` may be called from any thread;
    :meth:`add` from one at a time, in any order.

    Args:
        tiles: Windows of the tiles; they may overlap, and reach beyond the sheet.
        sheet: All pixels of the sheet.
        classes: Number of classes.
        block: Height and width of the blocks of the label raster.

    Attributes:
        windows: Windows of the sheet to read, count and add.
        class_pixels: Pixels of each class, shape ``(tiles, classes)``; complete when all windows
            are added.
    """

    def __init__(
        self,
        tiles: Sequence[Window],
        sheet: Window,
        classes: int,
        block: tuple[int, int],
    ) -> None:
        self._classes = classes
        self.windows = block_windows(sheet, tiles, *block)
        self.class_pixels = np.zeros((len(tiles), classes), np.int64)
        # First and end of rows and columns inside the sheet, in the order of the first rows.
        places = np.array(tiles, np.intp).reshape(-1, 4)
        self._order = np.argsort(places[:, 1], kind="stable")
        col, row, width, height = places[self._order].T
        self._rows = row, np.minimum(row + height, sheet.height)
        self._cols = col, np.minimum(col + width, sheet.width)
        self._tallest = int(height.max(initial=0))

    def count(self, window: Window, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Count what a window has of each tile that it touches.

        Args:
            window: One of :attr:`windows`.
            labels: Class ids or 255, shape ``(rows, cols)``.

        Returns:
            Pixels, shape ``(tiles, classes)``.

        Raises:
            ValueError: If an id is neither a class nor 255.
        """
        tiles = self._touched(window)
        tops, bottoms, lefts, rights = self._inside(window, tiles)
        counts = np.zeros((len(tiles), self._classes), np.int64)
        cuts = np.unique(np.concatenate([tops, bottoms]))
        for top, bottom in pairwise(cuts.tolist()):
            # Between two cuts, a tile has all of the rows or none.
            across = np.flatnonzero((tops <= top) & (bottoms >= bottom))
            if not len(across):
                continue
            left, right = lefts[across], rights[across]
            edges = np.unique(np.concatenate([[0, window.width], left, right]))
            cells = cell_counts(labels[top:bottom], edges)
            self._check(cells)
            sums = np.zeros((len(edges), self._classes), np.int64)
            np.cumsum(cells[:, : self._classes], axis=0, out=sums[1:])
            counts[across] += sums[np.searchsorted(edges, right)]
            counts[across] -= sums[np.searchsorted(edges, left)]
        return counts

    def add(self, window: Window, counts: NDArray[np.int64]) -> None:
        """Add what :meth:`count` has counted in a window."""
        self.class_pixels[self._order[self._touched(window)]] += counts

    def _touched(self, window: Window) -> NDArray[np.intp]:
        """Places, in the order of the rows, of the tiles that have pixels of a window."""
        (row, row_end), (col, col_end) = self._rows, self._cols
        first, end = np.searchsorted(row, [window.row - self._tallest, window.bottom])
        near = slice(first, end)
        touched = (
            (row_end[near] > window.row) & (col[near] < window.right) & (col_end[near] > window.col)
        )
        found: NDArray[np.intp] = np.flatnonzero(touched) + first
        return found

    def _inside(
        self, window: Window, tiles: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """First and end of rows and columns of tiles, in a window."""
        (row, row_end), (col, col_end) = self._rows, self._cols
        return (
            np.clip(row[tiles] - window.row, 0, window.height),
            np.clip(row_end[tiles] - window.row, 0, window.height),
            np.clip(col[tiles] - window.col, 0, window.width),
            np.clip(col_end[tiles] - window.col, 0, window.width),
        )

    def _check(self, cells: NDArray[np.int64]) -> None:
        wrong = np.flatnonzero(cells[:, self._classes : IGNORE].any(axis=0)) + self._classes
        if len(wrong):
            raise ValueError(
                f"the labels hold the id {', '.join(map(str, wrong))}; ids "
                f"run from 0 to {self._classes - 1}, or are {IGNORE}"
            )
