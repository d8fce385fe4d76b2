"""Confusion of a sheet, all of it test ground, against reading both rasters once.

The rasters are read in whole blocks with rasterio, with as many threads, a dataset each. The stage
is timed without the start of Python; a second row has the whole command.
"""

from __future__ import annotations

from tests.benchmarks import harness, sheet_run
from tests.benchmarks.harness import Comparison, Prepared, Run, Setup
from tests.benchmarks.sheet_run import NAME

BAR, MEMORY_MB = 1.3, 1000


class Confusion:
    """The benchmark."""

    def prepare(self, setup: Setup) -> Prepared:
        """A run with labels, and a map that differs from them."""
        labelled = sheet_run.with_labels(setup, sheet_run.with_proportions(setup))
        made = sheet_run.with_map(setup, labelled)
        label, mapped = made.paths.label_raster(NAME), made.paths.land_cover_map(NAME)
        out = made.paths.confusion(NAME)
        read = harness.module(
            "tests.benchmarks.shard", "--step", "read", "--threads", str(setup.threads),
            "--source", str(label), str(mapped),
        )  # fmt: skip
        both = (label, mapped)
        runs = {
            "read both": Run(read, inside=True, reads=both),
            "stage": Run(
                made.stage("confusion", setup.threads), inside=True, reads=both, removes=(out,)
            ),
            "confusion": Run(made.command("confusion", setup.threads), reads=both, removes=(out,)),
        }
        comparisons = (
            Comparison("confusion, the stage", "stage", ("read both",), BAR, memory_mb=MEMORY_MB),
            Comparison("confusion, the whole command", "confusion", ("read both",)),
        )
        sizes = {
            "size": setup.size,
            "threads": setup.threads,
            "label_mb": round(label.stat().st_size / 1e6, 1),
            "map_mb": round(mapped.stat().st_size / 1e6, 1),
        }
        return Prepared(sizes, runs, comparisons)


BENCHMARK: harness.Benchmark = Confusion()
