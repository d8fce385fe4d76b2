"""ConfusionMatrix: reference against mapped pixels, and the sums over windows.

Rows are the reference (SIOSE), columns the map.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.counting import IDS, pair_counts
from pipeline.errors import InputError
from pipeline.nomenclature import IGNORE
from pipeline.scores import Scores, scores, shares

LAYOUT = 1
"""Version of the JSON file; raised when its keys change their meaning."""


def confusion_counts(
    reference: NDArray[np.uint8], mapped: NDArray[np.uint8], classes: int, ignore: int = IGNORE
) -> NDArray[np.int64]:
    """Count the pixels of one window, reference class against mapped class.

    Args:
        reference: SIOSE class ids, shape ``(rows, cols)``.
        mapped: Predicted class ids of the same pixels, shape ``(rows, cols)``; ``ignore`` where
            the map has nodata.
        classes: Number of classes; ids run from 0 to ``classes - 1``.
        ignore: Id of pixels without a usable label, or without a map; they are not counted.

    Returns:
        Pixels, shape ``(classes, classes)``, row = reference, column = mapped. Windows
        add up: the sheet's matrix is the sum over any partition of it.

    Raises:
        ValueError: If the shapes differ, or an id is neither a class nor ``ignore``.

    Source:
        Row/column order as in scikit-learn; Congalton & Green (2019) print the transpose.
    """
    return _pairs(reference, mapped, classes, ignore)[:classes, :classes].copy()


def _pairs(
    reference: NDArray[np.uint8], mapped: NDArray[np.uint8], classes: int, ignore: int
) -> NDArray[np.int64]:
    """Pixels of every pair of ids, shape ``(256, 256)``, checked."""
    if reference.shape != mapped.shape:
        raise ValueError(
            f"reference has {reference.shape} pixels, the map {mapped.shape}: both cover one window"
        )
    if reference.dtype != np.uint8 or mapped.dtype != np.uint8:
        raise ValueError(f"ids are uint8, not {reference.dtype} and {mapped.dtype}")
    if not 0 < classes <= ignore < IDS:
        raise ValueError(f"{classes} classes do not fit below the id {ignore}")
    pairs = pair_counts(reference, mapped)
    known = [*range(classes), ignore]
    for what, totals in (("reference", pairs.sum(axis=1)), ("map", pairs.sum(axis=0))):
        totals[known] = 0
        if totals.any():
            wrong = ", ".join(map(str, np.flatnonzero(totals)))
            raise ValueError(
                f"the {what} holds the id {wrong}; ids run from 0 to {classes - 1}, or are {ignore}"
            )
    return pairs


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """Pixels of each reference class (row) mapped as each class (column).

    Matrices of windows and of sheets add up with ``+``.

    Attributes:
        names: Class names in the order of their ids.
        counts: Pixels, int64, shape ``(classes, classes)``, read-only.
        unmapped: Labelled pixels where the map has nodata; in no other count.

    Raises:
        ValueError: If the counts are no square of whole, non-negative numbers, one row a name.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    unmapped: int = 0

    def __post_init__(self) -> None:
        counts = np.asarray(self.counts)
        size = len(self.names)
        if counts.shape != (size, size) or not size:
            raise ValueError(f"{size} classes need {size} x {size} counts, not {counts.shape}")
        # int64: a sheet has 2.05e9 pixels, and float32 counters stop counting at 2**24.
        if not np.issubdtype(counts.dtype, np.integer) or counts.min() < 0 or self.unmapped < 0:
            raise ValueError("counts are whole numbers of pixels, 0 or more")
        counts = counts.astype(np.int64)
        counts.setflags(write=False)
        object.__setattr__(self, "counts", counts)

    @classmethod
    def empty(cls, names: Iterable[str]) -> ConfusionMatrix:
        """The matrix of no pixels: where a sum over windows begins."""
        names = tuple(names)
        return cls(names, np.zeros((len(names), len(names)), np.int64))

    @classmethod
    def of(
        cls, names: Iterable[str], reference: NDArray[np.uint8], mapped: NDArray[np.uint8]
    ) -> ConfusionMatrix:
        """The matrix of one window; see :func:`confusion_counts`.

        Raises:
            ValueError: If the shapes differ, or an id is neither a class nor 255.
        """
        names = tuple(names)
        size = len(names)
        pairs = _pairs(reference, mapped, size, IGNORE)
        return cls(names, pairs[:size, :size], int(pairs[:size, IGNORE].sum()))

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        if self.names != other.names:
            raise ValueError(
                f"matrices of other classes do not add up: {self.names}, {other.names}"
            )
        return ConfusionMatrix(
            self.names, self.counts + other.counts, self.unmapped + other.unmapped
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConfusionMatrix):
            return NotImplemented
        return (
            self.names == other.names
            and self.unmapped == other.unmapped
            and np.array_equal(self.counts, other.counts)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def pixels(self) -> int:
        """Pixels compared."""
        return int(self.counts.sum())

    def by_reference(self) -> NDArray[np.float64]:
        """Each row as shares of its sum: what became of a class's ground.

        Returns:
            Shape ``(classes, classes)``, producer's accuracies on the diagonal; the row of a class
            absent from the reference is NaN.
        """
        return shares(self.counts, self.counts.sum(axis=1, keepdims=True))

    def by_mapped(self) -> NDArray[np.float64]:
        """Each column as shares of its sum: what really is where the map says a class.

        Returns:
            Shape ``(classes, classes)``, user's accuracies on the diagonal; the column of a class
            that is not on the map is NaN.
        """
        return shares(self.counts, self.counts.sum(axis=0, keepdims=True))

    def scores(self) -> Scores:
        """Accuracies, kappa, F1 and IoU of the pixels counted."""
        return scores(self.names, self.counts)

    def as_json(self) -> str:
        """The counts and the scores as JSON text; the same counts give the same text."""
        rows = ",\n    ".join(json.dumps(row) for row in self.counts.tolist())
        values = json.dumps(self.scores().as_dict(), ensure_ascii=False, allow_nan=False)
        return (
            f'{{\n  "layout": {LAYOUT},\n'
            f'  "classes": {json.dumps(list(self.names), ensure_ascii=False)},\n'
            f'  "order": "row = reference, column = mapped",\n'
            f'  "counts": [\n    {rows}\n  ],\n'
            f'  "unmapped": {self.unmapped},\n'
            f'  "scores": {values}\n}}\n'
        )

    def as_csv(self) -> str:
        """The counts as CSV text: row = reference, column = mapped, totals in the margins."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["reference \\ mapped", *self.names, "total"])
        for name, row in zip(self.names, self.counts.tolist(), strict=True):
            writer.writerow([name, *row, sum(row)])
        writer.writerow(["total", *self.counts.sum(axis=0).tolist(), self.pixels])
        return table.getvalue()


def from_json(text: str, source: str) -> ConfusionMatrix:
    """Read what :meth:`ConfusionMatrix.as_json` wrote.

    Args:
        text: The JSON text.
        source: What to call the file in messages.

    Raises:
        InputError: If the text is no such JSON; the scores in it are not read but follow from
            the counts.
    """
    remedy = "Delete the file; the rule `confusion` writes it again."
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{source}: is not JSON ({error}).", remedy=remedy) from error
    if not isinstance(content, Mapping) or content.get("layout") != LAYOUT:
        raise InputError(
            f"{source}: is no confusion matrix of layout {LAYOUT}, the one this version reads.",
            remedy=remedy,
        )
    names, counts, unmapped = (content.get(key) for key in ("classes", "counts", "unmapped"))
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or not isinstance(counts, list)
        or not all(isinstance(row, list) and len(row) == len(names) for row in counts)
        or not all(type(count) is int for row in counts for count in [*row, unmapped])
    ):
        raise InputError(f"{source}: classes and counts do not fit together.", remedy=remedy)
    try:
        return ConfusionMatrix(tuple(names), np.array(counts, np.int64), unmapped or 0)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{source}: {error}.", remedy=remedy) from error
