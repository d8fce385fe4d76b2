"""A map against a reference of every pixel: all pairs counted, and the truth at single points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline import ground_area
from pipeline.counting import pair_counts
from pipeline.errors import InputError
from pipeline.geotiff import BLOCK
from pipeline.grid import Window, split
from pipeline.nomenclature import IGNORE
from pipeline.parallel import ordered
from pipeline.sample_draw import Read, SamplePoint, SheetMap


@dataclass(frozen=True, eq=False)
class PairCounts:
    """What is mapped as which class and is which.

    Attributes:
        pixels: Shape ``(classes, classes)``, row = class on the map, column = reference.
        areas_m2: Their area.
        unmapped: Pixels with a reference and without a class on the map; in no other count.
        unreferenced: Pixels with a class on the map and without a reference.
    """

    pixels: NDArray[np.int64]
    areas_m2: NDArray[np.float64]
    unmapped: int
    unreferenced: int


def count_pairs(
    sheet: SheetMap, reference: Read, classes: int, threads: int = 1, rows: int = BLOCK
) -> PairCounts:
    """Count all pixels of a map by their class on the map and in the reference.

    Args:
        sheet: The map.
        reference: Reads class ids of the same pixels, 255 where there is no reference.
        classes: Number of classes; ids run from 0 to ``classes - 1``.
        threads: Threads.
        rows: Rows that are read at once.

    Raises:
        InputError: With all ids of both that are no classes, or if the pixels have no area.
    """
    areas = ground_area.row_areas_m2(sheet.grid)
    alike = bool((areas == areas[0]).all())
    bands = split(sheet.grid.window, sheet.grid.width, rows)

    def counted(window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of all ids, and those of each row where rows have areas of their own."""
        mapped, real = sheet.read(window), reference(window)
        pairs = pair_counts(mapped, real)
        if alike:
            return pairs, pairs[None, :classes, :classes]
        return pairs, np.array([_pairs(*row, classes) for row in zip(mapped, real, strict=True)])

    total = np.zeros((IGNORE + 1, IGNORE + 1), np.int64)
    m2 = np.zeros((classes, classes))
    for window, (pairs, by_row) in ordered(counted, bands, threads):
        total += pairs
        if not alike:
            # Row by row: sums of floats depend on their order, and that may not be the bands'.
            for area, pixels in zip(areas[window.row : window.bottom], by_row, strict=True):
                m2 += area * pixels
    _check_ids(total, classes, sheet.sheet)
    pixels = total[:classes, :classes].copy()
    return PairCounts(
        pixels,
        pixels * areas[0] if alike else m2,
        unmapped=int(total[IGNORE, :classes].sum()),
        unreferenced=int(total[:classes, IGNORE].sum()),
    )


def where_known(sheet: SheetMap, reference: Read) -> SheetMap:
    """The map where there is a reference, 255 elsewhere: what a sample can be drawn from."""

    def read(window: Window) -> NDArray[np.uint8]:
        return np.where(reference(window) == IGNORE, np.uint8(IGNORE), sheet.read(window))

    return replace(sheet, read=read)


def truth_at(points: Sequence[SamplePoint], reference: Read, classes: int) -> NDArray[np.int64]:
    """Read the reference at sample points, as an interpreter who never errs.

    Args:
        points: Points of one sheet.
        reference: Reads class ids of its pixels.
        classes: Number of classes.

    Returns:
        Points, shape ``(classes, classes)``, row = stratum, column = reference.
    """
    sample = np.zeros((classes, classes), np.int64)
    for point in points:
        sample[point.stratum, int(reference(Window(point.col, point.row, 1, 1))[0, 0])] += 1
    return sample


def _pairs(mapped: NDArray[np.uint8], real: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Pixels of each pair of classes in a row."""
    inside = (mapped < classes) & (real < classes)
    codes = mapped[inside].astype(np.int64) * classes + real[inside]
    return np.bincount(codes, minlength=classes**2).reshape(classes, classes)


def _check_ids(total: NDArray[np.int64], classes: int, name: str) -> None:
    wrong = []
    for what, counts in (("map", total.sum(axis=1)), ("reference", total.sum(axis=0))):
        ids = np.flatnonzero(counts[classes:IGNORE]) + classes
        wrong += [f"{what}: {counts[k]} pixels of {k}" for k in ids.tolist()]
    if wrong:
        raise InputError(
            f"{name}: map or reference hold values that are no classes.",
            wrong,
            f"The {classes} classes are 0 to {classes - 1}, and {IGNORE} is no data; name the "
            "nomenclature of both, or make them have the same values.",
        )
