"""Evidence: what the report stands on, read from the files of a run."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline import confusion, diagnosis, geotiff
from pipeline.changes import ChangeTables
from pipeline.errors import InputError
from pipeline.nomenclature import IGNORE, Nomenclature
from pipeline.paths import RunPaths
from pipeline.reporting import (
    Benchmark,
    LabelCounts,
    ReportData,
    SheetReport,
    read_benchmark,
)
from pipeline.sheets import Sheet, comparisons
from pipeline.thumbnails import SIDE_PX, SheetThumbnails

STEPS = (
    "index_values",
    "class_proportions",
    "check_polygons",
    "label_raster",
    "tile_plan",
    "shard",
    "train",
    "map_sheet",
    "clean_map",
    "change_map",
    "confusion",
)


def report_data(
    paths: RunPaths,
    sheets: Mapping[str, Sheet],
    classes: Nomenclature,
    settings: str,
    blocks: bool = False,
    cleaned: bool = False,
) -> ReportData:
    """Read what a run has made.

    Args:
        paths: Files of the run.
        sheets: The sheets table.
        classes: The training classes.
        settings: The settings as YAML.
        blocks: Whether splits are blocks of ground; the table's splits are not used then.
        cleaned: Whether the maps that are delivered are the cleaned ones.

    Raises:
        InputError: If a file that the report needs is missing or is of other classes.
    """
    card = read_json(paths.card)
    pixel_width, pixel_height = card["pixel_size"]
    return ReportData(
        run=paths.name,
        names=classes.names,
        colors=classes.colors,
        pixel_area=pixel_width * pixel_height,
        sheets=[_sheet(paths, sheet, blocks, cleaned) for sheet in sheets.values()],
        settings=settings,
        curves=read_curves(paths.curves, paths.speed),
        card=card,
        findings=read_findings(paths.findings),
        samples=paths.sample_picture.read_bytes() if paths.sample_picture.exists() else None,
        benchmarks=read_benchmarks(
            paths,
            list(sheets),
            {sheet.base for sheet in sheets.values()},
            [f"{place}.{before}-{after}" for place, before, after in comparisons(sheets)],
        ),
        versions=card["versions"],
        changes=_changes(paths, sheets),
    )


def read_curves(path: Path, speed: Path | None = None) -> list[dict[str, str]]:
    """Rows of ``curves.csv``, one an epoch or a validation.

    Args:
        path: The file.
        speed: ``speed.csv``, whose columns join the rows of their steps; not there for a training
            of before it was written.

    Raises:
        InputError: If a file cannot be read.
    """
    rows = list(csv.DictReader(_text(path).splitlines()))
    if speed is not None and speed.exists():
        measured = {line["step"]: line for line in csv.DictReader(_text(speed).splitlines())}
        rows = [measured.get(row["step"], {}) | row for row in rows]
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of the run.

    Raises:
        InputError: If it is missing or damaged.
    """
    try:
        content: dict[str, Any] = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: is not JSON ({error}).", remedy="Run its rule again.") from error
    return content


def read_findings(path: Path) -> list[diagnosis.Finding] | None:
    """What a training warned of; None for a training of before anybody looked.

    Raises:
        InputError: If the file is damaged.
    """
    if not path.exists():
        return None
    try:
        return diagnosis.from_json(json.loads(_text(path)))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: holds no findings ({error}).", remedy="Remove it, or train again."
        ) from error


def read_benchmarks(
    paths: RunPaths,
    sheets: list[str],
    bases: Iterable[str] = (),
    changes: Iterable[str] = (),
) -> list[Benchmark]:
    """What Snakemake measured; nothing where the steps were run by hand."""
    found = []
    others = {"index_values": sorted(bases), "change_map": list(changes)}
    for step in STEPS:
        for sheet in others.get(step, ["all", *sheets]):
            path = paths.benchmark(step, sheet)
            if path.exists():
                found += read_benchmark(_text(path), step, sheet)
    return found


def _changes(paths: RunPaths, sheets: Mapping[str, Sheet]) -> list[ChangeTables]:
    """Tables of the change maps that are made; not all are where steps are run by hand."""
    return [
        ChangeTables.parse(key, _text(paths.change_areas(*key)), _text(paths.change_balance(*key)))
        for key in comparisons(sheets)
        if paths.change_areas(*key).exists()
    ]


def _sheet(paths: RunPaths, sheet: Sheet, blocks: bool, cleaned: bool) -> SheetReport:
    labels = matrix = checked = None
    if sheet.split != "map":
        counts = read_json(paths.label_counts(sheet.name))
        labels = LabelCounts(counts["classes"], counts["masked"], counts["pixels"])
        if paths.polygon_check_counts(sheet.name).exists():  # not where steps are run by hand
            checked = read_json(paths.polygon_check_counts(sheet.name))
        path = paths.confusion(sheet.name)
        matrix = confusion.from_json(_text(path), str(path))
    return SheetReport(
        sheet.name,
        "blocks" if blocks and sheet.split != "map" else sheet.split,
        sheet.year,
        labels,
        matrix if matrix and matrix.pixels else None,
        _thumbnails(paths, sheet, cleaned),
        checked["problems"] if checked is not None else None,
        checked["polygons"] if checked is not None else 0,
    )


def _thumbnails(paths: RunPaths, sheet: Sheet, cleaned: bool) -> SheetThumbnails:
    orthophoto = geotiff.read_orthophoto(sheet.orthophoto)
    with geotiff.RasterReader(orthophoto.path, orthophoto.bands[:3]) as reader:
        image = reader.thumbnail(SIDE_PX, average=True).transpose(1, 2, 0)
        valid = reader.thumbnail_valid(SIDE_PX)
    layers = {}
    for name, path in (
        ("labels", paths.label_raster(sheet.name)),
        ("mapped", paths.delivered_map(sheet.name, cleaned)),
        ("confidence", paths.confidence(sheet.name)),
    ):
        if path.exists() and (name != "labels" or sheet.split != "map"):
            with geotiff.RasterReader(path) as reader:
                layers[name] = reader.thumbnail(SIDE_PX)[0]
    if "labels" not in layers:
        layers["labels"] = (valid * 0 + IGNORE).astype("uint8")
    return SheetThumbnails(orthophoto=image, valid=valid, **layers)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}).", remedy="Run its rule first."
        ) from error
