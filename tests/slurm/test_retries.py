"""A job that asked for too little is submitted again with more; one that cannot be done is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.slurm.attempts import attempts
from tests.slurm.cluster import Cluster
from tests.slurm.steps import held, let_go, limited
from tests.slurm.workflow import Workflow, drafts, wait_for

WHOLE, BROKEN = "sheet=0722-1", "sheet=0722-2"

GROUP = ("class_proportions", "label_raster")
ASKED = (
    "--until", "label_raster",
    # As in `set-resources` of a profile.
    "--set-resources", *(f"{rule}:mem_mb=900*attempt" for rule in GROUP),
)  # fmt: skip
# Too little for the step itself at the first attempt.
LITTLE = ("--until", "index_values", "--set-resources", "index_values:mem_mb=250*attempt")


@dataclass(frozen=True)
class Ended:
    """Two runs, side by side, that have ended.

    Attributes:
        index: Its only job has too little memory.
        labels: Of two sheets: one whose first job has too little time, and one cut in half.
    """

    index: Workflow
    labels: Workflow


@pytest.fixture(scope="module")
def both(cluster: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    index = Workflow(tmp_path_factory.mktemp("memory"), cluster.environment)
    index.prepare(data, {"0722-1": "train"})
    labels = Workflow(tmp_path_factory.mktemp("retries"), cluster.environment)
    labels.prepare(data, {"0722-1": "train", "0722-2": "train"})
    photo, table = data / "0722-2.tif", labels.folder / "sheets.csv"
    cut = labels.folder / photo.name
    cut.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    table.write_text(table.read_text("utf-8").replace(str(photo), str(cut)), "utf-8")

    small, large = index.started(*LITTLE), labels.started(*ASKED)
    try:
        wait_for("a job of the whole sheet", lambda: bool(attempts(cluster, labels.folder, WHOLE)))
        job = attempts(cluster, labels.folder, WHOLE)[0].job
        held(job, "label-raster", lambda: True)
        limited(cluster, job, EndTime="now+1")  # SLURM looks every half minute
        assert large.wait(500) == 1, labels.said
        assert small.wait(300) == 0, index.said
    finally:
        let_go(small)
        let_go(large)
    return Ended(index, labels)


@pytest.fixture(scope="module")
def ended(both: Ended) -> Workflow:
    return both.labels


def test_too_little_memory_is_doubled_and_the_step_ends(both: Ended, cluster: Cluster) -> None:
    first, *others = attempts(cluster, both.index.folder, "index_values")
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
    # A group of two rules, one after the other, asks for the memory of one.
    assert [first.memory_mb, second.memory_mb] == [900, 1800]
    for name in ("0722-1.tif", "0722-1.polygons.tif", "0722-1.json"):
        assert (ended.run / "labels" / name).stat().st_size > 0


def test_a_broken_input_stops_its_jobs_with_its_message(ended: Workflow, cluster: Cluster) -> None:
    """The profile's two retries are spent: Snakemake cannot be told that more does not help."""
    jobs = attempts(cluster, ended.folder, BROKEN)
    assert [one.state for one in jobs] == ["FAILED"] * 3
    assert [one.memory_mb for one in jobs] == [900, 1800, 2700]
    said = ended.said
    assert f"orthophoto {ended.folder / '0722-2.tif'}: cannot be used.\n" in said
    assert "  is truncated: 12 of 20 blocks lie behind its end\n" in said
    assert "Error in group labels" in said


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
