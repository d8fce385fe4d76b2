"""SLURM's accounting: what the jobs of a run waited for, took, and had asked for.

The program ``sacct`` tells it, on login and compute nodes alike, where a cluster keeps accounts.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pipeline.slurm_runs import TILES

log = logging.getLogger(__name__)

FIELDS = (
    *("JobIDRaw", "JobName", "State", "Submit", "Start", "End", "ElapsedRaw", "TimelimitRaw"),
    *("ReqMem", "AllocTRES", "TotalCPU", "MaxRSS", "NNodes", "NTasks", "SubmitLine"),
)
"""Columns that sacct is asked for; SubmitLine is last, as it may hold line breaks."""

SEPARATOR = "\x1f"
"""Between the columns: a character that no command line has."""

ANSWER = 120.0
"""Seconds to wait for sacct in a job of SLURM: the database of a large cluster takes its time."""

UNASKED = 20.0
"""The same elsewhere: there may be no SLURM behind the program, and it tries for a minute."""

FINISHED = "COMPLETED"
OUT_OF_MEMORY = "OUT_OF_MEMORY"
OUT_OF_TIME = "TIMEOUT"
OPEN = frozenset({"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED"})
"""States of jobs that have not ended."""

FAILED = "FAILED"

CLOCKS = 5.0
"""Seconds by which the clocks of the machines of a cluster may differ."""

_MB = {"": 1 / 2**20, "K": 1 / 2**10, "M": 1.0, "G": 2.0**10, "T": 2.0**20, "P": 2.0**30}


@dataclass(frozen=True)
class SlurmJob:
    """One start of a job; one that was requeued has several, with the same number.

    Attributes:
        number: SLURM's number of the job.
        name: Its name.
        group: Name of the group of rules that it was for; ``tiles`` if dask's for a shard; empty
            if for one rule alone.
        rules: The rules that it was for; empty if nothing tells.
        sheet: The wildcards of its rule, such as its sheet; empty for a group or a rule of all.
        state: Such as ``COMPLETED``, in SLURM's words. Of a job one of whose steps ran out of
            memory that is its state, and not just ``FAILED``.
        submitted: Seconds since 1970; of a requeued job when that was.
        started: Likewise; NaN if it has not.
        ended: Likewise; NaN if it has not.
        queued_seconds: From its submission to its start, or to its end if it never started; NaN
            while it waits.
        seconds: Wall time, up to now if it runs.
        limit_seconds: Wall time that was asked for; NaN without a limit.
        nodes: Number of its nodes.
        cpus: Processors that it had, of all nodes; 0 before it starts.
        gpus: GPUs likewise; those asked for where SLURM does not account for them.
        cpu_seconds: Processor time that it used, 0 while it runs.
        memory_mb: Greatest memory on a node, as its steps were seen; NaN if they were not.
        asked_mb: Memory of a node that was asked for; NaN if not known.
    """

    number: str
    name: str
    group: str
    rules: tuple[str, ...]
    sheet: str
    state: str
    submitted: float
    started: float
    ended: float
    queued_seconds: float
    seconds: float
    limit_seconds: float
    nodes: int
    cpus: int
    gpus: int
    cpu_seconds: float
    memory_mb: float
    asked_mb: float

    @property
    def step(self) -> str:
        """Its group, or its rule."""
        return self.group or " + ".join(self.rules) or "other jobs"


@dataclass(frozen=True)
class Accounting:
    """What SLURM's accounting says of a run.

    Attributes:
        jobs: Every start of every job, in the order of their submission.
        silence: Why there are none, in a sentence, if the report itself was made by a job of
            SLURM; empty on a machine without.
    """

    jobs: Sequence[SlurmJob] = ()
    silence: str = ""


class NoAnswerError(Exception):
    """sacct says nothing, and why."""


def accounting(
    prefix: str,
    since: float,
    variables: Mapping[str, str] | None = None,
    begun: float = -math.inf,
) -> Accounting:
    """Ask for the jobs of a run.

    Args:
        prefix: What the names of its jobs begin with.
        since: When its first job ended, or before, in seconds since 1970.
        variables: The environment; this process's if not told.
        begun: When the run began, likewise, if that is known: jobs that were submitted before it
            are those of another in the same folder.

    Returns:
        The jobs, or why there are none.
    """
    variables = os.environ if variables is None else variables
    inside = "SLURM_JOB_ID" in variables
    try:
        found = read_jobs(_answer(since, variables, ANSWER if inside else UNASKED), prefix)
        jobs = [job for job in found if job.submitted > begun - CLOCKS]
        why = f"it knows no job whose name begins with `{prefix}`"
    except NoAnswerError as reason:
        jobs, why = [], str(reason)
    if jobs:
        return Accounting(jobs)
    silence = f"SLURM’s accounting tells nothing of this run: {why}."
    log.log(logging.WARNING if inside else logging.DEBUG, "%s", silence)
    return Accounting((), silence if inside else "")


def read_jobs(text: str, prefix: str) -> list[SlurmJob]:
    """Read the answer of sacct.

    Args:
        text: What it printed, the columns of :data:`FIELDS` without a head.
        prefix: What the names of the jobs begin with that are read; others are left out.

    Returns:
        The jobs in the order of their submission.

    Raises:
        NoAnswerError: If a line is not of these columns, or a number is none.
    """
    found: list[tuple[dict[str, str], list[dict[str, str]]]] = []
    for record in _records(text):
        if "." not in record["JobIDRaw"]:
            found.append((record, []))
        elif found and record["JobIDRaw"].startswith(f"{found[-1][0]['JobIDRaw']}."):
            found[-1][1].append(record)
    jobs: list[SlurmJob] = []
    ended: dict[str, float] = {}
    for record, steps in found:
        if not record["JobName"].startswith(prefix):
            continue
        try:
            job = _job(record, steps)
        except ValueError as error:
            number = record["JobIDRaw"]
            raise NoAnswerError(
                f"`sacct` tells of job {number} what cannot be read ({error})"
            ) from error
        # Where a requeued job keeps its first time of submission, its first start was no waiting.
        earlier = ended.get(job.number, -math.inf)
        if earlier > job.submitted:
            job = replace(job, queued_seconds=max(0.0, job.started - earlier))
        ended[job.number] = job.ended
        jobs.append(job)
    return sorted(jobs, key=lambda job: job.submitted)


def _answer(since: float, variables: Mapping[str, str], patience: float) -> str:
    """What sacct prints of all jobs of this user."""
    program = shutil.which("sacct", path=variables.get("PATH"))
    if program is None:
        raise NoAnswerError("there is no program `sacct` where the report was made")
    # In UTC no hour comes twice.
    own = {**variables, "TZ": "UTC", "SLURM_TIME_FORMAT": "standard"}
    start = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    command = [
        program, "--noheader", "--parsable2", f"--delimiter={SEPARATOR}", "--duplicates",
        "--units=M", f"--starttime={start}", f"--format={','.join(FIELDS)}",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, env=own, capture_output=True, text=True, errors="replace", timeout=patience,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"`sacct` did not answer within {patience:.0f} s") from error
    except OSError as error:
        raise NoAnswerError(f"`sacct` cannot be started ({error.strerror})") from error
    if done.returncode:
        lines = [line.strip(" .") for line in (done.stderr or done.stdout).splitlines()]
        said = [line for line in lines if line] or [f"nothing, and ends with {done.returncode}"]
        raise NoAnswerError(f"`sacct` says “{re.sub(r'^sacct: ((error|fatal): )?', '', said[-1])}”")
    return done.stdout


def _records(text: str) -> list[dict[str, str]]:
    rows: list[list[str]] = []
    for line in text.split("\n"):
        if SEPARATOR in line:
            rows.append(line.split(SEPARATOR))
        elif rows:  # a line break within a command
            rows[-1][-1] += f"\n{line}"
        elif line.strip():
            raise NoAnswerError(f"`sacct` says “{line.strip()}”")
    if any(len(row) != len(FIELDS) for row in rows):
        raise NoAnswerError("`sacct` tells other columns than it was asked for")
    return [dict(zip(FIELDS, row, strict=True)) for row in rows]


def _job(record: Mapping[str, str], steps: Sequence[Mapping[str, str]]) -> SlurmJob:
    submitted, started, ended = (_time(record[key]) for key in ("Submit", "Start", "End"))
    resources = dict(part.split("=", 1) for part in record["AllocTRES"].split(",") if "=" in part)
    nodes = int(record["NNodes"] or 1) or 1
    cpus = int(resources.get("cpu", 0))
    limit = record["TimelimitRaw"]
    group, rules, sheet = _purpose(record["SubmitLine"])
    if record["JobName"].endswith(TILES):
        # As a group: what they take is not what their step has to ask for.
        group, rules = TILES.strip("-"), ("shard",)
    # Such as "CANCELLED by 1000".
    state = (record["State"].split() or ["UNKNOWN"])[0]
    if state == FAILED and any(step["State"] == OUT_OF_MEMORY for step in steps):
        state = OUT_OF_MEMORY
    return SlurmJob(
        number=record["JobIDRaw"],
        name=record["JobName"],
        group=group,
        rules=rules,
        sheet=sheet,
        state=state,
        submitted=submitted,
        started=started,
        ended=ended,
        queued_seconds=(ended if math.isnan(started) else started) - submitted,
        seconds=float(record["ElapsedRaw"] or 0),
        limit_seconds=60.0 * float(limit) if limit.isdigit() else math.nan,
        nodes=nodes,
        cpus=cpus,
        gpus=_gpus(resources) or (_asked_gpus(record["SubmitLine"], nodes) if resources else 0),
        cpu_seconds=_clock(record["TotalCPU"]),
        memory_mb=_peak(steps),
        asked_mb=_asked_mb(resources.get("mem", ""), record["ReqMem"], nodes, cpus),
    )


def _asked_mb(allocated: str, asked: str, nodes: int, cpus: int) -> float:
    """Memory of a node that was asked for; NaN if not known.

    Args:
        allocated: Of all nodes; empty before a job starts.
        asked: Of all nodes; before SLURM 21.08 with ``n`` of each node, with ``c`` of each
            processor.
        nodes: Number of nodes.
        cpus: Processors of all nodes; 0 before a job starts.
    """
    if not (amount := _megabytes(allocated)):
        amount = _megabytes(asked.rstrip("nc"))
        amount *= {"n": nodes, "c": cpus}.get(asked[-1:], 1)
    return amount / nodes if amount else math.nan


def _purpose(command: str) -> tuple[str, tuple[str, ...], str]:
    """Group, rules and wildcards of a job, by the command that submitted it."""
    # Of a group the executor's comment does not tell the rules apart; Snakemake's words do.
    allowed = re.search(r"--allowed-rules ((?:\w+\s+)+)", command)
    rules = tuple(sorted(allowed[1].split())) if allowed else ()
    comment = re.search(r"--comment[ =]rule_(\S+?)(?:_wildcards_(\S+))?(?=\s|$)", command)
    if comment is None:
        return "", rules, ""
    name = comment[1]
    if not rules or rules == (name,):
        return "", (name,), comment[2] or ""
    # Snakemake names five of the rules.
    named = "_".join([*rules[:5], "..."] if len(rules) > 5 else rules)
    return name.removesuffix(f"_{named}"), rules, ""


def _peak(steps: Sequence[Mapping[str, str]]) -> float:
    """Greatest memory on a node: that of the steps that ran at the same time, added up."""
    spans = []
    for step in steps:
        memory = _megabytes(step["MaxRSS"])
        if memory:
            # The largest task is told; the others of its node are taken to be as large.
            each = math.ceil(int(step["NTasks"] or 1) / max(1, int(step["NNodes"] or 1)))
            start, end = _time(step["Start"]), _time(step["End"])
            spans.append(
                (
                    -math.inf if math.isnan(start) else start,
                    math.inf if math.isnan(end) else end,
                    memory * each,
                )
            )
    return max(
        (
            sum(
                memory
                for start, end, memory in spans
                if start <= now and (end > now or start == now)
            )
            for now, _, _ in spans
        ),
        default=math.nan,
    )


def _gpus(resources: Mapping[str, str]) -> int:
    """GPUs of any kind: ``gres/gpu`` counts all, and kinds are told where that is not."""
    if "gres/gpu" in resources:
        return int(resources["gres/gpu"])
    return sum(int(value) for key, value in resources.items() if key.startswith("gres/gpu:"))


def _asked_gpus(command: str, nodes: int) -> int:
    """GPUs by the command that submitted a job.

    SLURM accounts for them only where ``AccountingStorageTRES`` names them, which is no default.
    """
    words = command.split(" --wrap", 1)[0]
    # Options of Snakemake's executor, and those that a profile may add.
    asked = dict(
        re.findall(r"(?<=\s)--(gpus|gres|gpus-per-node|gpus-per-task|ntasks)[= ](\S+)", words)
    )
    of_a_node = ",".join(
        part for part in asked.get("gres", "").split(",") if part.startswith("gpu")
    )
    tasks = asked.get("ntasks", "1")
    return max(
        _count(asked.get("gpus", "")),
        _count(of_a_node) * nodes,
        _count(asked.get("gpus-per-node", "")) * nodes,
        _count(asked.get("gpus-per-task", "")) * (int(tasks) if tasks.isdigit() else 1),
    )


def _count(kinds: str) -> int:
    """How many ``2``, ``gpu:2``, ``gpu:a100:2`` and such are; one each where no number is told."""
    found = (part.rpartition(":")[2] for part in kinds.split(",") if part)
    return sum(int(number) if number.isdigit() else 1 for number in found)


def _time(text: str) -> float:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()
    except ValueError:  # Unknown, None
        return math.nan


def _clock(text: str) -> float:
    """Seconds of ``1-02:03:04``, ``02:03:04`` or ``03:04.567``."""
    days, _, clock = text.rpartition("-")
    total = 0.0
    for part in clock.split(":"):
        total = 60 * total + float(part or 0)
    return 86_400 * float(days or 0) + total


def _megabytes(text: str) -> float:
    """MB of ``215640K`` or ``1.5G``; 0 if nothing is told."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?)([KMGTP]?)", text)
    return float(match[1]) * _MB[match[2]] if match else 0.0
