"""Nodes that crash in the middle of a step, or are lost while their jobs run on."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import rasterio
from rasterio.windows import Window

from tests.slurm.cluster import Cluster
from tests.slurm.steps import is_step, without
from tests.slurm.workflow import (
    Workflow,
    change_settings,
    demo_run,
    drafts,
    kill_tree,
    same_files,
    wait_for,
)

WEIGHTS = tuple(
    f"models/demo/{name}" for name in ("best.safetensors", "card.json", "curves.csv", "curves.png")
)
"""What a training leaves that is the same each time."""
BEST, MAP = "run/demo/models/demo/best.safetensors", "run/demo/maps/0722-3.tif"


@dataclass(frozen=True)
class Step:
    """A step of the workflow that stands still in its middle.

    Attributes:
        process: The step itself.
        job: Id of the job that it runs in.
        node: Where that is.
    """

    process: psutil.Process
    job: str
    node: str


@pytest.fixture
def again(tmp_path: Path, local: Workflow, nodes: Cluster) -> Iterator[Workflow]:
    """A copy of the finished run, parts of which are made anew on the cluster."""
    shutil.copytree(local.folder, tmp_path, dirs_exist_ok=True)
    yield demo_run(tmp_path, nodes.environment)
    for process in _processes(tmp_path):
        with suppress(psutil.Error):
            process.kill()


def test_a_crash_in_labels_and_one_in_shards(
    again: Workflow, local: Workflow, nodes: Cluster
) -> None:
    for path in again.run.glob("labels/0722-1.*"):
        path.unlink()
    shutil.rmtree(again.run / "shards" / "0722-1.lmdb")
    snakemake = again.started("run/demo/shards/0722-1.lmdb")
    labels = caught(again, nodes, "label-raster", "labels/.*.tif.draft-*-{pid}-*.tif")
    assert not [*again.run.glob("labels/0722-1.*")]
    crash(nodes, labels)
    nodes.start_node(labels.node)

    shard = caught(again, nodes, "shard", "shards/.*.draft-*-{pid}-*/data.mdb")
    assert not [*again.run.glob("shards/.*.draft-*/manifest.json")]
    assert not (again.run / "shards" / "0722-1.lmdb").exists()
    crash(nodes, shard)

    ended(again, snakemake)
    same_files(local.run, again.run, "labels", "proportions", "tiles", "shards")
    assert not drafts(again.run)
    assert started_again(nodes, labels)
    assert started_again(nodes, shard)


def test_labels_of_a_lost_node_and_those_made_again_at_once(
    again: Workflow, local: Workflow, nodes: Cluster
) -> None:
    target = again.run / "labels" / "0722-1.tif"
    for path in target.parent.glob("0722-1.*"):
        path.unlink()
    snakemake = again.started(str(target.relative_to(again.folder)))
    lost = caught(again, nodes, "label-raster", "labels/.*.tif.draft-*-{pid}-*.tif")
    nodes.lose_node(lost.node)
    other = caught(again, nodes, "label-raster", "labels/.*.tif.draft-*-{pid}-*.tif", lost)
    assert (other.job, other.node) == (lost.job, the_other(nodes, lost.node))
    assert not target.exists()

    # The lost one ends while the other is in its middle.
    lost.process.resume()
    lost.process.wait(300)
    same_files(local.run, again.run, "labels/0722-1.tif")
    assert drafts(again.run)
    other.process.resume()
    ended(again, snakemake)
    same_files(local.run, again.run, "labels")
    assert not drafts(again.run)


def test_a_crash_in_training_and_one_in_a_map(
    again: Workflow, local: Workflow, nodes: Cluster
) -> None:
    for path in again.run.glob("maps/0722-3.*"):
        path.unlink()
    snakemake = training_anew(again, MAP)
    training = caught(again, nodes, "train", "models/demo/last.ckpt")
    assert not (again.folder / BEST).exists()
    crash(nodes, training)
    nodes.start_node(training.node)

    mapping = caught(again, nodes, "map-sheet", "maps/.0722-3.progress/*.confidence.000000.blocks")
    assert not [*again.run.glob("maps/0722-3.*")]
    crash(nodes, mapping)
    ended(again, snakemake)
    assert "going on after step" in said(again, "train/all")
    assert "going on behind row 512 of 900" in said(again, "map_sheet/0722-3")
    assert started_again(nodes, training)
    assert started_again(nodes, mapping)
    same_files(local.run, again.run, *WEIGHTS, "maps")
    assert not drafts(again.run)


def test_a_training_that_runs_on_beside_the_one_started_again(
    again: Workflow, local: Workflow, nodes: Cluster
) -> None:
    snakemake = training_anew(again, BEST)
    lost = caught(again, nodes, "train", "models/demo/last.ckpt")
    nodes.lose_node(lost.node)
    other = caught(again, nodes, "train", "models/demo/.last.ckpt.draft-*-{pid}-*", lost)
    assert (other.job, other.node) == (lost.job, the_other(nodes, lost.node))
    # Both train now, and each writes the checkpoint that the other has written.
    lost.process.resume()
    other.process.resume()
    lost.process.wait(300)
    ended(again, snakemake)
    same_files(local.run, again.run, *WEIGHTS)
    assert not drafts(again.run)


@pytest.mark.real_data
def test_a_real_map_whose_lost_copy_fails_after_the_workflow(
    whole: Workflow, shared_data: Path, nodes: Cluster, tmp_path: Path
) -> None:
    again = without(whole, tmp_path / "again", nodes, "maps")
    with rasterio.open(shared_data / "dubai" / "ortho" / "scene_6.tif") as scene:
        part = Window(0, 0, 700, 1100)
        profile = {
            "driver": "GTiff", "dtype": "uint8", "count": 3, "width": 700, "height": 1100,
            "crs": scene.crs, "transform": scene.transform, "tiled": True,
        }  # fmt: skip
        with rasterio.open(again.folder / "scene_6.tif", "w", **profile) as target:
            target.write(scene.read(window=part))
    with (again.folder / "sheets.csv").open("a", encoding="utf-8") as table:
        table.write(f"scene_6,{again.folder / 'scene_6.tif'},,map,2019\n")
    here = replace(again, profile=None)
    done = here.snakemake("run/small/maps/scene_6.tif")
    assert done.returncode == 0, done.stderr
    undisturbed = tmp_path / "undisturbed"
    for path in again.run.glob("maps/scene_6.*"):
        (undisturbed / "maps").mkdir(parents=True, exist_ok=True)
        path.rename(undisturbed / "maps" / path.name)
    shutil.rmtree(again.run / "maps")

    snakemake = again.started("run/small/maps/scene_6.tif")
    lost = caught(again, nodes, "map-sheet", "maps/.scene_6.progress/*.confidence.000000.blocks")
    nodes.lose_node(lost.node)
    ended(again, snakemake)
    same_files(undisturbed, again.run, "maps")
    assert started_again(nodes, lost)
    assert nodes.job(lost.job)["NodeList"] == the_other(nodes, lost.node)

    # A step that fails so late: its Snakemake takes nothing away that the other has made.
    lost.process.kill()
    wait_for("all of the lost job has ended", lambda: not [*_processes(again.folder)])
    same_files(undisturbed, again.run, "maps")
    assert not drafts(again.run)


def said(workflow: Workflow, log: str) -> str:
    """The log of a rule: ``train/all``, say."""
    return (workflow.run / "logs" / f"{log}.log").read_text("utf-8")


def training_anew(workflow: Workflow, target: str) -> subprocess.Popen[str]:
    """Start a training like that of the finished run, which saves after each step."""
    shutil.rmtree(workflow.run / "models")
    change_settings(workflow.folder / "short.yaml", {"training": {"checkpoint_minutes": 0.00001}})
    return workflow.started(target)


def caught(workflow: Workflow, cluster: Cluster, command: str, middle: str, *others: Step) -> Step:
    """Wait for a step, and make it stand still as soon as a file of its middle is there.

    Args:
        workflow: The run.
        cluster: Where it runs.
        command: The step's sub-command.
        middle: Pattern of the file below the run's folder; ``{pid}`` stands for the step's.
        others: Steps of this command that are known already.
    """
    known = {step.process.pid for step in others}
    found: list[psutil.Process] = []

    def runs() -> bool:
        for process in _processes(workflow.folder):
            with suppress(psutil.Error):
                if process.pid not in known and is_step(process, command):
                    found.append(process)
        return bool(found)

    wait_for(f"{command} runs", runs)
    process, deadline = found[0], time.monotonic() + 120
    pattern = middle.format(pid=process.pid)
    while not any(workflow.run.glob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} within two minutes"
        assert process.is_running(), f"{command} has ended before it was caught"
        time.sleep(0.002)
    process.suspend()
    assert any(workflow.run.glob(pattern))
    job = process.environ()["SLURM_JOB_ID"]
    return Step(process, job, cluster.job(job)["NodeList"])


def crash(cluster: Cluster, step: Step) -> None:
    """Crash the node of a step."""
    cluster.kill_node(step.node)
    assert not step.process.is_running()


def ended(workflow: Workflow, snakemake: subprocess.Popen[str]) -> None:
    """Wait until Snakemake has ended, and well."""
    try:
        assert snakemake.wait(400) == 0, workflow.said
    except subprocess.TimeoutExpired:
        kill_tree(snakemake)
        raise AssertionError(workflow.said) from None


def started_again(cluster: Cluster, step: Step) -> bool:
    """Whether the job of a step has ended well, one start later."""
    job = cluster.job(step.job)
    return (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")


def the_other(cluster: Cluster, node: str) -> str:
    """The other node of two."""
    (other,) = set(cluster.nodes) - {node}
    return other


def _processes(folder: Path) -> Iterator[psutil.Process]:
    """Processes that work in a folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(folder):
                yield process
