"""The sheets table of a run: which orthophoto and SIOSE base, and what the ground is for."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from pipeline.config import exists, expanded, find, read_text
from pipeline.errors import SettingsError
from pipeline.sections import SPLITS, Split
from pipeline.setting_types import did_you_mean

COLUMNS = ("sheet", "orthophoto", "siose", "split", "year", "place")
"""Columns of the sheets table; the first four are needed."""

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
"""Regular expression of names of sheets and places: no point, which ends them in file names."""


@dataclass(frozen=True)
class Sheet:
    """One row of the sheets table.

    Attributes:
        name: Name of the sheet, as in every file name of the run.
        orthophoto: Raster file.
        siose: SIOSE base.
        split: What its ground is for; ``map`` is only mapped.
        year: Year of the orthophoto, if told.
        line: Line of the table, for messages.
        place: Ground that sheets of several years show; the sheet's name where none is told.
    """

    name: str
    orthophoto: Path
    siose: Path
    split: Split
    year: int | None
    line: int
    place: str = ""

    @property
    def base(self) -> str:
        """Name of its SIOSE base in file names: two bases of one name stay apart."""
        return _base(self.siose)


@dataclass(frozen=True)
class Comparison:
    """Two sheets of a place that a change map compares.

    Attributes:
        place: The place.
        before: Its sheet of the earlier year.
        after: Its sheet of the later year.
    """

    place: str
    before: Sheet
    after: Sheet

    @property
    def key(self) -> tuple[str, str, str]:
        """Place, earlier year and later year, as in file names."""
        return self.place, str(self.before.year), str(self.after.year)

    @property
    def sheets(self) -> tuple[Sheet, Sheet]:
        """The earlier one and the later one."""
        return self.before, self.after


def comparisons(sheets: Mapping[str, Sheet]) -> dict[tuple[str, str, str], Comparison]:
    """What change maps compare: each year of a place with the next, and the first with the last.

    Args:
        sheets: The sheets table.

    Returns:
        Comparisons by :attr:`Comparison.key`, in the order of the table and of the years.
    """
    places: dict[str, list[Sheet]] = {}
    for sheet in sheets.values():
        if sheet.year is not None:
            places.setdefault(sheet.place or sheet.name, []).append(sheet)
    found = {}
    for place, of_place in places.items():
        years = sorted(of_place, key=lambda sheet: sheet.year or 0)
        pairs = list(pairwise(years))
        if len(years) > 2:
            pairs.append((years[0], years[-1]))
        for before, after in pairs:
            comparison = Comparison(place, before, after)
            found[comparison.key] = comparison
    return found


def read_sheets(path: Path) -> dict[str, Sheet]:
    """Read the sheets table.

    Args:
        path: CSV with a header ``sheet,orthophoto,siose,split`` and, if you like, ``year`` and
            ``place``.

    Returns:
        Sheets by name, in the table's order.

    Raises:
        SettingsError: With all mistakes of the table at once, by line.
    """
    rows = _rows(path)
    if not rows:
        raise SettingsError(f"{path}: is empty; it needs a header and one line a sheet.")
    columns = [name.lower() for name in rows[0][1]]
    while columns and not columns[-1]:  # spreadsheets end lines with separators
        columns.pop()
    mistakes = [f"column {name!r} is missing" for name in COLUMNS[:4] if name not in columns]
    mistakes += [
        f"column {name!r} is not known{did_you_mean(name, COLUMNS)}"
        for name in columns
        if name not in COLUMNS
    ]
    mistakes += [
        f"column {name!r} stands there {columns.count(name)} times"
        for name in COLUMNS
        if columns.count(name) > 1
    ]
    sheets: dict[str, Sheet] = {}

    @cache  # thousands of sheets lie on a few SIOSE bases
    def place_of(cell: str) -> Path:
        file = expanded(Path(cell))
        # An absolute path is not asked for: every job of a run reads this table.
        return file if file.is_absolute() else find(file, [path.parent]) or file

    if not mistakes:
        for line, cells in rows[1:]:
            if any(cells[len(columns) :]):
                mistakes.append(
                    f"line {line}: has {len(cells)} cells for {len(columns)} columns; a name with "
                    "a comma in it needs quotes"
                )
                continue
            padded = [*cells, *[""] * len(columns)]
            sheet, wrong = _sheet_of(dict(zip(columns, padded, strict=False)), line, place_of)
            mistakes += wrong
            if sheet is None:
                continue
            if sheet.name in sheets:
                mistakes.append(
                    f"line {sheet.line}: sheet {sheet.name!r} stands in line "
                    f"{sheets[sheet.name].line} already"
                )
            sheets.setdefault(sheet.name, sheet)
        if not sheets and not mistakes:
            mistakes.append("it lists no sheet")
        mistakes += _place_mistakes(sheets.values())
    if mistakes:
        raise SettingsError(
            f"{path}: the sheets table cannot be used.",
            mistakes,
            "Its columns are sheet, orthophoto, siose, split (train, validation, test or map) "
            "and, if you like, year and place: sheets of one place and of several years are "
            "compared.",
        )
    return _Sheets(sheets, path)


def missing_inputs(sheets: Mapping[str, Sheet], table: Path, made: Path | None = None) -> None:
    """Check that every orthophoto and SIOSE base is there.

    Args:
        sheets: The sheets table.
        table: Its file, for the message.
        made: Folder whose files the workflow makes itself; they may be missing.

    Raises:
        SettingsError: With all missing files at once.
    """
    missing = [
        f"line {sheet.line}, sheet {sheet.name}: {kind} {path}"
        for sheet in sheets.values()
        for kind, path in (("orthophoto", sheet.orthophoto), ("siose", sheet.siose))
        if not exists(path) and not (made is not None and path.is_relative_to(made))
    ]
    if missing:
        raise SettingsError(
            f"{table}: {len(missing)} of the files it names cannot be found.",
            missing,
            "Relative paths are looked up from the working directory "
            f"({Path.cwd()}), then from the folder of the table.",
        )


def digest_of(sheets: Iterable[Sheet], column: str) -> str:
    """A short word for what a column says of some sheets; another one when any of it changes.

    Args:
        sheets: In an order, which counts.
        column: Attribute of a sheet.
    """
    told = "\n".join(f"{sheet.name}: {getattr(sheet, column)}" for sheet in sheets)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


class _Sheets(dict[str, Sheet]):
    """The sheets of a table; a name that is not there is told as such, with the nearest one."""

    def __init__(self, sheets: Mapping[str, Sheet], table: Path) -> None:
        super().__init__(sheets)
        self._table = table

    def __missing__(self, name: str) -> Sheet:
        raise SettingsError(
            f"{self._table}: has no sheet {name!r}{did_you_mean(name, self)}",
            remedy="Ask for files of the sheets that it lists.",
        )


@cache
def siose_files(path: Path) -> tuple[Path, ...]:
    """A SIOSE base's files: it, and of a Shapefile its parts and the tables beside it.

    As they are when they are asked for first: thousands of sheets ask for the same.
    """
    if path.suffix.lower() != ".shp" or not path.parent.is_dir():
        return (path,)
    beside = [
        file
        for file in sorted(path.parent.iterdir())
        if file.stem == path.stem
        or (
            file.suffix.lower() in (".dbf", ".csv", ".txt")
            and re.search(r"(T_VALORES|_COBERTURAS|_ATRIBUTOS)(_|$)", file.stem.upper())
        )
    ]
    return (path, *(file for file in beside if file != path and file.is_file()))


def _rows(table: Path) -> list[tuple[int, list[str]]]:
    """Lines of a CSV file that are not blank: number and cells, header first."""
    text = read_text(table)
    header = next((line for line in text.splitlines() if line.strip()), "")
    # Spanish spreadsheets save CSV with semicolons; what is copied from one has tabs.
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    rows = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                rows.append((reader.line_num, stripped))
    except csv.Error as error:
        raise SettingsError(
            f"{table}, line {reader.line_num}: is not CSV ({error}).",
            remedy="Look for a quote that is not closed, there or above.",
        ) from error
    return rows


@cache
def _base(siose: Path) -> str:
    place = hashlib.sha256(str(siose.resolve()).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', siose.stem)}-{place}"


def _place_mistakes(sheets: Iterable[Sheet]) -> list[str]:
    """Sheets of a place that cannot be told apart by their years."""
    places: dict[str, list[Sheet]] = {}
    for sheet in sheets:
        places.setdefault(sheet.place, []).append(sheet)
    mistakes = []
    for place, of_place in places.items():
        years: dict[int, Sheet] = {}
        for sheet in of_place:
            where = f"line {sheet.line}: sheet {sheet.name!r}"
            if sheet.year is None:
                if sheet.name != place:
                    mistakes.append(f"{where} has the place {place!r} and no year")
                elif len(of_place) > 1:
                    mistakes.append(f"{where} has no year, and other sheets have its place")
            elif sheet.year in years:
                other = years[sheet.year]
                mistakes.append(
                    f"{where} has the place {place!r} and the year {sheet.year}, as has sheet "
                    f"{other.name!r} in line {other.line}"
                )
            else:
                years[sheet.year] = sheet
    return mistakes


def _sheet_of(
    row: dict[str, str], line: int, place_of: Callable[[str], Path]
) -> tuple[Sheet | None, list[str]]:
    needed = ["sheet", "orthophoto"]
    if row["split"].lower() != "map":  # a sheet that is only mapped needs no SIOSE
        needed.append("siose")
    wrong = [f"line {line}: {key} is empty" for key in needed if not row[key]]
    name, place = row["sheet"], row.get("place", "")
    for key, given in (("sheet", name), ("place", place)):
        if given and not re.fullmatch(NAME, given):
            wrong.append(
                f"line {line}: {key} {given!r} becomes part of file names; use up to 100 letters "
                "(a to z), digits, - and _"
            )
    split = row["split"].lower()
    allowed = (*SPLITS, "map")
    if split not in allowed:
        wrong.append(
            f"line {line}: split {row['split']!r} is none of {', '.join(allowed)}"
            f"{did_you_mean(split, allowed)}"
        )
    year = row.get("year", "")
    if year and not re.fullmatch(r"\d{4}", year):
        wrong.append(f"line {line}: year {year!r} is not a year such as 2017")
    if wrong:
        return None, wrong
    return Sheet(
        name,
        place_of(row["orthophoto"]),
        place_of(row["siose"]),
        split,  # type: ignore[arg-type]
        int(year) if year else None,
        line,
        place or name,
    ), []
