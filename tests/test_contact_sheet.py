"""Contact sheets, read back pixel by pixel."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from pipeline import cli, contact_sheet
from pipeline.augmentation import PRESETS, Strengths
from pipeline.batches import TileData
from pipeline.contact_sheet import Specimen, chosen_tiles, in_words, picture
from pipeline.draws import Draw
from pipeline.errors import InputError, SettingsError
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE, Nomenclature, TrainingClass
from pipeline.paths import RunPaths
from pipeline.records import Runs, Tile, encode_tile, record_bound
from pipeline.sections import AugmentationSettings, TrainingSettings
from pipeline.shards import LAYOUT, Manifest, ShardReader, ShardWriter, SplitCounts
from pipeline.tiling import Ground, PlannedTile, TilePlan, write_plan

COLORS = ("#A0C800", "#0000FF", "#C00000")
CLASSES = Nomenclature(
    tuple(
        TrainingClass(name, (cover,), color)
        for name, cover, color in zip(
            ("olivos", "agua", "vía"), ("LOL", "AMO", "VAP"), COLORS, strict=True
        )
    )
)
SIDE = 16
AERIAL = AugmentationSettings(preset="aerial")
TRAINING = TrainingSettings(workers=0, oversample=0.1)


def write_run(folder: Path, sheets: dict[str, list[str]], rare: int | None = None) -> RunPaths:
    """Shards and plan of sheets by the split of each tile; one tile of the first has class 2."""
    paths, planned = RunPaths(folder), []
    rng = np.random.default_rng(0)
    grid = PixelGrid("EPSG:25830", 7e5, 4.4e6, 0.5, 0.5, 400, SIDE)
    paths.shard("any").parent.mkdir(parents=True)
    for sheet, splits in sheets.items():
        writer = ShardWriter(paths.shard(sheet), len(splits), record_bound(SIDE, 3, 3))
        counts = {split: SplitCounts.nothing(3, 3) for split in splits}
        for position, split in enumerate(splits):
            image = rng.integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)
            label = rng.integers(0, 2, (SIDE, SIDE), dtype=np.uint8)
            if (rare is None or position == rare) and sheet == next(iter(sheets)):
                label[:4] = 2
            none = np.zeros((SIDE, SIDE), np.uint32)
            tile = Tile(image, label, none, np.zeros(0, np.uint32), np.zeros((0, 3), np.float32))
            writer.put(position, encode_tile(tile))
            counts[split] += SplitCounts.of(image, Runs.of(label), None, 3)
            window = Window(SIDE * position, 0, SIDE, SIDE)
            planned.append(
                PlannedTile(sheet, window, split, tuple(np.bincount(label.ravel(), minlength=3)))
            )
        ends = {split: splits.index(split) for split in counts}
        ranges = {split: (first, first + splits.count(split)) for split, first in ends.items()}
        manifest = Manifest(
            LAYOUT, sheet, grid, 3, SIDE, CLASSES.names, CLASSES.fingerprint, "raw", ranges, counts
        )
        writer.finish(manifest)
    ground = tuple(Ground(sheet, Window(0, 0, 400, SIDE), "train") for sheet in sheets)
    paths.tile_plan.parent.mkdir(parents=True)
    plan = TilePlan(tuple(planned), ground, CLASSES.fingerprint, SIDE)
    write_plan(plan, paths.tile_plan, paths.ground)
    return paths


def pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def place(canvas: NDArray[np.uint8], block: NDArray[np.uint8]) -> tuple[int, int]:
    """Row and column of the only place where a block of pixels stands."""
    height, width = block.shape[:2]
    starts = np.argwhere((canvas[: 1 - height, : 1 - width] == block[0, 0]).all(-1))
    found = [(r, c) for r, c in starts if (canvas[r : r + height, c : c + width] == block).all()]
    assert len(found) == 1
    return int(found[0][0]), int(found[0][1])


def test_tiles_are_shown_pixel_by_pixel_above_their_labels() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, 130, 130), dtype=np.uint8)
    labels = rng.integers(0, 3, (2, 130, 130), dtype=np.uint8)
    labels[1, :65] = IGNORE
    canvas = pixels(picture([Specimen("sheet a", images, labels)], CLASSES.names, COLORS, ["one"]))
    top, left = place(canvas, np.moveaxis(images[0], 0, -1))
    assert place(canvas, np.moveaxis(images[1], 0, -1)) == (top, left + 136)
    palette = np.array([list(bytes.fromhex(color[1:])) for color in COLORS], np.uint8)
    assert place(canvas, palette[labels[0]]) == (top + 133, left)
    second = canvas[top + 133 : top + 263, left + 136 : left + 266]
    np.testing.assert_array_equal(second[65:], palette[labels[1, 65:]])
    # Ignored: one pixel in four of each stripe is dark, and none has a class's colour.
    shades, times = np.unique(second[:65].reshape(-1, 3), axis=0, return_counts=True)
    assert shades.tolist() == [[0x8C] * 3, [0xE6] * 3]
    assert abs(times[0] / times.sum() - 0.25) < 0.01


def test_bands_beyond_three_are_left_out_and_fewer_are_grey() -> None:
    rng = np.random.default_rng(0)
    label = np.zeros((1, 128, 128), np.uint8)
    for bands in (1, 2, 3, 5):
        images = rng.integers(0, 256, (1, bands, 128, 128), dtype=np.uint8)
        canvas = pixels(picture([Specimen("a", images, label)], CLASSES.names, COLORS, []))
        shown = images[0, :3] if bands >= 3 else images[0, [0, 0, 0]]
        place(canvas, np.moveaxis(shown, 0, -1))


def test_small_tiles_are_enlarged_and_large_ones_averaged() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    label = np.zeros((1, 16, 16), np.uint8)
    canvas = pixels(picture([Specimen("a", small, label)], CLASSES.names, COLORS, []))
    place(canvas, np.moveaxis(small[0], 0, -1).repeat(8, 0).repeat(8, 1))
    large = np.zeros((1, 3, 512, 512), np.uint8)
    large[0, 0, ::2] = 100  # rows of 0 and 100 give 50, in red
    label = np.zeros((1, 512, 512), np.uint8)
    canvas = pixels(picture([Specimen("a", large, label)], CLASSES.names, COLORS, []))
    assert int((canvas == [50, 0, 0]).all(-1).sum()) == 256 * 256


def test_the_legend_has_the_classes_that_are_seen() -> None:
    images = np.full((1, 3, 128, 128), 7, np.uint8)
    label = np.full((1, 128, 128), 1, np.uint8)
    canvas = pixels(picture([Specimen("a", images, label)], CLASSES.names, COLORS, []))
    legend = canvas[: place(canvas, np.full((128, 128, 3), 7, np.uint8))[0]]

    def swatch(color: str) -> int:
        return int((legend == list(bytes.fromhex(color[1:]))).all(-1).sum())

    assert [swatch(color) for color in COLORS] == [0, 13 * 26, 0]


def test_strengths_are_told_in_words() -> None:
    unchanged = "no change: the network sees the tiles as they are stored"
    assert in_words(PRESETS["none"]) == [unchanged]
    assert in_words(PRESETS["geometric"]) == ["every tile: one of the eight turns and mirrors"]
    assert in_words(PRESETS["aerial"]) == [
        "every tile: one of the eight turns and mirrors",
        "50 % of the tiles: rotation up to 45°, zoom 0.5 to 2, shift up to 10 % of the side",
        "80 % of the tiles: brightness ±15 %, contrast ×0.71 to 1.4, gamma 0.67 to 1.5, "
        "saturation ×0.2 to 1.8, hue ±15°, each band ×0.91 to 1.1",
    ]
    assert in_words(Strengths(rotation=30, blur=1.5)) == [
        "50 % of the tiles: rotation up to 30°",
        "50 % of the tiles: Gaussian blur up to 1.5 px",
    ]


def test_what_is_drawn_is_what_training_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets = {"b": ["train", "train", "validation"], "a": ["test", "train"]}
    paths = write_run(tmp_path / "run", sheets)
    shown: list[Specimen] = []
    told: list[str] = []

    def caught(
        specimens: list[Specimen], names: tuple[str, ...], colors: tuple[str, ...], lines: list[str]
    ) -> bytes:
        shown.extend(specimens)
        told.extend(lines)
        assert (names, colors) == (CLASSES.names, COLORS)
        return b"png"

    monkeypatch.setattr(contact_sheet, "picture", caught)
    made = contact_sheet.contact_sheet(
        paths, list(sheets), CLASSES, TRAINING, AERIAL, 5, tiles=9, draws=4
    )
    assert made == b"png"
    # Training tiles only, in the order of the sheets' names.
    assert [specimen.name for specimen in shown] == [
        "sheet a, rows 0-16, columns 16-32",
        "sheet b, rows 0-16, columns 0-16",
        "sheet b, rows 0-16, columns 16-32",
    ]
    assert told[0] == "augmentation of run run, preset aerial, seed 5"
    readers = [ShardReader(paths.shard(sheet)) for sheet in sheets]
    data = TileData(readers, TrainingSettings(workers=0), AERIAL, 5)
    for number, specimen in enumerate(shown):
        sheet, position = data.train_tiles.place(number)
        stored = next(r for r in readers if r.manifest.sheet == sheet).read(position)
        np.testing.assert_array_equal(specimen.images[0], stored.image)
        np.testing.assert_array_equal(specimen.labels[0], stored.label)
        for epoch in range(4):
            image, label = data.train_tiles[Draw(epoch, number)]
            np.testing.assert_array_equal(specimen.images[epoch + 1], image.numpy())
            np.testing.assert_array_equal(specimen.labels[epoch + 1], label.numpy())
        assert not np.array_equal(specimen.images[1], specimen.images[2])


def test_rare_classes_and_all_sheets_are_among_few_tiles(tmp_path: Path) -> None:
    sheets = {name: ["train"] * 12 + ["validation"] for name in "abcd"}
    paths = write_run(tmp_path, sheets, rare=7)
    readers = {sheet: ShardReader(paths.shard(sheet)) for sheet in sheets}
    for seed in range(5):
        data = TileData(
            list(readers.values()), TRAINING.model_copy(update={"oversample": 0.0}), AERIAL, seed
        )
        chosen = chosen_tiles(data, readers, 4)
        places = [data.train_tiles.place(tile) for tile in chosen]
        assert ("a", 7) in places
        assert [sheet for sheet, _ in places] == ["a", "b", "c", "d"]


def test_all_shards_that_are_missing_are_told_at_once(tmp_path: Path) -> None:
    paths = write_run(tmp_path, {"a": ["train", "validation"]})
    with pytest.raises(InputError) as error:
        contact_sheet.contact_sheet(paths, ["a", "b", "c"], CLASSES, TRAINING, AERIAL, 0)
    assert error.value.what == "There is no shard yet of 2 of 3 sheets."
    assert list(error.value.items) == [str(paths.shard("b")), str(paths.shard("c"))]


def test_shards_of_another_plan_are_refused(tmp_path: Path) -> None:
    paths = write_run(tmp_path, {"a": ["train", "train", "validation"]})
    plan = TilePlan((), (), CLASSES.fingerprint, SIDE)
    write_plan(plan, paths.tile_plan, paths.ground)
    with pytest.raises(InputError, match=r"not cut by the tile plan as it is now\.\n  .*a\.lmdb"):
        contact_sheet.contact_sheet(paths, ["a"], CLASSES, TRAINING, AERIAL, 0)
    others = Nomenclature(CLASSES.classes[:2])
    with pytest.raises(InputError, match="1 of 1 shards were made with another nomenclature"):
        contact_sheet.contact_sheet(paths, ["a"], others, TRAINING, AERIAL, 0)


def test_the_command_writes_the_same_picture_each_time(tmp_path: Path) -> None:
    sheets = {"a": ["train", "train"], "b": ["validation"]}
    write_run(tmp_path / "run", sheets)
    lines = ["sheet,orthophoto,siose,split", *(f"{s},{s}.tif,base.gpkg,train" for s in sheets)]
    (tmp_path / "sheets.csv").write_text("\n".join(lines), encoding="utf-8")
    classes = "\n".join(
        f"  - {{name: {c.name}, covers: {list(c.covers)}, color: '{c.color}'}}"
        for c in CLASSES.classes
    )
    (tmp_path / "classes.yaml").write_text(f"classes:\n{classes}\n", encoding="utf-8")
    config = tmp_path / "run.yaml"
    config.write_text(
        f"{{run: {tmp_path / 'run'}, sheets: sheets.csv, nomenclature: classes.yaml, seed: 3}}",
        encoding="utf-8",
    )

    def run(out: str, *options: str) -> bytes:
        arguments = ["contact-sheet", "-c", str(config), "-o", str(tmp_path / out), *options]
        answer = CliRunner().invoke(cli.app, arguments)
        if answer.exception:
            raise answer.exception
        return (tmp_path / out).read_bytes()

    first = run("one.png", "--tiles", "2", "--draws", "3")
    assert first == run("two.png", "--tiles", "2", "--draws", "3", "--seed", "3")
    assert first != run("three.png", "--tiles", "2", "--draws", "3", "--seed", "4")
    # Two margins, four columns of tiles of 128 px and the gaps between them.
    assert pixels(first).shape[1] == 2 * 16 + 4 * 128 + 3 * 6
    assert not (tmp_path / "run" / "settings.yaml").exists()
    with pytest.raises(SettingsError, match=r"four\.jpg is no PNG"):
        run("four.jpg")
