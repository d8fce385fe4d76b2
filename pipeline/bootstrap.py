"""Bootstrap intervals of scores, and of the difference of two maps, over blocks of ground.

Pixels of one field or one roof are right or wrong together, so counting each as a trial of its
own gives intervals that are far too narrow. What is drawn is a block of ground with all pixels in
it; blocks of several sheets at the same place are one. The intervals say how much the scores
would differ on other ground like this; a training with another seed is no part of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.numerals import count, listed
from pipeline.scores import Measures, measures

if TYPE_CHECKING:
    from pipeline.ground_blocks import BlockMatrices

LEVEL = 0.95
"""Share of the draws between the bounds of an interval."""

FEWEST_BLOCKS = 10
"""With effectively fewer blocks there are no bounds: they would be too narrow, and believed.

By simulation (``python -m tests.benchmarks.coverage``), intervals of 95 % hold the truth in 78 % of
cases with 4 blocks of one size, 83 % with 6, 88 % with 10, 92 % with 20 and 93 % with 40. Blocks of
unlike sizes count by their effective number, see :func:`effective_number`: 4 whole ones and 12
strips of a sixteenth are effectively 6, and hold it in 85 %, where 16 of one size hold it in 91 %;
10 and 30 are effectively 14, and hold it in 90 %.

A class has to be in as many, each counting by all its pixels: of a class with uneven amounts in 7
of 36 blocks, intervals of IoU hold the truth in 83 %, in 18 of them in 87 %. Its user's accuracy
takes as many of the map too.

A mean over classes takes as many of each class of the reference, as it hangs on the rarest as much
as on any other: no bounds of a sum where one of its terms has none. How much narrower they would be
depends on the ground; on that one, with two of five classes in 7 and 8 blocks, they hold the truth
in 90 to 92 %. Kappa and frequency-weighted IoU are weighted by pixels, and ask for no class.
"""

FEWEST_DRAWS = 50
"""An interval has no bounds where fewer draws have the score at all."""

_CELLS = 2**22  # numbers in memory at once, 32 MB of each array
_EXACT = 2**53

Place = tuple[str, float, int, int]
"""Coordinate system, side of the blocks, column and row of one."""


@dataclass(frozen=True)
class Interval:
    """A score, or a difference of two, with its 95 % interval.

    Attributes:
        value: Of the ground as it is; NaN where it has no pixels to stand on.
        low: Lower bound; NaN where fewer than :data:`FEWEST_BLOCKS` blocks have it.
        high: Upper bound.
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is more than the chance of which ground was looked at."""
        return self.low > 0 or self.high < 0

    def as_dict(self) -> dict[str, float | None]:
        """Plain values for JSON, NaN as None."""
        return {key: None if math.isnan(value) else value for key, value in vars(self).items()}


@dataclass(frozen=True, eq=False)
class Intervals:
    """Scores with intervals, or differences of scores; see :mod:`pipeline.scores`.

    Attributes:
        names: Class names in the order of their ids.
        blocks: Blocks of ground that were drawn from.
        effective_blocks: How many of one size they are worth; see :func:`effective_number`. Of
            two runs, those of the one where they are fewer, as with ``class_blocks``.
        draws: How often blocks were drawn.
        class_blocks: Effective number of the blocks that have reference pixels of each class.
        overall_accuracy: As the next five, of all classes.
        kappa: Cohen's kappa.
        balanced_accuracy: Mean producer's accuracy.
        mean_iou: Mean IoU.
        frequency_weighted_iou: IoU weighted by reference pixels.
        mean_f1: Mean F1.
        users: User's accuracy of each class, as the next three.
        producers: Producer's accuracies.
        f1: Harmonic means of both.
        iou: Intersections over unions.
    """

    names: tuple[str, ...]
    blocks: int
    effective_blocks: int
    draws: int
    class_blocks: tuple[int, ...]
    overall_accuracy: Interval
    kappa: Interval
    balanced_accuracy: Interval
    mean_iou: Interval
    frequency_weighted_iou: Interval
    mean_f1: Interval
    users: tuple[Interval, ...]
    producers: tuple[Interval, ...]
    f1: tuple[Interval, ...]
    iou: tuple[Interval, ...]

    @property
    def told_blocks(self) -> str:
        """The number of blocks in words, and what they are worth where that is another."""
        if self.effective_blocks == self.blocks:
            return count(self.blocks)
        return (
            f"{count(self.blocks)}, effectively {count(self.effective_blocks)} for their unlike "
            "sizes"
        )

    @property
    def unbounded(self) -> str:
        """Why no score has an interval; empty where they may have one."""
        if self.effective_blocks >= FEWEST_BLOCKS:
            return ""
        there = self.told_blocks
        return f"an interval takes {FEWEST_BLOCKS} blocks of ground, and there are {there}"

    @property
    def sparse(self) -> tuple[tuple[str, int], ...]:
        """Classes in too few blocks for an interval, each in effectively how many; none absent."""
        found = zip(self.names, self.class_blocks, strict=True)
        return tuple((name, number) for name, number in found if 0 < number < FEWEST_BLOCKS)

    @property
    def unbounded_means(self) -> str:
        """Why means over classes have no interval; empty where they may have one."""
        if self.unbounded or not self.sparse:
            return self.unbounded
        told = listed([f"{number} with {name}" for name, number in self.sparse])
        worth = "effectively " if self.effective_blocks != self.blocks else ""
        return (
            f"a mean over classes takes {FEWEST_BLOCKS} blocks of ground with each class, and "
            f"there are {worth}{told}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, NaN as None.

        ``fewest_effective_blocks`` is also how many have to have a class for it to have bounds, and
        each class for means over classes to have them.
        """
        values: dict[str, Any] = {"blocks": self.blocks, "effective_blocks": self.effective_blocks}
        values |= {"fewest_effective_blocks": FEWEST_BLOCKS, "draws": self.draws}
        values["unbounded"] = self.unbounded or None
        values["unbounded_means"] = self.unbounded_means or None
        values |= {key: getattr(self, key).as_dict() for key in OVERALL}
        values["classes"] = [
            {"name": name, "effective_blocks": self.class_blocks[number]}
            | {key: getattr(self, key)[number].as_dict() for key in PER_CLASS}
            for number, name in enumerate(self.names)
        ]
        return values


OVERALL = tuple(f.name for f in fields(Intervals) if f.type == "Interval")
"""Scores of all classes together."""

PER_CLASS = ("users", "producers", "f1", "iou")
"""Scores of each class."""

_OF_CLASSES = ("balanced_accuracy", "mean_iou", "mean_f1")  # means over the classes present


@dataclass(frozen=True, eq=False)
class Ground:
    """Blocks of several sheets put together by place.

    Attributes:
        names: Class names in the order of their ids.
        places: The blocks' places, in ascending order.
        counts: Confusion matrices, int64, shape ``(places, classes, classes)``, row = reference,
            column = mapped.
    """

    names: tuple[str, ...]
    places: tuple[Place, ...]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, blocks: Sequence[BlockMatrices]) -> Ground:
        """Put sheets together; what several have of one place adds up.

        Raises:
            ValueError: If there is no sheet, or sheets are of other classes.
        """
        if len({part.names for part in blocks}) != 1:
            raise ValueError("blocks are of one or more sheets, all of the same classes")
        keys: list[Place] = [
            (part.crs, round(part.side_m, 6), column, row)
            for part in blocks
            for column, row in part.places.tolist()
        ]
        places = sorted(set(keys))
        number = {place: n for n, place in enumerate(places)}
        size = len(blocks[0].names)
        counts = np.zeros((len(places), size, size), np.int64)
        into = np.array([number[key] for key in keys], np.intp)
        np.add.at(counts, into, np.concatenate([part.counts for part in blocks]))
        return cls(blocks[0].names, tuple(places), counts)

    def at(self, places: Sequence[Place]) -> Ground:
        """The blocks of some of its places."""
        if tuple(places) == self.places:
            return self
        number = {place: n for n, place in enumerate(self.places)}
        rows = np.array([number[place] for place in places], np.intp)
        return Ground(self.names, tuple(places), self.counts[rows])

    @property
    def total(self) -> NDArray[np.int64]:
        """Sum of all blocks, shape ``(classes, classes)``."""
        return np.asarray(self.counts.sum(axis=0), np.int64)


def effective_number(pixels: ArrayLike) -> NDArray[np.int64]:
    """How many blocks of one size are worth as much: the sum squared over the sum of squares.

    Args:
        pixels: Of each block along the first axis, 0 in one that does not count.

    Returns:
        To the next whole number, int64, of the shape of the other axes; 0 where there are none.

    Source:
        Kish (1965), Survey Sampling, Wiley: a mean with unequal weights has the variance of one
        of so many with equal weights.
    """
    sizes = np.asarray(pixels, np.float64)
    # As shares of the largest, so that blocks of one size are exactly as many as they are.
    shares = sizes / np.maximum(sizes.max(axis=0, initial=0.0), 1.0)
    squares = (shares**2).sum(axis=0)
    number = shares.sum(axis=0) ** 2 / np.where(squares > 0, squares, 1.0)
    return np.asarray(np.rint(number), np.int64)


def intervals(blocks: Sequence[BlockMatrices], draws: int = 1000, seed: int = 0) -> Intervals:
    """Scores with percentile bootstrap intervals over blocks of ground.

    Args:
        blocks: Of each sheet.
        draws: How often as many blocks as there are are drawn, with replacement.
        seed: The same seed gives the same intervals.

    Returns:
        Scores of the sum of all blocks. Bounds are NaN where effectively fewer blocks than
        :data:`FEWEST_BLOCKS` have pixels: of the reference's class, if it is a class's score, and
        mapped as the class, too, if it is its user's accuracy; of each class that the reference
        has, if it is a mean over them. Where a draw misses a class that the ground has, it counts
        neither for the class nor for those means, which would be means of others.

    Raises:
        ValueError: If there is no sheet, sheets are of other classes, or draws are too few.

    Source:
        Efron & Tibshirani (1993), An Introduction to the Bootstrap, section 13.3 (percentile
        interval); Davison & Hinkley (1997), Bootstrap Methods and their Application, section 3.8
        (whole groups are drawn where what is in one is not independent).
    """
    return ground_intervals(Ground.of(blocks), draws, seed)


def ground_intervals(ground: Ground, draws: int = 1000, seed: int = 0) -> Intervals:
    """As :func:`intervals`, of sheets that are put together already."""
    return _intervals(ground.names, ground.counts[:, np.newaxis], draws, seed)


def differences(
    a: Sequence[BlockMatrices], b: Sequence[BlockMatrices], draws: int = 1000, seed: int = 0
) -> Intervals:
    """How much better b's scores are than a's, on the ground that both have.

    The same blocks are drawn for both, so that ground that is hard for both does not widen the
    interval: it is of the difference, and much narrower than those of a and b let one think.

    Args:
        a: Blocks of each sheet of one run.
        b: Those of another run.
        draws: How often blocks are drawn.
        seed: The same seed gives the same intervals.

    Returns:
        Scores of b minus scores of a, both on the common places; NaN throughout if there are
        none. Without bounds where :func:`intervals` has none for a or for b. Means over classes
        are NaN where the references of a and b have other classes: they are no means of the same.

    Raises:
        ValueError: As :func:`intervals`; or if a and b are of other classes.
    """
    return ground_differences(Ground.of(a), Ground.of(b), draws, seed)


def ground_differences(a: Ground, b: Ground, draws: int = 1000, seed: int = 0) -> Intervals:
    """As :func:`differences`, of sheets that are put together already."""
    if a.names != b.names:
        raise ValueError(f"blocks of other classes: {a.names}, {b.names}")
    places = sorted(set(a.places) & set(b.places))
    counts = np.stack([a.at(places).counts, b.at(places).counts], axis=1)
    return _intervals(a.names, counts, draws, seed)


def _intervals(
    names: tuple[str, ...], counts: NDArray[np.int64], draws: int, seed: int
) -> Intervals:
    """Intervals of one run, or of the second minus the first.

    Args:
        names: Class names.
        counts: Shape ``(blocks, runs, classes, classes)``.
        draws: How often blocks are drawn.
        seed: Of the draws.
    """
    if draws < FEWEST_DRAWS:
        raise ValueError(f"{draws} draws are too few; intervals take {FEWEST_DRAWS} and more")
    whole = measures(counts.sum(axis=0))
    drawn: dict[str, list[NDArray[np.float64]]] = {key: [] for key in (*OVERALL, *PER_CLASS)}
    by_reference, by_mapped = counts.sum(axis=-1), counts.sum(axis=-2)
    pixels = by_reference.sum(axis=-1)
    effective = int(effective_number(pixels).min())
    if effective >= FEWEST_BLOCKS:
        for matrices in _resampled(counts, draws, seed):
            found = measures(matrices)
            missing = ((found.support == 0) & (whole.support > 0)).any(axis=(1, 2))
            for key, parts in drawn.items():
                values = _difference(found, key)
                if key in _OF_CLASSES:
                    values[missing] = np.nan
                parts.append(values)
    # A class in one block alone: all draws that have it say the same, which is no certainty; and
    # those of a few differ by too little.
    class_blocks, mapped_blocks = (
        effective_number(np.where(of > 0, pixels[..., np.newaxis], 0)).min(axis=0)
        for of in (by_reference, by_mapped)
    )
    reference, mapped = class_blocks >= FEWEST_BLOCKS, mapped_blocks >= FEWEST_BLOCKS
    present = whole.support > 0
    same = bool((present == present[:1]).all())
    enough = bool(reference[present.any(axis=0)].all())

    def found_interval(key: str) -> NDArray[np.float64]:
        """Value, low and high along the last axis."""
        value = _difference(whole, key, axis=0)
        if key in _OF_CLASSES and not same:
            value = np.full_like(value, np.nan)
        if drawn[key]:
            low, high = _bounds(np.concatenate(drawn[key]))
        else:
            low = high = np.full(value.shape, np.nan)
        if key in PER_CLASS:
            known = reference & mapped if key == "users" else reference
            low, high = np.where(known, low, np.nan), np.where(known, high, np.nan)
        known = ~np.isnan(value) & (enough or key not in _OF_CLASSES)
        low, high = np.where(known, low, np.nan), np.where(known, high, np.nan)
        return np.stack([value, low, high], axis=-1)

    scores: dict[str, Any] = {key: Interval(*found_interval(key).tolist()) for key in OVERALL}
    for key in PER_CLASS:
        scores[key] = tuple(Interval(*row) for row in found_interval(key).tolist())
    shown = tuple(class_blocks.tolist())
    return Intervals(names, len(counts), effective, draws, shown, **scores)


def _difference(found: Measures, key: str, axis: int = 1) -> NDArray[np.float64]:
    """A score of the only run, or of the second minus the first, along the axis of the runs."""
    values: NDArray[np.float64] = np.moveaxis(getattr(found, key), axis, 0)
    return np.array(values[0] if len(values) == 1 else values[1] - values[0], np.float64)


def _resampled(counts: NDArray[np.int64], draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Sums of blocks drawn with replacement, the same ones for all runs.

    Yields:
        Shape ``(some of the draws, runs, classes, classes)``.
    """
    number, *shape = counts.shape
    cells = math.prod(shape)
    flat = counts.reshape(number, cells)
    if int(counts.sum(axis=(1, 2, 3)).max()) * number >= _EXACT:
        raise ValueError("more pixels than floating-point sums of them are exact for")
    generator = np.random.default_rng(seed)
    together = max(1, _CELLS // max(number, cells))
    step = max(1, _CELLS // cells)
    for first in range(0, draws, together):
        chunk = min(together, draws - first)
        drawn = generator.integers(0, number, (chunk, number))
        drawn += np.arange(chunk)[:, np.newaxis] * number
        weights = np.bincount(drawn.ravel(), minlength=chunk * number).reshape(chunk, number)
        weights = weights.astype(np.float64)
        sums = np.zeros((chunk, cells))
        for row in range(0, number, step):
            # As float64, which has a fast product and is exact for whole numbers of this size;
            # so the sums are the same in whatever order a library adds them.
            sums += weights[:, row : row + step] @ flat[row : row + step].astype(np.float64)
        yield sums.astype(np.int64).reshape(chunk, *shape)


def _bounds(drawn: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentiles along the first axis, without the draws that lack the score."""
    enough = (~np.isnan(drawn)).sum(axis=0) >= FEWEST_DRAWS
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(np.where(enough, drawn, 0.0), [tail, 1 - tail], axis=0)
    return np.where(enough, low, np.nan), np.where(enough, high, np.nan)
