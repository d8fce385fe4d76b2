"""One little SIOSE base, written in each of the forms in which people have such bases."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import pandas as pd
import pyogrio
import shapely

from pipeline.codelists import built_in
from pipeline.nomenclature import Nomenclature, parse
from pipeline.rotulo import Leaf, Part, leaves
from pipeline.rotulo import parse as parse_label
from tests.siose_fixtures import Parcel
from tests.siose_xml_fixture import xml_of

UTM = "EPSG:25830"
X, Y = 700_000.0, 4_400_000.0
SIDE = 10.0

CLASSIC_IDS = {c.label: c.id for c in built_in("siose_classic") if c.label} | {"DSC": 999}
AR_IDS = {c.label: c.id for c in built_in("siose_ar")}
WITH_FREE = CLASSIC_IDS | dict.fromkeys("ARI", 600)
"""Ids as ``T_VALORES`` has them: 600 for each free composite, whose letter is an attribute."""


class Plot(NamedTuple):
    """A polygon of the base.

    Attributes:
        id: ``ID_POLYGON``.
        classic: ``SIOSE_CODE``.
        ar: ``ROTULO``, flat, of the same covers; SIOSE AR has no predefined composites.
        largest: Label of ``ID_COBERTURA_MAX``, the same in both.
        shares: Of the classes of :data:`CLASSES` that it has, in per cent.
        largest_class: The class of the largest cover alone; None for no class.
    """

    id: str
    classic: str
    ar: str
    largest: str
    shares: Mapping[str, float]
    largest_class: str | None


PLOTS = (
    Plot("one", "EDF", "EDF", "EDF", {"built": 100}, "built"),
    Plot("two", "A(60MTR_40PST)", "60MTR_40PST", "MTR", {"scrub": 60, "grass": 40}, "scrub"),
    Plot(
        "nested",
        "I(70UDS(40EDF_60ZAU)_30SNE)",
        "42ZAU_30SNE_28EDF",
        "ZAU",
        {"built": 28, "green": 42, "bare": 30},
        "green",
    ),
    Plot(
        "deep",
        "I(50SNE_50R(50MTR_50A(50DHS(80PST_20FDPpl)_50CNF)))",
        "50SNE_25MTR_12.5CNF_10PST_2.5FDPpl",
        "SNE",
        {"bare": 50, "scrub": 25, "trees": 12.5, "grass": 10, "plantation": 2.5},
        "bare",
    ),
    Plot("town", "UCS", "EDF", "EDF", {"built": 100}, "built"),
    Plot("unknown", "DSC", "DSC", "DSC", {"unmapped": 100}, None),
    Plot("empty", "", "", "", {}, None),
    Plot(
        "planted", "A(70CNFpl_30FDC)", "70CNFpl_30FDC", "CNF",
        {"plantation": 70, "trees": 30}, "trees",
    ),
)  # fmt: skip


def _classes(**covers: Sequence[object]) -> Nomenclature:
    classes = [
        {"name": name, "covers": list(listed), "color": f"#{number:06X}"}
        for number, (name, listed) in enumerate(covers.items(), 1)
    ]
    return parse({"classes": classes}, "test")


CLASSES = _classes(
    built=["EDF", {"cover": "UCS", "optional": True}],
    green=["ZAU"],
    bare=["SNE"],
    grass=["PST"],
    scrub=["MTR"],
    plantation=[{"cover": "31*", "with": "pl"}],
    trees=["31*"],
)
"""A class for each thing that a dialect may lose."""

DEHESA_PASTURE = _classes(
    dehesa=[{"cover": "PST", "within": "DHS"}, {"cover": "FDP", "within": "UDS"}],
    rest=["*"],
)
DEHESA_WHOLE = _classes(dehesa=[{"cover": "DHS", "whole": True}], rest=["*"])


def square(column: int) -> shapely.Polygon:
    """A polygon of the base: squares of ten metres in a row, in :data:`UTM`."""
    return shapely.box(X + column * SIDE, Y - SIDE, X + (column + 1) * SIDE, Y)


def ar_parcels(plots: Sequence[Plot] = PLOTS, rows: bool = True) -> list[Parcel]:
    """The base for ``write_base``."""
    return [
        Parcel(plot.id, plot.ar, square(i), ar_values(plot.ar) if rows else ())
        for i, plot in enumerate(plots)
    ]


def ar_values(label: str) -> list[tuple[object, str | None, object]]:
    """Rows of SIOSE AR's ``T_VALORES``: id, ``CODE_ABREV`` and per cent."""
    found = leaves(parse_label(label)) if label else []
    percents = [f"{round(100 * leaf.share):02}" if len(found) > 1 else "" for leaf in found]
    return [
        (AR_IDS[leaf.cover], f"{percent}{_written(leaf)}", 100 * leaf.share)
        for leaf, percent in zip(found, percents, strict=True)
    ]


def polygons(
    column: str = "SIOSE_CODE",
    values: Sequence[Any] | None = None,
    plots: Sequence[Plot] = PLOTS,
    crs: str = UTM,
    **others: Sequence[Any],
) -> geopandas.GeoDataFrame:
    """``T_POLIGONOS`` with ``ID_POLYGON``, the classic label or another column, and others."""
    columns: dict[str, Any] = {"ID_POLYGON": [plot.id for plot in plots]}
    columns[column] = [plot.classic for plot in plots] if values is None else list(values)
    frame = geopandas.GeoDataFrame(
        columns | {name: list(listed) for name, listed in others.items()},
        geometry=[square(i) for i in range(len(plots))],
        crs=UTM,
    )
    return frame.to_crs(crs)


def classic_values(plots: Sequence[Plot] = PLOTS) -> pd.DataFrame:
    """Classic ``T_VALORES``: a row for each cover and for each composite."""
    rows: list[tuple[object, ...]] = []
    for plot in plots:
        inter = 0
        todo: list[tuple[Part, float, tuple[int, ...], tuple[int, ...]]] = [
            (part, 100.0, (), ()) for part in reversed(parse_label(plot.classic))
        ] if plot.classic else []  # fmt: skip
        while todo:
            part, whole, above, inside = todo.pop()
            inter += 1
            share = whole if part.percent is None else whole * part.percent / 100
            free = part.cover in "ARI"
            rows.append(
                (
                    plot.id,
                    WITH_FREE[part.cover],
                    _path(inside),
                    inter,
                    _path(above),
                    part.cover if free else "".join(part.attributes),
                    round(share * SIDE**2 / 1e6, 6),
                    share,
                )
            )
            lower = (*above, inter), (*inside, WITH_FREE[part.cover])
            todo += [(inner, share, *lower) for inner in reversed(part.parts)]
    names = (
        "ID_POLYGON", "ID_COBERTURAS", "ID_ANCESTROS", "INTER_ID", "INTER_ANCESTROS", "ATRIBUTOS",
        "SUPERF_HA", "SUPERF_POR",
    )  # fmt: skip
    return pd.DataFrame(rows, columns=list(names))


def ar_table(plots: Sequence[Plot] = PLOTS) -> pd.DataFrame:
    """SIOSE AR's ``T_VALORES``."""
    rows = [(plot.id, plot.ar, *row) for plot in plots for row in ar_values(plot.ar)]
    names = ("ID_POLYGON", "ROTULO", "ID_COBERTURA", "CODE_ABREV", "SUPERF_POR_SINREDONDEO")
    return pd.DataFrame(rows, columns=list(names))


def codelist_table() -> pd.DataFrame:
    """``TC_SIOSE_COBERTURAS`` of the classic model."""
    covers = [(c.id, c.description, c.label) for c in built_in("siose_classic")]
    names = ("ID_COBERTURAS", "DESCRIPCION_COBERTURAS", "CODE_ABREVIADO")
    return pd.DataFrame(covers, columns=list(names))


def xml_texts(ids: Mapping[str, int], plots: Sequence[Plot] = PLOTS) -> list[str]:
    """``SIOSE_XML`` of the polygons, with covers by their id, or label where it is not there."""
    return [xml_of(parse_label(plot.classic), ids) if plot.classic else "" for plot in plots]


def cut(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with the ten characters that DBF leaves of a column's name."""
    return frame.rename(columns={name: name[:10] for name in frame.columns if name != "geometry"})


def lower(frame: Any, but: Collection[str] = ("geometry",)) -> Any:
    """The table with its columns in lower case."""
    return frame.rename(columns={n: n.lower() for n in frame.columns if n not in but})


def write_tables(path: Path, driver: str, **tables: pd.DataFrame) -> Path:
    """Write layers and tables, by their names, one after the other into one file."""
    for name, frame in tables.items():
        kind = {"geometry_type": "Polygon"} if "geometry" in frame else {}
        with warnings.catch_warnings():
            # A geodatabase renames "table", and says so of each of SIOSE's names.
            warnings.simplefilter("ignore", RuntimeWarning)
            pyogrio.write_dataframe(
                frame, path, layer=name, driver=driver, append=path.exists(), **kind
            )
    return path


def write_shapefile(folder: Path, frame: geopandas.GeoDataFrame, name: str = "T_POLIGONOS") -> Path:
    """Write a Shapefile, whose columns are cut as the driver does it."""
    path = folder / f"{name}.shp"
    pyogrio.write_dataframe(cut(frame), path, driver="ESRI Shapefile")
    return path


def write_dbf(folder: Path, frame: pd.DataFrame, name: str = "T_VALORES") -> Path:
    """Write a DBF that belongs to no Shapefile."""
    path = folder / f"{name}.dbf"
    pyogrio.write_dataframe(cut(frame), path, driver="ESRI Shapefile")
    return path


def run_sql(path: Path, *statements: str) -> Path:
    """Change a GeoPackage as somebody may have."""
    with closing(sqlite3.connect(path)) as base:
        for statement in statements:
            base.execute(statement)
        base.commit()
    return path


def _written(leaf: Leaf) -> str:
    return leaf.cover + "".join(leaf.attributes)


def _path(steps: Sequence[int]) -> str:
    return ",".join(map(str, steps))
