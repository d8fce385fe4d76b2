"""Shard of a sheet, all tiles of 256 px without overlap, against the floor.

The floor is two things, timed apart and added: reading every pixel of the orthophoto once in whole
blocks with rasterio (threads on all cores, a dataset each), and putting the bytes of the finished
shard into a new LMDB from memory (transactions of 256 records, no sync but the last, as the
writer does). The floor neither reads labels nor packs anything. Ours is the whole command.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb
import rasterio
from rasterio.windows import Window as RasterioWindow

from tests.benchmarks import harness, sheet_run
from tests.benchmarks.harness import Comparison, Prepared, Run, Setup
from tests.benchmarks.sheet_run import NAME, SheetRun

BAR, MEMORY_MB = 1.25, 2000

_CHUNK = 256 * 2**20  # bytes of records in memory at a time
_COMMIT = 256  # records a transaction
_BLOCKS = 16  # side by side in one read


class Shard:
    """The benchmark."""

    def prepare(self, setup: Setup) -> Prepared:
        """A run with labels and a plan of all tiles; a shard, whose bytes the floor puts again."""
        made = sheet_run.with_shard(setup)
        shard = made.paths.shard(NAME)
        first = _checksum(shard)
        size = sum(store.stat().st_size for store in _stores(shard))
        again = made.folder / "again"
        own = "tests.benchmarks.shard"
        label, index = made.paths.label_raster(NAME), made.paths.polygon_index(NAME)
        threads = ("--threads", str(setup.threads))

        def read(*rasters: Path) -> Run:
            files = [str(raster) for raster in rasters]
            command = harness.module(own, "--step", "read", *threads, "--source", *files)
            return Run(command, inside=True, reads=rasters)

        runs = {
            "read blocks": read(made.sheet.orthophoto),
            "put records": Run(
                harness.module(
                    own, "--step", "put", "--source", str(shard), "--target", str(again)
                ),
                inside=True,
                reads=(shard,),
                removes=(again,),
            ),
            "shard": Run(
                made.command("shard", setup.threads),
                reads=(made.sheet.orthophoto, label, index, made.paths.proportions(NAME)),
                removes=(shard,),
            ),
            "read labels": read(label, index),
        }  # fmt: skip
        floor = ("read blocks", "put records")
        note = "the floor reads the orthophoto alone and packs nothing"
        comparisons = (
            Comparison("shard", "shard", floor, BAR, memory_mb=MEMORY_MB, note=note),
            Comparison("shard, floor reads labels and index too", "shard", (*floor, "read labels")),
        )

        def facts() -> dict[str, Any]:
            harness.remove(again)
            return {"same_bytes_every_time": _checksum(shard) == first}

        sizes = {
            "size": setup.size,
            "tiles": tiles_of(made),
            "shard_mb": round(size / 1e6),
            "threads": setup.threads,
        }
        return Prepared(sizes, runs, comparisons, facts=facts)


BENCHMARK: harness.Benchmark = Shard()


def tiles_of(made: SheetRun) -> int:
    """Tiles of a run's plan."""
    import pyarrow.parquet

    return int(pyarrow.parquet.read_metadata(made.paths.tile_plan).num_rows)


def read_blocks(rasters: list[Path], threads: int) -> float:
    """Seconds to read all pixels of rasters once, whole blocks, a dataset a thread."""
    local = threading.local()

    def read(task: tuple[Path, RasterioWindow]) -> int:
        path, window = task
        opened = local.__dict__.setdefault("opened", {})
        if path not in opened:
            opened[path] = rasterio.open(path, sharing=False)
        return int(opened[path].read(window=window).nbytes)

    tasks = [(path, window) for path in rasters for window in _block_windows(path)]
    with rasterio.Env(GDAL_CACHEMAX=256 * 2**20), ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        for _ in pool.map(read, tasks):
            pass
        return time.perf_counter() - began


def put_records(source: Path, target: Path) -> tuple[float, int]:
    """Seconds to put all records of a shard into a new store, and how many they are.

    Records are read into memory before they are put, a quarter of a GB at a time; that is not
    counted.
    """
    seconds, count = 0.0, 0
    for number, store in enumerate(_stores(source)):
        folder = target / str(number)
        folder.mkdir(parents=True)
        began = time.perf_counter()
        environment = lmdb.open(
            str(folder), map_size=2 * store.stat().st_size + 2**30, lock=False, sync=False,
            metasync=False,
        )  # fmt: skip
        seconds += time.perf_counter() - began
        for chunk in _chunks(store):
            began = time.perf_counter()
            for first in range(0, len(chunk), _COMMIT):
                with environment.begin(write=True) as transaction:
                    for key, record in chunk[first : first + _COMMIT]:
                        transaction.put(key, record, append=True)
            seconds += time.perf_counter() - began
            count += len(chunk)
        began = time.perf_counter()
        environment.sync(True)
        environment.close()
        seconds += time.perf_counter() - began
    return seconds, count


def _stores(folder: Path) -> list[Path]:
    return sorted(folder.rglob("data.mdb"))


def _chunks(store: Path) -> Iterator[list[tuple[bytes, bytes]]]:
    with (
        lmdb.open(str(store.parent), readonly=True, lock=False, readahead=False) as environment,
        environment.begin() as transaction,
    ):
        chunk: list[tuple[bytes, bytes]] = []
        size = 0
        for key, record in transaction.cursor():
            chunk.append((bytes(key), bytes(record)))
            size += len(record)
            if size >= _CHUNK:
                yield chunk
                chunk, size = [], 0
        yield chunk


def _block_windows(path: Path) -> Iterator[RasterioWindow]:
    with rasterio.open(path) as source:
        height, width = source.block_shapes[0]
        rows, cols = range(0, source.height, height), range(0, source.width, _BLOCKS * width)
        for row, col in itertools.product(rows, cols):
            yield RasterioWindow(
                col, row, min(_BLOCKS * width, source.width - col), min(height, source.height - row)
            )


def _checksum(folder: Path) -> str:
    """Hash of a shard's stores."""
    total = hashlib.blake2b()
    for store in _stores(folder):
        with store.open("rb") as file:
            total.update(hashlib.file_digest(file, hashlib.blake2b).digest())
    return total.hexdigest()


def main() -> None:
    """A step of the floor, as the command line says."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--step", choices=["read", "put"], required=True)
    arguments.add_argument("--source", type=Path, nargs="+", required=True)
    arguments.add_argument("--target", type=Path)
    arguments.add_argument("--threads", type=int, default=2)
    given = arguments.parse_args()
    if given.step == "read":
        harness.answer(read_blocks(given.source, given.threads))
    else:
        seconds, count = put_records(given.source[0], given.target)
        harness.answer(seconds, records=count)


if __name__ == "__main__":
    main()
