"""Jobs as SLURM's accounting remembers them: those of a workflow, a job for each attempt."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.slurm.cluster import Cluster

FIELDS = (
    "JobIDRaw", "JobName", "State", "Account", "Partition", "QOS", "NodeList", "NNodes", "NTasks",
    "AllocTRES", "Timelimit", "Submit", "End", "SubmitLine",
)  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """One job.

    Attributes:
        job: Its id.
        name: Its name.
        rule: What Snakemake calls the rule or the group in the job's comment.
        memory_mb: What it asked for.
        minutes: What it asked for.
        state: How it ended.
        steps: How its parts ended.
        tasks: Number of processes of each step that ``srun`` has started.
        told: All :data:`FIELDS` of the job.
    """

    job: str
    name: str
    rule: str
    memory_mb: int
    minutes: int
    state: str
    steps: frozenset[str]
    tasks: tuple[int, ...]
    told: Mapping[str, str]

    def time(self, field: str) -> datetime:
        """When it was submitted (``Submit``), or ended (``End``)."""
        return datetime.fromisoformat(self.told[field])


def attempts(cluster: Cluster, folder: Path, of: str = "") -> list[Attempt]:
    """Jobs that Snakemake has submitted from a folder, in their order.

    Args:
        cluster: The cluster.
        folder: Snakemake's working directory.
        of: Only those whose command holds this: ``sheet=0722-1``, or a rule.
    """
    parts: dict[str, list[dict[str, str]]] = {}
    for row in _accounted(cluster):
        parts.setdefault(row["JobIDRaw"].split(".")[0], []).append(row)
    found = []
    for job, rows in parts.items():
        (whole,) = (row for row in rows if row["JobIDRaw"] == job)
        submitted = whole["SubmitLine"]
        if f"-D {folder} " not in submitted or of not in submitted:
            continue
        words = shlex.split(submitted.split(" --wrap=")[0])
        asked = {flag: words[words.index(flag) + 1] for flag in ("--mem", "-t", "--comment")}
        found.append(
            Attempt(
                job, whole["JobName"], asked["--comment"].split("_wildcards_")[0],
                int(asked["--mem"]), int(asked["-t"]), _state(whole),
                frozenset(_state(row) for row in rows),
                tuple(int(row["NTasks"]) for row in rows if row["JobIDRaw"].split(".")[-1].isdigit()
                      and row is not whole),
                whole,
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: int(one.job))


def states(cluster: Cluster, job: str) -> list[str]:
    """States of all starts of a job, as the accounting has them, in their order."""
    return [_state(row) for row in _accounted(cluster, "-X", "--duplicates", "--jobs", job)]


def _accounted(cluster: Cluster, *which: str) -> list[dict[str, str]]:
    told = cluster.run(
        "sacct", "-P", "-n", "--starttime", "now-1days", "--delimiter=\x1f",
        "--format", ",".join(FIELDS), *which,
    )  # fmt: skip
    rows = [line.split("\x1f", len(FIELDS) - 1) for line in told.splitlines()]
    return [dict(zip(FIELDS, row, strict=True)) for row in rows]


def _state(row: Mapping[str, str]) -> str:
    return row["State"].split()[0]
