"""The GeoPackage of a sample: points to interpret in QGIS, and what they were drawn from.

The layer ``sample`` is what a person edits. ``strata`` and ``design`` tell how it was drawn;
``drawn``, which QGIS does not show, holds the points as they were drawn, so that a point that was
lost, copied or moved is told.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyproj

from pipeline.errors import InputError, OutputError
from pipeline.interpretation import InterpretedSample, Stratum, interpreted
from pipeline.numerals import listed, plural
from pipeline.sample_chips import height
from pipeline.sample_draw import SamplePoint
from pipeline.sample_form import FIELDS, FILLED, sample_style

LAYER = "sample"
"""Name of the layer."""

LAYOUT = 1
"""Version of the tables; raised when they change their meaning."""

_SEVERAL = "EPSG:4326"  # of points in more than one coordinate system
_DATE = "2000-01-01T00:00:00.000Z"  # always the same: so are the bytes of the file
_FOLDER = re.compile(r"chips-[0-9a-f]{8}")
_CHIP = re.compile(r"\d+\.jpg")
_COLUMNS = {
    LAYER: (*FIELDS, "geom"),
    "strata": ("stratum", "name", "color", "pixels", "area_m2", "sampled"),
    "design": ("key", "value"),
    "drawn": ("id", "sheet", "row", "col", "stratum", "x", "y"),
}
_TABLES = """
CREATE TABLE strata (stratum INTEGER PRIMARY KEY NOT NULL, name TEXT NOT NULL, color TEXT NOT NULL,
    pixels INTEGER NOT NULL, area_m2 REAL NOT NULL, sampled INTEGER NOT NULL);
CREATE TABLE design (fid INTEGER PRIMARY KEY NOT NULL, key TEXT NOT NULL UNIQUE,
    value TEXT NOT NULL);
CREATE TABLE drawn (id INTEGER PRIMARY KEY NOT NULL, sheet TEXT NOT NULL, row INTEGER NOT NULL,
    col INTEGER NOT NULL, stratum INTEGER NOT NULL, x REAL NOT NULL, y REAL NOT NULL);
"""


def chips_name(points: Sequence[SamplePoint]) -> str:
    """Folder of the image chips beside the GeoPackage: other points have another.

    So the chips of a new sample never lie where an older one, which a killed job leaves in its
    place, looks for its own.
    """
    return f"chips-{hashlib.sha256(repr([*map(tuple, points)]).encode()).hexdigest()[:8]}"


def chips_folders(path: Path) -> list[Path]:
    """Folders of image chips beside a sample, its own and those of samples before it."""
    return sorted(p for p in path.parent.glob("chips-*") if _FOLDER.fullmatch(p.name))


def chip_name(number: int, folder: str) -> str:
    """File of a point's chip, relative to the GeoPackage; it tells nothing of the stratum."""
    return f"{folder}/{number:05d}.jpg"


def write_sample(
    draft: Path,
    points: Sequence[SamplePoint],
    strata: Sequence[Stratum],
    crs: str,
    design: Mapping[str, str],
    chips: str | None = None,
    dates: int = 1,
) -> None:
    """Write the points of a sample; the same points give the same bytes.

    Args:
        draft: The GeoPackage.
        points: The points in the order of their ids, from 1, with coordinates in ``crs``.
        strata: All classes in the order of their ids.
        crs: Coordinate reference system of the layer.
        design: How they were drawn: keys and values.
        chips: Folder of their image chips, which :func:`chip_name` names; None for none.
        dates: Orthophotos that each of them shows.

    Raises:
        OutputError: If it cannot be written.
    """
    # Imported here: reading a sample needs neither Arrow nor GDAL.
    import pyarrow as pa

    from pipeline import vector_files

    text, number = pa.string(), pa.int32()
    kinds = {"id": number, "row": number, "col": number, "stratum": number}
    schema = pa.schema(
        [*((name, kinds.get(name, text)) for name in FIELDS), vector_files.geometry_field("Point")]
    )
    ids = range(1, len(points) + 1)
    columns: dict[str, list[Any]] = {name: [None] * len(points) for name in FILLED}
    columns |= {
        "id": list(ids),
        "chip": [chip_name(i, chips) if chips else None for i in ids],
        "sheet": [point.sheet for point in points],
        "row": [point.row for point in points],
        "col": [point.col for point in points],
        "stratum": [point.stratum for point in points],
        "geom": [struct.pack("<BIdd", 1, 1, point.x, point.y) for point in points],
    }
    batch = pa.RecordBatch.from_pydict({name: columns[name] for name in schema.names}, schema)
    style = sample_style([stratum.name for stratum in strata], bool(chips), height(dates))
    vector_files.write_geopackage([batch], schema, draft, LAYER, crs, style)
    told = {**design, "layout": str(LAYOUT), "points": str(len(points))}
    with closing(sqlite3.connect(draft)) as base:
        base.executescript(_TABLES)
        base.executemany(
            "INSERT INTO strata VALUES (?, ?, ?, ?, ?, ?)",
            [(i, s.name, s.color, s.pixels, s.area_m2, s.sampled) for i, s in enumerate(strata)],
        )
        base.executemany("INSERT INTO design (key, value) VALUES (?, ?)", sorted(told.items()))
        base.executemany(
            "INSERT INTO drawn VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (i, p.sheet, p.row, p.col, p.stratum, p.x, p.y)
                for i, p in zip(ids, points, strict=True)
            ],
        )
        base.executemany(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, last_change) "
            "VALUES (?, 'attributes', ?, ?)",
            [(name, name, _DATE) for name in ("strata", "design")],
        )
        base.commit()


def read_sample(path: Path) -> InterpretedSample:
    """Read what was interpreted, saved edits of a GeoPackage that is open in QGIS too.

    Args:
        path: A GeoPackage of :func:`write_sample`.

    Raises:
        InputError: If it is none, or with all that is wrong with its points, by id: a class that
            there is not, points that are missing, doubled, moved, or of another stratum.
    """
    with _opened(path) as base:
        strata = tuple(
            Stratum(name, color, pixels, area, sampled)
            for name, color, pixels, area, sampled in base.execute(
                "SELECT name, color, pixels, area_m2, sampled FROM strata ORDER BY stratum"
            )
        )
        design = dict(base.execute("SELECT key, value FROM design").fetchall())
        if design.get("layout") != str(LAYOUT):
            raise InputError(
                f"{path}: was written by another version of Tesela (layout "
                f"{design.get('layout', 'not told')}; this one reads {LAYOUT}).",
                remedy="Read it with the version that drew it.",
            )
        drawn = {row[0]: row[1:] for row in base.execute(_selected("drawn"))}
        rows = [
            dict(zip(_COLUMNS[LAYER], row, strict=True)) for row in base.execute(_selected(LAYER))
        ]
    digest = _digest((row["id"], row["reference"], row["certainty"]) for row in rows)
    return replace(interpreted(rows, drawn, strata, design, str(path)), digest=digest)


def interpretation_digest(path: Path) -> str:
    """Fingerprint of what is interpreted in a sample, to tell whether it was edited since.

    It is of the ids, classes and certainties as they are written, whether they can be used or not;
    comments and the name of the interpreter do not matter.

    Args:
        path: A GeoPackage of :func:`write_sample`.

    Returns:
        16 hexadecimal digits.

    Raises:
        InputError: If it is none.
    """
    with _opened(path) as base:
        return _digest(base.execute(f"SELECT id, reference, certainty FROM {LAYER}"))


def check_replaceable(path: Path, overwrite: bool = False) -> None:
    """Check that what is in the way of a new sample may go, and close it.

    Args:
        path: The sample's file, which need not be there.
        overwrite: Whether points that are interpreted may be lost.

    Raises:
        OutputError: If it has interpreted points, is open in QGIS, or is no sample at all.
    """
    folders = chips_folders(path)
    strange = [str(folder) for folder in folders if not folder.is_dir()]
    for folder in folders:
        strange += [str(file) for file in folder.glob("*") if not _CHIP.fullmatch(file.name)]
    if strange:
        raise OutputError(
            f"{path.parent}: folders of image chips would be replaced, and have other things in "
            "them.",
            strange,
            "Choose another folder, or move them away.",
        )
    if not path.exists():
        return
    try:
        filled = filled_points(path)
    except InputError as error:
        raise OutputError(
            f"{path}: would be replaced, and is no sample.",
            [error.what, *error.items],
            "Choose another folder, or move it away.",
        ) from error
    if filled and not overwrite:
        raise OutputError(
            f"{path}: what somebody has filled in for {plural(filled, 'point')} would be lost.",
            remedy=f"Move {listed([path.name, *(folder.name for folder in folders)])} away to keep "
            "it, or say --overwrite.",
        )
    release(path)


def in_one_system(
    points: Sequence[SamplePoint], systems: Mapping[str, str]
) -> tuple[list[SamplePoint], str]:
    """Points in the coordinate system of their sheets, or in longitude and latitude of several.

    Args:
        points: The points as they were drawn.
        systems: Coordinate reference system of each sheet.

    Returns:
        The points, and their common coordinate reference system.
    """
    different = sorted(set(systems.values()))
    if len(different) == 1:
        return list(points), different[0]
    ways = {crs: pyproj.Transformer.from_crs(crs, _SEVERAL, always_xy=True) for crs in different}
    moved = []
    for point in points:
        x, y = ways[systems[point.sheet]].transform(point.x, point.y)
        moved.append(point._replace(x=x, y=y))
    return moved, _SEVERAL


def filled_points(path: Path) -> int:
    """How many points of a sample somebody has written something about.

    Raises:
        InputError: If the file is no sample.
    """
    with _opened(path) as base:
        some = " OR ".join(f"trim(coalesce({name}, '')) <> ''" for name in FILLED)
        (count,) = base.execute(f"SELECT count(*) FROM {LAYER} WHERE {some}").fetchone()
        return int(count)


def release(path: Path) -> None:
    """See to it that a sample may be replaced: its journal must not outlive it.

    A journal that QGIS leaves beside a GeoPackage would be taken for that of the new one.

    Raises:
        OutputError: If another program has it open.
    """
    try:
        with closing(sqlite3.connect(path, timeout=0.2)) as base:
            (mode,) = base.execute("PRAGMA journal_mode = DELETE").fetchone()
            base.execute("BEGIN EXCLUSIVE")
            base.rollback()
    except sqlite3.OperationalError as error:
        mode = str(error)
    if mode != "delete":
        raise OutputError(
            f"{path}: is open in another program ({mode}).",
            remedy="Close it there (in QGIS: remove the layer), then start again.",
        )


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a sample to read, with its journal if it has one, and check that it is one."""
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file.", remedy="`python -m pipeline sample` draws a sample."
        )
    try:
        # Never `immutable`: what QGIS has saved may be in its journal (-wal) alone as yet.
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
            missing = _missing(base)
            if missing:
                raise InputError(
                    f"{path}: is no sample of `python -m pipeline sample`.",
                    missing,
                    "Name the GeoPackage itself: a copy of its layer has no strata.",
                )
            yield base
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"{path}: is not a GeoPackage that can be read ({error}).",
            remedy="Close it in QGIS, or copy it again; its folder must be writable while it is "
            "open there.",
        ) from error


def _digest(rows: Iterable[Sequence[Any]]) -> str:
    """Of rows in any order; NULL and nothing are the same."""
    told = sorted(repr(["" if value is None else value for value in row]) for row in rows)
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def _missing(base: sqlite3.Connection) -> list[str]:
    """Tables and columns that are not there."""
    missing = []
    for table, columns in _COLUMNS.items():
        there = {row[1] for row in base.execute(f"PRAGMA table_info({table})")}
        lost = [name for name in columns if name not in there]
        if not there:
            missing.append(f"table {table}")
        elif lost:
            missing.append(f"columns of {table}: {', '.join(lost)}")
    return missing


def _selected(table: str) -> str:
    columns = ", ".join(f'"{name}"' for name in _COLUMNS[table])
    return f"SELECT {columns} FROM {table} ORDER BY rowid"
