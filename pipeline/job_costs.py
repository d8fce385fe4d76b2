"""Job costs: what the steps of a run took on a cluster, and what to ask for next time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.compute_costs import Benchmark
from pipeline.numerals import plural
from pipeline.slurm_accounting import (
    FINISHED,
    INTERRUPTED,
    OPEN,
    OUT_OF_MEMORY,
    OUT_OF_TIME,
    SlurmJob,
)

MEMORY_MARGIN = 1.25
TIME_MARGIN = 1.5
"""Advice is what was seen times these."""

MEMORY_STEP_MB = 100
TIME_STEP_MINUTES = 5
"""Advice is rounded up to these."""

SNAKEMAKE_MB = 500
"""What the two Snakemakes of a job take beside its step, which its benchmark does not count."""

LEAST_MB = 700
"""Less is not advised: Snakemake alone may need that."""

STATES = {
    FINISHED: "finished",
    OUT_OF_MEMORY: "out of memory",
    OUT_OF_TIME: "out of time",
    "NODE_FAIL": "lost with their node",
    "PENDING": "still waiting",
    "RUNNING": "still running",
}
"""SLURM's words for the states of jobs, for people; of the others the words are plain."""

FEW_JOBS = 3
"""Advice from fewer jobs than this is said to be."""


@dataclass(frozen=True)
class StepJobs:
    """All starts of the jobs of one step, or of a group of steps that share jobs.

    Attributes:
        step: Name of the step, or of the group.
        jobs: Its starts, one at least, in the order of their submission.
    """

    step: str
    jobs: Sequence[SlurmJob]

    @property
    def members(self) -> list[str]:
        """The rules of a group, none of a step."""
        return sorted({rule for job in self.jobs if job.group for rule in job.rules})

    @property
    def states(self) -> list[tuple[str, int]]:
        """How many are in each state, in SLURM's words, the finished first."""
        counts = Counter(job.state for job in self.jobs)
        return sorted(counts.items(), key=lambda item: (item[0] != FINISHED, item[0]))

    @property
    def finished(self) -> int:
        """Number of jobs that ended as they should."""
        return sum(job.state == FINISHED for job in self.jobs)

    @property
    def open(self) -> int:
        """Number of jobs that have not ended."""
        return sum(job.state in OPEN for job in self.jobs)

    @property
    def queued_seconds(self) -> float:
        """Time in the queue of those that wait no more, added up."""
        return sum(job.queued_seconds for job in self.jobs if not math.isnan(job.queued_seconds))

    @property
    def longest_queue(self) -> float:
        """The longest time in the queue; NaN while all wait."""
        return _largest(job.queued_seconds for job in self.jobs)

    @property
    def seconds(self) -> float:
        """Wall time added up, of those that run up to now."""
        return sum(job.seconds for job in self.jobs)

    @property
    def longest(self) -> float:
        """Wall time of the longest that has ended; NaN if none has."""
        return _largest(job.seconds for job in self.jobs if job.state not in OPEN)

    @property
    def cpu_hours(self) -> float:
        """Hours of processors that the jobs had, whether they used them or not."""
        return sum(job.seconds * job.cpus for job in self.jobs) / 3600

    @property
    def gpu_hours(self) -> float:
        """Hours of GPUs that the jobs had."""
        return sum(job.seconds * job.gpus for job in self.jobs) / 3600

    @property
    def busy(self) -> float:
        """Share of the processors' time that was used, of jobs that have ended; NaN of none."""
        ended = [job for job in self.jobs if job.state not in OPEN]
        had = sum(job.seconds * job.cpus for job in ended)
        return sum(job.cpu_seconds for job in ended) / had if had else math.nan

    @property
    def memory_mb(self) -> float:
        """Greatest memory of a job on a node; NaN if none was seen."""
        return _largest(job.memory_mb for job in self.jobs)


@dataclass(frozen=True)
class Advice:
    """What a rule may ask for in the next run.

    Attributes:
        rule: Name of the rule.
        memory_mb: Memory.
        minutes: Time.
        jobs: Number of finished jobs that it rests on.
        accounted: Whether those are SLURM's; else they are Snakemake's benchmarks.
        peak_mb: Greatest memory of those; NaN if it was not seen.
        longest_seconds: Wall time of the longest of them.
        peak_asked_mb: What the job with that memory had asked for; NaN if not known.
        longest_asked_seconds: What the longest job had asked for; NaN if not known.
        killed: Starts that ran out of memory or time, which are lower bounds.
    """

    rule: str
    memory_mb: int
    minutes: int
    jobs: int
    accounted: bool
    peak_mb: float
    longest_seconds: float
    peak_asked_mb: float = math.nan
    longest_asked_seconds: float = math.nan
    killed: int = 0

    @property
    def memory_used(self) -> float:
        """Share of the memory that was asked for that was used; NaN if not known."""
        return self.peak_mb / self.peak_asked_mb

    @property
    def time_used(self) -> float:
        """Share of the time that was asked for that was used; NaN if not known."""
        return self.longest_seconds / self.longest_asked_seconds

    @property
    def basis(self) -> str:
        """What it rests on, in words."""
        few = " only" if self.jobs < FEW_JOBS else ""
        return f"{plural(self.jobs, 'job')}{few}{'' if self.accounted else ', by Snakemake'}"


def in_words(state: str) -> str:
    """A state of a job for people."""
    return STATES.get(state, state.lower().replace("_", " "))


def step_jobs(jobs: Sequence[SlurmJob]) -> list[StepJobs]:
    """Gather the jobs of each step.

    Args:
        jobs: In the order of their submission.

    Returns:
        One entry a step, or a group of steps, in the order of their first jobs.
    """
    steps: dict[str, list[SlurmJob]] = {}
    for job in jobs:
        steps.setdefault(job.step, []).append(job)
    return [StepJobs(step, found) for step, found in steps.items()]


def advice(jobs: Sequence[SlurmJob], benchmarks: Sequence[Benchmark]) -> list[Advice]:
    """What each rule may ask for in the next run, by what its jobs have taken.

    Rules whose jobs SLURM has accounted for one by one are judged by that; others, as those of
    groups, by Snakemake's benchmarks.

    Args:
        jobs: SLURM's, if any.
        benchmarks: Snakemake's, if any.

    Returns:
        One entry a rule that has a finished job.
    """
    own: dict[str, list[SlurmJob]] = {}
    for job in jobs:
        if not job.group and job.rules:
            own.setdefault(job.rules[0], []).append(job)
    measured: dict[str, list[Benchmark]] = {}
    for benchmark in benchmarks:
        measured.setdefault(benchmark.rule, []).append(benchmark)
    found = []
    for rule in [*measured, *(rule for rule in own if rule not in measured)]:
        starts, known = own.get(rule, []), measured.get(rule, [])
        if any(job.state == FINISHED for job in starts):
            found.append(_by_accounting(rule, starts, known))
        elif known:
            found.append(_by_benchmarks(rule, known))
    return found


def unadvised(jobs: Sequence[SlurmJob], found: Sequence[Advice]) -> list[str]:
    """Rules that had jobs and have no advice, as none that was measured has finished."""
    advised = {entry.rule for entry in found}
    rules = dict.fromkeys(rule for job in jobs for rule in job.rules)
    return [rule for rule in rules if rule not in advised]


def resources_yaml(found: Sequence[Advice]) -> str:
    """The advice as lines of a profile of Snakemake.

    ``attempt`` counts from 1: a job that fails is submitted again with more.
    """
    lines = [
        "# What a next run of this size may ask for: memory in MB, time in minutes. Lines for the",
        "# config.yaml of a profile; where its `set-resources` has a rule already, put them there.",
        "# They grow with each attempt if the profile has `retries`.",
    ]
    if not found:
        return "\n".join([*lines, "# No step has finished yet.", "set-resources: {}", ""])
    lines.append("set-resources:")
    for entry in found:
        lines += [
            f"  {entry.rule}:  # {entry.basis}",
            f"    mem_mb: {entry.memory_mb} * attempt",
            f"    runtime: {entry.minutes} * attempt",
        ]
    return "\n".join([*lines, ""])


def _by_accounting(
    rule: str, starts: Sequence[SlurmJob], benchmarks: Sequence[Benchmark]
) -> Advice:
    finished = [job for job in starts if job.state == FINISHED]
    done = {job.sheet: job.submitted for job in finished}  # the last of each
    # What SLURM interrupted went on where it was, so all of its starts count as one.
    broken: Counter[str] = Counter()
    for job in starts:
        if job.state in INTERRUPTED:
            broken[job.number] += job.seconds  # type: ignore[assignment]
    long = max(finished, key=lambda job: job.seconds + broken[job.number])
    seconds = long.seconds + broken[long.number]
    seen = [job for job in finished if not math.isnan(job.memory_mb)]
    large = max(seen, key=lambda job: job.memory_mb, default=None)
    measured = _largest(one.memory_mb for one in benchmarks)
    if large is None:
        peak, memory = measured, [_with_snakemake(measured)]
    else:
        # SLURM looks now and then; of short jobs Snakemake may have seen more.
        peak = _largest([large.memory_mb, measured])
        memory = [MEMORY_MARGIN * peak]
    time = [TIME_MARGIN * seconds]
    killed = [job for job in starts if job.state in (OUT_OF_MEMORY, OUT_OF_TIME)]
    for job in killed:
        ended_well = done.get(job.sheet, -math.inf) > job.submitted
        if job.state == OUT_OF_TIME:
            time.append(job.seconds * (TIME_MARGIN if ended_well else 2))
        elif not math.isnan(job.asked_mb):
            memory.append(job.asked_mb * (MEMORY_MARGIN if ended_well else 2))
    return Advice(
        rule,
        _rounded_mb(max(memory)),
        _rounded_minutes(max(time)),
        len(finished),
        True,
        peak,
        seconds,
        large.asked_mb if large else math.nan,
        long.limit_seconds,
        len(killed),
    )


def _by_benchmarks(rule: str, benchmarks: Sequence[Benchmark]) -> Advice:
    peak = _largest(one.memory_mb for one in benchmarks)
    seconds = max(one.seconds for one in benchmarks)
    return Advice(
        rule,
        _rounded_mb(_with_snakemake(peak)),
        _rounded_minutes(TIME_MARGIN * seconds),
        len(benchmarks),
        False,
        peak,
        seconds,
    )


def _with_snakemake(peak_mb: float) -> float:
    return MEMORY_MARGIN * (0.0 if math.isnan(peak_mb) else peak_mb) + SNAKEMAKE_MB


def _rounded_mb(amount: float) -> int:
    return max(LEAST_MB, MEMORY_STEP_MB * math.ceil(amount / MEMORY_STEP_MB))


def _rounded_minutes(seconds: float) -> int:
    return TIME_STEP_MINUTES * max(1, math.ceil(seconds / 60 / TIME_STEP_MINUTES))


def _largest(values: Iterable[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)
