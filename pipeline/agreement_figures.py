"""Figure of the classes' shares on the map against those that SIOSE says of its polygons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.numerals import NONE, signed
from pipeline.polygon_agreement import AgreementCounts
from pipeline.svg import QUIET, WIDTH, class_title, drawing, shaded, written


def agreement_figure(counts: AgreementCounts, names: Sequence[str], colors: Sequence[str]) -> bytes:
    """Scatter plots of shares, one panel a class: SIOSE across, the map upwards.

    Polygons are counted in cells of five per cent, the stronger the more (logarithmic): a point
    for each of a million polygons would be one blot.

    Args:
        counts: What was counted in the polygons.
        names: Class names.
        colors: ``#RRGGBB`` of each.

    Returns:
        SVG: the panels of the classes that any polygon has, with the 1:1 line, mean absolute
        error (MAE), bias and correlation.

    Raises:
        ValueError: If no polygon is compared.
    """
    statistics = counts.statistics()
    # Not those whose shares are zero throughout: they are NaN.
    shown = [k for k in range(len(names)) if not math.isnan(statistics.siose_share[k])]
    if not shown:
        raise ValueError("nothing to draw: no polygon is compared")
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    most = math.log1p(int(counts.histogram[shown].max()))
    with drawing(WIDTH, 48 + rows * {1: 330, 2: 205, 3: 152}[columns]) as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, k in zip(panels, shown, strict=False):
            cells = counts.histogram[k].T[::-1]  # the map upwards
            strength = np.where(cells > 0, 0.3 + 0.7 * np.log1p(cells) / most, np.nan)
            shaded(axes, strength, (0, 100, 0, 100))
            axes.plot([0, 100], [0, 100], color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
            r = statistics.correlation[k]
            told = (
                f"MAE {100 * statistics.mean_absolute_error[k]:.1f}, "
                f"bias {signed(100 * statistics.bias[k])}\n"
                f"r {NONE if math.isnan(r) else f'{r:.2f}'}"
            )
            class_title(axes, names[k], colors[k], 17 if columns == 3 else 26, told)
            axes.set_aspect("equal")
            axes.set(xlim=(0, 100), ylim=(0, 100))
            axes.set_xticks([0, 50, 100])
            axes.set_yticks([0, 50, 100])
            axes.tick_params(length=0)
        for axes in panels[len(shown) :]:
            axes.remove()
        # Of a column whose last panel is missing, the one above carries the numbers.
        for axes in panels[max(0, len(shown) - columns) : len(shown)]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel("share in SIOSE, per cent", fontsize=10)
        figure.supylabel("share on the map, per cent", fontsize=10)
        return written(figure)
