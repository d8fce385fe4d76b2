"""The profiles name what a cluster has, and jobs ask for what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.slurm.cluster import Cluster
from tests.slurm.workflow import PROFILE, Workflow

PROFILES = (PROFILE, PROFILE / "accelerated")


def asked(profile: Path, resource: str) -> set[str]:
    """All values of a resource in a profile."""
    content: dict[str, Any] = yaml.safe_load((profile / "config.yaml").read_text("utf-8"))
    sections = [content["default-resources"], *content["set-resources"].values()]
    return {section[resource] for section in sections if resource in section}


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.name)
def test_profiles_name_what_the_cluster_has(profile: Path, cluster: Cluster) -> None:
    partitions = set(cluster.run("sinfo", "-h", "-o", "%R").split())
    accounts = set(cluster.run("sacctmgr", "-n", "-P", "list", "account", "format=account").split())
    levels = set(cluster.run("sacctmgr", "-n", "-P", "list", "qos", "format=name").split())
    features = set(cluster.run("sinfo", "-h", "-o", "%f").split())
    assert asked(profile, "slurm_partition") <= partitions
    assert asked(profile, "slurm_account") <= accounts
    assert asked(profile, "qos") <= levels
    assert asked(profile, "constraint") <= features
    kinds = {gpu.rpartition(":")[0] for gpu in cluster.run("sinfo", "-h", "-o", "%G").split()}
    assert {gpu.rpartition(":")[0] for gpu in asked(profile, "gres")} <= kinds


def test_a_job_of_the_second_profile_runs_as_it_says(
    nodes: Cluster, data: Path, tmp_path: Path
) -> None:
    workflow = Workflow(tmp_path, nodes.environment, PROFILE / "accelerated")
    workflow.prepare(data)
    done = workflow.snakemake("--until", "index_values")
    assert done.returncode == 0, done.stderr
    fields = "State,Account,Partition,QOS,Timelimit,SubmitLine"
    rows = nodes.run("sacct", "-X", "-P", "-n", "--format", fields).splitlines()
    (job,) = (row.split("|") for row in rows if f"-D {tmp_path}" in row)
    assert job[:5] == ["COMPLETED", "forest", "standard", "normal", "00:20:00"]
    assert "--mem 2000 --requeue" in job[5]


def test_a_group_asks_for_one_member_grows_and_names_the_one_that_fails(
    nodes: Cluster, data: Path, tmp_path: Path
) -> None:
    workflow = Workflow(tmp_path, nodes.environment)
    workflow.prepare(data, {"0722-1": "train", "0722-2": "validation"})
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"no raster")
    table = tmp_path / "sheets.csv"
    table.write_text(table.read_text("utf-8").replace(f"{data}/0722-2.tif", str(broken)), "utf-8")
    # As in `set-resources` of a profile.
    asked = [f"{rule}:mem_mb=900 * attempt" for rule in ("class_proportions", "label_raster")]
    arguments = ("--until", "label_raster", "--retries", "1", "--set-resources", *asked)
    done = workflow.snakemake(*arguments)
    told = done.stdout + done.stderr
    assert done.returncode == 1
    assert "Error in group labels" in told
    assert str(broken) in told
    # Each sheet's labels are a group of their own; only the one that failed is tried again.
    assert memory_of_groups(nodes, tmp_path, "0722-1") == ["900M"]
    assert memory_of_groups(nodes, tmp_path, "0722-2") == ["900M", "1800M"]


def memory_of_groups(cluster: Cluster, folder: Path, sheet: str) -> list[str]:
    """What a sheet's group jobs that a folder submitted asked for, one after the other."""
    rows = cluster.run("sacct", "-X", "-P", "-n", "--format", "ReqMem,SubmitLine").splitlines()
    jobs = [row for row in rows if f"-D {folder}" in row and f"label_raster:sheet={sheet}'" in row]
    return [row.split("|")[0] for row in jobs]
