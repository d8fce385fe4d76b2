"""Train a network as a run's settings say, and map the test scene; told is what it took.

    python -m tests.benchmarks.train_and_map --config SETTINGS [--map scene_6]

The stages are those of the workflow. Imports are not counted.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import operator
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import harness


def pace(rows: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Speed and waiting over a whole training, validations left out.

    Args:
        rows: Lines of ``speed.csv``: the seconds of some steps, and how fast those went.

    Returns:
        ``tiles_per_second``, and ``waiting``, the share of that time spent waiting for data.
    """
    spent = [float(row["seconds"]) for row in rows]

    def mean(column: str) -> float:
        told = [float(row[column]) for row in rows]
        return math.fsum(map(operator.mul, spent, told)) / math.fsum(spent)

    return {column: mean(column) for column in ("tiles_per_second", "waiting")}


def main() -> None:
    """Do what the command line says."""
    import torch

    from pipeline import (  # noqa: F401 - what stages import when they come to it
        batches,
        checkpoint,
        config,
        evidence,
        figures,
        geotiff,
        mapping,
        networks,
        progress,
        stages,
        training,
    )

    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--config", type=Path, required=True)
    arguments.add_argument("--map", help="sheet")
    arguments.add_argument("--threads", type=int, default=2)
    given = arguments.parse_args()
    progress.start_logging()
    run = stages.Run(config.load(given.config))
    settings, paths = run.settings.training, run.paths
    told: dict[str, Any] = {}
    with geotiff.session():
        began = time.perf_counter()
        stages.train(run)
        seconds = time.perf_counter() - began
        if given.map:
            began = time.perf_counter()
            stages.map_sheet(run, given.map)
            told["map_seconds"] = time.perf_counter() - began
            told["map_pixels"] = geotiff.read_grid(paths.land_cover_map(given.map)).window.pixels
            stages.confusion(run, given.map, given.threads)
    with (paths.models / "speed.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    state = torch.load(paths.last, map_location="cpu", mmap=True, weights_only=True)["state"]
    card = checkpoint.read_card(paths.best)
    network, _ = checkpoint.load(paths.best)
    told |= pace(rows)
    told |= {
        "network": card.network,
        "encoder": card.encoder,
        "weights": settings.encoder_weights,
        "parameters": sum(p.numel() for p in network.parameters()),
        "checkpoint_bytes": paths.best.stat().st_size,
        "steps": int(rows[-1]["step"]),
        # Over all starts, validations included; the stage's own time is of this start.
        "trained_seconds": float(state["elapsed"]),
        "validation_mean_iou": json.loads(card.as_json())["scores"]["mean_iou"],
    }
    harness.answer(seconds, **told)


if __name__ == "__main__":
    main()
