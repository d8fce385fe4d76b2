"""Ground that several sheets show is judged once."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline import config, stages
from pipeline.block_raster import BlockRaster
from pipeline.class_rasters import NOMENCLATURE_TAG
from pipeline.confusion import ConfusionMatrix, from_json
from pipeline.errors import InputError
from pipeline.geotiff import RasterWriter
from pipeline.grid import PixelGrid, Window
from pipeline.judged_ground import judged_ground, read_judged_ground
from pipeline.nomenclature import Nomenclature, parse
from pipeline.sheets import Sheet
from pipeline.tiling import Ground, TilePlan, write_plan

CRS = "EPSG:25830"
COLORS = ("#109C69", "#0000FF")
CONTENT = {
    "classes": [
        {"name": "Forest", "covers": ["FDC"], "color": COLORS[0]},
        {"name": "Water", "covers": ["AEM"], "color": COLORS[1]},
    ]
}


@pytest.fixture(scope="module")
def classes() -> Nomenclature:
    return parse(CONTENT, "classes.yaml")


def sheets_of(*names: str, **years: int) -> dict[str, Sheet]:
    return {
        name: Sheet(name, Path(), Path(), "test", years.get(name), line, name)
        for line, name in enumerate(names)
    }


def grid(left: float, top: float, width: int, height: int, pixel: float = 1.0) -> PixelGrid:
    return PixelGrid(CRS, left, top, pixel, pixel, width, height)


def whole(name: str, pixels: PixelGrid, split: str = "test") -> Ground:
    return Ground.on(pixels, name, pixels.window, split)


def no_raster(name: str) -> PixelGrid:
    """Where a test wants no other sheet's raster to be opened."""
    raise InputError(f"{name}.tif: there is no such file.")


def covered(windows: list[Window], within: PixelGrid) -> NDArray[np.int64]:
    """How often each pixel is in a window."""
    times = np.zeros((within.height, within.width), np.int64)
    for window in windows:
        times[window.slices()] += 1
    return times


# Two sheets of one flight: columns 4 and 5, rows 1 to 3 of the first are on the second as well.
FIRST, SECOND = grid(700_000, 4_400_000, 6, 4), grid(700_004, 4_399_999, 6, 4)


def test_common_ground_is_the_earlier_sheets() -> None:
    ground = [whole("b", SECOND), whole("a", FIRST)]
    table = sheets_of("a", "b")
    assert judged_ground(ground, FIRST, table, "a") == [Window(0, 0, 6, 4)]
    assert judged_ground(ground, SECOND, table, "b") == [Window(2, 0, 4, 3), Window(0, 3, 6, 1)]
    table = sheets_of("b", "a")
    assert judged_ground(ground, SECOND, table, "b") == [Window(0, 0, 6, 4)]
    assert covered(judged_ground(ground, FIRST, table, "a"), FIRST).tolist() == [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
    ]


@pytest.mark.parametrize(
    ("years", "pixels"),
    [
        ({}, 18),  # nobody tells: one flight
        ({"a": 2010, "b": 2010}, 18),
        ({"a": 2005, "b": 2010}, 24),
        ({"b": 2010}, 24),  # of an unknown year: nothing says that it is the same ground cover
    ],
)
def test_only_ground_of_the_same_year_is_common(years: dict[str, int], pixels: int) -> None:
    ground = [whole("a", FIRST), whole("b", SECOND)]
    found = judged_ground(ground, SECOND, sheets_of("a", "b", **years), "b")
    assert sum(window.pixels for window in found) == pixels


def test_only_test_ground_of_sheets_in_the_table_and_of_the_same_crs_counts() -> None:
    whole_sheet = [Window(0, 0, 6, 4)]
    for other, table in (
        (whole("a", FIRST, "train"), sheets_of("a", "b")),
        (whole("a", FIRST), sheets_of("b")),
        (Ground("a", FIRST.window, "test", "EPSG:25831", FIRST.bounds), sheets_of("a", "b")),
    ):
        assert judged_ground([other, whole("b", SECOND)], SECOND, table, "b") == whole_sheet
    own = [whole("a", FIRST), whole("b", SECOND, "validation")]
    assert judged_ground(own, SECOND, sheets_of("a", "b"), "b") == []


def test_a_pixel_is_the_earlier_sheets_if_its_centre_is() -> None:
    table = sheets_of("a", "b")
    for shift, first in ((0.25, 3), (0.49, 3), (0.5, 3), (0.51, 4), (0.75, 4), (1.0, 4)):
        here = grid(700_000 + 3 - shift, 4_400_000, 8, 1)
        there = grid(700_000, 4_400_000, 6, 1)
        found = judged_ground([whole("a", there), whole("b", here)], here, table, "b")
        assert found == [Window(first, 0, 8 - first, 1)], shift


def test_an_edge_through_centres_falls_the_same_way_at_any_coordinates() -> None:
    """Grids of 0.1 m half a pixel apart, at coordinates that floats do not hold exactly."""
    table = sheets_of("a", "b")
    for step in range(200):
        left, top = round(712_345.3 + step / 10, 1), round(4_391_220.7 - step / 10, 1)
        here = grid(left, top, 8, 8, 0.1)
        there = grid(round(left - 0.45, 2), round(top + 0.35, 2), 6, 6, 0.1)
        # Of a, 1.5 columns and 2.5 rows lie on b. The edge through the centres of column 1 and of
        # row 2 leaves the pixels to b.
        found = judged_ground([whole("a", there), whole("b", here)], here, table, "b")
        assert found == [Window(1, 0, 7, 2), Window(0, 2, 8, 6)], step


quarters = st.integers(0, 40)
rectangles = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))


@settings(deadline=None)
@given(
    others=st.lists(st.tuples(quarters, quarters, rectangles), max_size=5),
    cuts=st.tuples(st.integers(1, 11), st.integers(1, 9)),
)
def test_pixels_are_those_of_asking_each_centre(
    others: list[tuple[int, int, tuple[int, int, int, int]]], cuts: tuple[int, int]
) -> None:
    """Coordinates are quarters of pixels, which floats and fractions hold exactly."""
    here = grid(1024.0 + 5, 2048.0 - 5, 12, 10)
    column, row = cuts
    mine = [
        Window(0, 0, column, 10), Window(column, 0, 12 - column, row),
        Window(column, row, 12 - column, 10 - row),
    ]  # fmt: skip
    ground = [Ground.on(here, "z", window, "test") for window in mine]
    names, expected = [], np.ones((10, 12), np.int64)
    for number, (right, down, rectangle) in enumerate(others):
        there = grid(1024 + right / 4, 2048 - down / 4, 20, 20)
        names.append(f"s{number}")
        ground.append(Ground.on(there, names[-1], Window(*rectangle), "test"))
        col, top, width, height = rectangle
        for y, x in itertools.product(range(10), range(12)):
            # Centres of this sheet's pixels in pixels of the other one.
            across = Fraction(2 * x + 1, 2) + 5 - Fraction(right, 4)
            downward = Fraction(2 * y + 1, 2) + 5 - Fraction(down, 4)
            if col <= across < col + width and top <= downward < top + height:
                expected[y, x] = 0
    found = judged_ground(ground, here, sheets_of(*names, "z"), "z")
    np.testing.assert_array_equal(covered(found, here), expected)
    assert found == sorted(found, key=lambda window: (window.row, window.col))


@settings(deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=5),
    pixel=st.sampled_from([0.1, 0.25, 0.3]),
)
def test_sheets_together_judge_all_their_ground_once(
    places: list[tuple[int, int]], pixel: float
) -> None:
    """Of coordinates that floats do not hold exactly, such as multiples of 0.1 m."""
    left, top = 712_345.3, 4_391_220.7
    grids = {
        f"s{number}": grid(left + x * pixel, top - y * pixel, 7, 5, pixel)
        for number, (x, y) in enumerate(places)
    }
    ground = [whole(name, own) for name, own in grids.items()]
    total, union = np.zeros((20, 20), np.int64), np.zeros((20, 20), np.int64)
    for (name, own), (x, y) in zip(grids.items(), places, strict=True):
        found = judged_ground(ground, own, sheets_of(*grids), name)
        total[y : y + 5, x : x + 7] += covered(found, own)
        union[y : y + 5, x : x + 7] = 1
    np.testing.assert_array_equal(total, union)


def test_ground_is_read_without_opening_other_sheets(tmp_path: Path, classes: Nomenclature) -> None:
    far = grid(900_000, 4_400_000, 6, 4)
    ground = (whole("far", far), whole("a", FIRST), whole("b", SECOND))
    path = tmp_path / "ground.parquet"
    write_plan(TilePlan((), ground, classes.fingerprint, 32), tmp_path / "plan.parquet", path)
    table = sheets_of("far", "a", "b")
    assert read_judged_ground(path, SECOND, classes, table, "b", no_raster) == [
        Window(2, 0, 4, 3),
        Window(0, 3, 6, 1),
    ]


def test_where_a_plan_does_not_say_where_ground_is_the_sheets_grids_do(
    tmp_path: Path, classes: Nomenclature
) -> None:
    ground = tuple(
        Ground(name, own.window, split)
        for name, own, split in (
            ("t", FIRST, "train"),
            ("a", FIRST, "test"),
            ("b", SECOND, "test"),
        )
    )
    path = tmp_path / "ground.parquet"
    write_plan(TilePlan((), ground, classes.fingerprint, 32), tmp_path / "plan.parquet", path)
    old = pyarrow.parquet.read_table(path)
    names = [name for name in old.column_names if name not in ("crs", "x_min", "y_min", "y_max")]
    for columns in (old.column_names, [name for name in names if name != "x_max"]):
        pyarrow.parquet.write_table(old.select(columns), path)
        for table in (sheets_of("t", "a", "b"), sheets_of("t", "a", "b", a=2005, b=2010)):
            found = read_judged_ground(path, FIRST, classes, table, "a", no_raster)
            assert found == [Window(0, 0, 6, 4)]
        found = read_judged_ground(path, SECOND, classes, table, "b", no_raster)
        assert found == [Window(0, 0, 6, 4)]
        table = sheets_of("t", "a", "b")
        found = read_judged_ground(path, SECOND, classes, table, "b", {"a": FIRST}.__getitem__)
        assert found == [Window(2, 0, 4, 3), Window(0, 3, 6, 1)]
        assert read_judged_ground(path, FIRST, classes, table, "t", no_raster) == []
        with pytest.raises(InputError, match="does not say where") as caught:
            read_judged_ground(path, SECOND, classes, table, "b", no_raster)
        assert "sheet a: a.tif: there is no such file." in str(caught.value)
        assert "Run label_raster" in str(caught.value)


# The stage


LABELS = {
    "a": np.array([[0, 0, 0, 0, 0, 0], *[[0, 0, 0, 0, 1, 1]] * 3], np.uint8),
    "b": np.array([*[[1, 1, 0, 0, 0, 0]] * 3, [0, 0, 0, 0, 0, 255]], np.uint8),
}
MAPS = {"a": np.zeros((4, 6), np.uint8), "b": np.ones((4, 6), np.uint8)}


@pytest.fixture
def run(tmp_path: Path) -> stages.Run:
    """A run with two test sheets that overlap."""
    import yaml

    (tmp_path / "classes.yaml").write_text(yaml.safe_dump(CONTENT), "utf-8")
    (tmp_path / "table.csv").write_text(
        "sheet,orthophoto,siose,split\na,a.tif,s.gpkg,test\nb,b.tif,s.gpkg,test\n", "utf-8"
    )
    (tmp_path / "run.yaml").write_text(
        f"{{run: {tmp_path}/r, sheets: table.csv, nomenclature: classes.yaml}}", "utf-8"
    )
    opened = stages.Run(config.load(tmp_path / "run.yaml"))
    paths, made_with = opened.paths, opened.nomenclature.fingerprint
    for folder in (paths.label_raster("a"), paths.land_cover_map("a"), paths.ground):
        folder.parent.mkdir(parents=True)
    tags = {NOMENCLATURE_TAG: made_with}
    for name, own in (("a", FIRST), ("b", SECOND)):
        with BlockRaster(paths.label_raster(name), own, "uint8", 255, COLORS, tags) as labels:
            labels.put(labels.encode(own.window, LABELS[name]))
        with RasterWriter(paths.land_cover_map(name), own, "uint8", 255, COLORS, tags) as mapped:
            mapped.write(own.window, MAPS[name])
    ground = (whole("a", FIRST), whole("b", SECOND))
    write_plan(TilePlan((), ground, made_with, 32), paths.tile_plan, paths.ground)
    return opened


def older(path: Path) -> None:
    """Make of a file of ground one of a version that did not write where ground is."""
    told = pyarrow.parquet.read_table(path)
    places = ("crs", "x_min", "y_min", "x_max", "y_max")
    pyarrow.parquet.write_table(told.drop_columns(list(places)), path)


@pytest.mark.parametrize("old", [False, True])
def test_matrices_of_overlapping_sheets_count_common_ground_once(
    run: stages.Run, old: bool
) -> None:
    if old:
        older(run.paths.ground)
    total = ConfusionMatrix.empty(run.nomenclature.names)
    for name in ("a", "b"):
        stages.confusion(run, name)
        path = run.paths.confusion(name)
        total += from_json(path.read_text("utf-8"), str(path))
    # All 24 of the first sheet, said to be forest; of the second, said to be water, the 17
    # labelled ones that the first does not have.
    assert total.counts.tolist() == [[18, 17], [6, 0]]
