"""Topology of polygons that should cover the ground once: what is broken, doubled, thin or missing.

Pure functions over arrays of shapes. Rows are positions in the array that a function is given;
findings come in their order. Lengths, areas and tolerances are in the units of the shapes' CRS:
give shapes in metres, since the texts say m and m². No shape is refused: the functions mend what
they are given (:mod:`pipeline.mending`), and :func:`invalid` tells what had to be mended.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from pipeline.mending import (
    FARTHEST,
    Rows,
    Shapes,
    cut,
    difference,
    intersection,
    is_far,
    is_polygonal,
    mended,
    rounded,
    rounding_step,
    union,
)

Bounds = tuple[float, float, float, float]
Kind = Literal[
    "missing", "empty", "not_polygonal", "not_finite", "invalid",
    "identical", "contained", "partial", "sliver", "gap",
]  # fmt: skip

_WHOLE = 1e-6  # of a polygon's area: reprojection leaves that much of an identical one uncovered
_CHUNK = 1024  # polygons that meet their neighbours at once, which bounds memory


@dataclass(frozen=True)
class Finding:
    """A problem of one or more polygons.

    Attributes:
        kind: What it is.
        rows: Rows of the polygons it is about, ascending.
        measure: Area of an overlap or a gap; width of a sliver; else NaN.
        geometry: Where it is: the common part, the gap, the sliver, the point of an invalid
            outline; None where there is no place.
        text: What an analyst reads; "first" and "second" are in the order of ``rows``.
    """

    kind: Kind
    rows: tuple[int, ...]
    measure: float
    geometry: BaseGeometry | None
    text: str

    @property
    def place(self) -> tuple[float, float] | None:
        """A point of the geometry, x and y; None where there is none."""
        if self.geometry is None or shapely.is_empty(self.geometry):
            return None
        # Where a collection has empty members, GEOS finds no point on it.
        at = shapely.get_coordinates([shapely.point_on_surface(self.geometry), self.geometry])
        return float(at[0, 0]), float(at[0, 1])


@dataclass(frozen=True)
class Overlap(Finding):
    """Two polygons on the same ground; ``measure`` is its area.

    Attributes:
        shares: Share of the first polygon and of the second that is common, 0 to 1.
    """

    shares: tuple[float, float]

    @property
    def wins(self) -> int:
        """Row that labels the common ground: rows are burnt in their order, and the last stays."""
        return self.rows[1]


def invalid(shapes: Shapes) -> list[Finding]:
    """Rows without a valid polygon.

    Returns:
        One finding a row: ``missing``, ``empty``, ``not_finite`` (also beyond
        :data:`pipeline.mending.FARTHEST`), ``not_polygonal`` (lines, points, collections), or
        ``invalid`` with the first reason that GEOS gives and its point.
    """
    good = shapely.is_valid(shapes) & is_polygonal(shapes) & ~shapely.is_empty(shapes)
    return [_broken(row, shapes[row]) for row in np.flatnonzero(~good | is_far(shapes)).tolist()]


def overlaps(shapes: Shapes, least_area: float) -> list[Overlap]:
    """Pairs of polygons that have more than an area in common.

    Args:
        shapes: Polygons in the order in which they are burnt, shape ``(n,)``.
        least_area: Above 0: neighbours whose common outline is not the same to the last bit, as
            after reprojection, have some area in common.

    Returns:
        Each pair once, by rows. Polygons are ``identical``, or one is ``contained`` in the other,
        where all but a millionth of their area is common; other pairs are ``partial``.
    """
    whole = mended(shapes)
    areas = shapely.area(whole)
    first, second, common = _common(whole, least_area)
    # Rounding can make the common part of slender polygons larger than they are.
    size = np.minimum(shapely.area(common), np.minimum(areas[first], areas[second]))
    found = []
    for i, j, ground, area in zip(
        first.tolist(), second.tolist(), common, size.tolist(), strict=True
    ):
        if area > least_area:
            shares = area / float(areas[i]), area / float(areas[j])
            kind, text = _described(area, shares)
            found.append(Overlap(kind, (i, j), area, ground, text, shares))
    return found


def slivers(shapes: Shapes, width: float) -> list[Finding]:
    """Polygons, and parts of multipolygons, that are nowhere as wide as a width.

    A sliver has no room for a disc of that diameter: eroding it by half the width leaves nothing.
    So a long road that is wider is none, nor is a field with a narrow tail; a speck is one.

    Returns:
        One finding a part, by row; ``measure`` is the width of the rectangle with the part's area
        and perimeter.
    """
    parts, row = shapely.get_parts(mended(shapes), return_index=True)
    area, perimeter = shapely.area(parts), shapely.length(parts)
    # Where the largest disc within has the radius r, the area is at most r * perimeter.
    thin = np.flatnonzero(2 * area < width * perimeter)
    found = []
    for start in range(0, len(thin), _CHUNK):
        some = thin[start : start + _CHUNK]
        for i in some[shapely.is_empty(shapely.buffer(parts[some], -width / 2))].tolist():
            across, along = _sides(float(area[i]), float(perimeter[i]))
            text = f"{_number(across)} m wide, {_number(along)} m long, {_number(area[i])} m²"
            found.append(Finding("sliver", (int(row[i]),), across, parts[i], text))
    return found


def gaps(
    shapes: Shapes, least_area: float, most_area: float, box: Bounds | None = None
) -> list[Finding]:
    """Ground that polygons enclose on all sides and none covers.

    Coordinates are rounded to a step at which ``least_area`` still shows, so that the noise of
    reprojection neither is a gap, nor joins two, nor opens one to the outside.

    Args:
        shapes: Polygons, shape ``(n,)``.
        least_area: Gaps are larger than this, which is above 0.
        most_area: And at most as large as this: larger holes were left out on purpose.
        box: Left, bottom, right, top: only gaps within it. For polygons that were read by a box:
            what lies beyond was not read, and looks like a gap.

    Returns:
        By the rows of the polygons around, then by place; ``measure`` is the area.
    """
    whole = mended(shapes)
    there = np.flatnonzero(~shapely.is_empty(whole))
    if not len(there):
        return []
    step = rounding_step(whole[there], least_area)
    coarse = mended(rounded(whole[there], step))
    # Beside an edge that another polygon has the other way round, the ground is that polygon's.
    # So gaps lie between polygons with other edges: only those, few in most bases, are united.
    rim = _has_open_edges(coarse)
    holes = _holes(union(coarse[rim], step))
    areas = shapely.area(holes)
    holes = holes[(areas > least_area) & (areas <= most_area)]
    if box is not None:
        holes = holes[shapely.covered_by(holes, shapely.box(*box))]
    inner = shapely.STRtree(coarse[~rim])
    covered, _ = inner.query(shapely.point_on_surface(holes), predicate="intersects")
    holes = np.delete(holes, covered)
    hole, neighbour = shapely.STRtree(whole[there]).query(holes, "dwithin", 2 * step)
    found = []
    for i, gap in enumerate(holes):
        rows = tuple(sorted(there[neighbour[hole == i]].tolist()))
        area = float(shapely.area(gap))
        text = f"{_number(area)} m² that no polygon covers, between {len(rows)} polygons"
        found.append(Finding("gap", rows, area, gap, text))
    return sorted(found, key=lambda gap: (gap.rows, gap.place))


def _broken(row: int, shape: BaseGeometry | None) -> Finding:
    if shape is None:
        return Finding("missing", (row,), np.nan, None, "there is no geometry")
    points = shapely.get_coordinates(shape)
    fit = (np.abs(points) <= FARTHEST).all(axis=1)
    if not fit.all():
        (x, y), *_ = points[~fit]
        text = f"{(~fit).sum()} of {len(points)} vertices are no place on Earth, as {x:g}, {y:g}"
        place = shapely.Point(points[fit][0]) if fit.any() else None
        return Finding("not_finite", (row,), np.nan, place, text)
    name = shape.geom_type
    if shapely.is_empty(shape):
        return Finding("empty", (row,), np.nan, None, f"the {name} is empty")
    if name not in ("Polygon", "MultiPolygon"):
        kinds = Counter(part.geom_type for part in shapely.get_parts(shape))
        parts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        text = f"is a {name}" + (f" of {parts}" if hasattr(shape, "geoms") else "")
        return Finding("not_polygonal", (row,), np.nan, shapely.force_2d(shape), text)
    reason = shapely.is_valid_reason(shape)
    parsed = re.fullmatch(r"(.+?) *\[(\S+) (\S+)\]", reason)
    if parsed is None:
        return Finding("invalid", (row,), np.nan, shapely.Point(points[0]), reason)
    x, y = float(parsed[2]), float(parsed[3])
    text = f"{parsed[1]} at {x:.10g}, {y:.10g}"
    return Finding("invalid", (row,), np.nan, shapely.Point(x, y), text)


def _described(area: float, shares: tuple[float, float]) -> tuple[Kind, str]:
    within = [share >= 1 - _WHOLE for share in shares]
    ground = f"{_number(area)} m²"
    one, two = (f"{100 * share:.1f} %" for share in shares)
    wins = "wins as the later row"
    if all(within):
        return "identical", f"the same {ground} twice; the second {wins}, the first labels nothing"
    if within[0]:
        text = f"the first ({ground}) lies in the second, which {wins}: it labels nothing"
        return "contained", text
    if within[1]:
        text = f"the second ({ground}) lies in the first ({one} of it), and {wins} there"
        return "contained", text
    return "partial", f"{ground} in common, {one} of the first, {two} of the second, which {wins}"


def _common(whole: Shapes, least_area: float) -> tuple[Rows, Rows, Shapes]:
    """Rows of the pairs with about an area in common or more, and what they have; by rows."""
    pieces, owner = cut(whole)
    part = (np.bincount(owner, minlength=len(whole)) > 1)[owner]
    boxes = shapely.bounds(pieces)
    step = rounding_step(whole, least_area)
    coarse = rounded(pieces, step)
    # Rounding sweeps at most this much ground: polygons that do not overlap when rounded have
    # less in common. Relating them is three times as fast as intersecting, and clean outlines,
    # even noisy ones, round to the same vertices.
    swept = 1.5 * step * (shapely.length(pieces) + step * shapely.get_num_coordinates(pieces))
    swept[~shapely.is_valid(coarse) | part] = np.inf
    tree = shapely.STRtree(pieces)
    pairs, grounds = [np.empty(0, np.intp)], [np.empty(0, object)]
    for start in range(0, len(pieces), _CHUNK):
        one, two = tree.query(pieces[start : start + _CHUNK])
        one = one + start
        later = owner[one] < owner[two]
        one, two = one[later], two[later]
        enough = np.where(part[one] | part[two], 0, least_area)
        low = np.maximum(boxes[one, :2], boxes[two, :2])
        room = np.prod(np.minimum(boxes[one, 2:], boxes[two, 2:]) - low, axis=1)
        likely = room > enough
        told = np.flatnonzero(likely & (swept[one] + swept[two] <= least_area))
        likely[told] = shapely.relate_pattern(coarse[one[told]], coarse[two[told]], "T********")
        one, two = one[likely], two[likely]
        ground = intersection(pieces[one], pieces[two])
        kept = shapely.area(ground) > enough[likely]
        pairs.append(owner[one[kept]] * len(whole) + owner[two[kept]])
        grounds.append(ground[kept])
    pair, ground = np.concatenate(pairs), np.concatenate(grounds)
    order = np.argsort(pair, kind="stable")
    pair, starts, counts = np.unique(pair[order], return_index=True, return_counts=True)
    ground = ground[order]
    common = ground[starts]
    for i in np.flatnonzero(counts > 1):
        common[i] = union(ground[starts[i] : starts[i] + counts[i]])
    return pair // len(whole), pair % len(whole), common


def _has_open_edges(shapes: Shapes) -> NDArray[np.bool_]:
    """Which polygons have an edge that none has the other way round, bool, shape ``(n,)``."""
    # Holes turn the other way, so that ground is always on the same side of an edge.
    turned = shapely.orient_polygons(shapes)
    _, points, offsets = shapely.to_ragged_array(turned, include_z=False)
    _, vertex = np.unique(points.view(np.complex128), return_inverse=True)
    vertex = vertex.reshape(-1)
    starts = np.ones(max(len(vertex) - 1, 0), bool)
    starts[offsets[0][1:-1] - 1] = False  # the last vertex of a ring begins no edge
    edge = np.flatnonzero(starts)
    count = len(vertex)
    forth, back = (vertex[edge + i] * count + vertex[edge + 1 - i] for i in (0, 1))
    lone = edge[~np.isin(back, forth)]
    ends = offsets[0][offsets[1]]
    ends = ends[offsets[2]] if len(offsets) > 2 else ends
    result = np.zeros(len(shapes), bool)
    result[np.searchsorted(ends, lone, side="right") - 1] = True
    return result


def _holes(covered: BaseGeometry) -> Shapes:
    """The ground that a polygon or multipolygon encloses, as polygons.

    Not its interior rings: parts that touch in points enclose ground, too.
    """
    if shapely.is_empty(covered):
        return np.empty(0, object)
    left, bottom, right, top = shapely.bounds(covered)
    around = shapely.box(left - 1, bottom - 1, right + 1, top + 1)
    free = shapely.get_parts(difference(np.array([around]), np.array([covered])))
    return np.asarray(free[shapely.bounds(free)[:, 0] > left - 0.5], object)


def _sides(area: float, perimeter: float) -> tuple[float, float]:
    """Sides of the rectangle with an area and a perimeter; of a rounder shape, of the square."""
    mean = perimeter / 4
    half = max(mean**2 - area, 0.0) ** 0.5
    return mean - half, mean + half


def _number(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"
