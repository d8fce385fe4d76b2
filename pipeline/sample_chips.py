"""Image chips of sample points: the pixel with its neighbours, and the ground around it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.grid import Window
from pipeline.imagery import Imagery
from pipeline.parallel import ordered

DETAIL = 97
"""Pixels a side of the enlarged part; the point's is in the middle."""

ZOOM = 4
"""Each of them is so many pixels a side of the chip."""

HEIGHT = DETAIL * ZOOM
"""Rows of a chip."""

AROUND = 2 * HEIGHT
"""Pixels a side of the overview, two of them a pixel of the chip."""

GAP = 8
"""Columns between both."""

NODATA = 128
"""Grey of what has no data, or lies outside of the orthophoto."""

MARK = (255, 0, 255)
"""Colour of the mark: no ground has it."""

_ARM = 20  # pixels of the chip, from _CLEAR on
_CLEAR = 10
_QUALITY = 90


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
    imagery: Imagery, places: Mapping[Path, tuple[int, int]], threads: int = 1
) -> Iterator[Path]:
    """Write the chips of pixels of one orthophoto, as JPEG.

    Args:
        imagery: The orthophoto.
        places: Row and column of the pixel of each file.
        threads: Threads.

    Yields:
        Each file when it is written.

    Raises:
        InputError: If pixels are damaged.
    """
    high = imagery.block_height

    def made(file: Path) -> bytes:
        return encoded(chip(imagery, *places[file]))

    # Along the blocks of the file: each is read from the disk once.
    order = sorted(places, key=lambda file: (places[file][0] // high, places[file][1]))
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
