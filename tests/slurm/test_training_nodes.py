"""Training by several processes: on two nodes, interrupted there, and on the GPUs of one node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.slurm.attempts import attempts
from tests.slurm.cluster import Cluster
from tests.slurm.steps import held, make_shards, running
from tests.slurm.workflow import PROFILE, Workflow, make_data, same_files

BEST = "run/small/models/small/best.safetensors"
SPLITS = {"0722-1": "train", "0722-3": "validation", "0722-4": "test"}
RESULTS = ("best.safetensors", "card.json", "curves.csv")
SETTINGS = {
    # Few layers whose statistics the processes share: each of them is a wait for the other.
    "encoder": "vgg11",
    "epochs": None,
    "iterations": 4,
    "validate_every": 2,
    "batch_size": 2,
}


@pytest.fixture(scope="module")
def shards(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A run that has its shards, from small sheets; it trains on two nodes, a GPU of each."""
    data = make_data(tmp_path_factory.mktemp("small"), (512, 384))
    workflow = Workflow(
        tmp_path_factory.mktemp("nodes"), cluster.environment, PROFILE / "accelerated"
    )
    write_settings(workflow, data, devices="auto")
    make_shards(workflow, SPLITS)
    return workflow


@pytest.fixture(scope="module")
def uninterrupted(shards: Workflow, cluster: Cluster) -> Path:
    """The models of a training on two nodes that nobody has disturbed."""
    done = shards.snakemake(BEST)
    assert done.returncode == 0, done.stderr
    (job,) = attempts(cluster, shards.folder)
    assert (job.state, job.told["NNodes"], job.tasks) == ("COMPLETED", "2", (2,))
    return put_aside(shards, "uninterrupted")


def test_training_on_two_nodes_is_requeued_and_ends_as_if_it_had_not_been(
    shards: Workflow, uninterrupted: Path, nodes: Cluster
) -> None:
    process = shards.started(BEST)
    job = running(nodes)
    held(job, "train", (shards.folder / BEST).exists)
    nodes.run("scontrol", "requeue", job)
    assert process.wait(400) == 0, shards.said
    told = nodes.job(job)
    assert (told["Restarts"], told["NumNodes"], told["JobState"]) == ("1", "2", "COMPLETED")
    log = (shards.run / "logs" / "train" / "all.log").read_text("utf-8")
    assert "going on after" in log
    same(put_aside(shards, "requeued"), uninterrupted)


def test_two_gpus_of_one_node_train_the_same(
    shards: Workflow, uninterrupted: Path, nodes: Cluster
) -> None:
    """No process is started but the first, which starts the other; the GPUs here are fake."""
    one_node = replace(shards, profile=PROFILE)
    asked = ("train:slurm_partition=gpu", "train:gpu=2", "train:cpus_per_gpu=2")
    write_settings(one_node, data_of(one_node), devices=2)
    done = one_node.snakemake(BEST, "--set-resources", *asked)
    assert done.returncode == 0, done.stderr
    job = attempts(nodes, shards.folder)[-1]
    assert (job.state, job.told["NNodes"], job.tasks) == ("COMPLETED", "1", (1,))
    assert "gres/gpu=2" in job.told["AllocTRES"]
    # Other nodes and GPUs are no reason to train again.
    again = shards.snakemake(BEST, "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr
    same(put_aside(shards, "one_node"), uninterrupted)


def write_settings(workflow: Workflow, data: Path, devices: str | int) -> None:
    """The run's settings, training with so many processes on a node."""
    tiling = {"tile_px": 64, "stride_px": 64}
    workflow.prepare(data, SPLITS, tiling=tiling, training={**SETTINGS, "devices": devices})


def data_of(workflow: Workflow) -> Path:
    """Folder of the orthophotos that a run's sheets table names."""
    rows = (workflow.folder / "sheets.csv").read_text("utf-8").splitlines()
    return Path(rows[1].split(",")[1]).parent


def put_aside(workflow: Workflow, name: str) -> Path:
    """Move what a training has made, so that the next one starts from nothing."""
    there = workflow.folder / name
    return (workflow.run / "models" / "small").rename(there)


def same(one: Path, other: Path) -> None:
    """Assert that two trainings have made the same weights and curves."""
    same_files(one, other, *RESULTS)
