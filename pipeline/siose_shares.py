"""What a map has in each SIOSE polygon: shares of its classes beside those that SIOSE says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import shapely
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.grid import Window
from pipeline.nomenclature import IGNORE
from pipeline.parallel import ordered
from pipeline.proportions import Proportions
from pipeline.vector_files import geometry_field
from pipeline.vectors import ClassMap

WINDOW = 2048
"""Pixels a side of the windows that are counted; the counts do not depend on it."""


@dataclass(frozen=True)
class MappedPolygons:
    """What was counted; row 0 is ground without a polygon.

    Attributes:
        pixels: Pixels of each class by polygon, int64, shape ``(polygons + 1, classes)``.
        confidence: Mean confidence by polygon in per cent, NaN where none is known.
        unmapped: Pixels by polygon in which the map has no class, int64.
        confident: As ``pixels``, of those with enough confidence; None where not asked for.
        judged: As ``pixels``, of those on judged ground, and as the last column those without a
            class, shape ``(polygons + 1, classes + 1)``; None where not asked for.
        grounds: Pixels by polygon and ground, with a class or without, shape
            ``(polygons + 1, grounds)``.
    """

    pixels: NDArray[np.int64]
    confidence: NDArray[np.float64]
    unmapped: NDArray[np.int64]
    confident: NDArray[np.int64] | None
    judged: NDArray[np.int64] | None
    grounds: NDArray[np.int64]


class _Counted(NamedTuple):
    """What a window has of the polygons in it."""

    polygons: NDArray[np.int64]
    of_class: NDArray[np.int64]
    sure: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None
    judged: NDArray[np.int64] | None
    grounds: list[NDArray[np.int64]]


def count_polygons(
    source: ClassMap,
    index: Callable[[Window], NDArray[np.uint32]],
    polygons: int,
    threads: int = 1,
    advance: Callable[[int], None] = lambda _: None,
    *,
    min_confidence: int | None = None,
    judged: Sequence[Window] | None = None,
    grounds: Sequence[Sequence[Window]] = (),
) -> MappedPolygons:
    """Count the classes mapped in each polygon.

    Args:
        source: The map.
        index: Rows (from 1) of the polygons of a window, 0 for none; from any thread.
        polygons: Number of polygons.
        threads: Threads.
        advance: Gets the pixels done.
        min_confidence: Per cent of confidence of the pixels that are counted as confident.
        judged: Disjoint windows of judged ground.
        grounds: Disjoint windows of each of some grounds.

    Raises:
        InputError: If the index names polygons that are not there, or the map has an id that is no
            class.
    """
    width = source.classes
    counts = np.zeros((polygons + 1, width + 1), np.int64)
    sums, known = np.zeros(polygons + 1, np.int64), np.zeros(polygons + 1, np.int64)
    sure = min_confidence is not None and source.confidence is not None
    confident = np.zeros((polygons + 1, width), np.int64) if sure else None
    on_judged = None if judged is None else np.zeros_like(counts)
    on_grounds = np.zeros((polygons + 1, len(grounds)), np.int64)

    def counted(window: Window) -> _Counted:
        names, rows = _compact(index(window), polygons, source.what)
        classes = _coded(source.read(window), width, source.what)
        codes = rows * (width + 1) + classes
        size = len(names)
        of_class = np.bincount(codes.ravel(), minlength=size * (width + 1))
        of_confidence = None
        if source.confidence is not None:
            values = source.confidence(window)
            told = (values != IGNORE) & (classes < width)
            some, there = values[told], rows[told]
            # Sums of whole numbers in float64 are exact up to 2**53.
            total = np.bincount(there, some, size).astype(np.int64)
            above = codes[told][some >= (min_confidence or 0)] if sure else codes[:0].ravel()
            of_confidence = (
                total,
                np.bincount(there, minlength=size),
                np.bincount(above, minlength=size * (width + 1)).reshape(size, -1)[:, :width],
            )
        on = None
        if judged is not None:
            on = _sum_of_parts(codes, window, judged, size * (width + 1)).reshape(size, -1)
        return _Counted(
            names, of_class.reshape(size, -1), of_confidence, on,
            [_sum_of_parts(rows, window, parts, size) for parts in grounds],
        )  # fmt: skip

    for window, found in ordered(counted, source.grid.blocks(WINDOW), threads):
        counts[found.polygons] += found.of_class
        if found.sure is not None:
            sums[found.polygons] += found.sure[0]
            known[found.polygons] += found.sure[1]
            if confident is not None:
                confident[found.polygons] += found.sure[2]
        if on_judged is not None and found.judged is not None:
            on_judged[found.polygons] += found.judged
        for number, pixels in enumerate(found.grounds):
            on_grounds[found.polygons, number] += pixels
        advance(window.pixels)
    with np.errstate(invalid="ignore"):
        mean = sums / known
    return MappedPolygons(
        counts[:, :width], mean, counts[:, width], confident, on_judged, on_grounds
    )


def _compact(
    pixels: NDArray[np.uint32], polygons: int, what: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Polygons in a window in the order of their rows, and for each pixel which of them it is of.

    Polygons that are neighbours need not be in the table: counts of all between the first and the
    last would take the memory of the whole sheet.
    """
    last = int(pixels.max())
    if last > polygons:
        raise InputError(
            f"{what}: the polygon index has row {last} of {polygons} polygons.",
            remedy="Run label_raster again: it is of other proportions.",
        )
    there = np.zeros(last + 1, bool)
    there[pixels] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[pixels]


def _coded(classes: NDArray[np.uint8], count: int, what: str) -> NDArray[np.int64]:
    """Class of each pixel, the number of classes where it has none."""
    wrong = np.unique(classes[(classes >= count) & (classes != IGNORE)])
    if len(wrong):
        raise InputError(
            f"{what}: has the id {', '.join(map(str, wrong))}; its classes are 0 to {count - 1}.",
            remedy="It is of another nomenclature; make it again.",
        )
    return np.minimum(classes, count).astype(np.int64)


def _sum_of_parts(
    codes: NDArray[np.int64], window: Window, parts: Sequence[Window], size: int
) -> NDArray[np.int64]:
    """Pixels of each code in the parts of a window."""
    total = np.zeros(size, np.int64)
    for part in parts:
        inside = part.intersection(window)
        if inside is not None:
            total += np.bincount(codes[inside.slices(window)].ravel(), minlength=size)
    return total


def share_schema(names: Sequence[str]) -> pa.Schema:
    """Columns of :func:`share_rows`."""
    shares = [f"{kind}_{name}" for kind in ("mapped", "siose") for name in names]
    return pa.schema(
        [
            ("polygon_id", pa.string()),
            ("label", pa.string()),
            ("class", pa.int32()),
            ("name", pa.string()),
            ("pixels", pa.int64()),
            ("confidence", pa.float64()),
            *((name, pa.float64()) for name in shares),
            ("siose_unmapped", pa.float64()),
            geometry_field("MultiPolygon"),
        ]
    )


def share_rows(
    path: Path, proportions: Proportions, mapped: MappedPolygons, names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """SIOSE polygons with what is mapped in them.

    ``class`` and ``name`` are of the class with the most pixels, ``pixels`` how many have a class,
    ``mapped_*`` their shares and ``siose_*`` those that SIOSE says of the whole polygon, of which
    the sheet may have a part only. A polygon without a mapped pixel has none of the former.

    Args:
        path: File of the proportions.
        proportions: The same, as read.
        mapped: What was counted.
        names: Names of the classes.

    Yields:
        Rows in the order of the proportions.
    """
    schema, begin = share_schema(names), 1
    ids = _columns(path, ["polygon_id", "label"])
    for geometry in proportions.geometry:
        end = begin + len(geometry)
        text = ids.slice(begin - 1, len(geometry))
        pixels = mapped.pixels[begin:end]
        total = pixels.sum(axis=1)
        none = total == 0
        largest = np.where(none, 0, pixels.argmax(axis=1)).astype(np.int32)
        columns = [text.column(0), text.column(1)]
        columns += [pa.array(largest, mask=none)]
        columns += [pa.DictionaryArray.from_arrays(columns[2], list(names)).cast(pa.string())]
        sure = mapped.confidence[begin:end]
        columns += [pa.array(total), pa.array(sure, mask=np.isnan(sure))]
        with np.errstate(invalid="ignore"):
            shares = pixels / total[:, None]
        columns += [pa.array(column, mask=none) for column in shares.T]
        columns += [pa.array(column) for column in proportions.shares[begin - 1 : end - 1].T]
        columns += [pa.array(proportions.unmapped[begin - 1 : end - 1])]
        columns += [pa.array(shapely.to_wkb(multi(geometry), flavor="iso"), pa.binary())]
        yield pa.RecordBatch.from_arrays([_flat(column) for column in columns], schema=schema)
        begin = end


def _columns(path: Path, names: list[str]) -> pa.Table:
    with pyarrow.parquet.ParquetFile(path) as file:
        return pa.table([c.cast(pa.string()) for c in file.read(names).columns], names)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def multi(geometry: NDArray[np.object_]) -> NDArray[np.object_]:
    """All as polygons of several parts: a layer has one type."""
    parts, of = shapely.get_parts(geometry, return_index=True)
    found = np.full(len(geometry), None, object)
    there = np.unique(of)
    if len(there):
        shapely.multipolygons(parts, indices=of, out=found)
    return found
