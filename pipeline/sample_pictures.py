"""Sample predictions as pictures: what the network says of the same few tiles, as it learns."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from pipeline.figures import own_style, png
from pipeline.following import Follower, Samples, Validation, column
from pipeline.nomenclature import IGNORE
from pipeline.numerals import percent
from pipeline.publication import published
from pipeline.thumbnails import WRONG

KEPT = 16
"""At most so many pictures of a training are kept, evenly over it, and the last one."""

BEST = "best.png"

_STEP = re.compile(r"step_(\d+)\.png")
_COLUMNS = ("image", "label", "prediction", "where they differ", "confidence")
_STRIPES = ((0xEE, 0xEE, 0xEE), (0xB0, 0xB0, 0xB0))  # no label: no class is striped
_CONFIDENCE = "viridis"  # as the style of the confidence rasters

# Pixels of the picture; a small tile is enlarged, a large one decimated.
_SMALLEST, _LARGEST, _GAP, _MARGIN, _LINE, _FONT = 192, 384, 8, 16, 22, 13
_CHARACTER = 0.62 * _FONT  # width of a letter, on average
_DPI = 100

RGB = NDArray[np.uint8]


class SamplePictures(Follower):
    """A follower that draws the sample tiles of each validation.

    ``step_000123.png`` is of the validation after step 123, ``best.png`` of the best one. Of n
    validations the last one stays, and every 1st, 2nd, 4th, 8th... from the first on, so that
    :data:`KEPT` are never passed. Pictures of an earlier training in the folder are removed.

    Args:
        folder: Where the pictures lie.
        colors: ``#RRGGBB`` of each class.
    """

    def __init__(self, folder: Path, colors: Sequence[str]) -> None:
        self._folder, self._colors = folder, colors

    def validated(self, validation: Validation) -> None:
        """Draw the samples, if there are any, and thin out.

        Raises:
            OutputError: If a picture cannot be written.
        """
        known = ~np.isnan(column(validation.rows, "val_loss"))
        steps = column(validation.rows, "step")[known].astype(int).tolist()
        first = len(steps) <= 1
        # What a first validation finds here is of another training.
        wanted = set() if first else {BEST, *map(_name, kept(steps))}
        if validation.samples is not None:
            step = int(validation.row["step"])
            picture = sample_picture(
                validation.samples, validation.classes, self._colors, heading(validation)
            )
            names = [_name(step), *([BEST] if validation.best else [])]
            with published(*(self._folder / name for name in names)) as drafts:
                for draft in drafts:
                    draft.write_bytes(picture)
            wanted |= set(names)
        for path in self._folder.glob("*.png"):
            ours = _STEP.fullmatch(path.name) or path.name == BEST
            if ours and path.name not in wanted:
                path.unlink()


def kept(steps: Sequence[int]) -> set[int]:
    """Which validations keep their pictures.

    Args:
        steps: Steps of all validations so far, in order.

    Returns:
        The first, every n-th from it on (n a power of two, so that what is kept later was kept
        before), and the last.
    """
    stride = 1
    while len(steps) > KEPT * stride:
        stride *= 2
    return {*steps[::stride], *steps[-1:]}


def heading(validation: Validation) -> str:
    """The validation in a line: epoch, step, scores."""
    row = validation.row
    scores = [
        f"{name} {percent(float(row[key]))}"
        for key, name in (("val_accuracy", "accuracy"), ("val_miou", "mean IoU"))
        if row.get(key) is not None
    ]
    line = f"Epoch {float(row['epoch']):g}, step {row['step']}"
    line += f": validation {', '.join(scores)}" if scores else ""
    return line + (" (best so far)" if validation.best else "")


def sample_picture(
    samples: Samples, classes: Sequence[str], colors: Sequence[str], title: str
) -> bytes:
    """Tiles one below the other: image, label, prediction, where they differ, confidence.

    Args:
        samples: At least one tile.
        classes: Names of the classes.
        colors: ``#RRGGBB`` of each.
        title: Line above the tiles.

    Returns:
        PNG; the same values give the same bytes.

    Raises:
        ValueError: If there is no tile, or names, colours and ids do not fit.
    """
    if not len(samples.labels):
        raise ValueError("no tile to draw")
    if len(classes) != len(colors):
        raise ValueError(f"{len(classes)} class names and {len(colors)} colours")
    _check(samples, len(classes))
    tiles = [_tile(samples, number, colors) for number in range(len(samples.labels))]
    rows, cols = tiles[0][0].shape[:2]
    width = 2 * _MARGIN + len(_COLUMNS) * cols + (len(_COLUMNS) - 1) * _GAP
    entries = [*zip(classes, colors, strict=True), ("no label", "")]
    in_line = max(1, int((width - 2 * _MARGIN) / (max(map(_width, classes)) + 5 * _FONT)))
    below = math.ceil(len(entries) / in_line) * _LINE + _MARGIN
    above = _MARGIN + 2 * _LINE
    height = above + len(tiles) * (_LINE + rows + _GAP) + below
    canvas = np.full((height, width, 3), 255, np.uint8)
    lefts = [_MARGIN + i * (cols + _GAP) for i in range(len(_COLUMNS))]
    tops = [above + _LINE + i * (_LINE + rows + _GAP) for i in range(len(tiles))]
    for top, pictures in zip(tops, tiles, strict=True):
        for left, picture in zip(lefts, pictures, strict=True):
            canvas[top : top + rows, left : left + cols] = picture
    ramp = slice(lefts[-1] + cols - 100, lefts[-1] + cols - 40)
    canvas[_MARGIN + _LINE + 5 : _MARGIN + 2 * _LINE - 5, ramp] = _confidence_rgb(
        np.linspace(0, 100, 60).astype(np.uint8)
    )
    with own_style():
        mpl.rcParams.update({"font.size": 72 * _FONT / _DPI, "text.parse_math": False})
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        figure.figimage(canvas)

        def write(
            x: float, y: float, text: str, align: str = "left", weight: str = "normal"
        ) -> None:
            figure.text(x / width, 1 - y / height, text, ha=align, va="center", weight=weight)

        write(_MARGIN, _MARGIN + _LINE / 2 - 4, title, weight="bold")
        middle = _MARGIN + 1.5 * _LINE
        for left, name in zip(lefts, _COLUMNS, strict=True):
            write(left, middle, name)
        write(ramp.start - 4, middle, "0", "right")
        write(ramp.stop + 4, middle, "100\u202f%")
        for number, top in enumerate(tops):
            write(_MARGIN, top - _LINE / 2, _told(samples, number))
        handles = [
            Patch(facecolor=color, edgecolor="#555555", linewidth=0.5)
            if color
            else Patch(facecolor="#EEEEEE", edgecolor="#B0B0B0", linewidth=0.5, hatch="//////")
            for _, color in entries
        ]
        figure.legend(
            handles,
            [name for name, _ in entries],
            loc="lower left",
            bbox_to_anchor=(_MARGIN / width, 0.7 * _MARGIN / height),
            ncols=in_line,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            handlelength=1.2,
        )
        return png(figure, _DPI)


def _check(samples: Samples, classes: int) -> None:
    shape = samples.labels.shape
    layers = {"predictions": samples.predictions, "confidences": samples.confidences}
    for name, layer in layers.items():
        if layer.shape != shape:
            raise ValueError(f"{name} {layer.shape} and labels {shape} differ")
    if (len(samples.images), *samples.images.shape[2:]) != shape or len(samples.names) != shape[0]:
        raise ValueError(f"images {samples.images.shape} and labels {shape} differ")
    for ids in (samples.labels[samples.labels != IGNORE], samples.predictions):
        if ids.size and int(ids.max()) >= classes:
            raise ValueError(f"class id {int(ids.max())} is none of the {classes} classes")


def _tile(samples: Samples, number: int, colors: Sequence[str]) -> list[RGB]:
    """The pictures of one tile, in the order of the columns, scaled."""
    image, label = samples.images[number], samples.labels[number]
    prediction, confidence = samples.predictions[number], samples.confidences[number]
    photo: RGB = np.moveaxis(image[:3] if len(image) >= 3 else image[[0, 0, 0]], 0, -1)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colors)] = [[round(255 * part) for part in to_rgb(color)] for color in colors]
    # Pale, so that red stands out on it and places are still recognised.
    pale = 255 - (255 - photo.mean(axis=-1, keepdims=True)) * 0.6
    wrong = (prediction != label) & (label != IGNORE)
    red = 0.3 * pale + 0.7 * 255 * np.array(to_rgb(WRONG))
    differ = np.where(wrong[..., None], red, np.broadcast_to(pale, photo.shape)).round()
    scaled = [
        _scaled(picture)
        for picture in (
            photo,
            palette[label],
            palette[prediction],
            differ.astype(np.uint8),
            _confidence_rgb(confidence),
        )
    ]
    unlabelled = _scaled(label) == IGNORE
    row, col = np.indices(unlabelled.shape)
    stripes = np.array(_STRIPES, np.uint8)[(row + col) // 4 % 2]
    for place in (1, 3):
        scaled[place][unlabelled] = stripes[unlabelled]
    return scaled


def _scaled(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Whole pixels repeated, or left out."""
    side = max(picture.shape[:2])
    step, times = math.ceil(side / _LARGEST), math.ceil(_SMALLEST / side)
    return picture[::step, ::step].repeat(times, axis=0).repeat(times, axis=1)


def _confidence_rgb(per_cent: NDArray[np.uint8]) -> RGB:
    colors = mpl.colormaps[_CONFIDENCE](np.minimum(per_cent, 100) / 100.0, bytes=True)
    return np.asarray(colors)[..., :3].astype(np.uint8)


def _told(samples: Samples, number: int) -> str:
    labelled = samples.labels[number] != IGNORE
    right = (samples.predictions[number] == samples.labels[number])[labelled]
    accuracy = f"{percent(float(right.mean()))} right" if right.size else "nothing labelled"
    confidence = percent(float(samples.confidences[number].mean()) / 100)
    return f"{samples.names[number]}  ·  {accuracy}, confidence {confidence} on average"


def _width(text: str) -> float:
    return len(text) * _CHARACTER


def _name(step: int) -> str:
    return f"step_{step:06d}.png"
