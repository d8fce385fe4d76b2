"""Files of polygons, written as they come: GeoPackage with its style, or GeoParquet.

Rows go from Arrow straight to the file, some thousands at a time; GeoPandas would hold them all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from pipeline.errors import OutputError
from pipeline.geopackage import categories_qml, store_style
from pipeline.nomenclature import IGNORE
from pipeline.publication import unwritable
from pipeline.vectors import PatchBatch

Suffix = Literal["gpkg", "parquet"]

_GEOMETRY = "geom"


def geometry_field(kind: str) -> pa.Field:
    """Column of geometry as WKB, all of one type: ``Polygon`` or ``MultiPolygon``."""
    return pa.field(_GEOMETRY, pa.binary(), metadata={"geometry_type": kind})


def _kind(schema: pa.Schema) -> str:
    return str(schema.field(_GEOMETRY).metadata[b"geometry_type"], "ascii")


def class_style(names: Sequence[str], colors: Sequence[str]) -> str:
    """QGIS style of polygons by their column ``class``."""
    pairs = zip(names, colors, strict=True)
    return categories_qml("class", {str(i): pair for i, pair in enumerate(pairs)})


def targets(out: Path, shares: bool) -> tuple[Path, ...]:
    """Files of a map's polygons: one GeoPackage; or GeoParquet and its style, for each layer.

    Args:
        out: The first one.
        shares: Whether SIOSE's polygons are written too.
    """
    if out.suffix == ".gpkg":
        return (out,)
    siose = out.with_suffix(".siose.parquet")
    first, second = (out, out.with_suffix(".qml")), (siose, siose.with_suffix(".qml"))
    return (*first, *second) if shares else first


def write(
    rows: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    drafts: Sequence[Path],
    layer: str,
    crs: str,
    style: str,
) -> None:
    """Write a layer to a GeoPackage, or to a GeoParquet file and the style beside it.

    Args:
        rows: The rows, with ``geom`` as WKB.
        schema: Their columns.
        drafts: The files of the layer.
        layer: Its name.
        crs: Coordinate reference system.
        style: QGIS style (QML).
    """
    if drafts[0].suffix == ".gpkg":
        write_geopackage(rows, schema, drafts[0], layer, crs, style)
    else:
        write_geoparquet(rows, schema, drafts[0], crs)
        drafts[1].write_text(style, "utf-8")


def patch_rows(batches: Iterable[PatchBatch], names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Rows of patches: ``class``, ``name``, ``area_m2``, ``pixels``, ``confidence``, geometry.

    The area is that of the pixels, which simplified outlines hold up to what they moved.
    """
    for batch in batches:
        sure = np.isfinite(batch.confidence)
        columns = {
            "class": pa.array(batch.classes.astype(np.int32)),
            "name": class_names(batch.classes, names),
            "area_m2": pa.array(batch.area_m2),
            "pixels": pa.array(batch.pixels),
            "confidence": pa.array(batch.confidence, mask=~sure),
            _GEOMETRY: pa.array(shapely.to_wkb(batch.geometry, flavor="iso"), pa.binary()),
        }
        yield pa.RecordBatch.from_pydict(columns, patch_schema())


def patch_schema() -> pa.Schema:
    """Columns of patches."""
    return pa.schema(
        [
            ("class", pa.int32()),
            ("name", pa.string()),
            ("area_m2", pa.float64()),
            ("pixels", pa.int64()),
            ("confidence", pa.float64()),
            geometry_field("Polygon"),
        ]
    )


def class_names(classes: NDArray[np.uint8], names: Sequence[str]) -> pa.Array:
    """Name of each class id; null for 255."""
    codes = np.where(classes == IGNORE, 0, classes).astype(np.int32)
    found = pa.DictionaryArray.from_arrays(
        pa.array(codes, mask=classes == IGNORE), pa.array(list(names), pa.string())
    )
    return found.cast(pa.string())


def write_geopackage(
    rows: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    draft: Path,
    layer: str,
    crs: str,
    style: str,
) -> None:
    """Write a layer of a GeoPackage that opens styled in QGIS; a file that is there gets another.

    The same rows give the same bytes.

    Args:
        rows: The rows, with ``geom`` as WKB.
        schema: Their columns.
        draft: The file.
        layer: Name of the layer.
        crs: Coordinate reference system.
        style: QGIS style (QML).

    Raises:
        OutputError: If it cannot be written. What ``rows`` raises is raised as it is.
    """
    failures: list[BaseException] = []

    def passed() -> Iterator[pa.RecordBatch]:
        try:
            yield from rows
        except BaseException as error:
            failures.append(error)
            raise

    there = draft.exists()
    try:
        with _dated():
            pyogrio.write_arrow(
                pa.RecordBatchReader.from_batches(schema, passed()),
                draft,
                layer=layer,
                driver="GPKG",
                geometry_name=_GEOMETRY,
                geometry_type=_kind(schema),
                crs=crs,
                append=there,
                layer_options={"GEOMETRY_NAME": _GEOMETRY},
                # QGIS 3.22 warns of newer ones
                dataset_options=None if there else {"VERSION": "1.2"},
            )
    except RuntimeError as error:
        if failures:  # on its way through Arrow it became another one
            raise failures[0] from None
        told = unwritable(draft)
        what = f"{draft.parent}: the layer {layer} cannot be written ({error})."
        raise OutputError(what, told.items, told.remedy) from error
    store_style(draft, layer, style)


@contextmanager
def _dated() -> Iterator[None]:
    """GDAL writes the time into a GeoPackage: let it be the same one each time."""
    option = "OGR_CURRENT_DATE"
    before = pyogrio.get_gdal_config_option(option)
    pyogrio.set_gdal_config_options({option: "2000-01-01T00:00:00.000Z"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({option: before})


def write_geoparquet(
    rows: Iterable[pa.RecordBatch], schema: pa.Schema, draft: Path, crs: str
) -> None:
    """Write GeoParquet; it holds no style: QGIS takes the ``.qml`` beside it.

    Args:
        rows: The rows, with ``geom`` as WKB.
        schema: Their columns.
        draft: The file.
        crs: Coordinate reference system.

    Source: GeoParquet 1.0.0, https://geoparquet.org.
    """
    column: dict[str, Any] = {
        "encoding": "WKB",
        "crs": pyproj.CRS(crs).to_json_dict(),
        "geometry_types": [_kind(schema)],
    }
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    with pyarrow.parquet.ParquetWriter(draft, schema, compression="zstd") as target:
        for batch in rows:
            points = shapely.get_coordinates(shapely.from_wkb(batch.column(_GEOMETRY).to_pylist()))
            if len(points):
                low, high = (
                    np.minimum(low, points.min(axis=0)),
                    np.maximum(high, points.max(axis=0)),
                )
            target.write_batch(batch)
        if np.isfinite(low).all():
            column["bbox"] = [*low.tolist(), *high.tolist()]
        geo = {"version": "1.0.0", "primary_column": _GEOMETRY, "columns": {_GEOMETRY: column}}
        target.add_key_value_metadata({"geo": json.dumps(geo)})
