"""Points that were drawn elsewhere, on the maps: the class under each, and how they are spread.

A simple random or a systematic sample, sorted by the classes of the map, is post-stratified: given
how many points fell on each class, the estimators and their variances are those of a stratified
sample (:mod:`pipeline.area_estimates`). A systematic sample has no unbiased variance of its own;
that of a simple random one is mostly too large for it.

Source:
    Card (1982), Using known map category marginal frequencies to improve estimates of thematic map
    accuracy, Photogrammetric Engineering and Remote Sensing 48: 431-439; Olofsson et al. (2014),
    section 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyproj
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.geotiff import BLOCK
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE
from pipeline.parallel import ordered
from pipeline.sample_draw import SheetMap

OUTSIDE = -1
"""Class, and number of the map, of points that lie on no map."""

_DRAWS = 9999


@dataclass(frozen=True, eq=False)
class MappedPoints:
    """Points on maps.

    Attributes:
        classes: Class id under each point, int64, shape ``(points,)``; 255 where maps show the
            place and say nothing of it, :data:`OUTSIDE` where none shows it.
        maps: Number of the map that says so, or :data:`OUTSIDE`.
    """

    classes: NDArray[np.int64]
    maps: NDArray[np.int64]

    @property
    def mapped(self) -> NDArray[np.bool_]:
        """Which points have a class, shape ``(points,)``."""
        return np.asarray((self.classes != OUTSIDE) & (self.classes != IGNORE))


def classes_under(
    maps: Sequence[SheetMap],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    crs: str,
    threads: int = 1,
) -> MappedPoints:
    """Read the class of the pixel that each point lies in.

    Args:
        maps: The maps; where several show a place, the first that says a class of it counts.
        x: Coordinates of the points, shape ``(points,)``.
        y: The same.
        crs: Their coordinate reference system; longitude comes first.
        threads: Threads.

    Raises:
        InputError: If the points cannot be brought to the coordinate system of the maps.
    """
    classes = np.full(len(x), OUTSIDE, np.int64)
    numbers = np.full(len(x), OUTSIDE, np.int64)
    moved = in_systems(x, y, crs, [sheet.grid.crs for sheet in maps])
    for number, sheet in enumerate(maps):
        cols, rows = _pixels(*moved[sheet.grid.crs], sheet.grid)
        inside = (cols >= 0) & (cols < sheet.grid.width) & (rows >= 0) & (rows < sheet.grid.height)
        open_still = (classes == OUTSIDE) | (classes == IGNORE)
        found = np.flatnonzero(inside & open_still)
        if not len(found):
            continue
        ids = _read(sheet, cols[found].astype(np.int64), rows[found].astype(np.int64), threads)
        classes[found], numbers[found] = ids, number
    return MappedPoints(classes, numbers)


def in_systems(
    x: NDArray[np.float64], y: NDArray[np.float64], crs: str, targets: Sequence[str]
) -> Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Points in other coordinate systems; not finite where a system cannot express one.

    Raises:
        InputError: If none of the points can be brought to one of them.
    """
    found = {}
    for target in dict.fromkeys(targets):
        if pyproj.CRS(crs) == pyproj.CRS(target):
            found[target] = (x, y)
            continue
        step = pyproj.Transformer.from_crs(crs, target, always_xy=True)
        across, along = (np.asarray(axis, np.float64) for axis in step.transform(x, y))
        if not (np.isfinite(across) & np.isfinite(along)).any():
            raise InputError(
                f"The points cannot be brought from {crs} to {target}.",
                ["their coordinates are outside of what these systems can express"],
                "Check their coordinate reference system; it may be a wrong one.",
            )
        found[target] = (across, along)
    return found


def tabulated(mapped: NDArray[np.int64], seen: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Count points by class on the map and class that was seen.

    Args:
        mapped: Class ids, shape ``(points,)``.
        seen: Class ids, shape ``(points,)``.
        size: Number of classes.

    Returns:
        Points, shape ``(size, size)``, row = class on the map, column = class that was seen.
    """
    counts = np.bincount(mapped * size + seen, minlength=size**2)
    return np.asarray(counts.reshape(size, size), np.int64)


def chance_of(points: NDArray[np.int64], area_m2: NDArray[np.float64]) -> float:
    """How often chance spreads a simple random sample over the classes as unevenly as this one.

    Pearson's statistic against 9 999 drawn samples, not against its limiting distribution: rare
    classes expect few points.

    Args:
        points: Points on each class of the map, shape ``(classes,)``.
        area_m2: Area mapped as each.

    Returns:
        Share of the samples, from 0.0001 to 1; the same for the same points.
    """
    shares = area_m2 / area_m2.sum()
    expected = points.sum() * shares[shares > 0]
    drawn = np.random.default_rng(0).multinomial(points.sum(), shares, _DRAWS)[:, shares > 0]
    statistic = ((points[shares > 0] - expected) ** 2 / expected).sum()
    drawn_statistics = ((drawn - expected) ** 2 / expected).sum(axis=1)
    return float((1 + (drawn_statistics >= statistic * (1 - 1e-12)).sum()) / (1 + _DRAWS))


def _pixels(
    x: NDArray[np.float64], y: NDArray[np.float64], grid: PixelGrid
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Column and row that each point lies in, as floats: far off, they are no integers."""
    cols = np.floor((x - grid.left) / grid.pixel_width)
    rows = np.floor((grid.top - y) / grid.pixel_height)
    return cols, rows


def _read(
    sheet: SheetMap, cols: NDArray[np.int64], rows: NDArray[np.int64], threads: int
) -> NDArray[np.int64]:
    """Pixels of a map, each block of it read once."""
    codes = (rows // BLOCK) * (sheet.grid.width // BLOCK + 1) + cols // BLOCK
    order = np.argsort(codes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)

    def read(group: NDArray[np.intp]) -> NDArray[np.uint8]:
        col, row = int(cols[group].min()), int(rows[group].min())
        width, height = int(cols[group].max()) - col + 1, int(rows[group].max()) - row + 1
        pixels = sheet.read(Window(col, row, width, height))
        return pixels[rows[group] - row, cols[group] - col]

    ids = np.zeros(len(cols), np.int64)
    for group, found in ordered(read, groups, threads):
        ids[group] = found
    return ids
