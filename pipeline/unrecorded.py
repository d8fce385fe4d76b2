"""Outputs that are there, and of which Snakemake does not know how they were made."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

_MOST = 10


class Executor(Protocol):
    """What runs or submits jobs."""

    logger: logging.Logger


class Scheduler(Protocol):
    """What tells the executor which job is next."""

    _executor: Executor


class Rule(Protocol):
    """What a job is of."""

    name: str


class Job(Protocol):
    """One of the workflow's."""

    rule: Rule
    output: Sequence[str]


class Reason(Protocol):
    """What Snakemake has found out about a job."""

    no_metadata: bool


class Dag(Protocol):
    """All jobs of a start, those too that have nothing to do."""

    jobs: Iterable[Job]

    def needrun(self, job: Job) -> bool:
        """Whether the job has something to do."""

    def reason(self, job: Job) -> Reason:
        """Why, or why not."""


class Workflow(Protocol):
    """What Snakemake gives to ``onstart``: it has looked at all outputs."""

    scheduler: Scheduler
    dag: Dag


def warn(workflow: Workflow) -> None:
    """Name the outputs that would stay although the settings are changed.

    They were finished while no Snakemake was there to note by which settings: by SLURM after
    Snakemake was killed, or by hand. Snakemake itself says so in a dry run only.

    Args:
        workflow: Snakemake's, in ``onstart``.
    """
    dag = workflow.dag
    jobs = [job for job in dag.jobs if dag.reason(job).no_metadata and not dag.needrun(job)]
    if not jobs:
        return
    rules = sorted({job.rule.name for job in jobs})
    again = rules if len(jobs) > _MOST else sorted(str(job.output[0]) for job in jobs)
    workflow.scheduler._executor.logger.warning(
        f"Outputs of {len(jobs)} jobs ({', '.join(rules)}) were finished while no Snakemake was "
        "there. They are used as they are, also if settings have changed since or will change. To "
        f"make them again: --forcerun {' '.join(again)}"
    )
