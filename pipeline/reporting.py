"""The report: one self-contained page that says how good the map is, and of what it was made.

Values in, text out: the stages read and write the files. Nothing in the page is loaded from
elsewhere, so it can be mailed, archived and opened without a network.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from pipeline import diagnosis, figures, thumbnails
from pipeline.changes import ChangeTables
from pipeline.confusion import ConfusionMatrix
from pipeline.diagnosis import Finding
from pipeline.errors import InputError
from pipeline.numerals import area, count, duration, hectares, listed, percent, plain, plural
from pipeline.scores import ClassScores, Scores
from pipeline.siose_problems import KINDS
from pipeline.thumbnails import SheetThumbnails

REASONS = {
    "orthophoto_nodata": "the orthophoto has no data there",
    "no_polygon": "no SIOSE polygon covers it",
    "unknown": "SIOSE itself says that the cover is unknown",
    "empty_label": "the polygon carries no label",
    "unmapped": "none of the polygon’s covers belongs to a class",
    "composite": "several classes in one polygon, and composite polygons are masked",
    "below_min_share": "several classes in one polygon, none with the share that is asked for",
    "below_min_margin": "several classes in one polygon, the largest hardly ahead of the second",
    "boundary": "too near to a polygon’s outline",
}
"""What the reasons for masking mean, for people."""

SAMPLES_BYTES = 3 * 2**19
"""The picture of sample predictions takes at most so much of a page that is mailed."""

NAMED_REASONS = 3
"""So many reasons for masking are named in the summary; the table has all."""


@dataclass(frozen=True)
class LabelCounts:
    """What the labels of a sheet hold, as in ``labels/{sheet}.json``.

    Attributes:
        classes: Pixels of each class, by name.
        masked: Pixels without a usable label, by reason.
        pixels: All pixels of the sheet.
    """

    classes: Mapping[str, int]
    masked: Mapping[str, int]
    pixels: int


@dataclass(frozen=True)
class SheetReport:
    """One sheet in the report.

    Attributes:
        name: Name of the sheet.
        split: What its ground is for, as people shall read it.
        year: Year of the orthophoto, if told.
        labels: Its label counts; None for a sheet that is only mapped.
        matrix: Confusion matrix of its test ground; None where it has none.
        thumbnails: Decimated arrays; None where there are none.
        problems: SIOSE polygons that have each kind of problem; None where nobody checked.
        polygons: Number of its SIOSE polygons.
    """

    name: str
    split: str
    year: int | None = None
    labels: LabelCounts | None = None
    matrix: ConfusionMatrix | None = None
    thumbnails: SheetThumbnails | None = None
    problems: Mapping[str, int] | None = None
    polygons: int = 0


@dataclass(frozen=True)
class Benchmark:
    """Time and memory of one job, as Snakemake measures them.

    Attributes:
        rule: Name of the step.
        sheet: Sheet, or ``all``.
        seconds: Wall time.
        memory_mb: Greatest resident memory in MB, NaN where it was not measured.
        cpu_seconds: Processor time, NaN where it was not measured.
    """

    rule: str
    sheet: str
    seconds: float
    memory_mb: float
    cpu_seconds: float


@dataclass(frozen=True)
class ReportData:
    """All that the report says.

    Attributes:
        run: Name of the run.
        names: Class names in the order of their ids.
        colors: ``#RRGGBB`` of each.
        pixel_area: Area of a pixel in square metres.
        sheets: The sheets in the order of the sheets table.
        settings: The settings as used, YAML.
        curves: Rows of ``curves.csv``.
        card: Model card as plain values.
        findings: What the training warns of; None where nobody looked.
        samples: Sample predictions of the best validation, PNG; None where there are none.
        benchmarks: Jobs, in the order of the steps.
        versions: Software -> version.
        changes: Tables of the change maps.

    Raises:
        ValueError: If names and colours do not pair up.
        InputError: If a sheet's matrix or labels are of other classes.
    """

    run: str
    names: Sequence[str]
    colors: Sequence[str]
    pixel_area: float
    sheets: Sequence[SheetReport]
    settings: str = ""
    curves: Sequence[Mapping[str, Any]] = ()
    card: Mapping[str, Any] | None = None
    findings: Sequence[Finding] | None = None
    samples: bytes | None = None
    benchmarks: Sequence[Benchmark] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    changes: Sequence[ChangeTables] = ()

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors):
            raise ValueError(f"{len(self.names)} class names and {len(self.colors)} colours")
        for color in self.colors:
            if not re.fullmatch(r"#[0-9A-Fa-f]{6}", color):
                raise ValueError(f"{color!r} is not #RRGGBB")
        odd = []
        for sheet in self.sheets:
            if sheet.matrix and tuple(sheet.matrix.names) != tuple(self.names):
                odd.append(f"{sheet.name}: the matrix has {', '.join(sheet.matrix.names)}")
            if sheet.labels and not set(sheet.labels.classes) <= set(self.names):
                odd.append(f"{sheet.name}: the labels have {', '.join(sheet.labels.classes)}")
        if odd:
            raise InputError(
                f"The report of {self.run} is on the classes {', '.join(self.names)}; "
                "these sheets are of others.",
                odd,
                "Run the workflow again: the nomenclature has changed since they were written.",
            )

    @property
    def matrix(self) -> ConfusionMatrix | None:
        """Sum over the sheets; None if none has test ground."""
        matrices = [sheet.matrix for sheet in self.sheets if sheet.matrix]
        return sum(matrices, ConfusionMatrix.empty(self.names)) if matrices else None


def read_benchmark(text: str, rule: str, sheet: str) -> list[Benchmark]:
    """Read one of Snakemake's benchmark files (one line a repetition).

    Raises:
        InputError: If the text has no column of seconds.
    """
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    if not rows or "s" not in rows[0]:
        raise InputError(f"benchmark of {rule} {sheet}: has no column 's' of seconds.")
    return [
        Benchmark(
            rule,
            sheet,
            _measured(row.get("s")),
            _measured(row.get("max_rss")),
            _measured(row.get("cpu_time")),
        )
        for row in rows
    ]


def page_environment() -> Environment:
    """What turns a template of this package into a page; filters write numbers as people do."""
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "count": count,
        "percent": percent,
        "duration": duration,
        "hectares": hectares,
        "value": plain,
        "uri": thumbnails.data_uri,
    }
    environment.filters |= filters
    return environment


def render_report(data: ReportData) -> str:
    """Write the page.

    Args:
        data: All values; the same values give the same text.

    Returns:
        HTML, self-contained, below 15 MB.
    """
    matrix = data.matrix
    scores = matrix.scores() if matrix else None
    shown = [sheet for sheet in data.sheets if sheet.thumbnails]
    pictures = thumbnails.encode([s.thumbnails for s in shown if s.thumbnails], data.colors)
    drawn = figures.PANELS if matrix and matrix.pixels else ()
    environment = page_environment()
    environment.filters["area"] = lambda pixels: area(pixels, data.pixel_area)
    checked = [sheet for sheet in data.sheets if sheet.problems is not None]
    return environment.get_template("report.html.j2").render(
        data=data,
        matrix=matrix,
        scores=scores,
        summary=summary(data, matrix, scores),
        confusions=_confusions(matrix) if matrix else [],
        panels={name: figures.confusion_panel(matrix, name) for name in drawn if matrix},
        by_row=matrix.by_reference().tolist() if matrix else [],
        by_column=matrix.by_mapped().tolist() if matrix else [],
        sheet_scores=[(s, s.matrix.scores()) for s in data.sheets if s.matrix],
        splits=_splits(data),
        reasons=_reasons(data),
        meanings=REASONS,
        problems=[
            (kind.name, kind.sentence, [(s.problems or {}).get(key, 0) for s in checked])
            for key, kind in KINDS.items()
            if any((s.problems or {}).get(key) for s in checked)
        ],
        checked=checked,
        label_pixels=sum(s.labels.pixels for s in data.sheets if s.labels),
        trained=diagnosis.course(data.curves),
        silence=diagnosis.silence(data.curves),
        curves=figures.curves_panels(data.curves) if data.curves else {},
        samples=thumbnails.fitted(data.samples, SAMPLES_BYTES) if data.samples else None,
        sheet_pictures=list(zip(shown, pictures, strict=True)),
        errors=(thumbnails.CORRECT, thumbnails.WRONG, thumbnails.UNMAPPED),
        steps=_steps(data.benchmarks),
        isnan=math.isnan,
    )


def summary(data: ReportData, matrix: ConfusionMatrix | None, scores: Scores | None) -> list[str]:
    """The result in plain sentences."""
    masked = _masked_sentence(data)
    if not matrix or not scores or not scores.pixels:
        return [
            "No labelled test ground was compared with the map, so this report says nothing "
            "about its accuracy. Give a sheet the split “test” to find out.",
            *masked,
        ]
    sheets = sum(sheet.matrix.pixels > 0 for sheet in data.sheets if sheet.matrix)
    present = sorted(scores.present, key=lambda entry: entry.iou)
    worst, best = present[0], present[-1]
    sentences = [
        f"On {area(scores.pixels, data.pixel_area)} of test ground that the network never saw "
        f"({count(scores.pixels)} labelled pixels in {plural(sheets, 'sheet')}) the map agrees "
        f"with SIOSE on {percent(scores.overall_accuracy)} of the pixels (overall accuracy).",
        f"The mean IoU of the {plural(len(present), 'class', 'classes')} found there is "
        f"{percent(scores.mean_iou)}.",
    ]
    if len(present) > 1:
        sentences.append(
            f"Best is {best.name} (IoU {percent(best.iou)}), worst is {worst.name} "
            f"(IoU {percent(worst.iou)}{_mistaken_for(matrix, worst)})."
        )
    absent = [entry.name for entry in scores.classes if not entry.support]
    if absent:
        sentences.append(
            f"Nothing can be said of {listed(absent)}: the test ground has no such pixels."
        )
    if matrix.unmapped:
        sentences.append(
            f"{count(matrix.unmapped)} labelled pixels are nodata on the map and count nowhere."
        )
    return sentences + masked


def _template(name: str) -> str:
    return files("pipeline").joinpath(name).read_text(encoding="utf-8")


def _masked_sentence(data: ReportData) -> list[str]:
    labelled = [sheet.labels for sheet in data.sheets if sheet.labels]
    pixels = sum(labels.pixels for labels in labelled)
    reasons = _reasons(data)
    masked = sum(reasons.values())
    if not pixels or not masked:
        return []
    named = list(reasons.items())[:NAMED_REASONS]
    why = [f"{percent(n / pixels)} {reason.replace('_', ' ')}" for reason, n in named]
    if rest := masked - sum(n for _, n in named):
        why.append(f"{percent(rest / pixels)} for other reasons")
    where = f"the {count(len(labelled))} labelled sheets" if len(labelled) > 1 else "the sheet"
    return [
        f"{percent(masked / pixels)} of all pixels of {where} are masked, neither trained on nor "
        f"tested: {listed(why)}."
    ]


def _mistaken_for(matrix: ConfusionMatrix, scores: ClassScores) -> str:
    for name, other, share in _confusions(matrix):
        if name == scores.name and other:
            return f"; {percent(share)} of it is mapped as {other}"
    return ""


def _confusions(matrix: ConfusionMatrix) -> list[tuple[str, str, float]]:
    """Each class, the one that it is most often mapped as in error, and the share; "" if none."""
    found = []
    for number, (name, row) in enumerate(zip(matrix.names, matrix.counts, strict=True)):
        wrong = row.copy()
        wrong[number] = 0
        other, pixels = int(wrong.argmax()), int(row.sum())
        if wrong[other]:
            found.append((name, matrix.names[other], int(wrong[other]) / pixels))
        else:
            found.append((name, "", math.nan))
    return found


def _splits(data: ReportData) -> dict[str, dict[str, int]]:
    """Split -> class -> labelled pixels, in the order in which the sheets name the splits."""
    splits: dict[str, dict[str, int]] = {}
    for sheet in data.sheets:
        if sheet.labels:
            pixels = splits.setdefault(sheet.split, dict.fromkeys(data.names, 0))
            for name, number in sheet.labels.classes.items():
                pixels[name] += number
    return splits


def _reasons(data: ReportData) -> dict[str, int]:
    """Reason -> masked pixels of all sheets, the most frequent first."""
    reasons: dict[str, int] = {}
    for sheet in data.sheets:
        for reason, number in (sheet.labels.masked if sheet.labels else {}).items():
            if number:
                reasons[reason] = reasons.get(reason, 0) + number
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def _steps(benchmarks: Sequence[Benchmark]) -> list[dict[str, Any]]:
    """One row a step: jobs, times and memory."""
    rules: dict[str, list[Benchmark]] = {}
    for job in benchmarks:
        rules.setdefault(job.rule, []).append(job)
    steps = []
    for rule, jobs in rules.items():
        memory = [job.memory_mb for job in jobs if not math.isnan(job.memory_mb)]
        timed = [job for job in jobs if not math.isnan(job.cpu_seconds)]
        wall = sum(job.seconds for job in timed)
        steps.append(
            {
                "rule": rule,
                "jobs": len(jobs),
                "seconds": sum(job.seconds for job in jobs),
                "longest": max(jobs, key=lambda job: job.seconds),
                "cores": sum(job.cpu_seconds for job in timed) / wall if wall else math.nan,
                "memory": max(memory) if memory else math.nan,
            }
        )
    return steps


def _measured(text: str | None) -> float:
    # Snakemake writes "-" or "NA" for a job too short to be measured.
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
