"""GeoPackages that open styled: layers of vectors with the style that QGIS loads by itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import geopandas

from pipeline.errors import InputError
from pipeline.styles import QGIS_VERSION, printable, rgb

_STYLES = """CREATE TABLE IF NOT EXISTS layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT, f_table_catalog TEXT(256), f_table_schema TEXT(256),
    f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT,
    styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
    update_time DATETIME DEFAULT '2000-01-01T00:00:00.000Z')"""


@dataclass(frozen=True)
class StyledLayer:
    """A layer of polygons in a GeoPackage.

    Attributes:
        name: Its name.
        crs: Its coordinate reference system, an authority's code or WKT.
        style: The style (QML) that QGIS loads with it; empty where there is none.
        features: How many it has.
    """

    name: str
    crs: str
    style: str
    features: int


def styled_layers(path: Path) -> list[StyledLayer]:
    """Layers of a GeoPackage with their own styles, in the order of their names.

    Raises:
        InputError: If it is no GeoPackage.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
            rows = base.execute(
                "SELECT table_name, organization, organization_coordsys_id, definition "
                "FROM gpkg_contents JOIN gpkg_spatial_ref_sys USING (srs_id) "
                "WHERE data_type = 'features' ORDER BY table_name"
            ).fetchall()
            styles = _styles(base)
            found = []
            for name, authority, code, wkt in rows:
                table = name.replace('"', '""')
                (features,) = base.execute(f'SELECT count(*) FROM "{table}"').fetchone()
                crs = wkt if authority.upper() == "NONE" else f"{authority.upper()}:{code}"
                found.append(StyledLayer(name, crs, styles.get(name) or "", features))
            return found
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"{path}: is not a GeoPackage that can be read ({error}).",
            remedy="Remove it and let its rule make it again.",
        ) from error


def _styles(base: sqlite3.Connection) -> dict[str, str]:
    if not base.execute("SELECT 1 FROM sqlite_master WHERE name = 'layer_styles'").fetchone():
        return {}
    # Of several the latest stays.
    return dict(
        base.execute(
            "SELECT f_table_name, styleQML FROM layer_styles WHERE useAsDefault ORDER BY id"
        ).fetchall()
    )


def write_layer(
    frame: geopandas.GeoDataFrame, path: Path, layer: str, style: str | None = None
) -> None:
    """Write polygons as a layer of a GeoPackage; a file that is there gets another layer.

    Args:
        frame: Rows with polygons; a row may have none.
        path: The GeoPackage.
        layer: Name of the layer.
        style: QGIS style (QML) that QGIS loads with it.
    """
    frame.to_file(
        path,
        layer=layer,
        driver="GPKG",
        engine="pyogrio",
        geometry_name="geom",
        geometry_type="MultiPolygon",
        promote_to_multi=True,
        VERSION="1.2",  # QGIS 3.22 warns of newer ones
    )
    if style is not None:
        store_style(path, layer, style)


def store_style(path: Path, layer: str, style: str) -> None:
    """Put the style of a layer into its GeoPackage, from where QGIS loads it by itself.

    Args:
        path: The GeoPackage; the geometry of its layers is ``geom``.
        layer: Name of the layer.
        style: QGIS style (QML).
    """
    with closing(sqlite3.connect(path)) as base:
        base.execute(_STYLES)
        base.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, "
            "f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner) "
            # QGIS looks for an empty schema, not for none.
            "VALUES ('', '', ?, 'geom', ?, ?, '', 1, '', '')",
            (layer, layer, style),
        )
        known = base.execute(
            "SELECT 1 FROM gpkg_contents WHERE table_name = 'layer_styles'"
        ).fetchone()
        if not known:
            # Its date is always the same, as that of the styles: so are the bytes of the file.
            base.execute(
                "INSERT INTO gpkg_contents (table_name, data_type, identifier, last_change) "
                "VALUES ('layer_styles', 'attributes', 'layer_styles', '2000-01-01T00:00:00.000Z')"
            )
        base.commit()


def categories_qml(column: str, categories: Mapping[str, tuple[str, str]]) -> str:
    """QGIS style of polygons by the value of a column: see-through, outlined, named.

    Args:
        column: The column.
        categories: Value to name in the legend and ``#RRGGBB``.

    Returns:
        XML text for ``layer_styles.styleQML``.
    """
    style, renderer = _style("categorizedSymbol", column)
    listed = ET.SubElement(renderer, "categories")
    symbols = ET.SubElement(renderer, "symbols")
    for number, (value, (name, color)) in enumerate(categories.items()):
        ET.SubElement(
            listed, "category", value=value, label=printable(name), symbol=str(number),
            render="true",
        )  # fmt: skip
        _add_fill(symbols, number, color)
    return _qml(style)


def ranges_qml(column: str, ranges: Mapping[tuple[float, float], tuple[str, str]]) -> str:
    """QGIS style of polygons by ranges of a column's numbers: see-through, outlined, named.

    Args:
        column: The column.
        ranges: Lower and upper end to name in the legend and ``#RRGGBB``; what is an end of two
            ranges is drawn as the first of them.

    Returns:
        XML text for ``layer_styles.styleQML``.
    """
    style, renderer = _style("graduatedSymbol", column)
    renderer.set("graduatedMethod", "GraduatedColor")
    listed = ET.SubElement(renderer, "ranges")
    symbols = ET.SubElement(renderer, "symbols")
    for number, ((low, high), (name, color)) in enumerate(ranges.items()):
        ET.SubElement(
            listed, "range", lower=str(low), upper=str(high), label=printable(name),
            symbol=str(number), render="true",
        )  # fmt: skip
        _add_fill(symbols, number, color)
    return _qml(style)


def _style(kind: str, column: str) -> tuple[ET.Element, ET.Element]:
    style = ET.Element("qgis", version=QGIS_VERSION, styleCategories="Symbology")
    renderer = ET.SubElement(
        style, "renderer-v2", type=kind, attr=column, enableorderby="0",
        forceraster="0", symbollevels="0",
    )  # fmt: skip
    return style, renderer


def _add_fill(symbols: ET.Element, number: int, color: str) -> None:
    symbol = ET.SubElement(
        symbols, "symbol", name=str(number), type="fill", alpha="1", clip_to_extent="1",
        force_rhr="0",
    )  # fmt: skip
    fill = ET.SubElement(
        symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"}
    )
    told = ",".join(map(str, rgb(color)))
    for key, setting in (
        ("color", f"{told},90"),
        ("style", "solid"),
        ("outline_color", f"{told},255"),
        ("outline_style", "solid"),
        ("outline_width", "0.46"),
        ("outline_width_unit", "MM"),
    ):
        ET.SubElement(fill, "prop", k=key, v=setting)


def _qml(style: ET.Element) -> str:
    ET.indent(style)
    return "<!DOCTYPE qgis>\n" + ET.tostring(style, encoding="unicode") + "\n"
