"""Training: a loop over epochs that may be killed at any time, validation, and what it leaves.

The loop stands on Lightning's Fabric rather than its Trainer: a run that goes on after a kill has
to repeat the interrupted epoch to the bit, and the Trainer draws the first batches of a resumed
epoch before it knows which epoch it is in.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import json
import logging
import math
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from pipeline import checkpoint
from pipeline.batches import TileData
from pipeline.draws import EpochSampler
from pipeline.errors import TrainingError
from pipeline.networks import resolve_precision
from pipeline.nomenclature import IGNORE
from pipeline.objective import (
    AveragedNetwork,
    SegmentationTask,
    learning_rate_factor,
    loss_sums,
)
from pipeline.progress import console
from pipeline.publication import published, write_text
from pipeline.sections import TrainingSettings

LAYOUT = 1
"""Version of ``last.ckpt``; raised when its keys change their meaning."""

ROUNDS = 16
"""A run that is limited by time validates about so often, however long its epochs are."""

SAVING_SHARE = 0.1
"""Share of the time that may go into ``last.ckpt``: epochs of seconds are not all saved."""

SECONDS_BETWEEN_LINES = 60.0
"""Without a terminal, an epoch that takes longer than this tells of itself in between."""

_PRECISIONS: dict[str, Any] = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitSummary:
    """How a training went.

    Attributes:
        best_epoch: Epoch (from 1) of the published weights.
        best_scores: Their validation scores: ``epoch``, ``step``, ``loss``, ``overall_accuracy``,
            ``mean_iou``, ``iou`` by class (None where the class is absent from validation).
        epochs: Epochs run, all starts together.
        steps: Steps run.
        stopped_because: Which limit ended it.
    """

    best_epoch: int
    best_scores: Mapping[str, Any]
    epochs: int
    steps: int
    stopped_because: str


@dataclass
class TrainingState:
    """Where a training stands between two epochs; with the weights, all of ``last.ckpt``.

    Attributes:
        epoch: Epochs done.
        step: Steps done.
        elapsed: Seconds trained, all starts together.
        rows: Lines of the curves.
        best: Scores of the best epoch, or nothing yet.
        stopped_because: Which limit ended the training; empty while it goes on.
    """

    epoch: int
    step: int
    elapsed: float
    rows: list[dict[str, Any]]
    best: dict[str, Any]
    stopped_because: str = ""


def seed_weights(seed: int) -> None:
    """Make the first weights of a network that is built next depend on the seed alone."""
    torch.manual_seed(seed)


def fit(
    data: TileData,
    network: nn.Module,
    *,
    settings: TrainingSettings,
    seed: int,
    folder: Path,
    fingerprint: Mapping[str, Any],
    make_card: Callable[[Mapping[str, Any]], checkpoint.ModelCard],
) -> FitSummary:
    """Train a network, or go on where an earlier start was stopped.

    Writes ``best.safetensors`` (weights of the best validation mIoU, with their card),
    ``curves.csv`` and ``last.ckpt`` into ``folder``. On a CPU, and with no limit of time, the
    first two are the same to the byte whether the training was killed on its way or not.

    Args:
        data: Training and validation tiles.
        network: The network with its first weights.
        settings: Section ``training``; the first limit that is reached ends the training.
        seed: Seed of the run.
        folder: Folder of the run's checkpoints.
        fingerprint: What decides the result: settings and data. A ``last.ckpt`` of another
            fingerprint is not gone on from.
        make_card: Gives the card of the best weights, from their scores.

    Returns:
        How it went. A training that is finished already is not repeated; its files are published
        again.

    Raises:
        TrainingError: If the loss becomes NaN or infinite; the best weights so far stay.
        OutputError: If a file cannot be written.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fabric = lightning.Fabric(
        accelerator=device,
        devices=settings.devices,
        strategy="ddp" if settings.devices not in ("auto", 1) else "auto",
        precision=_PRECISIONS[resolve_precision(settings.precision, device)],
    )
    fabric.launch()
    data.share(fabric.global_rank, fabric.world_size)
    task = SegmentationTask(
        network,
        mean=data.mean,
        std=data.std,
        class_weights=data.class_weights,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    run = _Run(fabric, data, task, settings, seed, folder, fingerprint, make_card)
    run.resume()
    return run.finish()


class _Run:
    """One training: the loop and its state."""

    def __init__(
        self,
        fabric: lightning.Fabric,
        data: TileData,
        task: SegmentationTask,
        settings: TrainingSettings,
        seed: int,
        folder: Path,
        fingerprint: Mapping[str, Any],
        make_card: Callable[[Mapping[str, Any]], checkpoint.ModelCard],
    ) -> None:
        self.fabric, self.data, self.task, self.settings = fabric, data, task, settings
        self.seed, self.folder, self.make_card = seed, folder, make_card
        self.fingerprint = json.dumps(fingerprint, sort_keys=True, ensure_ascii=False)
        self.model, self.optimizer = fabric.setup(task, task.configure_optimizers())
        self.average = AveragedNetwork(task.network)
        self.state = TrainingState(0, 0, 0.0, [], {})
        self.best_weights: dict[str, Tensor] = {}
        # Not set up by Fabric: its loaders count their epochs by themselves, from 0 at each start.
        self.batches, self.validation_batches = data.train_dataloader(), data.val_dataloader()
        self.steps = settings.epochs * len(self.batches)
        if settings.iterations is not None:
            self.steps = min(self.steps, settings.iterations)
        self.seconds = settings.max_minutes * 60 if settings.max_minutes else math.inf
        self._started = self._saved_at = time.monotonic()
        self._saving = self._validation_seconds = self._validated_at = 0.0

    @property
    def last(self) -> Path:
        return self.folder / "last.ckpt"

    @property
    def elapsed(self) -> float:
        """Seconds trained, all starts together; the first process's clock counts for all."""
        elapsed = time.monotonic() - self._started
        if self.fabric.world_size > 1 and self.seconds < math.inf:
            elapsed = self.fabric.broadcast(elapsed)
        return elapsed

    def resume(self) -> None:
        """Take up ``last.ckpt`` if it is of this run."""
        if not self.last.exists():
            return
        try:
            content = torch.load(self.last, map_location="cpu", weights_only=True)
            same = (content["layout"], content["fingerprint"]) == (LAYOUT, self.fingerprint)
            same = same and _fits(self.task.network, content["network"])
        except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError,
                AttributeError, pickle.UnpicklingError) as error:  # fmt: skip
            logger.warning("%s cannot be read (%s); training starts afresh", self.last, error)
            return
        if not same:
            logger.warning(
                "%s is of other settings, data or network; training starts afresh", self.last
            )
            return
        self.task.network.load_state_dict(content["network"])
        self.average.network.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.best_weights = content["best_weights"]
        self.state = TrainingState(**content["state"])
        if self.state.stopped_because:
            logger.info("trained already: %s", self.state.stopped_because)
        else:
            logger.info("going on after epoch %d", self.state.epoch)

    def finish(self) -> FitSummary:
        """Train until a limit is reached, publish, and tell how it went."""
        now = time.monotonic()
        self._started, self._saved_at = now - self.state.elapsed, now
        self._validated_at = self.state.elapsed
        with _Display(self.fabric.is_global_zero) as display:
            while not self.state.stopped_because:
                self._epoch(display)
        if self.fabric.is_global_zero:
            self._publish_best()
            self._publish_curves()
        state = self.state
        return FitSummary(
            state.best["epoch"], state.best, state.epoch, state.step, state.stopped_because
        )

    def _progress(self, elapsed: float) -> float:
        # The last validation belongs into the time that was allowed.
        seconds = max(self.seconds - self._validation_seconds, 1.0)
        return max(self.state.step / self.steps, elapsed / seconds)

    def _epoch(self, display: _Display) -> None:
        """Train one epoch, validate, and save where training stands."""
        state, began = self.state, self.elapsed
        # Anew each epoch, so that dropout is the same in an epoch that is repeated.
        torch.manual_seed(
            int(np.random.SeedSequence((self.seed, state.epoch)).generate_state(1, np.uint64)[0])
        )
        cast(EpochSampler, self.batches.sampler).set_epoch(state.epoch)
        self.model.train()
        losses: list[float] = []
        elapsed, rate, speed = began, math.nan, math.nan
        for images, labels in map(self.fabric.to_device, self.batches):
            progress = self._progress(elapsed)
            # By time, a long epoch is cut into rounds: there must be something to validate.
            if progress >= 1 or elapsed - began > self.seconds / ROUNDS:
                break
            rate = self.settings.learning_rate * learning_rate_factor(progress)
            losses.append(self._step(images, labels, rate))
            elapsed = self.elapsed
            speed = len(losses) * len(images) * self.fabric.world_size / (elapsed - began)
            display.update(self._progress(elapsed), state.epoch + 1, speed, losses[-1])
        state.epoch += 1
        row: dict[str, Any] = {
            "epoch": state.epoch,
            "step": state.step,
            "train_loss": self._mean_over_processes(losses),
            "learning_rate": rate,
        }
        since = elapsed - self._validated_at
        if self.seconds == math.inf or since > self.seconds / ROUNDS or self._ended(elapsed):
            row |= self._validated()
        ended = self._ended(self.elapsed)
        state.rows.append(row)
        waited = state.epoch - state.best["epoch"] if state.best else 0
        if not ended and waited >= self.settings.patience:
            ended = f"validation mIoU has not risen for {self.settings.patience} epochs"
        state.stopped_because, state.elapsed = ended, self.elapsed
        if self.fabric.is_global_zero:
            self._publish_curves()
            # The best weights are saved at once: a workflow removes the outputs of a training
            # that failed, and `last.ckpt` is none.
            self._save(at_once=state.best.get("epoch") == state.epoch)
        display.line(self._told(row, speed))

    def _validated(self) -> dict[str, Any]:
        """Validate, keep and publish the weights if they are the best; the curves' columns."""
        scores = self._scores()
        if not math.isfinite(scores["loss"]):
            raise self._diverged(scores["loss"])
        if not self.state.best or scores["mean_iou"] > self.state.best["mean_iou"]:
            self.state.best = scores
            weights = self.average.network.state_dict()
            self.best_weights = {k: v.detach().cpu().clone() for k, v in weights.items()}
            if self.fabric.is_global_zero:
                self._publish_best()
        return {
            "val_loss": scores["loss"],
            "val_accuracy": scores["overall_accuracy"],
            "val_miou": scores["mean_iou"],
        } | {f"val_iou_{name}": iou for name, iou in scores["iou"].items()}

    def _step(self, images: Tensor, labels: Tensor, rate: float) -> float:
        """One step of the optimiser; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Fabric brings only calls of `forward` into its precision; without a strategy that wraps
        # the module, a step called by name runs in float32.
        with self.fabric.autocast():
            loss = self.model.training_step((images, labels))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._diverged(value)
        self.fabric.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.step += 1
        self.average.update(self.task.network, self.state.step)
        return value

    def _diverged(self, loss: float) -> TrainingError:
        best = self.state.best
        kept = (
            f"The best weights so far (epoch {best['epoch']}, mIoU {best['mean_iou']:.3f}) are in "
            f"{self.last}."
            if best
            else "There are no weights yet."
        )
        return TrainingError(
            f"Training diverged: the loss is {loss} after {self.state.step} steps "
            f"and {self.state.epoch} epochs.",
            [kept],
            "Lower `training.learning_rate`, or write `training.precision: float32`.",
        )

    @torch.no_grad()
    def _scores(self) -> dict[str, Any]:
        """Scores of the averaged weights on the validation split."""
        began = self.elapsed
        classes = self.data.classes
        counts = MulticlassConfusionMatrix(len(classes), ignore_index=IGNORE)
        counts = counts.to(self.fabric.device)
        sums = torch.zeros(2, dtype=torch.float64, device=self.fabric.device)
        for images, labels in map(self.fabric.to_device, self.validation_batches):
            with self.fabric.autocast():
                logits = self.average.network(self.task.normalised(images))
            counts.update(logits.argmax(1), labels)
            sums += torch.stack(loss_sums(logits, labels, self.task.class_weights)).double()
        sums = self.fabric.all_reduce(sums, reduce_op="sum")
        matrix = counts.compute().cpu().double()  # whole numbers up to 2**53 are exact
        correct, union = matrix.diag(), matrix.sum(0) + matrix.sum(1) - matrix.diag()
        # A class that validation does not have scores NaN, and no mean includes it.
        iou = torch.where(matrix.sum(1) > 0, correct / union, math.nan)
        self._validated_at = self.elapsed
        self._validation_seconds = self._validated_at - began
        return {
            "epoch": self.state.epoch,
            "step": self.state.step,
            "loss": float(sums[0] / sums[1]),
            "overall_accuracy": float(correct.sum() / matrix.sum()),
            "mean_iou": float(iou.nanmean()),
            "iou": {
                name: None if math.isnan(value) else value
                for name, value in zip(classes, iou.tolist(), strict=True)
            },
        }

    def _ended(self, elapsed: float) -> str:
        if self.state.step >= self.steps:
            if self.steps == self.settings.iterations:
                return f"iterations ({self.steps}) is reached"
            return f"all {self.settings.epochs} epochs are done"
        if self._progress(elapsed) >= 1:
            return f"max_minutes ({self.settings.max_minutes:g}) is reached"
        return ""

    def _mean_over_processes(self, losses: list[float]) -> float:
        mean = torch.tensor(float(np.mean(losses)) if losses else math.nan, dtype=torch.float64)
        return float(self.fabric.all_reduce(mean, reduce_op="mean"))

    def _publish_best(self) -> None:
        network = copy.deepcopy(self.average.network).cpu()
        network.load_state_dict(self.best_weights)
        card = self.make_card(self.state.best)
        checkpoint.save(self.folder / "best.safetensors", network, card)

    def _publish_curves(self) -> None:
        columns = ["epoch", "step", "train_loss", "val_loss", "val_accuracy", "val_miou"]
        columns += ["learning_rate", *(f"val_iou_{name}" for name in self.data.classes)]
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(columns)
        for row in self.state.rows:
            writer.writerow([_cell(row.get(column)) for column in columns])
        write_text(self.folder / "curves.csv", table.getvalue())

    def _save(self, at_once: bool) -> None:
        """Save where training stands, unless that was done a moment ago."""
        now = time.monotonic()
        recent = self._saving > SAVING_SHARE * (now - self._saved_at)
        if recent and not at_once and not self.state.stopped_because:
            return
        content = {
            "layout": LAYOUT,
            "fingerprint": self.fingerprint,
            "state": dataclasses.asdict(self.state),
            "network": self.task.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_weights": self.best_weights,
        }
        with published(self.last) as (draft,):
            torch.save(content, draft)
        self._saved_at = time.monotonic()
        self._saving = self._saved_at - now

    def _told(self, row: Mapping[str, Any], speed: float) -> str:
        """What a person reads of an epoch."""
        progress = min(self._progress(self.state.elapsed), 1.0)
        left = self.state.elapsed / progress * (1 - progress) if progress else math.nan
        scores = "not validated"
        if "val_miou" in row:
            mark = " (best)" if self.state.best["epoch"] == row["epoch"] else ""
            scores = (
                f"validation loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.3f}, "
                f"mIoU {row['val_miou']:.3f}{mark}"
            )
        then = self.state.stopped_because or f"{left / 60:.1f} min left at most"
        return (
            f"epoch {row['epoch']}: loss {row['train_loss']:.4f}, {scores}, "
            f"{speed:.1f} tiles/s; {then}"
        )


def _fits(network: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    return {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in weights.items()
    }


def _cell(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"


class _Display:
    """A bar for people at a terminal; lines in the log for everybody else.

    Args:
        shown: Whether this process tells anything.
    """

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._bar: Progress | None = None
        self._said = time.monotonic()

    def __enter__(self) -> _Display:
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
