"""Polygons of a SIOSE base: a sheet's through the spatial index, or all of them some at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from pipeline import mending, topology
from pipeline.errors import InputError
from pipeline.siose_base import SioseBase
from pipeline.siose_files import READ_ERRORS, remedy_of
from pipeline.siose_tables import numbers, readable, texts
from pipeline.topology import Finding

Bounds = tuple[float, float, float, float]

AREAL = (shapely.GeometryType.POLYGON.value, shapely.GeometryType.MULTIPOLYGON.value)

_SLICE = 10_000  # polygons that one thread decodes at a time


@dataclass(frozen=True)
class Attributes:
    """What a layer says of its polygons, in the order of their fid: not in that of its index.

    Attributes:
        fids: Number of the feature in its layer, int64, shape ``(n,)``.
        ids: ``ID_POLYGON``, or the fid as text in a layer without, shape ``(n,)``.
        label_texts: The different ones of ``ROTULO``, ``SIOSE_CODE`` or the code, without spaces
            around them; an empty one stands for none.
        label: Position in ``label_texts``, int64, shape ``(n,)``.
        maximum: ``ID_COBERTURA_MAX``, 0 where there is none, int64, shape ``(n,)``.
    """

    fids: NDArray[np.int64]
    ids: NDArray[np.object_]
    label_texts: tuple[str, ...]
    label: NDArray[np.int64]
    maximum: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.fids)

    @cached_property
    def labels(self) -> NDArray[np.object_]:
        """Labels, empty where there is none, shape ``(n,)``."""
        return np.array([*self.label_texts, ""], object)[self.label]

    @cached_property
    def labelled(self) -> NDArray[np.bool_]:
        """Which polygons have a label, bool, shape ``(n,)``."""
        return np.array([bool(text) for text in self.label_texts], bool)[self.label]


@dataclass(frozen=True)
class Shapes:
    """Polygons themselves.

    Attributes:
        geometry: Polygons and multipolygons, shape ``(n,)``; empty ones have no area.
        broken: Rows that were not polygons, or not valid where that was asked, and what was wrong,
            in the base's CRS. They have been repaired.
    """

    geometry: NDArray[np.object_]
    broken: Mapping[int, Finding]


@dataclass(frozen=True)
class Reading:
    """Polygons that are being read: what is said of them is there, their geometry comes later.

    Decoding, checking and reprojecting geometry takes most of the time and none of Python's, so
    that covers are resolved meanwhile.

    Attributes:
        attributes: What the layer says of them.
        shapes: Waits for the geometry.
    """

    attributes: Attributes
    shapes: Callable[[], Shapes]


@contextmanager
def reading(
    base: SioseBase, bounds: Bounds, crs: str, threads: int = 1, valid: bool = False
) -> Iterator[Reading]:
    """Read the polygons whose box touches a rectangle, through the layer's spatial index.

    Args:
        base: The base.
        bounds: Left, bottom, right, top in the base's CRS.
        crs: CRS of the geometry wanted.
        threads: Threads that decode, check and reproject the geometry.
        valid: Whether single outlines that cross themselves are repaired. It takes longer than all
            else, and pixels do not need it: burning them fills what repairing fills.

    Raises:
        InputError: If the base cannot be read.
    """
    with _read_errors(base):
        if base.curved:
            # Only this way GDAL makes lines of arcs.
            meta, fids, wkb, fields = pyogrio.raw.read(
                base.path, layer=base.layer, bbox=bounds, columns=_columns(base), return_fids=True
            )
            given = _as_arrow(meta, fields)
        else:
            meta, table = pyogrio.raw.read_arrow(
                base.path, layer=base.layer, bbox=bounds, columns=_columns(base), return_fids=True
            )
            fids, wkb, given = _from_arrow(meta, table)
    with _decoding(base, fids, wkb, given, crs, threads, valid) as found:
        yield found


def all_polygons(
    base: SioseBase, crs: str, size: int = 50_000, threads: int = 1
) -> Iterator[tuple[Attributes, Shapes]]:
    """Read all polygons of a base, ``size`` at a time, in the order of the layer.

    Raises:
        InputError: If the base cannot be read.
    """
    columns = _columns(base)
    with _read_errors(base):
        if base.curved:
            count = int(pyogrio.read_info(base.path, layer=base.layer)["features"])
            for first in range(0, count, size):
                meta, fids, wkb, fields = pyogrio.raw.read(
                    base.path, layer=base.layer, columns=columns, return_fids=True,
                    skip_features=first, max_features=size,
                )  # fmt: skip
                given = _as_arrow(meta, fields)
                with _decoding(base, fids, wkb, given, crs, threads, True) as found:
                    yield found.attributes, found.shapes()
            return
        with pyogrio.raw.open_arrow(
            base.path, layer=base.layer, columns=columns, return_fids=True, batch_size=size,
            use_pyarrow=True,
        ) as (meta, reader):  # fmt: skip
            for batch in reader:
                fids, wkb, given = _from_arrow(meta, pa.Table.from_batches([batch]))
                with _decoding(base, fids, wkb, given, crs, threads, True) as found:
                    yield found.attributes, found.shapes()


def read_xml(base: SioseBase, fids: NDArray[np.int64]) -> NDArray[np.object_]:
    """``SIOSE_XML`` of some polygons, empty where there is none, shape ``(n,)``.

    Raises:
        InputError: If the base cannot be read.
    """
    assert base.columns.xml is not None
    found = np.full(len(fids), "", object)
    # GDAL asks for a list of fids in one piece of SQL: not too many at once.
    for first in range(0, len(fids), 5_000):
        part = fids[first : first + 5_000]
        with _read_errors(base):
            text = _xml_of(base, base.columns.xml, part)
        found[first : first + len(part)] = [text.get(fid) or "" for fid in part.tolist()]
    return found


def _xml_of(
    base: SioseBase, column: str, fids: NDArray[np.int64], encoding: str | None = None
) -> dict[int, str | None]:
    """Text of some features by their fid."""
    try:
        _, got, _, fields = pyogrio.raw.read(
            base.path, layer=base.layer, columns=[column], fids=fids, read_geometry=False,
            return_fids=True, encoding=encoding,
        )  # fmt: skip
    except UnicodeDecodeError:
        # Bytes that are no UTF-8 are somebody's Latin-1; the others stay what they are.
        if len(fids) == 1:
            return _xml_of(base, column, fids, "ISO-8859-1")
        half = len(fids) // 2
        return _xml_of(base, column, fids[:half]) | _xml_of(base, column, fids[half:])
    return dict(zip(got.tolist(), fields[0].tolist(), strict=True))


def polygons_of(
    base: SioseBase, fids: NDArray[np.int64], crs: str
) -> tuple[Attributes, NDArray[np.object_]]:
    """Polygons by their fids, in the order of the layer.

    Raises:
        InputError: If the base cannot be read.
    """
    with _read_errors(base):
        meta, got, wkb, fields = pyogrio.raw.read(
            base.path, layer=base.layer, fids=np.sort(fids), columns=_columns(base),
            return_fids=True,
        )  # fmt: skip
    with _decoding(base, got, wkb, _as_arrow(meta, fields), crs, 1, True) as found:
        return found.attributes, found.shapes().geometry


def _columns(base: SioseBase) -> list[str]:
    """Columns to read: the XML, which is long, is not among them."""
    columns = base.columns
    wanted = [columns.polygon, columns.code or columns.label]
    if "maximum" in base.sources:
        wanted.append(columns.maximum)
    return list(dict.fromkeys(name for name in wanted if name))


def _from_arrow(
    meta: dict[str, Any], table: pa.Table
) -> tuple[NDArray[np.int64], NDArray[np.object_], dict[str, pa.Array]]:
    def column(name: str) -> pa.Array:
        values = table.column(name).combine_chunks()
        return readable(values.chunk(0) if isinstance(values, pa.ChunkedArray) else values)

    fid = meta["fid_column"] or "OGC_FID"
    if fid not in table.column_names:
        fid = table.column_names[0]
    geometry = column(meta["geometry_name"] or "wkb_geometry").to_numpy(zero_copy_only=False)
    given = {name: column(name) for name in meta["fields"]}
    return column(fid).to_numpy(zero_copy_only=False).astype(np.int64), geometry, given


@contextmanager
def _decoding(
    base: SioseBase,
    fids: NDArray[np.int64],
    wkb: NDArray[np.object_],
    given: Mapping[str, pa.Array],
    crs: str,
    threads: int,
    valid: bool,
) -> Iterator[Reading]:
    # By fid: GDAL returns spatially filtered features in the order of the R-tree's nodes.
    order = np.argsort(fids, kind="stable")
    fids, wkb, places = fids[order], wkb[order], pa.array(order)
    columns = base.columns
    move = None if pyproj.CRS(base.crs) == pyproj.CRS(crs) else (base.crs, crs)

    def texts_of(name: str) -> pa.Array:
        return texts(given[name]).fill_null("").take(places)

    with ThreadPoolExecutor(threads) as pool:
        parts = [
            pool.submit(_decoded, wkb[i : i + _SLICE], move, valid)
            for i in range(0, len(wkb), _SLICE)
        ]

        def shapes() -> Shapes:
            found = [part.result() for part in parts]
            return Shapes(
                np.concatenate([np.zeros(0, object), *(geometry for geometry, _ in found)]),
                {
                    number * _SLICE + row: finding
                    for number, (_, broken) in enumerate(found)
                    for row, finding in broken.items()
                },
            )

        maximum = np.zeros(len(fids), np.int64)
        if "maximum" in base.sources and columns.maximum:
            maximum = np.nan_to_num(numbers(given[columns.maximum])).astype(np.int64)[order]
        label = columns.code or columns.label
        coded = pc.dictionary_encode(texts_of(label)) if label else None
        yield Reading(
            Attributes(
                fids,
                np.asarray(texts_of(columns.polygon).to_numpy(zero_copy_only=False), object)
                if columns.polygon
                else fids.astype(str).astype(object),
                tuple(coded.dictionary.to_pylist()) if coded is not None else ("",),
                coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
                if coded is not None
                else np.zeros(len(fids), np.int64),
                maximum,
            ),
            shapes,
        )


def _decoded(
    wkb: NDArray[np.object_], move: tuple[str, str] | None, valid: bool
) -> tuple[NDArray[np.object_], dict[int, Finding]]:
    """Polygons, moved from one CRS to another, and what was wrong with them."""
    shapes = np.asarray(shapely.from_wkb(wkb, on_invalid="ignore"), object)
    areal = np.isin(shapely.get_type_id(shapes), AREAL)
    good = areal & ~shapely.is_empty(shapes) & ~mending.is_far(shapes)
    # Of a single ring, burning fills what repairing would; rings that overlap others cancel out.
    several = (shapely.get_type_id(shapes) == AREAL[1]) | (
        shapely.get_num_interior_rings(shapes) > 0
    )
    checked = good & (valid | several)
    good[checked] = shapely.is_valid(shapes[checked])
    doubtful = np.flatnonzero(~good)
    broken = {}
    if len(doubtful):
        broken = {int(doubtful[f.rows[0]]): f for f in topology.invalid(shapes[doubtful])}
        shapes[doubtful] = mending.mended(shapes[doubtful])
    if move is not None:
        # One a thread: PROJ's objects may not be shared.
        step = pyproj.Transformer.from_crs(*move, always_xy=True)
        points = shapely.get_coordinates(shapes)
        x, y = step.transform(points[:, 0], points[:, 1])
        shapes = np.asarray(shapely.set_coordinates(shapes, np.column_stack([x, y])), object)
    return shapes, broken


def _as_arrow(meta: dict[str, Any], fields: Sequence[NDArray[Any]]) -> dict[str, pa.Array]:
    return {
        name: pa.array(values, from_pandas=True)
        for name, values in zip(meta["fields"], fields, strict=True)
    }


@contextmanager
def _read_errors(base: SioseBase) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(
            f"SIOSE base {base.path}: layer {base.layer} has text that is no UTF-8.",
            [str(error)],
            "Write it again in UTF-8: ogr2ogr new.gpkg old.shp -oo ENCODING=ISO-8859-1.",
        ) from error
    except (*READ_ERRORS, pa.ArrowException, OSError) as error:
        raise InputError(
            f"SIOSE base {base.path}: layer {base.layer} cannot be read.",
            [str(error)],
            remedy_of(str(error)),
        ) from error
