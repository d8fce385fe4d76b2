"""What training tells those who watch it: pictures, logs, warnings, a search for settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class StopTraining(Exception):  # noqa: N818 - nothing is wrong
    """A follower ends the training: a pruned trial."""


@dataclass(frozen=True)
class Samples:
    """The same few validation tiles each time, as the network sees them now.

    Attributes:
        names: Where each lies: ``sheet 0722, rows 512-768, columns 0-256``.
        images: Stored values, shape ``(n, bands, rows, cols)``.
        labels: SIOSE class ids, 255 ignored, shape ``(n, rows, cols)``.
        predictions: Predicted class ids, shape ``(n, rows, cols)``.
        confidences: Probability of the predicted class in per cent, shape ``(n, rows, cols)``.
    """

    names: Sequence[str]
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    predictions: NDArray[np.uint8]
    confidences: NDArray[np.uint8]


@dataclass(frozen=True)
class Validation:
    """What is known at the end of a validation.

    Attributes:
        row: Its line of ``curves.csv``: ``epoch`` (fractional in mid-epoch), ``step``,
            ``train_loss``, ``val_loss``, ``train_accuracy``, ``val_accuracy``, ``val_miou``,
            ``learning_rate``, ``tiles_per_second``, ``waiting`` (share of the time spent waiting
            for data), ``val_iou_<class>``.
        rows: All lines so far, this one last.
        matrix: Pixels of this validation, row = reference, column = predicted.
        classes: Names of the classes, in order of their ids.
        best: Whether its score is the best so far.
        samples: Sample tiles, where any are asked for.
    """

    row: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    matrix: NDArray[np.int64]
    classes: Sequence[str]
    best: bool
    samples: Samples | None


class Follower:
    """Watches a training; called in the first process only. This one does nothing."""

    def validated(self, validation: Validation) -> None:
        """A validation has ended.

        Raises:
            StopTraining: To end the training here.
        """

    def stepped(
        self,
        step: int,
        loss: float,
        learning_rate: float,
        tiles_per_second: float,
        waiting: float,
    ) -> None:
        """The optimiser has made its ``step``-th step.

        Args:
            step: Steps since the training began, resumed ones included.
            loss: Loss of the step's tiles.
            learning_rate: Rate of the step.
            tiles_per_second: Speed since the last validation.
            waiting: Share (0 to 1) of the time since then that was spent waiting for data.
        """

    def closed(self) -> None:
        """The training has ended, finished or not."""


def column(rows: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    """One column of the curves.

    Args:
        rows: Lines of the curves, as training keeps them or as read from ``curves.csv`` (text).
        name: Name of the column.

    Returns:
        Its values, shape ``(rows,)``; NaN where a line has none, or one that is not finite.

    Raises:
        ValueError: If a cell holds text that is no number.
    """
    values = [math.nan if (cell := row.get(name)) in (None, "") else float(cell) for row in rows]
    array = np.array(values, np.float64)
    array[~np.isfinite(array)] = math.nan
    return array
