"""Files of a sheet that are of one map, one reference and one setting; and those that are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.calibration import Calibration
from pipeline.confusion import ConfusionMatrix
from pipeline.consistency import JudgedSheet, check
from pipeline.errors import InputError
from pipeline.evaluation import Evaluation
from pipeline.outlines import BINS, OutlineCounts

NAMES = ("Forest", "Water")
MATRIX = ConfusionMatrix(NAMES, np.array([[5, 2], [1, 4]]), 9)


def evaluation(wrong: int = 2, tolerance: int = 3, names: tuple[str, ...] = NAMES) -> Evaluation:
    """Of twelve pixels: of the first class seven, so many of them wrong."""
    by_distance = np.zeros((2, BINS, 2), np.int64)
    by_distance[0, 0], by_distance[1, 3] = (wrong, 7 - wrong), (1, 4)
    outlines = OutlineCounts(by_distance, np.zeros((2, 4), np.int64), tolerance)
    return Evaluation(names, Calibration.empty(2), outlines)


def sheet(name: str, **parts: object) -> JudgedSheet:
    """Squares of 512 pixels of half a metre."""
    fitting = JudgedSheet(name, MATRIX, evaluation(), replace(MATRIX, unmapped=0), 256.0, 0.5)
    return replace(fitting, **parts)  # type: ignore[arg-type]


def test_what_fits_and_what_is_missing_is_no_error() -> None:
    nothing = ConfusionMatrix.empty(NAMES)
    check([], NAMES)
    check(
        [
            sheet("a"),
            sheet("coarse", square_side=512.0, pixel_side=1.0),
            sheet("no squares", squares=None, square_side=0.0),
            sheet("bare", evaluation=None, squares=None),
            JudgedSheet("none", nothing, Evaluation.empty(NAMES, 3)),
        ],
        NAMES,
    )


def test_all_that_does_not_fit_is_told_at_once() -> None:
    other_map = ConfusionMatrix(NAMES, np.array([[6, 1], [1, 4]]))
    with pytest.raises(InputError, match="do not fit together") as caught:
        check(
            [
                sheet("a"),
                sheet("b"),
                sheet("raw", evaluation=evaluation(wrong=1)),
                sheet("squares", squares=other_map),
                sheet("gone", matrix=ConfusionMatrix.empty(NAMES), squares=None),
                sheet("wide", evaluation=evaluation(tolerance=5)),
                sheet("small", square_side=128.0),
                sheet("sea", evaluation=evaluation(names=("Forest", "Sea"))),
            ],
            NAMES,
        )
    told = "confusion counts 12 pixels, 9 of them right"
    assert caught.value.items == (
        "sheet sea: evaluation is of the classes Forest, Sea",
        f"sheet raw: {told}, evaluation 12 pixels, 10 of them right",
        f"sheet squares: {told}, squares of ground 12 pixels, 10 of them right",
        "sheet gone: confusion counts 0 pixels, 0 of them right, evaluation 12 pixels, 9 of them "
        "right",
        "sheet wide: made with evaluation.boundary_px 5, other sheets with 3",
        "sheet small: made with evaluation.block_px 256, other sheets with 512",
    )
    assert "evaluation` again, with `--sheet` sea, raw, squares, gone, wide and so on" in str(
        caught.value
    )
