"""Figures of how good a map is: by confidence, by distance to the outlines, and by class.

SVG of :mod:`pipeline.svg`. What has no pixels to stand on is not drawn: a gap, never a zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from pipeline.bootstrap import Interval, Intervals
from pipeline.calibration import Calibration
from pipeline.figures import short
from pipeline.numerals import percent
from pipeline.outlines import DISTANCES, OutlineCounts
from pipeline.scores import Scores
from pipeline.svg import (
    ACCENT,
    GOOD,
    GROUND,
    INK,
    LINE,
    QUIET,
    WARN,
    WIDTH,
    class_rows,
    drawing,
    legend_above,
    shaded,
    written,
)

FEW = 0.01
"""A bin with a smaller share of the pixels is drawn hollow: its accuracy says little."""

_DASHES, _DOTS = (0, (4, 3)), (0, (2, 2))
_NUMBERED_CLASSES = 16  # of more, the cells keep their shade only: the numbers are in the tables


def reliability_figure(calibration: Calibration, bins: int = 10) -> bytes:
    """The reliability diagram: how often the map is right, by how sure it was.

    Args:
        calibration: Judged pixels by confidence, of all classes together.
        bins: Number of bins of confidence.

    Returns:
        SVG: bars of accuracy by confidence beside the 1:1 line, the gaps shaded, and how many
        pixels each bin has.

    Raises:
        ValueError: If there is no pixel with a confidence.

    Source:
        Guo et al. (2017), "On calibration of modern neural networks".
    """
    _ask(calibration.counts, "no judged pixel has a confidence")
    found = calibration.reliability(bins)
    pixels, edges = found.pixels, 100 * found.edges
    shares = pixels / pixels.sum()
    with drawing(WIDTH, 430) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        above.plot([0, 100], [0, 100], color=QUIET, linewidth=1.1, linestyle=_DASHES, zorder=4)
        for i in np.flatnonzero(pixels):
            left, width = edges[i], edges[i + 1] - edges[i]
            right, sure = 100 * found.accuracy[i], 100 * found.confidence[i]
            few = shares[i] < FEW
            above.bar(
                left, min(sure, right), 0.92 * width, align="edge", edgecolor=ACCENT, linewidth=0.9,
                facecolor="none" if few else ACCENT, linestyle=_DOTS if few else "-",
            )  # fmt: skip
            above.bar(
                left, abs(sure - right), 0.92 * width, min(sure, right), align="edge",
                facecolor=WARN if sure > right else GOOD, alpha=0.25 if few else 0.6,
            )  # fmt: skip
            above.plot(
                [left, left + 0.92 * width], [right, right], color=INK, linewidth=2.2, zorder=5,
                clip_on=False,
            )  # fmt: skip
            below.bar(
                left, 100 * shares[i], 0.92 * width, align="edge", facecolor=QUIET, linewidth=0
            )
            below.annotate(
                short(int(pixels[i])), (left + 0.46 * width, 100 * shares[i]), xytext=(0, 2),
                textcoords="offset points", ha="center", fontsize=8.5,
            )  # fmt: skip
        above.set(xlim=(0, 100), ylim=(0, 100), ylabel="right, per cent of the pixels")
        above.grid()
        above.tick_params(labelbottom=False)
        above.set_title(f"Mean gap (ECE): {percent(found.error)}", loc="left")
        legend_above(
            figure,
            [
                Line2D([], [], color=INK, linewidth=2.2, label="how often it is right"),
                Line2D([], [], color=QUIET, linestyle=_DASHES, label="as right as it is sure"),
                Patch(
                    facecolor="none", edgecolor=ACCENT, linestyle=_DOTS,
                    label=f"under {100 * FEW:.0f} % of the pixels",
                ),
                Patch(facecolor=WARN, alpha=0.6, label="surer than right"),
                Patch(facecolor=GOOD, alpha=0.6, label="righter than sure"),
            ],
        )  # fmt: skip
        below.set(ylabel="pixels,\nper cent", xlabel="confidence of the map, per cent")
        below.set_ylim(0, 125 * float(shares.max()))
        below.set_xticks(range(0, 101, 20))
        return written(figure)


def trust_figure(calibration: Calibration, target: float) -> bytes:
    """How much of the map can be trusted: accuracy and share of what is surer than a threshold.

    Args:
        calibration: Judged pixels by confidence.
        target: Accuracy that is asked for, from 0 to 1.

    Returns:
        SVG: both by the lowest confidence that is kept; where the target is reached is marked,
        and told in words.

    Raises:
        ValueError: If there is no pixel with a confidence.
    """
    _ask(calibration.counts, "no judged pixel has a confidence")
    trust = calibration.trust()
    reached = calibration.trusted_share(target)
    ground, sure, legend = "the map", " confidence", "share of the map they are"
    if calibration.unknown:
        # Not the word twice in a sentence, and no wider a legend than the figure.
        ground, sure, legend = "the ground with a confidence", "", "share of all with a confidence"
    with drawing(WIDTH, 300) as figure:
        axes = figure.subplots()
        # Of hardly any pixels the accuracy says little, and jumps.
        few = trust.share < FEW
        axes.plot(
            trust.thresholds, np.where(few, np.nan, 100 * trust.accuracy), color=ACCENT,
            linewidth=2, label="how often they are right",
        )  # fmt: skip
        axes.plot(
            trust.thresholds, 100 * trust.share, color=WARN, linewidth=2, linestyle=(0, (5, 1.5)),
            label=legend,
        )  # fmt: skip
        axes.plot(
            trust.thresholds, 100 * trust.accuracy, color=ACCENT, linewidth=0.8, linestyle=_DOTS
        )
        axes.axhline(100 * target, color=QUIET, linewidth=1, linestyle=":")
        wanted = f"{100 * target:.4g} %"
        if reached is None:
            text = f"However sure, its pixels are never {wanted} right."
        else:
            threshold, share = reached
            axes.axvline(threshold, color=QUIET, linewidth=1, linestyle=":")
            right = 100 * float(trust.accuracy[threshold])
            for height, color in ((right, ACCENT), (100 * share, WARN)):
                axes.plot(
                    threshold, height, "o", markersize=7, color=color, markeredgecolor=GROUND,
                    markeredgewidth=1.2, zorder=5,
                )  # fmt: skip
            text = (
                f"All of {ground} is {wanted} right."
                if threshold == 0
                else f"{percent(share)} of {ground} has {threshold} %{sure}\n"
                f"or more, and is at least {wanted} right."
            )
        axes.text(0.04, 0.06, text, transform=axes.transAxes, fontsize=10, va="bottom")
        axes.set(
            xlim=(0, 100.5), ylim=(0, 101.5), ylabel="per cent",
            xlabel="pixels with at least so much confidence, per cent",
        )  # fmt: skip
        axes.set_yticks(range(0, 101, 20))
        axes.grid()
        legend_above(figure, axes.get_lines()[:2])
        return written(figure)


def distance_figure(
    counts: OutlineCounts, names: Sequence[str], colors: Sequence[str], pixel_m: float
) -> bytes:
    """How often the map is right by the distance to the nearest outline of the labels.

    Args:
        counts: Judged pixels by distance.
        names: Class names.
        colors: ``#RRGGBB`` of each.
        pixel_m: Metres of a pixel.

    Returns:
        SVG: accuracy of all ground, how much ground lies at each distance, and the accuracy of
        each class that there is as a shaded cell.

    Raises:
        ValueError: If no pixel is judged.
    """
    _ask(counts.by_distance, "no pixel is judged")
    pixels, overall = counts.pixels, counts.accuracy()
    ground = 100 * pixels.sum(axis=0) / pixels.sum()
    shown = [k for k in range(len(names)) if pixels[k].any()]
    places = np.arange(len(overall))
    cells = 24 * len(shown)
    with drawing(WIDTH, 268 + cells) as figure:
        above, middle, below = figure.subplots(
            3, 1, sharex=True, height_ratios=(120, 52, max(cells, 1))
        )
        above.plot(places, 100 * overall, "o-", color=ACCENT, linewidth=1.8, markersize=4.5)
        above.set_ylabel("right,\nper cent")
        lowest = float(np.nanmin(100 * overall))
        above.set_ylim(min(50.0, 10 * ((lowest - 2) // 10)), 101)
        above.set_title("All classes", loc="left")
        above.grid()
        middle.bar(places, ground, 0.8, color=QUIET)
        middle.set_ylabel("of the\nground,\nper cent")
        middle.set_ylim(0, 1.3 * float(ground.max()))
        for place, share in zip(places, ground, strict=True):
            if share > 0:
                text = f"{share:.0f}" if share >= 0.95 else "<1"
                middle.annotate(
                    text, (place, share), xytext=(0, 1.5), textcoords="offset points",
                    ha="center", fontsize=8.5,
                )  # fmt: skip
        _shaded_cells(below, counts.class_accuracy()[shown])
        class_rows(below, [names[k] for k in shown], [colors[k] for k in shown], 15, 9)
        below.set_title("By class of the labels, per cent right", loc="left")
        upper = [f"{distance * pixel_m:.3g}" for distance in DISTANCES]
        below.set_xticks(
            places,
            [f"{d}\n{m}" for d, m in zip(DISTANCES, upper, strict=True)] + ["more"],
            fontsize=8,
        )
        below.tick_params(axis="x", length=0)
        below.set_xlabel("distance to the nearest outline, up to so many pixels\n(below: metres)")
        below.set_xlim(-0.5, len(places) - 0.5)
        return written(figure)


def class_bars(
    scores: Scores,
    intervals: Intervals | None,
    names: Sequence[str],
    colors: Sequence[str],
) -> bytes:
    """IoU, user's and producer's accuracy of each class, with whiskers of 95 % where known.

    Args:
        scores: Scores of all test ground.
        intervals: Their bootstrap intervals; None where there are none.
        names: Class names.
        colors: ``#RRGGBB`` of each.

    Returns:
        SVG, one row a class.

    Raises:
        ValueError: If no pixel is judged, or classes and names do not pair up.
    """
    if not scores.pixels:
        raise ValueError("no pixel is judged")
    if len(scores.classes) != len(names) or len(colors) != len(names):
        raise ValueError(f"{len(scores.classes)} scores, {len(names)} names, {len(colors)} colours")
    rows = len(names)
    with drawing(WIDTH, 92 + rows * (38 if rows <= 12 else 30)) as figure:
        axes = figure.subplots()
        for row, entry in enumerate(scores.classes):
            if np.isfinite(entry.iou):
                axes.barh(
                    row - 0.2, 100 * entry.iou, 0.34, color=colors[row], edgecolor=QUIET,
                    linewidth=0.6,
                )  # fmt: skip
            for height, value, color, marker in (
                (row + 0.12, entry.users, ACCENT, "o"),
                (row + 0.34, entry.producers, WARN, "D"),
            ):
                if np.isfinite(value):
                    axes.plot(
                        100 * value, height, marker, color=color, markersize=5, zorder=5,
                        markeredgewidth=0, clip_on=False,
                    )  # fmt: skip
            if intervals is not None:
                _whisker(axes, intervals.iou[row], row - 0.2, INK)
                _whisker(axes, intervals.users[row], row + 0.12, ACCENT)
                _whisker(axes, intervals.producers[row], row + 0.34, WARN)
            told = percent(entry.iou)
            axes.annotate(
                told, (1, row - 0.2), xycoords=axes.get_yaxis_transform(), xytext=(4, 0),
                textcoords="offset points", va="center", fontsize=9.5, annotation_clip=False,
            )  # fmt: skip
        axes.annotate(
            "IoU", (1, 1), xycoords="axes fraction", xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=9.5, color=QUIET, annotation_clip=False,
        )  # fmt: skip
        class_rows(axes, names, colors)
        axes.set_xlim(0, 100)
        axes.set_xlabel("per cent" + (" (whiskers: 95 % intervals)" if intervals else ""))
        axes.grid(axis="x")
        handles: list[Artist] = [
            Patch(facecolor=LINE, edgecolor=QUIET, label="IoU"),
            Line2D([], [], color=ACCENT, marker="o", linestyle="", label="user’s accuracy"),
            Line2D([], [], color=WARN, marker="D", linestyle="", label="producer’s accuracy"),
        ]
        legend_above(figure, handles, 3)
        return written(figure)


def _ask(counts: NDArray[np.int64], what: str) -> None:
    if not counts.any():
        raise ValueError(f"nothing to draw: {what}")


def _whisker(axes: Axes, interval: Interval, height: float, color: str) -> None:
    if np.isfinite(interval.low) and np.isfinite(interval.high):
        ends = [100 * interval.low, 100 * interval.high]
        # On a ground of its own: in the dark the ink is pale, and so are some classes.
        axes.plot(ends, [height, height], color=GROUND, linewidth=3.2, zorder=3, clip_on=False)
        axes.plot(
            ends, [height, height], "|-", color=color, linewidth=1.2, markersize=5, zorder=4,
            clip_on=False,
        )  # fmt: skip


def _shaded_cells(axes: Axes, shares: NDArray[np.float64]) -> None:
    rows, cols = shares.shape
    shaded(axes, 0.06 + 0.6 * shares**2, (-0.5, cols - 0.5, rows - 0.5, -0.5))
    for edge in range(1, cols):
        axes.axvline(edge - 0.5, color=GROUND, linewidth=1.2, zorder=2)
    for edge in range(1, rows):
        axes.axhline(edge - 0.5, color=GROUND, linewidth=1.2, zorder=2)
    if rows <= _NUMBERED_CLASSES:
        for row, col in np.argwhere(np.isfinite(shares)):
            axes.text(
                col, row, f"{100 * shares[row, col]:.0f}", ha="center", va="center", fontsize=8.5
            )
    axes.spines["bottom"].set_visible(False)
