"""Steps of a run as tests interrupt them: begun, held in the middle, and compared with others."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil

from pipeline import config, stages
from tests.slurm.attempts import states
from tests.slurm.cluster import Cluster
from tests.slurm.workflow import Workflow, kill_tree, make_data, wait_for

SPLITS = {"0722-1": "train", "0722-2": "validation", "0722-3": "test"}

TRAINING = {
    "network": "enet",
    "encoder": "enet",
    "epochs": None,
    "iterations": 16,
    "validate_every": 4,
    "batch_size": 2,
}
"""Three places, besides the end, where a training can be found by its curves."""

MAPPING = {"window_px": 128, "overlap_px": 64}
"""Of many small windows, so that there is time behind the first row of blocks."""

ONE_THREAD = ("--set-threads", "train=1", "map_sheet=1")
"""What Snakemake is told: sums of floats depend on how many threads share them."""

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def whole_run(folder: Path, sheet_px: tuple[int, int]) -> None:
    """Three sheets from nothing to the maps of two, without Snakemake, SLURM and interruptions."""
    alone = Workflow(folder, {**os.environ, **_ONE_THREAD}, profile=None)
    data = make_data(folder / "data", sheet_px)
    alone.prepare(data, SPLITS, training=TRAINING, mapping=MAPPING)
    make_shards(alone, SPLITS)
    settings = "run/small/settings.yaml"
    command(alone, "train", "--config", settings)
    for sheet in ("0722-1", "0722-2"):
        command(alone, "map-sheet", "--config", settings, "--sheet", sheet)


def make_shards(workflow: Workflow, sheets: Iterable[str]) -> None:
    """Take a run that has its settings as far as its shards, without Snakemake."""
    with contextlib.chdir(workflow.folder):
        run = stages.Run(config.load(Path("run.yaml")))
        config.claim(run.settings)
        make_labels(run, sheets)
        stages.tile_plan(run)
        for sheet in sheets:
            stages.shard(run, sheet)


def make_labels(run: stages.Run, sheets: Iterable[str]) -> None:
    """Make the label rasters of some sheets, without Snakemake."""
    for sheet in sheets:
        stages.class_proportions(run, sheet)
        stages.label_raster(run, sheet)


def command(workflow: Workflow, *arguments: str) -> None:
    """Run a sub-command in a workflow's folder."""
    words = [sys.executable, "-m", "pipeline", *arguments]
    done = subprocess.run(
        words, cwd=workflow.folder, env=workflow.environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def without(whole: Workflow, folder: Path, cluster: Cluster, *parts: str) -> Workflow:
    """A copy of a run, on a cluster, that lacks some of its folders."""
    shutil.copytree(whole.folder, folder)
    copied = replace(
        whole, folder=folder, environment={**cluster.environment, **_ONE_THREAD},
        profile=Workflow(folder).profile,
    )  # fmt: skip
    for part in parts:
        shutil.rmtree(copied.run / part)
    return copied


def running(cluster: Cluster, but: tuple[str, ...] = ()) -> str:
    """The one job that runs; waits for it.

    Args:
        cluster: The cluster.
        but: Jobs that are not looked for.
    """
    found: list[str] = []

    def begun() -> bool:
        found[:] = [job for job in cluster.jobs("RUNNING") if job not in but]
        return len(found) == 1

    wait_for("a job runs", begun, 120)
    return found[0]


def steps(job: str, name: str) -> Iterator[psutil.Process]:
    """Processes of a job that run a sub-command."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if is_step(process, name) and process.environ().get("SLURM_JOB_ID") == job:
                yield process


def is_step(process: psutil.Process, name: str) -> bool:
    """Whether a process runs a sub-command, and is not one that it has forked.

    Raises:
        psutil.Error: If the process has ended.
    """
    words = process.cmdline()
    if words[1:3] != ["-m", "pipeline"] or name not in words:
        return False
    parent = process.parent()
    return parent is None or parent.cmdline() != words


def held(job: str, name: str, reached: Callable[[], bool]) -> psutil.Process:
    """Stop a step of a job when it has come so far: SLURM has all its time to act then.

    Args:
        job: The job.
        name: The step's sub-command.
        reached: Whether it has come so far.
    """
    found: list[psutil.Process] = []

    def so_far() -> bool:
        # In this order: looking through all processes takes what the step could use.
        found[:] = [*steps(job, name)] if reached() else []
        return bool(found)

    wait_for(f"{name} of job {job} has come so far", so_far, 200)
    found[0].suspend()
    return found[0]


def resumed(step: psutil.Process, number: signal.Signals) -> None:
    """Let a step that was stopped run again when SLURM's signal has reached it."""
    wait_for(f"{number.name} reaches the step", lambda: is_warned(step, number), 70)
    step.resume()


def is_warned(process: psutil.Process, number: signal.Signals) -> bool:
    """Whether a signal waits for a process that is stopped."""
    told = Path(f"/proc/{process.pid}/status").read_text("utf-8")
    waiting = [int(line.split()[1], 16) for line in told.splitlines() if "Pnd:" in line]
    return any(mask >> (number - 1) & 1 for mask in waiting)


def restarts(cluster: Cluster, job: str) -> int:
    """How often a job has been started again."""
    return int(cluster.job(job)["Restarts"])


def started_again(cluster: Cluster, job: str, times: int) -> None:
    """Wait until a job runs for the next time."""

    def runs() -> bool:
        known = cluster.job(job)
        return known["JobState"] == "RUNNING" and known["Restarts"] == str(times)

    wait_for(f"job {job} runs again", runs, 120)


def validations(run: Path) -> int:
    """How often a run's training has validated, as far as it has told."""
    curves = run / "models" / "small" / "curves.csv"
    try:
        return len(curves.read_text("utf-8").splitlines()) - 1
    except FileNotFoundError:
        return 0


def went(cluster: Cluster, job: str, *expected: str) -> None:
    """Assert how the starts of a job ended; the accounting may learn of it a little later."""
    with contextlib.suppress(AssertionError):
        wait_for("the accounting knows", lambda: states(cluster, job) == [*expected], 20)
    assert states(cluster, job) == [*expected]


def limited(cluster: Cluster, job: str, **changes: str) -> None:
    """Change a job: its ``EndTime``, ``TimeLimit``..."""
    cluster.run("scontrol", "update", f"JobId={job}", *(f"{k}={v}" for k, v in changes.items()))


def let_go(snakemake: subprocess.Popen[str]) -> None:
    """End a Snakemake that has not ended."""
    if snakemake.poll() is None:
        kill_tree(snakemake)


def preempt(cluster: Cluster, job: str) -> None:
    """Take a job's node for another one of a higher priority, for a moment."""
    node = cluster.job(job)["NodeList"]
    cluster.run(
        "sbatch", "--partition=urgent", f"--nodelist={node}", "--exclusive", "--output=/dev/null",
        "--job-name=urgent", "--wrap=true",
    )  # fmt: skip
