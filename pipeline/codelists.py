"""Codelists: the covers that the polygons of a base may name, and the three built in."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files

UNKNOWN_COVER = 999
"""SIOSE's own cover for ground that nobody interpreted (DSC, Desconocido)."""

BUILT_IN = ("siose_ar", "siose_classic", "corine")
"""Names of the codelists that ``built_in`` knows."""

_FREE = range(600, 700)  # free composites of SIOSE 2005 to 2014
_COMPOSITES = range(600, 999)  # and the predefined ones, 7xx to 9xx


@dataclass(frozen=True)
class Cover:
    """One entry of a codelist.

    Attributes:
        id: Number of the cover (``ID_COBERTURA``).
        label: Abbreviation (``EDF``), or the code as text (``111``, ``own-7``). Empty where SIOSE
            has none: free composites, and branches of the hierarchy, which polygons do not carry.
        description: Its name.
        composite: Whether other covers may stand inside it.
    """

    id: int
    label: str
    description: str = ""
    composite: bool = False

    @property
    def is_free_composite(self) -> bool:
        """Whether it only holds others together: an association or a mosaic."""
        return self.composite and self.id in _FREE


@dataclass(frozen=True)
class Codelist:
    """The covers of a base.

    Attributes:
        name: ``siose_ar``, ``siose_classic``, ``corine``, or what an analyst's layer is called.
        covers: In the order of the list.
        open: Whether the list is only what a layer happens to hold: an analyst's own codes. There
            is nothing to check names against then, and ids are the reader's, not the layer's.
    """

    name: str
    covers: tuple[Cover, ...]
    open: bool = False

    def __iter__(self) -> Iterator[Cover]:
        return iter(self.covers)

    def __len__(self) -> int:
        return len(self.covers)

    @cached_property
    def by_id(self) -> dict[int, Cover]:
        """Covers by their id."""
        return {cover.id: cover for cover in self.covers}

    @cached_property
    def _by_label(self) -> dict[str, list[Cover]]:
        found: dict[str, list[Cover]] = {}
        for cover in self.covers:
            if cover.label:
                found.setdefault(cover.label.upper(), []).append(cover)
        return found

    def find(self, entry: str | int) -> tuple[Cover, ...]:
        """Covers that an entry of a nomenclature means.

        Args:
            entry: A label (``EDF``), an id (``111``) or a branch (``31*``: ids, and labels, that
                begin so; in an open list labels only). The label comes first: 111 is CORINE's
                code, not the 111th row. A branch never holds SIOSE's unknown ground.
        """
        text = str(entry).strip().upper()
        if text.endswith("*"):
            return tuple(cover for cover in self.covers if self._begins(cover, text[:-1]))
        if text in self._by_label:
            return tuple(self._by_label[text])
        if self.open:
            return tuple(cover for cover in self.covers if str(cover.id) == text)
        cover = self.by_id.get(int(text)) if text.isdecimal() else None
        return (cover,) if cover else ()

    def near(self, entry: str | int) -> str:
        """``; did you mean 'EDF'?`` for an entry that is not there, or nothing."""
        near = difflib.get_close_matches(str(entry).upper(), list(self._by_label), n=1)
        return f"; did you mean {near[0]!r}?" if near else ""

    def _begins(self, cover: Cover, prefix: str) -> bool:
        if self.open:
            return cover.label.upper().startswith(prefix)
        if cover.id == UNKNOWN_COVER:
            return False
        return cover.label.upper().startswith(prefix) or str(cover.id).startswith(prefix)


@cache
def built_in(name: str) -> Codelist:
    """One of the codelists that come with Tesela.

    ``siose_ar`` has the 62 covers of SIOSE AR, ``corine`` the 44 classes of CORINE Land Cover's
    third level, whose labels are the codes.

    ``siose_classic`` has the covers of SIOSE 2005 to 2014. It is compiled from memory of the model
    and from public programs that read such bases, not from the official list: the base's own
    ``TC_SIOSE_COBERTURAS`` wins where it is there (``completed``). Least certain are the ids of the
    predefined composites, which rest on one transcription; 813 is in use elsewhere, too. Where
    sources differ, on lakes and reservoirs (512 and 513, or 513 and 514) and on the old town (810
    or 811), the ids that fit SIOSE AR and the neighbours are taken, and 512 and 810 are there as
    the branches that they then are. Descriptions are not literal.

    Raises:
        KeyError: If there is none of that name.

    Source:
        "Tablas de usos, coberturas y atributos" 1.0 (SIOSE AR); CLC legend of Copernicus Land.
    """
    if name not in BUILT_IN:
        raise KeyError(name)
    text = files("pipeline").joinpath(f"{name}_covers.csv").read_text(encoding="utf-8")
    return Codelist(
        name,
        tuple(
            Cover(
                int(row["cover_id"]),
                row["label"],
                row["description"],
                row.get("composite") == "yes",
            )
            for row in csv.DictReader(text.splitlines())
        ),
    )


@cache
def attribute_labels() -> dict[int, str]:
    """Labels of SIOSE's attributes by their id: 40 is ``pl``, a plantation.

    Source:
        "Tablas de usos, coberturas y atributos" 1.0 (SIOSE AR).
    """
    text = files("pipeline").joinpath("siose_ar_attributes.csv").read_text(encoding="utf-8")
    return {int(row["attribute_id"]): row["label"] for row in csv.DictReader(text.splitlines())}


def siose_ar_codelist() -> tuple[Cover, ...]:
    """The covers of SIOSE AR, as published ("Tablas de usos, coberturas y atributos" 1.0)."""
    return built_in("siose_ar").covers


def completed(own: Sequence[Cover], builtin: Codelist) -> Codelist:
    """A base's own codelist, and of a built-in one what does not contradict it.

    A base may list only the covers that occur in it; a class may name others all the same.

    Args:
        own: The base's list, may be empty. Which of them are composites is taken from the built-in
            list, or from the number where that does not know them.
        builtin: The list of the base's data model.
    """
    composites = {
        cover.label.upper() or str(cover.id) for cover in builtin.covers if cover.composite
    }

    def is_composite(cover: Cover) -> bool:
        if cover.composite or (cover.label.upper() or str(cover.id)) in composites:
            return True
        return builtin.name == "siose_classic" and cover.id in _COMPOSITES

    ids = {cover.id for cover in own}
    labels = {cover.label.upper() for cover in own if cover.label}
    return Codelist(
        builtin.name,
        tuple(replace(cover, composite=is_composite(cover)) for cover in own)
        + tuple(
            cover
            for cover in builtin.covers
            if cover.id not in ids and cover.label.upper() not in labels
        ),
        builtin.open,
    )
