"""Shards: tiles come back from any process, counts are exact, damage is found."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest

from pipeline import publication, shards
from pipeline.errors import InputError, OutputError
from pipeline.grid import PixelGrid
from pipeline.nomenclature import IGNORE
from pipeline.records import Runs, Tile, encode_tile
from pipeline.shards import Manifest, ShardReader, ShardWriter, SplitCounts
from tests.test_records import assert_same, random_tile

GRID = PixelGrid("EPSG:25830", 700_000.0, 4_400_000.0, 0.5, 0.5, 100, 70)
CLASSES = ("built", "bare", "forest")


def manifest_of(splits: dict[str, tuple[int, int]]) -> Manifest:
    return Manifest(
        layout=shards.LAYOUT,
        sheet="0722",
        grid=GRID,
        bands=3,
        tile_px=16,
        classes=CLASSES,
        nomenclature="0123456789abcdef",
        codec="raw",
        splits=splits,
        counts={name: SplitCounts.nothing(3, 3) for name in splits},
    )


def write_shard(folder: Path, tiles: Sequence[Tile], record_bytes: int = 4096) -> Path:
    writer = ShardWriter(folder, len(tiles), record_bytes)
    for position, tile in enumerate(tiles):
        writer.put(position, encode_tile(tile))
    writer.finish(manifest_of({"train": (0, len(tiles))}))
    return folder


# Counts


def test_counts_equal_brute_force_and_add_up_exactly() -> None:
    rng = np.random.default_rng(9)
    tiles = [random_tile(seed) for seed in range(6)]
    valid = [rng.random((16, 16)) < 0.8 for _ in tiles]
    tiles[2] = dataclasses.replace(tiles[2], label=np.full((16, 16), IGNORE, np.uint8))
    tiles[3].label[tiles[3].label == 1] = 2
    for tile, there in zip(tiles, valid, strict=True):
        tile.image[:, ~there] = 0
    counted = [
        SplitCounts.of(t.image, Runs.of(t.label), v, 3) for t, v in zip(tiles, valid, strict=True)
    ]
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
    image, label = np.full((1, 512, 512), 255, np.uint8), np.zeros((512, 512), np.uint8)
    counts = SplitCounts.of(image, Runs.of(label), None, 3)
    assert counts.pixels == 512 * 512
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
    writer.put(0, encode_tile(random_tile(0)))
    with pytest.raises(ValueError, match="1 records, 2 in the manifest"):
        writer.finish(manifest_of({"train": (0, 2)}))
    writer.close()
    assert not (tmp_path / "s.lmdb" / "manifest.json").exists()


def test_tiles_come_in_any_order_and_each_once(tmp_path: Path) -> None:
    tiles = [random_tile(seed) for seed in range(40)]
    straight = ShardWriter(tmp_path / "straight.lmdb", 40, 4096)
    mixed = ShardWriter(tmp_path / "mixed.lmdb", 40, 4096)
    for position in range(40):
        straight.put(position, encode_tile(tiles[position]))
    for position in np.random.default_rng(0).permutation(40).tolist():
        mixed.put(position, encode_tile(tiles[position]))
    assert straight.checksum == mixed.checksum
    for position, told in ((3, "twice"), (40, "no such tile"), (-1, "no such tile")):
        with pytest.raises(ValueError, match=told):
            mixed.put(position, encode_tile(tiles[0]))
    mixed.finish(manifest_of({"train": (0, 40)}))
    straight.close()
    reader = ShardReader(tmp_path / "mixed.lmdb")
    for position in range(40):
        assert_same(reader.read(position), tiles[position])


def test_the_checksum_sees_every_tile(tmp_path: Path) -> None:
    sums = set()
    for changed in (None, 0, 7):
        writer = ShardWriter(tmp_path / f"{changed}.lmdb", 8, 4096)
        for position in range(8):
            tile = random_tile(position)
            if position == changed:
                tile.image[0, 0, 0] ^= 1
            writer.put(position, encode_tile(tile))
        sums.add(writer.checksum)
        writer.close()
    assert len(sums) == 3


def test_a_copy_is_read_as_soon_as_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_shard(tmp_path / "s.lmdb", [random_tile(0)])
    copy = tmp_path / "node" / "s.lmdb"
    copy.parent.mkdir()
    reader = ShardReader(folder, copy=copy)
    assert_same(reader.read(0), random_tile(0))
    assert reader.folder == folder
    write_shard(copy, [random_tile(1)])  # another tile, to tell them apart
    assert_same(reader.read(0), random_tile(0))  # not each time: it would ask the disk
    monkeypatch.setattr(shards, "_LOOK_EVERY", 0.0)
    assert_same(reader.read(0), random_tile(1))
    assert reader.folder == copy


@pytest.mark.parametrize("harm", ["gone", "truncated", "zeroed"])
def test_a_copy_that_is_lost_is_left_for_the_shard(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Cleaners of node-local disks take single files away while a training runs."""
    tiles = [random_tile(seed) for seed in range(40)]
    folder, copy = (write_shard(tmp_path / name, tiles) for name in ("s.lmdb", "copy.lmdb"))
    data = copy / "data.mdb"
    if harm == "gone":
        data.unlink()
    elif harm == "truncated":
        data.write_bytes(data.read_bytes()[:20_000])
    else:  # the pages behind the two that LMDB begins with
        data.write_bytes(data.read_bytes()[:8192] + bytes(data.stat().st_size - 8192))
    reader = ShardReader(folder, copy=copy)
    for position in (3, 39):
        assert_same(reader.read(position), tiles[position])
    assert reader.folder == folder
    assert len(caplog.records) == 1
    assert f"Its tiles are read from {folder}" in caplog.text
    with pytest.raises(InputError, match="cannot be read"):
        ShardReader(copy).read(3)


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "free_bytes", lambda folder: 3 * 2**30)
    shards.check_room(tmp_path, 3 * 2**30, "shard of sheet 0722")
    with pytest.raises(OutputError, match=r"sheet 0722: needs about 6.00 GiB in .*3.00 GiB"):
        shards.check_room(tmp_path, 6 * 2**30, "shard of sheet 0722")
    assert publication.free_bytes(tmp_path / "not" / "yet") == publication.free_bytes(tmp_path)


@pytest.mark.parametrize("size", [1, 1000, 4080, 4081, 60_000])
def test_the_room_of_a_record_is_what_the_file_grows_by(tmp_path: Path, size: int) -> None:
    environment = lmdb.open(str(tmp_path / "s.lmdb"), map_size=2**28, lock=False, sync=False)
    with environment.begin(write=True) as transaction:
        for key in range(300):
            transaction.put(key.to_bytes(8, "big"), bytes(size))
    environment.close()
    taken = (tmp_path / "s.lmdb" / "data.mdb").stat().st_size
    assert 0.2 * taken < 300 * shards.room_of(size) + 2**16
    assert taken <= 300 * shards.room_of(size) + 2**16


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
