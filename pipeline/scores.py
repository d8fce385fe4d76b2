"""Scores of confusion matrices: accuracies, kappa, F1 and IoU, of one matrix or of thousands.

Rows are the reference (SIOSE), columns the map. A score that has no pixels to stand on is NaN,
never 0, and no mean includes it; in JSON it is ``null``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassScores:
    """How well one class is mapped; shares from 0 to 1, or NaN.

    Attributes:
        name: Name of the class.
        support: Reference pixels that are mapped as some class.
        mapped: Labelled pixels that are mapped as this class.
        correct: Pixels of this class in both.
        users: User's accuracy (precision): the share of the mapped pixels that is right. NaN if
            nothing is mapped as this class; 0 if it is mapped but absent from the reference.
        producers: Producer's accuracy (recall): the share of the reference pixels that is found.
            NaN if the class is absent from the reference.
        f1: Harmonic mean of both; NaN if the class is absent from the reference.
        iou: Intersection over union; NaN if the class is absent from the reference, where it
            would be 0 however good the map: what was mapped in error counts against the classes
            that it was taken from.
    """

    name: str
    support: int
    mapped: int
    correct: int
    users: float
    producers: float
    f1: float
    iou: float


@dataclass(frozen=True)
class Scores:
    """Scores of a map; shares from 0 to 1, or NaN where there is no reference at all.

    Attributes:
        pixels: Pixels compared.
        overall_accuracy: Share of them with the right class.
        kappa: Cohen's kappa: how much of the agreement that chance leaves is reached, from -1 to
            1. NaN also where reference and map are one and the same class throughout: chance
            alone agrees everywhere, so nothing is left to reach.
        balanced_accuracy: Mean producer's accuracy of the classes in the reference.
        mean_iou: Mean IoU of them, each counting the same.
        frequency_weighted_iou: The same, each class counting by its reference pixels.
        mean_f1: Mean F1 of them.
        classes: One entry a class, in the order of the ids.
    """

    pixels: int
    overall_accuracy: float
    kappa: float
    balanced_accuracy: float
    mean_iou: float
    frequency_weighted_iou: float
    mean_f1: float
    classes: tuple[ClassScores, ...]

    @property
    def present(self) -> tuple[ClassScores, ...]:
        """The classes that the reference has: those that the means are over."""
        return tuple(entry for entry in self.classes if entry.support)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, NaN as None."""
        values = {key: _json_number(value) for key, value in vars(self).items() if key != "classes"}
        values["classes"] = [
            {key: _json_number(value) for key, value in vars(entry).items()}
            for entry in self.classes
        ]
        return values


@dataclass(frozen=True, eq=False)
class Measures:
    """The same scores of any number of matrices; NaN as in :class:`Scores`, :class:`ClassScores`.

    Attributes:
        pixels: Pixels compared, int64, shape ``(...)``: the leading axes of the counts.
        overall_accuracy: Shape ``(...)``, as the next five.
        kappa: Cohen's kappa.
        balanced_accuracy: Mean producer's accuracy.
        mean_iou: Mean IoU.
        frequency_weighted_iou: IoU weighted by reference pixels.
        mean_f1: Mean F1.
        support: Reference pixels by class, int64, shape ``(..., classes)``, as the next two.
        mapped: Pixels mapped as each class.
        correct: Pixels of each class in both.
        users: User's accuracies, shape ``(..., classes)``, as the next three.
        producers: Producer's accuracies.
        f1: Harmonic means of both.
        iou: Intersections over unions.
    """

    pixels: NDArray[np.int64]
    overall_accuracy: NDArray[np.float64]
    kappa: NDArray[np.float64]
    balanced_accuracy: NDArray[np.float64]
    mean_iou: NDArray[np.float64]
    frequency_weighted_iou: NDArray[np.float64]
    mean_f1: NDArray[np.float64]
    support: NDArray[np.int64]
    mapped: NDArray[np.int64]
    correct: NDArray[np.int64]
    users: NDArray[np.float64]
    producers: NDArray[np.float64]
    f1: NDArray[np.float64]
    iou: NDArray[np.float64]


def measures(counts: NDArray[np.int64]) -> Measures:
    """Score confusion matrices.

    Args:
        counts: Pixels, shape ``(..., classes, classes)``, row = reference, column = mapped.

    Raises:
        ValueError: If the counts are no square matrices of whole numbers.

    Source:
        User's and producer's accuracy: Congalton & Green (2019). Kappa: Cohen (1960). Mean and
        frequency-weighted IoU: Long, Shelhamer & Darrell (2015), over the classes in the
        reference. Balanced accuracy: Brodersen et al. (2010).
    """
    counts = np.asarray(counts)
    if counts.ndim < 2 or counts.shape[-1] != counts.shape[-2] or not counts.shape[-1]:
        raise ValueError(f"matrices of classes x classes, not of shape {counts.shape}")
    if not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"counts are whole numbers of pixels, not {counts.dtype}")
    counts = counts.astype(np.int64, copy=False)
    support, mapped = counts.sum(axis=-1), counts.sum(axis=-2)
    correct = np.diagonal(counts, axis1=-2, axis2=-1).copy()
    pixels = np.asarray(support.sum(axis=-1))
    right = np.asarray(correct.sum(axis=-1))
    present = support > 0

    users, producers = shares(correct, mapped), shares(correct, support)
    f1 = np.where(present, shares(2 * correct, support + mapped), np.nan)
    iou = np.where(present, shares(correct, support + mapped - correct), np.nan)

    # 1 - chance agreement as a sum of what is never negative: no cancellation, and exactly 0
    # where there is one class only. Products of pixels would not fit into int64.
    whole = pixels[..., np.newaxis]
    frequency = shares(support, whole)
    by_chance = np.asarray((frequency * shares(whole - mapped, whole)).sum(axis=-1))
    missed = shares(pixels - right, pixels)
    left = np.full(pixels.shape, np.nan)
    np.divide(missed, by_chance, out=left, where=by_chance > 0)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.where(present, values, 0.0).sum(axis=-1)
        return shares(np.asarray(total), np.asarray(present.sum(axis=-1)))

    weighted = np.asarray((np.where(present, iou, 0.0) * frequency).sum(axis=-1))
    return Measures(
        pixels=pixels,
        overall_accuracy=shares(right, pixels),
        kappa=1 - left,
        balanced_accuracy=mean(producers),
        mean_iou=mean(iou),
        frequency_weighted_iou=weighted,
        mean_f1=mean(f1),
        support=support,
        mapped=mapped,
        correct=correct,
        users=users,
        producers=producers,
        f1=f1,
        iou=iou,
    )


def scores(names: Sequence[str], counts: NDArray[np.int64]) -> Scores:
    """Score one confusion matrix.

    Args:
        names: Class names in the order of their ids.
        counts: Pixels, shape ``(classes, classes)``, row = reference, column = mapped.

    Raises:
        ValueError: If the counts are no such matrix.
    """
    if np.shape(counts) != (len(names), len(names)):
        raise ValueError(
            f"{len(names)} classes need {len(names)} x {len(names)} counts, not {np.shape(counts)}"
        )
    found = measures(counts)
    by_class = (
        *(found.support, found.mapped, found.correct),
        *(found.users, found.producers, found.f1, found.iou),
    )
    return Scores(
        pixels=int(found.pixels),
        overall_accuracy=float(found.overall_accuracy),
        kappa=float(found.kappa),
        balanced_accuracy=float(found.balanced_accuracy),
        mean_iou=float(found.mean_iou),
        frequency_weighted_iou=float(found.frequency_weighted_iou),
        mean_f1=float(found.mean_f1),
        classes=tuple(map(ClassScores, names, *(values.tolist() for values in by_class))),
    )


def shares(
    part: NDArray[np.int64] | NDArray[np.float64], whole: NDArray[np.int64]
) -> NDArray[np.float64]:
    """``part / whole``, NaN where the whole is nothing."""
    part, whole = np.broadcast_arrays(part, whole)
    quotient = np.full(part.shape, np.nan)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient


def _json_number(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value
