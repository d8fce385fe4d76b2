"""Class proportions of one sheet of a base of 2.5 million polygons, against reading its geometry.

    python -m tests.benchmarks.class_proportions [--folder DIR] [--polygons 2500000] [--repeat 5]

The reference is ``geopandas.read_file`` with the same bounding box and no columns. Times are
medians of alternating runs after one of each to warm up; memory is the peak of a process that does
nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import geopandas

from pipeline import nomenclature, siose, siose_values
from pipeline.config import SioseSettings, read_yaml
from tests.benchmarks import province

SHEET_POLYGONS = 100_000
FOREST = Path(__file__).parents[2] / "configs" / "nomenclatures" / "forest.yaml"


def proportions(base: Path, index: Path, box: tuple[float, float, float, float], out: Path) -> int:
    """All that the stage does for a sheet: open, resolve, write."""
    classes = nomenclature.parse(read_yaml(FOREST), str(FOREST))
    opened = siose.open_base(base)
    values = siose_values.open_index(index, opened)
    frame, _ = siose.class_proportions(
        opened, box, box, province.CRS, classes, SioseSettings(), values, threads=2
    )
    siose.write_proportions(frame, out, classes.fingerprint)
    return len(frame)


def resolved(base: Path, index: Path, box: tuple[float, float, float, float]) -> int:
    """The same without writing."""
    classes = nomenclature.parse(read_yaml(FOREST), str(FOREST))
    opened = siose.open_base(base)
    values = siose_values.open_index(index, opened)
    frame, _ = siose.class_proportions(
        opened, box, box, province.CRS, classes, SioseSettings(), values, threads=2
    )
    return len(frame)


def index(base: Path, path: Path) -> int:
    """Index the values table, once a run."""
    table = siose_values.index_values(siose.open_base(base))
    siose_values.write_index(table, path)
    return len(table)


def timed(work: Callable[[], int]) -> float:
    """Seconds that something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Make the base where it is not there, measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments.add_argument("--polygons", type=int, default=2_500_000)
    arguments.add_argument("--bends", type=int, default=6)
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--only", choices=["index", "proportions"])
    given = arguments.parse_args()
    side = math.ceil(math.sqrt(given.polygons))
    base = given.folder / f"tesela_province_{given.polygons}_{given.bends}.gpkg"
    values, out = base.with_suffix(".arrow"), base.with_suffix(".parquet")
    if not base.exists():
        province.write_province(base, side, side, given.bends)
    extent = province.CELL * math.sqrt(min(SHEET_POLYGONS, given.polygons))
    middle = province.CELL * side / 2 - extent / 2
    left, bottom = province.LEFT + middle, province.BOTTOM + middle
    box = (left, bottom, left + extent, bottom + extent)
    if given.only:  # a process of its own, whose memory is this step's
        work = {"index": lambda: index(base, values),
                "proportions": lambda: proportions(base, values, box, out)}  # fmt: skip
        work[given.only]()
        # Not ru_maxrss, which a process inherits from the one that started it.
        status = Path("/proc/self/status").read_text("utf-8")
        print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
        return
    indexing = timed(lambda: index(base, values))
    steps: dict[str, Callable[[], int]] = {
        "reference": lambda: len(
            geopandas.read_file(base, layer="T_POLIGONOS", bbox=box, columns=[])
        ),
        "resolved": lambda: resolved(base, values, box),
        "resolved and written": lambda: proportions(base, values, box, out),
    }
    count = {name: step() for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(given.repeat):
        for name, step in steps.items():
            seconds[name].append(timed(step))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    peak = {
        step: float(
            subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.class_proportions", "--only", step,
                 "--folder", str(given.folder), "--polygons", str(given.polygons),
                 "--bends", str(given.bends)],
                check=True, capture_output=True, text=True,
            ).stdout
        )
        for step in ("index", "proportions")
    }  # fmt: skip
    print(
        json.dumps(
            {
                "polygons": side * side,
                "vertices": 4 * given.bends + 1,
                "sheet": count,
                "index_seconds": round(indexing, 2),
                "median_seconds": {name: round(value, 3) for name, value in median.items()},
                "ratio": {
                    name: round(value / median["reference"], 2) for name, value in median.items()
                },
                "peak_mib": {name: round(value) for name, value in peak.items()},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
