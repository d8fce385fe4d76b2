"""SIOSE bases to polygons with class proportions.

Reads the SIOSE AR GeoPackage: a layer of polygons (``*T_POLIGONOS``) and a table with one row a
cover of a polygon (``*T_VALORES``), joined by ``ID_POLYGON``. The table is unrounded and wins; the
label (``ROTULO``) serves polygons without rows in the table, and both are compared.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import geopandas
import numpy as np
import pyarrow
import pyarrow.parquet
import pyogrio
import shapely
from numpy.typing import NDArray

from pipeline.config import SioseSettings
from pipeline.errors import InputError
from pipeline.nomenclature import (
    UNKNOWN_COVER,
    Cover,
    Nomenclature,
    Resolver,
    siose_ar_codelist,
)

log = logging.getLogger(__name__)

Bounds = tuple[float, float, float, float]

OFF_PERCENT = 1.0
"""Percentages may miss 100 by this much: a label of three covers rounds to 99 or 101."""

LABEL_ROUNDING = 1.0
"""A label's percentages may differ from the table's by this much."""


class LabelPart(NamedTuple):
    """One cover of a label.

    Attributes:
        percent: Share of the polygon, 0 to 100.
        cover: Label of the cover, upper case.
        attributes: Its attributes, lower case, as written (``frpl``).
    """

    percent: float
    cover: str
    attributes: str


@dataclass(frozen=True)
class SioseBase:
    """An open SIOSE base.

    Attributes:
        path: The GeoPackage.
        polygons: Name of the polygons' layer.
        values: Name of the values table.
        codelist: Covers: the base's own list where it has one, else SIOSE AR's.
        crs: Coordinate reference system of the polygons, ``EPSG:4258`` or WKT.
        columns: Columns of layer and table by their upper-case name, as the base writes them.
    """

    path: Path
    polygons: str
    values: str
    codelist: tuple[Cover, ...]
    crs: str
    columns: dict[str, str] = field(default_factory=dict)


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


def open_base(path: Path) -> SioseBase:
    """Find the polygons, the values and the codelist of a SIOSE AR GeoPackage.

    Raises:
        InputError: If it is missing, is no GeoPackage, or lacks a table or a column.
    """
    if not path.exists():
        raise InputError(f"SIOSE base {path}: there is no such file.")
    try:
        layers = [str(name) for name, _ in pyogrio.list_layers(path)]
    except pyogrio.errors.DataSourceError as error:
        raise InputError(
            f"SIOSE base {path}: cannot be read as a GeoPackage.", [str(error)]
        ) from error
    named = {
        kind: [n for n in layers if n.upper().endswith(kind)]
        for kind in ("T_POLIGONOS", "T_VALORES")
    }
    wrong = []
    for kind, names in named.items():
        if not names:
            wrong.append(f"has no table *{kind}; it has {', '.join(layers) or 'none'}")
        elif len(names) > 1:
            wrong.append(f"has {len(names)} tables *{kind} ({', '.join(names)}); one is read")
    if wrong:
        raise InputError(
            f"SIOSE base {path}: is not a SIOSE AR GeoPackage.",
            wrong,
            "SIOSE AR is a GeoPackage with SAR_[pp]_T_POLIGONOS and SAR_[pp]_T_VALORES.",
        )
    polygons, values = named["T_POLIGONOS"][0], named["T_VALORES"][0]
    information = pyogrio.read_info(path, layer=polygons)
    if not information["crs"]:
        raise InputError(
            f"SIOSE base {path}: layer {polygons} has no coordinate reference system.",
            remedy="SIOSE AR is EPSG:4258; ogr2ogr -a_srs EPSG:4258 sets it.",
        )
    with _connected(path) as connection:
        columns = {str(name).upper(): str(name) for name in information["fields"]}
        columns |= {name.upper(): name for name in _columns(connection, values)}
        needed = {
            polygons: ("ID_POLYGON", "ROTULO"),
            values: ("ID_POLYGON", "SUPERF_POR_SINREDONDEO"),
        }
        there = {polygons: {str(n).upper() for n in information["fields"]}}
        there[values] = {name.upper() for name in _columns(connection, values)}
        missing = [
            f"{table}: column {name} is missing"
            for table, names in needed.items()
            for name in names
            if name not in there[table]
        ]
        if not there[values] & {"ID_COBERTURA", "CODE_ABREV"}:
            missing.append(f"{values}: neither ID_COBERTURA nor CODE_ABREV is there")
        if missing:
            raise InputError(f"SIOSE base {path}: lacks columns of SIOSE AR.", missing)
        codelist = _codelist(connection, layers) or siose_ar_codelist()
    return SioseBase(path, polygons, values, codelist, str(information["crs"]), columns)


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
    frame = _polygons(base, bounds, box, crs)
    ids = frame["polygon_id"].to_numpy()
    values = _values(base, ids)
    problems = list(frame.attrs.pop("repaired"))
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


def parse_label(label: str) -> list[LabelPart]:
    """Take a SIOSE AR label apart: ``CHE``, ``66PAV_34EDF``, ``70FDPpl_30CNFpl``.

    Raises:
        ValueError: Naming the position (from 1) and what was expected there.
    """
    parts: list[LabelPart] = []
    position = 0
    pattern = re.compile(r"(?P<percent>\d{1,3})?(?P<cover>[A-Z]{3})(?P<attributes>[a-z]*)")
    text = label.strip()
    alone = "_" not in text
    while True:
        match = pattern.match(text, position)
        if match is None:
            raise ValueError(
                f"label {label!r}, position {position + 1}: expected a percentage and a cover "
                "such as 66PAV"
            )
        if match["percent"] is None and not alone:
            raise ValueError(f"label {label!r}, position {position + 1}: expected a percentage")
        percent = 100.0 if match["percent"] is None else float(match["percent"])
        parts.append(LabelPart(percent, match["cover"], match["attributes"]))
        position = match.end()
        if position == len(text):
            return parts
        if text[position] != "_":
            raise ValueError(f"label {label!r}, position {position + 1}: expected '_'")
        position += 1


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
        InputError: If the file is missing or was made with another nomenclature.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file.", remedy="Run class_proportions first.")
    metadata = pyarrow.parquet.read_schema(path).metadata or {}
    made_with = metadata.get(b"tesela_nomenclature", b"").decode()
    if made_with != nomenclature.fingerprint:
        raise InputError(
            f"{path}: was made with another nomenclature ({made_with or 'none'}, "
            f"now {nomenclature.fingerprint}).",
            remedy="Run class_proportions again, or choose another `run` folder.",
        )
    frame = geopandas.read_parquet(path)
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


def _polygons(base: SioseBase, bounds: Bounds, box: Bounds, crs: str) -> geopandas.GeoDataFrame:
    columns = [base.columns["ID_POLYGON"], base.columns["ROTULO"]]
    try:
        frame = pyogrio.read_dataframe(
            base.path, layer=base.polygons, bbox=bounds, columns=columns, fid_as_index=True
        )
    except pyogrio.errors.DataSourceError as error:
        raise InputError(f"SIOSE base {base.path}: cannot be read.", [str(error)]) from error
    # By fid: GDAL returns spatially filtered features in the order of the R-tree's nodes.
    frame = frame.sort_index()
    frame = frame.rename(columns=dict(zip(columns, ("polygon_id", "label"), strict=True)))
    frame["label"] = frame["label"].fillna("").astype(str).str.strip()
    frame["polygon_id"] = frame["polygon_id"].fillna("").astype(str)
    there = ~(frame.geometry.isna() | frame.geometry.is_empty).to_numpy()
    if not there.all():
        log.warning("%d polygons of %s have no geometry; left out", (~there).sum(), base.path)
        frame = frame[there]
    invalid = ~shapely.is_valid(frame.geometry.to_numpy())
    repaired = _polygonal(shapely.make_valid(frame.geometry.to_numpy()[invalid]))
    geometry = frame.geometry.to_numpy().copy()
    geometry[invalid] = repaired
    frame = frame.set_geometry(geopandas.GeoSeries(geometry, index=frame.index, crs=frame.crs))
    if str(frame.crs) != crs:
        log.info("polygons reprojected from %s to %s", base.crs, crs)
        frame = frame.to_crs(crs)
    near = shapely.intersects(frame.geometry.to_numpy(), shapely.box(*box))
    found = frame[near].reset_index(drop=True)
    if found.empty:
        extent = pyogrio.read_info(base.path, layer=base.polygons, force_total_bounds=True)
        raise InputError(
            f"No polygon of {base.path} touches the sheet.",
            [
                f"sheet:    {_numbers(bounds)} ({base.crs})",
                f"polygons: {_numbers(extent['total_bounds'])} ({base.crs})",
            ],
            "Check the province of the base and the CRS of both.",
        )
    rows = np.flatnonzero(invalid[near])
    found.attrs["repaired"] = [
        Problem("repaired", "invalid geometry, repaired", found["polygon_id"].iloc[row], int(row))
        for row in rows
    ]
    if len(rows):
        listed = ", ".join(found["polygon_id"].iloc[rows[:5]])
        log.warning("%d polygons had invalid geometry and were repaired: %s", len(rows), listed)
    return found


def _polygonal(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """The polygons of repaired geometries: repairing leaves stray lines and points beside them."""
    result = np.empty(len(geometries), object)
    for i, geometry in enumerate(geometries):
        parts = [
            p for p in shapely.get_parts(geometry) if p.geom_type in ("Polygon", "MultiPolygon")
        ]
        result[i] = shapely.union_all(parts) if parts else shapely.Polygon()
    return result


_Row = tuple[int | None, str, float | None]
"""Cover id, cover label and per cent of a row of the values table."""


def _values(base: SioseBase, ids: NDArray[np.object_]) -> dict[str, list[_Row]]:
    column = base.columns
    has = {name.upper() for name in column}
    cover = f'v."{column["ID_COBERTURA"]}"' if "ID_COBERTURA" in has else "NULL"
    label = f'v."{column["CODE_ABREV"]}"' if "CODE_ABREV" in has else "NULL"
    query = (
        f'SELECT v."{column["ID_POLYGON"]}", {cover}, {label}, '
        f'v."{column["SUPERF_POR_SINREDONDEO"]}" FROM "{base.values}" AS v '
        f'WHERE v."{column["ID_POLYGON"]}" IN (SELECT id FROM temp.wanted) ORDER BY v.rowid'
    )
    found: dict[str, list[_Row]] = {}
    with _connected(base.path) as connection:
        connection.execute("CREATE TEMP TABLE wanted (id TEXT PRIMARY KEY)")
        connection.executemany(
            "INSERT OR IGNORE INTO temp.wanted VALUES (?)", [(str(i),) for i in ids]
        )
        for polygon, number, name, percent in connection.execute(query):
            found.setdefault(str(polygon), []).append(
                (None if number is None else int(number), str(name or "").strip().upper(), percent)
            )
    return found


def _shares(
    frame: geopandas.GeoDataFrame, values: dict[str, list[_Row]], resolver: Resolver
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
    label: str, rows: Sequence[_Row], resolver: Resolver
) -> tuple[list[tuple[int | None, float]], list[tuple[str, str]]]:
    """Covers and percentages of one polygon: from the table, or from its label."""
    odd: list[tuple[str, str]] = []
    parsed: list[LabelPart] = []
    if label:
        try:
            parsed = parse_label(label)
        except ValueError as error:
            odd.append(("label", str(error)))
    given: list[_Row] = list(rows)
    if not given:
        given = [(None, part.cover, part.percent) for part in parsed]
    covers: list[tuple[int | None, float]] = []
    for number, name, percent in given:
        if percent is None or not 0 <= percent <= 100 + OFF_PERCENT:
            odd.append(("percentage", f"{percent} % of {name or number} in {label!r}"))
            percent = 0.0
        cover = number if number is not None else resolver.id_of(name)
        if cover is None or not resolver.is_mapped(cover):
            odd.append(("cover", f"{name or number!r} in {label or 'no label'}"))
            cover = None
        covers.append((cover, percent))
    total = sum(percent for _, percent in covers)
    if covers and abs(total - 100) > OFF_PERCENT:
        odd.append(("percentage", f"{label or 'no label'} sums to {total:g} %"))
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
            odd.append(("disagreement", f"label {label} against table {shown}; the table is used"))
    return covers, odd


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
    for problem in problems:
        point = shapely.point_on_surface(frame.geometry.iloc[problem.row])
        where = f"{point.x:.0f}, {point.y:.0f}" if not point.is_empty else "no place"
        kinds.setdefault(problem.kind, []).append(
            f"{problem.polygon}  at {where} ({crs}): {problem.text}"
        )
    sentences = {
        "cover": "carry a cover that no class of the nomenclature gathers",
        "percentage": "have percentages that do not sum to 100",
        "label": "have a label that cannot be read",
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
    fatal = [kind for kind in sentences if kind in kinds and not lenient[kind]]
    for kind, items in kinds.items():
        if kind in sentences and kind not in fatal:
            log.warning("%d polygons %s: %s", len(items), sentences[kind], items[0])
        elif kind == "disagreement":
            log.warning("%d polygons: label and table disagree: %s", len(items), items[0])
    if fatal:
        first, *others = fatal
        items = list(kinds[first])
        for kind in others:
            items += [f"{len(kinds[kind])} polygons {sentences[kind]}:", *kinds[kind]]
        raise PolygonError(
            f"{len(kinds[first])} polygons {sentences[first]}.",
            items,
            " ".join(remedies[kind] for kind in fatal),
            shown,
        )


def _codelist(connection: sqlite3.Connection, layers: Sequence[str]) -> tuple[Cover, ...]:
    names = [name for name in layers if name.upper() == "LISTADO_COBERTURAS"]
    if not names:
        return ()
    columns = {name.upper(): name for name in _columns(connection, names[0])}
    label = columns.get("ETIQUETA") or columns.get("CODE_ABREV")
    number, text = columns.get("ID_COBERTURA"), columns.get("DESCRIPCION")
    if not label or not number:
        log.warning("%s lacks ID_COBERTURA or ETIQUETA; SIOSE AR's own codelist is used", names[0])
        return ()
    described = f'"{text}"' if text else "NULL"
    query = f'SELECT "{number}", "{label}", {described} FROM "{names[0]}"'
    return tuple(
        Cover(int(i), str(n).strip().upper(), str(d or ""))
        for i, n, d in connection.execute(query)
        if i is not None and n
    )


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [str(row[1]) for row in connection.execute(f'PRAGMA table_info("{table}")')]


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection, also on a read-only file system."""
    # immutable: SQLite would otherwise want to make -shm files beside a base in WAL mode.
    mode = "immutable=1" if not Path(f"{path}-wal").exists() else "mode=ro"
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True)
        try:
            yield connection
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise InputError(f"SIOSE base {path}: its tables cannot be read ({error}).") from error


def _numbers(bounds: Iterable[float]) -> str:
    return ", ".join(f"{v:.6g}" for v in bounds)
