"""Jobs of SLURM that belong to a run: they share the beginning of their names."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pipeline.heartbeats import has_ended, this_process
from pipeline.paths import RunPaths
from pipeline.publication import write_text
from pipeline.slurm_states import read_all
from pipeline.snakemake_start import Workflow

TILES = "-tiles"
"""What the names of a run's jobs for ``tiling.dask: slurm`` end with. They are of no start of
Snakemake and end with their step: none waits for them, and none has to cancel them."""

_SLURM = "snakemake_executor_plugin_slurm"
_SECONDS = 60.0
_HERE = ("host", "processes")
_FAILURES = (OSError, subprocess.SubprocessError)


def job_prefix(run: Path) -> str:
    """What the names of all SLURM jobs of a run begin with, over all starts of Snakemake.

    Args:
        run: The run's folder.

    Returns:
        Such as ``tesela-1a2b3c4d``.
    """
    place = hashlib.blake2b(str(run.resolve()).encode(), digest_size=4).hexdigest()
    return f"tesela-{place}"


def tile_jobs(run: Path) -> str:
    """Name of the jobs that cut the tiles of a run's sheets.

    Args:
        run: The run's folder.

    Returns:
        Such as ``tesela-1a2b3c4d-tiles``.
    """
    return f"{job_prefix(run)}{TILES}"


def begin(workflow: Workflow, run: Path) -> None:
    """Give the jobs that Snakemake is about to submit names that tell their run and this start.

    Snakemake's own prefix can be set before the settings are read only, so by people and not by
    the run; and Snakemake asks for its jobs by their name, so it has to learn of it. Before any
    job bears the name, a file in the run's folder tells which process submits under it.

    Args:
        workflow: Snakemake's, in ``onstart``.
        run: The run's folder.

    Raises:
        OutputError: If the file cannot be written.
        SettingsError: If the executor is of a version whose jobs cannot be followed.
    """
    executor = workflow.scheduler._executor
    if type(executor).__module__ == _SLURM:
        read_all(executor)
        write_text(RunPaths(run).start(executor.run_uuid), json.dumps(this_process()))
        executor.run_uuid = f"{job_prefix(run)}_{executor.run_uuid}"


def finish(workflow: Workflow, run: Path) -> None:
    """Remove this start's file, unless jobs are left.

    Some are after Ctrl-C: those that end, and those that were being submitted.

    Args:
        workflow: Snakemake's, in ``onsuccess`` or ``onerror``.
        run: The run's folder.
    """
    executor = workflow.scheduler._executor
    if type(executor).__module__ != _SLURM:
        return
    start = executor.run_uuid.removeprefix(f"{job_prefix(run)}_")
    try:
        if start in _jobs(job_prefix(run)):
            return
    except _FAILURES:
        return  # jobs may be left: the next start asks again, and says so if it cannot
    RunPaths(run).start(start).unlink(missing_ok=True)


def end_orphans(workflow: Workflow, run: Path, seconds: float = _SECONDS) -> None:
    """Cancel the jobs of a Snakemake that was killed: this one will submit them again.

    They are whole at any time, as all steps are, but would do the same work beside the new ones.
    Only those are cancelled whose Snakemake was a process of this machine that has ended; those of
    a start of which this cannot be told are named in a warning. (Snakemake's locks do not tell:
    each start that ends removes those of all others.)

    Args:
        workflow: Snakemake's, in ``onstart``, before it names its own jobs and before the settings
            that the orphans read are written again.
        run: The run's folder.
        seconds: To wait until the jobs have ended.
    """
    executor = workflow.scheduler._executor
    if type(executor).__module__ != _SLURM:
        return
    log, prefix, files = executor.logger, job_prefix(run), _files(run)
    try:
        jobs = _jobs(prefix)
        states = {start: _state(files.get(start)) for start in files.keys() | jobs.keys()}
        _name(log, prefix, {start: jobs[start] for start in jobs if states[start] == "unknown"})
        orphans = {start: jobs[start] for start in jobs if states[start] == "ended"}
        left = _cancel(log, prefix, orphans, seconds) if orphans else set()
    except _FAILURES as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()
        log.warning(
            f"SLURM does not say whether jobs of an earlier start of this run are left ({said}). "
            f"If Snakemake was killed: squeue --me, and scancel those named {prefix}_..."
        )
        return
    for start, state in states.items():
        if state == "ended" and start not in left:
            files[start].unlink(missing_ok=True)


def _files(run: Path) -> dict[str, Path]:
    folder = RunPaths(run).start("any").parent
    found = folder.iterdir() if folder.is_dir() else ()
    return {file.name: file for file in found if not file.name.startswith(".")}  # no drafts


def _state(file: Path | None) -> Literal["at work", "ended", "unknown"]:
    """What has become of the Snakemake of a start."""
    if file is None:
        return "unknown"
    try:
        process = json.loads(file.read_text("utf-8"))
        if has_ended(process):
            return "ended"
        me = this_process()
        return "at work" if all(process[key] == me[key] for key in _HERE) else "unknown"
    except (OSError, ValueError, KeyError, TypeError):  # removed meanwhile, damaged, or another's
        return "unknown"


def _name(log: logging.Logger, prefix: str, jobs: Mapping[str, list[str]]) -> None:
    if jobs:
        commands = " && ".join(f"scancel --name={prefix}_{start}" for start in sorted(jobs))
        log.warning(
            f"Jobs of another start of this run are left alone: {_some(jobs)}. Nothing on this "
            "machine tells whether their Snakemake has ended. If it has, cancel them, or their "
            f"work is done twice: {commands}"
        )


def _cancel(
    log: logging.Logger, prefix: str, orphans: Mapping[str, list[str]], seconds: float
) -> set[str]:
    """Cancel the jobs of these starts; returns the starts that have jobs still."""
    log.info(f"Cancelling jobs of an earlier start of this run: {_some(orphans)}")
    for start in sorted(orphans):
        _command("scancel", f"--name={prefix}_{start}")
    deadline = time.monotonic() + seconds
    while left := {start: ids for start, ids in _jobs(prefix).items() if start in orphans}:
        if time.monotonic() > deadline:
            log.warning(
                f"Not ended within {seconds:.0f} s: {_some(left)}. Going on: their files are "
                "whole, but their work is done twice."
            )
            break
        time.sleep(1)
    return set(left)


def _jobs(prefix: str) -> dict[str, list[str]]:
    """Ids of this user's jobs of a run in the queue, those of each start, by their names."""
    told = _command("squeue", "--me", "--noheader", "--format=%A|%j")
    jobs: dict[str, list[str]] = {}
    for line in told.splitlines():
        job, name = line.split("|", 1)
        if name.startswith(f"{prefix}_"):
            jobs.setdefault(name.removeprefix(f"{prefix}_"), []).append(job)
    return jobs


def _some(jobs: Mapping[str, Iterable[str]]) -> str:
    ids = sorted((job for start in jobs.values() for job in start), key=int)
    more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    return ", ".join(ids[:10]) + more


def _command(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=_SECONDS)
    return done.stdout
