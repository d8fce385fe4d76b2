"""Exact counts of class ids: of each id, of each pair of ids, of each id in columns of cells.

A class raster is made of areas: most of its pixels equal the one before. What is looked for is
where runs of equal pixels begin, and what is added up is their lengths. Where hardly a pixel
equals the one before, the pixels are counted one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

IDS = 256
"""Ids that uint8 has."""

_CHUNK = 2**19  # pixels; what is made of them stays in the cache of a core
_WORD = 8  # pixels that are looked at together: 2**3

_FEW = 2**17  # pixels that are counted one by one
_SIDE, _SAMPLED = (
    512,
    32,
)  # pixels a side of squares that are noise or not; one row in so many is seen

# From so many begins of runs on, a word or a pixel, it costs less to count pixels.
_BUSY_WORDS, _BUSY = 0.7, 1 / 8

# Added to ids, it makes 255 (ignored) 0 and class 0 1: tables of counts end with the last class,
# and stay in the cache.
_ONE = np.uint8(1)

_READ: Any = ["readonly", "contig", "aligned"]  # of numpy's iterator


def id_counts(ids: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the pixels of each id.

    Args:
        ids: Of any shape and order in memory.

    Returns:
        Pixels, shape ``(256,)``.

    Raises:
        ValueError: If the ids are not uint8.
    """
    _check(ids)
    total = np.zeros(IDS, np.int64)
    couples = np.zeros((IDS, IDS), np.int64)
    room = _Room(min(_CHUNK, ids.size))
    for (part,) in _parts(ids):
        starts = room.starts(part)
        if starts is None:
            # Two pixels in one number: half as many to count.
            even = part.size - part.size % 2
            for few in _few(even):
                _add(couples.reshape(-1), np.bincount((part[:even][few] + _ONE).view(np.uint16)))
            _add(total, np.bincount(part[even:] + _ONE))
        else:
            _add(total, _weighed(part.take(starts) + _ONE, starts, part.size))
    return np.roll(total + couples.sum(axis=0) + couples.sum(axis=1), -1)


def pair_counts(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the pixels of each pair of ids.

    Args:
        first: Ids of one raster, of any shape and order in memory.
        second: Ids of another one at the same pixels, of the same shape.

    Returns:
        Pixels, shape ``(256, 256)``: row = first, column = second.

    Raises:
        ValueError: If the ids are not uint8, or the shapes differ.
    """
    _check(first, second)
    total = np.zeros((IDS, IDS), np.int64)
    room = _Room(min(_CHUNK, first.size))
    for one, other in _parts(first, second):
        starts = room.starts(one, other)
        if starts is None:
            for few in _few(one.size):
                _add(total.reshape(-1), np.bincount(_coded(one[few], other[few])))
        else:
            codes = _coded(one.take(starts), other.take(starts))
            _add(total.reshape(-1), _weighed(codes, starts, one.size))
    return np.roll(total, (-1, -1), axis=(0, 1))


def cell_counts(ids: NDArray[np.uint8], edges: NDArray[np.intp]) -> NDArray[np.int64]:
    """Count the pixels of each id in cells beside each other.

    Args:
        ids: Shape ``(rows, cols)``.
        edges: First column of each cell and the column behind the last one, ascending from 0 to
            ``cols``.

    Returns:
        Pixels, shape ``(cells, 256)``.

    Raises:
        ValueError: If the ids are not uint8, or the edges do not fit.
    """
    _check(ids)
    cols, widths = ids.shape[1], np.diff(edges)
    if not len(widths) or edges[0] != 0 or edges[-1] != cols or widths.min() < 1:
        raise ValueError(f"edges of cells ascend from 0 to {cols}, unlike {edges}")
    total = np.zeros((len(widths), IDS), np.int64)
    offsets = np.repeat(np.arange(len(widths)) * IDS, widths)
    most = max(1, _CHUNK // cols)
    room = _Room(min(most, len(ids)) * cols)
    for row in range(0, len(ids), most):
        band = np.ascontiguousarray(ids[row : row + most])
        part = band.reshape(-1)
        starts = room.starts(part, columns=(edges[:-1], cols))
        if starts is None:
            counts = np.bincount((offsets + (band + _ONE)).reshape(-1))
        else:
            codes = offsets.take(starts - starts // cols * cols) + (part.take(starts) + _ONE)
            counts = _weighed(codes, starts, part.size)
        _add(total.reshape(-1), counts)
    return np.roll(total, -1, axis=1)


class _Room:
    """Memory that the search for runs uses again for every part.

    Args:
        pixels: Of the largest part.
    """

    def __init__(self, pixels: int) -> None:
        padded = -(-pixels // _WORD) * _WORD
        self._changed, self._changed_too = np.empty(padded, bool), np.empty(pixels, bool)

    def starts(
        self,
        *parts: NDArray[np.uint8],
        columns: tuple[NDArray[np.intp], int] | None = None,
    ) -> NDArray[np.intp] | None:
        """Where runs of equal pixels begin, ascending from 0; None if there are too many.

        Args:
            parts: Ids of the same pixels, one-dimensional, not empty; a run is of one id in each.
            columns: Columns where a run begins in any case, and how many columns there are.
        """
        size = parts[0].size
        padded = self._changed[: -(-size // _WORD) * _WORD]
        padded[size:] = False
        changed = padded[:size]
        changed[0] = True
        np.not_equal(parts[0][1:], parts[0][:-1], out=changed[1:])
        for part in parts[1:]:
            too = self._changed_too[: size - 1]
            changed[1:] |= np.not_equal(part[1:], part[:-1], out=too)
        if columns is not None:
            changed.reshape(-1, columns[1])[:, columns[0]] = True
        # By words first: most of them have no begin, and finding them costs an eighth.
        words = np.flatnonzero(padded.view(np.uint64) != 0)
        if words.size > _BUSY_WORDS * padded.size / _WORD:
            return None
        within = np.flatnonzero(padded.view(np.uint64).take(words).view(bool))
        if within.size > _BUSY * size:
            return None
        starts: NDArray[np.intp] = words.take(within >> 3)
        starts <<= 3
        starts += within & 7
        return starts


def _parts(*rasters: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.uint8], ...]]:
    """The same pixels of each raster, one-dimensional, a chunk of memory at a time."""
    for region in _regions(rasters):
        with np.nditer(
            region,
            flags=["external_loop", "buffered", "zerosize_ok"],
            op_flags=[_READ] * len(region),
            buffersize=_CHUNK,
        ) as chunks:
            for chunk in chunks:
                parts = chunk if isinstance(chunk, tuple) else (chunk,)
                if parts[0].size:
                    yield parts


def _regions(rasters: tuple[NDArray[np.uint8], ...]) -> Iterator[tuple[NDArray[np.uint8], ...]]:
    """Noise apart from areas, by a sample of rows: a chunk with a little of it is slow in whole."""
    if rasters[0].ndim != 2 or min(rasters[0].shape) < 2:
        yield rasters
        return
    rows, cols = rasters[0].shape
    squares = np.arange(0, cols - 1, _SIDE)
    for row in range(0, rows, _SIDE):
        band = [raster[row : row + _SIDE] for raster in rasters]
        noisy = np.zeros(len(squares), bool)
        for raster in band:
            sample = raster[::_SAMPLED]
            changes = np.add.reduce(sample[:, 1:] != sample[:, :-1], axis=0, dtype=np.uint16)
            changes = np.add.reduceat(changes, squares, dtype=np.intp)
            noisy |= changes > _BUSY * _SIDE * len(sample)
        turns = np.flatnonzero(noisy[1:] != noisy[:-1]) + 1
        for first, end in pairwise([0, *squares[turns].tolist(), cols]):
            yield tuple(raster[:, first:end] for raster in band)


def _few(pixels: int) -> Iterator[slice]:
    """Parts of a chunk to count pixel by pixel: numpy makes eight bytes of each."""
    return (slice(first, min(first + _FEW, pixels)) for first in range(0, pixels, _FEW))


def _coded(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Both ids, one added to each, in one number."""
    codes = (first + _ONE).astype(np.uint16)
    codes <<= 8
    codes |= second + _ONE
    return codes


def _weighed(
    codes: NDArray[np.integer[Any]], starts: NDArray[np.intp], size: int
) -> NDArray[np.int64]:
    """Sums of the lengths of runs by code."""
    # In float64, which is exact: a part has 2**19 pixels, not 2**53.
    return np.bincount(codes, np.diff(starts, append=size)).astype(np.int64)


def _add(total: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    total[: counts.size] += counts


def _check(*rasters: NDArray[np.uint8]) -> None:
    for raster in rasters:
        if raster.dtype != np.uint8:
            raise ValueError(f"ids are uint8, not {raster.dtype}")
        if raster.shape != rasters[0].shape:
            raise ValueError(f"rasters of {rasters[0].shape} and {raster.shape} pixels")
