"""The patches of a map: 4-connected areas of one class, found strip by strip.

What is looked at are runs: pixels of one class beside each other in a row. Runs of a strip become
patches by what is above each other; the last row of a strip is carried to the next one, where the
same patches go on, meet or end. Nothing depends on how the sheet is cut into strips.

Diagonal neighbours do not connect: two fields that meet at a corner are two fields, and a patch
never crosses another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.borders import BorderStore
from pipeline.nomenclature import IGNORE
from pipeline.patch_table import PatchTable

NOWHERE = 2**32 - 1
"""Number of the patch of pixels without data: they are of none."""


@dataclass(frozen=True)
class PixelUnits:
    """Sizes of the pixels of a sheet in whole units, so that sums are exact in any order.

    Attributes:
        areas: Area of a pixel of each row, shape ``(rows,)``.
        across: Length of a pixel's upper or lower side.
        down: Length of its left or right side.
        unit_m2: Square metres of a unit of area.
    """

    areas: NDArray[np.int64]
    across: int
    down: int
    unit_m2: float


@dataclass(frozen=True)
class Runs:
    """The pixels of a strip by patches.

    Attributes:
        starts: First pixel of each run, in the order of rows, from 0, shape ``(n,)``.
        patches: Number of the patch of each run, or :data:`NOWHERE`, shape ``(n,)``.
    """

    starts: NDArray[np.uint32]
    patches: NDArray[np.uint32]


class PatchFinder:
    """Finds the patches of a sheet, whose strips are given from top to bottom.

    Args:
        table: Takes the patches.
        borders: Takes the borders of small patches with all of their neighbours.
        rows: Rows of the sheet.
        units: Sizes of its pixels.
        limit: Patches of this area and more are not small; borders between two of them are of no
            use to anybody.
    """

    def __init__(
        self, table: PatchTable, borders: BorderStore, rows: int, units: PixelUnits, limit: int
    ) -> None:
        self._table = table
        self._borders = borders
        self._rows = rows
        self._units = units
        self._limit = limit
        self._row = 0
        self._last: NDArray[np.uint8] | None = None
        self._carried: NDArray[np.int64] = np.empty(0, np.int64)

    def add(self, classes: NDArray[np.uint8]) -> Runs:
        """Find the patches of the next strip.

        Args:
            classes: Class ids or 255, shape ``(rows, cols)``, of less than 2**31 pixels.
        """
        strip = classes if self._last is None else np.concatenate([self._last, classes])
        rows, cols = strip.shape
        known = len(self._carried)  # runs of the row that was carried here
        begins = np.ones(strip.shape, np.bool_)
        np.not_equal(strip[:, 1:], strip[:, :-1], out=begins[:, 1:])
        starts = np.flatnonzero(begins)
        ids = strip.reshape(-1)[starts]
        lengths = np.diff(starts, append=strip.size)

        upper, lower, shared = _above_each_other(begins)
        connected = (ids[upper] == ids[lower]) & (ids[upper] != IGNORE)
        firsts = _first_runs(len(starts), upper[connected], lower[connected])
        patches = self._numbered(firsts, ids, known)

        # Rows that were carried here have been counted where they came from.
        strip_rows = starts // cols
        gone = int(known > 0)
        areas = lengths * self._units.areas[np.maximum(self._row + strip_rows - gone, 0)]
        areas[:known] = 0
        # Float64 is exact: a strip has less than 2**53 units.
        sums = np.bincount(firsts, areas, len(starts)).astype(np.int64)
        some = np.flatnonzero((sums > 0) & (ids != IGNORE))
        np.add.at(self._table.areas, self._table.own(patches[some]), sums[some])

        left = np.arange(known, len(starts) - 1)
        left = left[starts[left + 1] % cols != 0]
        inside = [(upper, lower, shared * self._units.across)]
        inside.append((left, left + 1, np.full(len(left), self._units.down, np.int64)))
        one, other, sides = (np.concatenate(parts) for parts in zip(*inside, strict=True))
        differ = ids[one] != ids[other]
        self._mark_outside(one[differ], other[differ], ids, patches)
        edge = (starts % cols == 0) | ((starts + lengths) % cols == 0)
        self._row += len(classes)
        if not gone:
            edge |= strip_rows == 0
        if self._row == self._rows:
            edge |= strip_rows == rows - 1
        self._mark(patches[edge & (ids != IGNORE)])

        both = differ & (ids[one] != IGNORE) & (ids[other] != IGNORE)
        self._add_borders(firsts[one[both]], firsts[other[both]], sides[both], patches)

        last = np.searchsorted(starts, (rows - 1) * cols)
        self._last = strip[-1:].copy()
        self._carried = patches[last:]
        return Runs(
            (starts[known:] - gone * cols).astype(np.uint32), patches[known:].astype(np.uint32)
        )

    def _numbered(
        self, firsts: NDArray[np.intp], ids: NDArray[np.uint8], known: int
    ) -> NDArray[np.int64]:
        """Number of the patch of each run: of those that are carried here, or a new one."""
        numbers = np.full(len(firsts), NOWHERE, np.int64)
        numbers[:known] = self._carried
        carried = np.flatnonzero(ids[:known] != IGNORE)
        # Where a patch of this strip has several runs in the row that was carried, they meet here.
        self._table.unite(self._carried[carried], self._carried[firsts[carried]])
        fresh = np.flatnonzero((firsts == np.arange(len(firsts))) & (ids != IGNORE))
        fresh = fresh[fresh >= known]
        numbers[fresh] = self._table.add(ids[fresh])
        return numbers[firsts]

    def _mark_outside(
        self,
        some: NDArray[np.intp],
        others: NDArray[np.intp],
        ids: NDArray[np.uint8],
        patches: NDArray[np.int64],
    ) -> None:
        for one, other in ((some, others), (others, some)):
            self._mark(patches[one[ids[other] == IGNORE]])

    def _mark(self, patches: NDArray[np.int64]) -> None:
        self._table.outside[self._table.own(np.unique(patches))] = True

    def _add_borders(
        self,
        some: NDArray[np.intp],
        others: NDArray[np.intp],
        sides: NDArray[np.int64],
        patches: NDArray[np.int64],
    ) -> None:
        """Add the borders between patches of this strip, given by their first runs."""
        if not len(some):
            return
        pairs = np.minimum(some, others) * len(patches) + np.maximum(some, others)
        order = np.argsort(pairs)
        pairs = pairs[order]
        begins = np.flatnonzero(np.diff(pairs, prepend=-1))
        lengths = np.add.reduceat(sides[order], begins)
        ends = [patches[end] for end in np.divmod(pairs[begins], len(patches))]
        for owner, neighbour in (ends, ends[::-1]):
            small = self._table.areas[self._table.own(owner)] < self._limit
            self._borders.add(owner[small], neighbour[small], lengths[small])


def _above_each_other(
    begins: NDArray[np.bool_],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int64]]:
    """Pairs of runs that lie above each other, and how many pixels of them do.

    Args:
        begins: Whether a run begins at a pixel; one begins in each row's first column.
    """
    up, down = begins[:-1], begins[1:]
    # Between two of these places neither row has another run: they number the pairs.
    places = np.flatnonzero(up | down)
    upper = np.cumsum(up.reshape(-1)[places]) - 1
    lower = np.cumsum(down.reshape(-1)[places]) + (np.count_nonzero(begins[0]) - 1)
    return upper, lower, np.diff(places, append=up.size)


def _first_runs(runs: int, some: NDArray[Any], others: NDArray[Any]) -> NDArray[np.intp]:
    """The first run of the patch of each run, from pairs of runs that are of one patch."""
    firsts = np.arange(runs)
    while True:
        some, others = firsts[some], firsts[others]
        apart = some != others
        if not apart.any():
            return firsts
        some, others = some[apart], others[apart]
        np.minimum.at(firsts, np.maximum(some, others), np.minimum(some, others))
        while True:
            nearer = firsts[firsts]
            if np.array_equal(nearer, firsts):
                break
            firsts = nearer
