"""The search for better settings: an Optuna study in a file that any number of workers share.

The study is a journal on the shared file system, so that jobs on many nodes work on it without a
server. What they must not do at the same time is to choose the next trial: it is chosen under a
lock, whence there are never more trials than asked for and no cell of a grid is tried twice. A
trial whose worker has died is taken up by another, from the checkpoint in its folder.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline import heartbeats, search_space, tuning_methods
from pipeline.errors import SettingsError, TrainingError
from pipeline.following import Follower, StopTraining, Validation
from pipeline.heartbeats import Heartbeat, Watch
from pipeline.tuning_study import Search, alone, opened

COLUMNS = {"mean_iou": "val_miou", "overall_accuracy": "val_accuracy", "loss": "val_loss"}
"""Metric -> its column in the curves."""

FAILURES = (TrainingError, SettingsError, MemoryError, RuntimeError, ValueError)
"""What a trial's own settings may cause: divergence, too little memory (torch's error is a
``RuntimeError``), arguments that a network or an optimiser does not take. The search goes on."""

FIRST_FAILURES = 3
"""If so many trials fail before any succeeds, it is not for their settings."""

logger = logging.getLogger(__name__)

Train = Callable[[int, Mapping[str, Any], Sequence[Follower]], Mapping[str, Any]]
"""Trains a trial: its number, its settings by dotted name, who follows; gives the scores of its
best weights, by metric."""


def work(search: Search, train: Train, *, worker: int = 1, most: int | None = None) -> int:
    """Join a study, or start it, and train until all of its trials are done or somebody's.

    Args:
        search: The search.
        train: Trains a trial; see :data:`Train`. It may be called again for a trial that a killed
            worker has begun, and then goes on in the same folder.
        worker: Number of this worker, for the record.
        most: Most trials of this worker; None for no limit.

    Returns:
        Trials that this worker has ended: complete, pruned or failed.

    Raises:
        SettingsError: If nothing is searched, the folder has a study of other settings or data, or
            this is one of several processes that were started as one training.
        TrainingError: If the study's file cannot be read, or the first trials all fail.
    """
    _check_alone()
    study = _Study(search, worker)
    ended: list[str] = []
    while most is None or len(ended) < most:
        trial = study.next()
        if trial is None:
            break
        ended.append(study.run(trial, train))
        # What a failed trial held would be in the next one's way.
        gc.collect()
        if len(ended) == FIRST_FAILURES and all(ended) and not study.succeeded():
            raise TrainingError(
                f"The first {FIRST_FAILURES} trials of this worker failed, and no other succeeded.",
                ended,
                "Mend the settings that are not searched, or the space; then remove "
                f"{search.folder} and start again.",
            )
    return len(ended)


class _Reporter(Follower):
    """Reports a training's validations to the study, and ends it where it is pruned.

    Attributes:
        pruned: Whether it did.
        lost: Whether another worker has taken up the trial.
    """

    def __init__(self, study: _Study, trial: optuna.Trial) -> None:
        self._study, self._trial = study, trial
        self.pruned = self.lost = False

    def validated(self, validation: Validation) -> None:
        column = COLUMNS[self._study.search.settings.metric]
        values = [row[column] for row in validation.rows if row.get(column) is not None]
        known = self._study.now(self._trial.number)
        if known.user_attrs.get("owner") != self._study.owner:
            self.lost = True
            raise StopTraining(f"trial {known.number} is another worker's by now")
        # Of a trial that was taken up, validations that were saved but not told any more, too.
        for step, value in enumerate(values, start=1):
            if step not in known.intermediate_values:
                self._trial.report(value, step)
        if self._trial.should_prune():
            self.pruned = True
            raise StopTraining(f"trial {known.number} is pruned")


class _Study:
    """The study as one worker sees it."""

    def __init__(self, search: Search, worker: int) -> None:
        if not search.axes:
            raise SettingsError(
                "tuning.space: names no setting to search.",
                remedy="configs/tuning.yaml is an example.",
            )
        self.search = search
        self.owner = {"worker": worker, **heartbeats.this_process()}
        self._watch = Watch()
        self._distributions = {
            key: tuning_methods.distribution(axis) for key, axis in search.axes.items()
        }
        search.folder.mkdir(parents=True, exist_ok=True)
        with alone(search):
            self._study = opened(search)

    def trials(self) -> list[FrozenTrial]:
        """All trials, as they stand now."""
        return self._study.get_trials(deepcopy=False)

    def now(self, number: int) -> FrozenTrial:
        """A trial as it stands now."""
        return self.trials()[number]

    def succeeded(self) -> bool:
        """Whether any trial gave a score."""
        good = (TrialState.COMPLETE, TrialState.PRUNED)
        return any(trial.state in good for trial in self.trials())

    def next(self) -> optuna.Trial | None:
        """The next trial for this worker; None if all are done, or in other workers' hands.

        Waits while it is not known whether those live.
        """
        while True:
            with alone(self.search):
                trials = self.trials()
                running = [trial for trial in trials if trial.state == TrialState.RUNNING]
                states = {trial.number: self._state(trial) for trial in running}
                for trial in running:
                    if states[trial.number] == "gone":
                        return self._claimed(self._taken_up(trial))
                waiting = any(trial.state == TrialState.WAITING for trial in trials)
                if waiting or len(trials) < self.search.limit:
                    return self._claimed(self._asked(trials))
            unknown = [number for number, state in states.items() if state == "unknown"]
            if not unknown:
                if running:
                    logger.info("%d trials are still running in other workers", len(running))
                return None
            logger.info("Waiting for signs of life of trials %s", ", ".join(map(str, unknown)))
            time.sleep(heartbeats.BEAT / 2)

    def run(self, trial: optuna.Trial, train: Train) -> str:
        """Train a trial and tell the study how it went.

        Returns:
            Why it failed; empty if it did not.
        """
        number, search = trial.number, self.search
        settings = {key: axis.value(trial.params[key]) for key, axis in search.axes.items()}
        told = ", ".join(f"{key} {_plain(value)}" for key, value in settings.items())
        logger.info("Trial %d of %d: %s", number, search.limit, told)
        follower = _Reporter(self, trial)
        began, failure, scores = time.monotonic(), "", {}
        try:
            with Heartbeat(self._beat(number)):
                scores = dict(train(number, settings, [follower]))
        except StopTraining as stop:
            logger.info("%s", stop)
        except FAILURES as error:
            failure = str(error) or type(error).__name__
        except BaseException:
            # A signal, a full disk: not the trial's fault, and anybody may go on with it at once.
            if not follower.lost:
                trial.set_user_attr("owner", None)
            raise
        score = scores.get(search.settings.metric)
        value = math.nan if score is None else float(score)
        if not failure and not follower.pruned and not math.isfinite(value):
            failure = f"{search.settings.metric} is {value}"
        with alone(self.search):
            if follower.lost or self.now(number).user_attrs.get("owner") != self.owner:
                logger.warning("Trial %d was taken up by another worker", number)
                return ""
            seconds = self.now(number).user_attrs.get("seconds", 0.0)
            trial.set_user_attr("seconds", round(seconds + time.monotonic() - began, 1))
            if failure:
                trial.set_user_attr("message", failure)
                self._study.tell(trial, state=TrialState.FAIL)
                logger.warning("Trial %d failed: %s", number, failure)
            elif follower.pruned:
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                trial.set_user_attr("scores", json.loads(json.dumps(scores)))
                self._study.tell(trial, value)
                logger.info("Trial %d: %s %.4f", number, search.settings.metric, value)
            self._tidy()
        return failure

    def _state(self, trial: FrozenTrial) -> heartbeats.State:
        owner = trial.user_attrs.get("owner")
        # Who asks for a trial owns it before anybody else may look, unless it was killed between.
        if owner is None or owner == self.owner or heartbeats.has_ended(owner):
            return "gone"
        key = (trial.number, *sorted(owner.items()))
        return self._watch.state(key, self._beat(trial.number))

    def _beat(self, number: int) -> Path:
        return self.search.trial_folder(number) / "alive"

    def _asked(self, trials: Sequence[FrozenTrial]) -> optuna.Trial:
        """A new trial, or one that was chosen by a worker that died before it could begin."""
        waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
        if self.search.settings.sampler == "grid" and not waiting:
            taken = [t.system_attrs.get("fixed_params", t.params) for t in trials]
            free = (cell for cell in self._cells() if cell not in taken)
            self._study.enqueue_trial(next(free))
        number = min(waiting, default=len(trials))
        self._choose_with(number)
        return self._study.ask()

    def _choose_with(self, number: int) -> None:
        settings, seed = self.search.settings, self.search.seed
        self._study.sampler = tuning_methods.sampler(settings, seed, number)

    def _cells(self) -> Iterator[dict[str, Any]]:
        cells = list(
            search_space.cells({key: axis.labels() for key, axis in self.search.axes.items()})
        )
        # Mixed: a search that is not finished has seen all of the grid, not one side of it.
        random.Random(self.search.seed).shuffle(cells)
        return iter(cells)

    def _taken_up(self, trial: FrozenTrial) -> optuna.Trial:
        logger.warning("Trial %d was left by its worker and is taken up", trial.number)
        self._choose_with(trial.number)
        return optuna.Trial(self._study, trial._trial_id)

    def _claimed(self, trial: optuna.Trial) -> optuna.Trial:
        # The sign of life comes first: an owner without one would be watched in vain.
        heartbeats.touch(self._beat(trial.number))
        trial.set_user_attr("owner", self.owner)
        for key, among in self._distributions.items():
            tuning_methods.suggest(trial, key, among)
        return trial

    def _tidy(self) -> None:
        """Keep the weights of the best trial alone, and checkpoints of those that run."""
        trials = self.trials()
        good = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        best = self._study.best_trial.number if good else None
        for trial in trials:
            if trial.state.is_finished():
                folder = self.search.trial_folder(trial.number)
                patterns = ["*.ckpt"] if trial.number == best else ["*.ckpt", "*.safetensors"]
                for path in itertools.chain.from_iterable(map(folder.glob, patterns)):
                    path.unlink(missing_ok=True)


def _check_alone() -> None:
    several = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    if several or "TORCHELASTIC_RUN_ID" in os.environ:
        raise SettingsError(
            "A worker of a search is one process; srun or torchrun has started several as one.",
            remedy="Start each worker by itself: in a job of its own, or by `srun --ntasks 1`.",
        )


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
