"""Changes between two class maps of one place: the class before and after of each pixel, and areas.

The value of a pixel is ``before * classes + after``, in every change map of a nomenclature the
same: maps of several places can be put together, and whoever divides gets both classes back.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.nomenclature import IGNORE

PALE = 0.78
"""Share of white in the colours of what has not changed, so that what has stands out."""

LIGHT, DARKER = 205, 0.8
"""From so much brightness of 255 on, a colour would not stand out of pale ones: it is dimmed."""

HECTARE = 10_000.0
"""m² in a hectare."""


@dataclass(frozen=True)
class ChangeCode:
    """What the values of a change map mean.

    Attributes:
        names: Class names in the order of their ids.
        colors: ``#RRGGBB`` of each.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]

    @property
    def dtype(self) -> str:
        """Type of the pixels: ``uint8`` up to 15 classes, ``uint16`` from 16 on."""
        return "uint8" if len(self.names) ** 2 <= IGNORE else "uint16"

    @property
    def nodata(self) -> int:
        """Value of pixels that are not compared: 255, or 65535 of ``uint16``."""
        return int(np.iinfo(self.dtype).max)

    def values(self, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[Any]:
        """Values of pixels by their classes in both years; 255 in either is no data."""
        codes = before.astype(self.dtype) * np.array(len(self.names), self.dtype) + after
        codes[(before == IGNORE) | (after == IGNORE)] = self.nodata
        return np.asarray(codes)

    def pair(self, value: int) -> tuple[int, int]:
        """Ids of the class before and of the class after."""
        return divmod(value, len(self.names))

    def label(self, value: int) -> str:
        """A value in words."""
        before, after = self.pair(value)
        if before == after:
            return f"{self.names[before]}, unchanged"
        return f"{self.names[before]} → {self.names[after]}"

    def color(self, value: int) -> str:
        """``#RRGGBB``: the colour of the class it has become, or a pale one where none has."""
        before, after = self.pair(value)
        color = self.colors[after]
        red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
        if before == after:
            white, own = 255 * PALE, 1 - PALE
        else:
            bright = 0.299 * red + 0.587 * green + 0.114 * blue >= LIGHT
            white, own = 0.0, DARKER if bright else 1.0
        return "#" + "".join(f"{round(white + part * own):02X}" for part in (red, green, blue))

    @property
    def palette(self) -> tuple[str, ...]:
        """Colours of all values, of ``uint8``; QGIS's style alone has them of ``uint16``."""
        values = range(len(self.names) ** 2) if self.dtype == "uint8" else ()
        return tuple(map(self.color, values))


@dataclass(frozen=True)
class ClassChange:
    """A change that occurs, or what has not changed.

    Attributes:
        value: Its value on the change map.
        before: Class before.
        after: Class after.
        pixels: Its pixels.
        area_m2: Their area.
        share: Its share of all area that is compared.
    """

    value: int
    before: str
    after: str
    pixels: int
    area_m2: float
    share: float


@dataclass(frozen=True)
class ClassBalance:
    """What a class has won and lost, in m².

    Attributes:
        name: The class.
        before: Its area in the earlier year.
        after: Its area in the later year.
        gain: What has become of this class.
        loss: What was of this class.
    """

    name: str
    before: float
    after: float
    gain: float
    loss: float

    @property
    def net(self) -> float:
        """Area won, or lost where it is negative."""
        return self.gain - self.loss

    @property
    def swap(self) -> float:
        """Area lost in one place and won in another, which the net change does not show.

        Source:
            Pontius, Shusas & McEachern (2004), Agriculture, Ecosystems & Environment 101.
        """
        return 2 * min(self.gain, self.loss)


@dataclass(frozen=True)
class ChangeCounts:
    """Pixels and areas of all changes between two maps.

    Attributes:
        code: What the values mean.
        pixels: int64, shape ``(classes, classes)``, row = before, column = after.
        areas: The same in m², float64.
        unsure: Pixels that have a class in both years, and too little confidence in one.
    """

    code: ChangeCode
    pixels: NDArray[np.int64]
    areas: NDArray[np.float64]
    unsure: int

    @cached_property
    def changes(self) -> list[ClassChange]:
        """What occurs: changes, the largest first, then what has not changed, the same way."""
        total = float(self.areas.sum())
        found = []
        for value in np.flatnonzero(self.pixels.ravel()).tolist():
            before, after = self.code.pair(value)
            area = float(self.areas[before, after])
            found.append(
                ClassChange(
                    value, self.code.names[before], self.code.names[after],
                    int(self.pixels[before, after]), area, area / total,
                )
            )  # fmt: skip
        return sorted(found, key=lambda c: (c.before == c.after, -c.area_m2, c.value))

    @property
    def balances(self) -> list[ClassBalance]:
        """Gain and loss of each class, in the order of their ids."""
        kept = self.areas.diagonal()
        before, after = self.areas.sum(axis=1), self.areas.sum(axis=0)
        moved = self.areas - np.diag(kept)
        gain, loss = moved.sum(axis=0), moved.sum(axis=1)
        return [
            ClassBalance(name, *map(float, (before[i], after[i], gain[i], loss[i])))
            for i, name in enumerate(self.code.names)
        ]

    @property
    def changed_share(self) -> float:
        """Share of the compared area that has changed; NaN where nothing is compared."""
        total = self.areas.sum()
        return float(1 - self.areas.trace() / total) if total else float("nan")

    def as_csv(self) -> str:
        """Table of :attr:`changes`: from, to, pixels, area in ha, share of the compared area."""
        rows = [
            (c.before, c.after, c.pixels, _hectares(c.area_m2), f"{c.share:.8f}")
            for c in self.changes
        ]
        return _csv(("from", "to", "pixels", "area_ha", "share"), rows)

    def balance_csv(self) -> str:
        """Table of :attr:`balances`, in ha; the change as a share of the area before."""
        rows = [
            (
                b.name,
                *map(_hectares, (b.before, b.after, b.gain, b.loss, b.net, b.swap)),
                f"{b.net / b.before:.6f}" if b.before else "",
            )
            for b in self.balances
        ]
        header = ("class", "before_ha", "after_ha", "gain_ha", "loss_ha", "net_ha", "swap_ha")
        return _csv((*header, "net_share"), rows)


@dataclass(frozen=True)
class ChangeTables:
    """The tables of a change map, as they were written.

    Attributes:
        place: The place.
        before: The earlier year.
        after: The later year.
        changes: Lines of :meth:`ChangeCounts.as_csv`.
        balances: Lines of :meth:`ChangeCounts.balance_csv`.
    """

    place: str
    before: str
    after: str
    changes: Sequence[Mapping[str, str]]
    balances: Sequence[Mapping[str, str]]

    @classmethod
    def parse(cls, key: tuple[str, str, str], areas: str, balance: str) -> ChangeTables:
        """Read both tables from their text."""
        changes, balances = (list(csv.DictReader(text.splitlines())) for text in (areas, balance))
        return cls(*key, changes, balances)

    @property
    def area_ha(self) -> float:
        """Area that is compared, in ha."""
        return sum(float(row["area_ha"]) for row in self.changes)

    @property
    def largest(self) -> list[Mapping[str, str]]:
        """What has changed, the largest first."""
        return [row for row in self.changes if row["from"] != row["to"]]

    @property
    def changed_share(self) -> float:
        """Share of the compared area that has changed."""
        return sum(float(row["share"]) for row in self.largest)


def summed(code: ChangeCode, parts: Sequence[ChangeCounts]) -> ChangeCounts:
    """Counts of several parts of a map together."""
    classes = len(code.names)
    pixels, areas = np.zeros((classes, classes), np.int64), np.zeros((classes, classes))
    for part in parts:
        pixels += part.pixels
        areas += part.areas
    return ChangeCounts(code, pixels, areas, sum(part.unsure for part in parts))


def _hectares(area: float) -> str:
    return f"{area / HECTARE:.6f}"


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
