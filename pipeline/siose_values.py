"""Values tables, indexed once a run: the covers of a sheet's polygons without a look at the others.

The index is an Arrow file with one row a polygon, in the order of a hash of ``ID_POLYGON``, and
the polygon's covers in the table's order. It is mapped into memory, so that a sheet reads only the
pages of its own polygons. Of classic SIOSE it holds the leaves; containers describe no ground, and
are left as what encloses a leaf.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.ragged import ranges
from pipeline.siose_base import SioseBase
from pipeline.siose_rows import CoverKey, ValueRows, hashed
from pipeline.siose_tables import identifiers

log = logging.getLogger(__name__)

_VERSION = 2


@dataclass(frozen=True)
class Covers:
    """Covers of some polygons, one after the other.

    Attributes:
        keys: The different covers.
        row: Position of the polygon, int64, shape ``(n,)``, ascending.
        key: Position in ``keys``, int64, shape ``(n,)``.
        percent: Per cent of the polygon, float64, NaN where it is no number, shape ``(n,)``.
    """

    keys: tuple[CoverKey, ...]
    row: NDArray[np.int64]
    key: NDArray[np.int64]
    percent: NDArray[np.float64]


@dataclass(frozen=True)
class ValuesIndex:
    """An open index.

    Attributes:
        ids: ``ID_POLYGON`` in the order of the hash, shape ``(polygons,)``.
        hashes: Their hashes, ascending, uint64, shape ``(polygons,)``.
        starts: Where their covers begin, int64, shape ``(polygons + 1,)``.
        flags: Bits of :data:`TREE_PROBLEMS`, uint8, shape ``(polygons,)``.
        key: Position in ``keys``, int32, shape ``(covers,)``.
        percent: Per cent of the polygon, float64, shape ``(covers,)``.
        keys: The different covers.
        hash_key: Key of the hash.
    """

    ids: pa.LargeStringArray
    hashes: NDArray[np.uint64]
    starts: NDArray[np.int64]
    flags: NDArray[np.uint8]
    key: NDArray[np.int32]
    percent: NDArray[np.float64]
    keys: tuple[CoverKey, ...]
    hash_key: str

    def find(self, ids: NDArray[np.object_]) -> NDArray[np.int64]:
        """Rows of polygons in the index, -1 where they are not there, shape ``(n,)``."""
        found = np.full(len(ids), -1, np.int64)
        if not len(self.hashes) or not len(ids):
            return found
        given = identifiers(pa.array(ids, pa.string()))
        wanted = hashed(given.to_numpy(zero_copy_only=False), self.hash_key)
        # In the order of the hashes: else each id walks through all of the file's pages.
        order = np.argsort(wanted)
        near = np.searchsorted(self.hashes, wanted[order])
        near[near == len(self.hashes)] = 0
        same = self.hashes[near] == wanted[order]
        near, order = near[same], order[same]
        # A hash is a hint; the id decides.
        there = pc.equal(self.ids.take(pa.array(near)), given.take(pa.array(order)))
        there = there.to_numpy(zero_copy_only=False) & (ids[order] != "")
        found[order[there]] = near[there]
        return found

    def hashes_of(self, ids: NDArray[np.object_]) -> NDArray[np.uint64]:
        """Hashes of ids as the index has them, uint64, shape ``(n,)``."""
        given = identifiers(pa.array(ids, pa.string()))
        return hashed(given.to_numpy(zero_copy_only=False), self.hash_key)

    def covers(self, rows: NDArray[np.int64]) -> Covers:
        """Covers of polygons by their rows in the index; row -1 has none."""
        there = np.flatnonzero(rows >= 0)
        first = self.starts[rows[there]]
        count = self.starts[rows[there] + 1] - first
        places = ranges(first, count)
        return Covers(
            self.keys,
            np.repeat(there, count),
            self.key[places].astype(np.int64),
            np.asarray(self.percent[places]),
        )


def index_values(base: SioseBase) -> pa.Table:
    """Index the values table of a base; of a base without one, the index is empty.

    Raises:
        InputError: If the table cannot be read.
    """
    rows = ValueRows(base)
    polygons = rows.polygons
    key, keys, leaf, flags = rows.keys()
    order = np.flatnonzero(leaf)
    starts = np.searchsorted(rows.polygon[order], np.arange(len(polygons) + 1))
    lists = [
        pa.LargeListArray.from_arrays(pa.array(starts), pa.array(values))
        for values in (key[order], rows.percent[order])
    ]
    table = pa.table(
        {
            "id": polygons.cast(pa.large_string()),
            "hash": rows.hashes,
            "flags": flags,
            "key": lists[0],
            "percent": lists[1],
        }
    )
    content = {
        "of": source_of(base),
        "hash_key": rows.hash_key,
        "keys": [[k.cover, k.label, list(k.attributes), list(k.within)] for k in keys],
    }
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return table.replace_schema_metadata({"tesela": text})


def write_index(table: pa.Table, draft: Path) -> None:
    """Write an index as one Arrow record batch, uncompressed so that it can be mapped."""
    whole = table.combine_chunks()
    with pa.OSFile(str(draft), "wb") as file, pa.ipc.new_file(file, whole.schema) as writer:
        writer.write_table(whole, max_chunksize=max(1, len(whole)))


def open_index(path: Path, base: SioseBase) -> ValuesIndex | None:
    """Open an index, or None where there is none, or it is of another state of the base."""
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        table.validate()
        content = json.loads((table.schema.metadata or {}).get(b"tesela", b"{}"))
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, ValueError) as error:
        log.warning("%s: cannot be read (%s); it is made again", path, error)
        return None
    if content.get("of") != source_of(base):
        return None
    return opened(table)


def opened(table: pa.Table) -> ValuesIndex:
    """The index that :func:`index_values` has made, or that was read back."""
    content = json.loads(table.schema.metadata[b"tesela"])
    keys = tuple(CoverKey(c, t, tuple(a), tuple(w)) for c, t, a, w in content["keys"])
    if not len(table):
        none = np.zeros(0, np.int64)
        return ValuesIndex(
            pa.array([], pa.large_string()), none.astype(np.uint64), np.zeros(1, np.int64),
            none.astype(np.uint8), none.astype(np.int32), none.astype(np.float64), keys,
            content["hash_key"],
        )  # fmt: skip
    column = {name: table.column(name).chunk(0) for name in table.column_names}
    return ValuesIndex(
        column["id"],
        column["hash"].to_numpy(),
        column["key"].offsets.to_numpy(),
        column["flags"].to_numpy(),
        column["key"].flatten().to_numpy(),
        column["percent"].flatten().to_numpy(),
        keys,
        content["hash_key"],
    )


def source_of(base: SioseBase) -> dict[str, object]:
    """What an index is of: the table, its columns, and the state of its files."""
    if base.table is None or base.table_columns is None:
        return {"version": _VERSION, "file": None}
    path = base.table.path
    # A geodatabase is a folder; a change in WAL mode is in the log beside the base.
    files = sorted(path.iterdir()) if path.is_dir() else [path, Path(f"{path}-wal")]
    states = [
        (file.name, file.stat()) for file in files if file.is_file() and file.suffix != ".lock"
    ]
    return {
        "version": _VERSION,
        "file": base.table.path.name,
        "table": base.table.name,
        "columns": [
            getattr(base.table_columns, name) for name in base.table_columns.__dataclass_fields__
        ],
        "attributes": sorted(map(list, base.attributes.items())),
        "state": [[name, s.st_size, s.st_mtime_ns] for name, s in states if s.st_size],
    }
