"""``SIOSE_XML`` of classic SIOSE: the covers of a polygon as an XML text.

No schema of it is public. Programs that read it name ``POLIGONO``, nested ``COBERTURA`` with
``ID``, ``Desc`` and ``Sup`` or ``Sup_ha``, and ``ATRIBUTO`` with ``ID`` and ``Desc``. So this
reader asks for little:

- **Names** of elements and attributes count without namespace, in either case. A cover tells
  of itself in attributes or in child elements: ``<COBERTURA ID="101"/>`` is ``<COBERTURA>
  <ID>101</ID></COBERTURA>``. Elements that tell nothing known are looked through.
- **A cover** has a label (``CODE_ABREVIADO``, ``CODE_ABREV``, ``ETIQUETA``), or an id
  (``ID_COBERTURAS``, ``ID_COBERTURA``, ``COD_COBERTURA``). Where the element's name speaks of
  covers or it has a percentage, either may be in ``ID``, ``COD``, ``CODIGO``, ``CODE`` or its
  text. The label wins over the id.
- **Attributes** are ``ATRIBUTO`` or ``ATRIBUTOS``: pairs of letters (``pl``; ``fr,pl``;
  ``frpl``) or ids. ``A``, ``R`` or ``I`` there says which free composite one without a label
  is, or of id 600, which ``T_VALORES`` has for all three; on others the letter is dropped.
- **How much** is a percentage (``SUPERF_POR``, ``SUP_POR``, ``PORCENTAJE``, ``POR``...). Where
  no cover has one, areas serve (``SUPERF_HA``, ``SUP_HA``, ``SUP``...), of the polygon's if it
  is there under the same name, else of their sum. ``SUP``, of which nobody says what it is, is
  a percentage where the outermost sum to 100.
- **Of what** the percentages inside a composite are, their sum tells: of the polygon, as in
  ``T_VALORES``, if it is what the composite itself has; of the composite if it is 100. The
  closer counts; beyond rounding from both is an error.

Source:
    ign.es, SIOSE help, "See polygons table" and "See cover table"; labgeo/pg_siose_bench.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from xml.sax import SAXParseException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl

from defusedxml.common import DefusedXmlException
from defusedxml.expatreader import DefusedExpatParser

from pipeline.rotulo import FREE_COMPOSITES, MOST_NAMES, LabelError, Part, parse, rounding

_LABELS = ("CODE_ABREVIADO", "CODE_ABREV", "ETIQUETA")
_IDS = ("ID_COBERTURAS", "ID_COBERTURA", "COD_COBERTURA")
_LOOSE = ("ID", "COD", "CODIGO", "CODE")
_PERCENTAGES = ("SUPERF_POR", "SUPERF_POR_SINREDONDEO", "SUP_POR", "PORCENTAJE", "PORC", "POR")
_AREAS = ("SUPERF_HA", "SUP_HA", "SUPERF_M2", "SUP_M2", "SUP")
_ATTRIBUTES = ("ATRIBUTOS", "ATRIBUTO")
_ATTRIBUTE_VALUES = (*_LABELS, "CODE", "COD", "CODIGO", "ID", "ID_ATRIBUTOS", "ID_ATRIBUTO")
_FIELDS = frozenset((*_LABELS, *_IDS, *_LOOSE, *_PERCENTAGES, *_AREAS, *_ATTRIBUTE_VALUES))

_FREE = "600"  # any free composite; which one, its attribute says
_ID = re.compile(r"([0-9]{1,9})(?:\.0+)?")  # Access exports numbers as 101.0
_NUMBER = re.compile(r"([0-9]+(?:[.,][0-9]+)?) ?%?")
_PAIRS = re.compile(r"(?:[A-Za-z]{2})+")


class XmlError(ValueError):
    """A ``SIOSE_XML`` that cannot be read: line and column, from 1, and the problem there."""

    def __init__(self, line: int, column: int, problem: str) -> None:
        super().__init__(line, column, problem)  # all three: else it cannot be pickled
        self.line, self.column, self.problem = line, column, problem

    def __str__(self) -> str:
        return f"SIOSE_XML, line {self.line}, column {self.column}: {self.problem}"


@dataclass(slots=True)
class _Cover:
    """A cover as the text gives it, and what the others around it make of it."""

    place: tuple[int, int]
    name: str
    attributes: tuple[str, ...]
    amounts: dict[str, float]
    covers: list[_Cover]
    amount: float | None = None  # per cent of the polygon, or of the enclosing composite
    percent: float | None = None  # of the enclosing composite
    share: float = 0.0  # per cent of the polygon


@dataclass(slots=True)
class _Element:
    """An element that is not closed yet."""

    name: str
    place: tuple[int, int]
    fields: dict[str, str] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    covers: list[_Cover] = field(default_factory=list)
    has_children: bool = False

    def error(self, problem: str) -> XmlError:
        return XmlError(*self.place, problem)


def parse_xml(text: str) -> tuple[Part, ...]:
    """Read the covers of one polygon.

    Nothing outside the text is ever opened: a document type and its entities are refused.

    Args:
        text: The XML; an encoding that it declares is of the file that it once was in.

    Returns:
        As :func:`pipeline.rotulo.parse` does; :attr:`Part.cover` is the label, or the id as
        decimal text where only the id is there, and so are attributes.

    Raises:
        XmlError: Naming line and column, and what is wrong there.
    """
    parser = DefusedExpatParser(forbid_dtd=True)
    reader = _Reader(parser)
    parser.setContentHandler(reader)
    problem = ""
    try:
        # Half characters (surrogates), which cannot be fed, become references that are refused.
        parser.feed(text.removeprefix("\ufeff").encode("utf-8", "xmlcharrefreplace").decode())
        parser.close()
    except SAXParseException as error:
        problem = f"is not XML: {error.getMessage()}"
    except DefusedXmlException:
        problem = "has a document type, with entities or without; it is not read"
    # Out here it has no context: the parser's own error cannot go from one process to another.
    if problem:
        raise XmlError(*reader.place(), problem)
    if not reader.covers:
        raise XmlError(1, 1, "has no cover")
    _weigh(reader.covers, reader.amounts)
    _resolve(reader.covers)
    return _built(reader.covers)


class _Reader(ContentHandler):
    """Gathers covers while expat reads; never calls itself, however deep the elements."""

    def __init__(self, parser: DefusedExpatParser) -> None:
        super().__init__()
        self._parser = parser
        self._open: list[_Element] = []
        self.covers: list[_Cover] = []
        self.amounts: dict[str, float] = {}

    def place(self) -> tuple[int, int]:
        """Line and column where expat is, from 1."""
        return self._parser.getLineNumber() or 1, (self._parser.getColumnNumber() or 0) + 1

    def startElement(self, name: str, attrs: AttributesImpl) -> None:  # noqa: N802
        """Open an element."""
        if self._open:
            self._open[-1].has_children = True
        element = _Element(name.rpartition(":")[2].upper(), self.place())
        for key, value in attrs.items():
            _add(element, key.rpartition(":")[2].upper(), value.strip())
        self._open.append(element)

    def characters(self, content: str) -> None:
        """Keep text."""
        self._open[-1].text.append(content)

    def endElement(self, name: str) -> None:  # noqa: N802
        """Close an element: a field, attributes or a cover of the enclosing one."""
        element = self._open.pop()
        outer = self._open[-1] if self._open else None
        text = "".join(element.text).strip()
        covers = element.covers
        if element.name in _ATTRIBUTES and outer is not None:
            values = [element.fields[key] for key in _ATTRIBUTE_VALUES if key in element.fields]
            outer.attributes += [*values[:1], *element.attributes] or [text]
        elif element.name in _FIELDS and not element.has_children and outer is not None:
            _add(outer, element.name, text)
        elif "POLIG" in element.name or "POLYG" in element.name:
            self.amounts = _amounts(element)
        else:
            covers = _covers(element, text)
        if outer is None:
            self.covers = covers
        elif outer.covers:
            outer.covers += covers
        else:
            outer.covers = covers  # not copied: else wrappers inside wrappers cost the square


def _add(element: _Element, key: str, value: str) -> None:
    """Note what an element says of itself, if anything."""
    if not value:
        return
    if key in _ATTRIBUTES:
        element.attributes.append(value)
    elif key in _FIELDS and element.fields.setdefault(key, value) != value:
        raise element.error(f"{element.name} has two {key}")


def _covers(element: _Element, text: str) -> list[_Cover]:
    """The cover that an element is; or the covers inside, if it only holds them together."""
    fields, amounts = element.fields, _amounts(element)
    named = any(word in element.name for word in ("COBERT", "CUBIERT", "COVER"))
    weighed = not amounts.keys().isdisjoint(_PERCENTAGES)
    given = [fields[key] for key in (*_LABELS, *_IDS) if key in fields]
    if named or weighed:
        given += [fields[key] for key in _LOOSE if key in fields]
        given += [text] if text else []
    letter, attributes = _attributes(element)
    name = ""
    if given:
        part = _named(element, given[0])
        name, attributes = part.cover, (*part.attributes, *attributes)
        if part.percent is not None and not weighed:
            amounts[_PERCENTAGES[0]] = part.percent
    if letter and element.covers and name in ("", _FREE):
        name = letter
    if not name:
        if letter or attributes or weighed or (named and not element.covers):
            raise element.error(f"{element.name} names no cover")
        return element.covers
    if not element.covers and (letter or name in FREE_COMPOSITES):
        raise element.error(f"composite {letter or name} has no covers inside")
    return [_Cover(element.place, name, attributes, amounts, element.covers)]


def _named(element: _Element, value: str) -> Part:
    """What the id or the label of a cover says."""
    if number := _ID.fullmatch(value):
        return Part(str(int(number[1])))
    if value.upper() in FREE_COMPOSITES:
        return Part(value.upper())
    try:
        parts = parse(value)
    except LabelError:
        parts = ()
    if len(parts) != 1 or parts[0].parts:
        raise element.error(f"{value!r} is neither the id nor the label of a cover")
    return parts[0]


def _attributes(element: _Element) -> tuple[str, tuple[str, ...]]:
    """Letter of a free composite, if there is one, and the attributes proper."""
    letter, found = "", []
    for value in re.split(r"[\s,;]+", " ".join(element.attributes)):
        if value.upper() in FREE_COMPOSITES:
            letter = value.upper()
        elif number := _ID.fullmatch(value):
            found.append(str(int(number[1])))
        elif _PAIRS.fullmatch(value):
            found += [value[i : i + 2].lower() for i in range(0, len(value), 2)]
        elif value:
            raise element.error(f"{value!r} is neither an attribute's id nor pairs of letters")
    return letter, tuple(found)


def _amounts(element: _Element) -> dict[str, float]:
    """Percentages and areas that an element has, by the names they have there."""
    amounts = {}
    for key in (*_PERCENTAGES, *_AREAS):
        if key in element.fields:
            number = _NUMBER.fullmatch(element.fields[key])
            amounts[key] = float(number[1].replace(",", ".")) if number else -1.0
            if amounts[key] < 0 or (key in _PERCENTAGES and amounts[key] > 100):
                wanted = "a percentage from 0 to 100" if key in _PERCENTAGES else "an area"
                raise element.error(f"{key} is {element.fields[key]!r}; expected {wanted}")
    return amounts


def _walk(covers: Sequence[_Cover]) -> Iterator[_Cover]:
    """All covers, each before those inside it."""
    todo = list(covers)
    while todo:
        cover = todo.pop()
        yield cover
        todo += cover.covers


def _weigh(covers: Sequence[_Cover], polygon: dict[str, float]) -> None:
    """Choose how the text says how much there is of each cover."""
    used = {key for cover in _walk(covers) for key in cover.amounts}
    if not used.isdisjoint(_PERCENTAGES):
        for cover in _walk(covers):
            given = [cover.amounts[key] for key in _PERCENTAGES if key in cover.amounts]
            cover.amount = given[0] if given else None
        return
    key = next((key for key in _AREAS if key in used), None)
    if key is None:
        return
    outermost = covers
    while len(outermost) == 1 and key not in outermost[0].amounts:
        outermost = outermost[0].covers
    total = sum(cover.amounts.get(key, 0.0) for cover in outermost)
    if key == "SUP" and abs(total - 100) <= rounding(len(outermost)):
        total = 100.0
    else:
        total = polygon.get(key, total)
    if total <= 0:
        raise XmlError(*covers[0].place, f"{key} of the covers sums to 0")
    for cover in _walk(covers):
        if key in cover.amounts:
            cover.amount = cover.amounts[key] / total * 100


def _resolve(covers: Sequence[_Cover]) -> None:
    """Turn amounts, of the polygon or of the composite, into per cent of the composite."""
    todo: list[tuple[_Cover | None, int]] = [(None, 0)]
    names = 0
    while todo:
        composite, depth = todo.pop()
        names += depth
        if composite is not None and names > MOST_NAMES:
            raise XmlError(*composite.place, "covers are too deep inside one another")
        siblings = covers if composite is None else composite.covers
        share = 100.0 if composite is None else composite.share
        total = _total(siblings)
        of_polygon = composite is not None and _of_polygon(composite, len(siblings), total)
        for cover in siblings:
            if cover.amount is None:
                cover.share = share
            elif of_polygon:
                # Rounded to what no base tells: 20.25 of 45 is 45, not 45.00000000000001.
                cover.percent = round(cover.amount / total * 100, 9) if total else 0.0
                cover.share = cover.amount
            else:
                cover.percent, cover.share = round(cover.amount, 9), cover.amount * share / 100
            if len(siblings) == 1 and cover.percent == 100:
                cover.percent = None  # as in a label: what stands alone is all of it
            if cover.covers:
                todo.append((cover, depth + 1))


def _total(siblings: Sequence[_Cover]) -> float:
    """Sum of the amounts side by side; that of one that has none is 100."""
    for cover in siblings:
        if cover.amount is None and len(siblings) > 1:
            problem = f"{cover.name} stands beside others and has no percentage"
            raise XmlError(*cover.place, problem)
    return sum(100.0 if cover.amount is None else cover.amount for cover in siblings)


def _of_polygon(composite: _Cover, count: int, total: float) -> bool:
    """Whether covers that sum to ``total`` are given in per cent of the polygon."""
    share = composite.share
    if share == 100:
        return False  # it is the same, and what they sum to is for others to judge
    misses = abs(total - share), abs(total - 100)
    if min(misses) > rounding(count):
        raise XmlError(
            *composite.place,
            f"the covers of {composite.name} sum to {total:g} %; expected {share:g} (of the "
            "polygon) or 100 (of the composite)",
        )
    return misses[0] <= misses[1]


def _built(covers: Sequence[_Cover]) -> tuple[Part, ...]:
    """The same as parts of a label."""
    built: dict[int, Part] = {}
    for cover in reversed(list(_walk(covers))):
        inside = tuple([built.pop(id(part)) for part in cover.covers])
        built[id(cover)] = Part(cover.name, cover.attributes, cover.percent, inside)
    return tuple([built[id(cover)] for cover in covers])
