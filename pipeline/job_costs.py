"""Job costs: what the steps of a run took on a cluster, and what to ask for next time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.compute_costs import Benchmark
from pipeline.numerals import plural
from pipeline.slurm_accounting import (
    FAILED,
    FINISHED,
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

GO_ON = frozenset({"train", "tune", "map_sheet"})
"""Steps that go on where they were: what they take is the time of all of their starts."""

OF_ANY_LENGTH = frozenset({"train", "tune"})
"""Of those, steps that ask for no more time at each attempt: a day is enough to go on with."""

NETWORK_MB = 200
"""With less than this none of those can have loaded a network: what was measured is ``srun``, whose
processes Snakemake does not see."""

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
        memory_mb: Memory; None if nobody has seen what it took.
        minutes: Time; of a step that goes on where it was no more than one of its jobs was granted.
        jobs: Number of finished jobs that it rests on.
        accounted: Whether those are SLURM's; else they are Snakemake's benchmarks.
        peak_mb: Greatest memory of those; NaN if it was not seen.
        longest_seconds: Wall time of the longest of them, with what it had done in earlier starts
            if it went on from there.
        peak_asked_mb: What the job with that memory had asked for; NaN if not known.
        longest_asked_seconds: What the longest job had asked for; NaN if not known.
        killed: Starts that ran out of memory or time, which are lower bounds.
        in_all: Minutes of all starts together, where they are more than ``minutes``; None else.
    """

    rule: str
    memory_mb: int | None
    minutes: int
    jobs: int
    accounted: bool
    peak_mb: float
    longest_seconds: float
    peak_asked_mb: float = math.nan
    longest_asked_seconds: float = math.nan
    killed: int = 0
    in_all: int | None = None

    @property
    def memory_used(self) -> float:
        """Share of the memory that was asked for that was used; NaN if not known."""
        return self.peak_mb / self.peak_asked_mb

    @property
    def time_used(self) -> float:
        """Share of the time that was asked for that was used; NaN if not known."""
        return self.longest_seconds / self.longest_asked_seconds

    @property
    def runtime(self) -> str:
        """The time as an entry of a profile of Snakemake, with what there is to say of it."""
        grows = "" if self.rule in OF_ANY_LENGTH or self.in_all else " * attempt"
        remark = ""
        if self.in_all:
            remark = f"  # {self.in_all} in all: each start goes on where the last was"
        elif self.rule in GO_ON and not self.accounted:
            remark = "  # no more than your partition allows: each start goes on where the last was"
        return f"{self.minutes}{grows}{remark}"

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


def advice(
    jobs: Sequence[SlurmJob],
    benchmarks: Sequence[Benchmark],
    clocked: Mapping[str, float] | None = None,
) -> list[Advice]:
    """What each rule may ask for in the next run, by what its jobs have taken.

    Rules whose jobs SLURM has accounted for one by one are judged by that; others, as those of
    groups, by Snakemake's benchmarks.

    Args:
        jobs: SLURM's, if any.
        benchmarks: Snakemake's, if any; they tell of the last start of a step alone.
        clocked: Seconds of all starts of a rule, where it tells them itself.

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
            found.append(_by_benchmarks(rule, known, (clocked or {}).get(rule, 0.0)))
    return found


def unadvised(jobs: Sequence[SlurmJob], found: Sequence[Advice]) -> list[str]:
    """Rules that had jobs and have no advice, as none that was measured has finished."""
    advised = {entry.rule for entry in found}
    rules = dict.fromkeys(rule for job in jobs for rule in job.rules)
    return [rule for rule in rules if rule not in advised]


def resources_yaml(found: Sequence[Advice]) -> str:
    """The advice as lines of a profile of Snakemake.

    They lack their ``set-resources:`` on purpose. Snakemake takes one alone and drops the others
    without a word, with the partitions and GPUs in them: of two in a file the last, and of several
    profiles that of ``--workflow-profile``. Without it, lines that are just appended are refused.

    ``attempt`` counts from 1: a job that fails is submitted again with more.
    """
    lines = [
        "# Merge line by line below `set-resources:` in config.yaml of the profile. A rule that is",
        "# there already, such as train, tune, map_sheet: put its lines into the entry it has, and",
        "# never a rule or `set-resources:` twice: of two, YAML drops the first, with its GPUs.",
        "# `--dry-run` shows what each rule asks for then.",
        "# What a next run of this size may ask for: memory in MB, time in minutes. Those with",
        "# `attempt` grow with each one if the profile has `retries`.",
    ]
    if not found:
        lines.append("# No step has finished yet.")
    for entry in found:
        lines.append(f"  {entry.rule}:  # {entry.basis}")
        if entry.memory_mb is not None:
            lines.append(f"    mem_mb: {entry.memory_mb} * attempt")
        lines.append(f"    runtime: {entry.runtime}")
    return "\n".join([*lines, ""])


def _by_accounting(
    rule: str, starts: Sequence[SlurmJob], benchmarks: Sequence[Benchmark]
) -> Advice:
    finished = [job for job in starts if job.state == FINISHED]
    done = {job.sheet: job for job in finished}  # the last of each
    spent = _spent(rule, starts)
    long, seconds = max(
        ((job, taken) for job, taken in spent if job.state == FINISHED), key=lambda item: item[1]
    )
    seen = [job for job in finished if not math.isnan(job.memory_mb)]
    large = max(seen, key=lambda job: job.memory_mb, default=None)
    # SLURM looks now and then; of short jobs Snakemake may have seen more.
    measured = _measured(rule, benchmarks)
    memory = _with_snakemake(rule, measured)
    if large is not None:
        memory.append(MEMORY_MARGIN * large.memory_mb)
    time = [TIME_MARGIN * seconds]
    killed = 0
    for job, taken in spent:
        last = done.get(job.sheet)
        after = last if last and last.submitted > job.submitted else None
        if job.state == OUT_OF_TIME:
            killed += 1
            time.append(taken * (TIME_MARGIN if after else 2))
        elif job.state == OUT_OF_MEMORY:
            killed += 1
            if not math.isnan(job.asked_mb):
                memory.append(job.asked_mb * (MEMORY_MARGIN if after else 2))
        elif job.state == FAILED and after and job.asked_mb < after.asked_mb:
            # SLURM does not say why. It may have lacked memory, so not less than it had.
            memory.append(job.asked_mb)
    minutes = _rounded_minutes(max(time))
    granted = _granted(starts) if rule in GO_ON else None
    asked = minutes if granted is None else min(minutes, granted)
    return Advice(
        rule,
        _rounded_mb(max(memory)) if memory else None,
        asked,
        len(finished),
        True,
        _largest([large.memory_mb if large else math.nan, measured]),
        seconds,
        large.asked_mb if large else math.nan,
        long.limit_seconds,
        killed,
        minutes if minutes > asked else None,
    )


def _granted(starts: Sequence[SlurmJob]) -> int | None:
    """Minutes of the longest limit of a job that was let run; None where one had no limit."""
    limits = [job.limit_seconds for job in starts if not math.isnan(job.started)]
    return None if any(map(math.isnan, limits)) or not limits else int(max(limits) // 60)


def _spent(rule: str, starts: Sequence[SlurmJob]) -> list[tuple[SlurmJob, float]]:
    """Each start with the time that its work had taken by its end.

    That of steps that go on is the sum of all starts for the same sheet since the last that
    finished, however the others ended.
    """
    if rule not in GO_ON:
        return [(job, job.seconds) for job in starts]
    found = []
    before: dict[str, float] = {}
    for job in starts:
        taken = before.get(job.sheet, 0.0) + job.seconds
        found.append((job, taken))
        before[job.sheet] = 0.0 if job.state == FINISHED else taken
    return found


def _by_benchmarks(rule: str, benchmarks: Sequence[Benchmark], clocked: float) -> Advice:
    peak = _measured(rule, benchmarks)
    memory = _with_snakemake(rule, peak)
    seconds = max(clocked, *(one.seconds for one in benchmarks))
    return Advice(
        rule,
        _rounded_mb(max(memory)) if memory else None,
        _rounded_minutes(TIME_MARGIN * seconds),
        len(benchmarks),
        False,
        peak,
        seconds,
    )


def _measured(rule: str, benchmarks: Sequence[Benchmark]) -> float:
    """Greatest memory of the step itself as Snakemake saw it; NaN where it cannot have."""
    least = NETWORK_MB if rule in GO_ON else 0.0
    return _largest(one.memory_mb for one in benchmarks if one.memory_mb >= least)


def _with_snakemake(rule: str, measured_mb: float) -> list[float]:
    """Memory to ask for by what Snakemake measured of the step; none if that is not known.

    Steps too short to be measured have hardly taken any, but for those with networks.
    """
    if math.isnan(measured_mb):
        return [] if rule in GO_ON else [SNAKEMAKE_MB]
    return [MEMORY_MARGIN * measured_mb + SNAKEMAKE_MB]


def _rounded_mb(amount: float) -> int:
    return max(LEAST_MB, MEMORY_STEP_MB * math.ceil(amount / MEMORY_STEP_MB))


def _rounded_minutes(seconds: float) -> int:
    return TIME_STEP_MINUTES * max(1, math.ceil(seconds / 60 / TIME_STEP_MINUTES))


def _largest(values: Iterable[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)
