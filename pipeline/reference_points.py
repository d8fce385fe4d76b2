"""Points that others have drawn and interpreted: any vector file of GDAL's, or a CSV.

A CSV has a header; its points are in columns of longitude and latitude, as Collect Earth Online
writes them (``lon``, ``lat``), or of x and y. It may be a German or Spanish one, with semicolons
between the cells and commas in the numbers.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.interpretation import ClassNames
from pipeline.named_systems import named_system
from pipeline.numerals import listed
from pipeline.setting_types import did_you_mean
from pipeline.siose_files import READ_ERRORS

EMPTY = -1
"""Class of points that nobody has interpreted."""

_DEGREES = "EPSG:4326"
_PAIRS = (
    ("lon", "lat"), ("long", "lat"), ("lng", "lat"), ("longitude", "latitude"),
    ("center_lon", "center_lat"), ("x", "y"), ("xcoord", "ycoord"), ("x_coord", "y_coord"),
    ("point_x", "point_y"), ("easting", "northing"),
)  # fmt: skip
_PLANE = 5  # from there on, they are of any coordinate system
_PLOTS = ("plotid", "plot_id")  # Collect Earth Online's, new and old
_TABLES = (".csv", ".txt", ".tsv")


@dataclass(frozen=True, eq=False)
class ReferencePoints:
    """Points and what is there.

    Attributes:
        names: What to call each: ``row 7`` of a CSV, whose header is row 1, or ``feature 7``.
        x: In ``crs``, longitude if that is geographic; float64, shape ``(points,)``.
        y: The same of the other axis.
        crs: Coordinate reference system.
        seen: Class that was seen at each, int64, shape ``(points,)``; :data:`EMPTY` for none.
    """

    names: tuple[str, ...]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    crs: str
    seen: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Table:
    """A file as it was written; what is wrong with its rows is in ``wrong``."""

    names: tuple[str, ...]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    crs: str
    written: list[str]
    plots: list[str]
    wrong: list[str]


def read_points(
    path: Path,
    field: str,
    classes: Sequence[str],
    *,
    crs: str | None = None,
    layer: str | None = None,
) -> ReferencePoints:
    """Read points with the class that was seen at each.

    Args:
        path: GeoPackage, GeoJSON, Shapefile or whatever GDAL reads; or a CSV.
        field: The field that says the class, by its name or its id.
        classes: Names of the classes in the order of their ids.
        crs: Coordinate reference system of a file that does not say its own. That of longitude and
            latitude in a CSV is WGS 84 where left out.
        layer: Name of the layer; the only one where left out.

    Raises:
        InputError: If the file cannot be read; with what it lacks: field, coordinates, coordinate
            reference system; or with all rows that cannot be used: no point, a class that there is
            not, points at the same place, or several in a plot, which tell less than as many
            points that were drawn one by one.
    """
    if not path.is_file():
        raise InputError(f"points {path}: there is no such file.")
    system = None if crs is None else named_system(crs, "--points-crs")
    if path.suffix.lower() in _TABLES:
        if layer is not None:
            raise InputError(f"points {path}: a CSV has no layer {layer!r}; leave --points-layer.")
        table = _read_csv(path, field, crs)
    else:
        table = _read_layer(path, _layer(path, layer), field, crs)
    if not table.names:
        raise InputError(f"points {path}: has no points.")
    known = ClassNames(classes)
    seen = np.array([EMPTY if not text else _class(known, text) for text in table.written])
    wrong = list(table.wrong)
    wrong += [
        f"{table.names[k]}: {table.written[k]!r} is no class"
        + did_you_mean(table.written[k], known.names)
        for k in np.flatnonzero(seen == _UNKNOWN).tolist()
    ]
    advice = (
        [f"The classes are {', '.join(known.names)}, or their ids, 0 to {len(known.names) - 1}."]
        if (seen == _UNKNOWN).any()
        else []
    )
    if (system or pyproj.CRS(table.crs)).is_geographic:
        beyond = (np.abs(table.x) > 180) | (np.abs(table.y) > 90)
        wrong += [
            f"{table.names[k]}: {table.x[k]:.10g}, {table.y[k]:.10g} is no longitude and latitude"
            for k in np.flatnonzero(beyond).tolist()
        ]
        if beyond.any():
            advice.append("--points-crs says another coordinate reference system.")
    doubled = _doubled(table)
    if doubled:
        advice.append(
            "A place counts once, however many people have looked at it: keep one of each."
        )
    clusters = _clusters(table)
    if clusters:
        advice.append(
            "Points of a plot lie close together, and tell less than as many that were drawn one "
            "by one: intervals would be too short. Keep one of each plot, chosen without a look at "
            "its class, or the plot's centre with the class of the plot."
        )
    wrong += doubled + clusters
    if wrong:
        raise InputError(
            f"points {path}: {len(wrong)} of its entries cannot be used.",
            wrong,
            " ".join(advice),
        )
    return ReferencePoints(table.names, table.x, table.y, table.crs, seen)


_UNKNOWN = -2


def _class(known: ClassNames, text: str) -> int:
    number = known.find(text)
    if number is not None:
        return number
    identity = _number(text, ".")
    if 0 <= identity < len(known.names) and identity == int(identity):
        return int(identity)
    return _UNKNOWN


def _read_csv(path: Path, field: str, crs: str | None) -> _Table:
    try:
        text = path.read_text("utf-8-sig")
        first = text.split("\n", 1)[0]
        delimiter = max(",;\t", key=first.count)
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
    except UnicodeDecodeError as error:
        raise InputError(
            f"points {path}: is not UTF-8 ({error.reason}, byte {error.start}).",
            remedy="Save it as CSV in UTF-8.",
        ) from error
    except csv.Error as error:
        raise InputError(f"points {path}: is no CSV ({error}).") from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    lower = [name.casefold() for name in header]
    wrong = _field_mistakes(field, header)
    pair, system = _columns(lower, crs)
    if pair is None:
        wrong.append(
            "there are no columns lon and lat, or x and y"
            + (f"; its columns are {', '.join(header)}" if not wrong else "")
        )
    elif not system:
        wrong.append(
            f"the coordinate reference system of {header[pair[0]]} and {header[pair[1]]} is not "
            "known; say it with --points-crs, such as EPSG:25830"
        )
    wrong += _repeated(field, pair, header)
    if wrong or pair is None:
        raise InputError(f"points {path}: cannot be read.", wrong)
    mark = "." if delimiter == "," else ","
    named = [(f"row {n}", row) for n, row in enumerate(rows[1:], 2) if any(map(str.strip, row))]
    plot = next((lower.index(name) for name in _PLOTS if name in lower), None)
    place, mistakes, kept = header.index(field), [], []
    for name, row in named:
        if len(row) < len(header) or any(map(str.strip, row[len(header) :])):
            mistakes.append(f"{name}: has {len(row)} cells, the header {len(header)}")
            continue
        x, y = (_number(row[column], mark) for column in pair)
        if math.isfinite(x) and math.isfinite(y):
            kept.append((name, x, y, row[place], row[plot] if plot is not None else ""))
        else:
            cells = ", ".join(repr(row[column]) for column in pair)
            mistakes.append(f"{name}: {cells} are no coordinates")
    return _table(kept, system, mistakes)


def _columns(lower: Sequence[str], crs: str | None) -> tuple[tuple[int, int] | None, str]:
    """Numbers of the columns of x and y, and their coordinate reference system, "" for none."""
    found = [
        (lower.index(x), lower.index(y), number < _PLANE)
        for number, (x, y) in enumerate(_PAIRS)
        if x in lower and y in lower
    ]
    if not found:
        return None, ""
    # Where both are there, a system that is told is that of x and y.
    x, y, degrees = found[0] if crs is None else found[-1]
    return (x, y), crs or (_DEGREES if degrees else "")


def _repeated(field: str, pair: tuple[int, int] | None, header: Sequence[str]) -> list[str]:
    used = {field, *(header[column] for column in pair or ())}
    return [f"the column {name} is there twice" for name in used if header.count(name) > 1]


def _layer(path: Path, layer: str | None) -> str:
    try:
        names = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    except READ_ERRORS as error:
        raise InputError(
            f"points {path}: is no file of points that GDAL can read.", [str(error)],
            "GeoPackage, GeoJSON, Shapefile and CSV are such files.",
        ) from error  # fmt: skip
    if layer is None and len(names) == 1:
        return names[0]
    if layer in names:
        return layer
    raise InputError(
        f"points {path}: has {len(names)} layers with geometry."
        if layer is None
        else f"points {path}: has no layer {layer!r} with geometry.",
        names,
        "Say which with --points-layer." if names else "",
    )


def _read_layer(path: Path, layer: str, field: str, crs: str | None) -> _Table:
    try:
        info = pyogrio.read_info(path, layer=layer)
        fields, own = [str(name) for name in info["fields"]], str(info["crs"] or "")
        wrong = _field_mistakes(field, fields)
        if not own and crs is None:
            wrong.append(
                "it has no coordinate reference system; say it with --points-crs, such as "
                "EPSG:25830; of a Shapefile, copy the .prj file too"
            )
        if own and crs is not None and pyproj.CRS(own) != pyproj.CRS(crs):
            wrong.append(
                f"its coordinate reference system is {own}, not {crs}; leave --points-crs, or "
                "mend the file (ogr2ogr -a_srs)"
            )
        if wrong:
            raise InputError(f"points {path}: cannot be read.", wrong)
        plot = next((name for name in fields if name.casefold() in _PLOTS), None)
        columns = list(dict.fromkeys([field, *([plot] if plot else [])]))
        meta, fids, wkb, values = pyogrio.raw.read(
            path, layer=layer, columns=columns, return_fids=True, force_2d=True
        )
    except READ_ERRORS as error:
        raise InputError(
            f"points {path}: cannot be read.", [str(error)],
            "If other programs cannot read it either, copy or download it again: it is damaged.",
        ) from error  # fmt: skip
    found = dict(zip(map(str, meta["fields"]), values, strict=True))
    mistakes, kept = [], []
    shapes = shapely.from_wkb(wkb, on_invalid="ignore")
    for place, (fid, shape) in enumerate(zip(fids.tolist(), shapes, strict=True)):
        name = f"feature {fid}"
        if shape is not None and shape.geom_type == "MultiPoint" and len(shape.geoms) == 1:
            shape = shape.geoms[0]
        if shape is None or shape.is_empty:
            mistakes.append(f"{name}: has no place")
        elif shape.geom_type != "Point":
            mistakes.append(f"{name}: is a {shape.geom_type}, not a point")
        elif not (math.isfinite(shape.x) and math.isfinite(shape.y)):
            mistakes.append(f"{name}: {shape.x}, {shape.y} are no coordinates")
        else:
            told = [_cell(found[column][place]) if column else "" for column in (field, plot)]
            kept.append((name, shape.x, shape.y, *told))
    return _table(kept, own or crs or "", mistakes)


def _table(
    kept: Sequence[tuple[str, float, float, str, str]], crs: str, wrong: list[str]
) -> _Table:
    names, x, y, written, plots = zip(*kept, strict=True) if kept else ((), (), (), (), ())
    return _Table(
        tuple(names), np.array(x, np.float64), np.array(y, np.float64), crs,
        [" ".join(text.split()) for text in written], [text.strip() for text in plots], wrong,
    )  # fmt: skip


def _field_mistakes(field: str, fields: Sequence[str]) -> list[str]:
    if field in fields:
        return []
    return [
        f"there is no field {field!r}{did_you_mean(field, fields)}; its fields are "
        f"{', '.join(fields) or 'none'}"
    ]


def _doubled(table: _Table) -> list[str]:
    """Points that lie at the same place."""
    places: dict[tuple[float, float], list[int]] = {}
    for number, place in enumerate(zip(table.x.tolist(), table.y.tolist(), strict=True)):
        places.setdefault(place, []).append(number)
    return [
        f"{listed([table.names[k] for k in numbers])}: lie at the same place, as "
        + listed(list(dict.fromkeys(table.written[k] or "nothing" for k in numbers)))
        for numbers in places.values()
        if len(numbers) > 1
    ]


def _clusters(table: _Table) -> list[str]:
    """Plots with points at several places."""
    rows = zip(table.plots, table.x.tolist(), table.y.tolist(), strict=True)
    counts = Counter(plot for plot, _, _ in {row for row in rows if row[0]})
    return [f"plot {plot}: has {number} points" for plot, number in counts.items() if number > 1]


def _number(text: str, mark: str) -> float:
    """A number as it was written, with the decimal mark of its file or a point; NaN for none."""
    try:
        return float(text.strip().replace(mark, "."))
    except ValueError:
        return math.nan


def _cell(value: Any) -> str:  # noqa: ANN401 - whatever a file has in its fields
    """A field's value as its text; whole numbers without a point, "" for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, np.generic):
        value = value.item()
        return _cell(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
