"""TileScorer: which tiles of a sheet are mapped best and worst, a window at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.counting import cell_counts
from pipeline.evaluation import KEPT_TILES, TileScore, best_tiles, worst_tiles
from pipeline.grid import Window
from pipeline.nomenclature import IGNORE

MIXED = 20
"""One in so many pixels of another reference class than the commonest make a tile mixed."""


@dataclass(frozen=True)
class TileRow:
    """What a window has of one row of tiles.

    Attributes:
        row: Number of the row of tiles.
        first: Number of the first tile in it that the window touches.
        counts: Pixels judged of each reference class and, last, those right, shape
            ``(tiles, classes + 1)``.
    """

    row: int
    first: int
    counts: NDArray[np.int64]


class TileScorer:
    """Scores the squares of a sheet, counted from its upper left corner.

    Squares of which less than half is judged are left out. Rows of tiles are scored when all their
    windows are added, and of those scored only the best and worst are kept: memory does not grow
    with the sheet. :meth:`count` may be called from any thread; :meth:`add` from one.

    Args:
        sheet: Name of the sheet.
        whole: All pixels of the sheet.
        tile_px: Pixels a side.
        classes: Number of classes.
    """

    def __init__(self, sheet: str, whole: Window, tile_px: int, classes: int) -> None:
        self._sheet, self._whole = sheet, whole
        self._side, self._classes = tile_px, classes
        self._open: dict[int, NDArray[np.int64]] = {}
        self._kept: tuple[TileScore, ...] = ()

    def count(
        self, window: Window, reference: NDArray[np.uint8], mapped: NDArray[np.uint8]
    ) -> list[TileRow]:
        """Count what a window has of each tile.

        Args:
            window: A window of the sheet.
            reference: Class ids of its pixels; 255 where a pixel is not judged.
            mapped: Class ids of the map; 255 where it has no data.
        """
        judged = np.where(mapped == IGNORE, np.uint8(IGNORE), reference)
        right = np.where(mapped == judged, judged, np.uint8(IGNORE))
        side = self._side
        first = window.col // side
        inner = np.arange((first + 1) * side, window.right, side) - window.col
        edges = np.concatenate([[0], inner, [window.width]]).astype(np.intp)
        found = []
        for row in range(window.row // side, (window.bottom - 1) // side + 1):
            rows = slice(max(0, row * side - window.row), (row + 1) * side - window.row)
            counts = np.empty((len(edges) - 1, self._classes + 1), np.int64)
            counts[:, :-1] = cell_counts(judged[rows], edges)[:, : self._classes]
            counts[:, -1] = cell_counts(right[rows], edges)[:, : self._classes].sum(axis=1)
            found.append(TileRow(row, first, counts))
        return found

    def add(self, window: Window, rows: Sequence[TileRow]) -> None:
        """Add what :meth:`count` has counted; windows come in the order of their first rows."""
        across = -(-self._whole.width // self._side)
        for part in rows:
            if part.row not in self._open:
                self._open[part.row] = np.zeros((across, self._classes + 1), np.int64)
            self._open[part.row][part.first : part.first + len(part.counts)] += part.counts
        self._close([row for row in self._open if (row + 1) * self._side <= window.row])

    def scores(self, ground: Sequence[Window]) -> tuple[TileScore, ...]:
        """The best and worst tiles when all windows are added, by row and column.

        Args:
            ground: Judged ground, to which the windows of the tiles are cut.
        """
        self._close(list(self._open))
        return tuple(replace(tile, window=_cut(tile.window, ground)) for tile in self._kept)

    def _close(self, rows: list[int]) -> None:
        """Score rows of tiles that are complete."""
        tiles = [*self._kept, *(tile for row in rows for tile in self._scored(row))]
        kept = {*best_tiles(tiles, KEPT_TILES), *worst_tiles(tiles, KEPT_TILES)}
        self._kept = tuple(sorted(kept, key=lambda tile: (tile.window.row, tile.window.col)))

    def _scored(self, row: int) -> list[TileScore]:
        counts = self._open.pop(row)
        pixels = counts[:, :-1].sum(axis=1)
        others = pixels - counts[:, :-1].max(axis=1)
        side = self._side
        found = []
        for tile in np.flatnonzero(2 * pixels >= side**2).tolist():
            window = Window(tile * side, row * side, side, side).intersection(self._whole)
            assert window is not None
            judged, right = int(pixels[tile]), int(counts[tile, -1])
            mixed = bool(MIXED * others[tile] >= judged)
            found.append(TileScore(self._sheet, window, judged, right, mixed))
        return found


def _cut(window: Window, ground: Sequence[Window]) -> Window:
    """The smallest window that holds all of its pixels on the ground."""
    parts = [part for area in ground if (part := area.intersection(window)) is not None]
    col, row = min(part.col for part in parts), min(part.row for part in parts)
    right, bottom = max(part.right for part in parts), max(part.bottom for part in parts)
    return Window(col, row, right - col, bottom - row)
