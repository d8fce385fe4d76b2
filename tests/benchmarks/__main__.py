"""All benchmarks, or some: benchmarks.json and a table. See README.md beside this.

python -m tests.benchmarks --folder DIR [--only label_raster,shard] [--size 54000x38000]
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import harness, machine, results, sheet_run
from tests.benchmarks.harness import Benchmark, Setup

NAMES = (
    "label_raster", "shard", "chips", "samples", "confusion", "tile_plan", "codecs", "growth",
    "class_proportions",
)  # fmt: skip

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print; returns 1 where a benchmark failed."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pyogrio").setLevel(logging.WARNING)
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
    )
    commit, changed = machine.commit()
    content = results.read(given.out, machine.describe(folder), commit)
    text, failed = results.table(content), False
    for name in given.only:
        benchmark: Benchmark = importlib.import_module(f"tests.benchmarks.{name}").BENCHMARK
        result = measured(name, benchmark, setup) | {"changed": changed}
        result["small"] = name != "class_proportions" and setup.size < sheet_run.FULL
        failed |= "failed" in result
        key = name
        if name != "class_proportions":
            key = f"{name} {setup.size[0]} x {setup.size[1]}"
        content["results"][key] = result
        # After each, so that what was measured is kept when the next one is killed.
        text = results.write(content, given.out)
    print(text)
    return int(failed)


def measured(name: str, benchmark: Benchmark, setup: Setup) -> dict[str, Any]:
    """Prepare a benchmark, run it and compare: its part of the JSON."""
    began = time.perf_counter()
    try:
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
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "minutes": round((time.perf_counter() - began) / 60, 1),
    }


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
    add("--imagery", type=Path, default=None, help="folder of real orthophotos, for codecs")
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


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not {', '.join(NAMES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
