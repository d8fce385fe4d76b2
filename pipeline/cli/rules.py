"""The sub-commands that are the workflow's rules up to training, and after mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import progress
from pipeline.cli.options import Config, Sheet, Threads, app, opened_run


@app.command()
def index_values(
    config: Config,
    base: Annotated[str, typer.Option("--base", "-b", help="Name of the base in the run.")],
) -> None:
    """Index the values table of a SIOSE base once, for all sheets on it.

    Example: python -m pipeline index-values --config my_run.yaml --base SAR_46-1f2e3d4c
    """
    stages, run = opened_run(config)
    stages.index_values(run, base)


@app.command()
def class_proportions(config: Config, sheet: Sheet, threads: Threads = 1) -> None:
    """Resolve the SIOSE polygons of a sheet to shares of the training classes.

    Example: python -m pipeline class-proportions --config my_run.yaml --sheet 0722
    """
    stages, run = opened_run(config)
    stages.class_proportions(run, sheet, threads)


@app.command()
def check_polygons(config: Config, sheet: Sheet, threads: Threads = 1) -> None:
    """Tell all that is wrong with the SIOSE polygons of a sheet, as a map for QGIS.

    Example: python -m pipeline check-polygons --config my_run.yaml --sheet 0722
    """
    stages, run = opened_run(config)
    stages.check_polygons(run, sheet, threads)


@app.command()
def label_raster(config: Config, sheet: Sheet, threads: Threads = 1) -> None:
    """Burn the SIOSE classes of a sheet onto the pixels of its orthophoto.

    Example: python -m pipeline label-raster --config my_run.yaml --sheet 0722 --threads 4
    """
    stages, run = opened_run(config)
    stages.label_raster(run, sheet, threads)


@app.command()
def tile_plan(config: Config, threads: Threads = 1) -> None:
    """Choose the windows that become tiles, and the split of their ground.

    Example: python -m pipeline tile-plan --config my_run.yaml
    """
    stages, run = opened_run(config)
    stages.tile_plan(run, threads)


@app.command()
def shard(config: Config, sheet: Sheet, threads: Threads = 1) -> None:
    """Cut the tiles of a sheet into an LMDB shard.

    Example: python -m pipeline shard --config my_run.yaml --sheet 0722 --threads 4
    """
    stages, run = opened_run(config)
    stages.shard(run, sheet, threads)


@app.command()
def train(config: Config) -> None:
    """Train the network; go on where a killed training stopped.

    Example: python -m pipeline train --config my_run.yaml
    """
    stages, run = opened_run(config)
    stages.train(run)


@app.command()
def tune(
    config: Config,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="End after so many trials; the search goes on."),
    ] = None,
    worker: Annotated[
        int, typer.Option("--worker", min=1, help="Number of this worker, for the record.")
    ] = 1,
) -> None:
    """Search for better settings: join the run's study, or start it, and train its trials.

    Any number of these work on one study at the same time, on any nodes that share the run's
    folder, until all of `tuning.trials` are done. The same command goes on after a kill.

    Example: python -m pipeline tune --config my_run.yaml --config configs/tuning.yaml
    """
    stages, run = opened_run(config, claim=False)
    stages.tune(run, worker, trials)


@app.command()
def tuning_report(config: Config) -> None:
    """Write the page of a search: tuning/index.html, trials.csv and best.yaml.

    Example: python -m pipeline tuning-report --config my_run.yaml --config configs/tuning.yaml
    """
    stages, run = opened_run(config, claim=False)
    stages.tuning_report(run)


@app.command()
def confusion(config: Config, sheet: Sheet, threads: Threads = 1) -> None:
    """Count reference against map on the test ground of a sheet.

    Example: python -m pipeline confusion --config my_run.yaml --sheet 0722
    """
    stages, run = opened_run(config)
    stages.confusion(run, sheet, threads)


@app.command()
def report(config: Config) -> None:
    """Write the report of a run: report/index.html, scores and matrices.

    Example: python -m pipeline report --config my_run.yaml
    """
    stages, run = opened_run(config)
    stages.report(run)


@app.command()
def demo_data(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the sheets and the base.")],
    seed: Annotated[int, typer.Option(help="Another seed makes another province.")] = 0,
) -> None:
    """Make the four sheets and the SIOSE base of a made-up province.

    Example: python -m pipeline demo-data --out run/demo/data
    """
    from pipeline import demo

    with progress.track("demo data", demo.FILES, "files") as advance:
        demo.write_demo(out, seed, advance)
