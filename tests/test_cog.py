"""Files put together from blocks are Cloud-Optimised GeoTIFFs, for GDAL old and new."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from numpy.typing import NDArray
from rio_cogeo.cogeo import cog_validate

from pipeline import cog, geotiff, overviews
from pipeline.grid import PixelGrid

COLORS = ("#FF0000", "#00FF00", "#0000FF")


def grid(width: int, height: int, crs: str = "EPSG:25830", side: float = 0.5) -> PixelGrid:
    return PixelGrid(crs, 700_000.0, 4_400_000.0, side, side, width, height)


def rows_of(pixels: NDArray[np.uint8], differences: bool) -> cog.Image:
    blocks = [
        block
        for row in range(0, pixels.shape[1], geotiff.BLOCK)
        for block in cog.blocks_of(pixels[:, row : row + geotiff.BLOCK], differences)
    ]
    sizes = [len(block) for block in blocks]
    return cog.Image(pixels.shape[2], pixels.shape[1], sizes, (cog.framed([b]) for b in blocks))


def write(
    path: Path, where: PixelGrid, pixels: NDArray[np.uint8], differences: bool = False,
    colors: tuple[str, ...] = (), names: tuple[str, ...] = (),
) -> None:  # fmt: skip
    bands = [cog.statistics(np.bincount(band.ravel(), minlength=256)) for band in pixels]
    described = cog.description(where, bands, differences, colors, names, {"MADE": "a & <b>"})
    images = [rows_of(pixels, differences)]
    for level in range(overviews.levels(where.width, where.height, geotiff.BLOCK)):
        side = 2 ** (level + 1)
        images.append(rows_of(pixels[:, ::side, ::side], differences))
    cog.write(path, described, images)


def noise(bands: int, height: int, width: int, most: int = 3) -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    pixels = random.integers(0, most, (bands, height, width)).astype(np.uint8)
    pixels[random.random(pixels.shape) < 0.1] = 255
    return pixels


SIZES = [(1, 1), (511, 512), (513, 2), (5, 1400), (1500, 700)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("bands", "differences"), [(1, False), (1, True), (4, True), (3, False)])
def test_pixels_come_back_and_the_validator_has_nothing_to_say(
    tmp_path: Path, size: tuple[int, int], bands: int, differences: bool
) -> None:
    path, where = tmp_path / "a.tif", grid(*size)
    pixels = noise(bands, size[1], size[0])
    write(path, where, pixels, differences)
    with rasterio.open(path) as back:
        np.testing.assert_array_equal(back.read(), pixels)
        assert (back.nodata, set(back.dtypes)) == (255, {"uint8"})
        assert back.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert set(back.block_shapes) == {(512, 512)}
        assert len(back.overviews(1)) == overviews.levels(*size, geotiff.BLOCK)
    for number in range(overviews.levels(*size, geotiff.BLOCK)):
        side = 2 ** (number + 1)
        with rasterio.open(path, overview_level=number) as back:
            np.testing.assert_array_equal(back.read(), pixels[:, ::side, ::side])
    assert geotiff.read_grid(path) == where
    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])


def test_what_describes_the_raster_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write(path, grid(600, 20), noise(1, 20, 600), colors=COLORS, names=("class, año",))
    with rasterio.open(path) as back:
        table = back.colormap(1)
        assert [table[k] for k in range(3)] == [
            (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255),
        ]  # fmt: skip
        assert back.colorinterp[0].name == "palette"
        assert back.tags()["MADE"] == "a & <b>"
        assert back.descriptions == ("class, año",)
    write(path, grid(600, 20), noise(3, 20, 600), names=("a", "b", "c"))
    with rasterio.open(path) as back:
        assert back.descriptions == ("a", "b", "c")
        # Three bands of measures are no picture.
        assert [meaning.name for meaning in back.colorinterp] == ["gray", "undefined", "undefined"]
        assert back.interleaving.name == "pixel"


@pytest.mark.parametrize(
    ("crs", "side"),
    [("EPSG:32640", 0.5), ("EPSG:4326", 4.5e-6), ("EPSG:3857", 2.0),
     ("+proj=tmerc +lat_0=40 +lon_0=-3.7 +k=1 +x_0=7 +y_0=9 +ellps=intl +units=m +no_defs", 0.25)],
)  # fmt: skip
def test_the_georeference_is_the_one_that_gdal_writes(
    tmp_path: Path, crs: str, side: float
) -> None:
    ours, gdals = tmp_path / "ours.tif", tmp_path / "gdals.tif"
    place = (-3.7, 40.4) if crs == "EPSG:4326" else (700_000.123, 4_400_000.456)
    where = PixelGrid(crs, *place, side, side, 700, 600)
    write(ours, where, noise(1, 600, 700))
    with geotiff.RasterWriter(gdals, where, "uint8", 255) as raster:
        raster.write(where.window, noise(1, 600, 700)[0])
    assert geotiff.read_grid(ours) == geotiff.read_grid(gdals)


def test_statistics_are_those_of_the_pixels_with_data(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", noise(2, 700, 900, most=101)
    write(path, grid(900, 700), pixels, differences=True)
    for band, values in enumerate(pixels, 1):
        valid = values[values != 255].astype(np.float64)
        with rasterio.open(path) as back:
            items = back.tags(band)
        assert items["STATISTICS_MINIMUM"] == str(int(valid.min()))
        assert items["STATISTICS_MAXIMUM"] == str(int(valid.max()))
        assert float(items["STATISTICS_MEAN"]) == pytest.approx(valid.mean(), rel=1e-13)
        assert float(items["STATISTICS_STDDEV"]) == pytest.approx(valid.std(), rel=1e-12)
        assert items["STATISTICS_VALID_PERCENT"] == f"{100 * valid.size / values.size:.4g}"


def test_statistics_of_few_and_of_very_many_pixels() -> None:
    none = np.zeros(256, np.int64)
    none[255] = 9
    assert cog.statistics(none) == {"STATISTICS_VALID_PERCENT": "0"}
    one = none.copy()
    one[7] = 10**7
    found = cog.statistics(one)
    assert (found["STATISTICS_MEAN"], found["STATISTICS_STDDEV"]) == ("7", "0")
    assert found["STATISTICS_VALID_PERCENT"] == "99.999"
    # Where float64 sums of squares would have lost the spread.
    many = np.zeros(256, np.int64)
    many[[253, 254]] = 10**15, 1
    assert float(cog.statistics(many)["STATISTICS_STDDEV"]) == pytest.approx(10**-7.5, rel=1e-12)


def test_the_layout_is_what_the_ghost_header_promises(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write(path, grid(1500, 1100), noise(1, 1100, 1500))
    data = path.read_bytes()
    head, promise = data[8 : 8 + 43], data[51 : 51 + 140]
    assert head == b"GDAL_STRUCTURAL_METADATA_SIZE=000140 bytes\n"
    assert b"BLOCK_LEADER=SIZE_AS_UINT4\nBLOCK_TRAILER=LAST_4_BYTES_REPEATED\n" in promise
    assert promise.endswith(b"KNOWN_INCOMPATIBLE_EDITION=NO\n ")
    with tifffile.TiffFile(path) as file:
        pages = list(file.pages)
        tags = [(page.tags["TileOffsets"].value, page.tags["TileByteCounts"].value)  # type: ignore[union-attr]
                for page in pages]  # fmt: skip
    assert [page.offset for page in pages] == sorted(page.offset for page in pages)
    assert pages[0].offset == 8 + 43 + 140 + 1
    at = None
    for offsets, sizes in reversed(tags):  # the smallest first
        for offset, size in zip(np.atleast_1d(offsets), np.atleast_1d(sizes), strict=True):
            assert at is None or offset == at + 4
            assert struct.unpack_from("<I", data, offset - 4) == (size,)
            at = int(offset) + int(size) + 4
            assert data[at - 4 : at] == data[at - 8 : at - 4]
    assert at == len(data)


def test_a_file_too_large_for_offsets_of_32_bits_is_a_bigtiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = tmp_path / "small.tif", tmp_path / "large.tif"
    pixels = noise(1, 700, 1500)
    write(small, grid(1500, 700), pixels)
    monkeypatch.setattr(cog, "CLASSIC_BYTES", small.stat().st_size)
    write(large, grid(1500, 700), pixels)
    assert large.read_bytes() == small.read_bytes()
    monkeypatch.setattr(cog, "CLASSIC_BYTES", small.stat().st_size - 1)
    write(large, grid(1500, 700), pixels)
    assert large.read_bytes()[:4] == b"II\x2b\x00"
    with rasterio.open(large) as back:
        np.testing.assert_array_equal(back.read(), pixels)
        assert back.overviews(1) == [2, 4]
    assert cog_validate(large, strict=True, quiet=True) == (True, [], [])
    assert geotiff.read_grid(large) == grid(1500, 700)


def test_offsets_beyond_four_gigabytes_are_right(tmp_path: Path) -> None:
    """Blocks as large as they get, of which nothing is written but the header."""
    huge = cog.Image(512 * 9, 512, [2**29] * 9, [])
    path = tmp_path / "a.tif"
    where = grid(512 * 9, 512)
    cog.write(path, cog.description(where, [{}], differences=False), [huge])
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff
        offsets = file.pages.first.tags["TileOffsets"].value
    header = path.stat().st_size
    assert list(offsets) == [header + 4 + n * (2**29 + 8) for n in range(9)]


@pytest.mark.skipif(not shutil.which("gdalinfo"), reason="Debian's gdal-bin is not installed")
@pytest.mark.parametrize("bands", [1, 3])
def test_the_systems_gdal_reads_it(tmp_path: Path, bands: int) -> None:
    path, raw = tmp_path / "a.tif", tmp_path / "a.bin"
    pixels = noise(bands, 700, 1500)
    write(path, grid(1500, 700), pixels, colors=COLORS if bands == 1 else ())
    said = subprocess.run(
        ["gdalinfo", "-json", str(path)], capture_output=True, text=True, check=True
    )
    assert said.stderr == ""
    found = json.loads(said.stdout)
    assert found["size"] == [1500, 700]
    assert found["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
    assert [o["size"] for o in found["bands"][0]["overviews"]] == [[750, 350], [375, 175]]
    subprocess.run(
        ["gdal_translate", "-q", "-of", "ENVI", "-co", "INTERLEAVE=BSQ", str(path), str(raw)],
        check=True,
    )
    np.testing.assert_array_equal(np.fromfile(raw, np.uint8).reshape(pixels.shape), pixels)
