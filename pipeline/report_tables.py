"""Report tables: what the report says, as CSV.

A file is always there and always has its columns, so that whoever reads it need not ask first;
where there is nothing to tell, its only row says so in the column ``note``. Shares are from 0 to
1, areas m², and a field is empty where a number has nothing to stand on.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.bootstrap import PER_CLASS
from pipeline.compute_costs import STUDY
from pipeline.evaluation import KEPT_TILES
from pipeline.listed_polygons import CandidateRow, PolygonRow
from pipeline.outlines import DISTANCES
from pipeline.paths import REPORT_TABLES
from pipeline.polygon_agreement import WEIGHTS
from pipeline.report_data import ReportData
from pipeline.report_gaps import missing
from pipeline.report_summary import confusions
from pipeline.scores import ClassScores

Rows = Iterable[Sequence[Any]]


def tables(data: ReportData) -> dict[str, str]:
    """Every table of :data:`pipeline.paths.REPORT_TABLES` as CSV text.

    Returns:
        Name -> text; the same values give the same text.
    """
    absent = missing(data)
    text = {}
    for name in REPORT_TABLES:
        part, columns, rows = _TABLES[name]
        text[name] = _csv(columns, rows(data) if part not in absent else (), absent.get(part, ""))
    return text


def _csv(columns: Sequence[str], rows: Rows, note: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, "note"])
    for row in rows:
        writer.writerow([*map(_plain, row), ""])
    if note:
        writer.writerow([*("" for _ in columns), note])
    return text.getvalue()


def _plain(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _by_class(data: ReportData) -> Iterator[Sequence[Any]]:
    if not data.scores or not data.matrix:
        return
    wrong = confusions(data.matrix)
    for number, entry in enumerate(data.scores.classes):
        bounds: list[float] = []
        for key in PER_CLASS:
            bounds.append(getattr(entry, key))
            if data.intervals:
                interval = getattr(data.intervals, key)[number]
                bounds += [interval.low, interval.high]
            else:
                bounds += [math.nan, math.nan]
        pixels = (entry.support, entry.mapped, entry.correct)
        yield (entry.name, *pixels, *bounds, *wrong[number][1:])


def _by_sheet(data: ReportData) -> Iterator[Sequence[Any]]:
    entries = [(s.name, s.split, s.year, s.matrix, s.evaluation) for s in data.sheets]
    for name, split, year, matrix, judged in (
        *entries,
        ("all", None, None, data.matrix, data.evaluation),
    ):
        if not matrix:
            continue
        own = matrix.scores()
        beyond = (
            (judged.calibration.ece(), judged.outlines.boundary_f().mean)
            if judged
            else (math.nan, math.nan)
        )
        overall = (own.overall_accuracy, own.kappa, own.balanced_accuracy)
        means = (own.mean_iou, own.frequency_weighted_iou, own.mean_f1)
        yield (name, split, year, own.pixels, *overall, *means, *beyond)


def _by_sheet_and_class(data: ReportData) -> Iterator[Sequence[Any]]:
    for sheet in data.sheets:
        for entry in sheet.matrix.scores().classes if sheet.matrix else ():
            yield (sheet.name, *(getattr(entry, f.name) for f in dataclasses.fields(ClassScores)))


def _reliability(data: ReportData) -> Iterator[Sequence[Any]]:
    if not data.evaluation:
        return
    groups: list[tuple[str, list[int] | None]] = [("all", None)]
    groups += [(name, [number]) for number, name in enumerate(data.names)]
    for name, classes in groups:
        found = data.evaluation.calibration.reliability(classes=classes)
        columns = (found.edges[:-1], found.edges[1:], found.pixels, found.confidence)
        for row in zip(*(c.tolist() for c in columns), found.accuracy.tolist(), strict=True):
            yield (name, *row)


def _trust(data: ReportData) -> Iterator[Sequence[Any]]:
    if not data.evaluation:
        return
    found = data.evaluation.calibration.trust()
    columns = (found.thresholds, found.pixels, found.share, found.accuracy)
    yield from zip(*(column.tolist() for column in columns), strict=True)


def _distances(data: ReportData) -> Iterator[Sequence[Any]]:
    if not data.evaluation:
        return
    outlines = data.evaluation.outlines
    boundary = outlines.boundary_f()
    whole = outlines.by_distance.sum(axis=0)
    groups = [("all", whole, (math.nan, math.nan, boundary.mean))]
    for number, name in enumerate(data.names):
        scores = (boundary.precision[number], boundary.recall[number], boundary.f[number])
        own = (float(scores[0]), float(scores[1]), float(scores[2]))
        groups.append((name, outlines.by_distance[number], own))
    for name, counts, of_outlines in groups:
        wrong, right = counts.sum(axis=0).tolist()
        yield (name, None, None, wrong + right, right, _share(right, wrong), *of_outlines)
        edges = zip((None, *DISTANCES), (*DISTANCES, None), counts.tolist(), strict=True)
        for above, up_to, (wrong, right) in edges:
            share = _share(right, wrong)
            yield (name, above, up_to, wrong + right, right, share, None, None, None)


def _tiles(data: ReportData) -> Iterator[Sequence[Any]]:
    if not data.evaluation:
        return
    for kind, found in (
        ("worst", data.evaluation.worst(KEPT_TILES)),
        ("best", data.evaluation.best(KEPT_TILES)),
    ):
        for rank, tile in enumerate(found, 1):
            place = (tile.window.row, tile.window.col, tile.window.height, tile.window.width)
            yield (kind, rank, tile.sheet, *place, tile.pixels, tile.correct, tile.accuracy)


def _shares(data: ReportData) -> Iterator[Sequence[Any]]:
    for which in ("all", "composite"):
        for weight in WEIGHTS if data.agreement else ():
            found = data.agreement.statistics(weight, which == "composite")  # type: ignore[union-attr]
            for entry in found.as_dict()["classes"]:
                yield (which, weight, found.polygons, *entry.values())


def _areas(data: ReportData) -> Iterator[Sequence[Any]]:
    found = data.estimates
    if found is None:
        return
    columns = (
        *(found.mapped_area_m2, found.area_m2, found.area_se_m2, found.area_ci_m2),
        *found.area_limits_m2.T,
        *(found.users, found.users_ci, *found.users_limits.T),
        *(found.producers, found.producers_ci, *found.producers_limits.T),
    )
    yield from zip(found.names, *(column.tolist() for column in columns), strict=True)


def _labels(data: ReportData) -> Iterator[Sequence[Any]]:
    for sheet in data.sheets:
        if not sheet.labels:
            continue
        labelled = sum(sheet.labels.classes.values())
        for name in data.names:
            pixels = sheet.labels.classes.get(name, 0)
            yield (sheet.name, sheet.split, sheet.year, name, pixels, _part(pixels, labelled))


def _masked(data: ReportData) -> Iterator[Sequence[Any]]:
    for sheet in data.sheets:
        if not sheet.labels:
            continue
        for reason, pixels in sheet.labels.masked.items():
            share = _part(pixels, sheet.labels.pixels)
            yield (sheet.name, sheet.split, sheet.year, reason, pixels, share)


def _problems(data: ReportData) -> Iterator[Sequence[Any]]:
    for sheet in data.sheets:
        for kind, polygons in (sheet.problems or {}).items():
            yield (sheet.name, sheet.split, kind, polygons, sheet.polygons)


def _costs(data: ReportData) -> Iterator[Sequence[Any]]:
    published = {rule: part for part in STUDY for rule in part.rules}
    for step in data.steps:
        part = published.get(step.rule)
        then = (
            (part.work, part.seconds, part.memory_gb, part.seconds_per_gigapixel, part.remark)
            if part
            else (None,) * 5
        )
        measured = (step.rule, step.jobs, step.seconds, step.longest.seconds, step.longest.sheet)
        memory = (step.cores, step.memory_mb, step.gigapixels, step.seconds_per_gigapixel)
        yield (*measured, *memory, *then)


def _slurm_steps(data: ReportData) -> Iterator[Sequence[Any]]:
    advised = {entry.rule: entry for entry in data.advice}
    for step in data.slurm_steps:
        entry = advised.get(step.step)
        yield (
            *(step.step, ", ".join(step.members), len(step.jobs), step.finished, step.open),
            "; ".join(f"{number} {state}" for state, number in step.states),
            *(step.queued_seconds, step.longest_queue, step.seconds, step.longest),
            *(step.cpu_hours, step.busy, step.gpu_hours, step.memory_mb),
            *((entry.peak_asked_mb, entry.memory_used) if entry else (None, None)),
            *((entry.longest_asked_seconds, entry.time_used) if entry else (None, None)),
            *((entry.memory_mb, entry.minutes, entry.jobs) if entry else (None, None, None)),
        )


def _slurm_jobs(data: ReportData) -> Iterator[Sequence[Any]]:
    for job in data.accounting.jobs:
        times = (_clock(time) for time in (job.submitted, job.started, job.ended))
        hours = (job.seconds * job.cpus / 3600, job.seconds * job.gpus / 3600)
        yield (
            *(job.number, job.step, ", ".join(job.rules), job.sheet, job.state, *times),
            *(job.queued_seconds, job.seconds, job.limit_seconds),
            *(job.nodes, job.cpus, job.gpus, *hours, job.cpu_seconds),
            *(job.memory_mb, job.asked_mb),
        )


def _clock(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _polygons(rows: Iterable[PolygonRow]) -> Iterator[Sequence[Any]]:
    yield from (tuple(dataclasses.asdict(row).values()) for row in rows)


def _share(right: int, wrong: int) -> float:
    return _part(right, right + wrong)


def _part(some: int, of: int) -> float:
    return some / of if of else math.nan


def _fields(of: type[PolygonRow]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(of))


def _bounds(key: str) -> tuple[str, str, str]:
    return key, f"{key}_low", f"{key}_high"


_PIXELS = ("reference_pixels", "mapped_pixels", "correct_pixels")
_ACCURACIES = ("users_accuracy", "producers_accuracy", "f1", "iou")
_TABLES: Mapping[str, tuple[str, tuple[str, ...], Callable[[ReportData], Rows]]] = {
    "scores_by_class": (
        "scores",
        (
            *("class", *_PIXELS),
            *(column for key in _ACCURACIES for column in _bounds(key)),
            *("most_often_mapped_as", "share_mapped_so"),
        ),
        _by_class,
    ),
    "scores_by_sheet": (
        "scores",
        (
            *("sheet", "split", "year", "pixels", "overall_accuracy", "kappa"),
            *("balanced_accuracy", "mean_iou", "frequency_weighted_iou", "mean_f1"),
            *("ece", "mean_boundary_f"),
        ),
        _by_sheet,
    ),
    "scores_by_sheet_and_class": (
        "scores",
        ("sheet", "class", *_PIXELS, *_ACCURACIES),
        _by_sheet_and_class,
    ),
    "calibration": (
        "confidence",
        ("class", "above", "up_to", "pixels", "mean_confidence", "accuracy"),
        _reliability,
    ),
    "trust": ("confidence", ("confidence_per_cent", "pixels", "share", "accuracy"), _trust),
    "outlines": (
        "outlines",
        (
            *("class", "above_px", "up_to_px", "pixels", "right", "accuracy"),
            *("boundary_precision", "boundary_recall", "boundary_f"),
        ),
        _distances,
    ),
    "tiles": (
        "evaluation",
        (
            *("kind", "rank", "sheet", "row", "col", "height", "width"),
            *("pixels", "correct", "accuracy"),
        ),
        _tiles,
    ),
    "agreement": (
        "agreement",
        (
            *("polygons_with", "weighted_by", "polygons", "class", "present", "siose_share"),
            *("mapped_share", "mean_absolute_error", "bias", "rmse", "correlation"),
        ),
        _shares,
    ),
    "worst_polygons": (
        "worst",
        _fields(PolygonRow),
        lambda data: _polygons(data.agreement.worst if data.agreement else ()),
    ),
    "update_candidates": (
        "candidates",
        _fields(CandidateRow),
        lambda data: _polygons(data.agreement.candidates if data.agreement else ()),
    ),
    "areas": (
        "areas",
        (
            *("class", "mapped_area_m2", "area_m2", "area_se_m2", "area_ci_m2"),
            *("area_low_m2", "area_high_m2"),
            *("users_accuracy", "users_ci", "users_low", "users_high"),
            *("producers_accuracy", "producers_ci", "producers_low", "producers_high"),
        ),
        _areas,
    ),
    "labels": (
        "labels",
        ("sheet", "split", "year", "class", "pixels", "share_of_labelled"),
        _labels,
    ),
    "masked": (
        "masked",
        ("sheet", "split", "year", "reason", "pixels", "share_of_sheet"),
        _masked,
    ),
    "polygon_problems": (
        "problems",
        ("sheet", "split", "problem", "polygons", "of_polygons"),
        _problems,
    ),
    "costs": (
        "costs",
        (
            *("step", "jobs", "seconds", "longest_job_seconds", "longest_job_of", "cores_busy"),
            *("peak_memory_mb", "gigapixels", "seconds_per_gigapixel"),
            *("study_work", "study_seconds", "study_memory_gb", "study_seconds_per_gigapixel"),
            "remark",
        ),
        _costs,
    ),
    "slurm_steps": (
        "accounting",
        (
            *("step", "members", "jobs", "finished", "not_ended", "states"),
            *("queued_seconds", "longest_queue_seconds", "seconds", "longest_job_seconds"),
            *("cpu_hours", "cpus_busy", "gpu_hours", "peak_memory_mb"),
            *("asked_memory_mb", "memory_used", "asked_seconds", "time_used"),
            *("advised_memory_mb", "advised_minutes", "advised_by_jobs"),
        ),
        _slurm_steps,
    ),
    "slurm_jobs": (
        "accounting",
        (
            *("job", "step", "rules", "wildcards", "state", "submitted", "started", "ended"),
            *("queued_seconds", "seconds", "limit_seconds", "nodes", "cpus", "gpus"),
            *("cpu_hours", "gpu_hours", "cpu_seconds_used", "peak_memory_mb", "asked_memory_mb"),
        ),
        _slurm_jobs,
    ),
}
