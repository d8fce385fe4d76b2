"""Rasters in and out: what is refused and why, and the pixels of all that is accepted."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.shutil import copy as copy_raster
from rasterio.transform import Affine

from pipeline import geotiff
from pipeline.errors import InputError, OutputError
from pipeline.geotiff import RasterReader, RasterWriter
from pipeline.grid import PixelGrid, Window, split
from pipeline.nomenclature import IGNORE

UTM = "EPSG:25830"
NORTH_UP = Affine(0.25, 0.0, 700_000.0, 0.0, -0.25, 4_400_000.0)
SIZE = 300
WHOLE = Window(0, 0, SIZE, SIZE)
TILED: dict[str, Any] = {"tiled": True, "blockxsize": 128, "blockysize": 128}
COLORS = ("#FF0000", "#00FF00", "#0000FF")
RGBA = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)


def imagery(bands: int = 3) -> NDArray[np.uint8]:
    # No zeros: they stand for nodata below.
    return np.random.default_rng(7).integers(1, 256, (bands, SIZE, SIZE), np.uint8)


def raster(
    path: Path,
    pixels: NDArray[Any] | None = None,
    meanings: tuple[ColorInterp, ...] = (),
    crs: str | None = UTM,
    transform: Affine | None = NORTH_UP,
    **profile: Any,
) -> Path:
    pixels = imagery() if pixels is None else pixels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", **{"driver": "GTiff", **profile}, count=pixels.shape[0],
            height=pixels.shape[1], width=pixels.shape[2], dtype=pixels.dtype,
            crs=CRS.from_user_input(crs) if crs else None, transform=transform,
        ) as target:  # fmt: skip
            target.write(pixels)
            if meanings:
                target.colorinterp = meanings
    return path


def mosaic(path: Path, parts: list[Path]) -> Path:
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}">'
        + "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{part.name}</SourceFilename>'
            f"<SourceBand>{band}</SourceBand>"
            f'<SrcRect xOff="0" yOff="0" xSize="{SIZE}" ySize="{SIZE}"/>'
            f'<DstRect xOff="{SIZE * i}" yOff="0" xSize="{SIZE}" ySize="{SIZE}"/></SimpleSource>'
            for i, part in enumerate(parts)
        )
        + "</VRTRasterBand>"
        for band in (1, 2, 3)
    )
    path.write_text(
        f'<VRTDataset rasterXSize="{SIZE * len(parts)}" rasterYSize="{SIZE}"><SRS>{UTM}</SRS>'
        f"<GeoTransform>700000, 0.25, 0, 4400000, 0, -0.25</GeoTransform>{bands}</VRTDataset>"
    )
    return path


def mistakes(path: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        geotiff.read_orthophoto(path)
    assert str(path) in caught.value.what
    return list(caught.value.items)


def cut(path: Path, share: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def damage(path: Path, block: str) -> Path:
    with rasterio.open(path) as source:
        offset = int(source.get_tag_item(f"BLOCK_OFFSET_{block}", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[offset : offset + 64] = b"\xff" * 64
    path.write_bytes(content)
    return path


# Orthophotos that can be used


@pytest.mark.parametrize(
    ("name", "driver", "profile"),
    [
        ("a.tif", "GTiff", {}),
        ("a.tif", "GTiff", {**TILED, "compress": "deflate"}),
        ("a.tif", "GTiff", {"interleave": "band", "bigtiff": "yes"}),
        ("a.tif", "COG", {"compress": "deflate"}),
        ("a.jp2", "JP2OpenJPEG", {"quality": 100, "reversible": "yes"}),
    ],
    ids=["strips", "tiles", "planes", "COG", "JPEG 2000"],
)
def test_formats_give_the_same_grid_and_pixels(
    tmp_path: Path, name: str, driver: str, profile: dict[str, Any]
) -> None:
    path = raster(tmp_path / name, driver=driver, **profile)
    orthophoto = geotiff.read_orthophoto(path)
    assert orthophoto.grid == PixelGrid(UTM, 700_000.0, 4_400_000.0, 0.25, 0.25, SIZE, SIZE)
    assert (orthophoto.bands, orthophoto.masked) == ((1, 2, 3), False)
    assert orthophoto.driver == ("JP2OpenJPEG" if driver == "JP2OpenJPEG" else "GTiff")
    with RasterReader(path, orthophoto.bands) as reader:
        np.testing.assert_array_equal(reader.read(WHOLE), imagery())
        window = Window(120, 250, 60, 50)
        np.testing.assert_array_equal(reader.read(window), imagery()[:, 250:, 120:180])
        assert reader.valid(window).all()


def test_a_mosaic_of_two_tiles_is_one_orthophoto(tmp_path: Path) -> None:
    left, right = raster(tmp_path / "l.tif"), raster(tmp_path / "r.tif", 255 - imagery() // 2)
    path = mosaic(tmp_path / "a.vrt", [left, right])
    assert geotiff.read_orthophoto(path).grid.width == 2 * SIZE
    with RasterReader(path) as reader:
        seam = reader.read(Window(SIZE - 1, 0, 2, SIZE))
    np.testing.assert_array_equal(seam[:, :, 0], imagery()[:, :, -1])
    np.testing.assert_array_equal(seam[:, :, 1], (255 - imagery() // 2)[:, :, 0])


def test_rounding_is_no_rotation(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", transform=Affine(0.25, 1e-15, 7e5, -1e-15, -0.25, 4.4e6))
    assert geotiff.read_orthophoto(path).grid.left == 7e5


# Orthophotos that cannot


def test_a_missing_file_and_a_file_that_is_no_raster_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.tif: there is no such file\.\nCheck the name"):
        geotiff.read_orthophoto(tmp_path / "no.tif")
    for name, content in (("text.tif", b"hello"), ("empty.tif", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="is not a raster that GDAL can read") as caught:
            geotiff.read_orthophoto(tmp_path / name)
        assert "not recognized as being in a supported file format" in caught.value.items[0]
        assert "gdalinfo" in caught.value.remedy


def test_a_folder_that_may_not_be_looked_into_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(InputError, match=r"a\.tif: cannot be read \(Permission denied\)"):
        geotiff.read_grid(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("profile", "blocks"),
    [
        ({}, r"\d+ of \d+"),
        (TILED, "5 of 9"),
        ({**TILED, "compress": "deflate"}, "[56] of 9"),
        ({**TILED, "interleave": "band"}, r"1[34] of 27"),
    ],
    ids=["strips", "tiles", "deflate", "planes"],
)
def test_a_truncated_tiff_is_told_by_its_blocks(
    tmp_path: Path, profile: dict[str, Any], blocks: str
) -> None:
    (mistake,) = mistakes(cut(raster(tmp_path / "a.tif", **profile)))
    assert re.fullmatch(f"is truncated: {blocks} blocks lie behind its end", mistake)


def test_a_few_bytes_less_are_a_truncated_block(tmp_path: Path) -> None:
    path = cut(raster(tmp_path / "a.tif", **TILED), 0.999)
    assert mistakes(path) == ["is truncated: 1 of 9 blocks lie behind its end"]


def test_a_truncated_cog_is_told(tmp_path: Path) -> None:
    path = cut(raster(tmp_path / "a.tif", driver="COG", compress="deflate"), 0.5)
    assert mistakes(path) == ["is truncated: 1 of 1 blocks lie behind its end"]


def test_a_truncated_jpeg2000_is_told_where_it_is_read(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.jp2", driver="JP2OpenJPEG", quality=100, reversible="yes")
    with RasterReader(cut(path)) as reader, pytest.raises(InputError, match="damaged or truncated"):
        reader.read(WHOLE)


@pytest.mark.parametrize(
    ("given", "mistake"),
    [
        ({"crs": None}, "has no coordinate reference system; gdal_edit.py -a_srs EPSG:25830 sets "
         "one"),
        ({"crs": 'LOCAL_CS["site",UNIT["metre",1]]'}, "its coordinate reference system is a local "
         "one, which says nothing of where it lies; gdal_edit.py -a_srs EPSG:25830 sets another"),
        ({"transform": None}, "has no georeference (no geotransform, no world file)"),
        ({"transform": NORTH_UP @ Affine.rotation(10)}, "its grid is rotated or sheared; gdalwarp "
         "makes it north up"),
        ({"transform": NORTH_UP @ Affine.shear(1, 0)}, "its grid is rotated or sheared; gdalwarp "
         "makes it north up"),
        ({"transform": Affine(0.25, 0, 7e5, 0, 0.25, 4.4e6)}, "its grid is not north up; gdalwarp "
         "makes it so"),
        ({"transform": Affine(-0.25, 0, 7e5, 0, -0.25, 4.4e6)}, "its grid is not north up; "
         "gdalwarp makes it so"),
        ({"pixels": imagery().astype(np.uint16)}, "its pixels are uint16, not 8-bit (uint8); "
         "gdal_translate -ot Byte -scale converts"),
        ({"pixels": imagery(1)}, "has 1 band of imagery; 3 or more are needed"),
        ({"pixels": imagery(2)}, "has 2 bands of imagery; 3 or more are needed"),
        ({"pixels": imagery(3), "meanings": (*RGBA[:2], RGBA[3])}, "has 2 bands of imagery; 3 or "
         "more are needed"),
        ({"pixels": imagery(1), "meanings": (ColorInterp.palette,)}, "has 1 band of imagery; 3 or "
         "more are needed; gdal_translate -expand rgb turns its colour table into bands"),
    ],
    ids=["CRS", "local CRS", "geotransform", "rotated", "sheared", "south up", "west", "16 bit",
         "1 band", "2 bands", "RG and alpha", "palette"],
)  # fmt: skip
def test_what_cannot_be_used_is_told(tmp_path: Path, given: dict[str, Any], mistake: str) -> None:
    assert mistakes(raster(tmp_path / "a.tif", **given)) == [mistake]


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = raster(
        tmp_path / "a.tif", imagery(1).astype(np.int16), crs=None, transform=None, **TILED
    )
    found = mistakes(cut(path))
    assert [mistake.split(";")[0] for mistake in found] == [
        "has no coordinate reference system",
        "has no georeference (no geotransform, no world file)",
        "has 1 band of imagery",
        "its pixels are int16, not 8-bit (uint8)",
        "is truncated: 5 of 9 blocks lie behind its end",
    ]


def test_all_missing_tiles_of_a_mosaic_are_told(tmp_path: Path) -> None:
    parts = [raster(tmp_path / "a.tif"), tmp_path / "b.tif", tmp_path / "c.tif"]
    assert mistakes(mosaic(tmp_path / "m.vrt", parts)) == [
        f"is a mosaic of {part}, which is not there" for part in parts[1:]
    ]


def test_the_grid_of_any_raster_is_read_or_told(tmp_path: Path) -> None:
    labels = raster(tmp_path / "labels.tif", imagery(1).astype(np.uint32))
    assert geotiff.read_grid(labels).bounds == (700_000.0, 4_399_925.0, 700_075.0, 4_400_000.0)
    rotated = raster(tmp_path / "r.tif", imagery(1), transform=NORTH_UP @ Affine.rotation(1))
    with pytest.raises(InputError, match=r"r\.tif: cannot be used\.\n  its grid is rotated"):
        geotiff.read_grid(rotated)


@pytest.mark.parametrize("crs", ["EPSG:25830", "EPSG:3042", "EPSG:25830+5782", "local transverse"])
def test_any_crs_survives_from_orthophoto_to_map(tmp_path: Path, crs: str) -> None:
    if crs == "local transverse":
        crs = CRS.from_proj4("+proj=tmerc +lon_0=-3.5 +k=0.9996 +x_0=500000 +ellps=GRS80").to_wkt()
    orthophoto = geotiff.read_orthophoto(raster(tmp_path / "a.tif", crs=crs))
    with RasterWriter(tmp_path / "l.tif", orthophoto.grid, "uint8", IGNORE):
        pass
    geotiff.write_cog(tmp_path / "l.tif", tmp_path / "m.tif", "mode")
    assert geotiff.read_grid(tmp_path / "l.tif").same_pixels(orthophoto.grid)
    assert geotiff.read_grid(tmp_path / "m.tif").same_pixels(orthophoto.grid)


# Pixels without data


def test_an_alpha_band_is_a_mask_and_not_imagery(tmp_path: Path) -> None:
    pixels = imagery(4)
    pixels[3] = 255
    pixels[3, 10:20, 30:50] = 0
    path = raster(tmp_path / "a.tif", pixels, RGBA)
    orthophoto = geotiff.read_orthophoto(path)
    assert (orthophoto.bands, orthophoto.masked) == ((1, 2, 3), True)
    with RasterReader(path, orthophoto.bands) as reader:
        assert reader.read(WHOLE).shape == (3, SIZE, SIZE)
        np.testing.assert_array_equal(reader.valid(WHOLE), pixels[3] == 255)
        assert reader.valid(Window(29, 9, 2, 2)).tolist() == [[True, True], [True, False]]


def test_the_fourth_band_of_imagery_is_imagery(tmp_path: Path) -> None:
    near_infrared = (*RGBA[:3], ColorInterp.undefined)
    path = raster(tmp_path / "a.tif", imagery(4), near_infrared, photometric="rgb", alpha="no")
    orthophoto = geotiff.read_orthophoto(path)
    assert (orthophoto.bands, orthophoto.masked) == ((1, 2, 3, 4), False)


def test_a_pixel_has_no_data_where_all_bands_hold_the_nodata_value(tmp_path: Path) -> None:
    pixels = imagery()
    pixels[:, 5, 6] = 0
    pixels[0, 7, 8] = 0  # a dark red alone is a colour
    path = raster(tmp_path / "a.tif", pixels, nodata=0)
    assert geotiff.read_orthophoto(path).masked
    with RasterReader(path) as reader:
        assert np.argwhere(~reader.valid(WHOLE)).tolist() == [[5, 6]]
        assert np.argwhere(~reader.valid(Window(4, 4, 10, 10))).tolist() == [[1, 2]]


def test_an_internal_mask_says_where_data_is(tmp_path: Path) -> None:
    path, mask = raster(tmp_path / "a.tif"), np.full((SIZE, SIZE), 255, np.uint8)
    mask[:40, :70] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
        target.write_mask(mask)
    assert not list(tmp_path.glob("*.msk"))
    orthophoto = geotiff.read_orthophoto(path)
    assert (orthophoto.bands, orthophoto.masked) == ((1, 2, 3), True)
    with RasterReader(path) as reader:
        np.testing.assert_array_equal(reader.valid(WHOLE), mask == 255)


# Sheets together


def orthophoto(bands: int = 3, width: float = 0.25, height: float = 0.25) -> geotiff.Orthophoto:
    grid = PixelGrid(UTM, 0.0, 0.0, width, height, 10, 10)
    return geotiff.Orthophoto(Path("a.tif"), grid, tuple(range(1, bands + 1)), False, "GTiff")


def test_sheets_that_differ_from_most_are_listed() -> None:
    sheets = {
        "0721": orthophoto(4), "0722": orthophoto(), "0723": orthophoto(), "0724": orthophoto(),
        "0725": orthophoto(3, 0.5, 0.5), "0726": orthophoto(3, 0.25 + 1e-9),
    }  # fmt: skip
    with pytest.raises(InputError) as caught:
        geotiff.check_alike(sheets)
    assert "most have 3 bands and pixels of 0.25 x 0.25" in caught.value.what
    assert list(caught.value.items) == [
        "sheet 0721: 4 bands, pixels of 0.25 x 0.25",
        "sheet 0725: 3 bands, pixels of 0.5 x 0.5",
    ]
    assert "gdalwarp -tr" in caught.value.remedy
    geotiff.check_alike({name: sheets[name] for name in ("0722", "0723", "0726")})
    geotiff.check_alike({})


def test_pixels_in_degrees_are_compared_to_as_many_digits() -> None:
    with pytest.raises(InputError, match=r"sheet c: 3 bands, pixels of 2\.6e-06 x 2\.5e-06"):
        geotiff.check_alike(
            {
                "a": orthophoto(3, 2.5e-6, 2.5e-6),
                "b": orthophoto(3, 2.5e-6, 2.5e-6),
                "c": orthophoto(3, 2.6e-6, 2.5e-6),
            }
        )


def test_bounds_in_another_crs_hold_the_whole_bent_sheet(grid: PixelGrid) -> None:
    wide = replace(grid, width=60_000, height=60_000)
    assert geotiff.bounds_in(wide, UTM) == wide.bounds
    left, bottom, right, top = geotiff.bounds_in(wide, "EPSG:4258")
    back = rasterio.warp.transform_bounds("EPSG:4258", UTM, left, bottom, right, top)
    assert back[0] <= wide.bounds[0]
    assert back[1] <= wide.bounds[1]
    assert back[2] >= wide.bounds[2]
    assert back[3] >= wide.bounds[3]
    assert (left, bottom) == pytest.approx((-0.67, 39.45), abs=0.01)


def test_a_sheet_that_is_nowhere_in_another_crs_is_told(grid: PixelGrid) -> None:
    lost = replace(grid, left=1e30)
    with pytest.raises(InputError, match=r"cannot be brought to EPSG:4258") as caught:
        geotiff.bounds_in(lost, "EPSG:4258")
    assert "Check the coordinate reference systems" in caught.value.remedy


# Reading


def test_threads_read_the_right_pixels_from_one_reader(tmp_path: Path) -> None:
    pixels = imagery()
    path = raster(tmp_path / "a.tif", pixels, **TILED, compress="deflate")
    windows = list(split(WHOLE, 37, 41)) * 8
    with RasterReader(path) as reader, ThreadPoolExecutor(4) as pool:
        for window, read in zip(windows, pool.map(reader.read, windows), strict=True):
            np.testing.assert_array_equal(read, pixels[(slice(None), *window.slices())])


@pytest.mark.parametrize(
    "window", [Window(-1, 0, 5, 5), Window(296, 0, 5, 5), Window(0, 300, 5, 5)]
)
def test_a_window_outside_of_the_sheet_is_a_defect_and_not_fewer_pixels(
    tmp_path: Path, window: Window
) -> None:
    with RasterReader(raster(tmp_path / "a.tif")) as reader:
        for read in (reader.read, reader.valid, reader.read_band):
            with pytest.raises(ValueError, match="is not inside the 300 x 300 pixels of"):
                read(window)


def test_a_damaged_block_is_told_by_column_row_and_coordinates(tmp_path: Path) -> None:
    pixels = imagery(4)
    path = raster(tmp_path / "a.tif", pixels, RGBA, **TILED, compress="deflate")
    damage(path, "1_2")  # columns 128 to 255, rows from 256 on
    bad, good = Window(130, 260, 10, 10), Window(0, 0, 128, 256)
    with RasterReader(path, (1, 2, 3)) as reader:
        reads: list[Callable[[], object]] = [
            lambda: reader.read(bad),
            lambda: reader.valid(bad),
            lambda: reader.read_band(bad),
        ]
        for read in reads:
            with pytest.raises(InputError) as caught:
                read()
            assert caught.value.what == (
                f"{path}: cannot be read at column 130, row 260 (700032.5, 4399935.0 in {UTM})."
            )
            assert re.search("IReadBlock|ZIPDecode", caught.value.items[0])
            assert caught.value.remedy == (
                "The file is damaged or truncated; copy or download it again."
            )
        for whole in (reader.thumbnail, reader.thumbnail_valid):
            with pytest.raises(InputError, match="cannot be read at column 0, row 0"):
                whole(50)
        np.testing.assert_array_equal(reader.read(good), pixels[:3, :256, :128])


def test_a_damaged_map_is_to_be_made_anew_and_not_copied(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", imagery(1), **TILED, compress="deflate")
    with rasterio.open(path, "r+") as file:
        file.update_tags(TESELA_NOMENCLATURE="a7a6cb0f26a2fffe")
    damage(path, "1_2")
    with RasterReader(path) as reader, pytest.raises(InputError) as caught:
        reader.read(Window(130, 260, 10, 10))
    assert caught.value.remedy == (
        "The file is damaged or truncated; remove it: the step that wrote it makes it anew."
    )


def test_thumbnails_keep_the_shape_and_the_pixels_without_data(tmp_path: Path) -> None:
    pixels = np.full((3, 40, 80), 100, np.uint8)
    pixels[:, :, 40:] = 200
    pixels[:, :20, :40] = 0
    with RasterReader(raster(tmp_path / "a.tif", pixels, nodata=0)) as reader:
        small = reader.thumbnail(8, average=True)
        assert small.shape == (3, 4, 8)
        assert small[0].tolist() == [[0] * 4 + [200] * 4] * 2 + [[100] * 4 + [200] * 4] * 2
        assert reader.thumbnail_valid(8).tolist() == (small[0] > 0).tolist()
        assert reader.thumbnail(1000).shape == (3, 40, 80)
        assert reader.thumbnail(1).shape == (3, 1, 1)


def test_thumbnails_of_classes_hold_only_classes(tmp_path: Path) -> None:
    checks = np.indices((40, 40)).sum(0, dtype=np.int64) % 2 * 6
    with RasterReader(raster(tmp_path / "a.tif", checks[None].astype(np.uint8))) as reader:
        assert set(np.unique(reader.thumbnail(10))) <= {0, 6}


# Writing


def class_grid(width: int = 1300, height: int = 1100) -> PixelGrid:
    return PixelGrid(UTM, 700_000.0, 4_400_000.0, 0.25, 0.25, width, height)


def class_pixels(grid: PixelGrid) -> NDArray[np.uint8]:
    pixels = np.random.default_rng(3).integers(0, 3, (grid.height, grid.width)).astype(np.uint8)
    pixels[: grid.height // 3, : grid.width // 3] = IGNORE
    return pixels


def write_classes(path: Path, grid: PixelGrid, pixels: NDArray[np.uint8]) -> Path:
    with RasterWriter(path, grid, "uint8", IGNORE, COLORS, {"SHEET": "0722"}) as target:
        # Backwards and across the blocks: the order of windows does not matter.
        for window in reversed(list(grid.blocks(300))):
            target.write(window, pixels[window.slices()])
    return path


def test_windows_in_any_order_make_one_tiled_raster_with_palette_nodata_and_tags(
    tmp_path: Path,
) -> None:
    grid = class_grid()
    pixels = class_pixels(grid)
    path = write_classes(tmp_path / "a.tif", grid, pixels)
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(source.read(1), pixels)
        assert source.block_shapes == [(512, 512)]
        assert source.compression.name == "deflate"
        assert source.nodata == IGNORE
        assert source.tags()["SHEET"] == "0722"
        assert (source.crs.to_string(), source.transform) == (UTM, NORTH_UP)
        table = source.colormap(1)
    assert [table[i][:3] for i in range(3)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert table[IGNORE] == (0, 0, 0, 0)
    assert geotiff.palette(COLORS)[7] == (0, 0, 0, 0)


def test_polygon_rows_are_32_bit_and_what_is_not_written_is_nodata(tmp_path: Path) -> None:
    grid = class_grid(7, 5)
    rows = np.array([[70_000, 2**32 - 1]], np.uint32)
    with RasterWriter(tmp_path / "a.tif", grid, "uint32", 0) as target:
        target.write(Window(5, 4, 2, 1), rows)
    with rasterio.open(tmp_path / "a.tif") as source:
        assert (source.dtypes, source.nodata) == (("uint32",), 0)
        found = source.read(1)
    expected = np.zeros((5, 7), np.uint32)
    expected[4, 5:] = rows
    np.testing.assert_array_equal(found, expected)


def test_pixels_are_neither_stretched_nor_clipped_nor_cut(tmp_path: Path) -> None:
    with RasterWriter(tmp_path / "a.tif", class_grid(7, 5), "uint8", IGNORE) as target:
        with pytest.raises(ValueError, match=r"shape \(2, 2\) and type uint8 for Window"):
            target.write(Window(0, 0, 3, 2), np.zeros((2, 2), np.uint8))
        with pytest.raises(ValueError, match="type int64 for Window"):
            target.write(Window(0, 0, 2, 2), np.full((2, 2), 300, np.int64))
        with pytest.raises(ValueError, match="is not inside 7 x 5 pixels"):
            target.write(Window(6, 0, 2, 2), np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize(("width", "height"), [(1300, 1100), (513, 511), (5, 3), (1, 1)])
def test_a_map_is_a_cog_on_exactly_the_grid_of_its_source(
    tmp_path: Path, width: int, height: int
) -> None:
    grid = class_grid(width, height)
    pixels = class_pixels(grid)
    source, path = write_classes(tmp_path / "a.tif", grid, pixels), tmp_path / "b" / "map.tif"
    path.parent.mkdir()
    geotiff.write_cog(source, path, "mode")
    assert geotiff.read_grid(path) == grid
    with rasterio.open(path) as cog, rasterio.open(source) as plain:
        np.testing.assert_array_equal(cog.read(1), pixels)
        assert cog.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert cog.colormap(1) == plain.colormap(1)
        assert (cog.nodata, cog.tags()["SHEET"]) == (IGNORE, "0722")
        assert bool(cog.overviews(1)) == (max(width, height) > 512)
        data = pixels[pixels != IGNORE]
        assert float(cog.tags(1)["STATISTICS_MINIMUM"]) == data.min()
        assert float(cog.tags(1)["STATISTICS_MAXIMUM"]) == data.max()
        assert float(cog.tags(1)["STATISTICS_MEAN"]) == pytest.approx(data.mean())
        cog.stats()
    assert [file.name for file in path.parent.iterdir()] == ["map.tif"]  # no .aux.xml


def test_overviews_of_classes_are_the_class_that_most_pixels_have(tmp_path: Path) -> None:
    grid = class_grid(1024, 1024)
    pixels = np.zeros((1024, 1024), np.uint8)
    pixels[:, 1::2] = 2  # two columns of each four are 2, and each fourth row is 2
    pixels[3::4] = 2
    pixels[512:] = IGNORE
    pixels[513::2, ::2] = 1  # a quarter of the pixels is data, the rest is not
    geotiff.write_cog(write_classes(tmp_path / "a.tif", grid, pixels), tmp_path / "m.tif", "mode")
    with rasterio.open(tmp_path / "m.tif", overview_level=0) as overview:
        small = overview.read(1)
    assert small.shape == (512, 512)
    assert set(np.unique(small)) == {0, 1, 2}
    assert (small[256:] == 1).all()  # nodata does not outvote data
    assert (small[1:256:2] == 2).all()


def test_overviews_of_measures_are_means_of_data(tmp_path: Path) -> None:
    grid = class_grid(1024, 1024)
    pixels = np.full((1024, 1024), 10, np.uint8)
    pixels[:, 1::2] = 90
    pixels[:, 512:] = IGNORE
    pixels[::2, 512::2] = 70
    with RasterWriter(tmp_path / "a.tif", grid, "uint8", IGNORE) as target:
        target.write(grid.window, pixels)
    geotiff.write_cog(tmp_path / "a.tif", tmp_path / "m.tif", "average")
    with rasterio.open(tmp_path / "m.tif", overview_level=0) as overview:
        small = overview.read(1)
    assert (small[:, :256] == 50).all()
    assert (small[:, 256:] == 70).all()


def test_a_map_without_any_data_is_a_map(tmp_path: Path) -> None:
    grid = class_grid(600, 600)
    with RasterWriter(tmp_path / "a.tif", grid, "uint8", IGNORE, COLORS):
        pass
    geotiff.write_cog(tmp_path / "a.tif", tmp_path / "m.tif", "mode")
    with rasterio.open(tmp_path / "m.tif") as cog:
        assert (cog.read(1) == IGNORE).all()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"7 x 5 pixels cannot be written to .*nowhere"):
        RasterWriter(tmp_path / "nowhere" / "a.tif", class_grid(7, 5), "uint8", IGNORE)


def test_a_damaged_file_in_the_place_of_the_draft_is_told(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", **TILED, compress="deflate")
    content = bytearray(path.read_bytes())
    content[4:8] = (len(content) - 1).to_bytes(4, "little")  # where the directory should begin
    path.write_bytes(content)
    with pytest.raises(OutputError, match=r"7 x 5 pixels cannot be written .*TIFFReadDirectory"):
        RasterWriter(path, class_grid(7, 5), "uint8", IGNORE)


def test_an_exception_while_writing_stays_the_one_that_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyError, match="body"),
        RasterWriter(tmp_path / "a.tif", class_grid(7, 5), "uint8", IGNORE),
    ):
        raise KeyError("body")


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline import geotiff
from pipeline.errors import OutputError
from pipeline.grid import PixelGrid
from pipeline.publication import published

limit, size, how, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
grid = PixelGrid("EPSG:25830", 7e5, 4.4e6, 0.25, 0.25, size, size)
pixels = np.random.default_rng(0).integers(0, 200, (size, size)).astype(np.uint8)
source = folder / "source.tif"
with geotiff.RasterWriter(source, grid, "uint8", 255) as raster:
    raster.write(grid.window, pixels)
print(source.stat().st_size)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with published(folder / "out" / "a.tif") as (draft,):
        if how == "cog":
            geotiff.write_cog(source, draft, "mode")
        else:
            with geotiff.RasterWriter(draft, grid, "uint8", 255) as raster:
                for window in grid.blocks(512 if how == "blocks" else size):
                    raster.write(window, pixels[window.slices()])
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("how", ["blocks", "whole", "cog"])
@pytest.mark.parametrize(
    ("size", "limit"), [(600, 1000), (1200, 0), (1200, 700_000), (1200, 1_200_000)]
)
def test_a_disk_that_fills_up_is_told_and_leaves_nothing(
    tmp_path: Path, how: str, size: int, limit: int
) -> None:
    # The sources are of 0.36 and 1.3 MB: the limits stop the first block, one in the middle, the
    # last one and what is written on closing.
    root = Path(geotiff.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), str(size), how, str(tmp_path)],
        cwd=root, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    whole, _, message = done.stdout.partition("\n")
    assert int(whole) > limit
    assert f"{size} x {size} pixels cannot be written to {tmp_path / 'out'}" in message
    assert "GiB are free" in message
    assert "Make room or choose another `run` folder" in message
    assert list((tmp_path / "out").iterdir()) == []


def test_copies_by_other_programs_keep_what_the_map_says(tmp_path: Path) -> None:
    grid = class_grid(600, 520)
    write_classes(tmp_path / "a.tif", grid, class_pixels(grid))
    geotiff.write_cog(tmp_path / "a.tif", tmp_path / "m.tif", "mode")
    copy_raster(tmp_path / "m.tif", tmp_path / "c.png", driver="PNG")
    with rasterio.open(tmp_path / "c.png") as png:
        assert png.nodata == IGNORE
        assert [png.colormap(1)[i][:3] for i in range(3)] == [
            (255, 0, 0), (0, 255, 0), (0, 0, 255),
        ]  # fmt: skip
