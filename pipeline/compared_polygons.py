"""Polygons compared: which ones can be, how much map and SIOSE differ in them, and what changed.

SIOSE's shares are of whole polygons, so polygons are compared of which (nearly) all is on the map.
Of sheets that overlap, the first in the table that shows so much of a polygon has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline import mending
from pipeline.grid import PixelGrid
from pipeline.ground_area import row_areas_m2
from pipeline.proportions import Proportions

MIN_PIXELS = 25
"""Pixels that a polygon needs: each is 4 % of the shares then, less than a step of SIOSE's."""

MIN_PART = 0.9
"""Part of a polygon that must be on the ground, and part of that which the map must know."""

MAX_UNMAPPED = 0.05
"""Share of a polygon that may be in no class: SIOSE's smallest step, as a path or a shed has."""

ELSEWHERE = "on another sheet"
"""Why a polygon is not compared here, but is, or has another reason, on another sheet."""

REASONS = (
    ELSEWHERE, "not interpreted", "partly in no class", "cut off", "not mapped", "too small",
)  # fmt: skip
"""Why a polygon is not compared; the first that applies. :data:`ELSEWHERE`: an earlier sheet shows
90 % of it, or this one does not and a later one does; ``not interpreted``: SIOSE says nothing
that can be used; ``partly in no class``: more than 5 % of it is of no class; ``cut off``: less than
90 % of it is on the ground (of the sheet, or of what is judged of it), or visible below other
polygons; ``not mapped``: the map knows less than 90 % of that; ``too small``: less than 25 pixels
are mapped."""

COMPARED, NOWHERE = -1, -2
"""In place of a reason: it is compared; none of it is on the ground."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Sizes:
    """How large polygons are, whole, as SIOSE has them.

    Attributes:
        pixels: Area in pixels, float64, shape ``(polygons,)``.
        area_m2: Area in m², of the same shape.
        bounds: Left, bottom, right, top of all together; from infinity to minus infinity of none.
    """

    pixels: NDArray[np.float64]
    area_m2: NDArray[np.float64]
    bounds: tuple[float, float, float, float]


@dataclass(frozen=True)
class ComparedPolygons:
    """Polygons of a sheet on some ground.

    Attributes:
        reasons: Number in :data:`REASONS`, :data:`COMPARED` or :data:`NOWHERE`, int64, shape
            ``(polygons,)``.
        mapped: Shares on the map, float64, shape ``(polygons, classes)``; NaN without a pixel.
        siose: Shares in SIOSE among the classes, of the same shape; NaN where it has none.
    """

    reasons: NDArray[np.int64]
    mapped: NDArray[np.float64]
    siose: NDArray[np.float64]

    @property
    def compared(self) -> NDArray[np.bool_]:
        """Which polygons are compared."""
        return np.asarray(self.reasons == COMPARED)

    @property
    def left_out(self) -> Mapping[str, int]:
        """Reason to polygons on the ground that are not compared."""
        counts = np.bincount(self.reasons[self.reasons >= 0], minlength=len(REASONS))
        return dict(zip(REASONS, counts.tolist(), strict=True))

    def differences(self) -> NDArray[np.float64]:
        """Total variation distance of the shares by polygon, 0 to 1; NaN where not compared."""
        distance = np.zeros(len(self.reasons))
        for k in range(self.mapped.shape[1]):
            distance += np.abs(self.mapped[:, k] - self.siose[:, k]) / 2
        return np.where(self.compared, distance, np.nan)


@dataclass(frozen=True)
class Changes:
    """What confident pixels say against SIOSE, by polygon.

    Attributes:
        share: Share of confident pixels of classes beyond what SIOSE has of each, 0 to 1; NaN where
            not compared.
        lost: Class of which the map has the most less than SIOSE, int64.
        won: Class with the most confident pixels beyond what SIOSE has of it, int64.
    """

    share: NDArray[np.float64]
    lost: NDArray[np.int64]
    won: NDArray[np.int64]

    def candidates(self, min_change: float) -> NDArray[np.int64]:
        """Polygons of which at least ``min_change``, and anything at all, has changed."""
        return np.flatnonzero((self.share >= min_change - _ROUNDING) & (self.share > _ROUNDING))


def sizes(geometry: Iterable[NDArray[np.object_]], grid: PixelGrid) -> Sizes:
    """Measure polygons.

    Args:
        geometry: Polygons in the grid's CRS, in arrays of some rows each.
        grid: The sheet's pixels.

    Returns:
        Areas in the plane of the map, as every GIS computes them. In a geographic system a
        polygon's pixels are taken to be as large as those of the row of its middle.

    Raises:
        InputError: If the grid has no coordinate system of which areas can be told.
    """
    of_row = row_areas_m2(grid)
    pixels, area_m2 = [], []
    around = np.array([np.inf, np.inf, -np.inf, -np.inf])
    for some in geometry:
        count = shapely.area(some) / (grid.pixel_width * grid.pixel_height)
        bounds = shapely.bounds(some)
        # NaN of a row without a polygon: it has no area either.
        down = np.nan_to_num((grid.top - bounds[:, [1, 3]].mean(axis=1)) / grid.pixel_height)
        row = np.clip(down, 0, grid.height - 1).astype(np.int64)
        pixels.append(count)
        area_m2.append(count * of_row[row])
        total = shapely.total_bounds(some)
        around = np.r_[np.fmin(around[:2], total[:2]), np.fmax(around[2:], total[2:])]
    none: NDArray[np.float64] = np.zeros(0)
    left, bottom, right, top = around.tolist()
    return Sizes(
        np.concatenate([none, *pixels]),
        np.concatenate([none, *area_m2]),
        (left, bottom, right, top),
    )


def shown(
    proportions: Proportions, grounds: Iterable[Sequence[tuple[float, float, float, float]]]
) -> NDArray[np.bool_]:
    """Which polygons a sheet shows at least :data:`MIN_PART` of, whatever lies above them there.

    Args:
        proportions: The polygons; some thousands of outlines are in memory at once.
        grounds: Ground of each of some sheets: rectangles (left, bottom, right, top) in the CRS of
            the polygons.

    Returns:
        Whether any one of the sheets shows so much, shape ``(polygons,)``.
    """
    places = [mending.union(shapely.box(*np.transpose(parts))) for parts in grounds if parts]
    found = np.zeros(len(proportions.shares), np.bool_)
    if not places:
        return found
    shapely.prepare(places)
    first = 0
    for some in proportions.geometry:
        here, bounds = found[first : first + len(some)], shapely.bounds(some)
        for place in places:
            left, bottom, right, top = place.bounds
            # NaN, of a row without a polygon, touches nothing.
            touching = (bounds[:, 0] < right) & (bounds[:, 2] > left)
            touching &= (bounds[:, 1] < top) & (bounds[:, 3] > bottom)
            near = np.flatnonzero(touching & ~here)
            shapes = mending.mended(some[near])
            area = shapely.area(shapes)
            part = np.where(shapely.covers(place, shapes), area, 0.0)
            cut = np.flatnonzero((part == 0) & (area > 0))
            ground = np.full(len(cut), place, object)
            part[cut] = shapely.area(mending.intersection(shapes[cut], ground))
            here[near] = (part > 0) & (part >= MIN_PART * area * (1 - _ROUNDING))
        first += len(some)
    return found


def compare(
    proportions: Proportions,
    pixels: NDArray[np.int64],
    unmapped: NDArray[np.int64],
    whole: NDArray[np.float64],
    earlier: NDArray[np.bool_],
    later: NDArray[np.bool_],
) -> ComparedPolygons:
    """Compare what was counted in polygons on some ground with what SIOSE says of them.

    SIOSE's shares are divided by the part of the polygon that is in a class, which is all but
    :data:`MAX_UNMAPPED` at least: the map knows nothing but classes.

    Args:
        proportions: The polygons.
        pixels: Pixels of each class by polygon on that ground, shape ``(polygons, classes)``.
        unmapped: Pixels there without a class, shape ``(polygons,)``.
        whole: Area of each whole polygon in pixels, shape ``(polygons,)``.
        earlier: Whether an earlier sheet shows it (:func:`shown`), shape ``(polygons,)``.
        later: Whether a later one does.
    """
    mapped = pixels.sum(axis=1)
    here = mapped + unmapped
    in_class = proportions.shares.sum(axis=1)
    cut_off = here < MIN_PART * whole - _ROUNDING
    tests = (
        earlier | (cut_off & later),
        np.array([bool(reason) for reason in proportions.reasons], bool) | (in_class <= 0),
        proportions.unmapped > MAX_UNMAPPED + _ROUNDING,
        cut_off,
        mapped < MIN_PART * here - _ROUNDING,
        mapped < MIN_PIXELS,
    )
    reasons = np.select(tests, range(len(tests)), COMPARED).astype(np.int64)
    reasons[here == 0] = NOWHERE
    with np.errstate(invalid="ignore"):
        return ComparedPolygons(
            reasons, pixels / mapped[:, None], proportions.shares / in_class[:, None]
        )


def changes(compared: ComparedPolygons, confident: NDArray[np.float64]) -> Changes:
    """Find what confident pixels say against SIOSE.

    Args:
        compared: The polygons.
        confident: Confident pixels of each class by polygon as a share of all its mapped pixels,
            shape ``(polygons, classes)``.
    """
    there = compared.compared
    beyond = np.maximum(confident - compared.siose, 0)
    return Changes(
        np.where(there, beyond.sum(axis=1), np.nan),
        _largest(compared.siose - compared.mapped, there),
        _largest(beyond, there),
    )


def _largest(values: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Class with the largest value, the first of equal ones."""
    return np.asarray(np.where(there[:, None], values, 0).argmax(axis=1), np.int64)
