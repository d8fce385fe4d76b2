from __future__ import annotations

import csv
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline import checkpoint, training
from pipeline.batches import TileData
from pipeline.errors import TrainingError
from pipeline.grid import PixelGrid
from pipeline.objective import (
    AveragedNetwork,
    SegmentationTask,
    learning_rate_factor,
    loss_sums,
)
from pipeline.records import Runs, Tile, encode_tile, record_bound
from pipeline.sections import TrainingSettings
from pipeline.shards import LAYOUT, Manifest, ShardReader, ShardWriter, SplitCounts

CLASSES = ("water", "olives", "road")
SIDE = 32
SETTINGS = TrainingSettings(
    epochs=4, batch_size=4, workers=0, precision="float32", augment="aerial", learning_rate=0.01
)


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
) -> training.FitSummary:
    data = TileData([ShardReader(shard)], settings, seed=3)
    training.seed_weights(3)

    def card(scores: Mapping[str, Any]) -> checkpoint.ModelCard:
        return checkpoint.ModelCard(
            "unet", "resnet18", 3, data.pixel_size, data.classes, ("#000000",) * 3, "abc",
            data.mean, data.std, scores=dict(scores),
        )  # fmt: skip

    return training.fit(
        data, Tiny(), settings=settings, seed=3, folder=folder,
        fingerprint=fingerprint or settings.model_dump(mode="json"), make_card=card,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("training") / "a.lmdb")


@pytest.fixture
def always_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAVING_SHARE", math.inf)


def curves(folder: Path) -> list[dict[str, str]]:
    with (folder / "curves.csv").open() as file:
        return list(csv.DictReader(file))


def published(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "best.safetensors").read_bytes(), (folder / "curves.csv").read_bytes()


def test_loss_is_the_weighted_mean_over_labelled_pixels() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 4)
    labels = torch.randint(0, 3, (2, 4, 4), dtype=torch.uint8)
    labels[0, :2] = 255
    weights = torch.tensor([1.0, 0.5, 4.0])
    loss, weight = loss_sums(logits, labels, weights)
    expected = F.cross_entropy(logits, labels.long(), weights, ignore_index=255)
    torch.testing.assert_close(loss / weight, expected)
    assert float(weight) == pytest.approx(float(weights[labels[labels != 255].long()].sum()))


def test_a_batch_without_labels_has_no_loss_and_no_gradient() -> None:
    task = SegmentationTask(
        Tiny(), mean=(100.0,) * 3, std=(50.0,) * 3, class_weights=(1.0, 2.0, 3.0),
        learning_rate=0.1, weight_decay=0.0,
    )  # fmt: skip
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    loss = task.training_step((images, torch.full((2, 8, 8), 255, dtype=torch.uint8)))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0.0
    gradients = [p.grad for p in task.network.parameters() if p.grad is not None]
    assert len(gradients) == 6
    assert all(float(g.abs().max()) == 0.0 for g in gradients)


def test_only_weights_of_convolutions_decay() -> None:
    task = SegmentationTask(
        Tiny(), mean=(0.0,) * 3, std=(1.0,) * 3, class_weights=(1.0,) * 3,
        learning_rate=0.1, weight_decay=0.3,
    )  # fmt: skip
    decayed, free = task.configure_optimizers().param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert [p.ndim for p in decayed["params"]] == [4, 4]
    assert [p.ndim for p in free["params"]] == [1, 1, 1, 1]


def test_learning_rate_rises_then_falls_to_zero() -> None:
    factors = [learning_rate_factor(p / 100) for p in range(101)]
    assert 0 < factors[0] < 0.05
    top = int(np.argmax(factors))
    assert 3 <= top <= 6
    assert factors[top] > 0.98
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert factors[100] == 0.0
    assert learning_rate_factor(1.3) == 0.0


def test_averaged_weights_by_hand() -> None:
    network = nn.BatchNorm1d(1)
    average = AveragedNetwork(network)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.running_mean.fill_(6.0)  # type: ignore[union-attr]
        network.num_batches_tracked.fill_(5)  # type: ignore[union-attr]
    average.update(network, 1)  # decay (1 + 1) / (10 + 1)
    state = average.network.state_dict()
    assert float(state["weight"]) == pytest.approx(1 * 2 / 11 + 3 * 9 / 11)
    assert float(state["running_mean"]) == pytest.approx(6 * 9 / 11)
    assert int(state["num_batches_tracked"]) == 5
    assert not average.network.training


def test_training_learns_and_leaves_weights_card_and_curves(shard: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(
        update={"epochs": 25, "augment": "geometric", "learning_rate": 0.05}
    )
    summary = run(shard, tmp_path, settings)
    assert (summary.epochs, summary.steps) == (25, 50)
    assert summary.stopped_because == "all 25 epochs are done"
    assert summary.best_scores["mean_iou"] > 0.8
    card = checkpoint.read_card(tmp_path / "best.safetensors")
    assert card.scores == summary.best_scores
    rows = curves(tmp_path)
    assert list(rows[0]) == [
        "epoch", "step", "train_loss", "val_loss", "val_accuracy", "val_miou", "learning_rate",
        "val_iou_water", "val_iou_olives", "val_iou_road",
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
    data = TileData([ShardReader(shard)], SETTINGS, seed=3)
    matrix = np.zeros((3, 3), np.int64)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
    for images, labels in data.val_dataloader():
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
    """Stands for a SIGKILL after an epoch."""


def kill_after(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    save = training._Run._save

    def saved_then_killed(self: training._Run, at_once: bool) -> None:
        save(self, at_once)
        if self.state.epoch == epoch:
            raise KilledError

    monkeypatch.setattr(training._Run, "_save", saved_then_killed)


@pytest.mark.usefixtures("always_saved")
@pytest.mark.parametrize(
    "limits", [{}, {"max_steps": 7}, {"patience": 1}], ids=["epochs", "max_steps", "patience"]
)
def test_a_killed_run_ends_with_the_same_bytes(
    shard: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    limits: dict[str, Any],
) -> None:
    settings = SETTINGS.model_copy(update=limits)
    whole = run(shard, tmp_path / "whole", settings)
    for epoch in (1, 2):
        with monkeypatch.context() as patch:
            kill_after(patch, epoch)
            with pytest.raises(KilledError):
                run(shard, tmp_path / "killed", settings)
    # Snakemake removes the results of a job that failed; what is needed is in last.ckpt.
    for name in ("best.safetensors", "curves.csv"):
        (tmp_path / "killed" / name).unlink()
    torch.rand(5)
    with caplog.at_level(logging.INFO, "pipeline"):
        resumed = run(shard, tmp_path / "killed", settings)
    assert resumed == whole
    assert published(tmp_path / "killed") == published(tmp_path / "whole")
    assert ("going on after epoch 2" in caplog.text) == (whole.epochs > 2)


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


@pytest.mark.usefixtures("always_saved")
def test_a_loss_that_is_no_number_ends_training_and_keeps_the_best(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = SegmentationTask.training_step
    calls = 0

    def spoiled(self: SegmentationTask, batch: Any, batch_idx: int = 0) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return step(self, batch) * (math.nan if calls > 3 else 1.0)

    monkeypatch.setattr(SegmentationTask, "training_step", spoiled)
    with pytest.raises(TrainingError, match="the loss is nan after 3 steps") as error:
        run(shard, tmp_path)
    assert "epoch 1, mIoU" in error.value.items[0]
    assert "learning_rate" in error.value.remedy
    assert checkpoint.read_card(tmp_path / "best.safetensors").scores["epoch"] == 1
    assert len(curves(tmp_path)) == 1


def test_patience_ends_training(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = training._Run._scores

    def falling(self: training._Run) -> dict[str, Any]:
        return scores(self) | {"mean_iou": 1 / self.state.epoch}

    monkeypatch.setattr(training._Run, "_scores", falling)
    settings = SETTINGS.model_copy(update={"epochs": 9, "patience": 3})
    summary = run(shard, tmp_path, settings)
    assert (summary.best_epoch, summary.epochs) == (1, 4)
    assert summary.stopped_because == "validation mIoU has not risen for 3 epochs"


class Clock:
    """A clock that a step moves on by five seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(("steps_an_epoch", "validated"), [(2, 4), (80, 4)])
def test_a_run_limited_by_time_anneals_and_validates_at_its_end(
    shard: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps_an_epoch: int,
    validated: int,
) -> None:
    clock = Clock()
    monkeypatch.setattr(training, "time", clock)
    monkeypatch.setattr(training, "ROUNDS", 3)
    step = training._Run._step

    def slow(self: training._Run, *arguments: Any) -> float:
        clock.now += 5.0
        return step(self, *arguments)

    monkeypatch.setattr(training._Run, "_step", slow)
    batch = 4 if steps_an_epoch == 2 else 1
    settings = SETTINGS.model_copy(update={"epochs": 1000, "max_minutes": 2.0, "batch_size": batch})
    if steps_an_epoch == 80:
        order = TileData.train_dataloader

        def long(self: TileData) -> Any:
            loader = order(self)
            loader.sampler.tiles = 8  # type: ignore[attr-defined]
            return _Repeated(loader, 10)

        monkeypatch.setattr(TileData, "train_dataloader", long)
    summary = run(shard, tmp_path, settings)
    assert summary.steps == 24  # 2 minutes of 5 s
    assert summary.stopped_because == "max_minutes (2) is reached"
    rows = curves(tmp_path)
    scored = [row for row in rows if row["val_miou"]]
    assert rows[-1]["val_miou"]
    assert 3 <= len(scored) <= validated
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates[-1] < 0.01 * SETTINGS.learning_rate
    assert max(rates) > 0.5 * SETTINGS.learning_rate


class _Repeated:
    """An epoch that is as long as several."""

    def __init__(self, loader: Any, times: int) -> None:
        self.loader, self.times, self.sampler = loader, times, loader.sampler

    def __len__(self) -> int:
        return len(self.loader) * self.times

    def __iter__(self) -> Any:
        for _ in range(self.times):
            yield from self.loader
