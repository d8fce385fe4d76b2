"""Tables of a SIOSE base without geometry: in the base itself, or as DBF or CSV beside a Shapefile.

SQLite keeps what it was given, whatever a column's type says, and GDAL reads it as the type says:
a percentage ``70,5`` in a column of numbers becomes 70. So GDAL reads a table only where all of its
values are what the columns promise, and SQLite itself reads the others.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyogrio
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.siose_files import READ_ERRORS, check_whole, is_sqlite, remedy_of

log = logging.getLogger(__name__)

BATCH = 500_000
"""Rows read at a time."""

BESIDE = (".dbf", ".csv", ".txt")
"""Endings of tables that stand beside a Shapefile, in the order in which they are preferred."""

_UUID = r"^(?i:urn:uuid:)?\{?([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})\}?$"


@dataclass(frozen=True)
class Table:
    """A table without geometry.

    Attributes:
        path: The file that holds it.
        name: Its name in that file.
        columns: Its columns by their upper-case name, as the file writes them.
    """

    path: Path
    name: str
    columns: Mapping[str, str]

    def column(self, *names: str) -> str | None:
        """The first of some columns that the table has, also cut to ten characters (DBF)."""
        return chosen(self.columns, names)


def chosen(columns: Mapping[str, str], names: Sequence[str]) -> str | None:
    """The first of some columns that is there, in full or cut to a Shapefile's ten characters."""
    for name in names:
        found = columns.get(name) or columns.get(name[:10])
        if found:
            return found
    return None


def tables_of(path: Path, layers: Sequence[str]) -> list[Table]:
    """The tables of a base: in the file itself, and beside a Shapefile.

    Args:
        path: The base.
        layers: Its layers of geometry, which are no tables.

    Raises:
        InputError: If they cannot be listed.
    """
    if path.suffix.lower() == ".shp":
        return [_described(file, file.stem) for file in _beside(path)]
    if not is_sqlite(path):
        try:
            names = [str(name) for name, kind in pyogrio.list_layers(path) if kind is None]
        except READ_ERRORS as error:
            raise InputError(
                f"SIOSE base {path}: cannot be read.", [str(error)], remedy_of(str(error))
            ) from error
        return [_described(path, name) for name in names]
    # SQLite's own list: GDAL leaves out tables that are not registered in gpkg_contents.
    with connected(path) as connection:
        found = connection.execute(
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY rowid"
        ).fetchall()
        names = [
            str(name)
            for (name,) in found
            if name not in layers and not str(name).startswith(("gpkg_", "rtree_", "sqlite_"))
        ]
        return [
            Table(
                path,
                name,
                {
                    str(row[1]).upper(): str(row[1])
                    for row in connection.execute(f"PRAGMA table_info({_quoted(name)})")
                },
            )
            for name in names
        ]


def batches(
    table: Table, columns: Sequence[str], where: str | None = None
) -> Iterator[tuple[pa.Array, ...]]:
    """Read columns of a table, some rows at a time, in the table's order.

    Args:
        table: The table.
        columns: Columns as the file writes them.
        where: Condition in SQL, of a table in SQLite only.

    Raises:
        InputError: If it cannot be read.
    """
    check_whole(table.path)
    plain = is_sqlite(table.path) and (where or not _as_declared(table, columns))
    yield from _by_sqlite(table, columns, where) if plain else _by_gdal(table, columns)


def readable(values: pa.Array) -> pa.Array:
    """The same, with text that is no UTF-8 read as Latin-1: Spanish Excel writes CSV so."""
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return values
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        raw = values.cast(pa.large_binary()).to_pylist()
        return pa.array([None if v is None else _decoded(v) for v in raw], values.type)
    return values


def texts(values: pa.Array) -> pa.Array:
    """Values as text without spaces around them; null stays null.

    Returns:
        Strings, shape ``(n,)``; whole numbers without a decimal point.
    """
    written = values.cast(pa.string())
    if pa.types.is_floating(values.type):
        whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2.0**53))
        number = pc.if_else(whole, values, 0.0).cast(pa.int64()).cast(pa.string())
        written = pc.if_else(whole, number, written)
    return pc.utf8_trim_whitespace(written)


def identifiers(values: pa.Array) -> pa.Array:
    """Ids as texts, a UUID in one writing however it is written: ``urn:uuid:`` and small letters.

    Returns:
        Large strings, shape ``(n,)``.
    """
    written = texts(values).cast(pa.large_string())
    plain = pc.starts_with(written, "urn:uuid:"), pc.invert(pc.starts_with(written, "urn:uuid:{"))
    if pc.all(pc.and_(*plain)).as_py() and written.equals(pc.ascii_lower(written)):
        return written  # as SIOSE itself writes them: no need to look closer
    bare = pc.replace_substring_regex(written, _UUID, r"urn:uuid:\1")
    changed = pc.fill_null(pc.match_substring_regex(written, _UUID), False)
    return pc.if_else(changed, pc.ascii_lower(bare), written)


def numbers(values: pa.Array) -> NDArray[np.float64]:
    """Values as numbers, also from text with a decimal comma; NaN where there is none.

    Returns:
        float64, shape ``(n,)``.
    """
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        filled = values.cast(pa.float64())
        result = np.array(filled.to_numpy(zero_copy_only=False), np.float64)
    else:
        coded = pc.dictionary_encode(values, null_encoding="encode")
        each = np.array([_number(text) for text in coded.dictionary.to_pylist()], np.float64)
        result = each[coded.indices.to_numpy()] if len(values) else np.zeros(0)
    result[~np.isfinite(result)] = np.nan
    return result


@contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection, also on a read-only file system.

    Raises:
        InputError: If SQLite cannot read the file.
    """
    # immutable: SQLite would otherwise want to make -shm files beside a base in WAL mode.
    mode = "mode=ro" if Path(f"{path}-wal").exists() else "immutable=1"
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True)
        try:
            yield connection
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"SIOSE base {path}: its tables cannot be read.", [str(error)], remedy_of(str(error))
        ) from error


def _beside(path: Path) -> list[Path]:
    """Tables beside a Shapefile; of one name in several formats, the first of :data:`BESIDE`."""
    # A DBF that belongs to a Shapefile of its own holds that one's attributes.
    layers = {file.stem for file in path.parent.iterdir() if file.suffix.lower() == ".shp"}
    files = [
        file
        for file in sorted(path.parent.iterdir())
        if file.suffix.lower() in BESIDE and file.stem not in layers
    ]
    files.sort(key=lambda file: (file.stem.upper(), BESIDE.index(file.suffix.lower())))
    found: dict[str, Path] = {}
    for file in files:
        found.setdefault(file.stem.upper(), file)
    return list(found.values())


def _for_gdal(path: Path) -> Path | str:
    """The name under which GDAL reads a table: a .txt is CSV only if one says so."""
    return f"CSV:{path}" if path.suffix.lower() == ".txt" else path


def _described(path: Path, name: str) -> Table:
    try:
        fields = pyogrio.read_info(_for_gdal(path), layer=name)["fields"]
    except READ_ERRORS as error:
        # A text beside a Shapefile may be anything; it matters only if it is the one wanted.
        log.debug("%s: %s", path, error)
        fields = []
    return Table(path, name, {str(field).strip().upper(): str(field) for field in fields})


def _as_declared(table: Table, columns: Sequence[str]) -> bool:
    """Whether all values of a table in SQLite are of their columns' types."""
    try:
        information = pyogrio.read_info(table.path, layer=table.name, LIST_ALL_TABLES="YES")
    except READ_ERRORS:
        return False  # a view or table that GDAL does not see: SQLite reads it
    declared = {
        str(field): np.dtype(kind)
        for field, kind in zip(information["fields"], information["dtypes"], strict=True)
    }
    if not set(columns) <= set(declared):
        return False
    kinds = ", ".join(f"group_concat(DISTINCT typeof({_quoted(c)}))" for c in columns)
    with connected(table.path) as connection:
        row = connection.execute(f"SELECT {kinds} FROM {_quoted(table.name)}").fetchone()
    # Others are SQLite's: of a FLOAT it has eight bytes, and GDAL takes four by its name.
    fitting = {
        "float64": {"real", "integer"},
        "int32": {"integer"},
        "int64": {"integer"},
        "object": {"text"},
    }
    return all(
        set((found or "null").split(",")) <= {"null"} | fitting.get(declared[column].name, set())
        for column, found in zip(columns, row, strict=True)
    )


def _by_gdal(table: Table, columns: Sequence[str]) -> Iterator[tuple[pa.Array, ...]]:
    options = {"LIST_ALL_TABLES": "YES"} if table.path.suffix.lower() == ".gpkg" else {}
    try:
        with pyogrio.raw.open_arrow(
            _for_gdal(table.path),
            layer=table.name,
            columns=list(columns),
            read_geometry=False,
            batch_size=BATCH,
            use_pyarrow=True,
            **options,
        ) as (_, reader):
            for batch in reader:
                yield tuple(readable(batch.column(column)) for column in columns)
    except (*READ_ERRORS, pa.ArrowException, OSError) as error:
        raise InputError(
            f"SIOSE base {table.path}: table {table.name} cannot be read.",
            [str(error)],
            remedy_of(str(error)),
        ) from error


def _by_sqlite(
    table: Table, columns: Sequence[str], where: str | None
) -> Iterator[tuple[pa.Array, ...]]:
    listed = ", ".join(map(_quoted, columns))
    query = f"SELECT {listed} FROM {_quoted(table.name)}" + (f" WHERE {where}" if where else "")
    with connected(table.path) as connection:
        # Bytes that are no UTF-8 are somebody's Latin-1.
        connection.text_factory = _decoded
        cursor = connection.execute(query)
        while rows := cursor.fetchmany(BATCH // 5):
            yield tuple(
                pa.array([_as_text(value) for value in column], pa.string())
                for column in zip(*rows, strict=True)
            )


def _as_text(value: object) -> str | None:
    if isinstance(value, float):
        # repr of a float reads back to the same float; an id is 7 for GDAL, too, and not 7.0.
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, bytes):
        return _decoded(value)
    return None if value is None else str(value)


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _number(value: str | None) -> float:
    try:
        return float((value or "").strip().rstrip("%").replace(",", "."))
    except ValueError:
        return float("nan")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
