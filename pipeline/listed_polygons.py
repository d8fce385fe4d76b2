"""SIOSE polygons that are listed for a person to look at, and the order of the lists."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class PolygonRow:
    """A polygon of a list.

    Attributes:
        sheet: Sheet.
        polygon_id: Its id in SIOSE.
        label: Its label in SIOSE.
        split: Of the ground that it mostly lies on: train, validation, test, or none.
        area_m2: Its area.
        difference: Total variation distance of the shares: the part of it that would have to be
            of another class for both to be equal, from 0 to 1.
        siose_class: Class that SIOSE has the most of.
        siose_share: Its share in SIOSE.
        mapped_class: Class that the map has the most of.
        mapped_share: Its share on the map.
        confidence: Mean confidence of the map in per cent, NaN where none is known.
        longitude: Of a point in the polygon, in degrees (WGS 84).
        latitude: The same.
    """

    sheet: str
    polygon_id: str
    label: str
    split: str
    area_m2: float
    difference: float
    siose_class: str
    siose_share: float
    mapped_class: str
    mapped_share: float
    confidence: float
    longitude: float
    latitude: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The row of the values of :meth:`as_dict`.

        Raises:
            TypeError: If there are others.
        """
        told: dict[str, Any] = {key: math.nan if v is None else v for key, v in values.items()}
        return cls(**told)

    def as_dict(self) -> dict[str, Any]:
        """All values by their names, None for NaN."""
        values = dataclasses.asdict(self).items()
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in values
        }


@dataclass(frozen=True)
class CandidateRow(PolygonRow):
    """A polygon whose class seems to have changed.

    Attributes:
        from_class: Class that has lost the most.
        to_class: Class that has won the most.
        changed_share: Share of confident pixels of classes beyond what SIOSE has of them.
        changed_m2: Their area.
    """

    from_class: str
    to_class: str
    changed_share: float
    changed_m2: float


def worst_first(row: PolygonRow) -> tuple[float, float, str, str]:
    """Order of the polygons that differ: by difference, of the same by area."""
    return -round(row.difference, 9), -row.area_m2, row.sheet, row.polygon_id


def largest_first(row: CandidateRow) -> tuple[float, str, str]:
    """Order of update candidates: by changed area."""
    return -row.changed_m2, row.sheet, row.polygon_id
