"""Overviews of a raster, made from a row of its blocks at a time.

A pixel of overview ``n`` stands for the ``2**n x 2**n`` pixels under it, and is made from all of
them, not from the overview before it: repeated majorities of four drift to whatever wins ties. Up
to level 9, what lies under a pixel of an overview lies inside one row of blocks of 512.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.counting import id_counts
from pipeline.nomenclature import IGNORE

MOST = 9
"""Levels at most; from 262 144 pixels a side on, the smallest overview is larger than a block."""

Method = Literal["mode", "average"]
"""How the pixels of an overview are made: ``mode`` for classes, ``average`` for measures."""

_SIDE = 1024  # pixels of a part that is worked on: what is made of it stays in the cache of a core


def levels(width: int, height: int, block: int) -> int:
    """Number of overviews: as GDAL makes them, until one fits into a block.

    Args:
        width: Columns of the raster.
        height: Rows of the raster.
        block: Pixels a side of a block.
    """
    number = 0
    while max(width, height) >> number > block and number < MOST:
        number += 1
    return number


def size(pixels: int, level: int) -> int:
    """Columns or rows of an overview; what is left over at the end is a pixel of its own."""
    return -(-pixels // (1 << level))


def reduced(
    pixels: NDArray[np.uint8], number: int, how: Method
) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
    """Make a row of blocks smaller.

    Pixels without data (255) count for nothing; where there are no others, the result has none
    either. Of classes that are equally frequent the smaller id wins; means are rounded, halves
    upwards.

    Args:
        pixels: Of one band, shape ``(rows, cols)``; rows from a multiple of ``2**number`` on.
        number: Levels to make, 0 to 9.
        how: ``mode`` or ``average``.

    Returns:
        How many pixels have each value, shape ``(256,)``, and levels 1 to ``number``.
    """
    rows, cols = pixels.shape
    made = [np.empty((size(rows, n), size(cols, n)), np.uint8) for n in range(1, number + 1)]
    histogram = np.zeros(256, np.int64)
    for col in range(0, cols, _SIDE):
        part = pixels[:, col : col + _SIDE]
        counts = id_counts(part)
        histogram += counts
        targets = [whole[:, col >> n : (col + _SIDE) >> n] for n, whole in enumerate(made, 1)]
        present = np.flatnonzero(counts)
        if len(present) == 1:
            for target in targets:
                target[...] = present[0]
        elif how == "mode":
            _mode(part, [int(value) for value in present if value != IGNORE], targets)
        elif counts[IGNORE] or any(side % 2**number for side in part.shape):
            _average(part, targets)
        else:
            _full_average(part, targets)
    return histogram, made


def _mode(
    part: NDArray[np.uint8], present: Sequence[int], targets: Sequence[NDArray[np.uint8]]
) -> None:
    # The count of the most frequent class, and below it, as 255 - id, which: the larger number is
    # that of the more frequent class, or of the smaller id.
    best = [np.full(target.shape, 255, np.uint16 if n < 4 else np.uint32)
            for n, target in enumerate(targets, 1)]  # fmt: skip
    for value in present:
        counts: NDArray[Any] = (part == value).view(np.uint8)
        for most in best:
            if most.dtype == np.uint32:
                counts = counts.astype(np.uint32, copy=False)
            counts = _pooled(counts)
            candidate = counts.astype(most.dtype) << most.dtype.type(8)
            candidate += most.dtype.type(255 - value)
            np.maximum(most, candidate, out=most)
    for most, target in zip(best, targets, strict=True):
        target[...] = np.where(most > 255, ~most, IGNORE).astype(np.uint8)


def _full_average(part: NDArray[np.uint8], targets: Sequence[NDArray[np.uint8]]) -> None:
    """The average where nothing is missing: shifts instead of divisions."""
    sums: NDArray[Any] = part.astype(np.uint16)
    for level, target in enumerate(targets, 1):
        # 256 pixels of at most 254 are the last to fit.
        sums = _pooled(sums if level < 5 else sums.astype(np.uint32, copy=False))
        half = sums.dtype.type(1 << (2 * level - 1))
        target[...] = (sums + half) >> sums.dtype.type(2 * level)


def _average(part: NDArray[np.uint8], targets: Sequence[NDArray[np.uint8]]) -> None:
    valid = part != IGNORE
    sums: NDArray[Any] = part * valid
    counts: NDArray[Any] = valid
    for target in targets:
        sums, counts = _pooled(sums.astype(np.uint32)), _pooled(counts.astype(np.uint32))
        means = (2 * sums + counts) // np.maximum(2 * counts, 1)
        target[...] = np.where(counts > 0, means, IGNORE)


def _pooled(values: NDArray[Any]) -> NDArray[Any]:
    """Sums of two by two; what is left over at the end is added to nothing."""
    rows, cols = values.shape
    high = np.zeros((size(rows, 1), cols + cols % 2), values.dtype)
    np.add(values[: rows - 1 : 2], values[1::2], out=high[: rows // 2, :cols])
    if rows % 2:
        high[-1, :cols] = values[-1]
    return high[:, ::2] + high[:, 1::2]
