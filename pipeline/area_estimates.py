"""Areas and accuracies of a map with 95 % intervals, from a sample or from a full reference.

Counting the pixels of a class gives the area that the map says, with all its errors. A random
sample of the map, interpreted by eye, tells how much of each mapped class really is what: from
that follow the areas, whatever the map confuses, and how sure they are.

Rows are the strata, which are the classes on the map; columns are the reference. What has no
points to stand on is NaN, and null in JSON.

Two kinds of 95 % intervals are given. ``..._ci`` are the paper's, estimate +- 1.96 standard errors.
They are too short for rare classes, whose errors in large strata are in few points or in none, and
have no width where all points of a stratum agree. ``..._limits`` hold there too: see
:mod:`pipeline.stratified_shares`. Where classes are common and points many, both agree.

Source:
    Olofsson et al. (2014), Good practices for estimating area and assessing accuracy of land
    change, Remote Sensing of Environment 148: 42-57, equations 1 to 11.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import InputError
from pipeline.stratified_shares import StratifiedShares, stratified_shares

Sampling = Literal["stratified", "simple", "systematic"]
"""How points were drawn: at random in each class of the map, in all of it, or on a regular grid."""

LAYOUT = 1
"""Version of the JSON file; raised when its keys change their meaning."""

Z = 1.96
"""Standard errors on each side of an estimate that hold the truth in 95 of 100 samples."""

HECTARE = 10_000.0


@dataclass(frozen=True, eq=False)
class AreaEstimates:
    """Areas and accuracies of a map, with their 95 % intervals.

    Attributes:
        names: The classes in the order of their ids.
        sample: Points, or pixels of a full reference, shape ``(K, K)``, row = class on the map,
            column = reference.
        mapped_area_m2: Area mapped as each class, shape ``(K,)``.
        areas_m2: Area mapped as one class and being another, shape ``(K, K)``.
        shares: The estimates as shares of the ground.
        source: ``sample``, or ``reference`` where every pixel has one: then areas and accuracies
            are counted, and their intervals have no width.
        pixels: Pixels mapped as each class, where they are known.
        finite: Whether the variances are corrected for the share of the pixels in the sample.
        pending: Points of the sample that nobody has interpreted and that are left out.
        sheets: Sheets that the sample was drawn from, or the map that was counted.
        splits: What the ground of each is for, in the table of a run; empty without a run.
        maps: Fingerprint of their maps (:func:`pipeline.map_digest.maps_digest`); empty where it
            is not known.
        skipped: Those of ``pending`` that have interpreted points behind them, of each class on the
            map; empty where there are none.
        outside: Points on no mapped pixel, which nothing is said of.
        sampling: How the points were drawn; None of a full reference.
        interpretation: Fingerprint of what was seen at the points
            (:func:`pipeline.sample_files.interpretation_digest`); empty where it is not known.
    """

    names: tuple[str, ...]
    sample: NDArray[np.int64]
    mapped_area_m2: NDArray[np.float64]
    areas_m2: NDArray[np.float64]
    shares: StratifiedShares
    source: Literal["sample", "reference"] = "sample"
    pixels: NDArray[np.int64] | None = None
    finite: bool = False
    pending: int = 0
    sheets: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    maps: str = ""
    skipped: tuple[int, ...] = ()
    outside: int = 0
    sampling: Sampling | None = None
    interpretation: str = ""

    @property
    def total_m2(self) -> float:
        """Area of the ground that is spoken of."""
        return float(self.mapped_area_m2.sum())

    @property
    def mapped_share(self) -> NDArray[np.float64]:
        """Share of the ground mapped as each class, shape ``(K,)``."""
        return np.asarray(self.mapped_area_m2 / self.total_m2)

    @property
    def proportions(self) -> NDArray[np.float64]:
        """Share of the ground mapped as one class and being another, shape ``(K, K)``."""
        return self.shares.proportions

    @property
    def area_m2(self) -> NDArray[np.float64]:
        """Area of each class, shape ``(K,)``."""
        return np.asarray(self.areas_m2.sum(axis=0))

    @property
    def area_se_m2(self) -> NDArray[np.float64]:
        """Standard error of the areas."""
        return np.asarray(self.shares.area_se * self.total_m2)

    @property
    def area_ci_m2(self) -> NDArray[np.float64]:
        """Half width of the areas' 95 % intervals."""
        return Z * self.area_se_m2

    @property
    def area_limits_m2(self) -> NDArray[np.float64]:
        """Limits of 95 % intervals of the areas that hold for rare classes too, ``(K, 2)``."""
        return np.asarray(self.shares.area_limits * self.total_m2)

    @property
    def users(self) -> NDArray[np.float64]:
        """User's accuracy of each class, shape ``(K,)``."""
        return self.shares.users

    @property
    def users_ci(self) -> NDArray[np.float64]:
        """Half width of its 95 % interval."""
        return Z * self.shares.users_se

    @property
    def users_limits(self) -> NDArray[np.float64]:
        """Limits of its 95 % interval that hold for rare classes too, ``(K, 2)``."""
        return self.shares.users_limits

    @property
    def producers(self) -> NDArray[np.float64]:
        """Producer's accuracy of each class, shape ``(K,)``."""
        return self.shares.producers

    @property
    def producers_ci(self) -> NDArray[np.float64]:
        """Half width of its 95 % interval."""
        return Z * self.shares.producers_se

    @property
    def producers_limits(self) -> NDArray[np.float64]:
        """Limits of its 95 % interval that hold for rare classes too, ``(K, 2)``."""
        return self.shares.producers_limits

    @property
    def overall(self) -> float:
        """Overall accuracy."""
        return float(self.shares.overall)

    @property
    def overall_ci(self) -> float:
        """Half width of its 95 % interval."""
        return Z * float(self.shares.overall_se)

    @property
    def overall_limits(self) -> tuple[float, float]:
        """Limits of its 95 % interval by the other method."""
        low, high = self.shares.overall_limits.tolist()
        return low, high

    @property
    def points(self) -> int:
        """Points, or pixels of a full reference."""
        return int(self.sample.sum())

    def as_json(self) -> str:
        """All of it as JSON text; the same input gives the same text."""
        classes = [
            {
                "class": name,
                **{key: _json(values[place]) for key, values in self._columns().items()},
            }
            for place, name in enumerate(self.names)
        ]
        content = {
            "layout": LAYOUT,
            "source": self.source,
            "sheets": list(self.sheets),
            "splits": list(self.splits),
            "maps": self.maps,
            "interpretation": self.interpretation,
            "total_area_m2": self.total_m2,
            "classes": list(self.names),
            "order": "row = map, column = reference",
            "sample": self.sample.tolist(),
            "pixels": None if self.pixels is None else self.pixels.tolist(),
            "mapped_area_m2": self.mapped_area_m2.tolist(),
            "areas_m2": self.areas_m2.tolist(),
            "finite": self.finite,
            "pending": self.pending,
            "skipped": list(self.skipped),
            "outside": self.outside,
            "sampling": self.sampling,
            "points": self.points,
            "overall_accuracy": _json(self.overall),
            "overall_accuracy_ci95": _json(self.overall_ci),
            "overall_accuracy_limits": [_json(limit) for limit in self.overall_limits],
            "estimates": classes,
        }
        lines = (
            f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
            for key, value in content.items()
        )
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def as_csv(self) -> str:
        """Table of the classes, areas in ha, 95 % intervals of both kinds beside the estimates.

        The last row has the sums and the overall accuracy. Empty is what is not known.
        """
        columns = self._columns()
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        overall = {
            "overall": self.overall,
            "overall_ci95": self.overall_ci,
            "overall_low": self.overall_limits[0],
            "overall_high": self.overall_limits[1],
        }
        writer.writerow(["class", *columns, *overall])
        for place, name in enumerate(self.names):
            cells = [_cell(values[place]) for values in columns.values()]
            writer.writerow([name, *cells, *[""] * len(overall)])
        sums = {key: columns[key].sum() for key in ("points", "mapped_ha", "area_ha")}
        total = [_cell(sums[key]) if key in sums else "" for key in columns]
        writer.writerow(["total", *total, *map(_cell, overall.values())])
        return table.getvalue()

    def _columns(self) -> dict[str, NDArray[Any]]:
        shares, areas = self.shares, self.area_limits_m2 / HECTARE
        return {
            "points": self.sample.sum(axis=1),
            "mapped_ha": self.mapped_area_m2 / HECTARE,
            "area_ha": self.area_m2 / HECTARE,
            "area_ci95_ha": self.area_ci_m2 / HECTARE,
            "area_low_ha": areas[:, 0],
            "area_high_ha": areas[:, 1],
            "share": shares.area,
            "share_ci95": Z * shares.area_se,
            "users": self.users,
            "users_ci95": self.users_ci,
            "users_low": self.users_limits[:, 0],
            "users_high": self.users_limits[:, 1],
            "producers": self.producers,
            "producers_ci95": self.producers_ci,
            "producers_low": self.producers_limits[:, 0],
            "producers_high": self.producers_limits[:, 1],
        }


def estimate(
    names: Iterable[str],
    sample: ArrayLike,
    mapped_area_m2: ArrayLike,
    *,
    pixels: ArrayLike | None = None,
    finite: bool = False,
    pending: int = 0,
) -> AreaEstimates:
    """Estimate areas and accuracies from an interpreted sample.

    The points of each class on the map must be a random sample of its pixels. A simple random
    sample of the whole map will do as well: sorted by the map, it is post-stratified, and the same
    equations hold.

    Args:
        names: The classes in the order of their ids; those of the reference alone, too.
        sample: Points, shape ``(K, K)``, row = class on the map, column = reference.
        mapped_area_m2: Area mapped as each class, shape ``(K,)``; 0 for what is not on the map.
        pixels: Pixels mapped as each class, shape ``(K,)``. A class of which every pixel is in the
            sample has no sampling error.
        finite: Correct the variances for the share of the pixels in the sample. The paper does not:
            of thousands of pixels and more it is nothing. Asks for ``pixels``.
        pending: Points that nobody has interpreted, to be told of.

    Raises:
        ValueError: If the shapes do not fit, or numbers are negative.
        InputError: If classes on the map have no points: nothing is known of their ground. If
            points lie in classes that are not on the map.

    Source:
        Olofsson et al. (2014), equations 1 to 11.
    """
    names = tuple(names)
    counts, areas = np.asarray(sample), np.asarray(mapped_area_m2, np.float64)
    _check(names, counts, areas)
    counts = counts.astype(np.int64)
    points = counts.sum(axis=1)
    if (points[areas == 0] > 0).any():
        raise InputError(
            "The sample has points of classes that are not on the map.",
            [f"{names[k]}: {points[k]}" for k in np.flatnonzero((areas == 0) & (points > 0))],
            "Sample and areas are of different maps; draw the sample again.",
        )
    if (points[areas > 0] == 0).any():
        share = 100 * areas / areas.sum()
        raise InputError(
            "Classes of the map have no interpreted point, so nothing is known of their ground.",
            [
                f"{names[k]}: {areas[k] / HECTARE:.2f} ha, {share[k]:.2f} % of the map"
                for k in np.flatnonzero((areas > 0) & (points == 0))
            ],
            "Interpret two points of each at least; some tens make a useful interval.",
        )
    known = None if pixels is None else np.asarray(pixels, np.int64)
    if known is None:
        if finite:
            raise ValueError("the finite population correction asks for pixels")
        sampled = np.zeros(len(names))
    else:
        if known.shape != areas.shape or (known < points).any():
            raise ValueError(f"{points} points do not fit to {known} pixels")
        whole = np.where(known > 0, points / np.maximum(known, 1), 0.0)
        sampled = whole if finite else np.where(whole == 1, 1.0, 0.0)
    shares = stratified_shares(counts, areas, sampled)
    matrix = shares.proportions * areas.sum()
    return AreaEstimates(
        names, counts, areas, matrix, shares, "sample", known, finite, pending,
        sampling="stratified",
    )  # fmt: skip


def exact(names: Iterable[str], counts: ArrayLike, areas_m2: ArrayLike) -> AreaEstimates:
    """Areas and accuracies where every pixel has a reference: they are counted, not estimated.

    Args:
        names: The classes in the order of their ids.
        counts: Pixels, shape ``(K, K)``, row = class on the map, column = reference.
        areas_m2: Their area, shape ``(K, K)``.

    Returns:
        Estimates with intervals of no width: there is no sampling error. What the reference itself
        gets wrong is in no interval, here as with samples.

    Raises:
        ValueError: If the shapes do not fit, or numbers are negative.
        InputError: If there is no pixel.
    """
    names = tuple(names)
    pixels, areas = np.asarray(counts), np.asarray(areas_m2, np.float64)
    _check(names, pixels, areas.sum(axis=1))
    if areas.shape != pixels.shape:
        raise ValueError(f"areas of {areas.shape} pairs of classes for {pixels.shape} counts")
    mapped, real, correct = areas.sum(axis=1), areas.sum(axis=0), np.diagonal(areas)
    with np.errstate(divide="ignore", invalid="ignore"):
        users, producers = correct / mapped, correct / real
    share, overall = real / areas.sum(), np.asarray(correct.sum() / areas.sum())
    shares = StratifiedShares(
        proportions=areas / areas.sum(),
        area=share,
        area_se=share * 0,
        users=users,
        users_se=users * 0,  # NaN stays NaN
        producers=producers,
        producers_se=producers * 0,
        overall=overall,
        overall_se=overall * 0,
        area_limits=np.stack([share, share], axis=-1),
        users_limits=np.stack([users, users], axis=-1),
        producers_limits=np.stack([producers, producers], axis=-1),
        overall_limits=np.stack([overall, overall], axis=-1),
    )
    whole = pixels.astype(np.int64)
    return AreaEstimates(names, whole, mapped, areas, shares, "reference", whole.sum(axis=1))


def from_json(text: str, source: str) -> AreaEstimates:
    """Read what :meth:`AreaEstimates.as_json` wrote.

    Args:
        text: The JSON text.
        source: What to call the file in messages.

    Raises:
        InputError: If the text is no such JSON. The estimates in it are not read but follow from
            the counts and areas.
    """
    remedy = "Delete the file; the command `assess` writes it again."
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{source}: is not JSON ({error}).", remedy=remedy) from error
    if not isinstance(content, Mapping) or content.get("layout") != LAYOUT:
        raise InputError(
            f"{source}: holds no area estimates of layout {LAYOUT}, the one this version reads.",
            remedy=remedy,
        )
    try:
        names, maps = _names(content["classes"]), content.get("maps", "")
        sheets, splits = (_names(content.get(key, [])) for key in ("sheets", "splits"))
        if not isinstance(maps, str) or (splits and len(splits) != len(sheets)):
            raise TypeError("each sheet has a split, and their maps a fingerprint")
        interpretation = content.get("interpretation", "")
        if not isinstance(interpretation, str):
            raise TypeError("what was seen at the points has a fingerprint")
        skipped, outside = content.get("skipped", []), content.get("outside", 0)
        if not isinstance(skipped, list) or not all(map(_is_count, [*skipped, outside])):
            raise TypeError("points that were left out are whole numbers")
        if skipped and len(skipped) != len(names):
            raise ValueError(f"skipped points of {len(skipped)} classes, there are {len(names)}")
        if content["source"] == "reference":
            counted = exact(names, _array(content["sample"]), _array(content["areas_m2"]))
            return replace(counted, sheets=sheets, splits=splits, maps=maps)
        known, sampling = content["pixels"], content.get("sampling", "stratified")
        if sampling not in get_args(Sampling):
            raise ValueError(f"points are no {sampling!r} sample")
        estimates = estimate(
            names,
            _array(content["sample"]),
            _array(content["mapped_area_m2"]),
            pixels=None if known is None else _array(known),
            finite=bool(content["finite"]),
            pending=int(content["pending"]),
        )
        return replace(
            estimates, sheets=sheets, splits=splits, maps=maps,
            skipped=tuple(skipped), outside=outside, sampling=sampling,
            interpretation=interpretation,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{source}: classes, points and areas do not fit together.", [str(error)], remedy
        ) from error


def _check(names: Sequence[str], counts: NDArray[Any], areas: NDArray[np.float64]) -> None:
    size = len(names)
    if counts.shape != (size, size) or areas.shape != (size,) or not size:
        raise ValueError(
            f"{size} classes need {size} x {size} counts and {size} areas, not {counts.shape} and "
            f"{areas.shape}"
        )
    if not np.issubdtype(counts.dtype, np.integer) or counts.min() < 0:
        raise ValueError("counts are whole numbers of points, 0 or more")
    if not (areas >= 0).all() or not np.isfinite(areas).all():
        raise ValueError("areas are numbers of m2, 0 or more")
    if not areas.any():
        raise InputError("The map has no pixel to speak of: all areas are 0.")


def _names(content: object) -> tuple[str, ...]:
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise TypeError("classes and sheets are lists of names")
    return tuple(content)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _array(content: object) -> NDArray[Any]:
    array = np.array(content)
    if not np.issubdtype(array.dtype, np.number):
        raise TypeError("counts and areas are numbers")
    return array


def _json(value: Any) -> Any:  # noqa: ANN401 - a plain number of any kind
    number = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(number, float) and math.isnan(number) else number


def _cell(value: Any) -> str:  # noqa: ANN401
    number = _json(value)
    if number is None:
        return ""
    return str(number) if isinstance(number, int) else f"{number:.6f}"
