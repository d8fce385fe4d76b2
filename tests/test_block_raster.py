"""Rasters written block by block hold what was given, for GDAL and for QGIS."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from pipeline import geotiff
from pipeline.block_raster import BlockRaster, EncodedWindow
from pipeline.errors import OutputError
from pipeline.grid import PixelGrid, Window
from pipeline.parallel import ordered


def grid(width: int, height: int) -> PixelGrid:
    return PixelGrid("EPSG:25830", 700_000.0, 4_400_000.0, 0.5, 0.5, width, height)


def _encoded(raster: BlockRaster, pixels: NDArray[Any], window: Window) -> EncodedWindow:
    return raster.encode(window, pixels[window.slices()])


@pytest.mark.parametrize("size", [(1, 1), (100, 60), (512, 512), (513, 511), (5000, 4100)])
@pytest.mark.parametrize("dtype", ["uint8", "uint32"])
def test_what_was_given_comes_back(tmp_path: Path, size: tuple[int, int], dtype: str) -> None:
    whole = grid(*size)
    pixels = np.random.default_rng(0).integers(0, 200, size[::-1]).astype(dtype)
    path = tmp_path / "r.tif"
    colors = ("#FF0000", "#00FF00") if dtype == "uint8" else ()
    with BlockRaster(path, whole, dtype, 255, colors, {"MADE_WITH": "x"}) as raster:
        for _, encoded in ordered(partial(_encoded, raster, pixels), whole.blocks(1024), 3):
            raster.put(encoded)
    with rasterio.open(path) as back:
        np.testing.assert_array_equal(back.read(1), pixels)
        assert (back.nodata, back.dtypes[0], back.profile["compress"]) == (255, dtype, "zstd")
        assert back.tags()["MADE_WITH"] == "x"
        assert back.block_shapes == [(512, 512)]
        if colors:
            assert back.colormap(1)[1] == (0, 255, 0, 255)
    assert geotiff.read_grid(path) == whole


def test_the_same_bytes_whatever_the_threads(tmp_path: Path) -> None:
    whole = grid(3000, 2100)
    pixels = np.random.default_rng(0).integers(0, 3, (2100, 3000)).astype(np.uint8)
    files = []
    for threads in (1, 4):
        path = tmp_path / f"{threads}.tif"
        with BlockRaster(path, whole, "uint8", 255) as raster:
            for _, encoded in ordered(
                partial(_encoded, raster, pixels), whole.blocks(512), threads
            ):
                raster.put(encoded)
        files.append(path.read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("window", "dtype", "said"),
    [
        (Window(0, 0, 512, 512), "uint32", "of type|type uint32"),
        (Window(100, 0, 412, 512), "uint8", "not made of whole blocks"),
        (Window(0, 0, 300, 512), "uint8", "not made of whole blocks"),
        (Window(1024, 0, 512, 512), "uint8", "is not inside 1300 x 700"),
    ],
)
def test_windows_that_do_not_fit(tmp_path: Path, window: Window, dtype: str, said: str) -> None:
    raster = BlockRaster(tmp_path / "r.tif", grid(1300, 700), "uint8", 255)
    with pytest.raises(ValueError, match=said):
        raster.encode(window, np.zeros((window.height, window.width), dtype))


def test_a_block_that_was_forgotten(tmp_path: Path) -> None:
    raster = BlockRaster(tmp_path / "r.tif", grid(1300, 700), "uint8", 255)
    first = Window(0, 0, 512, 512)
    raster.put(raster.encode(first, np.zeros((512, 512), np.uint8)))
    with pytest.raises(ValueError, match="5 of 6 blocks were not written"):
        raster.close()


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        BlockRaster(tmp_path / "none" / "r.tif", grid(10, 10), "uint8", 255)
