"""The page that sets runs side by side.

Values in, text out; self-contained like the report, whose look it has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.bootstrap import FEWEST_BLOCKS, Interval
from pipeline.comparison_summary import MEASURES, cautions, signed, summary
from pipeline.numerals import duration, listed, percent, plain
from pipeline.reporting import page_environment
from pipeline.run_comparison import JudgedRun, RunComparison, differing_settings

CLASS_MEASURES = {
    "iou": "IoU",
    "f1": "F1",
    "users": "User’s accuracy",
    "producers": "Producer’s accuracy",
}
"""Scores of each class, as people read them."""

COLORS = 8
"""Runs in colours of their own, which the style sheet has; further ones are dashed."""

_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_TICKS = 6


@dataclass(frozen=True)
class Scale:
    """The horizontal scale of a drawing of intervals.

    Attributes:
        ticks: Numbers at its lines, ascending; the first and the last are its ends.
    """

    ticks: tuple[float, ...]

    @classmethod
    def of(cls, found: Iterable[Interval], zero: bool = False) -> Scale:
        """The scale that holds some intervals, with round numbers at its lines.

        Args:
            found: What is drawn on it.
            zero: Whether 0 has to be on it.
        """
        values = [v for one in found for v in vars(one).values() if not math.isnan(v)]
        values += [0.0] if zero or not values else []
        low, high = min(values), max(values)
        for step in _STEPS:
            first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
            if last - first < _TICKS:
                break
        last = max(last, first + 1)
        return cls(tuple(number * step for number in range(first, last + 1)))

    def at(self, value: float) -> str:
        """Where a value is, in per cent of the width."""
        first, last = self.ticks[0], self.ticks[-1]
        return f"{100 * (value - first) / (last - first):.2f}"

    def told(self, tick: float, plus: bool = False) -> str:
        """A line's number in per cent."""
        digits = 0 if all(abs(100 * t - round(100 * t)) < 1e-6 for t in self.ticks) else 1
        if abs(tick) < 1e-9:
            return "0"
        return f"{100 * tick:{'+' if plus else ''}.{digits}f}".replace("-", "−")


def render(comparison: RunComparison, draws: int) -> str:
    """Write the page.

    Args:
        comparison: All numbers; the same give the same text.
        draws: How often blocks were drawn.

    Returns:
        HTML, self-contained.
    """
    environment = page_environment()
    environment.filters |= {"between": between, "setting": setting}
    runs, differences = comparison.runs, comparison.differences
    shares = [key for key in MEASURES if key != "kappa"]
    others = [number for number, of in enumerate(differences) if of is not None]
    return environment.get_template("run_comparison.html.j2").render(
        comparison=comparison,
        runs=runs,
        others=others,
        summary=summary(comparison),
        cautions=cautions(comparison),
        draws=draws,
        sides=listed([plain(side) for side in comparison.sides] or ["–"]),
        fewest=FEWEST_BLOCKS,
        measures=MEASURES,
        ranked_by=MEASURES[comparison.ranked_by],
        shares=shares,
        class_measures=CLASS_MEASURES,
        colors=_class_colors(comparison),
        scale=Scale.of(getattr(of, key) for of in comparison.scores for key in shares),
        class_scale=Scale.of(one for of in comparison.scores for one in of.iou),
        difference_scale=Scale.of(
            (getattr(of, key) for of in differences if of is not None for key in shares), zero=True
        ),
        sheets=_sheets(runs),
        settings=differing_settings(runs),
        facts=_facts(runs),
        steps=_steps(runs),
        signed=signed,
        shown_colors=COLORS,
        isnan=math.isnan,
    )


def between(interval: Interval) -> str:
    """Bounds of a share, in per cent without the sign; nothing where there are none."""
    if math.isnan(interval.low):
        return ""
    return f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"


def setting(value: object) -> str:
    """A setting as one writes it in a settings file."""
    if isinstance(value, list):
        return f"[{', '.join(setting(item) for item in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _class_colors(comparison: RunComparison) -> list[str]:
    """Colours of the classes from the first card that has them all; none where no card has."""
    for run in comparison.runs:
        card = run.card or {}
        found = dict(zip(card.get("classes", ()), card.get("colors", ()), strict=False))
        colors = [str(found.get(name)) for name in comparison.names]
        if all(re.fullmatch("#[0-9A-Fa-f]{6}", color) for color in colors):
            return colors
    return []


def _sheets(runs: Sequence[JudgedRun]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Sheets with test ground in any run: pixels, accuracy and mean IoU in each."""
    names = dict.fromkeys(
        name for run in runs for name, matrix in run.matrices.items() if matrix.pixels
    )
    return [
        (
            name,
            [
                run.matrices[name].scores().as_dict()
                if name in run.matrices and run.matrices[name].pixels
                else None
                for run in runs
            ],
        )
        for name in names
    ]


def _facts(runs: Sequence[JudgedRun]) -> dict[str, list[Any]]:
    """What the model cards say, a row a fact."""
    rows: dict[str, list[Any]] = {}

    def add(name: str, values: list[Any]) -> None:
        if any(value is not None for value in values):
            rows[name] = values

    cards = [run.card or {} for run in runs]
    add("network", [card.get("network") for card in cards])
    add("encoder", [card.get("encoder") for card in cards])
    add("parameters", [run.parameters for run in runs])
    times = [run.training_seconds for run in runs]
    add("time of training", [None if math.isnan(of) else duration(of) for of in times])
    add("bands", [card.get("bands") for card in cards])
    add("pixel size", [card.get("pixel_size") for card in cards])
    data = [card.get("data", {}) for card in cards]
    for split in ("train", "validation"):
        add(f"{split} sheets", [part.get("sheets", {}).get(split) for part in data])
        pixels = [part.get("pixels", {}).get(split) for part in data]
        add(f"{split} pixels", [None if of is None else sum(of.values()) for of in pixels])
    scores = [card.get("scores", {}) for card in cards]
    for key in ("epoch", "step", "loss"):
        add(f"best validation: {key}", [of.get(key) for of in scores])
    for key, called in (("overall_accuracy", "overall accuracy"), ("mean_iou", "mean IoU")):
        values = [of.get(key) for of in scores]
        told = [None if value is None else percent(value) for value in values]
        add(f"best validation: {called}", told)
    versions = [card.get("versions", {}) for card in cards]
    for name in dict.fromkeys(name for of in versions for name in of):
        values = [of.get(name) for of in versions]
        if len(set(values)) > 1:
            add(f"version of {name}", values)
    commits = [card.get("commit") or None for card in cards]
    add("commit", [commit and commit[:10] for commit in commits])
    return rows


def _steps(runs: Sequence[JudgedRun]) -> list[tuple[str, list[Any]]]:
    """Steps that were measured in any run, and each run's cost of it."""
    costs = [{step.rule: step for step in run.costs} for run in runs]
    rules = dict.fromkeys(rule for of in costs for rule in of)
    return [(rule, [of.get(rule) for of in costs]) for rule in rules]
