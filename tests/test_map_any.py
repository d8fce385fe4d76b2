"""`map-sheet` on images that were never in a run: each option, each refusal, exact pixels."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.features import geometry_mask
from rasterio.transform import Affine

from pipeline import checkpoint, cli, geotiff, interruption, networks
from pipeline.checkpoint import ModelCard
from pipeline.cli.options import app
from pipeline.errors import InputError, OutputError, SettingsError, TrainingError
from pipeline.grid import Window, split
from pipeline.interruption import InterruptedMapError

LEFT, TOP = 700_000.0, 4_400_000.0
WIDTH, HEIGHT = 230, 170
CLASSES = ("Agua", "Olivar", "Vial")
RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
Pixels = NDArray[np.uint8]

SMALL = ["--window", "64", "--overlap", "32", "--precision", "float32"]


def save_model(path: Path, seed: int, **changes: Any) -> Path:
    card: dict[str, Any] = {
        "network": "enet", "encoder": "enet", "bands": 3, "pixel_size": (0.5, 0.5),
        "classes": CLASSES, "colors": ("#0000FF", "#50B051", "#FF0000"),
        "nomenclature": "0123456789abcdef", "mean": (100.0, 110.0, 120.0),
        "std": (50.0, 55.0, 60.0), **changes,
    }  # fmt: skip
    torch.manual_seed(seed)
    network = networks.build(
        "enet", encoder="enet", encoder_weights="none", bands=card["bands"],
        classes=len(card["classes"]),
    )  # fmt: skip
    checkpoint.save(path, network, ModelCard(**card))
    return path


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "a.safetensors", 1)


def scene() -> Pixels:
    """Smooth ground with some noise, so that a random network sees more than one class."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / a + 1) * np.cos(y / b) for a, b in ((17, 23), (31, 11), (7, 40))]
    ground = 128 + 90 * np.array(waves) + np.random.default_rng(0).normal(0, 25, (3, HEIGHT, WIDTH))
    return np.asarray(ground.clip(1, 255), np.uint8)


def write(
    path: Path, pixels: Pixels, pixel: float = 0.5, col: int = 0, row: int = 0, **profile: Any
) -> Path:
    with rasterio.open(
        path, "w", **{"driver": "GTiff", "crs": "EPSG:25830", "photometric": "minisblack"}
        | profile, count=len(pixels), height=pixels.shape[1], width=pixels.shape[2],
        dtype="uint8", transform=Affine(pixel, 0, LEFT + col * pixel, 0, -pixel, TOP - row * pixel),
    ) as target:  # fmt: skip
        target.write(pixels)
        target.colorinterp = RGB + (ColorInterp.undefined,) * (len(pixels) - 3)
    return path


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = scene()
    pixels[:, 100:, 180:] = 0
    return write(tmp_path_factory.mktemp("sheet") / "sheet.tif", pixels, nodata=0)


def run(*arguments: object) -> None:
    app(args=["map-sheet", *map(str, arguments)], standalone_mode=False)


def mapped(out: Path, *arguments: object) -> Pixels:
    run("--out", out, *SMALL, *arguments)
    return read(out)


def read(path: Path) -> Pixels:
    with rasterio.open(path) as source:
        pixels: Pixels = source.read()
    return pixels


@pytest.fixture(scope="module")
def whole(model: Path, sheet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "map.tif"
    mapped(out, "--model", model, "--orthophoto", sheet, "--probabilities", "--entropy")
    return out


@pytest.fixture(scope="module")
def blended(model: Path, sheet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("blended") / "map.tif"
    options = ("--model", model, "--orthophoto", sheet, "--probabilities", "--seams", "blend")
    mapped(out, *options)
    return out


class KilledError(Exception):
    """Stands for a kill in the middle of a job."""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# What is written


def test_an_image_becomes_a_map_with_all_that_shows_it(whole: Path, sheet: Path) -> None:
    assert names(whole.parent) == {
        "map.tif", "map.tif.aux.xml", "map.qml", "map.confidence.tif", "map.confidence.qml",
        "map.probabilities.tif", "map.probabilities.qml", "map.entropy.tif", "map.entropy.qml",
    }  # fmt: skip
    assert geotiff.read_grid(whole) == geotiff.read_grid(sheet)
    classes, probabilities = read(whole)[0], read(whole.with_suffix(".probabilities.tif"))
    nothing = np.zeros((HEIGHT, WIDTH), bool)
    nothing[100:, 180:] = True
    np.testing.assert_array_equal(classes == 255, nothing)
    assert len(np.unique(classes[~nothing])) > 1
    assert probabilities.shape == (3, HEIGHT, WIDTH)
    confidence = read(whole.with_suffix(".confidence.tif"))[0]
    np.testing.assert_array_equal(confidence, probabilities.max(axis=0))
    for name in ("map.qml", "map.tif.aux.xml"):
        assert "Olivar" in (whole.parent / name).read_text("utf-8")
    with rasterio.open(whole) as source:
        assert source.colormap(1)[1] == (0x50, 0xB0, 0x51, 255)
        assert source.nodata == 255


def test_layers_that_are_not_wanted_are_not_written(
    model: Path, sheet: Path, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "new" / "m.tif"
    classes = mapped(out, "--model", model, "--orthophoto", sheet, "--no-confidence")
    assert names(out.parent) == {"m.tif", "m.tif.aux.xml", "m.qml"}
    np.testing.assert_array_equal(classes, read(whole))


def test_a_map_that_is_there_is_replaced_only_where_that_is_asked_for(
    model: Path, sheet: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.tif"
    options = ("--model", model, "--orthophoto", sheet, "--bbox", LEFT, TOP - 30, LEFT + 30, TOP)
    mapped(out, *options)
    before = out.stat().st_mtime_ns
    with pytest.raises(OutputError) as caught:
        mapped(out, *options)
    assert caught.value.what == f"{out}: is there already."
    assert caught.value.items == tuple(
        str(tmp_path / name)
        for name in ("m.confidence.tif", "m.tif.aux.xml", "m.qml", "m.confidence.qml")
    )
    assert "--overwrite" in caught.value.remedy
    assert out.stat().st_mtime_ns == before
    mapped(out, *options, "--no-confidence", "--overwrite")
    assert out.stat().st_mtime_ns != before
    assert names(tmp_path) == {"m.tif", "m.tif.aux.xml", "m.qml"}


def test_files_of_others_are_neither_replaced_nor_removed(
    model: Path, sheet: Path, tmp_path: Path
) -> None:
    others = [tmp_path / name for name in ("m.entropy.tif", "m.qml")]
    for other in others:
        other.write_text("mine")
    options = ("--model", model, "--orthophoto", sheet, "--bbox", LEFT, TOP - 30, LEFT + 30, TOP)
    with pytest.raises(OutputError, match=r"m\.qml: is there already"):
        mapped(tmp_path / "m.tif", *options)
    others[1].unlink()
    mapped(tmp_path / "m.tif", *options)
    assert others[0].read_text() == "mine"


def test_an_orthophoto_does_not_get_the_style_of_its_map(
    model: Path, sheet: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "y.tiff"
    photo.symlink_to(sheet)
    with pytest.raises(SettingsError, match="would lend its style") as caught:
        mapped(tmp_path / "y.tif", "--model", model, "--orthophoto", photo)
    assert str(tmp_path / "y.map.tif") in caught.value.remedy


def test_rows_that_another_copy_of_the_job_took_away_are_mapped_again(
    model: Path, sheet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    from pipeline.map_store import MapStore

    write_cog, times = MapStore.write_cog, []

    def robbed(self: MapStore, layer: str, draft: Path, tags: Any) -> None:
        times.append(layer)
        if len(times) == 1:
            self.remove()
        write_cog(self, layer, draft, tags)

    monkeypatch.setattr(MapStore, "write_cog", robbed)
    classes = mapped(tmp_path / "m.tif", "--model", model, "--orthophoto", sheet)
    assert times == ["classes", "classes", "confidence"]
    np.testing.assert_array_equal(classes, read(whole))


def test_readers_have_ended_when_a_map_fails(
    model: Path, sheet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from pipeline.map_store import MapStore

    def full(self: MapStore, row: int, layers: Any) -> None:
        raise OutputError("full", remedy="Make room.")

    monkeypatch.setattr(MapStore, "put", full)
    with pytest.raises(OutputError, match="full") as caught:
        mapped(tmp_path / "m.tif", "--model", model, "--orthophoto", sheet)
    assert "What is done is kept in" in caught.value.remedy
    # While its frames, which the error holds, are still there.
    assert not [t.name for t in threading.enumerate() if t.name.startswith("read")]


@pytest.mark.parametrize(
    "options", [["--seams", "blend"], ["--symmetries"], ["--window", "96"], ["--overlap", "0"]]
)
def test_settings_of_mapping_are_options(
    model: Path, sheet: Path, tmp_path: Path, whole: Path, options: list[str]
) -> None:
    out = tmp_path / "m.tif"
    box = ("--bbox", LEFT + 70, TOP - 55, LEFT + 100, TOP - 40)
    found = mapped(out, "--model", model, "--orthophoto", sheet, *options, *box)
    cut = (slice(None), slice(80, 110), slice(140, 200))
    confidence = read(whole.with_suffix(".confidence.tif"))[cut]
    assert (read(out.with_suffix(".confidence.tif")) != confidence).any()
    np.testing.assert_array_equal(found == 255, read(whole)[cut] == 255)


def test_of_several_models_the_mean_counts(
    model: Path, sheet: Path, tmp_path: Path, whole: Path
) -> None:
    other = save_model(tmp_path / "b.safetensors", 2)
    where = ("--orthophoto", sheet, "--probabilities")
    mapped(tmp_path / "b.tif", "--model", other, *where)
    mapped(tmp_path / "both.tif", "--model", model, "--model", other, *where)
    alone = [whole.with_suffix(".probabilities.tif"), tmp_path / "b.probabilities.tif"]
    mean = np.mean([read(path).astype(float) for path in alone], axis=0)
    both = read(tmp_path / "both.probabilities.tif")
    assert np.abs(both - mean).max() <= 1
    assert (read(alone[0]) != both).any()
    strange = save_model(tmp_path / "c.safetensors", 3, classes=("Agua", "Olivar", "Casa"))
    with pytest.raises(TrainingError, match="'Casa'"):
        mapped(tmp_path / "c.tif", "--model", model, "--model", strange, *where)


# Parts of an image


BOXES = [
    (LEFT + 41.2, TOP - 60.1, LEFT + 77.7, TOP - 20.0),
    (LEFT + 100, TOP - 85, LEFT + 500, TOP - 49),
    (LEFT - 5, TOP - 0.3, LEFT + 0.2, TOP + 5),
]


@pytest.mark.parametrize("seams", ["crop", "blend"])
@pytest.mark.parametrize("box", BOXES)
def test_a_box_is_the_cut_out_of_the_whole_map(
    model: Path,
    sheet: Path,
    tmp_path: Path,
    whole: Path,
    blended: Path,
    box: tuple[float, ...],
    seams: str,
) -> None:
    options = ("--model", model, "--orthophoto", sheet, "--probabilities", "--seams", seams)
    mapped(tmp_path / "box.tif", *options, "--bbox", *box)
    for layer in ("", ".confidence", ".probabilities"):
        part = tmp_path / f"box{layer}.tif"
        of = (whole if seams == "crop" else blended).with_suffix(f"{layer}.tif")
        grid, sheet_grid = geotiff.read_grid(part), geotiff.read_grid(of)
        col = round((grid.left - sheet_grid.left) / 0.5)
        row = round((sheet_grid.top - grid.top) / 0.5)
        cut = read(of)[:, row : row + grid.height, col : col + grid.width]
        np.testing.assert_array_equal(read(part), cut)
        west, south, east, north = grid.bounds
        assert west <= max(box[0], LEFT) < west + 0.5
        assert south <= max(box[1], TOP - HEIGHT / 2) < south + 0.5
        assert east - 0.5 < min(box[2], LEFT + WIDTH / 2) <= east
        assert north - 0.5 < min(box[3], TOP) <= north


def test_a_box_in_degrees(model: Path, sheet: Path, tmp_path: Path, whole: Path) -> None:
    grid = geotiff.read_grid(sheet)
    bounds = geotiff.window_bounds_in(grid, Window(50, 40, 30, 20), "EPSG:4326")
    part = mapped(
        tmp_path / "m.tif", "--model", model, "--orthophoto", sheet, "--bbox", *bounds,
        "--bbox-crs", "EPSG:4326",
    )  # fmt: skip
    found = geotiff.read_grid(tmp_path / "m.tif")
    col, row = round((found.left - LEFT) / 0.5), round((TOP - found.top) / 0.5)
    # A box of another system holds the window, and is as much larger as its edges are turned.
    assert 48 <= col <= 50
    assert 38 <= row <= 40
    np.testing.assert_array_equal(
        part, read(whole)[:, row : row + found.height, col : col + found.width]
    )


@pytest.mark.parametrize("name", ["area.gpkg", "area.geojson", "area.shp"])
def test_an_area_is_the_cut_out_without_what_is_outside(
    model: Path, sheet: Path, tmp_path: Path, whole: Path, name: str
) -> None:
    shapes = [
        shapely.Polygon([(LEFT + x, TOP - y) for x, y in ((20.1, 10.1), (70.2, 25), (35, 60.3))]),
        shapely.box(LEFT + 80.25, TOP - 70.3, LEFT + 88.1, TOP - 65.2),
    ]
    frame = geopandas.GeoDataFrame(geometry=shapes, crs="EPSG:25830")
    if name.endswith("geojson"):
        frame = frame.to_crs(4326)
    frame.to_file(tmp_path / name)
    out = tmp_path / "m.tif"
    options = ("--model", model, "--orthophoto", sheet, "--probabilities")
    found = mapped(out, *options, "--area", tmp_path / name)
    grid = geotiff.read_grid(out)
    assert (grid.left, grid.top) == (LEFT + 20, TOP - 10)
    assert (grid.width, grid.height) == (137, 121)
    inside = geometry_mask(
        shapes, (grid.height, grid.width), Affine(*grid.geotransform), invert=True
    )
    cut = read(whole)[:, 20:141, 40:177]
    np.testing.assert_array_equal(found, np.where(inside, cut, 255))
    cut = read(whole.with_suffix(".probabilities.tif"))[:, 20:141, 40:177]
    np.testing.assert_array_equal(
        read(out.with_suffix(".probabilities.tif")), np.where(inside, cut, 255)
    )


def test_only_windows_that_an_area_touches_are_computed(
    model: Path, sheet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.prediction import Predictor

    windows = 0
    predict = Predictor.__call__

    def counted(self: Predictor, images: Pixels, *others: Any, **options: Any) -> Any:
        nonlocal windows
        windows += len(images)
        return predict(self, images, *others, **options)

    monkeypatch.setattr(Predictor, "__call__", counted)
    # Two corners of the sheet: the box around them is all of it.
    shapes = [
        shapely.box(LEFT + 1, TOP - 5, LEFT + 5, TOP - 1),
        shapely.box(LEFT + 110, TOP - 45, LEFT + 114, TOP - 41),
    ]
    geopandas.GeoDataFrame(geometry=shapes, crs="EPSG:25830").to_file(tmp_path / "a.gpkg")
    mapped(
        tmp_path / "m.tif", "--model", model, "--orthophoto", sheet, "--area", tmp_path / "a.gpkg"
    )
    assert 0 < windows <= 4


# Folders, bands, other pixels


def test_a_folder_a_mosaic_and_files_give_the_map_of_the_sheet(
    model: Path, sheet: Path, tmp_path: Path, whole: Path
) -> None:
    pixels = read(sheet)
    folder = tmp_path / "parts"
    folder.mkdir()
    files = []
    for number, window in enumerate(split(Window(0, 0, WIDTH, HEIGHT), 100, 90)):
        rows, columns = window.slices()
        files.append(
            write(
                folder / f"{number}.tif",
                pixels[:, rows, columns],
                col=window.col,
                row=window.row,
                nodata=0,
            )
        )
    one = mapped(tmp_path / "a.tif", "--model", model, "--orthophoto", folder)
    np.testing.assert_array_equal(one, read(whole))
    several = [part for file in files for part in ("--orthophoto", file)]
    two = mapped(tmp_path / "b.tif", "--model", model, *several)
    np.testing.assert_array_equal(two, read(whole))
    with pytest.raises(SettingsError, match="lies in the folder of the orthophotos"):
        mapped(folder / "m.tif", "--model", model, "--orthophoto", folder)


def test_bands_are_chosen(model: Path, sheet: Path, tmp_path: Path, whole: Path) -> None:
    pixels = read(sheet)
    infrared = np.full((1, HEIGHT, WIDTH), 77, np.uint8)
    turned = write(tmp_path / "i.tif", np.concatenate([infrared, pixels[::-1]]))
    options = ("--model", model, "--orthophoto", turned)
    with pytest.raises(InputError) as caught:
        mapped(tmp_path / "m.tif", *options)
    assert caught.value.items == (f"{turned}: has 4 bands of imagery",)
    found = mapped(tmp_path / "m.tif", *options, "--bands", "4,3,2")[0]
    known = read(whole)[0] != 255
    known[68:, 148:] = False  # the image without nodata is another one near its gap
    np.testing.assert_array_equal(found[known], read(whole)[0][known])
    for wrong in ("1,2", "rgb", "0,1,2", "1,2,3,"):
        with pytest.raises((InputError, SettingsError), match="--bands"):
            mapped(tmp_path / "n.tif", *options, "--bands", wrong)


def test_an_image_is_resampled_only_where_that_is_asked_for(model: Path, tmp_path: Path) -> None:
    pixels = scene()
    fine = write(tmp_path / "fine.tif", pixels.repeat(2, axis=1).repeat(2, axis=2), 0.25)
    same = write(tmp_path / "same.tif", pixels)
    with pytest.raises(InputError, match=r"0\.25 x 0\.25; the network learnt 0\.5 x 0\.5"):
        mapped(tmp_path / "m.tif", "--model", model, "--orthophoto", fine)
    assert names(tmp_path) == {"fine.tif", "same.tif"}
    found = mapped(tmp_path / "m.tif", "--model", model, "--orthophoto", fine, "--resample")
    expected = mapped(tmp_path / "n.tif", "--model", model, "--orthophoto", same)
    np.testing.assert_array_equal(found, expected)
    assert geotiff.read_grid(tmp_path / "m.tif") == geotiff.read_grid(same)


# What is refused before anything is computed


def refused(kind: type[Exception], *arguments: object) -> str:
    with pytest.raises(kind) as caught:
        run(*arguments)
    return str(caught.value)


def test_exactly_one_way_to_say_what_to_map(model: Path, sheet: Path, tmp_path: Path) -> None:
    image = ("--model", model, "--orthophoto", sheet, "--out", tmp_path / "m.tif")
    message = refused(SettingsError)
    for option in ("--model", "--orthophoto", "--out"):
        assert f"{option}: is missing" in message
    assert "--config and --sheet" in message
    message = refused(SettingsError, *image, "--config", "a.yaml", "--sheet", "b", "--window", 64)
    for option in ("--model", "--orthophoto", "--out", "--window"):
        assert f"  {option}\n" in message
    assert "--area" not in message
    message = refused(SettingsError, "--config", "a.yaml")
    assert "named by --config and --sheet" in message
    box = ("--bbox", 0, 0, 1, 1)
    assert "name one" in refused(SettingsError, *image, *box, "--area", "a.gpkg")
    assert "goes with --bbox" in refused(SettingsError, *image, "--bbox-crs", "EPSG:4326")
    assert "goes with --area" in refused(SettingsError, *image, "--area-layer", "a")


def test_settings_that_cannot_be_used_are_told(model: Path, sheet: Path, tmp_path: Path) -> None:
    image = ("--model", model, "--orthophoto", sheet, "--out", tmp_path / "m.tif")
    message = refused(SettingsError, *image, "--window", 7, "--seams", "glue", "--precision", "f8")
    for option in ("window_px", "seams", "precision"):
        assert option in message
    assert names(tmp_path) == set()


def test_names_of_the_map_that_cannot_be_used(model: Path, sheet: Path, tmp_path: Path) -> None:
    message = refused(
        SettingsError, "--model", model, "--orthophoto", sheet, "--out", tmp_path / "m.png"
    )
    assert f"Write {tmp_path / 'm.tif'}." in message
    options = ("--model", model, "--orthophoto", sheet, "--overwrite")
    assert "would replace an orthophoto" in refused(SettingsError, *options, "--out", sheet)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (TrainingError, {"--model": "no.safetensors"}, "there is no such checkpoint"),
        (InputError, {"--orthophoto": "no.tif"}, "no.tif: there is no such file"),
        (InputError, {"--area": "no.gpkg"}, "no.gpkg: there is no such file"),
        (InputError, {"--orthophoto": "."}, "Folders without orthophotos"),
    ],
)
def test_files_that_are_not_there(
    model: Path, sheet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    kind: type[Exception], options: dict[str, str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = {"--model": model, "--orthophoto": sheet, "--out": tmp_path / "out" / "m.tif"} | options
    assert message in refused(kind, *(part for pair in given.items() for part in pair))
    assert names(tmp_path) == set()


def test_a_box_outside_of_the_image(model: Path, sheet: Path, tmp_path: Path) -> None:
    message = refused(
        InputError, "--model", model, "--orthophoto", sheet, "--out", tmp_path / "m.tif",
        "--bbox", -0.7, 39.7, -0.6, 39.8,
    )  # fmt: skip
    assert f"--bbox -0.7 39.7 -0.6 39.8: is outside of orthophoto {sheet}." in message
    assert "unless --bbox-crs says another" in message


def test_a_damaged_image_leaves_no_map(model: Path, tmp_path: Path, sheet: Path) -> None:
    path = write(
        tmp_path / "d.tif", scene(), tiled=True, blockxsize=32, blockysize=32, compress="deflate"
    )
    with rasterio.open(path) as source:
        offset = int(source.get_tag_item("BLOCK_OFFSET_3_4", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[offset : offset + 64] = b"\xff" * 64
    path.write_bytes(content)
    out = tmp_path / "out" / "m.tif"
    message = refused(InputError, "--model", model, "--orthophoto", path, "--out", out, *SMALL)
    assert f"{path}: cannot be read at column 96, row 128" in message
    assert not out.exists()


# Killed, and by the command line


def test_a_killed_job_goes_on(
    model: Path, sheet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    tall = write(tmp_path / "tall.tif", np.tile(scene()[:, :, :70], (1, 7, 1)))
    options = ("--model", model, "--orthophoto", tall)
    mapped(tmp_path / "a.tif", *options)
    from pipeline.map_store import MapStore

    put = MapStore.put

    def killed(self: MapStore, row: int, layers: Any) -> None:
        if row > 700:
            raise KilledError
        put(self, row, layers)

    monkeypatch.setattr(MapStore, "put", killed)
    out = tmp_path / "b" / "a.tif"
    with pytest.raises(KilledError):
        mapped(out, *options)
    assert names(out.parent) == {".a.tif.progress"}
    rows: list[int] = []

    def noted(self: MapStore, row: int, layers: Any) -> None:
        rows.append(row)
        put(self, row, layers)

    monkeypatch.setattr(MapStore, "put", noted)
    mapped(out, *options)
    assert min(rows) >= 448
    assert names(out.parent) == {
        "a.tif",
        "a.tif.aux.xml",
        "a.qml",
        "a.confidence.tif",
        "a.confidence.qml",
    }
    for name in names(out.parent):
        assert (out.parent / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_warning_of_the_batch_system_keeps_what_is_done_and_the_next_start_goes_on(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tall = write(tmp_path / "tall.tif", np.tile(scene()[:, :, :70], (1, 7, 1)))
    options = ("--model", model, "--orthophoto", tall)
    mapped(tmp_path / "a.tif", *options)
    from pipeline.map_store import MapStore

    put = MapStore.put
    asked: list[tuple[str, ...]] = []

    def scontrol(*arguments: str) -> str:
        asked.append(arguments)
        return "JobId=17 JobState=RUNNING PreemptTime=None"

    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setattr(interruption, "_scontrol", scontrol)
    out = tmp_path / "b" / "a.tif"
    before = signal.getsignal(signal.SIGUSR1)
    # Before any row of blocks is whole; behind the first one; the same again.
    for warned, kept, requeued in ((100, 0, False), (700, 512, True), (700, 512, False)):

        def warn(self: MapStore, row: int, layers: Any, warned: int = warned) -> None:
            put(self, row, layers)
            if row > warned:
                os.kill(os.getpid(), signal.SIGUSR1)

        monkeypatch.setattr(MapStore, "put", warn)
        asked.clear()
        with pytest.raises(InterruptedMapError) as error:
            mapped(out, *options)
        assert error.value.exit_code == 75
        assert error.value.what == (
            f"The map of orthophoto {tall} was interrupted (SIGUSR1); {kept} of 1190 rows are kept."
        )
        # A job that has not come further has too little time, and would have it for ever.
        assert (("requeue", "17") in asked) == requeued
        assert not out.exists()
        assert signal.getsignal(signal.SIGUSR1) == before
    monkeypatch.setattr(MapStore, "put", put)
    capsys.readouterr()
    mapped(out, *options)
    assert f"orthophoto {tall}: going on behind row 512 of 1190\n" in capsys.readouterr().err
    for name in names(out.parent):
        assert (out.parent / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_killed_job_of_another_area_begins_anew(
    model: Path, sheet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    # The same box around both areas: only what is inside differs.
    boxes = [
        shapely.box(LEFT, TOP - 85, LEFT + 115, TOP).difference(
            shapely.box(LEFT + x, TOP - 30, LEFT + x + 20, TOP - 10)
        )
        for x in (10, 60)
    ]
    for number, shape in enumerate(boxes):
        frame = geopandas.GeoDataFrame(geometry=[shape], crs="EPSG:25830")
        frame.to_file(tmp_path / f"{number}.gpkg")
    from pipeline.map_store import MapStore

    def killed(self: MapStore, layer: str, draft: Path, tags: Any = None) -> None:
        raise KilledError

    options = ("--model", model, "--orthophoto", sheet)
    with monkeypatch.context() as context:
        context.setattr(MapStore, "write_cog", killed)
        with pytest.raises(KilledError):
            mapped(tmp_path / "m.tif", *options, "--area", tmp_path / "0.gpkg")
    found = mapped(tmp_path / "m.tif", *options, "--area", tmp_path / "1.gpkg")[0]
    expected = read(whole)[0]
    expected[20:60, 120:160] = 255
    np.testing.assert_array_equal(found, expected)


def test_the_command_line(model: Path, sheet: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "m.tif"
    command = [
        sys.executable, "-m", "pipeline", "map-sheet", "--model", str(model), "--orthophoto",
        str(sheet), "--out", str(out), *SMALL, "--bbox", str(LEFT), str(TOP - 30), str(LEFT + 20),
        str(TOP),
    ]  # fmt: skip
    folder = Path(cli.__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"map of orthophoto {sheet}" in done.stderr
    np.testing.assert_array_equal(read(out), read(whole)[:, :60, :40])


def test_a_real_scene(shared_data: Path, model: Path, tmp_path: Path) -> None:
    path = shared_data / "dubai" / "ortho" / "scene_6.tif"
    grid = geotiff.read_grid(path)
    window = Window(700, 900, 150, 130)
    out = tmp_path / "m.tif"
    options = ("--model", model, "--orthophoto", path, "--bbox", *grid.bounds_of(window))
    found = mapped(out, *options, "--threads", "2")
    assert found.shape == (1, 130, 150)
    assert found.max() < 3
    larger = Window(600, 800, 400, 300)
    options = ("--model", model, "--orthophoto", path, "--bbox", *grid.bounds_of(larger))
    around = mapped(tmp_path / "n.tif", *options)
    np.testing.assert_array_equal(found[0], around[0][100:230, 100:250])
