"""The profiles name what a cluster has, and jobs ask for what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.slurm.attempts import attempts
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
    (job,) = attempts(nodes, tmp_path)
    told = [job.told[field] for field in ("Account", "Partition", "QOS", "Timelimit")]
    assert (job.state, told) == ("COMPLETED", ["forest", "standard", "normal", "00:20:00"])
    assert "--mem 2000 --requeue" in job.told["SubmitLine"]
