"""Fewer points in the arcs between patches, without gaps, overlaps or crossings.

The arcs of a window are simplified together, each once for both of its patches: GEOS takes points
out of each as Douglas and Peucker do, and leaves those without which an arc would cross another
one or get to another side of it. Every point of an arc, old or new, stays within the tolerance of
the other: other than with methods by area (Visvalingam and Whyatt; GEOS's coverage simplifier), a
narrow strip does not vanish, however long it is.

What stays where it is: points where three patches meet, where arcs cross the window's sides, and
all of the outline towards pixels without a class. A patch inside another one keeps its northern,
eastern, southern and western end, so that a patch of one pixel stays a square.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.arcs import Arcs
from pipeline.errors import InputError
from pipeline.grid import PixelGrid, Window
from pipeline.pieces import NONE

_NEEDED = (3, 14)  # earlier versions let an arc jump over a patch that lies beside it


def check_geos() -> None:
    """Check that GEOS can simplify without mistakes.

    Raises:
        InputError: If it is too old.
    """
    if shapely.geos_version < _NEEDED:
        found, needed = (".".join(map(str, v)) for v in (shapely.geos_version, _NEEDED))
        raise InputError(
            f"vectors.simplify_m: GEOS {needed} or later is needed to simplify; this is {found}.",
            remedy="Upgrade shapely to 2.2 or later (with conda: geos), or set simplify_m: 0.",
        )


def simplified(
    arcs: Arcs,
    window: Window,
    grid: PixelGrid,
    tolerance: float,
    pixel: tuple[float, float],
) -> Arcs:
    """Take points out of the arcs of a window.

    Args:
        arcs: The arcs.
        window: Their window.
        grid: The sheet's grid.
        tolerance: How far an outline may move, in metres.
        pixel: Height and width of a pixel in metres.

    Source:
        Douglas & Peucker (1973), Cartographica 10(2); Saalfeld (1999), Cartography and Geographic
        Information Science 26(1), for when a shorter line lies as the longer one did.
    """
    points, offsets = arcs.points.astype(np.int64), arcs.offsets
    if not len(points):
        return arcs
    arc = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    cut = ((arcs.left == NONE) | (arcs.right == NONE))[arc]
    cut[offsets[:-1]] = cut[offsets[1:] - 1] = True
    cut[_extremes(arcs, arc)] = True
    # A line from each cut to the next one; a cut inside of an arc ends a line and begins another.
    ends = np.zeros(len(points), np.bool_)
    ends[offsets[1:] - 1] = True
    begins = np.zeros(len(points), np.bool_)
    begins[offsets[:-1]] = True
    twice = cut & ~begins & ~ends
    place = np.repeat(np.arange(len(points)), 1 + twice)
    second = np.zeros(len(place), np.bool_)
    second[1:] = place[1:] == place[:-1]
    line = np.cumsum(second | begins[place]) - 1
    # In parts of a pixel that are exact in binary: rounded, outlines that GEOS sees to lie beside
    # each other would touch or cross in whole pixels.
    longest = max(pixel)
    scale = np.rint(np.array(pixel) / longest * 2**16) / 2**16
    guards = _guards(arcs, window, grid)
    shapes = np.concatenate(
        [
            shapely.linestrings(points[place] * scale, indices=line),
            shapely.linestrings((guards * scale).reshape(-1, 2, 2)) if len(guards) else [],
        ]
    )
    lines = shapely.multilinestrings(shapes)
    thinner = shapely.get_parts(shapely.simplify(lines, tolerance / longest))
    thinner = thinner[: line[-1] + 1]
    kept, of_line = shapely.get_coordinates(thinner, return_index=True)
    arc_of_line = arc[place[np.flatnonzero(np.diff(line, prepend=-1))]]
    repeated = np.zeros(len(kept), np.bool_)
    repeated[1:] = (of_line[1:] != of_line[:-1]) & (
        arc_of_line[of_line[1:]] == arc_of_line[of_line[:-1]]
    )
    kept, of_line = kept[~repeated], of_line[~repeated]
    counts = np.bincount(arc_of_line[of_line], minlength=len(offsets) - 1)
    return replace(
        arcs,
        points=np.rint(kept / scale).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def _extremes(arcs: Arcs, arc: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the four outermost points of each closed arc."""
    inside = np.flatnonzero(arcs.closed[arc])
    row, col = arcs.points[inside].astype(np.int64).T
    group = arc[inside]
    found = []
    for keys in ((row, col), (-col, row), (-row, -col), (col, -row)):
        order = np.lexsort((keys[1], keys[0], group))
        found.append(inside[order[np.flatnonzero(np.diff(group[order], prepend=-1))]])
    return np.concatenate(found)


def _guards(arcs: Arcs, window: Window, grid: PixelGrid) -> NDArray[np.int64]:
    """Lines along the sides of the window where no arc is: no arc may fall upon them.

    Beyond, its patch goes on; an arc on the side would leave it no width there.

    Returns:
        Rows and columns of their ends, shape ``(n, 2, 2)``.
    """
    ends = np.unique(
        np.concatenate([arcs.points[arcs.offsets[:-1]], arcs.points[arcs.offsets[1:] - 1]]), axis=0
    ).astype(np.int64)
    steps = arcs.points[:-1].astype(np.int64), arcs.points[1:].astype(np.int64)
    within = np.ones(len(arcs.points) - 1, np.bool_)
    within[arcs.offsets[1:-1] - 1] = False
    found = []
    for axis, at, inner in (
        (0, window.row, window.row > 0),
        (0, window.bottom, window.bottom < grid.height),
        (1, window.col, window.col > 0),
        (1, window.right, window.right < grid.width),
    ):
        if not inner:
            continue
        along = 1 - axis
        first, last = (window.col, window.right) if axis == 0 else (window.row, window.bottom)
        stops = np.unique(np.concatenate([[first, last], ends[ends[:, axis] == at, along]]))
        on = within & (steps[0][:, axis] == at) & (steps[1][:, axis] == at)
        taken = np.minimum(steps[0][on, along], steps[1][on, along])
        open_ = ~np.isin(stops[:-1], taken)
        lines = np.full((np.count_nonzero(open_), 2, 2), at)
        lines[:, 0, along], lines[:, 1, along] = stops[:-1][open_], stops[1:][open_]
        found.append(lines)
    return np.concatenate(found) if found else np.zeros((0, 2, 2), np.int64)
