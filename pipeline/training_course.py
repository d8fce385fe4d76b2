"""Course of a training: how fast it goes, its curves as tables, and what a person reads of it."""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.progress import console
from pipeline.publication import write_text

SECONDS_BETWEEN_LINES = 60.0
"""Without a terminal, an epoch that takes longer than this tells of itself in between."""

COLUMNS = (
    "epoch", "step", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_miou",
    "learning_rate",
)  # fmt: skip
SPEED_COLUMNS = ("epoch", "step", "seconds", "tiles_per_second", "waiting")

logger = logging.getLogger(__name__)


@dataclass
class Pace:
    """How fast it goes since the last validation.

    Attributes:
        began: Seconds of the training at its begin.
        now: Seconds of the training after the last step.
        tiles: Tiles since then.
        waited: Seconds of them spent waiting for data.
    """

    began: float
    now: float = math.nan
    tiles: int = 0
    waited: float = 0.0

    def __post_init__(self) -> None:
        self.now = self.began

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Pace:
        """The pace that had these values, by name."""
        pace = cls(values["began"], tiles=values["tiles"], waited=values["waited"])
        pace.now = values["now"]
        return pace

    def after(self, tiles: int, now: float) -> None:
        """Count a step."""
        self.tiles, self.now = self.tiles + tiles, now

    @property
    def seconds(self) -> float:
        """Length of the time since its begin."""
        return max(self.now - self.began, 1e-9)

    @property
    def speed(self) -> float:
        """Tiles a second."""
        return self.tiles / self.seconds

    @property
    def waiting(self) -> float:
        """Share of the time spent waiting for data."""
        return min(self.waited / self.seconds, 1.0)


def publish_curves(folder: Path, rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
    """Publish ``curves.csv``, and ``speed.csv`` apart: how fast it went is not the same twice.

    Args:
        folder: Folder of the training.
        rows: A row a validation.
        classes: Names of the classes.

    Raises:
        OutputError: If a file cannot be written.
    """
    ious = [f"val_iou_{name}" for name in classes]
    for name, columns in (("curves.csv", [*COLUMNS, *ious]), ("speed.csv", [*SPEED_COLUMNS])):
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row.get(column)) for column in columns])
        write_text(folder / name, table.getvalue())


def told_of(row: Mapping[str, Any], left: float, best: bool, ended: str) -> str:
    """What a person reads of a validation.

    Args:
        row: Its row of the curves.
        left: Seconds that are left at most.
        best: Whether it is the best so far.
        ended: Why the training ends with it; empty where it goes on.
    """
    return (
        f"epoch {row['epoch']:g}: loss {row['train_loss']:.4f}, accuracy "
        f"{row['train_accuracy']:.3f}, validation loss {row['val_loss']:.4f}, accuracy "
        f"{row['val_accuracy']:.3f}, mIoU {row['val_miou']:.3f}{' (best)' if best else ''}, "
        f"{row['tiles_per_second']:.1f} tiles/s ({row['waiting']:.1%} waiting); "
        f"{ended or f'{left / 60:.1f} min left at most'}"
    )


def _cell(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"


class Display:
    """A bar for people at a terminal; lines in the log for everybody else.

    Args:
        shown: Whether this process tells anything.
    """

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._bar: Progress | None = None
        self._said = time.monotonic()

    def __enter__(self) -> Display:
        if self._shown and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:.0f} %"),
                TimeRemainingColumn(),
                console=console,
            )
            self._bar.start()
            self._bar.add_task("training", total=1.0)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, progress: float, epoch: int, speed: float, loss: float) -> None:
        """Tell of a step."""
        text = f"epoch {epoch}  {speed:.1f} tiles/s  loss {loss:.3f}"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=progress, description=text)
        elif self._shown and time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            logger.info("%s, %.0f %% done", text, 100 * progress)
            self._said = time.monotonic()

    def line(self, text: str) -> None:
        """Tell of an epoch."""
        if self._bar:
            console.print(text, highlight=False)
        elif self._shown:
            logger.info("%s", text)
            self._said = time.monotonic()
