"""What a search tells: records, tables, best settings, pictures, page."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from pipeline import tuning, tuning_figures, tuning_records, tuning_report
from pipeline.errors import TrainingError
from pipeline.following import Follower
from pipeline.search_space import Axis
from pipeline.sections import TrainingSettings
from pipeline.tuning_records import StudyRecord, TrialRecord
from tests.test_tuning import search, told

BOTH = {"cross_entropy": 1, "dice": 0.5}
AXES = {
    "training.learning_rate": Axis(1e-4, 1e-1, log=True),
    "training.batch_size": Axis(2, 16, step=2.0, whole=True),
    "training.loss": Axis(choices={"dice": "dice", '{"cross_entropy": 1, "dice": 0.5}': BOTH}),
    "training.gradient_clip": Axis(choices={None: None, 1.0: 1.0}),
    "training.average_weights": Axis(choices={True: True, False: False}),
}


def trial(number: int, state: str, value: float = math.nan, **changes: Any) -> TrialRecord:
    labels = {
        "training.learning_rate": 10.0 ** (-1 - number / 3),
        "training.batch_size": 2 + 2 * (number % 8),
        "training.loss": list(AXES["training.loss"].choices)[number % 2],
        "training.gradient_clip": [None, 1.0][number % 2],
        "training.average_weights": number % 2 == 0,
    }
    settings = {key: AXES[key].value(label) for key, label in labels.items()}
    values = {"labels": labels, "settings": settings, "seconds": 61.0, "worker": 1}
    return TrialRecord(number, state, value, **{**values, **changes})


def record(metric: str = "mean_iou", **changes: Any) -> StudyRecord:
    trials = [
        trial(0, "complete", 0.5, validations={1: 0.3, 2: 0.5}),
        trial(1, "pruned", 0.2, validations={1: 0.2}),
        trial(2, "failed", message="Training diverged: the loss is <nan> & more."),
        trial(3, "complete", 0.7, validations={1: 0.4, 2: 0.7}),
        trial(4, "complete", 0.6, validations={1: 0.4, 2: 0.6}),
        trial(5, "running", labels={}, settings={}, seconds=math.nan, worker=None),
    ]
    values: dict[str, Any] = {
        "axes": AXES, "limit": 8, "trials": trials,
        "importances": {"training.learning_rate": 0.75, "training.loss": 0.25},
    }  # fmt: skip
    return StudyRecord(metric, **{**values, **changes})


RUN = TrainingSettings(loss={"focal": 1.0, "dice": 0.5})
"""Of the run whose settings were searched."""

OUT = dict.fromkeys(RUN.loss.keys() - BOTH.keys())


def page(study: StudyRecord) -> str:
    best = tuning_records.best_yaml(study, "run/a/tuning", RUN) if study.best else ""
    return tuning_report.render(study, "a <b>", "tuning: {}\n", best)


def test_the_best_is_the_highest_score_or_the_least_loss() -> None:
    more, less = record(), record("loss")
    assert more.best is more.trials[3]
    assert less.best is less.trials[0]
    assert more.best_so_far() == [(0, 0.5), (3, 0.7), (4, 0.7)]
    assert less.best_so_far() == [(0, 0.5), (3, 0.5), (4, 0.5)]
    equal = [trial(0, "complete", 0.5), trial(1, "complete", 0.5)]
    assert record(trials=equal).best is equal[0]


def test_best_settings_are_sections_with_the_settings_values() -> None:
    text = tuning_records.best_yaml(record(), "run/a/tuning", RUN)
    assert yaml.safe_load(text) == {
        "training": {
            "learning_rate": 0.01, "batch_size": 8, "loss": {**BOTH, **OUT}, "gradient_clip": 1.0,
            "average_weights": False,
        }
    }  # fmt: skip
    first, second, *_ = text.splitlines()
    assert first.startswith("# Best of 6 trials in run/a/tuning: trial 3, mean_iou 0.7000 on ")
    assert second.endswith("--configfile my_run.yaml run/a/tuning/best.yaml")


def test_best_settings_replace_the_runs_own_loss_and_not_add_to_it() -> None:
    text = tuning_records.best_yaml(record(), "run/a/tuning", RUN)
    training = yaml.safe_load(text)["training"]
    under = {"loss": {"focal": 1.0, "dice": 0.5}}
    # As Snakemake merges files, and config.load: mappings key by key.
    merged = {**training, "loss": under["loss"] | training["loss"]}
    assert TrainingSettings(**merged).loss == BOTH


def test_without_a_complete_trial_it_is_told_why() -> None:
    failed = record(trials=[trial(0, "failed", message="no memory"), trial(1, "pruned", 0.1)])
    with pytest.raises(TrainingError, match="no trial is complete") as caught:
        tuning_records.best_yaml(failed, "run/a/tuning", RUN)
    assert caught.value.items == ("trial 0: no memory",)
    assert "no best settings" in page(failed)


def test_the_table_has_a_line_a_trial() -> None:
    rows = list(csv.DictReader(io.StringIO(tuning_records.table_csv(record()))))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert rows[3]["mean_iou"] == "0.7"
    assert rows[3]["training.loss"] == '{"cross_entropy": 1, "dice": 0.5}'
    assert rows[2]["mean_iou"] == ""
    assert rows[2]["message"] == "Training diverged: the loss is <nan> & more."
    assert rows[5]["worker"] == ""


def test_a_study_is_read_as_it_was_written(tmp_path: Path) -> None:
    def train(
        number: int, settings: Mapping[str, Any], followers: Sequence[Follower]
    ) -> dict[str, float]:
        if number == 1:
            raise RuntimeError("CUDA out of memory")
        value = 0.9 - abs(math.log10(settings["training.learning_rate"]) + 2) / 5
        told(followers, [value / 2, value])
        return {"mean_iou": value}

    space = {
        "training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "training.label_smoothing": {"low": 0.0, "high": 0.2},
        "training.loss": ["dice", BOTH],
    }
    wanted = search(tmp_path, space, trials=24, pruner="none", seed=1)
    tuning.work(wanted, train, worker=3)
    study = tuning_records.read(wanted)
    assert [t.state for t in study.trials] == ["complete", "failed"] + ["complete"] * 22
    assert {t.worker for t in study.trials} == {3}
    assert study.trials[1].message == "CUDA out of memory"
    first = study.trials[0]
    assert first.validations == {1: first.value / 2, 2: first.value}
    assert {type(t.settings["training.loss"]) for t in study.trials} == {str, dict}
    # Of the three only the learning rate does anything.
    assert max(study.importances, key=lambda key: study.importances[key]) == (
        "training.learning_rate"
    )
    assert sum(study.importances.values()) == pytest.approx(1)


def test_nothing_is_said_of_importances_where_nothing_can_be(tmp_path: Path) -> None:
    space = {"training.learning_rate": {"low": 1e-4, "high": 1e-1}}
    wanted = search(tmp_path, space, trials=12, pruner="none")
    tuning.work(wanted, lambda number, *_: {"mean_iou": 0.1 * number}, most=9)
    assert tuning_records.read(wanted).importances == {}  # too few
    wanted = search(tmp_path / "same", space, trials=12, pruner="none")
    tuning.work(wanted, lambda *_: {"mean_iou": 0.5})
    assert tuning_records.read(wanted).importances == {}  # all the same


def test_pictures_are_drawn_of_what_there_is() -> None:
    drawn = tuning_figures.panels(record())
    assert set(drawn) == {"history", "validations", "importances", "parallel", "slices"}
    for content in drawn.values():
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.width > 500
            # Not all white: something is drawn.
            assert min(picture.convert("L").tobytes()) < 60
    assert drawn == tuning_figures.panels(record())
    assert tuning_figures.panels(record(trials=[])) .keys() == {"importances"}  # fmt: skip
    assert set(tuning_figures.panels(record(trials=[trial(0, "failed")], importances={}))) == set()
    # One complete trial, one choice, one score: no axis has a length.
    one = {"training.loss": Axis(choices={"dice": "dice"})}
    alone = trial(0, "complete", 0.5, labels={"training.loss": "dice"})
    assert "parallel" in tuning_figures.panels(record(axes=one, trials=[alone], importances={}))


def test_the_page_tells_the_search_in_sentences() -> None:
    sentences = tuning_report.summary(record())
    assert sentences[0] == "6 trials of 8: 3 complete, 1 pruned, 1 failed and 1 running."
    assert sentences[1].replace("\u202f", " ") == (
        "The best, trial 3, has a mean IoU of 70.0 % on the validation ground, with "
        "training.learning_rate 0.01, training.batch_size 8, training.loss "
        '{"cross_entropy": 1, "dice": 0.5}, training.gradient_clip 1 and '
        "training.average_weights false."
    )
    assert "What matters most is training.learning_rate" in sentences[2]
    more = [trial(number, "complete", 0.1 * number) for number in range(5)]
    said = tuning_report.summary(record(trials=more))[2].replace("\u202f", " ")
    assert said == "Half of the complete trials are at 20.0 % or worse."
    assert tuning_report.summary(record(trials=[]))[0] == "No trial yet."
    assert "loss of 0.5 on" in tuning_report.summary(record("loss"))[1]


def test_the_page_has_all_trials_the_best_first_and_nothing_from_elsewhere() -> None:
    text = page(record())
    rows = re.findall(r'<tr[^>]*><th scope="row">(\d+)</th><td>(\w+)', text)
    assert rows == [
        ("3", "complete"), ("4", "complete"), ("0", "complete"), ("1", "pruned"),
        ("5", "running"), ("2", "failed"),
    ]  # fmt: skip
    assert "the loss is &lt;nan&gt; &amp; more." in text
    assert "a &lt;b&gt;" in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert "default-src 'none'" in text
    assert text.count("data:image/png;base64,") == 5
    assert "# Best of 6 trials" in text


def test_a_page_of_few_trials_says_what_is_missing() -> None:
    text = page(record(importances={}))
    assert "From 10 complete trials on" in text
