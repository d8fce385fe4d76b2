"""Snakemake itself ends before its jobs do: the next start goes on, and nothing is done twice."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

import pytest

from pipeline import config, stages
from pipeline.slurm_runs import job_prefix
from tests.slurm.attempts import attempts
from tests.slurm.cluster import Cluster
from tests.slurm.steps import held, make_labels
from tests.slurm.workflow import Workflow, drafts, kill_tree, wait_for

SHEETS = ("0722-1", "0722-2")
LABELS = ("--until", "label_raster")
"""Two jobs, one a sheet, that wait for one job."""


@pytest.fixture
def workflow(nodes: Cluster, data: Path, tmp_path: Path) -> Workflow:
    made = Workflow(tmp_path / "here", nodes.environment)
    made.prepare(data, dict.fromkeys(SHEETS, "train"))
    return made


def test_a_killed_snakemake_goes_on_and_does_nothing_twice(
    nodes: Cluster, workflow: Workflow, data: Path, tmp_path: Path
) -> None:
    first = workflow.started(*LABELS)
    try:
        wait_for("a job of either sheet", lambda: len(_jobs(nodes, workflow, "sheet=")) == 2)
        orphan = _jobs(nodes, workflow, "sheet=0722-2")[0]
        held(orphan, "class-proportions", lambda: True)
    finally:
        kill_tree(first)
    # One job ends after the kill, the other one never would.
    wait_for("the other job ends", lambda: nodes.jobs("PENDING", "RUNNING") == [orphan])
    done = _files(workflow.run, "siose/*.arrow", "*/0722-1.*")
    assert len(done) >= 5
    before = {path: (workflow.run / path).stat().st_mtime_ns for path in done}
    killed = _starts(workflow)
    assert len(killed) == 1

    locked = workflow.snakemake(*LABELS)
    assert locked.returncode == 1
    assert "--unlock" in locked.stdout + locked.stderr
    assert nodes.jobs("PENDING", "RUNNING") == [orphan]
    assert workflow.snakemake(*LABELS, "--unlock").returncode == 0
    again = workflow.snakemake(*LABELS)
    said = again.stdout + again.stderr
    assert again.returncode == 0, said

    assert said.count(f"Cancelling jobs of an earlier start of this run: {orphan}\n") >= 1
    assert _states(nodes, workflow, "index_values") == ["COMPLETED"]
    assert _states(nodes, workflow, "sheet=0722-1") == ["COMPLETED"]
    assert _states(nodes, workflow, "sheet=0722-2") == ["CANCELLED", "COMPLETED"]
    assert {path: (workflow.run / path).stat().st_mtime_ns for path in done} == before
    names = [one.name for one in attempts(nodes, workflow.folder)]
    assert {name.split("_")[0] for name in names} == {job_prefix(workflow.run)}
    assert len(set(names)) == 2  # starts of Snakemake
    assert not killed & _starts(workflow)

    # Of what ended without Snakemake, nobody has noted the settings.
    forced = re.findall("--forcerun (.+)", said)[0].split()
    assert {Path(path).name.split(".")[0] for path in forced} == {"0722-1"}
    once_more = workflow.snakemake("--until", "label_raster", "--forcerun", *forced, "--dry-run")
    assert "missing metadata" not in once_more.stdout + once_more.stderr

    alone = _labels_alone(tmp_path / "alone", data)
    expected = _files(alone, "proportions/*", "labels/*")
    assert len(expected) >= 8
    assert _files(workflow.run, "proportions/*", "labels/*") == expected
    assert not drafts(workflow.run)


def test_ctrl_c_takes_its_jobs_and_its_locks_along(nodes: Cluster, workflow: Workflow) -> None:
    locks = workflow.folder / ".snakemake" / "locks"
    snakemake = workflow.started("--until", "index_values")
    try:
        wait_for("the job runs", lambda: bool(nodes.jobs("RUNNING")))
        held(nodes.jobs("RUNNING")[0], "index-values", lambda: True)
        assert [*locks.iterdir()]
        snakemake.send_signal(signal.SIGINT)
        assert snakemake.wait(60) == 1
    finally:
        snakemake.kill()
    wait_for("the queue is empty", lambda: not nodes.jobs(), 30)
    ended = ["CANCELLED"]
    wait_for("the accounts", lambda: _states(nodes, workflow, "index_values") == ended, 30)
    assert not _files(workflow.run, "siose/*")
    assert not [*locks.glob("*")]


def test_a_living_snakemake_keeps_its_jobs_without_its_locks_and_waits_for_them_on_sigterm(
    nodes: Cluster, workflow: Workflow
) -> None:
    index = ("--until", "index_values")
    first = workflow.started(*index)
    try:
        wait_for("the job runs", lambda: bool(nodes.jobs("RUNNING")))
        [job] = nodes.jobs("RUNNING")
        step = held(job, "index-values", lambda: True)
        # Whatever ends in the folder removes everybody's locks.
        assert workflow.snakemake("--unlock").returncode == 0
        second = workflow.snakemake(*index)
        assert second.returncode == 0, second.stderr
        assert "Cancelling" not in second.stdout + second.stderr
        assert nodes.jobs("RUNNING") == [job]
        first.send_signal(signal.SIGTERM)
        told = "Will exit after finishing currently running jobs"
        wait_for("it is heard", lambda: told in workflow.said, 30)
        assert nodes.jobs("RUNNING") == [job]
        assert first.poll() is None
        step.resume()
        assert first.wait(120) == 1, workflow.said
    finally:
        first.kill()
    assert nodes.jobs() == []
    ended = ["COMPLETED", "COMPLETED"]
    wait_for("the accounts", lambda: _states(nodes, workflow, "index_values") == ended, 30)
    assert len(_files(workflow.run, "siose/*.arrow")) == 1
    assert not drafts(workflow.run)
    left = workflow.snakemake(*index, "--dry-run")
    assert left.returncode == 0
    assert "rule index_values:" not in left.stdout + left.stderr


def _starts(workflow: Workflow) -> set[str]:
    return {path.name for path in (workflow.run / ".starts").iterdir()}


def _jobs(cluster: Cluster, workflow: Workflow, of: str) -> list[str]:
    return [one.job for one in attempts(cluster, workflow.folder, of)]


def _states(cluster: Cluster, workflow: Workflow, of: str) -> list[str]:
    return [one.state for one in attempts(cluster, workflow.folder, of)]


def _files(run: Path, *patterns: str) -> dict[str, bytes]:
    found = [path for pattern in patterns for path in run.glob(pattern) if path.is_file()]
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(found)}


def _labels_alone(folder: Path, data: Path) -> Path:
    """The same labels without Snakemake, SLURM and interruptions."""
    alone = Workflow(folder, profile=None)
    alone.prepare(data, dict.fromkeys(SHEETS, "train"))
    with contextlib.chdir(folder):
        run = stages.Run(config.load(Path("run.yaml")))
        config.claim(run.settings)
        make_labels(run, SHEETS)
    return alone.run
