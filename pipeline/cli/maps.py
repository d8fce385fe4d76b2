"""The sub-commands that make and prepare maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import progress
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
        of_files = (out, nomenclature, before_confidence, after_confidence)
        if place is None or min_confidence or any(option is not None for option in of_files):
            raise SettingsError(
                "change-map: with a run's settings, --place, --before and --after say it all; the "
                "other options are for maps without a run.",
                remedy="Set changes.min_confidence in the run's settings.",
            )
        stages, run = opened_run(config)
        stages.change_map(run, place, before, after, threads)
        return
    if out is None or place is not None:
        raise SettingsError("change-map: two files ask for --out; --place goes with --config.")
    from pipeline import stages as functions

    both = (before_confidence, after_confidence)
    if bool(both[0]) != bool(both[1]) or (both[0] is not None and not min_confidence):
        raise SettingsError(
            "change-map: --before-confidence, --after-confidence and --min-confidence go together."
        )
    functions.compare_maps(
        Path(before), Path(after), out, classes=nomenclature,
        confidences=(both[0], both[1]) if both[0] and both[1] else None,
        min_confidence=min_confidence, threads=threads,
    )  # fmt: skip


@app.command()
def clean_map(
    config: Annotated[
        list[Path] | None, typer.Option("--config", "-c", help="Settings of a run.")
    ] = None,
    sheet: Annotated[
        str | None, typer.Option("--sheet", "-s", help="Sheet of the run; as its settings say.")
    ] = None,
    map_file: Annotated[Path | None, typer.Option("--map", help="Any class map instead.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Cleaned map of a file.")] = None,
    majority: Annotated[
        int, typer.Option(min=0, help="As `cleaning.majority_px`, of a file: odd side in pixels.")
    ] = 0,
    min_area: Annotated[
        float, typer.Option(min=0, help="As `cleaning.min_area_m2`, of a file: smallest patch.")
    ] = 0.0,
    max_hole: Annotated[
        float, typer.Option(min=0, help="As `cleaning.max_hole_m2`, of a file: largest hole.")
    ] = 0.0,
    nomenclature: Annotated[
        Path | None,
        typer.Option("--nomenclature", "-n", help="Classes of a file that does not tell them."),
    ] = None,
    threads: Threads = 1,
) -> None:
    """Clean a map: majority filter, minimum mapping unit, holes.

    Example: python -m pipeline clean-map --config my_run.yaml --sheet 0722

    Example: python -m pipeline clean-map --map 0722.tif --out 0722.cleaned.tif --min-area 400
    """
    asked = {"majority_px": majority, "min_area_m2": min_area, "max_hole_m2": max_hole}
    if config:
        if sheet is None or map_file or out or nomenclature or any(asked.values()):
            raise SettingsError(
                "clean-map: a run's settings ask for --sheet alone; the rest is of files."
            )
        stages, run = opened_run(config)
        stages.clean_map(run, sheet, threads)
        return
    if map_file is None or out is None or sheet is not None:
        raise SettingsError(
            "clean-map: a file asks for --map and --out; --sheet goes with --config."
        )
    from pipeline import stages as functions
    from pipeline.sections import CleaningSettings

    rules = CleaningSettings.model_validate(asked)
    functions.clean_raster(map_file, out, rules, classes=nomenclature, threads=threads)


@app.command()
def error_raster(config: Config, sheet: Sheet, threads: Threads = 1) -> None:
    """Show where the map of a sheet and its labels differ: the class that belongs there.

    Example: python -m pipeline error-raster --config my_run.yaml --sheet 0722
    """
    stages, run = opened_run(config)
    stages.error_raster(run, sheet, threads)


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


@app.command()
def export_onnx(
    model: Annotated[Path, typer.Option("--model", "-m", help="Checkpoint (.safetensors).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write (.onnx).")],
    tile: Annotated[int, typer.Option(help="Pixels along each side of a tile.")] = 512,
    overlap: Annotated[int, typer.Option(help="Per cent of a tile that neighbours share.")] = 15,
    opset: Annotated[int, typer.Option(help="Version of ONNX's operators, 13 to 17.")] = 17,
    resolution: Annotated[
        float | None,
        typer.Option(min=0.01, help="Centimetres a pixel; the model's own by default."),
    ] = None,
    batch: Annotated[
        int, typer.Option(help="Tiles at once; 0 leaves it open, for newer versions of Deepness.")
    ] = 1,
) -> None:
    """Write a model as ONNX, so that the Deepness plugin runs it inside QGIS.

    In QGIS: Plugins, Deepness, choose the file as a model of type Segmentor, and map its inputs to
    the orthophoto's bands in the order of the training. The layer has to be in a system of metres.

    What the plugin cannot know: where an orthophoto has no data it sees black and gives a class
    all the same, while `map-sheet` gives 255; beyond the orthophoto's edge it sees nodata instead
    of mirrored ground; it takes no mean of symmetries or of several models, and cleans nothing.
    Inside, it computes what `mapping.seams: crop` does with such tiles in float32.

    Needs the packages of Tesela's extra `onnx`: onnx and onnxruntime.

    Example: python -m pipeline export-onnx --model models/best.safetensors --out model.onnx
    """
    from pipeline import onnx_export

    onnx_export.export_onnx(
        model, out, tile=tile, overlap=overlap, opset=opset, resolution=resolution, batch=batch
    )


@app.command()
def backends(
    model: Annotated[Path, typer.Option("--model", "-m", help="Checkpoint (.safetensors).")],
    orthophoto: Annotated[
        Path | None, typer.Option("--orthophoto", help="Compare on windows of it, too.")
    ] = None,
    window: Annotated[int, typer.Option(min=32, help="As `mapping.window_px`.")] = 1024,
    seconds: Annotated[float, typer.Option(min=0, help="How long to measure each.")] = 10,
) -> None:
    """Measure which `mapping.backend` and `mapping.precision` is the fastest here, with a model.

    Each back end is compared with torch in float32. Run it on a machine that does nothing else.

    Example: python -m pipeline backends --model models/best.safetensors --orthophoto 0722.tif
    """
    from pipeline import backend_trials

    trials = list(backend_trials.trials_of(model, orthophoto, window=window, seconds=seconds))
    progress.stdout.print(backend_trials.table(trials))
    print(backend_trials.recommended(trials))


@app.command()
def vector_map(
    config: Annotated[
        list[Path] | None, typer.Option("--config", "-c", help="Settings of a run.")
    ] = None,
    sheet: Annotated[
        str | None, typer.Option("--sheet", "-s", help="Sheet of the run; as its settings say.")
    ] = None,
    map_file: Annotated[Path | None, typer.Option("--map", help="Any class map instead.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Polygons of a file: .gpkg or .parquet.")
    ] = None,
    confidence: Annotated[Path | None, typer.Option(help="Confidence of a file.")] = None,
    simplify: Annotated[
        float, typer.Option(min=0, help="As `vectors.simplify_m`, of a file: metres.")
    ] = 0.0,
    nomenclature: Annotated[
        Path | None,
        typer.Option("--nomenclature", "-n", help="Classes of a file that does not tell them."),
    ] = None,
    threads: Threads = 1,
) -> None:
    """Make polygons of a map: one a patch of one class, without gaps or overlaps.

    Example: python -m pipeline vector-map --config my_run.yaml --sheet 0722

    Example: python -m pipeline vector-map --map 0722.tif --out 0722.gpkg --simplify 1
    """
    if config:
        if sheet is None or map_file or out or confidence or simplify or nomenclature:
            raise SettingsError(
                "vector-map: a run's settings ask for --sheet alone; the rest is of files."
            )
        stages, run = opened_run(config)
        stages.vector_map(run, sheet, threads)
        return
    if map_file is None or out is None or sheet is not None:
        raise SettingsError(
            "vector-map: a file asks for --map and --out; --sheet goes with --config."
        )
    from pipeline import stages as functions

    functions.vector_raster(
        map_file, out, confidence=confidence, simplify_m=simplify, classes=nomenclature,
        threads=threads,
    )  # fmt: skip
