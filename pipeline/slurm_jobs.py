"""A dask cluster whose workers are jobs of SLURM."""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import dask
from distributed import Status
from distributed.deploy import Cluster

from pipeline.errors import SettingsError, TeselaError

log = logging.getLogger(__name__)

CLOSE = 30.0
"""Seconds to wait for the cluster to end; its jobs are cancelled before that."""

_REMEDY = (
    "Partition, account, cores, memory and time of a job come from dask's configuration: edit "
    "slurm/dask/jobqueue.yaml and set DASK_CONFIG=slurm/dask."
)


@dataclass(frozen=True)
class SlurmJobs:
    """Jobs that were submitted.

    Attributes:
        cluster: The dask cluster that they belong to.
        slots: Tasks that they run at once when all of them run.
        ids: Their ids.
        name: Their name; empty for that of dask's configuration.
    """

    cluster: Cluster
    slots: int
    ids: Sequence[str]
    name: str = ""

    def hope(self, seconds: float) -> str:
        """What is waited for while no job has a worker; a queue may be long.

        Raises:
            TeselaError: If none of the jobs is in the queue any more.
        """
        answer = subprocess.run(
            ["squeue", "--me", "--noheader", "--format=%i %T %r"],
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode:  # a controller that restarts is no reason to give up
            return f"squeue ({answer.stderr.strip()})"
        jobs = [line for line in answer.stdout.splitlines() if line.split()[0] in self.ids]
        if jobs:
            return f"a worker since {seconds:.0f} s; jobs: {', '.join(jobs)}"
        raise TeselaError(
            "tiling.dask: slurm: all jobs of the step have ended, and it has not.",
            [f"job {job}: {_last_words(job, self.name)}" for job in self.ids],
            "They ran out of time or memory, or their nodes do not reach this one "
            f"({self.cluster.scheduler_address}; `interface` chooses the network). {_REMEDY}",
        )


@contextmanager
def slurm_jobs(jobs: int, name: str = "") -> Iterator[SlurmJobs]:
    """Submit jobs that are dask workers of a scheduler in this process; cancel them at the end.

    Args:
        jobs: Number of jobs; what each asks for is in dask's configuration, ``jobqueue.slurm``.
        name: Their name; empty for that of dask's configuration.

    Raises:
        SettingsError: If this machine cannot submit jobs, or SLURM refuses all of them.
    """
    missing = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
    if missing:
        raise SettingsError(
            f"tiling.dask: slurm, but this machine has no {', '.join(missing)}.",
            remedy="Start it on a login node of the cluster, or choose threads, processes or the "
            "address of a dask scheduler.",
        )
    ids: list[str] = []
    refused: list[str] = []
    cluster = _cluster(ids, refused, name)
    try:
        cluster.scale(jobs=jobs)
        while len(ids) + len(refused) < jobs:
            time.sleep(0.05)
        if not ids:
            raise SettingsError(
                "tiling.dask: SLURM takes none of the jobs.", dict.fromkeys(refused), _REMEDY
            )
        if refused:
            log.warning("SLURM takes %d of %d jobs: %s", len(ids), jobs, refused[0])
        log.info("jobs of SLURM: %s", ", ".join(ids))
        slots = len(ids) * int(dask.config.get("jobqueue.slurm.cores"))
        yield SlurmJobs(cluster, slots, ids, name)
    finally:
        # First of all, and without dask: after SIGTERM there may be few seconds left.
        if ids:
            subprocess.run(["scancel", *ids], capture_output=True, check=False)
        with suppress(TimeoutError):
            cluster.close(timeout=CLOSE)


def _cluster(ids: list[str], refused: list[str], name: str) -> Cluster:
    """A cluster without jobs; those it submits tell their ids, or why they were refused."""
    # The import makes Ctrl-C exit with 0, wherever the process is.
    interrupted = signal.getsignal(signal.SIGINT)
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob

    signal.signal(signal.SIGINT, interrupted)

    class Job(SLURMJob):  # type: ignore[misc]
        async def start(self) -> None:
            try:
                await super().start()
            except (OSError, RuntimeError, ValueError) as error:
                # Raised, it would only be logged, and nobody would stop waiting.
                refused.append(_reason(str(error)))
                self.status = Status.running
            else:
                ids.append(self.job_id)

    asked = dask.config.get("jobqueue.slurm")
    lacking = [f"jobqueue.slurm.{name}" for name in ("cores", "memory") if not asked.get(name)]
    if lacking:
        raise SettingsError("tiling.dask: slurm: how large is a job?", lacking, _REMEDY)
    # No dashboard: its port is taken by whoever came first to a login node.
    options = {"dashboard": False, "dashboard_address": ":0"} | (
        dask.config.get("jobqueue.slurm.scheduler-options", None) or {}
    )
    try:
        return SLURMCluster(
            job_cls=Job,
            job_name=name or None,
            scheduler_options=options,
            silence_logs=logging.CRITICAL,
        )
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise SettingsError(
            "tiling.dask: slurm: dask's configuration cannot be used.",
            [str(error).splitlines()[0]],
            _REMEDY,
        ) from error


def _reason(message: str) -> str:
    """What sbatch says, out of what dask-jobqueue says about it."""
    lines = message.rpartition("stderr:\n")[2].strip().splitlines()
    return "; ".join(line.removeprefix("sbatch: error: ") for line in lines)


def _last_words(job: str, name: str) -> str:
    """The last line of a job's output, and its file."""
    folder = dask.config.get("jobqueue.slurm.log-directory")
    name = name or dask.config.get("jobqueue.slurm.name")
    path = Path(folder) / f"{name}-{job}.err" if folder else Path(f"slurm-{job}.out")
    if not path.is_file():
        return "left no output"
    lines = [line for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
    return f"{path}: {lines[-1].strip() if lines else 'empty'}"
