"""Rows of a sheet, read ahead: each block is decoded once, while the network computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import Window

Read = Callable[[Window], tuple[NDArray[np.uint8], NDArray[np.bool_]]]
"""Window inside the sheet -> image ``(bands, rows, cols)``, valid ``(rows, cols)``; any thread."""

_LEAST_ROWS = 256
_MOST_ROWS = 1024
_LEAST_COLUMNS = 2048  # less is not worth a thread


class SheetRows:
    """Gives rows from top to bottom; those that are asked for next are read meanwhile.

    Held are the rows that were asked for last and those that were announced.

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
        columns = max(_LEAST_COLUMNS, -(-window.width // max(1, threads)))
        self._columns = -(-columns // 512) * 512  # blocks are of 512 columns or a part of it
        self._chunks: dict[int, list[tuple[Window, Future[_Pixels]]]] = {}
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="read")

    def announce(self, first: int, behind: int) -> None:
        """Begin to read rows that will be asked for."""
        for number in range(first // self._step, -(-behind // self._step)):
            if number not in self._chunks:
                self._chunks[number] = [
                    (part, self._pool.submit(self._read, part)) for part in self._parts(number)
                ]

    def take(self, first: int, behind: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Rows of all columns: image ``(bands, rows, cols)``, valid ``(rows, cols)``.

        Rows above the first are forgotten: they may not be asked for again.

        Raises:
            TeselaError: What reading raises.
        """
        self.announce(first, behind)
        for number in [n for n in self._chunks if (n + 1) * self._step <= first]:
            del self._chunks[number]
        whole = Window(self._window.col, first, self._window.width, behind - first)
        image: NDArray[np.uint8] | None = None
        valid = np.empty((whole.height, whole.width), np.bool_)
        for number in range(first // self._step, -(-behind // self._step)):
            for part, pixels in self._chunks[number]:
                found, known = pixels.result()
                if image is None:
                    image = np.empty((len(found), whole.height, whole.width), np.uint8)
                shared = part.intersection(whole)
                assert shared is not None
                to, here = shared.slices(whole), shared.slices(part)
                image[:, to[0], to[1]] = found[:, here[0], here[1]]
                valid[to] = known[here]
        assert image is not None
        return image, valid

    def close(self) -> None:
        """Stop reading."""
        self._pool.shutdown(cancel_futures=True)
        self._chunks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _parts(self, number: int) -> list[Window]:
        top = number * self._step
        rows = min(self._step, self._window.bottom - top)
        left, right = self._window.col, self._window.right
        edges = [left, *range((left // self._columns + 1) * self._columns, right, self._columns)]
        ends = [*edges[1:], right]
        return [Window(a, top, b - a, rows) for a, b in zip(edges, ends, strict=True)]


_Pixels = tuple[NDArray[np.uint8], NDArray[np.bool_]]
