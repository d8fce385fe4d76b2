"""The search by its commands: real trainings of a tiny shard, killed, gone on with, told."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from pipeline import config, stages
from pipeline.errors import InputError, SettingsError, TrainingError
from tests.test_training import CLASSES, write_shard
from tests.test_tuning import states, study

ROOT = Path(__file__).resolve().parents[1]

# Trials in this order: a random search draws them from the run's seed and their numbers alone.
SPACE = {
    "training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "training.loss": ["cross_entropy", {"cross_entropy": 1, "dice": 1}],
    "augmentation.preset": ["none", "geometric"],
}


def settings_file(folder: Path, **changes: Any) -> Path:
    """Settings, sheets and the shard of a run that is ready to train."""
    nomenclature = {
        "classes": [
            {"name": name, "covers": [cover], "color": color}
            for name, cover, color in zip(
                CLASSES, ("ACU", "LOL", "VAP"), ("#0000FF", "#808000", "#404040"), strict=True
            )
        ],
        "ignore": ["*"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.yaml").write_text(yaml.safe_dump(nomenclature, sort_keys=False), "utf-8")
    (folder / "sheets.csv").write_text(
        "sheet,orthophoto,siose,split\na,a.tif,base.gpkg,train\n", "utf-8"
    )
    values: dict[str, Any] = {
        "run": str(folder / "run"),
        "sheets": str(folder / "sheets.csv"),
        "nomenclature": str(folder / "classes.yaml"),
        "training": {
            "network": "enet", "epochs": 1, "batch_size": 4,
            "workers": 0, "precision": "float32",
        },
        "tuning": {"space": SPACE, "sampler": "random", "pruner": "none", "trials": 3},
    }  # fmt: skip
    for section, keys in changes.items():
        values[section] |= keys
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    return path


def opened(path: Path) -> stages.Run:
    run = stages.Run(config.load(path))
    shard = run.paths.shard("a")
    if not shard.exists():
        shard.parent.mkdir(parents=True)
        manifest = write_shard(shard) / "manifest.json"
        text = manifest.read_text("utf-8")
        manifest.write_text(text.replace('"abc"', f'"{run.nomenclature.fingerprint}"'), "utf-8")
    return run


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> stages.Run:
    """A search of three trials by two workers, one after the other, with its page."""
    run = opened(settings_file(tmp_path_factory.mktemp("tune")))
    stages.tune(run, worker=1, most=2)
    stages.tune(run, worker=2)
    stages.tuning_report(run)
    return run


def test_trials_train_as_the_run_does_each_in_its_folder(searched: stages.Run) -> None:
    folder = searched.paths.tuning
    done = study(folder)
    assert states(folder) == ["COMPLETE"] * 3
    assert [trial.user_attrs["owner"]["worker"] for trial in done.trials] == [1, 1, 2]
    for trial in done.trials:
        lines = (searched.paths.trial(trial.number) / "curves.csv").read_text("utf-8").splitlines()
        row = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
        assert len(lines) == 2
        assert trial.intermediate_values == {1: pytest.approx(float(row["val_miou"]), rel=1e-5)}
        assert trial.value == pytest.approx(float(row["val_miou"]), rel=1e-5)
    assert "ended 1 of 3 trials" in searched.paths.tuning_worker(2).read_text("utf-8")
    weights = sorted(path.parent.name for path in folder.rglob("*.safetensors"))
    assert weights == [f"{done.best_trial.number:04d}"]
    assert not list(folder.rglob("*.ckpt"))


def test_the_best_settings_are_a_settings_file(searched: stages.Run) -> None:
    path = searched.paths.best_settings
    best = study(searched.paths.tuning).best_trial
    run = config.load(searched.settings.run.parent / "run.yaml", path)
    assert run.training.learning_rate == best.params["training.learning_rate"]
    assert run.augmentation.preset == best.params["augmentation.preset"]
    loss = best.params["training.loss"]
    assert run.training.loss == (json.loads(loss) if "{" in loss else {loss: 1.0})
    assert run.training.epochs == 1
    assert f"trial {best.number}, mean_iou" in path.read_text("utf-8").splitlines()[0]


def test_the_page_and_the_table_have_all_trials(searched: stages.Run) -> None:
    page = searched.paths.tuning_report.read_text("utf-8")
    best = study(searched.paths.tuning).best_trial
    assert f"The best, trial {best.number}," in page
    assert page.count('<th scope="row">') == 3
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    lines = searched.paths.tuning_table.read_text("utf-8").splitlines()
    assert lines[0].startswith("trial,state,mean_iou,training.learning_rate,training.loss,")
    assert len(lines) == 4


def test_other_shards_are_another_study(searched: stages.Run) -> None:
    manifest = searched.paths.shard("a") / "manifest.json"
    text = manifest.read_text("utf-8")
    manifest.write_text(text.replace('"pixel_width": 0.5', '"pixel_width": 0.25'), "utf-8")
    assert manifest.read_text("utf-8") != text
    try:
        with pytest.raises(SettingsError, match="other settings, data or space") as caught:
            stages.tune(searched)
    finally:
        manifest.write_text(text, "utf-8")
    assert [item.split(":")[0] for item in caught.value.items] == ["shards.a"]


def test_other_settings_are_another_study_unless_they_are_searched(searched: stages.Run) -> None:
    path = searched.settings.run.parent / "run.yaml"
    before = path.read_text("utf-8")
    try:
        settings_file(path.parent, training={"epochs": 2})
        with pytest.raises(SettingsError) as caught:
            stages.tune(stages.Run(config.load(path)))
        assert caught.value.items == ("training.epochs: 1 there, 2 now",)
        settings_file(path.parent, training={"learning_rate": 0.5, "sample_tiles": 1})
        stages.tune(stages.Run(config.load(path)))
    finally:
        path.write_text(before, "utf-8")
    assert states(searched.paths.tuning) == ["COMPLETE"] * 3


def test_what_cannot_be_trained_fails_and_the_others_go_on(tmp_path: Path) -> None:
    """Arguments that the optimiser does not take."""
    space = {"training.optimizer_options": [{}, {"betas": [2.0, 0.9]}]}
    run = opened(settings_file(tmp_path, tuning={"space": space, "sampler": "grid"}))
    stages.tune(run)
    found = {
        trial.params["training.optimizer_options"]: trial
        for trial in study(run.paths.tuning).trials
    }
    assert found["{}"].state.name == "COMPLETE"
    failed = found['{"betas": [2.0, 0.9]}']
    assert failed.state.name == "FAIL"
    assert "beta" in failed.user_attrs["message"]


def test_a_network_that_does_not_exist_is_told_before_any_trial(tmp_path: Path) -> None:
    path = settings_file(tmp_path, tuning={"space": {"training.network": ["unet", "unett"]}})
    with pytest.raises(SettingsError, match="did you mean 'unet'"):
        stages.tune(opened(path))
    assert not (tmp_path / "run" / "tuning").exists()


def test_a_page_of_nothing_is_told(tmp_path: Path) -> None:
    run = opened(settings_file(tmp_path))
    with pytest.raises(TrainingError, match="there is no study yet") as caught:
        stages.tuning_report(run)
    assert "snakemake tuning" in caught.value.remedy
    assert not run.paths.tuning.exists()


def test_missing_shards_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a shard"):
        stages.tune(stages.Run(config.load(settings_file(tmp_path))))


def test_a_search_whose_trials_all_failed_has_a_page_that_says_why(tmp_path: Path) -> None:
    space = {"training.optimizer_options": [{"betas": [2.0, 0.9]}, {"betas": [3.0, 0.9]}]}
    run = opened(settings_file(tmp_path, tuning={"space": space, "sampler": "grid"}))
    stages.tune(run)
    with pytest.raises(TrainingError, match="no trial is complete") as caught:
        stages.tuning_report(run)
    assert len(caught.value.items) == 2
    assert "beta" in run.paths.tuning_report.read_text("utf-8")
    assert not run.paths.best_settings.exists()


def test_a_killed_command_goes_on_with_its_trial_from_its_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGKILL in the middle of a trial; the same command ends the trial that it began."""
    space = {"training.learning_rate": [0.01, 0.001]}
    path = settings_file(
        tmp_path, training={"epochs": 12}, tuning={"space": space, "sampler": "grid", "trials": 2}
    )
    run = opened(path)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "tune", "--config", str(path)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    curves, folder = run.paths.trial(0) / "curves.csv", run.paths.tuning
    deadline = time.monotonic() + 120
    while not (curves.exists() and len(curves.read_text("utf-8").splitlines()) > 4):
        assert process.poll() is None, "ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert states(folder) == ["RUNNING"]
    before = study(folder).trials[0].intermediate_values
    assert len(before) >= 3
    with caplog.at_level(logging.INFO):
        stages.tune(run, most=1)
    assert "was left by its worker and is taken up" in caplog.text
    assert "going on after" in caplog.text
    (after,) = study(folder).trials
    assert after.state == optuna.trial.TrialState.COMPLETE
    assert list(after.intermediate_values) == list(range(1, 13))
    assert {step: after.intermediate_values[step] for step in before} == before
