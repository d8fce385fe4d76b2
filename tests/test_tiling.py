"""Tile plans: ground has one split, tiles lie on it, and what cannot train is said."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline import config, demo, stages, tiling
from pipeline.block_sweep import TileCounter
from pipeline.errors import InputError
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE, Nomenclature
from pipeline.sections import SPLITS, Split, TilingSettings
from pipeline.shards import ShardReader
from pipeline.sheets import Sheet
from pipeline.tiling import Ground, PlannedTile, TilePlan
from tests.siose_fixtures import CLASSES

UTM = "EPSG:25830"


def tiles_of(**changes: Any) -> TilingSettings:
    return TilingSettings.model_validate({"tile_px": 8, "stride_px": 8, **changes})


def grid_of(width: int, height: int, left: float = 0.0, top: float = 0.0) -> PixelGrid:
    return PixelGrid(UTM, left, top, 0.5, 0.5, width, height)


def sheet_of(name: str, split: Split) -> Sheet:
    return Sheet(name, Path("ortho.tif"), Path("siose.gpkg"), split, None, 2)


def reader(labels: NDArray[np.uint8]) -> Callable[[Window], NDArray[np.uint8]]:
    sheet = Window(0, 0, labels.shape[1], labels.shape[0])

    def read(window: Window) -> NDArray[np.uint8]:
        assert window.intersection(sheet) == window, "a window outside the sheet"
        return labels[window.slices()]

    return read


# Windows of tiles


@pytest.mark.parametrize(
    ("ground", "changes", "columns", "rows"),
    [
        (Window(0, 0, 24, 16), {}, [0, 8, 16], [0, 8]),
        (Window(0, 0, 20, 9), {}, [0, 8, 12], [0, 1]),  # the last ones end with the ground
        (Window(0, 0, 20, 16), {"stride_px": 4}, [0, 4, 8, 12], [0, 4, 8]),
        (Window(0, 0, 21, 8), {"stride_px": 3}, [0, 3, 6, 9, 12, 13], [0]),
        (Window(5, 7, 17, 8), {}, [5, 13, 14], [7]),
        (Window(0, 0, 8, 8), {}, [0], [0]),
        (Window(0, 0, 7, 50), {}, [], []),  # a block too narrow, not a whole sheet
    ],
)
def test_tiles_cover_their_ground(
    ground: Window, changes: dict[str, Any], columns: list[int], rows: list[int]
) -> None:
    found = tiling.tile_windows(ground, Window(0, 0, 100, 100), tiles_of(**changes))
    assert found == [Window(c, r, 8, 8) for r in rows for c in columns]


def test_a_sheet_smaller_than_a_tile_has_one_that_reaches_beyond() -> None:
    for width, height, columns in ((5, 6, [0]), (20, 3, [0, 8, 12])):
        sheet = Window(0, 0, width, height)
        found = tiling.tile_windows(sheet, sheet, tiles_of())
        assert found == [Window(c, 0, 8, 8) for c in columns]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 16), st.data(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_every_pixel_of_large_enough_ground_is_in_a_tile(
    width: int, height: int, tile_px: int, data: st.DataObject, inside: bool
) -> None:
    stride = data.draw(st.integers(1, tile_px))
    ground = Window(3 if inside else 0, 2 if inside else 0, width, height)
    sheet = Window(0, 0, 80, 80) if inside else ground
    windows = tiling.tile_windows(ground, sheet, tiles_of(tile_px=tile_px, stride_px=stride))
    assert len(set(windows)) == len(windows)
    assert windows == sorted(windows, key=lambda w: (w.row, w.col))
    if inside and min(width, height) < tile_px:
        assert windows == []
        return
    covered = np.zeros((200, 200), bool)
    for window in windows:
        covered[window.slices()] = True
        if width >= tile_px and height >= tile_px:
            assert window.intersection(ground) == window
    assert covered[ground.slices()].all()


# Ground


def test_whole_sheets_are_ground_of_their_split() -> None:
    sheets = {s.name: s for s in (sheet_of("a", "train"), sheet_of("b", "map"))}
    grids = {"a": grid_of(30, 20), "b": grid_of(10, 10)}
    ground = tiling.plan_ground(sheets, grids, tiles_of(), 0)
    assert ground == (
        Ground("a", Window(0, 0, 30, 20), "train", grids["a"].crs, grids["a"].bounds),
    )


BLOCKS = {"split": "blocks", "block_px": 16}


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(-400, 400),
    st.integers(-400, 400),
    st.sampled_from([0.5, 0.25, 0.1, 1.0, 0.3]),
)
@settings(max_examples=80, deadline=None)
def test_every_pixel_belongs_to_one_block(
    width: int, height: int, left: int, top: int, pixel: float
) -> None:
    grid = PixelGrid(
        UTM, 700_000 + left * pixel, 4_400_000 + top * pixel, pixel, pixel, width, height
    )
    ground = tiling.plan_ground({"a": sheet_of("a", "train")}, {"a": grid}, tiles_of(**BLOCKS), 0)
    times = np.zeros((height, width), int)
    for part in ground:
        assert part.window.intersection(grid.window) == part.window
        assert part.window.width <= 16
        assert part.window.height <= 16
        times[part.window.slices()] += 1
    assert (times == 1).all()


def splits_on(grid: PixelGrid, name: str, ground: tuple[Ground, ...]) -> NDArray[np.str_]:
    found = np.full((grid.height, grid.width), "", dtype="U10")
    for part in ground:
        if part.sheet == name:
            found[part.window.slices()] = part.split
    return found


@pytest.mark.parametrize(("across", "down"), [(40, 0), (37, 13), (0, 55), (16, 32), (1, 1)])
def test_sheets_agree_on_the_split_of_common_ground(across: int, down: int) -> None:
    """Two sheets, or two years of one: the lattice is of the CRS, not of the sheet."""
    one = grid_of(80, 70, 699_998.5, 4_400_003.5)
    two = grid_of(75, 66, one.left + across * 0.5, one.top - down * 0.5)
    sheets = {"one": sheet_of("one", "train"), "two": sheet_of("two", "train")}
    options = tiles_of(**BLOCKS, validation_share=0.3, test_share=0.3)
    ground = tiling.plan_ground(sheets, {"one": one, "two": two}, options, 5)
    mine, theirs = splits_on(one, "one", ground), splits_on(two, "two", ground)
    rows, cols = min(70 - down, 66), min(80 - across, 75)
    np.testing.assert_array_equal(
        mine[down : down + rows, across : across + cols], theirs[:rows, :cols]
    )
    assert set(np.unique(mine)) == {"train", "validation", "test"}


def test_the_seed_decides_and_nothing_else() -> None:
    sheets = {name: sheet_of(name, "train") for name in ("a", "b")}
    grids = {"a": grid_of(160, 160), "b": grid_of(160, 160, 80.0)}
    options = tiles_of(**BLOCKS)
    one = tiling.plan_ground(sheets, grids, options, 1)
    assert one == tiling.plan_ground(sheets, grids, options, 1)
    assert one != tiling.plan_ground(sheets, grids, options, 2)
    turned = tiling.plan_ground(dict(reversed(sheets.items())), grids, options, 1)
    assert set(turned) == set(one)
    share = {split: sum(g.split == split for g in one) / len(one) for split in SPLITS}
    assert share["test"] == pytest.approx(0.15, abs=0.02)
    assert share["validation"] == pytest.approx(0.15, abs=0.02)


def test_shares_of_nothing_and_of_little() -> None:
    grids = {"a": grid_of(32, 32)}
    for shares, expected in (
        ((0, 0), {"train"}),
        ((0, 0.01), {"train", "test"}),  # at least one block where a share is asked for
        ((0.01, 0.01), {"train", "validation", "test"}),
    ):
        options = tiles_of(**BLOCKS, validation_share=shares[0], test_share=shares[1])
        ground = tiling.plan_ground({"a": sheet_of("a", "train")}, grids, options, 0)
        assert {g.split for g in ground} == expected


# Tiles


def plan_tiles(
    grid: PixelGrid,
    ground: list[Ground],
    foreign: list[tuple[str, tuple[float, float, float, float]]],
    labels: NDArray[np.uint8],
    how: TilingSettings,
    block: tuple[int, int] = (512, 512),
) -> list[PlannedTile]:
    candidates = tiling.candidate_tiles(grid, ground, foreign, how)
    counter = TileCounter([window for _, window in candidates], grid.window, 3, block)
    read = reader(labels)
    for window in counter.windows:
        counter.add(window, counter.count(window, read(window)))
    return tiling.enough_labelled("a", candidates, counter.class_pixels, how)


def planned(
    labels: NDArray[np.uint8],
    ground: list[Ground] | None = None,
    foreign: list[tuple[str, tuple[float, float, float, float]]] | None = None,
    **changes: Any,
) -> list[PlannedTile]:
    grid = grid_of(labels.shape[1], labels.shape[0])
    whole = [Ground("a", grid.window, "train")]
    how = tiles_of(**changes)
    return plan_tiles(grid, whole if ground is None else ground, foreign or [], labels, how)


def test_only_tiles_with_enough_labelled_pixels() -> None:
    labels = np.full((8, 32), IGNORE, np.uint8)
    labels[:4, :8] = 0  # exactly half
    labels[:4, 8:16] = 1
    labels[0, 8] = IGNORE  # one less
    labels[:, 16:24] = 2
    assert [(t.window.col, t.class_pixels) for t in planned(labels)] == [
        (0, (32, 0, 0)),
        (16, (0, 0, 64)),
    ]
    assert [t.window.col for t in planned(labels, min_labelled=0.484375)] == [0, 8, 16]  # 31 of 64
    assert [t.window.col for t in planned(labels, min_labelled=1)] == [16]
    assert [t.window.col for t in planned(labels, min_labelled=0)] == [0, 8, 16]  # never none


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 0.9])
def test_shares_are_not_rounded_up(share: float) -> None:
    """0.7 x 100 is 70.00000000000001 in floating point."""
    labels = np.full((10, 10), IGNORE, np.uint8)
    labels.ravel()[: round(share * 100)] = 1
    assert len(planned(labels, tile_px=10, stride_px=10, min_labelled=share)) == 1


def test_counts_equal_the_pixels_of_each_window() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, IGNORE], (37, 50)).astype(np.uint8)
    ground = [
        Ground("a", Window(20, 0, 30, 37), "train"),
        Ground("a", Window(0, 0, 20, 20), "test"),
        Ground("a", Window(0, 20, 20, 17), "train"),
    ]
    found = planned(labels, ground, stride_px=5, min_labelled=0.1)
    assert {t.split for t in found} == {"train", "test"}
    for tile in found:
        pixels = labels[tile.window.slices()]
        assert tile.class_pixels == tuple(int((pixels == c).sum()) for c in range(3))
    order = [(SPLITS.index(t.split), t.window.row, t.window.col) for t in found]
    assert order == sorted(order)
    assert len(set(order)) == len(order)


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(3, 20),
    st.integers(1, 20),
    st.sampled_from(["sheet", "blocks"]),
    st.sampled_from([(512, 512), (8, 8), (16, 7), (1, 60)]),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_plan_is_that_of_reading_tile_by_tile(
    width: int,
    height: int,
    tile_px: int,
    stride: int,
    split: str,
    block: tuple[int, int],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 1, 2, IGNORE], (height // 9 + 1, width // 7 + 1)).astype(np.uint8)
    labels = coarse.repeat(9, axis=0).repeat(7, axis=1)[:height, :width]
    grid = grid_of(width, height, left=-3.0, top=11.0)
    how = tiles_of(
        tile_px=tile_px, stride_px=min(stride, tile_px), split=split, block_px=max(16, tile_px)
    )
    ground = list(tiling.plan_ground({"a": sheet_of("a", "train")}, {"a": grid}, how, seed))
    foreign = [("test", grid.bounds_of(Window(5, 5, 9, 9)))]
    found = plan_tiles(grid, ground, foreign, labels, how, block)

    expected = []
    left, low, right, high = foreign[0][1]
    for name in SPLITS:
        windows = [
            window
            for part in ground
            if part.split == name
            for window in tiling.tile_windows(part.window, grid.window, how)
        ]
        for window in sorted(windows, key=lambda w: (w.row, w.col)):
            x0, y0, x1, y1 = grid.bounds_of(window)
            apart = x1 <= left + 0.3 or x0 >= right - 0.3 or y1 <= low + 0.3 or y0 >= high - 0.3
            pixels = labels[window.row : window.bottom, window.col : window.right]
            counts = tuple(int((pixels == c).sum()) for c in range(3))
            if (name == "test" or apart) and sum(counts) >= tile_px**2 / 2:
                expected.append(PlannedTile("a", window, name, counts))
    assert found == expected


def test_a_tile_beyond_the_sheets_edge_counts_what_is_there() -> None:
    labels = np.zeros((5, 6), np.uint8)
    assert planned(labels, min_labelled=0.4) == [
        PlannedTile("a", Window(0, 0, 8, 8), "train", (30, 0, 0))
    ]
    assert planned(labels, min_labelled=0.5) == []


@pytest.mark.parametrize(
    ("mine", "theirs", "dropped"),
    [
        ("train", "test", True),
        ("train", "validation", True),
        ("validation", "test", True),
        ("test", "train", False),
        ("test", "validation", False),
        ("validation", "train", False),
        ("train", "train", False),
        ("test", "test", False),
    ],
)
def test_tiles_on_ground_of_a_later_split_are_dropped(
    mine: str, theirs: str, dropped: bool
) -> None:
    labels = np.zeros((8, 32), np.uint8)
    grid = grid_of(32, 8)
    # Columns 10 to 18 of the sheet, a little beyond its upper edge.
    other = grid.bounds_of(Window(10, -20, 8, 22))
    found = planned(labels, [Ground("a", grid.window, mine)], [(theirs, other)])
    assert [t.window.col for t in found] == ([0, 24] if dropped else [0, 8, 16, 24])


def test_ground_that_only_touches_drops_nothing() -> None:
    """Lattices are rounded to whole pixels: half a pixel is no overlap."""
    labels = np.zeros((8, 16), np.uint8)
    grid = grid_of(16, 8)
    _, bottom, right, top = grid.bounds_of(Window(8, 0, 8, 8))
    for shift, kept in ((0.0, [0, 8]), (0.25, [0, 8]), (0.5, [0])):
        beside = (right - shift, bottom, right + 4, top)
        found = planned(labels, foreign=[("test", beside)])
        assert [t.window.col for t in found] == kept


# The check of the plan


def tile(split: str, *class_pixels: int) -> PlannedTile:
    return PlannedTile("a", Window(0, 0, 8, 8), split, class_pixels)


def test_a_plan_that_does() -> None:
    sheets = {"a": sheet_of("a", "train")}
    tiles = [tile("train", 1, 0, 0), tile("train", 0, 1, 1), tile("validation", 1, 0, 0)]
    tiling.check_plan([*tiles, tile("test", 1, 0, 0)], sheets, CLASSES, tiles_of())


def test_everything_that_cannot_train_is_said_at_once() -> None:
    sheets = {
        s.name: s
        for s in (sheet_of("a", "train"), sheet_of("b", "validation"), sheet_of("c", "validation"))
    }
    with pytest.raises(InputError) as caught:
        tiling.check_plan([tile("train", 9, 0, 0)], sheets, CLASSES, tiles_of())
    assert list(caught.value.items) == [
        "split validation: no tile with enough labelled pixels (its sheets: b, c)",
        "split test: no tile with enough labelled pixels (no sheet has this split)",
        "class 'bare': no labelled pixel in the training tiles",
        "class 'forest': no labelled pixel in the training tiles",
    ]
    assert "tiling.min_labelled" in str(caught.value)
    with pytest.raises(InputError, match=r"split train: .* \(none of its blocks\)"):
        tiling.check_plan([], sheets, CLASSES, tiles_of(**BLOCKS))


# The file


def a_plan(nomenclature: Nomenclature = CLASSES) -> TilePlan:
    return TilePlan(
        (
            PlannedTile("a", Window(0, 0, 8, 8), "train", (64, 0, 0)),
            PlannedTile("a", Window(8, 0, 8, 8), "test", (1, 2, 3)),
            PlannedTile("b", Window(0, 16, 8, 8), "train", (0, 30, 30)),
        ),
        (
            Ground("a", Window(0, 0, 8, 8), "train"),
            Ground("a", Window(8, 0, 8, 8), "test", "EPSG:25830", (0.1, 0.2, 0.3, 1e7 / 3)),
            Ground("b", Window(0, 0, 54_000, 38_000), "train"),
        ),
        nomenclature.fingerprint,
        8,
    )


def test_a_plan_comes_back_and_is_the_same_bytes_twice(tmp_path: Path) -> None:
    plan = a_plan()
    digests = set()
    for name in ("one", "two"):
        files = tmp_path / f"{name}.parquet", tmp_path / f"{name}.ground.parquet"
        tiling.write_plan(plan, *files)
        digests.add(tuple(hashlib.sha256(f.read_bytes()).hexdigest() for f in files))
    assert len(digests) == 1
    assert tiling.read_plan(*files, CLASSES) == plan
    only = tiling.read_plan(*files, CLASSES, "a")
    assert only.tiles == plan.of_sheet("a") == plan.tiles[:2]
    assert only.ground == plan.ground[:2]
    assert [g.window for g in only.ground if g.split == "test"] == [Window(8, 0, 8, 8)]
    assert {g.sheet for g in only.ground} == {"a"}
    assert tiling.read_ground(files[1], CLASSES) == plan.ground
    assert tiling.read_ground(files[1], CLASSES, "b") == plan.ground[2:]


def test_an_empty_plan_comes_back(tmp_path: Path) -> None:
    plan = TilePlan((), (), CLASSES.fingerprint, 8)
    tiling.write_plan(plan, tmp_path / "p", tmp_path / "g")
    assert tiling.read_plan(tmp_path / "p", tmp_path / "g", CLASSES) == plan


def test_a_plan_of_another_nomenclature_or_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Run tile_plan first"):
        tiling.read_plan(tmp_path / "p", tmp_path / "g", CLASSES)
    tiling.write_plan(a_plan(), tmp_path / "p", tmp_path / "g")
    other = Nomenclature(CLASSES.classes[:2])
    with pytest.raises(InputError, match="another nomenclature"):
        tiling.read_plan(tmp_path / "p", tmp_path / "g", other)
    with pytest.raises(InputError, match="g: was made with another nomenclature"):
        tiling.read_ground(tmp_path / "g", other)
    for name in ("g", "p"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
        with pytest.raises(InputError, match=f"{name}: cannot be read"):
            tiling.read_plan(tmp_path / "p", tmp_path / "g", CLASSES)
        tiling.write_plan(a_plan(), tmp_path / "p", tmp_path / "g")


# Classes of tiles


def test_presence_is_in_the_order_of_the_plan(tmp_path: Path) -> None:
    tiling.write_plan(a_plan(), tmp_path / "p", tmp_path / "g")
    found = tiling.read_class_presence(tmp_path / "p", ["b", "a", "c"], CLASSES)
    assert {sheet: present.tolist() for sheet, present in found.items()} == {
        "b": [[False, True, True]],
        "a": [[True, False, False], [True, True, True]],
        "c": [],
    }
    assert {present.dtype for present in found.values()} == {np.dtype(np.bool_)}
    assert found["c"].shape == (0, 3)


def test_presence_of_more_tiles_than_are_read_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 2, (70_000, 3)) * rng.integers(1, 2**40, (70_000, 3))
    tiles = tuple(
        PlannedTile("ab"[i % 2], Window(0, 0, 8, 8), "train", tuple(counts))
        for i, counts in enumerate(pixels.tolist())
    )
    plan = TilePlan(tiles, (), CLASSES.fingerprint, 8)
    tiling.write_plan(plan, tmp_path / "p", tmp_path / "g")
    found = tiling.read_class_presence(tmp_path / "p", ["a", "b"], CLASSES)
    np.testing.assert_array_equal(found["a"], pixels[::2] > 0)
    np.testing.assert_array_equal(found["b"], pixels[1::2] > 0)


def test_presence_in_a_plan_of_another_nomenclature_or_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Run tile_plan first"):
        tiling.read_class_presence(tmp_path / "p", ["a"], CLASSES)
    tiling.write_plan(a_plan(), tmp_path / "p", tmp_path / "g")
    with pytest.raises(InputError, match="another nomenclature"):
        tiling.read_class_presence(tmp_path / "p", ["a"], Nomenclature(CLASSES.classes[:2]))
    (tmp_path / "p").write_bytes((tmp_path / "p").read_bytes()[:-20])
    with pytest.raises(InputError, match="p: cannot be read"):
        tiling.read_class_presence(tmp_path / "p", ["a"], CLASSES)


def test_presence_is_what_the_labels_in_the_shards_have(tmp_path: Path) -> None:
    """On sheets of the demo, cut by the stages: position for position of each shard."""
    demo.write_demo(tmp_path, sheet_px=(320, 240))
    base = tmp_path / demo.BASE
    rows = [f"{name},{tmp_path / name}.tif,{base},train,2017" for name in demo.SHEETS]
    table = "\n".join(["sheet,orthophoto,siose,split,year", *rows])
    (tmp_path / "sheets.csv").write_text(table, encoding="utf-8")
    nomenclature = Path(__file__).resolve().parents[1] / "configs" / "nomenclatures" / "demo.yaml"
    values: dict[str, object] = {
        "run": str(tmp_path / "run"),
        "sheets": str(tmp_path / "sheets.csv"),
        "nomenclature": str(nomenclature),
        "tiling": {"tile_px": 32, "stride_px": 24, "split": "blocks", "block_px": 64},
    }
    run = stages.Run(config.from_mapping(values, "test settings"))
    for sheet in demo.SHEETS:
        stages.class_proportions(run, sheet)
        stages.label_raster(run, sheet)
    stages.tile_plan(run)
    found = tiling.read_class_presence(run.paths.tile_plan, list(demo.SHEETS), run.nomenclature)
    assert list(found) == list(demo.SHEETS)
    for sheet in ("0722-2", "0722-4"):
        stages.shard(run, sheet)
        reader = ShardReader(run.paths.shard(sheet))
        assert set(reader.manifest.splits) == set(SPLITS)
        labels = [reader.read(i, polygons=False).label for i in range(len(reader))]
        classes = range(len(run.nomenclature))
        expected = [[bool((label == c).any()) for c in classes] for label in labels]
        assert found[sheet].tolist() == expected
        shares = found[sheet].mean(axis=0)
        assert ((shares > 0) & (shares < 1)).sum() >= 5, "classes in some tiles, not in others"
