"""Every form of a SIOSE base gives the same shares, and says what they come from."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import pandas as pd
import pyogrio
import pytest
import shapely
import yaml

from pipeline import geotiff, siose
from pipeline.grid import PixelGrid
from pipeline.nomenclature import Nomenclature, parse
from pipeline.sections import SioseSettings
from tests import siose_dialects as dialects
from tests.siose_dialects import (
    AR_IDS,
    CLASSES,
    CLASSIC_IDS,
    DEHESA_PASTURE,
    DEHESA_WHOLE,
    PLOTS,
    UTM,
    WITH_FREE,
    X,
    Y,
    classic_values,
    polygons,
    write_dbf,
    write_shapefile,
    write_tables,
    xml_texts,
)
from tests.siose_fixtures import VALUES, Parcel, write_base

GRID = PixelGrid(UTM, X, Y, 0.5, 0.5, 400, 40)  # 200 m x 20 m
AR = "EPSG:4258"


def resolved(
    path: Path, nomenclature: Nomenclature, settings: SioseSettings | None = None
) -> tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]:
    settings = settings or SioseSettings()
    base = siose.open_base(path, settings)
    bounds = geotiff.bounds_in(GRID, base.crs)
    return siose.class_proportions(base, bounds, GRID.bounds, GRID.crs, nomenclature, settings)


def shares_of(
    frame: geopandas.GeoDataFrame, nomenclature: Nomenclature
) -> dict[str, dict[str, float]]:
    """Per cent of each class that a polygon has, by polygon."""
    found = {}
    for row in frame.to_dict("records"):
        shares = {name: row[f"share_{name}"] for name in (*nomenclature.names, "unmapped")}
        found[row["polygon_id"]] = {n: round(100 * s, 6) for n, s in shares.items() if s}
    return found


# The forms


class Form(NamedTuple):
    """How the base is written.

    Attributes:
        write: Writes it into a folder.
        source: What shares come from.
        label: Whether it has labels, so that an empty one tells that nobody interpreted it.
        settings: What the run says of it.
    """

    write: Callable[[Path], Path]
    source: str
    label: bool = True
    settings: SioseSettings = SioseSettings()


def ar(folder: Path, **options: Any) -> Path:
    rows = options.get("values", VALUES) is not None
    options = {"parcels_crs": UTM, "codelist": None, **options}
    return write_base(folder / "SAR_99.gpkg", dialects.ar_parcels(rows=rows), **options)


def ar_columns(column: str, values: Sequence[object], driver: str, name: str) -> Any:
    def write(folder: Path) -> Path:
        frame = polygons(column, values, crs=AR)
        if driver == "ESRI Shapefile":
            return write_shapefile(folder, frame, name)
        return write_tables(folder / "base.gpkg", driver, **{name: frame})

    return write


def classic(
    folder: Path,
    frame: geopandas.GeoDataFrame | None = None,
    values: pd.DataFrame | None = None,
    driver: str = "GPKG",
) -> Path:
    tables = {
        "T_POLIGONOS": polygons() if frame is None else frame,
        "T_VALORES": classic_values() if values is None else values,
        "TC_SIOSE_COBERTURAS": dialects.codelist_table(),
    }
    suffix = {"GPKG": ".gpkg", "OpenFileGDB": ".gdb"}[driver]
    return write_tables(folder / f"base{suffix}", driver, **tables)


def with_csv(folder: Path, *, encoding: str = "utf-8", **options: Any) -> Path:
    """A Shapefile with its values and codelist as CSV beside it."""
    for name, frame in (
        ("T_VALORES", classic_values()),
        ("TC_SIOSE_COBERTURAS", dialects.codelist_table()),
    ):
        frame.to_csv(folder / f"{name}.csv", index=False, encoding=encoding, **options)
    return write_shapefile(folder, polygons())


def with_dbf(folder: Path, frame: Any = None, values: pd.DataFrame | None = None) -> Path:
    write_dbf(folder, classic_values() if values is None else values)
    return write_shapefile(folder, polygons() if frame is None else frame)


AR_LABELS = [plot.ar for plot in PLOTS]
CLASSIC_LABELS = [plot.classic for plot in PLOTS]
MAXIMUM = [AR_IDS.get(plot.largest, 0) for plot in PLOTS]
EMPTY_AS_NULL = [label or None for label in CLASSIC_LABELS]

FORMS = {
    # SIOSE AR
    "ar": Form(ar, "table"),
    "ar, own codelist": Form(
        lambda f: ar(f, codelist=[(i, label, "") for label, i in AR_IDS.items()]), "table"
    ),
    "ar, lower case": Form(lambda f: ar(f, lower={"SAR_99_T_POLIGONOS", VALUES}), "table"),
    "ar, ids alone": Form(lambda f: ar(f, leave_out=["ROTULO"]), "table", label=False),
    "ar, abbreviations alone": Form(lambda f: ar(f, leave_out=["ID_COBERTURA"]), "table"),
    "ar, label": Form(lambda f: ar(f, values=None), "label"),
    "ar, T_COMBINADA": Form(lambda f: ar(f, layer="SAR_99_T_COMBINADA", values=None), "label"),
    "ar, Shapefile and DBF": Form(
        lambda f: with_dbf(f, polygons("ROTULO", AR_LABELS, crs=AR), dialects.ar_table()), "table"
    ),
    # Classic
    "classic": Form(classic, "table"),
    "classic, without labels": Form(
        lambda f: classic(f, polygons().drop(columns="SIOSE_CODE")), "table", label=False
    ),
    "classic, lower case": Form(
        lambda f: classic(f, dialects.lower(polygons()), dialects.lower(classic_values())),
        "table",
    ),
    "classic, rows in any order": Form(
        lambda f: classic(f, values=classic_values().sample(frac=1, random_state=5)), "table"
    ),
    "classic, numbers as text": Form(
        lambda f: classic(f, values=classic_values().astype(str)), "table"
    ),
    "classic, numbers with comma": Form(
        lambda f: classic(
            f, values=classic_values().assign(SUPERF_POR=lambda t: _commas(t["SUPERF_POR"]))
        ),
        "table",
    ),
    "classic, numbers of rows as decimals": Form(
        lambda f: classic(
            f, values=classic_values().astype({"INTER_ID": float, "ID_COBERTURAS": float})
        ),
        "table",
    ),
    "classic, file geodatabase": Form(lambda f: classic(f, driver="OpenFileGDB"), "table"),
    "classic, geodatabase in lower case": Form(
        lambda f: classic(
            f, dialects.lower(polygons()), dialects.lower(classic_values()), driver="OpenFileGDB"
        ),
        "table",
    ),
    "classic, Shapefile and DBF": Form(with_dbf, "table"),
    "classic, Shapefile and DBF in capitals": Form(
        lambda f: _shouting(f, with_dbf(f)), "table"
    ),
    "classic, Shapefile and CSV": Form(with_csv, "table"),
    "classic, CSV in quotes": Form(
        lambda f: with_csv(f, quoting=csv.QUOTE_ALL, lineterminator="\r\n"), "table"
    ),
    "classic, CSV of Spanish Excel": Form(
        lambda f: with_csv(f, encoding="cp1252", sep=";", decimal=",", lineterminator="\r\n"),
        "table",
    ),
    "classic, CSV of Spanish Excel in UTF-8": Form(
        lambda f: with_csv(f, encoding="utf-8-sig", sep=";", decimal=","), "table"
    ),
    "classic, CSV in UTF-8 with its mark": Form(
        lambda f: with_csv(f, encoding="utf-8-sig"), "table"
    ),
    "classic, CSV in Latin-1": Form(lambda f: with_csv(f, encoding="latin-1"), "table"),
    "classic, CSV with tabs": Form(lambda f: with_csv(f, sep="\t"), "table"),
    "classic, text of Access": Form(
        lambda f: _renamed(with_csv(f, encoding="cp1252", sep=";", decimal=","), ".txt"), "table"
    ),
    "classic, percentages with their sign": Form(
        lambda f: classic(
            f, values=classic_values().assign(SUPERF_POR=lambda t: t.SUPERF_POR.map("{} %".format))
        ),
        "table",
    ),
    "classic, CSV and label, label forced": Form(
        with_csv, "label", settings=SioseSettings(source="label")
    ),
    # Label only
    "label, SIOSE_CODE": Form(
        ar_columns("SIOSE_CODE", CLASSIC_LABELS, "GPKG", "T_POLIGONOS"), "label"
    ),
    "label, siose_code": Form(ar_columns("siose_code", EMPTY_AS_NULL, "GPKG", "anything"), "label"),
    "label, Siose_Code in a Shapefile": Form(
        ar_columns("Siose_Code", CLASSIC_LABELS, "ESRI Shapefile", "anything"), "label"
    ),
    "label, ROTULO": Form(ar_columns("ROTULO", AR_LABELS, "GPKG", "anything"), "label"),
    "label, rotulo in a Shapefile": Form(
        ar_columns("rotulo", AR_LABELS, "ESRI Shapefile", "SAR_99_T_POLIGONOS"), "label"
    ),
    # SIOSE_XML only
    "xml, ids": Form(
        ar_columns("SIOSE_XML", xml_texts(WITH_FREE), "GPKG", "T_POLIGONOS"), "xml", label=False
    ),
    "xml, labels": Form(
        ar_columns("siose_xml", xml_texts({}), "GPKG", "anything"), "xml", label=False
    ),
    "xml, forced": Form(
        lambda f: classic(f, polygons(SIOSE_XML=xml_texts(WITH_FREE))),
        "xml",
        settings=SioseSettings(source="xml"),
    ),
    # ID_COBERTURA_MAX only
    "maximum": Form(
        ar_columns("ID_COBERTURA_MAX", MAXIMUM, "GPKG", "SAR_99_T_POLIGONOS"),
        "maximum",
        label=False,
    ),
    "maximum, T_COMBINADA": Form(
        ar_columns("id_cobertura_max", [n or None for n in MAXIMUM], "GPKG", "SAR_T_COMBINADA"),
        "maximum",
        label=False,
    ),
    "maximum, Shapefile": Form(
        ar_columns("ID_COBERTURA_MAX", MAXIMUM, "ESRI Shapefile", "anything"),
        "maximum",
        label=False,
    ),
    "maximum, text": Form(
        ar_columns("ID_COBERTURA_MAX", [f"{n},0" for n in MAXIMUM], "GPKG", "anything"),
        "maximum",
        label=False,
    ),
}  # fmt: skip


def _commas(values: Any) -> list[str]:
    return [f"{value:g}".replace(".", ",") for value in values]


def _renamed(path: Path, suffix: str) -> Path:
    for file in list(path.parent.glob("*.csv")):
        file.rename(file.with_suffix(suffix))
    return path


def _shouting(folder: Path, path: Path) -> Path:
    for file in list(folder.iterdir()):
        file.rename(folder / file.name.upper())
    return folder / path.name.upper()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_form_gives_the_same_shares(form: Form, tmp_path: Path) -> None:
    path = form.write(tmp_path)
    frame, odd = resolved(path, CLASSES, form.settings)
    expected: dict[str, dict[str, float]] = {}
    for plot in PLOTS:
        expected[plot.id] = dict(plot.shares)
        if form.source == "maximum" and plot.id != "empty":
            expected[plot.id] = {plot.largest_class or "unmapped": 100}
    assert shares_of(frame, CLASSES) == expected
    sources = dict(zip(frame["polygon_id"], frame["source"], strict=True))
    assert sources == {p.id: "" if p.id == "empty" else form.source for p in PLOTS}
    reasons = dict(zip(frame["polygon_id"], frame["reason"], strict=True))
    assert {polygon: reason for polygon, reason in reasons.items() if reason} == {
        "unknown": "unknown",
        "empty": "empty_label" if form.label else "unmapped",
    }
    # Nobody said that the empty one is empty where there are no labels.
    said = [] if form.label else [["no_values", "empty"]]
    assert odd[["kind", "polygon_id"]].to_numpy().tolist() == said


# Attributes and enclosing composites

CLASSIC_FORMS = {
    name: FORMS[name]
    for name in (
        "classic",
        "classic, file geodatabase",
        "classic, CSV of Spanish Excel",
        "label, SIOSE_CODE",
        "xml, ids",
        "xml, labels",
        "xml, forced",
    )
}


@pytest.mark.parametrize("form", CLASSIC_FORMS.values(), ids=CLASSIC_FORMS.keys())
def test_enclosing_composites_reach_the_nomenclature(form: Form, tmp_path: Path) -> None:
    path = form.write(tmp_path)
    inside, _ = resolved(path, DEHESA_PASTURE, form.settings)
    assert shares_of(inside, DEHESA_PASTURE)["deep"] == {"dehesa": 10, "rest": 90}
    assert shares_of(inside, DEHESA_PASTURE)["two"] == {"rest": 100}
    whole, _ = resolved(path, DEHESA_WHOLE, form.settings)
    assert shares_of(whole, DEHESA_WHOLE)["deep"] == {"dehesa": 12.5, "rest": 87.5}


# Best source polygon by polygon


def test_each_polygon_has_the_best_source_that_it_has(tmp_path: Path) -> None:
    xml = xml_texts(WITH_FREE)
    labels = [plot.classic for plot in PLOTS]
    values = classic_values()
    values = values[~values["ID_POLYGON"].isin(["two", "nested", "deep"])]
    # What a worse source says is another thing, so that it shows which one was read.
    xml[0] = xml_texts({}, [PLOTS[1]])[0]
    labels[7] = "A(72CNFpl_28FDC)"
    maximum = [CLASSIC_IDS["SNE"]] * len(PLOTS)
    path = classic(
        tmp_path,
        polygons("SIOSE_CODE", labels, SIOSE_XML=xml, ID_COBERTURA_MAX=maximum),
        values,
    )
    frame, odd = resolved(path, CLASSES)
    assert shares_of(frame, CLASSES) == {plot.id: dict(plot.shares) for plot in PLOTS}
    assert dict(zip(frame["polygon_id"], frame["source"], strict=True)) == {
        "one": "table",
        "two": "label",
        "nested": "label",
        "deep": "label",
        "town": "table",
        "unknown": "table",
        "empty": "",
        "planted": "table",
    }
    assert odd[["kind", "polygon_id", "text"]].to_numpy().tolist() == [
        *(["no_rows", plot.id, "no rows in T_VALORES; its label is used"] for plot in PLOTS[1:4]),
        ["disagreement", "planted", "label A(72CNFpl_28FDC) against table 70CNF_30FDC"],
    ]


def test_without_labels_xml_comes_before_the_maximum(tmp_path: Path) -> None:
    xml: list[str | None] = list(xml_texts(WITH_FREE))
    xml[2], xml[3] = None, "  "
    frame = polygons("SIOSE_XML", xml, ID_COBERTURA_MAX=[CLASSIC_IDS["SNE"]] * 6 + [0, 0])
    values = classic_values([PLOTS[0], PLOTS[1]])
    path = write_tables(tmp_path / "b.gpkg", "GPKG", T_POLIGONOS=frame, T_VALORES=values)
    found, odd = resolved(path, CLASSES)
    bare = {"nested": {"bare": 100.0}, "deep": {"bare": 100.0}}
    assert shares_of(found, CLASSES) == {p.id: dict(p.shares) for p in PLOTS} | bare
    assert found["source"].tolist() == [
        "table", "table", "maximum", "maximum", "xml", "xml", "", "xml",
    ]  # fmt: skip
    assert odd[["kind", "polygon_id", "text"]].to_numpy().tolist() == [
        ["no_rows", "nested", "no rows in T_VALORES; its maximum is used"],
        ["no_rows", "deep", "no rows in T_VALORES; its maximum is used"],
        ["no_rows", "town", "no rows in T_VALORES; its xml is used"],
        ["no_rows", "unknown", "no rows in T_VALORES; its xml is used"],
        ["no_values", "empty", "no covers in table or xml or maximum"],
        ["no_rows", "planted", "no rows in T_VALORES; its xml is used"],
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("table", {"bare": 100.0}),
        ("label", {"built": 100.0}),
        ("xml", {"scrub": 60.0, "grass": 40.0}),
        ("maximum", {"green": 100.0}),
        ("auto", {"bare": 100.0}),
    ],
)
def test_a_source_can_be_forced(tmp_path: Path, source: Any, expected: dict[str, float]) -> None:
    frame = polygons(
        SIOSE_XML=xml_texts(WITH_FREE, [PLOTS[1]]),
        ID_COBERTURA_MAX=[CLASSIC_IDS["ZAU"]],
        plots=PLOTS[:1],
    )
    values = classic_values([PLOTS[0]]).assign(ID_COBERTURAS=CLASSIC_IDS["SNE"])
    path = write_tables(tmp_path / "b.gpkg", "GPKG", T_POLIGONOS=frame, T_VALORES=values)
    found, _ = resolved(path, CLASSES, SioseSettings(source=source))
    assert shares_of(found, CLASSES) == {"one": expected}
    assert found["source"].tolist() == ["table" if source == "auto" else source]


def test_a_layer_can_be_forced(tmp_path: Path) -> None:
    other = polygons("rotulo", ["SNE"], plots=PLOTS[:1])
    path = write_tables(
        tmp_path / "b.gpkg", "GPKG",
        T_POLIGONOS=polygons(), edited=other, T_VALORES=classic_values(),
    )  # fmt: skip
    assert shares_of(resolved(path, CLASSES)[0], CLASSES)["one"] == {"built": 100}
    settings = SioseSettings(layer="Edited", source="label")
    found, _ = resolved(path, CLASSES, settings)
    assert shares_of(found, CLASSES) == {"one": {"bare": 100}}


def test_a_codelist_can_be_forced(tmp_path: Path) -> None:
    """104 is PAV in SIOSE AR and VAP in classic SIOSE."""
    classes = parse(
        {
            "classes": [
                {"name": "paved", "covers": {"siose_ar": ["PAV"]}, "color": "#000001"},
                {"name": "roads", "covers": {"siose_classic": ["VAP"]}, "color": "#000002"},
                {"name": "rest", "covers": ["*"], "color": "#000003"},
            ]
        },
        "test",
    )
    frame = polygons("ID_COBERTURA_MAX", [104], plots=PLOTS[:1])
    path = write_tables(tmp_path / "b.gpkg", "GPKG", anything=frame)
    assert shares_of(resolved(path, classes)[0], classes) == {"one": {"paved": 100}}
    forced = SioseSettings(codelist="siose_classic")
    assert shares_of(resolved(path, classes, forced)[0], classes) == {"one": {"roads": 100}}


# Codelists in the base


@pytest.mark.parametrize("kind", ["gpkg", "gdb", "dbf", "csv"])
def test_the_codelist_of_the_base_wins(tmp_path: Path, kind: str) -> None:
    """Lakes are 512 or 513: sources differ, and a base says which."""
    classes = parse(
        {
            "classes": [
                {"name": "lake", "covers": ["ALG"], "color": "#000001"},
                {"name": "reservoir", "covers": ["AEM"], "color": "#000002"},
                {"name": "rest", "covers": ["*"], "color": "#000003"},
            ]
        },
        "test",
    )
    plots = [
        dialects.Plot("table", "AEM", "", "", {}, None),
        dialects.Plot("label", "ALG", "", "", {}, None),
    ]
    values = classic_values(plots[:1]).assign(ID_COBERTURAS=513)
    codes = pd.DataFrame(
        {
            "ID_COBERTURAS": [512, 513],
            "DESCRIPCION_COBERTURAS": ["Lagos y lagunas", "Embalses: Añarbe"],
            "CODE_ABREVIADO": ["ALG", "AEM"],
        }
    )
    frame = polygons(plots=plots)
    if kind in ("gpkg", "gdb"):
        driver = {"gpkg": "GPKG", "gdb": "OpenFileGDB"}[kind]
        path = write_tables(
            tmp_path / f"b.{kind}", driver,
            T_POLIGONOS=frame, T_VALORES=values, TC_SIOSE_COBERTURAS=codes,
        )  # fmt: skip
    else:
        path = write_shapefile(tmp_path, frame)
        if kind == "dbf":
            write_dbf(tmp_path, values)
            write_dbf(tmp_path, codes, "TC_SIOSE_COBERTURAS")
        else:
            for name, table in (("T_VALORES", values), ("TC_SIOSE_COBERTURAS", codes)):
                table.to_csv(tmp_path / f"{name}.csv", sep=";", index=False, encoding="cp1252")
    listed = siose.open_base(path).codelist
    assert listed.by_id[513].label == "AEM"
    assert listed.by_id[513].description == "Embalses: Añarbe"
    assert [c.id for c in listed.find("ALG")] == [512]
    assert [c.id for c in listed.find("EDF")] == [101]  # not in the base's: the built-in one
    found, odd = resolved(path, classes)
    assert shares_of(found, classes) == {"table": {"reservoir": 100}, "label": {"lake": 100}}
    assert found["source"].tolist() == ["table", "label"]
    assert odd[["kind", "polygon_id"]].to_numpy().tolist() == [["no_rows", "label"]]


@pytest.mark.parametrize("kind", ["gpkg", "dbf"])
def test_the_attributes_of_the_base_win(tmp_path: Path, kind: str) -> None:
    """Classic T_VALORES has attributes by their ids, and more of them than SIOSE AR lists."""
    classes = parse(
        {
            "classes": [
                {"name": "alone", "covers": [{"cover": "EDF", "with": "ea"}], "color": "#000001"},
                {"name": "young", "covers": [{"cover": "31*", "with": "pl"}], "color": "#000002"},
                {"name": "river", "covers": [{"cover": "31*", "with": "fr"}], "color": "#000003"},
                {"name": "rest", "covers": ["*"], "color": "#000004"},
            ]
        },
        "test",
    )
    plots = [
        dialects.Plot(name, label, "", "", {}, None)
        for name, label in (("a", "EDFea"), ("b", "A(60CNFpl_40EDF)"), ("c", "FDPfr"))
    ]
    ids = {"ea": "21", "pl": "40.0", "fr": "77,31", "A": "1", "": ""}
    values = classic_values(plots)
    values["ATRIBUTOS"] = [ids[written] for written in values["ATRIBUTOS"]]
    listed = pd.DataFrame(
        {
            "ID_ATRIBUTOS": [1, 21, 77, 31],
            "DESCRIPCION_ATRIBUTOS": ["Asociación", "Edificio aislado", "Ribera", "Secano"],
            "CODE_ABREVIADO": ["A", "ea", "FR", "sc"],
            "CLASIFICACION": ["", "", "", ""],
        }
    )
    if kind == "gpkg":
        path = write_tables(
            tmp_path / "b.gpkg", "GPKG",
            T_POLIGONOS=polygons(plots=plots), T_VALORES=values, TC_SIOSE_ATRIBUTOS=listed,
        )  # fmt: skip
    else:
        path = write_shapefile(tmp_path, polygons(plots=plots))
        write_dbf(tmp_path, values)
        write_dbf(tmp_path, listed, "TC_SIOSE_ATRIBUTOS")
    found, odd = resolved(path, classes, SioseSettings(source="table"))
    assert shares_of(found, classes) == {
        "a": {"alone": 100},
        "b": {"young": 60, "rest": 40},
        "c": {"river": 100},
    }
    assert len(odd) == 0


def test_whole_percentages_may_miss_100_by_half_a_point_each(tmp_path: Path) -> None:
    label = "I(55R(50MTR_50PST)_45R(50CNF_50EDF))"
    plots = [dialects.Plot(name, label, "", "", {}, None) for name in ("whole", "exact", "more")]
    values = classic_values(plots)
    leaf = values["SUPERF_POR"].isin([27.5, 22.5])
    rounded = {"whole": 0.5, "exact": 0.6, "more": 1.5}  # of four, 2, 2.4 and 6 points in all
    values.loc[leaf, "SUPERF_POR"] += values.loc[leaf, "ID_POLYGON"].map(rounded)
    path = classic(tmp_path, polygons(plots=plots), values)
    found, odd = resolved(path, CLASSES, SioseSettings(off_percentages="ignore"))
    assert shares_of(found, CLASSES)["whole"] == {
        "scrub": 28, "grass": 28, "trees": 23, "built": 23,
    }  # fmt: skip
    off = odd[odd["kind"] == "percentage"]
    assert off["text"].tolist() == [f"{label} sums to 102.4 %", f"{label} sums to 106 %"]


@pytest.mark.parametrize(
    ("layer", "table"),
    [
        ("T_POLIGONOS_2014", "T_VALORES_2014"),
        ("T_POLIGONOS", "T_VALORES_28"),
        ("T_POLI_GEO_CASTELLON", "T_VALORES_CASTELLON"),
        ("SAR_46_T_POLIGONOS_v2", "SAR_46_T_VALORES"),
    ],
)
def test_names_may_go_on_with_a_year_or_a_place(tmp_path: Path, layer: str, table: str) -> None:
    named = {layer: polygons(), table: classic_values(), "T_USOS_2014": polygons()}
    base = siose.open_base(write_tables(tmp_path / "b.gpkg", "GPKG", **named))
    assert base.layer == layer
    assert base.table is not None
    assert base.table.name == table


def test_of_two_years_the_layer_has_the_table_of_its_own(tmp_path: Path) -> None:
    path = write_tables(
        tmp_path / "b.gpkg", "GPKG",
        T_POLIGONOS_2005=polygons(), T_POLIGONOS_2014=polygons(), T_VALORES=classic_values(),
        T_VALORES_2005=classic_values(), T_VALORES_2014=classic_values(),
    )  # fmt: skip
    base = siose.open_base(path, SioseSettings(layer="T_POLIGONOS_2014"))
    assert base.table is not None
    assert base.table.name == "T_VALORES_2014"


@pytest.mark.parametrize(
    "write",
    [
        lambda number: f"urn:uuid:{number}",
        lambda number: f"{{{number}}}".upper(),
        lambda number: f" URN:UUID:{number} ",
        str,
    ],
)
def test_a_uuid_is_the_same_however_it_is_written(
    tmp_path: Path, write: Callable[[str], str]
) -> None:
    """Access writes braces and capitals, and exports of one base are not all alike."""
    numbers = [f"8a1f0c3e-aaaa-4bcd-9e0f-0000000000{i:02}" for i in range(len(PLOTS))]
    plots = [
        plot._replace(id=f"urn:uuid:{n}") for plot, n in zip(PLOTS, numbers, strict=True)
    ]  # fmt: skip
    values = classic_values(plots)
    values["ID_POLYGON"] = [write(p.removeprefix("urn:uuid:")) for p in values["ID_POLYGON"]]
    frame = polygons(plots=plots).drop(columns="SIOSE_CODE")
    path = write_tables(tmp_path / "b.gpkg", "GPKG", T_POLIGONOS=frame, T_VALORES=values)
    found, odd = resolved(path, CLASSES)
    assert found["polygon_id"].tolist() == [plot.id for plot in plots]
    assert shares_of(found, CLASSES) == {plot.id: dict(plot.shares) for plot in plots}
    assert odd[["kind", "polygon_id"]].to_numpy().tolist() == [["no_values", plots[6].id]]


# Layers with a column of codes

CODES = {"one": 111, "two": 211, "three": 324, "four": 512}


def codes(values: Sequence[object], column: str, ids: Sequence[str] = tuple(CODES)) -> Any:
    shapes = [dialects.square(i) for i in range(len(ids))]
    return geopandas.GeoDataFrame(
        {"ID_POLYGON": list(ids), column: list(values)}, geometry=shapes, crs=UTM
    )


@pytest.mark.parametrize(
    ("driver", "suffix"),
    [
        ("GPKG", "gpkg"), ("ESRI Shapefile", "shp"), ("FlatGeobuf", "fgb"), ("GML", "gml"),
        ("OpenFileGDB", "gdb"), ("GeoJSON", "geojson"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [str, int, float])
@pytest.mark.filterwarnings("ignore:Field CODE_18 of type Integer64 will be written")
def test_corine_of_any_driver_and_type(
    tmp_path: Path, driver: str, suffix: str, kind: type
) -> None:
    corine1 = _configured("corine1")
    frame = codes([kind(code) for code in CODES.values()], "CODE_18")
    crs = "EPSG:4326" if driver == "GeoJSON" else UTM
    path = tmp_path / f"clc.{suffix}"
    pyogrio.write_dataframe(frame.to_crs(crs), path, driver=driver)
    settings = SioseSettings(code_column="code_18", codelist="corine")
    found, odd = resolved(path, corine1, settings)
    assert shares_of(found, corine1) == {
        "one": {"artificial surfaces": 100},
        "two": {"agricultural areas": 100},
        "three": {"forest and semi-natural areas": 100},
        "four": {"water bodies": 100},
    }
    assert set(found["source"]) == {"code"}
    assert len(odd) == 0


OWN = parse(
    {
        "classes": [
            {"name": "crops", "covers": ["own-7", 111, "3*"], "color": "#000001"},
            {"name": "woods", "covers": ["Encinar", "112"], "color": "#000002"},
        ]
    },
    "test",
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["own-7", " Encinar", "3.1", "", None], ["crops", "woods", "crops", "", ""]),
        ([111, 112, 31, 3, 112], ["crops", "woods", "crops", "crops", "woods"]),
        ([111.0, 112.0, 31.0, 3.0, None], ["crops", "woods", "crops", "crops", ""]),
        ([111.0, 112.0, 3.5, 3.0, None], ["crops", "woods", "crops", "crops", ""]),
    ],
)
@pytest.mark.parametrize("suffix", ["gpkg", "shp", "fgb"])
def test_an_analysts_own_codes(
    tmp_path: Path, values: list[object], expected: list[str], suffix: str
) -> None:
    path = tmp_path / f"mine.{suffix}"
    pyogrio.write_dataframe(codes(values, "uso", "abcde"), path)
    found, _ = resolved(path, OWN, SioseSettings(code_column="USO"))
    found = found.sort_values("polygon_id")  # FlatGeobuf has an order of its own
    named = {polygon: next(iter(shares), "") for polygon, shares in shares_of(found, OWN).items()}
    assert named == dict(zip("abcde", expected, strict=True))
    assert (found["source"] == "code").tolist() == [name != "" for name in expected]
    assert (found["reason"] == "empty_label").tolist() == [name == "" for name in expected]


@pytest.mark.parametrize("kind", [str, int, float])
def test_a_column_of_sioses_own_numbers(tmp_path: Path, kind: type) -> None:
    """An analyst's layer has ids of covers as often as their labels."""
    numbers = [AR_IDS["EDF"], AR_IDS["MTR"], AR_IDS["PST"], 777]
    path = tmp_path / "mine.gpkg"
    pyogrio.write_dataframe(codes([kind(n) for n in numbers], "cobertura"), path)
    settings = SioseSettings(
        code_column="cobertura", codelist="siose_ar", unknown_covers="ignore"
    )  # fmt: skip
    found, odd = resolved(path, CLASSES, settings)
    assert shares_of(found, CLASSES) == {
        "one": {"built": 100},
        "two": {"scrub": 100},
        "three": {"grass": 100},
        "four": {"unmapped": 100},
    }
    assert odd[["polygon_id", "text"]].to_numpy().tolist() == [["four", "code '777'"]]


def test_a_column_of_codes_wins_over_siose(tmp_path: Path) -> None:
    frame = polygons(CODIIGE=["own-7"] * 4 + ["Encinar"] * 4)
    path = classic(tmp_path, frame)
    found, _ = resolved(path, OWN, SioseSettings(code_column="codiige", layer="T_POLIGONOS"))
    assert found["share_crops"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_a_layer_without_ids_has_the_numbers_of_its_features(tmp_path: Path) -> None:
    path = tmp_path / "mine.gpkg"
    pyogrio.write_dataframe(codes([111, 111, 112, 112], "uso").drop(columns="ID_POLYGON"), path)
    found, odd = resolved(path, OWN, SioseSettings(code_column="uso"))
    assert found["polygon_id"].tolist() == ["1", "2", "3", "4"]
    assert found["share_crops"].tolist() == [1, 1, 0, 0]
    assert len(odd) == 0


# Geometry


def test_a_geodatabase_of_curves_and_a_layer_of_any_geometry(tmp_path: Path) -> None:
    """GDAL makes lines of arcs; points and lines among polygons have no area."""
    frame = polygons()
    frame.loc[1, "geometry"] = shapely.MultiPolygon([dialects.square(1), dialects.square(12)])
    frame.loc[3, "geometry"] = shapely.GeometryCollection(
        [dialects.square(3), shapely.LineString([(X, Y), (X + 5, Y - 5)])]
    )
    path = tmp_path / "b.gpkg"
    pyogrio.write_dataframe(frame, path, layer="T_POLIGONOS", geometry_type="Unknown")
    found, odd = resolved(path, CLASSES)
    assert found["polygon_id"].tolist() == [plot.id for plot in PLOTS]
    assert found.geometry.area.round(6).tolist() == [100, 200, 100, 100, 100, 100, 100, 100]
    assert odd[["kind", "polygon_id"]].to_numpy().tolist() == [["repaired", "deep"]]


def test_parcels_of_two_bases_that_share_an_id_keep_their_own_rows(tmp_path: Path) -> None:
    """Rows belong to the polygons of their own base, whatever else the folder holds."""
    for number, label in enumerate(("EDF", "SNE")):
        folder = tmp_path / str(number)
        folder.mkdir()
        plot = dialects.Plot("one", label, label, label, {}, None)
        write_dbf(folder, classic_values([plot]))
        path = write_shapefile(folder, polygons(plots=[plot]))
        expected = {"EDF": "built", "SNE": "bare"}[label]
        assert shares_of(resolved(path, CLASSES)[0], CLASSES) == {"one": {expected: 100}}


def test_values_of_siose_ar_as_text_of_a_view(tmp_path: Path) -> None:
    """A view that joins years is as good as a table."""
    path = write_base(
        tmp_path / "b.gpkg",
        [Parcel("a", "EDF", dialects.square(0), [(101, "EDF", 100.0)])],
        parcels_crs=UTM, values="rows_2017", registered=False,
    )  # fmt: skip
    dialects.run_sql(path, "CREATE VIEW SAR_99_T_VALORES AS SELECT * FROM rows_2017")
    found, _ = resolved(path, CLASSES)
    assert found["source"].tolist() == ["table"]
    assert shares_of(found, CLASSES) == {"a": {"built": 100}}


def _configured(name: str) -> Nomenclature:
    file = Path(__file__).parents[1] / "configs" / "nomenclatures" / f"{name}.yaml"
    return parse(yaml.safe_load(file.read_text(encoding="utf-8")), name)
