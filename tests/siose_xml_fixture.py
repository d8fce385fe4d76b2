"""``SIOSE_XML`` of a label, so that table, label and XML of a base can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import quoteattr

from pipeline.rotulo import FREE_COMPOSITES, Part, written


def xml_of(parts: Sequence[Part], ids: Mapping[str, int]) -> str:
    """Write the XML of a polygon as its rows of ``T_VALORES`` would say it.

    Args:
        parts: Of the parsed label.
        ids: Ids of covers. One that is not there goes by its label. A free composite (``A``)
            that is there, 600 in a base, carries its letter as an attribute.

    Returns:
        ``POLIGONO`` with nested ``COBERTURA``; ``SUPERF_POR`` is of the polygon, to 2 decimals.
    """
    text = [f"<POLIGONO code={quoteattr(written(parts))}>"]
    todo: list[tuple[Part, float] | str] = [(part, 100.0) for part in reversed(parts)]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            text.append(item)
            continue
        part, whole = item
        share = whole if part.percent is None else whole * part.percent / 100
        name = ids.get(part.cover, part.cover)
        text.append(f'<COBERTURA ID="{name}" SUPERF_POR="{share:.2f}">')
        letters = [part.cover] if part.cover in FREE_COMPOSITES and part.cover in ids else []
        text += [f'<ATRIBUTO ID="{attribute}"/>' for attribute in (*letters, *part.attributes)]
        todo.append("</COBERTURA>")
        todo += [(inside, share) for inside in reversed(part.parts)]
    return "".join([*text, "</POLIGONO>"])
