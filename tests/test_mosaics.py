"""Mosaics: which pixel of which sheet, names and colours, paths that can be moved."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from pipeline import geotiff
from pipeline.grid import PixelGrid
from pipeline.mosaics import (
    Part,
    class_mosaic,
    kinds_of_grids,
    measure_mosaic,
    mosaic_grid,
    orthophoto_mosaic,
)
from pipeline.paths import link

NAMES = ('olives <"secano"> & vines', "water")
COLORS = ("#A0C800", "#0000FF")
_ = 255


def grid_of(left: float, top: float, width: int, height: int, **other: Any) -> PixelGrid:
    return replace(
        PixelGrid("EPSG:25830", left, top, 0.5, 0.5, width, height), **other
    )  # fmt: skip


def written(
    path: Path, grid: PixelGrid, pixels: NDArray[np.uint8], nodata: int | None = 255
) -> Path:
    """A raster of one or several bands."""
    bands = pixels[np.newaxis] if pixels.ndim == 2 else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=len(bands), nodata=nodata,
        width=grid.width, height=grid.height, crs=grid.crs,
        transform=from_origin(grid.left, grid.top, grid.pixel_width, grid.pixel_height),
    ) as raster:  # fmt: skip
        raster.write(bands)
    return path


def read(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as raster:
        return np.asarray(raster.read())


def test_the_upper_sheet_hides_the_lower_one_but_not_where_it_has_no_data(tmp_path: Path) -> None:
    older = grid_of(700_000.0, 4_400_000.0, 3, 2)
    newer = grid_of(700_000.5, 4_399_999.5, 4, 2)  # one pixel to the right, one down
    one = written(tmp_path / "maps/a.tif", older, np.array([[0, 0, 0], [0, 1, _]], np.uint8))
    two = written(tmp_path / "maps/b.tif", newer, np.array([[1, _, 1, 1], [_, _, 0, 0]], np.uint8))
    parts = [Part(link(path, tmp_path / "mosaics"), grid) for path, grid in
             ((one, older), (two, newer))]  # fmt: skip
    mosaic = tmp_path / "mosaics/all.vrt"
    mosaic.parent.mkdir()
    mosaic.write_text(class_mosaic(parts, NAMES, COLORS), "utf-8")
    assert read(mosaic)[0].tolist() == [[0, 0, 0, _, _], [0, 1, _, 1, 1], [_, _, _, 0, 0]]
    written(two, newer, np.ones((2, 4), np.uint8))
    assert read(mosaic)[0].tolist() == [[0, 0, 0, _, _], [0, 1, 1, 1, 1], [_, 1, 1, 1, 1]]
    written(one, older, np.zeros((2, 3), np.uint8))
    mosaic.write_text(class_mosaic(parts[::-1], NAMES, COLORS), "utf-8")  # the older one on top
    assert read(mosaic)[0].tolist() == [[0, 0, 0, _, _], [0, 0, 0, 1, 1], [_, 1, 1, 1, 1]]


def test_classes_keep_names_colours_nodata_and_place(tmp_path: Path) -> None:
    grid = grid_of(700_000.0, 4_400_000.0, 2, 2)
    path = written(tmp_path / "a.tif", grid, np.zeros((2, 2), np.uint8))
    mosaic = tmp_path / "all.vrt"
    part = Part(link(path, tmp_path), grid)
    mosaic.write_text(class_mosaic([part], NAMES, COLORS, {"TESELA_X": "a & b"}), "utf-8")
    with geotiff.RasterReader(mosaic) as reader:
        assert reader.grid.same_pixels(grid)
        assert reader.tags["TESELA_X"] == "a & b"
    with rasterio.open(mosaic) as raster:
        assert raster.nodata == 255
        assert raster.colormap(1) == {0: (160, 200, 0, 255), 1: (0, 0, 255, 255)}
    band = ET.parse(mosaic).find("VRTRasterBand")
    assert band is not None
    assert [name.text for name in band.iterfind("CategoryNames/Category")] == list(NAMES)
    gdalinfo = shutil.which("gdalinfo")
    if gdalinfo is None:
        pytest.skip("no gdalinfo here: names were looked for in the text alone")
    told = subprocess.run([gdalinfo, "-json", str(mosaic)], capture_output=True, check=True)
    assert json.loads(told.stdout)["bands"][0]["categories"] == list(NAMES)


def test_a_small_view_comes_from_the_overviews_of_the_sheets(tmp_path: Path) -> None:
    grid = grid_of(700_000.0, 4_400_000.0, 1024, 1024)
    # Three of four pixels are of class 1; whatever pixel of four is picked, half of these are not.
    pixels = np.ones((1024, 1024), np.uint8)
    pixels[:512:2, ::2] = pixels[513::2, 1::2] = 0
    plain = written(tmp_path / "plain.tif", grid, pixels)
    geotiff.write_cog(plain, tmp_path / "a.tif", "mode")
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert raster.overviews(1) == [2]
    mosaic = tmp_path / "all.vrt"
    mosaic.write_text(class_mosaic([Part("a.tif", grid)], NAMES, COLORS), "utf-8")
    with rasterio.open(mosaic) as raster:
        assert (raster.read(1, out_shape=(512, 512)) == 1).all()


def test_bands_of_probabilities_keep_their_order_and_names(tmp_path: Path) -> None:
    grids = [grid_of(700_000.0 + 1.0 * n, 4_400_000.0, 2, 1) for n in range(2)]
    parts = []
    for number, grid in enumerate(grids):
        pixels = np.array([[[10, 20]], [[90, 80]]], np.uint8) + np.uint8(number)
        path = written(tmp_path / f"{number}.tif", grid, pixels)
        parts.append(Part(link(path, tmp_path), grid, (1, 2)))
    mosaic = tmp_path / "all.vrt"
    mosaic.write_text(measure_mosaic(parts, NAMES), "utf-8")
    assert read(mosaic).tolist() == [[[10, 20, 11, 21]], [[90, 80, 91, 81]]]
    with rasterio.open(mosaic) as raster:
        assert raster.descriptions == NAMES
        assert raster.nodatavals == (255, 255)


def test_orthophotos_are_transparent_where_none_has_data(tmp_path: Path) -> None:
    plain, masked, alpha = (grid_of(700_000.0 + 1.0 * n, 4_400_000.0, 2, 2) for n in range(3))
    full = np.full((3, 2, 2), 7, np.uint8)
    one = written(tmp_path / "plain.tif", plain, full, None)
    holed = full + np.uint8(1)
    holed[:, 0, 0] = 0  # no data
    holed[0, 1, 1] = 0  # black in one band alone: a dark pixel with data
    two = written(tmp_path / "masked.tif", masked, holed, 0)
    four = np.concatenate([full + np.uint8(2), np.array([[[255, 0], [255, 255]]], np.uint8)])
    three = written(tmp_path / "alpha.tif", alpha, four, None)
    with rasterio.open(three, "r+") as raster:
        raster.colorinterp = (
            ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha
        )  # fmt: skip
    parts = []
    for path, grid in ((one, plain), (two, masked), (three, alpha)):
        photo = geotiff.read_orthophoto(path)
        assert photo.bands == (1, 2, 3)
        parts.append(Part(link(path, tmp_path), grid, photo.bands, (512, 512), photo.masked))
    mosaic = tmp_path / "all.vrt"
    mosaic.write_text(orthophoto_mosaic(parts), "utf-8")
    found = read(mosaic)
    assert found[1].tolist() == [[7, 7, 0, 8, 9, 0], [7, 7, 8, 8, 9, 9]]
    assert found[0].tolist() == [[7, 7, 0, 8, 9, 0], [7, 7, 8, 0, 9, 9]]
    assert found[3].tolist() == [[255, 255, 0, 255, 255, 0], [255] * 6]
    again = geotiff.read_orthophoto(mosaic)  # the mosaic is an orthophoto that can be mapped
    assert (again.bands, again.masked) == ((1, 2, 3), True)


def test_a_hole_of_the_upper_orthophoto_shows_the_lower_one(tmp_path: Path) -> None:
    grid = grid_of(700_000.0, 4_400_000.0, 2, 1)
    below = written(tmp_path / "below.tif", grid, np.full((3, 1, 2), 5, np.uint8), None)
    above = written(tmp_path / "above.tif", grid, np.array([[[0, 9]]] * 3, np.uint8), 0)
    parts = [
        Part(link(below, tmp_path), grid, (1, 2, 3), masked=False),
        Part(link(above, tmp_path), grid, (1, 2, 3), masked=True),
    ]
    mosaic = tmp_path / "all.vrt"
    mosaic.write_text(orthophoto_mosaic(parts), "utf-8")
    assert read(mosaic)[:, 0].tolist() == [[5, 9], [5, 9], [5, 9], [255, 255]]


def test_sheets_a_part_of_a_pixel_beside_each_other_share_a_mosaic(tmp_path: Path) -> None:
    first = grid_of(700_000.0, 4_400_000.0, 4, 2)
    second = grid_of(700_002.1, 4_400_000.0, 4, 2)  # 4.2 pixels to the right
    assert mosaic_grid([first, second]) == replace(first, width=9)
    assert mosaic_grid([second, first]) == replace(second, left=700_002.1 - 5 * 0.5, width=9)
    parts = []
    for number, grid in enumerate((first, second)):
        pixels = np.full((2, 4), number, np.uint8)
        path = written(tmp_path / f"{number}.tif", grid, pixels)
        parts.append(Part(link(path, tmp_path), grid))
    mosaic = tmp_path / "all.vrt"
    mosaic.write_text(class_mosaic(parts, NAMES, COLORS), "utf-8")
    row = read(mosaic)[0, 0].tolist()
    assert row[:4] == [0, 0, 0, 0]
    assert row[5:8] == [1, 1, 1]  # at most half a pixel from where they are


def test_rounding_of_coordinates_is_no_part_of_a_pixel() -> None:
    first = grid_of(0.1 + 0.2, 4_400_000.0, 4, 2, pixel_width=0.1)
    second = grid_of(0.1 * 7, 4_400_000.0, 4, 2, pixel_width=0.1)
    assert mosaic_grid([first, second]) == replace(first, width=8)


@pytest.mark.parametrize(
    ("grids", "kinds"),
    [
        ({"a": ("EPSG:25830", 0.5), "b": ("EPSG:25830", 0.5000000001)}, {"a": "", "b": ""}),
        (
            {"a": ("EPSG:25829", 0.5), "b": ("EPSG:25830", 0.5)},
            {"a": "epsg25829", "b": "epsg25830"},
        ),
        ({"a": ("EPSG:25830", 0.5), "b": ("EPSG:25830", 0.25)}, {"a": "0.5", "b": "0.25"}),
        (
            {"a": ("EPSG:25829", 0.5), "b": ("EPSG:25830", 0.25)},
            {"a": "epsg25829.0.5", "b": "epsg25830.0.25"},
        ),
    ],
)
def test_kinds_say_what_sheets_differ_in(
    grids: dict[str, tuple[str, float]], kinds: dict[str, str]
) -> None:
    made = {
        name: grid_of(0.0, 0.0, 2, 2, crs=crs, pixel_width=size, pixel_height=size)
        for name, (crs, size) in grids.items()
    }
    assert kinds_of_grids(made) == kinds


def test_a_system_without_a_code_has_a_name_of_letters_and_digits() -> None:
    local = 'PROJCS["Madrid / town & country",...]'
    grids = {"a": grid_of(0.0, 0.0, 2, 2, crs=local), "b": grid_of(0.0, 0.0, 2, 2)}
    kinds = kinds_of_grids(grids)
    assert kinds["a"].startswith("crs")
    assert kinds["a"].isalnum()
    assert kinds_of_grids({"a": grid_of(0.0, 0.0, 2, 2, crs=local), "b": grids["b"]}) == kinds


def test_a_moved_folder_still_opens(tmp_path: Path) -> None:
    before, after = tmp_path / "a run", tmp_path / "moved & renamed"
    grid = grid_of(700_000.0, 4_400_000.0, 2, 1)
    path = written(before / "maps" / "0722-1.tif", grid, np.array([[0, 1]], np.uint8))
    mosaic = before / "mosaics" / "all.vrt"
    mosaic.parent.mkdir()
    mosaic.write_text(class_mosaic([Part(link(path, mosaic.parent), grid)], NAMES, COLORS), "utf-8")
    before.rename(after)
    assert read(after / "mosaics" / "all.vrt").tolist() == [[[0, 1]]]


def test_links_are_relative_where_both_ends_can_be_moved_together(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "valencia"
    assert link(run / "maps" / "a.tif", run / "report") == "../maps/a.tif"
    assert link(tmp_path / "pnoa" / "a.tif", run / "report") == "../../../pnoa/a.tif"
    assert link(Path("/elsewhere/a.tif"), run / "report") == "/elsewhere/a.tif"
    # A folder that is a link: `..` starts at what it points to. A file that is one is named itself.
    run.mkdir(parents=True)
    (tmp_path / "short").symlink_to(run)
    assert link(tmp_path / "pnoa" / "a.tif", tmp_path / "short" / "report") == (
        "../../../pnoa/a.tif"
    )
    (run / "a.tif").symlink_to("/elsewhere/a.tif")
    assert link(run / "a.tif", run / "report") == "../a.tif"
