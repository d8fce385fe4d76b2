"""Arcs joined to the polygons of patches, across windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.arcs import Arcs
from pipeline.chains import chained
from pipeline.grid import PixelGrid
from pipeline.ragged import ranges


@dataclass(frozen=True)
class Sides:
    """Arcs as the patch to their left goes along them: two of most arcs, one for each patch.

    Attributes:
        patch: The patch, int64, shape ``(n,)``.
        points: Rows and columns of corners, one side after the other, int32, shape ``(m, 2)``.
        counts: Number of points of each side.
        begins: Direction of its first step, before it was simplified.
        ends: Direction of its last step.
        joint: Whether patches meet at its first point.
    """

    patch: NDArray[np.int64]
    points: NDArray[np.int32]
    counts: NDArray[np.int64]
    begins: NDArray[np.uint8]
    ends: NDArray[np.uint8]
    joint: NDArray[np.bool_]

    @classmethod
    def of(cls, arcs: Arcs, patches: NDArray[np.int64]) -> Self:
        """Both sides of arcs.

        Args:
            arcs: The arcs of a window.
            patches: Patch of each piece of the window.
        """
        counts = np.diff(arcs.offsets)
        ends = arcs.offsets[1:] - 1
        left, right = np.flatnonzero(arcs.left >= 0), np.flatnonzero(arcs.right >= 0)
        back = ends[right].repeat(counts[right]) - ranges(np.zeros_like(right), counts[right])
        turned = np.uint8(2)
        return cls(
            patches[np.concatenate([arcs.left[left], arcs.right[right]])],
            arcs.points[np.concatenate([ranges(arcs.offsets[:-1][left], counts[left]), back])],
            np.concatenate([counts[left], counts[right]]),
            np.concatenate([arcs.begins[left], arcs.ends[right] ^ turned]),
            np.concatenate([arcs.ends[left], arcs.begins[right] ^ turned]),
            np.concatenate([arcs.joints[left, 0], arcs.joints[right, 1]]),
        )

    def __getitem__(self, chosen: NDArray[np.int64]) -> Sides:
        """Some sides, by number, in that order."""
        firsts = np.cumsum(self.counts) - self.counts
        return Sides(
            self.patch[chosen],
            self.points[ranges(firsts[chosen], self.counts[chosen])],
            self.counts[chosen],
            self.begins[chosen],
            self.ends[chosen],
            self.joint[chosen],
        )

    @classmethod
    def joined(cls, parts: list[Sides]) -> Sides:
        """Several, one after the other."""
        return Sides(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("patch", "points", "counts", "begins", "ends", "joint")
            )
        )


def polygons(sides: Sides, grid: PixelGrid) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """Polygons of patches.

    Outlines run counter-clockwise and holes clockwise; each begins with its northernmost, then
    westernmost corner. Corners are left where outlines bend and where three patches meet. A patch
    that touches itself at a corner has a hole there, as GEOS and OGC have it.

    Args:
        sides: All sides of some patches.
        grid: The sheet's grid.

    Returns:
        The patches, in their order, and a polygon of each in the sheet's coordinates.
    """
    rows, cols = sides.points.astype(np.int64).T
    corner = rows * (grid.width + 1) + cols
    firsts = np.cumsum(sides.counts) - sides.counts
    lasts = firsts + sides.counts - 1
    # A patch that meets itself at a corner comes there twice, and turns right both times: to its
    # pixel on the other side of the corner. Everywhere else there is one way to go on.
    right = (sides.ends.astype(np.int64) + 3) % 4
    arriving = np.lexsort((right, corner[lasts], sides.patch))
    leaving = np.lexsort((sides.begins, corner[firsts], sides.patch))
    following = np.empty(len(arriving), np.int64)
    following[arriving] = leaving
    ring, place = chained(following)
    order = np.lexsort((place, ring, sides.patch))

    counts = sides.counts[order] - 1  # the last point is the first one of the next side
    point = ranges(firsts[order], counts)
    loose = np.zeros(len(point), np.bool_)
    begins = np.cumsum(counts) - counts
    loose[begins] = ~sides.joint[order]
    of_ring = np.repeat(ring[order], counts)
    rows, cols, corner = rows[point], cols[point], corner[point]
    starts, following = _rings(of_ring)
    before = np.empty_like(following)
    before[following] = np.arange(len(following))
    # A point between windows that lies on a straight line is no corner of anything.
    down, along = rows - rows[before], cols - cols[before]
    bend = along * (rows[following] - rows) - down * (cols[following] - cols)
    kept = ~(loose & (bend == 0))
    rows, cols, corner, of_ring = rows[kept], cols[kept], corner[kept], of_ring[kept]
    of_patch = np.repeat(sides.patch[order], counts)[kept]

    starts, following = _rings(of_ring)
    # Twice the area, positive where the ring runs counter-clockwise on the ground: rows go down.
    area = np.add.reduceat(rows * cols[following] - cols * rows[following], starts)
    sizes = np.diff(starts, append=len(rows))
    number = np.repeat(np.arange(len(starts)), sizes)
    least = np.minimum.reduceat(corner, starts)
    head = np.flatnonzero(corner == least[number])
    patch = of_patch[starts]
    sequence = np.lexsort((least, area < 0, patch))
    shift = (head - starts)[sequence]
    lengths = sizes[sequence]
    step = ranges(np.zeros_like(lengths), lengths + 1)  # closed: the first point comes again
    turn = (step + np.repeat(shift, lengths + 1)) % np.repeat(lengths, lengths + 1)
    point = turn + np.repeat(starts[sequence], lengths + 1)
    coordinates = np.column_stack(
        [grid.left + cols[point] * grid.pixel_width, grid.top - rows[point] * grid.pixel_height]
    )
    found, rings = np.unique(patch[sequence], return_counts=True)
    offsets = (
        np.concatenate([[0], np.cumsum(lengths + 1)]),
        np.concatenate([[0], np.cumsum(rings)]),
    )
    return found, shapely.from_ragged_array(shapely.GeometryType.POLYGON, coordinates, offsets)


def _rings(of_ring: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where rings begin that lie one after the other, and the place of the point behind each."""
    starts = np.flatnonzero(np.diff(of_ring, prepend=-1))
    following = np.arange(1, len(of_ring) + 1)
    following[np.append(starts[1:], len(of_ring)) - 1] = starts
    return starts, following
