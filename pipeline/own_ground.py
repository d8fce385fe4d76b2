"""Ground that several sheets show: it counts for the first of them that maps it."""

from __future__ import annotations

import logging
from bisect import bisect_left
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
    earlier = _earlier([sheet.grid for sheet in maps])
    found = []
    for sheet, numbers in zip(maps, earlier, strict=True):
        before = []
        for other in (maps[number] for number in numbers):
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


def _earlier(grids: Sequence[PixelGrid]) -> list[list[int]]:
    """Numbers of the earlier grids that each overlaps, ascending."""
    members: dict[str, list[int]] = {}
    for number, grid in enumerate(grids):
        members.setdefault(grid.crs, []).append(number)
    found: list[list[int]] = [[] for _ in grids]
    for crs, numbers in members.items():
        theirs = np.array([grids[number].bounds for number in numbers])
        # Bounds in another system are reckoned once a system, not once a pair of sheets.
        for number in range(numbers[0] + 1, len(grids)):
            left, bottom, right, top = geotiff.bounds_in(grids[number], crs)
            west, south, east, north = theirs[: bisect_left(numbers, number)].T
            meet = (left < east) & (west < right) & (bottom < north) & (south < top)
            found[number] += [numbers[place] for place in np.flatnonzero(meet).tolist()]
    return [sorted(of_one) for of_one in found]


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
