"""Arcs: the lines between patches, from one point where three meet to the next.

Both patches at an arc get the same points, so what becomes of an arc, it opens no gap between
them. Arcs are found in a window and end at its sides; whoever joins them to outlines takes out
the points where only windows met.

Directions are 0 east, 1 north, 2 west and 3 south. Corners of pixels are counted in rows, from the
top, and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.chains import chained
from pipeline.grid import PixelGrid, Window
from pipeline.pieces import NONE

EAST, NORTH, WEST, SOUTH = range(4)


@dataclass(frozen=True)
class Arcs:
    """Arcs of a window; of each, the corners where it bends.

    Attributes:
        points: Rows and columns of corners in the sheet, one arc after the other, int32,
            shape ``(m, 2)``.
        offsets: Where each arc begins in ``points``, and the end, shape ``(n + 1,)``.
        left: Number of the piece to its left, or ``NONE``, shape ``(n,)``.
        right: Number of the piece to its right.
        begins: Direction of its first step.
        ends: Direction of its last step.
        joints: Whether patches meet at its first and last point; elsewhere it is cut by a side of
            the window alone, or closed. Shape ``(n, 2)``.
    """

    points: NDArray[np.int32]
    offsets: NDArray[np.int64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    begins: NDArray[np.uint8]
    ends: NDArray[np.uint8]
    joints: NDArray[np.bool_]

    @property
    def closed(self) -> NDArray[np.bool_]:
        """Which arcs end where they begin."""
        first, last = self.points[self.offsets[:-1]], self.points[self.offsets[1:] - 1]
        return np.asarray((first == last).all(axis=1))


def window_arcs(
    classes: NDArray[np.uint8], pieces: NDArray[np.int32], window: Window, grid: PixelGrid
) -> Arcs:
    """Find the arcs of a window.

    Args:
        classes: Class ids of the window and of one pixel more on each side, 255 for none and
            beyond the sheet, shape ``(rows + 2, cols + 2)``.
        pieces: Numbers of the window's pieces, ``NONE`` for none, shape ``(rows, cols)``.
        window: Where it is.
        grid: The sheet's grid.
    """
    height, width = pieces.shape
    wide = width + 1
    level = classes[:-1] != classes[1:]  # edges between a pixel and the one below
    upright = classes[:, :-1] != classes[:, 1:]  # and the one to its right
    meets_level = level[:, :-1] | level[:, 1:]  # by corner, as what follows
    meets_upright = upright[:-1] | upright[1:]
    bends = meets_level & meets_upright
    joints = bends & ((level[:, :-1] & level[:, 1:]) | (upright[:-1] & upright[1:]))
    nodes = joints.copy()
    rows = [
        i for i, inside in ((0, window.row > 0), (height, window.bottom < grid.height)) if inside
    ]
    cols = [i for i, inside in ((0, window.col > 0), (width, window.right < grid.width)) if inside]
    bends[rows] |= meets_upright[rows]
    bends[:, cols] |= meets_level[:, cols]
    nodes[rows] = bends[rows]
    nodes[:, cols] = bends[:, cols]

    # Straight lines from bend to bend, in the order of their corners: firsts pair up with lasts.
    flat = level[:, 1:-1]
    row, col = np.nonzero(flat & bends[:, :-1])
    level_first, above, below = row * wide + col, (row, col + 1), (row + 1, col + 1)
    row, col = np.nonzero(flat & bends[:, 1:])
    level_last = row * wide + col + 1
    steep = upright[1:-1].T
    col, row = np.nonzero(steep & bends[:-1].T)
    upright_first, before, behind = row * wide + col, (row + 1, col), (row + 1, col + 1)
    col, row = np.nonzero(steep & bends[1:].T)
    upright_last = (row + 1) * wide + col

    first = np.concatenate([level_first, upright_first])
    last = np.concatenate([level_last, upright_last])
    lines, flats = len(first), len(level_first)
    source, target = np.concatenate([first, last]), np.concatenate([last, first])
    is_flat = np.tile(np.arange(lines) < flats, 2)
    leaving = np.full((2, bends.size), NONE, np.int64)  # by kind and corner; one where no node is
    leaving[1, source[is_flat]] = np.flatnonzero(is_flat)
    leaving[0, source[~is_flat]] = np.flatnonzero(~is_flat)
    node = nodes.ravel()
    following = np.where(node[target], NONE, leaving[1 - is_flat.astype(np.intp), target])
    root, place = chained(following)

    # Each arc is there twice, once in each direction.
    half = np.arange(2 * lines)
    other = (half + lines) % max(2 * lines, 1)
    kept = np.flatnonzero(root < root[other])
    kept = kept[np.lexsort((place[kept], root[kept]))]
    heads, begin, counts = np.unique(root[kept], return_index=True, return_counts=True)
    tails = kept[begin + counts - 1]
    offsets = np.concatenate([[0], np.cumsum(counts + 1)]).astype(np.int64)
    corners = np.empty(offsets[-1], np.int64)
    behind_last = offsets[1:] - 1
    inner = np.ones(len(corners), np.bool_)
    inner[behind_last] = False
    corners[inner] = source[kept]
    corners[behind_last] = target[tails]
    points = np.column_stack([corners // wide + window.row, corners % wide + window.col])

    padded = np.full((height + 2, width + 2), NONE, np.int32)
    padded[1:-1, 1:-1] = pieces
    # Going east, above is to the left; going south, what is behind (further east) is.
    one = np.concatenate([padded[above], padded[behind]])
    two = np.concatenate([padded[below], padded[before]])
    left, right = np.concatenate([one, two]), np.concatenate([two, one])
    ways = np.array([EAST, SOUTH, WEST, NORTH], np.uint8)
    way = np.repeat(ways, [flats, lines - flats, flats, lines - flats])
    joint = joints.ravel()
    return Arcs(
        points.astype(np.int32),
        offsets,
        left[heads],
        right[heads],
        way[heads],
        way[tails],
        np.column_stack([joint[source[heads]], joint[target[tails]]]),
    )
