"""Time limits and preemption: what SLURM ends goes on, to the same bytes."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.slurm.attempts import states
from tests.slurm.cluster import Cluster
from tests.slurm.steps import (
    ONE_THREAD,
    held,
    let_go,
    limited,
    preempt,
    restarts,
    resumed,
    running,
    started_again,
    validations,
    went,
    without,
)
from tests.slurm.workflow import (
    PROFILE,
    Workflow,
    change_settings,
    drafts,
    same_files,
    wait_for,
)

BEST = "run/small/models/small/best.safetensors"
MODEL = tuple(f"models/small/{name}" for name in ("best.safetensors", "card.json", "curves.csv"))
ENDS = (".tif", ".tif.aux.xml", ".qml", ".confidence.tif", ".confidence.qml")
MAP = tuple(f"maps/0722-1{end}" for end in ENDS)


def changed(folder: Path, lines: Mapping[str, str]) -> Path:
    """The shipped profile with some lines changed, and time for a second training.

    A partition's longest job is of a day, which is what a first one asks for.
    """
    text = (PROFILE / "config.yaml").read_text("utf-8")
    shorter = {"  train:\n": "  train:\n    runtime: 60 * attempt\n"}
    for line, other in {**shorter, **lines}.items():
        assert text.count(line) == 1
        text = text.replace(line, other)
    profile = folder / "profile" / "config.yaml"
    profile.parent.mkdir()
    profile.write_text(text, "utf-8")
    return profile.parent


def test_a_training_that_is_warned_then_preempted_then_out_of_time_ends_with_the_same_bytes(
    nodes: Cluster, whole: Workflow, tmp_path: Path
) -> None:
    workflow = without(whole, tmp_path / "w", nodes, "models", "maps")
    # As most trainings have it: SLURM's signals reach the processes that read tiles, too.
    change_settings(workflow.folder / "run.yaml", {"training": {"workers": 1}})
    workflow.profile = changed(tmp_path, {})
    snakemake = workflow.started(BEST, *ONE_THREAD)
    try:
        job = running(nodes)
        # SLURM's own warning, as the profile asks for it: two minutes before the limit.
        step = held(job, "train", lambda: validations(workflow.run) >= 1)
        limited(nodes, job, EndTime="now+100seconds")
        resumed(step, signal.SIGUSR1)
        wait_for("the job is requeued", lambda: restarts(nodes, job) == 1, 60)
        limited(nodes, job, TimeLimit="60")
        started_again(nodes, job, 1)

        step = held(job, "train", lambda: validations(workflow.run) >= 2)
        preempt(nodes, job)
        resumed(step, signal.SIGTERM)
        started_again(nodes, job, 2)

        step = held(job, "train", lambda: validations(workflow.run) >= 3)
        limited(nodes, job, EndTime="now")
        resumed(step, signal.SIGTERM)
        wait_for("the job is out of time", lambda: states(nodes, job)[-1:] == ["TIMEOUT"], 90)
        retry = running(nodes, but=(job,))
        assert snakemake.wait(200) == 0, workflow.said
    finally:
        let_go(snakemake)
    # Requeued twice, though the step had failed; out of time, it is Snakemake that tries again.
    went(nodes, job, "REQUEUED", "REQUEUED", "TIMEOUT")
    went(nodes, retry, "COMPLETED")
    same_files(whole.run, workflow.run, *MODEL)
    assert not drafts(workflow.run)


def test_a_map_that_is_warned_then_preempted_then_out_of_time_ends_with_the_same_bytes(
    nodes: Cluster, whole: Workflow, tmp_path: Path
) -> None:
    workflow = without(whole, tmp_path / "w", nodes, "maps")
    progress = workflow.run / "maps" / ".0722-1.progress"
    log = workflow.run / "logs" / "map_sheet" / "0722-1.log"

    def stored() -> bool:
        # Both rasters of the first row of blocks.
        return len([p for p in progress.glob("*.000000.blocks") if p.name[0] != "."]) == 2

    def goes_on(before: psutil.Process) -> bool:
        told = log.read_text("utf-8") if log.exists() else ""
        return not before.is_running() and "going on behind row 512 of 704" in told

    snakemake = workflow.started("run/small/maps/0722-1.tif", *ONE_THREAD)
    try:
        job = running(nodes)
        step = held(job, "map-sheet", stored)
        nodes.run("scancel", "--signal=USR1", job)
        resumed(step, signal.SIGUSR1)
        wait_for("the job is requeued", lambda: restarts(nodes, job) == 1, 60)
        limited(nodes, job, TimeLimit="60")
        started_again(nodes, job, 1)

        again = held(job, "map-sheet", lambda: goes_on(step))
        preempt(nodes, job)
        resumed(again, signal.SIGTERM)
        started_again(nodes, job, 2)

        last = held(job, "map-sheet", lambda: goes_on(again))
        limited(nodes, job, EndTime="now")
        resumed(last, signal.SIGTERM)
        wait_for("the job is out of time", lambda: states(nodes, job)[-1:] == ["TIMEOUT"], 90)
        retry = running(nodes, but=(job,))
        assert snakemake.wait(200) == 0, workflow.said
    finally:
        let_go(snakemake)
    went(nodes, job, "REQUEUED", "REQUEUED", "TIMEOUT")
    went(nodes, retry, "COMPLETED")
    assert "going on behind row 512 of 704" in log.read_text("utf-8")
    same_files(whole.run, workflow.run, *MAP)
    assert not drafts(workflow.run)
    assert not progress.exists()


def test_where_no_job_may_be_requeued_snakemake_submits_what_goes_on(
    nodes: Cluster, whole: Workflow, tmp_path: Path
) -> None:
    workflow = without(whole, tmp_path / "w", nodes, "models", "maps")
    workflow.profile = changed(tmp_path, {"slurm-requeue: true": "slurm-no-requeue: true"})
    snakemake = workflow.started(BEST, *ONE_THREAD)
    try:
        job = running(nodes)
        step = held(job, "train", lambda: validations(workflow.run) >= 2)
        nodes.run("scancel", "--signal=USR1", job)
        resumed(step, signal.SIGUSR1)
        retry = running(nodes, but=(job,))
        assert snakemake.wait(200) == 0, workflow.said
    finally:
        let_go(snakemake)
    went(nodes, job, "FAILED")
    went(nodes, retry, "COMPLETED")
    assert f"SLURM did not requeue job {job}" in workflow.said
    same_files(whole.run, workflow.run, *MODEL)
