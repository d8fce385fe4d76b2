"""What a run costs: the accounting of a real SLURM against jobs of known cost, and the report."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipeline.job_costs import advice, resources_yaml, step_jobs
from pipeline.reporting import render_report
from pipeline.slurm_accounting import OPEN, Accounting, SlurmJob, accounting
from pipeline.slurm_runs import job_prefix
from tests.report_values import full_report
from tests.slurm.cluster import Cluster
from tests.slurm.workflow import EAGER, PROFILE, QUICK, wait_for

ALLOCATE = "import time; held = b'x' * ({} * 2**20); time.sleep({})"


def submitted(cluster: Cluster, prefix: str, comment: str, command: str, *more: str) -> str:
    """Submit a job as Snakemake's executor names and remarks them; its number."""
    return cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", "--job-name", f"{prefix}_1",
        "--comment", comment, *more, "--wrap", command,
    ).strip()  # fmt: skip


def told(cluster: Cluster, prefix: str, began: float) -> Accounting:
    """What the module reads of this cluster."""
    return accounting(prefix, began - 60, cluster.environment)


def by_number(found: Accounting) -> dict[str, list[SlurmJob]]:
    """All starts of each job."""
    numbers: dict[str, list[SlurmJob]] = {}
    for job in found.jobs:
        numbers.setdefault(job.number, []).append(job)
    return numbers


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    """Names of jobs of a run that there is once."""
    return job_prefix(tmp_path)


def test_jobs_of_known_cost(nodes: Cluster, prefix: str) -> None:
    """A GPU job that holds memory, one held back, one cut off, one requeued, one too large."""
    began = time.time()
    hold = f'{sys.executable} -c "{ALLOCATE.format(300, 6)}"'
    gpu = submitted(
        nodes, prefix, "rule_map_sheet_wildcards_a", f"srun --overlap {hold}",
        "-p", "gpu", "--gpus=2", "--mem=800", "-c", "3", "-t", "7",
    )  # fmt: skip
    held = submitted(nodes, prefix, "rule_shard_wildcards_a", "sleep 2", "--begin=now+6", "-t1")
    requeued = submitted(
        nodes, prefix, "rule_shard_wildcards_b", "sleep 4", "--requeue", "--mem=100", "-t1"
    )
    failed = submitted(nodes, prefix, "rule_train", "exit 3", "--mem=100")
    large = submitted(
        nodes, prefix, "rule_shard_wildcards_c",
        f'{sys.executable} -c "{ALLOCATE.format(400, 20)}"', "--mem=100",
    )  # fmt: skip
    large_step = submitted(
        nodes, prefix, "rule_shard_wildcards_e",
        f'srun --overlap {sys.executable} -c "{ALLOCATE.format(400, 20)}" || exit 1', "--mem=100",
    )  # fmt: skip
    other = submitted(nodes, "another", "rule_shard_wildcards_d", "true")
    wait_for("it runs", lambda: requeued in nodes.jobs("RUNNING"), 60)
    nodes.run("scontrol", "requeue", requeued)
    endless = submitted(nodes, prefix, "rule_report", "sleep 600", "--mem=100")
    all_jobs = {gpu, held, requeued, failed, large, large_step, other}
    wait_for("all but one end", lambda: not all_jobs & set(nodes.jobs()), 120)

    def settled() -> bool:
        states = Counter(job.state for job in told(nodes, prefix, began).jobs)
        return sum(states[state] for state in OPEN) == 1

    wait_for("the database knows", settled, 30)
    found = told(nodes, prefix, began)
    jobs = by_number(found)
    assert jobs.keys() == all_jobs - {other} | {endless}

    (on_gpus,) = jobs[gpu]
    assert (on_gpus.state, on_gpus.step, on_gpus.sheet) == ("COMPLETED", "map_sheet", "a")
    assert (on_gpus.cpus, on_gpus.gpus, on_gpus.nodes) == (3, 2, 1)
    assert (on_gpus.asked_mb, on_gpus.limit_seconds) == (800, 420)
    assert 6 <= on_gpus.seconds <= 10
    assert on_gpus.seconds == on_gpus.ended - on_gpus.started
    assert 300 <= on_gpus.memory_mb <= 500

    (late,) = jobs[held]
    assert 6 <= late.queued_seconds <= 12
    assert 2 <= late.seconds <= 4
    assert abs(late.submitted - began) < 30

    first, second = jobs[requeued]
    assert (first.state, second.state) == ("REQUEUED", "COMPLETED")
    assert second.queued_seconds < 30
    assert 4 <= second.seconds <= 6

    assert [job.state for job in jobs[failed]] == ["FAILED"]
    # Without control groups, SLURM's own watch ends it, and calls that a failure.
    killed = [job.state for job in jobs[large]]
    assert killed in (["OUT_OF_MEMORY"], ["FAILED"], ["CANCELLED"])
    # With them, a step that is killed leaves a job that just failed.
    if killed == ["OUT_OF_MEMORY"]:
        assert "FAILED" in nodes.run("sacct", "-X", "-n", "-j", large_step, "--format=State")
        assert [job.state for job in jobs[large_step]] == ["OUT_OF_MEMORY"]
    (running,) = jobs[endless]
    assert running.state == "RUNNING"
    assert math.isnan(running.ended)

    steps = {step.step: step for step in step_jobs(found.jobs)}
    assert steps.keys() == {"map_sheet", "shard", "train", "report"}
    assert steps["map_sheet"].gpu_hours == 2 * on_gpus.seconds / 3600
    assert steps["map_sheet"].cpu_hours == 3 * on_gpus.seconds / 3600
    assert (steps["shard"].finished, len(steps["shard"].jobs)) == (2, 5)
    assert (steps["report"].finished, steps["report"].open) == (0, 1)
    advised = {entry.rule: entry for entry in advice(found.jobs, [])}
    assert advised.keys() == {"map_sheet", "shard"}
    assert advised["map_sheet"].minutes == 5
    assert advised["map_sheet"].memory_used == on_gpus.memory_mb / 800
    page = render_report(replace(full_report(), accounting=found), {})
    assert "1 still running" in page
    assert resources_yaml(advice(found.jobs, full_report().benchmarks)) in page


def test_a_job_out_of_time(nodes: Cluster, prefix: str) -> None:
    began = time.time()
    job = submitted(nodes, prefix, "rule_shard_wildcards_a", "sleep 600", "-t", "1")
    wait_for("it runs", lambda: job in nodes.jobs("RUNNING"), 60)
    nodes.run("scontrol", "update", f"JobId={job}", "EndTime=now+1")
    wait_for("it is ended", lambda: job not in nodes.jobs(), 120)
    wait_for("the database knows", lambda: told(nodes, prefix, began).jobs[0].state not in OPEN, 30)
    (found,) = told(nodes, prefix, began).jobs
    assert found.state == "TIMEOUT"


def test_advice_pasted_into_a_profile_grows_with_the_attempt(
    nodes: Cluster, tmp_path: Path
) -> None:
    """A rule that fails until its second attempt, in the words of the file."""
    (tmp_path / "Snakefile").write_text(
        "rule grows:\n"
        '    output: "done.txt"\n'
        "    resources: mem_mb=9000, runtime=50\n"
        '    shell: "test {resources.mem_mb} -eq 1400 && echo {resources.mem_mb} '
        '{resources.runtime} > {output}"\n',
        "utf-8",
    )
    seen = accounted("grows", 500.0)
    lines = yaml.safe_load(f"set-resources:\n{resources_yaml(advice([seen], []))}")
    assert lines == {
        "set-resources": {"grows": {"mem_mb": "700 * attempt", "runtime": "5 * attempt"}}
    }
    profile: Mapping[str, object] = yaml.safe_load((PROFILE / "config.yaml").read_text("utf-8"))
    kept = {key: value for key, value in profile.items() if key not in ("groups", "set-resources")}
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text(yaml.safe_dump(kept | lines), "utf-8")
    began = time.time()
    done = subprocess.run(
        [*EAGER, "--profile", "profile", *QUICK],
        cwd=tmp_path, env=nodes.environment, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "done.txt").read_text("utf-8").split() == ["1400", "10"]
    mine = [job for job in told(nodes, "", began).jobs if job.step == "grows"]
    assert [(job.state, job.asked_mb, job.limit_seconds) for job in mine] == [
        ("FAILED", 700, 300),
        ("COMPLETED", 1400, 600),
    ]
    assert mine[1].memory_mb > 100  # two Snakemakes


def accounted(rule: str, memory_mb: float) -> SlurmJob:
    """A finished job of a rule."""
    return SlurmJob(
        "1", "tesela", "", (rule,), "", "COMPLETED", 0.0, 0.0, 60.0, 0.0, 60.0, 600.0, 1, 1, 0,
        60.0, memory_mb, 2000.0,
    )  # fmt: skip


def check_report(run: Path) -> None:
    """Assert that the report of a run on SLURM tells its jobs and advises; for other tests."""
    page = (run / "report" / "index.html").read_text("utf-8")
    assert "Jobs on the cluster" in page
    assert "What to ask for next time" in page
    lines = yaml.safe_load((run / "report" / "resources.yaml").read_text("utf-8"))
    assert {"train", "map_sheet", "label_raster"} <= lines.keys()
    for amounts in lines.values():
        assert amounts.keys() == {"mem_mb", "runtime"}
        assert all(text.endswith(" * attempt") for text in amounts.values())
    rows = (run / "report" / "tables" / "slurm_steps.csv").read_text("utf-8").splitlines()
    steps = {row[0]: row for row in csv.reader(rows[1:])}
    assert steps["train"][2:5] == ["1", "1", "0"]
    assert float(steps["train"][12]) > 0  # hours of its GPU
    assert steps["report"][2:5] == ["1", "0", "1"]  # the job that made it, still running
