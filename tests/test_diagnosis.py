"""Findings fire where they should, and stay silent at the boundary and in the first epochs."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from pipeline import diagnosis
from pipeline.diagnosis import Diagnosis, Finding, findings
from pipeline.following import Validation, column

CLASSES = ("forest", "water")
GOOD = np.array([[9000, 1000], [1000, 9000]])


def curves(epochs: int, **columns: ArrayLike) -> list[dict[str, Any]]:
    """Lines of a training without fault, but for the columns that are given."""
    x = np.arange(1, epochs + 1)
    known: dict[str, Any] = {
        "epoch": x,
        "train_loss": 2 * 0.9**x,
        "val_loss": 2.2 * 0.9**x,
        "train_accuracy": 0.95 - 0.5 * 0.8**x,
        "val_accuracy": 0.92 - 0.5 * 0.8**x,
        "learning_rate": 0.001,
        "waiting": 0.0,
        "val_iou_forest": 0.8,
        "val_iou_water": 0.8,
    }
    known |= {name: np.asarray(values) for name, values in columns.items()}
    full = {name: np.broadcast_to(values, epochs).tolist() for name, values in known.items()}
    return [{name: values[i] for name, values in full.items()} for i in range(epochs)]


def kinds(rows: Sequence[dict[str, Any]], matrix: Any = GOOD) -> list[str]:
    return [finding.kind for finding in findings(rows, matrix, CLASSES)]


@pytest.mark.parametrize("epochs", [0, 1, 2, 5, 40])
def test_a_good_training_has_no_findings(epochs: int) -> None:
    assert kinds(curves(epochs)) == []


def test_a_gap_of_more_than_15_points_is_overfitting() -> None:
    assert kinds(curves(9, train_accuracy=0.9, val_accuracy=0.75)) == []
    rows = curves(9, train_accuracy=0.9, val_accuracy=0.749)
    (finding,) = findings(rows, GOOD, CLASSES)
    assert finding.kind == "overfitting"
    assert finding.what == (
        "Overfitting: accuracy is 90.0\u202f% on training ground and 74.9\u202f% on validation "
        "ground, a gap of 15.1 points at epoch 9."
    )
    assert "`training.weight_decay`" in finding.remedy


def test_one_bad_validation_is_no_overfitting() -> None:
    gaps = [0.05, 0.05, 0.05, 0.05, 0.05, 0.40]
    assert kinds(curves(6, train_accuracy=0.9, val_accuracy=0.9 - np.array(gaps))) == []
    gaps[-2] = 0.40
    assert kinds(curves(6, train_accuracy=0.9, val_accuracy=0.9 - np.array(gaps))) == [
        "overfitting"
    ]


@pytest.mark.parametrize(("epochs", "expected"), [(4, []), (5, ["overfitting"])])
def test_nothing_is_said_in_the_first_epochs(epochs: int, expected: list[str]) -> None:
    assert kinds(curves(epochs, train_accuracy=0.9, val_accuracy=0.5)) == expected


def test_epochs_without_validation_do_not_count() -> None:
    rows = curves(8, train_accuracy=0.9, val_accuracy=0.5)
    for row in rows[::2]:
        row["val_loss"] = row["val_accuracy"] = ""
    assert kinds(rows) == []
    assert kinds([*rows, rows[-1]]) == ["overfitting"]


@pytest.mark.parametrize(("top", "expected"), [(1.15, []), (1.16, ["rising_loss"])])
def test_a_validation_loss_that_rises_by_more_than_15_per_cent(
    top: float, expected: list[str]
) -> None:
    validation = [2.0, 1.0, 1.0, 1.0, 1.05, top, top, top]
    assert kinds(curves(8, val_loss=validation)) == expected


def test_the_rise_is_told_with_its_epoch() -> None:
    rows = curves(8, val_loss=[2.0, 1.0, 1.0, 1.0, 1.2, 1.5, 1.6, 1.7])
    (finding,) = findings(rows, GOOD, CLASSES)
    assert "since epoch 2 from 1 to 1.6, in training from 1.62 to 0.957" in finding.what


def test_a_rise_that_has_just_begun_or_is_in_training_too_is_no_finding() -> None:
    assert kinds(curves(7, val_loss=[2.0, 1.5, 1.2, 1.0, 1.0, 2.0, 2.0])) == []
    both = [2.0, 1.0, 1.0, 1.0, 1.2, 1.5, 1.6, 1.7]
    rows = curves(8, val_loss=both, train_loss=both, train_accuracy=0.9, val_accuracy=0.9)
    assert kinds(rows) == []


@pytest.mark.parametrize(
    ("last", "accuracy", "expected"),
    [
        (0.96, 0.5, ["underfitting"]),
        (0.95, 0.5, []),
        (0.96, 0.849, ["underfitting"]),
        (0.96, 0.85, []),  # flat because it has learnt
    ],
)
def test_a_loss_that_never_fell_is_underfitting(
    last: float, accuracy: float, expected: list[str]
) -> None:
    rows = curves(
        5, train_loss=[1.0, last, last, last, last], train_accuracy=accuracy, val_accuracy=accuracy
    )
    assert kinds(rows) == expected


@pytest.mark.parametrize(
    ("step", "rate", "expected"),
    [
        (0.985, 0.001, []),  # falls by 1.5 % over the window
        (0.995, 0.001, ["underfitting"]),
        (0.995, 0.0001, ["underfitting"]),
        (0.995, 0.00009, []),  # the schedule has come to its end
    ],
)
def test_losses_that_have_become_flat_are_underfitting(
    step: float, rate: float, expected: list[str]
) -> None:
    shape = np.array([1.0, 0.8, 0.6, 0.5, 0.5, 0.5, *[0.5 * step] * 3])
    rates = [*[0.001] * 8, rate]
    rows = curves(
        9,
        train_loss=shape,
        val_loss=shape,
        learning_rate=rates,
        train_accuracy=0.6,
        val_accuracy=0.6,
    )
    assert kinds(rows) == expected
    falling = [*shape[:6], 0.4, 0.4, 0.4]
    for row, loss in zip(rows, falling, strict=True):
        row["val_loss"] = loss
    assert kinds(rows) == []


def test_a_class_that_is_never_predicted() -> None:
    matrix = np.array([[9000, 0], [300, 0]])
    rows = curves(6, val_iou_water=0.0)
    (finding,) = findings(rows, matrix, CLASSES)
    assert (finding.kind, finding.subjects) == ("never_predicted", ("water",))
    assert "water (300 reference pixels)" in finding.what
    assert kinds(rows[:4], matrix) == []
    assert kinds(rows, np.array([[9000, 0], [0, 0]])) == []  # none there to predict
    assert kinds(rows, np.array([[8999, 1], [300, 0]])) == []
    rows[3]["val_iou_water"] = 0.2  # it was, two validations ago
    assert kinds(rows, matrix) == []


@pytest.mark.parametrize(
    ("best", "reference", "expected"),
    [
        (0.049, 1000, ["never_learnt"]),
        (0.05, 1000, []),
        (0.049, 999, []),
    ],
)
def test_a_class_that_was_never_learnt(best: float, reference: int, expected: list[str]) -> None:
    matrix = np.array([[9000, 500], [reference - 50, 50]])
    assert kinds(curves(5, val_iou_water=[0.0, best, 0.0, 0.0, 0.0]), matrix) == expected
    # Of many classes the curves alone tell as much, where the matrix is lost.
    learnt = kinds(curves(5, val_iou_water=[0.0, best, 0.0, 0.0, 0.0]), None)
    assert learnt == (["never_learnt"] if best < 0.05 else [])


@pytest.mark.parametrize(
    ("predicted", "expected"), [(3000, []), (3001, ["unequal_areas"]), (334, []),
                                (333, ["unequal_areas"])],
)  # fmt: skip
def test_a_class_that_is_predicted_three_times_too_often(
    predicted: int, expected: list[str]
) -> None:
    matrix = np.array([[50_000, predicted - 300], [700, 300]])
    assert kinds(curves(5), matrix) == expected
    for finding in findings(curves(5), matrix, CLASSES):
        times = "3" if predicted > 1000 else "0.33"
        assert finding.what.endswith(f"on validation ground: {times} times as much water.")


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [(0.02, []), (0.021, ["waiting"]), (0.05, ["waiting"]), (0.051, ["bottleneck"])],
)
def test_waiting_for_data(waiting: float, expected: list[str]) -> None:
    assert kinds(curves(4, waiting=[0.9, waiting, waiting, waiting])) == expected
    assert kinds(curves(3, waiting=[0.9, waiting, waiting])) == []


def test_curves_of_older_trainings_and_text_are_read() -> None:
    rows = curves(9, train_accuracy=0.9, val_accuracy=0.7)
    text = [{name: f"{value:.6g}" for name, value in row.items()} for row in rows]
    assert findings(text, GOOD, CLASSES) == findings(rows, GOOD, CLASSES)
    for row in text:
        del row["train_accuracy"], row["waiting"]
        row["val_iou_water"] = ""
    assert findings(text, None, CLASSES) == []
    with pytest.raises(ValueError, match="could not convert"):
        column([{"val_loss": "low"}], "val_loss")
    assert math.isnan(column([{"val_loss": math.inf}], "val_loss")[0])


def test_the_course_of_a_training_in_sentences() -> None:
    rows = curves(4, waiting=0.25, tiles_per_second=[10, 40, 42, 44], val_miou=[0.1, 0.5, 0.3, 0.2])
    rows = [row | {"epoch": row["epoch"] / 2, "step": 400 * row["epoch"]} for row in rows]
    trained, best, speed = diagnosis.course(rows)
    assert trained == "Trained for 2 epochs (1\u202f600 steps)."
    assert best == (
        "The maps are made with the weights of epoch 1, which did best on validation ground: "
        "mean IoU 50.0\u202f%, accuracy 60.0\u202f%."
    )
    assert (
        speed == "Training took in 41 tiles a second and waited for data 25.0\u202f% of the time."
    )
    assert diagnosis.course([{"epoch": "1", "train_loss": "0.5"}]) == ["Trained for 1 epoch."]
    assert diagnosis.course([]) == []


def test_silence_is_not_taken_for_health() -> None:
    assert diagnosis.silence(curves(4)).startswith("After 4 validations nothing can be said yet")
    assert diagnosis.silence(curves(5)).startswith("Nothing stands out.")


def test_a_follower_warns_once_and_writes_what_holds_now(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "findings.json"
    follower = Diagnosis(target)

    def validate(rows: Sequence[dict[str, Any]], matrix: Any = GOOD) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            follower.validated(Validation(rows[-1], rows, matrix, CLASSES, False, None))
        assert all(record.levelname == "WARNING" for record in caplog.records)
        return caplog.messages

    assert validate(curves(1)) == []
    assert json.loads(target.read_text("utf-8")) == []
    gap = curves(6, train_accuracy=0.9, val_accuracy=0.5)
    (said,) = validate(gap)
    assert said.startswith("Overfitting: ")
    assert said.endswith("take a smaller network.")
    assert validate(gap) == []
    rows = curves(7, train_accuracy=0.9, val_accuracy=0.5, val_iou_water=0.0)
    (said,) = validate(rows, np.array([[9000, 0], [2000, 0]]))
    assert said.startswith("Never predicted on validation ground: water")
    found = diagnosis.from_json(json.loads(target.read_text("utf-8")))
    assert [finding.kind for finding in found] == ["overfitting", "never_predicted"]
    assert found[1].subjects == ("water",)
    assert isinstance(found[0], Finding)
    assert validate(curves(8)) == []
    assert json.loads(target.read_text("utf-8")) == []
    follower.closed()
