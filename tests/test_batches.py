from __future__ import annotations

import gc
import math
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from pipeline import batches, shards
from pipeline.batches import (
    Batch,
    TileData,
    TileDataset,
    _as_it_is,
    _start_worker,
)
from pipeline.draws import Draw, EpochSampler
from pipeline.errors import TrainingError
from pipeline.grid import PixelGrid
from pipeline.nomenclature import IGNORE
from pipeline.records import Runs, Tile, encode_tile, record_bound
from pipeline.sections import AugmentationSettings, TrainingSettings
from pipeline.shards import LAYOUT, MANIFEST, Manifest, ShardReader, ShardWriter, SplitCounts
from pipeline.training_data import band_statistics

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("water", "olives", "road")
SIDE = 8

Shard = Callable[..., ShardReader]
AS_IT_IS = AugmentationSettings(preset="none")


def tile_of(image: NDArray[np.uint8], label: NDArray[np.uint8]) -> Tile:
    nothing = np.zeros((SIDE, SIDE), np.uint32)
    return Tile(
        image, label, nothing, np.zeros(0, np.uint32), np.zeros((0, len(CLASSES)), np.float32)
    )


def plain(number: int, bands: int = 3, label: NDArray[np.uint8] | None = None) -> Tile:
    """A tile whose every image pixel tells its number; all three classes unless told."""
    if label is None:
        label = (np.arange(SIDE * SIDE) % 3).astype(np.uint8).reshape(SIDE, SIDE)
    return tile_of(np.full((bands, SIDE, SIDE), number, np.uint8), label)


def noise(rng: np.random.Generator) -> Tile:
    return tile_of(
        rng.integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8),
        rng.integers(0, 3, (SIDE, SIDE), dtype=np.uint8),
    )


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    """Writes a shard of given tiles by split."""

    def write(
        sheet: str,
        tiles: dict[str, list[Tile]],
        classes: tuple[str, ...] = CLASSES,
        nomenclature: str = "abc",
        pixel: float = 0.5,
    ) -> ShardReader:
        bands = next(tile for group in tiles.values() for tile in group).image.shape[0]
        splits, counts, first = {}, {}, 0
        writer = ShardWriter(
            tmp_path / f"{sheet}.lmdb", 100, record_bound(SIDE, bands, len(classes))
        )
        for split, group in tiles.items():
            total = SplitCounts.nothing(bands, len(classes))
            for position, tile in enumerate(group, first):
                writer.put(position, encode_tile(tile))
                total += SplitCounts.of(tile.image, Runs.of(tile.label), None, len(classes))
            splits[split], counts[split] = (first, first + len(group)), total
            first += len(group)
        grid = PixelGrid("EPSG:25830", 7e5, 4.4e6, pixel, pixel, 100, 100)
        writer.finish(
            Manifest(LAYOUT, sheet, grid, bands, SIDE, classes, nomenclature, "raw", splits, counts)
        )
        return ShardReader(tmp_path / f"{sheet}.lmdb")

    return write


def numbers(readers: list[ShardReader], split: str) -> list[int]:
    tiles = TileDataset(readers, split, 0)
    return [int(tiles[Draw(0, i)][0][0, 0, 0]) for i in range(len(tiles))]


def test_tiles_of_a_split_are_counted_over_the_shards(shard: Shard) -> None:
    readers = [
        shard("a", {"test": [plain(1)], "train": [plain(2), plain(3)]}),
        shard("b", {"validation": [plain(4)]}),
        shard("c", {"train": [plain(5)], "validation": [plain(6), plain(7)]}),
    ]
    assert numbers(readers, "train") == [2, 3, 5]
    assert numbers(readers, "validation") == [4, 6, 7]


@pytest.mark.parametrize(
    ("augment", "shuffle"), [("geometric", "full"), ("aerial", "full"), ("none", "local")]
)
def test_batches_do_not_depend_on_the_number_of_workers(
    shard: Shard, augment: str, shuffle: str
) -> None:
    rng = np.random.default_rng(0)
    reader = shard("a", {"train": [noise(rng) for _ in range(6)], "validation": [plain(0)]})
    drawn = []
    for workers in (0, 2):
        settings = TrainingSettings(batch_size=2, workers=workers, shuffle=shuffle)
        changes = AugmentationSettings(preset=augment)
        loader = TileData([reader], settings, changes, seed=5).train_batches()
        epochs = []
        for epoch in (3, 4):
            loader.draws.set_epoch(epoch)
            epochs.append([torch.cat([i.flatten(), lab.flatten()]) for i, lab in loader])
        drawn.append(torch.stack([torch.stack(batches) for batches in epochs]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_augmenting_leaves_the_global_generator_alone(shard: Shard) -> None:
    reader = shard("a", {"train": [plain(1)], "validation": [plain(0)]})
    settings = TrainingSettings(workers=0, batch_size=1)
    data = TileData([reader], settings, AugmentationSettings(preset="aerial"), seed=0)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    assert len(list(data.train_batches())) == 1
    assert torch.equal(torch.rand(3), expected)


def test_statistics_and_weights_are_of_the_training_split_alone(shard: Shard) -> None:
    rng = np.random.default_rng(1)
    tiles = [noise(rng) for _ in range(4)]
    readers = [
        shard("a", {"train": tiles[:1], "validation": [plain(255)], "test": [plain(255)]}),
        shard("b", {"train": tiles[1:]}),
    ]
    data = TileData(readers, TrainingSettings(), AS_IT_IS, seed=0)
    values = np.stack([tile.image for tile in tiles]).astype(np.float64)
    np.testing.assert_allclose(data.mean, values.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std, values.std(axis=(0, 2, 3)), rtol=1e-12)
    shares = np.bincount(np.stack([t.label for t in tiles]).ravel()) / (4 * SIDE * SIDE)
    np.testing.assert_allclose(data.class_weights, np.median(shares) / shares)
    inverse = TrainingSettings(class_weights="inverse_frequency")
    weights = TileData(readers, inverse, AS_IT_IS, seed=0).class_weights
    np.testing.assert_allclose(weights, 1 / (3 * shares))
    none = TrainingSettings(class_weights="none")
    assert TileData(readers, none, AS_IT_IS, seed=0).class_weights == (1.0, 1.0, 1.0)


def test_statistics_of_many_pixels_do_not_cancel() -> None:
    # 1e12 pixels of 200, one of 201: in floating point the variance would be lost.
    n = 10**12
    counts = SplitCounts(1, n + 1, (200 * n + 201,), (40_000 * n + 201**2,), (n, 1), (n + 1, n + 1))
    mean, std = band_statistics(counts)
    assert mean[0] == pytest.approx(200.0)
    assert std[0] == pytest.approx(math.sqrt(n) / (n + 1), rel=1e-9)
    constant = SplitCounts(1, 4, (800,), (160_000,), (4,), (4,))
    assert band_statistics(constant) == ((200.0,), (1.0,))


def test_all_classes_absent_from_training_are_named(shard: Shard) -> None:
    water = np.zeros((SIDE, SIDE), np.uint8)
    reader = shard("a", {"train": [plain(1, label=water)], "validation": [plain(1)]})
    with pytest.raises(TrainingError) as error:
        TileData([reader], TrainingSettings(), AS_IT_IS, seed=0)
    assert error.value.items == ("olives", "road")
    assert "split `train`" in error.value.remedy


def test_a_split_without_tiles_or_labels_is_an_error(shard: Shard) -> None:
    train = shard("a", {"train": [plain(1)]})
    with pytest.raises(TrainingError, match=r"'validation' has no tiles in any sheet \(a\)"):
        TileData([train], TrainingSettings(), AS_IT_IS, seed=0)
    masked = np.full((SIDE, SIDE), IGNORE, np.uint8)
    blank = shard("b", {"validation": [plain(1, label=masked)]})
    with pytest.raises(TrainingError, match="'validation' has no labelled pixels"):
        TileData([train, blank], TrainingSettings(), AS_IT_IS, seed=0)
    with pytest.raises(TrainingError, match="no shard"):
        TileData([], TrainingSettings(), AS_IT_IS, seed=0)


def test_all_disagreements_of_shards_are_listed(shard: Shard) -> None:
    readers = [
        shard("a", {"train": [plain(1)], "validation": [plain(1)]}),
        shard("b", {"train": [plain(1, bands=4)]}, classes=("water", "olives", "rock")),
        shard("c", {"train": [plain(1)]}, nomenclature="xyz", pixel=0.25),
        shard("d", {"train": [plain(1)]}, pixel=0.5 + 1e-10),
    ]
    with pytest.raises(TrainingError) as error:
        TileData(readers, TrainingSettings(), AS_IT_IS, seed=0)
    assert error.value.items == (
        "sheet b: bands 4, but 3 in sheet a",
        "sheet b: classes water, olives, rock, but water, olives, road in sheet a",
        "sheet c: nomenclature xyz, but abc in sheet a",
        "sheet c: pixel size 0.25 x 0.25, but 0.5 x 0.5 in sheet a",
    )


def test_the_order_of_the_shards_does_not_matter(shard: Shard) -> None:
    readers = [
        shard(name, {"train": [plain(n)], "validation": [plain(n)]})
        for n, name in enumerate("abcd")
    ]
    settings = TrainingSettings(workers=0, batch_size=4)
    seen = [
        next(iter(TileData(order, settings, AS_IT_IS, seed=0).train_batches()))[0]
        for order in (readers, readers[::-1])
    ]
    assert torch.equal(seen[0], seen[1])


def test_batches_are_of_nearly_one_size(shard: Shard) -> None:
    reader = shard("a", {"train": [plain(n) for n in range(5)], "validation": [plain(0)] * 5})

    def sizes(batch_size: int) -> tuple[list[int], list[int]]:
        settings = TrainingSettings(workers=0, batch_size=batch_size)
        data = TileData([reader], settings, AS_IT_IS, seed=0)
        loaders = data.train_batches(), data.validation_batches()
        train, validation = ([len(images) for images, _ in loader] for loader in loaders)
        return train, validation

    assert sizes(2) == ([2, 3], [2, 2, 1])
    assert sizes(4) == ([2, 3], [4, 1])
    assert sizes(8) == ([5], [5])


def test_tiles_of_rare_classes_come_more_often(shard: Shard) -> None:
    water = np.zeros((SIDE, SIDE), np.uint8)
    tiles = [plain(n, label=water) for n in range(1, 16)] + [plain(16)]
    reader = shard("a", {"train": tiles, "validation": [plain(0)]})
    present = np.array([[True, n == 15, n == 15] for n in range(16)] + [[True, False, False]])
    settings = TrainingSettings(workers=0, batch_size=4, oversample=0.5)
    data = TileData([reader], settings, AS_IT_IS, seed=0, presence={"a": present})
    loader, seen = data.train_batches(), np.zeros(17, int)
    for epoch in range(40):
        loader.draws.set_epoch(epoch)
        for images, _ in loader:
            np.add.at(seen, images[:, 0, 0, 0].numpy(), 1)
    assert set(seen[1:16]) == {40}
    assert 40 * 2.5 < seen[16] < 40 * 3.2  # the root of 8 times: in a half, and not a sixteenth


def test_more_processes_than_tiles_are_refused(shard: Shard) -> None:
    reader = shard("a", {"train": [plain(1)], "validation": [plain(0)]})
    data = TileData([reader], TrainingSettings(), AS_IT_IS, seed=0)
    with pytest.raises(TrainingError, match="2 processes cannot share 1 training tiles"):
        data.share(1, 2)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_a_store_that_their_parent_has_open(shard: Shard, start: str) -> None:
    readers = [
        shard("a", {"train": [plain(n) for n in range(4)]}),
        shard("b", {"train": [plain(n) for n in range(4, 8)]}),
    ]
    tiles = TileDataset(readers, "train", 0)
    before = [int(tiles[Draw(0, n)][0][0, 0, 0]) for n in range(8)]
    loader = DataLoader(
        tiles,
        batch_sampler=EpochSampler(tiles.stretches, 0, shuffle=None, batch_size=2),
        num_workers=2,
        collate_fn=_as_it_is,
        worker_init_fn=_start_worker,
        multiprocessing_context=start,
    )
    seen = [int(image[0, 0, 0]) for images, _ in loader for image in images]
    assert before == seen == list(range(8))
    assert int(tiles[Draw(0, 3)][0][0, 0, 0]) == 3  # the parent's is as it was


class Slow(TileDataset):
    """Tiles that take a minute each to read, as from a file system that hangs."""

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        if draws[0].tile:
            time.sleep(60)
        return super().__getitems__(draws)


@pytest.mark.parametrize(("start", "number"), [("fork", signal.SIGTERM), ("spawn", signal.SIGUSR1)])
def test_workers_die_of_nobody_elses_signals_and_at_once_of_their_parents(
    shard: Shard, start: str, number: signal.Signals
) -> None:
    tiles = Slow([shard("a", {"train": [plain(n) for n in range(3)]})], "train", 0)
    draws = EpochSampler(tiles.stretches, 0, shuffle=None, batch_size=1)
    loader = batches.TileLoader(tiles, draws, 1)
    loader.multiprocessing_context = start
    iterator = iter(loader)
    next(iterator)  # it has started, and reads the next one
    (worker,) = iterator._workers
    subprocess.run(["kill", f"-{number.value}", str(worker.pid)], check=True)
    worker.join(0.5)
    assert worker.is_alive()
    began = time.monotonic()
    worker.terminate()
    worker.join(30)
    assert time.monotonic() - began < 10
    assert worker.exitcode == 0  # of another, torch would make an error
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_workers_of_a_killed_process_end(shard: Shard) -> None:
    folder = shard("a", {"train": [plain(n) for n in range(9)]}).folder
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from pipeline.batches import TileDataset, TileLoader\n"
        "from pipeline.draws import EpochSampler\n"
        "from pipeline.shards import ShardReader\n"
        "tiles = TileDataset([ShardReader(Path(sys.argv[1]))], 'train', 0)\n"
        "draws = EpochSampler(tiles.stretches, 0, shuffle=None, batch_size=1)\n"
        "iterator = iter(TileLoader(tiles, draws, 2))\n"
        "next(iterator)\n"
        "print(*(worker.pid for worker in iterator._workers), flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        parent.kill()
    assert not psutil.wait_procs(workers, timeout=30)[1]


def test_a_dataset_is_sent_without_open_stores(shard: Shard) -> None:
    reader = shard("a", {"train": [plain(n) for n in range(50)]})
    closed = pickle.dumps(TileDataset([reader], "train", 0))
    tiles = TileDataset([reader], "train", 0)
    assert int(tiles[Draw(0, 2)][0][0, 0, 0]) == 2
    content = pickle.dumps(tiles)
    assert len(content) == len(closed)
    assert b"lmdb.cpython" not in content
    assert b"Environment" not in content
    assert int(pickle.loads(content)[Draw(0, 7)][0][0, 0, 0]) == 7


def test_workers_that_live_on_take_up_a_copy(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_LOOK_EVERY", 0.0)
    tiles = {"train": [plain(1)] * 8, "validation": [plain(0)]}
    place = tmp_path / "disk" / "a.lmdb"
    reader = ShardReader(shard("a", tiles).folder, copy=place)
    settings = TrainingSettings(batch_size=2, workers=2)
    loader = TileData([reader], settings, AS_IT_IS, seed=0).train_batches()
    # Of other pixels than the original, which a copy of a run never is: so that it shows.
    other = shard("other", {"train": [plain(2)] * 8, "validation": [plain(0)]}).folder
    assert {int(images.max()) for images, _ in loader} == {1}
    workers = {process.pid for process in loader._iterator._workers}  # type: ignore[union-attr]
    place.parent.mkdir()
    other.rename(place)
    assert {int(images.min()) for images, _ in loader} == {2}
    assert {process.pid for process in loader._iterator._workers} == workers  # type: ignore[union-attr]


def test_memory_is_pinned_for_cuda_alone(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = shard("a", {"train": [plain(1)], "validation": [plain(0)]})
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        data = TileData([reader], TrainingSettings(), AS_IT_IS, seed=0)
        assert data.train_batches().pin_memory is there
        assert data.validation_batches().pin_memory is there


def manifests_alone(folder: Path, shard_count: int, tiles: int) -> list[Path]:
    counts = SplitCounts(tiles, 4, (1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12))
    splits = {"test": (0, 9), "train": (9, tiles), "validation": (tiles, 2 * tiles)}
    for number in range(shard_count):
        path = folder / f"{number:04d}.lmdb"
        path.mkdir(parents=True)
        grid = PixelGrid("EPSG:25830", 7e5, 4.4e6, 0.5, 0.5, 54_000, 38_000)
        manifest = Manifest(
            LAYOUT, path.stem, grid, 3, 256, CLASSES, "f" * 32, "raw", splits,
            dict.fromkeys(splits, counts), "c" * 32,
        )  # fmt: skip
        (path / MANIFEST).write_text(manifest.as_json(), encoding="utf-8")
    return sorted(folder.iterdir())


def test_a_dataset_grows_with_its_shards_and_not_with_their_tiles(tmp_path: Path) -> None:
    sizes = []
    for tiles in (1000, 100_000_000):
        folders = manifests_alone(tmp_path / str(tiles), 1000, tiles)
        gc.collect()
        tracemalloc.start()
        try:
            dataset = TileDataset([ShardReader(folder) for folder in folders], "train", 0)
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0] / 1000)
        finally:
            tracemalloc.stop()
        assert len(dataset) == 1000 * (tiles - 9)
    assert max(sizes) < 8192  # bytes a shard
    assert abs(sizes[1] - sizes[0]) < 256  # larger integers
    assert len(pickle.dumps(dataset)) / 1000 < 2048


# A process of its own: libraries that other tests have loaded do not bear so few files.
_FEW_FILES = """
import os, resource, sys
from pathlib import Path
from pipeline.batches import TileData
from pipeline.sections import AugmentationSettings, TrainingSettings
from pipeline.shards import ShardReader
readers = [ShardReader(Path(name)) for name in sys.argv[1:]]
settings = TrainingSettings(batch_size=4, workers=1)
data = TileData(readers, settings, AugmentationSettings(preset="none"), seed=0)
loader = data.train_batches()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
here = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (here + 40, hard))  # the worker inherits it
print(*sorted({int(image[0, 0, 0]) for images, _ in loader for image in images}))
"""


def test_shards_may_be_more_than_the_limit_of_open_files(shard: Shard) -> None:
    folders = [
        shard(f"{n:02d}", {"train": [plain(n)], "validation": [plain(n)]}).folder for n in range(60)
    ]
    done = subprocess.run(
        [sys.executable, "-c", _FEW_FILES, *map(str, folders)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(n) for n in range(60)]


def test_shards_larger_than_memory_are_told_of(
    shard: Shard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reader = shard("a", {"train": [plain(1)], "validation": [plain(0)]})

    def told(**settings: str) -> list[str]:
        caplog.clear()
        TileData([reader], TrainingSettings.model_validate(settings), AS_IT_IS, seed=0)
        return [record.getMessage() for record in caplog.records]

    assert told() == []
    monkeypatch.setattr(batches, "node_memory", lambda: 1000)
    (message,) = told()
    assert "`training.shuffle: local`" in message
    assert "`training.cache_dir`" in message
    assert told(shuffle="local") == []
    assert told(cache_dir="$SLURM_TMPDIR") == []
