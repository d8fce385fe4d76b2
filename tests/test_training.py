from __future__ import annotations

import csv
import itertools
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from pipeline import checkpoint, interruption, training, validation
from pipeline.batches import TileData
from pipeline.errors import SettingsError, TrainingError
from pipeline.following import Follower, StopTraining
from pipeline.grid import PixelGrid
from pipeline.interruption import InterruptedTrainingError
from pipeline.losses import Loss
from pipeline.objective import AveragedNetwork
from pipeline.records import Runs, Tile, encode_tile, record_bound
from pipeline.sections import AugmentationSettings, TrainingSettings
from pipeline.shards import LAYOUT, Manifest, ShardReader, ShardWriter, SplitCounts

CLASSES = ("water", "olives", "road")
SIDE = 32
SETTINGS = TrainingSettings(
    epochs=4, batch_size=4, workers=0, precision="float32", learning_rate=0.01
)
AERIAL = AugmentationSettings(preset="aerial")


class Tiny(nn.Module):
    """Two convolutions with what a resumed run can get wrong: batch statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout2d(0.2),
            nn.Conv2d(8, 3, 1),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images)
        return logits


class WithEncoder(nn.Module):
    """An encoder with batch statistics, and what comes after."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.encoder(images))
        return logits


def write_shard(folder: Path) -> Path:
    """Twelve tiles of three stripes each, whose brightness is the class's, and noise."""
    rng = np.random.default_rng(0)
    writer = ShardWriter(folder, 12, record_bound(SIDE, 3, 3))
    counts = {s: SplitCounts.nothing(3, 3) for s in ("train", "validation")}
    for number in range(12):
        label = np.repeat(rng.permutation(3), [8, 8, 16])[:, None].repeat(SIDE, 1).astype(np.uint8)
        image = (60 + 60 * label + rng.normal(0, 15, (3, SIDE, SIDE))).clip(0, 255)
        label[:2] = 255
        tile = Tile(
            image.astype(np.uint8),
            label,
            np.zeros((SIDE, SIDE), np.uint32),
            np.zeros(0, np.uint32),
            np.zeros((0, 3), np.float32),
        )
        writer.put(number, encode_tile(tile))
        counts["train" if number < 8 else "validation"] += SplitCounts.of(
            tile.image, Runs.of(tile.label), None, 3
        )
    splits = {"train": (0, 8), "validation": (8, 12)}
    grid = PixelGrid("EPSG:25830", 7e5, 4.4e6, 0.5, 0.5, 100, 100)
    writer.finish(Manifest(LAYOUT, "a", grid, 3, SIDE, CLASSES, "abc", "raw", splits, counts))
    return folder


def run(
    shard: Path,
    folder: Path,
    settings: TrainingSettings = SETTINGS,
    fingerprint: Mapping[str, Any] | None = None,
    network: Callable[[], nn.Module] = Tiny,
    changes: AugmentationSettings = AERIAL,
    **options: Any,
) -> training.FitSummary:
    present = np.ones((12, 3), bool)
    present[1:8, 1] = False
    data = TileData([ShardReader(shard)], settings, changes, seed=3, presence={"a": present})
    training.seed_weights(3)

    def card(scores: Mapping[str, Any]) -> checkpoint.ModelCard:
        return checkpoint.ModelCard(
            "unet", "resnet18", 3, data.pixel_size, data.classes, ("#000000",) * 3, "abc",
            data.mean, data.std, scores=dict(scores),
        )  # fmt: skip

    return training.fit(
        data, network(), settings=settings, seed=3, folder=folder,
        fingerprint=fingerprint or settings.model_dump(mode="json"), make_card=card, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("training") / "a.lmdb")


@pytest.fixture
def always_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAVING_SHARE", math.inf)
    epoch = training._Run._epoch

    def each_step_saved(self: training._Run, display: Any) -> None:
        self.settings = self.settings.model_copy(update={"checkpoint_minutes": 1e-9})
        epoch(self, display)

    monkeypatch.setattr(training._Run, "_epoch", each_step_saved)


def curves(folder: Path) -> list[dict[str, str]]:
    with (folder / "curves.csv").open() as file:
        return list(csv.DictReader(file))


def published(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "best.safetensors").read_bytes(), (folder / "curves.csv").read_bytes()


def test_averaged_weights_by_hand() -> None:
    network = nn.BatchNorm1d(1)
    average = AveragedNetwork(network)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.running_mean.fill_(6.0)  # type: ignore[union-attr]
        network.num_batches_tracked.fill_(5)  # type: ignore[union-attr]
    average.update(1)  # decay (1 + 1) / (10 + 1)
    state = average.network.state_dict()
    assert float(state["weight"]) == pytest.approx(1 * 2 / 11 + 3 * 9 / 11)
    assert float(state["running_mean"]) == pytest.approx(6 * 9 / 11)
    assert int(state["num_batches_tracked"]) == 5
    assert not average.network.training


def test_training_learns_and_leaves_weights_card_and_curves(shard: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 25, "learning_rate": 0.05})
    summary = run(shard, tmp_path, settings, changes=AugmentationSettings())
    assert (summary.epochs, summary.steps) == (25, 50)
    assert summary.stopped_because == "all 25 epochs are done"
    assert summary.best_scores["mean_iou"] > 0.8
    card = checkpoint.read_card(tmp_path / "best.safetensors")
    assert card.scores == summary.best_scores
    rows = curves(tmp_path)
    assert list(rows[0]) == [
        "epoch", "step", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_miou",
        "learning_rate", "val_iou_water", "val_iou_olives", "val_iou_road",
    ]  # fmt: skip
    assert [int(row["step"]) for row in rows] == list(range(2, 51, 2))
    best = max(rows, key=lambda row: float(row["val_miou"]))
    assert int(best["epoch"]) == summary.best_epoch
    assert float(best["val_miou"]) == pytest.approx(summary.best_scores["mean_iou"], abs=1e-5)
    ious = [float(best[f"val_iou_{name}"]) for name in CLASSES]
    assert float(best["val_miou"]) == pytest.approx(np.mean(ious), abs=1e-5)
    assert not list(tmp_path.glob(".*"))


def test_saved_scores_are_those_of_the_saved_weights(shard: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    summary = run(shard, tmp_path)
    network = Tiny()
    network.load_state_dict(load_file(tmp_path / "best.safetensors"))
    network.eval()
    data = TileData([ShardReader(shard)], SETTINGS, AERIAL, seed=3)
    matrix = np.zeros((3, 3), np.int64)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
    for images, labels in data.validation_batches():
        with torch.no_grad():
            mapped = network((images - mean) / std).argmax(1)
        known = labels != 255
        np.add.at(matrix, (labels[known].numpy(), mapped[known].numpy()), 1)
    correct = matrix.diagonal()
    iou = correct / (matrix.sum(0) + matrix.sum(1) - correct)
    assert matrix.sum() == 4 * 30 * SIDE
    assert summary.best_scores["overall_accuracy"] == pytest.approx(correct.sum() / matrix.sum())
    assert list(summary.best_scores["iou"].values()) == pytest.approx(iou.tolist())


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("float32", "float32")])
def test_training_and_validation_compute_in_the_precision_asked_for(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, dtype: str
) -> None:
    """Fabric left a step that is called by name in float32: two and a half times slower."""
    seen: dict[bool, set[str]] = {True: set(), False: set()}

    def noted(self: Tiny, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images)
        seen[self.training].add(str(logits.dtype).removeprefix("torch."))
        return logits

    monkeypatch.setattr(Tiny, "forward", noted)
    settings = SETTINGS.model_copy(update={"precision": precision, "epochs": 1})
    run(shard, tmp_path, settings)
    assert seen == {True: {dtype}, False: {dtype}}


class KilledError(Exception):
    """Stands for a SIGKILL after a checkpoint."""


def kill_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    save = training._Run._save

    def saved_then_killed(self: training._Run) -> None:
        save(self)
        if self.state.step == step:
            raise KilledError

    monkeypatch.setattr(training._Run, "_save", saved_then_killed)


@pytest.mark.usefixtures("always_saved")
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"iterations": 7},
        {"patience": 1},
        {"validate_every": 3},
        {"accumulate": 2, "batch_size": 2, "optimizer": "SGD", "gradient_clip": 0.1,
         "optimizer_options": {"momentum": 0.9}, "schedule": "one_cycle"},
        {"oversample": 1.0, "shuffle": "local", "average_weights": False},
        {"loss": {"focal": 1.0, "dice": 0.5}, "label_smoothing": 0.1},
        {"freeze_encoder": 2, "encoder_rate": 0.5, "epochs": 7, "workers": 1},
        {"compile": True, "epochs": 2},
    ],
    ids=[
        "epochs", "iterations", "patience", "validate_every", "accumulate", "oversample", "loss",
        "freeze", "compile",
    ],
)  # fmt: skip
def test_a_killed_run_ends_with_the_same_bytes(
    shard: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    changed: dict[str, Any],
) -> None:
    """Killed after each of the first steps: at an epoch's end and in its middle."""
    settings = SETTINGS.model_copy(update=changed)
    monkeypatch.setattr(training, "COMPILER", "eager")  # inductor needs a C++ compiler
    network = WithEncoder if "freeze_encoder" in changed else Tiny
    whole = run(shard, tmp_path / "whole", settings, network=network)
    for step in (1, 2, 3, 4, 5, 13):
        with monkeypatch.context() as patch:
            kill_after(patch, step)
            try:
                run(shard, tmp_path / "killed", settings, network=network)
            except KilledError:
                continue
    # Snakemake removes the results of a job that failed; what is needed is in last.ckpt.
    for name in ("best.safetensors", "curves.csv"):
        (tmp_path / "killed" / name).unlink(missing_ok=True)
    torch.rand(5)
    with caplog.at_level(logging.INFO, "pipeline"):
        resumed = run(shard, tmp_path / "killed", settings, network=network)
    assert resumed == whole
    assert published(tmp_path / "killed") == published(tmp_path / "whole")
    assert "going on after" in caplog.text or "trained already" in caplog.text


def test_sigkill_at_any_moment_leaves_a_run_that_ends_with_the_same_bytes(
    shard: Path, tmp_path: Path
) -> None:
    program = textwrap.dedent(
        f"""
        import importlib.util, sys
        from pathlib import Path
        spec = importlib.util.spec_from_file_location("tested", {str(Path(__file__))!r})
        tested = importlib.util.module_from_spec(spec)
        sys.modules["tested"] = tested
        spec.loader.exec_module(tested)
        settings = tested.SETTINGS.model_copy(update={{"epochs": 25}})
        tested.run(Path(sys.argv[1]), Path(sys.argv[2]), settings)
        """
    )
    command = [sys.executable, "-c", program, str(shard), str(tmp_path / "killed")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    killed = subprocess.Popen(command, env=environment)
    last = tmp_path / "killed" / "last.ckpt"
    while killed.poll() is None and not last.exists():
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    settings = SETTINGS.model_copy(update={"epochs": 25})
    for folder in ("killed", "whole"):
        run(shard, tmp_path / folder, settings)
    assert published(tmp_path / "killed") == published(tmp_path / "whole")


def test_a_finished_run_is_not_trained_again_but_published_again(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(shard, tmp_path)
    before = published(tmp_path)
    (tmp_path / "best.safetensors").unlink()
    (tmp_path / "curves.csv").unlink()
    monkeypatch.setattr(training._Run, "_epoch", None)
    assert run(shard, tmp_path) == first
    assert published(tmp_path) == before


@pytest.mark.parametrize("damage", ["other", "truncated", "text", "network"])
def test_a_last_checkpoint_that_does_not_fit_is_told_and_not_used(
    shard: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 1})
    run(shard, tmp_path / "clean", settings)
    other = SETTINGS.model_copy(update={"epochs": 1, "learning_rate": 0.1})
    run(shard, tmp_path / "used", other if damage == "other" else settings)
    last = tmp_path / "used" / "last.ckpt"
    if damage == "truncated":
        last.write_bytes(last.read_bytes()[:2000])
    elif damage == "text":
        last.write_text("no checkpoint")
    elif damage == "network":
        content = torch.load(last, weights_only=True)
        del content["network"]["layers.0.bias"]
        torch.save(content, last)
    with caplog.at_level(logging.WARNING, "pipeline"):
        run(shard, tmp_path / "used", settings)
    assert "training starts afresh" in caplog.text
    assert published(tmp_path / "used") == published(tmp_path / "clean")


def test_code_in_a_last_checkpoint_is_never_run(
    shard: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "harmed",))

    torch.save({"layout": Attack()}, tmp_path / "last.ckpt")
    run(shard, tmp_path, SETTINGS.model_copy(update={"epochs": 1}))
    assert "training starts afresh" in caplog.text
    assert not (tmp_path / "harmed").exists()


class Spoilt(nn.Module):
    """A loss that is no number, of chosen tiles or of all, from a step on."""

    def __init__(self, loss: nn.Module, spoils: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.loss, self.spoils = loss, spoils

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = self.loss.weight(labels)  # type: ignore[operator]
        return weight

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> Any:
        terms = self.loss(logits, labels)
        return terms._replace(pixels=terms.pixels * self.spoils(labels))


def spoil(
    monkeypatch: pytest.MonkeyPatch, spoils: Callable[[training._Run, torch.Tensor], bool]
) -> None:
    begin = training._Run.__init__

    def spoilt(self: training._Run, *arguments: Any) -> None:
        begin(self, *arguments)
        self.loss = Spoilt(  # type: ignore[assignment]
            self.loss,
            lambda labels: torch.tensor(math.nan if spoils(self, labels) else 1.0),
        )

    monkeypatch.setattr(training._Run, "__init__", spoilt)


@pytest.mark.usefixtures("always_saved")
def test_a_loss_that_is_no_number_ends_training_and_keeps_the_best(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda run, labels: run.state.step == 3)
    with pytest.raises(TrainingError, match="the loss is nan after 3 steps") as error:
        run(shard, tmp_path)
    assert "epoch 1, mIoU" in error.value.items[0]
    assert error.value.items[1] == "The loss of every tile is no number: the weights are at fault."
    assert "learning_rate" in error.value.remedy
    assert checkpoint.read_card(tmp_path / "best.safetensors").scores["epoch"] == 1
    assert len(curves(tmp_path)) == 1


@pytest.mark.usefixtures("always_saved")
def test_spoilt_weights_are_not_saved(shard: Path, tmp_path: Path) -> None:
    """A step of infinite gradients has a finite loss: the one before it is to go on from."""
    network = Tiny()

    class Spoiler(Follower):
        def stepped(self, step: int, *_: float) -> None:
            if step == 3:
                with torch.no_grad():
                    network.layers[0].weight.fill_(math.nan)  # type: ignore[operator]

    with pytest.raises(TrainingError, match="the loss is nan after 3 steps"):
        run(shard, tmp_path, network=lambda: network, followers=[Spoiler()])
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["state"]["step"] == 2
    assert all(bool(weight.isfinite().all()) for weight in content["network"].values())


def test_a_loss_that_is_no_number_tells_its_tile(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = ShardReader(shard).read(5).label

    def is_bad(run: training._Run, labels: torch.Tensor) -> bool:
        return any((tile.numpy() == bad).all() for tile in labels)

    spoil(monkeypatch, is_bad)
    settings = SETTINGS.model_copy(update={"batch_size": 3, "accumulate": 2})
    with pytest.raises(TrainingError) as error:
        run(
            shard, tmp_path, settings, changes=AugmentationSettings(preset="none"),
            name_of=lambda sheet, position: f"tile {position} of {sheet}",
        )  # fmt: skip
    same = [n for n in range(8) if (ShardReader(shard).read(n).label == bad).all()]
    told = {f"The loss of this tile is no number: tile {number} of a" for number in same}
    assert error.value.items[0] == "There are no weights yet."
    assert set(error.value.items[1:]) <= told
    assert len(error.value.items) >= 2


def test_patience_ends_training(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = validation.scores
    fallen = itertools.count(1)

    def falling(*arguments: Any) -> dict[str, Any]:
        return scores(*arguments) | {"mean_iou": 1 / next(fallen)}

    monkeypatch.setattr(validation, "scores", falling)
    settings = SETTINGS.model_copy(update={"epochs": 9, "patience": 3})
    summary = run(shard, tmp_path, settings)
    assert (summary.best_epoch, summary.epochs) == (1, 4)
    assert summary.stopped_because == "validation mIoU has not risen in 3 validations"


class Clock:
    """A clock that a step moves on by five seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("batch", [4, 1])
def test_a_run_limited_by_time_anneals_and_validates_at_its_end(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Validations come by the clock: neither after each short epoch nor only after a long one."""
    clock = Clock()
    monkeypatch.setattr(training, "time", clock)
    monkeypatch.setattr(training, "ROUNDS", 3)
    step = training._Run._step

    def slow(self: training._Run, *arguments: Any) -> float:
        clock.now += 5.0
        return step(self, *arguments)

    monkeypatch.setattr(training._Run, "_step", slow)
    settings = SETTINGS.model_copy(update={"epochs": None, "max_minutes": 2.0, "batch_size": batch})
    summary = run(shard, tmp_path, settings)
    assert summary.steps == 24  # 2 minutes of 5 s
    assert summary.stopped_because == "max_minutes (2) is reached"
    rows = curves(tmp_path)
    assert [int(row["step"]) for row in rows] == [9, 18, 24]
    epochs = [4.5, 9.0, 12.0] if batch == 4 else [1.125, 2.25, 3.0]
    assert [float(row["epoch"]) for row in rows] == epochs
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.01 * SETTINGS.learning_rate


def test_iterations_alone_are_not_limited_by_epochs(shard: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": None, "iterations": 105, "validate_every": 50})
    summary = run(shard, tmp_path, settings)
    assert (summary.steps, summary.epochs) == (105, 52)
    assert summary.stopped_because == "iterations (105) are done"
    assert [int(row["step"]) for row in curves(tmp_path)] == [50, 100, 105]


def warn_all(warning: signal.Signals) -> None:
    """Signal this process and its workers, as SLURM does: not by itself, whose word ends them."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    pids = [str(process.pid) for process in processes]
    subprocess.run(["kill", f"-{warning.value}", *pids], check=True)
    time.sleep(0.1)  # those who would die of it


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(
    ("warning", "preempted", "requeued"),
    [
        (signal.SIGUSR1, "None", True),
        (signal.SIGTERM, "2026-11-23T13:50:00", True),
        # Of `timeout` in somebody's own script, say, which would begin again from its first line.
        (signal.SIGTERM, "None", False),
    ],
)
def test_a_warning_of_the_batch_system_saves_and_the_next_start_ends_with_the_same_bytes(
    shard: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    warning: signal.Signals,
    preempted: str,
    requeued: bool,
    workers: int,
) -> None:
    settings = SETTINGS.model_copy(update={"workers": workers})
    whole = run(shard, tmp_path / "whole", SETTINGS, {"same": 1})
    asked: list[list[str]] = []

    def scontrol(*arguments: str) -> str:
        asked.append(list(arguments))
        return f"JobId=17 JobState=RUNNING PreemptTime={preempted}"

    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setattr(interruption, "_scontrol", scontrol)
    before = signal.getsignal(warning)

    class Warner(Follower):
        def stepped(self, step: int, *_: float) -> None:
            if step == 3:
                assert len(psutil.Process().children()) >= 2 * workers  # and for validation
                warn_all(warning)

    with pytest.raises(InterruptedTrainingError, match="after 4 steps") as error:
        run(shard, tmp_path / "warned", settings, {"same": 1}, followers=[Warner()])
    assert error.value.exit_code == 75
    assert warning.name in error.value.what
    answer = "SLURM starts job 17 again."
    if not requeued:
        answer = "Job 17 is not preempted, so SLURM is not asked to start it again."
    assert error.value.items == (answer,)
    assert (["requeue", "17"] in asked) == requeued
    assert signal.getsignal(warning) == before
    assert run(shard, tmp_path / "warned", settings, {"same": 1}) == whole
    assert published(tmp_path / "warned") == published(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changed", "step", "further"),
    [
        ({}, 4, True),
        ({"validate_every": 3, "oversample": 1.0, "workers": 1}, 6, True),
        ({"average_weights": False}, 8, True),
        ({"iterations": 7}, 7, True),  # the last one
        ({}, 4, False),
    ],
    ids=["epochs", "validate_every", "later", "last", "again"],
)
def test_a_warning_in_a_validation_ends_it_and_the_next_start_ends_with_the_same_bytes(
    shard: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    step: int,
    further: bool,
) -> None:
    """Validating a province may take longer than the two minutes that a warning leaves."""
    settings = SETTINGS.model_copy(update={"batch_size": 2, "patience": 100, **changed})
    whole = run(shard, tmp_path / "whole", settings)
    between, calls, asked = training._Run._between, [0], []

    def warned(self: training._Run) -> None:
        calls[0] += 1
        if self.state.step == step:
            os.kill(os.getpid(), signal.SIGUSR1)
        between(self)

    def ask(*, further: bool) -> str:
        asked.append(further)
        return ""

    monkeypatch.setattr(training, "ask_for_requeue", ask)
    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "_between", warned)
        for _ in range(1 if further else 2):
            with pytest.raises(InterruptedTrainingError) as error:
                run(shard, tmp_path / "warned", settings)
    # One that comes no further would be started for ever.
    assert asked == ([True] if further else [True, False])
    assert f"after {step} steps, in a validation; they are saved" in error.value.what
    before = curves(tmp_path / "warned") if step > 4 else []
    assert all(int(row["step"]) < step for row in before)
    assert calls[0] == len(before) + len(asked)  # one a validation of two batches
    assert run(shard, tmp_path / "warned", settings) == whole
    assert published(tmp_path / "warned") == published(tmp_path / "whole")
    with (tmp_path / "warned" / "speed.csv").open() as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    assert float(rows[step]["tiles_per_second"]) > 0


def test_processes_ask_each_other_as_often_in_a_validation(shard: Path) -> None:
    """Four tiles by three processes: the first has a batch more, in which nobody would answer."""
    settings = SETTINGS.model_copy(update={"batch_size": 1})
    loss = Loss({"cross_entropy": 1.0}, (1.0,) * 3)
    for processes, expected in ((1, [3]), (2, [1, 1]), (3, [0, 0, 0])):
        asked = [0] * processes
        for rank in range(processes):
            data = TileData([ShardReader(shard)], settings, AERIAL, seed=3)
            data.share(rank, processes)

            def between(rank: int = rank, asked: list[int] = asked) -> None:
                asked[rank] += 1

            fabric: Any = SimpleNamespace(
                world_size=processes, device=torch.device("cpu"), to_device=lambda batch: batch,
                autocast=nullcontext, all_reduce=lambda values, reduce_op: values,
            )  # fmt: skip
            validation.score(
                fabric, lambda images: Tiny().eval()(images.float()), loss,
                data.validation_batches(), 3, between,
            )  # fmt: skip
        assert asked == expected


def test_a_training_that_is_done_is_not_interrupted(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setattr(interruption, "_scontrol", lambda *_: pytest.fail("nothing is left to do"))

    class Warner(Follower):
        def stepped(self, step: int, *_: float) -> None:
            if step == 7:  # noticed behind the eighth, which is the last
                os.kill(os.getpid(), signal.SIGUSR1)

    summary = run(shard, tmp_path, followers=[Warner()])
    assert (summary.steps, summary.stopped_because) == (8, "all 4 epochs are done")
    assert (tmp_path / "best.safetensors").exists()


@pytest.mark.parametrize("earlier", [True, False])
def test_an_interruption_does_not_claim_to_have_saved_spoilt_weights(
    shard: Path, tmp_path: Path, earlier: bool
) -> None:
    network = Tiny()

    class Spoiler(Follower):
        def stepped(self, step: int, *_: float) -> None:
            if step == 2:
                os.kill(os.getpid(), signal.SIGUSR1)
            if step == 3:
                with torch.no_grad():
                    network.layers[0].weight.fill_(math.nan)  # type: ignore[operator]
                if not earlier:
                    (tmp_path / "last.ckpt").unlink()

    with pytest.raises(InterruptedTrainingError, match="after 3 steps") as error:
        run(shard, tmp_path, network=lambda: network, followers=[Spoiler()])
    assert "they are saved" not in error.value.what
    assert "the last of which has spoilt the weights" in error.value.what
    assert ("has them as they were before" in error.value.what) == earlier
    assert ("nothing is saved yet" in error.value.what) != earlier
    if earlier:
        content = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert content["state"]["step"] == 2


def test_a_frozen_encoder_keeps_its_weights_until_its_epochs_are_over(
    shard: Path, tmp_path: Path
) -> None:
    network = WithEncoder()
    first = {name: weight.detach().clone() for name, weight in network.encoder.named_parameters()}
    means = [0.0]
    frozen: list[bool] = []

    class Watcher(Follower):
        def validated(self, told: Any) -> None:
            now = network.encoder.state_dict()
            frozen.append(all(torch.equal(now[k], v) for k, v in first.items()))
            means.append(float(now["1.running_mean"][0]))

    settings = SETTINGS.model_copy(update={"freeze_encoder": 2, "encoder_rate": 0.1})
    run(shard, tmp_path, settings, network=lambda: network, followers=[Watcher()])
    assert frozen == [True, True, False, False]
    assert len(set(means)) == 5  # statistics follow the images all the time
    assert not torch.equal(network.encoder.state_dict()["0.weight"], first["0.weight"])


def test_a_network_without_an_encoder_cannot_freeze_it(shard: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"training\.freeze_encoder"):
        run(shard, tmp_path, SETTINGS.model_copy(update={"freeze_encoder": 1}))


def test_followers_are_told_of_steps_validations_and_the_end(shard: Path, tmp_path: Path) -> None:
    told: list[Any] = []

    class Teller(Follower):
        def stepped(self, step: int, *_: float) -> None:
            told.append(step)

        def validated(self, validation: Any) -> None:
            told.append(validation)

        def closed(self) -> None:
            told.append("end")

    settings = SETTINGS.model_copy(update={"epochs": 2, "sample_tiles": 3})
    run(shard, tmp_path, settings, followers=[Teller()])
    assert [t if isinstance(t, int | str) else "validation" for t in told] == [
        1, 2, "validation", 3, 4, "validation", "end",
    ]  # fmt: skip
    last = told[-2]
    assert last.matrix.sum() == 4 * 30 * SIDE
    assert list(last.classes) == list(CLASSES)
    assert len(last.rows) == 2
    assert last.row is last.rows[-1]
    assert last.samples.names == ["sheet a, tile 8", "sheet a, tile 10", "sheet a, tile 11"]
    assert last.samples.images.shape == (3, 3, SIDE, SIDE)
    tile = ShardReader(shard).read(10)
    assert (last.samples.labels[1] == tile.label).all()
    assert last.samples.predictions.max() < 3
    assert 33 <= last.samples.confidences.min() <= last.samples.confidences.max() <= 100
    assert 0 <= last.row["waiting"] <= 1
    assert 0 < last.row["train_accuracy"] <= 1


def test_a_follower_may_end_the_training(shard: Path, tmp_path: Path) -> None:
    ended: list[bool] = []

    class Pruner(Follower):
        def validated(self, _: Any) -> None:
            raise StopTraining("pruned")

        def closed(self) -> None:
            ended.append(True)

    with pytest.raises(StopTraining, match="pruned"):
        run(shard, tmp_path, followers=[Pruner()])
    assert ended == [True]
    assert len(curves(tmp_path)) == 1
