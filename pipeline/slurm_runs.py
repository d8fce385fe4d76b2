"""Jobs of SLURM that belong to a run: they share the beginning of their names."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

_SLURM = "snakemake_executor_plugin_slurm"
_SECONDS = 60.0
_AT_ONCE = 500  # ids in one command


class Executor(Protocol):
    """What submits jobs."""

    run_uuid: str
    logger: logging.Logger


class Scheduler(Protocol):
    """What tells the executor which job is next."""

    _executor: Executor


class Persistence(Protocol):
    """What Snakemake keeps in ``.snakemake``."""

    path: Path


class Workflow(Protocol):
    """What Snakemake gives to ``onstart``: the executor is there, and no job is submitted."""

    scheduler: Scheduler
    persistence: Persistence


def job_prefix(run: Path) -> str:
    """What the names of all SLURM jobs of a run begin with, over all starts of Snakemake.

    Args:
        run: The run's folder.

    Returns:
        Such as ``tesela-1a2b3c4d``.
    """
    place = hashlib.blake2b(str(run.resolve()).encode(), digest_size=4).hexdigest()
    return f"tesela-{place}"


def name_jobs(workflow: Workflow, run: Path) -> None:
    """Give the jobs that Snakemake is about to submit names that tell their run.

    Snakemake's own prefix can be set before the settings are read only, so by people and not by
    the run; and Snakemake asks for its jobs by their name, so it has to learn of it.

    Args:
        workflow: Snakemake's, in ``onstart``.
        run: The run's folder.
    """
    executor = workflow.scheduler._executor
    if type(executor).__module__ == _SLURM:
        executor.run_uuid = f"{job_prefix(run)}_{executor.run_uuid}"


def end_orphans(workflow: Workflow, run: Path, seconds: float = _SECONDS) -> None:
    """Cancel the jobs of a Snakemake that was killed: this one will submit them again.

    They are whole at any time, as all steps are, but would do the same work beside the new ones.
    Jobs of a Snakemake that may be alive are left alone: those that were submitted in another
    folder, and all of them unless Snakemake's lock says that it is the only one in this folder.

    Args:
        workflow: Snakemake's, in ``onstart``, before it names its own jobs and before the settings
            that the orphans read are written again.
        run: The run's folder.
        seconds: To wait until the jobs have ended.
    """
    executor = workflow.scheduler._executor
    if type(executor).__module__ != _SLURM:
        return
    log, prefix = executor.logger, job_prefix(run)
    try:
        orphans = _jobs(prefix)
        if not orphans:
            return
        listed = f"jobs of an earlier start of this run: {_some(orphans)}"
        if not _is_alone(workflow.persistence):
            log.warning(f"There are {listed}. They are left alone: their Snakemake may be alive.")
            return
        log.info(f"Cancelling {listed}")
        for first in range(0, len(orphans), _AT_ONCE):
            _command("scancel", *orphans[first : first + _AT_ONCE])
        deadline = time.monotonic() + seconds
        while left := sorted(set(orphans) & set(_jobs(prefix))):
            if time.monotonic() > deadline:
                log.warning(
                    f"Not ended within {seconds:.0f} s: {_some(left)}. Going on: their files are "
                    "whole, but their work is done twice."
                )
                return
            time.sleep(1)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()
        log.warning(
            f"SLURM does not say whether jobs of an earlier start of this run are left ({said}). "
            f"If Snakemake was killed: squeue --me, and scancel those named {prefix}_..."
        )


def _is_alone(persistence: Persistence) -> bool:
    """Whether Snakemake has locked the folder, and no other has or had.

    Locks of a Snakemake that was killed stay until ``--unlock``, by which people say that it is
    gone; and with ``--nolock`` nobody knows.
    """
    own = {Path(path).resolve() for path in getattr(persistence, "_lockfile", {}).values()}
    return bool(own) and own == {
        path.resolve() for path in (Path(persistence.path) / "locks").iterdir()
    }


def _jobs(prefix: str) -> list[str]:
    """Ids of this user's jobs in the queue that were submitted in this folder, by their name."""
    place = str(Path.cwd())
    told = _command("squeue", "--me", "--noheader", "--format=%A|%j|%Z")
    jobs = [line.split("|", 2) for line in told.splitlines()]
    return [job for job, name, folder in jobs if name.startswith(f"{prefix}_") and folder == place]


def _some(jobs: Sequence[str]) -> str:
    more = f" and {len(jobs) - 10} more" if len(jobs) > 10 else ""
    return ", ".join(jobs[:10]) + more


def _command(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=_SECONDS)
    return done.stdout
