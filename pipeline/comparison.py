"""Two class maps of a place compared, in bands: the memory does not grow with their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray

from pipeline import ground_area
from pipeline.changes import ChangeCode, ChangeCounts
from pipeline.counting import pair_counts
from pipeline.errors import InputError
from pipeline.geotiff import BLOCK
from pipeline.grid import PixelGrid, Window, split
from pipeline.nomenclature import IGNORE
from pipeline.parallel import ordered

Read = Callable[[Window], NDArray[np.uint8]]
"""Window of a raster -> its pixels, shape ``(rows, cols)``."""

ACROSS = 8192
"""Columns that are compared at once."""

_NEAR = 1e-3  # of a pixel: so far apart, two pixels are one


@dataclass(frozen=True)
class CommonPixels:
    """The pixels that two maps share.

    Attributes:
        grid: Their grid.
        before: Where they lie on the earlier map.
        after: Where they lie on the later map.
    """

    grid: PixelGrid
    before: Window
    after: Window


def common_pixels(before: PixelGrid, after: PixelGrid, names: tuple[str, str]) -> CommonPixels:
    """Find the pixels that two maps share; none is resampled.

    Args:
        before: Grid of the earlier map.
        after: Grid of the later map.
        names: What to call them in messages.

    Raises:
        InputError: If they have other coordinate systems or sizes of pixels, if pixels lie beside
            each other by parts of a pixel, or if the maps share no ground.
    """
    wrong = []
    across, down = before.pixel_width, before.pixel_height
    same_crs = before.crs == after.crs or pyproj.CRS(before.crs) == pyproj.CRS(after.crs)
    # Over the whole sheet, not over one pixel: small differences add up.
    drift = (
        abs(after.pixel_width / across - 1) * max(before.width, after.width),
        abs(after.pixel_height / down - 1) * max(before.height, after.height),
    )
    col, row = (after.left - before.left) / across, (before.top - after.top) / down
    shift = abs(col - round(col)), abs(row - round(row))
    if not same_crs:
        wrong.append("their coordinate systems differ")
    elif max(drift) > _NEAR:
        wrong.append("their pixels have other sizes")
    elif max(shift) > _NEAR:
        wrong.append(f"their pixels are shifted by {shift[0]:.3g} columns and {shift[1]:.3g} rows")
    if wrong:
        system = "" if same_crs else f" -t_srs {before.crs!r}"
        bounds = " ".join(f"{number:.12g}" for number in before.bounds)
        raise InputError(
            f"{names[0]} and {names[1]} cannot be compared: {wrong[0]}, and nothing is resampled "
            "unasked.",
            [f"{names[0]}: {before}", f"{names[1]}: {after}"],
            "Bring the second one's orthophoto to the pixels of the first and map it again "
            f"(gdalwarp -r cubic{system} -tr {across:.12g} {down:.12g} -te {bounds}), or give the "
            "sheets places of their own.",
        )
    there = Window(round(col), round(row), after.width, after.height)
    shared = before.window.intersection(there)
    if shared is None:
        raise InputError(
            f"{names[0]} and {names[1]} share no ground.",
            [f"{names[0]}: {before}", f"{names[1]}: {after}"],
            "Give the sheets places of their own.",
        )
    left, _, _, top = before.bounds_of(shared)
    grid = PixelGrid(before.crs, left, top, across, down, shared.width, shared.height)
    return CommonPixels(grid, shared, shared._replace(col=shared.col - there.col,
                                                      row=shared.row - there.row))  # fmt: skip


@dataclass(frozen=True)
class MapOfYear:
    """A map that is compared.

    Attributes:
        classes: Reads class ids, 255 none.
        confidence: Reads the confidence in per cent on the same pixels, 255 none; only where it
            decides.
        path: The map's file, for messages.
    """

    classes: Read
    confidence: Read | None = None
    path: Path = Path()


@dataclass(frozen=True)
class ChangeBand:
    """All columns of some rows of a change map.

    Attributes:
        window: Its place.
        values: Shape ``(rows, cols)``.
        counts: What is there.
    """

    window: Window
    values: NDArray[Any]
    counts: ChangeCounts


def changed_bands(
    before: MapOfYear,
    after: MapOfYear,
    common: CommonPixels,
    code: ChangeCode,
    *,
    min_confidence: int = 0,
    threads: int = 1,
) -> Iterator[ChangeBand]:
    """Compare two maps, in bands from the top: the memory does not grow with their rows.

    Pixels whose confidence is too low in either year are not compared: they have no data. To
    count them as unchanged would make little change of what is little knowledge.

    Args:
        before: The earlier map.
        after: The later map.
        common: The pixels that they share.
        code: What the values mean.
        min_confidence: Per cent that both years need.
        threads: Threads; the bands are the same for any number.

    Yields:
        Bands, each row once.

    Raises:
        InputError: If a map holds ids that are no classes, or cannot be read.
    """
    grid = common.grid
    areas = ground_area.row_areas_m2(grid)
    classes = len(code.names)

    def compared(window: Window) -> ChangeBand:
        values = np.empty((window.height, window.width), code.dtype)
        pixels, unsure = np.zeros((classes, classes), np.int64), 0
        for part in split(window, ACROSS, window.height):
            first, second = (
                year.classes(_moved(part, place))
                for year, place in ((before, common.before), (after, common.after))
            )
            if min_confidence:
                doubtful = np.zeros(first.shape, np.bool_)
                for year, place in ((before, common.before), (after, common.after)):
                    assert year.confidence is not None
                    sure = year.confidence(_moved(part, place))
                    doubtful |= (sure < min_confidence) | (sure == IGNORE)
                doubtful &= (first != IGNORE) & (second != IGNORE)
                unsure += int(np.count_nonzero(doubtful))
                first = np.where(doubtful, np.uint8(IGNORE), first)
            pairs = pair_counts(first, second)
            for ids, year in ((pairs.sum(axis=1), before), (pairs.sum(axis=0), after)):
                _check_ids(ids, year.path, classes)
            pixels += pairs[:classes, :classes]
            values[part.slices(window)] = code.values(first, second)
        counts = ChangeCounts(code, pixels, _areas(values, pixels, areas, window, code), unsure)
        return ChangeBand(window, values, counts)

    bands = split(grid.window, grid.width, BLOCK)
    for _, band in ordered(compared, bands, threads):
        yield band


def _areas(
    values: NDArray[Any],
    pixels: NDArray[np.int64],
    areas: NDArray[np.float64],
    window: Window,
    code: ChangeCode,
) -> NDArray[np.float64]:
    """m² of each pair of classes in a band."""
    of_rows = areas[window.row : window.bottom]
    if (of_rows == of_rows[0]).all():
        return np.asarray(pixels * of_rows[0])
    there = values != code.nodata
    weights = np.broadcast_to(of_rows[:, None], values.shape)[there]
    summed = np.bincount(values[there], weights, pixels.size)
    return np.asarray(summed, np.float64).reshape(pixels.shape)


def _check_ids(ids: NDArray[np.int64], path: Path, classes: int) -> None:
    wrong = np.flatnonzero(ids[classes:IGNORE]) + classes
    if len(wrong):
        raise InputError(
            f"{path}: holds the values {', '.join(map(str, wrong))}, which are no classes.",
            [f"the {classes} classes are 0 to {classes - 1}, and {IGNORE} is no data"],
            "It is damaged, or no class map of this nomenclature; map the sheet again.",
        )


def _moved(part: Window, place: Window) -> Window:
    return part._replace(col=part.col + place.col, row=part.row + place.row)
