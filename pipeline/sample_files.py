"""The GeoPackage of a sample: points to interpret in QGIS, and what they were drawn from.

The layer ``sample`` is what a person edits. ``strata`` and ``design`` tell how it was drawn;
``drawn``, which QGIS does not show, holds the points as they were drawn, so that a point that was
lost, copied or moved is told.
"""

from __future__ import annotations

import math
import sqlite3
import struct
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, OutputError
from pipeline.sample_draw import SamplePoint
from pipeline.sample_form import CERTAINTIES, FIELDS, FILLED, sample_style
from pipeline.setting_types import did_you_mean

LAYER = "sample"
"""Name of the layer."""

LAYOUT = 1
"""Version of the tables; raised when they change their meaning."""

_DATE = "2000-01-01T00:00:00.000Z"  # always the same: so are the bytes of the file
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


@dataclass(frozen=True)
class Stratum:
    """A class of the map, as a stratum.

    Attributes:
        name: Its name.
        color: ``#RRGGBB``.
        pixels: Pixels mapped as it; 0 where it is mapped nowhere.
        area_m2: Their area in m².
        sampled: Points drawn from them.
    """

    name: str
    color: str
    pixels: int
    area_m2: float
    sampled: int


@dataclass(frozen=True, eq=False)
class InterpretedSample:
    """A sample that was read back.

    Attributes:
        strata: The classes in the order of their ids; those that are mapped nowhere too.
        matrix: Interpreted points, int64, shape ``(K, K)``, row = mapped class (stratum), column =
            the class that was seen.
        unlabelled: Ids of the points that nobody has interpreted.
        unsure: Ids of the interpreted points that are marked as unsure.
        design: How it was drawn: rule, seed, maps.
    """

    strata: tuple[Stratum, ...]
    matrix: NDArray[np.int64]
    unlabelled: tuple[int, ...]
    unsure: tuple[int, ...]
    design: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(stratum.name for stratum in self.strata)

    @property
    def mapped_pixels(self) -> NDArray[np.int64]:
        """Pixels mapped as each class, shape ``(K,)``."""
        return np.array([stratum.pixels for stratum in self.strata], np.int64)

    @property
    def mapped_area_m2(self) -> NDArray[np.float64]:
        """Area mapped as each class in m², shape ``(K,)``."""
        return np.array([stratum.area_m2 for stratum in self.strata], np.float64)

    @property
    def sampled(self) -> NDArray[np.int64]:
        """Points drawn of each class, interpreted or not, shape ``(K,)``."""
        return np.array([stratum.sampled for stratum in self.strata], np.int64)


def chip_name(number: int) -> str:
    """File of a point's chip, relative to the GeoPackage; it tells nothing of the stratum."""
    return f"chips/{number:05d}.jpg"


def write_sample(
    draft: Path,
    points: Sequence[SamplePoint],
    strata: Sequence[Stratum],
    crs: str,
    design: Mapping[str, str],
    chips: bool = True,
) -> None:
    """Write the points of a sample; the same points give the same bytes.

    Args:
        draft: The GeoPackage.
        points: The points in the order of their ids, from 1, with coordinates in ``crs``.
        strata: All classes in the order of their ids.
        crs: Coordinate reference system of the layer.
        design: How they were drawn: keys and values.
        chips: Whether each has an image chip, of the name :func:`chip_name`.

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
        "chip": [chip_name(i) if chips else None for i in ids],
        "sheet": [point.sheet for point in points],
        "row": [point.row for point in points],
        "col": [point.col for point in points],
        "stratum": [point.stratum for point in points],
        "geom": [struct.pack("<BIdd", 1, 1, point.x, point.y) for point in points],
    }
    batch = pa.RecordBatch.from_pydict({name: columns[name] for name in schema.names}, schema)
    style = sample_style([stratum.name for stratum in strata], chips)
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
        drawn = {row[0]: row[1:] for row in base.execute(_selected("drawn"))}
        rows = [
            dict(zip(_COLUMNS[LAYER], row, strict=True)) for row in base.execute(_selected(LAYER))
        ]
    wrong = _lost(rows, drawn)
    classes = _Classes([stratum.name for stratum in strata])
    matrix = np.zeros((len(strata), len(strata)), np.int64)
    unlabelled, unsure = [], []
    for row in sorted((row for row in rows if row["id"] in drawn), key=lambda row: row["id"]):
        wrong += _changed(row, drawn[row["id"]])
        seen, certainty = _text(row["reference"]), _text(row["certainty"]).casefold()
        number = classes.find(seen)
        if seen and number is None:
            wrong.append(
                f"id {row['id']}: reference {seen!r} is no class{did_you_mean(seen, classes.names)}"
            )
        if certainty and certainty not in CERTAINTIES:
            wrong.append(
                f"id {row['id']}: certainty {row['certainty']!r} is none of "
                f"{', '.join(CERTAINTIES)}"
            )
        if number is None:
            unlabelled.append(row["id"])
        elif 0 <= drawn[row["id"]][3] < len(strata):
            matrix[drawn[row["id"]][3], number] += 1
            unsure += [row["id"]] * (certainty == CERTAINTIES[1])
    if wrong:
        raise InputError(
            f"{path}: {len(wrong)} of its entries cannot be used.",
            wrong,
            f"Mend them in QGIS; the classes are {', '.join(classes.names)}. Points are to be "
            "interpreted, not deleted, copied or moved; one that shows nothing stays empty.",
        )
    return InterpretedSample(strata, matrix, tuple(unlabelled), tuple(unsure), design)


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


class _Classes:
    """Classes by their names as people write them: in any case, with blanks around."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._plain: dict[str, int] = {}
        for number, name in enumerate(names):
            self._plain.setdefault(_text(name).casefold(), number)

    def find(self, written: str) -> int | None:
        if written in self.names:  # two names may differ by nothing but case
            return self.names.index(written)
        return self._plain.get(written.casefold())


def _text(value: object) -> str:
    """A value as it was meant: no blanks around or doubled, accents in one form."""
    plain = "" if value is None else str(value)
    return " ".join(unicodedata.normalize("NFC", plain).split())


def _selected(table: str) -> str:
    columns = ", ".join(f'"{name}"' for name in _COLUMNS[table])
    return f"SELECT {columns} FROM {table} ORDER BY rowid"


def _lost(rows: Iterable[Mapping[str, Any]], drawn: Mapping[int, Any]) -> list[str]:
    """Points that are not there exactly once."""
    counted = Counter(row["id"] for row in rows)
    wrong = [f"id {number}: was deleted" for number in drawn if number not in counted]
    for number, times in counted.items():
        if number is None:
            wrong.append(f"points without an id: {times}; they were not drawn")
        elif number not in drawn:
            wrong.append(f"id {number}: was not drawn")
        elif times > 1:
            wrong.append(f"id {number}: is there {times} times")
    return wrong


def _changed(row: Mapping[str, Any], drawn: Sequence[Any]) -> list[str]:
    """What else of a point is not as it was drawn."""
    wrong = [
        f"id {row['id']}: {name} is {row[name]}, it was drawn as {value}"
        for name, value in zip(("sheet", "row", "col", "stratum"), drawn, strict=False)
        if row[name] != value
    ]
    place = _place(row["geom"])
    near = [math.isclose(a, b, rel_tol=1e-9) for a, b in zip(place or (), drawn[4:], strict=False)]
    if near != [True, True]:
        wrong.append(f"id {row['id']}: was moved")
    return wrong


def _place(geometry: bytes | None) -> tuple[float, float] | None:
    """Coordinates of a point in a GeoPackage's own form, with or without an envelope."""
    sizes = (0, 32, 48, 48, 64)
    if not geometry or len(geometry) < 8 or (geometry[3] >> 1 & 7) >= len(sizes):
        return None
    start = 8 + sizes[geometry[3] >> 1 & 7]
    if len(geometry) < start + 21:
        return None
    order = "<" if geometry[start] == 1 else ">"
    kind, x, y = struct.unpack_from(f"{order}Idd", geometry, start + 1)
    return (x, y) if kind % 1000 == 1 else None
