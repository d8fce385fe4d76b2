"""TilePlan: which windows become tiles, and which split the ground belongs to.

Splits are of ground, never of single tiles. With ``split: sheet`` the sheets table says whose
ground a sheet is. With ``split: blocks`` the ground is cut along a lattice of the CRS itself, so
that two sheets (or two years) of the same ground agree. Where sheets of different splits overlap,
the ground belongs to the test split before validation before training, and tiles of the others
that touch it are dropped.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import Nomenclature
from pipeline.sections import SPLITS, Split, TilingSettings
from pipeline.sheets import Sheet

_BOUNDS = ("x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True)
class Ground:
    """A rectangle of one sheet that belongs to one split.

    Attributes:
        sheet: Name of the sheet.
        window: Its pixels.
        split: The split.
        crs: Coordinate reference system of the sheet, as in its grid; empty where not told.
        bounds: Left, bottom, right, top in that system: other sheets' ground can be compared
            without opening their rasters. None where not told, as in plans of older versions.
    """

    sheet: str
    window: Window
    split: str
    crs: str = ""
    bounds: tuple[float, float, float, float] | None = None

    @classmethod
    def on(cls, grid: PixelGrid, sheet: str, window: Window, split: str) -> Ground:
        """Ground of which is told where it is."""
        return cls(sheet, window, split, grid.crs, grid.bounds_of(window))


@dataclass(frozen=True)
class PlannedTile:
    """One tile.

    Attributes:
        sheet: Name of the sheet.
        window: Its pixels; of a sheet smaller than a tile it reaches beyond the sheet's edge.
        split: The split of its ground.
        class_pixels: Labelled pixels of each class.
    """

    sheet: str
    window: Window
    split: str
    class_pixels: tuple[int, ...]


@dataclass(frozen=True)
class TilePlan:
    """The tiles of a run and the ground they lie on.

    Attributes:
        tiles: Sorted by sheet (in the table's order), split, row, column.
        ground: The ground of all splits.
        nomenclature: Fingerprint of the nomenclature that the labels were made with.
        tile_px: Pixels a side.
    """

    tiles: tuple[PlannedTile, ...]
    ground: tuple[Ground, ...]
    nomenclature: str
    tile_px: int

    def of_sheet(self, sheet: str) -> tuple[PlannedTile, ...]:
        """Tiles of one sheet; those of a split are contiguous."""
        return tuple(tile for tile in self.tiles if tile.sheet == sheet)


def plan_ground(
    sheets: Mapping[str, Sheet], grids: Mapping[str, PixelGrid], settings: TilingSettings, seed: int
) -> tuple[Ground, ...]:
    """Give each sheet's ground to splits.

    Args:
        sheets: The sheets table; sheets of split ``map`` have no ground.
        grids: Pixel grids of the sheets.
        settings: ``split``, ``block_px`` and the shares.
        seed: Decides which blocks belong to which split.
    """
    used = [sheet for sheet in sheets.values() if sheet.split != "map"]
    if settings.split == "sheet":
        return tuple(Ground.on(grids[s.name], s.name, grids[s.name].window, s.split) for s in used)
    blocks = [
        (sheet.name, window, (grids[sheet.name].crs, *place))
        for sheet in used
        for window, place in lattice(grids[sheet.name], settings.block_px)
    ]
    splits = _block_splits({place for _, _, place in blocks}, settings, seed)
    return tuple(
        Ground.on(grids[name], name, window, splits[place]) for name, window, place in blocks
    )


def lattice(grid: PixelGrid, block_px: int) -> Iterator[tuple[Window, tuple[int, int]]]:
    """Blocks of a sheet along the lattice of its CRS, with their place (column, row) in it."""
    rows, cols = lattice_cuts(grid, block_px)
    for top, bottom, down in rows:
        for left, right, across in cols:
            yield Window(left, top, right - left, bottom - top), (across, down)


def lattice_cuts(
    grid: PixelGrid, block_px: int
) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """Where the lattice of its CRS, counted from the CRS's origin, cuts a sheet.

    Args:
        grid: The sheet's pixel grid.
        block_px: Side of a block in pixels.

    Returns:
        Of rows and of columns: first pixel, the one behind the last, and number in the lattice.
    """

    def cuts(start: float, pixel: float, count: int) -> list[tuple[int, int, int]]:
        side = block_px * pixel
        first = math.floor(start / side)
        last = math.ceil((start + count * pixel) / side)
        edges = [round((k * side - start) / pixel) for k in range(first, last + 1)]
        pairs = zip(edges, edges[1:], range(first, last), strict=False)
        clipped = [(max(a, 0), min(b, count), k) for a, b, k in pairs]
        return [(a, b, k) for a, b, k in clipped if b > a]

    # Rows run southwards: the lattice is counted along -y, so that both axes are cut alike.
    return (
        cuts(-grid.top, grid.pixel_height, grid.height),
        cuts(grid.left, grid.pixel_width, grid.width),
    )


def tile_windows(ground: Window, sheet: Window, settings: TilingSettings) -> list[Window]:
    """Windows of tiles on a rectangle of ground, row by row.

    The last row and column are moved back to end with the ground. Ground smaller than a tile has
    none, unless it is a whole sheet: then one tile reaches beyond its edge.
    """
    size, stride = settings.tile_px, settings.stride_px

    def starts(first: int, length: int, whole: int) -> list[int]:
        if length < size:
            return [first] if length == whole else []
        positions = list(range(first, first + length - size + 1, stride))
        if positions[-1] != first + length - size:
            positions.append(first + length - size)
        return positions

    return [
        Window(col, row, size, size)
        for row in starts(ground.row, ground.height, sheet.height)
        for col in starts(ground.col, ground.width, sheet.width)
    ]


def candidate_tiles(
    grid: PixelGrid,
    ground: Sequence[Ground],
    foreign: Sequence[tuple[str, tuple[float, float, float, float]]],
    settings: TilingSettings,
) -> list[tuple[Split, Window]]:
    """Split and window of the tiles of one sheet, whatever their labels.

    Args:
        grid: The sheet's pixel grid.
        ground: The sheet's ground.
        foreign: Split and bounds (in the sheet's CRS) of other sheets' ground.
        settings: Tile size and stride.

    Returns:
        Sorted by split, row, column.
    """
    tiles: list[tuple[Split, Window]] = []
    for split in SPLITS:
        before = SPLITS[SPLITS.index(split) + 1 :]
        barred = [bounds for other, bounds in foreign if other in before]
        windows = [
            window
            for part in ground
            if part.split == split
            for window in tile_windows(part.window, grid.window, settings)
            if not any(
                _overlap(grid.bounds_of(window), bounds, 0.6 * grid.pixel_width)
                for bounds in barred
            )
        ]
        windows.sort(key=lambda window: (window.row, window.col))
        tiles += [(split, window) for window in windows]
    return tiles


def enough_labelled(
    sheet: str,
    candidates: Sequence[tuple[Split, Window]],
    class_pixels: NDArray[np.int64],
    settings: TilingSettings,
) -> list[PlannedTile]:
    """Tiles of one sheet with enough labelled pixels, in the order of the candidates.

    Args:
        sheet: Name of the sheet.
        candidates: Split and window of each tile.
        class_pixels: Pixels of each class, shape ``(candidates, classes)``.
        settings: Tile size and ``min_labelled``.
    """
    needed = max(1, math.ceil(settings.min_labelled * settings.tile_px**2 - 1e-9))
    enough = np.flatnonzero(class_pixels.sum(axis=1) >= needed)
    return [
        PlannedTile(sheet, candidates[i][1], candidates[i][0], tuple(counts))
        for i, counts in zip(enough.tolist(), class_pixels[enough].tolist(), strict=True)
    ]


def check_plan(
    tiles: Iterable[PlannedTile],
    sheets: Mapping[str, Sheet],
    nomenclature: Nomenclature,
    settings: TilingSettings,
) -> None:
    """Check that each split has tiles and that training sees every class.

    Raises:
        InputError: Naming the splits without tiles and the classes without training pixels.
    """
    totals: dict[str, NDArray[np.int64]] = {}
    for tile in tiles:
        total = totals.setdefault(tile.split, np.zeros(len(nomenclature), np.int64))
        total += np.array(tile.class_pixels, np.int64)
    wrong = []
    for split in SPLITS:
        if split not in totals:
            named = [s.name for s in sheets.values() if s.split == split]
            if settings.split == "blocks":
                what = "none of its blocks"
            else:
                what = f"its sheets: {', '.join(named)}" if named else "no sheet has this split"
            wrong.append(f"split {split}: no tile with enough labelled pixels ({what})")
    if "train" in totals:
        absent = [n for n, px in zip(nomenclature.names, totals["train"], strict=True) if px == 0]
        wrong += [f"class {name!r}: no labelled pixel in the training tiles" for name in absent]
    if wrong:
        raise InputError(
            "The labelled ground does not do for training, validation and test.",
            wrong,
            "Change the split column of the sheets table (or `tiling.split: blocks`), lower "
            f"`tiling.min_labelled` (now {settings.min_labelled:g}) or `labels.min_share`, or "
            "merge the absent class into another one in the nomenclature.",
        )


def write_plan(plan: TilePlan, plan_draft: Path, ground_draft: Path) -> None:
    """Write the plan and its ground as Parquet."""
    metadata = {
        b"tesela": json.dumps(
            {"nomenclature": plan.nomenclature, "tile_px": plan.tile_px}, sort_keys=True
        ).encode()
    }
    tiles, ground = plan.tiles, plan.ground
    table = _window_table([(t.sheet, t.window, t.split) for t in tiles])
    counts = pyarrow.array([list(t.class_pixels) for t in tiles], pyarrow.list_(pyarrow.int64()))
    table = table.append_column("class_pixels", counts)
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), plan_draft)
    table = _window_table([(g.sheet, g.window, g.split) for g in ground])
    table = table.append_column("crs", pyarrow.array([g.crs for g in ground], pyarrow.string()))
    for i, name in enumerate(_BOUNDS):
        places = [g.bounds[i] if g.bounds else None for g in ground]
        table = table.append_column(name, pyarrow.array(places, pyarrow.float64()))
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), ground_draft)


def read_plan(
    plan: Path, ground: Path, nomenclature: Nomenclature, sheet: str | None = None
) -> TilePlan:
    """Read a plan back, of one sheet or of all.

    Raises:
        InputError: If it is missing, damaged, or was made with another nomenclature.
    """
    rows = _read_table(plan, nomenclature, sheet)
    parts = read_ground(ground, nomenclature, sheet)
    metadata = json.loads(rows.schema.metadata[b"tesela"])
    tiles = tuple(
        PlannedTile(*_window_row(row), tuple(row["class_pixels"])) for row in rows.to_pylist()
    )
    return TilePlan(tiles, parts, metadata["nomenclature"], metadata["tile_px"])


def read_ground(
    ground: Path, nomenclature: Nomenclature, sheet: str | None = None
) -> tuple[Ground, ...]:
    """Read the ground of a plan back without its tiles, of one sheet or of all.

    Raises:
        InputError: If it is missing, damaged, or was made with another nomenclature.
    """
    return tuple(map(_ground_row, _read_table(ground, nomenclature, sheet).to_pylist()))


def read_test_ground(
    ground: Path, nomenclature: Nomenclature, near: tuple[float, float, float, float]
) -> tuple[Ground, ...]:
    """Read the test ground of all sheets that may lie within bounds.

    Args:
        ground: The plan's ground.
        nomenclature: The classes.
        near: Left, bottom, right, top in CRS units.

    Returns:
        As :func:`read_near_ground`.

    Raises:
        InputError: If it is missing, damaged, or was made with another nomenclature.
    """
    return read_near_ground(ground, nomenclature, near, "test")


def read_near_ground(
    ground: Path,
    nomenclature: Nomenclature,
    near: tuple[float, float, float, float],
    split: Split | None = None,
) -> tuple[Ground, ...]:
    """Read the ground of all sheets that may lie within bounds.

    Args:
        ground: The plan's ground.
        nomenclature: The classes.
        near: Left, bottom, right, top in CRS units.
        split: Only ground of this split.

    Returns:
        In the plan's order; ground that does not say where it is is among them, and so is that of
        other CRSs whose coordinates happen to be these.

    Raises:
        InputError: If it is missing, damaged, or was made with another nomenclature.
    """
    rows = _read_table(ground, nomenclature, None, [("split", "=", split)] if split else [])
    if set(_BOUNDS) <= set(rows.column_names):
        left, bottom, right, top = (rows[name].to_numpy(zero_copy_only=False) for name in _BOUNDS)
        # As what it is not: a comparison with NaN, where nothing is told, keeps the row.
        far = (left >= near[2]) | (right <= near[0]) | (bottom >= near[3]) | (top <= near[1])
        rows = rows.filter(pyarrow.array(~far))
    return tuple(map(_ground_row, rows.to_pylist()))


def tile_name(plan: Path, sheet: str, position: int) -> str:
    """Name a tile by its pixels: ``sheet 0722, rows 512-767, columns 0-255``.

    Args:
        plan: The plan's tiles.
        sheet: Name of a sheet.
        position: Position in its shard, which is that among the sheet's tiles in the plan.

    Raises:
        InputError: If the plan is missing or damaged.
    """
    with _readable(plan):
        rows = pyarrow.parquet.read_table(
            plan, columns=list(Window._fields), filters=[("sheet", "==", sheet)]
        )
    at = Window(*(rows[name][position].as_py() for name in Window._fields))
    down, right = at.row + at.height - 1, at.col + at.width - 1
    return f"sheet {sheet}, rows {at.row}-{down}, columns {at.col}-{right}"


def read_class_presence(
    plan: Path, sheets: Sequence[str], nomenclature: Nomenclature
) -> dict[str, NDArray[np.bool_]]:
    """Which classes occur in which tiles, one byte each, of a plan of any size.

    Args:
        plan: The plan's tiles.
        sheets: Names of sheets.
        nomenclature: Says how many classes there are.

    Returns:
        For each sheet, shape ``(tiles, classes)``, in the plan's order, which is that of the tiles
        in the sheet's shard.

    Raises:
        InputError: If it is missing, damaged, or was made with another nomenclature.
    """
    parts: dict[str, list[NDArray[np.bool_]]] = {sheet: [] for sheet in sheets}
    with _readable(plan), pyarrow.parquet.ParquetFile(plan) as file:
        _check_nomenclature(plan, file.schema_arrow, nomenclature)
        for rows in file.iter_batches(columns=["sheet", "class_pixels"]):
            names = rows["sheet"].to_numpy(zero_copy_only=False)
            pixels = rows["class_pixels"].flatten().to_numpy()
            present = pixels.reshape(len(names), len(nomenclature)) > 0
            for sheet in parts.keys() & set(names):
                parts[sheet].append(present[names == sheet])
    none = np.zeros((0, len(nomenclature)), np.bool_)
    return {sheet: np.concatenate([none, *some]) for sheet, some in parts.items()}


def _read_table(
    path: Path,
    nomenclature: Nomenclature,
    sheet: str | None,
    only: Sequence[tuple[str, str, str]] = (),
) -> pyarrow.Table:
    """Rows of a file of the plan, checked."""
    filters = [*only, *([("sheet", "=", sheet)] if sheet else [])]
    with _readable(path):
        rows = pyarrow.parquet.read_table(path, filters=filters or None)
    _check_nomenclature(path, rows.schema, nomenclature)
    return rows


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Tell of a file of the plan that cannot be read."""
    if not path.exists():
        raise InputError(f"{path}: there is no such file.", remedy="Run tile_plan first.")
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}).", remedy="Run tile_plan again."
        ) from error


def _check_nomenclature(path: Path, schema: pyarrow.Schema, nomenclature: Nomenclature) -> None:
    metadata = json.loads((schema.metadata or {}).get(b"tesela", b"{}"))
    if metadata.get("nomenclature") != nomenclature.fingerprint:
        raise InputError(
            f"{path}: was made with another nomenclature ({metadata.get('nomenclature')}, now "
            f"{nomenclature.fingerprint}).",
            remedy="Run label_raster and tile_plan again, or choose another `run` folder.",
        )


def _block_splits(
    places: set[tuple[str, int, int]], settings: TilingSettings, seed: int
) -> dict[tuple[str, int, int], str]:
    """Splits of the lattice's blocks: ranked by a hash, so no random state is involved."""

    def rank(place: tuple[str, int, int]) -> bytes:
        return hashlib.sha256(f"{seed}:{place}".encode()).digest()

    ranked = sorted(places, key=rank)
    test = max(1, round(settings.test_share * len(ranked))) if settings.test_share else 0
    validation = (
        max(1, round(settings.validation_share * len(ranked))) if settings.validation_share else 0
    )
    return {
        place: "test" if i < test else "validation" if i < test + validation else "train"
        for i, place in enumerate(ranked)
    }


def _overlap(a: Sequence[float], b: Sequence[float], near: float) -> bool:
    """Whether two bounds share more than ``near``: lattices are rounded to whole pixels."""
    return a[0] < b[2] - near and b[0] < a[2] - near and a[1] < b[3] - near and b[1] < a[3] - near


def _window_table(rows: Sequence[tuple[str, Window, str]]) -> pyarrow.Table:
    columns: dict[str, Any] = {"sheet": pyarrow.array([r[0] for r in rows], pyarrow.string())}
    for name in Window._fields:
        columns[name] = pyarrow.array([getattr(r[1], name) for r in rows], pyarrow.int32())
    columns["split"] = pyarrow.array([r[2] for r in rows], pyarrow.string())
    return pyarrow.table(columns)


def _window_row(row: Mapping[str, Any]) -> tuple[str, Window, str]:
    window = Window(row["col"], row["row"], row["width"], row["height"])
    return row["sheet"], window, row["split"]


def _ground_row(row: Mapping[str, Any]) -> Ground:
    bounds = tuple(row.get(name) for name in _BOUNDS)
    told = None if None in bounds else bounds
    return Ground(*_window_row(row), row.get("crs") or "", told)  # type: ignore[arg-type]
