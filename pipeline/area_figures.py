"""Figure of areas: what the map counts, beside what the sample says they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pipeline.area_estimates import AreaEstimates
from pipeline.numerals import NONE, THIN, count
from pipeline.svg import (
    ACCENT,
    GROUND,
    INK,
    QUIET,
    WIDTH,
    class_rows,
    drawing,
    legend_above,
    written,
)

_WIDE = 100.0
"""So many times the smallest, the largest area leaves nothing of the rest on a linear axis."""


def area_figure(estimates: AreaEstimates, names: Sequence[str], colors: Sequence[str]) -> bytes:
    """Mapped area of each class beside the error-adjusted one with its 95 % interval.

    Args:
        estimates: Areas in square metres.
        names: Class names.
        colors: ``#RRGGBB`` of each.

    Returns:
        SVG, one row a class; the axis is logarithmic where areas differ a hundredfold.

    Raises:
        ValueError: If no class has an area, or classes and names do not pair up.

    Source:
        Olofsson et al. (2014), "Good practices for estimating area and assessing accuracy of land
        change": pixels counted on a map are a biased estimate of an area.
    """
    mapped = np.asarray(estimates.mapped_area_m2, np.float64)
    adjusted = np.asarray(estimates.area_m2, np.float64)
    # Not the paper's 1.96 standard errors, which are too short for rare classes.
    limits = np.asarray(estimates.area_limits_m2, np.float64)
    if not len(mapped) == len(names) == len(colors):
        raise ValueError(f"{len(mapped)} areas, {len(names)} names, {len(colors)} colours")
    known = np.concatenate([mapped, adjusted])
    known = known[np.isfinite(known) & (known > 0)]
    if not len(known):
        raise ValueError("nothing to draw: no class has an area")
    unit, size = ("km²", 1e6) if known.max() >= 1e6 else ("ha", 1e4)
    logarithmic = known.max() > _WIDE * known.min()
    # Where a logarithmic axis begins: what reaches below, or to nothing, is cut there.
    floor = known.min() / 2 if logarithmic else 0.0
    rows = len(names)
    with drawing(WIDTH, 92 + rows * 30) as figure:
        axes = figure.subplots()
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(lambda _value, _: "")
        for row in range(rows):
            if np.isfinite(limits[row]).all():
                ends = np.maximum(limits[row], floor)
                axes.plot(
                    ends / size, [row, row], "|-", color=ACCENT, linewidth=1.4, markersize=8,
                    zorder=3,
                )  # fmt: skip
            if adjusted[row] > floor or (adjusted[row] == 0 and not logarithmic):
                axes.plot(adjusted[row] / size, row, "o", color=ACCENT, markersize=5.5, zorder=5)
            if mapped[row] > floor or (mapped[row] == 0 and not logarithmic):
                axes.plot(
                    mapped[row] / size, row, "D", markersize=6.5, markerfacecolor=GROUND,
                    markeredgecolor=INK, markeredgewidth=1.1, zorder=4,
                )  # fmt: skip
            axes.annotate(
                _told(adjusted[row] / size, limits[row] / size), (1, row),
                xycoords=axes.get_yaxis_transform(), xytext=(6, 0), textcoords="offset points",
                va="center", fontsize=9.5, annotation_clip=False,
            )  # fmt: skip
        class_rows(axes, names, colors)
        if logarithmic:
            axes.set_xlim(floor / size, None)
        else:
            axes.set_xlim(0, None)
        axes.set_xlabel(f"area in {unit}" + (", logarithmic" if logarithmic else ""))
        axes.grid(axis="x")
        axes.hlines(
            np.arange(rows), 0, 1, transform=axes.get_yaxis_transform(), color=QUIET,
            linewidth=0.4, linestyle=":", zorder=1,
        )  # fmt: skip
        mark = Line2D(
            [], [], marker="D", linestyle="", markerfacecolor=GROUND, markeredgecolor=INK,
            label="counted on the map",
        )  # fmt: skip
        counted = estimates.source == "reference"
        told = "in the full reference" if counted else "estimated, with 95 % interval"
        estimate = Line2D([], [], color=ACCENT, marker="o", label=told)
        legend_above(figure, [mark, estimate])
        return written(figure)


def _told(value: float, limits: NDArray[np.float64]) -> str:
    """An area and its interval, with the digits that the interval leaves a meaning."""
    if not np.isfinite(value):
        return NONE
    wide = float(limits[1] - limits[0]) / 2
    scale = wide if np.isfinite(wide) and wide > 0 else value / 100
    digits = int(np.clip(np.ceil(-np.log10(scale)) + 1, 0, 4)) if scale > 0 else 1

    def shown(number: float) -> str:
        return count(number) if digits == 0 else f"{number:,.{digits}f}".replace(",", THIN)

    if not np.isfinite(wide) or wide == 0:
        return shown(value)
    return f"{shown(value)} ({shown(limits[0])} to {shown(limits[1])})"
