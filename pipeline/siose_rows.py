"""Rows of values tables: put together by polygon, and of classic SIOSE told which are ground.

In classic SIOSE a row is a container where another names it in ``INTER_ANCESTROS``; only leaves
describe ground.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.siose_base import SioseBase
from pipeline.siose_tables import batches, identifiers, numbers, texts

PERCENT_ROUNDING = 1.0
"""Covers inside a container may miss its percentage by this much."""

LOST_ANCESTOR, REPEATED_ROW, UNEVEN_CONTAINER, INSIDE_ITSELF = 1, 2, 4, 8
"""What is wrong with the tree of a polygon's rows, as bits."""

TREE_PROBLEMS = {
    LOST_ANCESTOR: "a row is inside one that is not there",
    REPEATED_ROW: "two rows have the same INTER_ID",
    UNEVEN_CONTAINER: "the covers inside a composite do not add up to it",
    INSIDE_ITSELF: "a row is inside itself",
}
"""The same in words."""

_PIECE = 1_000_000  # rows whose trees are resolved at a time
_KINDS: dict[str, type[np.generic]] = {"percent": np.float64, "row": np.int64}
_ABBREVIATION = re.compile(r"[0-9.,\s]*(?P<cover>[A-Z]{3})(?P<attributes>(?:[a-z]{2})*)")
_STEP = re.compile(r"([0-9]{1,15})(?:\.0+)?")
_UNREADABLE = -2
_MOST_ROWS = 2_000_000_000
_HASH_KEYS = ("tesela-values-01", "tesela-values-02", "tesela-values-03")


@dataclass(frozen=True)
class CoverKey:
    """A cover as a base writes it: what decides its class.

    Attributes:
        cover: Its id, or None where only its label is known.
        label: Its label as written, may be empty.
        attributes: Its attributes, pairs of lower-case letters.
        within: Composites around it, outermost first: ids, or labels where only they are known.
    """

    cover: int | None
    label: str
    attributes: tuple[str, ...] = ()
    within: tuple[int | str, ...] = ()


class ValueRows:
    """All rows of a values table, those of one polygon together, in the table's order.

    About 50 bytes a row, and three copies of each id at most: seven million rows take some
    1.3 GB, and a province's 50 MB.
    """

    def __init__(self, base: SioseBase) -> None:
        self.coded: dict[str, list[str]] = {}
        self._attributes = base.attributes
        read = list(self._read(base))
        ids: pa.ChunkedArray = pa.chunked_array([part["id"] for part in read], pa.large_string())
        self.hash_key, run_hash = _hashed_apart(ids)
        run = _joined(read, "run", np.int32)
        # Runs of one polygon may lie apart: they are joined by their hash, in the table's order.
        order = np.argsort(run_hash, kind="stable")
        sorted_hash = run_hash[order]
        first = np.ones(len(order), bool)
        first[1:] = sorted_hash[1:] != sorted_hash[:-1]
        rank = np.empty(len(order), np.int32)
        rank[order] = np.cumsum(first) - 1
        self.polygons = ids.combine_chunks().take(pa.array(order[first]))
        self.hashes = sorted_hash[first]
        polygon = rank[run]
        del run, rank, order
        rows = np.argsort(polygon, kind="stable")
        self.polygon = polygon[rows]
        names = [name for name in (read[0] if read else ()) if name != "id"]
        # One by one, so that a column is there twice only while it is put in order.
        self.column = {
            name: _joined(read, name, _KINDS.get(name, np.int32))[rows] for name in names
        }
        self.percent = self.column.get("percent", np.zeros(0))

    def _read(self, base: SioseBase) -> Iterator[dict[str, NDArray[np.generic]]]:
        if base.table is None or base.table_columns is None:
            return
        names = {
            name: getattr(base.table_columns, name)
            for name in base.table_columns.__dataclass_fields__
            if getattr(base.table_columns, name)
        }
        codes: dict[str, dict[str, int]] = {n: {} for n in ("label", "attributes", "above")}
        self.coded = {name: [] for name in codes}
        before: str | None = None
        runs = 0
        for columns in batches(base.table, list(dict.fromkeys(names.values()))):
            given = dict(zip(dict.fromkeys(names.values()), columns, strict=True))
            column = {name: given[spelt] for name, spelt in names.items()}
            ids = pc.fill_null(texts(column["polygon"]), "").cast(pa.large_string())
            if not len(ids):
                continue
            starts = np.ones(len(ids), bool)
            starts[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
            starts[0] = ids[0].as_py() != before
            before = ids[-1].as_py()
            part: dict[str, NDArray[np.generic]] = {
                "id": identifiers(ids.filter(pa.array(starts))),
                "run": (runs + np.cumsum(starts) - 1).astype(np.int32),
                "percent": numbers(column["percent"]),
            }
            runs += int(starts.sum())
            for name in ("cover", "row"):
                if name in column:
                    number = numbers(column[name])
                    # Numbers of rows may run through the whole of Spain and on.
                    kind = np.int32 if name == "cover" else np.int64
                    whole = (number == np.floor(number)) & (np.abs(number) <= np.iinfo(kind).max)
                    part[name] = np.where(whole, number, -1).astype(kind)
            for name, known in codes.items():
                if name in column:
                    part[name] = _coded(texts(column[name]), known, self.coded[name])
            yield part

    def keys(
        self,
    ) -> tuple[NDArray[np.int32], list[CoverKey], NDArray[np.bool_], NDArray[np.uint8]]:
        """Key of each row, the keys, which rows are leaves, and what is wrong with the trees."""
        count = len(self.polygon)
        flags = np.zeros(len(self.polygons), np.uint8)
        none = np.full(count, -1, np.int32)
        cover = self.column.get("cover", none)
        attributes = self.column.get("attributes", none)
        label = self.column.get("label", none)
        # CODE_ABREV carries the percentage, and SIOSE AR's attributes: 70FDPpl.
        said = [_cover_of(text) for text in self.coded.get("label", [])]
        names = list(dict.fromkeys(said))
        order = {name: i for i, name in enumerate(names)}
        label = np.array([order[s] for s in said] + [-1], np.int32)[label]
        leaf, key = np.ones(count, bool), np.zeros(count, np.int32)
        known: dict[tuple[int, ...], int] = {}
        for piece in self._pieces():
            columns = [cover[piece], label[piece], attributes[piece]]
            if "row" in self.column:
                leaf[piece], around = self._tree(piece, cover[piece], flags)
                columns += list(around.T)
            combined, parts = _factorized(columns)
            # Another piece may go deeper: without the levels that are not there.
            found = [(*part[:3], *(w for w in part[3:] if w >= 0)) for part in parts]
            places = np.array([known.setdefault(part, len(known)) for part in found], np.int32)
            key[piece] = places[combined]
        keys = []
        for number, name, written, *within in known:
            text, own = names[name] if name >= 0 else ("", ())
            given = self.coded["attributes"][written] if written >= 0 else ""
            keys.append(
                CoverKey(
                    number if number >= 0 else None,
                    text,
                    own or attributes_of(given, self._attributes),
                    tuple(within),
                )
            )
        return key, keys, leaf, flags

    def _pieces(self) -> Iterator[slice]:
        """Rows of whole polygons, about :data:`_PIECE` at a time."""
        start = 0
        while start < len(self.polygon):
            last = self.polygon[min(start + _PIECE, len(self.polygon)) - 1]
            end = int(np.searchsorted(self.polygon, last, side="right"))
            yield slice(start, end)
            start = end

    def _tree(
        self, piece: slice, cover: NDArray[np.int32], flags: NDArray[np.uint8]
    ) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Which rows of a piece are leaves, and the covers around each, outermost first."""
        row, above = self.column["row"][piece], self.column["above"][piece]
        polygon, percent = self.polygon[piece], self.percent[piece]
        paths = [_path(text) for text in self.coded["above"]] + [()]
        depth = max((len(path) for path in paths), default=0)
        table = np.full((len(paths), depth), -1, np.int64)
        for number, path in enumerate(paths):
            table[number, : len(path)] = path
        span = int(max(row.max(initial=0), table.max(initial=0))) + 2
        table[table == _UNREADABLE] = span - 1  # which is no row's
        steps = table[above]  # (rows, depth): INTER_ID of the rows around
        first = int(polygon[0]) if len(polygon) else 0
        ours = polygon.astype(np.int64) - first
        place = ours * span + row
        order = np.argsort(place, kind="stable")
        ranked = place[order]
        repeated = np.flatnonzero((ranked[1:] == ranked[:-1]) & (row[order][1:] >= 0))
        flags[polygon[order][repeated]] |= REPEATED_ROW
        container = np.zeros(len(row), bool)
        around = np.full(steps.shape, -1, np.int32)
        parent = np.full(len(row), -1, np.int64)
        for level in range(depth):
            inside = np.flatnonzero(steps[:, level] >= 0)
            wanted = ours[inside] * span + steps[inside, level]
            near = np.minimum(np.searchsorted(ranked, wanted), len(ranked) - 1)
            there = ranked[near] == wanted
            # Paths from 0 may begin with no row: with nothing.
            lost = inside[~there & (steps[inside, level] > 0)]
            flags[polygon[lost]] |= LOST_ANCESTOR
            found = order[near[there]]
            container[found] = True
            own = row[inside[there], None]
            looped = (steps[inside[there], level, None] == own) | (steps[found] == own)
            looped = looped.any(axis=1) & (own[:, 0] >= 0)
            flags[polygon[found[looped]]] |= INSIDE_ITSELF
            around[inside[there], level] = cover[found]
            parent[inside] = -1
            parent[inside[there]] = found
        inner = np.flatnonzero(parent >= 0)
        filled = np.bincount(parent[inner], percent[inner], minlength=len(row))
        uneven = container & (np.abs(filled - percent) > PERCENT_ROUNDING)
        flags[polygon[uneven & np.isfinite(percent)]] |= UNEVEN_CONTAINER
        return ~container, around


def _joined(
    parts: Sequence[dict[str, NDArray[np.generic]]], name: str, kind: type[np.generic]
) -> NDArray[Any]:
    """A column of all parts, taken out of them."""
    return np.concatenate([np.zeros(0, kind), *(part.pop(name) for part in parts)])


def _factorized(
    columns: Sequence[NDArray[np.integer[Any]]],
) -> tuple[NDArray[np.int64], list[tuple[int, ...]]]:
    """Number of each row's combination, in the order in which they first occur, and these."""
    combined = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        codes, found = pd.factorize(column)
        combined, _ = pd.factorize(combined * max(1, len(found)) + codes)
    _, firsts = np.unique(combined, return_index=True)
    return combined, [tuple(int(column[i]) for column in columns) for i in firsts]


def _coded(values: pa.Array, known: dict[str, int], listed: list[str]) -> NDArray[np.int32]:
    """Texts as positions in ``listed``, which grows; -1 for nothing."""
    encoded = pc.dictionary_encode(values)
    numbers = [-1]
    for text in encoded.dictionary.to_pylist():
        if text not in known:
            known[text] = len(listed)
            listed.append(text)
        numbers.append(known[text])
    places = pc.fill_null(encoded.indices.cast(pa.int64()), -1).to_numpy() + 1
    codes: NDArray[np.int32] = np.array(numbers, np.int32)[places]
    return codes


def _cover_of(text: str) -> tuple[str, tuple[str, ...]]:
    """Label and attributes of a cover as ``CODE_ABREV`` writes it: ``70FDPpl``."""
    match = _ABBREVIATION.fullmatch(text)
    if match:
        return match["cover"], attributes_of(match["attributes"], {})
    # Of a base that writes covers in its own way: whole, for the nomenclature's `aliases`.
    return text.upper(), ()


def attributes_of(text: str, labels: Mapping[int, str]) -> tuple[str, ...]:
    """Attributes as pairs of letters, from ``frpl``, ``fr, pl`` or their ids, ``41, 40``.

    Args:
        text: The attributes.
        labels: Labels of attributes by their id.
    """
    found: list[str] = []
    # One that stands alone may be a number to the base: 40.0.
    for word in re.findall(r"[a-z]+|[0-9]+", text.lower().removesuffix(".0")):
        if word.isdecimal():
            found.append(labels.get(int(word), word))
        else:
            found += [word[i : i + 2] for i in range(0, len(word), 2)]
    return tuple(found)


def _path(text: str) -> tuple[int, ...]:
    """INTER_ID of the rows around a row, outermost first."""
    steps = [step.strip() for step in text.replace(";", ",").split(",")]
    written = [_STEP.fullmatch(step) for step in steps if step]
    numbers = [int(step[1]) if step else _UNREADABLE for step in written]
    return tuple(number if number < _MOST_ROWS else _UNREADABLE for number in numbers)


def hashed(ids: Sequence[str] | NDArray[np.object_], key: str) -> NDArray[np.uint64]:
    """Hashes of ids, uint64, shape ``(n,)``."""
    values = np.asarray(ids, object)
    hashes: NDArray[np.uint64] = pd.util.hash_array(values, hash_key=key, categorize=False)
    return hashes


def _hashed_apart(ids: pa.ChunkedArray) -> tuple[str, NDArray[np.uint64]]:
    """A key under which different ids have different hashes, and the hashes."""
    for key in _HASH_KEYS:
        hashes = np.concatenate(
            [
                np.zeros(0, np.uint64),
                *(hashed(chunk.to_numpy(zero_copy_only=False), key) for chunk in ids.chunks),
            ]
        )
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        left, right = (ids.take(pa.array(order[same + i])) for i in (0, 1))
        if pc.all(pc.equal(left, right), min_count=0).as_py():
            return key, hashes
    raise InputError("ID_POLYGON: ids collide under every key of the hash; report this to us.")
