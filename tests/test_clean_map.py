"""The stage and the command: files, tags, styles, and nothing of a job that was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from typer.testing import CliRunner

from pipeline import cleaning, cli, config, stages, styles
from pipeline.block_raster import BlockRaster
from pipeline.class_rasters import NOMENCLATURE_TAG, read_legend, sidecars
from pipeline.confusion import from_json
from pipeline.errors import InputError, SettingsError
from pipeline.geotiff import RasterWriter, read_grid
from pipeline.grid import PixelGrid, Window
from pipeline.sections import CleaningSettings
from pipeline.tiling import Ground, TilePlan, write_plan

_ = 255
NAMES, COLORS = ("Forest", "Built-up", "Water"), ("#109C69", "#DC1E1E", "#0000FF")
NOMENCLATURE = """
classes:
  - {name: Forest, covers: [FDC], color: "#109C69"}
  - {name: Built-up, covers: [EDF], color: "#DC1E1E"}
  - {name: Water, covers: [AEM], color: "#0000FF"}
"""
BEFORE = np.array([[0, 0, 0, 0, _], [0, 1, 0, 2, 2], [0, 0, 0, 2, 2]], np.uint8)
AFTER = np.array([[0, 0, 0, 0, _], [0, 0, 0, 2, 2], [0, 0, 0, 2, 2]], np.uint8)
RULES = CleaningSettings(min_area_m2=2.0)


def written(
    path: Path, pixels: NDArray[np.uint8], nodata: int = 255, legend: bool = True, tag: str = "a"
) -> Path:
    grid = PixelGrid("EPSG:25830", 700_000.0, 4_400_000.0, 1.0, 1.0, *pixels.shape[::-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = {NOMENCLATURE_TAG: tag, "TESELA_CHECKPOINT": "c"}
    with RasterWriter(path, grid, "uint8", nodata, COLORS, tags) as raster:
        raster.write(grid.window, pixels)
    if legend:
        sidecars(path)[0].write_text(styles.class_pam(NAMES, COLORS), "utf-8")
    return path


def read(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as raster:
        assert raster.nodata == 255
        pixels: NDArray[np.uint8] = raster.read(1)
        return pixels


def test_a_file_is_cleaned_with_all_that_shows_it(tmp_path: Path) -> None:
    source, out = written(tmp_path / "map.tif", BEFORE), tmp_path / "out" / "map.tif"
    stages.clean_raster(source, out, RULES)
    np.testing.assert_array_equal(read(out), AFTER)
    assert {path.name for path in out.parent.iterdir()} == {"map.tif", "map.tif.aux.xml", "map.qml"}
    assert read_legend(out) == (NAMES, COLORS)
    assert out.with_suffix(".qml").read_text("utf-8") == styles.class_qml(NAMES, COLORS)
    assert sidecars(out)[0].read_text("utf-8") == styles.class_pam(NAMES, COLORS, [10, 0, 4])
    with rasterio.open(out) as raster:
        assert raster.colormap(1)[1] == (0xDC, 0x1E, 0x1E, 255)
        tags = raster.tags()
    assert tags[NOMENCLATURE_TAG] == "a"
    assert tags["TESELA_CHECKPOINT"] == "c"
    assert json.loads(tags["TESELA_CLEANING"]) == {
        "majority_px": 0, "min_area_m2": 2.0, "max_hole_m2": 0.0,
    }  # fmt: skip


def test_another_value_without_data_stays_without_data(tmp_path: Path) -> None:
    pixels = np.where(np.isin(BEFORE, _), 9, BEFORE).astype(np.uint8)
    source, out = written(tmp_path / "map.tif", pixels, nodata=9), tmp_path / "out.tif"
    stages.clean_raster(source, out, RULES)
    np.testing.assert_array_equal(read(out), AFTER)


def test_a_file_that_does_not_tell_its_classes_asks_for_them(tmp_path: Path) -> None:
    source, out = written(tmp_path / "map.tif", BEFORE, legend=False), tmp_path / "out.tif"
    with pytest.raises(InputError, match="names and colours of its classes"):
        stages.clean_raster(source, out, RULES)
    (tmp_path / "classes.yaml").write_text(NOMENCLATURE, "utf-8")
    stages.clean_raster(source, out, RULES, classes=tmp_path / "classes.yaml")
    assert read_legend(out) == (NAMES, COLORS)


def test_ids_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    pixels = np.where(BEFORE == 2, 7, BEFORE).astype(np.uint8)
    out = tmp_path / "out" / "map.tif"
    with pytest.raises(InputError, match="ids that are no classes") as caught:
        stages.clean_raster(written(tmp_path / "map.tif", pixels), out, RULES)
    assert caught.value.items == ("7: 4 pixels",)
    assert not list(out.parent.iterdir())


def test_the_map_itself_is_never_overwritten(tmp_path: Path) -> None:
    source = written(tmp_path / "map.tif", BEFORE)
    with pytest.raises(SettingsError, match=r"q\.cleaned is a GeoTIFF"):
        stages.clean_raster(Path("a.tif"), Path("q.cleaned"), CleaningSettings(majority_px=3))
    with pytest.raises(SettingsError, match="is the map itself"):
        stages.clean_raster(source, tmp_path / "." / "map.tif", RULES)


def test_threads_do_not_change_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    pixels = draw.integers(0, 3, (130, 90)).astype(np.uint8).repeat(6, 0).repeat(7, 1)
    pixels[draw.random(pixels.shape) < 0.05] = 1
    source = written(tmp_path / "map.tif", pixels)
    rules = CleaningSettings(majority_px=3, min_area_m2=60.0, max_hole_m2=100.0)
    stages.clean_raster(source, tmp_path / "one.tif", rules)
    monkeypatch.setattr(cleaning, "STRIP_PX", 5000)
    stages.clean_raster(source, tmp_path / "two.tif", rules, threads=2)
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "two.tif").read_bytes()
    assert (read(tmp_path / "one.tif") != pixels).any()


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline import cleaning, stages
from pipeline.sections import CleaningSettings

whole = cleaning.cleaned_bands
def broken(*given, **named):
    for band in whole(*given, **named):
        yield band
        os.kill(os.getpid(), signal.{signal})
cleaning.cleaned_bands = broken
stages.clean_raster(Path(sys.argv[1]), Path(sys.argv[2]), CleaningSettings(min_area_m2=2.0))
"""


def test_a_killed_job_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    source, out = written(tmp_path / "map.tif", BEFORE), tmp_path / "out" / "map.tif"
    code = KILLED.format(signal="SIGKILL")
    ran = subprocess.run([sys.executable, "-c", code, source, out], check=False)
    assert ran.returncode == -signal.SIGKILL
    left = list(out.parent.iterdir())
    assert left
    assert all(path.name.startswith(".map") and ".draft-" in path.name for path in left)
    stages.clean_raster(source, out, RULES)
    assert {path.name for path in out.parent.iterdir()} == {"map.tif", "map.tif.aux.xml", "map.qml"}


def test_what_ends_by_an_error_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cleaning.cleaned_bands

    def broken(*given: object, **named: object) -> object:
        yield from whole(*given, **named)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(cleaning, "cleaned_bands", broken)
    source, out = written(tmp_path / "map.tif", BEFORE), tmp_path / "out" / "map.tif"
    with pytest.raises(KeyboardInterrupt):
        stages.clean_raster(source, out, RULES)
    assert not list(out.parent.iterdir())


# A run


@pytest.fixture
def run(tmp_path: Path) -> stages.Run:
    """A run with the map of a sheet, its labels, and all of its ground for testing."""
    (tmp_path / "classes.yaml").write_text(NOMENCLATURE, "utf-8")
    orthophoto = written(tmp_path / "hill.tif", BEFORE)  # its grid is all that is asked of it
    table = f"sheet,orthophoto,siose,split\nhill,{orthophoto},{orthophoto},test\n"
    (tmp_path / "table.csv").write_text(table, "utf-8")
    (tmp_path / "run.yaml").write_text(
        f"{{run: {tmp_path}/r, sheets: table.csv, nomenclature: classes.yaml, "
        "cleaning: {min_area_m2: 2.0}}",
        "utf-8",
    )
    opened = stages.Run(config.load(tmp_path / "run.yaml"))
    paths, classes = opened.paths, opened.nomenclature
    written(paths.land_cover_map("hill"), BEFORE, tag=classes.fingerprint)
    paths.label_raster("hill").parent.mkdir(parents=True)
    grid, tags = read_grid(orthophoto), {NOMENCLATURE_TAG: classes.fingerprint}
    with BlockRaster(paths.label_raster("hill"), grid, "uint8", 255, COLORS, tags) as labels:
        labels.put(labels.encode(grid.window, AFTER))
    paths.tile_plan.parent.mkdir(parents=True)
    ground = Ground("hill", Window(0, 0, 5, 3), "test")
    plan = TilePlan((), (ground,), classes.fingerprint, 32)
    write_plan(plan, paths.tile_plan, paths.ground)
    return opened


def test_a_run_judges_its_cleaned_maps(run: stages.Run) -> None:
    stages.clean_map(run, "hill")
    np.testing.assert_array_equal(read(run.paths.cleaned_map("hill")), AFTER)
    np.testing.assert_array_equal(read(run.paths.land_cover_map("hill")), BEFORE)
    stages.confusion(run, "hill")
    path = run.paths.confusion("hill")
    assert np.diag(from_json(path.read_text("utf-8"), str(path)).counts).tolist() == [10, 0, 4]


def test_a_map_of_other_classes_is_refused(run: stages.Run) -> None:
    written(run.paths.land_cover_map("hill"), BEFORE, tag="another")
    with pytest.raises(InputError, match="was made with another nomenclature"):
        stages.clean_map(run, "hill")


def test_the_command_cleans_a_sheet_or_a_file(run: stages.Run, tmp_path: Path) -> None:
    settings = str(run.settings.sheets.parent / "run.yaml")
    call = CliRunner().invoke
    told = call(cli.app, ["clean-map", "--config", settings, "--sheet", "hill", "--threads", "2"])
    assert told.exit_code == 0, told.output
    assert run.paths.cleaned_map("hill").exists()
    source, out = written(tmp_path / "map.tif", BEFORE), tmp_path / "out.tif"
    told = call(
        cli.app,
        [
            "clean-map",
            "--map",
            str(source),
            "--out",
            str(out),
            "--max-hole",
            "1",
            "--majority",
            "1",
        ],
    )
    assert told.exit_code == 0, told.output
    np.testing.assert_array_equal(read(out), AFTER)
    for wrong in (
        ["--config", settings],
        ["--config", settings, "--sheet", "hill", "--min-area", "3"],
        ["--map", str(source)],
        ["--map", str(source), "--out", str(out), "--sheet", "hill"],
        ["--map", str(source), "--out", str(out)],
        ["--map", str(source), "--out", str(out), "--majority", "2"],
    ):
        told = call(cli.app, ["clean-map", *wrong])
        assert isinstance(told.exception, SettingsError), wrong
