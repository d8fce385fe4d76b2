"""Drawing samples of maps: whose pixels, how many, in what order, and what is never replaced."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from pipeline import cli, config, stages, styles
from pipeline.class_rasters import NOMENCLATURE_TAG, sidecars
from pipeline.confusion import ConfusionMatrix
from pipeline.errors import InputError, OutputError, SettingsError, TeselaError
from pipeline.geotiff import RasterWriter
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE
from pipeline.own_ground import own_ground
from pipeline.run import Run
from pipeline.sample_chips import DETAIL, ZOOM
from pipeline.sample_draw import SheetMap
from pipeline.sample_files import read_sample
from pipeline.stages import SampleDesign

NAMES, COLORS = (
    ("Forest", "Built-up", "Water", "Road"),
    ("#109C69", "#DC1E1E", "#0000FF", "#777777"),
)
NOMENCLATURE = "classes:\n" + "".join(
    f'  - {{name: {name}, covers: [{cover}], color: "{color}"}}\n'
    for name, color, cover in zip(NAMES, COLORS, ("FDC", "EDF", "AEM", "VAP"), strict=True)
)
GRIDS = {
    "west": PixelGrid("EPSG:25830", 700_000.0, 4_400_000.0, 0.5, 0.5, 600, 530),
    # 200 columns and 430 rows of it lie in the sheet in the west.
    "east": PixelGrid("EPSG:25830", 700_200.0, 4_399_950.0, 0.5, 0.5, 520, 540),
}
PLAN = SampleDesign(size=45, minimum=10, seed=3)


def classes_of(sheet: str) -> NDArray[np.uint8]:
    """Forest with towns and a lake, nowhere a road; some ground is not mapped."""
    grid = GRIDS[sheet]
    ids = np.zeros((grid.height, grid.width), np.uint8)
    ids[40:200, 30:300] = 1
    ids[300:420, 350:480] = 2
    ids[500:520, 100:400] = IGNORE
    if sheet == "west":
        ids[110:150, 560:] = IGNORE  # where the other sheet lies, too
    return ids


def write_map(path: Path, sheet: str, tag: str = "a") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid, tags = GRIDS[sheet], {NOMENCLATURE_TAG: tag}
    with RasterWriter(path, grid, "uint8", IGNORE, COLORS, tags) as raster:
        raster.write(grid.window, classes_of(sheet))
    sidecars(path)[0].write_text(styles.class_pam(NAMES, COLORS), "utf-8")
    return path


def write_orthophoto(path: Path, sheet: str) -> Path:
    """Red says the row, green the column, both in steps of four pixels; blue nothing."""
    grid = GRIDS[sheet]
    rows, cols = np.indices((grid.height, grid.width))
    image = np.stack([rows // 4, cols // 4, np.full_like(rows, 40)]).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=grid.width, height=grid.height, count=3, dtype="uint8",
        crs=grid.crs, transform=rasterio.Affine(*grid.geotransform), tiled=True,
    ) as target:  # fmt: skip
        target.write(image)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of two sheets that overlap; only the first has labels."""
    lines = ["sheet,orthophoto,siose,split"]
    for sheet, split in (("west", "test"), ("east", "map")):
        write_orthophoto(tmp_path / "data" / f"{sheet}.tif", sheet)
        lines.append(f"{sheet},data/{sheet}.tif,{'base.gpkg' * (split == 'test')},{split}")
    (tmp_path / "sheets.csv").write_text("\n".join(lines), "utf-8")
    (tmp_path / "classes.yaml").write_text(NOMENCLATURE, "utf-8")
    values = {
        "run": str(tmp_path / "run"), "sheets": str(tmp_path / "sheets.csv"),
        "nomenclature": str(tmp_path / "classes.yaml"), "seed": 3,
    }  # fmt: skip
    run = Run(config.from_mapping(values, "test settings"))
    for sheet in GRIDS:
        write_map(run.paths.land_cover_map(sheet), sheet, run.nomenclature.fingerprint)
    return run


def population() -> dict[tuple[float, float], int]:
    """Class of each piece of mapped ground by its centre, that of the first sheet that maps it."""
    found: dict[tuple[float, float], int] = {}
    for sheet, grid in GRIDS.items():
        for (row, col), value in np.ndenumerate(classes_of(sheet)):
            place = grid.left + (col + 0.5) * 0.5, grid.top - (row + 0.5) * 0.5
            if value != IGNORE and place not in found:
                found[place] = int(value)
    return found


def test_a_run_is_sampled_with_all_that_belongs_to_it(run: Run, tmp_path: Path) -> None:
    stages.sample(run, PLAN)
    out = run.paths.sample
    found, ground = read_sample(out), population()
    pixels = np.bincount(list(ground.values()), minlength=4)
    assert found.names == NAMES
    assert found.mapped_pixels.tolist() == pixels.tolist()
    np.testing.assert_allclose(found.mapped_area_m2, pixels / 4)
    assert found.sampled.sum() == 45
    assert (found.sampled[:3] >= 10).all()
    assert found.sampled[3] == 0
    frame = geopandas.read_file(out, layer="sample")
    assert frame.crs == "EPSG:25830"
    places = list(zip(frame.geometry.x, frame.geometry.y, strict=True))
    assert len(set(places)) == 45
    assert [ground[place] for place in places] == frame["stratum"].tolist()
    for point in frame.itertuples():
        assert classes_of(point.sheet)[point.row, point.col] == point.stratum
    assert set(frame["sheet"]) == set(GRIDS)
    # Blind: neither the classes nor the sheets come one after the other.
    for name in ("stratum", "sheet"):
        values = frame[name].tolist()
        assert sum(a != b for a, b in pairwise(values)) > 10
    design = dict(found.design)
    assert json.loads(design.pop("maps")) == {s: f"../maps/{s}.tif" for s in GRIDS}
    assert json.loads(design.pop("expected_users")) == dict.fromkeys(NAMES, 0.8)
    assert design == {
        "allocation": "neyman", "minimum": "10", "seed": "3", "target_se": "", "layout": "1",
        "points": "45", "nomenclature": run.nomenclature.fingerprint,
    }  # fmt: skip
    chips = out.parent / "chips"
    assert {f"chips/{path.name}" for path in chips.iterdir()} == set(frame["chip"])
    middle = DETAIL // 2 * ZOOM
    for point in frame.itertuples():
        with Image.open(out.parent / point.chip) as image:
            seen = np.asarray(image).astype(int)[middle : middle + ZOOM, middle : middle + ZOOM]
        true = (point.row // 4, point.col // 4, 40)
        assert np.abs(seen.mean(axis=(0, 1)) - true).max() < 6, point.id


def test_the_same_seed_gives_the_same_bytes_whatever_the_threads(run: Run) -> None:
    folder = run.paths.sample.parent

    def made() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    stages.sample(run, PLAN, ["west"])
    first = made()
    stages.sample(run, PLAN, ["west"], threads=2)
    assert made() == first
    stages.sample(run, SampleDesign(size=45, minimum=10, seed=4), ["west"], chips=False)
    again = made()
    assert again.keys() == {"sample.gpkg"}  # chips of other points would be taken for theirs
    assert again["sample.gpkg"] != first["sample.gpkg"]
    assert set(geopandas.read_file(run.paths.sample, layer="sample")["sheet"]) == {"west"}


def test_the_runs_own_matrix_says_how_sure_the_classes_are(run: Run) -> None:
    counts = np.diag([90, 60, 100, 0])
    counts[0, 1], counts[1, 0] = 40, 10
    path = run.paths.confusion("west")
    path.parent.mkdir(parents=True)
    path.write_text(ConfusionMatrix(NAMES, counts).as_json(), "utf-8")
    stages.sample(run, SampleDesign(target_se=0.02, minimum=10), chips=False)
    found = read_sample(run.paths.sample)
    # Perfect as it seems, water is planned with 95 %; of roads nothing is known.
    assert json.loads(found.design["expected_users"]) == pytest.approx(
        {"Forest": 0.9, "Built-up": 0.6, "Water": 0.95, "Road": 0.8}
    )
    assert found.design["target_se"] == "0.02"
    weights = found.mapped_area_m2 / found.mapped_area_m2.sum()
    spread = np.sqrt([0.09, 0.24, 0.0475, 0.16])
    error = np.sqrt((weights**2 * spread**2 / np.maximum(found.sampled, 1)).sum())
    assert 0.0195 < error <= 0.02
    other = ConfusionMatrix(("a", "b"), np.eye(2, dtype=np.int64))
    path.write_text(other.as_json(), "utf-8")
    with pytest.raises(InputError, match="has other classes than the run"):
        stages.sample(run, PLAN, overwrite=True)


def test_a_sample_that_somebody_has_begun_is_kept(run: Run) -> None:
    stages.sample(run, PLAN, chips=False)
    frame = geopandas.read_file(run.paths.sample, layer="sample")
    with closing(sqlite3.connect(run.paths.sample)) as base:
        names = base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in names:
            base.execute(f'DROP TRIGGER "{name}"')
        base.execute("UPDATE sample SET reference = 'Water' WHERE id IN (4, 17)")
        base.commit()
    before = run.paths.sample.read_bytes()
    with pytest.raises(OutputError, match="for 2 points would be lost"):
        stages.sample(run, PLAN)
    assert run.paths.sample.read_bytes() == before
    assert not (run.paths.sample.parent / "chips").exists()
    stages.sample(run, PLAN, chips=False, overwrite=True)
    again = geopandas.read_file(run.paths.sample, layer="sample")
    assert again["reference"].isna().all()
    assert again.drop(columns="reference").equals(frame.drop(columns="reference"))


def test_what_cannot_be_sampled_is_told_before_anything_is_read(run: Run) -> None:
    for sheet in GRIDS:
        run.paths.land_cover_map(sheet).unlink()
    with pytest.raises(InputError, match="2 of 2 sheets have no map yet") as caught:
        stages.sample(run, PLAN)
    assert len(caught.value.items) == 2
    with pytest.raises(SettingsError, match="there is no sheet 'north'"):
        stages.sample(run, PLAN, ["north"])


def test_years_of_a_place_are_not_mixed(run: Run) -> None:
    table = run.settings.sheets
    text = table.read_text("utf-8").replace("split", "split,year,place")
    text = text.replace(",test", ",test,2010,x").replace(",map", ",map,2017,x")
    table.write_text(text, "utf-8")
    with pytest.raises(SettingsError, match="is of one year") as caught:
        stages.sample(Run(run.settings), PLAN)
    assert caught.value.items == ("x: sheets of 2010 and 2017",)
    stages.sample(Run(run.settings), PLAN, ["east"], chips=False)
    assert run.paths.sample.exists()


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.17, -0.23)])
def test_common_ground_is_that_of_the_first_sheet_that_maps_it(shift: tuple[float, float]) -> None:
    draw = np.random.default_rng(2)
    grids = [
        PixelGrid("EPSG:25830", 100.0, 200.0, 0.5, 0.5, 12, 9),
        PixelGrid("EPSG:25830", 103.0 + shift[0], 198.0 + shift[1], 0.5, 0.5, 11, 13),
        PixelGrid("EPSG:25830", 101.0, 199.0, 0.25, 0.4, 20, 21),
        PixelGrid("EPSG:25830", 900.0, 900.0, 0.5, 0.5, 5, 5),
    ]
    pixels = [
        draw.choice([0, 1, 2, IGNORE], (grid.height, grid.width)).astype(np.uint8) for grid in grids
    ]

    def sheet(number: int) -> SheetMap:
        return SheetMap(
            str(number), grids[number], lambda window: pixels[number][window.slices()].copy()
        )

    found = own_ground([sheet(number) for number in range(4)])
    for number, grid in enumerate(grids):
        expected = pixels[number].copy()
        for row, col in np.ndindex(expected.shape):
            x = grid.left + (col + 0.5) * grid.pixel_width
            y = grid.top - (row + 0.5) * grid.pixel_height
            for other, before in zip(grids[:number], pixels[:number], strict=True):
                down = int(np.floor((other.top - y) / other.pixel_height))
                across = int(np.floor((x - other.left) / other.pixel_width))
                inside = 0 <= down < other.height and 0 <= across < other.width
                if inside and before[down, across] != IGNORE:
                    expected[row, col] = IGNORE
        np.testing.assert_array_equal(found[number].read(grid.window), expected)
        for window in grid.blocks(4):
            np.testing.assert_array_equal(found[number].read(window), expected[window.slices()])
    assert (found[3].read(Window(0, 0, 5, 5)) == pixels[3]).all()
    assert (found[1].read(grids[1].window) != pixels[1]).any()


def test_common_ground_in_two_systems_is_told(caplog: pytest.LogCaptureFixture) -> None:
    zone30 = PixelGrid("EPSG:25830", 756_000.0, 4_433_000.0, 1.0, 1.0, 3000, 3000)
    zone31 = PixelGrid("EPSG:25831", 243_000.0, 4_433_000.0, 1.0, 1.0, 3000, 3000)

    def never(window: Window) -> NDArray[np.uint8]:
        raise AssertionError(window)

    found = own_ground([SheetMap("a", zone30, never), SheetMap("b", zone31, never)])
    assert [sheet.sheet for sheet in found] == ["a", "b"]
    assert "a and b overlap in two coordinate systems" in caplog.text


def test_any_maps_are_sampled(tmp_path: Path) -> None:
    maps = [write_map(tmp_path / f"{sheet}.tif", sheet) for sheet in GRIDS]
    photos = [write_orthophoto(tmp_path / "o" / f"{sheet}.tif", sheet) for sheet in GRIDS]
    out = tmp_path / "out" / "sample.gpkg"
    stages.sample_maps(maps, photos, out, SampleDesign(12, minimum=3))
    found = read_sample(out)
    assert found.mapped_pixels.tolist() == np.bincount(
        list(population().values()), minlength=4
    ).tolist()  # fmt: skip
    assert json.loads(found.design["maps"]) == {s: f"../{s}.tif" for s in GRIDS}
    assert len(list((out.parent / "chips").iterdir())) == 12
    with pytest.raises(SettingsError, match="2 maps and 1 orthophotos"):
        stages.sample_maps(maps, photos[:1], out)
    with pytest.raises(InputError, match="other pixels than their orthophotos") as caught:
        stages.sample_maps(maps, photos[::-1], out)
    assert len(caught.value.items) == 2
    with pytest.raises(SettingsError, match="names of their files"):
        stages.sample_maps([maps[0], photos[0]], [], out, chips=False)
    other = write_map(tmp_path / "other.tif", "east", tag="b")
    with pytest.raises(InputError, match="other classes than each other"):
        stages.sample_maps([maps[0], other], [], out, chips=False)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "chips").mkdir()
    (tmp_path / "taken" / "chips" / "crisps.txt").write_text("mine")
    with pytest.raises(OutputError, match="other things in it"):
        stages.sample_maps(maps, photos, tmp_path / "taken" / "sample.gpkg")
    assert (tmp_path / "taken" / "chips" / "crisps.txt").read_text() == "mine"


def test_people_are_told_what_was_drawn_and_what_to_do(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        stages.sample(run, SampleDesign(target_se=0.05, minimum=10), chips=False)
    told = caplog.text.replace("\u202f", " ")
    # 0.4 * sqrt(0.819**2 / 49 + 0.119**2 / 10 + 0.062**2 / 10) = 0.0498; with 48 it is 0.0502.
    assert "sample of 69 points; expected standard error" in told
    assert "accuracy: 4.98 % (5 % were asked for)" in told
    assert "Water: 10 points in 6.2 % of the area; expected user's accuracy 80.0 %" in told
    assert "Road: mapped nowhere" in told
    assert f"{run.paths.sample}: open it in QGIS, fill `reference` of every point" in told


def test_the_command_takes_a_run_or_files(run: Run, tmp_path: Path) -> None:
    stages.sample(run, PLAN, chips=False)  # with the run's own seed
    before = run.paths.sample.read_bytes()
    run.paths.sample.unlink()
    runner = CliRunner()
    settings = tmp_path / "run.yaml"
    settings.write_text(
        f"run: {run.settings.run}\nsheets: {run.settings.sheets}\n"
        f"nomenclature: {run.settings.nomenclature}\nseed: 3\n"
    )
    of_run = ["sample", "--config", str(settings), "--sheets", "west,east", "--no-chips"]
    done = runner.invoke(cli.app, [*of_run, "--size", "45", "--minimum", "10"])
    assert done.exit_code == 0, done.output
    assert run.paths.sample.read_bytes() == before
    files = ["sample", "--map", str(run.paths.land_cover_map("west")), "--no-chips"]
    done = runner.invoke(
        cli.app,
        [*files, "--out", str(tmp_path / "o"), "--nomenclature", str(run.settings.nomenclature),
         "--target-se", "0.05", "--allocation", "equal", "--minimum", "2"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = read_sample(tmp_path / "o" / "sample.gpkg")
    assert len(set(found.sampled[:3])) <= 2
    assert found.design["allocation"] == "equal"
    assert runner.invoke(cli.app, [*files, "--allocation", "fair"]).exit_code == 2
    for wrong in (
        files,
        [*files, "--out", "o", "--sheets", "west"],
        [*of_run, "--out", "o"],
        [*of_run, "--size", "90", "--target-se", "0.1"],
        [*of_run, "--target-se", "0"],
    ):
        failed = runner.invoke(cli.app, wrong)
        assert isinstance(failed.exception, SettingsError), wrong
    too_few = runner.invoke(cli.app, [*of_run, "--size", "90"])
    assert isinstance(too_few.exception, TeselaError)
    assert "90 points are too few" in str(too_few.exception)
