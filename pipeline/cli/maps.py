"""The sub-commands that make and prepare maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import Config, Sheet, Threads, app, opened_run
from pipeline.errors import SettingsError


@app.command()
def change_map(
    before: Annotated[str, typer.Option(help="Year of the earlier map; or its file.")],
    after: Annotated[str, typer.Option(help="Year of the later map; or its file.")],
    config: Annotated[
        list[Path] | None, typer.Option("--config", "-c", help="Settings of a run.")
    ] = None,
    place: Annotated[str | None, typer.Option(help="Place in the run's sheets table.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Change map of two files; tables beside it.")
    ] = None,
    nomenclature: Annotated[
        Path | None,
        typer.Option("--nomenclature", "-n", help="Classes of two files that do not tell them."),
    ] = None,
    before_confidence: Annotated[Path | None, typer.Option(help="Of the earlier file.")] = None,
    after_confidence: Annotated[Path | None, typer.Option(help="Of the later file.")] = None,
    min_confidence: Annotated[
        int, typer.Option(min=0, max=100, help="As `changes.min_confidence`, of two files.")
    ] = 0,
    threads: Threads = 1,
) -> None:
    """Compare two years of a place, or any two class maps on the same pixels: a map and areas.

    Example: python -m pipeline change-map --config my_run.yaml --place 0722 --before 2005
    --after 2010

    Example: python -m pipeline change-map --before 0722_2005.tif --after 0722_2010.tif --out c.tif
    """
    if config:
        if place is None or out is not None:
            raise SettingsError("change-map: a run's settings ask for --place, and not for --out.")
        stages, run = opened_run(config)
        stages.change_map(run, place, before, after, threads)
        return
    if out is None or place is not None:
        raise SettingsError("change-map: two files ask for --out; --place goes with --config.")
    from pipeline import stages as functions

    both = (before_confidence, after_confidence)
    functions.compare_maps(
        Path(before), Path(after), out, classes=nomenclature,
        confidences=(both[0], both[1]) if both[0] and both[1] else None,
        min_confidence=min_confidence, threads=threads,
    )  # fmt: skip


@app.command()
def error_raster(config: Config, sheet: Sheet) -> None:
    """Show where the map of a sheet and its labels differ: the class that belongs there.

    Example: python -m pipeline error-raster --config my_run.yaml --sheet 0722
    """
    stages, run = opened_run(config)
    stages.error_raster(run, sheet)


@app.command()
def mosaic(config: Config) -> None:
    """Put the rasters of all sheets together as VRT files that open like one raster.

    Example: python -m pipeline mosaic --config my_run.yaml
    """
    stages, run = opened_run(config)
    stages.mosaic(run)


@app.command()
def qgis_project(config: Config) -> None:
    """Write a QGIS project of all that a run has made, in groups and styled.

    Example: python -m pipeline qgis-project --config my_run.yaml
    """
    stages, run = opened_run(config)
    stages.qgis_project(run)
