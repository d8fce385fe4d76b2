"""From nothing to the report on two nodes, and what SLURM says of its jobs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from tests.slurm.attempts import attempts
from tests.slurm.cluster import Cluster
from tests.slurm.test_costs import check_report
from tests.slurm.workflow import Workflow, demo_run, drafts, same_files


@pytest.fixture(scope="module")
def on_slurm(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The demo from an empty folder, on the cluster with the shipped profile."""
    workflow = demo_run(tmp_path_factory.mktemp("slurm"), cluster.environment)
    done = workflow.snakemake()
    (workflow.folder / "said.txt").write_text(done.stdout + done.stderr, "utf-8")
    assert done.returncode == 0, done.stderr + done.stdout
    return workflow


def test_both_nodes_worked_and_every_job_ended_well(on_slurm: Workflow, cluster: Cluster) -> None:
    jobs = attempts(cluster, on_slurm.folder)
    assert {job.state for job in jobs} == {"COMPLETED"}
    assert {job.told["NodeList"] for job in jobs} == set(cluster.nodes)


def test_the_report_is_said_at_the_end(on_slurm: Workflow) -> None:
    scores = json.loads((on_slurm.run / "report" / "scores.json").read_text("utf-8"))["scores"]
    assert f"{100 * scores['overall_accuracy']:.1f}" in on_slurm.said
    assert "run/demo/report/index.html" in on_slurm.said


def test_the_report_tells_what_it_cost(on_slurm: Workflow) -> None:
    check_report(on_slurm.run)


def test_a_finished_run_has_nothing_to_do_on_slurm_or_without(on_slurm: Workflow) -> None:
    here = replace(on_slurm, profile=None)
    for workflow in (on_slurm, here):
        done = workflow.snakemake("--dry-run")
        assert "Nothing to be done" in done.stdout + done.stderr


def test_small_rules_share_jobs(on_slurm: Workflow, cluster: Cluster) -> None:
    rules = Counter(job.rule for job in attempts(cluster, on_slurm.folder))
    assert rules["rule_demo_data"] == 1
    # Two rules of a sheet in one job.
    assert sum(count for rule, count in rules.items() if "label_raster" in rule) == 4
    assert "rule_class_proportions" not in rules
    assert rules["rule_shard"] == 4
    assert rules["rule_train"] == 1


def test_maps_are_those_of_a_run_without_slurm_and_without_network(
    local: Workflow, on_slurm: Workflow
) -> None:
    made = ("data", "maps", "labels", "proportions", "shards", "tiles", "report/scores.json")
    same_files(local.run, on_slurm.run, *made)
    for name in ("best.safetensors", "card.json", "curves.csv"):
        same_files(local.run, on_slurm.run, f"models/demo/{name}")
    assert not drafts(on_slurm.run)
