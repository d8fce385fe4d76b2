"""Polygons to pixels by scan lines: all polygons of a window at once, as arrays.

The rule is that of ``gdal_rasterize``: a pixel belongs to the polygon that its centre lies in, by
the even-odd rule, and where polygons overlap to the last one; the pixels are the same. GDAL takes
polygons one by one, which a sheet with a hundred thousand of them feels; here each edge gives its
crossings with the rows of centres, and sorted they are the runs of pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.grid import Window
from pipeline.ragged import ranges

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


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
        """
        shape = self.window.height, self.window.width
        if self.apart:
            # Runs side by side, with nothing in the gaps between them: written in one go.
            edges = np.zeros(2 * len(self.begin) + 2, np.int64)
            edges[1:-1:2], edges[2:-1:2], edges[-1] = self.begin, self.end, shape[0] * shape[1]
            listed = np.full(2 * len(self.begin) + 1, values[0])
            listed[1::2] = values[self.polygon]
            return np.repeat(listed, np.diff(edges)).reshape(shape)
        # Painted one after the other, the last over all others.
        order = np.argsort(self.polygon, kind="stable")
        length = (self.end - self.begin)[order]
        pixels = np.full(shape[0] * shape[1], values[0])
        pixels[ranges(self.begin[order], length)] = np.repeat(values[self.polygon[order]], length)
        return pixels.reshape(shape)

    def counts(self, codes: NDArray[np.uint8]) -> Integers:
        """Pixels of each code from 0 to 255, of runs that are :attr:`apart`."""
        length = self.end - self.begin
        sums = np.bincount(codes[self.polygon], length, minlength=256)
        sums[codes[0]] += self.window.pixels - length.sum()
        return sums.astype(np.int64)


@dataclass(frozen=True)
class Outlines:
    """Edges of polygons that cross a row of pixel centres, polygon by polygon.

    Attributes:
        x1: Column where an edge is uppermost, shape ``(edges,)``.
        y1: Its row, down from the sheet's top.
        x2: Column where it is lowest.
        y2: Its row.
        starts: Where the edges of each polygon begin, shape ``(polygons + 1,)``.
        indexed: Polygons that have any edges.
        tree: Spatial index of their boxes.
    """

    x1: Floats
    y1: Floats
    x2: Floats
    y2: Floats
    starts: Integers
    indexed: Integers
    tree: shapely.STRtree

    @staticmethod
    def of(
        polygons: NDArray[np.object_], to_pixels: Callable[[Floats], Floats] | None = None
    ) -> Outlines:
        """Take polygons apart.

        Args:
            polygons: Polygons and multipolygons, shape ``(n,)``.
            to_pixels: Makes pixel coordinates, column and row, of points, both of shape
                ``(m, 2)``; None where the polygons have them.
        """
        points, polygon, last = _vertices(polygons)
        if to_pixels is not None:
            points = to_pixels(points)
        first = ~last[:-1]  # all vertices but the last of a ring begin an edge
        x, y = points[:, 0], points[:, 1]
        down = y[:-1] <= y[1:]
        y1, y2 = np.where(down, y[:-1], y[1:]), np.where(down, y[1:], y[:-1])
        crossing = np.flatnonzero(first & (np.ceil(y1 - 0.5) < np.ceil(y2 - 0.5)))
        down = down[crossing]
        x1 = np.where(down, x[crossing], x[crossing + 1])
        x2 = np.where(down, x[crossing + 1], x[crossing])
        y1, y2 = y1[crossing], y2[crossing]
        starts = np.searchsorted(polygon[crossing], np.arange(len(polygons) + 1))
        indexed = np.flatnonzero(np.diff(starts))
        at = starts[indexed]
        boxes = np.zeros(0, object)
        if len(indexed):
            boxes = np.asarray(
                shapely.box(
                    np.minimum.reduceat(np.minimum(x1, x2), at),
                    np.minimum.reduceat(y1, at),
                    np.maximum.reduceat(np.maximum(x1, x2), at),
                    np.maximum.reduceat(y2, at),
                ),
                object,
            )
        tree = shapely.STRtree(boxes)
        return Outlines(x1, y1, x2, y2, starts.astype(np.int64), indexed.astype(np.int64), tree)

    def runs(self, window: Window) -> Runs:
        """Runs of pixels of a window whose centres lie in one polygon."""
        box = shapely.box(window.col, window.row, window.right, window.bottom)
        touching = self.indexed[np.sort(self.tree.query(box))]
        begin, end, polygon = self._spans(touching, window)
        order = np.argsort(begin, kind="stable")
        begin, end = begin[order], end[order]
        return Runs(window, begin, end, touching[polygon[order]] + 1)

    def _spans(self, touching: Integers, window: Window) -> tuple[Integers, Integers, Integers]:
        """Runs of pixels: first and end as places in the window, and polygon among those given."""
        count = self.starts[touching + 1] - self.starts[touching]
        edge = ranges(self.starts[touching], count)
        polygon = np.repeat(np.arange(len(touching)), count)
        # Rows whose centre lies from the upper end on and above the lower one.
        top = np.maximum(np.ceil(self.y1[edge] - 0.5), window.row).astype(np.int64)
        bottom = np.minimum(np.ceil(self.y2[edge] - 0.5), window.bottom).astype(np.int64)
        seen = top < bottom
        edge, polygon, top, height = edge[seen], polygon[seen], top[seen], (bottom - top)[seen]
        row = ranges(top - window.row, height)
        edge, polygon = np.repeat(edge, height), np.repeat(polygon, height)
        y1, x1 = self.y1[edge] - window.row, self.x1[edge] - window.col
        # As GDAL has it, operation by operation.
        x = (row + 0.5 - y1) * (self.x2[edge] - window.col - x1) / (self.y2[edge] - window.row - y1)
        column = np.floor(x + x1 + 0.5).clip(0, window.width).astype(np.int64)
        # Row, polygon, column in one number: sorted, two by two they are runs.
        key = (row * len(touching) + polygon) * (window.width + 1) + column
        key.sort()
        begin, end = key[0::2], key[1::2]
        seen = begin < end
        begin, end = begin[seen], end[seen]
        line, first = np.divmod(begin, window.width + 1)
        row, polygon = np.divmod(line, max(1, len(touching)))
        first += row * window.width
        return first, first + (end - begin), polygon


def _vertices(
    polygons: NDArray[np.object_],
) -> tuple[Floats, Integers, NDArray[np.bool_]]:
    """Vertices of all rings, the polygon of each, and which of them ends its ring."""
    if not len(polygons):
        return np.zeros((0, 2)), np.zeros(0, np.int64), np.zeros(0, bool)
    _, points, offsets = shapely.to_ragged_array(polygons, include_z=False)
    ring_ends, polygon_ends = offsets[0], offsets[1]
    if len(offsets) > 2:  # some are multipolygons, and all are told as such
        polygon_ends = polygon_ends[offsets[2]]
    vertices = np.diff(ring_ends[polygon_ends])
    last = np.zeros(len(points), bool)
    last[ring_ends[1:][np.diff(ring_ends) > 0] - 1] = True
    return points, np.repeat(np.arange(len(polygons)), vertices), last
