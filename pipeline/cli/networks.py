"""The sub-commands about networks and the machine that they run on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.table import Table

from pipeline import __version__, config, progress, sections
from pipeline.cli.options import Config, app, opened_run
from pipeline.errors import SettingsError

_LIBRARIES = (
    "geopandas",
    "lmdb",
    "dask",
    "snakemake",
    "lightning",
    "segmentation-models-pytorch",
)


@app.command()
def contact_sheet(
    config: Config,
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write (PNG).")],
    tiles: Annotated[int, typer.Option(min=1, max=100, help="Training tiles to show.")] = 6,
    draws: Annotated[int, typer.Option(min=1, max=50, help="Epochs of each to show.")] = 5,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the run's own.")] = None,
) -> None:
    """Draw training tiles as the network sees them: as stored and augmented, with their labels.

    Example: python -m pipeline contact-sheet --config my_run.yaml --out sheet.png
    """
    from pipeline import contact_sheet as drawing
    from pipeline.publication import published

    _, run = opened_run(config, claim=False)
    if out.suffix.lower() != ".png":
        raise SettingsError(f"--out: {out} is no PNG.", remedy=f"Write {out.with_suffix('.png')}.")
    settings = run.settings
    content = drawing.contact_sheet(
        run.paths, run.labelled_sheets, run.nomenclature, settings.training, settings.augmentation,
        settings.seed if seed is None else seed, tiles=tiles, draws=draws,
    )  # fmt: skip
    with published(out) as (draft,):
        draft.write_bytes(content)


@app.command()
def fetch_weights(
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", "-c", help="Settings that name network, encoder and folder."),
    ] = None,
    encoder: Annotated[
        list[str] | None, typer.Option("--encoder", "-e", help="Encoder; may be repeated.")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option("--network", "-n", help="Network; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; `training.weights_dir` by default.")
    ] = None,
) -> None:
    """Store ImageNet weights in a folder, on a machine with internet; jobs only read them.

    What is there and whole stays as it is. Without --config, --encoder or --network say what is
    wanted.

    Example: python -m pipeline fetch-weights --config my_run.yaml

    Example: python -m pipeline fetch-weights --encoder resnet18 --network segnet --out weights
    """
    training, tuning = _trained_by(config or [])
    from pipeline.networks import weights_fetching as fetching

    if encoder or network:
        names = fetching.encoders_of(network or [training.network], encoder or [training.encoder])
    else:
        names = fetching.encoders_named(training, tuning)
    fetching.fetch(names, out or training.weights_dir, lambda line: print(line, flush=True))


@app.command()
def networks(
    bands: Annotated[int, typer.Option(min=1, max=8, help="Bands of the orthophotos.")] = 3,
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 5,
    encoder: Annotated[str, typer.Option(help="As `training.encoder`.")] = "resnet18",
) -> None:
    """Print the networks: papers, encoders, parameters and multiply-adds.

    Example: python -m pipeline networks --bands 4 --classes 9 --encoder resnet50
    """
    from pipeline.networks import complexity

    rows = list(complexity.registry(encoder, bands, classes))
    progress.stdout.print(complexity.table(rows, bands, classes))


@app.command()
def doctor() -> None:
    """Tell what this machine has: libraries, devices, free disk and memory.

    Example: python -m pipeline doctor
    """
    import rasterio
    import torch

    from pipeline.networks.precision import resolve_precision

    table = Table(title=f"Tesela {__version__}", show_header=False, title_justify="left")
    table.add_row("Python", f"{platform.python_version()} ({sys.executable})")
    table.add_row("system", platform.platform())
    with rasterio.Env() as environment:
        known = environment.drivers()
    wanted = ("GTiff", "COG", "JP2OpenJPEG", "VRT")
    formats = ", ".join(name if name in known else f"no {name}" for name in wanted)
    gdal = f"{rasterio.__gdal_version__} (rasterio {rasterio.__version__}): {formats}"
    table.add_row("GDAL", gdal)
    for name in _LIBRARIES:
        table.add_row(name, importlib.metadata.version(name))
    table.add_row("torch", torch.__version__)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("GPUs", ", ".join(gpus) or "none: training and mapping run on the CPU")
    device = "cuda" if gpus else "cpu"
    table.add_row("precision auto", f"{resolve_precision('auto', device)} on {device}")
    memory = psutil.virtual_memory()
    table.add_row("cores", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}")
    table.add_row(
        "memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    )
    disk = shutil.disk_usage(Path.cwd())
    table.add_row("disk here", f"{disk.free / 2**30:.1f} of {disk.total / 2**30:.1f} GiB free")
    progress.stdout.print(table)


def _trained_by(
    paths: list[Path],
) -> tuple[sections.TrainingSettings, sections.TuningSettings]:
    settings = config.load(*paths) if paths else config.Settings()
    return settings.training, settings.tuning
