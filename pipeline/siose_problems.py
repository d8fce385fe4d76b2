"""What may be wrong with the polygons of a base: its kinds, in words, on a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas

from pipeline.geopackage import categories_qml, write_layer


@dataclass(frozen=True)
class ProblemKind:
    """A kind of problem.

    Attributes:
        sentence: What polygons that have it do, after their number.
        name: What the legend of the map says.
        color: ``#RRGGBB``.
        stops: Whether a run stops at it, unless told otherwise.
    """

    sentence: str
    name: str
    color: str
    stops: bool = False


KINDS: Mapping[str, ProblemKind] = {
    "cover": ProblemKind(
        "carry a cover that no class of the nomenclature gathers", "unknown cover", "#D7191C", True
    ),
    "percentage": ProblemKind(
        "have percentages that are none, or do not sum to 100",
        "percentages off 100", "#E66101", True,
    ),
    "label": ProblemKind(
        "have a label that cannot be read", "label that cannot be read", "#B2182B", True
    ),
    "disagreement": ProblemKind(
        "have a label that disagrees with the table, which is used",
        "label against table", "#FDB863",
    ),
    "tree": ProblemKind(
        "have rows of the table that do not fit into one another",
        "composite that does not add up", "#C2A5CF",
    ),
    "unlabelled": ProblemKind(
        "have an empty label and are not used, though the table has rows of them",
        "empty label, rows in the table", "#80CDC1",
    ),
    "no_rows": ProblemKind(
        "have no rows in the table, and are resolved from another source",
        "no rows in the table", "#A6DBA0",
    ),
    "no_values": ProblemKind(
        "have nothing that tells their covers, and are masked", "no covers", "#018571"
    ),
    "values_without_polygon": ProblemKind(
        "have rows in the table and are not in the layer", "values without polygon", "#737373"
    ),
    "repaired": ProblemKind(
        "had invalid geometry and were repaired", "invalid geometry", "#762A83"
    ),
    "empty": ProblemKind("have no area and are left out", "no area", "#252525"),
    "duplicate": ProblemKind(
        "share their ID_POLYGON, and with it their rows of the table", "ID more than once",
        "#2166AC",
    ),
    "overlap": ProblemKind("overlap another polygon", "overlap", "#4393C3"),
    "sliver": ProblemKind(
        "are so thin that their outlines hold more than their ground", "sliver", "#F4A582"
    ),
    "gap": ProblemKind("border on a gap that no polygon covers", "gap", "#FFD92F"),
}  # fmt: skip
"""Kinds of problems in the order in which they are told."""


def write_problems(frame: geopandas.GeoDataFrame, draft: Path) -> None:
    """Write polygons that need a person's eye as a GeoPackage that opens styled in QGIS.

    Args:
        frame: ``kind``, ``polygon_id``, ``text`` and geometry, which may be missing.
        draft: The file to write.
    """
    there: Sequence[str] = [kind for kind in KINDS if (frame["kind"] == kind).any()]
    style = categories_qml("kind", {k: (KINDS[k].name, KINDS[k].color) for k in there})
    write_layer(frame, draft, "problems", style)
