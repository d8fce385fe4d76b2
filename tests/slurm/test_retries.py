"""A job that asked for too little is submitted again with more; one that cannot be done is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.attempts import attempts
from tests.slurm.cluster import Cluster
from tests.slurm.steps import held
from tests.slurm.workflow import Workflow, drafts, wait_for

WHOLE, BROKEN = "sheet=0722-1", "sheet=0722-2"

ASKED = (
    "--until", "label_raster",
    # Too little for the step itself at the first attempt.
    "--set-resources", "index_values:mem_mb=250*attempt",
    # A job is a sheet's: one that fails takes no other with it.
    "--group-components", "labels=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def ended(cluster: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A run of two sheets: one whose first job has too little time, and one cut in half."""
    workflow = Workflow(tmp_path_factory.mktemp("retries"), cluster.environment)
    workflow.prepare(data, {"0722-1": "train", "0722-2": "train"})
    photo, table = data / "0722-2.tif", workflow.folder / "sheets.csv"
    cut = workflow.folder / photo.name
    cut.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    table.write_text(table.read_text("utf-8").replace(str(photo), str(cut)), "utf-8")

    process = workflow.started(*ASKED)
    try:
        wait_for(
            "a job of the whole sheet", lambda: bool(attempts(cluster, workflow.folder, WHOLE))
        )
        job = attempts(cluster, workflow.folder, WHOLE)[0].job
        held(job, "label-raster", lambda: True)
        # SLURM looks every half minute.
        cluster.run("scontrol", "update", f"JobId={job}", "EndTime=now+1")
        assert process.wait(500) == 1
    finally:
        process.kill()
        process.wait()
    return workflow


def test_too_little_memory_is_doubled_and_the_step_ends(ended: Workflow, cluster: Cluster) -> None:
    first, *others = attempts(cluster, ended.folder, "index_values")
    # SLURM kills the step; the job fails because of it.
    assert "OUT_OF_MEMORY" in first.steps
    assert first.state in ("FAILED", "OUT_OF_MEMORY")
    assert others[-1].state == "COMPLETED"
    memory = [one.memory_mb for one in (first, *others)]
    assert memory == [250, 500, 750][: len(memory)]


def test_too_little_time_is_doubled_and_the_job_ends(ended: Workflow, cluster: Cluster) -> None:
    first, second = attempts(cluster, ended.folder, WHOLE)
    assert (first.state, second.state) == ("TIMEOUT", "COMPLETED")
    assert second.minutes == 2 * first.minutes
    assert second.memory_mb == 2 * first.memory_mb
    for name in ("0722-1.tif", "0722-1.polygons.tif", "0722-1.json"):
        assert (ended.run / "labels" / name).stat().st_size > 0


def test_a_broken_input_stops_its_jobs_with_its_message(ended: Workflow, cluster: Cluster) -> None:
    """The profile's two retries are spent: Snakemake cannot be told that more does not help."""
    jobs = attempts(cluster, ended.folder, BROKEN)
    assert [one.state for one in jobs] == ["FAILED"] * 3
    said = ended.said
    assert f"orthophoto {ended.folder / '0722-2.tif'}: cannot be used.\n" in said
    assert "  is truncated: 12 of 20 blocks lie behind its end\n" in said
    assert "Error in group labels" in said or "Error in rule class_proportions" in said


def test_nothing_stands_on_what_failed_and_nothing_is_half_written(ended: Workflow) -> None:
    assert not (ended.run / "proportions" / "0722-2.parquet").exists()
    assert not list((ended.run / "labels").glob("0722-2*"))
    assert not drafts(ended.run)


def test_the_failed_sheet_alone_is_left_to_do(ended: Workflow) -> None:
    done = ended.snakemake(*ASKED, "--dry-run", "--quiet", "host")
    counts = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
    assert {name: counts.get(name) for name in ("class_proportions", "label_raster", "total")} == {
        "class_proportions": "1", "label_raster": "1", "total": "2",
    }  # fmt: skip
