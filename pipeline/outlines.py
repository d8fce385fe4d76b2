"""OutlineCounts: how accurate a map is by distance to the labels' outlines, and its own outlines.

Labels are inexact along their outlines: SIOSE is drawn at 1:25 000, and composite parcels have
borders that nobody sees on the ground. A map that is wrong near outlines only is better than its
overall accuracy says.

An outline runs between two pixels. An outline pixel is one with a pixel of another class above,
below, left or right of it; pixels that are masked (255) make no outline. Distances are Euclidean,
in pixels, between the centres of pixels, to the nearest outline pixel: an outline pixel has
distance 0, and a pixel at distance d lies d + 0.5 px behind a straight outline. Outlines of labels
that are not judged themselves count too: a pixel at the edge of judged ground may be near one. An
outline may be hidden under masked pixels or lie beyond the sheet: near these, distances are upper
bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.counting import pair_counts
from pipeline.nearness import near, squared_distances
from pipeline.nomenclature import IGNORE
from pipeline.scores import shares

DISTANCES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)
"""Upper edges of the bins of distances in pixels, each in its bin; the last bin is "more"."""

BINS = len(DISTANCES) + 1

_BIN = np.searchsorted(np.square(DISTANCES), np.arange(DISTANCES[-1] ** 2 + 2)).astype(np.uint8)
"""Bin of each squared distance; distances are compared in whole numbers."""

_PART = (512, 1024)  # pixels that are looked at together


@dataclass(frozen=True, eq=False)
class BoundaryScores:
    """How well the outlines of the map meet those of the labels; shares from 0 to 1.

    Attributes:
        precision: Share of the map's outline pixels of each class that lie near one of the labels'
            of that class, shape ``(classes,)``; NaN where the map has none.
        recall: Share of the labels' that lie near one of the map's; NaN where the labels have none.
        f: Harmonic mean of both; NaN where the labels have none, 0 where only the map has none.
        mean: Mean of ``f`` over the classes of which the labels have outlines; NaN without any.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f: NDArray[np.float64]
    mean: float


@dataclass(frozen=True, eq=False)
class OutlineCounts:
    """Pixels by their distance to outlines, and outlines that are met. Adds up with ``+``.

    Attributes:
        by_distance: Labelled pixels, int64, shape ``(classes, bins, 2)``, read-only: by reference
            class, by distance to the nearest outline of the labels; wrong, right.
        boundary: Outline pixels, int64, shape ``(classes, 4)``, read-only: of the map judged, of
            them met; of the labels judged, of them met. Not judged are those within the tolerance
            of a pixel that is masked, has no map, or lies beyond the judged ground: what they
            should meet may lie there.
        tolerance_px: Pixels that an outline pixel may lie off and still be met.

    Raises:
        ValueError: If the counts are not of that shape, or negative.
    """

    by_distance: NDArray[np.int64]
    boundary: NDArray[np.int64]
    tolerance_px: int

    def __post_init__(self) -> None:
        by_distance, boundary = np.array(self.by_distance), np.array(self.boundary)
        size = len(by_distance)
        if by_distance.shape != (size, BINS, 2) or boundary.shape != (size, 4) or not size:
            raise ValueError(
                f"counts of shapes (classes, {BINS}, 2) and (classes, 4), not "
                f"{by_distance.shape} and {boundary.shape}"
            )
        for name, counts in (("by_distance", by_distance), ("boundary", boundary)):
            if not np.issubdtype(counts.dtype, np.integer) or counts.min() < 0:
                raise ValueError("counts are whole numbers of pixels, 0 or more")
            whole = counts.astype(np.int64)
            whole.setflags(write=False)
            object.__setattr__(self, name, whole)

    @classmethod
    def empty(cls, classes: int, tolerance_px: int) -> OutlineCounts:
        """Those of no pixels: where a sum over windows begins."""
        by_distance = np.zeros((classes, BINS, 2), np.int64)
        return cls(by_distance, np.zeros((classes, 4), np.int64), tolerance_px)

    def __add__(self, other: OutlineCounts) -> OutlineCounts:
        mine, theirs = (
            (len(self.boundary), self.tolerance_px),
            (
                len(other.boundary),
                other.tolerance_px,
            ),
        )
        if mine != theirs:
            raise ValueError(f"counts of {mine} and {theirs} classes and pixels do not add up")
        return OutlineCounts(
            self.by_distance + other.by_distance, self.boundary + other.boundary, self.tolerance_px
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OutlineCounts):
            return NotImplemented
        return (
            self.tolerance_px == other.tolerance_px
            and np.array_equal(self.by_distance, other.by_distance)
            and np.array_equal(self.boundary, other.boundary)
        )

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def of(
        cls,
        reference: NDArray[np.uint8],
        mapped: NDArray[np.uint8],
        classes: int,
        tolerance_px: int,
        labels: NDArray[np.uint8] | None = None,
    ) -> OutlineCounts:
        """Those of one window, of which the surroundings are known.

        Args:
            reference: Class ids of the window and of :func:`reach` more pixels on each side, shape
                ``(rows + 2 * reach, cols + 2 * reach)``; 255 where a pixel is not judged.
            mapped: Class ids of the map at the same pixels; 255 where it has no data.
            classes: Number of classes.
            tolerance_px: Pixels that an outline pixel may lie off and still be met.
            labels: Class ids of the same pixels, of those that are not judged too; distances are
                to the outlines of these. The reference where left out.

        Raises:
            ValueError: If the shapes differ, or an id is neither a class nor 255.
        """
        halo = reach(tolerance_px)
        rows, cols = (side - 2 * halo for side in reference.shape)
        labels = reference if labels is None else labels
        shapes = {reference.shape, mapped.shape, labels.shape}
        if len(shapes) > 1 or min(rows, cols) < 1:
            raise ValueError(f"{sorted(shapes)} pixels: the same, with {halo} on each side")
        total = cls.empty(classes, tolerance_px)
        for row in range(0, rows, _PART[0]):
            for col in range(0, cols, _PART[1]):
                part = np.s_[row : row + _PART[0] + 2 * halo, col : col + _PART[1] + 2 * halo]
                total += _part_counts(
                    reference[part],
                    mapped[part],
                    None if labels is reference else labels[part],
                    classes,
                    tolerance_px,
                )
        return total

    @property
    def pixels(self) -> NDArray[np.int64]:
        """Labelled pixels of each class and bin, shape ``(classes, bins)``."""
        return np.asarray(self.by_distance.sum(axis=2))

    def class_accuracy(self) -> NDArray[np.float64]:
        """Share of them that is right (producer's accuracy), shape ``(classes, bins)``, or NaN."""
        return shares(self.by_distance[..., 1], self.pixels)

    def accuracy(self) -> NDArray[np.float64]:
        """Share of the pixels of all classes that is right, shape ``(bins,)``, or NaN."""
        return shares(self.by_distance[..., 1].sum(axis=0), self.pixels.sum(axis=0))

    def accuracy_beyond(self, distance: int) -> float:
        """Overall accuracy of the pixels farther from outlines than that; NaN without any.

        Args:
            distance: One of :data:`DISTANCES`.

        Raises:
            ValueError: If it is not.
        """
        beyond = self.by_distance[:, DISTANCES.index(distance) + 1 :]
        pixels = int(beyond.sum())
        return int(beyond[..., 1].sum()) / pixels if pixels else math.nan

    def boundary_f(self) -> BoundaryScores:
        """Precision, recall and F-score of the outlines of each class.

        Source:
            Csurka, Larlus & Perronnin (2013), section 3: a score a class, then their mean; here
            from the counts of all ground, not averaged over pictures.
        """
        said, said_met, true, true_met = self.boundary.T
        precision, recall = shares(said_met, said), shares(true_met, true)
        both = np.nan_to_num(precision) + recall
        f = np.divide(
            2 * np.nan_to_num(precision) * recall, both, out=np.zeros_like(both), where=both > 0
        )
        f = np.where(true > 0, f, np.nan)
        mean = float(f[true > 0].mean()) if (true > 0).any() else math.nan
        return BoundaryScores(precision, recall, f, mean)


def reach(tolerance_px: int) -> int:
    """Pixels around a window that must be known to count in it."""
    # One more than the farthest outline pixel that counts: its neighbours make it one.
    return max(DISTANCES[-1], tolerance_px) + 1


def outline_pixels(ids: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels with another class above, below, left or right of them.

    Args:
        ids: Class ids, shape ``(rows, cols)``; 255 is no class.
    """
    found = np.zeros(ids.shape, np.bool_)
    for one, other in (np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1]):
        turns = ids[one] != ids[other]
        turns &= (ids[one] != IGNORE) & (ids[other] != IGNORE)
        found[one] |= turns
        found[other] |= turns
    return found


def _part_counts(
    reference: NDArray[np.uint8],
    mapped: NDArray[np.uint8],
    labels: NDArray[np.uint8] | None,
    classes: int,
    tolerance_px: int,
) -> OutlineCounts:
    """Counts of a part of a window with its surroundings; see :meth:`OutlineCounts.of`."""
    halo = reach(tolerance_px)
    inner = np.s_[halo : reference.shape[0] - halo, halo : reference.shape[1] - halo]
    unknown = (reference == IGNORE) | (mapped == IGNORE)
    if unknown[inner].all():
        return OutlineCounts.empty(classes, tolerance_px)
    # A map is looked at where there are labels: of its outlines elsewhere nothing can be said.
    said = np.where(reference == IGNORE, np.uint8(IGNORE), mapped)
    true_outlines, said_outlines = outline_pixels(reference), outline_pixels(said)

    near_to = true_outlines if labels is None else outline_pixels(labels)
    bins = _BIN.take(squared_distances(near_to, halo, DISTANCES[-1]))
    true = np.where(unknown, np.uint8(IGNORE), reference)[inner]
    right = np.where(said == reference, said, np.uint8(IGNORE))[inner]
    every, hits = pair_counts(true, bins)[:IGNORE], pair_counts(right, bins)[:IGNORE]
    if every[classes:].any():
        raise ValueError(f"the labels hold an id above {classes - 1} that is not {IGNORE}")
    wrong = every - hits
    by_distance = np.stack([wrong[:classes, :BINS], hits[:classes, :BINS]], axis=-1)

    judged = near(unknown.view(np.uint8), tolerance_px, halo) == 0
    boundary = np.concatenate(
        [
            _met(said, said_outlines, reference, true_outlines, judged, classes, tolerance_px),
            _met(reference, true_outlines, said, said_outlines, judged, classes, tolerance_px),
        ],
        axis=1,
    )
    return OutlineCounts(by_distance, boundary, tolerance_px)


def _met(
    ids: NDArray[np.uint8],
    outlines: NDArray[np.bool_],
    others: NDArray[np.uint8],
    other_outlines: NDArray[np.bool_],
    judged: NDArray[np.bool_],
    classes: int,
    tolerance_px: int,
) -> NDArray[np.int64]:
    """Judged outline pixels of each class, and those with another raster's of that class near.

    Returns:
        Shape ``(classes, 2)``.
    """
    halo = (ids.shape[0] - judged.shape[0]) // 2
    inner = np.s_[halo : ids.shape[0] - halo, halo : ids.shape[1] - halo]
    asked = np.flatnonzero(outlines[inner] & judged)
    of = ids[inner].reshape(-1).take(asked) if asked.size else np.zeros(0, np.uint8)
    counts = np.zeros((classes, 2), np.int64)
    counts[:, 0] = np.bincount(of, minlength=classes)[:classes]
    present = np.flatnonzero(counts[:, 0])
    for first in range(0, len(present), 8):
        # Eight classes at once, each a bit.
        bit = np.zeros(256, np.uint8)
        bit[present[first : first + 8]] = np.left_shift(1, np.arange(8))[: len(present) - first]
        there = near(bit.take(others) * other_outlines, tolerance_px, halo)
        found = of[(there.reshape(-1).take(asked) & bit.take(of)) != 0]
        counts[:, 1] += np.bincount(found, minlength=classes)[:classes]
    return counts
