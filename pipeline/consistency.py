"""Consistency: whether what a report stands on is of one map, one reference and one setting.

Each sheet's files are written by steps of their own. A step that was run by hand, with another
setting or before the map was cleaned, leaves files that are readable and say something else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.confusion import ConfusionMatrix
from pipeline.errors import InputError
from pipeline.evaluation import Evaluation


@dataclass(frozen=True)
class JudgedSheet:
    """What was counted on the test ground of a sheet; None where nobody has counted.

    Attributes:
        name: Name of the sheet.
        matrix: Its confusion matrix.
        evaluation: Its evaluation.
        squares: Sum of the matrices of its squares of ground.
        square_side: Side of these squares in units of the CRS.
        pixel_side: Side of a pixel of the sheet.
    """

    name: str
    matrix: ConfusionMatrix
    evaluation: Evaluation | None = None
    squares: ConfusionMatrix | None = None
    square_side: float = 0.0
    pixel_side: float = 1.0


def check(sheets: Sequence[JudgedSheet], names: Sequence[str]) -> None:
    """Refuse files that do not fit together.

    Args:
        sheets: The sheets with labels.
        names: Names of the training classes.

    Raises:
        InputError: Naming all sheets whose files are of other classes, count other pixels than
            each other, or were made with another tolerance or other squares than most.
    """
    found = [*_odd_classes(sheets, names), *_odd_pixels(sheets), *_odd_settings(sheets)]
    if found:
        odd = list(dict.fromkeys(name for name, _ in found))
        raise InputError(
            "Files of the test ground do not fit together: they are of other maps, labels or "
            "settings.",
            [f"sheet {name}: {what}" for name, what in found],
            "Run `python -m pipeline confusion` and `python -m pipeline evaluation` again, with "
            f"`--sheet` {', '.join(odd[:5])}{' and so on' if len(odd) > 5 else ''}; then the "
            "report. Under Snakemake: `--forcerun confusion evaluation`.",
        )


def _odd_classes(sheets: Iterable[JudgedSheet], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for sheet in sheets:
        for what, part in (
            ("confusion", sheet.matrix),
            ("evaluation", sheet.evaluation),
            ("the squares of ground", sheet.squares),
        ):
            if part is not None and tuple(part.names) != tuple(names):
                yield sheet.name, f"{what} is of the classes {', '.join(part.names)}"


def _odd_pixels(sheets: Iterable[JudgedSheet]) -> Iterator[tuple[str, str]]:
    for sheet in sheets:
        counts = sheet.matrix.counts
        told = f"confusion counts {_pixels(int(counts.sum()), int(np.trace(counts)))}"
        judged, squares = sheet.evaluation, sheet.squares
        if judged is not None and judged.names == sheet.matrix.names:
            by_class = judged.outlines.by_distance.sum(axis=1)  # wrong, right
            of_matrix = np.stack([counts.sum(axis=1) - counts.diagonal(), counts.diagonal()], 1)
            if not np.array_equal(by_class, of_matrix):
                right = int(by_class[:, 1].sum())
                yield sheet.name, f"{told}, evaluation {_pixels(judged.pixels, right)}"
        if squares is not None and squares.names == sheet.matrix.names:
            theirs = squares.counts
            if not np.array_equal(theirs, counts):
                right = int(np.trace(theirs))
                yield (
                    sheet.name,
                    f"{told}, squares of ground {_pixels(int(theirs.sum()), right)}",
                )


def _odd_settings(sheets: Sequence[JudgedSheet]) -> Iterator[tuple[str, str]]:
    tolerances = {
        sheet.name: sheet.evaluation.outlines.tolerance_px
        for sheet in sheets
        if sheet.evaluation is not None
    }
    sides = {
        sheet.name: round(sheet.square_side / sheet.pixel_side, 3)
        for sheet in sheets
        if sheet.squares is not None
    }
    for what, values in (("evaluation.boundary_px", tolerances), ("evaluation.block_px", sides)):
        if not values:
            continue
        usual = Counter(values.values()).most_common(1)[0][0]
        for name, value in values.items():
            if value != usual:
                yield name, f"made with {what} {value:g}, other sheets with {usual:g}"


def _pixels(number: int, right: int) -> str:
    return f"{number} pixels, {right} of them right"
