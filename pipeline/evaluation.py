"""Evaluation: what is said of a map beyond its confusion matrix.

Whether its confidence is right, how it does near and far from the outlines of the labels, whether
its own outlines meet them, and which tiles are the best and the worst.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.calibration import LEVELS, Calibration
from pipeline.errors import InputError
from pipeline.grid import Window
from pipeline.outlines import BINS, DISTANCES, OutlineCounts

LAYOUT = 1
"""Version of the JSON file; raised when its keys change their meaning."""

KEPT_TILES = 12
"""Best tiles of a sheet, and worst ones, that are kept: a report shows no more of a run."""


@dataclass(frozen=True)
class TileScore:
    """How well a tile is mapped.

    Attributes:
        sheet: Name of the sheet.
        window: Its pixels, cut to judged ground.
        pixels: Those of them that are labelled and mapped.
        correct: Those of the right class.
        mixed: Whether one in twenty or more of them are of another reference class than the
            commonest: a tile of one class that is right says little.
    """

    sheet: str
    window: Window
    pixels: int
    correct: int
    mixed: bool

    @property
    def accuracy(self) -> float:
        """Share of its pixels that is right."""
        return self.correct / self.pixels


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What is said of a map, or of the maps of several sheets. Adds up with ``+``.

    Attributes:
        names: Class names in the order of their ids.
        calibration: Pixels by confidence.
        outlines: Pixels by distance to outlines, and outlines that are met.
        tiles: The :data:`KEPT_TILES` best and worst tiles of each sheet; all of a sheet that has
            no more. In the order of sheets as added, row, column; see :meth:`best`, :meth:`worst`.

    Raises:
        ValueError: If the parts are of another number of classes.
    """

    names: tuple[str, ...]
    calibration: Calibration
    outlines: OutlineCounts
    tiles: tuple[TileScore, ...] = ()

    def __post_init__(self) -> None:
        sizes = {len(self.names), len(self.calibration.counts), len(self.outlines.boundary)}
        if len(sizes) > 1:
            raise ValueError(f"parts of {sorted(sizes)} classes: all are of the same")

    @classmethod
    def empty(cls, names: Iterable[str], tolerance_px: int) -> Evaluation:
        """That of no pixels: where a sum over windows or sheets begins.

        Args:
            names: Class names in the order of their ids.
            tolerance_px: Pixels that an outline may lie off and still be met.
        """
        names = tuple(names)
        size = len(names)
        return cls(names, Calibration.empty(size), OutlineCounts.empty(size, tolerance_px))

    def __add__(self, other: Evaluation) -> Evaluation:
        if self.names != other.names:
            raise ValueError(
                f"evaluations of other classes do not add up: {self.names}, {other.names}"
            )
        return Evaluation(
            self.names,
            self.calibration + other.calibration,
            self.outlines + other.outlines,
            self.tiles + other.tiles,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Evaluation):
            return NotImplemented
        return (self.names, self.calibration, self.outlines, self.tiles) == (
            other.names,
            other.calibration,
            other.outlines,
            other.tiles,
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def pixels(self) -> int:
        """Pixels judged: labelled, mapped, on judged ground."""
        return int(self.outlines.by_distance.sum())

    def best(self, most: int) -> tuple[TileScore, ...]:
        """The best tiles, the best first; those of several classes before those of one.

        Args:
            most: At most so many; half of the tiles where there are not twice as many.
        """
        ranked = sorted(self.tiles, key=_goodness)
        return tuple(ranked[: min(most, len(ranked) // 2)])

    def worst(self, most: int) -> tuple[TileScore, ...]:
        """The worst tiles that are not among the best, the worst first.

        Args:
            most: At most so many.
        """
        best = self.best(most)
        return tuple(sorted((tile for tile in self.tiles if tile not in best), key=_badness)[:most])

    def as_json(self) -> str:
        """The counts and what follows from them as JSON text; the same counts give the same text.

        ``calibration`` has two rows a class, ``wrong`` and ``right``, by per cent from 0 to 100;
        ``distances`` likewise, by bin.
        """
        calibration, outlines = self.calibration, self.outlines
        levels, bins = calibration.counts.tolist(), outlines.by_distance.tolist()
        parts = {
            "layout": json.dumps(LAYOUT),
            "classes": json.dumps(list(self.names), ensure_ascii=False),
            "calibration": _rows(_wrong_and_right(rows) for rows in levels),
            "without_confidence": json.dumps(calibration.unknown),
            "distance_edges_px": json.dumps(list(DISTANCES)),
            "distances": _rows(_wrong_and_right(rows) for rows in bins),
            "tolerance_px": json.dumps(outlines.tolerance_px),
            "boundary_order": json.dumps(["map judged", "map met", "labels judged", "labels met"]),
            "boundary": _rows(outlines.boundary.tolist()),
            "tiles": _rows({**vars(t), "window": list(t.window)} for t in self.tiles),
            "scores": json.dumps(self._scores(), ensure_ascii=False, allow_nan=False),
        }
        return "{\n" + ",\n".join(f'  "{key}": {text}' for key, text in parts.items()) + "\n}\n"

    def _scores(self) -> dict[str, object]:
        boundary = self.outlines.boundary_f()
        return {
            "pixels": self.pixels,
            "ece": _number(self.calibration.ece()),
            "mean_confidence": _number(self.calibration.mean_confidence),
            "accuracy_by_distance": _numbers(self.outlines.accuracy()),
            "mean_boundary_f": _number(boundary.mean),
            "boundary_precision": _numbers(boundary.precision),
            "boundary_recall": _numbers(boundary.recall),
            "boundary_f": _numbers(boundary.f),
        }


def from_json(text: str, source: str) -> Evaluation:
    """Read what :meth:`Evaluation.as_json` wrote; the scores in it follow from the counts.

    Args:
        text: The JSON text.
        source: What to call the file in messages.

    Raises:
        InputError: If the text is no such JSON.
    """
    remedy = "Delete the file; the rule `evaluation` writes it again."
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{source}: is not JSON ({error}).", remedy=remedy) from error
    if not isinstance(content, Mapping) or content.get("layout") != LAYOUT:
        raise InputError(
            f"{source}: is no evaluation of layout {LAYOUT}, the one this version reads.",
            remedy=remedy,
        )
    try:
        return _parsed(content)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{source}: its counts do not fit together ({error}).", remedy=remedy
        ) from error


def _parsed(content: Mapping[str, object]) -> Evaluation:
    """The values of a file.

    Raises:
        KeyError, TypeError, ValueError: If they are not what was written.
    """
    found: dict[str, object] = dict(content)
    names, tiles = found["classes"], found["tiles"]
    tolerance, unknown = found["tolerance_px"], found["without_confidence"]
    if not isinstance(names, list) or not isinstance(tiles, list):
        raise TypeError("classes and tiles are lists")
    if not isinstance(tolerance, int) or not isinstance(unknown, int):
        raise TypeError("tolerance_px and without_confidence are whole numbers")
    if found["distance_edges_px"] != list(DISTANCES):
        raise ValueError("distances of other bins")
    return Evaluation(
        tuple(map(str, names)),
        Calibration(_pixels(found["calibration"], LEVELS), unknown),
        OutlineCounts(
            _pixels(found["distances"], BINS), np.array(found["boundary"], np.int64), tolerance
        ),
        tuple(TileScore(**{**tile, "window": Window(*tile["window"])}) for tile in tiles),
    )


def _pixels(rows: object, length: int) -> NDArray[np.int64]:
    """Counts of each class, wrong and right, shape ``(classes, length, 2)``."""
    if not isinstance(rows, list):
        raise TypeError("counts are lists")
    both = np.array([[row["wrong"], row["right"]] for row in rows], np.int64)
    return np.moveaxis(both.reshape(-1, 2, length), 1, 2)


def _goodness(tile: TileScore) -> tuple[object, ...]:
    return (not tile.mixed, -tile.accuracy, *_tie(tile))


def _badness(tile: TileScore) -> tuple[object, ...]:
    return (tile.accuracy, *_tie(tile))


def _tie(tile: TileScore) -> tuple[object, ...]:
    return (-tile.pixels, tile.sheet, tile.window.row, tile.window.col)


def _wrong_and_right(rows: list[list[int]]) -> dict[str, list[int]]:
    return {"wrong": [row[0] for row in rows], "right": [row[1] for row in rows]}


def _rows(values: Iterable[object]) -> str:
    """A list, an entry a line."""
    lines = ",\n    ".join(json.dumps(value, ensure_ascii=False) for value in values)
    return f"[\n    {lines}\n  ]" if lines else "[]"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [_number(value) for value in values.tolist()]
