"""The covers of polygons, from the best source that each has: table, label, XML, maximum, code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.codelists import UNKNOWN_COVER
from pipeline.cover_resolver import CoverResolver
from pipeline.proportions import OFF_PERCENT
from pipeline.ragged import ranges
from pipeline.rotulo import LabelError, Leaf, Part, leaves, off_percentages, parse
from pipeline.siose_base import SOURCES, SioseBase
from pipeline.siose_polygons import Attributes, read_xml
from pipeline.siose_rows import TREE_PROBLEMS, CoverKey, attributes_of
from pipeline.siose_values import Covers, ValuesIndex
from pipeline.siose_xml import XmlError, parse_xml

log = logging.getLogger(__name__)

LABEL_ROUNDING = 1.0
"""A label's percentages may differ from the table's by this much."""


_SOURCES = ("", *SOURCES, "code")


DBF_TEXT = 254
"""Characters that a column of a DBF has room for."""


class Problem(NamedTuple):
    """A polygon that needs a person's eye.

    Attributes:
        kind: What is wrong, as one word.
        text: What is wrong, with labels and numbers.
        row: Position of the polygon.
    """

    kind: str
    text: str
    row: int


@dataclass(frozen=True)
class ResolvedCovers:
    """Covers of polygons, with the class of each.

    Attributes:
        covers: The covers.
        cover_ids: Id of each key's cover in the base's codelist, -1 where it is none, int64.
        classes: Class of each key, -1 where it is in none, int64.
        sources: What each polygon's covers come from, empty where nothing tells them.
        problems: Polygons that need a person's eye, by row.
    """

    covers: Covers
    cover_ids: NDArray[np.int64]
    classes: NDArray[np.int64]
    sources: NDArray[np.object_]
    problems: list[Problem]

    def shares(self, count: int, classes: int) -> NDArray[np.float64]:
        """Share of each class in each polygon, 0 to 1; unmapped and unknown are the last two.

        Unknown (``DSC``) is part of unmapped.

        Returns:
            float64, shape ``(count, classes + 2)``.
        """
        covers = self.covers
        kind = self.classes[covers.key]
        unknown = (kind < 0) & (self.cover_ids[covers.key] == UNKNOWN_COVER)
        kind = np.where(kind < 0, classes, kind)
        width = classes + 2
        share = covers.percent / 100
        place = covers.row * width + kind
        flat = np.bincount(place, share, minlength=count * width).astype(np.float64)
        result: NDArray[np.float64] = flat.reshape(count, width)
        result[:, -1] = np.bincount(covers.row[unknown], share[unknown], minlength=count)
        return result

    def name_of(self, base: SioseBase, key: int) -> str:
        """A key's cover in words: ``EDF Edificación``, or as it is written."""
        known = base.codelist.by_id.get(int(self.cover_ids[key]))
        if known is not None:
            return f"{known.label} {known.description}".strip() or str(known.id)
        given = self.covers.keys[key]
        return given.label or str(given.cover)


def resolve_covers(
    base: SioseBase, polygons: Attributes, index: ValuesIndex | None, resolver: CoverResolver
) -> ResolvedCovers:
    """Find the covers of polygons and their classes.

    A polygon has the covers of the first of the base's sources that has any of it. One whose label
    is there and empty is SIOSE's sign of ground that nobody interpreted: it has none, whatever the
    table says.

    Args:
        base: The base.
        polygons: The polygons.
        index: The base's values, where it has a table.
        resolver: Classes, and what labels mean in this base.
    """
    return _Resolution(base, polygons, resolver).resolved(index)


class _Resolution:
    """Covers of the polygons at hand, found source by source."""

    def __init__(self, base: SioseBase, polygons: Attributes, resolver: CoverResolver) -> None:
        self.base, self.polygons, self.resolver = base, polygons, resolver
        self.source = np.zeros(len(polygons), np.intp)  # position in _SOURCES
        self.problems: list[Problem] = []
        self.keys: dict[CoverKey, int] = {}
        self.parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
        self.ids: dict[str, int | None] = {}
        self.labelled = base.columns.label is not None or base.columns.code is not None
        self.open = np.ones(len(polygons), bool)  # polygons that still have no covers
        self.rowless = np.zeros(len(polygons), bool)  # labelled, and not in the table
        if self.labelled:
            self.open &= polygons.labelled

    def resolved(self, index: ValuesIndex | None) -> ResolvedCovers:
        said: Covers | None = None
        flags = np.zeros(len(self.polygons), np.uint8)
        for source in self.base.sources:
            if source == "table" and index is not None:
                flags = self._from_table(index)
            elif source == "label":
                said = self._from_labels()
            elif source == "xml" and self.open.any():
                self._from_xml()
            elif source == "maximum":
                self._from_maximum()
            elif source == "code":
                self._from_codes()
        covers = self._joined()
        cover_ids, classes = self._meaning(list(self.keys))
        covers = self._checked(covers)
        if said is not None:
            self._compare(covers, said, cover_ids)
        for bit, text in TREE_PROBLEMS.items():
            self._tell("tree", np.flatnonzero(flags & bit), lambda row, text=text: text)
        self._tell_rowless()
        self._tell_nothing()
        self.problems.sort(key=lambda problem: problem.row)
        sources = np.array(_SOURCES, object)[self.source]
        return ResolvedCovers(covers, cover_ids, classes, sources, self.problems)

    def _from_table(self, index: ValuesIndex) -> NDArray[np.uint8]:
        rows = index.find(self.polygons.ids)
        flags = np.zeros(len(rows), np.uint8)
        flags[rows >= 0] = index.flags[rows[rows >= 0]]
        empty = np.zeros(len(rows), bool)
        if self.base.columns.label is not None:
            empty = ~self.polygons.labelled & (rows >= 0)
        self._tell("unlabelled", np.flatnonzero(empty), lambda row: "its table has rows")
        rows[~self.open] = -1
        self.rowless = self.open & (rows < 0)
        if self.open.any() and len(index.hashes) and (rows < 0).all():
            assert self.base.table is not None
            log.warning(
                "%s: %s has rows of none of %d polygons: it writes %s, and the layer %s",
                self.base.path, self.base.table.name, self.open.sum(),
                f"ID_POLYGON as {index.ids[0].as_py()!r}",
                f"as {self.polygons.ids[self.open][0]!r}",
            )  # fmt: skip
        found = index.covers(rows)
        places = np.array([self._key(key) for key in found.keys], np.int64)
        self._take("table", found.row, places[found.key], found.percent)
        flags[rows < 0] = 0
        return flags

    def _from_labels(self) -> Covers:
        """Covers of all labels, and of polygons without other covers, these."""
        codes = self.polygons.label
        keys: list[NDArray[np.int64]] = []
        percents: list[NDArray[np.float64]] = []
        for code, label in enumerate(self.polygons.label_texts):
            parts: tuple[Part, ...] = ()
            odd: list[tuple[str, str]] = []
            if label:
                try:
                    parts = parse(label)
                except LabelError as error:
                    odd = [("label", f"{error}{self._cut(label)}")]
                else:
                    odd = [
                        ("percentage", f"{label}: {text.replace('the label', 'it')}")
                        for text in off_percentages(parts)
                    ]
            for kind, text in odd:
                # Odd percentages of a label matter only where they are used.
                rows = (codes == code) & (self.open | (kind == "label"))
                self._tell(kind, np.flatnonzero(rows), lambda row, text=text: text)
            key, percent = self._leaves(parts)
            keys.append(key)
            percents.append(percent)
        said = _repeated(codes, keys, percents)
        self._take("label", *self._of_open(said))
        return Covers((), *said)

    def _from_xml(self) -> None:
        rows = np.flatnonzero(self.open)
        found: list[NDArray[np.int64]] = []
        percents: list[NDArray[np.float64]] = []
        for row, text in zip(
            rows.tolist(), read_xml(self.base, self.polygons.fids[rows]), strict=True
        ):
            parts: tuple[Part, ...] = ()
            if text.strip():
                try:
                    parts = parse_xml(text)
                except XmlError as error:
                    self.problems.append(Problem("label", f"{error}{self._cut(text)}", row))
                else:
                    self.problems += [
                        Problem("percentage", f"SIOSE_XML: {odd.replace('the label', 'it')}", row)
                        for odd in off_percentages(parts)
                    ]
            key, percent = self._leaves(parts)
            found.append(key)
            percents.append(percent)
        place, keys, shares = _repeated(np.arange(len(rows)), found, percents)
        self._take("xml", rows[place], keys, shares)

    def _from_maximum(self) -> None:
        rows = np.flatnonzero(self.open & (self.polygons.maximum > 0))
        codes, distinct = pd.factorize(self.polygons.maximum[rows])
        keys = np.array([self._key(CoverKey(int(number), "")) for number in distinct], np.int64)
        self._take("maximum", rows, keys[codes], np.full(len(rows), 100.0))

    def _from_codes(self) -> None:
        rows = np.flatnonzero(self.open)
        texts = self.polygons.label_texts
        keys = np.array([self._key(self._code(text)) for text in texts], np.int64)
        self._take("code", rows, keys[self.polygons.label[rows]], np.full(len(rows), 100.0))

    def _code(self, text: str) -> CoverKey:
        """The cover of a code: one that is no label may be the id of a cover."""
        known = self.base.codelist
        if known.open or not text.isdecimal() or self._id_of(text) is not None:
            return CoverKey(None, text)
        return CoverKey(int(text), "") if int(text) in known.by_id else CoverKey(None, text)

    def _of_open(
        self, parts: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        wanted = self.open[parts[0]]
        return parts[0][wanted], parts[1][wanted], parts[2][wanted]

    def _take(
        self,
        source: str,
        row: NDArray[np.int64],
        key: NDArray[np.int64],
        percent: NDArray[np.float64],
    ) -> None:
        self.parts.append((row, key, percent))
        self.source[row] = _SOURCES.index(source)
        self.open[row] = False

    def _joined(self) -> Covers:
        """The covers of all sources, by polygon."""
        row, key, percent = (
            np.concatenate([part[i] for part in self.parts]) if self.parts else np.zeros(0)
            for i in range(3)
        )
        order = np.argsort(row, kind="stable")
        return Covers(
            tuple(self.keys),
            row[order].astype(np.int64),
            key[order].astype(np.int64),
            percent[order],
        )

    def _key(self, key: CoverKey) -> int:
        return self.keys.setdefault(key, len(self.keys))

    def _leaves(self, parts: Sequence[Part]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        found = leaves(parts)
        return (
            np.array([self._key(self._key_of(leaf)) for leaf in found], np.int64),
            np.array([100 * leaf.share for leaf in found], np.float64),
        )

    def _key_of(self, leaf: Leaf) -> CoverKey:
        """A leaf's cover; SIOSE_XML may have ids in the place of labels."""
        number = int(leaf.cover) if leaf.cover.isdecimal() else None
        return CoverKey(
            number,
            "" if number is not None else leaf.cover,
            attributes_of(" ".join(leaf.attributes), self.base.attributes),
            tuple(int(name) if name.isdecimal() else name for name in leaf.within),
        )

    def _id_of(self, label: str) -> int | None:
        if label not in self.ids:
            self.ids[label] = self.resolver.id_of(label)
            # Classic codelists lack it; its rows have the id all the same.
            if label == "DSC" and self.ids[label] is None and not self.base.codelist.open:
                self.ids[label] = UNKNOWN_COVER
        return self.ids[label]

    def _cut(self, text: str) -> str:
        """Why a text of a Shapefile may end too early, or nothing."""
        short = self.base.path.suffix.lower() != ".shp" or len(text.encode()) < DBF_TEXT - 3
        return "" if short else f"; a Shapefile keeps {DBF_TEXT} characters of a text"

    def _mended(self, key: CoverKey) -> tuple[CoverKey, int | None]:
        """A cover whose label is a slip, ``cnfpl`` for ``CNFpl``, and its id."""
        try:
            (part,) = parse(key.label)
        except (LabelError, ValueError):
            return key, None
        return replace(key, attributes=part.attributes), self._id_of(part.cover)

    def _meaning(self, keys: Iterable[CoverKey]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Cover id and class of each key; polygons of a cover that is nowhere are told."""
        cover_ids, classes, mapped = [], [], []
        for key in keys:
            cover = key.cover if key.cover is not None else self._id_of(key.label)
            if cover is None:
                key, cover = self._mended(key)
            within = [w if isinstance(w, int) else self._id_of(w) for w in key.within]
            around = [w for w in within if w is not None]
            found = None if cover is None else self.resolver.class_of(cover, key.attributes, around)
            cover_ids.append(-1 if cover is None else cover)
            classes.append(-1 if found is None else found)
            mapped.append(
                cover is not None and self.resolver.is_mapped(cover, key.attributes, around)
            )
        self.mapped = np.array(mapped, bool)
        return np.array(cover_ids, np.int64), np.array(classes, np.int64)

    def _checked(self, covers: Covers) -> Covers:
        """Tell unknown covers and odd percentages, and make the latter numbers."""
        labels = self.polygons.labels
        for place in np.flatnonzero(~self.mapped[covers.key]):
            row, key = int(covers.row[place]), int(covers.key[place])
            self.problems.append(Problem("cover", self._unmapped(row, covers.keys[key]), row))
        percent = covers.percent
        wrong = ~((percent >= 0) & (percent <= 100 + OFF_PERCENT))
        for place in np.flatnonzero(wrong):
            row, key = int(covers.row[place]), covers.keys[covers.key[place]]
            shown = "no number" if np.isnan(percent[place]) else f"{percent[place]:g} %"
            where = f"{labels[row]!r}" if labels[row] else "its table"
            self.problems.append(
                Problem("percentage", f"{shown} of {self._named(key)} in {where}", row)
            )
        percent = np.where(wrong, 0.0, percent)
        total = np.bincount(covers.row, percent, minlength=len(labels))
        # Labels and XML are told by their own composites.
        told = np.isin(self.source, [_SOURCES.index("label"), _SOURCES.index("xml")])
        told[covers.row[wrong]] = True
        # Of whole percentages each may be off by half a point.
        count = np.bincount(covers.row, minlength=len(labels))
        broken = np.bincount(covers.row, percent % 1, minlength=len(labels)) > 0
        most = np.where(broken, OFF_PERCENT, np.maximum(OFF_PERCENT, count / 2))
        off = (np.abs(total - 100) > most) & (self.source > 0) & ~told
        self._tell(
            "percentage",
            np.flatnonzero(off),
            lambda row: f"{labels[row] or 'its table'} sums to {total[row]:g} %",
        )
        return Covers(covers.keys, covers.row, covers.key, percent)

    def _named(self, key: CoverKey) -> str:
        """A cover as the polygon's table or label writes it, or by its label."""
        return key.label or self._shown(-1 if key.cover is None else key.cover, key)

    def _unmapped(self, row: int, key: CoverKey) -> str:
        """What to say of a cover that is in no class."""
        source = _SOURCES[self.source[row]]
        if source == "code":
            return f"code {key.label or str(key.cover)!r}"
        names = {"table": "its table", "xml": "its SIOSE_XML", "maximum": "ID_COBERTURA_MAX"}
        where = self.polygons.labels[row] or names.get(source, "it")
        if key.cover is None and not key.label:
            return f"a row without a cover in {where}"
        other = self._id_of(key.label) if key.label and key.cover is not None else None
        written = f", whose row says {key.cover}" if other not in (None, key.cover) else ""
        return f"{self._named(key)!r} in {where}{written}"

    def _tell_rowless(self) -> None:
        """Tell polygons that the table lacks and another source has, if nothing else is wrong."""
        name = self.base.table.name if self.base.table else ""
        rowless = self.rowless & (self.source > 0)
        rowless[[problem.row for problem in self.problems]] = False
        self._tell(
            "no_rows",
            np.flatnonzero(rowless),
            lambda row: f"no rows in {name}; its {_SOURCES[self.source[row]]} is used",
        )

    def _tell_nothing(self) -> None:
        """Tell polygons that have nothing of any source; an empty label says so itself."""
        nothing = self.source == 0
        if self.labelled:
            nothing &= self.polygons.labelled
        nothing[[problem.row for problem in self.problems]] = False
        asked = " or ".join(self.base.sources)

        def text(row: int) -> str:
            label = self.polygons.labels[row]
            return f"no covers in {asked}" + (f" (label {label})" if label else "")

        self._tell("no_values", np.flatnonzero(nothing), text)

    def _compare(self, covers: Covers, said: Covers, cover_ids: NDArray[np.int64]) -> None:
        """Tell where label and table disagree by more than rounding."""
        count = len(self.polygons)
        there = np.zeros(count, bool)
        there[said.row] = True
        there &= self.source == _SOURCES.index("table")
        there[[problem.row for problem in self.problems]] = False
        # Most labels name the covers in the order of the table: those need no sorting.
        alike = there & (
            np.bincount(covers.row, minlength=count) == np.bincount(said.row, minlength=count)
        )
        mine, theirs = alike[covers.row], alike[said.row]
        row = covers.row[mine]
        other = cover_ids[covers.key[mine]] != cover_ids[said.key[theirs]]
        off = np.abs(covers.percent[mine] - said.percent[theirs]) > LABEL_ROUNDING + 1e-9
        doubtful = there & ~alike
        doubtful[row[other | off]] = True
        rows = self._apart(covers, said, cover_ids, doubtful)

        def text(row: int) -> str:
            own = covers.row == row
            shown = "_".join(
                f"{p:g}{self._shown(int(cover_ids[k]), covers.keys[k])}"
                for k, p in zip(covers.key[own], covers.percent[own], strict=True)
            )
            return f"label {self.polygons.labels[row]} against table {shown}"

        self._tell("disagreement", rows, text)

    def _apart(
        self,
        covers: Covers,
        said: Covers,
        cover_ids: NDArray[np.int64],
        rows: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """Of some polygons, those whose covers differ by more than rounding, in any order."""
        span = int(cover_ids.max(initial=0)) + 2
        mine, theirs = rows[covers.row], rows[said.row]
        places = np.concatenate(
            [
                covers.row[mine] * span + cover_ids[covers.key[mine]] + 1,
                said.row[theirs] * span + cover_ids[said.key[theirs]] + 1,
            ]
        )
        percent = np.concatenate([covers.percent[mine], -said.percent[theirs]])
        codes, distinct = pd.factorize(places)
        off = np.abs(np.bincount(codes, percent, minlength=len(distinct)))
        return np.unique(distinct[off > LABEL_ROUNDING + 1e-9] // span)

    def _shown(self, cover: int, key: CoverKey) -> str:
        known = self.base.codelist.by_id.get(cover)
        return (known.label if known else "") or key.label or str(cover)

    def _tell(
        self, kind: str, rows: Iterable[int] | NDArray[np.int64], text: Callable[..., str]
    ) -> None:
        self.problems += [Problem(kind, text(int(row)), int(row)) for row in rows]


def _repeated(
    codes: NDArray[np.int64],
    keys: Sequence[NDArray[np.int64]],
    percents: Sequence[NDArray[np.float64]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Covers of each row from those of its code."""
    if not len(keys):
        none = np.zeros(0, np.int64)
        return none, none, none.astype(np.float64)
    lengths = np.array([len(key) for key in keys], np.int64)
    starts = np.cumsum(lengths) - lengths
    count = lengths[codes]
    rows = np.repeat(np.arange(len(codes)), count)
    places = ranges(starts[codes], count)
    return rows, np.concatenate(keys)[places], np.concatenate(percents)[places]
