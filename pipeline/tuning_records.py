"""A study as plain values: what its page, its pictures and its tables tell."""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
import yaml
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from pipeline import search_space
from pipeline.errors import TrainingError
from pipeline.search_space import Axis
from pipeline.sections import TrainingSettings
from pipeline.tuning_study import Search, alone, opened

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}

ENOUGH = 10
"""Complete trials from which on anything can be said of what matters."""

_GOOD = 0.25
"""Share of the trials that count as good. Of ten simulated trials with noise, in which one setting
of three mattered, nine searches in ten found it so; with a tenth as good, four in five."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes:
        number: Its number, from 0 on.
        state: ``complete``, ``pruned``, ``failed`` or ``running``.
        value: Its score; of a pruned trial the last one, NaN where there is none.
        labels: What was chosen, as the study stores it, by dotted name.
        settings: The same as settings.
        validations: Scores by number of the validation.
        seconds: Time it took, all workers together; NaN where nobody knows.
        worker: Number of the worker that ended it, if any has begun it.
        message: Why it failed.
    """

    number: int
    state: str
    value: float
    labels: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    validations: Mapping[int, float] = field(default_factory=dict)
    seconds: float = math.nan
    worker: int | None = None
    message: str = ""


@dataclass(frozen=True)
class StudyRecord:
    """A study.

    Attributes:
        metric: ``mean_iou``, ``overall_accuracy`` or ``loss``.
        axes: What is searched, by dotted name.
        limit: Trials that there are to be.
        trials: Those there are, by number.
        importances: Share of each setting in what makes trials good; empty where too few are
            complete.
    """

    metric: str
    axes: Mapping[str, Axis]
    limit: int
    trials: Sequence[TrialRecord]
    importances: Mapping[str, float] = field(default_factory=dict)

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return -1 if self.metric == "loss" else 1

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the best score; of equal ones the first."""
        done = self.of("complete")
        return max(done, key=lambda trial: self.sign * trial.value) if done else None

    def of(self, *states: str) -> list[TrialRecord]:
        """Trials in one of the states."""
        return [trial for trial in self.trials if trial.state in states]

    def best_so_far(self) -> list[tuple[int, float]]:
        """Number of each complete trial, and the best score up to it."""
        found: list[tuple[int, float]] = []
        for trial in self.of("complete"):
            before = found[-1][1] if found else -self.sign * math.inf
            found.append((trial.number, self.sign * max(self.sign * trial.value,
                                                        self.sign * before)))  # fmt: skip
        return found


def read(search: Search) -> StudyRecord:
    """Read the study of a search as it stands now.

    Raises:
        TrainingError: If there is none yet, or its file cannot be read.
        SettingsError: If it is of other settings, data or space.
    """
    if not search.journal.exists():
        raise TrainingError(
            f"{search.journal}: there is no study yet.",
            remedy="`python -m pipeline tune` starts one, and so does `snakemake tuning`.",
        )
    with alone(search):
        study = opened(search)
    return StudyRecord(
        metric=search.settings.metric,
        axes=search.axes,
        limit=search.limit,
        trials=[_record(trial, search.axes) for trial in study.get_trials(deepcopy=False)],
        importances=_importances(study, search.axes),
    )


def best_yaml(study: StudyRecord, folder: str, training: TrainingSettings) -> str:
    """The best trial's settings as a settings file to be read behind the run's own.

    Args:
        study: The study.
        folder: Where the study is, for the comment.
        training: Of the run. Mappings of two files are merged: what the best trial has not of
            the run's own is taken out by null.

    Raises:
        TrainingError: If no trial is complete.
    """
    best = study.best
    if best is None:
        failed = [f"trial {trial.number}: {trial.message}" for trial in study.of("failed")]
        raise TrainingError(
            f"{folder}: no trial is complete, so there are no best settings.",
            failed,
            "Mend what made them fail, or allow more trials.",
        )
    chosen = search_space.nested(best.settings)
    for name in ("loss", "optimizer_options"):
        own, tried = getattr(training, name), chosen.get("training", {}).get(name)
        if isinstance(tried, str):
            tried = {tried: 1.0}
        if isinstance(tried, dict):
            chosen["training"][name] = {**tried, **dict.fromkeys(own.keys() - tried.keys())}
    text = yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True)
    return (
        f"# Best of {len(study.trials)} trials in {folder}: trial {best.number}, {study.metric} "
        f"{best.value:.4f} on the validation ground.\n"
        f"# snakemake --cores 4 --configfile my_run.yaml {folder}/best.yaml\n"
        f"{text}"
    )


def table_csv(study: StudyRecord) -> str:
    """All trials, one a line."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(
        ["trial", "state", study.metric, *study.axes, "validations", "seconds", "worker", "message"]
    )
    for trial in study.trials:
        cells = [trial.number, trial.state, trial.value]
        cells += [trial.labels.get(key) for key in study.axes]
        cells += [len(trial.validations), trial.seconds, trial.worker, trial.message]
        writer.writerow([_cell(cell) for cell in cells])
    return table.getvalue()


def _record(trial: FrozenTrial, axes: Mapping[str, Axis]) -> TrialRecord:
    attributes = trial.user_attrs
    values = trial.values or [math.nan]
    chosen = {key: trial.params[key] for key in axes if key in trial.params}
    return TrialRecord(
        number=trial.number,
        state=STATES[trial.state],
        value=values[0],
        labels=chosen,
        settings={key: axes[key].value(stored) for key, stored in chosen.items()},
        validations=dict(sorted(trial.intermediate_values.items())),
        seconds=attributes.get("seconds", math.nan),
        worker=(attributes.get("owner") or {}).get("worker"),
        message=attributes.get("message", ""),
    )


def _importances(study: optuna.Study, axes: Mapping[str, Axis]) -> dict[str, float]:
    """How much each setting matters for a trial to be among the best.

    Source:
        Watanabe et al. (2023), PED-ANOVA.
    """
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < ENOUGH or len({trial.value for trial in done}) < 2:
        return {}
    with warnings.catch_warnings():
        # Of few trials in a part of the space; the page says so to people.
        warnings.simplefilter("ignore", UserWarning)
        evaluator = PedAnovaImportanceEvaluator(target_quantile=_GOOD)
        found = get_param_importances(study, evaluator=evaluator)
    return {key: share for key, share in found.items() if key in axes and not math.isnan(share)}


def _cell(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value
