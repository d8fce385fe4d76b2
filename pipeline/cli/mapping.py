"""The sub-command that maps: a sheet of a run, or any orthophoto with any checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import Threads, app, opened_run
from pipeline.config import section
from pipeline.errors import SettingsError
from pipeline.sections import MappingSettings

_RUN = "A sheet of a run"
_IMAGE = "Any image"
_MAP = "The map of any image; a run has it in the section `mapping` of its settings"


@app.command()
def map_sheet(
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", "-c", help="Settings of the run.", rich_help_panel=_RUN),
    ] = None,
    sheet: Annotated[
        str | None,
        typer.Option("--sheet", "-s", help="Name in the sheets table.", rich_help_panel=_RUN),
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            "-m",
            help="Checkpoint; of several, the mean counts.",
            rich_help_panel=_IMAGE,
        ),
    ] = None,
    orthophoto: Annotated[
        list[Path] | None,
        typer.Option(
            help="GeoTIFF, JPEG 2000, VRT, or a folder of orthophotos; several are one mosaic.",
            rich_help_panel=_IMAGE,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="GeoTIFF to write; other layers beside it.", rich_help_panel=_IMAGE
        ),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(help="Bands for the network, in its order: 1,2,3.", rich_help_panel=_IMAGE),
    ] = None,
    resample: Annotated[
        bool,
        typer.Option(
            "--resample",
            help="Bring the image to the network's pixel size.",
            rich_help_panel=_IMAGE,
        ),
    ] = False,
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(
            help="Box to map: west south east north.", metavar="W S E N", rich_help_panel=_IMAGE
        ),
    ] = None,
    bbox_crs: Annotated[
        str | None,
        typer.Option(
            help="CRS of the box, such as EPSG:4326; else the image's.", rich_help_panel=_IMAGE
        ),
    ] = None,
    area: Annotated[
        Path | None,
        typer.Option(
            help="Polygons to map (GeoPackage, GeoJSON, Shapefile), in any CRS.",
            rich_help_panel=_IMAGE,
        ),
    ] = None,
    area_layer: Annotated[
        str | None, typer.Option(help="Their layer, of several.", rich_help_panel=_IMAGE)
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace a map that is there.", rich_help_panel=_IMAGE),
    ] = False,
    confidence: Annotated[
        bool | None,
        typer.Option(help="Write the class's probability; by default.", rich_help_panel=_MAP),
    ] = None,
    probabilities: Annotated[
        bool | None, typer.Option(help="Write those of all classes.", rich_help_panel=_MAP)
    ] = None,
    entropy: Annotated[
        bool | None, typer.Option(help="Write their entropy.", rich_help_panel=_MAP)
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Pixels a side of a window.", rich_help_panel=_MAP)
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Pixels that windows share.", rich_help_panel=_MAP)
    ] = None,
    seams: Annotated[str | None, typer.Option(help="crop or blend.", rich_help_panel=_MAP)] = None,
    symmetries: Annotated[
        bool | None,
        typer.Option(
            help="Mean of the eight symmetries; takes 8 times as long.", rich_help_panel=_MAP
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, float32, bf16 or fp16.", rich_help_panel=_MAP)
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="torch, compile, openvino or onnxruntime.", rich_help_panel=_MAP),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Windows at once.", rich_help_panel=_MAP)
    ] = None,
    threads: Threads = 1,
) -> None:
    """Predict the class of every pixel: of a run's sheet, or of any orthophoto with any checkpoint.

    Example: python -m pipeline map-sheet --config my_run.yaml --sheet 0722

    Example: python -m pipeline map-sheet --model best.safetensors --orthophoto 2010/
    --area town.gpkg --out town.tif
    """
    mapping = {
        "confidence": confidence, "probabilities": probabilities, "entropy": entropy,
        "window_px": window, "overlap_px": overlap, "seams": seams, "symmetries": symmetries,
        "precision": precision, "backend": backend, "batch_size": batch_size,
    }  # fmt: skip
    asked = {name: value for name, value in mapping.items() if value is not None}
    image = {
        "--model": model, "--orthophoto": orthophoto, "--out": out, "--bands": bands,
        "--resample": resample or None, "--bbox": bbox, "--bbox-crs": bbox_crs, "--area": area,
        "--area-layer": area_layer, "--overwrite": overwrite or None,
    }  # fmt: skip
    if config or sheet:
        _check_run_mode(
            config,
            sheet,
            [
                *(name for name, value in image.items() if value is not None),
                *(f"--{name.removesuffix('_px').replace('_', '-')}" for name in asked),
            ],
        )
        assert config
        assert sheet
        stages, run = opened_run(config)
        stages.map_sheet(run, sheet, threads)
        return
    _check_image_mode(image)
    assert model
    assert orthophoto
    assert out
    from pipeline import stages as functions

    functions.map_orthophotos(
        model, orthophoto, out, section(MappingSettings, asked, "map-sheet"),
        bands=_band_numbers(bands), resample=resample, bbox=bbox, bbox_crs=bbox_crs, area=area,
        area_layer=area_layer, overwrite=overwrite, threads=threads,
    )  # fmt: skip


def _check_run_mode(config: list[Path] | None, sheet: str | None, others: list[str]) -> None:
    if not config or not sheet:
        raise SettingsError(
            "map-sheet: a sheet of a run is named by --config and --sheet.",
            remedy="An image that is in no run is named by --model, --orthophoto and --out.",
        )
    if others:
        raise SettingsError(
            "map-sheet: a sheet of a run is mapped by the run's settings, without:", others,
            "Write them into the settings file; or name an image by --model, --orthophoto and "
            "--out, without --config and --sheet.",
        )  # fmt: skip


def _check_image_mode(image: Mapping[str, object]) -> None:
    wrong = [f"{n}: is missing" for n in ("--model", "--orthophoto", "--out") if not image[n]]
    if image["--bbox"] and image["--area"]:
        wrong.append("--bbox, --area: are two areas; name one")
    if image["--bbox-crs"] and not image["--bbox"]:
        wrong.append("--bbox-crs: goes with --bbox")
    if image["--area-layer"] and not image["--area"]:
        wrong.append("--area-layer: goes with --area")
    if wrong:
        raise SettingsError(
            "map-sheet: cannot tell what to map.", wrong,
            "A sheet of a run is named by --config and --sheet, an image that is in no run by "
            "--model, --orthophoto and --out.",
        )  # fmt: skip


def _band_numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,3}(,[1-9]\d{0,3})*", text):
        raise SettingsError(
            f"--bands {text}: is no list of bands.", remedy="Write numbers from 1: --bands 1,2,3."
        )
    return [int(number) for number in text.split(",")]
