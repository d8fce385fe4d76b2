"""Evaluation: what is said of a map beyond its confusion matrix.

Whether its confidence is right, how it does near and far from the outlines of the labels, whether
its own outlines meet them, and which tiles are the best and the worst.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.calibration import LEVELS, Calibration
from pipeline.errors import InputError
from pipeline.grid import Window
from pipeline.outlines import BINS, DISTANCES, OutlineCounts, reach

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
        tiles: The :data:`KEPT_TILES` best and as many worst tiles of each sheet, or all; sheets as
            they were added, rows, columns.

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

    @classmethod
    def of(
        cls,
        names: Iterable[str],
        reference: NDArray[np.uint8],
        mapped: NDArray[np.uint8],
        confidence: NDArray[np.uint8] | None,
        tolerance_px: int,
        labels: NDArray[np.uint8] | None = None,
    ) -> Evaluation:
        """That of one window, of which the surroundings are known, without tiles.

        Args:
            names: Class names in the order of their ids.
            reference: Class ids of the window and of :func:`pipeline.outlines.reach` more pixels
                on each side; 255 where a pixel is not judged.
            mapped: Class ids of the map at the same pixels; 255 where it has no data.
            confidence: Per cent of the same pixels; 255 where it is not known. None: nowhere.
            tolerance_px: Pixels that an outline may lie off and still be met.
            labels: Class ids of the same pixels, of those that are not judged too; distances are
                to the outlines of these. The reference where left out.

        Raises:
            ValueError: If the shapes differ, an id is no class, or a confidence is 101 to 254.
        """
        names = tuple(names)
        halo = reach(tolerance_px)
        inner = np.s_[halo : reference.shape[0] - halo, halo : reference.shape[1] - halo]
        sure = None if confidence is None else confidence[inner]
        return cls(
            names,
            Calibration.of(reference[inner], mapped[inner], sure, len(names)),
            OutlineCounts.of(reference, mapped, len(names), tolerance_px, labels),
        )

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
        """The best tiles, the best first; see :func:`best_tiles`."""
        return best_tiles(self.tiles, most)

    def worst(self, most: int) -> tuple[TileScore, ...]:
        """The worst tiles, the worst first; see :func:`worst_tiles`."""
        return worst_tiles(self.tiles, most)

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


def worst_tiles(tiles: Collection[TileScore], most: int) -> tuple[TileScore, ...]:
    """The tiles with the lowest accuracy, the worst first.

    Args:
        tiles: Tiles of a sheet or of several.
        most: At most so many; half of the tiles where there are not twice as many.
    """
    ranked = sorted(tiles, key=lambda tile: (tile.accuracy, *_tie(tile)))
    return tuple(ranked[: min(most, -(-len(ranked) // 2))])


def best_tiles(tiles: Collection[TileScore], most: int) -> tuple[TileScore, ...]:
    """The tiles with the highest accuracy that are not among the worst, the best first.

    Mixed tiles come before those of one class, of which many are right in full and say little.

    Args:
        tiles: Tiles of a sheet or of several.
        most: At most so many.
    """
    rest = set(tiles) - set(worst_tiles(tiles, most))
    ranked = sorted(rest, key=lambda tile: (not tile.mixed, -tile.accuracy, *_tie(tile)))
    return tuple(ranked[:most])


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
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{source}: its counts do not fit together ({error}).", remedy=remedy
        ) from error


def _parsed(content: Mapping[str, object]) -> Evaluation:
    """The values of a file.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: If they are not what was written.
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


def _tie(tile: TileScore) -> tuple[object, ...]:
    """Of tiles that are alike, the one with more judged pixels comes first."""
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
