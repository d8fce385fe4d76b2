"""From nothing to the report on two nodes, and what SLURM says of its jobs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.test_costs import check_report
from tests.slurm.workflow import Workflow, drafts, same_files

FIELDS = ("JobIDRaw", "State", "NodeList", "SubmitLine", "JobName")


@pytest.fixture(scope="module")
def on_slurm(cluster: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The run of ``local``, on the cluster with the shipped profile."""
    workflow = Workflow(tmp_path_factory.mktemp("slurm"), cluster.environment)
    workflow.prepare(data)
    done = workflow.snakemake("--profile", str(workflow.profile))
    (workflow.folder / "said.txt").write_text(done.stdout + done.stderr, "utf-8")
    assert done.returncode == 0, done.stderr + done.stdout
    return workflow


def test_maps_are_those_of_a_run_without_slurm_and_without_network(
    local: Workflow, on_slurm: Workflow
) -> None:
    same_files(local.run, on_slurm.run, "maps", "labels", "proportions", "shards", "tiles")
    for name in ("best.safetensors", "card.json", "curves.csv"):
        same_files(local.run, on_slurm.run, f"models/small/{name}")
    scores = [run / "report" / "scores.json" for run in (local.run, on_slurm.run)]
    assert scores[0].read_bytes() == scores[1].read_bytes()
    assert not drafts(on_slurm.run)


def test_both_nodes_worked_and_every_job_ended_well(on_slurm: Workflow, cluster: Cluster) -> None:
    jobs = accounted(cluster, on_slurm)
    assert {job["State"] for job in jobs} == {"COMPLETED"}
    assert {job["NodeList"] for job in jobs} == set(cluster.nodes)


def test_the_report_is_said_at_the_end(on_slurm: Workflow) -> None:
    scores = json.loads((on_slurm.run / "report" / "scores.json").read_text("utf-8"))["scores"]
    assert f"{100 * scores['overall_accuracy']:.1f}" in on_slurm.said
    assert "run/small/report/index.html" in on_slurm.said


def test_the_report_tells_what_it_cost(on_slurm: Workflow) -> None:
    check_report(on_slurm.run)


def test_a_finished_run_has_nothing_to_do_on_slurm_or_without(on_slurm: Workflow) -> None:
    here = Workflow(on_slurm.folder, on_slurm.environment, profile=None)
    for workflow in (on_slurm, here):
        done = workflow.snakemake("--dry-run")
        assert "Nothing to be done" in done.stdout + done.stderr


def accounted(cluster: Cluster, workflow: Workflow) -> list[dict[str, str]]:
    """What the accounting says of the jobs that were submitted from a workflow's folder."""
    told = cluster.run(
        "sacct", "-X", "-P", "-n", "--starttime", "now-1days", "--delimiter=\x1f",
        "--format", ",".join(FIELDS),
    )  # fmt: skip
    jobs = [dict(zip(FIELDS, line.split("\x1f"), strict=True)) for line in told.splitlines()]
    return [job for job in jobs if f"-D {workflow.folder}" in job["SubmitLine"]]


def test_small_rules_share_jobs(on_slurm: Workflow, cluster: Cluster) -> None:
    rules = Counter(
        job["SubmitLine"].split("--comment ")[1].split()[0].split("_wildcards_")[0]
        for job in accounted(cluster, on_slurm)
    )
    # Two rules of a sheet in one job.
    assert sum(count for rule, count in rules.items() if "label_raster" in rule) == 4
    assert "rule_class_proportions" not in rules
    assert rules["rule_shard"] == 4
    assert rules["rule_train"] == 1
