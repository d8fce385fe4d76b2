"""The training classes, the covers each gathers, and their colours.

A nomenclature file::

    classes:                                  # the order gives the ids
      - {name: forest, covers: ["31*"], color: "#109C69"}
      - name: crops
        covers: ["2*", {cover: PST, within: AAR}]
        color: "#E6AA5A"
    ignore: [SNE, {cover: "31*", with: fn}]   # in no class on purpose
    aliases: {OLI: LOL}                       # a label of the base, and SIOSE's own for it

``pipeline.cover_rules`` says what ``covers`` and ``ignore`` may list. ``*`` alone, in one class or
under ``ignore``, is all the rest. An entry of a plain list may be of any built-in codelist: on a
base that has another one it does not apply.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.codelists import (
    BUILT_IN,
    UNKNOWN_COVER,
    Codelist,
    Cover,
    built_in,
    siose_ar_codelist,
)
from pipeline.cover_rules import (
    CoverRule,
    Entry,
    Group,
    RuleTable,
    as_rule,
    parse_aliases,
    parse_entries,
    shown,
)
from pipeline.errors import SettingsError

__all__ = [
    "IGNORE",
    "UNKNOWN_COVER",
    "Codelist",
    "Cover",
    "CoverRule",
    "Nomenclature",
    "Resolver",
    "TrainingClass",
    "parse",
    "siose_ar_codelist",
]

IGNORE = 255
"""Class id of pixels without a usable label: in rasters, losses and matrices alike."""

MOST_CLASSES = 240
"""So many classes a nomenclature may have: ids from there on are kept for what is masked."""


@dataclass(frozen=True)
class TrainingClass:
    """One class of the map.

    Attributes:
        name: What the legend says.
        covers: What it gathers: labels (upper case), branches and ids, or rules.
        color: ``#RRGGBB``.
    """

    name: str
    covers: tuple[Entry, ...]
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
    ignored: tuple[Entry, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of their ids."""
        return tuple(c.name for c in self.classes)

    @property
    def colors(self) -> tuple[str, ...]:
        """Class colours in the order of their ids."""
        return tuple(c.color for c in self.classes)

    @property
    def codelists(self) -> tuple[str, ...]:
        """Codelists that classes have lists for, in the file's order; empty for any codelist."""
        rules = [as_rule(entry) for c in self.classes for entry in c.covers]
        return tuple(dict.fromkeys(rule.codelist for rule in rules))

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what decides a pixel's class: names, covers and conditions, not colours."""
        groups = [*((c.name, c.covers) for c in self.classes), ("", self.ignored)]
        rules = [(name, as_rule(entry)) for name, entries in groups for entry in entries]
        told = [[name, rule.codelist, str(rule), rule.conditions] for name, rule in rules]
        content = {
            "names": self.names,
            "plain": sorted(rule for rule in told if not rule[-1]),
            # In the file's order, which decides between two that both hold.
            "conditional": [rule for rule in told if rule[-1]],
            "aliases": dict(self.aliases),
        }
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def resolver(self, codelist: Codelist | Iterable[Cover]) -> Resolver:
        """Join the classes with a base's codelist.

        Args:
            codelist: Covers of the base at hand; labels and ids are that base's. Covers alone are
                taken for SIOSE AR's.

        Raises:
            SettingsError: If a class names a cover that the codelist lacks, two classes (or a
                class and ``ignore``) gather the same cover, or no class gathers any.
        """
        if not isinstance(codelist, Codelist):
            codelist = Codelist("siose_ar", tuple(codelist))
        return Resolver(self, codelist)


class Resolver:
    """Covers of one base to class ids.

    ``None`` as class id stands for a cover that is ignored on purpose, and for one that is neither
    gathered nor ignored: ``is_mapped`` tells them apart.

    Attributes:
        nomenclature: The classes.
        codelist: The covers of the base.
    """

    def __init__(self, nomenclature: Nomenclature, codelist: Codelist) -> None:
        self.nomenclature = nomenclature
        self.codelist = codelist
        self._table = RuleTable()
        self._rest: Group | None = None
        mistakes: list[str] = []
        groups = [
            (Group(f"class {c.name!r}", number), c.covers)
            for number, c in enumerate(nomenclature.classes)
        ]
        for group, entries in (*groups, (Group("ignore", None), nomenclature.ignored)):
            for entry in entries:
                mistakes += [f"{group.name}: {m}" for m in self._add(group, as_rule(entry))]
        mistakes += self._wrong_aliases()
        if mistakes:
            raise SettingsError(
                f"The nomenclature does not fit the codelist {codelist.name!r}.",
                mistakes,
                "Each cover belongs to one class, or is listed under `ignore`; one that the "
                "codelist may lack is written {cover: ..., optional: true}.",
            )
        if self._rest:
            for cover in codelist.covers:
                if not (self._is_unknown(cover.id) or cover.is_free_composite):
                    self._table.plain.setdefault(cover.id, self._rest)
        self._check_any()

    def id_of(self, label: str) -> int | None:
        """Id of a cover's label in this base, after the nomenclature's aliases, or None."""
        written = label.strip()
        meant = self.nomenclature.aliases.get(written.upper())
        if meant is not None:
            return self._ids.get(meant)
        return self._ids.get(written, self._ids.get(written.upper()))

    def is_mapped(
        self, cover: int, attributes: Collection[str] = (), within: Sequence[int] = ()
    ) -> bool:
        """Whether the cover is in a class, ignored on purpose, or SIOSE's unknown."""
        decided = self._table.decide(cover, attributes, within) is not None
        return decided or self._is_unknown(cover)

    def class_of(
        self, cover: int, attributes: Collection[str] = (), within: Sequence[int] = ()
    ) -> int | None:
        """Class id of a cover, or None where it is in no class.

        Args:
            cover: Id of a cover that holds no others.
            attributes: Its attributes, lower case, each by itself: ``("fr", "pl")``.
            within: Ids of the composites around it, the outermost first.
        """
        group = self._table.decide(cover, attributes, within)
        return group.number if group else None

    def name_of(self, cover: int) -> str:
        """Label and description of a cover: ``EDF Edificación``; its id where it has no label."""
        entry = self.codelist.by_id.get(cover)
        if entry is None:
            return str(cover)
        return f"{entry.label or entry.id} {entry.description}".strip()

    @property
    def unassigned(self) -> tuple[Cover, ...]:
        """Covers of the codelist that no class gathers and that are not ignored.

        Without SIOSE's unknown, and free composites and branches, which have no label: nobody has
        to assign those. A cover that is gathered under conditions only is unassigned.
        """
        return tuple(
            cover
            for cover in self.codelist.covers
            if cover.label and not self._is_unknown(cover.id) and cover.id not in self._table.plain
        )

    @cached_property
    def _ids(self) -> dict[str, int]:
        # As written comes last and wins: an analyst's own codes may differ in case alone.
        labelled = [cover for cover in self.codelist.covers if cover.label]
        return {c.label.upper(): c.id for c in labelled} | {c.label: c.id for c in labelled}

    def _is_unknown(self, cover: int) -> bool:
        return cover == UNKNOWN_COVER and not self.codelist.open

    def _add(self, group: Group, rule: CoverRule) -> list[str]:
        """Join a rule with the codelist; what is wrong with it."""
        mistakes: list[str] = []
        if rule.codelist not in ("", self.codelist.name.lower()):
            if rule.codelist in BUILT_IN:
                # Told now, not when a base of that kind is at hand.
                for entry in (rule.cover, rule.within):
                    if entry is not None:
                        self._find(rule, entry, built_in(rule.codelist), mistakes)
            return mistakes
        if rule.cover == "*" and not rule.conditions and not rule.whole:
            if self._rest and self._rest != group:
                mistakes.append(f"'*', all the rest, is in {self._rest.name} already")
            self._rest = group
            return mistakes
        covers = self._find(rule, rule.cover, self.codelist, mistakes)
        if rule.whole:
            covers = self._composites(rule.cover, covers, mistakes)
        around: tuple[Cover, ...] = ()
        if rule.within is not None:
            around = self._find(rule, rule.within, self.codelist, mistakes)
            around = self._composites(rule.within, around, mistakes)
        for cover in covers:
            other = self._table.add(cover.id, group, rule, [c.id for c in around])
            if other:
                named = f"{rule}: cover" if rule.conditions else "cover"
                mistakes.append(
                    f"{named} {cover.label or cover.description} ({cover.id}) is in {other.name} "
                    "already"
                )
        return mistakes

    def _find(
        self, rule: CoverRule, entry: str | int, codelist: Codelist, mistakes: list[str]
    ) -> tuple[Cover, ...]:
        found = codelist.find(entry)
        if found or rule.optional or codelist.open:
            return found
        elsewhere = [name for name in BUILT_IN if built_in(name).find(entry)]
        if not rule.codelist and not elsewhere:
            mistakes.append(f"cover {entry!r} is not in the codelist{codelist.near(entry)}")
        elif rule.codelist:
            hint = f"; it is of {' and '.join(elsewhere)}" if elsewhere else codelist.near(entry)
            mistakes.append(f"cover {entry!r} is not in the codelist {codelist.name}{hint}")
        return ()

    def _composites(
        self, entry: str | int, found: tuple[Cover, ...], mistakes: list[str]
    ) -> tuple[Cover, ...]:
        composites = tuple(cover for cover in found if cover.composite)
        if found and not composites and not self.codelist.open:
            mistakes.append(f"cover {entry!r} is not a composite: nothing is inside it")
        return composites

    def _wrong_aliases(self) -> list[str]:
        if self.codelist.open:
            return []
        lists = (self.codelist, *(built_in(name) for name in BUILT_IN))
        return [
            f"aliases: {meant!r} is not in the codelist{self.codelist.near(meant)}"
            for meant in self.nomenclature.aliases.values()
            if not any(codelist.find(meant) for codelist in lists)
        ]

    def _check_any(self) -> None:
        """Refuse classes that can gather nothing; an open list may be empty, and says nothing."""
        name, lists = self.codelist.name, self.nomenclature.codelists
        if "" not in lists and name.lower() not in lists:
            remedy = f"Add `{name}: [...]` under the `covers` of its classes."
            if self.codelist.open:
                remedy += f" Or say what the codes are: `siose.codelist: {lists[-1]}`."
            raise SettingsError(
                f"The nomenclature has no covers for the codelist {name!r}.",
                [f"it has lists for {', '.join(lists)}"],
                remedy,
            )
        gathered = any(group.number is not None for group in self._table.groups())
        if not gathered and not self.codelist.open:
            first = ", ".join(self.name_of(cover.id) for cover in self.codelist.covers[:5])
            raise SettingsError(
                f"The nomenclature gathers no cover of the codelist {name!r}.",
                [f"the codelist has {first or 'no covers'}, ..."],
                "List its covers under the `covers` of the classes.",
            )


def parse(content: Mapping[str, Any], source: str) -> Nomenclature:
    """Check a nomenclature file's content.

    Args:
        content: ``classes``, a list of ``{name, covers, color}``, and, optionally, ``ignore``
            (covers) and ``aliases`` (label to label).
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
            mistakes.append(f"{where}.name: {shown(given)} is not a name; put it in quotes")
        elif not name:
            mistakes.append(f"{where}.name: is missing")
        elif name == "unmapped":
            mistakes.append(f"{where}.name: 'unmapped' is the share of no class; choose another")
        elif name.casefold() in [c.name.casefold() for c in classes]:
            # Columns of a GeoPackage do not differ by capitals alone, and neither do people.
            mistakes.append(f"{where}.name: {name!r} is the name of an earlier class")
        if not re.fullmatch(r"#[0-9A-Fa-f]{6}", color):
            mistakes.append(
                f"{where}.color: {color!r} is not a colour such as '#50B051' (in quotes)"
            )
        covers = parse_entries(entry.get("covers"), f"{where}.covers", mistakes)
        classes.append(TrainingClass(name, covers, color.upper()))
    if len(classes) > MOST_CLASSES:
        mistakes.append(f"classes: {len(classes)} are too many; {MOST_CLASSES} are the most")
    if len(classes) == 1:
        mistakes.append("classes: one class alone leaves nothing to tell apart; name at least two")
    ignored: tuple[Entry, ...] = ()
    if content.get("ignore") is not None:
        ignored = parse_entries(content["ignore"], "ignore", mistakes, empty=True)
    aliases = parse_aliases(content.get("aliases"), mistakes)
    if mistakes:
        raise SettingsError(
            f"{source}: the nomenclature cannot be used.", mistakes, "See configs/nomenclatures/."
        )
    return Nomenclature(tuple(classes), ignored, aliases)
