"""Tile plan of one sheet, cut into blocks of ground: seconds only, the whole command."""

from __future__ import annotations

from tests.benchmarks import harness, sheet_run
from tests.benchmarks.harness import Comparison, Prepared, Run, Setup
from tests.benchmarks.sheet_run import NAME


class Plan:
    """The benchmark."""

    def prepare(self, setup: Setup) -> Prepared:
        """A run that has its labels."""
        made = sheet_run.with_labels(setup, sheet_run.with_proportions(setup))
        run = Run(
            made.command("tile-plan", setup.threads),
            reads=(made.paths.label_raster(NAME),),
            removes=(made.paths.tile_plan, made.paths.ground),
        )
        sizes = {"size": setup.size, "threads": setup.threads}
        return Prepared(sizes, {"tile-plan": run}, (Comparison("tile plan", "tile-plan"),))


BENCHMARK: harness.Benchmark = Plan()
