"""Pictures of matrices and training curves, as PNG.

The same values give the same bytes: no dates, no user's matplotlibrc, no pyplot.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.confusion import ConfusionMatrix
from pipeline.following import column

Panel = Literal["counts", "by_reference", "by_mapped"]
PANELS: tuple[Panel, ...] = ("counts", "by_reference", "by_mapped")

_TITLES: Mapping[Panel, str] = {
    "counts": "Pixels",
    "by_reference": "Per cent of the reference (rows sum to 100)",
    "by_mapped": "Per cent of the map (columns sum to 100)",
}

# One hue from light to strong: its order survives every kind of colour vision, and grey printing.
_SEQUENTIAL = "Blues"

# Okabe & Ito (2008), without the yellow that is lost on white; black first.
_LINES = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", ":", "-.")

_DPI = 144

_PANELS = (
    "Loss",
    "Accuracy and mean IoU",
    "Validation IoU per class",
    "Learning rate",
    "Tiles a second",
    "Waiting for data",
)
_SHARES = ("Accuracy and mean IoU", "Validation IoU per class", "Waiting for data")
_OF_THE_NETWORK = _PANELS[:3]

# A line of training is black and one of validation blue, whatever else is drawn.
_PLACES = {"train_loss": 0, "train_accuracy": 0, "val_loss": 1, "val_accuracy": 1, "val_miou": 2}

_WILD = 3.0
"""So many times the next lower value, a value is off the scale."""


def confusion_picture(matrix: ConfusionMatrix) -> bytes:
    """The matrix three times: counts, normalised by row and by column.

    Returns:
        PNG, the panels one below the other.
    """
    with own_style():
        width, height = _panel_size(matrix)
        figure = Figure(figsize=(width, height * len(PANELS)), layout="constrained")
        for axes, panel in zip(figure.subplots(len(PANELS), 1), PANELS, strict=True):
            _draw_panel(axes, matrix, panel)
        return png(figure)


def confusion_panel(matrix: ConfusionMatrix, panel: Panel) -> bytes:
    """One of the three panels alone, as PNG."""
    with own_style():
        figure = Figure(figsize=_panel_size(matrix), layout="constrained")
        _draw_panel(figure.subplots(), matrix, panel)
        return png(figure)


def curves_picture(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Losses, scores, IoU per class, learning rate and speed, side by side.

    Args:
        rows: One mapping a line of ``curves.csv``; see :func:`curves_panels`.

    Returns:
        PNG.

    Raises:
        ValueError: If no epoch is given, or no column that can be drawn.
    """
    drawers = _curve_drawers(rows)
    with own_style():
        columns = min(2, len(drawers))
        lines = math.ceil(len(drawers) / columns)
        figure = Figure(figsize=(5.2 * columns, 3.5 * lines), layout="constrained")
        places = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, draw in zip(places, drawers.values(), strict=False):
            draw(axes)
        for axes in places[len(drawers) :]:
            axes.remove()
        return png(figure)


def curves_panels(rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """The same, one picture a panel, so that a page can set them as its width allows.

    Args:
        rows: One mapping a line of ``curves.csv`` with ``epoch`` (which may be fractional) or
            ``step``; columns that end in ``loss`` or ``accuracy``, begin with ``val_iou`` (one a
            class) or ``val_``, or are ``learning_rate``, ``tiles_per_second`` or ``waiting`` are
            drawn. Values may be text, empty where there is none.

    Returns:
        Title of the panel -> PNG.

    Raises:
        ValueError: If no epoch is given, or no column that can be drawn.
    """
    panels = {}
    with own_style():
        for title, draw in _curve_drawers(rows).items():
            figure = Figure(figsize=(5.2, 3.5), layout="constrained")
            draw(figure.subplots())
            panels[title] = png(figure)
    return panels


@contextmanager
def own_style() -> Iterator[None]:
    """The style of all pictures, whatever the user's own."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.linewidth": 0.6})
        yield


def png(figure: Figure, dpi: int = _DPI) -> bytes:
    """The figure's file, without dates."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    return file.getvalue()


def _panel_size(matrix: ConfusionMatrix) -> tuple[float, float]:
    """Inches: cells keep room for their number until there are too many of them."""
    cells = len(matrix.names)
    side = min(max(0.52 * cells, 2.6), 11.0)
    return side + 1.9, side + 1.5


def _draw_panel(axes: Axes, matrix: ConfusionMatrix, panel: Panel) -> None:
    cells = len(matrix.names)
    if panel == "counts":
        values = matrix.counts.astype(np.float64)
        # Logarithmic: one large class would leave all other cells blank.
        norm: Normalize = LogNorm(vmin=1, vmax=max(10.0, float(values.max())))
        shown = np.where(values > 0, values, np.nan)
    else:
        values = matrix.by_reference() if panel == "by_reference" else matrix.by_mapped()
        norm, shown = Normalize(0, 1), values
    colors = mpl.colormaps[_SEQUENTIAL].with_extremes(bad="#FFFFFF00")
    axes.imshow(np.ma.masked_invalid(shown), cmap=colors, norm=norm, interpolation="nearest")
    axes.set_title(_TITLES[panel])
    axes.set_xlabel("mapped as")
    axes.set_ylabel("reference")
    size = 8.0 if cells <= 14 else 6.5
    # Of very many classes every other is named, or every third: overprinted names say less.
    ticks = range(0, cells, math.ceil(cells / 50))
    names = [_two_lines(matrix.names[tick]) for tick in ticks]
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(ticks, names, fontsize=size)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)  # a class may be called "5 $"
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(cells + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(cells + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#DDDDDD", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    if cells > 24:
        return  # no number is legible in so small a cell; the tables have them
    for row, col in np.ndindex(cells, cells):
        value = values[row, col]
        if math.isnan(value) or value == 0:
            continue
        text = short(int(value)) if panel == "counts" else f"{100 * value:.0f}"
        strong = float(norm(value)) > 0.55
        axes.text(
            col,
            row,
            text,
            ha="center",
            va="center",
            fontsize=size - 0.5,
            color="white" if strong else "#222222",
            fontweight="bold" if row == col else "normal",
        )


def _two_lines(name: str) -> str:
    return "\n".join(textwrap.wrap(name, 16, max_lines=2, placeholder=" …")) or name


def short(count: int) -> str:
    """A count in at most four figures: 950, 12k, 3.4M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            value = count / size
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return str(count)


def _curve_drawers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Callable[[Axes], None]]:
    """What draws each panel, by title, for the columns at hand."""
    if not rows:
        raise ValueError("no epoch to draw")
    axis = next((key for key in ("epoch", "step") if key in rows[0]), None)
    x = column(rows, axis) if axis else np.arange(1.0, len(rows) + 1)
    columns = {key: column(rows, key) for key in dict.fromkeys(k for row in rows for k in row)}
    drawn = {key: values for key, values in columns.items() if not np.isnan(values).all()}
    groups: dict[str, dict[str, NDArray[np.float64]]] = {title: {} for title in _PANELS}
    for key, values in drawn.items():
        if title := _panel_of(key):
            groups[title][key] = values
    if not any(groups.values()):
        raise ValueError(f"nothing to draw in the columns {', '.join(columns)}")
    best = float(x[np.nanargmax(drawn["val_miou"])]) if "val_miou" in drawn else None

    def drawer(title: str, lines: Mapping[str, NDArray[np.float64]]) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            _draw_lines(axes, title, x, lines, axis or "row")
            axes.set_xlabel(axis or "row")
            if best is not None and title in _OF_THE_NETWORK:
                axes.axvline(best, color="#888888", linewidth=0.8, linestyle=":")

        return draw

    return {title: drawer(title, lines) for title, lines in groups.items() if lines}


def _panel_of(key: str) -> str | None:
    if key.endswith("loss"):
        return "Loss"
    if key.startswith("val_iou"):
        return "Validation IoU per class"
    if key.endswith("accuracy") or key.startswith("val_"):
        return "Accuracy and mean IoU"
    other = {"lr": "learning_rate"}.get(key, key)
    return {
        "learning_rate": "Learning rate",
        "tiles_per_second": "Tiles a second",
        "waiting": "Waiting for data",
    }.get(other)


def _draw_lines(
    axes: Axes,
    title: str,
    x: NDArray[np.float64],
    lines: Mapping[str, NDArray[np.float64]],
    axis: str,
) -> None:
    shares = title in _SHARES
    for place, (key, values) in enumerate(lines.items()):
        number = _PLACES.get(key, place if title not in _PANELS[:2] else place + len(_PLACES))
        known = ~np.isnan(values)
        axes.plot(
            x[known],
            100 * values[known] if shares else values[known],
            label=_line_name(key),
            color=_LINES[number % len(_LINES)],
            linestyle=_DASHES[number // len(_LINES) % len(_DASHES)],
            linewidth=1.4,
            # A line of one point shows nothing.
            marker="o" if known.sum() < 3 else None,
            markersize=3.5,
        )
    axes.set_title(title + (", per cent" if shares else ""))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if title == "Loss":
        _keep_scale(axes, x, lines, axis)
    elif title == "Waiting for data":
        # Few per cent matter here, and a hundred is rare.
        axes.set_ylim(0, max(5.0, 105 * max(float(np.nanmax(v)) for v in lines.values())))
    elif shares:
        axes.set_ylim(0, 100)
    else:
        axes.set_ylim(0, 1.08 * max(float(np.nanmax(v)) for v in lines.values()) or 1.0)
    if len(lines) > 1:
        legend = axes.legend(
            fontsize=7, frameon=False, ncols=2 if len(lines) > 4 else 1, loc="best"
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def _keep_scale(
    axes: Axes, x: NDArray[np.float64], lines: Mapping[str, NDArray[np.float64]], axis: str
) -> None:
    """Leave wild values out of the scale, and say so: one would flatten all the rest."""
    known = np.concatenate([values[~np.isnan(values)] for values in lines.values()])
    limit = wild_above(known)
    if limit == math.inf:
        return
    low, high = float(known.min()), float(known[known <= limit].max())
    margin = 0.05 * (high - low) or 0.05
    axes.set_ylim(low - margin, high + margin)
    outside = [
        (float(values[i]), f"{_line_name(key)} {values[i]:.3g} at {axis} {x[i]:g}")
        for key, values in lines.items()
        for i in np.flatnonzero(values > limit)
    ]
    outside.sort(reverse=True)
    told = "; ".join(text for _, text in outside[:2]) + (" …" if len(outside) > 2 else "")
    axes.set_title(axes.get_title(), pad=16)
    axes.text(
        0.5, 1.02, f"above the scale: {told}", transform=axes.transAxes, ha="center", va="bottom",
        fontsize=7, color="#555555", parse_math=False,
    )  # fmt: skip


def wild_above(values: NDArray[np.float64]) -> float:
    """The largest value that belongs to the rest; infinity where all do.

    Args:
        values: Known values, any order.

    Returns:
        The value below the lowest gap of a factor of three among the highest tenth (at least
        one value); a curve that falls steadily has no such gap.
    """
    ordered = np.sort(values)[::-1]
    limit = math.inf
    for i in range(min(max(1, len(ordered) // 10), len(ordered) - 1)):
        if ordered[i] > _WILD * ordered[i + 1] > 0:
            limit = float(ordered[i + 1])
    return limit


def _line_name(key: str) -> str:
    if key.startswith("val_iou"):
        return key.removeprefix("val_iou").lstrip("_/:. ") or key
    names = {
        "train_loss": "training",
        "val_loss": "validation",
        "train_accuracy": "training accuracy",
        "val_accuracy": "validation accuracy",
        "val_miou": "validation mean IoU",
    }
    return names.get(key, key.removeprefix("val_").replace("_", " "))
