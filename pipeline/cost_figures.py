"""Figure of what each step takes: time, memory, and the time that the study of 2017 published."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.lines import Line2D

from pipeline.numerals import THIN, duration
from pipeline.svg import ACCENT, WARN, WIDTH, drawing, legend_above, wrapped, written

_TICKS = {
    0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h", 36_000: "10 h",
    360_000: "100 h",
}  # fmt: skip


def cost_figure(costs: Sequence[tuple[str, float, float | None, float]]) -> bytes:
    """Time and memory of each step.

    Args:
        costs: Name of the step, seconds, seconds of the same work in the study of 2017 (None where
            it published none) and greatest memory in MB; NaN where something was not measured.

    Returns:
        SVG, one row a step, times on a logarithmic axis.

    Raises:
        ValueError: If no step was timed.
    """
    times = [t for _, ours, study, _ in costs for t in (ours, study) if t is not None and t > 0]
    if not times:
        raise ValueError("nothing to draw: no step was timed")
    told = any(study is not None and study > 0 for _, _, study, _ in costs)
    low = min(times) / 2
    # Behind the longest time there is room for its name.
    high = low * (max(times) / low) ** 1.45
    with drawing(WIDTH, 76 + (36 if told else 26) * len(costs)) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        for row, (_, ours, study, memory) in enumerate(costs):
            for time, color, marker, aside in ((ours, ACCENT, "o", -0.2), (study, WARN, "D", 0.2)):
                if time is None or not time > 0:
                    continue
                # A time alone lies beside its name.
                height = row + (aside if study is not None and study > 0 else 0.0)
                axes.plot([low, time], [height, height], color=color, linewidth=1.6, zorder=2)
                axes.plot(time, height, marker, color=color, markersize=5.5, zorder=3)
                axes.annotate(
                    duration(time), (time, height), xytext=(7, 0), textcoords="offset points",
                    va="center", fontsize=9,
                )  # fmt: skip
            if not math.isnan(memory):
                axes.annotate(
                    _memory(memory), (1, row), xycoords=axes.get_yaxis_transform(), xytext=(6, 0),
                    textcoords="offset points", va="center", fontsize=9.5, annotation_clip=False,
                )  # fmt: skip
        axes.set_yticks(range(len(costs)), [wrapped(name, 20) for name, *_ in costs])
        axes.set_ylim(len(costs) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(low, high)
        ticks: list[float] = []
        for tick in _TICKS:
            last = ticks[-1] if ticks else 0.0
            # Names of times need a seventh of the axis.
            if low <= tick <= 1.5 * max(times) and tick > last * (high / low) ** (1 / 7):
                ticks.append(tick)
        axes.set_xticks(ticks, [_TICKS[tick] for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.grid(axis="x")
        axes.set_xlabel("time, logarithmic; on the right the greatest memory")
        if told:
            here = Line2D([], [], color=ACCENT, marker="o", label="this run")
            then = Line2D([], [], color=WARN, marker="D", label="study of 2017")
            legend_above(figure, [here, then])
        return written(figure)


def _memory(megabytes: float) -> str:
    if megabytes >= 1000:
        return f"{megabytes / 1000:.1f}{THIN}GB"
    return f"{megabytes:.0f}{THIN}MB"
