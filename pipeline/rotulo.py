"""The label (rótulo) of a SIOSE polygon: read, written, and resolved to shares.

One grammar for both data models. SIOSE AR writes flat labels, ``66PAV_34EDF``; classic SIOSE
adds composites with their covers in parentheses, ``I(55SNE_45UDS(45VAP_35ZAU_20EDF))``::

    label      = parts ;
    parts      = part | share , "_" , share , { "_" , share } ;
    part       = [ percentage ] , cover ;         (* alone: all of what encloses it *)
    share      = percentage , cover ;             (* per cent of what encloses it *)
    cover      = simple | composite ;
    simple     = name , { attribute } ;           (* FDPpl; also UCS without its covers *)
    composite  = ( free | simple ) , "(" , parts , ")" ;
    free       = "A" | "R" | "I" ;                (* association, regular, irregular mosaic *)
    name       = letter , letter , letter ;       (* EDF; UCS, UDS, DHS: predefined composites *)
    attribute  = letter , letter ;                (* pl, sc *)
    percentage = digit , { digit } , [ ( "." | "," ) , digit , { digit } ] ;    (* 0 to 100 *)
    letter     = "A" .. "Z" | "a" .. "z" ;
    digit      = "0" .. "9" ;

Names are written in upper case and attributes in lower case; either case is read, since a name
always has three letters and an attribute two. White space may stand between any two of the
above, but not inside a percentage, a name or an attribute. Percentages are written with two
digits (``05EDF``).

Nothing here calls itself: nesting costs no stack, and time grows with the length of the label.

Source:
    SIOSE AR, "Estructura de la base de datos" 3.3; siose.es, "Rótulos" (SIOSE 2005-2014) and
    "Rótulos SIOSE AR".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple, TypeAlias

FREE_COMPOSITES = ("A", "R", "I")
"""Association, regular mosaic, irregular mosaic."""

MOST_NAMES = 60_000_000
"""Longest that the paths to all composites of a label may be together, in names.

A leaf carries its path, so leaves on every level of a label cost the square of its depth. This
many names are half a gigabyte of pointers, or 10 953 levels; SIOSE's bases have four.
"""

_MARK = re.compile(r"([_()])")
# All quantifiers are possessive: text is read once, forwards, whatever follows it.
_TEXT = re.compile(
    r"\s*+(?:([0-9]++(?:[.,][0-9]++)?+)\s*+)?+([A-Za-z]++(?:\s++[A-Za-z]++)*+)?+\s*+"
)
_WORD = re.compile(r"[A-Za-z]+")
_LONGEST_KEPT = 40  # characters; so that the cache of texts never holds a whole label

_A_PART = "a percentage and a cover such as 66PAV"
_AN_OPENING = "A, R, I or a cover such as UCS before '('"
_A_PERCENTAGE = "a percentage"
_A_MARK = "'_'"


@dataclass(frozen=True, slots=True)
class Part:
    """A cover of a label: a leaf, or a composite with its parts.

    Attributes:
        cover: Name, upper case: ``EDF``; ``A``, ``R`` or ``I`` of a free composite.
        attributes: Pairs of letters, lower case, as written: ``("fr", "pl")``.
        percent: Of the enclosing composite; None where it stands alone in it.
        parts: What a composite is made of, in the order of the label.
    """

    cover: str
    attributes: tuple[str, ...] = ()
    percent: float | None = None
    parts: tuple[Part, ...] = ()


class Leaf(NamedTuple):
    """Ground of one cover.

    Attributes:
        share: Of the polygon, 0 to 1.
        cover: Name, upper case.
        attributes: Pairs of letters, lower case.
        within: Enclosing composites, outermost first: ``("I", "UDS")``.
    """

    share: float
    cover: str
    attributes: tuple[str, ...]
    within: tuple[str, ...]


class LabelError(ValueError):
    """A label that cannot be read.

    Attributes:
        label: The label, as given.
        position: Where, from 1; one past the last character where something is missing.
        expected: What should be there.
    """

    def __init__(self, label: str, position: int, expected: str) -> None:
        super().__init__(label, position, expected)  # all three: else it cannot be pickled
        self.label = label
        self.position = position
        self.expected = expected

    def __str__(self) -> str:
        return f"label {self.label!r}, position {self.position}: expected {self.expected}"


# A composite whose ")" is still to come: its head, where that is, and the parts before it.
_Open: TypeAlias = tuple[Part, int, list[Part]]


def parse(label: str) -> tuple[Part, ...]:
    """Read a label of either grammar.

    Returns:
        The parts side by side at the top: several of a flat label, else one.

    Raises:
        LabelError: Naming the place and what was expected there.
    """
    pieces = _MARK.split(label)  # text, mark, text, mark, ..., text
    pieces.append("")
    opened: list[_Open] = []
    parts: list[Part] = []
    names = 0
    closed = False  # whether a ")" stands before the text
    pairs = iter(pieces)
    for number, (text, mark) in enumerate(zip(pairs, pairs, strict=True)):
        if closed:
            if (text and not text.isspace()) or mark == "(":
                raise _error(pieces, number, _spaces(text), _A_MARK, opened)
        else:
            try:
                part = _read(text) if len(text) < _LONGEST_KEPT else _read.__wrapped__(text)
            except LabelError as error:
                wanted = error.expected
                if mark == "(" and wanted == _A_PART:
                    wanted = _AN_OPENING
                raise _error(pieces, number, error.position - 1, wanted, opened) from None
            if part.percent is None and parts:
                raise _error(pieces, number, _spaces(text), _A_PERCENTAGE, opened)
            start = number
            if mark == "(":
                opened.append((part, number, parts))
                names += len(opened)
                if names > MOST_NAMES:
                    wanted = "fewer composites inside one another"
                    raise _error(pieces, number, _spaces(text), wanted, opened)
                parts = []
                continue
            if len(part.cover) == 1:
                raise _error(pieces, number, len(text.rstrip()), "'('", opened)
            parts.append(part)
        if mark == ")":
            if not opened:
                raise _error(pieces, number, len(text), _A_MARK, opened)
            head, start, siblings = opened.pop()
            siblings.append(Part(head.cover, head.attributes, head.percent, tuple(parts)))
            parts = siblings
            closed = True
        elif mark == "_":
            if parts[-1].percent is None:
                raise _error(pieces, start, _spaces(pieces[2 * start]), _A_PERCENTAGE, opened)
            closed = False
    if opened:
        raise _error(pieces, number, len(text), _A_MARK, opened)
    return tuple(parts)


@lru_cache(maxsize=10_000)  # a province says the same few hundred things over and over
def _read(text: str) -> Part:
    """Read what stands between two marks: a percentage, a name and attributes.

    Raises:
        LabelError: With the position in ``text``.
    """
    match = _TEXT.match(text)
    assert match is not None  # everything in it is optional
    number, letters = match.groups()
    if letters is None:
        raise LabelError(text, match.end() + 1, "a cover such as PAV" if number else _A_PART)
    start = match.start(1 if number else 2)
    percent = None
    if number:
        percent = float(number.replace(",", "."))
        if percent > 100:
            raise LabelError(text, start + 1, "a percentage of at most 100")
    words = letters.split()
    name = words[0][:3].upper()
    free = letters.upper() in FREE_COMPOSITES
    if len(name) < 3 and not free:
        raise LabelError(text, start + 1, _A_PART)
    for place, word in enumerate(_WORD.finditer(text, match.start(2), match.end(2))):
        if not free and (len(word[0]) - (0 if place else 3)) % 2:
            raise LabelError(text, word.end(), "attributes in pairs of letters such as pl")
    if match.end() < len(text):
        raise LabelError(text, match.end() + 1, _A_MARK)
    rest = "".join(words)[3:].lower()
    return Part(name, tuple([rest[i : i + 2] for i in range(0, len(rest), 2)]), percent)


def _error(
    pieces: Sequence[str], number: int, offset: int, expected: str, opened: Sequence[_Open]
) -> LabelError:
    """An error at ``offset`` in the text ``number`` of the label."""
    if expected is _A_MARK:
        expected = "'_' or ')'" if opened else "'_' or the end of the label"
    position = sum(map(len, pieces[: 2 * number])) + offset + 1
    return LabelError("".join(pieces), position, expected)


def _spaces(text: str) -> int:
    """How many white-space characters ``text`` begins with."""
    return len(text) - len(text.lstrip())


def written(parts: Sequence[Part]) -> str:
    """Write the label that :func:`parse` reads as ``parts``.

    Covers known by their id alone (see :mod:`pipeline.siose_xml`) are written as they are, for
    people to read; :func:`parse` refuses them.

    Raises:
        ValueError: If a part beside others has no percentage.
    """
    text: list[str] = []
    todo: list[Part | str] = _listed(parts)
    while todo:
        part = todo.pop()
        if isinstance(part, str):
            text.append(part)
            continue
        if part.percent is not None:
            text.append(_number(part.percent))
        text.append(part.cover)
        text.extend(part.attributes)
        if part.parts:
            text.append("(")
            todo.append(")")
            todo += _listed(part.parts)
    return "".join(text)


def _listed(parts: Sequence[Part]) -> list[Part | str]:
    """Parts with ``_`` between them, last first."""
    _total(parts)
    listed: list[Part | str] = ["_"] * (2 * len(parts) - 1)
    listed[::2] = parts[::-1]
    return listed


def _number(percent: float) -> str:
    """A percentage with two digits before the point and no exponent, exactly."""
    text = repr(float(percent)).removesuffix(".0")
    if "e" in text:
        text = f"{Decimal(text):f}"
    return text if percent >= 10 else f"0{text}"


def leaves(parts: Sequence[Part]) -> list[Leaf]:
    """Resolve a label to its ground: shares multiply down the tree.

    Percentages side by side that sum to 100 but for their rounding are divided by their sum, so
    that shares sum to 1; others are used as they are (see :func:`off_percentages`).

    Returns:
        Leaves in the order of the label.

    Raises:
        ValueError: If a part beside others has no percentage.
    """
    found: list[Leaf] = []
    names: list[str] = []  # composites that enclose the place
    path: tuple[str, ...] | None = ()  # the same, made only where a leaf needs it
    whole, unit = 1.0, _unit(parts, 1.0)
    rest = iter(parts)
    outer: list[tuple[Iterator[Part], tuple[str, ...] | None, float, float]] = []
    while True:
        for part in rest:
            share = whole if part.percent is None else part.percent * unit
            if part.parts:
                outer.append((rest, path, whole, unit))
                names.append(part.cover)
                rest, path, whole = iter(part.parts), None, share
                unit = _unit(part.parts, share)
                break
            if path is None:
                path = tuple(names)
            found.append(Leaf(share, part.cover, part.attributes, path))
        else:
            if not outer:
                return found
            rest, path, whole, unit = outer.pop()
            names.pop()


def off_percentages(parts: Sequence[Part]) -> list[str]:
    """Composites whose percentages miss 100 by more than their rounding, in words.

    Returns:
        ``A sums to 90 %``, ``UDS in I sums to 120 %``, ``the label sums to 95 %``; outer ones
        first, empty where there is none.

    Raises:
        ValueError: If a part beside others has no percentage.
    """
    off: list[str] = []
    todo: list[tuple[str, str, Sequence[Part]]] = [("the label", "", parts)]
    while todo:
        place, within, siblings = todo.pop()
        total = _total(siblings)
        if abs(total - 100.0) > rounding(len(siblings)):
            off.append(f"{place}{within} sums to {total:g} %")
        within = f" in {place}" if siblings is not parts else ""
        todo += [(part.cover, within, part.parts) for part in reversed(siblings) if part.parts]
    return off


def _unit(parts: Sequence[Part], whole: float) -> float:
    """Share of the polygon that one per cent of ``parts`` stands for."""
    total = _total(parts)
    if total != 100.0 and abs(total - 100.0) <= rounding(len(parts)):
        return whole / total
    return whole / 100.0


def _total(parts: Sequence[Part]) -> float:
    """Sum of the percentages side by side."""
    if len(parts) == 1 and parts[0].percent is None:
        return 100.0
    total = 0.0
    for part in parts:
        if part.percent is None:
            raise ValueError(f"{part.cover} stands beside others and has no percentage")
        total += part.percent
    return total


def rounding(count: int) -> float:
    """Points by which the sum of ``count`` rounded percentages can miss what they are of."""
    # Each is off by half a point at most; the last term is for sums of decimals.
    return max(1.0, count / 2) + 1e-9
