"""What resolves covers: a nomenclature, or the codelist alone where there is none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from pipeline.codelists import UNKNOWN_COVER, Codelist


class CoverResolver(Protocol):
    """What labels mean in a base, and the classes of its covers: a nomenclature's, mostly."""

    def id_of(self, label: str) -> int | None:
        """Id of a cover's label, or None."""

    def is_mapped(
        self, cover: int, attributes: Collection[str] = (), within: Sequence[int] = ()
    ) -> bool:
        """Whether the cover is known: in a class, ignored on purpose, or SIOSE's unknown."""

    def class_of(
        self, cover: int, attributes: Collection[str] = (), within: Sequence[int] = ()
    ) -> int | None:
        """Class id of the cover, or None."""


class CodelistResolver:
    """Covers of a codelist without a nomenclature: all are known, and none has a class."""

    def __init__(self, codelist: Codelist) -> None:
        self._open = codelist.open
        self._labels = {c.label.upper(): c.id for c in codelist.covers if c.label}
        self._ids = set(codelist.by_id)

    def id_of(self, label: str) -> int | None:
        """Id of a cover's label, or None; in an open codelist each label gets one."""
        name = label.strip().upper()
        if self._open and name:
            self._labels.setdefault(name, len(self._labels) + 1)
        return self._labels.get(name)

    def is_mapped(
        self, cover: int, attributes: Collection[str] = (), within: Sequence[int] = ()
    ) -> bool:
        """Whether the codelist has the cover."""
        return self._open or cover in self._ids or cover == UNKNOWN_COVER

    def class_of(
        self, cover: int, attributes: Collection[str] = (), within: Sequence[int] = ()
    ) -> int | None:
        """No class."""
        return None
