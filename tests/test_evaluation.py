"""The evaluation of a sheet: against a reckoning over the whole, whatever windows and threads."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from pipeline import block_sweep, cli, config, stages
from pipeline.block_raster import BlockRaster
from pipeline.calibration import Calibration
from pipeline.class_rasters import NOMENCLATURE_TAG
from pipeline.confusion import confusion_counts
from pipeline.errors import InputError
from pipeline.evaluation import Evaluation, TileScore, best_tiles, from_json, worst_tiles
from pipeline.geotiff import RasterWriter, read_grid
from pipeline.grid import PixelGrid, Window
from pipeline.ground_blocks import read_blocks
from pipeline.outlines import BINS, OutlineCounts
from pipeline.tile_scores import TileScorer
from pipeline.tiling import Ground, TilePlan, lattice, write_plan
from tests.outline_reckoning import patches, reckoned

NAMES, COLORS = ("Forest", "Built-up", "Water"), ("#109C69", "#DC1E1E", "#0000FF")
NOMENCLATURE = """
classes:
  - {name: Forest, covers: [FDC], color: "#109C69"}
  - {name: Built-up, covers: [EDF], color: "#DC1E1E"}
  - {name: Water, covers: [AEM], color: "#0000FF"}
"""
ROWS, COLS = 1140, 1290
GROUND = (Window(100, 0, 700, 1140), Window(800, 300, 490, 333), Window(0, 1100, 100, 40))


@cache
def labels() -> NDArray[np.uint8]:
    return _kept(patches((ROWS, COLS), 3, 50, 11, masked=0.1))


@cache
def raw_map() -> NDArray[np.uint8]:
    found = np.roll(patches((ROWS, COLS), 3, 50, 11), (2, 3), axis=(0, 1))
    found[500:530, 500:560] = 255
    return _kept(found)


@cache
def cleaned_map() -> NDArray[np.uint8]:
    found = raw_map().copy()
    found[700:720, 300:400] = 1
    return _kept(found)


@cache
def per_cent() -> NDArray[np.uint8]:
    found = np.random.default_rng(2).integers(20, 101, (ROWS, COLS)).astype(np.uint8)
    found[raw_map() == 255] = 255
    return _kept(found)


def judged() -> NDArray[np.uint8]:
    """Labels on judged ground."""
    true = np.full((ROWS, COLS), 255, np.uint8)
    for part in GROUND:
        true[part.slices()] = labels()[part.slices()]
    return true


def _kept(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels.setflags(write=False)
    return pixels


def tile(accuracy: int, mixed: bool = True, place: int = 0, sheet: str = "a") -> TileScore:
    return TileScore(sheet, Window(place, 0, 1, 1), 100, accuracy, mixed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sheets with labels and maps, one of them judged; a run with cleaning and one without.

    The sheet of the run without is evaluated.
    """
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "classes.yaml").write_text(NOMENCLATURE, "utf-8")
    grids = {"hill": (ROWS, COLS), "dale": (40, 50)}
    lines = ["sheet,orthophoto,siose,split"]
    for (name, shape), split in zip(grids.items(), ("test", "train"), strict=True):
        left = 700_100.0 if name == "hill" else 600_000.0
        grid = PixelGrid("EPSG:25830", left, 4_400_000.0, 1.0, 1.0, *shape[::-1])
        with RasterWriter(folder / f"{name}.tif", grid, "uint8", 255) as raster:
            raster.write(grid.window, np.zeros(shape, np.uint8))
        lines.append(f"{name},{name}.tif,{name}.tif,{split}")
    (folder / "table.csv").write_text("\n".join(lines), "utf-8")
    for name, extra in (("plain", "{}"), ("cleaned", "{min_area_m2: 9}")):
        (folder / f"{name}.yaml").write_text(
            f"{{run: {folder}/{name}, sheets: table.csv, nomenclature: classes.yaml, "
            f"tiling: {{tile_px: 100, stride_px: 100}}, cleaning: {extra}, "
            "evaluation: {block_px: 150, boundary_px: 4}}",
            "utf-8",
        )
        _filled(opened(folder, name))
    stages.evaluation(opened(folder, "plain"), "hill")
    return folder


def _filled(run: stages.Run) -> None:
    """Write what the stage reads."""
    paths, print_ = run.paths, run.nomenclature.fingerprint
    tags = {NOMENCLATURE_TAG: print_}
    for path in (paths.label_raster("hill"), paths.land_cover_map("hill"), paths.tile_plan):
        path.parent.mkdir(parents=True)
    nothing = np.zeros((40, 50), np.uint8)
    rasters = {
        "hill": (labels(), raw_map(), cleaned_map(), per_cent()),
        "dale": (nothing, nothing, nothing, nothing),
    }
    ground = []
    for name, (true, *layers) in rasters.items():
        grid = read_grid(run.sheet(name).orthophoto)
        with BlockRaster(paths.label_raster(name), grid, "uint8", 255, COLORS, tags) as raster:
            for window in grid.blocks(512):
                raster.put(raster.encode(window, true[window.slices()]))
        files = paths.land_cover_map(name), paths.cleaned_map(name), paths.confidence(name)
        for path, pixels in zip(files, layers, strict=True):
            with RasterWriter(path, grid, "uint8", 255, tags=tags) as written:
                written.write(grid.window, pixels)
        parts = GROUND if name == "hill" else (grid.window,)
        split = "test" if name == "hill" else "train"
        ground += [Ground.on(grid, name, part, split) for part in parts]
    write_plan(TilePlan((), tuple(ground), print_, 100), paths.tile_plan, paths.ground)


def opened(folder: Path, name: str) -> stages.Run:
    return stages.Run(config.load(folder / f"{name}.yaml"))


def read(run: stages.Run, sheet: str) -> Evaluation:
    path = run.paths.evaluation(sheet)
    return from_json(path.read_text("utf-8"), str(path))


def test_a_sheet_is_judged_as_in_one_piece(folder: Path) -> None:
    run = opened(folder, "plain")
    found, true, said = read(run, "hill"), judged(), raw_map()
    by_distance, boundary = reckoned(true, said, 3, 4, labels())
    off_the_ground = reckoned(true, said, 3, 4)[0] != by_distance
    assert off_the_ground.any(axis=(0, 2)).all()  # outlines beyond the ground matter in each bin
    np.testing.assert_array_equal(found.outlines.by_distance, by_distance)
    np.testing.assert_array_equal(found.outlines.boundary, boundary)
    assert found.calibration == Calibration.of(true, said, per_cent(), 3)
    both = (true != 255) & (said != 255)
    assert found.pixels == both.sum() == found.calibration.pixels
    squares = read_blocks(run.paths.block_matrices("hill"))
    grid = read_grid(run.sheet("hill").orthophoto)
    assert (squares.crs, squares.side_m, squares.names) == (grid.crs, 150.0, NAMES)
    expected = {
        place: confusion_counts(true[window.slices()], said[window.slices()], 3)
        for window, place in lattice(grid, 150)
    }
    assert squares.counts.sum() == found.pixels
    for place, counts in zip(squares.places.tolist(), squares.counts, strict=True):
        np.testing.assert_array_equal(counts, expected[tuple(place)])


def test_tiles_are_those_of_a_reckoning_over_the_whole(folder: Path) -> None:
    run = opened(folder, "plain")
    true, said = judged(), raw_map()
    true[said == 255] = 255
    every = []
    for row in range(0, ROWS, 100):
        for col in range(0, COLS, 100):
            pixels = true[row : row + 100, col : col + 100]
            there = pixels != 255
            if 2 * there.sum() < 100 * 100:
                continue
            right = (pixels == said[row : row + 100, col : col + 100]) & there
            most = max((pixels == k).sum() for k in range(3))
            mixed = bool(20 * (there.sum() - most) >= there.sum())
            seen = Window(col, row, 100, 100)
            parts = [part for g in GROUND if (part := g.intersection(seen))]
            left, top = min(p.col for p in parts), min(p.row for p in parts)
            end, bottom = max(p.right for p in parts), max(p.bottom for p in parts)
            window = Window(left, top, end - left, bottom - top)
            every.append(TileScore("hill", window, int(there.sum()), int(right.sum()), mixed))
    assert len(every) > 40
    found = read(run, "hill")
    for most in (6, 12):
        assert found.best(most) == best_tiles(every, most)
        assert found.worst(most) == worst_tiles(every, most)
    assert len(found.tiles) == 24
    assert len({(t.window.width, t.window.height) for t in every}) > 1


def test_windows_and_threads_do_not_change_the_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(folder, "plain")
    paths = run.paths.evaluation("hill"), run.paths.block_matrices("hill")
    expected = [path.read_bytes() for path in paths]
    # The package shows the function of that name; the module lies behind it.
    module = sys.modules["pipeline.stages.evaluation"]
    for blocks, across, threads in ((1, 512, 1), (1, 8192, 3), (3, 1024, 2)):
        monkeypatch.setattr(module, "_BLOCKS_HIGH", blocks)
        monkeypatch.setattr(block_sweep, "ACROSS", across)
        stages.evaluation(run, "hill", threads)
        assert [path.read_bytes() for path in paths] == expected


def test_confidence_is_that_of_the_map_before_cleaning(folder: Path) -> None:
    run = opened(folder, "cleaned")
    stages.evaluation(run, "hill")
    found, true = read(run, "hill").calibration, judged()
    other = (cleaned_map() != raw_map()) & (true != 255)
    assert found.unknown == other.sum() > 500
    sure = np.where(other, np.uint8(255), per_cent())
    assert found == Calibration.of(true, cleaned_map(), sure, 3)


def test_without_confidence_all_pixels_are_unknown(folder: Path) -> None:
    settings = folder / "plain.yaml"
    (folder / "bare.yaml").write_text(
        settings.read_text("utf-8").replace("{run:", "{mapping: {confidence: false}, run:"), "utf-8"
    )
    run = opened(folder, "bare")
    stages.evaluation(run, "hill")
    found = read(run, "hill")
    assert found.calibration.unknown == found.pixels > 0
    assert json.loads(run.paths.evaluation("hill").read_text("utf-8"))["scores"]["ece"] is None


def test_the_log_says_what_is_known(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    text = (folder / "plain.yaml").read_text("utf-8")
    text = text.replace("{run:", "{mapping: {confidence: false}, run:")
    (folder / "bare.yaml").write_text(text, "utf-8")
    for name, sheet in (("bare", "hill"), ("plain", "hill"), ("plain", "dale")):
        stages.evaluation(opened(folder, name), sheet)
    found = read(opened(folder, "plain"), "hill")
    ece, mean = 100 * found.calibration.ece(), 100 * found.outlines.boundary_f().mean
    assert [r.getMessage() for r in caplog.records if r.name == "pipeline.stages.evaluation"] == [
        f"sheet hill: {found.pixels} pixels judged, mean boundary F-score {mean:.1f} %",
        f"sheet hill: {found.pixels} pixels judged, expected calibration error {ece:.1f} %, "
        f"mean boundary F-score {mean:.1f} %",
        "sheet dale: no test ground of its own",
    ]


def test_a_sheet_without_test_ground_has_empty_counts(folder: Path) -> None:
    run = opened(folder, "plain")
    call = ["evaluation", "--config", str(folder / "plain.yaml"), "--sheet", "dale"]
    told = CliRunner().invoke(cli.app, call)
    assert told.exit_code == 0, told.output
    assert read(run, "dale") == Evaluation.empty(NAMES, 4)
    assert len(read_blocks(run.paths.block_matrices("dale")).counts) == 0


def test_rasters_of_another_nomenclature_are_refused(folder: Path) -> None:
    (folder / "others.yaml").write_text(
        (folder / "plain.yaml").read_text("utf-8").replace("classes.yaml", "sea.yaml"), "utf-8"
    )
    (folder / "sea.yaml").write_text(NOMENCLATURE.replace("Water", "Sea"), "utf-8")
    with pytest.raises(InputError, match="was made with another nomenclature"):
        stages.evaluation(opened(folder, "others"), "hill")


# Values


def evaluation(seed: int = 0, sheet: str = "a") -> Evaluation:
    draw = np.random.default_rng(seed)
    return Evaluation(
        NAMES,
        Calibration(draw.integers(0, 9, (3, 101, 2)), 5),
        OutlineCounts(draw.integers(0, 9, (3, BINS, 2)), draw.integers(1, 9, (3, 4)), 4),
        (tile(70, sheet=sheet), TileScore(sheet, Window(3, 4, 5, 6), 30, 10, False)),
    )


def test_evaluations_add_up() -> None:
    one, other = evaluation(1), evaluation(2, "b")
    both = one + other
    np.testing.assert_array_equal(
        both.calibration.counts, one.calibration.counts + other.calibration.counts
    )
    assert both.calibration.unknown == 10
    assert both.outlines == one.outlines + other.outlines
    assert [t.sheet for t in both.tiles] == ["a", "a", "b", "b"]
    assert Evaluation.empty(NAMES, 4) + one == one != other
    with pytest.raises(ValueError, match="other classes"):
        one + dataclasses.replace(other, names=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"parts of \[2, 3\] classes"):
        dataclasses.replace(one, names=("a", "b"))


def test_json_comes_back() -> None:
    for value in (evaluation(), evaluation() + evaluation(3, "ñ"), Evaluation.empty(("a",), 1)):
        text = value.as_json()
        assert from_json(text, "x.json") == value
        assert from_json(text, "x.json").as_json() == text
    content = json.loads(evaluation().as_json())
    assert list(content)[:2] == ["layout", "classes"]
    assert content["scores"]["mean_boundary_f"] == pytest.approx(
        evaluation().outlines.boundary_f().mean
    )
    assert math.isnan(Evaluation.empty(("a",), 1).calibration.ece())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("layout", 2, "no evaluation of layout 1"),
        ("classes", ["a", "b"], r"parts of \[2, 3\] classes"),
        ("classes", "abc", "lists"),
        ("distance_edges_px", [1, 2], "other bins"),
        ("tolerance_px", None, "whole numbers"),
        ("boundary", [[1, 2]], "counts of shapes"),
        ("boundary", [[10**30] * 4] * 3, "fit together"),
        ("calibration", [{"wrong": [1], "right": [1]}], "cannot reshape"),
        ("tiles", [{"sheet": "a"}], "fit together"),
    ],
)
def test_json_of_something_else_is_told(key: str, value: object, message: str) -> None:
    content = {**json.loads(evaluation().as_json()), key: value}
    with pytest.raises(InputError, match=message):
        from_json(json.dumps(content), "x.json")
    del content[key]
    with pytest.raises(InputError, match=r"x\.json"):
        from_json(json.dumps(content), "x.json")


def test_text_that_is_no_json_is_told() -> None:
    with pytest.raises(InputError, match="is not JSON"):
        from_json("{", "x.json")


# Tiles


def test_best_and_worst_share_no_tile() -> None:
    tiles = [tile(accuracy, place=i) for i, accuracy in enumerate((90, 10, 50, 70, 30))]
    assert [t.correct for t in worst_tiles(tiles, 6)] == [10, 30, 50]
    assert [t.correct for t in best_tiles(tiles, 6)] == [90, 70]
    assert [t.correct for t in worst_tiles(tiles, 2)] == [10, 30]
    assert [t.correct for t in best_tiles(tiles, 2)] == [90, 70]
    assert best_tiles([], 3) == worst_tiles([], 3) == ()


def test_mixed_tiles_are_shown_as_best_before_those_of_one_class() -> None:
    tiles = [tile(100, False, 1), tile(100, False, 0), tile(80, True, 2), tile(95, True, 3)]
    tiles += [tile(accuracy, place=10 + accuracy) for accuracy in range(4)]
    assert [(t.correct, t.mixed) for t in best_tiles(tiles, 3)] == [
        (95, True),
        (80, True),
        (3, True),
    ]
    assert [t.window.col for t in best_tiles(tiles, 4)] == [3, 2, 0, 1]


def test_ties_are_broken_by_pixels_and_place() -> None:
    small = TileScore("a", Window(0, 0, 1, 1), 50, 40, True)
    tiles = [tile(80, place=7), tile(80, place=2), small, tile(80, place=2, sheet="b")]
    assert worst_tiles(tiles, 2) == (tiles[1], tiles[0])
    assert best_tiles(tiles, 2) == (tiles[3], small)


def test_keeping_a_few_of_each_window_keeps_the_few_of_the_whole() -> None:
    """4000 tiles of 4 pixels, row by row; accuracies and classes at random, many of them alike."""
    draw = np.random.default_rng(4)
    reference = draw.integers(0, 2, (160, 400)).astype(np.uint8)
    reference[::2] = reference[1::2]
    mapped = np.where(draw.random(reference.shape) < 0.6, reference, 1 - reference)
    mapped = mapped.astype(np.uint8)
    reference[draw.random(reference.shape) < 0.2] = 255
    whole = Window(0, 0, 400, 160)
    scorer = TileScorer("a", whole, 4, 2)
    for row in range(0, 160, 10):
        window = Window(0, row, 400, 10)
        part = window.slices()
        scorer.add(window, scorer.count(window, reference[part], mapped[part]))
    kept = scorer.scores([whole])
    every = []
    for row in range(0, 160, 4):
        for col in range(0, 400, 4):
            true, said = (ids[row : row + 4, col : col + 4] for ids in (reference, mapped))
            pixels = int((true != 255).sum())
            if pixels >= 8:
                few = min((true == 0).sum(), (true == 1).sum())
                right = int((true == said).sum())
                mixed = bool(Fraction(int(few), pixels) >= Fraction(1, 20))
                every.append(TileScore("a", Window(col, row, 4, 4), pixels, right, mixed))
    assert len(every) > 3000
    assert len(kept) == 24
    for most in (1, 5, 12):
        assert best_tiles(kept, most) == best_tiles(every, most)
        assert worst_tiles(kept, most) == worst_tiles(every, most)
