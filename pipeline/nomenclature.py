"""The training classes, the SIOSE covers each gathers, and their colours."""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any

from pipeline.errors import SettingsError

IGNORE = 255
"""Class id of pixels without a usable label: in rasters, losses and matrices alike."""

UNKNOWN_COVER = 999
"""SIOSE's own cover for ground that nobody interpreted (DSC, Desconocido)."""


@dataclass(frozen=True)
class Cover:
    """One entry of a SIOSE codelist.

    Attributes:
        id: Number of the cover (``ID_COBERTURA``).
        label: Abbreviation (``EDF``).
        description: Spanish name.
    """

    id: int
    label: str
    description: str


@dataclass(frozen=True)
class TrainingClass:
    """One class of the map.

    Attributes:
        name: What the legend says.
        covers: Labels (upper case) and ids of the covers it gathers.
        color: ``#RRGGBB``.
    """

    name: str
    covers: tuple[str | int, ...]
    color: str

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green, blue from 0 to 255."""
        return int(self.color[1:3], 16), int(self.color[3:5], 16), int(self.color[5:7], 16)


@dataclass(frozen=True)
class Nomenclature:
    """Training classes in the order of their ids.

    Attributes:
        classes: Class ``i`` has id ``i``.
        ignored: Covers that belong to no class on purpose; their share stays unmapped.
        aliases: Labels that a base writes differently, to SIOSE's own.
    """

    classes: tuple[TrainingClass, ...]
    ignored: tuple[str | int, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of their ids."""
        return tuple(c.name for c in self.classes)

    @property
    def colors(self) -> tuple[str, ...]:
        """Class colours in the order of their ids."""
        return tuple(c.color for c in self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what decides a pixel's class: names and covers, not colours."""
        content = {
            "classes": [[c.name, sorted(map(str, c.covers))] for c in self.classes],
            "ignored": sorted(map(str, self.ignored)),
            "aliases": dict(sorted(self.aliases.items())),
        }
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def resolver(self, codelist: Iterable[Cover]) -> Resolver:
        """Join the classes with a base's codelist.

        Args:
            codelist: Covers of the base at hand; labels and ids are that base's.

        Raises:
            SettingsError: If a class names a cover that the codelist lacks, or two classes
                (or a class and ``ignore``) gather the same cover.
        """
        return Resolver(self, tuple(codelist))


class Resolver:
    """Covers of one base to class ids: by label or by id, whichever the base gives.

    ``None`` as class id stands for a cover that is ignored on purpose; a cover that is neither
    gathered nor ignored is not in the tables at all.
    """

    def __init__(self, nomenclature: Nomenclature, codelist: tuple[Cover, ...]) -> None:
        self.nomenclature = nomenclature
        by_label = {cover.label.upper(): cover for cover in codelist}
        by_id = {cover.id: cover for cover in codelist}
        self._ids: dict[int, int | None] = {}
        self._names: dict[int, str] = {}
        self._label_ids = {label: cover.id for label, cover in by_label.items()}
        mistakes = []
        groups: list[tuple[str, int | None, tuple[str | int, ...]]] = [
            (f"class {c.name!r}", number, c.covers) for number, c in enumerate(nomenclature.classes)
        ]
        groups.append(("ignore", None, nomenclature.ignored))
        for group, number, covers in groups:
            for given in covers:
                cover = by_id.get(given) if isinstance(given, int) else by_label.get(given)
                if cover is None:
                    near = difflib.get_close_matches(str(given), list(by_label), n=1, cutoff=0.6)
                    mistakes.append(
                        f"{group}: cover {given!r} is not in the codelist"
                        + (f"; did you mean {near[0]!r}?" if near else "")
                    )
                elif cover.id in self._names and self._names[cover.id] != group:
                    mistakes.append(
                        f"{group}: cover {cover.label} ({cover.id}) is in "
                        f"{self._names[cover.id]} already"
                    )
                else:
                    self._ids[cover.id] = number
                    self._names[cover.id] = group
        if mistakes:
            raise SettingsError(
                "The nomenclature does not fit the SIOSE codelist.",
                mistakes,
                "Each cover belongs to one class, or is listed under `ignore`.",
            )

    def id_of(self, label: str) -> int | None:
        """Id of a cover's label in this base, after the nomenclature's aliases, or None."""
        label = label.strip().upper()
        label = self.nomenclature.aliases.get(label, label)
        return self._label_ids.get(label)

    def is_mapped(self, cover: int) -> bool:
        """Whether the cover is in a class, ignored on purpose, or SIOSE's unknown."""
        return cover in self._ids or cover == UNKNOWN_COVER

    def class_of(self, cover: int) -> int | None:
        """Class id of a cover, or None where it is in no class."""
        return self._ids.get(cover)


def parse(content: Mapping[str, Any], source: str) -> Nomenclature:
    """Check a nomenclature file's content.

    Args:
        content: ``classes`` (list of ``{name, covers, color}``) and, optionally, ``ignore``
            (list of covers) and ``aliases`` (label to label).
        source: What to call the file in messages.

    Raises:
        SettingsError: With all mistakes at once.
    """
    known = ("classes", "ignore", "aliases")
    mistakes = [
        f"{key}: is not known here; a nomenclature has classes, ignore and aliases"
        for key in content
        if key not in known
    ]
    entries = content.get("classes")
    classes: list[TrainingClass] = []
    if not isinstance(entries, list) or not entries:
        mistakes.append("classes: is a list of {name, covers, color}")
        entries = []
    for position, entry in enumerate(entries):
        where = f"classes[{position}]"
        if not isinstance(entry, Mapping):
            mistakes.append(f"{where}: is not {{name, covers, color}}")
            continue
        for key in entry:
            if key not in ("name", "covers", "color"):
                mistakes.append(f"{where}.{key}: is not known; a class has name, covers, color")
        given, color = entry.get("name"), str(entry.get("color") or "")
        name = "" if given is None else str(given).strip()
        if isinstance(given, bool | list | dict):
            mistakes.append(f"{where}.name: {_shown(given)} is not a name; put it in quotes")
        elif not name:
            mistakes.append(f"{where}.name: is missing")
        elif name == "unmapped":
            mistakes.append(f"{where}.name: 'unmapped' is the share of no class; choose another")
        elif name in [c.name for c in classes]:
            mistakes.append(f"{where}.name: {name!r} is the name of an earlier class")
        if not re.fullmatch(r"#[0-9A-Fa-f]{6}", color):
            mistakes.append(
                f"{where}.color: {color!r} is not a colour such as '#50B051' (in quotes)"
            )
        covers = _covers(entry.get("covers"), f"{where}.covers", mistakes)
        classes.append(TrainingClass(name, covers, color.upper()))
    if len(classes) > IGNORE:
        mistakes.append(f"classes: {len(classes)} are too many; ids run from 0 to {IGNORE - 1}")
    if len(classes) == 1:
        mistakes.append("classes: one class alone leaves nothing to tell apart; name at least two")
    ignored: tuple[str | int, ...] = ()
    if content.get("ignore") is not None:
        ignored = _covers(content["ignore"], "ignore", mistakes, empty=True)
    aliases = _aliases(content.get("aliases"), mistakes)
    if mistakes:
        raise SettingsError(
            f"{source}: the nomenclature cannot be used.", mistakes, "See configs/nomenclatures/."
        )
    return Nomenclature(tuple(classes), ignored, aliases)


def siose_ar_codelist() -> tuple[Cover, ...]:
    """The covers of SIOSE AR, as published ("Tablas de usos, coberturas y atributos" 1.0)."""
    text = files("pipeline").joinpath("siose_ar_covers.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(Cover(int(row["cover_id"]), row["label"], row["description"]) for row in rows)


def _covers(
    given: object, where: str, mistakes: list[str], empty: bool = False
) -> tuple[str | int, ...]:
    if not isinstance(given, list) or (not given and not empty):
        mistakes.append(f"{where}: is a list of SIOSE covers, labels or ids, such as [EDF, 111]")
        return ()
    covers: list[str | int] = []
    for cover in given:
        if isinstance(cover, bool) or not isinstance(cover, str | int) or cover == "":
            mistakes.append(f"{where}: {_shown(cover)} is neither a label nor an id; quote it")
        elif isinstance(cover, str) and not cover.strip().isdecimal():
            covers.append(cover.strip().upper())
        else:
            covers.append(int(cover))
    return tuple(covers)


def _aliases(given: object, mistakes: list[str]) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        mistakes.append("aliases: is a mapping, label: label")
        return {}
    pairs = {}
    for key, value in given.items():
        for label in (key, value):
            if not isinstance(label, str) or not label.strip():
                mistakes.append(f"aliases: {_shown(label)} is not a label; put it in quotes")
                break
        else:
            pairs[key.strip().upper()] = value.strip().upper()
    return pairs


def _shown(value: object) -> str:
    # YAML reads a bare NO as false: say what may have been written.
    if isinstance(value, bool):
        return "true (or YES)" if value else "false (or NO)"
    return "nothing" if value is None else repr(value)
