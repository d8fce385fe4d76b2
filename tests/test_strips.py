"""Strips: each block of a sheet is read once, and every tile has its own pixels."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

from pipeline import strips
from pipeline.block_raster import BlockRaster
from pipeline.block_reader import BlockReader
from pipeline.errors import InputError
from pipeline.geotiff import RasterReader
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE
from pipeline.parallel import engine, in_order
from pipeline.records import decode
from pipeline.shards import SplitCounts
from pipeline.strips import Placed, Strip, TileCutter, plan_strips

CLASSES = 3


@dataclass(frozen=True)
class Ground:
    """A sheet of noise on disk whose every pixel is known."""

    grid: PixelGrid
    image: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    label: NDArray[np.uint8]
    polygons: NDArray[np.uint32]
    shares: NDArray[np.float32]
    folder: Path

    def cutter(self, kept: int = 100) -> TileCutter:
        paths = (self.folder / f"{name}.tif" for name in ("ortho", "label", "polygons"))
        orthophoto, label, polygons = paths
        return TileCutter(orthophoto, (1, 2, 3), label, polygons, self.shares, "raw", kept)


def write_ground(folder: Path, width: int, height: int, block: int, nodata: int = 0) -> Ground:
    folder.mkdir()
    rng = np.random.default_rng(0)
    shape = (height, width)
    image = rng.integers(1, 255, (3, *shape), dtype=np.uint8)
    valid = np.kron(rng.random((-(-height // 40), -(-width // 40))) < 0.8, np.ones((40, 40), bool))
    valid = valid[:height, :width].astype(bool)
    image[:, ~valid] = nodata
    label = rng.integers(0, CLASSES, shape, dtype=np.uint8)
    label[rng.random(shape) < 0.3] = IGNORE
    polygons = np.kron(rng.integers(0, 40, (-(-height // 9), -(-width // 7))), np.ones((9, 7), int))
    index = polygons[:height, :width].astype(np.uint32)
    shares = np.concatenate([np.zeros((1, CLASSES)), rng.random((39, CLASSES))]).astype(np.float32)
    grid = PixelGrid("EPSG:25830", 700_000.0, 4_400_000.0, 0.5, 0.5, width, height)
    with rasterio.open(
        folder / "ortho.tif", "w", driver="GTiff", width=width, height=height, count=3,
        dtype="uint8", crs=grid.crs, transform=from_origin(grid.left, grid.top, 0.5, 0.5),
        tiled=True, blockxsize=block, blockysize=block, compress="deflate", nodata=nodata,
    ) as target:  # fmt: skip
        target.write(image)
    # One value for what is not there: a sheet's own would be a texture to learn.
    image[:, ~valid] = 0
    rasters = (("label", label, "uint8", IGNORE), ("polygons", index, "uint32", 0))
    for name, pixels, dtype, nodata in rasters:
        with BlockRaster(folder / f"{name}.tif", grid, dtype, nodata) as raster:
            for window in grid.blocks(512):
                raster.put(raster.encode(window, pixels[window.slices()]))
    return Ground(grid, image, valid, label, index, shares, folder)


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return write_ground(tmp_path / "ground", 300, 200, 64)


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripes of two blocks and units of one, so that a small sheet has many."""
    monkeypatch.setattr(strips, "_COLUMNS", 128)
    monkeypatch.setattr(strips, "_ROWS", 64)


def lattice(grid: PixelGrid, side: int, stride: int) -> list[Placed]:
    """Tiles on a lattice, those of the right half in another split."""
    windows = [
        Window(col, row, side, side)
        for row in range(0, grid.height - side + 1, stride)
        for col in range(0, grid.width - side + 1, stride)
    ]
    half = grid.width / 2
    windows.sort(key=lambda w: (w.col >= half, w.row, w.col))
    return [
        Placed(i, "test" if window.col >= half else "train", window)
        for i, window in enumerate(windows)
    ]


def blocks_of(windows: Iterator[Window], block: int) -> Counter[tuple[int, int]]:
    return Counter(
        (row, col)
        for w in windows
        for row in range(w.row // block, (w.bottom - 1) // block + 1)
        for col in range(w.col // block, (w.right - 1) // block + 1)
    )


def units_read(planned: list[Strip]) -> set[Window]:
    return {unit for strip in planned for unit in strip.units}


@pytest.mark.parametrize(("side", "stride"), [(64, 64), (32, 32), (48, 20), (100, 30), (64, 60)])
@pytest.mark.usefixtures("small_units")
def test_each_block_is_read_once(ground: Ground, side: int, stride: int) -> None:
    tiles = lattice(ground.grid, side, stride)
    planned = plan_strips(tiles, ground.grid, 64, 64)
    assert sorted(t for strip in planned for t in strip.tiles) == tiles
    units = units_read(planned)
    counts = blocks_of(iter(units), 64)
    # Tiles that lie across the seam of two stripes take the next stripe's first blocks as well.
    seams = {col for _, col in counts if col and col * 64 % 128 == 0}
    seams |= {col + 1 for col in seams if side > 64}
    twice = {place for place, n in counts.items() if n > 1}
    assert {col for _, col in twice} <= seams
    if side % 64 == 0 and stride == side:
        assert not twice
    for unit in units:
        assert unit.col % 64 == unit.row % 64 == 0
        assert unit.right % 64 == 0 or unit.right == ground.grid.width
        assert unit.bottom % 64 == 0 or unit.bottom == ground.grid.height
    for strip in planned:
        for tile in strip.tiles:
            assert strip.units[0].row <= tile.window.row
            assert strip.units[-1].bottom >= tile.window.bottom
            for unit in strip.units:
                if unit.row < tile.window.bottom and tile.window.row < unit.bottom:
                    assert unit.col <= tile.window.col
                    assert tile.window.right <= unit.right


@pytest.mark.usefixtures("small_units")
def test_the_files_are_read_as_planned(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only in the plan: threads that run side by side wait for who reads a unit already."""
    read: list[Window] = []
    original = RasterReader.read

    def reading(self: RasterReader, window: Window) -> NDArray[Any]:
        read.append(window)
        return original(self, window)

    monkeypatch.setattr(RasterReader, "read", reading)
    planned = plan_strips(lattice(ground.grid, 48, 20), ground.grid, 64, 64)
    for threads in (1, 4):
        read.clear()
        with ground.cutter() as cutter, engine("threads", 1, threads) as pool:
            for _ in in_order(cutter, planned, pool, 3 * threads):
                pass
            assert cutter._units == {}
        assert sorted(read) == sorted(units_read(planned))


@pytest.mark.parametrize(("side", "stride", "nodata"), [(64, 64, 0), (48, 20, 255), (100, 30, 0)])
@pytest.mark.usefixtures("small_units")
def test_tiles_have_their_pixels(tmp_path: Path, side: int, stride: int, nodata: int) -> None:
    ground = write_ground(tmp_path / "ground", 300, 200, 64, nodata)
    tiles = lattice(ground.grid, side, stride)
    expected = {name: SplitCounts.nothing(3, CLASSES) for name in ("train", "test")}
    seen: dict[int, bytearray] = {}
    counts = dict(expected)
    with ground.cutter() as cutter:
        for strip in plan_strips(tiles, ground.grid, 64, 64):
            cut = cutter(strip)
            seen.update(cut.records)
            for name, counted in cut.counts.items():
                counts[name] += counted
    assert sorted(seen) == list(range(len(tiles)))
    for position, split, window in tiles:
        tile, place = decode(seen[position]), window.slices()
        np.testing.assert_array_equal(tile.image, ground.image[(slice(None), *place)])
        np.testing.assert_array_equal(tile.label, ground.label[place])
        np.testing.assert_array_equal(tile.polygons, ground.polygons[place])
        rows = sorted(set(ground.polygons[place].ravel().tolist()) - {0})
        assert tile.proportion_rows.tolist() == rows
        np.testing.assert_array_equal(tile.proportions, ground.shares[rows])
        valid = ground.valid[place]
        values = ground.image[(slice(None), *place)][:, valid].astype(np.int64)
        labels = np.bincount(ground.label[place].ravel(), minlength=256)[:CLASSES]
        expected[split] += SplitCounts(
            1, int(valid.sum()), tuple(values.sum(1).tolist()),
            tuple((values**2).sum(1).tolist()), tuple(labels.tolist()),
            tuple(np.where(labels, labels.sum(), 0).tolist()),
        )  # fmt: skip
    assert counts == expected


def test_beyond_the_edge_a_tile_is_empty_and_ignored(tmp_path: Path) -> None:
    ground = write_ground(tmp_path / "ground", 20, 12, 16)
    (strip,) = plan_strips([Placed(0, "train", Window(0, 0, 32, 32))], ground.grid, 16, 16)
    with ground.cutter() as cutter:
        cut = cutter(strip)
    tile = decode(cut.records[0][1])
    np.testing.assert_array_equal(tile.image[:, :12, :20], ground.image)
    np.testing.assert_array_equal(tile.label[:12, :20], ground.label)
    beyond = np.ones((32, 32), bool)
    beyond[:12, :20] = False
    assert (tile.image[:, beyond] == 0).all()
    assert (tile.label[beyond] == IGNORE).all()
    assert (tile.polygons[beyond] == 0).all()
    assert cut.counts["train"].pixels == ground.valid.sum()


def test_blocks_as_wide_as_the_sheet_are_read_whole_and_in_few_rows() -> None:
    """A TIFF in strips: to read half a row is to decode all of it."""
    grid = PixelGrid("EPSG:25830", 0.0, 0.0, 0.5, 0.5, 54_000, 2_000)
    tiles = [
        Placed(i, "train", Window(col, row, 256, 256))
        for i, (row, col) in enumerate((r, c) for r in range(0, 1793, 256) for c in (0, 53_000))
    ]
    planned = plan_strips(tiles, grid, 1, 54_000)
    units = units_read(planned)
    assert {(unit.col, unit.width) for unit in units} == {(0, 54_000)}
    assert max(unit.height for unit in units) == 256
    rows = blocks_of(iter(units), 256)
    assert max(rows.values()) == 1


def test_one_block_of_a_whole_sheet_is_read_in_parts() -> None:
    grid = PixelGrid("EPSG:25830", 0.0, 0.0, 0.5, 0.5, 30_000, 30_000)
    tiles = [Placed(0, "train", Window(0, 0, 256, 256))]
    ((unit,),) = (strip.units for strip in plan_strips(tiles, grid, 30_000, 30_000))
    assert unit.height == 2**25 // 30_000


@pytest.mark.usefixtures("small_units")
def test_a_cutter_goes_to_another_process_as_names(ground: Ground) -> None:
    planned = plan_strips(lattice(ground.grid, 48, 20), ground.grid, 64, 64)
    with ground.cutter() as cutter:
        here = [cutter(strip) for strip in planned]
        # Open files and what was read do not go along.
        sent = pickle.dumps(cutter)
    assert len(sent) < 2000
    with pickle.loads(sent) as other:
        assert [other(strip) for strip in planned] == here
        assert [other(strip) for strip in reversed(planned)] == here[::-1]


@pytest.mark.usefixtures("small_units")
def test_units_that_nobody_takes_do_not_pile_up(ground: Ground) -> None:
    """Of two processes each sees half of the strips, and waits for takers that never come."""
    planned = plan_strips(lattice(ground.grid, 48, 20), ground.grid, 64, 64)
    with ground.cutter(kept=2) as cutter:
        for strip in planned[::2]:
            cutter(strip)
            assert len(cutter._units) <= 2


def test_block_reader_reads_any_window(ground: Ground) -> None:
    rng = np.random.default_rng(1)
    with BlockReader(ground.folder / "polygons.tif") as reader:
        for _ in range(20):
            col, row = int(rng.integers(0, 299)), int(rng.integers(0, 199))
            window = Window(
                col, row, int(rng.integers(1, 301 - col)), int(rng.integers(1, 201 - row))
            )
            np.testing.assert_array_equal(reader.read(window), ground.polygons[window.slices()])
        with pytest.raises(ValueError, match="not inside"):
            reader.read(Window(290, 0, 20, 10))


def test_block_reader_names_what_it_cannot_read(ground: Ground, tmp_path: Path) -> None:
    for name, told in (("ortho", "does not consist of blocks"), ("none", "cannot be read")):
        with pytest.raises(InputError, match=told):
            BlockReader(ground.folder / f"{name}.tif")
    (tmp_path / "text.tif").write_text("no TIFF", "utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        BlockReader(tmp_path / "text.tif")
    path = ground.folder / "label.tif"
    content = bytearray(path.read_bytes())
    content[-2000:] = bytes(2000)
    path.write_bytes(bytes(content))
    with (
        BlockReader(path) as reader,
        pytest.raises(InputError, match="the block at column 0, row 0"),
    ):
        reader.read(Window(0, 0, 10, 10))
