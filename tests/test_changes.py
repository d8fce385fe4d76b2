"""Change maps: which sheets are compared, which pixels, and what is written of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import SettingsError
from pipeline.sheets import Sheet, comparisons, read_sheets

TABLE = "sheet,orthophoto,siose,split,year,place\n"


def _table(folder: Path, rows: str, header: str = TABLE) -> dict[str, Sheet]:
    path = folder / "table.csv"
    path.write_text(header + rows, "utf-8")
    return read_sheets(path)


# Places


def test_years_of_a_place_are_compared_with_the_next_and_the_first_with_the_last(
    tmp_path: Path,
) -> None:
    sheets = _table(
        tmp_path,
        "b10,b.tif,,map,2010,b\na17,a.tif,,map,2017,a\na05,a.tif,,map,2005,a\n"
        "b05,b.tif,,map,2005,b\na10,a.tif,,map,2010,a\nalone,c.tif,,map,2010,\n"
        "timeless,d.tif,,map,,\n",
    )
    found = comparisons(sheets)
    assert list(found) == [
        ("b", "2005", "2010"), ("a", "2005", "2010"), ("a", "2010", "2017"), ("a", "2005", "2017"),
    ]  # fmt: skip
    assert [(c.before.name, c.after.name) for c in found.values()] == [
        ("b05", "b10"), ("a05", "a10"), ("a10", "a17"), ("a05", "a17"),
    ]  # fmt: skip


def test_a_sheet_is_the_place_of_its_name(tmp_path: Path) -> None:
    sheets = _table(tmp_path, "0722,a.tif,,map,2005,\nnewer,a.tif,,map,2010,0722\n")
    assert [sheet.place for sheet in sheets.values()] == ["0722", "0722"]
    assert list(comparisons(sheets)) == [("0722", "2005", "2010")]


def test_a_table_without_places_compares_nothing(tmp_path: Path) -> None:
    header = "sheet,orthophoto,siose,split,year\n"
    assert not comparisons(_table(tmp_path, "a,a.tif,,map,2005\nb,a.tif,,map,2010\n", header))


def test_all_places_that_cannot_be_compared_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        _table(
            tmp_path,
            "a,a.tif,,map,,p\nb,b.tif,,map,2005,q\nc,c.tif,,map,2005,q\nr,d.tif,,map,,\n"
            "s,e.tif,,map,2010,r\nt,f.tif,,map,2010,San Juan\n",
        )
    assert sorted(caught.value.items) == [
        "line 2: sheet 'a' has the place 'p' and no year",
        "line 4: sheet 'c' has the place 'q' and the year 2005, as has sheet 'b' in line 3",
        "line 5: sheet 'r' has no year, and other sheets have its place",
        "line 7: place 'San Juan' becomes part of file names; use up to 100 letters (a to z), "
        "digits, - and _",
    ]
