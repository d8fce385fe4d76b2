"""Evidence: what the report stands on, read from the files of a run."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline import (
    area_estimates,
    bootstrap,
    confusion,
    consistency,
    diagnosis,
    evaluation,
    geotiff,
    map_pictures,
    polygon_agreement,
)
from pipeline.area_estimates import AreaEstimates
from pipeline.changes import ChangeTables
from pipeline.compute_costs import Benchmark, read_benchmark
from pipeline.confusion import ConfusionMatrix
from pipeline.consistency import JudgedSheet
from pipeline.errors import InputError, Problems
from pipeline.grid import PixelGrid
from pipeline.ground_area import row_areas_m2
from pipeline.ground_blocks import BlockMatrices, read_blocks
from pipeline.map_digest import maps_digest
from pipeline.nomenclature import Nomenclature
from pipeline.paths import RunPaths
from pipeline.polygon_agreement import AgreementCounts
from pipeline.report_data import LabelCounts, ReportData, SheetReport
from pipeline.report_gaps import (
    other_classes,
    other_interpretation,
    other_maps,
    unreadable_sample,
)
from pipeline.sample_files import interpretation_digest
from pipeline.sections import EvaluationSettings
from pipeline.sheets import Sheet, comparisons
from pipeline.slurm_accounting import Accounting, accounting
from pipeline.slurm_runs import job_prefix

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
    "vector_map",
    "change_map",
    "confusion",
    "evaluation",
    "polygon_agreement",
    "error_raster",
    "mosaic",
)

PICTURED_SHEETS = 60
"""So many sheets are shown in pictures, those with test ground first: a page of thousands can
neither be mailed nor be looked at."""

DAY = 86_400.0

SQUARES_BYTES = 64 * 2**20
"""Squares of more test ground than this are put together by fours: longer sides make intervals
wider, if anything."""


def report_data(
    paths: RunPaths,
    sheets: Mapping[str, Sheet],
    classes: Nomenclature,
    settings: str,
    blocks: bool = False,
    cleaned: bool = False,
    judging: EvaluationSettings | None = None,
    seed: int = 0,
) -> ReportData:
    """Read what a run has made.

    What is judged may be missing where steps are run by hand: the report says so.

    Args:
        paths: Files of the run.
        sheets: The sheets table.
        classes: The training classes.
        settings: The settings as YAML.
        blocks: Whether splits are blocks of ground; the table's splits are not used then.
        cleaned: Whether the maps that are delivered are the cleaned ones.
        judging: How good the map is said to be; the defaults where left out.
        seed: Of the bootstrap.

    Raises:
        InputError: With all files that the report needs and that are missing or damaged; if one is
            of other classes, or if files of the test ground do not fit together.
    """
    judging, problems = judging or EvaluationSettings(), Problems()
    card = problems.tried(_record, paths.card, "train", versions=dict) or {}
    found = {name: problems.tried(geotiff.read_grid, s.orthophoto) for name, s in sheets.items()}
    grids = {name: grid for name, grid in found.items() if grid is not None}
    read = [_sheet(paths, sheet, found[name], blocks, problems) for name, sheet in sheets.items()]
    curves = problems.tried(read_curves, paths.curves, paths.speed)
    findings = problems.tried(read_findings, paths.findings)
    changes = problems.tried(_changes, paths, sheets)
    reports = [report for report, _ in read]
    agreement = problems.tried(_agreement, paths, reports, classes)
    estimated = problems.tried(_estimates, paths, classes, cleaned)
    cut = problems.tried(_squares, paths, [one for _, one in read if one is not None])
    problems.check("files of the run cannot be used.")
    squares, judged = cut or ([], [])
    estimates, no_estimates = estimated or (None, "")
    consistency.check(judged, classes.names)
    pictured = _pictured(reports)
    reports = [
        replace(
            report,
            thumbnails=map_pictures.sheet_thumbnails(paths, sheets, report, classes, cleaned),
        )
        if report.name in pictured
        else report
        for report in reports
    ]
    labelled = [report.name for report in reports if report.labels]
    pixel_m2 = _pixel_m2([grids[name] for name in labelled or grids])
    judged_on = next((grids[report.name] for report in reports if report.matrix), None)
    return ReportData(
        run=paths.name,
        names=classes.names,
        colors=classes.colors,
        pixel_area=pixel_m2,
        sheets=reports,
        settings=settings,
        curves=curves or [],
        card=card,
        findings=findings,
        samples=paths.sample_picture.read_bytes() if paths.sample_picture.exists() else None,
        benchmarks=read_benchmarks(
            paths,
            list(sheets),
            {sheet.base for sheet in sheets.values()},
            [f"{place}.{before}-{after}" for place, before, after in comparisons(sheets)],
        ),
        versions=card["versions"],
        changes=changes or [],
        intervals=bootstrap.intervals(squares, judging.draws, seed) if squares else None,
        block_m=squares[0].side_m * _unit_m(judged_on) if squares and judged_on else 0.0,
        agreement=agreement,
        estimates=estimates,
        no_estimates=no_estimates,
        tiles=map_pictures.shown_tiles(paths, sheets, reports, cleaned, judging.shown_tiles),
        target_accuracy=judging.target_accuracy,
        accounting=read_accounting(paths),
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
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: is not JSON ({error}).", remedy="Run its rule again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no keys with values.", remedy="Run its rule again.")
    return content


def _record(path: Path, rule: str, **kinds: type) -> dict[str, Any]:
    """A JSON file of a rule, with the keys that it must have, each of its kind."""
    content = read_json(path)
    lacking = [key for key, kind in kinds.items() if not isinstance(content.get(key), kind)]
    if lacking:
        raise InputError(
            f"{path}: is damaged, or of another version: it does not tell {', '.join(lacking)}.",
            remedy=f"Run {rule} again.",
        )
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


def read_accounting(paths: RunPaths) -> Accounting:
    """What SLURM says of the run's jobs, those of all starts of Snakemake.

    Raises:
        InputError: If the file that tells when the run began is damaged.
    """
    if paths.started.exists():
        try:
            begun = datetime.fromisoformat(_text(paths.started).strip()).timestamp()
        except ValueError as error:
            raise InputError(f"{paths.started}: holds no time.", remedy="Remove it.") from error
        return accounting(job_prefix(paths.run), begun, begun=begun)
    # A run of before this was kept.
    written = [time.time()]
    for folder in ("logs", "benchmarks"):
        for path in (paths.run / folder).rglob("*"):
            with suppress(FileNotFoundError):  # a job that runs may have replaced it
                written.append(path.stat().st_mtime)
    # A file is as old as the end of its job; a day covers those that left none before it.
    return accounting(job_prefix(paths.run), min(written) - DAY)


def _changes(paths: RunPaths, sheets: Mapping[str, Sheet]) -> list[ChangeTables]:
    """Tables of the change maps that are made; not all are where steps are run by hand."""
    return [
        ChangeTables.parse(key, _text(paths.change_areas(*key)), _text(paths.change_balance(*key)))
        for key in comparisons(sheets)
        if paths.change_areas(*key).exists()
    ]


def _label_counts(path: Path) -> LabelCounts:
    counts = _record(path, "label_raster", classes=dict, masked=dict, pixels=int)
    return LabelCounts(counts["classes"], counts["masked"], counts["pixels"])


def _matrix(path: Path) -> ConfusionMatrix:
    return confusion.from_json(_text(path), str(path))


def _evaluation(path: Path) -> evaluation.Evaluation:
    return evaluation.from_json(_text(path), str(path))


def _sheet(
    paths: RunPaths, sheet: Sheet, grid: PixelGrid | None, blocks: bool, problems: Problems
) -> tuple[SheetReport, JudgedSheet | None]:
    """What there is of a sheet; what cannot be used is among the problems."""
    labels = matrix = checked = judged = None
    if sheet.split != "map":
        labels = problems.tried(_label_counts, paths.label_counts(sheet.name))
        path = paths.polygon_check_counts(sheet.name)
        if path.exists():  # not where steps are run by hand
            checked = problems.tried(
                _record, path, "check_polygons", problems=dict, polygons=int
            )  # fmt: skip
        matrix = problems.tried(_matrix, paths.confusion(sheet.name))
        path = paths.evaluation(sheet.name)
        if path.exists():
            judged = problems.tried(_evaluation, path)
    report = SheetReport(
        sheet.name,
        "blocks" if blocks and sheet.split != "map" else sheet.split,
        sheet.year,
        labels,
        matrix if matrix and matrix.pixels else None,
        None,
        checked["problems"] if checked is not None else None,
        checked["polygons"] if checked is not None else 0,
        judged if judged and judged.pixels else None,
        grid.height * grid.width if grid is not None else 0,
    )
    if matrix is None or grid is None:
        return report, None
    return report, JudgedSheet(sheet.name, matrix, judged, pixel_side=grid.pixel_width)


def _pictured(sheets: Sequence[SheetReport]) -> set[str]:
    """Names of the sheets that are shown in pictures: those with test ground first."""
    ranked = sorted(sheets, key=lambda sheet: sheet.matrix is None)  # stable: as in the table
    return {sheet.name for sheet in ranked[:PICTURED_SHEETS]}


def _squares(
    paths: RunPaths, judged: Sequence[JudgedSheet]
) -> tuple[list[BlockMatrices], list[JudgedSheet]]:
    """Matrices of the squares of all test ground; none where those of a sheet are missing.

    Returns:
        The matrices, and the sheets with the sums of theirs.
    """
    files = {one.name: paths.block_matrices(one.name) for one in judged if one.matrix.pixels}
    # Intervals of half of the ground would be of another number than the one they stand beside.
    if not all(path.exists() for path in files.values()):
        return [], list(judged)
    found: list[BlockMatrices] = []
    told = {one.name: one for one in judged}
    times = 1
    for name, path in files.items():
        squares = read_blocks(path)
        told[name] = replace(
            told[name],
            squares=ConfusionMatrix(squares.names, squares.counts.sum(axis=0)),
            square_side=squares.side_m,
        )
        found.append(squares.coarser(times))
        # Not for ever: one square of each of very many sheets may be too much, and then has to do.
        while sum(blocks.counts.nbytes for blocks in found) > SQUARES_BYTES and times < 2**12:
            times *= 2
            found = [blocks.coarser(2) for blocks in found]
    return [blocks for blocks in found if len(blocks.places)], list(told.values())


def _agreement(
    paths: RunPaths, sheets: Sequence[SheetReport], classes: Nomenclature
) -> AgreementCounts | None:
    files = {one.name: paths.polygon_agreement_counts(one.name) for one in sheets if one.labels}
    counts = (
        (name, polygon_agreement.from_json(_text(path), str(path)))
        for name, path in files.items()
        if path.exists()
    )
    return polygon_agreement.of_all_sheets(counts, classes.names)


def _estimates(
    paths: RunPaths, classes: Nomenclature, cleaned: bool
) -> tuple[AreaEstimates | None, str]:
    """What was estimated of the present maps, or why there is nothing, if not for want of it."""
    path = paths.area_estimates
    if not path.exists():
        return None, ""
    found = area_estimates.from_json(_text(path), str(path))
    file = path.relative_to(paths.run).as_posix()
    if found.names != classes.names:
        return None, other_classes(file, found.names)
    maps = {name: paths.delivered_map(name, cleaned) for name in found.sheets}
    if found.maps and maps_digest(maps) != found.maps:
        return None, other_maps(file)
    return (None, why) if (why := _edited(paths, found, file)) else (found, "")


def _edited(paths: RunPaths, estimates: AreaEstimates, file: str) -> str:
    """Why estimates are not of what the run's sample says now; nothing where they are."""
    if not estimates.interpretation or not paths.sample.exists():
        return ""  # of a version that told nothing, or of a sample that was moved away
    sample = paths.sample.relative_to(paths.run).as_posix()
    try:
        same = interpretation_digest(paths.sample) == estimates.interpretation
    except InputError as error:
        return unreadable_sample(sample, file, error.what)
    return "" if same else other_interpretation(sample)


def _pixel_m2(grids: Sequence[PixelGrid]) -> float:
    """Area of a pixel in m², of geographic sheets in their middle; the mean where sheets differ."""
    areas = [_middle_m2(grid) for grid in grids]
    return areas[0] if len(set(areas)) == 1 else sum(areas) / len(areas)


def _middle_m2(grid: PixelGrid) -> float:
    middle = grid.height // 2
    return float(row_areas_m2(grid, slice(middle, middle + 1))[0])


def _unit_m(grid: PixelGrid) -> float:
    """Metres that a unit of a sheet's coordinate system has in its middle."""
    return math.sqrt(_middle_m2(grid) / (grid.pixel_width * grid.pixel_height))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}).", remedy="Run its rule first."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text.", remedy="Run its rule again.") from error
