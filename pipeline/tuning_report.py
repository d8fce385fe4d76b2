"""The page of a search: what was tried, what came of it, and the best settings to use.

Values in, text out; self-contained like the report, whose look it has.
"""

from __future__ import annotations

import math
from typing import Any

from pipeline import tuning_figures
from pipeline.numerals import listed, percent, plain, plural
from pipeline.reporting import page_environment
from pipeline.search_space import Axis
from pipeline.tuning_records import ENOUGH, StudyRecord, TrialRecord

METRICS = {"mean_iou": "mean IoU", "overall_accuracy": "overall accuracy", "loss": "loss"}
"""Metrics as people read them in a sentence."""


def render(study: StudyRecord, run: str, settings: str, best: str) -> str:
    """Write the page.

    Args:
        study: The study.
        run: Name of the run.
        settings: Section ``tuning`` as used, YAML.
        best: The best settings as a settings file; empty if no trial is complete.

    Returns:
        HTML, self-contained.
    """
    environment = page_environment()
    environment.filters["score"] = lambda value: _score(study, value)
    return environment.get_template("tuning.html.j2").render(
        study=study,
        run=run,
        summary=summary(study),
        metric=METRICS[study.metric],
        panels=tuning_figures.panels(study),
        best_text=best,
        settings=settings,
        enough=ENOUGH,
        rows=_rows(study),
        isnan=math.isnan,
    )


def summary(study: StudyRecord) -> list[str]:
    """The search in plain sentences."""
    counts = {name: len(study.of(name)) for name in ("complete", "pruned", "failed", "running")}
    parts = [f"{number} {name}" for name, number in counts.items() if number]
    tried = plural(len(study.trials), "trial")
    sentences = [f"{tried} of {study.limit}: {listed(parts)}." if parts else "No trial yet."]
    metric, best = METRICS[study.metric], study.best
    if best is None:
        sentences.append("No trial is complete, so there are no best settings.")
        return sentences
    chosen = [f"{key} {_plain(label)}" for key, label in best.labels.items()]
    sentences.append(
        f"The best, trial {best.number}, has a {metric} of {_score(study, best.value)} on the "
        f"validation ground, with {listed(chosen)}."
    )
    done = study.of("complete")
    if len(done) > 3:
        values = sorted((study.sign * trial.value for trial in done), reverse=True)
        middle = study.sign * values[len(values) // 2]
        sentences.append(f"Half of the complete trials are at {_score(study, middle)} or worse.")
    if study.importances:
        first, share = next(iter(study.importances.items()))
        sentences.append(
            f"What matters most is {first} ({percent(share)} of all that the settings do)."
        )
    return sentences


def _rows(study: StudyRecord) -> list[dict[str, Any]]:
    """Trials as the table has them: the best first, those without a score last."""

    def rank(trial: TrialRecord) -> tuple[int, float, int]:
        order = {"complete": 0, "pruned": 1, "running": 2, "failed": 3}[trial.state]
        score = 0.0 if math.isnan(trial.value) else -study.sign * trial.value
        return order, score, trial.number

    return [
        {
            "trial": trial,
            "best": trial is study.best,
            "labels": [_told(study.axes[key], trial, key) for key in study.axes],
            "validations": len(trial.validations),
        }
        for trial in sorted(study.trials, key=rank)
    ]


def _told(axis: Axis, trial: TrialRecord, key: str) -> str:
    if key not in trial.labels:
        return ""
    label = trial.labels[key]
    # "no" for false is the card's way; here it stands as one writes it in a settings file.
    return _plain(label) if not axis.choices or isinstance(label, float) else _yaml(label)


def _plain(label: object) -> str:
    return _yaml(label) if label is None or isinstance(label, bool | int) else plain(label)


def _yaml(label: object) -> str:
    return {None: "null", True: "true", False: "false"}.get(label, str(label))  # type: ignore[call-overload,no-any-return]


def _score(study: StudyRecord, value: float) -> str:
    if study.metric == "loss":
        return plain(value)
    return percent(value)
