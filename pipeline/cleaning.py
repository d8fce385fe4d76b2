"""A map without its smallest parts, band by band: majority filter, minimum mapping unit, holes.

In this order, each where it is asked for: the filter takes single pixels away and smooths
outlines; what is smaller than the minimum mapping unit becomes part of its neighbours; what is
left inside of others and is small enough is filled (:mod:`pipeline.generalisation` has the rules).
So a cleaned map has neither patches below the unit, but for those among pixels without data, nor
holes up to their limit. Pixels without data stay as they are.

The map is read twice: once to find its patches, once to count what has changed. In between lie the
table of the patches, their borders and the runs of the map, in files: memory is bounded by a band
of the sheet, however many patches it has. The result does not depend on bands, strips or threads.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyproj
from numpy.typing import NDArray

from pipeline import ground_area
from pipeline.borders import BorderStore
from pipeline.errors import SettingsError
from pipeline.generalisation import Generalisation
from pipeline.grid import PixelGrid, Window, split
from pipeline.majority import majority
from pipeline.nomenclature import IGNORE
from pipeline.parallel import ordered
from pipeline.patch_table import PatchTable
from pipeline.patches import NOWHERE, PatchFinder, PixelUnits, Runs
from pipeline.sections import CleaningSettings

log = logging.getLogger(__name__)

BAND_ROWS = 512
"""Rows that are read, filtered and handed on together."""

STRIP_PX = 2**21
"""Pixels whose runs are made to patches together."""

_PART_PX = 2**21  # pixels of the sheet for each part of the borders
_FINE = 2**24  # units of the largest pixel's area where pixels differ in it
_SIDE = 2**12  # units of the longer side of pixels that are not square
_SLACK = 1e-9  # limits are as written, whatever a pixel's area loses in floating point

Read = Callable[[Window], NDArray[np.uint8]]


@dataclass(frozen=True)
class CleanedBand:
    """All columns of some rows, cleaned.

    Attributes:
        window: Where it lies.
        classes: Class ids or 255, shape ``(rows, cols)``.
        changed: Pixels whose class is another one than before.
    """

    window: Window
    classes: NDArray[np.uint8]
    changed: int


def cleaned_bands(
    read: Read,
    grid: PixelGrid,
    rules: CleaningSettings,
    folder: Path,
    *,
    threads: int = 1,
    advance: Callable[[int], None] = lambda pixels: None,
    band_rows: int = BAND_ROWS,
    strip_px: int = STRIP_PX,
) -> Iterator[CleanedBand]:
    """Clean a map.

    Args:
        read: Gives class ids, 255 where there are none, of a window inside the sheet; from any
            thread.
        grid: Grid of the map.
        rules: What is cleaned.
        folder: Where files may lie meanwhile; it is made, and left to the caller to remove.
        threads: Threads that read and filter.
        advance: Takes the number of pixels that a pass has done since its last call.
        band_rows: Rows of a band.
        strip_px: Pixels of a strip, about.

    Yields:
        Bands from top to bottom, each row once.

    Raises:
        SettingsError: If the window of the majority filter has no middle.
        InputError: If areas cannot be told from the grid's coordinate system.
        OSError: If the disk is full.
    """
    check(rules)
    folder.mkdir(parents=True)
    bands = list(split(grid.window, grid.width, band_rows))

    def filtered(window: Window) -> NDArray[np.uint8]:
        if rules.majority_px <= 1:
            return read(window)
        return majority(_around(read, grid, window, rules.majority_px // 2), rules.majority_px)

    if passes(rules) > 1:
        units = pixel_units(grid)
        runs = _RunFile(folder / "runs")
        rows = max(1, strip_px // grid.width)
        with PatchTable(folder) as table:
            found = ordered(filtered, bands, threads)
            _generalise(found, rows, runs, table, units, grid, rules, advance)
            for window, before in ordered(read, bands, threads):
                strips = [
                    _painted(runs.read(part.row), table.classes, part)
                    for part in split(window, grid.width, rows)
                ]
                advance(window.pixels)
                yield _band(window, before, np.concatenate(strips))
    else:
        both = ordered(lambda window: (read(window), filtered(window)), bands, threads)
        for window, (before, after) in both:
            advance(window.pixels)
            yield _band(window, before, after)


def passes(rules: CleaningSettings) -> int:
    """How many times the map is gone through."""
    return 2 if rules.min_area_m2 or rules.max_hole_m2 else 1


def check(rules: CleaningSettings) -> None:
    """Refuse rules that say nothing or nothing that can be done.

    Raises:
        SettingsError: If nothing is asked for, or the majority filter's window is even.
    """
    if not rules.asked:
        raise SettingsError(
            "There is nothing to clean: no rule of `cleaning` is asked for.",
            remedy="Set majority_px, min_area_m2 or max_hole_m2 (--majority, --min-area, "
            "--max-hole).",
        )
    if rules.majority_px and rules.majority_px % 2 == 0:
        raise SettingsError(
            f"cleaning.majority_px: {rules.majority_px} is even; the window has no pixel in its "
            "middle.",
            remedy=f"Write {rules.majority_px + 1}.",
        )


def pixel_units(grid: PixelGrid) -> PixelUnits:
    """Sizes of a sheet's pixels: pixels are the unit wherever all of them are the same squares.

    Of geographic grids, areas are those of each row on the ellipsoid, to a part in 10⁷; sides are
    those in the middle of the sheet.

    Raises:
        InputError: If areas cannot be told from the grid's coordinate system.
    """
    areas = ground_area.row_areas_m2(grid)
    crs = pyproj.CRS(grid.crs)
    if crs.is_geographic:
        degrees = math.degrees(crs.axis_info[0].unit_conversion_factor)
        middle = degrees * (grid.top - grid.pixel_height * grid.height / 2)
        wide, high = degrees * grid.pixel_width, degrees * grid.pixel_height
        geod = crs.get_geod()
        assert geod is not None  # every geographic system has one
        across = geod.inv(0.0, middle, wide, middle)[2]
        down = geod.inv(0.0, middle - high / 2, 0.0, middle + high / 2)[2]
        unit_m2 = float(areas.max()) / _FINE
        counts = np.rint(areas / unit_m2).astype(np.int64)
    else:
        across, down = grid.pixel_width, grid.pixel_height
        unit_m2 = float(areas[0])
        counts = np.ones(grid.height, np.int64)
    if math.isclose(across, down, rel_tol=1e-6):
        return PixelUnits(counts, 1, 1, unit_m2)
    longer = max(across, down)
    across, down = (max(1, round(_SIDE * side / longer)) for side in (across, down))
    return PixelUnits(counts, across, down, unit_m2)


def _generalise(
    bands: Iterator[tuple[Window, NDArray[np.uint8]]],
    rows: int,
    runs: _RunFile,
    table: PatchTable,
    units: PixelUnits,
    grid: PixelGrid,
    rules: CleaningSettings,
    advance: Callable[[int], None],
) -> None:
    unit = math.ceil(rules.min_area_m2 / units.unit_m2 * (1 - _SLACK))
    hole = math.floor(rules.max_hole_m2 / units.unit_m2 * (1 + _SLACK))
    limit = max(unit, hole + 1)
    parts = 1 + grid.window.pixels // _PART_PX
    borders = BorderStore(runs.folder / "borders", parts)
    finder = PatchFinder(table, borders, grid.height, units, limit)
    for window, classes in bands:
        for part in split(window, grid.width, rows):
            runs.write(part.row, finder.add(classes[part.slices(window)]))
        advance(window.pixels)
    found = table.patches
    merging = Generalisation(table, borders, runs.folder, parts, limit)
    if unit:
        merging.reach(unit, int(units.areas.min()))
        log.info(
            "minimum mapping unit of %g m²: %d of %d patches became part of others",
            *(rules.min_area_m2, found - table.patches, found),
        )
    if hole:
        left = table.patches
        merging.fill(hole)
        log.info(
            "holes up to %g m²: %d of %d patches became part of what is around them",
            *(rules.max_hole_m2, left - table.patches, left),
        )
    table.settle()


class _RunFile:
    """The runs of all strips, in one file."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self._path = path
        self._places: dict[int, tuple[int, int]] = {}
        self._end = 0

    def write(self, row: int, runs: Runs) -> None:
        self._places[row] = (self._end, len(runs.starts))
        with self._path.open("ab") as file:
            file.write(runs.starts.tobytes() + runs.patches.tobytes())
        self._end += 8 * len(runs.starts)

    def read(self, row: int) -> Runs:
        begin, count = self._places[row]
        both = np.fromfile(self._path, np.uint32, 2 * count, offset=begin)
        return Runs(both[:count], both[count:])


def _around(read: Read, grid: PixelGrid, window: Window, margin: int) -> NDArray[np.uint8]:
    """Pixels of a window and around it; 255 beyond the sheet."""
    grown = window.grown(margin)
    inside = grown.intersection(grid.window)
    assert inside is not None
    pixels = np.full((grown.height, grown.width), IGNORE, np.uint8)
    pixels[inside.slices(grown)] = read(inside)
    return pixels


def _painted(runs: Runs, classes: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    colors = np.full(len(runs.patches), IGNORE, np.uint8)
    some = runs.patches != NOWHERE
    colors[some] = classes[runs.patches[some]]
    ends = np.append(runs.starts[1:], np.uint32(window.pixels))
    return np.repeat(colors, ends - runs.starts).reshape(window.height, window.width)


def _band(window: Window, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> CleanedBand:
    return CleanedBand(window, after, int(np.count_nonzero(before != after)))
