"""Record codecs: tiles a second on one core, bytes a tile; whole records, with their annotation.

Tiles of the sheet come from its shard, with labels and polygon index. Those of real imagery
(``--imagery``, any subfolder) have no labels. All are in memory before the clock starts.

    python -m tests.benchmarks.codecs --step encode --codec zstd --shard DIR
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterioWindow

from pipeline.records import CODECS, Tile, decode, encode_tile
from pipeline.shards import ShardReader
from tests.benchmarks import harness, sheet_run
from tests.benchmarks.harness import Comparison, Prepared, Run, Setup
from tests.benchmarks.sheet_run import NAME, TILE

STEPS = ("encode", "decode")
MOST = 500
"""Tiles of a run."""

_PICTURES = (".tif", ".tiff", ".jp2", ".png", ".jpg")


class Codecs:
    """The benchmark."""

    def prepare(self, setup: Setup) -> Prepared:
        """A shard of the sheet's tiles."""
        made = sheet_run.with_shard(setup)
        shard = made.paths.shard(NAME)
        sources = {"sheet": ("--shard", shard)}
        if setup.imagery is not None:
            sources["imagery"] = ("--imagery", setup.imagery)
        runs: dict[str, Run] = {}
        rows: list[Comparison] = []
        for (name, (option, place)), step, codec in itertools.product(
            sources.items(), STEPS, CODECS
        ):
            run = f"{step} {codec} {name}"
            command = harness.module(
                "tests.benchmarks.codecs", "--step", step, "--codec", codec, option, str(place)
            )
            runs[run] = Run(command, inside=True, reads=(place,))
            rows.append(Comparison(f"{name}: {step}, {codec}", run))

        def facts() -> dict[str, Any]:
            found: dict[str, Any] = {}
            for name, (_, place) in sources.items():
                tiles = _tiles(place)
                found[f"tiles_{name}"] = len(tiles)
                for codec in CODECS:
                    size = sum(len(encode_tile(tile, codec)) for tile in tiles)
                    found[f"bytes_a_tile_{codec}_{name}"] = round(size / len(tiles))
            return found

        return Prepared({"size": setup.size, "tile": TILE}, runs, tuple(rows), facts=facts)


BENCHMARK: harness.Benchmark = Codecs()


def _tiles(place: Path) -> list[Tile]:
    """At most 500 tiles of a shard, or of the pictures in a folder, spread evenly over it.

    Raises:
        BenchmarkSkippedError: If there is none.
    """
    if (place / "manifest.json").exists():
        reader = ShardReader(place)
        return [reader.read(i) for i in range(0, len(reader), -(-len(reader) // MOST))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # codecs do not care where
        windows = list(_windows(place))
        if not windows:
            raise harness.BenchmarkSkippedError(f"no picture with a tile of {TILE} px in {place}")
        return [_tile(*window) for window in windows[:: -(-len(windows) // MOST)]]


def _windows(folder: Path) -> Iterator[tuple[Path, RasterioWindow]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in _PICTURES:
            continue
        with rasterio.open(path) as source:
            if source.count < 3 or source.dtypes[0] != "uint8":
                continue
            for row in range(0, source.height - TILE + 1, TILE):
                for col in range(0, source.width - TILE + 1, TILE):
                    yield path, RasterioWindow(col, row, TILE, TILE)


def _tile(path: Path, window: RasterioWindow) -> Tile:
    with rasterio.open(path) as source:
        image: NDArray[np.uint8] = source.read([1, 2, 3], window=window)
    nothing = np.zeros((TILE, TILE), np.uint8)
    return Tile(
        image, nothing, nothing.astype(np.uint32), np.zeros(0, np.uint32),
        np.zeros((0, 1), np.float32),
    )  # fmt: skip


def main() -> None:
    """Time a codec, as the command line says."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--step", choices=STEPS, required=True)
    arguments.add_argument("--codec", choices=CODECS, required=True)
    source = arguments.add_mutually_exclusive_group(required=True)
    source.add_argument("--shard", type=Path)
    source.add_argument("--imagery", type=Path)
    given = arguments.parse_args()
    tiles = _tiles(given.shard or given.imagery)
    records = [encode_tile(tile, given.codec) for tile in tiles]
    decode(records[0])
    began = time.perf_counter()
    if given.step == "encode":
        for tile in tiles:
            encode_tile(tile, given.codec)
    else:
        for record in records:
            decode(record)
    seconds = time.perf_counter() - began
    size = sum(map(len, records)) / len(records)
    harness.answer(seconds, items=len(tiles), bytes_a_tile=round(size))


if __name__ == "__main__":
    main()
