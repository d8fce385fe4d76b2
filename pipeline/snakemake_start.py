"""A start of Snakemake, as its hooks get it: who submits jobs, and what there is to do."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol


class Executor(Protocol):
    """What runs or submits jobs."""

    run_uuid: str
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
    """What Snakemake gives to its hooks: in ``onstart``, no job is submitted yet."""

    scheduler: Scheduler


class PlannedWorkflow(Workflow, Protocol):
    """The same in ``onstart``: it has looked at all outputs."""

    dag: Dag
