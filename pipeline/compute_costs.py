"""Compute costs: time and memory of each step, beside what the study of 2017 published.

The study told the times of its data preparation and of its training, and the memory of one node;
of its mapping it told nothing. Its runs and ours differ in ground and in machines, so both are
given per gigapixel too, and nothing is called a speed-up.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import InputError

STUDY_SHEETS = 150
STUDY_SHEET_PX = (54_000, 38_000)
STUDY_GIGAPIXELS = STUDY_SHEETS * STUDY_SHEET_PX[0] * STUDY_SHEET_PX[1] / 1e9
"""The study speaks of over 150 sheets: at least so many gigapixels, so its rates are at most."""


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
class StepCost:
    """All jobs of one step together.

    Attributes:
        rule: Name of the step.
        jobs: Number of jobs.
        seconds: Their wall times added up, which is more than the clock did where they ran side
            by side.
        longest: The longest job.
        cores: Processor time by wall time; NaN where it was not measured.
        memory_mb: Greatest memory of a single job; NaN where it was not measured.
        gigapixels: Pixels of the sheets that its jobs were for; NaN where they are not known.
    """

    rule: str
    jobs: int
    seconds: float
    longest: Benchmark
    cores: float
    memory_mb: float
    gigapixels: float = math.nan

    @property
    def seconds_per_gigapixel(self) -> float:
        """Time by ground; NaN where the pixels are not known."""
        return self.seconds / self.gigapixels if self.gigapixels > 0 else math.nan


@dataclass(frozen=True)
class PublishedCost:
    """What the study of 2017 published of a part of its work.

    Attributes:
        work: What the study called it.
        rules: The steps of ours that do the same.
        seconds: Time; NaN where it published none.
        memory_gb: Memory of the node; NaN where it published none.
        remark: What compares with what.
        by_area: Whether the time grows with the ground, so that a rate per gigapixel means
            something.
    """

    work: str
    rules: tuple[str, ...]
    seconds: float
    memory_gb: float
    remark: str
    by_area: bool = True

    @property
    def seconds_per_gigapixel(self) -> float:
        """Time by ground; NaN where it means nothing."""
        return self.seconds / STUDY_GIGAPIXELS if self.by_area else math.nan


STUDY = (
    PublishedCost(
        "extraction of labels",
        ("label_raster",),
        16.4 * 60,
        math.nan,
        "Polygons become the pixels’ classes.",
    ),
    PublishedCost(
        "extraction of images (176 min) and LMDB (14.3 min)",
        ("shard",),
        (176 + 14.3) * 60,
        350.0,
        "Tiles of images and labels become a database; ours cuts and writes in one step.",
    ),
    PublishedCost(
        "training",
        ("train",),
        16.2 * 3600,
        math.nan,
        "50 000 iterations of SegNet; its time follows from iterations, network and processor, "
        "not from the ground, so there is no rate.",
        by_area=False,
    ),
    PublishedCost(
        "mapping",
        ("map_sheet",),
        math.nan,
        math.nan,
        "The study published no time of mapping whole sheets.",
    ),
)
"""The study's work in the order of the data, and which of our steps it compares with."""


@dataclass(frozen=True)
class CostComparison:
    """One part of the work, then and now.

    Attributes:
        published: What the study published.
        seconds: Time of our steps, all jobs added up; NaN where none was measured.
        memory_mb: Greatest memory of one of our jobs; NaN where none was measured.
        gigapixels: Pixels of our sheets; NaN where they are not known.
    """

    published: PublishedCost
    seconds: float
    memory_mb: float
    gigapixels: float

    @property
    def seconds_per_gigapixel(self) -> float:
        """Our time by ground; NaN where it means nothing or the pixels are not known."""
        known = self.published.by_area and self.gigapixels > 0
        return self.seconds / self.gigapixels if known else math.nan

    @property
    def study_seconds(self) -> float:
        """The study's time for as much ground as ours; as published where ground says nothing."""
        if not self.published.by_area:
            return self.published.seconds
        return self.published.seconds_per_gigapixel * self.gigapixels


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


def step_costs(
    benchmarks: Sequence[Benchmark], pixels: Mapping[str, int] | None = None
) -> list[StepCost]:
    """Add up the jobs of each step.

    Args:
        benchmarks: Jobs, in the order of the steps.
        pixels: Pixels of each sheet, as far as they are known.

    Returns:
        One entry a step, in the order in which the steps come first.
    """
    rules: dict[str, list[Benchmark]] = {}
    for job in benchmarks:
        rules.setdefault(job.rule, []).append(job)
    return [_step_cost(rule, jobs, pixels or {}) for rule, jobs in rules.items()]


def beside_the_study(steps: Sequence[StepCost]) -> list[CostComparison]:
    """The study's published costs, each beside those of our steps that do the same.

    Returns:
        One entry a part of the study's work, in the order of :data:`STUDY`; none at all where
        nothing of ours was measured.
    """
    measured = {step.rule: step for step in steps}
    if not any(rule in measured for part in STUDY for rule in part.rules):
        return []
    compared = []
    for part in STUDY:
        ours = [measured[rule] for rule in part.rules if rule in measured]
        compared.append(
            CostComparison(
                part,
                sum(step.seconds for step in ours) if ours else math.nan,
                max((step.memory_mb for step in ours), default=math.nan),
                max((step.gigapixels for step in ours), default=math.nan),
            )
        )
    return compared


def _step_cost(rule: str, jobs: Sequence[Benchmark], pixels: Mapping[str, int]) -> StepCost:
    memory = [job.memory_mb for job in jobs if not math.isnan(job.memory_mb)]
    timed = [job for job in jobs if not math.isnan(job.cpu_seconds)]
    wall = sum(job.seconds for job in timed)
    names = {job.sheet for job in jobs}
    known = sum(pixels[name] for name in names) if names <= pixels.keys() else 0
    return StepCost(
        rule,
        len(jobs),
        sum(job.seconds for job in jobs),
        max(jobs, key=lambda job: job.seconds),
        sum(job.cpu_seconds for job in timed) / wall if wall else math.nan,
        max(memory) if memory else math.nan,
        known / 1e9 if known else math.nan,
    )


def _measured(text: str | None) -> float:
    # Snakemake writes "-" or "NA" for a job too short to be measured.
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
