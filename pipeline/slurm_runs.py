"""Jobs of SLURM that belong to a run: they share the beginning of their names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

_SLURM = "snakemake_executor_plugin_slurm"


def job_prefix(run: Path) -> str:
    """What the names of all SLURM jobs of a run begin with, over all starts of Snakemake.

    Args:
        run: The run's folder.

    Returns:
        Such as ``tesela-1a2b3c4d``.
    """
    place = hashlib.blake2b(str(run.resolve()).encode(), digest_size=4).hexdigest()
    return f"tesela-{place}"


def name_jobs(workflow: Any, run: Path) -> None:
    """Give the jobs that Snakemake is about to submit names that tell their run.

    Snakemake's own prefix can be set before the settings are read only, so by people and not by
    the run; and Snakemake asks for its jobs by their name, so it has to learn of it.

    Args:
        workflow: Snakemake's, in ``onstart``: the executor is there, and no job is submitted.
        run: The run's folder.
    """
    executor = workflow.scheduler._executor
    if type(executor).__module__ == _SLURM:
        executor.run_uuid = f"{job_prefix(run)}_{executor.run_uuid}"
