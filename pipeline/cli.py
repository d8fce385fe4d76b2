"""The sub-commands: arguments to stages, errors to exit codes.

``python -m pipeline label-raster`` and ``label_raster`` are the same command.
"""

from __future__ import annotations

import errno
import importlib.metadata
import logging
import os
import platform
import shutil
import signal
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import psutil
import typer
from rich.table import Table

from pipeline import __version__, config, geotiff, progress, sections
from pipeline.errors import InputError, OutputError, SettingsError, TeselaError
from pipeline.sheets import siose_files

if TYPE_CHECKING:
    from pipeline.nomenclature import Nomenclature
    from pipeline.siose import SioseBase
    from pipeline.stages import Run

log = logging.getLogger(__name__)


_LIBRARIES = (
    "geopandas",
    "lmdb",
    "dask",
    "snakemake",
    "lightning",
    "segmentation-models-pytorch",
)

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


@app.callback()
def start(
    log_file: Annotated[
        Path | None,
        typer.Option("--log", help="File for all that is said; errors are told here too."),
    ] = None,
) -> None:
    """Start logging before any command."""
    progress.start_logging(log_file)


@app.command()
def index_values(
    config: Config,
    base: Annotated[str, typer.Option("--base", "-b", help="Name of the base in the run.")],
) -> None:
    """Index the values table of a SIOSE base once, for all sheets on it.

    Example: python -m pipeline index-values --config my_run.yaml --base SAR_46-1f2e3d4c
    """
    stages, run = _run(config)
    stages.index_values(run, base)


@app.command()
def class_proportions(config: Config, sheet: Sheet, threads: Threads = 1) -> None:
    """Resolve the SIOSE polygons of a sheet to shares of the training classes.

    Example: python -m pipeline class-proportions --config my_run.yaml --sheet 0722
    """
    stages, run = _run(config)
    stages.class_proportions(run, sheet, threads)


@app.command()
def check_polygons(config: Config, sheet: Sheet, threads: Threads = 1) -> None:
    """Tell all that is wrong with the SIOSE polygons of a sheet, as a map for QGIS.

    Example: python -m pipeline check-polygons --config my_run.yaml --sheet 0722
    """
    stages, run = _run(config)
    stages.check_polygons(run, sheet, threads)


@app.command()
def label_raster(config: Config, sheet: Sheet, threads: Threads = 1) -> None:
    """Burn the SIOSE classes of a sheet onto the pixels of its orthophoto.

    Example: python -m pipeline label-raster --config my_run.yaml --sheet 0722 --threads 4
    """
    stages, run = _run(config)
    stages.label_raster(run, sheet, threads)


@app.command()
def tile_plan(config: Config, threads: Threads = 1) -> None:
    """Choose the windows that become tiles, and the split of their ground.

    Example: python -m pipeline tile-plan --config my_run.yaml
    """
    stages, run = _run(config)
    stages.tile_plan(run, threads)


@app.command()
def shard(config: Config, sheet: Sheet, threads: Threads = 1) -> None:
    """Cut the tiles of a sheet into an LMDB shard.

    Example: python -m pipeline shard --config my_run.yaml --sheet 0722 --threads 4
    """
    stages, run = _run(config)
    stages.shard(run, sheet, threads)


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

    _, run = _run(config, claim=False)
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
def train(config: Config) -> None:
    """Train the network; go on where a killed training stopped.

    Example: python -m pipeline train --config my_run.yaml
    """
    stages, run = _run(config)
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
    stages, run = _run(config, claim=False)
    stages.tune(run, worker, trials)


@app.command()
def tuning_report(config: Config) -> None:
    """Write the page of a search: tuning/index.html, trials.csv and best.yaml.

    Example: python -m pipeline tuning-report --config my_run.yaml --config configs/tuning.yaml
    """
    stages, run = _run(config, claim=False)
    stages.tuning_report(run)


@app.command()
def map_sheet(config: Config, sheet: Sheet) -> None:
    """Predict the class of every pixel of a sheet, as a GeoTIFF on the orthophoto's grid.

    Example: python -m pipeline map-sheet --config my_run.yaml --sheet 0722
    """
    stages, run = _run(config)
    stages.map_sheet(run, sheet)


@app.command()
def confusion(config: Config, sheet: Sheet, threads: Threads = 1) -> None:
    """Count reference against map on the test ground of a sheet.

    Example: python -m pipeline confusion --config my_run.yaml --sheet 0722
    """
    stages, run = _run(config)
    stages.confusion(run, sheet, threads)


@app.command()
def report(config: Config) -> None:
    """Write the report of a run: report/index.html, scores and matrices.

    Example: python -m pipeline report --config my_run.yaml
    """
    stages, run = _run(config)
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


BasePath = Annotated[Path, typer.Argument(help="SIOSE base, or another layer of polygons.")]
Classes = Annotated[
    Path | None, typer.Option("--nomenclature", "-n", help="Nomenclature (YAML) to check against.")
]
Source = Annotated[str, typer.Option(help="As `siose.source` of a run's settings.")]
Layer = Annotated[str | None, typer.Option(help="As `siose.layer`.")]
CodeColumn = Annotated[str | None, typer.Option(help="As `siose.code_column`.")]
CodelistName = Annotated[str, typer.Option("--codelist", help="As `siose.codelist`.")]


@app.command()
def siose_check(
    base: BasePath,
    nomenclature: Classes = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="GeoPackage of problems; {base}.problems.gpkg here."),
    ] = None,
    overlap: Annotated[float, typer.Option(min=1e-3, help="Least overlap told, in m².")] = 1.0,
    sliver: Annotated[
        float | None,
        typer.Option(min=0, help="Width of slivers, in m; the base's tolerance by default."),
    ] = None,
    gap: Annotated[float, typer.Option(min=0, help="Largest gap told, in m²; 0 for none.")] = 100,
    source: Source = "auto",
    layer: Layer = None,
    code_column: CodeColumn = None,
    codelist: CodelistName = "auto",
    threads: Threads = 1,
) -> None:
    """Check a SIOSE base without a run: covers, labels, table, geometry, overlaps, gaps.

    Prints what was found and writes it as a GeoPackage that opens in QGIS. Exits with 3 where a
    run on the base would stop.

    Example: python -m pipeline siose-check SAR_46.gpkg -n configs/nomenclatures/forest.yaml
    """
    from pipeline import siose
    from pipeline import siose_check as checking
    from pipeline.publication import published

    target = out or Path(f"{base.stem}.problems.gpkg")
    _keep_apart(target, base)
    settings, opened, classes = _opened(base, nomenclature, source, layer, code_column, codelist)
    limits = checking.CheckLimits(overlap, sliver, gap)
    count = 2 * siose.polygon_count(opened)
    with progress.track(f"check of {base.name}", count, "checks of polygons") as advance:
        found = checking.check(opened, settings, classes, limits, threads=threads, advance=advance)
    for line in checking.told(found):
        print(line)
    if found.problems.empty:
        target.unlink(missing_ok=True)
        return
    with published(target) as (draft,):
        siose.write_problems(found.problems, draft)
    print(f"All {len(found.problems)} are in {target}.")
    if found.stops:
        sys.exit(InputError.exit_code)


@app.command()
def siose_summary(
    base: BasePath,
    nomenclature: Classes = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The same as CSV.")] = None,
    composite: Annotated[str, typer.Option(help="As `labels.composite`.")] = "dominant",
    min_share: Annotated[float, typer.Option(help="As `labels.min_share`.")] = 0.5,
    min_margin: Annotated[float, typer.Option(help="As `labels.min_margin`.")] = 0.0,
    source: Source = "auto",
    layer: Layer = None,
    code_column: CodeColumn = None,
    codelist: CodelistName = "auto",
    threads: Threads = 1,
) -> None:
    """Print area and polygons per cover and class of a SIOSE base; composites; what is masked.

    Example: python -m pipeline siose-summary SAR_46.gpkg -n configs/nomenclatures/forest.yaml
    """
    from pipeline import siose_summary as summing
    from pipeline.publication import write_text

    if out is not None:
        _keep_apart(out, base)
    settings, opened, classes = _opened(base, nomenclature, source, layer, code_column, codelist)
    given = {"composite": composite, "min_share": min_share, "min_margin": min_margin}
    labels = config.section(sections.LabelSettings, given, "command line")
    summary = summing.summarise(opened, settings, classes, labels, threads)
    table = Table(title=f"{base.name}: {summary.base}", title_justify="left")
    for name, side in (("", "left"), ("name", "left"), ("km²", "right"), ("%", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    table.add_column("polygons", justify="right")
    before, whole = "", max(summary.whole.area_m2, 1e-9)
    for what, name, area, polygons in summary.rows():
        if before and what != before:
            table.add_section()
        table.add_row(
            what if what != before else "", name, f"{area / 1e6:.3f}",
            f"{100 * area / whole:.2f}", str(polygons),
        )  # fmt: skip
        before = what
    progress.stdout.print(table)
    if out is not None:
        write_text(out, summary.as_csv())


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


def main() -> None:
    """Run a sub-command; exit with the code of the error's kind."""
    # A batch system's SIGTERM must leave no draft behind: let `finally` run.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with geotiff.session():
            app(args=_hyphenated(sys.argv[1:]))
    except TeselaError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _say(f"The disk is full: {error}.\nMake room, then start again.")
        sys.exit(OutputError.exit_code)
    except Exception:  # a defect of ours: its traceback goes to the log too, and on to the caller
        if progress.console.file is not sys.stderr:
            traceback.print_exc(file=progress.console.file)
        raise


def _hyphenated(arguments: list[str]) -> list[str]:
    """Arguments with commands by their hyphens: rules and functions are named with underscores."""
    names = {command.callback.__name__ for command in app.registered_commands if command.callback}
    return [a.replace("_", "-") if a in names else a for a in arguments]


def _run(paths: list[Path], *, claim: bool = True) -> tuple[ModuleType, Run]:
    # Imported here: `--help` answers without dask and geopandas.
    from pipeline import stages

    run = stages.Run(config.load(*paths))
    if claim:
        config.claim(run.settings)
    else:  # the run's own settings, which queued jobs read, stay as they are
        config.check_run(run.settings)
    return stages, run


def _trained_by(
    paths: list[Path],
) -> tuple[sections.TrainingSettings, sections.TuningSettings]:
    settings = config.load(*paths) if paths else config.Settings()
    return settings.training, settings.tuning


def _opened(
    path: Path,
    classes: Path | None,
    source: str,
    layer: str | None,
    code_column: str | None,
    codelist: str,
) -> tuple[sections.SioseSettings, SioseBase, Nomenclature | None]:
    """A base by its path and what the command line says of it."""
    from pipeline import nomenclature, siose

    given = {"source": source, "layer": layer, "code_column": code_column, "codelist": codelist}
    settings = config.section(sections.SioseSettings, given, "command line")
    chosen = None
    if classes is not None:
        chosen = nomenclature.parse(config.read_yaml(classes), str(classes))
    return settings, siose.open_base(path, settings), chosen


def _keep_apart(out: Path, base: Path) -> None:
    """Refuse a result in the place of the base or of a table that belongs to it."""
    if out.resolve() in {file.resolve() for file in siose_files(base)}:
        raise SettingsError(
            f"--out: {out} belongs to the base itself.", remedy="Name another file."
        )


def _say(message: str) -> None:
    if progress.console.file is not sys.stderr:
        progress.console.file.write(f"{message}\n")
    # Not through rich: a message is read by people and by grep, and is never wrapped or styled.
    print(message, file=sys.stderr, flush=True)


def _terminated(number: int, _: object) -> None:
    sys.exit(128 + number)
