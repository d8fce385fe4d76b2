"""The patches of a map: a table on disk, in which patches become one.

A sheet of noise has as many patches as pixels. So the columns are files that are mapped into
memory: what the memory has no room for, the system writes back and reads again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

MOST = 2**32 - 1
"""More patches than this have no number of 32 bits."""

_CHUNK = 2**20  # patches that are looked at together
_FIRST = 2**16  # patches that there is room for at first
_COLUMNS = {"parents": np.int64, "areas": np.int64, "classes": np.uint8, "outside": np.bool_}


class PatchTable:
    """Patches by number, in the order of their first pixels, and which of them are one.

    The number of a patch that has become one with others is any of theirs; the smallest of them
    is the patch's own number, and its row of the table is the one that holds for all.

    Args:
        folder: Where the columns lie; it is there, and has no table in it.

    Attributes:
        areas: Area of each patch, in whole units.
        classes: Class of each patch.
        outside: Whether a patch touches pixels without data or the sheet's edge.
        rows: Numbers that were given.
        patches: Patches that there are.
    """

    areas: NDArray[np.int64]
    classes: NDArray[np.uint8]
    outside: NDArray[np.bool_]
    _parents: NDArray[np.int64]

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._room = 0
        self.rows = 0
        self.patches = 0
        self._grow(_FIRST)

    def add(self, classes: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Add patches without any area yet, and give their numbers.

        Raises:
            InputError: If there are too many.
            OSError: If the disk is full.
        """
        first, end = self.rows, self.rows + len(classes)
        if end > MOST:
            raise InputError(
                f"The map has more than {MOST} patches: it is noise.",
                remedy="Clean it with `majority_px` alone first.",
            )
        if end > self._room:
            self._grow(max(2 * self._room, end))
        numbers = np.arange(first, end)
        self._parents[first:end] = numbers
        self.classes[first:end] = classes
        self.rows = end
        self.patches += len(classes)
        return numbers

    def own(self, numbers: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """The patches' own numbers."""
        found: NDArray[np.int64] = self._parents[numbers]
        while True:
            above = self._parents[found]
            if np.array_equal(above, found):
                return found
            self._parents[numbers] = above
            found = above

    def unite(self, some: NDArray[np.int64], others: NDArray[np.int64]) -> None:
        """Make pairs of patches of the same class one."""
        while True:
            some, others = self.own(some), self.own(others)
            apart = some != others
            if not apart.any():
                return
            some, others = some[apart], others[apart]
            above, below = np.minimum(some, others), np.maximum(some, others)
            np.minimum.at(self._parents, below, above)
            # Each of them ends to be a patch here, and hands on what it had gathered until now.
            ended = np.unique(below)
            heirs = self.own(ended)
            np.add.at(self.areas, heirs, self.areas[ended])
            self.outside[heirs[self.outside[ended]]] = True
            self.patches -= len(ended)

    def chunks(self) -> Iterator[slice]:
        """All rows, some at a time."""
        for first in range(0, self.rows, _CHUNK):
            yield slice(first, min(first + _CHUNK, self.rows))

    def settle(self) -> None:
        """Write the class of each patch to all rows of its numbers: no more ``own`` is needed."""
        for chunk in self.chunks():
            numbers = np.arange(chunk.start, chunk.stop)
            # A patch's own row comes first of all its rows: it is never overwritten before.
            self.classes[chunk] = self.classes[self.own(numbers)]

    def column(self, name: str, dtype: type[np.generic]) -> NDArray[Any]:
        """Another column of as many rows as there are, of zeros.

        Raises:
            OSError: If the disk is full.
        """
        return _mapped(self._folder / name, dtype, max(1, self.rows), fresh=True)

    def close(self) -> None:
        """Let go of the files."""
        for name in _COLUMNS:
            setattr(self, name if name != "parents" else "_parents", np.empty(0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _grow(self, room: int) -> None:
        for name, dtype in _COLUMNS.items():
            column = _mapped(self._folder / name, dtype, room)
            setattr(self, name if name != "parents" else "_parents", column)
        self._room = room


def _mapped(path: Path, dtype: type[np.generic], room: int, *, fresh: bool = False) -> NDArray[Any]:
    with path.open("w+b" if fresh or not path.exists() else "r+b") as file:
        # A hole in the file would be filled when it is written to, and a full disk then ends the
        # process by a signal instead of an error.
        os.posix_fallocate(file.fileno(), 0, room * np.dtype(dtype).itemsize)
    return np.asarray(np.memmap(path, dtype, "r+", shape=(room,)))
