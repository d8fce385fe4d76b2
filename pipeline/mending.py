"""Polygons that GEOS can work with, whatever was given, and overlays that do not fail.

Of GEOS's operations (3.14), ``make_valid`` fails on coordinates that are not finite and on
multipolygons with a collapsed part, and overlays fail on invalid polygons and, rarely, on valid
ones (libgeos/geos#1170). Here nothing raises a ``GEOSException``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

Shapes = NDArray[np.object_]
Rows = NDArray[np.intp]

FARTHEST = 1e9
"""No coordinate of a place on Earth is larger, whether in degrees, feet or metres."""

_POLYGON, _MULTIPOLYGON, _COLLECTION = (
    shapely.GeometryType.POLYGON.value,
    shapely.GeometryType.MULTIPOLYGON.value,
    shapely.GeometryType.GEOMETRYCOLLECTION.value,
)
_MOST_VERTICES = 1000  # of a piece: a road network has 100 000, and every neighbour reads them all


def mended(shapes: Shapes) -> Shapes:
    """Valid polygons and multipolygons in the place of all shapes, without Z and M.

    Valid polygons stay as they are. Of what repairing makes, and of collections, only the polygons
    are kept. What has no area, or a coordinate that is no place on Earth, becomes an empty polygon.

    Args:
        shapes: Geometries of any type, or None, shape ``(n,)``.

    Returns:
        Shape ``(n,)``, row by row.
    """
    result: Shapes = np.array(shapes, object)
    raised = shapely.has_z(result) | shapely.has_m(result)
    result[raised] = shapely.force_2d(result[raised])
    areal = is_polygonal(result)
    collected = shapely.get_type_id(result) == _COLLECTION
    result[~(areal | collected) | shapely.is_empty(result) | is_far(result)] = shapely.Polygon()
    for row in np.flatnonzero(collected | ~shapely.is_valid(result)):
        result[row] = _repaired(result[row])
    return result


def is_polygonal(shapes: Shapes) -> NDArray[np.bool_]:
    """Which shapes are polygons or multipolygons, bool, shape ``(n,)``."""
    return np.isin(shapely.get_type_id(shapes), (_POLYGON, _MULTIPOLYGON))


def is_far(shapes: Shapes) -> NDArray[np.bool_]:
    """Which have a coordinate that is not finite or beyond :data:`FARTHEST`, shape ``(n,)``."""
    # Boxes leave NaN out, lengths do not; a point alone has none, and GEOS calls NaN an empty one.
    with np.errstate(invalid="ignore", over="ignore"):
        length = shapely.length(shapes)
    far = ~np.isfinite(length) | (np.abs(shapely.bounds(shapes)) > FARTHEST).any(axis=-1)
    return np.asarray(far & ~shapely.is_missing(shapes))


def intersection(one: Shapes, other: Shapes) -> Shapes:
    """The polygons that valid polygons have in common, row by row, shape ``(n,)``."""
    return _areal(np.asarray(_overlay(shapely.intersection, one, other), object))


def difference(one: Shapes, other: Shapes) -> Shapes:
    """What valid polygons do not share with others, row by row, shape ``(n,)``."""
    return _areal(np.asarray(_overlay(shapely.difference, one, other), object))


def union(shapes: Shapes, step: float | None = None) -> BaseGeometry:
    """Valid polygons in one, with coordinates rounded to a step where one is told."""
    whole: BaseGeometry = shapely.Polygon()
    if step is not None:
        # Snap rounding, which always comes to an end.
        whole = shapely.union_all(shapes, grid_size=step)
    elif len(shapes):
        whole = _overlay(shapely.union_all, shapes)
    return shapely.Polygon() if shapely.is_empty(whole) else whole


def cut(shapes: Shapes) -> tuple[Shapes, Rows]:
    """Cut valid polygons with many vertices in pieces, by halving them until their pieces have few.

    Returns:
        Pieces and the row of each, shapes ``(m,)``, by row. Areas of overlays add up over pieces.
    """
    pieces, owner = [], []
    rest, row = shapes, np.arange(len(shapes))
    for _ in range(24):
        large = shapely.get_num_coordinates(rest) > _MOST_VERTICES
        pieces.append(rest[~large])
        owner.append(row[~large])
        rest, row = rest[large], np.tile(row[large], 2)
        if not len(rest):
            break
        left, bottom, right, top = shapely.bounds(rest).T
        wide = right - left > top - bottom
        x = np.where(wide, (left + right) / 2, right)
        y = np.where(wide, top, (bottom + top) / 2)
        one = shapely.box(left, bottom, x, y)
        two = shapely.box(np.where(wide, x, left), np.where(wide, bottom, y), right, top)
        rest = intersection(np.tile(rest, 2), np.concatenate([one, two]))
    rows = np.concatenate([*owner, row])
    order = np.argsort(rows, kind="stable")
    return np.concatenate([*pieces, rest])[order], rows[order]


def rounding_step(shapes: Shapes, area: float) -> float:
    """A step to round coordinates to that moves hardly any polygon's outline over as much ground.

    A power of two, so that rounded coordinates are exact; not below what floats can tell apart.

    Args:
        shapes: Valid polygons, shape ``(n,)``.
        area: The ground.
    """
    longest = float(np.quantile(shapely.length(shapes), 0.99)) if len(shapes) else 0.0
    step = min(1e-4 * area**0.5, area / (4 * longest) if longest else np.inf)
    largest = np.nanmax(np.abs(shapely.bounds(shapes)), initial=1e-300)
    return float(2.0 ** np.floor(np.log2(max(step, 4 * np.spacing(largest)))))


def rounded(shapes: Shapes, step: float) -> Shapes:
    """Shapes with coordinates rounded to a step; valid polygons may not be valid any more."""
    return np.asarray(shapely.transform(shapes, lambda points: np.round(points / step) * step))


def _overlay(operation: Callable[..., Any], *operands: Shapes) -> Any:  # noqa: ANN401
    """An overlay in exact coordinates; where GEOS fails, in coordinates rounded in the 12th place.

    In UTM that is a few micrometres.
    """
    try:
        return operation(*operands)
    except shapely.GEOSException:
        bounds = np.array([shapely.total_bounds(operand) for operand in operands])
        return operation(*operands, grid_size=2.0 ** np.ceil(np.log2(np.abs(bounds).max() * 1e-12)))


def _repaired(shape: BaseGeometry) -> BaseGeometry:
    parts = np.array([shape], object)
    # Part by part: GEOS cannot mend a multipolygon of which one part collapses to a point.
    while (shapely.get_type_id(parts) > _POLYGON).any():
        parts = shapely.get_parts(parts)
    parts = shapely.make_valid(parts[shapely.get_type_id(parts) == _POLYGON])
    return union(_areal(parts))


def _areal(shapes: Shapes) -> Shapes:
    """The polygons of valid shapes; repairs and overlays leave lines and points beside them."""
    result = shapes.copy()
    collected = shapely.get_type_id(shapes) == _COLLECTION
    result[~(is_polygonal(shapes) | collected)] = shapely.Polygon()
    for row in np.flatnonzero(collected):
        parts = shapely.get_parts(shapes[row])
        result[row] = union(parts[is_polygonal(parts)])
    return result
