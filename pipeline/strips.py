"""Strips: runs of tiles that one read of orthophoto and labels serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE
from pipeline.shards import Tile

STRIP = 8192
"""Columns that are read at once: 6 MB at 256 px and three bands."""


@dataclass(frozen=True)
class Sources:
    """What tiles are cut from, as functions of a window inside the sheet.

    Attributes:
        grid: The sheet's grid.
        image: Orthophoto, uint8, shape ``(bands, rows, cols)``.
        valid: Where it has data, bool, shape ``(rows, cols)``.
        label: Class ids, uint8, shape ``(rows, cols)``.
        polygons: Row of the polygon from 1, uint32, shape ``(rows, cols)``.
        shares: Class shares by polygon row, float32, shape ``(polygons + 1, classes)``; row 0 is
            no polygon.
    """

    grid: PixelGrid
    image: Callable[[Window], NDArray[np.uint8]]
    valid: Callable[[Window], NDArray[np.bool_]]
    label: Callable[[Window], NDArray[np.uint8]]
    polygons: Callable[[Window], NDArray[np.uint32]]
    shares: NDArray[np.float32]


def strips_of(windows: Sequence[Window]) -> list[tuple[Window, ...]]:
    """Runs of tiles of one row, at most :data:`STRIP` columns wide: one read serves them all."""
    strips: list[list[Window]] = []
    for window in windows:
        last = strips[-1] if strips else []
        if (
            last
            and window.row == last[0].row
            and last[0].col <= window.col
            and window.right - last[0].col <= STRIP
        ):
            last.append(window)
        else:
            strips.append([window])
    return [tuple(strip) for strip in strips]


def cut(windows: Sequence[Window], sources: Sources) -> Iterator[tuple[Tile, NDArray[np.bool_]]]:
    """Tiles of a strip of windows; beyond the sheet's edge they are 0 and ignored."""
    whole = Window(
        windows[0].col,
        windows[0].row,
        max(w.right for w in windows) - windows[0].col,
        windows[0].height,
    )
    strip = whole.intersection(sources.grid.window)
    assert strip is not None
    image, valid = sources.image(strip), sources.valid(strip)
    classes, polygons = sources.label(strip), sources.polygons(strip)
    # One value for what is not there: a sheet's own nodata value would be a texture to learn.
    if not valid.all():
        image = np.where(valid, image, np.uint8(0))
    if strip != whole:
        beyond = [(0, whole.height - strip.height), (0, whole.width - strip.width)]
        image = np.pad(image, [(0, 0), *beyond])
        valid = np.pad(valid, beyond)
        classes = np.pad(classes, beyond, constant_values=IGNORE)
        polygons = np.pad(polygons, beyond)
    for window in windows:
        part = window.slices(whole)
        inside = np.ascontiguousarray(polygons[part])
        rows = _different(inside)
        rows = rows[rows > 0]
        tile = Tile(
            np.ascontiguousarray(image[(slice(None), *part)]),
            np.ascontiguousarray(classes[part]),
            inside,
            rows,
            sources.shares[rows],
        )
        yield tile, valid[part]


def _different(rows: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The different values of an array, ascending; without sorting its pixels."""
    low, high = int(rows.min()), int(rows.max())
    if high - low > rows.size:
        return np.unique(rows)
    there = np.zeros(high - low + 1, bool)
    there[rows - np.uint32(low)] = True
    return (np.flatnonzero(there) + low).astype(np.uint32)
