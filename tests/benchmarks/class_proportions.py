"""Class proportions of one sheet of a base of 2.5 million polygons, against reading its geometry.

    python -m tests.benchmarks.class_proportions --base BASE.gpkg --polygons N --step resolved

The reference is ``geopandas.read_file`` with the same bounding box and no columns. Each step is
done once untimed and then timed, in a process of its own.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import geopandas

from pipeline import nomenclature, siose, siose_values
from pipeline.config import read_yaml
from pipeline.sections import SioseSettings
from tests.benchmarks import harness, province
from tests.benchmarks.harness import Comparison, Prepared, Run, Setup
from tests.benchmarks.machine import ROOT

SHEET_POLYGONS = 100_000
BENDS = 6
FOREST = ROOT / "configs" / "nomenclatures" / "forest.yaml"
BAR, MEMORY_MB = 1.5, 1500

Box = tuple[float, float, float, float]


class ClassProportions:
    """The benchmark."""

    def prepare(self, setup: Setup) -> Prepared:
        """The base, and its values indexed."""
        side = math.ceil(math.sqrt(setup.province))
        base = setup.folder / f"tesela_province_{setup.province}_{BENDS}.gpkg"
        if not base.exists():
            part = base.with_suffix(".part.gpkg")
            province.write_province(part, side, side, BENDS)
            part.rename(base)

        def run(step: str) -> Run:
            command = harness.module(
                "tests.benchmarks.class_proportions", "--base", str(base), "--polygons",
                str(setup.province), "--step", step,
            )  # fmt: skip
            return Run(command, inside=True, reads=(base,))

        index(base)
        names = ("geometry", "resolved", "written")
        runs = {name: run(name) for name in names} | {"index": run("index")}
        comparisons = (
            Comparison("class proportions", "resolved", ("geometry",), BAR, memory_mb=MEMORY_MB),
            Comparison("class proportions, written", "written", ("geometry",)),
            Comparison("values table indexed, once a base", "index"),
        )
        sizes = {
            "polygons": side * side,
            "vertices_a_polygon": 4 * BENDS + 1,
            "polygons_of_sheet": min(SHEET_POLYGONS, setup.province),
        }
        return Prepared(sizes, runs, comparisons)


BENCHMARK: harness.Benchmark = ClassProportions()


def middle_of(polygons: int) -> Box:
    """A sheet in the middle of a base: left, bottom, right, top."""
    side = math.ceil(math.sqrt(polygons))
    extent = province.CELL * math.sqrt(min(SHEET_POLYGONS, polygons))
    middle = province.CELL * side / 2 - extent / 2
    left, bottom = province.LEFT + middle, province.BOTTOM + middle
    return (left, bottom, left + extent, bottom + extent)


def geometry(base: Path, box: Box) -> int:
    """Read the polygons of a sheet without any column."""
    return len(geopandas.read_file(base, layer="T_POLIGONOS", bbox=box, columns=[]))


def resolved(base: Path, box: Box, out: Path | None = None) -> int:
    """What the stage does for a sheet: open, resolve, and write where a file is given."""
    classes = nomenclature.parse(read_yaml(FOREST), str(FOREST))
    opened = siose.open_base(base)
    values = siose_values.open_index(base.with_suffix(".arrow"), opened)
    frame, _ = siose.class_proportions(
        opened, box, box, province.CRS, classes, SioseSettings(), values, threads=2
    )
    if out is not None:
        siose.write_proportions(frame, out, classes.fingerprint)
    return len(frame)


def index(base: Path) -> int:
    """Index the values table, once a run."""
    table = siose_values.index_values(siose.open_base(base))
    siose_values.write_index(table, base.with_suffix(".arrow"))
    return len(table)


def main() -> None:
    """Time a step, as the command line says."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--base", type=Path, required=True)
    arguments.add_argument("--polygons", type=int, required=True)
    arguments.add_argument("--step", required=True)
    given = arguments.parse_args()
    base, box = given.base, middle_of(given.polygons)
    steps: dict[str, Callable[[], int]] = {
        "geometry": lambda: geometry(base, box),
        "resolved": lambda: resolved(base, box),
        "written": lambda: resolved(base, box, base.with_suffix(".parquet")),
        "index": lambda: index(base),
    }
    work = steps[given.step]
    work()
    began = time.perf_counter()
    found = work()
    harness.answer(time.perf_counter() - began, polygons=found)


if __name__ == "__main__":
    main()
