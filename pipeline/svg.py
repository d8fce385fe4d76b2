"""Drawings for a page, as SVG: small, the same bytes for the same values, light and dark.

A page shows them as ``<img>``: such a picture inherits no colour, but it answers to the reader's
colour scheme by itself. Nothing in it is loaded from elsewhere. Text stays text, in the reader's
own sans-serif; it is laid out for DejaVu Sans, than which hardly any is wider.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from pipeline.figures import own_style

WIDTH = 380
"""Pixels: text of 10 pixels stays legible where a telephone shows the drawing at 330."""

INK, QUIET, LINE, GROUND = "#1c2431", "#5b6676", "#d9dee6", "#fefeff"
ACCENT, WARN, GOOD = "#1f5fa9", "#b85c01", "#1b7f4b"
"""Colours by their role. Nearly those of the page, but each one that no class is likely to have:
a class keeps its colour in the dark, and a role does not."""

_SHADE = "#3f87d0"  # of pictures inside a drawing, which keep their colours: between light and dark

_DARK = {
    INK: "#e4e8ee",
    QUIET: "#9aa6b5",
    LINE: "#36404c",
    GROUND: "#14181d",
    ACCENT: "#6fb0f5",
    WARN: "#f0a050",
    GOOD: "#5fd08f",
}

_FONTS = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_LONG = re.compile(r"-?\d*\.\d+(?:e-?\d+)?")
_FAMILY = re.compile(r"font: (bold )?([\d.]+px) [^;]+|font-family: [^;]+; ")
_REFERENCE = re.compile(r"#(\w+)")


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """An empty figure, and the style of all drawings while it is drawn and written.

    Args:
        width: Pixels of the page.
        height: Likewise.
    """
    with own_style():
        mpl.rcParams.update(
            {
                "font.size": 10,
                "axes.titlesize": 10.5,
                "axes.labelsize": 10,
                "xtick.labelsize": 9.5,
                "ytick.labelsize": 9.5,
                "legend.fontsize": 9.5,
                "legend.frameon": False,
                "text.color": INK,
                "text.parse_math": False,  # a class may be called "5 $ & $"
                "axes.edgecolor": QUIET,
                "axes.labelcolor": INK,
                "axes.facecolor": "none",
                "axes.axisbelow": True,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "figure.facecolor": "none",
                "savefig.facecolor": "none",
                "grid.color": LINE,
                "grid.linewidth": 0.7,
                "xtick.color": QUIET,
                "ytick.color": QUIET,
                "xtick.labelcolor": INK,
                "ytick.labelcolor": INK,
                "lines.solid_capstyle": "butt",
                "image.composite_image": False,
                "svg.fonttype": "none",
                "svg.hashsalt": "tesela",
            }
        )
        yield Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")


def written(figure: Figure) -> bytes:
    """The figure's file.

    Args:
        figure: One of :func:`drawing`, while its style is in force.

    Returns:
        SVG, UTF-8; coordinates to a hundredth of a pixel.
    """
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(file.getvalue())
    for element in list(root):
        if element.tag == f"{{{_SVG}}}metadata":
            root.remove(element)
    for side in ("width", "height"):
        root.set(side, root.get(side, "").removesuffix("pt"))
    _shorten(root)
    told = "".join(element.get("style", "") for element in root.iter())
    rules = [f"text{{font-family:{_FONTS}}}*{{stroke-linejoin:round}}"]
    # Not custom properties: a viewer that knows none of this still draws the light picture.
    dark = [
        f'[style*="{what}: {light}"]{{{what}:{color}!important}}'
        for light, color in _DARK.items()
        for what in ("fill", "stroke")
        if f"{what}: {light}" in told
    ]
    rules.append(f"@media (prefers-color-scheme:dark){{{''.join(dark)}}}")
    style = ElementTree.Element(f"{{{_SVG}}}style")
    style.text = "".join(rules)
    root.insert(0, style)
    text: str = ElementTree.tostring(root, encoding="unicode")
    return f"{text}\n".encode()


def on_white(drawing: bytes) -> bytes:
    """A drawing as a file of its own: light on a white ground, whatever the reader's scheme.

    Viewers, Snakemake's report among them, set pictures on a ground of their own, mostly white, on
    which pale ink would be lost.

    Args:
        drawing: What :func:`written` returned.
    """
    before, _, rest = drawing.partition(b"@media")
    _, _, after = rest.partition(b"</style>")
    return before + b'</style><rect width="100%" height="100%" fill="#ffffff" />' + after


def shaded(
    axes: Axes, strength: NDArray[np.float64], extent: tuple[float, float, float, float]
) -> None:
    """Cells of one hue, the stronger the higher; the ground of the page shines through.

    Args:
        axes: Where to draw.
        strength: From 0 to 1, shape ``(rows, cols)``, row 0 above; NaN where nothing is drawn.
        extent: Left, right, lower and upper edge.
    """
    rgba = np.empty((*strength.shape, 4))
    rgba[..., :3] = to_rgb(_SHADE)
    # In steps: the file is smaller, and no eye sees more.
    rgba[..., 3] = np.nan_to_num((20 * strength).round() / 20)
    axes.imshow(rgba, extent=extent, aspect="auto", interpolation="none", origin="upper", zorder=1)


def legend_above(figure: Figure, handles: Sequence[Artist], columns: int = 2) -> None:
    """A legend as wide as the drawing: inside the axes it would hide what is drawn there."""
    figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, handlelength=1.7,
        columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip


def class_rows(
    axes: Axes, names: Sequence[str], colors: Sequence[str], width: int = 18, size: float = 9.5
) -> None:
    """Name the rows of an axes 0, 1, ... from above, each with a chip of its colour.

    Args:
        axes: Rows lie at whole heights.
        names: Class names.
        colors: ``#RRGGBB`` of each.
        width: Letters in a line of a name; two lines at most.
        size: Of the letters, in pixels.
    """
    axes.set_yticks(range(len(names)), [wrapped(name, width) for name in names], fontsize=size)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, pad=16)
    axes.spines["left"].set_visible(False)
    axes.scatter(
        [0] * len(names), range(len(names)), c=list(colors), marker="s", s=52, edgecolors=QUIET,
        linewidths=0.6, clip_on=False, transform=axes.get_yaxis_transform() + _aside(axes, -9, 0),
    )  # fmt: skip


def class_title(axes: Axes, name: str, color: str, width: int, below: str = "") -> None:
    """Name a small panel of one class, with a chip of its colour.

    Args:
        axes: The panel.
        name: Class name.
        color: ``#RRGGBB``.
        width: Letters of the name; of a longer one the rest is left out.
        below: More lines, smaller.
    """
    lift = 10.5 * (below.count("\n") + 1) + 2 if below else 0.0
    axes.annotate(
        below, (0, 1), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points",
        fontsize=8.5, linespacing=1.1, va="bottom",
    )  # fmt: skip
    told = name if len(name) <= width else f"{name[: width - 1].rstrip()}…"
    axes.set_title(told, loc="left", pad=4 + lift, fontsize=10)
    axes.scatter(
        [0], [1], c=[color], marker="s", s=46, edgecolors=QUIET, linewidths=0.6, clip_on=False,
        transform=axes.transAxes + _aside(axes, -9, 8.5 + lift),
    )  # fmt: skip


def wrapped(text: str, width: int) -> str:
    """A name in two lines of so many letters, cut where it is longer."""
    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder=" …")) or text


def _aside(axes: Axes, right: float, up: float) -> ScaledTranslation:
    """So many pixels aside."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return ScaledTranslation(right / 72, up / 72, figure.dpi_scale_trans)


def _shorten(root: ElementTree.Element) -> None:
    """Take out what draws nothing: digits, identifiers nobody refers to, groups of nothing."""
    used: dict[str, str] = {}
    for element in root.iter():
        for key, value in element.attrib.items():
            if key.endswith("href") or "url(" in value:
                for name in _REFERENCE.findall(value):
                    used.setdefault(name, f"i{len(used)}")
    for element in root.iter():
        element.text = (element.text or "").strip() if not _is_text(element) else element.text
        element.tail = None
        if (name := element.attrib.pop("id", None)) in used:
            element.set("id", used[str(name)])
        for key, value in list(element.attrib.items()):
            if key.endswith("href") and value.startswith("#"):
                element.set(key, f"#{used[value[1:]]}")
            elif "url(" in value:
                element.set(key, _REFERENCE.sub(lambda match: f"#{used[match[1]]}", value))
            elif key in ("d", "x", "y", "points"):
                element.set(key, " ".join(_rounded(value, 2).split()))
            elif key in ("transform", "width", "height"):
                element.set(key, _rounded(value, 4))
            elif key == "style":
                # The family is the same for all, and stands in the style sheet.
                element.set(key, _FAMILY.sub(_weight_and_size, value))
        if element.get("transform", "").startswith("rotate(0 "):
            del element.attrib["transform"]
    _flatten(root)


def _flatten(parent: ElementTree.Element) -> None:
    children: list[ElementTree.Element] = []
    for child in parent:
        _flatten(child)
        kind = child.tag.rpartition("}")[2]
        if kind == "style" or (kind in ("g", "defs") and len(child) == 0):
            continue
        children += list(child) if kind == "g" and not child.attrib else [child]
    parent[:] = children


def _is_text(element: ElementTree.Element) -> bool:
    return element.tag.endswith(("}text", "}tspan"))


def _weight_and_size(match: re.Match[str]) -> str:
    if match[2] is None:
        return ""
    return f"font-weight: bold; font-size: {match[2]}" if match[1] else f"font-size: {match[2]}"


def _rounded(text: str, digits: int) -> str:
    def short(match: re.Match[str]) -> str:
        return f"{float(match[0]):.{digits}f}".rstrip("0").rstrip(".")

    return re.sub(r"(?<![\d.])-0(?![\d.])", "0", _LONG.sub(short, text))
