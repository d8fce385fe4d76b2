"""Small patches of a map become part of their neighbours: minimum mapping unit and holes.

**Minimum mapping unit.** Rounds, with a limit that doubles up to the minimum mapping unit itself
(a unit of 100 m² and pixels of 0.25 m²: 0.5, 1, 1.75, 3.25, 6.25, 12.5, 25, 50 and 100 m²; halves
of whole pixels are rounded up). In each round every patch below the limit chooses the neighbour
that it has the longest border with; of several with equal borders the largest, then the one of
the smaller class id, then the one whose first pixel comes first, row by row. All choose by what
is there before the round, then all become part of what they have chosen, and take the class at
the end of the chain: of a patch that chose nothing, or, where two have chosen each other, of the
larger one (then the smaller class id, then the first). Patches of one class that touch after that
are one patch. So after a round no patch is below its limit, but for patches without any neighbour:
a round joins at least two patches of half the limit. The smallest vanish first, and several small
ones beside each other may become one that is large enough to stay.

**Holes.** A patch with one single neighbour, that touches neither pixels without data nor the
sheet's edge, lies in a hole of that neighbour; if its area is at most the limit, it takes the
neighbour's class. This is repeated until no such patch is left: a hole in a hole is filled first.
Holes come last; patches only grow by it, so the minimum mapping unit still holds.

GDAL's ``gdal_sieve`` differs. It looks for the neighbour of the largest area, which lets a forest
swallow the strip that lies mostly along a field. It goes from one largest neighbour to the next;
where it finds none that is large enough the patch stays, also where several small ones beside each
other would make a large one: on noise most patches stay. It counts pixels, not square metres, and
may take pixels that touch at corners for one patch (8-connected), which another such patch then
crosses. Here patches are 4-connected, and borders are made of the sides of pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.borders import BorderRows, BorderStore
from pipeline.patch_table import PatchTable

_NONE = 0  # in the column of choices, where 1 is patch 0


class Generalisation:
    """Makes small patches part of their neighbours.

    Args:
        table: The patches.
        borders: Borders of all patches below ``limit`` with all of their neighbours; they are
            used up.
        folder: Where new parts are stored.
        parts: In so many parts.
        limit: Patches of this area and more never become part of others.
    """

    def __init__(
        self, table: PatchTable, borders: BorderStore, folder: Path, parts: int, limit: int
    ) -> None:
        self._table = table
        self._borders = borders
        self._folder = folder
        self._parts = parts
        self._limit = limit
        self._choices = table.column("choices", np.uint32)
        self._rounds = 0
        self._renew()

    def reach(self, unit: int, least: int) -> None:
        """Merge until no patch with a neighbour is below the minimum mapping unit.

        Args:
            unit: The minimum mapping unit; at most ``limit``.
            least: Area of the smallest pixel: no patch is smaller.
        """
        limits = [unit]
        while limits[-1] > least:
            limits.append(-(-limits[-1] // 2))
            if limits[-1] == limits[-2]:
                break
        for limit in reversed(limits):
            if limit > least:
                self._round(partial(self._longest_border, limit=limit))

    def fill(self, largest: int) -> None:
        """Fill holes of at most this area, below ``limit``, until there is none."""
        while self._round(partial(self._enclosing, largest=largest)):
            pass

    def _round(
        self, choose: Callable[[BorderRows], tuple[NDArray[np.int64], NDArray[np.int64]]]
    ) -> int:
        """One round; says how many patches there are less."""
        before = self._table.patches
        some = False
        for rows in self._borders.read():
            patches, chosen = choose(rows)
            self._choices[patches] = chosen + 1
            some |= len(patches) > 0
        if some:
            self._settle_mutual()
            self._follow()
            self._join()
            self._renew()
        return before - self._table.patches

    def _longest_border(
        self, rows: BorderRows, limit: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Patches below a limit, and the neighbour that each of them chooses."""
        areas, classes = self._table.areas, self._table.classes
        if not len(rows.owners):
            return rows.owners, rows.neighbours
        counts = np.diff(rows.firsts, append=len(rows.owners))
        candidate = np.ones(len(rows.owners), np.bool_)
        for values in (
            rows.lengths,
            areas[rows.neighbours],
            -classes[rows.neighbours].astype(np.int64),
            -rows.neighbours,
        ):
            worst = np.iinfo(np.int64).min
            best = np.maximum.reduceat(np.where(candidate, values, worst), rows.firsts)
            candidate &= values == np.repeat(best, counts)
        # The numbers of neighbours differ: one is left.
        owners, chosen = rows.owners[candidate], rows.neighbours[candidate]
        small = areas[owners] < limit
        return owners[small], chosen[small]

    def _enclosing(
        self, rows: BorderRows, largest: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Patches that are holes of at most an area, and what lies around them."""
        alone = rows.firsts[np.diff(rows.firsts, append=len(rows.owners)) == 1]
        owners = rows.owners[alone]
        hole = ~self._table.outside[owners] & (self._table.areas[owners] <= largest)
        return owners[hole], rows.neighbours[alone][hole]

    def _settle_mutual(self) -> None:
        """Where two have chosen each other, the one whose class both will have chooses nothing."""
        areas, classes, choices = self._table.areas, self._table.classes, self._choices
        for chunk in self._table.chunks():
            some = np.flatnonzero(choices[chunk]) + chunk.start
            others = choices[some].astype(np.int64) - 1
            mutual = choices[others] == some + 1
            some, others = some[mutual], others[mutual]
            keys = [
                (one < two, one == two)
                for one, two in (
                    (-areas[some], -areas[others]),
                    (classes[some], classes[others]),
                    (some, others),
                )
            ]
            wins = keys[0][0] | keys[0][1] & (keys[1][0] | keys[1][1] & keys[2][0])
            choices[np.where(wins, some, others)] = _NONE

    def _follow(self) -> None:
        """Follow the choices to the end of their chains."""
        choices = self._choices
        moved = True
        while moved:
            moved = False
            for chunk in self._table.chunks():
                some = np.flatnonzero(choices[chunk]) + chunk.start
                further = choices[choices[some].astype(np.int64) - 1]
                on = further != _NONE
                choices[some[on]] = further[on]
                moved |= bool(on.any())

    def _join(self) -> None:
        """Give patches the class of what they have chosen, and make one what is one then."""
        table = self._table
        for chunk in table.chunks():
            some = np.flatnonzero(self._choices[chunk]) + chunk.start
            chosen = self._choices[some].astype(np.int64) - 1
            self._choices[some] = _NONE
            # The end of a chain may have become part of another one of its class by now.
            table.classes[some] = table.classes[chosen]
            table.unite(some, chosen)
        for rows in self._borders.read():
            some, others = table.own(rows.owners), table.own(rows.neighbours)
            alike = table.classes[some] == table.classes[others]
            table.unite(some[alike], others[alike])

    def _renew(self) -> None:
        """Write the borders again: between the patches that there are now."""
        self._rounds += 1
        renewed = BorderStore(self._folder / f"borders-{self._rounds}", self._parts)
        for rows in self._borders.read():
            some, others = self._table.own(rows.owners), self._table.own(rows.neighbours)
            kept = (some != others) & (self._table.areas[some] < self._limit)
            renewed.add(some[kept], others[kept], rows.lengths[kept])
        self._borders.remove()
        self._borders = renewed
