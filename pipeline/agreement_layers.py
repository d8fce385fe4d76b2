"""Layers of the polygons that differ the most, and of update candidates, as QGIS opens them.

Attributes are made of arrays that hold all polygons; outlines are read of the listed ones alone,
some thousands at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pyproj
import shapely
from numpy.typing import NDArray

from pipeline.compared_polygons import Changes, ComparedPolygons
from pipeline.geopackage import categories_qml, ranges_qml
from pipeline.listed_polygons import CandidateRow, PolygonRow
from pipeline.proportions import Proportions
from pipeline.siose_shares import multi
from pipeline.vector_files import geometry_field

WORST, CANDIDATES = "worst", "candidates"
"""Names of the layers."""

DIFFERENCES = {
    (0.0, 0.25): ("up to 25 % differs", "#FFD92F"),
    (0.25, 0.5): ("25 to 50 % differs", "#FD8D3C"),
    (0.5, 0.75): ("50 to 75 % differs", "#E31A1C"),
    (0.75, 1.0): ("75 to 100 % differs", "#7A0177"),
}
"""Ranges of the difference, their legend and colour: darker is worse, for all colour vision."""

_ROWS = 4096
"""Polygons that are read, and written, at once."""

_NAMED = 0.05
"""Shares below this one are not in the texts."""


@dataclass(frozen=True)
class ListedSheet:
    """All that is known of the polygons of a sheet; rows of arrays are those of the proportions.

    Attributes:
        sheet: Name of the sheet.
        path: File of the proportions.
        crs: Coordinate reference system of the sheet.
        names: Names of the classes.
        proportions: The proportions, as read.
        compared: The polygons on the whole sheet.
        changes: What has changed in them; None where it is not known.
        area_m2: Their areas.
        pixels: Their mapped pixels.
        confidence: Mean confidence in per cent, NaN where none is known.
        splits: Split of the ground that each mostly lies on, or an empty text.
    """

    sheet: str
    path: Path
    crs: str
    names: tuple[str, ...]
    proportions: Proportions
    compared: ComparedPolygons
    changes: Changes | None
    area_m2: NDArray[np.float64]
    pixels: NDArray[np.int64]
    confidence: NDArray[np.float64]
    splits: NDArray[np.object_]

    def worst(self, most: int) -> NDArray[np.int64]:
        """Rows of the polygons that differ the most, worst first; of the same, the largest."""
        difference = self.compared.differences()
        listed = np.flatnonzero(difference > 1e-9)  # NaN is not compared
        order = np.lexsort((-self.area_m2[listed], -difference[listed].round(9)))
        return listed[order][:most]

    def candidates(self, min_change: float) -> NDArray[np.int64]:
        """Rows of all update candidates, the one with the largest changed area first."""
        if self.changes is None:
            return np.zeros(0, np.int64)
        listed = self.changes.candidates(min_change)
        return listed[np.argsort(-self.changed_m2()[listed], kind="stable")]

    def changed_m2(self) -> NDArray[np.float64]:
        """Area of each polygon that has changed."""
        assert self.changes is not None
        return self.changes.share * self.area_m2


def worst_schema(names: Sequence[str]) -> pa.Schema:
    """Columns of the layer of polygons that differ."""
    return _schema(names, [])


def candidate_schema(names: Sequence[str]) -> pa.Schema:
    """Columns of the layer of update candidates."""
    texts = [(name, pa.string()) for name in ("from", "to")]
    numbers = [(name, pa.float64()) for name in ("changed_share", "changed_ha", "changed_m2")]
    return _schema(names, texts + numbers)


def worst_style() -> str:
    """QGIS style of the polygons that differ."""
    return ranges_qml("difference", DIFFERENCES)


def candidate_style(names: Sequence[str], colors: Sequence[str]) -> str:
    """QGIS style of the update candidates: the class that they have become."""
    pairs = zip(names, colors, strict=True)
    return categories_qml("to", {name: (f"now {name}", color) for name, color in pairs})


def layer_rows(
    sheet: ListedSheet, listed: NDArray[np.int64], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Rows of a layer in the order in which they are listed.

    Args:
        sheet: The polygons.
        listed: Their rows.
        schema: Columns of the layer.
    """
    for first in range(0, len(listed), _ROWS):
        rows = listed[first : first + _ROWS]
        texts = read_rows(sheet.path, rows)
        columns = _columns(sheet, rows)
        for name in ("polygon_id", "label"):
            columns[name] = texts[name]
        columns["geom"] = pa.array(_multi(texts["geometry"]), pa.binary())
        arrays = [_array(columns[one.name], one.type) for one in schema]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def polygon_rows(sheet: ListedSheet, listed: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """What the lists of :class:`AgreementCounts` say of polygons, as keywords of their rows."""
    texts, columns = read_rows(sheet.path, listed), _columns(sheet, listed)
    points = shapely.point_on_surface(shapely.from_wkb(texts["geometry"]))
    to_degrees = pyproj.Transformer.from_crs(sheet.crs, "EPSG:4326", always_xy=True)
    longitude, latitude = to_degrees.transform(shapely.get_x(points), shapely.get_y(points))
    for i in range(len(listed)):
        yield {
            "sheet": sheet.sheet,
            "polygon_id": texts["polygon_id"][i] or "",
            "label": texts["label"][i] or "",
            "split": columns["split"][i],
            "area_m2": float(columns["area_m2"][i]),
            "difference": float(columns["difference"][i]),
            "siose_class": columns["largest_siose"][i],
            "siose_share": float(columns["largest_siose_share"][i]),
            "mapped_class": columns["largest_mapped"][i],
            "mapped_share": float(columns["largest_mapped_share"][i]),
            "confidence": float(columns["confidence"][i]),
            "longitude": round(float(longitude[i]), 6),
            "latitude": round(float(latitude[i]), 6),
        }


def worst_list(sheet: ListedSheet, listed: NDArray[np.int64]) -> tuple[PolygonRow, ...]:
    """Rows for the counts."""
    return tuple(PolygonRow(**row) for row in polygon_rows(sheet, listed))


def candidate_list(sheet: ListedSheet, listed: NDArray[np.int64]) -> tuple[CandidateRow, ...]:
    """Rows for the counts."""
    columns = _columns(sheet, listed)
    return tuple(
        CandidateRow(
            **row,
            from_class=columns["from"][i],
            to_class=columns["to"][i],
            changed_share=float(columns["changed_share"][i]),
            changed_m2=float(columns["changed_m2"][i]),
        )
        for i, row in enumerate(polygon_rows(sheet, listed))
    )


def read_rows(path: Path, rows: NDArray[np.int64]) -> dict[str, list[Any]]:
    """Id, label and outline (WKB) of some polygons of a file of proportions.

    Args:
        path: The file.
        rows: Which, in any order; their number is what the memory grows with.

    Returns:
        ``polygon_id``, ``label`` and ``geometry`` in the order of ``rows``.
    """
    names = ["polygon_id", "label", "geometry"]
    found: dict[str, list[Any]] = {name: [None] * len(rows) for name in names}
    order = np.argsort(rows)
    ascending, first = rows[order], 0
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS, columns=names, use_threads=False):
            begin, end = np.searchsorted(ascending, (first, first + len(batch))).tolist()
            some = batch.take(pa.array(ascending[begin:end] - first))
            for name in names:
                for place, value in zip(
                    order[begin:end].tolist(), some.column(name).to_pylist(), strict=True
                ):
                    found[name][place] = value if name == "geometry" else _text(value)
            first += len(batch)
            if end == len(rows):
                break
    return found


def _schema(names: Sequence[str], added: list[tuple[str, pa.DataType]]) -> pa.Schema:
    text, number = pa.string(), pa.float64()
    shares = [(f"{kind}_{name}", number) for kind in ("mapped", "siose") for name in names]
    return pa.schema(
        [
            ("polygon_id", text),
            ("label", text),
            ("split", text),
            ("area_ha", number),
            *added,
            ("difference", number),
            ("confidence", number),
            ("siose", text),
            ("mapped", text),
            ("largest_siose", text),
            ("largest_siose_share", number),
            ("largest_mapped", text),
            ("largest_mapped_share", number),
            ("area_m2", number),
            ("pixels", pa.int64()),
            *shares,
            ("siose_unmapped", number),
            geometry_field("MultiPolygon"),
        ]
    )


def _columns(sheet: ListedSheet, rows: NDArray[np.int64]) -> dict[str, Any]:
    """All columns of some polygons but those that are read from the file."""
    mapped, siose = sheet.compared.mapped[rows], sheet.proportions.shares[rows]
    area_m2 = sheet.area_m2[rows]
    found: dict[str, Any] = {
        "split": sheet.splits[rows].tolist(),
        "area_ha": area_m2 / 1e4,
        "area_m2": area_m2,
        "pixels": sheet.pixels[rows],
        "difference": sheet.compared.differences()[rows],
        "confidence": sheet.confidence[rows],
        "siose": _in_words(siose, sheet.names),
        "mapped": _in_words(mapped, sheet.names),
        "siose_unmapped": sheet.proportions.unmapped[rows],
    }
    for kind, shares in (("mapped", mapped), ("siose", siose)):
        largest = shares.argmax(axis=1)
        found[f"largest_{kind}"] = [sheet.names[k] for k in largest]
        found[f"largest_{kind}_share"] = shares.max(axis=1)
        found |= {f"{kind}_{name}": shares[:, k] for k, name in enumerate(sheet.names)}
    if sheet.changes is not None:
        found["from"] = [sheet.names[k] for k in sheet.changes.lost[rows]]
        found["to"] = [sheet.names[k] for k in sheet.changes.won[rows]]
        found["changed_share"] = sheet.changes.share[rows]
        found["changed_m2"] = sheet.changed_m2()[rows]
        found["changed_ha"] = found["changed_m2"] / 1e4
    return found


def _in_words(shares: NDArray[np.float64], names: Sequence[str]) -> list[str]:
    """Shares as a person reads them, the largest first: ``60 % crops, 40 % forest``."""
    texts = []
    for row in shares:
        order = [k for k in np.argsort(-row, kind="stable") if row[k] >= _NAMED - 1e-9]
        texts.append(", ".join(f"{100 * row[k]:.0f} % {names[k]}" for k in order))
    return texts


def _array(values: list[Any] | NDArray[Any] | pa.Array, kind: pa.DataType) -> pa.Array:
    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        # Rounded: a table is read by people.
        return pa.array(values.round(4), kind, mask=np.isnan(values))
    return pa.array(values, kind)


def _multi(geometry: list[bytes]) -> list[bytes]:
    """All as polygons of several parts: a layer has one type."""
    return list(shapely.to_wkb(multi(shapely.from_wkb(geometry)), flavor="iso"))


def _text(value: object) -> str | None:
    return None if value is None else str(value)
