"""Area estimates as tables for people: nothing stands where nothing is known."""

from __future__ import annotations

import io

from rich.console import Console

from pipeline import area_estimates
from pipeline.area_tables import area_tables
from pipeline.numerals import NONE


def lines(sample: list[list[int]]) -> list[list[str]]:
    """Cells of the printed tables, line by line."""
    found = area_estimates.estimate(("Forest", "Water"), sample, [6e4, 4e4], pixels=[600, 400])
    file = io.StringIO()
    Console(file=file, width=200).print(area_tables(found))
    return [[part.strip() for part in line.split("  ") if part.strip()] for line in
            file.getvalue().splitlines()]  # fmt: skip


def test_a_class_with_a_single_point_has_no_interval_and_no_sign_of_one() -> None:
    told = lines([[9, 1], [0, 1]])
    text = "\n".join(" ".join(cells) for cells in told)
    assert f"± {NONE}" not in text
    assert f"{NONE} to" not in text
    areas = next(cells for cells in told if cells and cells[0] == "Forest")
    assert areas[:4] == ["Forest", "10", "6.00", "5.40"]


def test_areas_stand_with_their_errors() -> None:
    areas = next(cells for cells in lines([[9, 1], [2, 8]]) if cells and cells[0] == "Forest")
    # 1.96 * sqrt(0.36 * 0.09 / 9 + 0.16 * 0.16 / 9) * 10 ha
    assert areas[:4] == ["Forest", "10", "6.00", "6.20 ± 1.57"]
    low, high = areas[4].split(" to ")
    assert float(low) < 6.2 < float(high)
