"""Drawing samples of maps: whose pixels, how many, in what order, and what is never replaced."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from pipeline import (
    area_estimates,
    cli,
    config,
    geotiff,
    publication,
    sample_chips,
    stages,
    styles,
)
from pipeline.class_rasters import NOMENCLATURE_TAG, sidecars
from pipeline.confusion import ConfusionMatrix
from pipeline.errors import InputError, OutputError, SettingsError, TeselaError
from pipeline.geotiff import RasterWriter
from pipeline.grid import PixelGrid, Window
from pipeline.map_digest import maps_digest
from pipeline.nomenclature import IGNORE
from pipeline.own_ground import _earlier, own_ground
from pipeline.run import Run
from pipeline.sample_chips import DETAIL, HEIGHT, ZOOM
from pipeline.sample_draw import SheetMap
from pipeline.sample_files import chips_folders, interpretation_digest, read_sample
from pipeline.stages import SampleDesign, sampling

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


def fill(sample: Path, statement: str) -> None:
    """Change points; the index of their geometries is nothing that plain SQLite knows."""
    with closing(sqlite3.connect(sample)) as base:
        names = base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in names:
            base.execute(f'DROP TRIGGER "{name}"')
        base.execute(statement)
        base.commit()


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
    assert design.pop("maps_digest") == maps_digest(
        {sheet: run.paths.land_cover_map(sheet) for sheet in GRIDS}
    )
    assert json.loads(design.pop("maps")) == {s: f"../maps/{s}.tif" for s in GRIDS}
    assert json.loads(design.pop("expected_users")) == dict.fromkeys(NAMES, 0.8)
    assert design == {
        "allocation": "neyman", "minimum": "10", "seed": "3", "target_se": "", "layout": "1",
        "points": "45", "nomenclature": run.nomenclature.fingerprint,
    }  # fmt: skip
    (chips,) = chips_folders(out)
    assert {f"{chips.name}/{path.name}" for path in chips.iterdir()} == set(frame["chip"])
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
    fill(run.paths.sample, "UPDATE sample SET reference = 'Water' WHERE id IN (4, 17)")
    before = run.paths.sample.read_bytes()
    with pytest.raises(OutputError, match="for 2 points would be lost"):
        stages.sample(run, PLAN)
    assert run.paths.sample.read_bytes() == before
    assert not chips_folders(run.paths.sample)
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
    with pytest.raises(SettingsError, match="are of one year") as caught:
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


def test_overlaps_are_found_with_few_transformations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by comparing all pairs; bounds in another system cost the most."""
    draw = np.random.default_rng(4)
    grids = [
        PixelGrid(
            zone, float(left + draw.uniform(0, 60_000)), float(4.4e6 + draw.uniform(0, 60_000)),
            50.0, 50.0, 60, 70,
        )
        for zone, left in 60 * [("EPSG:25830", 7.4e5), ("EPSG:25831", 2.3e5)]
    ]  # fmt: skip

    def meet(grid: PixelGrid, other: PixelGrid) -> bool:
        left, bottom, right, top = geotiff.bounds_in(grid, other.crs)
        west, south, east, north = other.bounds
        return left < east and west < right and bottom < north and south < top

    expected = [
        [number for number in range(place) if meet(grid, grids[number])]
        for place, grid in enumerate(grids)
    ]
    calls, real = [], geotiff.bounds_in

    def counted(grid: PixelGrid, crs: str) -> tuple[float, float, float, float]:
        calls.append(crs)
        return real(grid, crs)

    monkeypatch.setattr(geotiff, "bounds_in", counted)
    assert _earlier(grids) == expected
    assert sum(map(len, expected)) > 50
    assert len(calls) <= 2 * len(grids)


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
    (chips,) = chips_folders(out)
    assert len(list(chips.iterdir())) == 12
    with pytest.raises(SettingsError, match=r"^2 maps and 1 orthophoto: "):
        stages.sample_maps(maps, photos[:1], out)
    with pytest.raises(SettingsError, match=r"^1 map and 0 orthophotos: "):
        stages.sample_maps(maps[:1], [], out)
    with pytest.raises(InputError, match="other pixels than their orthophotos") as caught:
        stages.sample_maps(maps, photos[::-1], out)
    assert caught.value.items[0] == (
        f"{maps[0]}: 600 x 530 pixels of 0.5 x 0.5 from (700000, 4400000) in EPSG:25830; "
        f"{photos[1]}: 520 x 540 pixels of 0.5 x 0.5 from (700200, 4399950) in EPSG:25830"
    )
    assert len(caught.value.items) == 2
    with pytest.raises(SettingsError, match="names of their files"):
        stages.sample_maps([maps[0], photos[0]], [], out, chips=False)
    other = write_map(tmp_path / "other.tif", "east", tag="b")
    with pytest.raises(InputError, match="other classes than each other"):
        stages.sample_maps([maps[0], other], [], out, chips=False)
    (chips / "crisps.txt").write_text("mine")
    with pytest.raises(OutputError, match="other things in them"):
        stages.sample_maps(maps, photos, out, SampleDesign(12, minimum=3, seed=1))
    assert (chips / "crisps.txt").read_text() == "mine"


def bad_orthophoto(path: Path, sheet: str, shape: tuple[int, str]) -> Path:
    """An orthophoto of so many bands of some type, on the pixels of a sheet."""
    bands, kind = shape
    grid = GRIDS[sheet]
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=grid.width, height=grid.height, count=bands, dtype=kind,
        crs=grid.crs, transform=rasterio.Affine(*grid.geotransform),
    ) as target:  # fmt: skip
        target.write(np.ones((bands, grid.height, grid.width), kind))
    return path


def never_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(*args: object) -> None:
        raise AssertionError(args)

    monkeypatch.setattr(sampling, "count_strata", counted)


def test_all_files_that_cannot_be_used_are_told_before_any_pixel_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_counted(monkeypatch)
    good = write_map(tmp_path / "west.tif", "west")
    strange = write_map(tmp_path / "strange.tif", "east", tag="b")
    strange.rename(tmp_path / "unnamed.tif")  # without its side file
    thin = bad_orthophoto(tmp_path / "thin.tif", "west", (1, "uint8"))
    deep = bad_orthophoto(tmp_path / "deep.tif", "east", (3, "uint16"))
    out = tmp_path / "new" / "out" / "sample.gpkg"
    with pytest.raises(InputError) as caught:
        stages.sample_maps([good], [thin], out, PLAN)
    assert str(caught.value).startswith(f"orthophoto {thin}: cannot be used.")
    assert not out.parent.parent.exists()
    maps = [good, tmp_path / "unnamed.tif", tmp_path / "nope.tif", tmp_path / "nope2.tif"]
    with pytest.raises(InputError) as caught:
        stages.sample_maps(maps, [thin, deep, tmp_path / "no.tif", tmp_path / "no2.tif"], out, PLAN)
    told = "\n".join([caught.value.what, *caught.value.items])
    for path in (*maps[1:], thin, deep, tmp_path / "no.tif", tmp_path / "no2.tif"):
        assert str(path) in told
    assert "7 files cannot be used." in told
    assert "1 band of imagery" in told
    assert "uint16, not 8-bit" in told
    assert "does not say the names and colours of its classes" in told
    words = write_map(tmp_path / "words.tif", "west")
    with rasterio.open(words) as source:
        profile, ids = source.profile, source.read()
    with rasterio.open(words, "w", **{**profile, "dtype": "uint16", "nodata": 65535}) as target:
        target.write(ids.astype(np.uint16))
    with pytest.raises(InputError, match="its pixels are uint16"):
        stages.sample_maps([words], [], out, PLAN, chips=False)
    assert not out.parent.parent.exists()


def test_all_maps_without_names_of_classes_are_told(tmp_path: Path) -> None:
    maps = [write_map(tmp_path / f"{sheet}.tif", sheet) for sheet in GRIDS]
    for path in maps:
        sidecars(path)[0].unlink()
    out = tmp_path / "out" / "sample.gpkg"
    with pytest.raises(InputError, match=r"^2 files cannot be used") as caught:
        stages.sample_maps(maps, [], out, PLAN, chips=False)
    assert [sum(str(path) in item for item in caught.value.items) for path in maps] == [2, 2]
    assert caught.value.remedy.count("--nomenclature") == 1
    (tmp_path / "classes.yaml").write_text(NOMENCLATURE, "utf-8")
    with pytest.raises(InputError, match=r"^2 files cannot be used") as caught:
        stages.sample_maps(
            maps, [], out, PLAN, classes=tmp_path / "classes.yaml", chips=False
        )  # fmt: skip
    assert sum("was made with another nomenclature" in item for item in caught.value.items) == 2


def test_all_that_is_wrong_with_the_sheets_of_a_run_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_counted(monkeypatch)
    with pytest.raises(SettingsError, match="there are no sheets 'scene_9' and 'north'") as unknown:
        stages.sample(run, PLAN, ["scene_9", "west", "north"])
    assert unknown.value.items == ("sheets: west, east",)
    write_map(run.paths.land_cover_map("east"), "east", "another")
    thin = bad_orthophoto(run.sheet("west").orthophoto, "west", (1, "uint8"))
    with pytest.raises(InputError, match=r"^2 files cannot be used") as caught:
        stages.sample(run, PLAN)
    told = "\n".join(caught.value.items)
    assert f"orthophoto {thin}: cannot be used." in told
    assert f"{run.paths.land_cover_map('east')}: was made with another nomenclature" in told
    assert not run.paths.sample.parent.exists()


def test_a_sample_that_fails_on_its_way_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, photos = [write_map(tmp_path / "west.tif", "west")], [tmp_path / "photo.tif"]
    write_orthophoto(photos[0], "west")
    out = tmp_path / "new" / "out" / "sample.gpkg"

    def damaged(*args: object) -> None:
        raise InputError("damaged")

    monkeypatch.setattr(sampling, "_write_chips", damaged)
    with pytest.raises(InputError, match="damaged"):
        stages.sample_maps(maps, photos, out, PLAN)
    assert not out.parent.parent.exists()
    out.parent.mkdir(parents=True)
    (out.parent / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="damaged"):
        stages.sample_maps(maps, photos, out, PLAN)
    assert [path.name for path in out.parent.iterdir()] == ["notes.txt"]


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
    assert "run `python -m pipeline assess --config SETTINGS`" in told


def test_the_chips_that_a_sample_names_are_its_own_whenever_a_job_is_killed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run.paths.sample
    stages.sample(run, PLAN)
    (old,) = chips_folders(out)
    before, pictures = out.read_bytes(), {p.name: p.read_bytes() for p in old.iterdir()}
    renamed = publication._renamed

    def killed(draft: Path, target: Path) -> None:
        if target == out:
            raise KeyboardInterrupt
        renamed(draft, target)

    monkeypatch.setattr(publication, "_renamed", killed)
    other = SampleDesign(size=45, minimum=10, seed=4)
    with pytest.raises(KeyboardInterrupt):
        stages.sample(run, other)
    assert out.read_bytes() == before
    assert {p.name: p.read_bytes() for p in old.iterdir()} == pictures
    monkeypatch.undo()
    stages.sample(run, other)
    (new,) = chips_folders(out)
    assert new != old
    assert {
        Path(chip).parent.name for chip in geopandas.read_file(out, layer="sample")["chip"]
    } == {new.name}
    stages.sample(run, other, chips=False)
    assert not chips_folders(out)


def test_estimates_of_a_sample_that_is_replaced_are_removed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages.sample(run, PLAN, chips=False)
    stale = (run.paths.area_estimates, run.paths.area_estimates_table)
    for path in stale:
        path.write_text("of the old sample")
    with pytest.raises(SettingsError, match="points are too few"):
        stages.sample(run, SampleDesign(size=5), chips=False)
    assert all(path.exists() for path in stale)
    published = publication.published

    @contextmanager
    def killed(*targets: Path) -> Iterator[tuple[Path, ...]]:
        """Dies when all is written, and nothing is in its place."""
        with published(*targets) as drafts:
            yield drafts
            raise KeyboardInterrupt

    monkeypatch.setattr(sampling, "published", killed)
    before = run.paths.sample.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        stages.sample(run, SampleDesign(size=45, minimum=10, seed=4), chips=False)
    assert run.paths.sample.read_bytes() == before
    assert all(path.exists() for path in stale)  # the sample that they are of is still there
    monkeypatch.undo()
    stages.sample(run, PLAN, chips=False, overwrite=True)
    assert not any(path.exists() for path in stale)


def test_estimates_say_which_interpretation_they_are_of(run: Run) -> None:
    stages.sample(run, PLAN, chips=False)
    fill(run.paths.sample, "UPDATE sample SET reference = 'Water'")
    estimates = stages.assess(run)
    text = run.paths.area_estimates.read_text("utf-8")
    assert json.loads(text)["interpretation"] == interpretation_digest(run.paths.sample)
    assert area_estimates.from_json(text, "it").interpretation == estimates.interpretation != ""
    old = {key: value for key, value in json.loads(text).items() if key != "interpretation"}
    assert area_estimates.from_json(json.dumps(old), "it").interpretation == ""
    fill(run.paths.sample, "UPDATE sample SET reference = 'Forest' WHERE id = 1")
    assert interpretation_digest(run.paths.sample) != estimates.interpretation


def write_ids(path: Path, ids: NDArray[np.uint8], grid: PixelGrid) -> Path:
    with RasterWriter(path, grid, "uint8", IGNORE, COLORS, {}) as raster:
        raster.write(grid.window, ids)
    sidecars(path)[0].write_text(styles.class_pam(NAMES, COLORS), "utf-8")
    return path


def shifted_orthophoto(path: Path, value: int, up: int, left: int) -> Path:
    """Grey ground that reaches beyond the west's map: rows above, columns to the left."""
    grid = GRIDS["west"]
    with rasterio.open(
        path, "w", driver="GTiff", width=grid.width + left, height=grid.height + up, count=3,
        dtype="uint8", crs=grid.crs, tiled=True,
        transform=rasterio.Affine(0.5, 0, grid.left - left / 2, 0, -0.5, grid.top + up / 2),
    ) as target:  # fmt: skip
        pixels = np.full((3, grid.height + up, grid.width + left), value, np.uint8)
        pixels[0, up:, left:] = np.arange(grid.height)[:, None] // 4
        pixels[1, up:, left:] = np.arange(grid.width) // 4
        target.write(pixels)
    return path


def test_a_change_map_is_sampled_with_both_dates_in_its_chips(tmp_path: Path) -> None:
    first = write_map(tmp_path / "2005.tif", "west")
    later = classes_of("west")
    later[210:290, 20:200] = 1  # built since
    second = write_ids(tmp_path / "2010.tif", later, GRIDS["west"])
    with rasterio.open(second, "r+") as target:
        target.update_tags(**{NOMENCLATURE_TAG: "a"})
    changes = tmp_path / "changes.tif"
    stages.compare_maps(first, second, changes)
    photos = [
        shifted_orthophoto(tmp_path / "before.tif", 60, 5, 9),
        shifted_orthophoto(tmp_path / "after.tif", 180, 0, 0),
    ]
    out = tmp_path / "out" / "sample.gpkg"
    design = SampleDesign(60, rule="equal", minimum=5)
    stages.sample_maps([changes], photos, out, design)
    found = read_sample(out)
    strata = {s.name: (s.pixels, s.sampled) for s in found.strata if s.pixels}
    assert strata["Forest → Built-up"] == (80 * 180, 15)
    assert set(strata) == {
        "Forest, unchanged", "Forest → Built-up", "Built-up, unchanged", "Water, unchanged"
    }  # fmt: skip
    frame = geopandas.read_file(out, layer="sample")
    middle = DETAIL // 2 * ZOOM
    for point in frame.itertuples():
        with Image.open(out.parent / point.chip) as image:
            seen = np.asarray(image).astype(int)
        assert seen.shape == (sample_chips.height(2), 2 * HEIGHT + 8, 3)
        for left, blue in ((0, 60), (HEIGHT + 8, 180)):
            top = sample_chips.TITLE + middle
            pixel = seen[top : top + ZOOM, left + middle : left + middle + ZOOM].mean(axis=(0, 1))
            assert np.abs(pixel - (point.row // 4, point.col // 4, blue)).max() < 8, point.id
    with closing(sqlite3.connect(out)) as base:
        (style,) = base.execute("SELECT styleQML FROM layer_styles").fetchone()
    assert f'value="{sample_chips.height(2) + 5}"' in style
    # All of it in numbers: half of what seems built was so before.
    fill(out, "UPDATE sample SET reference = (SELECT name FROM strata WHERE "
         "strata.stratum = sample.stratum)")  # fmt: skip
    fill(out, "UPDATE sample SET reference = 'Forest, unchanged' WHERE id IN (SELECT id FROM "
         "sample WHERE reference = 'Forest → Built-up' ORDER BY id LIMIT 6)")  # fmt: skip
    estimates = stages.assess_sample(out)
    became = estimates.names.index("Forest → Built-up")
    assert estimates.area_m2[became] == pytest.approx(80 * 180 / 4 * 9 / 15)


def test_the_command_says_how_change_maps_are_sampled(tmp_path: Path) -> None:
    runner = CliRunner()
    told = " ".join(
        runner.invoke(cli.app, ["sample", "--help"], env={"COLUMNS": "300"}).output.split()
    )
    example = "sample --map changes.tif --orthophoto 2005.tif --orthophoto 2010.tif --out sample"
    assert example in told
    changes = write_map(tmp_path / "changes.tif", "west")
    before, after = (
        write_orthophoto(tmp_path / f"{year}.tif", "west") for year in ("2005", "2010")
    )
    done = runner.invoke(
        cli.app,
        ["sample", "--map", str(changes), "--orthophoto", str(before), "--orthophoto", str(after),
         "--out", str(tmp_path / "o"), "--size", "12", "--minimum", "3"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (chips,) = chips_folders(tmp_path / "o" / "sample.gpkg")
    with Image.open(chips / "00001.jpg") as image:
        assert image.size == (2 * HEIGHT + 8, sample_chips.height(2))


def test_every_change_map_has_both_its_orthophotos(tmp_path: Path) -> None:
    maps = [write_map(tmp_path / f"{sheet}.tif", sheet) for sheet in GRIDS]
    photos = [write_orthophoto(tmp_path / "o" / f"{sheet}.tif", sheet) for sheet in GRIDS]
    later = [write_orthophoto(tmp_path / "p" / f"{sheet}.tif", sheet) for sheet in GRIDS]
    out = tmp_path / "out" / "sample.gpkg"
    for given in (photos[:1], [*photos, later[0]], [*photos, *later, *photos]):
        with pytest.raises(SettingsError, match="or two: before and after"):
            stages.sample_maps(maps, given, out)
    with pytest.raises(SettingsError, match="the same orthophoto before and after") as same:
        stages.sample_maps(maps, [photos[0], later[0], photos[1], photos[1]], out)
    assert same.value.items == (f"{maps[1]}: {photos[1]}",)
    with pytest.raises(InputError, match="other pixels than their orthophotos") as caught:
        stages.sample_maps(maps, [*photos, *later], out)  # not by map
    assert len(caught.value.items) == 2
    stages.sample_maps(maps, [photos[0], later[0], photos[1], later[1]], out, PLAN)
    (chips,) = chips_folders(out)
    assert len(list(chips.iterdir())) == 45


def test_change_maps_of_many_classes_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "changes.tif"
    with RasterWriter(
        path, GRIDS["west"], "uint16", 65535, (), {"TESELA_CHANGES_OF": "a"}
    ) as raster:
        raster.write(GRIDS["west"].window, classes_of("west").astype(np.uint16))
    with pytest.raises(InputError, match="a change map of 16 classes or more") as caught:
        stages.sample_maps([path], [], tmp_path / "out" / "sample.gpkg", chips=False)
    assert "-ot Byte" not in str(caught.value)  # that would cut the values off


def test_pixels_that_do_not_cover_as_much_ground_are_refused(tmp_path: Path) -> None:
    """Half of the points on 4 ha and half on 64 ha would tell a tenth of the area's truth."""
    ids = np.zeros((40, 40), np.uint8)
    maps = [
        write_ids(
            tmp_path / f"{name}.tif", ids, PixelGrid("EPSG:25830", x, 4.4e6, size, size, 40, 40)
        )
        for name, x, size in (("fine", 4e5, 0.5), ("coarse", 4.1e5, 2.0), ("near", 4.2e5, 0.501))
    ]
    out = tmp_path / "out" / "sample.gpkg"
    with pytest.raises(InputError, match="do not cover as much ground") as caught:
        stages.sample_maps(maps, [], out, SampleDesign(60), chips=False)
    assert caught.value.items == (
        "0.25 m²: 1 sheet, fine", "4 m²: 1 sheet, coarse", "0.251 m²: 1 sheet, near"
    )  # fmt: skip
    assert "a sample of each" in caught.value.remedy
    assert not out.exists()
    stages.sample_maps([maps[0], maps[2]], [], out, SampleDesign(60), chips=False)
    assert read_sample(out).sampled.sum() == 60


@pytest.mark.parametrize(("top", "height"), [(43.5, 70), (0.35, 70), (9.0, 1800)])
def test_rows_in_degrees_that_do_not_cover_as_much_ground_are_refused(
    tmp_path: Path, top: float, height: int
) -> None:
    """0.7 degrees at 43 degrees differ by 1.1 %, at the equator by nothing."""
    grid = PixelGrid("EPSG:4258", -6.0, top, 0.01, 0.01, 5, height)
    path = write_ids(tmp_path / "a.tif", np.zeros((height, 5), np.uint8), grid)
    out = tmp_path / "out" / "sample.gpkg"
    if top < 1:
        stages.sample_maps([path], [], out, SampleDesign(50), chips=False)
        assert out.exists()
        return
    with pytest.raises(InputError, match="near the equator") as caught:
        stages.sample_maps([path], [], out, SampleDesign(50), chips=False)
    assert len(caught.value.items) == 1
    assert "gdalwarp -r near -t_srs" in caught.value.remedy
    assert not out.exists()


def test_no_class_of_the_map_is_left_without_points(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = np.zeros((100, 100), np.uint8)
    ids[0, :40], ids[1, 0] = 1, 2
    grid = PixelGrid("EPSG:25830", 4e5, 4.4e6, 0.5, 0.5, 100, 100)
    path, out = write_ids(tmp_path / "a.tif", ids, grid), tmp_path / "out" / "sample.gpkg"
    for minimum in (0, 1):
        with pytest.raises(SettingsError, match="fewer than 2 points") as caught:
            stages.sample_maps(
                [path], [], out, SampleDesign(80, minimum=minimum), chips=False
            )  # fmt: skip
        assert not out.exists()
        told = "\n".join(caught.value.items).replace("\u202f", " ")
        assert told.startswith(f"Built-up: {minimum} of 40 pixels")
        assert ("Water" in told) == (minimum == 0)
        least = int(caught.value.remedy.split("--size ")[1].split()[0])
        stages.sample_maps([path], [], out, SampleDesign(least, minimum=minimum), chips=False)
        assert (read_sample(out).sampled[:3] >= (2, 2, 1)).all()
        with pytest.raises(SettingsError, match="fewer than 2 points"):
            stages.sample_maps(
                [path], [], out, SampleDesign(least - 1, minimum=minimum), chips=False
            )
        out.unlink()
    caplog.clear()
    with caplog.at_level("INFO"):
        stages.sample_maps([path], [], out, SampleDesign(5, minimum=2), chips=False)
    assert read_sample(out).sampled.tolist() == [2, 2, 1, 0]
    assert "inf" not in caplog.text.replace("INFO", "")
    assert "Water: 1 point in 0.0" in caplog.text
    assert "Built-up: 2 points in 0.4" in caplog.text
    assert caplog.text.count("mapped nowhere") == 1


def test_more_maps_than_can_be_open_are_sampled(tmp_path: Path) -> None:
    ids, paths = np.zeros((4, 4), np.uint8), []
    for number in range(60):
        grid = PixelGrid("EPSG:25830", 4e5 + 1.5 * number, 4.4e6, 0.5, 0.5, 4, 4)
        paths.append(write_ids(tmp_path / f"{number}.tif", ids, grid))
    out = tmp_path / "out" / "sample.gpkg"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(number) for number in os.listdir("/dev/fd")}  # noqa: PTH208 - no folder
    free = [number for number in range(len(used) + 31) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[30], limits[1]))
    try:
        stages.sample_maps(paths, [], out, SampleDesign(60), chips=False, threads=2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    # Each sheet but the first shares a column with the one before.
    assert read_sample(out).mapped_pixels.tolist() == [4 * (3 * 60 + 1), 0, 0, 0]


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
    assert f"assess--config{settings}`" in "".join(done.output.split())  # lines are wrapped
    files = ["sample", "--map", str(run.paths.land_cover_map("west")), "--no-chips"]
    done = runner.invoke(
        cli.app,
        [*files, "--out", str(tmp_path / "o"), "--nomenclature", str(run.settings.nomenclature),
         "--target-se", "0.05", "--allocation", "equal", "--minimum", "2"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"assess--sample{tmp_path / 'o' / 'sample.gpkg'}`" in "".join(done.output.split())
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
        [*files, "--out", str(tmp_path / "s.gpkg")],
        ["sample", "--config", str(settings), "--sheets", " , "],
    ):
        failed = runner.invoke(cli.app, wrong)
        assert isinstance(failed.exception, SettingsError), wrong
    too_few = runner.invoke(cli.app, [*of_run, "--size", "90"])
    assert isinstance(too_few.exception, TeselaError)
    assert "90 points are too few" in str(too_few.exception)
