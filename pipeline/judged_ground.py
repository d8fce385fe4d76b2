"""Judged ground: the test ground of a sheet that no earlier sheet is judged on already.

Sheets of one flight overlap by some hundreds of metres. Counted on each of them, the strips would
weigh twice in every sum over sheets: the sheet that comes first in the sheets table has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import Nomenclature
from pipeline.sheets import Sheet
from pipeline.tiling import Ground, read_near_ground, read_test_ground

Bounds = tuple[float, float, float, float]
"""Left, bottom, right, top in CRS units."""

GridOf = Callable[[str], PixelGrid]
"""Gives the pixel grid of the sheet of a name, or raises InputError."""


@dataclass(frozen=True)
class OtherGround:
    """Ground that other sheets of a sheet's year and CRS show.

    Attributes:
        earlier: Ground of sheets that come before it in the table, of all splits.
        later: Of those that come after it.
    """

    earlier: tuple[Ground, ...]
    later: tuple[Ground, ...]


def read_judged_ground(
    ground: Path,
    grid: PixelGrid,
    classes: Nomenclature,
    sheets: Mapping[str, Sheet],
    sheet: str,
    grid_of: GridOf,
) -> list[Window]:
    """Read where a sheet is judged.

    Args:
        ground: The ground file of the run's plan.
        grid: The sheet's pixel grid.
        classes: The training classes.
        sheets: The sheets table.
        sheet: Name of the sheet.
        grid_of: The grid of another sheet. It is asked for where the file does not say where
            ground is, being of an older version: to plan anew would be to train anew.

    Returns:
        As :func:`judged_ground`.

    Raises:
        InputError: If the file is missing, damaged or made with other classes, or if neither it
            nor a grid says where the ground of earlier sheets is.
    """
    parts = read_test_ground(ground, classes, grid.bounds)
    own = [part for part in parts if part.sheet == sheet]
    if not own:
        return []
    before = _before(sheets, sheet)
    others = [part for part in parts if part.sheet in before]
    placed = [
        *_placed(own, ground, sheet, lambda _: grid),
        *_placed(others, ground, sheet, grid_of),
    ]
    return judged_ground(placed, grid, sheets, sheet)


def read_other_ground(
    ground: Path,
    near: Bounds,
    crs: str,
    classes: Nomenclature,
    sheets: Mapping[str, Sheet],
    sheet: str,
    grid_of: GridOf,
) -> OtherGround:
    """Read where other labelled sheets show what a sheet may show too.

    Args:
        ground: The ground file of the run's plan.
        near: Where to look, in the sheet's CRS.
        crs: The sheet's CRS.
        classes: The training classes.
        sheets: The sheets table.
        sheet: Name of the sheet.
        grid_of: As :func:`read_judged_ground`.

    Raises:
        InputError: As :func:`read_judged_ground`.
    """
    before, same = _before(sheets, sheet), _same_year(sheets, sheet)
    found = [part for part in read_near_ground(ground, classes, near) if part.sheet in same]
    parts = [part for part in _placed(found, ground, sheet, grid_of) if part.crs == crs]
    return OtherGround(
        tuple(part for part in parts if part.sheet in before),
        tuple(part for part in parts if part.sheet not in before),
    )


def judged_ground(
    ground: Iterable[Ground], grid: PixelGrid, sheets: Mapping[str, Sheet], sheet: str
) -> list[Window]:
    """Test ground of a sheet without that of earlier sheets of the same year.

    A pixel is the earlier sheet's if its centre lies on that one's test ground (an edge belongs
    to what is right of it or below), whether or not that sheet has a label there: masks do not
    change whose the ground is. Two sheets are of the same year if both years are told and equal,
    or if neither is told: a table without years is one of a single flight. Ground in another
    coordinate system is not compared; at the border of two UTM zones it counts on both sheets.

    Args:
        ground: Ground of the sheet and of the others; of other splits and years too.
        grid: The sheet's pixel grid.
        sheets: The sheets table; its order says which sheet is the earlier one.
        sheet: Name of the sheet.

    Returns:
        Disjoint rectangles of whole pixels, by row and column.

    Raises:
        ValueError: If earlier ground does not say where it is.
    """
    parts = [part for part in ground if part.split == "test"]
    mine = [part for part in parts if part.sheet == sheet]
    before, systems = _before(sheets, sheet), {part.crs for part in mine}
    taken = [
        window
        for part in parts
        if part.sheet in before and part.crs in systems
        if (window := _pixels_of(part, grid)) is not None
    ]
    left = [rest for own in mine for rest in _without(own.window, taken)]
    return sorted(left, key=lambda window: (window.row, window.col))


def _before(sheets: Mapping[str, Sheet], sheet: str) -> set[str]:
    """Names of the sheets of the same year that come before a sheet in the table."""
    names = list(sheets)
    if sheet not in sheets:
        raise ValueError(f"the sheets table has no sheet {sheet!r}")
    return _same_year(sheets, sheet).intersection(names[: names.index(sheet)])


def _same_year(sheets: Mapping[str, Sheet], sheet: str) -> set[str]:
    """Names of the other sheets of the same year."""
    year = sheets[sheet].year
    return {name for name, other in sheets.items() if other.year == year and name != sheet}


def _placed(parts: Iterable[Ground], ground: Path, sheet: str, grid_of: GridOf) -> Iterator[Ground]:
    """Ground with its place; what the file of ground does not say, the sheets' grids do."""
    parts, grids, wrong = list(parts), {}, []
    for name in dict.fromkeys(part.sheet for part in parts if part.bounds is None):
        try:
            grids[name] = grid_of(name)
        except InputError as error:
            wrong.append(f"sheet {name}: {error.what}")
    if wrong:
        raise InputError(
            f"{ground}: does not say where the ground of other sheets is, and nor do their "
            f"labels, so that what they have in common with sheet {sheet} would count twice.",
            wrong,
            "It is of an older version. Run label_raster for these sheets again.",
        )
    for part in parts:
        name = part.sheet
        yield Ground.on(grids[name], name, part.window, part.split) if name in grids else part


def _pixels_of(part: Ground, grid: PixelGrid) -> Window | None:
    """The pixels of a grid whose centres lie on another sheet's ground."""
    if part.bounds is None:
        raise ValueError(f"ground of sheet {part.sheet}: does not say where it is")
    x_min, y_min, x_max, y_max = part.bounds

    def first(distance: float) -> int:
        # Rounded to 1e-6 px: coordinates are not exact, and an edge through centres (of grids
        # half a pixel apart) has to fall the same way for all of them.
        return math.ceil(round(distance - 0.5, 6))

    col, right = (first((x - grid.left) / grid.pixel_width) for x in (x_min, x_max))
    row, bottom = (first((grid.top - y) / grid.pixel_height) for y in (y_max, y_min))
    if right <= col or bottom <= row:
        return None
    return Window(col, row, right - col, bottom - row).intersection(grid.window)


def _without(window: Window, taken: Iterable[Window]) -> Iterator[Window]:
    """The rest of a window in disjoint rectangles."""
    rest = [window]
    for other in taken:
        rest = [piece for part in rest for piece in _cut(part, other)]
    return iter(rest)


def _cut(window: Window, other: Window) -> Iterator[Window]:
    """What is above, left of, right of and below the common pixels of two windows."""
    common = window.intersection(other)
    if common is None:
        yield window
        return
    for col, row, right, bottom in (
        (window.col, window.row, window.right, common.row),
        (window.col, common.row, common.col, common.bottom),
        (common.right, common.row, window.right, common.bottom),
        (window.col, common.bottom, window.right, window.bottom),
    ):
        if right > col and bottom > row:
            yield Window(col, row, right - col, bottom - row)
