"""SIOSE bases: which dialect a file speaks, where its polygons are and what resolves them.

A base is SIOSE AR (``*T_POLIGONOS`` and ``*T_VALORES``, or ``*T_COMBINADA``), classic SIOSE of 2005
to 2014, or any layer of polygons with one column of codes; in a GeoPackage, a Shapefile with its
tables beside it, a file geodatabase, or whatever else GDAL reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyogrio

from pipeline.codelists import BUILT_IN, Codelist, attribute_labels, built_in, completed
from pipeline.errors import InputError, SettingsError
from pipeline.sections import SioseSettings
from pipeline.siose_codelists import check_codelist, own_attributes, own_covers
from pipeline.siose_columns import (
    LABELS,
    PolygonColumns,
    ValueColumns,
    is_named,
    near,
    polygon_columns,
    values_table,
)
from pipeline.siose_files import READ_ERRORS, check_readable, remedy_of
from pipeline.siose_tables import Table, chosen, tables_of

SOURCES = ("table", "label", "xml", "maximum")
"""What shares come from, best first; ``code`` stands alone."""

TOLERANCE_M = {"siose_ar": 1.0, "siose_classic": 5.0, "corine": 100.0}
"""How far an outline may be from what it outlines, in metres on the ground.

Source: SIOSE 2005, "Documento técnico": 5 m at 1:25 000. SIOSE AR gives scales from 1:1 000 to
1:5 000 and no figure of its own: 0.2 mm on paper at 1:5 000. CORINE Land Cover's product
specification: better than 100 m.
"""

_AREAL = ("Polygon", "Surface", "Collection", "Unknown")


@dataclass(frozen=True)
class SioseBase:
    """An open SIOSE base.

    Attributes:
        path: The file.
        layer: Name of the polygons' layer.
        crs: Coordinate reference system of the polygons, ``EPSG:4258`` or WKT.
        columns: Columns of the layer.
        table: The values table, or None.
        table_columns: Its columns, or None.
        codelist: The covers: the base's own list, completed by the built-in one of its dialect.
        attributes: Labels of attributes by their id, of the base's own list and the built-in one.
        sources: What shares come from, best first.
        curved: Whether outlines may have arcs, which have to be made into lines.
        fast: Whether a rectangle is found without a look at every polygon.
    """

    path: Path
    layer: str
    crs: str
    columns: PolygonColumns
    table: Table | None
    table_columns: ValueColumns | None
    codelist: Codelist
    attributes: Mapping[int, str]
    sources: tuple[str, ...]
    curved: bool
    fast: bool

    @property
    def tolerance_m(self) -> float:
        """How far its outlines may be off, in metres; NaN where nothing is known of it."""
        return TOLERANCE_M.get(self.codelist.name, math.nan)

    @property
    def description(self) -> str:
        """The base in a line: dialect, layer, what shares come from."""
        dialects = {"siose_ar": "SIOSE AR", "siose_classic": "classic SIOSE"}
        table = f" ({self.table.name})" if self.table and "table" in self.sources else ""
        return (
            f"{dialects.get(self.codelist.name, f'codes ({self.codelist.name})')}, layer "
            f"{self.layer}, shares from {', then '.join(self.sources)}{table}"
        )


def open_base(path: Path, settings: SioseSettings | None = None) -> SioseBase:
    """Find the polygons of a base, what resolves them, and its codelist.

    Args:
        path: GeoPackage, Shapefile, file geodatabase or another file that GDAL reads.
        settings: What the run says of it: source, layer, column of codes, codelist.

    Raises:
        InputError: If it is missing, truncated, in a format that GDAL lacks, or has no layer,
            table or column that could resolve its polygons.
        SettingsError: If the settings name a layer or column that it does not have.
    """
    settings = settings or SioseSettings()
    check_readable(path)
    try:
        layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    except READ_ERRORS as error:
        raise InputError(
            f"SIOSE base {path}: cannot be read as a GeoPackage, Shapefile or other layer.",
            [str(error).split("; It might help")[0]],
            remedy_of(str(error)),
        ) from error
    tables = tables_of(path, layers)
    layer = _layer(path, layers, tables, settings)
    information = _information(path, layer)
    fields = {str(name).upper(): str(name) for name in information["fields"]}
    if not information["crs"]:
        raise InputError(
            f"SIOSE base {path}: layer {layer} has no coordinate reference system.",
            remedy=("Copy its .prj beside it. " if path.suffix.lower() == ".shp" else "")
            + "SIOSE AR is EPSG:4258, classic SIOSE an ETRS89 UTM zone (EPSG:25828 to 25831); "
            "ogr2ogr -a_srs EPSG:25830 with.gpkg without.gpkg sets it.",
        )
    if not any(name in str(information["geometry_type"]) for name in _AREAL):
        raise InputError(
            f"SIOSE base {path}: layer {layer} has no polygons but {information['geometry_type']}.",
            remedy="Name the layer of polygons with `siose.layer`.",
        )
    columns = polygon_columns(path, layer, fields, settings)
    values, value_columns = (None, None)
    if not settings.code_column:
        values, value_columns = values_table(path, layer, columns, tables, settings)
    sources = _sources(path, layer, columns, tables, settings)
    name = _dialect(columns, value_columns, settings)
    own = () if settings.code_column else own_covers(path, tables)
    known = name in BUILT_IN
    check_codelist(path, name, own, settings)
    codelist = completed(own, built_in(name)) if known else Codelist(name, own, open=not own)
    return SioseBase(
        path,
        layer,
        str(information["crs"]),
        columns,
        values,
        value_columns,
        codelist,
        attribute_labels() if settings.code_column else own_attributes(path, tables),
        sources,
        curved=information["geometry_type"]
        not in {f"{d}{g}{z}" for d in ("", "2.5D ") for g in ("Polygon", "MultiPolygon")
                for z in ("", " Z", " M", " ZM")},
        fast=bool(information["capabilities"]["fast_spatial_filter"]),
    )  # fmt: skip


def total_bounds(base: SioseBase) -> tuple[float, float, float, float]:
    """Extent of all polygons in the base's CRS: left, bottom, right, top.

    Raises:
        InputError: If there is none.
    """
    information = pyogrio.read_info(base.path, layer=base.layer, force_total_bounds=True)
    if information["total_bounds"] is None:
        raise InputError(
            f"SIOSE base {base.path}: layer {base.layer} has no polygons.",
            remedy="Copy or export it again, or name another with `siose.layer`.",
        )
    left, bottom, right, top = information["total_bounds"]
    return left, bottom, right, top


def polygon_count(base: SioseBase) -> int:
    """Number of the base's polygons."""
    information = pyogrio.read_info(base.path, layer=base.layer, force_feature_count=True)
    return int(information["features"])


def _layer(
    path: Path, layers: Sequence[str], tables: Iterable[Table], settings: SioseSettings
) -> str:
    """The layer of the polygons."""
    if settings.layer:
        named = [name for name in layers if name.upper() == settings.layer.upper()]
        if not named:
            raise SettingsError(
                f"siose.layer: {path} has no layer {settings.layer!r}"
                f"{near(settings.layer, layers)}",
                [f"layers: {', '.join(layers) or 'none'}"],
            )
        return named[0]
    found: list[str] = []
    if not settings.code_column:
        for ending in ("T_POLIGONOS", "T_COMBINADA"):
            found = found or [name for name in layers if name.upper().endswith(ending)]
            found = found or [name for name in layers if is_named(name, ending)]
    # Without SIOSE's names, a layer is known by its columns; SIOSE AR's T_USOS is use, not cover.
    found = found or [
        name
        for name in layers
        if not is_named(name, "T_USOS") and _resolvable(path, name, settings)
    ]
    if len(found) == 1:
        return found[0]
    tables_named = ", ".join(table.name for table in tables)
    there = f"layers: {', '.join(layers) or 'none'}"
    if found:
        raise InputError(
            f"SIOSE base {path}: has more than one layer of polygons: {', '.join(found)}.",
            remedy="Say which with `siose.layer`.",
        )
    if settings.code_column:
        raise SettingsError(
            f"siose.code_column: no layer of {path} has a column {settings.code_column!r}"
            f"{near(settings.code_column, [f for n in layers for f in _fields(path, n)])}",
            [there, *(f"{name}: {', '.join(_fields(path, name))}" for name in layers)],
        )
    lost = [
        table.name
        for table in tables
        if is_named(table.name, "T_POLIGONOS") or is_named(table.name, "T_COMBINADA")
    ]
    if lost:
        raise InputError(
            f"SIOSE base {path}: {', '.join(lost)} is a table without geometry.",
            [there, f"tables: {tables_named}"],
            "It was exported without its polygons, or gpkg_geometry_columns does not list it: "
            "export it again.",
        )
    raise InputError(
        f"SIOSE base {path}: has no layer that looks like SIOSE.",
        [there, f"tables: {tables_named or 'none'}",
         *(f"{name}: {', '.join(_fields(path, name)) or 'no columns'}" for name in layers)],
        "SIOSE has a layer *T_POLIGONOS or *T_COMBINADA, or one with a column ROTULO, SIOSE_CODE, "
        "SIOSE_XML or ID_COBERTURA_MAX. For another layer name its column of codes in "
        "`siose.code_column`.",
    )  # fmt: skip


def _resolvable(path: Path, layer: str, settings: SioseSettings) -> bool:
    fields = {name.upper(): name for name in _fields(path, layer)}
    if settings.code_column:
        return chosen(fields, [settings.code_column.upper()]) is not None
    return chosen(fields, ["ROTULO", "SIOSE_CODE", "SIOSE_XML", "ID_COBERTURA_MAX"]) is not None


def _fields(path: Path, layer: str) -> list[str]:
    return [str(name) for name in _information(path, layer)["fields"]]


def _information(path: Path, layer: str) -> dict[str, Any]:
    try:
        information: dict[str, Any] = pyogrio.read_info(path, layer=layer)
    except READ_ERRORS as error:
        raise InputError(
            f"SIOSE base {path}: layer {layer} cannot be read.",
            [str(error)],
            remedy_of(str(error)),
        ) from error
    return information


def _sources(
    path: Path,
    layer: str,
    columns: PolygonColumns,
    tables: Iterable[Table],
    settings: SioseSettings,
) -> tuple[str, ...]:
    """What shares come from, best first."""
    if columns.code:
        return ("code",)
    there = {
        "table": any(is_named(table.name, "T_VALORES") for table in tables),
        "label": columns.label is not None,
        "xml": columns.xml is not None,
        "maximum": columns.maximum is not None,
    }
    if settings.source == "auto":
        found = tuple(name for name in SOURCES if there[name])
    else:
        found = tuple(name for name in SOURCES if there[name] and name == settings.source)
    if found:
        return found
    needed = {
        "table": "a table *T_VALORES (in the base, or as DBF or CSV beside a Shapefile)",
        "label": "a column ROTULO or SIOSE_CODE",
        "xml": "a column SIOSE_XML",
        "maximum": "a column ID_COBERTURA_MAX",
    }
    if settings.source == "auto":
        raise InputError(
            f"SIOSE base {path}: layer {layer} has nothing that tells its covers.",
            [f"it has neither {', nor '.join(needed.values())}"],
            "For another layer name its column of codes in `siose.code_column`.",
        )
    others = [name for name in SOURCES if there[name]]
    raise SettingsError(
        f"siose.source: {settings.source} needs {needed[settings.source]}, and {path} has none.",
        [f"it has: {', '.join(others) or 'none of them'}"],
        "Choose one of these, or auto.",
    )


def _dialect(columns: PolygonColumns, values: ValueColumns | None, settings: SioseSettings) -> str:
    """Name of the codelist that the base's ids and labels are of."""
    if settings.codelist != "auto":
        return settings.codelist
    if columns.code:
        return "codes"
    if values is not None and values.row is not None:
        return "siose_classic"
    if values is not None and values.cover is not None:
        # In full where it is not cut to ten characters: one letter tells the two apart.
        upper = values.cover.upper()
        if upper in ("ID_COBERTURA", "ID_COBERTURAS"):
            return "siose_ar" if upper == "ID_COBERTURA" else "siose_classic"
    if columns.label:
        return LABELS[columns.label.upper()]
    return "siose_classic" if columns.xml else "siose_ar"
