"""What sub-commands share: the application, the options that many have, and opening a run."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import config

if TYPE_CHECKING:
    from pipeline.stages import Run


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Land-cover maps from PNOA orthophotos and SIOSE polygons.

    Usually Snakemake calls these commands, one rule each:

      snakemake --cores 4 --configfile my_run.yaml

    By hand, for one sheet:

      python -m pipeline class-proportions --config my_run.yaml --sheet 0722

      python -m pipeline label-raster --config my_run.yaml --sheet 0722 --threads 4

    `python -m pipeline doctor` tells whether this machine has what it takes.
    """,
)


Config = Annotated[
    list[Path],
    typer.Option(
        "--config", "-c", help="Settings file (YAML); a later one overrides earlier ones."
    ),
]


Sheet = Annotated[str, typer.Option("--sheet", "-s", help="Name of the sheet in the sheets table.")]


Threads = Annotated[int, typer.Option("--threads", "-t", min=1, help="Threads to use.")]


def opened_run(paths: list[Path], *, claim: bool = True) -> tuple[ModuleType, Run]:
    """Open a run.

    Args:
        paths: Its settings files.
        claim: Whether its folder becomes that of these settings.

    Returns:
        The stages, which are loaded here, and the run.
    """
    # Imported here: `--help` answers without dask and geopandas.
    from pipeline import stages

    run = stages.Run(config.load(*paths))
    if claim:
        config.claim(run.settings)
    else:  # the run's own settings, which queued jobs read, stay as they are
        config.check_run(run.settings)
    return stages, run
