"""SheetRows: some rows of a sheet, read ahead: each block is decoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import Window

Read = Callable[[Window], tuple[NDArray[np.uint8], NDArray[np.bool_]]]
"""Window inside the sheet -> image ``(bands, rows, cols)``, valid ``(rows, cols)``; any thread."""

_LEAST_ROWS = 256
_MOST_ROWS = 1024
_COLUMNS = 4096  # a multiple of what blocks are wide; fewer columns are not worth a thread


class SheetRows:
    """Holds some rows of a sheet; those that come next are read meanwhile.

    Args:
        read: Gives the pixels of windows.
        window: Columns to read, and the sheet's rows.
        block_height: Rows of the file's blocks.
        threads: Threads that read side by side.
    """

    def __init__(self, read: Read, window: Window, block_height: int, threads: int = 1) -> None:
        self._read, self._window = read, window
        high = min(max(block_height, 1), _MOST_ROWS)
        self._step = high * max(1, _LEAST_ROWS // high)
        columns = -(-window.width // max(1, threads))
        self._columns = -(-columns // _COLUMNS) * _COLUMNS
        self._chunks: dict[int, list[tuple[Window, Future[_Pixels]]]] = {}
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="read")

    def hold(self, first: int, behind: int) -> None:
        """Begin to read rows; those above the first are forgotten."""
        for number in [n for n in self._chunks if (n + 1) * self._step <= first]:
            del self._chunks[number]
        for number in self._numbers(first, behind):
            if number not in self._chunks:
                self._chunks[number] = [
                    (part, self._pool.submit(self._pixels, part)) for part in self._parts(number)
                ]

    def pixels(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Pixels of rows that are held: image ``(bands, rows, cols)``, valid ``(rows, cols)``.

        Raises:
            TeselaError: What reading raises.
        """
        image: NDArray[np.uint8] | None = None
        for part, (found, _) in self._held(window):
            if image is None:
                image = np.empty((len(found), window.height, window.width), np.uint8)
            here, there = _shared(part, window)
            image[:, here[0], here[1]] = found[:, there[0], there[1]]
        assert image is not None
        return image, self.valid(window)

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Which pixels of rows that are held have data, shape ``(rows, cols)``."""
        valid = np.ones((window.height, window.width), np.bool_)
        for part, (_, known) in self._held(window):
            if known is not None:
                here, there = _shared(part, window)
                valid[here] = known[there]
        return valid

    def close(self) -> None:
        """Stop reading."""
        self._pool.shutdown(cancel_futures=True)
        self._chunks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pixels(self, window: Window) -> _Pixels:
        image, valid = self._read(window)
        return image, None if valid.all() else valid

    def _held(self, window: Window) -> Iterator[tuple[Window, _Pixels]]:
        for number in self._numbers(window.row, window.bottom):
            for part, pixels in self._chunks[number]:
                if part.intersection(window) is not None:
                    yield part, pixels.result()

    def _numbers(self, first: int, behind: int) -> range:
        return range(first // self._step, -(-behind // self._step))

    def _parts(self, number: int) -> list[Window]:
        top = number * self._step
        rows = min(self._step, self._window.bottom - top)
        left, right = self._window.col, self._window.right
        edges = [left, *range((left // self._columns + 1) * self._columns, right, self._columns)]
        ends = [*edges[1:], right]
        return [Window(a, top, b - a, rows) for a, b in zip(edges, ends, strict=True)]


# Of a part without holes the mask is not kept.
_Pixels = tuple[NDArray[np.uint8], NDArray[np.bool_] | None]


def _shared(part: Window, window: Window) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where the pixels that both have lie in the window, and in the part."""
    shared = part.intersection(window)
    assert shared is not None
    return shared.slices(window), shared.slices(part)
