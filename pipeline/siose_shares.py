"""What a map has in each SIOSE polygon: shares of its classes beside those that SIOSE says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """

    pixels: NDArray[np.int64]
    confidence: NDArray[np.float64]


def count_polygons(
    source: ClassMap,
    index: Callable[[Window], NDArray[np.uint32]],
    polygons: int,
    threads: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> MappedPolygons:
    """Count the classes mapped in each polygon.

    Args:
        source: The map.
        index: Rows (from 1) of the polygons of a window, 0 for none; from any thread.
        polygons: Number of polygons.
        threads: Threads.
        advance: Gets the pixels done.

    Raises:
        InputError: If the index names polygons that are not there.
    """
    pixels = np.zeros((polygons + 1, source.classes), np.int64)
    sums, known = np.zeros(polygons + 1, np.int64), np.zeros(polygons + 1, np.int64)

    def counted(window: Window) -> tuple[slice, NDArray[np.int64], NDArray[np.int64] | None]:
        rows, classes = index(window).astype(np.int64), source.read(window)
        first = int(rows.min())
        rows -= first
        width, some = source.classes, slice(first, first + int(rows.max()) + 1)
        count = some.stop - some.start
        there = classes != IGNORE
        codes = rows[there] * width + classes[there]
        of_class = np.bincount(codes, minlength=count * width).reshape(-1, width)
        if source.confidence is None:
            return some, of_class, None
        values = source.confidence(window)[there]
        told = values != IGNORE
        codes = rows[there][told] * 256 + values[told]
        of_value = np.bincount(codes, minlength=count * 256).reshape(-1, 256)
        return some, of_class, of_value

    for window, (some, of_class, of_value) in ordered(counted, source.grid.blocks(WINDOW), threads):
        if some.stop > len(pixels):
            raise InputError(
                f"{source.what}: the polygon index has row {some.stop - 1} of {polygons} polygons.",
                remedy="Run label_raster again: it is of other proportions.",
            )
        pixels[some] += of_class
        if of_value is not None:
            sums[some] += of_value @ np.arange(256)
            known[some] += of_value.sum(axis=1)
        advance(window.pixels)
    with np.errstate(invalid="ignore"):
        return MappedPolygons(pixels, sums / known)


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
        columns += [pa.array(shapely.to_wkb(_multi(geometry), flavor="iso"), pa.binary())]
        yield pa.RecordBatch.from_arrays([_flat(column) for column in columns], schema=schema)
        begin = end


def _columns(path: Path, names: list[str]) -> pa.Table:
    with pyarrow.parquet.ParquetFile(path) as file:
        return pa.table([c.cast(pa.string()) for c in file.read(names).columns], names)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _multi(geometry: NDArray[np.object_]) -> NDArray[np.object_]:
    """All as polygons of several parts: a layer has one type."""
    parts, of = shapely.get_parts(geometry, return_index=True)
    found = np.full(len(geometry), None, object)
    there = np.unique(of)
    if len(there):
        shapely.multipolygons(parts, indices=of, out=found)
    return found
