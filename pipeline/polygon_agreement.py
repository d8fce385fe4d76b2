"""AgreementCounts: the classes' shares on the map beside those that SIOSE says of its polygons.

A composite cover has no truth for a pixel, but its shares can be compared, polygon by polygon.
Counts of sheets add up. What has no polygons to stand on is NaN, and ``null`` in JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.listed_polygons import CandidateRow, PolygonRow, largest_first, worst_first

LAYOUT = 2
"""Version of the JSON file; raised when its keys change their meaning."""

BINS = 20
"""Bins of the shares of a scatter plot, each of 5 %, SIOSE's own step; 1 is in the last one."""

SHOWN = 20
"""Polygons of each list that are kept in the counts."""

MOMENTS = (
    "weight",
    "mapped",
    "siose",
    "mapped_squared",
    "siose_squared",
    "product",
    "absolute",
    "squared",
)
"""Sums over polygons of: the weight, and times the weight, the share on the map, that of SIOSE,
their squares, their product, and the absolute value and the square of their difference."""

Weight = Literal["polygon", "area"]

WEIGHTS: tuple[Weight, ...] = ("polygon", "area")
"""Each polygon counts one, or its area in m²."""


@dataclass(frozen=True, eq=False)
class AgreementStatistics:
    """How well shares agree; arrays have shape ``(classes,)``.

    Attributes:
        names: Names of the classes.
        polygons: Polygons compared.
        difference: Mean total variation distance of the polygons, 0 to 1.
        present: Polygons in which SIOSE has the class, int64.
        siose_share: Mean share in SIOSE.
        mapped_share: Mean share on the map.
        mean_absolute_error: Mean absolute difference of the shares.
        bias: Mean of the share on the map less that in SIOSE: positive where the map has more.
        rmse: Root of the mean squared difference.
        correlation: Pearson's; NaN where one of both is the same in all polygons.

    The shares of a class that neither has in any polygon are NaN, and all that follows from them.
    """

    names: tuple[str, ...]
    polygons: int
    difference: float
    present: NDArray[np.int64]
    siose_share: NDArray[np.float64]
    mapped_share: NDArray[np.float64]
    mean_absolute_error: NDArray[np.float64]
    bias: NDArray[np.float64]
    rmse: NDArray[np.float64]
    correlation: NDArray[np.float64]

    def as_dict(self) -> dict[str, Any]:
        """All as plain numbers by class, None for NaN."""
        arrays = [one.name for one in dataclasses.fields(self)[3:]]
        columns = [map(_plain, getattr(self, name).tolist()) for name in arrays]
        rows = zip(self.names, *columns, strict=True)
        return {
            "polygons": self.polygons,
            "difference": _plain(self.difference),
            "classes": [dict(zip(("name", *arrays), row, strict=True)) for row in rows],
        }


@dataclass(frozen=True, eq=False)
class AgreementCounts:
    """What was counted in the polygons on the test ground of a sheet, or of several.

    The lists and candidates alone are of all polygons of the sheets, on whatever ground.

    Attributes:
        names: Names of the classes.
        left_out: Reason to polygons on the same ground that are not compared; those that another
            sheet has are among them.
        polygons: Polygons compared, and how many of them have more than one class in SIOSE, int64,
            shape ``(2,)``. The first axis of ``present`` and ``moments`` is the same.
        present: Polygons in which SIOSE has a class, int64, shape ``(2, classes)``.
        moments: Sums of :data:`MOMENTS` by :data:`WEIGHTS`, float64, shape
            ``(2, 2, moments, classes)``.
        histogram: Polygons by bin of the share in SIOSE and by bin of that on the map, int64, shape
            ``(classes, BINS, BINS)``.
        worst: The polygons that differ the most, worst first.
        searched: Polygons, on whatever ground, that were looked at for changes.
        candidates: Update candidates with the largest changed area, largest first.
        candidate_count: How many candidates there are in all.
        candidate_m2: Their changed area.
        no_search: Why no candidates were looked for, in words; empty where they were.
        candidate_splits: Split of the ground that they mostly lie on to their number; an empty text
            for none.
    """

    names: tuple[str, ...]
    left_out: Mapping[str, int]
    polygons: NDArray[np.int64]
    present: NDArray[np.int64]
    moments: NDArray[np.float64]
    histogram: NDArray[np.int64]
    worst: tuple[PolygonRow, ...] = ()
    searched: int = 0
    candidates: tuple[CandidateRow, ...] = ()
    candidate_count: int = 0
    candidate_m2: float = 0.0
    no_search: str = ""
    candidate_splits: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: If they are not those of the classes.
        """
        classes = len(self.names)
        shapes = {
            "polygons": (2,),
            "present": (2, classes),
            "moments": (2, len(WEIGHTS), len(MOMENTS), classes),
            "histogram": (classes, BINS, BINS),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} of {classes} classes: {getattr(self, name).shape}")

    @classmethod
    def of(
        cls,
        names: Iterable[str],
        mapped: NDArray[np.float64],
        siose: NDArray[np.float64],
        area_m2: NDArray[np.float64],
        left_out: Mapping[str, int],
    ) -> AgreementCounts:
        """Count polygons.

        Args:
            names: Names of the classes.
            mapped: Shares on the map, shape ``(polygons, classes)``, rows sum to 1.
            siose: Shares in SIOSE, of the same shape, rows sum to 1.
            area_m2: Areas, shape ``(polygons,)``.
            left_out: Reason to polygons that are not among them.
        """
        names = tuple(names)
        present = siose > 0
        composite = present.sum(axis=1) > 1
        moments = np.zeros((2, len(WEIGHTS), len(MOMENTS), len(names)))
        weights = np.ones_like(area_m2), area_m2
        # Correctly rounded sums: they are the same on every machine.
        for i, weight in enumerate(weights):
            moments[:, i, 0] = [[math.fsum(w.tolist())] for w in (weight, weight[composite])]
        # A class at a time, where it is: there are dozens, and a hundred thousand polygons.
        for k in range(len(names)):
            there = np.flatnonzero((mapped[:, k] > 0) | present[:, k])
            on_map, said, some = mapped[there, k], siose[there, k], composite[there]
            off = on_map - said
            terms = on_map, said, on_map**2, said**2, on_map * said, np.abs(off), off**2
            for i, weight in enumerate(weights):
                for j, term in enumerate(terms, 1):
                    weighted = term * weight[there]
                    moments[0, i, j, k] = math.fsum(weighted.tolist())
                    moments[1, i, j, k] = math.fsum(weighted[some].tolist())
        histogram = np.zeros((len(names), BINS, BINS), np.int64)
        across, along = share_bins(siose), share_bins(mapped)
        for number in range(len(names)):
            np.add.at(histogram[number], (across[:, number], along[:, number]), 1)
        return cls(
            names,
            dict(left_out),
            np.array([len(area_m2), composite.sum()], np.int64),
            np.stack([present.sum(axis=0), present[composite].sum(axis=0)]).astype(np.int64),
            moments,
            histogram,
        )

    @classmethod
    def empty(cls, names: Iterable[str]) -> AgreementCounts:
        """The counts of no polygons: where a sum over sheets begins."""
        names = tuple(names)
        none = np.zeros((0, len(names)))
        return cls.of(names, none, none, np.zeros(0), {})

    def __add__(self, other: AgreementCounts) -> AgreementCounts:
        """Both together.

        Raises:
            ValueError: If they are of other classes.
        """
        if self.names != other.names:
            raise ValueError(f"counts of other classes do not add up: {self.names}, {other.names}")
        reasons = [*self.left_out, *(r for r in other.left_out if r not in self.left_out)]
        splits = Counter(self.candidate_splits) + Counter(other.candidate_splits)
        told = dict.fromkeys(text for text in (self.no_search, other.no_search) if text)
        return AgreementCounts(
            self.names,
            {r: self.left_out.get(r, 0) + other.left_out.get(r, 0) for r in reasons},
            self.polygons + other.polygons,
            self.present + other.present,
            self.moments + other.moments,
            self.histogram + other.histogram,
            tuple(sorted(self.worst + other.worst, key=worst_first)[:SHOWN]),
            self.searched + other.searched,
            tuple(sorted(self.candidates + other.candidates, key=largest_first)[:SHOWN]),
            self.candidate_count + other.candidate_count,
            self.candidate_m2 + other.candidate_m2,
            " ".join(told),
            dict(splits),
        )

    def statistics(
        self, weight: Weight = "polygon", composite: bool = False
    ) -> AgreementStatistics:
        """How well the shares agree.

        Args:
            weight: What each polygon counts: one, or its area.
            composite: Only of polygons that have more than one class in SIOSE.
        """
        sums = self.moments[int(composite), WEIGHTS.index(weight)]
        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums / sums[0]
            by_name = dict(zip(MOMENTS, means, strict=True))
            spread = [
                by_name[f"{which}_squared"] - by_name[which] ** 2 for which in ("mapped", "siose")
            ]
            # Below what the rounding of sums leaves of the same number, there is no spread.
            spread = [np.where(one > 1e-12, one, np.nan) for one in spread]
            shared = by_name["product"] - by_name["mapped"] * by_name["siose"]
            correlation = np.clip(shared / np.sqrt(spread[0] * spread[1]), -1, 1)
        nowhere = (sums[1] == 0) & (sums[2] == 0)
        difference = float(by_name["absolute"].sum() / 2)
        for name in by_name:
            by_name[name] = np.where(nowhere, np.nan, by_name[name])
        return AgreementStatistics(
            names=self.names,
            polygons=int(self.polygons[int(composite)]),
            difference=difference,
            present=self.present[int(composite)],
            siose_share=by_name["siose"],
            mapped_share=by_name["mapped"],
            mean_absolute_error=by_name["absolute"],
            bias=by_name["mapped"] - by_name["siose"],
            rmse=np.sqrt(by_name["squared"]),
            correlation=correlation,
        )

    def as_json(self) -> str:
        """All as JSON text; the same counts give the same text."""
        statistics = {
            f"{which} by {weight}": self.statistics(weight, which == "composite").as_dict()
            for which in ("all", "composite")
            for weight in WEIGHTS
        }
        content = {
            "layout": LAYOUT,
            "classes": list(self.names),
            "polygons": self.polygons.tolist(),
            "left_out": dict(self.left_out),
            "statistics": statistics,
            "searched": self.searched,
            "candidate_count": self.candidate_count,
            "candidate_m2": self.candidate_m2,
            "candidate_splits": dict(self.candidate_splits),
            "no_search": self.no_search,
            "worst": [row.as_dict() for row in self.worst],
            "candidates": [row.as_dict() for row in self.candidates],
            "present": self.present.tolist(),
            "moments": self.moments.tolist(),
            "histogram": self.histogram.tolist(),
        }
        lines = [
            f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
            for key, value in content.items()
        ]
        return "{\n" + ",\n".join(lines) + "\n}\n"


def from_json(text: str, source: str) -> AgreementCounts:
    """Read what :meth:`AgreementCounts.as_json` wrote.

    Args:
        text: The JSON text.
        source: What to call the file in messages.

    Raises:
        InputError: If the text is no such JSON; the statistics in it are not read but follow from
            the sums.
    """
    remedy = "Delete the file; the rule `polygon_agreement` writes it again."
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{source}: is not JSON ({error}).", remedy=remedy) from error
    if not isinstance(content, Mapping) or content.get("layout") != LAYOUT:
        raise InputError(
            f"{source}: is no agreement of polygons of layout {LAYOUT}, which this version reads.",
            remedy=remedy,
        )
    try:
        return AgreementCounts(
            tuple(map(str, content["classes"])),
            {str(reason): int(count) for reason, count in content["left_out"].items()},
            np.array(content["polygons"], np.int64),
            np.array(content["present"], np.int64),
            np.array(content["moments"], np.float64),
            np.array(content["histogram"], np.int64),
            tuple(PolygonRow.of(row) for row in content["worst"]),
            int(content["searched"]),
            tuple(CandidateRow.of(row) for row in content["candidates"]),
            int(content["candidate_count"]),
            float(content["candidate_m2"]),
            str(content["no_search"]),
            {str(split): int(count) for split, count in content["candidate_splits"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{source}: does not fit together ({error}).", remedy=remedy) from error


def of_all_sheets(
    counts: Iterable[tuple[str, AgreementCounts]], names: Sequence[str]
) -> AgreementCounts | None:
    """The counts of all sheets together; None of no sheet.

    Args:
        counts: Name and counts of each sheet, read one after the other: there may be thousands.
        names: Names of the run's classes.

    Raises:
        InputError: Naming all sheets whose counts are of other classes.
    """
    total = None
    other: dict[str, tuple[str, ...]] = {}
    for sheet, one in counts:
        if one.names != tuple(names):
            other[sheet] = one.names
        elif not other:
            total = one if total is None else total + one
    if other:
        told = ", ".join([*other][:5]) + " and so on" * (len(other) > 5)
        raise InputError(
            "Counts of SIOSE's polygons are of other classes than the run has now.",
            [f"sheet {sheet}: of the classes {', '.join(each)}" for sheet, each in other.items()],
            f"Run `python -m pipeline polygon-agreement` again, with `--sheet` {told}; then the "
            "report. Under Snakemake: `--forcerun polygon_agreement`.",
        )
    return total


def share_bins(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bin of each share, from 0; a share that is the edge of two is in the upper one."""
    # 0.55 * 20 is a little more than 11, and other products a little less than they should be.
    return np.clip(np.floor(shares * BINS + 1e-9).astype(np.int64), 0, BINS - 1)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
