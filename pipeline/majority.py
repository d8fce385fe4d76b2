"""The majority filter: each pixel gets the most frequent class of the window around it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.nomenclature import IGNORE

_SIDE = 512  # pixels a side of what is filtered at once; its counts stay in the cache of a core


def majority(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Filter the middle of a window of a map.

    A pixel keeps its class where no other is more frequent in the square around it; among others
    that are equally frequent the smallest id wins. Pixels without data do not vote and get none.

    Args:
        pixels: Class ids or 255, shape ``(rows + size - 1, cols + size - 1)``: ``size // 2`` more
            on each side than are filtered, 255 where that is beyond the sheet.
        size: Side of the square, odd.

    Returns:
        The filtered classes, shape ``(rows, cols)``.

    Raises:
        ValueError: If the size is even, or the window is smaller than the square.
    """
    if size < 1 or size % 2 == 0 or min(pixels.shape) < size:
        raise ValueError(f"a square of {size} pixels in a window of {pixels.shape}")
    rows, cols = (side - size + 1 for side in pixels.shape)
    filtered = np.empty((rows, cols), np.uint8)
    for row in range(0, rows, _SIDE):
        for col in range(0, cols, _SIDE):
            height, width = min(_SIDE, rows - row), min(_SIDE, cols - col)
            around = pixels[row : row + height + size - 1, col : col + width + size - 1]
            filtered[row : row + height, col : col + width] = _filtered(around, size)
    return filtered


def _filtered(around: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    margin = size // 2
    middle = around[margin : around.shape[0] - margin, margin : around.shape[1] - margin]
    if (around == around[0, 0]).all():
        return middle
    present = np.flatnonzero(np.bincount(around.reshape(-1), minlength=IGNORE + 1)[:IGNORE])
    kind = np.min_scalar_type(size * size)
    best = np.full(middle.shape, IGNORE, np.uint8)
    most, own = np.zeros(middle.shape, kind), np.zeros(middle.shape, kind)
    for number in present.astype(np.uint8):
        votes = (around == number).astype(kind)
        count = _sums(_sums(votes, size).T, size).T
        np.copyto(best, number, where=count > most)
        np.copyto(own, count, where=middle == number)
        np.maximum(most, count, out=most)
    np.copyto(best, middle, where=(own == most) | (middle == IGNORE))
    return best


def _sums(votes: NDArray[Any], size: int) -> NDArray[Any]:
    """Sums of ``size`` rows beneath each other: doubled, so that few additions make them."""
    out = len(votes) - size + 1
    total: NDArray[Any] | None = None
    doubled, height, begun = votes, 1, 0
    while True:
        if size & height:
            part = doubled[begun : begun + out]
            total = part if total is None else total + part
            begun += height
        if begun == size:
            assert total is not None
            return total
        doubled = doubled[:-height] + doubled[height:]
        height *= 2
