"""Shards: records come back bit for bit, counts are exact, damage is found, threads are free."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline import shards, strips
from pipeline.errors import InputError
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE
from pipeline.parallel import computed, ordered
from pipeline.shards import Manifest, ShardReader, ShardWriter, SplitCounts, Tile

GRID = PixelGrid("EPSG:25830", 700_000.0, 4_400_000.0, 0.5, 0.5, 100, 70)
CLASSES = ("built", "bare", "forest")


def random_tile(
    seed: int, bands: int = 3, rows: int = 16, cols: int = 16, polygons: int = 5, classes: int = 3
) -> Tile:
    """A tile of noise: nothing in it compresses."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, polygons + 1, (rows, cols), dtype=np.uint32)
    known = np.unique(index)
    known = known[known > 0]
    label = rng.integers(0, classes, (rows, cols), dtype=np.uint8)
    label[rng.random((rows, cols)) < 0.3] = IGNORE
    return Tile(
        rng.integers(0, 256, (bands, rows, cols), dtype=np.uint8),
        label,
        index,
        known,
        rng.random((len(known), classes), dtype=np.float32),
    )


def assert_same(one: Tile, other: Tile) -> None:
    for field in dataclasses.fields(Tile):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        assert mine.dtype == theirs.dtype, field.name
        np.testing.assert_array_equal(mine, theirs, err_msg=field.name)


def manifest_of(splits: dict[str, tuple[int, int]]) -> Manifest:
    return Manifest(
        layout=shards.LAYOUT,
        sheet="0722",
        grid=GRID,
        bands=3,
        tile_px=16,
        classes=CLASSES,
        nomenclature="0123456789abcdef",
        source="ab" * 16,
        splits=splits,
        counts={name: SplitCounts.nothing(3, 3) for name in splits},
    )


def write_shard(folder: Path, tiles: Sequence[Tile], record_bytes: int = 4096) -> Path:
    writer = ShardWriter(folder, len(tiles), record_bytes)
    for tile in tiles:
        writer.put(shards.encode(tile))
    writer.finish(manifest_of({"train": (0, len(tiles))}))
    return folder


# Records


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.integers(1, 33),
    st.integers(1, 33),
    st.integers(0, 9),
    st.integers(1, 7),
)
@settings(max_examples=60, deadline=None)
def test_a_record_is_its_tile(
    seed: int, bands: int, rows: int, cols: int, polygons: int, classes: int
) -> None:
    tile = random_tile(seed, bands, rows, cols, polygons, classes)
    assert_same(shards.decode(shards.encode(tile)), tile)


def test_the_polygon_index_may_be_left_out() -> None:
    tile = random_tile(1)
    light = shards.decode(shards.encode(tile), polygons=False)
    np.testing.assert_array_equal(light.image, tile.image)
    np.testing.assert_array_equal(light.label, tile.label)
    assert light.polygons.size == light.proportion_rows.size == light.proportions.size == 0


def test_the_same_tile_is_the_same_bytes() -> None:
    assert shards.encode(random_tile(4)) == shards.encode(random_tile(4))


def test_a_tile_whose_parts_do_not_fit_is_refused() -> None:
    tile = random_tile(2)
    for wrong in (
        dataclasses.replace(tile, label=tile.label[:-1]),
        dataclasses.replace(tile, polygons=tile.polygons[:, :-1]),
        dataclasses.replace(tile, image=tile.image.astype(np.uint16)),
        dataclasses.replace(tile, label=tile.label.astype(np.int64)),
        dataclasses.replace(tile, proportions=tile.proportions[:-1]),
    ):
        with pytest.raises(ValueError, match=r"image|rows"):
            shards.encode(wrong)


def test_every_flipped_bit_is_found() -> None:
    """Noise is stored as it is: without a checksum a damaged pixel would pass for one."""
    tile = random_tile(3, rows=12, cols=12)
    record = shards.encode(tile)
    found = 0
    for place in range(len(record)):
        damaged = bytearray(record)
        damaged[place] ^= 0x10
        try:
            assert_same(shards.decode(bytes(damaged)), tile)  # bits that zstd does not use
        except ValueError:
            found += 1
    assert found >= len(record) - 6


@pytest.mark.parametrize("length", [0, 3, 20, 31, 32, 100, -1])
def test_a_short_record_is_refused(length: int) -> None:
    record = shards.encode(random_tile(3))
    with pytest.raises(ValueError, match=r".+"):
        shards.decode(record[:length])


@pytest.mark.parametrize(("polygons", "classes"), [(0, 3), (50, 3), (4096, 12), (4096, 60)])
def test_the_bound_holds_for_records_that_do_not_compress(polygons: int, classes: int) -> None:
    for tile_px in (8, 64, 128):
        known = min(polygons, tile_px**2)
        tile = random_tile(5, 4, tile_px, tile_px, 2**32 - 2, classes)
        shares = np.random.default_rng(6).random((known, classes), dtype=np.float32)
        tile = dataclasses.replace(
            tile, proportion_rows=tile.proportion_rows[:known], proportions=shares
        )
        assert len(shards.encode(tile)) <= shards.record_bound(tile_px, 4, classes)


# Counts


def test_counts_equal_brute_force_and_add_up_exactly() -> None:
    rng = np.random.default_rng(9)
    tiles = [random_tile(seed) for seed in range(6)]
    valid = [rng.random((16, 16)) < 0.8 for _ in tiles]
    tiles[2] = dataclasses.replace(tiles[2], label=np.full((16, 16), IGNORE, np.uint8))
    tiles[3].label[tiles[3].label == 1] = 2
    counted = [SplitCounts.of(t, v, 3) for t, v in zip(tiles, valid, strict=True)]
    total = SplitCounts.nothing(3, 3)
    for counts in counted:
        total = total + counts
    backwards = SplitCounts.nothing(3, 3)
    for counts in reversed(counted):
        backwards = counts + backwards
    assert total == backwards

    pixels, band_sum, squares = 0, [0] * 3, [0] * 3
    class_pixels, present = [0] * 3, [0] * 3
    for tile, there in zip(tiles, valid, strict=True):
        seen = set()
        labelled = 0
        for row in range(16):
            for col in range(16):
                if there[row, col]:
                    pixels += 1
                    for band in range(3):
                        value = int(tile.image[band, row, col])
                        band_sum[band] += value
                        squares[band] += value**2
                if tile.label[row, col] != IGNORE:
                    class_pixels[tile.label[row, col]] += 1
                    labelled += 1
                    seen.add(int(tile.label[row, col]))
        for number in seen:
            present[number] += labelled
    assert total == SplitCounts(
        6, pixels, tuple(band_sum), tuple(squares), tuple(class_pixels), tuple(present)
    )


def test_counts_of_bright_tiles_do_not_overflow() -> None:
    tile = Tile(
        np.full((1, 512, 512), 255, np.uint8),
        np.zeros((512, 512), np.uint8),
        np.zeros((512, 512), np.uint32),
        np.zeros(0, np.uint32),
        np.zeros((0, 3), np.float32),
    )
    counts = SplitCounts.of(tile, np.ones((512, 512), bool), 3)
    assert counts.band_sum_squares == (512 * 512 * 255**2,)  # 1.7e10


def test_counts_of_a_split_over_shards() -> None:
    one, two = manifest_of({"train": (0, 1)}), manifest_of({"train": (0, 2), "test": (2, 3)})
    counts = SplitCounts(1, 10, (1, 2, 3), (1, 4, 9), (5, 0, 0), (5, 0, 0))
    one = dataclasses.replace(one, counts={"train": counts})
    two = dataclasses.replace(
        two, counts={"train": counts + counts, "test": SplitCounts.nothing(3, 3)}
    )
    assert shards.combined([one, two], "train") == counts + counts + counts
    assert shards.combined([one, two], "test") is None
    assert shards.combined([one, two], "validation") is None


# The manifest


def test_a_manifest_comes_back() -> None:
    manifest = manifest_of({"train": (0, 3), "test": (3, 5)})
    assert Manifest.from_json(manifest.as_json(), Path("manifest.json")) == manifest
    assert manifest.tiles == 5


def _changed(**changes: object) -> str:
    content = json.loads(manifest_of({"train": (0, 3)}).as_json())
    content.update(changes)
    return json.dumps({key: value for key, value in content.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_changed(layout=99), f"has layout 99; this version reads {shards.LAYOUT}"),
        (_changed(layout=None), "is not the manifest of a shard"),
        (_changed(sheet=None), "is not the manifest of a shard"),
        (_changed(classes=None), "is not the manifest of a shard"),
        (_changed(more="than"), "is not the manifest of a shard"),
        (_changed(splits={"train": 3}), "is not the manifest of a shard"),
        (_changed(grid={"left": 0}), "is not the manifest of a shard"),
        ("[]", "is not the manifest of a shard"),
        ("{", "is not the manifest of a shard"),
        ("", "is not the manifest of a shard"),
    ],
)
def test_what_is_no_manifest(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Manifest.from_json(text, Path("manifest.json"))


def test_splits_are_ranges() -> None:
    assert shards.split_ranges(["train"] * 2 + ["test"]) == {"train": (0, 2), "test": (2, 3)}
    assert shards.split_ranges([]) == {}
    with pytest.raises(ValueError, match="'train' are not contiguous at 2"):
        shards.split_ranges(["train", "test", "train"])


# Writer and reader


def test_a_shard_gives_its_tiles_back(tmp_path: Path) -> None:
    tiles = [random_tile(seed) for seed in range(5)]
    reader = ShardReader(write_shard(tmp_path / "s.lmdb", tiles))
    assert len(reader) == 5
    for position in (3, 0, 4, 1, 2):
        assert_same(reader.read(position), tiles[position])
    for position in (-1, 5):
        with pytest.raises(IndexError, match="of 5"):
            reader.read(position)
    assert sorted(p.name for p in (tmp_path / "s.lmdb").iterdir()) == ["data.mdb", "manifest.json"]


def test_a_shard_without_tiles(tmp_path: Path) -> None:
    reader = ShardReader(write_shard(tmp_path / "s.lmdb", []))
    assert len(reader) == 0


def test_the_writer_grows_where_records_are_larger_than_told(tmp_path: Path) -> None:
    """A tile may show more polygons than the bound counts on."""
    tiles = [random_tile(seed, rows=64, cols=64, polygons=60_000) for seed in range(300)]
    reader = ShardReader(write_shard(tmp_path / "s.lmdb", tiles, record_bytes=64))
    for position in (0, 255, 256, 299):
        assert_same(reader.read(position), tiles[position])


def test_a_writer_counts_its_records(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "s.lmdb", 2, 4096)
    writer.put(shards.encode(random_tile(0)))
    with pytest.raises(ValueError, match="1 records, 2 in the manifest"):
        writer.finish(manifest_of({"train": (0, 2)}))
    writer.close()
    assert not (tmp_path / "s.lmdb" / "manifest.json").exists()


def test_the_same_records_are_the_same_file(tmp_path: Path) -> None:
    tiles = [random_tile(seed) for seed in range(300)]
    digests = {
        hashlib.sha256((write_shard(tmp_path / name, tiles) / "data.mdb").read_bytes()).hexdigest()
        for name in ("one", "two")
    }
    assert len(digests) == 1


def test_what_is_no_shard(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a shard"):
        ShardReader(tmp_path / "none.lmdb")
    (tmp_path / "manifest.json").write_text(manifest_of({"train": (0, 1)}).as_json(), "utf-8")
    reader = ShardReader(tmp_path)
    with pytest.raises(InputError, match=r"data.mdb cannot be read"):
        reader.read(0)
    (tmp_path / "data.mdb").write_bytes(b"no LMDB" * 1000)
    with pytest.raises(InputError, match=r"data.mdb cannot be read"):
        reader.read(0)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    folder = write_shard(tmp_path / "s.lmdb", [random_tile(seed) for seed in range(3)])
    environment = lmdb.open(str(folder), map_size=2**24, lock=False)
    with environment.begin(write=True) as transaction:
        key = (1).to_bytes(8, "big")
        record = bytearray(transaction.get(key) or b"")
        record[len(record) // 2] ^= 1
        transaction.put(key, bytes(record))
        transaction.delete((2).to_bytes(8, "big"))
    environment.close()
    reader = ShardReader(folder)
    assert_same(reader.read(0), random_tile(0))
    with pytest.raises(InputError, match="tile 1 cannot be read"):
        reader.read(1)
    with pytest.raises(InputError, match="tile 2 cannot be read: it is missing"):
        reader.read(2)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_a_truncated_shard_is_an_error_and_no_crash(tmp_path: Path, share: float) -> None:
    """LMDB maps the file: a page behind its end kills the process with SIGBUS."""
    folder = write_shard(tmp_path / "s.lmdb", [random_tile(seed) for seed in range(40)])
    data = folder / "data.mdb"
    data.write_bytes(data.read_bytes()[: int(data.stat().st_size * share)])
    with pytest.raises(InputError, match=r"data.mdb cannot be read"):
        ShardReader(folder).read(39)


def test_a_shard_that_was_made_anew_is_read_anew(tmp_path: Path) -> None:
    folder = write_shard(tmp_path / "s.lmdb", [random_tile(0)])
    assert_same(ShardReader(folder).read(0), random_tile(0))
    folder.rename(tmp_path / "old.lmdb")
    write_shard(folder, [random_tile(1)])
    assert_same(ShardReader(folder).read(0), random_tile(1))


def test_many_threads_read_one_shard(tmp_path: Path) -> None:
    tiles = [random_tile(seed) for seed in range(20)]
    reader = ShardReader(write_shard(tmp_path / "s.lmdb", tiles))
    gate = threading.Barrier(8)

    def read(start: int) -> None:
        gate.wait()
        for i in range(40):
            assert_same(reader.read((start + i) % 20), tiles[(start + i) % 20])

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(read, range(8)):
            pass


def _sums(reader: ShardReader, positions: Sequence[int]) -> list[int]:
    return [int(reader.read(i).image.sum()) for i in positions]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_processes_read_one_shard_that_the_parent_has_open(tmp_path: Path, method: str) -> None:
    tiles = [random_tile(seed) for seed in range(6)]
    reader = ShardReader(write_shard(tmp_path / "s.lmdb", tiles))
    assert_same(reader.read(0), tiles[0])
    context = multiprocessing.get_context(method)
    expected = [int(tile.image.sum()) for tile in tiles]
    with context.Pool(2) as pool:
        answers = pool.starmap(_sums, [(reader, range(6)), (reader, range(6))], chunksize=1)
    assert answers == [expected, expected]
    assert_same(reader.read(5), tiles[5])


# Strips


def sheet_sources(grid: PixelGrid, reads: list[Window] | None = None) -> strips.Sources:
    """A sheet of noise whose every pixel is known."""
    rng = np.random.default_rng(0)
    shape = (grid.height, grid.width)
    image = rng.integers(0, 256, (3, *shape), dtype=np.uint8)
    valid = rng.random(shape) < 0.9
    label = rng.integers(0, 3, shape, dtype=np.uint8)
    polygons = rng.integers(0, 40, shape, dtype=np.uint32)

    def read(window: Window) -> NDArray[np.uint8]:
        assert window.intersection(grid.window) == window, "a window outside the sheet"
        if reads is not None:
            reads.append(window)
        return image[(slice(None), *window.slices())]

    return strips.Sources(
        grid,
        read,
        lambda window: valid[window.slices()],
        lambda window: label[window.slices()],
        lambda window: polygons[window.slices()],
        np.concatenate([np.zeros((1, 3)), rng.random((39, 3))]).astype(np.float32),
    )


def test_a_strip_is_cut_into_the_pixels_of_its_windows() -> None:
    reads: list[Window] = []
    sources = sheet_sources(GRID, reads)
    windows = [Window(c, 20, 16, 16) for c in (3, 10, 40, 84)]
    found = list(strips.cut(windows, sources))
    assert reads == [Window(3, 20, 97, 16)]
    for window, (tile, valid) in zip(windows, found, strict=True):
        np.testing.assert_array_equal(tile.image, sources.image(window) * valid)
        np.testing.assert_array_equal(tile.label, sources.label(window))
        np.testing.assert_array_equal(tile.polygons, sources.polygons(window))
        np.testing.assert_array_equal(valid, sources.valid(window))
        rows = sorted(set(tile.polygons.ravel().tolist()) - {0})
        assert tile.proportion_rows.tolist() == rows
        np.testing.assert_array_equal(tile.proportions, sources.shares[rows])


def test_beyond_the_edge_a_tile_is_empty_and_ignored() -> None:
    sources = sheet_sources(PixelGrid("EPSG:25830", 0.0, 0.0, 0.5, 0.5, 10, 6))
    ((tile, valid),) = strips.cut([Window(0, 0, 16, 16)], sources)
    sheet = Window(0, 0, 10, 6)
    shown = sources.image(sheet) * sources.valid(sheet)
    np.testing.assert_array_equal(tile.image[:, :6, :10], shown)
    np.testing.assert_array_equal(tile.label[:6, :10], sources.label(sheet))
    beyond = np.ones((16, 16), bool)
    beyond[:6, :10] = False
    assert (tile.image[:, beyond] == 0).all()
    assert (tile.label[beyond] == IGNORE).all()
    assert (tile.polygons[beyond] == 0).all()
    assert not valid[beyond].any()
    assert 0 not in tile.proportion_rows


def test_strips_are_rows_of_at_most_so_many_columns() -> None:
    step = 256
    row = [Window(c, 0, step, step) for c in range(0, 20_000, step)]
    below = [Window(c, step, step, step) for c in (0, step)]
    found = strips.strips_of([*row, *below])
    assert [w for strip in found for w in strip] == [*row, *below]
    assert [len(strip) for strip in found] == [32, 32, 15, 2]
    assert strips.strips_of([]) == []


def test_a_window_to_the_left_starts_a_strip_of_its_own() -> None:
    """Tiles of the next split may lie in the same row, before and across those of the last."""
    train, test = Window(30, 0, 16, 16), Window(20, 0, 16, 16)
    assert strips.strips_of([train, test]) == [(train,), (test,)]


# Many at once


def test_computed_results_are_in_order_whatever_the_threads() -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.002 * (5 - item % 5))
        return item * item

    items = list(range(23))
    for threads in (1, 4):
        assert list(computed(slow_first, items, threads)) == [i * i for i in items]
        assert list(ordered(slow_first, items, threads)) == [(i, i * i) for i in items]


@pytest.mark.parametrize("threads", [1, 3])
def test_only_a_few_results_wait(threads: int) -> None:
    """Memory is bounded: nobody runs far ahead of what was taken."""
    started: list[int] = []

    def start(item: int) -> int:
        started.append(item)
        return item

    def drawn() -> Iterator[int]:
        yield from range(100)

    runs: list[Callable[[], Iterator[object]]] = [
        lambda: ordered(start, drawn(), threads),
        lambda: computed(start, range(100), threads),
    ]
    for run in runs:
        started.clear()
        results = run()
        next(results)
        time.sleep(0.05)
        assert len(started) <= 4 * threads
        assert len(list(results)) == 99


def test_a_windows_error_reaches_the_caller() -> None:
    def fail(item: int) -> int:
        if item == 7:
            raise InputError("window 7 is damaged")
        return item

    for threads in (1, 4):
        with pytest.raises(InputError, match="window 7"):
            list(computed(fail, range(20), threads))
        with pytest.raises(InputError, match="window 7"):
            list(ordered(fail, range(20), threads))


def test_data_do_not_depend_on_the_threads(tmp_path: Path) -> None:
    """The whole of `shard` but for its files: strips, encoding, one writer."""
    grid = PixelGrid("EPSG:25830", 0.0, 0.0, 0.5, 0.5, 300, 200)
    windows = [Window(c, r, 32, 32) for r in range(0, 161, 16) for c in range(0, 257, 16)]
    digests = set()
    for threads in (1, 4):
        sources = sheet_sources(grid)

        def encoded(strip: Sequence[Window], sources: strips.Sources = sources) -> list[bytes]:
            return [shards.encode(tile) for tile, _ in strips.cut(strip, sources)]

        folder = tmp_path / f"{threads}.lmdb"
        writer = ShardWriter(folder, len(windows), shards.record_bound(32, 3, 3))
        for records in computed(encoded, strips.strips_of(windows), threads):
            for record in records:
                writer.put(record)
        writer.finish(manifest_of({"train": (0, len(windows))}))
        digests.add(hashlib.sha256((folder / "data.mdb").read_bytes()).hexdigest())
        reader = ShardReader(folder)
        shown = sources.image(windows[20]) * sources.valid(windows[20])
        np.testing.assert_array_equal(reader.read(20).image, shown)
    assert len(digests) == 1
