"""All benchmarks, or some: benchmarks.json and a table. See README.md beside this.

python -m tests.benchmarks --folder DIR [--only label_raster,shard] [--size 54000x38000]
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import harness, machine, results, sheet_run
from tests.benchmarks.harness import Benchmark, Ranking, Setup

NAMES = (
    "label_raster", "shard", "chips", "samples", "confusion", "tile_plan", "codecs", "growth",
    "class_proportions", "waiting", "networks", "maps",
)  # fmt: skip
SIZED = NAMES[:8]
"""Those that work on the sheet of the size that is asked for."""

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print; returns 1 where a benchmark failed."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pyogrio").setLevel(logging.WARNING)
    # Killed, it ends what it measures as well: a process left over would disturb the next one.
    signal.signal(signal.SIGTERM, _terminated)
    given = _parser().parse_args(arguments)
    folder: Path = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    setup = Setup(
        folder=folder,
        size=given.size,
        repeat=given.repeat,
        threads=given.threads,
        peers=given.peers,
        imagery=given.imagery,
        peer_share=given.peer_share,
        polygons=given.polygons,
        province=given.province,
        keep=given.keep,
        minutes=given.minutes,
        networks=given.only_networks,
        weights=given.weights,
        model=given.model,
    )
    commit, changed = machine.commit()
    content = results.read(given.out, machine.describe(folder), commit)
    text, failed = results.table(content), False
    for name in given.only:
        benchmark: Benchmark | Ranking = importlib.import_module(
            f"tests.benchmarks.{name}"
        ).BENCHMARK
        result = measured(name, benchmark, setup) | {"changed": changed}
        result["small"] = name in SIZED and setup.size < sheet_run.FULL
        failed |= "failed" in result
        key = name
        if name in SIZED:
            key = f"{name} {setup.size[0]} x {setup.size[1]}"
        elif name == "networks":
            key = f"{name} {setup.minutes:g} minutes"
        content["results"][key] = result
        # After each, so that what was measured is kept when the next one is killed.
        text = results.write(content, given.out)
    print(text)
    return int(failed)


def measured(name: str, benchmark: Benchmark | Ranking, setup: Setup) -> dict[str, Any]:
    """Prepare a benchmark, run it and compare: its part of the JSON."""
    began = time.perf_counter()
    try:
        if isinstance(benchmark, Ranking):
            log.info("%s:", name)
            return benchmark.measure(setup, log.info) | _when(began)
        log.info("%s: inputs", name)
        prepared = benchmark.prepare(setup)
        log.info("%s: %s", name, dict(prepared.sizes))
        runs = harness.measure_all(prepared, setup.repeat, log.info)
        facts = prepared.facts()
    except harness.BenchmarkSkippedError as reason:
        log.warning("%s: skipped: %s", name, reason)
        return {"skipped": str(reason)}
    except harness.BenchmarkFailedError as error:
        log.error("%s: failed: %s", name, error)
        return {"failed": str(error)}
    return {
        "sizes": dict(prepared.sizes),
        "facts": facts,
        "rows": [harness.compare(c, runs, prepared.missing) for c in prepared.comparisons],
        "commands": {run: " ".join(prepared.runs[run].command) for run in prepared.runs},
        "runs": runs,
        **_when(began),
    }


def _when(began: float) -> dict[str, Any]:
    return {
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "minutes": round((time.perf_counter() - began) / 60, 1),
    }


def _terminated(number: int, _: object) -> None:
    sys.exit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    default = Setup(Path(tempfile.gettempdir()) / "tesela_benchmarks")
    peers = os.environ.get("TESELA_PEERS")
    add = parser.add_argument
    add("--folder", type=Path, default=default.folder, help="inputs and results: 25 GB")
    add("--out", type=Path, default=Path("benchmarks.json"), help="results; the table beside them")
    add("--only", type=_names, default=NAMES, help=f"some of {','.join(NAMES)}")
    add("--size", type=_size, default=default.size, help="of the sheet, such as 54000x38000")
    add("--repeat", type=_count, default=default.repeat, help="runs of each")
    add("--threads", type=_count, default=len(os.sched_getaffinity(0)))
    add("--polygons", type=_count, default=default.polygons, help="of a full sheet")
    add("--province", type=_count, default=default.province, help="polygons of that base")
    add("--peers", type=Path, default=Path(peers) if peers else None,
        help="python with peers.txt; or TESELA_PEERS")  # fmt: skip
    add("--peer-share", type=float, default=default.peer_share, help="of the rows, for slow peers")
    add("--imagery", type=Path, default=None,
        help="folder of real orthophotos, for codecs; with exact.gpkg for networks")  # fmt: skip
    add("--minutes", type=_minutes, default=default.minutes, help="what each network is trained")
    add("--only-networks", type=_words, default=(), help="some names of networks.yaml, or peers")
    add("--weights", type=Path, default=None, help="folder of ImageNet weights, for networks")
    add("--model", type=Path, default=None, help="checkpoint of Tesela, for maps")
    add("--keep", action="store_true", help="use prepared runs although the code has changed")
    return parser


def _size(text: str) -> tuple[int, int]:
    width, height = text.lower().split("x")
    return int(width), int(height)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes < float("inf"):
        raise ValueError(text)
    return minutes


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not {', '.join(NAMES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
