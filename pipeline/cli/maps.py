"""The sub-commands that make and prepare maps."""

from __future__ import annotations

from pipeline.cli.options import Config, Sheet, app, opened_run


@app.command()
def map_sheet(config: Config, sheet: Sheet) -> None:
    """Predict the class of every pixel of a sheet, as a GeoTIFF on the orthophoto's grid.

    Example: python -m pipeline map-sheet --config my_run.yaml --sheet 0722
    """
    stages, run = opened_run(config)
    stages.map_sheet(run, sheet)
