"""Image chips of sample points: the pixel with its neighbours, and the ground around it.

Points of a change map have two, before and after, side by side in one picture.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.grid import Window
from pipeline.imagery import Imagery
from pipeline.parallel import ordered

DETAIL = 97
"""Pixels a side of the enlarged part; the point's is in the middle."""

ZOOM = 4
"""Each of them is so many pixels a side of the chip."""

HEIGHT = DETAIL * ZOOM
"""Rows of a chip of one date."""

AROUND = 2 * HEIGHT
"""Pixels a side of the overview, two of them a pixel of the chip."""

GAP = 8
"""Columns between both."""

TITLE = 26
"""Rows above each of two dates, with its name."""

NODATA = 128
"""Grey of what has no data, or lies outside of the orthophoto."""

MARK = (255, 0, 255)
"""Colour of the mark: no ground has it."""

_ARM = 20  # pixels of the chip, from _CLEAR on
_CLEAR = 10
_QUALITY = 90
_FONT = 18


class View(NamedTuple):
    """An orthophoto that a chip shows.

    Attributes:
        imagery: The orthophoto; its first three bands are red, green and blue.
        title: Its name, where there are several.
        down: Row of it that the map's first row lies on.
        across: Column of it that the map's first column lies on.
    """

    imagery: Imagery
    title: str = ""
    down: int = 0
    across: int = 0


def height(views: int) -> int:
    """Rows of a chip of one date or of two."""
    return HEIGHT if views == 1 else TITLE + HEIGHT + GAP + HEIGHT


def chip_of(views: Sequence[View], row: int, col: int) -> NDArray[np.uint8]:
    """The chip of a pixel of a map.

    Args:
        views: The orthophoto, or those of two dates.
        row: Row of the pixel on the map.
        col: Its column.

    Returns:
        Red, green, blue. Of one date :func:`chip`; of two, shape ``(height(2), 2 * HEIGHT + GAP,
        3)``: the earlier left, the later right, each with its title, enlarged above and with its
        surroundings below, so that the same ground is seen beside itself.

    Raises:
        InputError: If pixels are damaged.
    """
    parts = [chip(view.imagery, row + view.down, col + view.across) for view in views]
    if len(parts) == 1:
        return parts[0]
    wide = np.full((GAP, HEIGHT, 3), 255, np.uint8)
    columns = [
        np.concatenate([_title(view.title), part[:, :HEIGHT], wide, part[:, -HEIGHT:]])
        for view, part in zip(views, parts, strict=True)
    ]
    between = np.full((height(2), GAP, 3), 255, np.uint8)
    return np.concatenate([columns[0], between, columns[1]], axis=1)


def chip(imagery: Imagery, row: int, col: int) -> NDArray[np.uint8]:
    """The chip of a pixel: left enlarged, right its surroundings.

    A thin frame goes around the pixel and four arms point to it; neither hides it. In the overview
    a frame shows what the left side has.

    Args:
        imagery: The orthophoto; its first three bands are red, green and blue.
        row: Row of the pixel.
        col: Its column.

    Returns:
        Red, green, blue, shape ``(HEIGHT, 2 * HEIGHT + GAP, 3)``.

    Raises:
        InputError: If pixels are damaged.
    """
    half = HEIGHT  # the overview begins so many pixels before the point's
    window = Window(col - half, row - half, AROUND, AROUND)
    image, valid = _padded(imagery, window)
    first = half - DETAIL // 2
    inner = slice(first, first + DETAIL)
    detail = np.where(valid[inner, inner, None], image[inner, inner], np.uint8(NODATA))
    left = detail.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    middle = DETAIL // 2 * ZOOM
    _frame(left, middle - 1, middle + ZOOM)
    _arms(left, middle - 1, middle + ZOOM)
    right = _halved(image, valid)
    _frame(right, first // 2 - 1, (first + DETAIL) // 2 + 1)
    gap = np.full((HEIGHT, GAP, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def encoded(picture: NDArray[np.uint8]) -> bytes:
    """A chip as JPEG."""
    file = io.BytesIO()
    # Full colour resolution: with half of it the mark would tint the pixel.
    Image.fromarray(picture).save(file, "JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    return file.getvalue()


def write_chips(
    views: Sequence[View], places: Mapping[Path, tuple[int, int]], threads: int = 1
) -> Iterator[Path]:
    """Write the chips of pixels of one map, as JPEG.

    Args:
        views: Its orthophoto, or those of two dates.
        places: Row and column on the map of the pixel of each file.
        threads: Threads.

    Yields:
        Each file when it is written.

    Raises:
        InputError: If pixels are damaged.
    """
    high, down = views[0].imagery.block_height, views[0].down

    def made(file: Path) -> bytes:
        return encoded(chip_of(views, *places[file]))

    # Along the blocks of the file: each is read from the disk once.
    order = sorted(places, key=lambda file: ((places[file][0] + down) // high, places[file][1]))
    for file, content in ordered(made, order, threads):
        file.write_bytes(content)
        yield file


def _padded(imagery: Imagery, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pixels of a window that may stick out: shapes ``(rows, cols, 3)`` and ``(rows, cols)``."""
    image = np.zeros((window.height, window.width, 3), np.uint8)
    valid = np.zeros((window.height, window.width), np.bool_)
    inside = window.intersection(imagery.grid.window)
    if inside is not None:
        rows, cols = inside.slices(window)
        pixels, known = imagery.read(inside)
        image[rows, cols] = np.moveaxis(pixels[:3], 0, -1)
        valid[rows, cols] = known
    return image, valid


def _title(text: str) -> NDArray[np.uint8]:
    """A line of text in the middle of a white strip, shape ``(TITLE, HEIGHT, 3)``."""
    font = ImageFont.load_default()
    if isinstance(font, ImageFont.FreeTypeFont):
        font = font.font_variant(size=_FONT)
    strip = Image.new("RGB", (HEIGHT, TITLE), "white")
    left, top, right, bottom = font.getbbox(text)
    place = (HEIGHT - left - right) // 2, (TITLE - top - bottom) // 2
    ImageDraw.Draw(strip).text(place, text, "black", font=font)
    return np.asarray(strip)


def _halved(image: NDArray[np.uint8], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Means of two by two pixels, of those that have data."""
    known = _quartets(valid)
    total = _quartets(np.where(valid[..., None], image, 0))
    # Rounded to the nearest, halves up.
    mean = (2 * total + known[..., None]) // np.maximum(2 * known, 1)[..., None]
    return np.where(known[..., None] > 0, mean, NODATA).astype(np.uint8)


def _quartets(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Sums of two by two values below 256."""
    wide = values.astype(np.uint16)
    summed: NDArray[np.uint16] = (
        wide[::2, ::2] + wide[::2, 1::2] + wide[1::2, ::2] + wide[1::2, 1::2]
    )
    return summed


def _frame(picture: NDArray[np.uint8], first: int, last: int) -> None:
    """Draw a square frame, a pixel wide, from ``first`` to ``last`` in rows and columns."""
    span = slice(first, last + 1)
    for line in (first, last):
        picture[line, span] = MARK
        picture[span, line] = MARK


def _arms(picture: NDArray[np.uint8], first: int, last: int) -> None:
    """Draw four arms that point to a frame, two pixels wide, and leave the ground near it."""
    middle = (first + last) // 2
    wide = slice(middle, middle + 2)
    for span in (
        slice(first - _CLEAR - _ARM, first - _CLEAR),
        slice(last + 1 + _CLEAR, last + 1 + _CLEAR + _ARM),
    ):
        picture[span, wide] = MARK
        picture[wide, span] = MARK
