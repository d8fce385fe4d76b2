"""Event files: what TensorBoard reads from them, also of a training that was killed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.errors import OutputError
from pipeline.following import Samples, Validation
from pipeline.tensorboard_log import TensorBoardLog

CLASSES, COLORS = ("road", "water & $"), ("#108040", "#0000FF")
MATRIX = np.array([[9, 1], [0, 0]])


def row(step: int, **changes: Any) -> dict[str, Any]:
    return {
        "epoch": step / 10,
        "step": step,
        "train_loss": 1.0 / step,
        "val_loss": 2.0 / step,
        "train_accuracy": 0.9,
        "val_accuracy": 0.5,
        "val_miou": 0.25,
        "learning_rate": 0.001,
        "tiles_per_second": 40.0,
        "waiting": 0.01,
        "val_iou_road": 0.25,
        "val_iou_water & $": None,
    } | changes


def validation(number: int, samples: Samples | None = None) -> Validation:
    rows = [row(10 * n) for n in range(1, number + 1)]
    return Validation(rows[-1], rows, MATRIX, CLASSES, False, samples)


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def points(folder: Path, tag: str) -> dict[int, Any]:
    found = read(folder).Scalars(tag)
    assert len({event.step for event in found}) == len(found), "a step shows twice"
    return {event.step: pytest.approx(event.value) for event in found}


def test_scores_of_a_validation(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, COLORS)
    log.validated(validation(1))
    log.closed()
    expected = {
        "loss/training": 0.1,
        "loss/validation": 0.2,
        "accuracy/training": 0.9,
        "accuracy/validation": 0.5,
        "mean_iou/validation": 0.25,
        "iou/00 road": 0.25,
        "learning_rate/validation": 0.001,
        "speed/tiles_per_second": 40.0,
        "speed/waiting": 0.01,
        "epoch/epoch": 1.0,
    }
    # Water is not on the validation ground: it has no IoU.
    assert set(read(tmp_path).Tags()["scalars"]) == set(expected)
    for tag, value in expected.items():
        assert points(tmp_path, tag) == {10: value}, tag


def test_steps_are_summed_up(tmp_path: Path) -> None:
    seconds: Iterator[float] = iter([0.0, 0.5, 1.0, 2.5, 3.0])
    log = TensorBoardLog(tmp_path, COLORS, clock=lambda: next(seconds))
    for step, loss in enumerate((5.0, 1.0, 2.0, 6.0, 9.0), start=1):
        log.stepped(step, loss, 0.001, 10.0 * step, 0.02)
    log.closed()
    assert points(tmp_path, "loss/step") == {1: 5.0, 4: 3.0}
    assert points(tmp_path, "speed/step_tiles_per_second") == {1: 10.0, 4: 30.0}


def test_a_resumed_training_shows_no_step_twice(tmp_path: Path) -> None:
    first = TensorBoardLog(tmp_path, COLORS, clock=iter(range(0, 1000, 10)).__next__)
    for number in (1, 2, 3):
        for step in range(10 * number - 9, 10 * number + 1):
            first.stepped(step, 1.0, 0.001, 40.0, 0.0)
        first.validated(validation(number))
    # Killed: not closed. Its last checkpoint is of step 20, and it goes on from there.
    second = TensorBoardLog(tmp_path, COLORS, clock=iter(range(0, 1000, 10)).__next__)
    for step in range(21, 31):
        second.stepped(step, 2.0, 0.001, 40.0, 0.0)
    assert points(tmp_path, "loss/validation") == {10: 0.2, 20: 0.1}
    second.validated(validation(3))
    second.closed()
    assert points(tmp_path, "loss/validation") == {10: 0.2, 20: 0.1, 30: 2 / 30}
    steps = points(tmp_path, "loss/step")
    assert list(steps) == list(range(1, 31))
    assert (steps[20], steps[21]) == (1.0, 2.0)


def test_pictures_come_at_powers_of_two_and_at_the_end(tmp_path: Path) -> None:
    ids = np.zeros((1, 64, 64), np.uint8)
    samples = Samples(["tile"], np.zeros((1, 3, 64, 64), np.uint8), ids, ids, ids)
    log = TensorBoardLog(tmp_path, COLORS)
    for number in range(1, 7):
        log.validated(validation(number, samples))
    log.closed()
    events = read(tmp_path)
    assert set(events.Tags()["images"]) == {"samples", "confusion/by_reference"}
    for tag in events.Tags()["images"]:
        assert [event.step for event in events.Images(tag)] == [10, 20, 40, 60]
    drawn = Image.open(io.BytesIO(events.Images("samples")[0].encoded_image_string))
    assert drawn.width == 2 * 16 + 5 * 192 + 4 * 8


def test_a_training_that_never_began_leaves_nothing(tmp_path: Path) -> None:
    TensorBoardLog(tmp_path / "none", COLORS).closed()
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        TensorBoardLog(tmp_path / "file" / "log", COLORS).stepped(1, 1.0, 0.1, 1.0, 0.0)
