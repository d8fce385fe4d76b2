"""Strips: tiles that are cut and packed together, so that each block of a sheet is decoded once.

A compressed raster is decoded in whole blocks. A sheet is therefore read in units of whole blocks
of the orthophoto: stripes from its left to its right, in each the units from top to bottom. Tiles
that begin in one unit are a strip. A unit that tiles of a later strip reach into is kept until
that strip has taken it. Blocks at the seam of two stripes are decoded twice where tiles lie across
it, and in other processes those that two strips share; blocks of labels are, where units of an
orthophoto with other blocks end inside of them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pipeline import geotiff, records
from pipeline.block_reader import BlockPixels, BlockReader
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE
from pipeline.records import Annotation, Runs
from pipeline.shards import SplitCounts

_COLUMNS = 8192
_ROWS = 512
_LOWEST = 256  # rows of a unit of blocks as wide as the sheet: label blocks are read again in each
_LARGEST = 2**25  # pixels of a unit, whatever the blocks are: a sheet in one is decoded in parts


class Placed(NamedTuple):
    """A tile of the plan.

    Attributes:
        position: Its place among the sheet's tiles.
        split: The split of its ground.
        window: Its pixels.
    """

    position: int
    split: str
    window: Window


@dataclass(frozen=True)
class Strip:
    """Tiles that are cut together.

    Attributes:
        tiles: The tiles, row by row.
        units: Windows that are read for them, from top to bottom.
        takers: How many strips read each unit, this one among them.
    """

    tiles: tuple[Placed, ...]
    units: tuple[Window, ...]
    takers: tuple[int, ...]


class CutStrip(NamedTuple):
    """What becomes of a strip.

    Attributes:
        records: Positions and records of its tiles.
        counts: What they hold, by split.
    """

    records: list[tuple[int, bytearray]]
    counts: dict[str, SplitCounts]


def plan_strips(
    tiles: Sequence[Placed], grid: PixelGrid, block_height: int, block_width: int
) -> list[Strip]:
    """The strips of a sheet in the order in which they are read.

    Args:
        tiles: Tiles of the sheet in any order.
        grid: The sheet's grid.
        block_height: Rows of the orthophoto's blocks.
        block_width: Columns of the orthophoto's blocks.
    """
    columns = block_width * max(1, _COLUMNS // block_width)
    # Blocks as wide as the sheet are read in fewer rows, so that a unit keeps its size.
    rows = min(_ROWS, max(_LOWEST, _COLUMNS * _ROWS // columns))
    rows = min(block_height * max(1, rows // block_height), max(1, _LARGEST // columns))
    strips: dict[tuple[int, int], list[Placed]] = {}
    sides: dict[tuple[int, int], tuple[int, int]] = {}
    for tile in tiles:
        window = tile.window
        stripe = window.col // columns
        strips.setdefault((stripe, window.row // rows), []).append(tile)
        for row in _rows_of(window, grid, rows):
            left, right = sides.get((stripe, row), (window.col, window.right))
            sides[stripe, row] = (min(left, window.col), max(right, window.right))
    units = {}
    for (stripe, row), (left, right) in sides.items():
        left -= left % block_width
        right = min(right + -right % block_width, grid.width)
        top = row * rows
        units[stripe, row] = Window(left, top, right - left, min(rows, grid.height - top))
    needs = {
        (stripe, row): sorted(
            {unit for tile in strip for unit in _rows_of(tile.window, grid, rows)}
        )
        for (stripe, row), strip in strips.items()
    }
    takers = Counter((stripe, unit) for (stripe, _), rows in needs.items() for unit in rows)
    return [
        Strip(
            tuple(sorted(strips[stripe, row], key=lambda t: (t.window.row, t.window.col))),
            tuple(units[stripe, unit] for unit in needs[stripe, row]),
            tuple(takers[stripe, unit] for unit in needs[stripe, row]),
        )
        for stripe, row in sorted(strips)
    ]


def _rows_of(window: Window, grid: PixelGrid, rows: int) -> range:
    """Rows of units that a tile lies in; it may reach beyond the sheet's edge."""
    return range(window.row // rows, (min(window.bottom, grid.height) - 1) // rows + 1)


class _Pixels(NamedTuple):
    """What a unit holds; ``valid`` is None where all pixels are."""

    image: NDArray[np.uint8]
    valid: NDArray[np.bool_] | None
    label: BlockPixels
    polygons: BlockPixels


class TileCutter:
    """Cuts strips out of orthophoto and labels, in any thread of any process.

    It is sent to other processes as names and numbers; each opens the files for itself.

    Args:
        orthophoto: The sheet.
        bands: Its bands.
        label: Class ids on its grid.
        polygons: Rows of the polygons, from 1, on its grid.
        shares: Class shares by polygon row, float32, shape ``(polygons + 1, classes)``; row 0 is
            no polygon.
        codec: How images are packed.
        kept: Units that are kept for other strips at most.
    """

    def __init__(
        self,
        orthophoto: Path,
        bands: Sequence[int],
        label: Path,
        polygons: Path,
        shares: NDArray[np.float32],
        codec: str,
        kept: int = 4,
    ) -> None:
        # Workers of a cluster have other working directories.
        self._names = (orthophoto.resolve(), label.resolve(), polygons.resolve())
        self._bands = tuple(bands)
        self._shares = shares
        self._codec = codec
        self._kept = kept
        self._start()

    def __call__(self, strip: Strip) -> CutStrip:
        """Read, cut and pack the tiles of a strip.

        Raises:
            InputError: If a raster cannot be read.
        """
        # In this thread of this process, which may be on another node.
        with geotiff.session():
            parts = [
                (unit, self._take(unit, takers))
                for unit, takers in zip(strip.units, strip.takers, strict=True)
            ]
        whole, pixels = _joined(parts)
        classes = self._shares.shape[1]
        counts: dict[str, list[SplitCounts]] = {}
        packed = []
        for position, split, window in strip.tiles:
            image, valid, label, polygons = _cut(pixels, whole, window)
            known = np.unique(polygons.values)
            known = known[known > 0]
            annotation = Annotation(label, polygons, known, self._shares[known])
            packed.append((position, records.encode(image, annotation, self._codec)))
            counts.setdefault(split, []).append(SplitCounts.of(image, label, valid, classes))
        return CutStrip(packed, {split: SplitCounts.total(some) for split, some in counts.items()})

    def close(self) -> None:
        """Close the files of this process."""
        for reader in self._readers or ():
            reader.close()
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        names = ("_names", "_bands", "_shares", "_codec", "_kept")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._readers: tuple[geotiff.RasterReader, BlockReader, BlockReader] | None = None
        self._units: dict[Window, _Unit] = {}

    def _take(self, window: Window, takers: int) -> _Pixels:
        """A unit, read by whoever takes it first, and kept until all have taken it."""
        with self._lock:
            unit = self._units.setdefault(window, _Unit(takers))
            unit.takers -= 1
            if not unit.takers:
                del self._units[window]
            # Other processes may have taken the rest: nobody will ask for the oldest here.
            while len(self._units) > self._kept:
                del self._units[next(iter(self._units))]
        with unit.lock:
            if unit.pixels is None:
                unit.pixels = self._read(window)
            return unit.pixels

    def _read(self, window: Window) -> _Pixels:
        with self._lock:
            if self._readers is None:
                orthophoto, label, polygons = self._names
                self._readers = (
                    geotiff.RasterReader(orthophoto, self._bands),
                    BlockReader(label),
                    BlockReader(polygons),
                )
        source, classes, index = self._readers
        image: NDArray[np.uint8] = source.read(window)
        valid = source.valid(window) if source.masked else None
        if valid is not None and valid.all():
            valid = None
        if valid is not None:
            # One value for what is not there: a sheet's own nodata would be a texture to learn.
            image = np.where(valid, image, np.uint8(0))
        return _Pixels(image, valid, classes.decode(window), index.decode(window))


class _Unit:
    """Pixels of a unit, read under its lock, and how many strips will still take them."""

    def __init__(self, takers: int) -> None:
        self.takers = takers
        self.lock = threading.Lock()
        self.pixels: _Pixels | None = None


def _joined(parts: Sequence[tuple[Window, _Pixels]]) -> tuple[Window, _Pixels]:
    """Units below each other as one; the corners that none of them has are never looked at."""
    if len(parts) == 1:
        return parts[0]
    windows = [window for window, _ in parts]
    left, top = min(w.col for w in windows), windows[0].row
    whole = Window(left, top, max(w.right for w in windows) - left, windows[-1].bottom - top)
    shape = (whole.height, whole.width)
    image = np.zeros((len(parts[0][1].image), *shape), np.uint8)
    valid = np.ones(shape, np.bool_)
    label, polygons = parts[0][1].label, parts[0][1].polygons
    for window, pixels in parts:
        rows, cols = window.slices(whole)
        image[:, rows, cols] = pixels.image
        if pixels.valid is not None:
            valid[rows, cols] = pixels.valid
        label, polygons = label | pixels.label, polygons | pixels.polygons
    there = all(pixels.valid is None for _, pixels in parts)
    joined = _Pixels(image, None if there else valid, label, polygons)
    return whole, joined


def _cut(
    pixels: _Pixels, whole: Window, window: Window
) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None, Runs, Runs]:
    """Image, valid pixels, label and polygons of a tile.

    Beyond the sheet's edge it is 0, not valid, and ignored.
    """
    inside = window.intersection(whole)
    assert inside is not None
    rows, cols = inside.slices(whole)
    image = pixels.image[:, rows, cols]
    label, polygons = pixels.label.cut(inside), pixels.polygons.cut(inside)
    valid = None if pixels.valid is None else pixels.valid[rows, cols]
    if inside != window:
        beyond = [(0, window.height - inside.height), (0, window.width - inside.width)]
        valid = np.pad(np.ones(label.shape, np.bool_) if valid is None else valid, beyond)
        image = np.pad(image, [(0, 0), *beyond])
        label = np.pad(label, beyond, constant_values=IGNORE)
        polygons = np.pad(polygons, beyond)
    return image, valid, Runs.of(label), Runs.of(polygons)
