"""Simple random samples without replacement from each class of maps of any size, in two passes.

The first counts the pixels of each class, which are a stratum; then each stratum's points are
drawn as ranks among its pixels, and the second pass reads only where a drawn rank lies. Ranks
follow the sheets as they are given and the rows of each from the top, so that the points depend
on the maps, the numbers and the seed, and on nothing else.

Ground that two of the maps show would be in the sample twice as likely as the rest, and in the
areas twice: let all but one of them read 255 there. Pixels are drawn, and areas are spoken of: the
pixels of all maps must cover as much ground (:func:`check_pixel_areas`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline import ground_area
from pipeline.counting import id_counts
from pipeline.errors import InputError
from pipeline.geotiff import BLOCK
from pipeline.grid import PixelGrid, Window, split
from pipeline.nomenclature import IGNORE
from pipeline.numerals import listed, plural
from pipeline.parallel import ordered

Read = Callable[[Window], NDArray[np.uint8]]
"""Window of a map -> its class ids, shape ``(rows, cols)``; 255 where it says nothing."""


@dataclass(frozen=True)
class SheetMap:
    """The map of a sheet.

    Attributes:
        sheet: Name of the sheet.
        grid: Its pixels.
        read: Reads the map, from any thread.
    """

    sheet: str
    grid: PixelGrid
    read: Read


@dataclass(frozen=True, eq=False)
class Strata:
    """The pixels of each class on all maps.

    Attributes:
        maps: The maps, in the order of the ranks.
        pixels: Pixels of each class, shape ``(classes,)``.
        area_m2: Their area, shape ``(classes,)``.
        bands: What was read at once: the number of the map and the window, in order.
        counts: Pixels of each class in each of them, shape ``(bands, classes)``.
    """

    maps: tuple[SheetMap, ...]
    pixels: NDArray[np.int64]
    area_m2: NDArray[np.float64]
    bands: tuple[tuple[int, Window], ...]
    counts: NDArray[np.int64]


UNEQUAL = 0.01
"""Areas of pixels may differ by so much of the larger one: UTM's own scale differs by 0.1 %."""


class SamplePoint(NamedTuple):
    """A pixel that was drawn.

    Attributes:
        sheet: Name of its sheet.
        row: Its row, from 0.
        col: Its column, from 0.
        x: Its centre in the sheet's coordinate system.
        y: The same.
        stratum: Class id on the map.
    """

    sheet: str
    row: int
    col: int
    x: float
    y: float
    stratum: int


def check_pixel_areas(maps: Sequence[SheetMap]) -> None:
    """Check that all pixels cover as much ground, so that points stand for as much of it.

    Raises:
        InputError: With all sizes, if areas differ by more than :data:`UNEQUAL`: those of maps, or
            those of the rows of a map in degrees.
    """
    spans = []
    for sheet in maps:
        areas = ground_area.row_areas_m2(sheet.grid)
        spans.append((float(areas.min()), float(areas.max())))
    tall = [
        f"sheet {sheet.sheet}: {low:.4g} m² to {high:.4g} m²"
        for sheet, (low, high) in zip(maps, spans, strict=True)
        if high - low > UNEQUAL * high
    ]
    if tall:
        raise InputError(
            "Points are drawn by pixel, and pixels in degrees cover more ground near the equator: "
            "what is far from it would be in the sample too often.",
            tall,
            "Bring the map to a projected coordinate system, such as UTM: "
            "gdalwarp -r near -t_srs EPSG:25830.",
        )
    least, most = min(low for low, _ in spans), max(high for _, high in spans)
    if most - least > UNEQUAL * most:
        sizes: dict[str, list[str]] = {}
        for sheet, (low, high) in zip(maps, spans, strict=True):
            sizes.setdefault(f"{(low + high) / 2:.4g} m²", []).append(sheet.sheet)
        raise InputError(
            "Points are drawn by pixel, and the pixels of these maps do not cover as much ground: "
            "what has small pixels would be in the sample too often.",
            [
                f"{size}: {plural(len(names), 'sheet')}, {listed(names)}"
                for size, names in sizes.items()
            ],
            "Draw a sample of each size, or bring the maps to one (gdalwarp -r near -tr ...; those "
            "in degrees to a projected coordinate system, -t_srs).",
        )


def count_strata(
    maps: Sequence[SheetMap], classes: int, threads: int = 1, rows: int = BLOCK
) -> Strata:
    """Count the pixels of each class, and their area.

    Args:
        maps: One or many.
        classes: Number of classes; ids run from 0 to ``classes - 1``.
        threads: Threads.
        rows: Rows that are read at once, of all columns; whole blocks of the rasters are best.

    Returns:
        What :func:`draw` takes.

    Raises:
        InputError: If a map holds ids that are no classes, or has no usable coordinate system.
    """
    bands = tuple(
        (number, window)
        for number, sheet in enumerate(maps)
        for window in split(sheet.grid.window, sheet.grid.width, rows)
    )
    areas = []
    for sheet in maps:
        of_rows = ground_area.row_areas_m2(sheet.grid)
        # Copied: a view would keep the areas of all rows of thousands of sheets.
        areas.append(of_rows[:1].copy() if (of_rows == of_rows[0]).all() else of_rows)
    alike = [len(of_rows) == 1 for of_rows in areas]

    def counted(band: tuple[int, Window]) -> NDArray[np.int64]:
        """Pixels of each class, of each row where rows have areas of their own."""
        number, window = band
        ids = maps[number].read(window)
        parts = [ids] if alike[number] else ids
        found = np.array([id_counts(part) for part in parts])
        _check_ids(found.sum(axis=0), maps[number].sheet, classes)
        return found[:, :classes]

    counts = np.zeros((len(bands), classes), np.int64)
    area = np.zeros(classes)
    for place, ((number, window), pixels) in enumerate(ordered(counted, bands, threads)):
        counts[place] = pixels.sum(axis=0)
        if not alike[number]:
            # Row by row: sums of floats depend on their order, and that may not be the bands'.
            for m2, of_row in zip(areas[number][window.row : window.bottom], pixels, strict=True):
                area += m2 * of_row
    of_maps = np.zeros((len(maps), classes), np.int64)
    np.add.at(of_maps, [number for number, _ in bands], counts)
    for number in np.flatnonzero(alike).tolist():
        area += of_maps[number] * areas[number][0]
    return Strata(tuple(maps), counts.sum(axis=0), area, bands, counts)


def draw(strata: Strata, sizes: ArrayLike, seed: int, threads: int = 1) -> list[SamplePoint]:
    """Draw a simple random sample without replacement from each stratum.

    Args:
        strata: What :func:`count_strata` counted; the maps are read again.
        sizes: Points of each stratum, shape ``(classes,)``.
        seed: Of the random numbers. Each stratum has its own, so that its points do not depend
            on the numbers of the others.
        threads: Threads.

    Returns:
        The points in the order of the sheets, and from left to right in each row of a sheet.

    Raises:
        ValueError: If a stratum has fewer pixels than points.
        InputError: If a map is no longer the one that was counted.

    Source:
        Floyd's algorithm: Bentley & Floyd (1987), Communications of the ACM 30(9): each set of
        ranks is as likely as any other, in a memory of the size of the sample.
    """
    asked = np.asarray(sizes, np.int64)
    if asked.shape != strata.pixels.shape or (asked < 0).any() or (asked > strata.pixels).any():
        raise ValueError(f"{asked} points cannot be drawn from {strata.pixels} pixels")
    ends = strata.counts.cumsum(axis=0)
    wanted: dict[int, list[tuple[int, NDArray[np.int64]]]] = {}
    for stratum, size in enumerate(asked.tolist()):
        chosen = ranks(int(strata.pixels[stratum]), size, (seed, stratum))
        # The band whose pixels of the class end behind the rank.
        places = np.searchsorted(ends[:, stratum], chosen, side="right")
        first = ends[:, stratum] - strata.counts[:, stratum]
        for place in np.unique(places).tolist():
            inside = chosen[places == place] - first[place]
            wanted.setdefault(place, []).append((stratum, inside))

    def found(place: int) -> list[SamplePoint]:
        number, window = strata.bands[place]
        sheet = strata.maps[number]
        pixels = sheet.read(window)
        points = []
        for stratum, inside in wanted[place]:
            there = pixels == stratum
            # By rows first: the places of all its pixels would take 8 bytes each.
            behind = np.count_nonzero(there, axis=1).cumsum()
            if behind[-1] != strata.counts[place, stratum]:
                raise InputError(
                    f"sheet {sheet.sheet}: its map has changed while the sample was drawn.",
                    remedy="Draw it again when the map is finished.",
                )
            down = np.searchsorted(behind, inside, side="right")
            for row, rank in zip(down.tolist(), inside.tolist(), strict=True):
                before = int(behind[row - 1]) if row else 0
                col = int(np.flatnonzero(there[row])[rank - before])
                points.append(_point(sheet, window.row + row, window.col + col, stratum))
        return sorted(points, key=lambda point: (point.row, point.col))

    return [point for _, some in ordered(found, sorted(wanted), threads) for point in some]


def ranks(population: int, size: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """Draw different numbers from 0 to ``population - 1``, ascending; any set is as likely.

    Args:
        population: So many there are; of 2**62 no more memory is needed than of 10.
        size: So many are drawn.
        seed: Of the random numbers.
    """
    if not 0 <= size <= population:
        raise ValueError(f"{size} of {population} cannot be drawn")
    last = np.arange(population - size, population, dtype=np.int64)
    draws = np.random.default_rng(tuple(seed)).integers(0, last, endpoint=True)
    chosen: set[int] = set()
    for number, end in zip(draws.tolist(), last.tolist(), strict=True):
        chosen.add(end if number in chosen else number)
    return np.array(sorted(chosen), np.int64)


def _point(sheet: SheetMap, row: int, col: int, stratum: int) -> SamplePoint:
    grid = sheet.grid
    x = grid.left + (col + 0.5) * grid.pixel_width
    y = grid.top - (row + 0.5) * grid.pixel_height
    return SamplePoint(sheet.sheet, row, col, x, y, stratum)


def _check_ids(counts: NDArray[np.int64], sheet: str, classes: int) -> None:
    wrong = np.flatnonzero(counts[classes:IGNORE]) + classes
    if len(wrong):
        raise InputError(
            f"sheet {sheet}: its map holds the values {', '.join(map(str, wrong))}, which are no "
            "classes.",
            [f"the {classes} classes are 0 to {classes - 1}, and {IGNORE} is no data"],
            "It is damaged, or of another nomenclature; map the sheet again.",
        )
