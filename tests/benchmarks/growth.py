"""Growth: four stages at 1/16, 1/4 and 1 sheet; time a pixel, against that of the full sheet.

Polygons are as dense on all. The stage's function is timed, in a process that has imported all that
it needs: the start of Python would count sixteen times as much on the small sheet.
"""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks import harness, sheet_run
from tests.benchmarks.harness import Comparison, Prepared, Run, Setup
from tests.benchmarks.sheet_run import NAME, SheetRun

WITHIN = 0.15

_PARTS = ((1, "1"), (2, "1/4"), (4, "1/16"))


class Growth:
    """The benchmark."""

    def prepare(self, setup: Setup) -> Prepared:
        """Runs of three sizes."""
        runs: dict[str, Run] = {}
        comparisons: list[Comparison] = []
        sizes: dict[str, object] = {"threads": setup.threads}
        for side, part in _PARTS:
            size = (setup.size[0] // side, setup.size[1] // side)
            labelled = sheet_run.with_labels(setup, sheet_run.with_proportions(setup, size))
            planned = sheet_run.with_plan(setup, labelled)
            mapped = sheet_run.with_map(setup, labelled)
            sizes[part] = size
            steps: dict[str, tuple[SheetRun, tuple[Path, ...]]] = {
                "label_raster": (labelled, labelled.label_files),
                "tile_plan": (labelled, (labelled.paths.tile_plan,)),
                "shard": (planned, (planned.paths.shard(NAME),)),
                "confusion": (mapped, (mapped.paths.confusion(NAME),)),
            }
            for step, (made, out) in steps.items():
                name = f"{step} {part}"
                runs[name] = Run(
                    made.stage(step, setup.threads),
                    made.pixels,
                    inside=True,
                    reads=_inputs(step, made),
                    removes=out,
                )
                if side > 1:
                    comparisons.append(
                        Comparison(
                            f"{step}, time a pixel on {part} sheet against 1",
                            name,
                            (f"{step} 1",),
                            within=WITHIN,
                        )
                    )
                else:
                    comparisons.append(Comparison(f"{step}, 1 sheet", name))
        comparisons.sort(key=lambda row: list(steps).index(row.ours.split()[0]))
        return Prepared(sizes, runs, tuple(comparisons))


BENCHMARK: harness.Benchmark = Growth()


def _inputs(step: str, made: SheetRun) -> tuple[Path, ...]:
    label = made.paths.label_raster(NAME)
    return {
        "label_raster": (made.paths.proportions(NAME), made.sheet.orthophoto),
        "tile_plan": (label,),
        "shard": (made.sheet.orthophoto, label, made.paths.polygon_index(NAME)),
        "confusion": (label, made.paths.land_cover_map(NAME)),
    }[step]
