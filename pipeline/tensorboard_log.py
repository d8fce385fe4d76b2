"""TensorBoard: a training in its event files, for ``tensorboard --logdir``."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from pipeline.confusion import ConfusionMatrix
from pipeline.figures import confusion_panel
from pipeline.following import Follower, Validation, column
from pipeline.publication import unwritable
from pipeline.sample_pictures import heading, sample_picture

SECONDS_BETWEEN_STEPS = 2.0
"""Steps are summed up over so long: event files only grow, and an hour has many steps."""

_SCALARS = {
    "train_loss": "loss/training",
    "val_loss": "loss/validation",
    "train_accuracy": "accuracy/training",
    "val_accuracy": "accuracy/validation",
    "val_miou": "mean_iou/validation",
    "learning_rate": "learning_rate/validation",
    "tiles_per_second": "speed/tiles_per_second",
    "waiting": "speed/waiting",
    "epoch": "epoch/epoch",
}


class TensorBoardLog(Follower):
    """A follower that writes TensorBoard's event files.

    Scalars of every validation; of the steps between, their means over
    :data:`SECONDS_BETWEEN_STEPS`. Sample predictions and the confusion matrix are pictures and
    large: they are written at the first validation, the second, fourth, eighth... and, when the
    training ends, of the last one.

    A training that goes on writes a new file into the same folder; steps of the older files from
    its own first one on are hidden (``purge_step``), so that no step shows twice.

    Args:
        folder: Folder of the event files.
        colors: ``#RRGGBB`` of each class.
        clock: Seconds.
    """

    def __init__(
        self,
        folder: Path,
        colors: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._colors, self._clock = folder, colors, clock
        self._writer: SummaryWriter | None = None
        self._steps: list[tuple[float, float, float, float]] = []
        self._wrote = -math.inf
        self._pending: Validation | None = None

    def stepped(
        self,
        step: int,
        loss: float,
        learning_rate: float,
        tiles_per_second: float,
        waiting: float,
    ) -> None:
        """Write the means of the steps since the last time, if that is long enough ago."""
        writer = self._opened(step)
        self._steps.append((loss, learning_rate, tiles_per_second, waiting))
        now = self._clock()
        if now - self._wrote < SECONDS_BETWEEN_STEPS:
            return
        names = ("loss/step", "learning_rate/step", "speed/step_tiles_per_second",
                 "speed/step_waiting")  # fmt: skip
        for name, value in zip(names, np.mean(self._steps, axis=0).tolist(), strict=True):
            _scalar(writer, name, value, step)
        self._steps.clear()
        self._wrote = now

    def validated(self, validation: Validation) -> None:
        """Write the scores, and the pictures if it is their turn."""
        step = int(validation.row["step"])
        writer = self._opened(step)
        for key, name in _SCALARS.items():
            _scalar(writer, name, _value(validation, key), step)
        for number, name in enumerate(validation.classes):
            # With its number: names that differ in signs only would become one curve.
            _scalar(writer, f"iou/{number:02d} {name}", _value(validation, f"val_iou_{name}"), step)
        count = int((~np.isnan(column(validation.rows, "val_loss"))).sum())
        self._pending = validation
        if count & (count - 1) == 0:  # a power of two
            self._draw(writer)
        writer.flush()

    def closed(self) -> None:
        """Write the last pictures, and close the file."""
        if self._writer is not None:
            self._draw(self._writer)
            self._writer.close()

    def _opened(self, step: int) -> SummaryWriter:
        if self._writer is None:
            try:
                self._writer = SummaryWriter(str(self._folder), purge_step=step)
            except OSError as error:
                raise unwritable(self._folder, error) from error
        return self._writer

    def _draw(self, writer: SummaryWriter) -> None:
        validation, self._pending = self._pending, None
        if validation is None:
            return
        step = int(validation.row["step"])
        matrix = ConfusionMatrix(tuple(validation.classes), validation.matrix)
        _picture(writer, "confusion/by_reference", confusion_panel(matrix, "by_reference"), step)
        if validation.samples is not None:
            drawn = sample_picture(
                validation.samples, validation.classes, self._colors, heading(validation)
            )
            _picture(writer, "samples", drawn, step)


def _value(validation: Validation, key: str) -> float:
    return float(column([validation.row], key)[0])


def _scalar(writer: SummaryWriter, name: str, value: float, step: int) -> None:
    # A class that validation does not have has no IoU; TensorBoard would mark NaN in red.
    if not math.isnan(value):
        writer.add_scalar(name, value, step)


def _picture(writer: SummaryWriter, name: str, png: bytes, step: int) -> None:
    pixels: NDArray[np.uint8] = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    writer.add_image(name, pixels, step, dataformats="HWC")
