"""Images of any origin: masks, mosaics, other pixels and areas of interest, all in exact pixels."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.features import geometry_mask
from rasterio.shutil import copy as copy_raster
from rasterio.transform import Affine
from shapely.geometry.base import BaseGeometry

from pipeline import area_of_interest, geotiff, imagery, orthophotos
from pipeline.errors import InputError
from pipeline.geotiff import RasterReader
from pipeline.grid import PixelGrid, Window, split
from pipeline.imagery import Imagery, MosaicImagery, ResampledImagery, SheetImagery

UTM = "EPSG:25830"
LEFT, TOP = 700_000.0, 4_400_000.0
RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def noise(height: int, width: int, bands: int = 3, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(1, 256, (bands, height, width), np.uint8)


def raster(
    path: Path,
    pixels: Pixels,
    *,
    col: float = 0,
    row: float = 0,
    pixel: float = 0.5,
    crs: str = UTM,
    meanings: Sequence[ColorInterp] = (),
    mask: Mask | None = None,
    left: float = LEFT,
    top: float = TOP,
    **profile: Any,
) -> Path:
    """A raster whose corner is ``col`` and ``row`` pixels from that of the sheet."""
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(
        path, "w", **{"driver": "GTiff", "photometric": "minisblack", **profile},
        count=len(pixels), height=pixels.shape[1], width=pixels.shape[2], dtype="uint8", crs=crs,
        transform=Affine(pixel, 0, left + col * pixel, 0, -pixel, top - row * pixel),
    ) as target:  # fmt: skip
        target.write(pixels)
        target.colorinterp = tuple(meanings) or (ColorInterp.gray,) + (ColorInterp.undefined,) * (
            len(pixels) - 1
        )
        if mask is not None:
            target.write_mask(mask)
    return path


def opened(*paths: Path, pixel: float = 0.5, **options: Any) -> Imagery:
    given: dict[str, Any] = {"bands": 3, "pixel_size": (pixel, pixel), **options}
    return orthophotos.open_imagery(orthophotos.listed(paths), **given)


def whole(image: Imagery) -> tuple[Pixels, Mask]:
    return image.read(image.grid.window)


def refusal(*paths: Path, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        opened(*paths, **options).close()
    return caught.value


# Pixels and masks in one reading


@pytest.mark.parametrize("kind", ["none", "nodata", "strange_nodata", "alpha", "mask", "fourth"])
def test_read_valid_gives_what_read_and_valid_give(tmp_path: Path, kind: str) -> None:
    pixels = noise(40, 70, 4 if kind in ("alpha", "fourth") else 3) % 3  # many zeros
    known = noise(40, 70, 1, seed=1)[0] > 99
    options: dict[str, dict[str, Any]] = {
        "none": {},
        "nodata": {"nodata": 0},
        "strange_nodata": {"nodata": 255},
        "alpha": {"meanings": (*RGB, ColorInterp.alpha)},
        "mask": {"mask": known},
        "fourth": {"nodata": 0},
    }
    path = raster(tmp_path / "a.tif", pixels, **options[kind], tiled=True, blockxsize=16,
                  blockysize=16)  # fmt: skip
    truth = {
        "none": np.ones((40, 70), bool),
        "nodata": (pixels != 0).any(0),
        "strange_nodata": np.ones((40, 70), bool),
        "alpha": pixels[-1] != 0,
        "mask": known,
        "fourth": (pixels != 0).any(0),  # a fourth band that is imagery tells of data too
    }[kind]
    window = Window(5, 7, 50, 30)
    with RasterReader(path, (3, 1)) as reader:
        image, valid = reader.read_valid(window)
        np.testing.assert_array_equal(image, reader.read(window))
        np.testing.assert_array_equal(valid, reader.valid(window))
    np.testing.assert_array_equal(image, pixels[[2, 0]][:, 7:37, 5:55])
    np.testing.assert_array_equal(valid, truth[7:37, 5:55])


def test_a_sheet_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = raster(tmp_path / "a.tif", noise(40, 40), nodata=0)
    with RasterReader(path) as reader:
        source = reader._source()
        monkeypatch.setattr(reader, "_local", threading.local())
        reader._local.source = _Counting(source)
        reader.read_valid(Window(0, 0, 40, 40))
        assert reader._local.source.calls == ["read"]
        source.close()


class _Counting:
    """A dataset that notes what it is asked for."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.calls: list[str] = []

    def read(self, *arguments: Any, **options: Any) -> Any:
        self.calls.append("read")
        return self._source.read(*arguments, **options)

    def dataset_mask(self, **options: Any) -> Any:
        self.calls.append("dataset_mask")
        return self._source.dataset_mask(**options)


def test_the_damaged_block_of_a_large_window_is_told(tmp_path: Path) -> None:
    path = raster(
        tmp_path / "a.tif", noise(64, 64), tiled=True, blockxsize=16, blockysize=16,
        compress="deflate",
    )  # fmt: skip
    with rasterio.open(path) as source:
        offset = int(source.get_tag_item("BLOCK_OFFSET_2_3", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[offset : offset + 64] = b"\xff" * 64
    path.write_bytes(content)
    image = opened(path)
    with pytest.raises(InputError) as caught:
        image.read(Window(5, 5, 50, 50))
    assert caught.value.what == (
        f"{path}: cannot be read at column 32, row 48 (700016.0, 4399976.0 in {UTM})."
    )
    image.close()


@pytest.mark.parametrize("name", ["a.tif", "cog.tif", "a.jp2", "a.vrt"])
def test_formats_give_the_same_pixels(tmp_path: Path, name: str) -> None:
    pixels = noise(300, 400)
    path = raster(tmp_path / "a.tif", pixels)
    if name == "cog.tif":
        copy_raster(path, tmp_path / name, driver="COG", COMPRESS="DEFLATE")
    elif name == "a.jp2":
        copy_raster(path, tmp_path / name, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    elif name == "a.vrt":
        copy_raster(path, tmp_path / name, driver="VRT")
    image = opened(tmp_path / name)
    assert image.grid == PixelGrid(UTM, LEFT, TOP, 0.5, 0.5, 400, 300)
    window = Window(101, 33, 220, 190)
    found, valid = image.read(window)
    np.testing.assert_array_equal(found, pixels[:, 33:223, 101:321])
    assert valid.all()
    image.close()


def test_threads_read_the_same_pixels(tmp_path: Path) -> None:
    pixels = noise(64, 300)
    for i in range(3):
        raster(
            tmp_path / f"{i}.tif", pixels[:, :, 100 * i : 100 * i + 100], col=100 * i,
            compress="deflate",
        )  # fmt: skip
    image = opened(tmp_path)
    windows = list(split(image.grid.window, 37, 11)) * 3
    with ThreadPoolExecutor(4) as pool:
        for window, (found, valid) in zip(windows, pool.map(image.read, windows), strict=True):
            rows, columns = window.slices()
            np.testing.assert_array_equal(found, pixels[:, rows, columns])
            assert valid.all()
    image.close()


# Folders and mosaics


def test_a_folder_is_the_sheet_that_was_cut_into_it(tmp_path: Path) -> None:
    pixels = noise(50, 90)
    pixels[:, 20:30, 30:60] = 0
    sheet = raster(tmp_path / "sheet.tif", pixels, nodata=0)
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, window in enumerate(split(Window(0, 0, 90, 50), 40, 30)):
        rows, columns = window.slices()
        raster(
            folder / f"{number}.TIF", pixels[:, rows, columns], col=window.col, row=window.row,
            nodata=0,
        )  # fmt: skip
    (folder / "0.tfw").write_text("0.5")
    (folder / "preview.jpg").write_text("no raster")
    one, many = opened(sheet), opened(folder)
    assert many.grid == one.grid
    assert isinstance(one, SheetImagery)
    assert isinstance(many, MosaicImagery)
    for window in (Window(0, 0, 90, 50), Window(35, 25, 20, 10), Window(0, 0, 1, 1)):
        for mine, theirs in zip(many.read(window), one.read(window), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert one.what == f"orthophoto {sheet}"
    assert many.what == f"mosaic of 6 orthophotos, {folder / '0.TIF'} the first"
    one.close()
    many.close()


def test_a_mosaic_of_mostly_nothing_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    near = [raster(tmp_path / "a.tif", noise(8, 8)), raster(tmp_path / "b.tif", noise(8, 8), col=8)]
    with caplog.at_level("WARNING"):
        opened(*near).close()
        assert caplog.text == ""
        opened(near[0], raster(tmp_path / "c.tif", noise(8, 8), col=100, row=60)).close()
    assert "c.tif" not in caplog.text
    assert "fills 1.7 % of the box around it" in caplog.text


def test_where_orthophotos_overlap_the_last_one_with_data_counts(tmp_path: Path) -> None:
    first, second = np.full((3, 4, 6), 10, np.uint8), np.full((3, 4, 6), 20, np.uint8)
    second[:, :, 1] = 0
    a = raster(tmp_path / "a.tif", first)
    b = raster(tmp_path / "b.tif", second, col=4, row=2, nodata=0)
    image, valid = whole(opened(a, b))
    expected = np.array(
        [[10] * 6 + [0] * 4] * 2 + [[10] * 4 + [20, 10] + [20] * 4] * 2
        + [[0] * 4 + [20, 0] + [20] * 4] * 2, np.uint8,
    )  # fmt: skip
    np.testing.assert_array_equal(image[0], expected)
    np.testing.assert_array_equal(valid, expected > 0)
    image, _ = whole(opened(b, a))
    assert image[0, 2, 4] == 10


def test_a_mosaic_keeps_few_of_its_images_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagery, "_OPEN", 2)
    pixels = noise(4, 60)
    for i in range(6):
        raster(tmp_path / f"{i}.tif", pixels[:, :, 10 * i : 10 * i + 10], col=10 * i)
    image = opened(tmp_path)
    assert isinstance(image, MosaicImagery)
    for _ in range(2):
        np.testing.assert_array_equal(whole(image)[0], pixels)
    assert list(image._opened[0]) == [4, 5]
    image.close()
    assert image._opened == []


def test_orthophotos_off_each_others_pixels_are_listed(tmp_path: Path) -> None:
    a = raster(tmp_path / "a.tif", noise(8, 8))
    raster(tmp_path / "b.tif", noise(8, 8), col=8.3)
    raster(tmp_path / "c.tif", noise(8, 8), pixel=0.25)
    raster(tmp_path / "d.tif", noise(8, 8), col=-8)
    error = refusal(tmp_path)
    assert error.what == (
        f"2 of 4 orthophotos are not on the pixels of {a} (0.5 x 0.5, corner at (700000, 4400000)):"
    )
    assert error.items == (
        f"{tmp_path / 'b.tif'}: 0.5 x 0.5, corner at (700004.15, 4400000)",
        f"{tmp_path / 'c.tif'}: 0.25 x 0.25, corner at (700000, 4400000)",
    )
    assert "--resample" in error.remedy


def test_orthophotos_of_two_systems_are_listed(tmp_path: Path) -> None:
    a = raster(tmp_path / "a.tif", noise(8, 8))
    b = raster(tmp_path / "b.tif", noise(8, 8), crs="EPSG:25829")
    for resample in (False, True):
        error = refusal(a, b, resample=resample)
        assert "1 of 2 orthophotos are in another coordinate reference system" in error.what
        assert error.items == (f"{b}: ETRS89 / UTM zone 29N",)


def test_all_unreadable_orthophotos_are_told_at_once(tmp_path: Path) -> None:
    raster(tmp_path / "a.tif", noise(8, 8))
    (tmp_path / "b.tif").write_text("no raster")
    raster(tmp_path / "c.tif", noise(8, 8, 1))
    error = refusal(tmp_path)
    assert error.what == "2 of 3 orthophotos cannot be used:"
    assert "b.tif: is not a raster that GDAL can read." in error.items[0]
    assert "c.tif: cannot be used. has 1 band of imagery" in error.items[1]


def test_an_image_without_coordinate_system_is_refused(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", noise(8, 8), crs="")
    assert "has no coordinate reference system; gdal_edit.py -a_srs" in str(refusal(path))


def test_folders_without_orthophotos_are_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert refusal(tmp_path).items == (f"{tmp_path}: has no .tif, .tiff, .jp2, .img",)


# Bands


def test_bands_are_those_that_were_chosen_in_their_order(tmp_path: Path) -> None:
    pixels = noise(6, 7, 5)
    path = raster(
        tmp_path / "a.tif", pixels,
        meanings=(*RGB, ColorInterp.undefined, ColorInterp.alpha),
    )  # fmt: skip
    image = opened(path, chosen=(4, 1, 2))
    assert image.bands == 3
    np.testing.assert_array_equal(whole(image)[0], pixels[[3, 0, 1]])
    image.close()
    error = refusal(path)
    assert error.items == (f"{path}: has 4 bands of imagery",)
    assert "--bands 1,2,3" in error.remedy
    assert refusal(path, bands=5).remedy == "Use a network that was trained on such imagery."
    assert "--bands 1,2: are 2; the network takes 3." in str(refusal(path, chosen=(1, 2)))
    error = refusal(path, chosen=(1, 2, 5))  # the fifth one is alpha
    assert error.items == (f"{path}: imagery is in bands 1, 2, 3, 4",)


# Other pixels


def blocks_of(pixels: Pixels, size: int) -> Pixels:
    """Means of squares, halves rounded up."""
    bands, rows, cols = pixels.shape
    squares = pixels.reshape(bands, rows // size, size, cols // size, size)
    means = squares.mean(axis=(2, 4))
    return np.asarray(np.floor(means + 0.5), np.uint8)


@pytest.mark.parametrize(("size", "fine"), [(2, 0.25), (3, 0.1), (5, 0.1)])
def test_larger_pixels_are_the_means_of_those_they_cover(
    tmp_path: Path, size: int, fine: float
) -> None:
    pixels = noise(12 * size, 20 * size)
    path = raster(tmp_path / "a.tif", pixels, pixel=fine)
    coarse = fine * size
    image = opened(path, pixel=coarse, resample=True)
    assert image.grid == PixelGrid(UTM, LEFT, TOP, coarse, coarse, 20, 12)
    found, valid = whole(image)
    np.testing.assert_array_equal(found, blocks_of(pixels, size))
    assert valid.all()
    image.close()


def test_parts_of_pixels_count_by_their_part(tmp_path: Path) -> None:
    # Pixels of 1.5: the second one covers half of column 1 and all of column 2.
    row = np.array([10, 20, 60, 90, 30], np.uint8)
    pixels = np.broadcast_to(row, (3, 3, 5)).copy()
    image = opened(raster(tmp_path / "a.tif", pixels, pixel=1.0), pixel=1.5, resample=True)
    assert (image.grid.width, image.grid.height) == (3, 2)
    found, valid = whole(image)
    # (10 + 10) / 1.5, (10 + 60) / 1.5, (90 + 15) / 1.5 of the pixel 3 to 4.5
    np.testing.assert_array_equal(found[0, 0], [13, 47, 70])
    assert valid.all()
    image.close()


def test_smaller_pixels_lie_between_the_centres(tmp_path: Path) -> None:
    pixels = np.array([[[0, 100], [200, 100]]] * 3, np.uint8)
    image = opened(raster(tmp_path / "a.tif", pixels, pixel=1.0), pixel=0.5, resample=True)
    assert image.grid == PixelGrid(UTM, LEFT, TOP, 0.5, 0.5, 4, 4)
    expected = np.array(
        [[0, 25, 75, 100], [50, 62.5, 87.5, 100], [150, 137.5, 112.5, 100], [200, 175, 125, 100]]
    )
    np.testing.assert_array_equal(whole(image)[0][1], np.floor(expected + 0.5))
    image.close()


def test_pixels_without_data_have_no_part_in_a_mean(tmp_path: Path) -> None:
    pixels = np.full((3, 2, 6), 100, np.uint8)
    pixels[:, :, 0] = 0  # half of the first: still has data
    pixels[:, :, 2:4] = 0  # all of the second
    pixels[:, 0, 4:] = pixels[:, 1, 4] = 0  # three of the four of the third
    path = raster(tmp_path / "a.tif", pixels, pixel=0.25, nodata=0)
    image, valid = whole(opened(path, resample=True))
    np.testing.assert_array_equal(image[0], [[100, 0, 0]])
    np.testing.assert_array_equal(valid, [[True, False, False]])


@pytest.mark.parametrize("pixel", [0.35, 0.7, 0.8, 1.3, 2.7])
def test_no_window_gives_other_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixel: float
) -> None:
    monkeypatch.setattr("pipeline.resampling._SOURCE_ROWS", 23)
    monkeypatch.setattr("pipeline.resampling._SOURCE_COLUMNS", 17)
    pixels = noise(61, 83)
    pixels[:, noise(61, 83, 1, seed=3)[0] < 40] = 0
    image = opened(raster(tmp_path / "a.tif", pixels, nodata=0), pixel=pixel, resample=True)
    found, valid = whole(image)
    assert valid.any()
    for window in (*split(image.grid.window, 7, 5), *split(image.grid.window, 200, 1)):
        rows, columns = window.slices()
        part, known = image.read(window)
        np.testing.assert_array_equal(part, found[:, rows, columns])
        np.testing.assert_array_equal(known, valid[rows, columns])
    image.close()


def test_resampling_agrees_with_gdal(tmp_path: Path) -> None:
    pixels = noise(60, 60)
    path = raster(tmp_path / "a.tif", pixels, pixel=0.25)
    image = opened(path, pixel=0.6, resample=True)
    with rasterio.open(path) as source, rasterio.vrt.WarpedVRT(
        source, crs=UTM, transform=Affine(0.6, 0, LEFT, 0, -0.6, TOP), width=25, height=25,
        resampling=rasterio.enums.Resampling.average,
    ) as warped:  # fmt: skip
        difference = whole(image)[0].astype(int) - warped.read()
    assert abs(difference).max() <= 1
    image.close()


def test_a_resampled_folder_is_the_resampled_sheet(tmp_path: Path) -> None:
    pixels = noise(50, 90)
    sheet = raster(tmp_path / "sheet.tif", pixels, pixel=0.25)
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, window in enumerate(split(Window(0, 0, 90, 50), 43, 31)):
        rows, columns = window.slices()
        raster(
            folder / f"{number}.tif", pixels[:, rows, columns], col=window.col, row=window.row,
            pixel=0.25,
        )  # fmt: skip
    one, many = opened(sheet, resample=True), opened(folder, resample=True)
    assert one.grid == many.grid
    for mine, theirs in zip(whole(many), whole(one), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_images_off_each_others_pixels_leave_no_hole_where_they_meet(tmp_path: Path) -> None:
    # One ramp of ground, cut into four images of three pixel sizes that meet at (10.1, 10.1).
    ends = {"a": (0, 0, 0.25), "b": (10.1, 0, 0.2), "c": (0, 10.1, 0.2), "d": (10.1, 10.1, 0.1)}
    for name, (x, y, pixel) in ends.items():
        size = round(10.1 / pixel)
        values = np.full((3, size, size), 100, np.uint8)
        raster(tmp_path / f"{name}.tif", values, pixel=pixel, left=LEFT + x, top=TOP - y)
    image = opened(tmp_path, resample=True)
    assert isinstance(image, MosaicImagery)
    assert (image.grid.left, image.grid.top, image.grid.pixel_width) == (LEFT, TOP, 0.5)
    found, valid = whole(image)
    assert valid[:40, :40].all()
    assert set(np.unique(found)) <= {0, 100}
    image.close()


def test_another_pixel_size_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", noise(8, 8), pixel=0.25)
    error = refusal(path)
    assert (
        error.what
        == f"orthophoto {path}: its pixels are 0.25 x 0.25; the network learnt 0.5 x 0.5."
    )
    assert "--resample" in error.remedy
    same = opened(raster(tmp_path / "b.tif", noise(8, 8), pixel=0.4955), resample=True)
    assert not isinstance(same, ResampledImagery)
    assert same.grid.pixel_width == 0.4955
    error = refusal(path, pixel=10.0, resample=True)
    assert "That is more than 20 times as much." in error.what


def test_degrees_do_not_become_metres(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", noise(8, 8), pixel=5e-6, crs="EPSG:4326", left=-1, top=39)
    for resample in (False, True):
        error = refusal(path, resample=resample)
        assert "its pixels are 5e-06 x 5e-06 degrees; the network learnt 0.5 x 0.5" in error.what
        assert "gdalwarp -t_srs" in error.remedy
    opened(path, pixel=5e-6).close()


# Areas of interest


SHEET = PixelGrid(UTM, LEFT, TOP, 0.5, 0.5, 60, 40)


def written(path: Path, shapes: Sequence[BaseGeometry | None], crs: str | None = UTM) -> Path:
    layer = {"driver": "GeoJSON"} if path.suffix == ".geojson" else {}
    geopandas.GeoDataFrame(geometry=list(shapes), crs=crs).to_file(path, **layer)
    return path


def at(col: float, row: float, right: float, bottom: float) -> BaseGeometry:
    """A box in pixels of the sheet."""
    return shapely.box(LEFT + col / 2, TOP - bottom / 2, LEFT + right / 2, TOP - row / 2)


def area_error(path: Path, layer: str | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        area_of_interest.polygons(path, SHEET, "the image", layer)
    return caught.value


@pytest.mark.parametrize("name", ["a.gpkg", "a.shp"])
def test_an_area_is_the_pixels_whose_centres_it_holds(tmp_path: Path, name: str) -> None:
    shapes = [
        shapely.Polygon([(LEFT + x, TOP - y) for x, y in ((3.1, 4), (20, 2.2), (11, 15.7))]),
        at(30.2, 20, 39, 33.6).difference(at(32, 25, 35, 30)),
        at(38, 30, 45, 36),  # overlaps the one before
    ]
    area = area_of_interest.polygons(written(tmp_path / name, shapes), SHEET, "the image")
    truth = geometry_mask(shapes, (40, 60), Affine(*SHEET.geotransform), invert=True)
    np.testing.assert_array_equal(area.inside(SHEET.window), truth)
    assert area.region == Window(6, 4, 39, 32)
    for window in split(SHEET.window, 7, 9):
        np.testing.assert_array_equal(area.inside(window), truth[window.slices()])


def test_an_area_in_degrees_is_brought_to_the_image(tmp_path: Path) -> None:
    shape = geopandas.GeoSeries([at(10, 10, 30, 20)], crs=UTM).to_crs(4326)
    path = written(tmp_path / "a.geojson", list(shape), "EPSG:4326")
    area = area_of_interest.polygons(path, SHEET, "the image")
    expected = np.zeros((40, 60), bool)
    expected[10:20, 10:30] = True
    np.testing.assert_array_equal(area.inside(SHEET.window), expected)
    # Vertices in degrees come back a hair beside the pixels' edges.
    assert Window(9, 9, 22, 12).intersection(area.region) == area.region


def test_an_area_is_cut_to_the_image(tmp_path: Path) -> None:
    shapes = [at(-20, -5, 5, 5), at(50, 30, 500, 3000), at(700, 0, 800, 10)]
    area = area_of_interest.polygons(written(tmp_path / "a.gpkg", shapes), SHEET, "the image")
    assert area.region == SHEET.window
    assert area.inside(SHEET.window).sum() == 25 + 100


@pytest.mark.parametrize(
    ("shapes", "items"),
    [
        ([None, at(1, 1, 5, 5)], ["feature 1: there is no geometry"]),
        ([shapely.Point(LEFT, TOP)], ["feature 1"]),
        (
            [shapely.Polygon([(LEFT + x, TOP - y) for x, y in ((0, 0), (4, 4), (4, 0), (0, 4))])],
            ["feature 1 at 700002, 4399998"],
        ),
    ],
    ids=["none", "point", "crossing"],
)
def test_what_is_no_valid_polygon_is_told(
    tmp_path: Path, shapes: list[BaseGeometry | None], items: list[str]
) -> None:
    error = area_error(written(tmp_path / "a.gpkg", shapes))
    assert f"1 of {len(shapes)} shapes are no valid polygons" in error.what
    assert [found[: len(item)] for found, item in zip(error.items, items, strict=True)] == items
    assert "Fix geometries" in error.remedy


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_areas_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    assert "there is no such file" in str(area_error(path))
    path.write_text("no polygons")
    assert "is no file of polygons that GDAL can read" in str(area_error(path))
    path.unlink()
    outside = written(path, [at(100, 0, 110, 10)])
    error = area_error(outside)
    assert error.what == f"area {outside}: is outside of the image."
    assert error.items == (
        "the area is from 700050 4399995 to 700055 4400000 in the image's coordinate system",
        "the image is from 700000 4399980 to 700030 4400000",
    )
    tiny = written(tmp_path / "b.gpkg", [at(3.6, 3.6, 3.9, 3.9)])
    assert "no pixel of the image has its centre in it" in str(area_error(tiny))
    unknown = written(tmp_path / "c.shp", [at(1, 1, 5, 5)], None)
    assert "has no coordinate reference system" in str(area_error(unknown))
    empty = tmp_path / "d.geojson"
    empty.write_text('{"type": "FeatureCollection", "features": []}')
    assert "has no polygons in layer" in str(area_error(empty))
    far = written(tmp_path / "e.gpkg", [shapely.box(-170, 80, -160, 89)], "EPSG:4326")
    assert "is outside of the image" in str(area_error(far))
    nowhere = written(tmp_path / "f.gpkg", [shapely.box(400, 100, 500, 200)], "EPSG:4326")
    assert "cannot be brought from WGS 84 to ETRS89 / UTM zone 30N" in str(area_error(nowhere))


def test_of_several_layers_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    for name, box in (("fields", at(1, 1, 5, 5)), ("towns", at(6, 6, 9, 9))):
        geopandas.GeoDataFrame(geometry=[box], crs=UTM).to_file(path, layer=name)
    error = area_error(path)
    assert sorted(error.items) == ["fields", "towns"]
    assert error.remedy == "Say which with --area-layer."
    assert area_of_interest.polygons(path, SHEET, "", "towns").region == Window(6, 6, 3, 3)
    assert "has no layer 'roads'" in str(area_error(path, "roads"))


def test_a_box_is_grown_to_whole_pixels() -> None:
    def box(*bounds: float, crs: str = UTM) -> Window:
        return area_of_interest.box(tuple(bounds), crs, SHEET, "the image")  # type: ignore[arg-type]

    assert box(700_001, 4_399_990, 700_002, 4_399_995) == Window(2, 10, 2, 10)
    assert box(700_001.1, 4_399_990.1, 700_002.1, 4_399_994.9) == Window(2, 10, 3, 10)
    assert box(700_001 + 1e-8, 4_399_990, 700_002 + 1e-8, 4_399_995) == Window(2, 10, 2, 10)
    assert box(0, 0, 1e7, 1e7) == SHEET.window
    degrees = geotiff.bounds_in(SHEET, "EPSG:4326")
    assert box(*degrees, crs="EPSG:4326") == SHEET.window
    with pytest.raises(InputError, match="is no box"):
        box(700_002, 4_399_990, 700_001, 4_399_995)
    with pytest.raises(InputError, match="is outside of the image"):
        box(-1, 39, 0, 40)
    with pytest.raises(InputError, match="--bbox-crs EPSG:0: is no coordinate reference system"):
        box(1, 2, 3, 4, crs="EPSG:0")
