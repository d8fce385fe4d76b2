"""A start of Snakemake, as the workflow gets it: how it was called, and what there is to do."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from pipeline.errors import SettingsError


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


class Method(Protocol):
    """A way to bring software to the rules."""

    name: str


class Deployment(Protocol):
    """What Snakemake was told of the rules' software."""

    deployment_method: Collection[Method]


class CalledWorkflow(Protocol):
    """What Snakemake gives to the Snakefile while it reads it."""

    deployment_settings: Deployment


def refuse_conda(workflow: CalledWorkflow) -> None:
    """Refuse environments of the rules' own, which Snakemake would build and no rule would use.

    The Snakefile needs the whole environment before there is any rule, so Snakemake runs in it, and
    the rules with its Python.

    Args:
        workflow: Snakemake's, as it reads the Snakefile.

    Raises:
        SettingsError: If Snakemake was asked for them.
    """
    if any(method.name == "CONDA" for method in workflow.deployment_settings.deployment_method):
        raise SettingsError(
            "--software-deployment-method conda: rules run in the environment of Snakemake itself.",
            remedy="Leave it out (--use-conda, --sdm conda, or the line of a profile), and start "
            "Snakemake in that environment: conda env create -f environment.yml && conda activate "
            "tesela.",
        )
