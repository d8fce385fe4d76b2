"""Ground that several sheets show: it counts for the first of them that maps it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline import geotiff
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE
from pipeline.sample_draw import Read, SheetMap

log = logging.getLogger(__name__)


def own_ground(maps: Sequence[SheetMap]) -> list[SheetMap]:
    """The maps without what an earlier one shows: ground that sheets share is drawn from once.

    Args:
        maps: The maps.

    Returns:
        Maps that read 255 where the pixel's centre lies in a mapped pixel of an earlier one of
        the same coordinate system. Of others, common ground is told, and stays.
    """
    found = []
    for number, sheet in enumerate(maps):
        before = []
        for other in maps[:number]:
            if not _overlap(sheet.grid, other.grid):
                continue
            if sheet.grid.crs == other.grid.crs:
                before.append(other)
            else:
                log.warning(
                    "sheets %s and %s overlap in two coordinate systems: their common ground may "
                    "be drawn from twice",
                    other.sheet, sheet.sheet,
                )  # fmt: skip
        found.append(
            SheetMap(sheet.sheet, sheet.grid, _without(sheet, before)) if before else sheet
        )
    return found


def _overlap(grid: PixelGrid, other: PixelGrid) -> bool:
    left, bottom, right, top = geotiff.bounds_in(grid, other.crs)
    west, south, east, north = other.bounds
    return left < east and west < right and bottom < north and south < top


def _without(sheet: SheetMap, before: Sequence[SheetMap]) -> Read:
    grid = sheet.grid

    def read(window: Window) -> NDArray[np.uint8]:
        ids = sheet.read(window)
        x = grid.left + (np.arange(window.col, window.right) + 0.5) * grid.pixel_width
        y = grid.top - (np.arange(window.row, window.bottom) + 0.5) * grid.pixel_height
        for other in before:
            there = other.grid
            across = np.floor((x - there.left) / there.pixel_width).astype(np.int64)
            down = np.floor((there.top - y) / there.pixel_height).astype(np.int64)
            cols = np.flatnonzero((across >= 0) & (across < there.width))
            rows = np.flatnonzero((down >= 0) & (down < there.height))
            if not len(cols) or not len(rows):
                continue
            across, down = across[cols], down[rows]
            taken = other.read(
                Window(
                    int(across[0]), int(down[0]),
                    int(across[-1] - across[0]) + 1, int(down[-1] - down[0]) + 1,
                )
            )[np.ix_(down - down[0], across - across[0])] != IGNORE  # fmt: skip
            ids[np.ix_(rows, cols)] = np.where(taken, IGNORE, ids[np.ix_(rows, cols)])
        return ids

    return read
