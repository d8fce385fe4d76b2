"""SIOSE bases as GeoPackages: finding and reading the polygons, the values and the codelist.

A layer of polygons (``*T_POLIGONOS``) and a table with one row a cover of a polygon
(``*T_VALORES``) are joined by ``ID_POLYGON``; ``LISTADO_COBERTURAS`` is the codelist.
"""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.nomenclature import Cover, siose_ar_codelist

log = logging.getLogger(__name__)

Bounds = tuple[float, float, float, float]

_POLYGONS = (shapely.GeometryType.POLYGON.value, shapely.GeometryType.MULTIPOLYGON.value)


@dataclass(frozen=True)
class SioseBase:
    """An open SIOSE base.

    Attributes:
        path: The GeoPackage.
        polygons: Name of the polygons' layer.
        values: Name of the values table.
        codelist: Covers: the base's own list where it has one, completed by SIOSE AR's.
        crs: Coordinate reference system of the polygons, ``EPSG:4258`` or WKT.
        polygon_columns: Columns of the layer by their upper-case name, as the base writes them.
        value_columns: Columns of the values table, likewise.
    """

    path: Path
    polygons: str
    values: str
    codelist: tuple[Cover, ...]
    crs: str
    polygon_columns: Mapping[str, str]
    value_columns: Mapping[str, str]


@dataclass(frozen=True)
class BasePolygons:
    """Polygons of a base in the order of their fid, so that nothing depends on its index.

    Attributes:
        ids: ``ID_POLYGON``, shape ``(n,)``.
        labels: ``ROTULO`` without spaces around it, empty where there is none, shape ``(n,)``.
        geometry: Polygons in the base's CRS, valid, shape ``(n,)``.
        repaired: Which of them were not valid, bool, shape ``(n,)``.
    """

    ids: NDArray[np.object_]
    labels: NDArray[np.object_]
    geometry: NDArray[np.object_]
    repaired: NDArray[np.bool_]


class ValueRow(NamedTuple):
    """A row of the values table.

    Attributes:
        cover: ``ID_COBERTURA``, or None.
        label: ``CODE_ABREV`` as written (``70SNE``, ``SNE``), may be empty.
        percent: ``SUPERF_POR_SINREDONDEO``, or None where it is no number.
    """

    cover: int | None
    label: str
    percent: float | None


def open_base(path: Path) -> SioseBase:
    """Find the polygons, the values and the codelist of a SIOSE AR GeoPackage.

    Raises:
        InputError: If it is missing, truncated or no GeoPackage, or lacks a table or a column.
    """
    if not path.exists():
        raise InputError(f"SIOSE base {path}: there is no such file.")
    _check_whole(path)
    try:
        layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    except pyogrio.errors.DataSourceError as error:
        raise InputError(
            f"SIOSE base {path}: cannot be read as a GeoPackage.", [str(error)]
        ) from error
    with _connected(path) as connection:
        # SQLite's own list: GDAL leaves out tables that are not registered in gpkg_contents.
        tables = [
            str(name)
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY rowid"
            )
        ]
        wrong: list[str] = []
        polygons = _the_one(layers, "layer *T_POLIGONOS", wrong)
        values = _the_one(tables, "table *T_VALORES", wrong)
        if wrong:
            raise InputError(
                f"SIOSE base {path}: is not a SIOSE AR GeoPackage.",
                wrong,
                "SIOSE AR is a GeoPackage with SAR_[pp]_T_POLIGONOS and SAR_[pp]_T_VALORES.",
            )
        try:
            information = pyogrio.read_info(path, layer=polygons)
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
            raise InputError(f"SIOSE base {path}: cannot be read.", [str(error)]) from error
        if not information["crs"]:
            raise InputError(
                f"SIOSE base {path}: layer {polygons} has no coordinate reference system.",
                remedy="SIOSE AR is EPSG:4258; ogr2ogr -a_srs EPSG:4258 sets it.",
            )
        polygon_columns = {str(name).upper(): str(name) for name in information["fields"]}
        value_columns = _columns(connection, values)
        missing = [
            f"{table}: column {name} is missing"
            for table, columns, needed in (
                (polygons, polygon_columns, ("ID_POLYGON", "ROTULO")),
                (values, value_columns, ("ID_POLYGON", "SUPERF_POR_SINREDONDEO")),
            )
            for name in needed
            if name not in columns
        ]
        if not {"ID_COBERTURA", "CODE_ABREV"} & set(value_columns):
            missing.append(f"{values}: neither ID_COBERTURA nor CODE_ABREV is there")
        if missing:
            raise InputError(f"SIOSE base {path}: lacks columns of SIOSE AR.", missing)
        codelist = _completed(_codelist(connection, path, tables))
    return SioseBase(
        path, polygons, values, codelist, str(information["crs"]), polygon_columns, value_columns
    )


def read_polygons(base: SioseBase, bounds: Bounds) -> BasePolygons:
    """Read the polygons whose box touches a rectangle, through the base's spatial index.

    Args:
        base: The SIOSE base.
        bounds: Left, bottom, right, top in the base's CRS.

    Raises:
        InputError: If the base cannot be read.
    """
    names = [base.polygon_columns["ID_POLYGON"], base.polygon_columns["ROTULO"]]
    try:
        meta, fids, geometry, fields = pyogrio.raw.read(
            base.path, layer=base.polygons, bbox=bounds, columns=names, return_fids=True
        )
    except (
        pyogrio.errors.DataSourceError,
        pyogrio.errors.DataLayerError,
        pyogrio.errors.FeatureError,
    ) as error:
        raise InputError(f"SIOSE base {base.path}: cannot be read.", [str(error)]) from error
    # By fid: GDAL returns spatially filtered features in the order of the R-tree's nodes.
    order = np.argsort(fids, kind="stable")
    columns = dict(zip(meta["fields"], fields, strict=True))
    ids = _texts(columns[names[0]][order])
    labels = _texts(columns[names[1]][order])
    shapes = np.asarray(shapely.from_wkb(geometry[order]), object)
    there = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    areal = np.isin(shapely.get_type_id(shapes), _POLYGONS)
    invalid = there & ~(shapely.is_valid(shapes) & areal)
    shapes[invalid] = _polygonal(shapely.make_valid(shapes[invalid]))
    lost = ~there | shapely.is_empty(shapes)
    if lost.any():
        log.warning(
            "%d polygons of %s have no area, and are left out: %s",
            lost.sum(), base.path, ", ".join(ids[lost][:5]),
        )  # fmt: skip
    return BasePolygons(ids[~lost], labels[~lost], shapes[~lost], invalid[~lost])


def read_values(base: SioseBase, ids: Iterable[str]) -> dict[str, list[ValueRow]]:
    """Read the rows of the values table of some polygons, in the table's order.

    Returns:
        Rows by ``ID_POLYGON``; polygons without rows are not there.

    Raises:
        InputError: If the table cannot be read.
    """
    column = base.value_columns
    cover = f'v."{column["ID_COBERTURA"]}"' if "ID_COBERTURA" in column else "NULL"
    label = f'v."{column["CODE_ABREV"]}"' if "CODE_ABREV" in column else "NULL"
    query = (
        f'SELECT v."{column["ID_POLYGON"]}", {cover}, {label}, '
        f'v."{column["SUPERF_POR_SINREDONDEO"]}" FROM "{base.values}" AS v '
        f'WHERE v."{column["ID_POLYGON"]}" IN (SELECT id FROM temp.wanted) ORDER BY v.rowid'
    )
    found: dict[str, list[ValueRow]] = {}
    with _connected(base.path) as connection:
        connection.execute("CREATE TEMP TABLE wanted (id TEXT PRIMARY KEY)")
        connection.executemany(
            "INSERT OR IGNORE INTO temp.wanted VALUES (?)", [(str(i),) for i in ids if i]
        )
        for polygon, number, name, percent in connection.execute(query):
            whole = _number(number)
            found.setdefault(str(polygon), []).append(
                ValueRow(
                    None if whole is None else int(whole),
                    str(name or "").strip(),
                    _number(percent),
                )
            )
    return found


def total_bounds(base: SioseBase) -> Bounds:
    """Extent of all polygons in the base's CRS: left, bottom, right, top."""
    information = pyogrio.read_info(base.path, layer=base.polygons, force_total_bounds=True)
    left, bottom, right, top = information["total_bounds"]
    return left, bottom, right, top


def _the_one(names: Sequence[str], wanted: str, wrong: list[str]) -> str:
    """The one name with the wanted ending; what is wrong is added to ``wrong``."""
    found = [name for name in names if name.upper().endswith(wanted.split("*")[1])]
    if len(found) == 1:
        return found[0]
    if found:
        wrong.append(f"has more than one {wanted}: {', '.join(found)}")
    else:
        listed = [name for name in names if not name.startswith(("gpkg_", "rtree_", "sqlite_"))]
        wrong.append(f"has no {wanted}; it has {', '.join(listed) or 'none'}")
    return ""


def _check_whole(path: Path) -> None:
    """Refuse a file that ends before its last page: GDAL would leave polygons out and say nothing.

    Source: https://www.sqlite.org/fileformat2.html, "In-header database size".
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(b"SQLite format 3\x00"):
        return  # not SQLite: the drivers say so
    page = int.from_bytes(header[16:18], "big")
    page = 65_536 if page == 1 else page
    pages = int.from_bytes(header[28:32], "big")
    # The number of pages counts only where the last writer kept it.
    counted = pages and header[24:28] == header[92:96]
    if counted and path.stat().st_size < pages * page:
        raise InputError(
            f"SIOSE base {path}: is truncated.",
            [f"it has {path.stat().st_size} bytes of {pages * page}"],
            "Copy or download it again.",
        )


def _polygonal(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """The polygons of repaired geometries: repairing leaves stray lines and points beside them."""
    result = np.empty(len(geometries), object)
    for i, geometry in enumerate(geometries):
        parts = [p for p in shapely.get_parts(geometry) if shapely.get_type_id(p) in _POLYGONS]
        result[i] = shapely.union_all(parts) if parts else shapely.Polygon()
    return result


def _texts(values: NDArray[Any]) -> NDArray[np.object_]:
    texts = np.empty(len(values), object)
    texts[:] = ["" if v is None or v != v else str(v).strip() for v in values.tolist()]
    return texts


def _number(value: object) -> float | None:
    """A number as SQLite gives it: columns have types in name only, and Spain a decimal comma."""
    if isinstance(value, str):
        value = value.strip().replace(",", ".")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _completed(own: tuple[Cover, ...]) -> tuple[Cover, ...]:
    """A base's codelist, and of SIOSE AR's what does not contradict it.

    A base may list only the covers that occur in it; a class may name others all the same.
    """
    ids, labels = {cover.id for cover in own}, {cover.label for cover in own}
    return own + tuple(
        cover
        for cover in siose_ar_codelist()
        if cover.id not in ids and cover.label.upper() not in labels
    )


def _codelist(
    connection: sqlite3.Connection, path: Path, tables: Sequence[str]
) -> tuple[Cover, ...]:
    names = [name for name in tables if name.upper() == "LISTADO_COBERTURAS"]
    if not names:
        return ()
    columns = _columns(connection, names[0])
    label = columns.get("ETIQUETA") or columns.get("CODE_ABREV")
    number, text = columns.get("ID_COBERTURA"), columns.get("DESCRIPCION")
    if not label or not number:
        log.warning("%s lacks ID_COBERTURA or ETIQUETA; SIOSE AR's own codelist is used", names[0])
        return ()
    described = f'"{text}"' if text else "NULL"
    covers, wrong = [], []
    for i, n, d in connection.execute(
        f'SELECT "{number}", "{label}", {described} FROM "{names[0]}"'
    ):
        if i is None or not n:
            continue
        whole = _number(i)
        if whole is None:
            wrong.append(f"{names[0]}: ID_COBERTURA {i!r} of {n} is not a number")
        else:
            covers.append(Cover(int(whole), str(n).strip().upper(), str(d or "")))
    if wrong:
        raise InputError(f"SIOSE base {path}: its codelist cannot be read.", wrong)
    return tuple(covers)


def _columns(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    rows = connection.execute(f'PRAGMA table_info("{table}")')
    return {str(row[1]).upper(): str(row[1]) for row in rows}


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection, also on a read-only file system."""
    # immutable: SQLite would otherwise want to make -shm files beside a base in WAL mode.
    mode = "mode=ro" if Path(f"{path}-wal").exists() else "immutable=1"
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True)
        try:
            yield connection
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise InputError(f"SIOSE base {path}: its tables cannot be read ({error}).") from error
