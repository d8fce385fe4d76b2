"""A SIOSE base in numbers: area and polygons of each cover and each class, and what is masked."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from pipeline.cover_resolver import CodelistResolver, CoverResolver
from pipeline.labels import REASONS, polygon_classes
from pipeline.nomenclature import Nomenclature
from pipeline.sections import LabelSettings, SioseSettings
from pipeline.siose import Proportions, reasons_of, resolver_of
from pipeline.siose_base import SioseBase, total_bounds
from pipeline.siose_covers import resolve_covers
from pipeline.siose_polygons import all_polygons
from pipeline.siose_values import index_values, opened


@dataclass
class Extent:
    """Ground of a cover, a class or a reason.

    Attributes:
        area_m2: Its area; of a share of a polygon, that share of the polygon's.
        polygons: Polygons that have any of it.
    """

    area_m2: float = 0.0
    polygons: int = 0

    def add(self, areas: NDArray[np.float64], polygons: int) -> None:
        """Add areas that lie in so many polygons."""
        self.area_m2 += float(areas.sum())
        self.polygons += polygons


@dataclass(frozen=True)
class Summary:
    """What a base holds.

    Attributes:
        base: The base in a line.
        whole: All of its polygons.
        covers: By the cover's label and description.
        classes: By the name of the class; empty without a nomenclature.
        composite: Polygons of several covers.
        mixed: Polygons of several classes.
        masked: Polygons that get no label, by reason.
        unmapped: Ground of no class in polygons that get one.
        sources: Polygons by what their covers come from; empty where nothing tells.
    """

    base: str
    whole: Extent = field(default_factory=Extent)
    covers: dict[str, Extent] = field(default_factory=lambda: defaultdict(Extent))
    classes: dict[str, Extent] = field(default_factory=lambda: defaultdict(Extent))
    composite: Extent = field(default_factory=Extent)
    mixed: Extent = field(default_factory=Extent)
    masked: dict[str, Extent] = field(default_factory=lambda: defaultdict(Extent))
    unmapped: Extent = field(default_factory=Extent)
    sources: dict[str, Extent] = field(default_factory=lambda: defaultdict(Extent))

    def rows(self) -> list[tuple[str, str, float, int]]:
        """What, name, area in m² and polygons, as they are told and written."""
        listed = [("base", "all polygons", self.whole)]
        listed += _largest_first("source", self.sources)
        listed += _largest_first("cover", self.covers)
        listed += [("class", name, extent) for name, extent in self.classes.items()]
        listed.append(("composite", "polygons of several covers", self.composite))
        if self.classes:
            listed.append(("composite", "polygons of several classes", self.mixed))
            listed += _largest_first("masked", self.masked)
            listed.append(("masked", "part of no class in labelled polygons", self.unmapped))
        return [(what, name, extent.area_m2, extent.polygons) for what, name, extent in listed]

    def as_csv(self) -> str:
        """The summary as CSV: what, name, area in m², polygons."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("what", "name", "area_m2", "polygons"))
        for what, name, area, polygons in self.rows():
            writer.writerow((what, name, f"{area:.1f}", polygons))
        return text.getvalue()


def _largest_first(what: str, extents: Mapping[str, Extent]) -> list[tuple[str, str, Extent]]:
    names = sorted(extents, key=lambda name: (-extents[name].area_m2, name))
    return [(what, name, extents[name]) for name in names]


def summarise(
    base: SioseBase,
    settings: SioseSettings,
    nomenclature: Nomenclature | None = None,
    labels: LabelSettings | None = None,
    threads: int = 1,
) -> Summary:
    """Sum up a base, some polygons at a time.

    Args:
        base: The base.
        settings: How its polygons are resolved.
        nomenclature: Classes; None for the covers alone.
        labels: What becomes of composites.
        threads: Threads that decode geometry.

    Areas are on the ellipsoid for a geographic base, and those of the map plane for a projected
    one, as SIOSE's own ``SUPERF_HA``.

    Raises:
        InputError: If the base cannot be read.
        SettingsError: If the nomenclature does not fit its codelist.
    """
    index = opened(index_values(base))
    summary = Summary(base.description)
    if nomenclature is not None:
        for name in nomenclature.names:
            summary.classes[name] = Extent()
    known = CodelistResolver(base.codelist)
    for polygons, shapes in all_polygons(base, equal_area(base), threads=threads):
        area = shapely.area(shapes.geometry)
        resolver: CoverResolver = known
        if nomenclature is not None:
            resolver = resolver_of(base, nomenclature, polygons.label_texts)
        resolved = resolve_covers(base, polygons, index, resolver)
        covers = resolved.covers
        share = covers.percent / 100
        summary.whole.add(area, len(area))
        names = [resolved.name_of(base, key) for key in range(len(covers.keys))]
        named, places = np.unique(np.array([*names, ""], object), return_inverse=True)
        kind = places[covers.key]
        pair = np.unique(covers.row * len(named) + kind)
        count = np.bincount(pair % len(named), minlength=len(named))
        ground = np.bincount(kind, share * area[covers.row], minlength=len(named))
        for name, size, times in zip(named, ground, count, strict=True):
            if times:
                summary.covers[name].area_m2 += float(size)
                summary.covers[name].polygons += int(times)
        several = np.bincount(pair // len(named), minlength=len(area)) > 1
        summary.composite.add(area[several], int(several.sum()))
        for source in np.unique(resolved.sources.astype(str)):
            rows = resolved.sources == source
            summary.sources[source or "none"].add(area[rows], int(rows.sum()))
        if nomenclature is None:
            continue
        shares = resolved.shares(len(area), len(nomenclature))
        proportions = Proportions(
            (shapes.geometry,), shares[:, :-2], shares[:, -2],
            reasons_of(shares, polygons.labelled, base), nomenclature.fingerprint, base.tolerance_m,
        )  # fmt: skip
        _, reasons = polygon_classes(proportions, labels or LabelSettings())
        for reason in np.unique(reasons[reasons != 255]):
            rows = reasons == reason
            summary.masked[REASONS[reason]].add(area[rows], int(rows.sum()))
        some = reasons == 255
        for number, name in enumerate(nomenclature.names):
            there = shares[:, number] > 0
            summary.classes[name].add(area * shares[:, number], int(there.sum()))
        mixed = (shares[:, :-2] > 0).sum(axis=1) > 1
        summary.mixed.add(area[mixed], int(mixed.sum()))
        rest = some & (shares[:, -2] > 0)
        summary.unmapped.add((area * shares[:, -2])[rest], int(rest.sum()))
    return summary


def equal_area(base: SioseBase) -> str:
    """A CRS in metres for a base: its own where it is projected, else an equal-area one."""
    crs = pyproj.CRS(base.crs)
    if crs.is_projected and crs.axis_info[0].unit_conversion_factor == 1.0:
        return base.crs
    left, bottom, right, top = total_bounds(base)
    place = pyproj.Transformer.from_crs(base.crs, "EPSG:4326", always_xy=True)
    longitude, latitude = place.transform((left + right) / 2, (bottom + top) / 2)
    axes = "+ellps=WGS84"
    if crs.ellipsoid is not None:
        axes = f"+a={crs.ellipsoid.semi_major_metre!r} +b={crs.ellipsoid.semi_minor_metre!r}"
    return f"+proj=laea +lat_0={latitude:.6f} +lon_0={longitude:.6f} {axes} +units=m +no_defs"
