"""The label (rótulo) of a SIOSE polygon, taken apart."""

from __future__ import annotations

import re
from typing import NamedTuple

_PART = re.compile(r"(?P<percent>[0-9]{1,3})?(?P<cover>[A-Z]{3})(?P<attributes>[a-z]*)")


class LabelPart(NamedTuple):
    """One cover of a label.

    Attributes:
        percent: Share of the polygon, 0 to 100.
        cover: Label of the cover, upper case.
        attributes: Its attributes, lower case, as written (``frpl``).
    """

    percent: float
    cover: str
    attributes: str


def parse_label(label: str) -> list[LabelPart]:
    """Take a SIOSE AR label apart: ``CHE``, ``66PAV_34EDF``, ``70FDPpl_30CNFpl``.

    Returns:
        Covers in the order of the label; a cover that stands alone has 100 %.

    Raises:
        ValueError: Naming the position (from 1) and what was expected there.

    Source:
        SIOSE AR, "Estructura de la base de datos" 3.3.
    """
    parts: list[LabelPart] = []
    position = 0
    text = label.strip()
    alone = "_" not in text
    while True:
        match = _PART.match(text, position)
        if match is None:
            raise ValueError(
                f"label {label!r}, position {position + 1}: expected a percentage and a cover "
                "such as 66PAV"
            )
        if match["percent"] is None and not alone:
            raise ValueError(f"label {label!r}, position {position + 1}: expected a percentage")
        percent = 100.0 if match["percent"] is None else float(match["percent"])
        parts.append(LabelPart(percent, match["cover"], match["attributes"]))
        position = match.end()
        if position == len(text):
            return parts
        if text[position] != "_":
            raise ValueError(f"label {label!r}, position {position + 1}: expected '_'")
        position += 1
