"""What a run costs: the accounting of a real SLURM against jobs of known cost, and the report."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from pipeline.job_costs import advice, resources_yaml, step_jobs
from pipeline.reporting import render_report
from pipeline.slurm_accounting import OPEN, Accounting, SlurmJob, accounting
from pipeline.slurm_runs import job_prefix
from tests.report_values import full_report
from tests.slurm.cluster import Cluster
from tests.slurm.steps import limited
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


@dataclass(frozen=True)
class Known:
    """Jobs of known cost, and what the module has read of them.

    Attributes:
        began: When they were submitted, as seconds since 1970.
        numbers: Number of each job, by what it is.
        found: The run's jobs.
    """

    began: float
    numbers: dict[str, str]
    found: Accounting

    def starts(self, name: str) -> list[SlurmJob]:
        """All starts of a job."""
        return [job for job in self.found.jobs if job.number == self.numbers[name]]


def allocating(megabytes: int, seconds: int) -> str:
    """A command that holds so much memory for so long."""
    return f'{sys.executable} -c "{ALLOCATE.format(megabytes, seconds)}"'


@pytest.fixture(scope="module")
def known(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Known]:
    """A GPU job that holds memory, one held back, one requeued, others cut off or still running."""
    began, prefix = time.time(), job_prefix(tmp_path_factory.mktemp("costs"))
    small = ("--mem=100", "-t1")

    def submit(comment: str, command: str, *more: str) -> str:
        return submitted(cluster, prefix, comment, command, *more)

    numbers = {
        "late": submit("rule_clean_map_wildcards_a", "sleep 600", *small),
        "requeued": submit("rule_shard_wildcards_b", "sleep 4", "--requeue", *small),
        "on GPUs": submit(
            "rule_map_sheet_wildcards_a", f"srun --overlap {allocating(300, 6)}",
            "-p", "gpu", "--gpus=2", "--mem=800", "-c", "3", "-t", "7",
        ),
        "held": submit("rule_shard_wildcards_a", "sleep 2", "--begin=now+6", "-t1"),
        "failed": submit("rule_train", "exit 3", "--mem=100"),
        "large": submit("rule_shard_wildcards_c", allocating(400, 5), "--mem=100"),
        "large step": submit(
            "rule_shard_wildcards_e", f"srun --overlap {allocating(400, 5)} || exit 1", "--mem=100"
        ),
        "endless": submit("rule_report", "sleep 600", "--mem=100"),
    }  # fmt: skip
    other = submitted(cluster, "another", "rule_shard_wildcards_d", "true")
    early = {numbers["late"], numbers["requeued"]}
    wait_for("they run", lambda: early <= set(cluster.jobs("RUNNING")), 60)
    cluster.run("scontrol", "requeue", numbers["requeued"])
    limited(cluster, numbers["late"], EndTime="now+1")  # SLURM looks every half minute
    ending = {other, *numbers.values()} - {numbers["endless"]}
    wait_for("all but one end", lambda: not ending & set(cluster.jobs()), 120)

    def settled() -> bool:
        states = Counter(job.state for job in told(cluster, prefix, began).jobs)
        return sum(states[state] for state in OPEN) == 1

    wait_for("the database knows", settled, 30)
    yield Known(began, numbers, told(cluster, prefix, began))
    cluster.run("scancel", numbers["endless"])


def test_a_runs_own_jobs_are_found(known: Known) -> None:
    assert {job.number for job in known.found.jobs} == {*known.numbers.values()}


def test_a_job_on_gpus_cost_what_it_held(known: Known) -> None:
    (job,) = known.starts("on GPUs")
    assert (job.state, job.step, job.sheet) == ("COMPLETED", "map_sheet", "a")
    assert (job.cpus, job.gpus, job.nodes) == (3, 2, 1)
    assert (job.asked_mb, job.limit_seconds) == (800, 420)
    assert 6 <= job.seconds <= 10
    assert job.seconds == job.ended - job.started
    assert 300 <= job.memory_mb <= 500


def test_waiting_is_not_working(known: Known) -> None:
    (held,) = known.starts("held")
    assert 6 <= held.queued_seconds <= 12
    assert 2 <= held.seconds <= 4
    assert abs(held.submitted - known.began) < 30


def test_each_start_of_a_requeued_job_counts(known: Known) -> None:
    first, second = known.starts("requeued")
    assert (first.state, second.state) == ("REQUEUED", "COMPLETED")
    assert second.queued_seconds < 30
    assert 4 <= second.seconds <= 6


def test_jobs_that_were_cut_off_say_why(known: Known, nodes: Cluster) -> None:
    states = {name: [job.state for job in known.starts(name)] for name in known.numbers}
    assert states["failed"] == ["FAILED"]
    assert states["late"] == ["TIMEOUT"]
    # Without control groups, SLURM's own watch ends it, and calls that a failure.
    assert states["large"] in (["OUT_OF_MEMORY"], ["FAILED"], ["CANCELLED"])
    # With them, a step that is killed leaves a job that just failed.
    if states["large"] == ["OUT_OF_MEMORY"]:
        number = known.numbers["large step"]
        assert "FAILED" in nodes.run("sacct", "-X", "-n", "-j", number, "--format=State")
        assert states["large step"] == ["OUT_OF_MEMORY"]


def test_a_job_that_runs_has_no_end(known: Known) -> None:
    (running,) = known.starts("endless")
    assert running.state == "RUNNING"
    assert math.isnan(running.ended)


def test_steps_add_up_and_advice_is_in_the_report(known: Known) -> None:
    found = known.found
    (on_gpus,) = known.starts("on GPUs")
    steps = {step.step: step for step in step_jobs(found.jobs)}
    assert steps.keys() == {"map_sheet", "shard", "train", "report", "clean_map"}
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
    for rule, amounts in lines.items():
        assert amounts.keys() == {"mem_mb", "runtime"}
        assert amounts["mem_mb"].endswith(" * attempt")
        # A training goes on where its last attempt was, and asks for no more time.
        assert str(amounts["runtime"]).endswith(" * attempt") == (rule != "train")
    rows = (run / "report" / "tables" / "slurm_steps.csv").read_text("utf-8").splitlines()
    steps = {row[0]: row for row in csv.reader(rows[1:])}
    assert steps["train"][2:5] == ["1", "1", "0"]
    assert float(steps["train"][12]) > 0  # hours of its GPU
    assert steps["report"][2:5] == ["1", "0", "1"]  # the job that made it, still running
