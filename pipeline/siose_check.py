"""What an analyst wants to know of a SIOSE base before using it: all that is wrong, and where.

Covers, labels and single polygons are checked in the order of the layer, some at a time; overlaps
and gaps between polygons in squares of ground, each pair in the one square that holds a point of
what it has in common. Memory is that of a square, not of the base.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import geopandas
import numpy as np
import pandas as pd
import pyproj
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from pipeline import topology
from pipeline.codelists import Cover
from pipeline.cover_resolver import CodelistResolver, CoverResolver
from pipeline.nomenclature import Nomenclature
from pipeline.sections import SioseSettings
from pipeline.siose import resolver_of
from pipeline.siose_base import SioseBase, total_bounds
from pipeline.siose_covers import resolve_covers
from pipeline.siose_polygons import (
    Attributes,
    Bounds,
    Shapes,
    all_polygons,
    polygons_of,
    reading,
)
from pipeline.siose_problems import KINDS
from pipeline.siose_summary import equal_area
from pipeline.siose_values import ValuesIndex, index_values, opened

log = logging.getLogger(__name__)

MOST_POLYGONS = 40_000
"""Polygons of a square of ground; one with more is cut in four."""


@dataclass(frozen=True)
class CheckLimits:
    """From what size on something is told.

    Attributes:
        overlap_m2: Overlaps larger than this.
        sliver_m: Polygons nowhere as wide as this; None for the positional tolerance of the base.
        gap_m2: Gaps between polygons up to this; larger ones were left out on purpose. 0: none.
    """

    overlap_m2: float = 1.0
    sliver_m: float | None = None
    gap_m2: float = 100.0


@dataclass(frozen=True)
class _Found:
    kind: str
    polygon: str
    text: str
    geometry: BaseGeometry | None


@dataclass
class Check:
    """What was found.

    Attributes:
        base: The base in a line.
        polygons: Number of its polygons.
        problems: ``kind``, ``polygon_id``, ``text``, ``x``, ``y``, geometry, in the base's CRS, in
            the order of :data:`pipeline.siose_problems.KINDS`.
        unassigned: Covers of the codelist that the nomenclature neither gathers nor ignores.
        classified: Whether covers were checked against a nomenclature.
    """

    base: str
    polygons: int
    problems: geopandas.GeoDataFrame
    unassigned: tuple[Cover, ...] = ()
    classified: bool = False

    def counts(self) -> dict[str, int]:
        """Polygons that have each kind of problem, in the order of the kinds."""
        kinds = self.problems.groupby("kind", sort=False)
        return {str(kind): _polygons_in(rows) for kind, rows in kinds}

    @property
    def stops(self) -> bool:
        """Whether a run on this base would stop."""
        return any(KINDS[kind].stops for kind in self.problems["kind"].unique())


def check(
    base: SioseBase,
    settings: SioseSettings,
    nomenclature: Nomenclature | None = None,
    limits: CheckLimits | None = None,
    bounds: Bounds | None = None,
    index: ValuesIndex | None = None,
    threads: int = 1,
    advance: Callable[[int], None] = lambda polygons: None,
) -> Check:
    """Check a base, or its polygons on some ground.

    Args:
        base: The base.
        settings: How its polygons are resolved.
        nomenclature: Classes to check its covers against; None for its codelist alone.
        limits: From what size on overlaps, slivers and gaps are told.
        bounds: Left, bottom, right, top in the base's CRS; None for the whole base. Overlaps and
            gaps are told that have a point there.
        index: The base's values, indexed; None makes an index for this one call.
        threads: Threads that decode geometry.
        advance: Told how many polygons are done, twice a polygon in all.

    Raises:
        InputError: If the base cannot be read.
        SettingsError: If the nomenclature does not fit its codelist.
    """
    limits = limits or CheckLimits()
    plane = equal_area(base)
    index = index or opened(index_values(base))
    found: list[_Found] = []
    hashes: list[NDArray[np.uint64]] = []
    count = 0
    fids: list[NDArray[np.int64]] = []
    unassigned: tuple[Cover, ...] = ()
    labels = CodelistResolver(base.codelist)
    known = 1.0 if np.isnan(base.tolerance_m) else base.tolerance_m
    width = known if limits.sliver_m is None else limits.sliver_m
    for polygons, shapes in _polygons(base, bounds, plane, threads):
        resolver: CoverResolver = labels
        if nomenclature is not None:
            own = resolver_of(base, nomenclature, polygons.label_texts)
            resolver, unassigned = own, own.unassigned
        for row, finding in shapes.broken.items():
            lost = shapely.is_empty(shapes.geometry[row])
            kind, text = ("empty", finding.text) if lost else ("repaired", finding.text)
            found.append(_Found(kind, polygons.ids[row], text, shapes.geometry[row]))
        for problem in resolve_covers(base, polygons, index, resolver).problems:
            row = problem.row
            found.append(
                _Found(problem.kind, polygons.ids[row], problem.text, shapes.geometry[row])
            )
        for sliver in topology.slivers(shapes.geometry, width):
            found.append(
                _Found(
                    "sliver",
                    polygons.ids[sliver.rows[0]],
                    f"{sliver.text}; less than {width:g} m",
                    sliver.geometry,
                )
            )
        there = polygons.ids != ""
        hashes.append(index.hashes_of(polygons.ids[there]))
        fids.append(polygons.fids[there])
        count += len(polygons)
        advance(len(polygons))
    seen = np.concatenate([np.zeros(0, np.uint64), *hashes])
    found += _repeated_ids(base, seen, np.concatenate([np.zeros(0, np.int64), *fids]), plane)
    if bounds is None:
        found += _values_alone(index, seen)
    for square in _squares(base, count) if bounds is None else [bounds]:
        found += _between(base, square, plane, limits, threads, advance)
    frame = _frame(found, plane, base.crs)
    return Check(base.description, count, frame, unassigned, nomenclature is not None)


def _polygons(
    base: SioseBase, bounds: Bounds | None, plane: str, threads: int
) -> Iterator[tuple[Attributes, Shapes]]:
    if bounds is None:
        yield from all_polygons(base, plane, threads=threads)
        return
    with reading(base, bounds, plane, threads, valid=True) as found:
        yield found.attributes, found.shapes()


def told(check: Check, shown: int = 20) -> Iterator[str]:
    """What was found, line by line, as it is printed."""
    yield f"{check.base}: {check.polygons} polygons."
    if check.unassigned:
        names = ", ".join(cover.label or str(cover.id) for cover in check.unassigned)
        yield f"In no class and not under `ignore`: {names}"
    for kind, rows in check.problems.groupby("kind", sort=False):
        sentence = KINDS[str(kind)].sentence
        if kind == "cover" and not check.classified:
            sentence = "carry a cover that the codelist does not have"
        yield f"{_polygons_in(rows)} polygons {sentence}:"
        for polygon, x, y, text in zip(
            rows["polygon_id"][:shown], rows["x"], rows["y"], rows["text"], strict=False
        ):
            place = "" if np.isnan(x) else f"  at {_coordinates(x, y, check.problems.crs)}"
            yield f"  {polygon}{place}: {text}"
        if len(rows) > shown:
            yield f"  ... and {len(rows) - shown} more"
    if check.problems.empty:
        yield "Nothing is wrong."


def _polygons_in(rows: geopandas.GeoDataFrame) -> int:
    """Polygons that have problems of one kind, each maybe several."""
    ids = rows["polygon_id"]
    if (rows["kind"] == "duplicate").all():
        return len(ids)  # that they share their ids is the problem
    return int((ids == "").sum() + ids[ids != ""].nunique())


def _coordinates(x: float, y: float, crs: pyproj.CRS) -> str:
    digits = 5 if crs.is_geographic else 0
    return f"{x:.{digits}f}, {y:.{digits}f} ({crs.to_string()})"


def _repeated_ids(
    base: SioseBase, known: NDArray[np.uint64], fids: NDArray[np.int64], plane: str
) -> Iterator[_Found]:
    """Polygons whose ID_POLYGON another one has too."""
    if base.columns.polygon is None:
        return
    repeated = np.flatnonzero(pd.Series(known).duplicated(keep=False))
    times = pd.Series(known[repeated]).value_counts()
    for first in range(0, len(repeated), 5_000):
        some = fids[repeated[first : first + 5_000]]
        polygons, geometry = polygons_of(base, some, plane)
        for row, name in enumerate(polygons.ids):
            number = times[known[repeated[first + row]]]
            yield _Found(
                "duplicate", name, f"{number} polygons have this ID_POLYGON", geometry[row]
            )


def _values_alone(index: ValuesIndex, known: NDArray[np.uint64]) -> Iterator[_Found]:
    """Polygons of the values table that the layer lacks."""
    alone = np.flatnonzero(~np.isin(index.hashes, known))
    for row in alone.tolist():
        name = index.ids[row].as_py()
        rows = int(index.starts[row + 1] - index.starts[row])
        shown = name or "rows without ID_POLYGON"
        yield _Found("values_without_polygon", shown, f"{rows} covers in the table", None)


def _squares(base: SioseBase, count: int) -> list[Bounds]:
    """Rectangles of ground that together hold the base, half open to the right and top."""
    if not count:
        return []
    left, bottom, right, top = total_bounds(base)
    steps = int(np.ceil(np.sqrt(count / (MOST_POLYGONS / 2))))
    x = np.linspace(left, right, steps + 1)
    y = np.linspace(bottom, top, steps + 1)
    # The last column and row are closed: a point on the outermost edge is in them.
    x[-1], y[-1] = np.nextafter(right, np.inf), np.nextafter(top, np.inf)
    return [
        (float(x[i]), float(y[j]), float(x[i + 1]), float(y[j + 1]))
        for j in range(steps)
        for i in range(steps)
    ]


def _between(
    base: SioseBase,
    square: Bounds,
    plane: str,
    limits: CheckLimits,
    threads: int,
    advance: Callable[[int], None],
) -> Iterator[_Found]:
    """Overlaps and gaps that have a point in a square."""
    left, bottom, right, top = square
    # Somewhat more than the square: a gap on its rim needs all of the polygons around it.
    rim = 4 * np.sqrt(limits.gap_m2) / _metres(base.crs)
    around = (left - rim, bottom - rim, right + rim, top + rim)
    with reading(base, around, plane, threads, valid=True) as found:
        ids, geometry = found.attributes.ids, found.shapes().geometry
    # Polygons without end on one spot are not cut for ever.
    if len(ids) > MOST_POLYGONS and min(right - left, top - bottom) > max(2 * rim, 1e-9):
        x, y = (left + right) / 2, (bottom + top) / 2
        for part in (
            (left, bottom, x, y), (x, bottom, right, y), (left, y, x, top), (x, y, right, top)
        ):  # fmt: skip
            yield from _between(base, part, plane, limits, threads, advance)
        return
    back = pyproj.Transformer.from_crs(plane, base.crs, always_xy=True)

    def here(place: tuple[float, float] | None) -> bool:
        if place is None:
            return False
        x, y = back.transform(*place)
        return bool(left <= x < right and bottom <= y < top)

    home = 0
    for overlap in topology.overlaps(geometry, limits.overlap_m2):
        if here(overlap.place):
            one, two = (ids[row] for row in overlap.rows)
            yield _Found("overlap", one, f"with {two}: {overlap.text}", overlap.geometry)
    if limits.gap_m2:
        for gap in topology.gaps(geometry, limits.overlap_m2, limits.gap_m2):
            if here(gap.place) and gap.rows:
                yield _Found("gap", ids[gap.rows[0]], gap.text, gap.geometry)
    if len(geometry):
        bounds = shapely.bounds(geometry)
        x, y = back.transform(bounds[:, 0], bounds[:, 1])
        home = int(((x >= left) & (x < right) & (y >= bottom) & (y < top)).sum())
    advance(home)


def _metres(crs: str) -> float:
    """Metres of a unit of a CRS, along a meridian where it is an angle."""
    axis = pyproj.CRS(crs).axis_info[0]
    radius = 6_371_000 if pyproj.CRS(crs).is_geographic else 1.0
    return float(axis.unit_conversion_factor) * radius


def _frame(found: Iterable[_Found], plane: str, crs: str) -> geopandas.GeoDataFrame:
    listed = list(found)
    order = {kind: number for number, kind in enumerate(KINDS)}
    listed.sort(key=lambda one: order[one.kind])
    shapes = np.array([None if one.geometry is None else one.geometry for one in listed], object)
    shapes[shapely.is_empty(shapes)] = None
    areal = np.isin(
        shapely.get_type_id(shapes),
        (shapely.GeometryType.POLYGON.value, shapely.GeometryType.MULTIPOLYGON.value),
    )
    # Two polygons that overlap may also touch along a line, which is no ground.
    for row in np.flatnonzero(~areal & ~shapely.is_missing(shapes)):
        parts = [p for p in shapely.get_parts(shapes[row]) if p.geom_type.endswith("Polygon")]
        shapes[row] = shapely.union_all(parts) if parts else None
    frame = geopandas.GeoDataFrame(
        {
            "kind": [one.kind for one in listed],
            "polygon_id": [one.polygon for one in listed],
            "text": [one.text for one in listed],
        },
        geometry=shapes,
        crs=plane,
    ).to_crs(crs)
    points = shapely.point_on_surface(frame.geometry.to_numpy())
    frame.insert(3, "x", shapely.get_x(points))
    frame.insert(4, "y", shapely.get_y(points))
    return frame
