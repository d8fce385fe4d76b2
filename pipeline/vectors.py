"""A class map as polygons: found by windows, joined across them, in the order of the map.

Two passes. The first numbers the patches; what is kept of it is some 50 bytes a piece of a patch.
The second finds the arcs between them and puts each away on disk with the patches it borders, some
thousands of patches to a file; from each file polygons are made at the end. So some windows and
the patches of one file are in memory, or the longest outline where that is more.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.arc_simplification import check_geos, simplified
from pipeline.arcs import Arcs, window_arcs
from pipeline.errors import InputError
from pipeline.grid import PixelGrid, Window, split
from pipeline.ground_area import row_areas_m2
from pipeline.nomenclature import IGNORE
from pipeline.parallel import ordered
from pipeline.patch_polygons import Sides, polygons
from pipeline.pieces import Patches, Pieces, find_pieces, join_pieces, numbered

log = logging.getLogger(__name__)

WINDOW = 1024
"""Pixels a side of the windows. Without simplification, others give the same polygons."""

MANY = 1_000_000
"""From so many patches on, the log says what to do about it."""

_DENSE = 4000  # arcs of a window; GEOS compares each with all others: denser windows are divided
_LEAST = 64  # pixels a side that are not divided further
_RUNS = 250_000  # of the patches of one file: 150 MB while polygons are made of them
_FILES = 250  # open at once, at most

Read = Callable[[Window], NDArray[np.uint8]]


class PatchBatch(NamedTuple):
    """Some patches of a map.

    Attributes:
        geometry: A polygon each, in the sheet's coordinates, shape ``(n,)``.
        classes: Class ids, uint8.
        area_m2: Area of their pixels in square metres.
        confidence: Mean confidence of their pixels in per cent; NaN where none is known.
        pixels: Number of pixels.
    """

    geometry: NDArray[np.object_]
    classes: NDArray[np.uint8]
    area_m2: NDArray[np.float64]
    confidence: NDArray[np.float64]
    pixels: NDArray[np.int64]


@dataclass(frozen=True)
class ClassMap:
    """A map to make polygons of.

    Attributes:
        grid: Its pixels.
        read: Class ids of a window, 255 for none, shape ``(rows, cols)``; from any thread.
        classes: Number of its classes.
        confidence: Its confidence in per cent, 255 where not known, or None.
        what: What to call it in messages.
    """

    grid: PixelGrid
    read: Read
    classes: int
    confidence: Read | None = None
    what: str = "the map"


def patch_batches(
    source: ClassMap,
    folder: Path,
    simplify_m: float = 0.0,
    threads: int = 1,
    window: int = WINDOW,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[PatchBatch]:
    """Polygons of a map's patches, in the raster order of their first pixels.

    Args:
        source: The map.
        folder: An empty folder for what lies on disk meanwhile: 16 bytes a corner of the outlines.
        simplify_m: How far outlines may move, in metres; 0 for outlines of pixels.
        threads: Threads; the result does not depend on them.
        window: Pixels a side of the windows; with simplification, outlines have points where they
            cross its sides.
        advance: Gets the pixels done; each is done twice.

    Raises:
        InputError: If this GEOS cannot simplify, the map has an id that is no class, no area can
            be told from its coordinate system, or it cannot be read.
    """
    if simplify_m:
        check_geos()
    grid = source.grid
    areas = row_areas_m2(grid)
    # Whole numbers add up to the same sum in any order: pixels, or where rows differ millionths.
    unit = areas[0] if (areas == areas[0]).all() else areas.max() / 2**20
    counted = np.rint(areas / unit).astype(np.int64)
    patches = _patches(source, counted, threads, window, advance)
    count = len(patches.classes)
    strange = sorted({*patches.classes[patches.classes >= source.classes].tolist()})
    if strange:
        raise InputError(
            f"{source.what}: has ids that are no classes; there are {source.classes}, from 0 on.",
            [f"ids: {', '.join(map(str, strange))}"],
            "Name the nomenclature that it was made with.",
        )
    if count > MANY:
        log.warning(
            "%s has %d patches of one class: more than a person or QGIS has use for. Clean it "
            "first: cleaning.majority_px or cleaning.min_area_m2.", source.what, count,
        )  # fmt: skip
    if not count:
        return
    # Patches to files, in their order: as many as have so many runs, or one that has more.
    runs = np.cumsum(patches.runs)
    bucket = (runs - 1) // max(_RUNS, -(-int(runs[-1]) // _FILES))
    _, bucket = np.unique(bucket, return_inverse=True)
    files = [folder / f"{number}.sides" for number in range(int(bucket[-1]) + 1)]
    _put_away(source, patches, bucket, files, simplify_m, threads, window, advance)
    for number, file in enumerate(files):
        first, end = np.searchsorted(bucket, [number, number + 1])
        found, geometry = polygons(_taken(file), grid)
        file.unlink()
        assert np.array_equal(found, np.arange(first, end)), "each patch has sides"
        some = slice(first, end)
        yield PatchBatch(
            geometry,
            patches.classes[some],
            patches.area[some] * unit,
            patches.confidence[some],
            patches.pixels[some],
        )


def pixel_metres(grid: PixelGrid) -> tuple[float, float]:
    """Height and width of a pixel in metres; of a geographic grid, in the middle of the sheet."""
    # Imported here: outlines of pixels need no PROJ.
    import pyproj

    crs = pyproj.CRS(grid.crs)
    across, along = (axis.unit_conversion_factor for axis in crs.axis_info[:2])
    if not crs.is_geographic:
        return grid.pixel_height * along, grid.pixel_width * across
    ellipsoid = crs.get_geod()
    assert ellipsoid is not None  # every geographic system has one
    degrees = math.degrees(across)
    middle = degrees * (grid.top - grid.pixel_height * grid.height / 2)
    wide, high = degrees * grid.pixel_width, degrees * grid.pixel_height
    down = ellipsoid.inv(0.0, middle - high / 2, 0.0, middle + high / 2)[2]
    return down, ellipsoid.inv(0.0, middle, wide, middle)[2]


def _patches(
    source: ClassMap,
    areas: NDArray[np.int64],
    threads: int,
    size: int,
    advance: Callable[[int], None],
) -> Patches:
    grid = source.grid

    def found(window: Window) -> Pieces:
        sure = source.confidence(window) if source.confidence else None
        return find_pieces(source.read(window), sure, window, grid, areas)

    def windows() -> Iterator[Pieces]:

        for window, pieces in ordered(found, grid.blocks(size), threads):
            advance(window.pixels)
            yield pieces

    return join_pieces(windows(), grid)


def _put_away(
    source: ClassMap,
    patches: Patches,
    bucket: NDArray[np.int64],
    files: list[Path],
    simplify_m: float,
    threads: int,
    size: int,
    advance: Callable[[int], None],
) -> None:
    """Find the arcs of all windows, and write their sides to the files of their patches."""
    grid = source.grid
    pixel = pixel_metres(grid) if simplify_m else (1.0, 1.0)

    def traced(window: Window) -> list[Sides]:
        around = window.grown(1)
        inside = around.intersection(grid.window)
        assert inside is not None
        classes = np.full((around.height, around.width), IGNORE, np.uint8)
        classes[inside.slices(around)] = source.read(inside)
        pieces = numbered(classes[1:-1, 1:-1])
        of_piece = patches.of_piece[patches.offsets[window] :]
        return [
            Sides.of(arcs, of_piece)
            for arcs in _arcs(classes, pieces, window, grid, simplify_m, pixel)
        ]

    with ExitStack() as stack:
        targets = [stack.enter_context(file.open("wb")) for file in files]
        for window, parts in ordered(traced, grid.blocks(size), threads):
            sides = Sides.joined(parts)
            of_file = bucket[sides.patch]
            for number in np.unique(of_file):
                _put(sides[np.flatnonzero(of_file == number)], targets[number])
            advance(window.pixels)


_COLUMNS = {
    "patch": np.int64,
    "points": np.int32,
    "counts": np.int64,
    "begins": np.uint8,
    "ends": np.uint8,
    "joint": np.bool_,
}


def _put(sides: Sides, file: BinaryIO) -> None:
    """Append sides to a file: their number, that of their points, and the columns."""
    # Not NumPy's own format: its errors do not say that the disk is full.
    file.write(np.array([len(sides.patch), len(sides.points)]).tobytes())
    for name, kind in _COLUMNS.items():
        file.write(getattr(sides, name).astype(kind).tobytes())


def _taken(path: Path) -> Sides:
    """All sides of a file."""
    parts = []
    with path.open("rb") as file:
        while len(head := np.fromfile(file, np.int64, 2)):
            columns: list[NDArray[Any]] = [
                np.fromfile(file, kind, head[1] * 2 if name == "points" else head[0])
                for name, kind in _COLUMNS.items()
            ]
            columns[1] = columns[1].reshape(-1, 2)
            parts.append(Sides(*columns))
    return Sides.joined(parts)


def _arcs(
    classes: NDArray[np.uint8],
    pieces: NDArray[np.int32],
    window: Window,
    grid: PixelGrid,
    simplify_m: float,
    pixel_metres: tuple[float, float],
) -> Iterator[Arcs]:
    """Arcs of a window, or of its parts where it has too many to simplify them at once."""
    arcs = window_arcs(classes, pieces, window, grid)
    if not simplify_m or not len(arcs.left):
        yield arcs
        return
    longer = max(window.width, window.height)
    if len(arcs.left) > _DENSE and longer > _LEAST:
        half = -(-longer // 2)
        for part in split(window, half, half):
            rows, cols = part.slices(window)
            around = slice(rows.start, rows.stop + 2), slice(cols.start, cols.stop + 2)
            yield from _arcs(
                classes[around], pieces[rows, cols], part, grid, simplify_m, pixel_metres
            )
        return
    yield simplified(arcs, window, grid, simplify_m, pixel_metres)
