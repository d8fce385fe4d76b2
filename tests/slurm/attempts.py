"""Jobs of a workflow as SLURM's accounting remembers them: a job for each attempt."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.slurm.cluster import Cluster


@dataclass(frozen=True)
class Attempt:
    """One job.

    Attributes:
        job: Its id.
        name: Its name.
        memory_mb: What it asked for.
        minutes: What it asked for.
        state: How it ended.
        steps: How its parts ended.
    """

    job: str
    name: str
    memory_mb: int
    minutes: int
    state: str
    steps: frozenset[str]


def attempts(cluster: Cluster, folder: Path, of: str = "") -> list[Attempt]:
    """Jobs that Snakemake has submitted from a folder, in their order.

    Args:
        cluster: The cluster.
        folder: Snakemake's working directory.
        of: Only those whose command holds this: ``sheet=0722-1``, or a rule.
    """
    told = cluster.run(
        "sacct", "-P", "-n", "--starttime", "now-1days", "--delimiter=\x1f",
        "--format", "JobIDRaw,JobName,State,SubmitLine",
    )  # fmt: skip
    lines = [line.split("\x1f", 3) for line in told.splitlines()]
    parts: dict[str, set[str]] = {}
    for job, _, state, _ in lines:
        parts.setdefault(job.split(".")[0], set()).add(state.split()[0])
    found = []
    for job, name, state, submitted in lines:
        if "." in job or f"-D {folder} " not in submitted or of not in submitted:
            continue
        words = shlex.split(submitted.split(" --wrap=")[0])
        memory, minutes = (int(words[words.index(flag) + 1]) for flag in ("--mem", "-t"))
        steps = frozenset(parts[job])
        found.append(Attempt(job, name, memory, minutes, state.split()[0], steps))
    return sorted(found, key=lambda one: int(one.job))
