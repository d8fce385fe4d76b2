"""Calibration: whether the map is right as often as its confidence says.

A map that says 80 % is calibrated where 80 of 100 such pixels are right. Confidence is whole per
cent, as the confidence raster holds it: what is reckoned here is of the rounded values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.counting import pair_counts
from pipeline.nomenclature import IGNORE
from pipeline.scores import shares

LEVELS = 101
"""Per cent that a confidence can have: 0 to 100."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy, bin by bin: a reliability diagram.

    Attributes:
        edges: Edges of the bins, from 0 to 1, shape ``(bins + 1,)``. A bin holds its upper edge,
            the first one its lower edge too.
        pixels: Pixels of each bin, shape ``(bins,)``.
        confidence: Their mean confidence, from 0 to 1; NaN where there are none.
        accuracy: Share of them that is right; NaN where there are none.
    """

    edges: NDArray[np.float64]
    pixels: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error, from 0 to 1; NaN without pixels.

        Source:
            Naeini, Cooper & Hauskrecht (2015); Guo, Pleiss, Sun & Weinberger (2017), eq. 3.
        """
        total = int(self.pixels.sum())
        gaps = self.pixels * np.abs(self.accuracy - self.confidence)
        return float(gaps[self.pixels > 0].sum() / total) if total else math.nan


@dataclass(frozen=True, eq=False)
class Trust:
    """Accuracy of what is left of the map when less certain pixels are put aside.

    Attributes:
        thresholds: Least confidence in per cent, 0 to 100, shape ``(101,)``.
        pixels: Pixels with at least so much confidence.
        share: Their share of all pixels with a confidence; NaN where there are none at all.
        accuracy: Share of them that is right; NaN where there are none.
    """

    thresholds: NDArray[np.int64]
    pixels: NDArray[np.int64]
    share: NDArray[np.float64]
    accuracy: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Pixels by what the map says, how sure it is, and whether it is right. Adds up with ``+``.

    Attributes:
        counts: Pixels, int64, shape ``(classes, 101, 2)``, read-only: by the class of the map,
            by per cent of confidence; ``[..., 0]`` wrong, ``[..., 1]`` right.
        unknown: Judged pixels whose class has no confidence: the map has none, or cleaning has
            given the pixel another class than the one that the confidence is of.

    Raises:
        ValueError: If the counts are not of that shape, or negative.
    """

    counts: NDArray[np.int64]
    unknown: int = 0

    def __post_init__(self) -> None:
        counts = np.array(self.counts)
        if counts.ndim != 3 or counts.shape[1:] != (LEVELS, 2) or not len(counts):
            raise ValueError(f"counts of shape (classes, {LEVELS}, 2), not {counts.shape}")
        if not np.issubdtype(counts.dtype, np.integer) or counts.min() < 0 or self.unknown < 0:
            raise ValueError("counts are whole numbers of pixels, 0 or more")
        counts = counts.astype(np.int64)
        counts.setflags(write=False)
        object.__setattr__(self, "counts", counts)

    @classmethod
    def empty(cls, classes: int) -> Calibration:
        """That of no pixels: where a sum over windows begins."""
        return cls(np.zeros((classes, LEVELS, 2), np.int64))

    @classmethod
    def of(
        cls,
        reference: NDArray[np.uint8],
        mapped: NDArray[np.uint8],
        confidence: NDArray[np.uint8] | None,
        classes: int,
    ) -> Calibration:
        """That of one window.

        Args:
            reference: Class ids, shape ``(rows, cols)``; 255 where a pixel is not judged.
            mapped: Class ids of the map; 255 where it has no data.
            confidence: Per cent from 0 to 100; 255 where it is not known. None: nowhere known.
            classes: Number of classes.

        Raises:
            ValueError: If the shapes differ, an id is no class, or a confidence is 101 to 254.
        """
        judged = (reference != IGNORE) & (mapped != IGNORE)
        if confidence is None:
            return cls(np.zeros((classes, LEVELS, 2), np.int64), int(np.count_nonzero(judged)))
        said = np.where(judged, mapped, np.uint8(IGNORE))
        right = np.where(reference == said, said, np.uint8(IGNORE))
        every = pair_counts(said, confidence)[:IGNORE]
        found = pair_counts(right, confidence)[:IGNORE]
        if every[classes:].any():
            raise ValueError(f"the map holds an id above {classes - 1} that is not {IGNORE}")
        if every[:, LEVELS:IGNORE].any():
            raise ValueError(f"the confidence is 0 to {LEVELS - 1} per cent or {IGNORE}")
        hits = found[:classes, :LEVELS]
        counts = np.stack([every[:classes, :LEVELS] - hits, hits], axis=-1)
        return cls(counts, int(every[:, IGNORE].sum()))

    def __add__(self, other: Calibration) -> Calibration:
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"{len(self.counts)} classes and {len(other.counts)} do not add up")
        return Calibration(self.counts + other.counts, self.unknown + other.unknown)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Calibration):
            return NotImplemented
        return self.unknown == other.unknown and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]

    @property
    def pixels(self) -> int:
        """Pixels with a confidence."""
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """Share of them that is right; NaN where there are none."""
        return int(self.counts[..., 1].sum()) / self.pixels if self.pixels else math.nan

    @property
    def mean_confidence(self) -> float:
        """Their mean confidence, from 0 to 1; NaN where there are none."""
        if not self.pixels:
            return math.nan
        return int(self._levels().sum(axis=1) @ np.arange(LEVELS)) / (100 * self.pixels)

    def reliability(self, bins: int = 10, classes: Sequence[int] | None = None) -> Reliability:
        """Confidence against accuracy in bins of equal width.

        Args:
            bins: Number of bins.
            classes: Only pixels that are mapped as one of these classes; all where left out.

        Raises:
            ValueError: If there is no bin.

        Source:
            Guo, Pleiss, Sun & Weinberger (2017), section 2: bin m is ``((m - 1)/M, m/M]``.
        """
        if bins < 1:
            raise ValueError(f"{bins} bins: at least one")
        levels = np.arange(LEVELS)
        # In whole numbers: 0.07 * 100 in floats lies above 7, and would be in the next bin.
        place = np.maximum(0, -(-levels * bins // 100) - 1)
        counts = np.zeros((bins, 2), np.int64)
        sums = np.zeros(bins, np.int64)
        by_level = self._levels(classes)
        np.add.at(counts, place, by_level)
        np.add.at(sums, place, by_level.sum(axis=1) * levels)
        pixels = counts.sum(axis=1)
        return Reliability(
            np.arange(bins + 1) / bins,
            pixels,
            shares(sums, 100 * pixels),
            shares(counts[:, 1], pixels),
        )

    def ece(self, bins: int = 10) -> float:
        """Expected calibration error, from 0 to 1; NaN without pixels; see :class:`Reliability`."""
        return self.reliability(bins).error

    def class_ece(self, bins: int = 10) -> NDArray[np.float64]:
        """The same of the pixels that are mapped as each class, shape ``(classes,)``."""
        errors = [self.reliability(bins, [k]).error for k in range(len(self.counts))]
        return np.array(errors)

    def trust(self, classes: Sequence[int] | None = None) -> Trust:
        """Accuracy of the pixels with at least so much confidence.

        Args:
            classes: Only pixels that are mapped as one of these classes; all where left out.
        """
        above = np.cumsum(self._levels(classes)[::-1], axis=0)[::-1]
        pixels = above.sum(axis=1)
        return Trust(
            np.arange(LEVELS), pixels, shares(pixels, pixels[:1]), shares(above[:, 1], pixels)
        )

    def trusted_share(self, target: float) -> tuple[int, float] | None:
        """How much of the map can be trusted to be as accurate as asked for.

        Args:
            target: Accuracy, from 0 to 1.

        Returns:
            The lowest confidence in per cent from which on the pixels together are that accurate,
            and their share of all pixels with a confidence; None if no confidence does.
        """
        trust = self.trust()
        enough = np.flatnonzero(trust.accuracy >= target)  # NaN is not
        return (int(enough[0]), float(trust.share[enough[0]])) if len(enough) else None

    def _levels(self, classes: Sequence[int] | None = None) -> NDArray[np.int64]:
        """Pixels by confidence, wrong and right, shape ``(101, 2)``."""
        chosen = self.counts if classes is None else self.counts[list(classes)]
        return np.asarray(chosen.sum(axis=0))
