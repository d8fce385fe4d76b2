"""States of SLURM's jobs, as Snakemake's executor is told of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, cast

from pipeline.errors import SettingsError
from pipeline.snakemake_start import Executor

AGAIN = 10
"""Seconds until a SLURM that did not answer is asked again: the executor adds them to none."""

_QUERY = "query_job_status"
_Answer = tuple[Mapping[str, str] | None, float | None]
_Query = Callable[[str, logging.Logger], Awaitable[_Answer]]


class _Asking(Protocol):
    """The executor, which asks for all of its jobs at once."""

    next_seconds_between_status_checks: float


def read_all(executor: Executor) -> None:
    """Let an executor of SLURM outlast a controller that is silent, and read all states.

    Without it, the executor forgets all its jobs when SLURM does not answer five times within some
    seconds (a restart of the controller, say), and waits for ever; more attempts would be one
    look that Ctrl-C has to wait for. Nor does it know the state ``CANCELLED by 1000``, by which
    ``sacct`` tells who cancelled a job, and waits for that for ever as well.

    Args:
        executor: Of the plugin for SLURM, before its first job.

    Raises:
        SettingsError: If the plugin is of a version that asks otherwise.

    Source:
        snakemake-executor-plugin-slurm 2.8.0, ``Executor.check_active_jobs``, which takes jobs of
        unknown state for active; its issues 207 and 331.
    """
    module = sys.modules[type(executor).__module__]
    if not hasattr(module, _QUERY):
        raise SettingsError(
            "Snakemake's executor for SLURM is of a version that asks for jobs in another way.",
            remedy="pip install -c constraints.txt snakemake-executor-plugin-slurm",
        )
    ask: _Query = getattr(module, _QUERY)
    answered = True

    async def states(command: str, logger: logging.Logger) -> _Answer:
        nonlocal answered
        found, seconds = await ask(command, logger)
        if found is None:
            # It asks more and more seldom, and squeue forgets jobs that have ended.
            cast(_Asking, executor).next_seconds_between_status_checks = 0
            if answered:
                logger.warning(
                    f"SLURM does not answer `{command.split()[0]}`: jobs are taken to be as they "
                    f"were, and asked for again every {AGAIN} s."
                )
            answered = False
            return {}, 0.0
        if not answered:
            logger.info("SLURM answers again.")
        answered = True
        return {job: state.partition(" ")[0] for job, state in found.items()}, seconds

    setattr(module, _QUERY, states)
