"""What was seen at the points of a sample, with a check that they are those that were drawn."""

from __future__ import annotations

import math
import struct
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.numerals import plural
from pipeline.sample_form import CERTAINTIES
from pipeline.setting_types import did_you_mean


@dataclass(frozen=True)
class Stratum:
    """A class of the map, as a stratum.

    Attributes:
        name: Its name.
        color: ``#RRGGBB``.
        pixels: Pixels mapped as it; 0 where it is mapped nowhere.
        area_m2: Their area in m².
        sampled: Points drawn from them.
    """

    name: str
    color: str
    pixels: int
    area_m2: float
    sampled: int


@dataclass(frozen=True, eq=False)
class InterpretedSample:
    """A sample that was read back.

    Attributes:
        strata: The classes in the order of their ids; those that are mapped nowhere too.
        matrix: Interpreted points, int64, shape ``(K, K)``, row = mapped class (stratum), column =
            the class that was seen.
        unlabelled: Ids of the points that nobody has interpreted.
        skipped: Those of them that have interpreted points behind them, by id, with their stratum:
            whoever goes through a sample by id and stops has skipped none.
        unsure: Ids of the interpreted points that are marked as unsure.
        design: How it was drawn: rule, seed, maps.
        digest: Fingerprint of what was seen (:func:`pipeline.sample_files.interpretation_digest`).
    """

    strata: tuple[Stratum, ...]
    matrix: NDArray[np.int64]
    unlabelled: tuple[int, ...]
    skipped: Mapping[int, int]
    unsure: tuple[int, ...]
    design: Mapping[str, str]
    digest: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(stratum.name for stratum in self.strata)

    @property
    def mapped_pixels(self) -> NDArray[np.int64]:
        """Pixels mapped as each class, shape ``(K,)``."""
        return np.array([stratum.pixels for stratum in self.strata], np.int64)

    @property
    def mapped_area_m2(self) -> NDArray[np.float64]:
        """Area mapped as each class in m², shape ``(K,)``."""
        return np.array([stratum.area_m2 for stratum in self.strata], np.float64)

    @property
    def sampled(self) -> NDArray[np.int64]:
        """Points drawn of each class, interpreted or not, shape ``(K,)``."""
        return np.array([stratum.sampled for stratum in self.strata], np.int64)


def interpreted(
    rows: Sequence[Mapping[str, Any]],
    drawn: Mapping[int, Sequence[Any]],
    strata: tuple[Stratum, ...],
    design: Mapping[str, str],
    source: str,
) -> InterpretedSample:
    """Count what was seen at the points of a sample.

    Args:
        rows: The points as they are now: fields by name, and ``geom`` as GeoPackages have it.
        drawn: By id the points as they were drawn: sheet, row, column, stratum, x and y.
        strata: The classes in the order of their ids.
        design: How the sample was drawn.
        source: What to call the file in messages.

    Raises:
        InputError: With all that is wrong, by id: a class that there is not, points that are
            missing, doubled, moved, or of another stratum; strata that are not those of the points.
    """
    _check_strata(strata, drawn, source)
    wrong = _lost(rows, drawn)
    classes = ClassNames([stratum.name for stratum in strata])
    matrix = np.zeros((len(strata), len(strata)), np.int64)
    unlabelled, unsure, last = [], [], 0
    for row in sorted((row for row in rows if row["id"] in drawn), key=lambda row: row["id"]):
        wrong += _changed(row, drawn[row["id"]])
        seen, certainty = _text(row["reference"]), _text(row["certainty"]).casefold()
        number = classes.find(seen)
        if seen and number is None:
            wrong.append(
                f"id {row['id']}: reference {seen!r} is no class{did_you_mean(seen, classes.names)}"
            )
        if certainty and certainty not in CERTAINTIES:
            wrong.append(
                f"id {row['id']}: certainty {row['certainty']!r} is none of "
                f"{', '.join(CERTAINTIES)}"
            )
        if number is None:
            unlabelled.append(row["id"])
        else:
            matrix[drawn[row["id"]][3], number] += 1
            last = row["id"]  # they come by id
            unsure += [row["id"]] * (certainty == CERTAINTIES[1])
    if wrong:
        raise InputError(
            f"{source}: {len(wrong)} of its entries cannot be used.",
            wrong,
            f"Mend them in QGIS; the classes are {', '.join(classes.names)}. Points are to be "
            "interpreted, not deleted, copied or moved; one that shows nothing stays empty.",
        )
    skipped = {number: int(drawn[number][3]) for number in unlabelled if number < last}
    return InterpretedSample(strata, matrix, tuple(unlabelled), skipped, tuple(unsure), design)


class ClassNames:
    """Classes by their names as people write them: in any case, with blanks around."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._plain: dict[str, int] = {}
        for number, name in enumerate(names):
            self._plain.setdefault(_text(name).casefold(), number)

    def find(self, written: str) -> int | None:
        """Id of the class that is meant; None for none."""
        if written in self.names:  # two names may differ by nothing but case
            return self.names.index(written)
        return self._plain.get(_text(written).casefold())


def _text(value: object) -> str:
    """A value as it was meant: no blanks around or doubled, accents in one form."""
    plain = "" if value is None else str(value)
    return " ".join(unicodedata.normalize("NFC", plain).split())


def _check_strata(
    strata: Sequence[Stratum], drawn: Mapping[int, Sequence[Any]], source: str
) -> None:
    """Check that the strata are those that the points were drawn from."""
    points = Counter(row[3] for row in drawn.values())
    wrong = [
        f"stratum {number}: has {plural(points[number], 'point')}, and is not there"
        for number in sorted(set(points) - set(range(len(strata))))
    ]
    for number, stratum in enumerate(strata):
        numbers = (stratum.pixels, stratum.area_m2, stratum.sampled)
        if not all(isinstance(n, int | float) and 0 <= n < math.inf for n in numbers):
            wrong.append(f"{stratum.name}: pixels, area and points are {numbers}")
        elif stratum.sampled != points[number]:
            wrong.append(
                f"{stratum.name}: {stratum.sampled} points were drawn, {points[number]} are there"
            )
        elif stratum.pixels < stratum.sampled or (stratum.area_m2 > 0) != (stratum.pixels > 0):
            wrong.append(
                f"{stratum.name}: {plural(stratum.sampled, 'point')} of "
                f"{plural(stratum.pixels, 'pixel')} with {stratum.area_m2:g} m²"
            )
    if wrong:
        raise InputError(
            f"{source}: the table `strata` is not as it was drawn.",
            wrong,
            "Nothing but the layer `sample` is to be edited; draw the sample again, or take the "
            "table from a copy.",
        )


def _lost(rows: Iterable[Mapping[str, Any]], drawn: Mapping[int, Any]) -> list[str]:
    """Points that are not there exactly once."""
    counted = Counter(row["id"] for row in rows)
    wrong = [f"id {number}: was deleted" for number in drawn if number not in counted]
    for number, times in counted.items():
        if number is None:
            wrong.append(f"points without an id: {times}; they were not drawn")
        elif number not in drawn:
            wrong.append(f"id {number}: was not drawn")
        elif times > 1:
            wrong.append(f"id {number}: is there {times} times")
    return wrong


def _changed(row: Mapping[str, Any], drawn: Sequence[Any]) -> list[str]:
    """What else of a point is not as it was drawn."""
    wrong = [
        f"id {row['id']}: {name} is {row[name]}, it was drawn as {value}"
        for name, value in zip(("sheet", "row", "col", "stratum"), drawn, strict=False)
        if row[name] != value
    ]
    place = _place(row["geom"])
    near = [math.isclose(a, b, rel_tol=1e-9) for a, b in zip(place or (), drawn[4:], strict=False)]
    if near != [True, True]:
        wrong.append(f"id {row['id']}: was moved")
    return wrong


def _place(geometry: bytes | None) -> tuple[float, float] | None:
    """Coordinates of a point in a GeoPackage's own form, with or without an envelope."""
    sizes = (0, 32, 48, 48, 64)
    if not geometry or len(geometry) < 8 or (geometry[3] >> 1 & 7) >= len(sizes):
        return None
    start = 8 + sizes[geometry[3] >> 1 & 7]
    if len(geometry) < start + 21:
        return None
    order = "<" if geometry[start] == 1 else ">"
    kind, x, y = struct.unpack_from(f"{order}Idd", geometry, start + 1)
    return (x, y) if kind % 1000 == 1 else None
