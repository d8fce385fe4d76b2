"""Broken bases, one of each kind: what is wrong, where, and what to do is in the message."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import pandas as pd
import pyogrio
import pytest
import shapely

from pipeline import geotiff, siose
from pipeline.errors import InputError, SettingsError, TeselaError
from pipeline.grid import PixelGrid
from pipeline.nomenclature import Nomenclature
from pipeline.sections import SioseSettings
from tests import siose_dialects as dialects
from tests.siose_dialects import (
    CLASSES,
    PLOTS,
    UTM,
    WITH_FREE,
    X,
    Y,
    classic_values,
    polygons,
    square,
    write_dbf,
    write_shapefile,
    write_tables,
    xml_texts,
)
from tests.siose_fixtures import Parcel, write_base

GRID = PixelGrid(UTM, X, Y, 0.5, 0.5, 400, 40)
AR = "EPSG:4258"

# The middle of the second polygon: (X + 15, Y - 5).
TWO = "two  at 700015, 4399995 (EPSG:25830): "
NESTED = "nested  at 700025, 4399995 (EPSG:25830): "


class Opened(NamedTuple):
    """A broken base, and how it is opened."""

    path: Path
    settings: SioseSettings = SioseSettings()
    nomenclature: Nomenclature = CLASSES


class Kind(NamedTuple):
    """A kind of broken base.

    Attributes:
        make: Writes it into a folder.
        says: Words of the message, or of the log where it is no error.
        error: What is raised, or None.
        odd: Kinds of problem and the polygons that are told without an error.
    """

    make: Callable[[Path], Path | Opened]
    says: tuple[str, ...]
    error: type[TeselaError] | None
    odd: tuple[tuple[str, str], ...]


KINDS: dict[str, Kind] = {}


def broken(
    *says: str,
    error: type[TeselaError] | None = InputError,
    odd: Sequence[tuple[str, str]] = (),
) -> Callable[[Callable[[Path], Path | Opened]], Callable[[Path], Path | Opened]]:
    """Enter a kind of broken base under the name of the function that writes it."""

    def entered(make: Callable[[Path], Path | Opened]) -> Callable[[Path], Path | Opened]:
        KINDS[make.__name__] = Kind(make, says, error, tuple(odd))
        return make

    return entered


def good(folder: Path, **tables: Any) -> Path:
    """A sound base, but for the tables given; None takes one out."""
    all_tables = {"T_POLIGONOS": polygons(), "T_VALORES": classic_values()} | tables
    present = {name: table for name, table in all_tables.items() if table is not None}
    return write_tables(folder / "base.gpkg", "GPKG", **present)


def values(polygon: str, row: int, column: str, value: object) -> pd.DataFrame:
    """The values with one other value."""
    table = classic_values()
    place = table.index[table["ID_POLYGON"] == polygon][row]
    listed: list[object] = [value if i == place else old for i, old in table[column].items()]
    return table.assign(**{column: pd.Series(listed, dtype=object)})


def labels(place: int, label: str | None) -> list[str | None]:
    """The labels with another one."""
    return [label if i == place else plot.classic for i, plot in enumerate(PLOTS)]


def without_triggers(path: Path, *statements: str) -> Path:
    """Change a layer; the triggers of its spatial index need functions that SQLite lacks."""
    with closing(sqlite3.connect(path)) as base:
        names = base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    return dialects.run_sql(path, *(f'DROP TRIGGER "{name}"' for (name,) in names), *statements)


def resolve(opened: Opened) -> tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]:
    path, settings, nomenclature = opened
    base = siose.open_base(path, settings)
    bounds = geotiff.bounds_in(GRID, base.crs)
    return siose.class_proportions(base, bounds, GRID.bounds, GRID.crs, nomenclature, settings)


# Files


@broken("there is no such file")
def missing_file(folder: Path) -> Path:
    return folder / "base.gpkg"


@broken("is empty", "Copy or download it again")
def empty_file(folder: Path) -> Path:
    (folder / "base.gpkg").write_bytes(b"")
    return folder / "base.gpkg"


@broken("is truncated", "bytes of", "Copy or download it again")
def truncated_geopackage(folder: Path) -> Path:
    path = good(folder)
    path.write_bytes(path.read_bytes()[:-5000])
    return path


@broken("cannot be read as a GeoPackage, Shapefile or other layer", "it is damaged")
def text_in_the_place_of_a_geopackage(folder: Path) -> Path:
    (folder / "base.gpkg").write_text("ID_POLYGON;ROTULO\n" * 100)
    return folder / "base.gpkg"


@broken("is a folder", "base.gpkg", "Name the file in it")
def folder_of_a_geopackage(folder: Path) -> Path:
    good(folder)
    return folder


@broken("is a folder", "holds no GeoPackage, Shapefile or geodatabase")
def folder_of_nothing(folder: Path) -> Path:
    return folder


@broken("base.zip: is a ZIP archive", "Unpack it")
def zip_archive(folder: Path) -> Path:
    (folder / "base.zip").write_bytes(b"PK\3\4" + bytes(100))
    return folder / "base.zip"


@broken("base.mdb: is an Access database", "ogr2ogr base.gpkg base.mdb", "mdb-export")
def access_database(folder: Path) -> Path:
    (folder / "base.mdb").write_bytes(b"\0\1\0\0Standard Jet DB" + bytes(100))
    return folder / "base.mdb"


@broken("base.accdb: is an Access database")
def newer_access_database(folder: Path) -> Path:
    (folder / "base.accdb").write_bytes(b"\0\1\0\0Standard ACE DB" + bytes(100))
    return folder / "base.accdb"


@broken("is a Shapefile without T_POLIGONOS.dbf", "Copy all files of the Shapefile")
def shapefile_without_dbf(folder: Path) -> Path:
    path = write_shapefile(folder, polygons())
    path.with_suffix(".dbf").unlink()
    return path


@broken("is a Shapefile without T_POLIGONOS.shx and T_POLIGONOS.dbf")
def shapefile_alone(folder: Path) -> Path:
    path = write_shapefile(folder, polygons())
    for suffix in (".shx", ".dbf"):
        path.with_suffix(suffix).unlink()
    return path


@broken("layer T_POLIGONOS has no coordinate reference system", "Copy its .prj", "EPSG:4258")
def shapefile_without_prj(folder: Path) -> Path:
    path = write_shapefile(folder, polygons())
    path.with_suffix(".prj").unlink()
    return path


def _cut(path: Path, suffix: str, length: int) -> None:
    file = path.with_suffix(suffix)
    file.write_bytes(file.read_bytes()[:length])


@broken("T_POLIGONOS.shp: is truncated", "it has 500 bytes of 1188")
def truncated_shapefile(folder: Path) -> Path:
    path = write_shapefile(folder, polygons())
    _cut(path, ".shp", 500)
    return path


@broken("T_POLIGONOS.shx: is truncated", "it has 120 bytes of 164")
def truncated_index_of_a_shapefile(folder: Path) -> Path:
    path = write_shapefile(folder, polygons())
    _cut(path, ".shx", 120)
    return path


@broken("T_POLIGONOS.dbf: is truncated", "it has 300 bytes of")
def truncated_attributes_of_a_shapefile(folder: Path) -> Path:
    path = write_shapefile(folder, polygons())
    _cut(path, ".dbf", 300)
    return path


@broken("T_VALORES.dbf: is truncated", "it has 900 bytes of", "Copy or download it again")
def truncated_values_beside_a_shapefile(folder: Path) -> Path:
    _cut(write_dbf(folder, classic_values()), ".dbf", 900)
    return write_shapefile(folder, polygons())


@broken("its table T_VALORES (T_VALORES.csv) has no columns", "copy or export it again")
def empty_csv_beside_a_shapefile(folder: Path) -> Path:
    (folder / "T_VALORES.csv").write_bytes(b"")
    return write_shapefile(folder, polygons())


@broken("its table T_VALORES (T_VALORES.csv) has no columns", "no CSV, DBF or table")
def no_text_in_the_csv_beside_a_shapefile(folder: Path) -> Path:
    (folder / "T_VALORES.csv").write_bytes(bytes(range(256)) * 10)
    return write_shapefile(folder, polygons())


@broken("base.gdb: cannot be read as", "it is damaged")
def empty_geodatabase(folder: Path) -> Path:
    (folder / "base.gdb").mkdir()
    return folder / "base.gdb"


@broken("its table T_VALORES (base.gdb) has no columns", "copy or export it again")
def geodatabase_with_a_damaged_table(folder: Path) -> Path:
    path = write_tables(
        folder / "base.gdb", "OpenFileGDB", T_POLIGONOS=polygons(), T_VALORES=classic_values()
    )
    max(path.glob("*.gdbtable"), key=lambda file: file.name).write_bytes(bytes(200))
    return path


def _page_of(path: Path, text: bytes) -> Path:
    """Damage the last page that holds a text."""
    raw = bytearray(path.read_bytes())
    page = raw.rfind(text) // 4096 * 4096
    raw[page : page + 4096] = b"\xff" * 4096
    path.write_bytes(raw)
    return path


@broken("database disk image is malformed", "copy or download it again: it is damaged")
def damaged_page_of_the_values(folder: Path) -> Path:
    path = good(folder, T_VALORES=pd.concat([classic_values()] * 60))
    return _page_of(path, b"planted")


@broken("layer T_POLIGONOS cannot be read", "database disk image is malformed", "it is damaged")
def damaged_page_of_the_layer(folder: Path) -> Path:
    frame = pd.concat([polygons()] * 200, ignore_index=True)
    return _page_of(good(folder, T_POLIGONOS=frame, T_VALORES=None), b"planted")


# Layers


@broken("T_POLIGONOS is a table without geometry", "layers: none", "gpkg_geometry_columns")
def layer_that_is_not_registered(folder: Path) -> Path:
    return without_triggers(
        good(folder),
        "DELETE FROM gpkg_geometry_columns",
        "UPDATE gpkg_contents SET data_type = 'attributes'",
    )


@broken("layer T_POLIGONOS has no coordinate reference system", "ogr2ogr -a_srs")
def no_crs(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=polygons().set_crs(None, allow_override=True))


@broken(
    "has no layer that looks like SIOSE", "layers: roads", "tables: T_VALORES",
    "roads: ID_POLYGON, NAME", "siose.code_column",
)  # fmt: skip
def no_layer_of_polygons(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=None, roads=polygons("NAME"))


@broken("has no layer that looks like SIOSE", "layers: SAR_46_T_USOS")
def land_use_alone(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=None, SAR_46_T_USOS=polygons("ROTULO"))


@broken("more than one layer of polygons: T_POLIGONOS, SAR_46_T_POLIGONOS", "siose.layer")
def two_layers_of_polygons(folder: Path) -> Path:
    return good(folder, SAR_46_T_POLIGONOS=polygons())


@broken("layer T_POLIGONOS has no polygons but Point", "siose.layer")
def points_instead_of_polygons(folder: Path) -> Path:
    frame = polygons()
    frame.geometry = frame.geometry.centroid
    pyogrio.write_dataframe(frame, folder / "base.gpkg", layer="T_POLIGONOS")
    return folder / "base.gpkg"


@broken("layer T_POLIGONOS has no polygons", "export it again")
def no_polygons_at_all(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=polygons().iloc[:0])


@broken("layer T_POLIGONOS has nothing that tells its covers", "ROTULO or SIOSE_CODE")
def nothing_that_tells_covers(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=polygons("NAME"), T_VALORES=None)


# Settings


@broken("siose.layer", "no layer 'T_POLYGONOS'; did you mean 'T_POLIGONOS'?", error=SettingsError)
def layer_misspelt(folder: Path) -> Opened:
    return Opened(good(folder), SioseSettings(layer="T_POLYGONOS"))


@broken(
    "siose.code_column", "no column 'CODE18'; did you mean 'CODE_18'?",
    "columns: ID_POLYGON, CODE_18", error=SettingsError,
)  # fmt: skip
def code_column_misspelt_in_a_named_layer(folder: Path) -> Opened:
    path = good(folder, T_POLIGONOS=None, clc=polygons("CODE_18", ["111"] * len(PLOTS)))
    return Opened(path, SioseSettings(code_column="CODE18", layer="clc", codelist="corine"))


@broken("no layer of", "column 'code_19'; did you mean 'CODE_18'?", error=SettingsError)
def code_column_misspelt(folder: Path) -> Opened:
    path = good(folder, T_POLIGONOS=None, clc=polygons("CODE_18", ["111"] * len(PLOTS)))
    return Opened(path, SioseSettings(code_column="code_19", codelist="corine"))


@broken("siose.source: table needs a table *T_VALORES", "it has: label", error=SettingsError)
def forced_table_that_is_not_there(folder: Path) -> Opened:
    return Opened(good(folder, T_VALORES=None), SioseSettings(source="table"))


@broken("siose.source: label needs a column ROTULO or SIOSE_CODE", error=SettingsError)
def forced_label_that_is_not_there(folder: Path) -> Opened:
    frame = polygons("ID_COBERTURA_MAX", [101] * len(PLOTS))
    return Opened(good(folder, T_POLIGONOS=frame), SioseSettings(source="label"))


@broken("siose.source: xml needs a column SIOSE_XML", "it has: table, label", error=SettingsError)
def forced_xml_that_is_not_there(folder: Path) -> Opened:
    return Opened(good(folder), SioseSettings(source="xml"))


@broken("siose.source: maximum needs a column ID_COBERTURA_MAX", error=SettingsError)
def forced_maximum_that_is_not_there(folder: Path) -> Opened:
    return Opened(good(folder), SioseSettings(source="maximum"))


@broken("siose.codelist: 'siose_clasic' is not built in; did you mean 'siose_classic'?",
        error=SettingsError)  # fmt: skip
def codelist_misspelt(folder: Path) -> Opened:
    return Opened(good(folder), SioseSettings(codelist="siose_clasic"))


@broken("'mfe' is not built in, and", "has none of its own", "siose.code_column",
        error=SettingsError)  # fmt: skip
def codelist_of_nobody(folder: Path) -> Opened:
    return Opened(good(folder), SioseSettings(codelist="mfe"))


@broken("does not fit the codelist 'siose_classic'", "cover 'PAX'", error=SettingsError)
def nomenclature_of_another_codelist(folder: Path) -> Opened:
    classes = dialects._classes(paved=["PAX"], rest=["*"])
    return Opened(good(folder), nomenclature=classes)


# Tables


@broken("values table T_VALORES cannot be used", "T_VALORES: column ID_POLYGON is missing",
        "siose.source: label")  # fmt: skip
def values_without_ids(folder: Path) -> Path:
    return good(folder, T_VALORES=classic_values().drop(columns="ID_POLYGON"))


@broken("T_POLIGONOS: column ID_POLYGON is missing", "siose.source: label")
def layer_without_ids(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=polygons().drop(columns="ID_POLYGON"))


@broken(
    "T_VALORES: column SUPERF_POR_SINREDONDEO (SIOSE AR) or SUPERF_POR (classic) is missing",
    "base.gpkg: T_VALORES has fid, ID_POLYGON, ID_COBERTURAS", "SUPERFPOR",
)  # fmt: skip
def values_with_percentages_misspelt(folder: Path) -> Path:
    return good(folder, T_VALORES=classic_values().rename(columns={"SUPERF_POR": "SUPERFPOR"}))


@broken("T_VALORES: neither ID_COBERTURA (ID_COBERTURAS) nor CODE_ABREV is there")
def values_without_covers(folder: Path) -> Path:
    return good(folder, T_VALORES=classic_values().drop(columns="ID_COBERTURAS"))


@broken("T_VALORES: column INTER_ANCESTROS is missing, and with it what is inside what")
def values_without_ancestors(folder: Path) -> Path:
    return good(folder, T_VALORES=classic_values().drop(columns="INTER_ANCESTROS"))


@broken("T_VALORES: column INTER_ID is missing")
def values_without_numbers_of_rows(folder: Path) -> Path:
    return good(folder, T_VALORES=classic_values().drop(columns="INTER_ID"))


@broken("T_VALORES.csv: T_VALORES has ID_POLYGON", "INTER_ANCESTROS is missing", "siose.source")
def values_beside_a_shapefile_without_ancestors(folder: Path) -> Path:
    table = classic_values().drop(columns="INTER_ANCESTROS")
    table.to_csv(folder / "T_VALORES.csv", index=False)
    return write_shapefile(folder, polygons())


@broken("more than one table of values", "OLD_T_VALORES (base.gpkg)", "layer T_POLIGONOS")
def two_tables_of_values(folder: Path) -> Path:
    table = classic_values()
    return good(folder, T_VALORES=None, SAR_T_VALORES=table, OLD_T_VALORES=table)


@broken(
    "its codelist cannot be read", "ID_COBERTURAS 'dos' of EDF is not a number",
    "the built-in codelist serves",
)  # fmt: skip
def codelist_without_numbers(folder: Path) -> Path:
    table = dialects.codelist_table().astype({"ID_COBERTURAS": str})
    table.loc[0, "ID_COBERTURAS"] = "dos"
    return good(folder, TC_SIOSE_COBERTURAS=table)


@broken("TC_SIOSE_COBERTURAS lacks ID_COBERTURA or its labels", error=None)
def codelist_without_labels(folder: Path) -> Path:
    table = dialects.codelist_table().drop(columns="CODE_ABREVIADO")
    return good(folder, TC_SIOSE_COBERTURAS=table)


@broken("TC_SIOSE_COBERTURAS is ambiguous", "290 and 777 are both PRD", error=None)
def codelist_with_a_label_twice(folder: Path) -> Path:
    table = dialects.codelist_table()
    twice = table[table["CODE_ABREVIADO"] == "PRD"].assign(ID_COBERTURAS=777)
    return good(folder, TC_SIOSE_COBERTURAS=pd.concat([table, twice]))


@broken(
    "T_VALORES has rows of none of 7 polygons", "as 'urn:uuid:", "and the layer as 'one'",
    error=None, odd=[("no_rows", plot.id) for plot in PLOTS if plot.id != "empty"],
)  # fmt: skip
def values_under_other_ids(folder: Path) -> Path:
    table = classic_values()
    return good(folder, T_VALORES=table.assign(ID_POLYGON="urn:uuid:" + table["ID_POLYGON"]))


# Where the polygons are

FAR = ("touches the sheet", "sheet:    700000, 4399980, 700200, 4400000 (EPSG:25830)")


@broken(*FAR, "polygons: 900000, 4399990, 900080, 4400000 (EPSG:25830)", "Check the province")
def another_province(folder: Path) -> Path:
    frame = polygons()
    frame.geometry = frame.geometry.translate(200_000, 0)
    return good(folder, T_POLIGONOS=frame)


@broken("touches the sheet", "are in metres, and EPSG:4258 is not", "ogr2ogr -a_srs EPSG:25830")
def metres_that_are_called_degrees(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=polygons().set_crs(AR, allow_override=True))


@broken(*FAR, "are in degrees, and EPSG:25830 is not", "ogr2ogr -a_srs EPSG:4258")
def degrees_that_are_called_metres(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=polygons(crs=AR).set_crs(UTM, allow_override=True))


@broken("touches the sheet", "(EPSG:25829)", "Check the province of the base and the CRS of both")
def another_utm_zone(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=polygons().set_crs("EPSG:25829", allow_override=True))


@broken("x and y the wrong way round", "ogr2ogr -swapxy")
def latitude_before_longitude(folder: Path) -> Path:
    frame = polygons(crs=AR)
    swapped = shapely.transform(frame.geometry.to_numpy(), lambda points: points[:, ::-1])
    return good(folder, T_POLIGONOS=frame.set_geometry(list(swapped), crs=AR))


# Covers of polygons


@broken(TWO + "'777' in A(60MTR_40PST)", "`aliases`", "siose.unknown_covers: ignore")
def unknown_cover_by_id(folder: Path) -> Path:
    return good(folder, T_VALORES=values("two", 1, "ID_COBERTURAS", 777))


@broken(TWO + "'777' in its table")
def unknown_cover_by_id_without_labels(folder: Path) -> Path:
    frame = polygons().drop(columns="SIOSE_CODE")
    return good(folder, T_POLIGONOS=frame, T_VALORES=values("two", 1, "ID_COBERTURAS", 777))


@broken(TWO + "'XYZ' in A(60XYZ_40PST)", "1 polygons carry a cover that no class")
def unknown_cover_by_label(folder: Path) -> Path:
    frame = polygons(values=labels(1, "A(60XYZ_40PST)"))
    return good(folder, T_POLIGONOS=frame, T_VALORES=None)


@broken(TWO + "'777' in its SIOSE_XML")
def unknown_cover_in_xml(folder: Path) -> Path:
    return _with_xml(folder, '<POLIGONO><COBERTURA ID="777" SUPERF_POR="100"/></POLIGONO>')


@broken(TWO + "'777' in ID_COBERTURA_MAX")
def unknown_cover_that_is_the_largest(folder: Path) -> Path:
    frame = polygons("ID_COBERTURA_MAX", [101, 777, *[101] * 6])
    return good(folder, T_POLIGONOS=frame, T_VALORES=None)


@broken(TWO + "code 'trigo'", "1 polygons carry a cover")
def unknown_code(folder: Path) -> Opened:
    frame = polygons("USO", ["EDF", "trigo", *["SNE"] * 6])
    path = good(folder, T_POLIGONOS=frame, T_VALORES=None)
    return Opened(path, SioseSettings(code_column="USO"))


@broken("a  at 700005", "'EDF' in EDF, whose row says 777", "a row without a cover in SNE")
def rows_that_contradict_their_abbreviation(folder: Path) -> Path:
    parcels = [
        Parcel("a", "EDF", square(0), [(777, "EDF", 100.0)]),
        Parcel("b", "SNE", square(1), [(None, None, 100.0)]),
    ]
    return write_base(folder / "base.gpkg", parcels, parcels_crs=UTM)


# Percentages of polygons


@broken(TWO + "A(60MTR_40PST) sums to 70 %", "siose.off_percentages: ignore")
def percentages_off_100(folder: Path) -> Path:
    return good(folder, T_VALORES=values("two", 1, "SUPERF_POR", 30.0))


@broken(TWO + "its table sums to 70 %")
def percentages_off_100_without_labels(folder: Path) -> Path:
    frame = polygons().drop(columns="SIOSE_CODE")
    return good(folder, T_POLIGONOS=frame, T_VALORES=values("two", 1, "SUPERF_POR", 30.0))


@broken(TWO + "-60 % of MTR in 'A(60MTR_40PST)'")
def negative_percentage(folder: Path) -> Path:
    return good(folder, T_VALORES=values("two", 1, "SUPERF_POR", -60.0))


@broken(TWO + "600 % of MTR in 'A(60MTR_40PST)'")
def percentage_over_100(folder: Path) -> Path:
    return good(folder, T_VALORES=values("two", 1, "SUPERF_POR", 600.0))


@broken(TWO + "no number of MTR in 'A(60MTR_40PST)'")
def percentage_that_is_text(folder: Path) -> Path:
    return good(folder, T_VALORES=values("two", 1, "SUPERF_POR", "sesenta").astype(str))


@broken(TWO + "no number of MTR in its table")
def percentage_that_is_not_there(folder: Path) -> Path:
    frame = polygons().drop(columns="SIOSE_CODE")
    return good(folder, T_POLIGONOS=frame, T_VALORES=values("two", 1, "SUPERF_POR", None))


@broken(TWO + "A(40MTR_40PST): A sums to 80 %")
def percentages_of_a_label_off_100(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=polygons(values=labels(1, "A(40MTR_40PST)")), T_VALORES=None)


@broken(NESTED + "I(70UDS(40EDF_30ZAU)_30SNE): UDS in I sums to 70 %")
def percentages_inside_a_label_off_100(folder: Path) -> Path:
    frame = polygons(values=labels(2, "I(70UDS(40EDF_30ZAU)_30SNE)"))
    return good(folder, T_POLIGONOS=frame, T_VALORES=None)


# Labels and XML of polygons


@broken(
    "1 polygons have a label that cannot be read",
    TWO + "label 'A(60MTR_40PS)', position 9: expected a percentage and a cover such as 66PAV",
    "siose.source: table",
)  # fmt: skip
def label_that_cannot_be_read(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=polygons(values=labels(1, "A(60MTR_40PS)")))


@broken(TWO + "label 'A(60MTR_40PST', position 14: expected '_' or ')'", "Mend the base, or leave")
def label_that_does_not_close(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=polygons(values=labels(1, "A(60MTR_40PST")), T_VALORES=None)


@broken(
    "two  at",
    "position 255: expected a percentage",
    "66PAV; a Shapefile keeps 254 characters of a text",
)
def label_cut_by_a_shapefile(folder: Path) -> Path:
    long = "I(" + "_".join(["01EDF", "01SNE"] * 26) + "_48PST)"
    return write_shapefile(folder, polygons(values=labels(1, long)))


@broken(
    "1 polygons have a label that disagrees with the table, which is used",
    TWO + "label A(40MTR_60PST) against table 60MTR_40PST",
    error=None,
    odd=[("disagreement", "two")],
)
def label_against_table(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=polygons(values=labels(1, "A(40MTR_60PST)")))


@broken(
    "have an empty label and are not used, though the table has rows of them",
    error=None,
    odd=[("unlabelled", "two")],
)
def empty_label_of_a_polygon_with_rows(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=polygons(values=labels(1, " ")))


@broken("town  at", "label 'ñan', position 1: expected")
def label_that_is_no_utf_8(folder: Path) -> Path:
    change = "UPDATE T_POLIGONOS SET SIOSE_CODE = CAST(X'F1616E' AS TEXT) WHERE SIOSE_CODE = 'UCS'"
    return without_triggers(good(folder), change)


def _with_xml(folder: Path, text: str | None) -> Path:
    texts: list[str | None] = list(xml_texts(WITH_FREE))
    texts[1] = text
    return good(folder, T_POLIGONOS=polygons("SIOSE_XML", texts), T_VALORES=None)


@broken(TWO + "SIOSE_XML, line 1, column 33: is not XML: mismatched tag")
def xml_that_is_none(folder: Path) -> Path:
    return _with_xml(folder, "<POLIGONO><COBERTURA ID='101'></POLIGONO>")


@broken(TWO + "SIOSE_XML, line 1, column", "has a document type, with entities or without")
def xml_with_entities(folder: Path) -> Path:
    entities = '<!DOCTYPE a [<!ENTITY x "101"><!ENTITY y "&x;&x;&x;&x;">]>'
    return _with_xml(folder, f'{entities}<POLIGONO><COBERTURA ID="&y;"/></POLIGONO>')


@broken(TWO + "SIOSE_XML, line 1, column", "has a document type")
def xml_that_asks_the_network(folder: Path) -> Path:
    return _with_xml(folder, '<!DOCTYPE a SYSTEM "http://example.org/a.dtd"><POLIGONO/>')


@broken(TWO + "SIOSE_XML: it sums to 70 %", "siose.off_percentages: ignore")
def percentages_of_xml_off_100(folder: Path) -> Path:
    covers = '<COBERTURA ID="101" SUPERF_POR="50"/><COBERTURA ID="102" SUPERF_POR="20"/>'
    return _with_xml(folder, f"<POLIGONO>{covers}</POLIGONO>")


@broken(NESTED + "SIOSE_XML, line 1", "unclosed token; a Shapefile keeps 254 characters of a text")
def xml_cut_by_a_shapefile(folder: Path) -> Path:
    return write_shapefile(folder, polygons("SIOSE_XML", xml_texts(WITH_FREE)))


@broken("one  at", "SIOSE_XML, line 1, column 1: has no cover")
def xml_that_is_no_utf_8(folder: Path) -> Path:
    path = _with_xml(folder, xml_texts(WITH_FREE)[1])
    # <P Descripcio="ñ"></P>
    text = "3C5020446573633D22F1223E3C2F503E"
    change = f"SET SIOSE_XML = CAST(X'{text}' AS TEXT) WHERE ID_POLYGON = 'one'"
    return without_triggers(path, f"UPDATE T_POLIGONOS {change}")


# Rows of the table of polygons

TREE = "1 polygons have rows of the table that do not fit into one another: " + NESTED


@broken(TREE + "a row is inside one that is not there", error=None,
        odd=[("tree", "nested"), ("tree", "nested")])  # fmt: skip
def row_inside_a_missing_one(folder: Path) -> Path:
    return good(folder, T_VALORES=values("nested", 2, "INTER_ANCESTROS", "1,9"))


@broken(TREE + "two rows have the same INTER_ID", error=None, odd=[("tree", "nested")])
def rows_of_the_same_number(folder: Path) -> Path:
    return good(folder, T_VALORES=values("nested", 2, "INTER_ID", 4))


@broken(TREE + "the covers inside a composite do not add up to it", error=None,
        odd=[("tree", "nested")])  # fmt: skip
def composite_that_is_not_its_parts(folder: Path) -> Path:
    return good(folder, T_VALORES=values("nested", 1, "SUPERF_POR", 60.0))


@broken(NESTED + "I(70UDS(40EDF_60ZAU)_30SNE) sums to 72 %")
def row_inside_itself(folder: Path) -> Path:
    return good(folder, T_VALORES=values("nested", 2, "INTER_ANCESTROS", "1,2,3"))


@broken(
    "have nothing that tells their covers, and are masked", "no covers in table", error=None,
    odd=[("no_values", plot.id) for plot in PLOTS[2:]],
)  # fmt: skip
def polygons_without_values(folder: Path) -> Path:
    frame = polygons().drop(columns="SIOSE_CODE")
    return good(folder, T_POLIGONOS=frame, T_VALORES=classic_values(PLOTS[:2]))


@broken(error=None)
def values_without_polygons(folder: Path) -> Path:
    return good(folder, T_POLIGONOS=polygons().iloc[:2])


@broken(
    "2 polygons share their ID_POLYGON, and with it their rows",
    "one  at 700005, 4399995 (EPSG:25830): 2 polygons have this ID_POLYGON",
    error=None,
    odd=[("duplicate", "one"), ("duplicate", "one")],
)
def ids_of_two_polygons(folder: Path) -> Path:
    frame = polygons(values=labels(1, "EDF"))
    frame.loc[1, "ID_POLYGON"] = "one"
    return good(folder, T_POLIGONOS=frame)


# Geometry of polygons


def _with_geometry(folder: Path, *shapes: shapely.Geometry | None) -> Path:
    frame = polygons()
    there = [*shapes, *list(frame.geometry)[len(shapes) :]]
    return good(folder, T_POLIGONOS=frame.set_geometry(there, crs=UTM))


@broken(error=None)  # burnt as if it were repaired; siose-check tells it
def polygon_that_crosses_itself(folder: Path) -> Path:
    corners = [(X, Y), (X + 10, Y - 10), (X + 10, Y), (X, Y - 10)]
    return _with_geometry(folder, shapely.Polygon(corners))


@broken("have no area, and are left out: two", error=None)
def polygons_without_geometry(folder: Path) -> Path:
    return _with_geometry(folder, shapely.Polygon(), None)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.filterwarnings("ignore:'crs' was not provided")
@pytest.mark.filterwarnings("ignore:Value .* has been truncated to 254 characters")
def test_a_broken_base_says_what_is_wrong(
    kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    made = kind.make(tmp_path)
    opened = made if isinstance(made, Opened) else Opened(made)
    with pytest.raises(kind.error) if kind.error else nullcontext() as caught:
        _, odd = resolve(opened)
    if kind.error:
        assert caught is not None
        message = str(caught.value)
        if kind.error is InputError and not isinstance(caught.value, siose.PolygonError):
            assert str(tmp_path) in message
        # Nobody should have to read Python or C++ to know what to do.
        assert "Traceback" not in message
        assert "<DRIVER>" not in message
    else:
        message = caplog.text
        assert odd[["kind", "polygon_id"]].to_numpy().tolist() == [list(pair) for pair in kind.odd]
        if not kind.says:
            assert [r for r in caplog.records if "in no class and not under" not in r.msg] == []
    for words in kind.says:
        assert words in message, message


def test_the_corpus_is_large() -> None:
    assert len(KINDS) >= 20


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Another program that writes a base, and has locked it."""
    code = (
        "import sqlite3, sys; base = sqlite3.connect(sys.argv[1]);"
        "base.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as writer:  # fmt: skip
        assert writer.stdout is not None
        assert writer.stdout.readline() == "locked\n"
        yield


def test_a_base_that_another_program_has_locked(tmp_path: Path) -> None:
    path = good(tmp_path)
    pyogrio.set_gdal_config_options({"SQLITE_BUSY_TIMEOUT": "50"})  # 5 s otherwise
    with _writing(path), pytest.raises(InputError) as caught:
        resolve(Opened(path))
    pyogrio.set_gdal_config_options({"SQLITE_BUSY_TIMEOUT": None})
    message = str(caught.value)
    assert str(path) in message
    assert "locked" in message
    assert "close it there" in message
    resolve(Opened(path))


def test_all_kinds_of_problems_are_seen_at_once(tmp_path: Path) -> None:
    """Many of one kind leave room for the others; the GeoPackage has all."""
    plots = [dialects.Plot(f"p{i}", "QQQ", "", "", {}, None) for i in range(30)]
    listed = [plot.classic for plot in plots]
    listed[28], listed[29] = "60EDF_30SNE", "60EDF_"
    frame = polygons(values=listed, plots=plots)
    path = write_tables(tmp_path / "base.gpkg", "GPKG", T_POLIGONOS=frame)
    with pytest.raises(siose.PolygonError) as caught:
        siose.class_proportions(
            siose.open_base(path), (X, Y - 10, X + 300, Y), (X, Y - 10, X + 300, Y), UTM, CLASSES,
            SioseSettings(),
        )  # fmt: skip
    message = str(caught.value)
    assert message.startswith("28 polygons carry a cover")
    assert "... and 24 more of these" in message
    assert "1 polygons have percentages" in message
    assert "60EDF_30SNE: it sums to 90 %" in message
    assert "1 polygons have a label that cannot be read" in message
    assert "label '60EDF_', position 7" in message
    assert len(caught.value.problems) == 30
