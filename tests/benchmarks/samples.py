"""Shuffled training samples a second against TorchGeo's RandomGeoSampler.

TorchGeo reads the JPEG GeoTIFF and the label raster; ours reads the shard, through the loader that
training has (``TileData``, without augmentation). Batches of 32, with 0 and with 2 workers. From
opening the data to the last batch, imports not counted; ours takes more samples, so that what is
compared is the time of one.

    python -m tests.benchmarks.samples --shard DIR --workers 2 --items 20000
"""

from __future__ import annotations

import argparse
import time
from itertools import count
from pathlib import Path
from typing import Any

from tests.benchmarks import harness, sheet_run
from tests.benchmarks.chips import PEER
from tests.benchmarks.harness import Comparison, Prepared, Run, Setup
from tests.benchmarks.sheet_run import NAME

BAR = 0.1
BATCH = 32
WORKERS = (0, 2)

_THEIRS, _OURS = 640, 19_200
"""Samples of one run."""


class Samples:
    """The benchmark."""

    def prepare(self, setup: Setup) -> Prepared:
        """A shard of all tiles."""
        made = sheet_run.with_shard(setup)
        shard = made.paths.shard(NAME)
        image, label = made.sheet.orthophoto, made.paths.label_raster(NAME)
        runs: dict[str, Run] = {}
        rows: list[Comparison] = []
        missing: dict[str, str] = {}
        for workers in WORKERS:
            ours, theirs = f"TileData, {workers} workers", f"RandomGeoSampler, {workers} workers"
            if setup.peers is None:
                missing[theirs] = "no environment with TorchGeo is given (PEERS=)"
            else:
                command = (
                    str(setup.peers), str(PEER), "samples", "--image", str(image), "--label",
                    str(label), "--workers", str(workers), "--batch", str(BATCH), "--items",
                    str(_THEIRS),
                )  # fmt: skip
                runs[theirs] = Run(command, inside=True, reads=(image, label))
            runs[ours] = Run(
                harness.module(
                    "tests.benchmarks.samples", "--shard", str(shard), "--workers", str(workers),
                    "--items", str(_OURS),
                ),
                inside=True,
                reads=(shard,),
            )  # fmt: skip
            rows.append(Comparison(f"shuffled samples, {workers} workers", ours, (theirs,), BAR))
        sizes = {
            "size": setup.size,
            "batch": BATCH,
            "samples_ours": _OURS,
            "samples_theirs": _THEIRS,
        }
        return Prepared(sizes, runs, tuple(rows), missing)


BENCHMARK: harness.Benchmark = Samples()


def draw(loader: Any, items: int) -> int:
    """Draw at least so many samples, over as many epochs as that takes; returns how many."""
    drawn = 0
    for epoch in count():
        loader.draws.set_epoch(epoch)
        for images, labels in loader:
            assert images.shape[1:] == (3, sheet_run.TILE, sheet_run.TILE), images.shape
            assert labels.shape[1:] == images.shape[2:], labels.shape
            drawn += len(images)
            if drawn >= items:
                return drawn
    raise AssertionError("epochs do not end")


def main() -> None:
    """Draw as the command line says."""
    from pipeline import batches
    from pipeline.sections import AugmentationSettings, TrainingSettings
    from pipeline.shards import ShardReader

    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--shard", type=Path, required=True)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--items", type=int, default=_OURS)
    given = arguments.parse_args()
    settings = TrainingSettings(batch_size=BATCH, workers=given.workers)
    began = time.perf_counter()
    unchanged = AugmentationSettings(preset="none")
    data = batches.TileData([ShardReader(given.shard)], settings, unchanged, seed=0)
    drawn = draw(data.train_batches(), given.items)
    harness.answer(time.perf_counter() - began, items=drawn)


if __name__ == "__main__":
    main()
