"""SIOSE polygons with the share of each training class.

Shares come from the best source that a base has: its values table, which is unrounded, its labels,
its XML, or the one cover that each polygon has most of. Whatever they come from is kept, and said.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pyproj
import shapely
from numpy.typing import NDArray

from pipeline.codelists import Codelist, Cover
from pipeline.errors import SHOWN_ITEMS, InputError
from pipeline.nomenclature import Nomenclature, Resolver
from pipeline.proportions import OFF_PERCENT, Proportions, read_proportions
from pipeline.sections import SioseSettings
from pipeline.siose_base import SioseBase, open_base, polygon_count, total_bounds
from pipeline.siose_covers import Problem, ResolvedCovers, resolve_covers
from pipeline.siose_polygons import Attributes, Bounds, Shapes, reading
from pipeline.siose_problems import KINDS, write_problems
from pipeline.siose_values import ValuesIndex, index_values, opened

__all__ = [
    "OFF_PERCENT",
    "Bounds",
    "PolygonError",
    "Problem",
    "Proportions",
    "SioseBase",
    "class_proportions",
    "open_base",
    "polygon_count",
    "problem_frame",
    "read_proportions",
    "resolver_of",
    "write_problems",
    "write_proportions",
]

log = logging.getLogger(__name__)

_OPEN_IDS = 10**9


class PolygonError(InputError):
    """Polygons whose covers or percentages cannot be used.

    Attributes:
        problems: They, and what else is odd, as a frame for :func:`write_problems`.
    """

    def __init__(
        self, what: str, items: Iterable[str], remedy: str, problems: geopandas.GeoDataFrame
    ) -> None:
        super().__init__(what, items, remedy)
        self.problems = problems


def class_proportions(
    base: SioseBase,
    bounds: Bounds,
    box: Bounds,
    crs: str,
    nomenclature: Nomenclature,
    settings: SioseSettings,
    index: ValuesIndex | None = None,
    threads: int = 1,
) -> tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]:
    """Class proportions of the polygons that touch a sheet.

    Args:
        base: The SIOSE base.
        bounds: Footprint of the sheet in the base's CRS; read through the spatial index.
        box: Footprint in the sheet's CRS.
        crs: The sheet's CRS; the polygons are reprojected to it.
        nomenclature: The training classes.
        settings: What to do with unknown covers and odd percentages.
        index: The base's values, indexed; None makes an index for this one call.
        threads: Threads that decode, check and reproject geometry.

    Returns:
        One row a polygon in the order of the base (``polygon_id``, ``label``, one ``share_*`` a
        class, ``share_unmapped``, ``source`` of the shares, ``reason`` why it has none, geometry),
        and the polygons that need a person's eye (``kind``, ``text``), both in ``crs``.

    Raises:
        InputError: If no polygon touches the sheet.
        SettingsError: If the nomenclature does not fit the base's codelist.
        PolygonError: With every polygon whose covers or percentages cannot be used (see
            ``siose.unknown_covers``, ``siose.off_percentages``).
    """
    index = index or opened(index_values(base))
    with reading(base, bounds, crs, threads) as found:
        polygons = found.attributes
        resolver = resolver_of(base, nomenclature, polygons.label_texts)
        if resolver.unassigned:
            names = [cover.label or str(cover.id) for cover in resolver.unassigned]
            log.info(
                "%d covers of the codelist %s are in no class and not under `ignore`: %s",
                len(names), base.codelist.name, ", ".join(names[:10] + ["..."] * (len(names) > 10)),
            )  # fmt: skip
        resolved = resolve_covers(base, polygons, index, resolver)
        shares = resolved.shares(len(polygons), len(nomenclature))
        reasons = reasons_of(shares, polygons.labelled, base)
        shapes = found.shapes()
    kept = _touching(base, polygons, shapes, bounds, box)
    geometry = shapes.geometry[kept]
    columns = {"polygon_id": _plain(polygons.ids[kept]), "label": _plain(polygons.labels[kept])}
    for number, name in enumerate(nomenclature.names):
        columns[f"share_{name}"] = pd.Series(shares[kept, number])
    columns["share_unmapped"] = pd.Series(shares[kept, -2])
    columns["source"] = _plain(resolved.sources[kept])
    columns["reason"] = _plain(reasons[kept])
    frame = geopandas.GeoDataFrame(columns, geometry=geometry, crs=crs)
    frame.attrs["tolerance_m"] = base.tolerance_m
    if pyproj.CRS(base.crs) != pyproj.CRS(crs):
        log.info("polygons reprojected from %s to %s", base.crs, crs)
    problems = _problems(polygons, shapes, resolved, kept)
    shown = problem_frame(problems, polygons, shapes, crs)
    _judge(base, problems, settings, shown)
    return frame, shown


def resolver_of(base: SioseBase, nomenclature: Nomenclature, codes: Iterable[str]) -> Resolver:
    """Join a nomenclature with a base's codelist; of an open one, with the codes at hand.

    Raises:
        SettingsError: If they do not fit.
    """
    codelist = base.codelist
    if codelist.open:
        found = sorted(set(codes) - {""})
        # Numbers that are no code: a nomenclature may name codes by number.
        covers = (Cover(_OPEN_IDS + number, code) for number, code in enumerate(found))
        codelist = Codelist(codelist.name, tuple(covers), open=True)
    return nomenclature.resolver(codelist)


def problem_frame(
    problems: Iterable[Problem], polygons: Attributes, shapes: Shapes, crs: str
) -> geopandas.GeoDataFrame:
    """Problems with the polygons that have them: ``kind``, ``polygon_id``, ``text``, geometry."""
    listed = list(problems)
    rows = [problem.row for problem in listed]
    return geopandas.GeoDataFrame(
        {
            "kind": [problem.kind for problem in listed],
            "polygon_id": polygons.ids[rows] if rows else [],
            "text": [problem.text for problem in listed],
        },
        geometry=shapes.geometry[rows] if rows else [],
        crs=crs,
    )


def write_proportions(frame: geopandas.GeoDataFrame, draft: Path, nomenclature: str) -> None:
    """Write class proportions as GeoParquet; its metadata hold the nomenclature's fingerprint.

    Source: GeoParquet 1.0.0, https://geoparquet.org.
    """
    geometry = frame.geometry.to_numpy()
    columns = {name: pa.array(frame[name]) for name in frame.columns if name != "geometry"}
    columns["geometry"] = pa.array(shapely.to_wkb(geometry, flavor="iso"), pa.binary())
    kinds = np.unique(shapely.get_type_id(geometry))
    names = {shapely.GeometryType.POLYGON.value: "Polygon"}
    geo = {
        "version": "1.0.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                "crs": frame.crs.to_json_dict(),
                "geometry_types": [names.get(int(kind), "MultiPolygon") for kind in kinds],
                "bbox": frame.total_bounds.tolist(),
            }
        },
    }
    metadata = {
        "geo": json.dumps(geo),
        "tesela_nomenclature": nomenclature,
        "tesela_tolerance_m": repr(float(frame.attrs.get("tolerance_m", math.nan))),
    }
    table = pa.table(columns).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, draft, compression="zstd", row_group_size=65_536)


def _touching(
    base: SioseBase, polygons: Attributes, shapes: Shapes, bounds: Bounds, box: Bounds
) -> NDArray[np.bool_]:
    """Which polygons touch the sheet."""
    left, bottom, right, top = shapely.bounds(shapes.geometry).T
    near = (left >= box[0]) & (bottom >= box[1]) & (right <= box[2]) & (top <= box[3])
    # Most lie wholly on the sheet; only the others are looked at vertex by vertex.
    rim = np.flatnonzero(~near)
    near[rim] = shapely.intersects(shapes.geometry[rim], shapely.box(*box))
    if not near.any():
        held = total_bounds(base)
        raise InputError(
            f"No polygon of {base.path} touches the sheet.",
            [
                f"sheet:    {_numbers(bounds)} ({base.crs})",
                f"polygons: {_numbers(held)} ({base.crs})",
            ],
            _doubt(base, bounds, held),
        )
    lost = shapely.is_empty(shapes.geometry)
    if lost.any():
        log.warning(
            "%d polygons of %s have no area, and are left out: %s",
            lost.sum(), base.path, ", ".join(polygons.ids[lost][:5]),
        )  # fmt: skip
    return np.asarray(near)


def _doubt(base: SioseBase, bounds: Bounds, held: Bounds) -> str:
    """Why polygons may be elsewhere than a sheet."""
    degrees = max(abs(value) for value in held) <= 180
    left, bottom, right, top = held
    if shapely.box(*bounds).intersects(shapely.box(bottom, left, top, right)):
        return "The polygons have x and y the wrong way round: ogr2ogr -swapxy mends them."
    if degrees != pyproj.CRS(base.crs).is_geographic:
        unit, crs = ("degrees", "EPSG:4258") if degrees else ("metres", "EPSG:25830")
        return (
            f"The polygons are in {unit}, and {base.crs} is not: their layer names a CRS that is "
            f"not its own. ogr2ogr -a_srs {crs} (or what it is) mends it."
        )
    return "Check the province of the base and the CRS of both."


def _problems(
    polygons: Attributes, shapes: Shapes, resolved: ResolvedCovers, kept: NDArray[np.bool_]
) -> list[Problem]:
    """What is odd about the polygons that are kept, and about their covers."""
    problems = [
        Problem("repaired", f"{finding.text}; repaired", row)
        for row, finding in shapes.broken.items()
        if kept[row]
    ]
    ids = _plain(polygons.ids)
    repeated = np.flatnonzero(ids.duplicated(keep=False) & kept)
    repeated = repeated[polygons.ids[repeated] != ""]
    times = Counter(polygons.ids[repeated])
    problems += [
        Problem("duplicate", f"{times[polygons.ids[row]]} polygons have this ID_POLYGON", int(row))
        for row in repeated
        if times[polygons.ids[row]] > 1
    ]
    return problems + [problem for problem in resolved.problems if kept[problem.row]]


def _plain(texts: NDArray[np.object_]) -> pd.Series:
    """Texts as a column of Python's strings: pandas' own take a while to make."""
    return pd.Series(texts, dtype=object)


def reasons_of(
    shares: NDArray[np.float64], labelled: NDArray[np.bool_], base: SioseBase
) -> NDArray[np.object_]:
    """Why polygons have no class at all, or an empty string, shape ``(n,)``.

    Args:
        shares: Of :meth:`ResolvedCovers.shares`.
        labelled: Which polygons have a label.
        base: Their base.
    """
    named = base.columns.label is not None or base.columns.code is not None
    reasons = np.where(~labelled & named, "empty_label", "unmapped").astype(object)
    reasons[shares[:, -1] > 0] = "unknown"
    reasons[shares[:, :-2].sum(axis=1) > 0] = ""
    return reasons


def _judge(
    base: SioseBase,
    problems: Sequence[Problem],
    settings: SioseSettings,
    shown: geopandas.GeoDataFrame,
) -> None:
    """Raise or say what was found, all of one kind at once."""
    if not problems:
        return
    kinds: dict[str, list[str]] = {}
    rows: dict[str, set[int]] = {}
    digits = 5 if shown.crs.is_geographic else 0
    crs = shown.crs.to_string()
    points = shapely.point_on_surface(shown.geometry.to_numpy())
    for problem, polygon, x, y in zip(
        problems, shown["polygon_id"], shapely.get_x(points), shapely.get_y(points), strict=True
    ):
        kinds.setdefault(problem.kind, []).append(
            f"{polygon}  at {x:.{digits}f}, {y:.{digits}f} ({crs}): {problem.text}"
        )
        rows.setdefault(problem.kind, set()).add(problem.row)
    remedies = {
        "cover": "Add it to a class, to `ignore` or to `aliases` of the nomenclature, or leave it "
        "unmapped with `siose.unknown_covers: ignore`.",
        "percentage": "Mend the base, or use the percentages as they are with "
        "`siose.off_percentages: ignore`.",
        "label": "Mend the base, "
        + ("or use its table alone with `siose.source: table`, " if base.table else "")
        + "or leave such polygons out with `siose.off_percentages: ignore`.",
    }
    lenient = {
        "cover": settings.unknown_covers == "ignore",
        "percentage": settings.off_percentages == "ignore",
        "label": settings.off_percentages == "ignore",
    }
    fatal = [kind for kind in lenient if kind in kinds and not lenient[kind]]
    for kind, items in kinds.items():
        if kind not in fatal:
            log.warning("%d polygons %s: %s", len(rows[kind]), KINDS[kind].sentence, items[0])
    if fatal:
        first, *others = fatal
        items = _listed(kinds[first], len(fatal))
        for kind in others:
            items.append(f"{len(rows[kind])} polygons {KINDS[kind].sentence}:")
            items += _listed(kinds[kind], len(fatal))
        raise PolygonError(
            f"{len(rows[first])} polygons {KINDS[first].sentence}.",
            items,
            " ".join(remedies[kind] for kind in fatal),
            shown,
        )


def _listed(items: Sequence[str], kinds: int) -> list[str]:
    """So many items that each of some kinds is seen."""
    most = SHOWN_ITEMS // kinds - 2
    if kinds == 1 or len(items) <= most:
        return list(items)
    return [*items[:most], f"... and {len(items) - most} more of these"]


def _numbers(bounds: Iterable[float]) -> str:
    return ", ".join(f"{v:.0f}" if abs(v) >= 1e5 else f"{v:.6g}" for v in bounds)
