"""The borders between patches: a store on disk, read back a part at a time.

A row says how long the border is that a patch has with one of its neighbours. Rows of a patch may
be written many times, as its border is met; they are in the same part, and come back as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HELD = 2**20  # rows that are kept until they are worth a visit to all parts
_ROW = np.dtype([("pair", np.uint64), ("length", np.int64)])
_LOW = np.uint64(2**32 - 1)


@dataclass(frozen=True)
class BorderRows:
    """Borders of patches, sorted by owner, then by neighbour; each pair once.

    Attributes:
        owners: Patches, shape ``(n,)``.
        neighbours: Patches on the other side, shape ``(n,)``.
        lengths: Lengths in whole units, shape ``(n,)``.
        firsts: Where the rows of each owner begin, ascending from 0.
    """

    owners: NDArray[np.int64]
    neighbours: NDArray[np.int64]
    lengths: NDArray[np.int64]
    firsts: NDArray[np.intp]


class BorderStore:
    """Borders on disk.

    Args:
        folder: Where the parts lie; it is made.
        parts: So many parts: a part is what is in memory at a time.
    """

    def __init__(self, folder: Path, parts: int) -> None:
        folder.mkdir()
        self._folder = folder
        self._parts = parts
        self._held: list[NDArray[np.void]] = []
        self._count = 0

    def add(
        self,
        owners: NDArray[np.int64],
        neighbours: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        """Add borders; numbers of patches are below 2**32.

        Raises:
            OSError: If the disk is full.
        """
        rows = np.empty(len(owners), _ROW)
        rows["pair"] = owners.astype(np.uint64) << np.uint64(32) | neighbours.astype(np.uint64)
        rows["length"] = lengths
        self._held.append(rows)
        self._count += len(rows)
        if self._count >= _HELD:
            self._flush()

    def read(self) -> Iterator[BorderRows]:
        """All borders, a part at a time; all rows of an owner are in one part."""
        self._flush()
        for path in self._paths():
            rows = np.fromfile(path, _ROW)
            rows = rows[np.argsort(rows["pair"])]
            pairs = rows["pair"]
            begins = np.flatnonzero(np.diff(pairs, prepend=~pairs[:1]))
            lengths = np.add.reduceat(rows["length"], begins)
            pairs = pairs[begins]
            owners = (pairs >> np.uint64(32)).astype(np.int64)
            firsts = np.flatnonzero(np.diff(owners, prepend=-1))
            yield BorderRows(owners, (pairs & _LOW).astype(np.int64), lengths, firsts)

    def remove(self) -> None:
        """Remove all of it."""
        self._held.clear()
        for path in self._paths():
            path.unlink()
        self._folder.rmdir()

    def _paths(self) -> list[Path]:
        return sorted(self._folder.iterdir())

    def _flush(self) -> None:
        if not self._count:
            return
        rows = np.concatenate(self._held)
        self._held.clear()
        self._count = 0
        part = (rows["pair"] >> np.uint64(32)) % np.uint64(self._parts)
        order = np.argsort(part, kind="stable")
        rows, part = rows[order], part[order]
        begins = np.flatnonzero(np.diff(part, prepend=~part[:1]))
        for begin, end in zip(begins, [*begins[1:], len(rows)], strict=True):
            with (self._folder / f"{int(part[begin]):06d}").open("ab") as file:
                file.write(rows[begin:end].tobytes())
