"""Pictures of a search: its course, its trials, and what of the settings matters, as PNG."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.figures import own_style, png
from pipeline.search_space import Axis
from pipeline.tuning_records import StudyRecord, TrialRecord

METRICS = {
    "mean_iou": "mean IoU, per cent",
    "overall_accuracy": "overall accuracy, per cent",
    "loss": "loss",
}
"""Metrics as people read them."""

# Dark is good: what is light on white is what nobody looks for.
_SCALE = "viridis"
_BEST, _QUIET, _DONE = "#D55E00", "#9A9A9A", "#0072B2"
_WIDE, _SMALL = (8.0, 3.6), (5.2, 3.5)


def panels(study: StudyRecord) -> dict[str, bytes]:
    """All pictures that there is enough for.

    Args:
        study: The study.

    Returns:
        ``history``, ``validations``, ``importances``, ``parallel`` and ``slices`` -> PNG.
    """
    drawn: dict[str, bytes] = {}
    drawers: dict[str, tuple[bool, tuple[float, float], Callable[[Figure, StudyRecord], None]]] = {
        "history": (bool(_scored(study)), _SMALL, _history),
        "validations": (any(t.validations for t in study.trials), _SMALL, _validations),
        "importances": (
            bool(study.importances), (5.2, 1.2 + 0.32 * len(study.importances)), _importances
        ),
        "parallel": (
            bool(study.of("complete")), (max(8.0, 1.6 * (len(study.axes) + 1)), 4.2), _parallel
        ),
        "slices": (
            bool(study.of("complete")),
            (8.0, 2.6 * math.ceil(len(study.axes) / 3)),
            _slices,
        ),
    }  # fmt: skip
    with own_style():
        for name, (enough, size, draw) in drawers.items():
            if enough:
                figure = Figure(figsize=size, layout="constrained")
                draw(figure, study)
                drawn[name] = png(figure)
    return drawn


def scored(study: StudyRecord, value: float) -> float:
    """A score as it is drawn and told: shares in per cent."""
    return value if study.metric == "loss" else 100 * value


def _scored(study: StudyRecord) -> list[TrialRecord]:
    return [t for t in study.of("complete", "pruned") if math.isfinite(t.value)]


def _history(figure: Figure, study: StudyRecord) -> None:
    axes = _framed(figure.subplots(), "trial", METRICS[study.metric])
    done, pruned = study.of("complete"), [t for t in _scored(study) if t.state == "pruned"]
    axes.scatter(
        [t.number for t in pruned], [scored(study, t.value) for t in pruned],
        facecolors="none", edgecolors=_QUIET, s=22,
        label="pruned (its last score)" if pruned else None,
    )  # fmt: skip
    axes.scatter(
        [t.number for t in done], [scored(study, t.value) for t in done],
        color=_DONE, s=24, label="complete", zorder=3,
    )  # fmt: skip
    for number, trial in enumerate(study.of("failed")):
        label = "failed" if number == 0 else None
        axes.axvline(trial.number, color="#CC79A7", linewidth=1, linestyle=":", label=label)
    if best := study.best_so_far():
        numbers = [number for number, _ in best] + [max(t.number for t in study.trials)]
        values = [scored(study, value) for _, value in best]
        axes.step(
            numbers, [*values, values[-1]], where="post", color=_BEST, linewidth=1.4,
            label="best so far",
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    _legend(axes)


def _validations(figure: Figure, study: StudyRecord) -> None:
    axes = _framed(figure.subplots(), "validation", METRICS[study.metric])
    best = study.best
    order = sorted(study.trials, key=lambda t: t is best)
    kinds = {"complete": (_DONE, 1.0), "pruned": (_QUIET, 0.9)}
    told: set[str] = set()
    for trial in order:
        if not trial.validations:
            continue
        color, width = (_BEST, 2.0) if trial is best else kinds.get(trial.state, (_QUIET, 0.9))
        name = "best" if trial is best else trial.state
        axes.plot(
            list(trial.validations), [scored(study, v) for v in trial.validations.values()],
            color=color, linewidth=width, alpha=1.0 if trial is best else 0.7,
            linestyle=":" if trial.state in ("running", "failed") else "-",
            marker="o", markersize=3 if trial.state == "pruned" else 2,
            label=None if name in told else name,
        )  # fmt: skip
        told.add(name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    _legend(axes)


def _importances(figure: Figure, study: StudyRecord) -> None:
    axes = _framed(figure.subplots(), "share of the importance, per cent", "")
    names = list(study.importances)[::-1]
    shares = [100 * study.importances[name] for name in names]
    bars = axes.barh(range(len(names)), shares, color=_DONE, height=0.6)
    axes.bar_label(bars, [f"{share:.0f}" for share in shares], padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, max(100 * 1.08 * max(study.importances.values()), 1))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _parallel(figure: Figure, study: StudyRecord) -> None:
    axes = figure.subplots()
    done, best = study.of("complete"), study.best
    names = [*study.axes, METRICS[study.metric]]
    values = [scored(study, trial.value) for trial in done]
    norm = Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1)
    colors = mpl.colormaps[f"{_SCALE}_r" if study.sign > 0 else _SCALE]
    spread = _Spread(study)
    for trial in sorted(done, key=lambda t: study.sign * t.value):
        heights = [spread.height(key, trial) for key in study.axes]
        heights.append(float(norm(scored(study, trial.value))))
        is_best = trial is best
        axes.plot(
            range(len(names)), heights, color=_BEST if is_best else colors(norm(
                scored(study, trial.value))), linewidth=2.6 if is_best else 1.1,
            alpha=1.0 if is_best else 0.75, zorder=4 if is_best else 3,
            label=f"best: trial {trial.number}" if is_best else None,
        )  # fmt: skip
    for place, name in enumerate(names):
        axes.axvline(place, color="#444444", linewidth=0.8, zorder=2)
        last = place == len(names) - 1
        ticks = _score_ticks(norm) if last else spread.ticks(study.axes[name])
        for height, text in ticks:
            axes.annotate(
                text, (place, height), xytext=(4, 0), textcoords="offset points", fontsize=7,
                va="center", zorder=6, parse_math=False,
                bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
            )  # fmt: skip
    axes.set_xticks(range(len(names)), [_broken(name) for name in names])
    axes.set_xlim(-0.15, len(names) - 0.45)
    axes.set_ylim(-0.06, 1.06)
    axes.set_yticks([])
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, pad=0.01, fraction=0.03)
    bar.outline.set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(0, 1.1), fontsize=8, frameon=False)


def _slices(figure: Figure, study: StudyRecord) -> None:
    columns = min(3, len(study.axes))
    lines = math.ceil(len(study.axes) / columns)
    places = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    done, best = study.of("complete"), study.best
    for number, (axes, (key, axis)) in enumerate(zip(places, study.axes.items(), strict=False)):
        _framed(axes, key, METRICS[study.metric] if number % columns == 0 else "")
        labels = axis.labels() if axis.choices else []
        rng = np.random.default_rng(0)
        for trial in done:
            label = trial.labels[key]
            place = labels.index(label) + rng.uniform(-0.12, 0.12) if labels else label
            axes.scatter(
                place, scored(study, trial.value), s=34 if trial is best else 20,
                color=_BEST if trial is best else _DONE, zorder=4 if trial is best else 3,
                alpha=1.0 if trial is best else 0.75,
            )  # fmt: skip
        if labels:
            names = [_short(label, 16) for label in labels]
            axes.set_xticks(range(len(labels)), names, rotation=20, ha="right", fontsize=7.5)
            for text in axes.get_xticklabels():
                text.set_parse_math(False)
            axes.set_xlim(-0.5, len(labels) - 0.5)
        elif axis.log:  # the whole range, so that one sees what lies at its edge
            room = (axis.high / axis.low) ** 0.04
            axes.set_xscale("log")
            axes.set_xlim(axis.low / room, axis.high * room)
        else:
            room = 0.04 * (axis.high - axis.low)
            axes.set_xlim(axis.low - room, axis.high + room)
    for axes in places[len(study.axes) :]:
        axes.remove()


class _Spread:
    """Places of values on axes of one height; equal choices lie beside each other."""

    def __init__(self, study: StudyRecord) -> None:
        self._axes = study.axes
        # So that lines through one choice are told apart.
        rng = np.random.default_rng(0)
        self._aside = {
            (trial.number, key): float(rng.uniform(-0.018, 0.018))
            for trial in study.trials
            for key in study.axes
        }

    def height(self, key: str, trial: TrialRecord) -> float:
        axis, label = self._axes[key], trial.labels[key]
        aside = self._aside[trial.number, key] if axis.choices or axis.step else 0.0
        return _height(axis, label) + aside

    def ticks(self, axis: Axis) -> list[tuple[float, str]]:
        if axis.choices:
            labels: Sequence[Any] = axis.labels()
        elif axis.log:
            low, high = math.log10(axis.low), math.log10(axis.high)
            powers = [10.0**n for n in range(math.ceil(low + 1e-9), math.floor(high - 1e-9) + 1)]
            labels = [axis.low, *powers, axis.high]
        else:
            labels = np.linspace(axis.low, axis.high, 5).tolist()
            if axis.step is not None and len(axis.labels()) <= 9:
                labels = axis.labels()
        return [(_height(axis, label), _short(label, 18)) for label in labels]


def _height(axis: Axis, label: Any) -> float:  # noqa: ANN401 - settings have many types
    """From 0 to 1."""
    if axis.choices:
        labels = axis.labels()
        return labels.index(label) / (len(labels) - 1) if len(labels) > 1 else 0.5
    if axis.log:
        return math.log(label / axis.low) / math.log(axis.high / axis.low)
    return float((label - axis.low) / (axis.high - axis.low))


def _score_ticks(norm: Normalize) -> list[tuple[float, str]]:
    ticks = MaxNLocator(5).tick_values(norm.vmin or 0.0, norm.vmax or 0.0)
    return [(float(norm(v)), f"{v:.4g}") for v in ticks if -0.02 <= float(norm(v)) <= 1.02]


def _short(label: object, most: int) -> str:
    text = f"{label:.4g}" if isinstance(label, float) else str(label)
    text = {"None": "null", "True": "true", "False": "false"}.get(text, text)
    if text.startswith(("{", "[")):  # a mapping as JSON
        text = text.strip("{}[]").replace('"', "")
    return "\n".join(textwrap.wrap(text, most, max_lines=2, placeholder=" …")) or text


def _broken(name: str) -> str:
    """A dotted name in lines: its section above, so that axes stand near each other."""
    return "\n".join(part.replace(", ", ",\n") for part in name.split("."))


def _framed(axes: Axes, x: str, y: str) -> Axes:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    return axes


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    unique: Mapping[str, Any] = dict(zip(labels, handles, strict=True))
    if unique:
        axes.legend(unique.values(), unique.keys(), fontsize=7, frameon=False, loc="best")
