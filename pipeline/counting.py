"""Exact counts of class ids: of each id, of each pair of ids, of each id in columns of cells.

A class raster is made of areas: most of its pixels equal the one before. What is looked for is
where runs of equal pixels begin, and what is added up is their lengths. Where hardly a pixel
equals the one before, the pixels are counted one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import Window
from pipeline.nomenclature import IGNORE

IDS = 256
"""Ids that uint8 has."""

ACROSS = 8192
"""Columns that are read at once: 4 MB of a class raster at blocks of 512 pixels."""

_CHUNK = 2**19  # pixels; what is made of them stays in the cache of a core
_WORD = 8  # pixels that are looked at together: 2**3

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
            _add(couples.reshape(-1), np.bincount((part[:even] + _ONE).view(np.uint16)))
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
            _add(total.reshape(-1), np.bincount(_coded(one, other)))
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


def block_windows(sheet: Window, wanted: Iterable[Window], height: int, width: int) -> list[Window]:
    """Windows of whole blocks that hold all wanted pixels: read them, and no block is read twice.

    Args:
        sheet: All pixels of the raster.
        wanted: Windows of which pixels are wanted; they may overlap, and reach beyond the sheet.
        height: Rows of the raster's blocks.
        width: Columns of the raster's blocks.

    Returns:
        Row by row of blocks; at most :data:`ACROSS` columns wide, or one block where that is more.
    """
    touched = np.zeros((-(-sheet.height // height), -(-sheet.width // width)), bool)
    for window in wanted:
        part = window.intersection(sheet)
        if part is not None:
            touched[
                part.row // height : -(-part.bottom // height),
                part.col // width : -(-part.right // width),
            ] = True
    found = []
    most = max(1, ACROSS // width)
    for down, row in enumerate(touched):
        turns = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0)).tolist()
        for begin, end in zip(turns[::2], turns[1::2], strict=True):
            for first in range(begin, end, most):
                blocks = min(most, end - first)
                part = Window(first * width, down * height, blocks * width, height)
                part = part.intersection(sheet)
                assert part is not None
                found.append(part)
    return found


class TileCounter:
    """Counts the labelled pixels of a sheet's tiles, a window of whole blocks at a time.

    Each block is decoded once, however many tiles it is part of: what a window has of a tile is
    added to what other windows have of it. :meth:`count` may be called from any thread;
    :meth:`add` from one at a time, in any order.

    Args:
        tiles: Windows of the tiles; they may overlap, and reach beyond the sheet.
        sheet: All pixels of the sheet.
        classes: Number of classes.
        block: Height and width of the blocks of the label raster.

    Attributes:
        windows: Windows of the sheet to read, count and add.
        class_pixels: Pixels of each class, shape ``(tiles, classes)``; complete when all windows
            are added.
    """

    def __init__(
        self,
        tiles: Sequence[Window],
        sheet: Window,
        classes: int,
        block: tuple[int, int],
    ) -> None:
        self._classes = classes
        self.windows = block_windows(sheet, tiles, *block)
        self.class_pixels = np.zeros((len(tiles), classes), np.int64)
        # First and end of rows and columns inside the sheet, in the order of the first rows.
        places = np.array(tiles, np.intp).reshape(-1, 4)
        self._order = np.argsort(places[:, 1], kind="stable")
        col, row, width, height = places[self._order].T
        self._rows = row, np.minimum(row + height, sheet.height)
        self._cols = col, np.minimum(col + width, sheet.width)
        self._tallest = int(height.max(initial=0))

    def count(self, window: Window, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Count what a window has of each tile that it touches.

        Args:
            window: One of :attr:`windows`.
            labels: Class ids or 255, shape ``(rows, cols)``.

        Returns:
            Pixels, shape ``(tiles, classes)``.

        Raises:
            ValueError: If an id is neither a class nor 255.
        """
        tiles = self._touched(window)
        tops, bottoms, lefts, rights = self._inside(window, tiles)
        counts = np.zeros((len(tiles), self._classes), np.int64)
        cuts = np.unique(np.concatenate([tops, bottoms]))
        for top, bottom in pairwise(cuts.tolist()):
            # Between two cuts, a tile has all of the rows or none.
            across = np.flatnonzero((tops <= top) & (bottoms >= bottom))
            if not len(across):
                continue
            left, right = lefts[across], rights[across]
            edges = np.unique(np.concatenate([[0, window.width], left, right]))
            cells = cell_counts(labels[top:bottom], edges)
            self._check(cells)
            sums = np.zeros((len(edges), self._classes), np.int64)
            np.cumsum(cells[:, : self._classes], axis=0, out=sums[1:])
            counts[across] += sums[np.searchsorted(edges, right)]
            counts[across] -= sums[np.searchsorted(edges, left)]
        return counts

    def add(self, window: Window, counts: NDArray[np.int64]) -> None:
        """Add what :meth:`count` has counted in a window."""
        self.class_pixels[self._order[self._touched(window)]] += counts

    def _touched(self, window: Window) -> NDArray[np.intp]:
        """Places, in the order of the rows, of the tiles that have pixels of a window."""
        (row, row_end), (col, col_end) = self._rows, self._cols
        first, end = np.searchsorted(row, [window.row - self._tallest, window.bottom])
        near = slice(first, end)
        touched = (
            (row_end[near] > window.row) & (col[near] < window.right) & (col_end[near] > window.col)
        )
        found: NDArray[np.intp] = np.flatnonzero(touched) + first
        return found

    def _inside(
        self, window: Window, tiles: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """First and end of rows and columns of tiles, in a window."""
        (row, row_end), (col, col_end) = self._rows, self._cols
        return (
            np.clip(row[tiles] - window.row, 0, window.height),
            np.clip(row_end[tiles] - window.row, 0, window.height),
            np.clip(col[tiles] - window.col, 0, window.width),
            np.clip(col_end[tiles] - window.col, 0, window.width),
        )

    def _check(self, cells: NDArray[np.int64]) -> None:
        wrong = np.flatnonzero(cells[:, self._classes : IGNORE].any(axis=0)) + self._classes
        if len(wrong):
            raise ValueError(
                f"the labels hold the id {', '.join(map(str, wrong))}; ids "
                f"run from 0 to {self._classes - 1}, or are {IGNORE}"
            )


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
    """The same pixels of each raster, one-dimensional, a chunk at a time, in order of memory."""
    with np.nditer(
        rasters,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[_READ] * len(rasters),
        buffersize=_CHUNK,
    ) as chunks:
        for chunk in chunks:
            parts = chunk if isinstance(chunk, tuple) else (chunk,)
            if parts[0].size:
                yield parts


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
