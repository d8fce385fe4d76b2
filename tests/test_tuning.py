"""The search for better settings: one study, many workers, killed and gone on with."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import pytest
from optuna.trial import TrialState

from pipeline import heartbeats, search_space, tuning, tuning_methods, tuning_study
from pipeline.errors import OutputError, SettingsError, TrainingError
from pipeline.following import Follower, StopTraining, Validation
from pipeline.search_space import Axis
from pipeline.sections import AugmentationSettings, TrainingSettings, TuningSettings
from pipeline.tuning_study import Search

SECTIONS = {"training": TrainingSettings(), "augmentation": AugmentationSettings()}
SPACE = {
    "training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "training.batch_size": {"low": 2, "high": 8, "step": 2},
    "training.loss": ["dice", {"cross_entropy": 1, "dice": 0.5}],
}
GRID = {"training.batch_size": [2, 4, 8], "training.schedule": ["cosine", "constant"]}


def search(folder: Path, space: Mapping[str, Any] = SPACE, **changes: Any) -> Search:
    fingerprint = changes.pop("fingerprint", {"data": "a"})
    seed = changes.pop("seed", 0)
    settings = TuningSettings.model_validate({"space": space, "sampler": "random", **changes})
    return Search(
        folder=folder,
        trial_folder=lambda number: folder / "trials" / f"{number:04d}",
        settings=settings,
        axes=search_space.axes(settings, SECTIONS),
        seed=seed,
        validations=4,
        fingerprint=fingerprint,
    )


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def study(folder: Path) -> optuna.Study:
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    )
    return optuna.load_study(study_name="tuning", storage=storage)


def states(folder: Path) -> list[str]:
    return [trial.state.name for trial in study(folder).trials]


def told(followers: Sequence[Follower], values: Sequence[float], begin: int = 0) -> None:
    """Validate as a training does, one value after the other."""
    rows = [{"val_miou": value, "epoch": n} for n, value in enumerate(values, start=1)]
    for count in range(begin + 1, len(rows) + 1):
        validation = Validation(
            rows[count - 1], rows[:count], np.zeros((2, 2), np.int64), ("a", "b"), False, None
        )
        for follower in followers:
            follower.validated(validation)


class Trainer:
    """Scores that depend on the settings, and a record of what was trained."""

    def __init__(self, score: Callable[[Mapping[str, Any]], float] | None = None) -> None:
        self.score = score or (lambda settings: 1.0 - settings["training.learning_rate"])
        self.trained: list[tuple[int, dict[str, Any]]] = []

    def __call__(
        self, number: int, settings: Mapping[str, Any], followers: Sequence[Follower]
    ) -> dict[str, float]:
        self.trained.append((number, dict(settings)))
        value = self.score(settings)
        told(followers, [value / 2, value])
        return {"mean_iou": value, "overall_accuracy": 0.5, "loss": 1.0}


def test_a_study_ends_with_its_trials_and_goes_on_when_there_are_to_be_more(
    tmp_path: Path,
) -> None:
    trainer = Trainer()
    assert tuning.work(search(tmp_path, trials=3), trainer, most=2) == 2
    assert tuning.work(search(tmp_path, trials=3), trainer) == 1
    assert tuning.work(search(tmp_path, trials=3), trainer) == 0
    assert tuning.work(search(tmp_path, trials=5), trainer) == 2
    assert [number for number, _ in trainer.trained] == [0, 1, 2, 3, 4]
    done = study(tmp_path)
    assert [t.value for t in done.trials] == [
        1.0 - settings["training.learning_rate"] for _, settings in trainer.trained
    ]
    first = done.trials[0].values[0]
    assert done.trials[0].intermediate_values == {1: first / 2, 2: first}
    assert done.trials[0].user_attrs["scores"]["overall_accuracy"] == 0.5


def test_settings_are_within_the_space_and_as_a_training_takes_them(tmp_path: Path) -> None:
    trainer = Trainer()
    tuning.work(search(tmp_path, trials=12), trainer)
    tried = [settings for _, settings in trainer.trained]
    assert all(1e-4 <= settings["training.learning_rate"] <= 1e-1 for settings in tried)
    sizes = [settings["training.batch_size"] for settings in tried]
    assert set(sizes) == {2, 4, 6, 8}
    assert all(isinstance(size, int) for size in sizes)
    losses = [json.dumps(settings["training.loss"]) for settings in tried]
    assert set(losses) == {'"dice"', '{"cross_entropy": 1, "dice": 0.5}'}
    rates = np.log10([settings["training.learning_rate"] for settings in tried])
    assert rates.min() < -3
    assert rates.max() > -2


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
def test_a_trial_has_the_same_settings_whoever_chooses_them(tmp_path: Path, sampler: str) -> None:
    """The worker, its number and its restarts change nothing; another seed does."""
    space = GRID if sampler == "grid" else SPACE

    def tried(folder: Path, seed: int, parts: int) -> list[dict[str, Any]]:
        trainer = Trainer(lambda settings: 0.1 * settings["training.batch_size"])
        wanted = search(folder, space, sampler=sampler, trials=6, pruner="none", seed=seed)
        for worker in range(parts):
            tuning.work(wanted, trainer, worker=worker, most=6 // parts)
        return [settings for _, settings in trainer.trained]

    one = tried(tmp_path / "one", 3, 1)
    assert one == tried(tmp_path / "three", 3, 3)
    assert one != tried(tmp_path / "other", 4, 1)
    assert len({json.dumps(settings) for settings in one}) == 6


def test_a_grid_has_each_cell_once_and_ends(tmp_path: Path) -> None:
    trainer = Trainer(lambda settings: 0.1 * settings["training.batch_size"])
    wanted = search(tmp_path, GRID, sampler="grid", trials=50, pruner="none")
    assert wanted.limit == 6
    assert tuning.work(wanted, trainer) == 6
    cells = [tuple(settings.values()) for _, settings in trainer.trained]
    assert sorted(cells) == [
        (size, schedule) for size in (2, 4, 8) for schedule in ("constant", "cosine")
    ]
    assert cells != sorted(cells)  # mixed


def test_tpe_learns_from_the_others(tmp_path: Path) -> None:
    space = {"training.learning_rate": {"low": 0.0001, "high": 1.0}}
    trainer = Trainer(lambda settings: 1 - abs(settings["training.learning_rate"] - 0.7))
    tuning.work(search(tmp_path, space, sampler="tpe", trials=24, pruner="none"), trainer)
    rates = [settings["training.learning_rate"] for _, settings in trainer.trained]
    # A fifth of the range, and of trials at random.
    assert np.mean(np.abs(np.array(rates[12:]) - 0.7) < 0.1) >= 0.5


def test_a_bad_trial_is_pruned_and_the_search_goes_on(tmp_path: Path) -> None:
    ended: list[int] = []

    def train(
        number: int, settings: Mapping[str, Any], followers: Sequence[Follower]
    ) -> dict[str, float]:
        level = 0.1 if number == 6 else 0.5 + 0.01 * number
        told(followers, [level + 0.01 * step for step in range(4)])
        ended.append(number)
        return {"mean_iou": level}

    tuning.work(search(tmp_path, trials=8, pruner="median"), train)
    assert states(tmp_path) == ["COMPLETE"] * 6 + ["PRUNED", "COMPLETE"]
    assert ended == [0, 1, 2, 3, 4, 5, 7]
    # The first two validations never prune.
    assert list(study(tmp_path).trials[6].intermediate_values) == [1, 2]


@pytest.mark.parametrize("pruner", ["successive_halving", "hyperband"])
def test_halving_ends_most_trials_early_and_keeps_the_best(tmp_path: Path, pruner: str) -> None:
    lengths: dict[int, int] = {}

    def train(
        number: int, settings: Mapping[str, Any], followers: Sequence[Follower]
    ) -> dict[str, float]:
        value = 0.9 if number == 11 else 0.5 - 0.01 * number
        for step in range(1, 28):
            lengths[number] = step
            told(followers, [value] * step, begin=step - 1)
        return {"mean_iou": value}

    wanted = search(tmp_path, trials=18, pruner=pruner)
    wanted = Search(**{**vars(wanted), "validations": 27})
    tuning.work(wanted, train)
    assert Counter(states(tmp_path))["PRUNED"] >= 8
    assert lengths[11] == 27
    assert study(tmp_path).best_trial.number == 11
    assert sum(lengths.values()) < 0.6 * 18 * 27


def test_metrics_name_their_columns_and_the_least_loss_is_best(tmp_path: Path) -> None:
    def train(
        number: int, settings: Mapping[str, Any], followers: Sequence[Follower]
    ) -> dict[str, float]:
        row = {"val_miou": 0.1, "val_accuracy": 0.2, "val_loss": 3.0 - number}
        validation = Validation(row, [row], np.zeros((2, 2), np.int64), ("a", "b"), True, None)
        followers[0].validated(validation)
        return {"mean_iou": 0.1, "overall_accuracy": 0.2, "loss": 3.0 - number}

    space = {"training.learning_rate": [0.1, 0.2]}
    tuning.work(search(tmp_path, space, trials=3, metric="loss"), train)
    done = study(tmp_path)
    assert [t.intermediate_values for t in done.trials] == [{1: 3.0}, {1: 2.0}, {1: 1.0}]
    assert done.best_trial.number == 2


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TrainingError("Training diverged: the loss is nan."), "Training diverged"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out of memory"),
        (MemoryError(), "MemoryError"),
        (SettingsError("unet has no encoder 'mit_b0'."), "no encoder"),
    ],
)
def test_a_failed_trial_is_recorded_with_its_message_and_the_search_goes_on(
    tmp_path: Path, error: Exception, message: str
) -> None:
    def train(
        number: int, settings: Mapping[str, Any], followers: Sequence[Follower]
    ) -> dict[str, float]:
        if number in (0, 1):
            raise error
        return {"mean_iou": 0.0}

    assert tuning.work(search(tmp_path, trials=4), train) == 4
    assert states(tmp_path) == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert message in study(tmp_path).trials[0].user_attrs["message"]


def test_a_score_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    scores = iter([math.nan, None, 0.5])
    tuning.work(search(tmp_path, trials=3), lambda *_: {"mean_iou": next(scores)})
    assert states(tmp_path) == ["FAIL", "FAIL", "COMPLETE"]
    assert study(tmp_path).trials[0].user_attrs["message"] == "mean_iou is nan"


def test_a_search_whose_first_trials_all_fail_stops(tmp_path: Path) -> None:
    calls: list[int] = []

    def train(number: int, *_: object) -> dict[str, float]:
        calls.append(number)
        raise RuntimeError(f"no such thing {number}")

    with pytest.raises(TrainingError, match="first 3 trials") as caught:
        tuning.work(search(tmp_path, trials=20), train)
    assert calls == [0, 1, 2]
    assert caught.value.items == ("no such thing 0", "no such thing 1", "no such thing 2")


def test_what_is_not_the_trials_fault_leaves_it_to_others(tmp_path: Path) -> None:
    """A full disk stops the worker; the next one goes on with the same trial."""
    trainer = Trainer()
    tuning.work(search(tmp_path, trials=3), trainer, most=1)

    def full(number: int, settings: Mapping[str, Any], followers: Sequence[Follower]) -> Any:
        trainer.trained.append((number, dict(settings)))
        told(followers, [0.3])
        raise OutputError("the disk is full")

    with pytest.raises(OutputError):
        tuning.work(search(tmp_path, trials=3), full)
    assert states(tmp_path) == ["COMPLETE", "RUNNING"]
    assert tuning.work(search(tmp_path, trials=3), trainer) == 2
    assert states(tmp_path) == ["COMPLETE"] * 3
    assert [number for number, _ in trainer.trained] == [0, 1, 1, 2]
    assert trainer.trained[1] == trainer.trained[2]
    # What was reported stays.
    assert study(tmp_path).trials[1].intermediate_values[1] == 0.3


def test_validations_that_a_killed_worker_saved_and_did_not_report_are_reported(
    tmp_path: Path,
) -> None:
    def train(
        number: int, settings: Mapping[str, Any], followers: Sequence[Follower]
    ) -> dict[str, float]:
        told(followers, [0.1, 0.2, 0.3], begin=2)  # goes on behind the second epoch
        return {"mean_iou": 0.3}

    tuning.work(search(tmp_path, trials=1), train)
    assert study(tmp_path).trials[0].intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3}


def test_a_study_of_other_settings_is_refused(tmp_path: Path) -> None:
    first = {"data": {"shards": "abc"}, "training": {"epochs": 3, "network": "unet"}}
    tuning.work(search(tmp_path, trials=1, fingerprint=first), Trainer())
    other = {"data": {"shards": "abd"}, "training": {"epochs": 4, "network": "unet"}}
    with pytest.raises(SettingsError, match="other settings, data or space") as caught:
        tuning.work(search(tmp_path, trials=2, fingerprint=other), Trainer())
    assert caught.value.items == (
        "data.shards: 'abc' there, 'abd' now",
        "training.epochs: 3 there, 4 now",
    )
    assert str(tmp_path) in caught.value.remedy
    assert states(tmp_path) == ["COMPLETE"]
    # Who chooses and who stops may change.
    again = search(tmp_path, trials=2, fingerprint=first, sampler="tpe", pruner="hyperband")
    assert tuning.work(again, Trainer()) == 1


def test_nothing_to_search_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="names no setting") as caught:
        tuning.work(search(tmp_path, {}), Trainer())
    assert "configs/tuning.yaml" in caught.value.remedy
    assert not (tmp_path / "study.journal").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("SLURM_STEP_NUM_TASKS", "4"), ("TORCHELASTIC_RUN_ID", "x")]
)
def test_a_worker_is_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="is one process"):
        tuning.work(search(tmp_path), Trainer())
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert tuning.work(search(tmp_path, trials=1), Trainer()) == 1


def test_a_line_that_a_full_disk_cut_off_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tuning.work(search(tmp_path, trials=2), Trainer(), most=1)
    journal = tmp_path / "study.journal"
    with journal.open("a") as file:
        file.write('{"op_code":4,"worker')
    with caplog.at_level(logging.WARNING):
        assert tuning.work(search(tmp_path, trials=2), Trainer()) == 1
    assert "its last line is incomplete" in caplog.text
    assert states(tmp_path) == ["COMPLETE"] * 2


def test_a_file_that_is_no_study_is_told(tmp_path: Path) -> None:
    (tmp_path / "study.journal").write_text("hello\nworld\n", "utf-8")
    with pytest.raises(TrainingError, match="is no journal of a study") as caught:
        tuning.work(search(tmp_path), Trainer())
    assert str(tmp_path) in caught.value.remedy


def test_weights_of_the_best_trial_alone_are_kept(tmp_path: Path) -> None:
    def train(
        number: int, settings: Mapping[str, Any], followers: Sequence[Follower]
    ) -> dict[str, float]:
        folder = tmp_path / "trials" / f"{number:04d}"
        for name in ("best.safetensors", "last.ckpt", "curves.csv"):
            (folder / name).touch()
        return {"mean_iou": [0.5, 0.7, 0.6][number]}

    tuning.work(search(tmp_path, trials=3), train)
    left = {
        path.relative_to(tmp_path / "trials").as_posix()
        for path in (tmp_path / "trials").rglob("*")
        if path.is_file() and path.name != "alive"
    }
    assert left == {"0000/curves.csv", "0001/curves.csv", "0001/best.safetensors",
                    "0002/curves.csv"}  # fmt: skip


SCRIPT = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.test_tuning import GRID, SPACE, search, told
from pipeline import tuning, tuning_methods

folder, worker, workers, kind, trials, seconds = sys.argv[1:]
folder = Path(folder)
sampler = tuning_methods.sampler

def slowly(*arguments):
    time.sleep(0.05)  # between looking at the trials and choosing one
    return sampler(*arguments)

tuning_methods.sampler = slowly

def train(number, settings, followers):
    with (folder / "trained.txt").open("a") as file:
        file.write(json.dumps([worker, number, settings]) + "\\n")
    told(followers, [0.1])
    time.sleep(float(seconds))
    told(followers, [0.1, 0.2], begin=1)
    return {{"mean_iou": 0.2}}

space = GRID if kind == "grid" else SPACE
wanted = search(folder, space, sampler=kind, trials=int(trials), pruner="none")
(folder / f"{{worker}}.ready").touch()
while len(list(folder.glob("*.ready"))) < int(workers):
    time.sleep(0.005)
print(tuning.work(wanted, train, worker=int(worker)))
"""


def started(
    folder: Path, worker: int, workers: int, kind: str, trials: int, seconds: float
) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT).format(tests=str(root)), str(folder),
         *map(str, (worker, workers, kind, trials, seconds))],
        cwd=root, stdout=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip


def trained(folder: Path) -> list[tuple[str, int, dict[str, Any]]]:
    path = folder / "trained.txt"
    if not path.exists():
        return []
    return [tuple(json.loads(line)) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(("kind", "trials"), [("grid", 6), ("random", 7)])
def test_two_processes_share_a_study_and_no_trial_is_too_many(
    tmp_path: Path, kind: str, trials: int
) -> None:
    workers = [started(tmp_path, number, 2, kind, trials, 0.02) for number in (1, 2)]
    counts = [int(worker.communicate(timeout=60)[0]) for worker in workers]
    assert sum(counts) == trials
    tried = trained(tmp_path)
    assert sorted(number for _, number, _ in tried) == list(range(trials))
    assert len({json.dumps(settings) for *_, settings in tried}) == trials
    assert states(tmp_path) == ["COMPLETE"] * trials
    owners = {t.user_attrs["owner"]["worker"] for t in study(tmp_path).trials}
    assert owners == {int(worker) for worker, *_ in tried}


def test_a_trial_of_a_killed_worker_is_taken_up(tmp_path: Path) -> None:
    worker = started(tmp_path, 1, 1, "random", 3, 60)
    deadline = time.monotonic() + 60
    while not trained(tmp_path):
        assert worker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert states(tmp_path) == ["RUNNING"]
    trainer = Trainer()
    assert tuning.work(search(tmp_path, trials=3, pruner="none"), trainer, worker=2) == 3
    assert trainer.trained[0] == tuple(trained(tmp_path)[0][1:])
    assert states(tmp_path) == ["COMPLETE"] * 3


def other_host(folder: Path, number: int = 0) -> None:
    """A trial that another node's worker has begun."""
    wanted = search(folder, trials=2)

    def begin(number: int, *_: object) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuning.work(wanted, begin)
    opened = study(folder)
    trial = opened.trials[number]
    owner = {**heartbeats.this_process(), "worker": 7, "host": "another"}
    opened._storage.set_trial_user_attr(trial._trial_id, "owner", owner)


def test_a_worker_of_another_node_that_gives_no_sign_of_life_is_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_host(tmp_path)
    monkeypatch.setattr(heartbeats, "BEAT", 0.05)
    monkeypatch.setattr(heartbeats, "GRACE", 0.3)
    trainer = Trainer()
    assert tuning.work(search(tmp_path, trials=2), trainer) == 2
    # The free trial first; the silent one when there is nothing else to do.
    assert [number for number, _ in trainer.trained] == [1, 0]


def test_a_worker_of_another_node_that_lives_keeps_its_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_host(tmp_path)
    monkeypatch.setattr(heartbeats, "BEAT", 0.05)
    trainer = Trainer()
    with heartbeats.Heartbeat(tmp_path / "trials" / "0000" / "alive"):
        assert tuning.work(search(tmp_path, trials=2), trainer) == 1
    assert [number for number, _ in trainer.trained] == [1]
    assert states(tmp_path) == ["RUNNING", "COMPLETE"]


def test_a_worker_whose_trial_was_taken_up_lets_it_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that hung comes back after another has gone on with its trial."""

    def train(
        number: int, settings: Mapping[str, Any], followers: Sequence[Follower]
    ) -> dict[str, float]:
        told(followers, [0.1])
        opened = study(tmp_path)
        owner = {**heartbeats.this_process(), "worker": 2}
        trial = opened.trials[number]
        opened._storage.set_trial_user_attr(trial._trial_id, "owner", owner)
        with pytest.raises(StopTraining):
            told(followers, [0.1, 0.2], begin=1)
        return {"mean_iou": 0.2}

    tuning.work(search(tmp_path, trials=1), train, worker=1, most=1)
    assert "taken up by another worker" in caplog.text
    assert states(tmp_path) == ["RUNNING"]
    assert study(tmp_path).trials[0].intermediate_values == {1: 0.1}


def test_a_process_of_this_host_is_known_to_have_ended() -> None:
    me = heartbeats.this_process()
    assert not heartbeats.has_ended(me)
    assert heartbeats.has_ended({**me, "began": me["began"] - 100})  # its number, used again
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert heartbeats.has_ended({**me, "pid": child.pid})
    assert not heartbeats.has_ended({**me, "pid": child.pid, "host": "another"})
    assert not heartbeats.has_ended({**me, "pid": child.pid, "processes": "pid:[1]"})


def test_a_process_lives_on_when_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    me = heartbeats.this_process()
    before = psutil.boot_time()
    # Linux moves the time at which it says it was started, as it knows how long it has run.
    monkeypatch.setattr("psutil._psplatform.boot_time", lambda: before + 3600)
    assert not heartbeats.has_ended(me)


def test_signs_of_life_are_watched_without_clocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    path, watch = tmp_path / "alive", heartbeats.Watch()
    heartbeats.touch(path)
    os.utime(path, (5, 5))  # of a node whose clock is far behind
    assert watch.state("a", path) == "unknown"
    now[0] += 100
    assert watch.state("a", path) == "unknown"
    os.utime(path, (25, 25))
    assert watch.state("a", path) == "alive"
    now[0] += heartbeats.GRACE
    assert watch.state("a", path) == "alive"
    now[0] += 1
    assert watch.state("a", path) == "gone"
    assert watch.state("b", path) == "unknown"


def test_ranges_and_lists_are_optunas_distributions() -> None:
    kinds = optuna.distributions
    cases: list[tuple[Axis, kinds.BaseDistribution]] = [
        (Axis(1e-4, 1e-1, log=True), kinds.FloatDistribution(1e-4, 1e-1, log=True)),
        (Axis(0.0, 0.35, step=0.1), kinds.FloatDistribution(0.0, 0.3, step=0.1)),
        (Axis(2, 9, step=3.0, whole=True), kinds.IntDistribution(2, 8, step=3)),
        (Axis(2, 64, log=True, whole=True), kinds.IntDistribution(2, 64, log=True)),
        (Axis(choices={"a": "a", None: None}), kinds.CategoricalDistribution(["a", None])),
    ]
    for axis, expected in cases:
        assert tuning_methods.distribution(axis) == expected


def test_pruners_know_the_length_of_a_training() -> None:
    halving = tuning_methods.pruner("successive_halving", 64)
    assert vars(halving)["_min_resource"] == 4
    hyperband = tuning_methods.pruner("hyperband", 50)
    assert vars(hyperband)["_max_resource"] == 50
    assert vars(tuning_methods.pruner("hyperband", None))["_max_resource"] == "auto"
    assert isinstance(tuning_methods.pruner("none", 50), optuna.pruners.NopPruner)


@pytest.mark.filterwarnings("ignore:The value of `grace_period`")
def test_the_lock_of_a_killed_worker_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_study, "LOCK_GRACE", 1)
    for name in ("choosing.lock", "study.journal.lock"):
        (tmp_path / name).touch()
    assert tuning.work(search(tmp_path, trials=1), Trainer()) == 1
    assert study(tmp_path).trials[0].state == TrialState.COMPLETE
