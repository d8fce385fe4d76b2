"""Class proportions to one class or IGNORE a polygon, and to the pixels of a window.

Polygons are burnt by their row, so that one pass gives the polygon index and, through a table, the
class. Geometry is moved to the sheet's pixel coordinates first, in steps of a thousand millionth of
a pixel: a window is then a shift by whole numbers, which floating point does exactly, so a window
burns the same pixels as the whole sheet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import InputError
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE, MOST_CLASSES
from pipeline.proportions import OFF_PERCENT, Proportions
from pipeline.scanline import Outlines
from pipeline.sections import LabelSettings

REASONS = (
    "orthophoto_nodata",
    "no_polygon",
    "unknown",
    "empty_label",
    "unmapped",
    "composite",
    "below_min_share",
    "below_min_margin",
    "boundary",
)
"""Why a pixel has no class, in the order in which reasons are given: the first one counts."""

_MASKED = MOST_CLASSES  # codes from here on are reasons, in their order

_EXACT = 1e-9  # shares are sums of percentages: 0.7 + 0.2 + 0.1 is not 1.0

_SLACK = 1e-6  # of a pixel: 1.1 m are 11 pixels of 0.1 m, and 1.1 / 0.1 is a little more

_STEP = 2.0**-30  # of a pixel; a coordinate of 2**22 pixels still has as many bits below the point


@dataclass(frozen=True)
class LabelShapes:
    """Polygons of a sheet, ready to burn.

    Attributes:
        grid: The sheet's grid.
        outlines: Their edges in pixel coordinates.
        classes: Class of the polygon in row ``i`` (from 1; row 0 is no polygon), uint8,
            shape ``(n + 1,)``.
        reasons: Position in :data:`REASONS` of why it has none, or 255, uint8, shape ``(n + 1,)``.
    """

    grid: PixelGrid
    outlines: Outlines
    classes: NDArray[np.uint8]
    reasons: NDArray[np.uint8]

    @cached_property
    def rows(self) -> NDArray[np.uint32]:
        """Row of each polygon, 0 for none, uint32, shape ``(n + 1,)``."""
        return np.arange(len(self.classes), dtype=np.uint32)

    @cached_property
    def codes(self) -> NDArray[np.uint8]:
        """Class of each polygon, or 240 and more: why it has none, uint8, shape ``(n + 1,)``."""
        masked = (_MASKED + self.reasons.astype(np.int64)).clip(max=IGNORE)
        return np.where(self.reasons == 255, self.classes, masked).astype(np.uint8)


@dataclass(frozen=True)
class LabelledWindow:
    """Labels of one window.

    Attributes:
        label: Class ids, 255 where masked, uint8, shape ``(rows, cols)``.
        polygons: Row of the polygon, 0 where there is none, uint32, shape ``(rows, cols)``.
        class_pixels: Pixels of each class, int64, shape ``(classes,)``.
        masked_pixels: Masked pixels of each of :data:`REASONS`, int64.
    """

    label: NDArray[np.uint8]
    polygons: NDArray[np.uint32]
    class_pixels: NDArray[np.int64]
    masked_pixels: NDArray[np.int64]


def polygon_classes(
    proportions: Proportions, settings: LabelSettings
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The class of each polygon, or why it has none.

    A polygon whose covers all belong to one class has that class. Of the others, ``dominant``
    takes the largest class if its share of the whole polygon is at least ``min_share`` and leads
    the second class by at least ``min_margin`` (a tie never has a class; covers of no class are no
    second), and ``mask`` takes none. Too small a share is told before too small a lead.

    Returns:
        Class ids and positions in :data:`REASONS` (255 where there is a class), both uint8, shape
        ``(n,)``.

    Raises:
        ValueError: If a polygon is not interpreted for a reason that :data:`REASONS` has not.
    """
    if strange := {*proportions.reasons.tolist()} - {"", *REASONS}:
        raise ValueError(f"reasons {sorted(map(str, strange))} are none of {', '.join(REASONS)}")
    count = len(proportions.shares)
    rows = np.arange(count)
    shares = proportions.shares
    largest = shares.argmax(axis=1)
    share = shares[rows, largest]
    # Not by the share alone: 33.33 + 33.33 + 33.33 % of one class is all of it.
    rest = shares.sum(axis=1) - share + proportions.unmapped
    pure = (rest <= _EXACT) & (share >= 1 - OFF_PERCENT / 100 - _EXACT)
    if settings.composite == "mask":
        reasons = np.full(count, REASONS.index("composite"), np.uint8)
    else:
        others = shares.copy()
        others[rows, largest] = 0
        lead = share - others.max(axis=1)
        reasons = np.full(count, 255, np.uint8)
        # A tie is no lead, even where no lead is asked for.
        small = (lead < settings.min_margin - _EXACT) | (lead <= _EXACT)
        reasons[small] = REASONS.index("below_min_margin")
        reasons[share < settings.min_share - _EXACT] = REASONS.index("below_min_share")
    reasons[pure] = 255
    classes = largest.astype(np.uint8)
    for position, name in enumerate(REASONS):
        reasons[proportions.reasons == name] = position
    classes[reasons != 255] = IGNORE
    return classes, reasons


def label_shapes(proportions: Proportions, grid: PixelGrid, settings: LabelSettings) -> LabelShapes:
    """Prepare the polygons of a sheet."""
    classes, reasons = polygon_classes(proportions, settings)
    none = REASONS.index("no_polygon")
    return LabelShapes(
        grid,
        Outlines.of(proportions.geometry, lambda points: pixel_coordinates(points, grid)),
        np.concatenate([[IGNORE], classes]).astype(np.uint8),
        np.concatenate([[none], reasons]).astype(np.uint8),
    )


def pixel_coordinates(points: NDArray[np.float64], grid: PixelGrid) -> NDArray[np.float64]:
    """Points in the sheet's pixels: column and row, down from the top, shape ``(n, 2)``."""
    columns = (points[:, 0] - grid.left) / grid.pixel_width
    rows = (points[:, 1] - grid.top) / grid.pixel_height
    snapped = np.round(np.column_stack([columns, rows]) / _STEP)
    # Half a step off the centres: an edge that lies on a row of centres would belong to the
    # polygons on both sides. Now the southern one has it, as the eastern one has across.
    snapped[:, 1] = -(snapped[:, 1] + 0.5)
    return np.asarray(snapped * _STEP)


def burn(shapes: LabelShapes, window: Window) -> NDArray[np.uint32]:
    """Row of the polygon at each pixel centre of a window; where polygons overlap, the last row.

    Centre rule, not all_touched: that would widen every boundary by up to a pixel, always to the
    gain of whichever polygon happens to be burned last.

    Returns:
        uint32, shape ``(rows, cols)``; 0 where no polygon is.
    """
    return np.asarray(shapes.outlines.runs(window).painted(shapes.rows))


def outline_margin(settings: LabelSettings, grid: PixelGrid, tolerance_m: float) -> tuple[int, int]:
    """Rows and columns to mask on each side of an outline: ``boundary_px`` or ``boundary_m``.

    The wider one counts. Metres are rounded up to whole pixels, and no margin is wider than the
    sheet. Pixels of a geographic sheet are as large as at its centre latitude.

    Args:
        settings: ``boundary_px``, and ``boundary_m`` in metres or ``source``.
        grid: The sheet's grid.
        tolerance_m: Positional tolerance of the polygons' source in metres, NaN if not known.

    Raises:
        InputError: If ``boundary_m`` is ``source`` and the source's tolerance is not known.

    Source:
        Radii of the meridian and of the parallel: Snyder (1987), Map Projections: A Working Manual,
        USGS Professional Paper 1395, chapter 4.
    """
    metres = tolerance_m if settings.boundary_m == "source" else settings.boundary_m
    if not (math.isfinite(metres) and metres >= 0):
        raise InputError(
            "labels.boundary_m: source: the positional tolerance of the SIOSE base is not known.",
            remedy="Write it in metres, such as `boundary_m: 5`.",
        )
    if not metres:
        rows, columns = (settings.boundary_px,) * 2
        return min(rows, grid.height), min(columns, grid.width)
    # Imported here: labels without a margin in metres need no PROJ.
    import pyproj

    crs = pyproj.CRS(grid.crs)
    north = east = crs.axis_info[0].unit_conversion_factor  # to metres, or to radians
    if crs.is_geographic:
        latitude = north * (grid.top - grid.pixel_height * grid.height / 2)
        ellipsoid = crs.get_geod()
        assert ellipsoid is not None
        flat = 1 - ellipsoid.es * math.sin(latitude) ** 2
        north *= ellipsoid.a * (1 - ellipsoid.es) / flat**1.5
        east *= ellipsoid.a * math.cos(latitude) / flat**0.5

    def pixels(size: float, sheet: int) -> int:
        return min(max(math.ceil(metres / size - _SLACK), settings.boundary_px), sheet)

    rows = pixels(grid.pixel_height * north, grid.height)
    return rows, pixels(grid.pixel_width * east, grid.width)


def label_window(
    shapes: LabelShapes,
    window: Window,
    valid: NDArray[np.bool_],
    margin: tuple[int, int],
    classes: int,
) -> LabelledWindow:
    """Labels of one window of the sheet.

    Args:
        shapes: The sheet's polygons.
        window: Pixels inside the sheet.
        valid: Which of them the orthophoto has, shape ``(rows, cols)``.
        margin: Rows and columns of :func:`outline_margin`: pixels with a pixel of another polygon
            within them are masked.
        classes: Number of classes.
    """
    around = window.grown(max(margin)).intersection(shapes.grid.window)
    assert around is not None
    runs = shapes.outlines.runs(around)
    index = runs.painted(shapes.rows)
    if not any(margin) and runs.apart and valid.all():
        # Runs say it all: no pixel differs from the others of its polygon.
        label, counts = runs.painted(shapes.classes), runs.counts(shapes.codes)
        return LabelledWindow(label, index, *_parted(counts, classes))
    inside = window.slices(around)
    polygons = np.ascontiguousarray(index[inside])
    # One byte a pixel says both the class and why there is none: it is looked up once.
    codes = shapes.codes.take(polygons)
    if any(margin):
        outline = near_outline(index, margin)[inside]
        codes[outline & (codes < _MASKED)] = _MASKED + REASONS.index("boundary")
    codes[~valid] = _MASKED + REASONS.index("orthophoto_nodata")
    counts = np.array(Image.fromarray(codes).histogram(), np.int64)
    label = np.where(codes < _MASKED, codes, np.uint8(IGNORE))
    return LabelledWindow(label, polygons, *_parted(counts, classes))


def _parted(counts: NDArray[np.int64], classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of each class, and of each reason why there is none, from those of each code."""
    return counts[:classes], counts[_MASKED : _MASKED + len(REASONS)]


def near_outline(index: NDArray[np.uint32], margin: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels that have a pixel of another polygon within ``margin`` rows and columns.

    The array's own edge is no outline. A rectangle has two polygons in it exactly where two
    neighbours in it differ, so what is spread is one byte a pixel. Each step doubles the reach:
    the time goes with the logarithm of the margin.

    Returns:
        bool, shape of ``index``.
    """
    near = np.zeros(index.shape, np.bool_)
    for axis, distance in enumerate(margin):
        if distance:
            differs = np.zeros(index.shape, np.bool_)
            pixels, flags = (index.T, differs.T) if axis else (index, differs)
            np.not_equal(pixels[:-1], pixels[1:], out=flags[:-1])
            _spread(flags, distance, distance - 1)
            _spread(flags.T, margin[1 - axis], margin[1 - axis])
            near |= differs
    return near


def _spread(flags: NDArray[np.bool_], before: int, after: int) -> None:
    """Set each flag where any is set from ``before`` rows before it to ``after`` behind it.

    Two runs of ``after + 1`` rows must do: ``before`` is ``after`` or one more.
    """
    reach, wanted = 1, min(after + 1, len(flags))
    while reach < wanted:
        step = min(reach, wanted - reach)
        flags[:-step] |= flags[step:]
        reach += step
    if before:
        count = max(len(flags) - before, 0)
        behind = flags[: max(count, 1)].copy()
        flags[:before] |= behind[:1]
        flags[before:] |= behind[:count]
