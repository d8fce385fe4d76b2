"""Training: a loop over steps that may be killed at any of them, validation, and what it leaves.

The loop stands on Lightning's Fabric rather than its Trainer: a run that goes on after a kill has
to repeat the interrupted steps to the bit, and the Trainer draws the first batches of a resumed
epoch before it knows which epoch it is in.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from pipeline import (
    batch_statistics,
    checkpoint,
    devices,
    divergence,
    training_state,
    validation,
)
from pipeline.batches import Batch, TileData
from pipeline.errors import SettingsError, TeselaError, TrainingError
from pipeline.following import Follower, StopTraining, Validation
from pipeline.interruption import (
    WARNINGS,
    InterruptedTrainingError,
    Interruption,
    ask_for_requeue,
)
from pipeline.losses import Loss
from pipeline.nomenclature import IGNORE
from pipeline.objective import MOST_AVERAGING, AveragedNetwork, NormalisedNetwork
from pipeline.optimizers import make_optimizer, set_rate
from pipeline.schedules import learning_rate_factor
from pipeline.sections import TrainingSettings
from pipeline.training_course import Display, Pace, publish_curves, told_of
from pipeline.training_state import Tally, TrainingState

COMPILER = "inductor"
"""What ``training.compile`` compiles with."""

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
        InterruptedTrainingError: If a batch system ends the job; ``last.ckpt`` is written.
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
    try:
        run.resume()
        return run.finish()
    except (TeselaError, StopTraining):
        # It ends all processes, and the first one tells. Lightning kills that one while it still
        # speaks if one that it has started fails.
        if not fabric.is_global_zero and devices.started_its_own():
            raise SystemExit(0) from None
        raise


def _heaviest(warned: Sequence[float]) -> str:
    """Name of the last of the warnings that any process has got; empty where none has.

    Args:
        warned: Of each of the warnings, how many processes.
    """
    got = [number.name for number, count in zip(WARNINGS, warned, strict=True) if count]
    return got[-1] if got else ""


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
        # Before there is an optimiser: some make their state at once, where the weights are.
        self.whole.to(fabric.device)
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
            fused=settings.precision != "fp16" or settings.gradient_clip is None,
        )
        encoder = getattr(self.network, "encoder", None)
        # Some of it may never be trained, as the logits do not depend on it.
        self.encoder = (
            [weight for weight in encoder.parameters() if weight.requires_grad]
            if isinstance(encoder, nn.Module)
            else []
        )
        if settings.compile:
            torch.compiler.reset()  # of another training in this process
            self.network.compile(backend=COMPILER)
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
        self.interrupted = ""  # by which signal, to any of the processes
        self._begun = (0, 0)

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
        self._begun = state.step, len(state.rows)
        if state.unvalidated:
            logger.info("going on with the validation after step %d", state.step)
        elif state.stopped_because:
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
            if state.unvalidated:
                self.pace = Pace.of(state.unvalidated)
                self.batches.draws.set_epoch(state.epoch, state.position)
                self._validate(display)
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
            loss, state.rate = self._step(batches, rate), rate
            state.position += 1
            if state.position == steps:
                state.epoch, state.position = state.epoch + 1, 0
            tiles = sum(len(images) for images, _ in batches) * self.fabric.world_size
            self.pace.after(tiles, self.elapsed)
            self._tell(display, loss, rate)
            state.stopped_because = self._ended()
            if self._is_due():
                self._validate(display)
            if state.stopped_because:
                return  # there is nothing left to be interrupted
            if self.interrupted:
                self._interrupt()
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
        if not self.encoder:
            raise SettingsError(
                "training.freeze_encoder: this network has no encoder of its own; write 0."
            )
        for weight in self.encoder:
            weight.requires_grad_(not frozen)
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
        weight, tiles, interrupted = self._totals(batches)
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
        self.average.update(self.state.step)
        tally = self.state.tally
        tally.loss, tally.steps = tally.loss + loss, tally.steps + 1
        tally.correct += int(correct)
        tally.labelled += int(labelled)
        self.interrupted = interrupted
        return float(loss)

    def _totals(self, batches: Sequence[Batch]) -> tuple[float, float, str]:
        """Weight of the labelled pixels, tiles, and warning, of a step over all processes."""
        weights = torch.stack([self.loss.weight(labels) for _, labels in batches])
        counted = torch.zeros(2 + len(WARNINGS), dtype=torch.float64, device=self.fabric.device)
        counted[0] = weights.double().sum()
        counted[1] = sum(len(images) for images, _ in batches)
        counted[2:] = self._warnings()
        weight, tiles, *warned = self._summed(counted).tolist()
        return max(weight, torch.finfo(torch.float32).tiny), tiles, _heaviest(warned)

    def _warnings(self) -> Tensor:
        """Which warning this process has got, ones and zeros, shape ``(warnings,)``."""
        got = [self.interruption.signal == number.name for number in WARNINGS]
        return torch.tensor(got, dtype=torch.float64, device=self.fabric.device)

    def _summed(self, values: Tensor) -> Tensor:
        """Sums over all processes."""
        if self.fabric.world_size == 1:
            return values
        summed: Tensor = self.fabric.all_reduce(values, reduce_op="sum")
        return summed

    def _validate(self, display: Display) -> None:
        """Validate, keep and publish the weights if they are the best, save, and tell."""
        state, classes, began = self.state, self.data.classes, self.elapsed
        network = self.average.network
        state.unvalidated = dataclasses.asdict(self.pace)

        def logits_of(images: Tensor) -> Tensor:
            logits: Tensor = network(self.whole.normalised(images))
            return logits

        loss, matrix = validation.score(
            self.fabric,
            logits_of,
            self.loss,
            self.validation_batches,
            len(classes),
            self._between,
        )
        state.unvalidated = {}
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
            "learning_rate": state.rate,
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
        told = Validation(row, state.rows, matrix, classes, best, samples)
        self._in_first(partial(self._keep, told))
        display.line(told_of(row, self._left(), best, state.stopped_because))
        self.pace = Pace(self.elapsed)

    def _between(self) -> None:
        """Leave a validation that a warning has come in: it may take longer than what is left."""
        self.interrupted = _heaviest(self._summed(self._warnings()).tolist())
        if self.interrupted:
            self._interrupt()

    def _keep(self, told: Validation) -> None:
        """Publish and save what a validation has brought, and tell the followers."""
        if told.best:
            self._publish_best()
        publish_curves(self.folder, told.rows, told.classes)
        recent = self._saving > SAVING_SHARE * (time.monotonic() - self._saved_at)
        # The best weights are saved at once: a workflow removes the outputs of a training that
        # failed, and `last.ckpt` is none.
        if told.best or self.state.stopped_because or not recent:
            self._save()
        for follower in self.followers:
            follower.validated(told)

    def _in_first(self, work: Callable[[], None]) -> None:
        """Do something in the first process alone; what ends it there ends all."""
        ended: TeselaError | StopTraining | None = None
        if self.fabric.is_global_zero:
            try:
                work()
            except (TeselaError, StopTraining) as error:
                ended = error
        if self.fabric.world_size > 1 and self.fabric.broadcast(ended is not None):
            ended = ended or TrainingError("The first process ended the training and says why.")
        if ended is not None:
            raise ended

    def _interrupt(self) -> None:
        """Save, ask SLURM for another start, and end."""
        said: list[str] = []
        further = (self.state.step, len(self.state.rows)) > self._begun

        def leave() -> None:
            self._save()
            said.append(ask_for_requeue(further=further and self.interrupted != "SIGTERM"))

        self._in_first(leave)
        cause = self.interruption.signal or "another process was"
        what = f"after {self.state.step} steps"
        if self.state.unvalidated:
            what += ", in a validation"
        if not self._spoilt():
            what += f"; they are saved in {self.last}."
        else:
            what += ", the last of which has spoilt the weights; "
            there = self.last.exists()
            what += (
                f"{self.last} has them as they were before." if there else "nothing is saved yet."
            )
        raise InterruptedTrainingError(
            f"Training was interrupted ({cause}) {what}",
            [answer for answer in said if answer],
            "Start it again: it goes on from there.",
        )

    def _diverged(self, loss: float, batches: Sequence[Batch]) -> TrainingError:
        """What to say of a loss that is no finite number."""
        state, draws, where = self.state, self.batches.draws, ""
        if state.best:
            where = f"epoch {state.best['epoch']:g}, mIoU {state.best['mean_iou']:.3f}"
        draws.set_epoch(state.epoch, state.position)
        drawn = list(itertools.islice(draws, len(batches)))
        names = divergence.tiles(self.fabric, self.whole, self.loss, batches, drawn)
        told = [self.name_of(*self.data.train_tiles.place(tile)) for tile in names]
        return divergence.error(
            f"the loss is {loss} after {state.step} steps and {state.epoch} epochs",
            f"The best weights so far ({where}) are in {self.last}." if where else "",
            divergence.of_all(self.fabric, told),
            sum(len(images) for images, _ in batches) * self.fabric.world_size,
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
        """Save where training stands, unless the last step has spoilt it."""
        began = self._saved_at = time.monotonic()
        if not self.fabric.is_global_zero or self._spoilt():
            return  # the next step tells of it
        weights = self.network.state_dict()
        self.state.elapsed = began - self._started
        precision: Mapping[str, Any] = self.fabric.strategy.precision.state_dict()
        content = training_state.Checkpoint(
            self.fingerprint,
            self.state,
            weights,
            self.average.network.state_dict(),
            self.optimizer.state_dict(),
            precision,
            self.best_weights,
        )
        training_state.save(self.last, content)
        self._saved_at = time.monotonic()
        self._saving = self._saved_at - began

    def _spoilt(self) -> bool:
        """Whether a weight is no finite number."""
        weights = self.network.state_dict().values()
        return not all(bool(weight.isfinite().all()) for weight in weights)

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
