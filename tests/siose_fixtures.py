"""A small SIOSE AR GeoPackage for tests: written by hand, table by table, as the real ones are."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer

from pipeline.nomenclature import Nomenclature, TrainingClass

LAYER, VALUES, CODELIST = "SAR_99_T_POLIGONOS", "SAR_99_T_VALORES", "LISTADO_COBERTURAS"

COVERS: tuple[tuple[object, str, str], ...] = (
    (101, "EDF", "Edificación"),
    (104, "PAV", "Zonas pavimentadas o selladas"),
    (121, "SNE", "Suelo no edificado"),
    (316, "CNF", "Coníferas"),
    (523, "AMO", "Mares y océanos"),
    (999, "DSC", "Desconocido"),
)

CLASSES = Nomenclature(
    (
        TrainingClass("built", ("EDF", "PAV"), "#C00000"),
        TrainingClass("bare", (121,), "#E0C080"),
        TrainingClass("forest", ("CNF",), "#206020"),
    ),
    ignored=("AMO",),
    aliases={"CONIF": "CNF", "PIN": "CNF"},
)
"""Built-up ground, bare ground and forest; the sea is ignored on purpose."""


@dataclass(frozen=True)
class Parcel:
    """A polygon of a base.

    Attributes:
        id: ``ID_POLYGON``; None is NULL.
        label: ``ROTULO``; None is NULL.
        geometry: In the CRS that :func:`write_base` is told; None is NULL.
        values: ``ID_COBERTURA``, ``CODE_ABREV`` and per cent of each row of the table.
    """

    id: str | None
    label: str | None
    geometry: shapely.Geometry | None
    values: Sequence[tuple[object, str | None, object]] = ()


def pure(name: str, label: str, cover: int, geometry: shapely.Geometry) -> Parcel:
    """A polygon of one cover."""
    return Parcel(name, label, geometry, [(cover, label, 100.0)])


def write_base(
    path: Path,
    parcels: Sequence[Parcel],
    crs: str | None = "EPSG:4258",
    parcels_crs: str | None = None,
    codelist: Sequence[tuple[object, str, str]] | None = COVERS,
    layer: str = LAYER,
    values: str | None = VALUES,
    lower: Collection[str] = (),
    leave_out: Sequence[str] = (),
    registered: bool = True,
) -> Path:
    """Write a base.

    Args:
        path: GeoPackage to write.
        parcels: Its polygons, in the order of their fid.
        crs: CRS of the base.
        parcels_crs: CRS that the parcels' geometry is in; the base's where left out.
        codelist: Rows of ``LISTADO_COBERTURAS``, or None for a base without it.
        layer: Name of the polygons' layer.
        values: Name of the values table, or None for a base without it.
        lower: Layer and tables whose columns are in lower case.
        leave_out: Columns of both that are not there.
        registered: Whether ``gpkg_contents`` lists the tables.
    """
    geometry: NDArray[np.object_] = np.array([p.geometry for p in parcels], dtype=object)
    if parcels_crs:
        step = Transformer.from_crs(parcels_crs, crs, always_xy=True)
        geometry = shapely.transform(
            geometry, lambda points: np.column_stack(step.transform(*points.T))
        )
    columns: dict[str, list[object]] = {
        "ID_POLYGON": [p.id for p in parcels],
        "ROTULO": [p.label for p in parcels],
        "ID_COBERTURA_MAX": [0 for _ in parcels],
    }
    frame = geopandas.GeoDataFrame(
        {
            name.lower() if layer in lower else name: column
            for name, column in columns.items()
            if name not in leave_out
        },
        geometry=geometry,
        crs=crs,
    )
    frame.to_file(path, layer=layer, driver="GPKG", engine="pyogrio", geometry_name="geom")
    tables: list[str] = []
    with closing(sqlite3.connect(path)) as base:
        if values is not None:
            rows = [
                (p.id, p.label, abbreviation, cover, percent, 1.0)
                for p in parcels
                for cover, abbreviation, percent in p.values
            ]
            names = (
                "ID_POLYGON", "ROTULO", "CODE_ABREV", "ID_COBERTURA", "SUPERF_POR_SINREDONDEO",
                "SUPERF_M2",
            )  # fmt: skip
            used = [i for i, name in enumerate(names) if name not in leave_out]
            spelt = [names[i].lower() if values in lower else names[i] for i in used]
            kinds = ("TEXT", "TEXT", "TEXT", "INTEGER", "REAL", "REAL")
            declared = ", ".join(f"{name} {kinds[i]}" for name, i in zip(spelt, used, strict=True))
            base.execute(f"CREATE TABLE {values} ({declared})")
            marks = ", ".join("?" for _ in used)
            base.executemany(
                f"INSERT INTO {values} VALUES ({marks})",
                [tuple(row[i] for i in used) for row in rows],
            )
            tables.append(values)
        if codelist is not None:
            base.execute(
                f"CREATE TABLE {CODELIST} (ID_COBERTURA INTEGER, ETIQUETA TEXT, DESCRIPCION TEXT)"
            )
            base.executemany(f"INSERT INTO {CODELIST} VALUES (?, ?, ?)", codelist)
            tables.append(CODELIST)
        if registered:
            base.executemany(
                "INSERT INTO gpkg_contents (table_name, data_type, identifier) "
                "VALUES (?, 'attributes', ?)",
                [(table, table) for table in tables],
            )
        base.commit()
    return path
