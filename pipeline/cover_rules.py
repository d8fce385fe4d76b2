"""What a class of a nomenclature file gathers: covers, branches, and covers under conditions.

A list of entries, each one of::

    EDF                            a label
    111                            an id, or a code such as CORINE's
    31*                            a branch: every cover whose id, or code, begins so
    {cover: CNF, with: pl}         conifers with the attribute pl (plantation)
    {cover: CNF, with: [pl, fr]}   with both attributes
    {cover: PST, within: DHS}      pasture anywhere inside a dehesa
    {cover: DHS, whole: true}      a predefined composite as one thing: all that is inside it
    {cover: 219, optional: true}   a cover that the base's codelist may lack
    "*"                            all that no other entry gathers (in quotes: YAML's own sign)

or, because labels and ids mean other covers in other codelists, a list for each codelist::

    covers:
      siose_ar: [LOL, LOC]         # LOC: olives with citrus
      siose_classic: [LOL]         # LOC: other woody crops
      corine: [223]

Of the rules that hold for a cover, the one with the most conditions decides, and of those the first
in the file; else the innermost composite around the cover that is gathered as a ``whole``; else the
entry without a condition.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pipeline.codelists import BUILT_IN

_KEYS = ("cover", "with", "within", "whole", "optional")


@dataclass(frozen=True)
class CoverRule:
    """An entry that is more than a cover.

    Attributes:
        cover: Label (upper case), id, branch (``31*``), or ``*`` for all covers.
        codelist: The codelist that it is for; empty if for any.
        attributes: Attributes that a cover must have, all of them, lower case, sorted.
        within: Composite that must enclose it, at whatever depth, as ``cover`` is written.
        whole: Whether all that stands inside the cover, a composite, belongs to it.
        optional: Whether the codelist may lack it.
    """

    cover: str | int
    codelist: str = ""
    attributes: tuple[str, ...] = ()
    within: str | int | None = None
    whole: bool = False
    optional: bool = False

    @property
    def conditions(self) -> int:
        """Number of conditions: the more, the earlier the rule applies."""
        return len(self.attributes) + (self.within is not None)

    def __str__(self) -> str:
        """The rule in words: ``CNF with pl within UDS``."""
        return (
            str(self.cover)
            + (f" with {'+'.join(self.attributes)}" if self.attributes else "")
            + (f" within {self.within}" if self.within is not None else "")
            + (" whole" if self.whole else "")
        )


Entry = str | int | CoverRule
"""A label or branch, an id, or a rule."""


def as_rule(entry: Entry) -> CoverRule:
    """The entry as a rule."""
    return entry if isinstance(entry, CoverRule) else CoverRule(entry)


class Group(NamedTuple):
    """A class, or what is ignored.

    Attributes:
        name: What to call it in messages.
        number: Class id, or None for what is ignored.
    """

    name: str
    number: int | None


class _Conditional(NamedTuple):
    attributes: frozenset[str]
    within: frozenset[int] | None
    group: Group

    def holds(self, attributes: Collection[str], within: Sequence[int]) -> bool:
        inside = self.within is None or not self.within.isdisjoint(within)
        return inside and self.attributes.issubset(attributes)


class RuleTable:
    """Rules joined with the covers of a codelist, and which of them decides."""

    def __init__(self) -> None:
        self.plain: dict[int, Group] = {}
        self._whole: dict[int, Group] = {}
        self._conditional: dict[int, list[_Conditional]] = {}

    def add(
        self, cover: int, group: Group, rule: CoverRule, within: Collection[int] = ()
    ) -> Group | None:
        """Add a rule for a cover.

        Args:
            cover: Id of the cover.
            group: Where the cover belongs when the rule decides.
            rule: The rule, which may be for more covers.
            within: Ids of the composites that ``rule.within`` means; none where there are none.

        Returns:
            The other group that has the same rule already, or None if the rule is added.
        """
        if not rule.conditions:
            if self.plain.setdefault(cover, group) != group:
                return self.plain[cover]
            if rule.whole:
                self._whole[cover] = group
            return None
        if rule.within is not None and not within:
            return None  # never holds: the codelist lacks the composite
        new = _Conditional(
            frozenset(rule.attributes), None if rule.within is None else frozenset(within), group
        )
        others = self._conditional.setdefault(cover, [])
        for other in others:
            if other[:2] == new[:2]:
                return None if other.group == group else other.group
        others.append(new)
        # Stable: of two with as many conditions the first in the file stays first.
        others.sort(key=lambda r: -len(r.attributes) - (r.within is not None))
        return None

    def decide(
        self, cover: int, attributes: Collection[str] = (), within: Sequence[int] = ()
    ) -> Group | None:
        """Where a cover belongs, or None if no rule is for it.

        Args:
            cover: Id of a cover that holds no others.
            attributes: Its attributes, lower case.
            within: Ids of the composites around it, the outermost first.
        """
        for rule in self._conditional.get(cover, ()):
            if rule.holds(attributes, within):
                return rule.group
        for composite in reversed(within):
            if composite in self._whole:
                return self._whole[composite]
        return self.plain.get(cover)

    def groups(self) -> set[Group]:
        """Groups that a rule is for."""
        conditional = {rule.group for rules in self._conditional.values() for rule in rules}
        return conditional | set(self.plain.values())


def parse_entries(
    given: object, where: str, mistakes: list[str], empty: bool = False
) -> tuple[Entry, ...]:
    """Check the covers of a class.

    Args:
        given: A list of entries, or lists by the name of their codelist.
        where: What to call it in messages.
        mistakes: What is wrong is added here.
        empty: Whether there may be none.
    """
    if not isinstance(given, Mapping):
        return _list(given, where, mistakes, empty)
    if set(given) & set(_KEYS):
        mistakes.append(f"{where}: is a list; write [{shown(given)}]")
        return ()
    entries: list[Entry] = []
    for key, listed in given.items():
        name = key.strip().lower() if isinstance(key, str) else ""
        near = difflib.get_close_matches(name, BUILT_IN, n=1, cutoff=0.7)
        if not name:
            mistakes.append(f"{where}: {shown(key)} is not the name of a codelist")
        elif near and name not in BUILT_IN:
            mistakes.append(f"{where}: {key!r} is not a codelist; did you mean {near[0]!r}?")
        for entry in _list(listed, f"{where}.{key}", mistakes, empty=True):
            entries.append(replace(as_rule(entry), codelist=name))
    if not entries and not empty:
        mistakes.append(f"{where}: has no cover in any codelist")
    return tuple(entries)


def parse_aliases(given: object, mistakes: list[str]) -> dict[str, str]:
    """Check a nomenclature's aliases, label to label; what is wrong is added to ``mistakes``."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        mistakes.append("aliases: is a mapping, label: label")
        return {}
    pairs = {}
    for key, value in given.items():
        for label in (key, value):
            if not isinstance(label, str) or not label.strip():
                mistakes.append(f"aliases: {shown(label)} is not a label; put it in quotes")
                break
        else:
            pairs[key.strip().upper()] = value.strip().upper()
    return pairs


def _list(given: object, where: str, mistakes: list[str], empty: bool) -> tuple[Entry, ...]:
    if not isinstance(given, list) or (not given and not empty):
        mistakes.append(
            f"{where}: is a list of covers, such as [EDF, 111, 31*], or lists by codelist"
        )
        return ()
    entries: list[Entry] = []
    for entry in given:
        if isinstance(entry, Mapping):
            rule = _rule(entry, where, mistakes)
            entries += [rule] if rule else []
        else:
            cover = _cover(entry, where, mistakes)
            entries += [] if cover is None else [cover]
    return tuple(entries)


def _rule(given: Mapping[object, object], where: str, mistakes: list[str]) -> CoverRule | None:
    before = len(mistakes)
    if "cover" not in given:
        mistakes.append(f"{where}: {shown(given)} names no cover; write {{cover: EDF, ...}}")
        return None
    where = f"{where}[{given['cover']}]"
    for key in given:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            mistakes.append(
                f"{where}.{key}: is not known"
                + (f"; did you mean {near[0]!r}?" if near else f"; an entry has {', '.join(_KEYS)}")
            )
    cover = _cover(given["cover"], where, mistakes)
    attributes = _attributes(given["with"], where, mistakes) if "with" in given else ()
    within = _cover(given["within"], f"{where}.within", mistakes) if "within" in given else None
    for key in ("whole", "optional"):
        if not isinstance(given.get(key, False), bool):
            mistakes.append(f"{where}.{key}: is true or false, not {shown(given[key])}")
    if given.get("whole") is True and (attributes or within is not None):
        mistakes.append(f"{where}: whole takes all that is inside; it goes without with and within")
    if cover is None or len(mistakes) > before:
        return None
    return CoverRule(
        cover,
        attributes=attributes,
        within=within,
        whole=given.get("whole") is True,
        optional=given.get("optional") is True,
    )


def _cover(given: object, where: str, mistakes: list[str]) -> str | int | None:
    if isinstance(given, bool) or not isinstance(given, str | int) or not str(given).strip():
        mistakes.append(f"{where}: {shown(given)} is neither a label nor an id; quote it")
        return None
    text = str(given).strip().upper()
    if "*" in text[:-1]:
        mistakes.append(f"{where}: {text!r} is not a branch; the * comes last, as in 31*")
        return None
    # 007 stays text: in an analyst's own layer it may be another code than 7.
    return int(text) if text.isdecimal() and str(int(text)) == text else text


def _attributes(given: object, where: str, mistakes: list[str]) -> tuple[str, ...]:
    listed = given if isinstance(given, list) else [given]
    attributes = set()
    for attribute in listed:
        text = attribute.strip().lower() if isinstance(attribute, str) else ""
        if re.fullmatch("[a-z]{2}", text):
            attributes.add(text)
        elif re.fullmatch("([a-z]{2})+", text):
            pairs = ", ".join(re.findall("..", text))
            mistakes.append(f"{where}.with: {text!r} is more than one attribute; write [{pairs}]")
        else:
            mistakes.append(
                f"{where}.with: {shown(attribute)} is not an attribute such as pl: two letters"
            )
    if not listed:
        mistakes.append(f"{where}.with: names no attribute; leave it out")
    return tuple(sorted(attributes))


def shown(value: object) -> str:
    """A value as a message shows it."""
    # YAML reads a bare NO as false: say what may have been written.
    if isinstance(value, bool):
        return "true (or YES)" if value else "false (or NO)"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {item}" for key, item in value.items()) + "}"
    return "nothing" if value is None else repr(value)
