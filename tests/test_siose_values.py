"""The index of a values table says what the table says, whatever the table is like."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline import siose
from pipeline.siose_base import SioseBase
from pipeline.siose_rows import (
    INSIDE_ITSELF,
    LOST_ANCESTOR,
    PERCENT_ROUNDING,
    REPEATED_ROW,
    UNEVEN_CONTAINER,
    CoverKey,
    hashed,
)
from pipeline.siose_values import ValuesIndex, index_values, open_index, opened, write_index
from tests import siose_dialects as dialects

AR = ("ID_POLYGON", "CODE_ABREV", "ID_COBERTURA", "SUPERF_POR_SINREDONDEO")
CLASSIC = (
    "ID_POLYGON", "ID_COBERTURAS", "INTER_ID", "INTER_ANCESTROS", "ATRIBUTOS", "SUPERF_POR",
)  # fmt: skip
TYPED = {
    "ID_POLYGON": "TEXT", "CODE_ABREV": "TEXT", "ID_COBERTURA": "INTEGER",
    "SUPERF_POR_SINREDONDEO": "REAL", "ID_COBERTURAS": "INTEGER", "INTER_ID": "INTEGER",
    "INTER_ANCESTROS": "TEXT", "ATRIBUTOS": "TEXT", "SUPERF_POR": "REAL",
}  # fmt: skip


pytestmark = pytest.mark.filterwarnings("ignore:Field format '' not supported")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of one polygon and no table."""
    path = tmp_path_factory.mktemp("values") / "empty.gpkg"
    frame = dialects.polygons(plots=dialects.PLOTS[:1])
    return dialects.write_tables(path, "GPKG", T_POLIGONOS=frame)


@pytest.fixture
def base_of(empty: Path, tmp_path: Path) -> Any:
    """Writes rows into the base's table of values and opens it."""

    def write(
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        typed: bool | dict[str, str] = False,
        name: str = "base.gpkg",
    ) -> SioseBase:
        path = tmp_path / name
        shutil.copy(empty, path)
        kinds: dict[str, str] = {}
        if typed:
            kinds = TYPED if typed is True else TYPED | typed
        with closing(sqlite3.connect(path)) as base:
            base.execute("PRAGMA synchronous = OFF")
            declared = ", ".join(f"{column} {kinds.get(column, '')}" for column in columns)
            base.execute(f"CREATE TABLE T_VALORES ({declared})")
            marks = ", ".join("?" for _ in columns)
            base.executemany(f"INSERT INTO T_VALORES VALUES ({marks})", rows)
            base.commit()
        return siose.open_base(path)

    return write


# What the index should say, by the plainest of joins

Rows = dict[str, list[tuple[CoverKey, float]]]


def said(index: ValuesIndex, ids: Sequence[str]) -> Rows:
    """Covers and per cent of polygons, as the index has them."""
    rows = index.find(np.array(ids, object))
    covers = index.covers(rows)
    found: Rows = {polygon: [] for polygon in ids}
    for row, key, percent in zip(covers.row, covers.key, covers.percent, strict=True):
        found[ids[row]].append((covers.keys[key], float(percent)))
    return found


def joined(path: Path, classic: bool) -> tuple[Rows, dict[str, int]]:
    """Covers and flags of polygons, row by row."""
    with closing(sqlite3.connect(path)) as base:
        base.row_factory = sqlite3.Row
        table = [dict(row) for row in base.execute("SELECT * FROM T_VALORES ORDER BY rowid")]
    polygons: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table:
        polygons[_text(row["ID_POLYGON"])].append(row)
    found: Rows = {}
    flags: dict[str, int] = {}
    for polygon, rows in polygons.items():
        found[polygon], flags[polygon] = _tree(rows) if classic else ([_flat(r) for r in rows], 0)
    return found, flags


def _flat(row: dict[str, Any]) -> tuple[CoverKey, float]:
    text = _text(row["CODE_ABREV"])
    match = re.fullmatch(r"[0-9.,\s]*([A-Z]{3})((?:[a-z]{2})*)", text)
    label, attributes = (match[1], re.findall("..", match[2])) if match else (text.upper(), [])
    key = CoverKey(_whole(row["ID_COBERTURA"]), label, tuple(attributes))
    return key, _number(row["SUPERF_POR_SINREDONDEO"])


def _tree(rows: list[dict[str, Any]]) -> tuple[list[tuple[CoverKey, float]], int]:
    flags = 0
    numbered: dict[int, int] = {}
    for i, row in enumerate(rows):
        number = _whole(row["INTER_ID"])
        if number is not None and number in numbered:
            flags |= REPEATED_ROW
        elif number is not None:
            numbered[number] = i
    paths = [[int(s) for s in _text(r["INTER_ANCESTROS"]).split(",") if s.strip()] for r in rows]
    containers = {numbered[step] for path in paths for step in path if step in numbered}
    inside: dict[int, float] = defaultdict(float)
    for row, path in zip(rows, paths, strict=True):
        own = _whole(row["INTER_ID"])
        for step in path:
            if step not in numbered:
                flags |= LOST_ANCESTOR
            elif own == step or (own is not None and own in paths[numbered[step]]):
                flags |= INSIDE_ITSELF
        if path and path[-1] in numbered:
            inside[numbered[path[-1]]] += _number(row["SUPERF_POR"])
    for container in containers:
        whole = _number(rows[container]["SUPERF_POR"])
        if abs(inside[container] - whole) > PERCENT_ROUNDING:
            flags |= UNEVEN_CONTAINER
    leaves = []
    for i, (row, path) in enumerate(zip(rows, paths, strict=True)):
        if i not in containers:
            around = [
                _whole(rows[numbered[step]]["ID_COBERTURAS"]) for step in path if step in numbered
            ]
            attributes = tuple(re.findall("..", _text(row["ATRIBUTOS"])))
            within = tuple(cover for cover in around if cover is not None)
            key = CoverKey(_whole(row["ID_COBERTURAS"]), "", attributes, within)
            leaves.append((key, _number(row["SUPERF_POR"])))
    return leaves, flags


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _number(value: object) -> float:
    try:
        return float(_text(value).replace(",", "."))
    except ValueError:
        return float("nan")


def _whole(value: object) -> int | None:
    number = _number(value)
    return int(number) if number == number and number == int(number) else None


def _same(found: Rows, expected: Rows) -> None:
    def plain(rows: Rows) -> dict[str, list[tuple[CoverKey, str]]]:
        return {p: [(key, repr(percent)) for key, percent in listed] for p, listed in rows.items()}

    assert plain(found) == plain(expected)


IDS = st.sampled_from(
    ["a", "b", " a ", "7", "07", 7, 7.0, 7.5, "7.0", "", None, "ñandú", "urn:uuid:1", "A", "1e3"]
)
PERCENTS = st.one_of(
    st.floats(0, 100), st.integers(0, 100),
    st.sampled_from([None, "70,5", " 12.25 ", "much", "", 33.333333333333336, -5]),
)  # fmt: skip
COVERS = st.sampled_from([101, 104, 316, 999, None, "121", "313,0", 312.0, "no number"])
LABELS = st.sampled_from([None, "", "EDF", "70FDPpl", "30CNFfrpl", "05 SNE", "12,5MTR", "edf x"])
RELAXED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@RELAXED
@given(
    st.lists(st.tuples(IDS, LABELS, COVERS, PERCENTS), max_size=14),
    st.sampled_from([False, True, {"ID_POLYGON": "REAL"}, {"ID_POLYGON": "INTEGER"}]),
)
@example([], False)
@example([(7.0, "EDF", 101, "70,5"), (7.5, "SNE", 121, 1)], False)
@example([(7, "EDF", 101, 50), (8, "SNE", 121, 50)], {"ID_POLYGON": "REAL"})
def test_the_index_is_a_plain_join(base_of: Any, rows: list[Any], typed: Any) -> None:
    base = base_of(AR, rows, typed)
    index = opened(index_values(base))
    expected, _ = joined(base.path, classic=False)
    expected.pop("", None)  # rows of no polygon are nobody's
    _same(said(index, [*expected, "unknown"]), expected | {"unknown": []})
    assert index.find(np.array(["", "unknown", "a b"], object)).tolist() == [-1, -1, -1]
    assert (np.diff(index.hashes.astype(object)) > 0).all()


ROW = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from([600, 701, 813, 101, 316, None]),
    st.sampled_from([1, 2, 3, 4, 5, 6, None]),
    st.sampled_from(["", None, "1", "1,2", "1, 2,3", "2", "4", "1,2,3,4", "9", "5"]),
    st.sampled_from(["", None, "pl", "frpl", "A"]),
    st.sampled_from([100.0, 50.0, 25.0, 12.5, 50, "33,3"]),
)


@RELAXED
@given(st.lists(ROW, max_size=12), st.booleans())
@example([("a", 600, 1, "1", "A", 100.0), ("a", 101, 2, "1", "", 100.0)], True)
@example([("a", 600, 1, "2", "", 50.0), ("a", 813, 2, "1", "", 50.0)], True)
def test_leaves_and_what_is_around_them(base_of: Any, rows: list[Any], typed: bool) -> None:
    rows = [(*row[:4], "" if row[4] == "A" else row[4], row[5]) for row in rows]
    base = base_of(CLASSIC, rows, typed)
    index = opened(index_values(base))
    expected, flags = joined(base.path, classic=True)
    _same(said(index, list(expected)), expected)
    places = index.find(np.array(list(flags), object))
    assert index.flags[places].tolist() == list(flags.values())


# Columns


def test_rows_of_one_polygon_may_lie_apart(base_of: Any) -> None:
    """Some thousands of polygons, shuffled, over more than one batch."""
    rng = np.random.default_rng(3)
    rows = [
        (f"p{i % 3000}", "EDF", int(c), float(i))
        for i, c in enumerate(rng.integers(101, 130, 9000))
    ]
    index = opened(index_values(base_of(AR, rows)))
    found = said(index, ["p0", "p2999", "p1500"])
    for number in (0, 1500, 2999):
        expected = [(rows[i][2], rows[i][3]) for i in (number, number + 3000, number + 6000)]
        assert [(key.cover, percent) for key, percent in found[f"p{number}"]] == expected


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 500_000])
def test_batches_may_end_anywhere(
    base_of: Any, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr("pipeline.siose_tables.BATCH", batch)
    rows = [("a", "EDF", 101, 10), ("a", "SNE", 121, 20), ("b", "EDF", 101, 30)] * 2
    for typed in (True, False):
        index = opened(index_values(base_of(AR, rows, typed, f"{typed}.gpkg")))
        found = said(index, ["a", "b"])
        assert [percent for _, percent in found["a"]] == [10, 20, 10, 20]
        assert [percent for _, percent in found["b"]] == [30, 30]


@pytest.mark.parametrize("kind", ["REAL", "FLOAT", "DOUBLE", "NUMERIC", "SMALLINT", ""])
def test_percentages_are_exactly_the_tables(base_of: Any, kind: str) -> None:
    """A GeoPackage's FLOAT is of four bytes for GDAL, and of eight in the file."""
    percents = [33.333333333333336, 66.7, 0.1 + 0.2, 100.0, 1e-9]
    rows = [("a", "EDF", 101, percent) for percent in percents]
    base = base_of(AR, rows, {"SUPERF_POR_SINREDONDEO": kind})
    found = said(opened(index_values(base)), ["a"])["a"]
    assert [percent for _, percent in found] == percents


@pytest.mark.parametrize("kind", ["INTEGER", "MEDIUMINT", "SMALLINT", "TINYINT", "BOOLEAN", "DATE"])
def test_ids_of_covers_are_exactly_the_tables(base_of: Any, kind: str) -> None:
    rows = [("a", "EDF", cover, 50.0) for cover in (101, 999)]
    base = base_of(AR, rows, {"ID_COBERTURA": kind})
    found = said(opened(index_values(base)), ["a"])["a"]
    assert [key.cover for key, _ in found] == [101, 999]


def test_text_that_is_no_utf_8(base_of: Any) -> None:
    for typed in (True, False):
        base = base_of(AR, [("a", "EDF", 101, 100.0)], typed, f"{typed}.gpkg")
        latin = "ñandú".encode("latin-1").hex()
        dialects.run_sql(base.path, f"UPDATE T_VALORES SET ID_POLYGON = CAST(X'{latin}' AS TEXT)")
        index = opened(index_values(siose.open_base(base.path)))
        assert index.ids.to_pylist() == ["ñandú"]


@pytest.mark.parametrize(
    ("written", "around"),
    [
        ("1,2", (600, 813)), (" 1 , 2 ", (600, 813)), ("1;2", (600, 813)), ("1,2,", (600, 813)),
        ("0,1,2", (600, 813)), ("2", (813,)), (2, (813,)), (2.0, (813,)), ("2.0", (813,)),
    ],
)  # fmt: skip
def test_paths_are_read_as_they_are_written(
    base_of: Any, written: object, around: tuple[int, ...]
) -> None:
    rows = [
        ("a", 600, 1, "", "A", 100.0),
        ("a", 813, 2, "1", "", 100.0),
        ("a", 101, 3, written, "", 100.0),
    ]
    index = opened(index_values(base_of(CLASSIC, rows)))
    assert said(index, ["a"]) == {"a": [(CoverKey(101, "", (), around), 100.0)]}
    assert index.flags.tolist() == [0]


def test_rows_may_count_from_0(base_of: Any) -> None:
    rows = [
        ("a", 600, 0, "", "A", 100.0),
        ("a", 101, 1, "0", "", 60.0),
        ("a", 121, 2, "0", "", 40.0),
    ]
    index = opened(index_values(base_of(CLASSIC, rows)))
    assert said(index, ["a"]) == {
        "a": [(CoverKey(101, "", (), (600,)), 60.0), (CoverKey(121, "", (), (600,)), 40.0)]
    }
    assert index.flags.tolist() == [0]


@pytest.mark.parametrize("written", ["one", "1.2", "1|3", "-1"])
def test_a_path_that_cannot_be_read_is_told(base_of: Any, written: str) -> None:
    rows = [("a", 600, 1, "", "A", 100.0), ("a", 101, 2, written, "", 100.0)]
    index = opened(index_values(base_of(CLASSIC, rows)))
    assert index.flags.tolist() == [LOST_ANCESTOR]


@pytest.mark.parametrize("number", [10**6, 1_999_990_000])
def test_numbers_of_rows_may_run_through_the_whole_table(base_of: Any, number: int) -> None:
    rows: list[tuple[object, ...]] = []
    for polygon in range(300):
        top = number + 3 * polygon
        rows += [
            (f"p{polygon}", 600, top, "", "A", 100.0),
            (f"p{polygon}", 101, top + 1, f"{top}", "", 60.0),
            (f"p{polygon}", 121, top + 2, f"{top}", "", 40.0),
        ]
    index = opened(index_values(base_of(CLASSIC, rows)))
    assert not index.flags.any()
    ids = [f"p{polygon}" for polygon in range(300)]
    expected = [(CoverKey(101, "", (), (600,)), 60.0), (CoverKey(121, "", (), (600,)), 40.0)]
    assert said(index, ids) == dict.fromkeys(ids, expected)


@pytest.mark.parametrize("number", [2_000_000_000, 2**31 - 1, 2**31, 2**32 + 1, 2**40])
def test_numbers_of_rows_that_are_none_are_told(base_of: Any, number: int) -> None:
    rows = [("a", 600, number, "", "A", 100.0), ("a", 101, number + 1, f"{number}", "", 100.0)]
    index = opened(index_values(base_of(CLASSIC, rows)))
    assert index.flags.tolist() == [LOST_ANCESTOR]


# Tables


def _database(path: Path, *statements: str) -> SioseBase:
    return siose.open_base(dialects.run_sql(path, *statements))


def test_a_table_with_an_index_of_its_own_and_a_view(base_of: Any) -> None:
    rows = [("a", "EDF", 101, 60.0), ("b", "SNE", 121, 100.0), ("a", "SNE", 121, 40.0)]
    path = base_of(AR, rows, True).path
    expected = said(opened(index_values(siose.open_base(path))), ["a", "b"])
    assert [percent for _, percent in expected["a"]] == [60.0, 40.0]
    indexed = _database(path, "CREATE INDEX ids ON T_VALORES (ID_POLYGON)")
    assert said(opened(index_values(indexed)), ["a", "b"]) == expected
    view = _database(
        path,
        "ALTER TABLE T_VALORES RENAME TO joined",
        "CREATE VIEW T_VALORES AS SELECT * FROM joined",
    )
    assert said(opened(index_values(view)), ["a", "b"]) == expected


def test_an_empty_table_has_an_empty_index(base_of: Any, tmp_path: Path) -> None:
    for columns in (AR, CLASSIC):
        base = base_of(columns, [], True, f"{len(columns)}.gpkg")
        table = index_values(base)
        assert len(table) == 0
        write_index(table, tmp_path / "index.arrow")
        index = open_index(tmp_path / "index.arrow", base)
        assert index is not None
        assert index.find(np.array(["a", ""], object)).tolist() == [-1, -1]
        assert len(index.covers(np.array([-1, -1])).row) == 0


def test_a_base_without_a_table_has_an_empty_index(empty: Path, tmp_path: Path) -> None:
    base = siose.open_base(empty)
    assert base.table is None
    write_index(index_values(base), tmp_path / "index.arrow")
    index = open_index(tmp_path / "index.arrow", base)
    assert index is not None
    assert index.find(np.array(["one"], object)).tolist() == [-1]


# The file


@pytest.fixture
def filed(base_of: Any, tmp_path: Path) -> tuple[SioseBase, Path]:
    """A base and the file of its index."""
    rows = [(f"p{i}", "EDF", 101 + i % 5, i / 7) for i in range(500)]
    base = base_of(AR, rows, True)
    path = tmp_path / "index.arrow"
    write_index(index_values(base), path)
    return base, path


def test_the_index_comes_back_from_its_file(filed: tuple[SioseBase, Path]) -> None:
    base, path = filed
    index = open_index(path, base)
    assert index is not None
    ids = [f"p{i}" for i in range(500)]
    found = said(index, ids)
    assert found == {f"p{i}": [(CoverKey(101 + i % 5, "EDF"), i / 7)] for i in range(500)}
    # Not loaded: pages of the file, of which a sheet touches its own.
    assert not index.percent.flags.owndata
    assert not index.percent.flags.writeable


def test_opening_and_asking_reads_few_pages(base_of: Any, tmp_path: Path) -> None:
    """Half a million rows are mapped, not read."""
    base = base_of(AR, [("p0", "EDF", 101, 1.0)], True)
    count = 400_000
    table = index_values(base)
    ids = pa.array([f"urn:uuid:{i:032d}" for i in range(count)], pa.large_string())
    hashes = hashed(np.array(ids.to_pylist(), object), "tesela-values-01")
    order = np.argsort(hashes)
    starts = pa.array(np.arange(count + 1))
    big = pa.table(
        {
            "id": ids.take(pa.array(order)),
            "hash": hashes[order],
            "flags": np.zeros(count, np.uint8),
            "key": pa.LargeListArray.from_arrays(starts, pa.array(np.zeros(count, np.int32))),
            "percent": pa.LargeListArray.from_arrays(starts, pa.array(np.ones(count))),
        }
    ).replace_schema_metadata(table.schema.metadata)
    path = tmp_path / "index.arrow"
    write_index(big, path)
    before = pa.total_allocated_bytes()
    index = open_index(path, base)
    assert index is not None
    wanted = np.array([f"urn:uuid:{i:032d}" for i in range(0, count, 40_000)], object)
    assert (index.covers(index.find(wanted)).percent == 1).all()
    assert len(index.covers(index.find(wanted)).row) == 10
    assert path.stat().st_size > 30_000_000
    assert pa.total_allocated_bytes() - before < 100_000


def test_the_same_table_gives_the_same_bytes(filed: tuple[SioseBase, Path], tmp_path: Path) -> None:
    base, path = filed
    again = tmp_path / "again.arrow"
    write_index(index_values(siose.open_base(base.path)), again)
    assert again.read_bytes() == path.read_bytes()


def _touched(path: Path) -> None:
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))


def _another_column(base: SioseBase) -> SioseBase:
    assert base.table_columns is not None
    return replace(base, table_columns=replace(base.table_columns, percent="OTHER"))


def test_an_index_of_another_state_is_not_used(filed: tuple[SioseBase, Path]) -> None:
    base, path = filed
    assert open_index(path, base) is not None
    assert open_index(path, _another_column(base)) is None
    _touched(base.path)
    assert open_index(path, base) is None
    write_index(index_values(base), path)
    assert open_index(path, base) is not None
    dialects.run_sql(base.path, "DELETE FROM T_VALORES")
    assert open_index(path, base) is None


def test_an_index_is_old_when_the_log_of_the_base_grows(filed: tuple[SioseBase, Path]) -> None:
    """In WAL mode a change is in the log beside the base; the base itself stays as it was."""
    base, path = filed
    for cover in (121, 316):
        # Another process, killed: one that ends in order leaves no log.
        code = f"""
import os, sqlite3
base = sqlite3.connect({str(base.path)!r})
base.execute("PRAGMA journal_mode=WAL")
base.execute("UPDATE T_VALORES SET ID_COBERTURA = {cover}")
base.commit()
os._exit(0)
"""
        subprocess.run([sys.executable, "-c", code], check=True)
        assert Path(f"{base.path}-wal").stat().st_size > 0
        assert open_index(path, base) is None
        write_index(index_values(base), path)
        index = open_index(path, base)
        assert index is not None
        assert {key.cover for key in index.keys} == {cover}


def test_an_index_is_old_when_a_file_of_the_geodatabase_changes(tmp_path: Path) -> None:
    path = dialects.write_tables(
        tmp_path / "base.gdb", "OpenFileGDB",
        T_POLIGONOS=dialects.polygons(), T_VALORES=dialects.classic_values(),
    )  # fmt: skip
    base = siose.open_base(path)
    file = tmp_path / "index.arrow"
    write_index(index_values(base), file)
    assert open_index(file, base) is not None
    folder = path.stat()
    _touched(max(path.glob("*.gdbtable"), key=lambda table: table.stat().st_size))
    os.utime(path, ns=(folder.st_atime_ns, folder.st_mtime_ns))
    assert open_index(file, base) is None


def test_an_index_is_old_when_the_table_beside_a_shapefile_changes(tmp_path: Path) -> None:
    table = dialects.write_dbf(tmp_path, dialects.classic_values())
    base = siose.open_base(dialects.write_shapefile(tmp_path, dialects.polygons()))
    file = tmp_path / "index.arrow"
    write_index(index_values(base), file)
    assert open_index(file, base) is not None
    _touched(table)
    assert open_index(file, base) is None


def test_no_index(filed: tuple[SioseBase, Path], tmp_path: Path) -> None:
    assert open_index(tmp_path / "none.arrow", filed[0]) is None


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda raw: b"", id="empty"),
        pytest.param(lambda raw: raw[:-1], id="a byte less"),
        pytest.param(lambda raw: raw[: len(raw) // 10], id="a tenth"),
        pytest.param(lambda raw: raw[: len(raw) // 2], id="half"),
        pytest.param(lambda raw: raw[:-500], id="no footer"),
        pytest.param(lambda raw: raw[:8] + bytes(len(raw) - 8), id="zeros"),
        pytest.param(lambda raw: bytes(len(raw)), id="all zeros"),
        pytest.param(lambda raw: b"not an index of ours " * 50, id="text"),
        pytest.param(lambda raw: raw.replace(b'{"hash_key"', b'["hash_key"'), id="metadata"),
    ],
)
def test_a_damaged_index_is_made_again(
    filed: tuple[SioseBase, Path], damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    base, path = filed
    raw = path.read_bytes()
    path.write_bytes(damage(raw))
    assert path.read_bytes() != raw
    assert open_index(path, base) is None
    assert f"{path}: cannot be read" in caplog.text
    assert "it is made again" in caplog.text


def test_an_arrow_file_of_somebody_else(filed: tuple[SioseBase, Path]) -> None:
    base, path = filed
    write_index(pa.table({"a": [1, 2]}), path)
    assert open_index(path, base) is None
