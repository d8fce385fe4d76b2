"""SIOSE polygons with the share of each training class.

The values table of a base is unrounded and wins; the label (``ROTULO``) serves polygons without
rows in the table, and both are compared.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pyarrow
import pyarrow.parquet
import pyproj
import shapely
from numpy.typing import NDArray

from pipeline.config import SioseSettings
from pipeline.errors import InputError
from pipeline.nomenclature import UNKNOWN_COVER, Nomenclature, Resolver
from pipeline.rotulo import LabelPart, parse_label
from pipeline.siose_base import (
    Bounds,
    SioseBase,
    ValueRow,
    open_base,
    read_polygons,
    read_values,
    total_bounds,
)

__all__ = [
    "Bounds",
    "LabelPart",
    "PolygonError",
    "Problem",
    "Proportions",
    "SioseBase",
    "class_proportions",
    "open_base",
    "parse_label",
    "read_proportions",
    "write_problems",
    "write_proportions",
]

log = logging.getLogger(__name__)

OFF_PERCENT = 1.0
"""Percentages may miss 100 by this much: a label of three covers rounds to 99 or 101."""

LABEL_ROUNDING = 1.0
"""A label's percentages may differ from the table's by this much."""


@dataclass(frozen=True)
class Problem:
    """A polygon that needs a person's eye.

    Attributes:
        kind: What is wrong, as one word.
        text: What is wrong, with labels and numbers.
        polygon: ``ID_POLYGON``.
        row: Row of the polygon in the frame it was found in.
    """

    kind: str
    text: str
    polygon: str
    row: int


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


@dataclass(frozen=True)
class Proportions:
    """Class proportions of a sheet's polygons, as read back.

    Attributes:
        geometry: Polygons in the sheet's CRS, shape ``(n,)``.
        ids: ``ID_POLYGON``, shape ``(n,)``.
        shares: Share of each training class, 0 to 1, shape ``(n, classes)``.
        unmapped: Share that belongs to no class, shape ``(n,)``.
        reasons: Why a polygon is not interpreted, or an empty string, shape ``(n,)``.
        nomenclature: Fingerprint of the nomenclature.
    """

    geometry: NDArray[np.object_]
    ids: NDArray[np.object_]
    shares: NDArray[np.float64]
    unmapped: NDArray[np.float64]
    reasons: NDArray[np.object_]
    nomenclature: str


def class_proportions(
    base: SioseBase,
    bounds: Bounds,
    box: Bounds,
    crs: str,
    nomenclature: Nomenclature,
    settings: SioseSettings,
) -> tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]:
    """Class proportions of the polygons that touch a sheet.

    Args:
        base: The SIOSE base.
        bounds: Footprint of the sheet in the base's CRS; read through the spatial index.
        box: Footprint in the sheet's CRS.
        crs: The sheet's CRS; the polygons are reprojected to it.
        nomenclature: The training classes.
        settings: What to do with unknown covers and odd percentages.

    Returns:
        One row a polygon in the order of the base (``polygon_id``, ``label``, one ``share_*`` a
        class, ``share_unmapped``, ``reason``, geometry), and the polygons that need a person's
        eye (``kind``, ``text``), both in ``crs``.

    Raises:
        InputError: If no polygon touches the sheet.
        PolygonError: With every polygon whose covers or percentages cannot be used (see
            ``siose.unknown_covers``, ``siose.off_percentages``).
    """
    resolver = nomenclature.resolver(base.codelist)
    frame, problems = _polygons(base, bounds, box, crs)
    values = read_values(base, frame["polygon_id"])
    shares, unmapped, unknown, found = _shares(frame, values, resolver)
    problems += found
    result = frame[["polygon_id", "label"]].copy()
    for number, name in enumerate(nomenclature.names):
        result[f"share_{name}"] = shares[:, number]
    result["share_unmapped"] = unmapped
    result["reason"] = _reasons(shares, unknown, frame["label"].to_numpy())
    result = geopandas.GeoDataFrame(result, geometry=frame.geometry.to_numpy(), crs=crs)
    shown = geopandas.GeoDataFrame(
        {
            "kind": [p.kind for p in problems],
            "polygon_id": [p.polygon for p in problems],
            "text": [p.text for p in problems],
        },
        geometry=frame.geometry.to_numpy()[[p.row for p in problems]] if problems else [],
        crs=crs,
    )
    _judge(problems, frame, crs, settings, shown)
    return result, shown


def write_proportions(frame: geopandas.GeoDataFrame, draft: Path, nomenclature: str) -> None:
    """Write class proportions as GeoParquet; its metadata hold the nomenclature's fingerprint."""
    # GeoParquet's metadata is made by geopandas alone: let it, and add the fingerprint.
    frame.to_parquet(draft, compression="zstd")
    table = pyarrow.parquet.read_table(draft)
    metadata = {**(table.schema.metadata or {}), b"tesela_nomenclature": nomenclature.encode()}
    pyarrow.parquet.write_table(
        table.replace_schema_metadata(metadata), draft, compression="zstd", row_group_size=65_536
    )


def read_proportions(path: Path, nomenclature: Nomenclature) -> Proportions:
    """Read class proportions back.

    Raises:
        InputError: If the file is missing, damaged, or was made with another nomenclature.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file.", remedy="Run class_proportions first.")
    try:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
        frame = geopandas.read_parquet(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}).", remedy="Run class_proportions again."
        ) from error
    made_with = metadata.get(b"tesela_nomenclature", b"").decode()
    if made_with != nomenclature.fingerprint:
        raise InputError(
            f"{path}: was made with another nomenclature ({made_with or 'none'}, "
            f"now {nomenclature.fingerprint}).",
            remedy="Run class_proportions again, or choose another `run` folder.",
        )
    shares = frame[[f"share_{name}" for name in nomenclature.names]].to_numpy(np.float64)
    return Proportions(
        frame.geometry.to_numpy(),
        frame["polygon_id"].to_numpy(),
        shares,
        frame["share_unmapped"].to_numpy(np.float64),
        frame["reason"].to_numpy(),
        made_with,
    )


def write_problems(frame: geopandas.GeoDataFrame, draft: Path) -> None:
    """Write the polygons that need a person's eye as a GeoPackage that opens in QGIS."""
    frame.to_file(draft, layer="problems", driver="GPKG", engine="pyogrio")


def _polygons(
    base: SioseBase, bounds: Bounds, box: Bounds, crs: str
) -> tuple[geopandas.GeoDataFrame, list[Problem]]:
    """Polygons that touch the sheet, in its CRS, and what is odd about them."""
    read = read_polygons(base, bounds)
    geometry = geopandas.GeoSeries(read.geometry, crs=base.crs)
    if pyproj.CRS(base.crs) != pyproj.CRS(crs):
        log.info("polygons reprojected from %s to %s", base.crs, crs)
        geometry = geometry.to_crs(crs)
    near = shapely.intersects(geometry.to_numpy(), shapely.box(*box))
    if not near.any():
        raise InputError(
            f"No polygon of {base.path} touches the sheet.",
            [
                f"sheet:    {_numbers(bounds)} ({base.crs})",
                f"polygons: {_numbers(total_bounds(base))} ({base.crs})",
            ],
            "Check the province of the base and the CRS of both.",
        )
    frame = geopandas.GeoDataFrame(
        {"polygon_id": read.ids[near], "label": read.labels[near]},
        geometry=geometry.to_numpy()[near],
        crs=crs,
    )
    problems = [
        Problem("repaired", "invalid geometry, repaired", frame["polygon_id"].iloc[row], int(row))
        for row in np.flatnonzero(read.repaired[near])
    ]
    times = Counter(frame["polygon_id"])
    problems += [
        Problem("duplicate", f"{times[polygon]} polygons have this ID_POLYGON", polygon, row)
        for row, polygon in enumerate(frame["polygon_id"])
        if polygon and times[polygon] > 1
    ]
    return frame, problems


def _shares(
    frame: geopandas.GeoDataFrame, values: Mapping[str, Sequence[ValueRow]], resolver: Resolver
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], list[Problem]]:
    """Shares of the classes, of no class, and of SIOSE's unknown; and what is odd."""
    count = len(frame)
    shares = np.zeros((count, len(resolver.nomenclature)))
    unmapped, unknown = np.zeros(count), np.zeros(count)
    problems: list[Problem] = []
    for row, (polygon, label) in enumerate(zip(frame["polygon_id"], frame["label"], strict=True)):
        covers, odd = _covers(label, values.get(polygon, []), resolver)
        problems += [Problem(kind, text, polygon, row) for kind, text in odd]
        for cover, percent in covers:
            number = None if cover is None else resolver.class_of(cover)
            if number is None:
                unmapped[row] += percent / 100
                if cover == UNKNOWN_COVER:
                    unknown[row] += percent / 100
            else:
                shares[row, number] += percent / 100
    return shares, unmapped, unknown, problems


def _covers(
    label: str, rows: Sequence[ValueRow], resolver: Resolver
) -> tuple[list[tuple[int | None, float]], list[tuple[str, str]]]:
    """Covers and percentages of one polygon: from the table, or from its label."""
    odd: list[tuple[str, str]] = []
    parsed: list[LabelPart] = []
    if not label:
        # SIOSE's sign of a polygon that nobody interpreted, whatever is left of it in the table.
        return [], [("unlabelled", f"{len(rows)} rows in the table")] if rows else []
    try:
        parsed = parse_label(label)
    except ValueError as error:
        odd.append(("label", str(error)))
    given: list[ValueRow] = list(rows)
    if not given:
        given = [ValueRow(None, part.cover, part.percent) for part in parsed]
    covers: list[tuple[int | None, float]] = []
    for number, name, percent in given:
        if percent is None or not 0 <= percent <= 100 + OFF_PERCENT:
            odd.append(("percentage", f"{percent} % of {name or number} in {label!r}"))
            percent = 0.0
        cover = number if number is not None else resolver.id_of(_cover_label(name))
        if cover is None or not resolver.is_mapped(cover):
            odd.append(("cover", f"{name or number!r} in {label}"))
            cover = None
        covers.append((cover, percent))
    total = sum(percent for _, percent in covers)
    if covers and abs(total - 100) > OFF_PERCENT:
        odd.append(("percentage", f"{label} sums to {total:g} %"))
    if rows and parsed and not odd:
        table: dict[int | None, float] = {}
        for cover, percent in covers:
            table[cover] = table.get(cover, 0.0) + percent
        said: dict[int | None, float] = {}
        for part in parsed:
            key = resolver.id_of(part.cover)
            said[key] = said.get(key, 0.0) + part.percent
        if any(abs(table.get(k, 0.0) - said.get(k, 0.0)) > LABEL_ROUNDING for k in {*table, *said}):
            shown = "_".join(f"{percent:g}:{cover}" for cover, percent in covers)
            odd.append(("disagreement", f"label {label} against table {shown}"))
    return covers, odd


def _cover_label(abbreviation: str) -> str:
    """Label of a cover without the percentage and attributes that ``CODE_ABREV`` may carry."""
    try:
        return parse_label(abbreviation)[0].cover
    except ValueError:
        return abbreviation  # of a base that writes covers in its own way: see `aliases`


def _reasons(
    shares: NDArray[np.float64],
    unknown: NDArray[np.float64],
    labels: NDArray[np.object_],
) -> list[str]:
    """Why a polygon has no class at all, or an empty string."""
    reasons = []
    for row, label in enumerate(labels):
        if shares[row].sum() > 0:
            reasons.append("")
        elif unknown[row] > 0:
            reasons.append("unknown")
        else:
            reasons.append("unmapped" if label else "empty_label")
    return reasons


def _judge(
    problems: Iterable[Problem],
    frame: geopandas.GeoDataFrame,
    crs: str,
    settings: SioseSettings,
    shown: geopandas.GeoDataFrame,
) -> None:
    """Raise or say what was found, all of one kind at once."""
    kinds: dict[str, list[str]] = {}
    rows: dict[str, set[int]] = {}
    digits = 5 if frame.crs.is_geographic else 0
    for problem in problems:
        point = shapely.point_on_surface(frame.geometry.iloc[problem.row])
        kinds.setdefault(problem.kind, []).append(
            f"{problem.polygon}  at {point.x:.{digits}f}, {point.y:.{digits}f} ({crs}): "
            f"{problem.text}"
        )
        rows.setdefault(problem.kind, set()).add(problem.row)
    sentences = {
        "cover": "carry a cover that no class of the nomenclature gathers",
        "percentage": "have percentages that are none, or do not sum to 100",
        "label": "have a label that cannot be read",
        "disagreement": "have a label that disagrees with the table, which is used",
        "unlabelled": "have an empty label and are not used, though the table has rows of them",
        "repaired": "had invalid geometry and were repaired",
        "duplicate": "share their ID_POLYGON, and with it their rows of the table",
    }
    remedies = {
        "cover": "Add it to a class, to `ignore` or to `aliases` of the nomenclature, or leave it "
        "unmapped with `siose.unknown_covers: ignore`.",
        "percentage": "Mend the base, or use the percentages as they are with "
        "`siose.off_percentages: ignore`.",
        "label": "Mend the base, or use the table alone with `siose.off_percentages: ignore`.",
    }
    lenient = {
        "cover": settings.unknown_covers == "ignore",
        "percentage": settings.off_percentages == "ignore",
        "label": settings.off_percentages == "ignore",
    }
    fatal = [kind for kind in lenient if kind in kinds and not lenient[kind]]
    for kind, items in kinds.items():
        if kind not in fatal:
            log.warning("%d polygons %s: %s", len(rows[kind]), sentences[kind], items[0])
    if fatal:
        first, *others = fatal
        items = list(kinds[first])
        for kind in others:
            items += [f"{len(rows[kind])} polygons {sentences[kind]}:", *kinds[kind]]
        raise PolygonError(
            f"{len(rows[first])} polygons {sentences[first]}.",
            items,
            " ".join(remedies[kind] for kind in fatal),
            shown,
        )


def _numbers(bounds: Iterable[float]) -> str:
    return ", ".join(f"{v:.6g}" for v in bounds)
