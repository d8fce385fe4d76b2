"""Confusion matrices as text: in the 2017 study's layout, and in this project's own.

The study printed what was predicted in rows and what is real in columns, as counts and as shares
of each row to two decimals. Its diagonal of shares is thus that of user's accuracies; here rows
are the reference, and the diagonal is that of producer's accuracies.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.confusion import ConfusionMatrix, from_json
from pipeline.errors import InputError, SettingsError
from pipeline.numerals import NONE, count


def study_table(matrix: ConfusionMatrix) -> str:
    """The matrix as the study printed it: rows predicted, columns real.

    Returns:
        Counts, shares of each row to two decimals, and the overall accuracy to three.
    """
    return _text("rows: predicted, columns: real", matrix, matrix.counts.T, matrix.by_mapped().T)


def tesela_table(matrix: ConfusionMatrix) -> str:
    """The same with rows = reference, columns = mapped, as everywhere else in this project."""
    return _text("rows: reference, columns: mapped", matrix, matrix.counts, matrix.by_reference())


def study_csv(matrix: ConfusionMatrix) -> str:
    """The study's layout as CSV: counts, then shares of the row; empty where nothing is mapped."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    shares = [f"{name} (share of row)" for name in matrix.names]
    writer.writerow(["predicted \\ real", *matrix.names, *shares])
    rows = zip(matrix.names, matrix.counts.T.tolist(), matrix.by_mapped().T.tolist(), strict=True)
    for name, pixels, parts in rows:
        writer.writerow([name, *pixels, *(_share(part, "") for part in parts)])
    return table.getvalue()


def read_sum(files: Sequence[Path]) -> ConfusionMatrix:
    """Read confusion matrices of sheets or of runs and add them up.

    Args:
        files: ``confusion/{sheet}.json`` of any run, one or more.

    Raises:
        SettingsError: If a file is named twice: its pixels would count twice.
        InputError: Naming all files that cannot be read, or all that have other classes than
            most of them (than the first, where none are more).
    """
    times = Counter(file.resolve() for file in files)
    if twice := [str(file) for file, number in times.items() if number > 1]:
        raise SettingsError(
            "Matrices that are named more than once would count more than once.",
            twice,
            "Name each file once.",
        )
    matrices, wrong = [], []
    for file in files:
        try:
            matrices.append(from_json(file.read_text("utf-8"), str(file)))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not text"
            wrong.append(f"{file}: {reason}")
        except InputError as error:
            wrong.append(error.what)
    if wrong:
        raise InputError(
            f"{len(wrong)} of {len(files)} confusion matrices cannot be read.",
            wrong,
            "Name files confusion/{sheet}.json of a run; the rule `confusion` writes them.",
        )
    usual = Counter(matrix.names for matrix in matrices).most_common(1)[0][0]
    odd = [
        f"{file}: {', '.join(matrix.names)}"
        for file, matrix in zip(files, matrices, strict=True)
        if matrix.names != usual
    ]
    if odd:
        raise InputError(
            "Matrices of other classes do not add up. "
            f"These are not of the classes {', '.join(usual)}:",
            odd,
            "Leave them to a call of their own.",
        )
    return sum(matrices, ConfusionMatrix.empty(usual))


def _text(
    layout: str,
    matrix: ConfusionMatrix,
    counts: NDArray[np.int64],
    shares: NDArray[np.float64],
) -> str:
    names, scores = matrix.names, matrix.scores()
    pixels = [[count(number) for number in row] for row in counts.tolist()]
    parts = [[_share(part, NONE) for part in row] for row in shares.tolist()]
    accuracy = scores.overall_accuracy
    lines = [
        f"Pixels ({layout})",
        *_aligned(names, pixels),
        "",
        "Shares of each row",
        *_aligned(names, parts),
        "",
        f"Accuracy {NONE if math.isnan(accuracy) else f'{accuracy:.3f}'} "
        f"of {count(matrix.pixels)} pixels",
    ]
    if matrix.unmapped:
        lines.append(f"Not counted: {count(matrix.unmapped)} labelled pixels without a map")
    return "\n".join(lines) + "\n"


def _aligned(names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, numbers to the right."""
    table = [["", *names], *([name, *row] for name, row in zip(names, cells, strict=True))]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in table
    ]


def _share(value: float, none: str) -> str:
    return none if math.isnan(value) else f"{value:.2f}"
