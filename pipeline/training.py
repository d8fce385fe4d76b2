"""Training: a loop over steps that may be killed at any of them, validation, and what it leaves.

The loop stands on Lightning's Fabric rather than its Trainer: a run that goes on after a kill has
to repeat the interrupted steps to the bit, and the Trainer draws the first batches of a resumed
epoch before it knows which epoch it is in.
"""

from __future__ import annotations

import copy
import gc
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from pipeline import batch_statistics, checkpoint, devices, training_state, validation
from pipeline.batches import Batch, TileData
from pipeline.errors import SettingsError, TrainingError
from pipeline.following import Follower, StopTraining, Validation
from pipeline.interruption import InterruptedTrainingError, Interruption, ask_for_requeue
from pipeline.losses import Loss
from pipeline.nomenclature import IGNORE
from pipeline.objective import MOST_AVERAGING, AveragedNetwork, NormalisedNetwork
from pipeline.optimizers import make_optimizer, set_rate
from pipeline.schedules import learning_rate_factor
from pipeline.sections import TrainingSettings
from pipeline.training_course import Display, Pace, publish_curves, told_of
from pipeline.training_state import Tally, TrainingState

EPOCHS = 50
"""Epochs of a training that nothing else limits."""

ROUNDS = 16
"""A run that is limited by time validates about so often, however long its epochs are."""

SAVING_SHARE = 0.1
"""Share of the time that may go into ``last.ckpt``: epochs of seconds are not all saved."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitSummary:
    """How a training went.

    Attributes:
        best_epoch: Epoch (from 1; with a fraction in its middle) of the published weights.
        best_scores: Their validation scores: ``epoch``, ``step``, ``loss``, ``overall_accuracy``,
            ``mean_iou``, ``iou`` by class (None where the class is absent from validation).
        epochs: Epochs run to their end, all starts together.
        steps: Steps run.
        stopped_because: Which limit ended it.
        first: Whether this process is the one that writes.
    """

    best_epoch: float
    best_scores: Mapping[str, Any]
    epochs: int
    steps: int
    stopped_because: str
    first: bool = True


def most_validations(settings: TrainingSettings) -> int | None:
    """How often a training validates at most; None if that depends on the number of tiles."""
    if settings.validate_every is not None:
        steps = settings.iterations
        return None if steps is None else math.ceil(steps / settings.validate_every)
    if settings.max_minutes is not None:
        return ROUNDS
    return EPOCHS if settings.iterations is None and settings.epochs is None else settings.epochs


def seed_weights(seed: int) -> None:
    """Make the first weights of a network that is built next depend on the seed alone."""
    torch.manual_seed(seed)


def tile_name(sheet: str, position: int) -> str:
    """Names a tile where nothing says which pixels it has."""
    return f"sheet {sheet}, tile {position}"


def fit(
    data: TileData,
    network: nn.Module,
    *,
    settings: TrainingSettings,
    seed: int,
    folder: Path,
    fingerprint: Mapping[str, Any],
    make_card: Callable[[Mapping[str, Any]], checkpoint.ModelCard],
    name_of: Callable[[str, int], str] = tile_name,
    followers: Sequence[Follower] = (),
) -> FitSummary:
    """Train a network, or go on where an earlier start was stopped.

    Writes ``best.safetensors`` (weights of the best validation mIoU, with their card),
    ``curves.csv``, ``speed.csv`` and ``last.ckpt`` into ``folder``. On a CPU, and with no limit of
    time, the first two are the same to the byte whether the training was killed on its way or not.

    Under several processes each calls this; the steps are those of one process with as many times
    the tiles, and only the first process writes.

    Args:
        data: Training and validation tiles.
        network: The network with its first weights.
        settings: Section ``training``; the first limit that is reached ends the training.
        seed: Seed of the run.
        folder: Folder of the run's checkpoints.
        fingerprint: What decides the result: settings and data. A ``last.ckpt`` of another
            fingerprint is not gone on from.
        make_card: Gives the card of the best weights, from their scores.
        name_of: Names the place of a tile by its sheet and its position in the shard.
        followers: Are told of steps and validations, in the first process.

    Returns:
        How it went. A training that is finished already is not repeated; its files are published
        again.

    Raises:
        SettingsError: If devices or optimiser cannot be had as the settings ask.
        TrainingError: If the loss becomes NaN or infinite; the best weights so far stay.
        InterruptedTrainingError: If SLURM warned of the time limit; ``last.ckpt`` is written.
        OutputError: If a file cannot be written.
        StopTraining: If a follower ends the training.
    """
    fabric = devices.launched(
        devices=settings.devices,
        nodes=settings.nodes,
        precision=settings.precision,
        deterministic=settings.deterministic,
    )
    data.share(fabric.global_rank, fabric.world_size)
    run = _Run(fabric, data, network, settings, seed, folder, fingerprint, make_card)
    run.name_of = name_of
    if fabric.is_global_zero:
        run.followers = followers
    run.resume()
    return run.finish()


class _Run:
    """One training: the loop and its state."""

    def __init__(
        self,
        fabric: lightning.Fabric,
        data: TileData,
        network: nn.Module,
        settings: TrainingSettings,
        seed: int,
        folder: Path,
        fingerprint: Mapping[str, Any],
        make_card: Callable[[Mapping[str, Any]], checkpoint.ModelCard],
    ) -> None:
        self.fabric, self.data, self.settings = fabric, data, settings
        self.seed, self.folder, self.make_card = seed, folder, make_card
        self.name_of: Callable[[str, int], str] = tile_name
        self.followers: Sequence[Follower] = ()
        self.fingerprint = json.dumps(fingerprint, sort_keys=True, ensure_ascii=False)
        if fabric.world_size > 1:
            network = batch_statistics.synced(network, fabric.device)
        most = MOST_AVERAGING if settings.average_weights else 0.0
        self.whole = NormalisedNetwork(network, data.mean, data.std)
        self.network = self.whole.network
        self.average = AveragedNetwork(self.network, most)
        self.loss = Loss(
            settings.loss,
            data.class_weights,
            label_smoothing=settings.label_smoothing,
            focal_gamma=settings.focal_gamma,
        ).to(fabric.device)
        optimizer = make_optimizer(
            self.network,
            optimizer=settings.optimizer,
            options=settings.optimizer_options,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            encoder_rate=settings.encoder_rate,
        )
        if settings.compile:
            self.network.compile()
        self.model, self.optimizer = fabric.setup(self.whole, optimizer)
        self.average.network.to(fabric.device)
        self.statistics = batch_statistics.RunningStatistics(self.network)
        self.frozen = False
        self.state = TrainingState(world=fabric.world_size)
        self.best_weights: Mapping[str, Tensor] = {}
        self.interruption = Interruption()
        # Not set up by Fabric: its loaders count their epochs by themselves, from 0 at each start.
        self.batches, self.validation_batches = data.train_batches(), data.validation_batches()
        self.samples: validation.SampleTiles | None = None
        unlimited = settings.iterations is None and settings.max_minutes is None
        self.epochs = settings.epochs or (EPOCHS if unlimited else None)
        self.seconds = settings.max_minutes * 60 if settings.max_minutes else math.inf
        self._started = self._saved_at = time.monotonic()
        self._saving = self._validation_seconds = self._validated_at = 0.0
        self._validated_step = 0
        self.pace = Pace(0.0)
        self.interrupted = False

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
        found = training_state.load(self.last, self.fingerprint, self.network.state_dict())
        self.fabric.barrier()  # nobody writes it before all have read it
        if found is None:
            return
        self.network.load_state_dict(found.network)
        self.average.network.load_state_dict(found.average)
        self.optimizer.load_state_dict(found.optimizer)
        self.fabric.strategy.precision.load_state_dict(dict(found.precision))
        self.best_weights, self.state = found.best_weights, found.state
        state = self.state
        if state.position and state.world != self.fabric.world_size:
            logger.info(
                "epoch %d was begun by %d processes, now there are %d: it begins again",
                state.epoch + 1, state.world, self.fabric.world_size,
            )  # fmt: skip
            state.position = 0
        state.world = self.fabric.world_size
        if state.rows:
            self._validated_step = state.rows[-1]["step"]
        if state.stopped_because:
            logger.info("trained already: %s", state.stopped_because)
        elif state.position:
            logger.info("going on after step %d of epoch %d", state.position, state.epoch + 1)
        else:
            logger.info("going on after epoch %d", state.epoch)

    def finish(self) -> FitSummary:
        """Train until a limit is reached, publish, and tell how it went."""
        now, state = time.monotonic(), self.state
        self._started, self._saved_at = now - state.elapsed, now
        self._validated_at = state.elapsed
        self.pace = Pace(state.elapsed)
        first = self.fabric.is_global_zero
        with ExitStack() as opened:
            for follower in self.followers:
                opened.callback(follower.closed)
            display = opened.enter_context(Display(first))
            opened.enter_context(self.interruption)
            if first and self.settings.sample_tiles and self.followers:
                self.samples = validation.SampleTiles(
                    self.data.validation_tiles, self.settings.sample_tiles, self.name_of
                )
            while not state.stopped_because:
                self._epoch(display)
        if first:
            self._publish_best()
            publish_curves(self.folder, self.state.rows, self.data.classes)
        return FitSummary(
            state.best["epoch"], state.best, state.epoch, state.step, state.stopped_because, first
        )

    def _progress(self, elapsed: float) -> float:
        """Share of the training that is done, by the limit that is nearest."""
        state = self.state
        # The last validation belongs into the time that was allowed.
        shares = [elapsed / max(self.seconds - self._validation_seconds, 1.0)]
        if self.settings.iterations is not None:
            shares.append(state.step / self.settings.iterations)
        if self.epochs is not None:
            shares.append((state.epoch + state.position / self.batches.draws.steps) / self.epochs)
        return max(shares)

    def _epoch(self, display: Display) -> None:
        """Train what is left of an epoch, and validate on the way and behind it."""
        state, draws = self.state, self.batches.draws
        draws.set_epoch(state.epoch, state.position)
        self._freeze(state.epoch < self.settings.freeze_encoder)
        steps = draws.steps
        for batches in self._loaded():
            rate = self.settings.learning_rate * learning_rate_factor(
                self._progress(self.pace.now), self.settings.schedule, self.settings.warm_up
            )
            loss = self._step(batches, rate)
            state.position += 1
            if state.position == steps:
                state.epoch, state.position = state.epoch + 1, 0
            tiles = sum(len(images) for images, _ in batches) * self.fabric.world_size
            self.pace.after(tiles, self.elapsed)
            self._tell(display, loss, rate)
            state.stopped_because = self._ended()
            if self._is_due():
                self._validate(rate, display)
            if self.interrupted:
                self._interrupt()
            if state.stopped_because:
                return
            if time.monotonic() - self._saved_at > self.settings.checkpoint_minutes * 60:
                self._save()

    def _loaded(self) -> Iterator[list[Batch]]:
        """The batches of each step of the rest of the epoch, on the device."""
        batches, size = iter(self.batches), self.batches.draws.batches
        while True:
            asked = time.monotonic()
            group = list(itertools.islice(batches, size))
            self.pace.waited += time.monotonic() - asked
            if not group:
                return
            yield [self.fabric.to_device(batch) for batch in group]

    def _freeze(self, frozen: bool) -> None:
        """Let the encoder keep its weights for this epoch, or train all.

        Its batch statistics run on: images are normalised by their own bands' mean and deviation,
        not as where the weights come from.
        """
        self.model.train()
        if frozen == self.frozen:
            return
        encoder = getattr(self.network, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise SettingsError(
                "training.freeze_encoder: this network has no encoder of its own; write 0."
            )
        encoder.requires_grad_(not frozen)
        self.frozen = frozen
        if self.fabric.world_size > 1:
            # Which weights have gradients is settled when processes are tied together; the old
            # tie has to be gone, or gradients would be summed twice.
            del self.model
            gc.collect()
            self.model = self.fabric.setup_module(self.whole)
            self.model.train()

    def _step(self, batches: Sequence[Batch], rate: float) -> float:
        """One step of the optimiser; returns its loss over all processes."""
        set_rate(self.optimizer, rate)
        self.statistics.before(self.state.step)
        # Each step's own, so that a step that is repeated has the same dropout.
        source = np.random.SeedSequence((self.seed, self.state.step, self.fabric.global_rank))
        torch.manual_seed(int(source.generate_state(1, np.uint64)[0]))
        weight, tiles, warned = self._totals(batches)
        told = torch.zeros(3, dtype=torch.float64, device=self.fabric.device)
        for number, (images, labels) in enumerate(batches):
            more = number < len(batches) - 1
            with self.fabric.no_backward_sync(self.model, enabled=more):
                logits = self.model(images)
                terms = self.loss(logits, labels)
                share = terms.pixels / weight + terms.regions * (len(images) / tiles)
                # Processes average their gradients, and this is a part of a sum.
                self.fabric.backward(share * self.fabric.world_size)
            known = labels != IGNORE
            found = (logits.detach().argmax(1) == labels) & known
            told += torch.stack([share.detach().double(), found.sum(), known.sum()])
        loss, correct, labelled = self._summed(told).tolist()
        if not math.isfinite(loss):
            raise self._diverged(loss, batches)
        if self.settings.gradient_clip is not None:
            self.fabric.clip_gradients(
                self.model,
                self.optimizer,
                max_norm=self.settings.gradient_clip,
                error_if_nonfinite=False,  # half precision has such steps, and leaves them out
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.step += 1
        self.average.update(self.network, self.state.step)
        tally = self.state.tally
        tally.loss, tally.steps = tally.loss + loss, tally.steps + 1
        tally.correct += int(correct)
        tally.labelled += int(labelled)
        self.interrupted = warned > 0
        return float(loss)

    def _totals(self, batches: Sequence[Batch]) -> tuple[float, float, float]:
        """Weight of the labelled pixels, tiles, and warnings, of a step over all processes."""
        weights = torch.stack([self.loss.weight(labels) for _, labels in batches])
        counted = torch.zeros(3, dtype=torch.float64, device=self.fabric.device)
        counted[0] = weights.double().sum()
        counted[1] = sum(len(images) for images, _ in batches)
        counted[2] = bool(self.interruption.signal)
        weight, tiles, warned = self._summed(counted).tolist()
        return max(weight, torch.finfo(torch.float32).tiny), tiles, warned

    def _summed(self, values: Tensor) -> Tensor:
        """Sums over all processes."""
        if self.fabric.world_size == 1:
            return values
        summed: Tensor = self.fabric.all_reduce(values, reduce_op="sum")
        return summed

    def _validate(self, rate: float, display: Display) -> None:
        """Validate, keep and publish the weights if they are the best, save, and tell."""
        state, classes, began = self.state, self.data.classes, self.elapsed
        network = self.average.network

        def logits_of(images: Tensor) -> Tensor:
            logits: Tensor = network(self.whole.normalised(images))
            return logits

        loss, matrix = validation.score(
            self.fabric, logits_of, self.loss, self.validation_batches, len(classes)
        )
        if not math.isfinite(loss):
            raise self._diverged(loss, ())
        epoch: float = state.epoch
        if state.position:
            epoch = round(epoch + state.position / self.batches.draws.steps, 3)
        scores = {"epoch": epoch, "step": state.step, **validation.scores(loss, matrix, classes)}
        best = not state.best or scores["mean_iou"] > state.best["mean_iou"]
        state.waited = 0 if best else state.waited + 1
        if best:
            state.best = scores
            weights = network.state_dict()
            self.best_weights = {k: v.detach().cpu().clone() for k, v in weights.items()}
        tally, state.tally = state.tally, Tally()
        row = {
            "epoch": epoch,
            "step": state.step,
            "train_loss": tally.loss / max(tally.steps, 1),
            "val_loss": scores["loss"],
            "train_accuracy": tally.correct / tally.labelled if tally.labelled else math.nan,
            "val_accuracy": scores["overall_accuracy"],
            "val_miou": scores["mean_iou"],
            "learning_rate": rate,
        }
        row |= {f"val_iou_{name}": iou for name, iou in scores["iou"].items()}
        row |= {
            "seconds": self.pace.seconds,
            "tiles_per_second": self.pace.speed,
            "waiting": self.pace.waiting,
        }
        state.rows.append(row)
        if not state.stopped_because and state.waited >= self.settings.patience:
            state.stopped_because = (
                f"validation mIoU has not risen in {self.settings.patience} validations"
            )
        samples = self.samples.predicted(self.fabric, logits_of) if self.samples else None
        self._validated_at, self._validated_step = self.elapsed, state.step
        self._validation_seconds = self._validated_at - began
        state.elapsed = self._validated_at
        if self.fabric.is_global_zero:
            if best:
                self._publish_best()
            publish_curves(self.folder, self.state.rows, self.data.classes)
            recent = self._saving > SAVING_SHARE * (time.monotonic() - self._saved_at)
            # The best weights are saved at once: a workflow removes the outputs of a training
            # that failed, and `last.ckpt` is none.
            if best or state.stopped_because or not recent:
                self._save()
        display.line(told_of(row, self._left(), best, state.stopped_because))
        told = Validation(row, state.rows, matrix, classes, best, samples)
        self._follow(lambda follower: follower.validated(told))
        self.pace = Pace(self.elapsed)

    def _follow(self, tell: Callable[[Follower], None]) -> None:
        """Tell the followers; if one of them ends the training, all processes end it."""
        stopped = ""
        try:
            for follower in self.followers:
                tell(follower)
        except StopTraining as stop:
            stopped = str(stop) or "a follower ended the training"
        if self.fabric.world_size > 1:
            stopped = self.fabric.broadcast(stopped)
        if stopped:
            raise StopTraining(stopped)

    def _interrupt(self) -> None:
        """Save, ask SLURM for another start, and end."""
        said = ""
        if self.fabric.is_global_zero:
            self._save()
            said = ask_for_requeue()
        self.fabric.barrier()
        raise InterruptedTrainingError(
            f"Training was interrupted ({self.interruption.signal or 'another process was'}) "
            f"after {self.state.step} steps; they are saved in {self.last}.",
            [said] if said else [],
            "Start it again: it goes on from there.",
        )

    def _diverged(self, loss: float, batches: Sequence[Batch]) -> TrainingError:
        """What to say of a loss that is no finite number, and which tiles it comes from."""
        best, state = self.state.best, self.state
        items = [
            f"The best weights so far (epoch {best['epoch']:g}, mIoU {best['mean_iou']:.3f}) are "
            f"in {self.last}."
            if best
            else "There are no weights yet."
        ]
        draws = self.batches.draws
        if batches:
            draws.set_epoch(state.epoch, state.position)
            drawn = itertools.islice(draws, draws.batches)
            names = []
            for (images, labels), chosen in zip(batches, drawn, strict=False):
                found = validation.tiles_that_diverge(
                    self.fabric, self.whole, self.loss, images, labels
                )
                places = [self.data.train_tiles.place(chosen[number].tile) for number in found]
                names += [self.name_of(sheet, position) for sheet, position in places]
            if self.fabric.world_size > 1:
                gathered: list[list[str]] = [[] for _ in range(self.fabric.world_size)]
                torch.distributed.all_gather_object(gathered, names)
                names = [name for some in gathered for name in some]
            told = sum(len(images) for images, _ in batches) * self.fabric.world_size
            if 0 < len(names) < told:
                items += [f"The loss of this tile is no number: {name}" for name in names]
            elif names:
                items.append("The loss of every tile is no number: the weights are at fault.")
        return TrainingError(
            f"Training diverged: the loss is {loss} after {state.step} steps "
            f"and {state.epoch} epochs.",
            items,
            "Lower `training.learning_rate`, set `training.gradient_clip: 1`, or write "
            "`training.precision: float32`.",
        )

    def _ended(self) -> str:
        state, settings = self.state, self.settings
        if settings.iterations is not None and state.step >= settings.iterations:
            return f"iterations ({settings.iterations}) are done"
        if self.epochs is not None and state.epoch >= self.epochs:
            return f"all {self.epochs} epochs are done"
        if self._progress(self.pace.now) >= 1:
            return f"max_minutes ({settings.max_minutes:g}) is reached"
        return ""

    def _is_due(self) -> bool:
        """Whether to validate now."""
        state, every = self.state, self.settings.validate_every
        if state.stopped_because:
            return True
        if every is not None:
            return state.step - self._validated_step >= every
        if self.seconds < math.inf:
            # By time, neither each of many short epochs nor only the end of a long one; and not so
            # often that validating takes more than a tenth of the time.
            least = max(self.seconds / ROUNDS, 9 * self._validation_seconds)
            return self.pace.now - self._validated_at > least
        return state.position == 0

    def _publish_best(self) -> None:
        network = copy.deepcopy(self.average.network).cpu()
        network.load_state_dict(self.best_weights)
        card = self.make_card(self.state.best)
        checkpoint.save(self.folder / "best.safetensors", network, card)

    def _save(self) -> None:
        """Save where training stands."""
        if not self.fabric.is_global_zero:
            self._saved_at = time.monotonic()
            return
        began = time.monotonic()
        self.state.elapsed = began - self._started
        precision: Mapping[str, Any] = self.fabric.strategy.precision.state_dict()
        content = training_state.Checkpoint(
            self.fingerprint,
            self.state,
            self.network.state_dict(),
            self.average.network.state_dict(),
            self.optimizer.state_dict(),
            precision,
            self.best_weights,
        )
        training_state.save(self.last, content)
        self._saved_at = time.monotonic()
        self._saving = self._saved_at - began

    def _tell(self, display: Display, loss: float, rate: float) -> None:
        """Tell of a step."""
        pace, state = self.pace, self.state
        display.update(self._progress(pace.now), state.epoch + 1, pace.speed, loss)
        for follower in self.followers:
            follower.stepped(state.step, loss, rate, pace.speed, pace.waiting)

    def _left(self) -> float:
        """Seconds that are left at most."""
        progress = min(self._progress(self.state.elapsed), 1.0)
        return self.state.elapsed / progress * (1 - progress) if progress else math.nan
