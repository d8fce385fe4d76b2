"""Polygons to pixels by scan lines: all polygons of a window at once, as arrays.

The rule is that of ``gdal_rasterize``: a pixel belongs to the polygon that its centre lies in, by
the even-odd rule, and where polygons overlap to the last one; the pixels are the same. GDAL takes
polygons one by one, which a sheet with a hundred thousand of them feels; here each edge gives its
crossings with the rows of centres, and sorted they are the runs of pixels.

What takes long lets other threads run: ``numpy.repeat`` would not, so pixels are painted by Arrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import shapely
from numpy.typing import NDArray

from pipeline.grid import Window
from pipeline.ragged import ranges

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ROOM = 2**22  # numbers: so much memory comes from the system and goes back to it at once

_PIECE = 256  # vertices: a polygon of ten thousand is not looked at whole for each window


@dataclass(frozen=True)
class Runs:
    """Runs of pixels of a window that belong to one polygon.

    Attributes:
        window: The window.
        begin: First pixel of each run, row by row from the window's corner, ascending.
        end: One behind its last pixel.
        polygon: Row of its polygon, from 1.
    """

    window: Window
    begin: Integers
    end: Integers
    polygon: Integers

    @cached_property
    def apart(self) -> bool:
        """Whether no two runs share a pixel: no polygons overlap here."""
        return bool((self.begin[1:] >= self.end[:-1]).all())

    def painted(self, values: NDArray[Any]) -> NDArray[Any]:
        """Pixels of the window, each with the value of its polygon.

        Args:
            values: By the polygon's row; row 0 is no polygon.

        Returns:
            Of the type of ``values``, shape ``(rows, cols)``; of polygons that overlap, the last.
            It may be read only.
        """
        ends, polygon = self._side_by_side
        children = [_arrow(ends), _arrow(values.take(polygon))]
        kind = pa.run_end_encoded(*(child.type for child in children))
        runs = pa.RunEndEncodedArray.from_buffers(
            kind, self.window.pixels, [None], children=children
        )
        pixels: NDArray[Any] = np.from_dlpack(pyarrow.compute.run_end_decode(runs))
        if not self.apart:
            # Painted over the others one after the other, the last over all.
            over = np.flatnonzero(~self._alone)
            over = over[np.argsort(self.polygon[over], kind="stable")]
            length = (self.end - self.begin)[over]
            pixels = pixels.copy()
            painted = np.repeat(values[self.polygon[over]], length)
            pixels[ranges(self.begin[over], length)] = painted
        return pixels.reshape(self.window.height, self.window.width)

    def counts(self, codes: NDArray[np.uint8]) -> Integers:
        """Pixels of each code from 0 to 255, of runs that are :attr:`apart`."""
        length = self.end - self.begin
        sums = np.bincount(codes[self.polygon], length, minlength=256)
        sums[codes[0]] += self.window.pixels - length.sum()
        return sums.astype(np.int64)

    @cached_property
    def _alone(self) -> NDArray[np.bool_]:
        """Which runs share no pixel with another."""
        alone = np.ones(len(self.begin), bool)
        alone[1:] = self.begin[1:] >= np.maximum.accumulate(self.end[:-1])
        alone[:-1] &= self.begin[1:] >= self.end[:-1]
        return alone

    @cached_property
    def _side_by_side(self) -> tuple[Integers, Integers]:
        """Ends of the runs that lie alone, and of the gaps between them; the polygon of each."""
        begin, end, polygon = self.begin, self.end, self.polygon
        if not self.apart:
            begin, end, polygon = begin[self._alone], end[self._alone], polygon[self._alone]
        begin = np.append(begin, self.window.pixels)
        before = np.concatenate([[0], end])
        gaps = np.flatnonzero(before != begin)  # few: polygons lie side by side
        ends = np.insert(end, gaps, begin[gaps])
        return ends, np.insert(polygon, gaps, 0)


@dataclass(frozen=True)
class Outlines:
    """Vertices of polygons in pixel coordinates, in pieces of consecutive ones.

    17 bytes a vertex and 36 a piece: those of a whole sheet stay in memory.

    Attributes:
        x: Column of each vertex, shape ``(vertices,)``.
        y: Its row, down from the sheet's top.
        ring_end: Whether it is the last of its ring: no edge begins there.
        starts: First vertex of each piece, shape ``(pieces,)``. The last vertex of a piece is the
            first one of the polygon's next piece.
        counts: How many vertices it has.
        polygon: Its polygon, ascending.
        top: First row of pixels whose centres the piece crosses.
        bottom: One behind the last one.
        left: First column of its polygon, not of the piece alone: all crossings of a row count.
        right: One behind the last one.
    """

    x: Floats
    y: Floats
    ring_end: NDArray[np.bool_]
    starts: Integers
    counts: Integers
    polygon: NDArray[np.int32]
    top: NDArray[np.int32]
    bottom: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]

    @staticmethod
    def of(
        polygons: Iterable[NDArray[np.object_]], to_pixels: Callable[[Floats], Floats] | None = None
    ) -> Outlines:
        """Take polygons apart.

        Args:
            polygons: Polygons and multipolygons, in arrays of any length, one after the other.
            to_pixels: Makes pixel coordinates, column and row, of points, both of shape
                ``(m, 2)``; None where the polygons have them.
        """
        columns = [_Column(column.dtype) for column in _columns(_NONE)]
        vertices = number = 0
        for some in polygons:
            if len(some):
                part = _taken_apart(some, to_pixels)
                part.starts[:] += vertices
                part.polygon[:] += number
                for column, values in zip(columns, _columns(part), strict=True):
                    column.append(values)
                vertices += len(part.x)
                number += len(some)
        return Outlines(*(column.values for column in columns))

    def runs(self, window: Window) -> Runs:
        """Runs of pixels of a window whose centres lie in one polygon."""
        begin, end, polygon = self._spans(window)
        order, bits = np.arange(len(begin)), len(begin).bit_length()
        # Place and number in one: a plain sort takes a tenth of the time of an argsort.
        order += begin << bits
        order.sort()
        order &= (1 << bits) - 1
        return Runs(window, begin.take(order), end.take(order), polygon.take(order) + 1)

    def _spans(self, window: Window) -> tuple[Integers, Integers, Integers]:
        """Runs of pixels: first and end as places in the window, and polygon; in no order."""
        upper, lower, top, height, polygon = self._edges(window)
        y1, x1 = self.y[upper] - window.row, self.x[upper] - window.col
        below, beside = self.y[lower] - window.row - y1, self.x[lower] - window.col - x1
        edge = np.repeat(np.arange(len(upper)), height)
        line = np.arange(len(edge))  # rows below the edge's first one
        line -= (np.cumsum(height) - height).take(edge)
        # As GDAL has it, operation by operation.
        x = (top - window.row + 0.5 - y1).take(edge)
        x += line
        x *= beside.take(edge)
        x /= below.take(edge)
        x += x1.take(edge)
        x += 0.5
        np.floor(x, out=x)
        np.clip(x, 0, window.width, out=x)
        # Row, polygon, column in one number: sorted, two by two they are runs.
        across = window.width.bit_length()
        deep = across + int(polygon.max(initial=0)).bit_length()
        key = (((top - window.row) << deep) | (polygon << across)).take(edge)
        line <<= deep
        key += line
        key += x.astype(np.int64)
        key.sort()
        begin, length = key[0::2], key[1::2] - key[0::2]
        seen = length > 0
        begin, length = begin.compress(seen), length.compress(seen)
        first = (begin >> deep) * window.width + (begin & ((1 << across) - 1))
        return first, first + length, (begin >> across) & ((1 << (deep - across)) - 1)

    def _edges(self, window: Window) -> tuple[Integers, Integers, Integers, Integers, Integers]:
        """Edges that cross rows of a window: upper and lower vertex, first row, rows, polygon."""
        touching = np.flatnonzero(
            (self.top < window.bottom) & (self.bottom > window.row)
            & (self.left < window.right) & (self.right > window.col)
        )  # fmt: skip
        count = self.counts[touching]
        vertex = ranges(self.starts[touching], count)
        # Rows whose centre lies from the upper end on and above the lower one.
        row = np.ceil(self.y.take(vertex) - 0.5).clip(window.row, window.bottom).astype(np.int64)
        crossing = ~self.ring_end.take(vertex)
        crossing[np.cumsum(count) - 1] = False  # there the next piece begins
        crossing[:-1] &= row[:-1] != row[1:]
        edge = np.flatnonzero(crossing)
        first, last = row[edge], row[edge + 1]
        down, begins = first < last, vertex[edge]
        polygon = np.repeat(self.polygon[touching].astype(np.int64), count)[edge]
        return (
            begins + ~down, begins + down, np.minimum(first, last), np.abs(last - first), polygon,
        )  # fmt: skip


class _Column:
    """An array that grows: room that nothing was written to takes no memory.

    Many small arrays that are joined in the end would leave twice their memory behind: what is
    freed of them the process keeps.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._room, self._count = np.empty(_ROOM, dtype), 0

    @property
    def values(self) -> NDArray[Any]:
        return self._room[: self._count]

    def append(self, values: NDArray[Any]) -> None:
        end = self._count + len(values)
        if end > len(self._room):
            wider = np.empty(max(end, 2 * len(self._room)), self._room.dtype)
            wider[: self._count] = self.values
            self._room = wider
        self._room[self._count : end] = values
        self._count = end


def _arrow(numbers: NDArray[Any]) -> pa.Array:
    """The same numbers for Arrow; its own ways from and to NumPy load pandas: 100 MB."""
    kind = pa.from_numpy_dtype(numbers.dtype)
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])


def _columns(outlines: Outlines) -> list[NDArray[Any]]:
    return [getattr(outlines, field.name) for field in fields(outlines)]


def _taken_apart(
    polygons: NDArray[np.object_], to_pixels: Callable[[Floats], Floats] | None
) -> Outlines:
    """Outlines of polygons, at least one."""
    _, points, offsets = shapely.to_ragged_array(polygons, include_z=False)
    ring_ends, polygon_ends = offsets[0], offsets[1]
    if len(offsets) > 2:  # some are multipolygons, and all are told as such
        polygon_ends = polygon_ends[offsets[2]]
    ring_end = np.zeros(len(points), bool)
    ring_end[ring_ends[1:][np.diff(ring_ends) > 0] - 1] = True
    if to_pixels is not None:
        points = to_pixels(points)
    x, y = np.ascontiguousarray(points[:, 0]), np.ascontiguousarray(points[:, 1])
    starts = ring_ends[polygon_ends].astype(np.int64)
    vertices = np.diff(starts)
    # The last vertex of a polygon begins no edge, and so no piece.
    pieces = (vertices + _PIECE - 2) // _PIECE
    polygon = np.repeat(np.arange(len(polygons), dtype=np.int32), pieces)
    first = starts[polygon] + _PIECE * ranges(np.zeros_like(pieces), pieces)
    count = np.minimum(starts[polygon + 1] - first, _PIECE + 1)
    if not len(first):
        return Outlines(x, y, ring_end, first, count, *([polygon] * 5))
    row, end = _whole(np.ceil(y - 0.5)), first + count - 1
    top = np.minimum(np.minimum.reduceat(row, first), row[end])
    bottom = np.maximum(np.maximum.reduceat(row, first), row[end])
    filled = np.flatnonzero(pieces)
    of_polygon = np.repeat(np.arange(len(filled)), pieces[filled])
    left = _whole(np.floor(np.minimum.reduceat(x, starts[filled])))[of_polygon]
    right = _whole(np.ceil(np.maximum.reduceat(x, starts[filled])))[of_polygon]
    seen = top < bottom  # others lie between two rows of centres
    pieces_of = (first, count, polygon, top, bottom, left, right)
    return Outlines(x, y, ring_end, *(column[seen] for column in pieces_of))


def _whole(places: Floats) -> NDArray[np.int32]:
    """Whole places as integers; what is too far off for them is as good as at their ends."""
    return places.clip(-(2**30), 2**30).astype(np.int32)


_NONE = Outlines(
    np.zeros(0), np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64), np.zeros(0, np.int64),
    *(np.zeros(0, np.int32) for _ in range(5)),
)  # fmt: skip
