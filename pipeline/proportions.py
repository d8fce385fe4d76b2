"""Class proportions of a sheet's polygons, as the steps after ``class_proportions`` read them.

Neither GeoPandas nor pandas is loaded here: they take memory and time that labels and shards
have no use for. Arrow's ``to_numpy`` would load pandas: columns go another way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import shapely
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.nomenclature import Nomenclature

OFF_PERCENT = 1.0
"""Percentages of a polygon may miss 100 by this much, whole ones by more: they are rounded."""

# Polygons in memory at once: an array of more is no faster, and GEOS keeps 1 KB for each.
_ROWS = 4096


@dataclass(frozen=True)
class StoredPolygons:
    """Polygons of a file of proportions; each time they are gone through they are read anew.

    Attributes:
        path: The file.
    """

    path: Path

    def __iter__(self) -> Iterator[NDArray[np.object_]]:
        """Arrays of polygons in the order of the rows.

        Raises:
            InputError: If they cannot be read.
        """
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(_ROWS, columns=["geometry"], use_threads=False):
                    yield shapely.from_wkb(_objects(batch.column(0)))
        except (pa.ArrowException, OSError, ValueError, shapely.errors.ShapelyError) as error:
            raise _unreadable(self.path, error) from error


@dataclass(frozen=True)
class Proportions:
    """Class proportions of a sheet's polygons, as read back.

    Attributes:
        geometry: Polygons in the sheet's CRS, in arrays of some rows each.
        shares: Share of each training class, 0 to 1, shape ``(n, classes)``.
        unmapped: Share that belongs to no class, shape ``(n,)``.
        reasons: Why a polygon is not interpreted, or an empty string, shape ``(n,)``.
        nomenclature: Fingerprint of the nomenclature.
        tolerance_m: How far the outlines of the source may be off, in metres; NaN where unknown.
    """

    geometry: Iterable[NDArray[np.object_]]
    shares: NDArray[np.float64]
    unmapped: NDArray[np.float64]
    reasons: NDArray[np.object_]
    nomenclature: str
    tolerance_m: float = math.nan


def read_proportions(path: Path, nomenclature: Nomenclature) -> Proportions:
    """Read class proportions back; of the polygons, only where they are.

    Raises:
        InputError: If the file is missing, damaged, or was made with another nomenclature.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file.", remedy="Run class_proportions first.")
    names = [f"share_{name}" for name in nomenclature.names]
    columns = [*names, "share_unmapped", "reason"]
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            metadata = file.schema_arrow.metadata or {}
            _check_geometry(metadata)
            table = file.read(columns, use_threads=False).combine_chunks()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    made_with = metadata.get(b"tesela_nomenclature", b"").decode()
    if made_with != nomenclature.fingerprint:
        raise InputError(
            f"{path}: was made with another nomenclature ({made_with or 'none'}, "
            f"now {nomenclature.fingerprint}).",
            remedy="Run class_proportions again, or choose another `run` folder.",
        )
    shares = np.empty((len(table), len(names)))
    for number, name in enumerate(names):
        shares[:, number] = _numbers(table[name])
    # As a dictionary: one text a reason, not one a polygon.
    coded = table["reason"].dictionary_encode().combine_chunks()
    reasons = _objects(coded.dictionary)[np.from_dlpack(coded.indices)]
    return Proportions(
        StoredPolygons(path),
        shares,
        _numbers(table["share_unmapped"]),
        reasons,
        made_with,
        float(metadata.get(b"tesela_tolerance_m", b"nan")),
    )


def _check_geometry(metadata: dict[bytes, bytes]) -> None:
    """Refuse a file whose column of polygons is none of GeoParquet's.

    Raises:
        ValueError: If it is not.
    """
    geo: dict[str, Any] = json.loads(metadata.get(b"geo", b"{}"))
    if geo.get("columns", {}).get("geometry", {}).get("encoding") != "WKB":
        raise ValueError("it has no GeoParquet column `geometry` as WKB")


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(np.from_dlpack(column.combine_chunks()), np.float64)


def _objects(column: pa.Array | pa.ChunkedArray) -> NDArray[np.object_]:
    return np.array(column.to_pylist(), object)


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: cannot be read ({error}).", remedy="Run class_proportions again.")
