"""ReportData: all that the report says, as values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.area_estimates import AreaEstimates
from pipeline.bootstrap import Intervals
from pipeline.changes import ChangeTables
from pipeline.compute_costs import Benchmark, StepCost, step_costs
from pipeline.confusion import ConfusionMatrix
from pipeline.diagnosis import Finding
from pipeline.errors import InputError
from pipeline.evaluation import Evaluation
from pipeline.job_costs import Advice, StepJobs, advice, step_jobs
from pipeline.polygon_agreement import AgreementCounts
from pipeline.scores import Scores
from pipeline.slurm_accounting import Accounting
from pipeline.thumbnails import SheetThumbnails
from pipeline.tile_pictures import TilePixels


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
        thumbnails: Decimated arrays; None where there are none, or no room for them.
        problems: SIOSE polygons that have each kind of problem; None where nobody checked.
        polygons: Number of its SIOSE polygons.
        evaluation: Calibration, outlines and tiles of its test ground; None where it has none.
        pixels: Pixels of its orthophoto, 0 where they are not known.
    """

    name: str
    split: str
    year: int | None = None
    labels: LabelCounts | None = None
    matrix: ConfusionMatrix | None = None
    thumbnails: SheetThumbnails | None = None
    problems: Mapping[str, int] | None = None
    polygons: int = 0
    evaluation: Evaluation | None = None
    pixels: int = 0


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
        intervals: 95 % intervals of the scores of all test ground; None where it was not cut
            into squares.
        block_m: Side of those squares.
        agreement: Shares on the map beside those of SIOSE's polygons, of all sheets; None where
            nobody compared them.
        estimates: Areas and accuracies from an interpreted sample; None where there is none.
        no_estimates: Why there are none although a sample was assessed; empty where none was.
        tiles: Pixels of the worst tiles, worst first, and of the best, best first.
        target_accuracy: Accuracy from which on a part of the map is trusted.
        accounting: What SLURM says of the run's jobs.

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
    intervals: Intervals | None = None
    block_m: float = 0.0
    agreement: AgreementCounts | None = None
    estimates: AreaEstimates | None = None
    no_estimates: str = ""
    tiles: tuple[Sequence[TilePixels], Sequence[TilePixels]] = ((), ())
    target_accuracy: float = 0.95
    accounting: Accounting = field(default_factory=Accounting)

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors):
            raise ValueError(f"{len(self.names)} class names and {len(self.colors)} colours")
        for color in self.colors:
            if not re.fullmatch(r"#[0-9A-Fa-f]{6}", color):
                raise ValueError(f"{color!r} is not #RRGGBB")
        names, odd = tuple(self.names), []
        for sheet in self.sheets:
            if sheet.matrix and tuple(sheet.matrix.names) != names:
                odd.append(f"{sheet.name}: the matrix has {', '.join(sheet.matrix.names)}")
            if sheet.labels and not set(sheet.labels.classes) <= set(names):
                odd.append(f"{sheet.name}: the labels have {', '.join(sheet.labels.classes)}")
            if sheet.evaluation and tuple(sheet.evaluation.names) != names:
                odd.append(f"{sheet.name}: the evaluation has {', '.join(sheet.evaluation.names)}")
        others = {
            "blocks": self.intervals,
            "agreement": self.agreement,
            "area estimates": self.estimates,
        }
        for what, value in others.items():
            if value is not None and tuple(value.names) != names:
                odd.append(f"{what}: of {', '.join(value.names)}")
        if odd:
            raise InputError(
                f"The report of {self.run} is on the classes {', '.join(self.names)}; "
                "these are of others.",
                odd,
                "Run the workflow again: the nomenclature has changed since they were written.",
            )

    @cached_property
    def matrix(self) -> ConfusionMatrix | None:
        """Sum over the sheets; None if none has test ground."""
        matrices = [sheet.matrix for sheet in self.sheets if sheet.matrix]
        return sum(matrices, ConfusionMatrix.empty(self.names)) if matrices else None

    @cached_property
    def scores(self) -> Scores | None:
        """Those of the matrix; None if no pixel was judged."""
        return self.matrix.scores() if self.matrix and self.matrix.pixels else None

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """Sum over the sheets; None if one with judged pixels was not evaluated.

        Of a part of the test ground it would stand beside scores of the whole.
        """
        found = [sheet.evaluation for sheet in self.sheets if sheet.evaluation]
        return sum(found[1:], found[0]) if found and not self.unevaluated else None

    @property
    def unevaluated(self) -> list[str]:
        """Sheets with judged pixels and no evaluation."""
        judged = (sheet for sheet in self.sheets if sheet.matrix and sheet.matrix.pixels)
        return [sheet.name for sheet in judged if not sheet.evaluation]

    @cached_property
    def steps(self) -> list[StepCost]:
        """Time and memory of each step."""
        return step_costs(
            self.benchmarks, {sheet.name: sheet.pixels for sheet in self.sheets if sheet.pixels}
        )

    @cached_property
    def slurm_steps(self) -> list[StepJobs]:
        """The jobs of each step on a cluster; none of a run without SLURM."""
        return step_jobs(self.accounting.jobs)

    @cached_property
    def advice(self) -> list[Advice]:
        """What each step may ask for next time."""
        # Of a training of several starts, Snakemake measured the last.
        clocked = sum(float(row.get("seconds") or 0) for row in self.curves)
        return advice(self.accounting.jobs, self.benchmarks, {"train": clocked})
