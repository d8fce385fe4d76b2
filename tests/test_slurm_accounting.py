"""SLURM's accounting: read as sacct prints it, added up, and turned into advice."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import config, evidence, figures, job_costs, slurm_accounting
from pipeline.compute_costs import Benchmark
from pipeline.errors import InputError
from pipeline.job_costs import Advice, advice, resources_yaml, step_jobs, unadvised
from pipeline.paths import RunPaths
from pipeline.report_data import ReportData
from pipeline.report_tables import tables
from pipeline.reporting import render_report
from pipeline.slurm_accounting import (
    FIELDS,
    SEPARATOR,
    Accounting,
    NoAnswerError,
    SlurmJob,
    accounting,
    read_jobs,
)
from pipeline.slurm_runs import job_prefix, tile_jobs
from tests.report_values import COLORS, NAMES, full_report

ROOT = Path(__file__).resolve().parents[1]

# What sacct of SLURM 22.05 printed of jobs that were made to end so: bars for the separator, the
# days and the commands cut. A GPU job; one out of memory; one out of time; one requeued; one that
# had to begin later; one cancelled in the queue; one of two nodes; a group; one that runs.
ANSWER = """\
1|tesela-abc_1|COMPLETED|12:20:52|12:20:52|12:20:57|5|5|500M|billing=2,cpu=2,gres/gpu=2,mem=500M,node=1|00:00.158||1||sbatch --job-name tesela-abc_1 --export=ALL --comment rule_map_sheet_wildcards_0722-1 -p gpu --mem 500
1.batch|batch|COMPLETED|12:20:52|12:20:52|12:20:57|5|||cpu=2,gres/gpu=2,mem=500M,node=1|00:00.010|10.50M|1|1|
1.0|python|COMPLETED|12:20:52|12:20:52|12:20:57|5|||cpu=2,gres/gpu=2,mem=500M,node=1|00:00.147|210.50M|1|1|srun --overlap python alloc.py
3|tesela-abc_1|OUT_OF_MEMORY|12:20:52|12:20:52|12:20:52|0|5|100M|billing=1,cpu=1,mem=100M,node=1|00:00.080||1||sbatch --comment rule_shard_wildcards_a -p cpu
3.batch|batch|OUT_OF_MEMORY|12:20:52|12:20:52|12:20:52|0|||cpu=1,mem=100M,node=1|00:00.080|1.08M|1|1|
4|tesela-abc_1|TIMEOUT|12:20:52|12:20:52|12:21:21|29|1|100M|billing=1,cpu=1,mem=100M,node=1|00:00.001||1||sbatch --comment rule_shard_wildcards_b -p cpu
4.batch|batch|CANCELLED|12:20:52|12:20:52|12:21:22|30|||cpu=1,mem=100M,node=1|00:00.001|3.19M|1|1|
5|tesela-abc_1|REQUEUED|12:20:52|12:20:52|12:20:57|5|5|100M|billing=1,cpu=1,mem=100M,node=1|00:00.001||1||sbatch --comment rule_shard_wildcards_c -p cpu --requeue
5.batch|batch|CANCELLED|12:20:52|12:20:52|12:20:58|6|||cpu=1,mem=100M,node=1|00:00.001|3.09M|1|1|
6|tesela-abc_2|COMPLETED|12:20:52|12:20:59|12:21:02|3|5|100M|billing=1,cpu=1,mem=100M,node=1|00:00.002||1||sbatch --comment rule_shard_wildcards_d --begin=now+7
6.batch|batch|COMPLETED|12:20:59|12:20:59|12:21:02|3|||cpu=1,mem=100M,node=1|00:00.002|3.25M|1|1|
7|tesela-abc_2|CANCELLED by 0|12:20:52|None|12:20:57|0|5|100M||00:00:00||1||sbatch --comment rule_shard_wildcards_e
5|tesela-abc_1|COMPLETED|12:20:59|12:21:05|12:21:17|12|5|100M|billing=1,cpu=1,mem=100M,node=1|00:00.002||1||sbatch --comment rule_shard_wildcards_c -p cpu --requeue
5.batch|batch|COMPLETED|12:21:05|12:21:05|12:21:17|12|||cpu=1,mem=100M,node=1|00:00.002|3.12M|1|1|
11|tesela-abc_2|COMPLETED|12:24:29|12:24:29|12:24:36|7|5|1000M|billing=4,cpu=4,gres/gpu=2,mem=1000M,node=2|00:00.401||2||sbatch --comment rule_train -p gpu --nodes 2 --ntasks 4
11.batch|batch|COMPLETED|12:24:29|12:24:29|12:24:36|7|||cpu=3,gres/gpu=1,mem=500M,node=1|00:00.014|10.50M|1|1|
11.0|python|COMPLETED|12:24:29|12:24:29|12:24:36|7|||cpu=4,gres/gpu=2,mem=1000M,node=2|00:00.386|110.50M|2|4|srun -n 4 python alloc.py
15|tesela-abc_2|COMPLETED|12:26:08|12:26:08|12:26:39|31|6|1200M|billing=2,cpu=2,mem=1200M,node=1|00:10.310||1||sbatch --comment rule_pair_one_two -p cpu --wrap=python -m snakemake --target-jobs 'one:i=2' 'two:i=1' --allowed-rules two one --local-groupid
with a line break
15.batch|batch|COMPLETED|12:26:08|12:26:08|12:26:39|31|||cpu=2,mem=1200M,node=1|00:02.149|171.75M|1|1|
15.0|python3.11|COMPLETED|12:26:13|12:26:13|12:26:19|6|||cpu=1,mem=1200M,node=1|00:01.759|164.25M|1|1|srun -n1 python3.11 -m snakemake --allowed-rules one --cores all
15.1|python3.11|COMPLETED|12:26:19|12:26:19|12:26:26|7|||cpu=1,mem=1200M,node=1|00:02.115|159.50M|1|1|srun -n1 python3.11 -m snakemake --allowed-rules two --cores all
16|another|COMPLETED|12:26:08|12:26:08|12:26:39|31|6|1200M|billing=2,cpu=2,mem=1200M,node=1|00:10.310||1||sbatch --comment rule_shard
19|tesela-abc_3|RUNNING|12:28:58|12:28:59|Unknown|4|UNLIMITED|1000M|billing=8,cpu=8,gres/gpu=2,mem=8000M,node=1|00:00:00||1||sbatch --comment rule_report
19.batch|batch|RUNNING|12:28:59|12:28:59|Unknown|4|||cpu=8,gres/gpu=2,mem=8000M,node=1|00:00:00||1||
20|tesela-abc_3|PENDING|12:28:58|Unknown|Unknown|0|5|2000M||00:00:00||2||sbatch --comment rule_map_sheet_wildcards_b
"""  # noqa: E501


def raw(text: str) -> str:
    """The answer as sacct gave it."""
    timed = re.sub(r"(?<=\|)(\d\d:\d\d:\d\d)(?=\|)(?!\|\|)", r"2026-11-23T\1", text)
    return timed.replace("|", SEPARATOR)


@pytest.fixture(scope="module")
def jobs() -> list[SlurmJob]:
    return read_jobs(raw(ANSWER), "tesela-abc_")


def one(jobs: list[SlurmJob], number: str, state: str) -> SlurmJob:
    (found,) = (job for job in jobs if (job.number, job.state) == (number, state))
    return found


def test_jobs_are_those_of_the_run_in_all_states(jobs: list[SlurmJob]) -> None:
    assert [(job.number, job.state) for job in jobs] == [
        ("1", "COMPLETED"),
        ("3", "OUT_OF_MEMORY"),
        ("4", "TIMEOUT"),
        ("5", "REQUEUED"),
        ("6", "COMPLETED"),
        ("7", "CANCELLED"),
        ("5", "COMPLETED"),
        ("11", "COMPLETED"),
        ("15", "COMPLETED"),
        ("19", "RUNNING"),
        ("20", "PENDING"),
    ]
    assert [(job.step, job.sheet) for job in jobs[:2]] == [("map_sheet", "0722-1"), ("shard", "a")]
    assert (jobs[7].step, jobs[7].sheet) == ("train", "")
    assert (jobs[8].step, jobs[8].rules, jobs[8].sheet) == ("pair", ("one", "two"), "")


def test_a_job_has_what_it_held_and_what_it_used(jobs: list[SlurmJob]) -> None:
    gpu = jobs[0]
    assert (gpu.seconds, gpu.limit_seconds, gpu.nodes, gpu.cpus, gpu.gpus) == (5, 300, 1, 2, 2)
    assert (gpu.ended - gpu.started, gpu.started - gpu.submitted) == (5, 0)
    assert gpu.cpu_seconds == 0.158
    # The batch script and its step ran at the same time.
    assert (gpu.memory_mb, gpu.asked_mb) == (10.5 + 210.5, 500)
    two_nodes = one(jobs, "11", "COMPLETED")
    # Two tasks a node; what was asked for is told of both nodes together.
    assert (two_nodes.memory_mb, two_nodes.asked_mb) == (10.5 + 2 * 110.5, 500)
    # The steps of a group came one after the other.
    assert one(jobs, "15", "COMPLETED").memory_mb == 171.75 + 164.25


def test_time_in_the_queue(jobs: list[SlurmJob]) -> None:
    assert one(jobs, "6", "COMPLETED").queued_seconds == 7
    assert one(jobs, "5", "REQUEUED").queued_seconds == 0
    assert one(jobs, "5", "COMPLETED").queued_seconds == 6
    assert one(jobs, "7", "CANCELLED").queued_seconds == 5  # it never started
    assert math.isnan(one(jobs, "20", "PENDING").queued_seconds)


def test_a_requeued_job_with_its_first_time_of_submission_did_not_wait_while_it_ran() -> None:
    kept = raw(ANSWER).replace("2026-11-23T12:20:59\x1f2026-11-23T12:21:05", "2026-11-23T12:20:52\x1f2026-11-23T12:21:05", 1)  # noqa: E501  # fmt: skip
    assert kept != raw(ANSWER)
    job = one(read_jobs(kept, "tesela-abc_"), "5", "COMPLETED")
    assert job.queued_seconds == 8  # since its first start ended


def test_what_has_not_ended_is_open(jobs: list[SlurmJob]) -> None:
    running = one(jobs, "19", "RUNNING")
    assert (running.seconds, running.gpus) == (4, 2)
    assert math.isnan(running.ended)
    assert math.isnan(running.limit_seconds)
    assert math.isnan(running.memory_mb)
    waiting = one(jobs, "20", "PENDING")
    assert (waiting.seconds, waiting.cpus, waiting.gpus, waiting.asked_mb) == (0, 0, 0, 1000)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1-02:03:04", 93_784), ("02:03:04", 7384), ("03:04.567", 184.567), ("", 0)],
)
def test_clocks(text: str, seconds: float) -> None:
    assert slurm_accounting._clock(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "megabytes"),
    [("215552K", 210.5), ("1.5G", 1536), ("4000M", 4000), ("1048576", 1), ("", 0), ("1.2.3G", 0)],
)
def test_units(text: str, megabytes: float) -> None:
    assert slurm_accounting._megabytes(text) == megabytes


@pytest.mark.parametrize(
    ("asked", "allocated", "megabytes"),
    [
        ("8G", "billing=8,cpu=8,node=2", 4096),
        ("8G", "", 4096),
        # Of versions before 21.08: of each node, and of each processor.
        ("4Gn", "billing=8,cpu=8,node=2", 4096),
        ("4Gn", "", 4096),
        ("4000Mc", "billing=8,cpu=8,node=2", 16_000),
        ("4000Mc", "", math.nan),  # of how many, before it starts?
        ("4000Mc", "billing=8,cpu=8,mem=30000M,node=2", 15_000),
        ("0", "", math.nan),
    ],
)
def test_memory_that_was_asked_for_is_of_a_node(
    asked: str, allocated: str, megabytes: float
) -> None:
    columns = columns_of("11")
    columns[8:10] = [asked, allocated]
    (told,) = read_jobs(SEPARATOR.join(columns), "tesela-abc_")
    assert told.asked_mb == pytest.approx(megabytes, nan_ok=True)


@pytest.mark.parametrize(
    ("column", "text", "word"),
    [
        (6, "3 s", "3 s"),
        (9, "cpu=many", "many"),
        (10, "00:INVALID", "INVALID"),
        (10, "x-1", "x"),
        (12, "two", "two"),
    ],
)
def test_a_job_that_cannot_be_read_is_told(column: int, text: str, word: str) -> None:
    columns = columns_of("11")
    columns[column] = text
    with pytest.raises(NoAnswerError, match="of job 11 what cannot be read") as error:
        read_jobs(SEPARATOR.join(columns), "tesela-abc_")
    assert word in str(error.value)
    columns[1] = "another"
    assert read_jobs(SEPARATOR.join(columns), "tesela-abc_") == []


def columns_of(number: str) -> list[str]:
    """The columns of a job."""
    return next(
        line.split(SEPARATOR)
        for line in raw(ANSWER).split("\n")
        if line.startswith(f"{number}{SEPARATOR}")
    )


def test_gpus_of_a_kind_are_counted_where_all_are_not() -> None:
    assert slurm_accounting._gpus({"gres/gpu": "4", "gres/gpu:a100": "4"}) == 4
    assert slurm_accounting._gpus({"gres/gpu:a100": "2", "gres/gpu:h100": "1"}) == 3
    assert slurm_accounting._gpus({"cpu": "2"}) == 0


@pytest.mark.parametrize(
    ("options", "nodes", "gpus"),
    [
        ("-p gpu --gpus=2 --mem 500", 1, 2),
        ("-p gpu --gpus=a100:4", 2, 4),
        ("-p gpu --gpus=a100", 1, 1),
        ("-p gpu --gres=gpu:v100:2 --nodes=2", 2, 4),
        ("-p gpu --gres gpu", 1, 1),
        ("--gres=shard:8,gpu:3", 1, 3),
        ("-N2 --gpus-per-node=2", 2, 4),
        ("--ntasks=4 --gpus-per-task=1", 2, 4),
        ("-p cpu --gres=shard:8 --wrap=python --gpus=2", 1, 0),
    ],
)
def test_gpus_that_slurm_does_not_account_for_are_those_asked_for(
    options: str, nodes: int, gpus: int
) -> None:
    columns = columns_of("1")
    columns[9] = "billing=2,cpu=2,mem=500M,node=1"
    columns[12] = str(nodes)
    columns[14] = f"sbatch --comment rule_train {options}"
    (told,) = read_jobs(SEPARATOR.join(columns), "tesela-abc_")
    assert told.gpus == gpus
    # One that never started held none.
    columns[9] = ""
    assert read_jobs(SEPARATOR.join(columns), "tesela-abc_")[0].gpus == 0


# As SLURM 22.05 told of a batch job whose step exceeded its memory; the script ended with 1.
KILLED_STEP = """\
3|tesela-abc_1|FAILED|12:20:52|12:20:52|12:20:58|6|1|100M|billing=1,cpu=1,mem=100M,node=1|00:00.080||1||sbatch --comment rule_shard_wildcards_a -p cpu
3.batch|batch|FAILED|12:20:52|12:20:52|12:20:58|6|||cpu=1,mem=100M,node=1|00:00.080|1.08M|1|1|
3.0|python|OUT_OF_MEMORY|12:20:52|12:20:52|12:20:58|6|||cpu=1,mem=100M,node=1|00:00.080|2.88M|1|1|srun python
"""  # noqa: E501


def test_a_job_that_failed_as_a_step_lacked_memory_is_out_of_memory() -> None:
    (job,) = read_jobs(raw(KILLED_STEP), "tesela-abc_")
    assert (job.state, job.asked_mb) == ("OUT_OF_MEMORY", 100)
    again = raw(KILLED_STEP).replace("OUT_OF_MEMORY", "FAILED")
    assert read_jobs(again, "tesela-abc_")[0].state == "FAILED"
    ended = raw(KILLED_STEP).replace("abc_1\x1fFAILED", "abc_1\x1fCOMPLETED")
    assert read_jobs(ended, "tesela-abc_")[0].state == "COMPLETED"


def test_another_answer_is_refused() -> None:
    with pytest.raises(NoAnswerError, match="other columns"):
        read_jobs(f"1{SEPARATOR}tesela", "tesela")
    with pytest.raises(NoAnswerError, match="says “no idea”"):
        read_jobs("no idea\n", "tesela")
    assert read_jobs("", "tesela") == []


def test_steps_add_up_all_starts(jobs: list[SlurmJob]) -> None:
    steps = {step.step: step for step in step_jobs(jobs)}
    assert list(steps) == ["map_sheet", "shard", "train", "pair", "report"]
    shard = steps["shard"]
    assert (len(shard.jobs), shard.finished, shard.open) == (6, 2, 0)
    assert shard.states == [
        ("COMPLETED", 2),
        ("CANCELLED", 1),
        ("OUT_OF_MEMORY", 1),
        ("REQUEUED", 1),
        ("TIMEOUT", 1),
    ]
    assert (shard.queued_seconds, shard.longest_queue) == (7 + 5 + 6, 7)
    assert (shard.seconds, shard.longest) == (29 + 5 + 3 + 12, 29)
    assert shard.cpu_hours == pytest.approx(49 / 3600)
    assert shard.gpu_hours == 0
    assert shard.busy == pytest.approx((0.080 + 0.001 + 0.001 + 0.002 + 0.002) / 49)
    assert shard.memory_mb == 3.25
    maps = steps["map_sheet"]
    assert (len(maps.jobs), maps.finished, maps.open) == (2, 1, 1)
    assert maps.gpu_hours == pytest.approx(10 / 3600)
    assert maps.queued_seconds == 0
    report = steps["report"]
    assert (report.finished, report.open, report.gpu_hours) == (0, 1, 8 / 3600)
    assert math.isnan(report.longest)
    assert math.isnan(report.busy)


def job(state: str = "COMPLETED", sheet: str = "a", **values: object) -> SlurmJob:
    """A job of a rule that took 1000 of 4000 MB and ten minutes of an hour."""
    start = float(str(values.pop("submitted", 0)))
    made = SlurmJob(
        f"{state}{sheet}{start}", "tesela-0_1", "", ("shard",), sheet, state, start, start,
        start + 600, 0.0, 600.0, 3600.0, 1, 2, 0, 600.0, 1000.0, 4000.0,
    )  # fmt: skip
    return replace(made, **values)  # type: ignore[arg-type]


def test_advice_is_what_was_seen_and_a_margin() -> None:
    (found,) = advice([job(), job(sheet="b", seconds=1300.0, memory_mb=1300.0)], [])
    # 1.25 x 1300 = 1625 MB; 1.5 x 1300 s = 32.5 min.
    assert (found.rule, found.memory_mb, found.minutes) == ("shard", 1700, 35)
    assert (found.jobs, found.accounted, found.killed) == (2, True, 0)
    assert found.memory_used == 1300 / 4000
    assert found.time_used == 1300 / 3600
    assert found.basis == "2 jobs only"
    (least,) = advice([job(memory_mb=5.0, seconds=1.0)], [])
    assert (least.memory_mb, least.minutes) == (job_costs.LEAST_MB, 5)


def test_killed_jobs_are_lower_bounds_and_double_where_none_finished_after() -> None:
    over = job("OUT_OF_MEMORY", "b", asked_mb=2000.0)
    (found,) = advice([job(), over], [])
    assert (found.memory_mb, found.minutes, found.killed) == (4000, 15, 1)
    again = job(sheet="b", submitted=700.0, memory_mb=1900.0)
    (found,) = advice([job(), over, again], [])
    assert found.memory_mb == 2500  # 1.25 x 2000, as it was killed with that
    late = job("TIMEOUT", "b", seconds=3600.0)
    assert advice([job(), late], [])[0].minutes == 120
    assert advice([job(), late, again], [])[0].minutes == 90


def test_a_failed_start_may_have_lacked_memory() -> None:
    failed = job("FAILED", asked_mb=2000.0)
    again = job(submitted=700.0, asked_mb=4000.0, memory_mb=900.0)
    seen = [Benchmark("shard", "a", 600.0, 1000.0, 600.0)]
    (found,) = advice([failed, again], seen)
    assert (found.memory_mb, found.killed) == (2000, 0)  # 1.25 x 1000 + 500 would be 1800
    # It had as much as the one that finished, or was another's: that was not it.
    for other in (replace(failed, asked_mb=4000.0), replace(failed, sheet="b")):
        assert advice([other, again], seen)[0].memory_mb == 1800
    killed = replace(failed, state="OUT_OF_MEMORY")
    assert advice([killed, again], seen)[0].memory_mb == 2500


@pytest.mark.parametrize("rule", ["train", "tune", "map_sheet"])
@pytest.mark.parametrize("state", ["PREEMPTED", "CANCELLED", "TIMEOUT", "FAILED", "NODE_FAIL"])
def test_steps_that_go_on_took_the_time_of_all_their_starts(rule: str, state: str) -> None:
    own: dict[str, Any] = {"rules": (rule,), "limit_seconds": 100 * 3600.0}
    first = job(state, **own, seconds=20 * 3600.0)
    other = job(**own, sheet="b", submitted=1.0, seconds=10.0)
    second = job(**own, submitted=80_000.0, seconds=2 * 3600.0)
    (found,) = advice([first, other, second], [])
    assert (found.longest_seconds, found.minutes) == (22 * 3600, 33 * 60)
    # What came before another end does not count again.
    third = job(**own, submitted=90_000.0, seconds=3600.0)
    (found,) = advice([first, second, third], [])
    assert found.longest_seconds == 22 * 3600
    # Starts that ran out of time without an end: double of all that they took.
    late = job("TIMEOUT", **own, submitted=95_000.0, seconds=20 * 3600.0)
    later = job("TIMEOUT", **own, submitted=99_000.0, seconds=20 * 3600.0)
    assert advice([third, late, later], [])[0].minutes == 80 * 60


@pytest.mark.parametrize("rule", ["train", "tune", "map_sheet"])
def test_no_more_time_is_advised_than_a_job_was_granted_where_it_goes_on(rule: str) -> None:
    own: dict[str, Any] = {"rules": (rule,), "limit_seconds": 86_400.0}
    first = job("TIMEOUT", **own, seconds=86_400.0)
    second = job("TIMEOUT", **own, submitted=90_000.0, seconds=86_400.0)
    third = job(**own, submitted=180_000.0, seconds=43_000.0)
    waits = job("PENDING", **own | {"limit_seconds": 1e9}, submitted=2e5, started=math.nan)
    (found,) = advice([first, second, third, waits], [])
    # 1.5 x (86400 + 86400 + 43000) s
    assert (found.minutes, found.in_all, found.longest_seconds) == (1440, 5395, 215_800)
    lines = resources_yaml([found])
    assert yaml.safe_load(lines)[rule]["runtime"] == 1440
    assert "runtime: 1440  # 5395 in all: each start goes on where the last was\n" in lines
    # One that had no limit could have had all of it.
    free = replace(third, limit_seconds=math.nan)
    (found,) = advice([first, second, free], [])
    assert (found.minutes, found.in_all) == (5395, None)


def test_a_step_that_goes_on_does_not_ask_for_more_at_each_attempt() -> None:
    """As in the rules: a map asks for more, a day of training does not become two."""
    own: dict[str, Any] = {"limit_seconds": 86_400.0, "seconds": 3600.0}
    found = advice([job(**own, rules=(rule,)) for rule in ("train", "tune", "map_sheet")], [])
    asked = {
        rule: lines["runtime"] for rule, lines in yaml.safe_load(resources_yaml(found)).items()
    }
    assert asked == {"train": 90, "tune": 90, "map_sheet": "90 * attempt"}
    memory = {lines["mem_mb"] for lines in yaml.safe_load(resources_yaml(found)).values()}
    assert memory == {"1300 * attempt"}
    for name in ("training", "tuning"):
        rules = (ROOT / "workflows" / f"{name}.smk").read_text("utf-8")
        assert "        runtime=24 * 60,\n" in rules


def test_steps_that_begin_again_took_the_time_of_one_start() -> None:
    first = job("PREEMPTED", number="7", seconds=3000.0)
    second = job(number="7", submitted=4000.0, seconds=600.0)
    (found,) = advice([first, second], [])
    assert (found.longest_seconds, found.minutes) == (600, 15)


def test_without_a_finished_job_there_is_no_advice() -> None:
    failed = [job("FAILED"), job("RUNNING")]
    assert advice(failed, []) == []
    assert unadvised(failed, []) == ["shard"]
    assert yaml.safe_load(resources_yaml([])) is None
    assert resources_yaml([]).endswith("# No step has finished yet.\n")


def test_short_jobs_are_judged_by_snakemake_if_it_saw_more() -> None:
    seen = [Benchmark("shard", "a", 600.0, 2000.0, 600.0)]
    for memory_mb in (math.nan, 100.0, 1000.0):
        (found,) = advice([job(memory_mb=memory_mb)], seen)
        assert found.memory_mb == 3000  # and 500 MB of Snakemake's own
    assert advice([job(memory_mb=2900.0)], seen)[0].memory_mb == 3700  # 1.25 x what SLURM saw


def test_snakemake_has_not_seen_what_srun_started() -> None:
    """Its benchmark is of the program `srun`: nobody knows what the training took."""
    srun = [Benchmark("train", "all", 600.0, 18.0, 0.1), Benchmark("shard", "a", 1.0, 18.0, 1.0)]
    train, shard = advice([], srun)
    assert (train.memory_mb, train.minutes) == (None, 15)
    assert math.isnan(train.peak_mb)
    assert shard.memory_mb == 700
    lines = resources_yaml([train])
    assert yaml.safe_load(lines) == {"train": {"runtime": 15}}
    # Which limits it had is not known either.
    assert (
        "runtime: 15  # no more than your partition allows: each start goes on where the last was\n"
        in lines
    )
    blind = job(rules=("train",), memory_mb=math.nan)
    assert advice([blind], srun)[0].memory_mb is None
    assert advice([replace(blind, memory_mb=8000.0)], srun)[0].memory_mb == 10_000
    silent = Accounting((), "SLURM’s accounting tells nothing of this run: off.")
    data = ReportData("bare", NAMES, COLORS, 0.25, [], benchmarks=srun, accounting=silent)
    _, _, table = page_of(data).partition("What to ask for next time")
    row = re.search('<th scope="row">train</th>.*?15 min', table, re.DOTALL)
    assert row is not None
    assert "MB" not in row[0]


def test_time_of_a_training_that_went_on_is_by_its_own_clock() -> None:
    seen = [Benchmark("train", "all", 600.0, 2000.0, 600.0)]
    rows = [{"step": "1", "seconds": "4000.5"}, {"step": "2", "seconds": "3199.5"}, {"step": "3"}]
    data = ReportData("bare", NAMES, COLORS, 0.25, [], benchmarks=seen, curves=rows)
    assert (data.advice[0].longest_seconds, data.advice[0].minutes) == (7200, 180)
    whole = replace(data, curves=[{"step": "1", "seconds": "590"}])
    assert (whole.advice[0].longest_seconds, whole.advice[0].minutes) == (600, 15)


def test_without_accounting_benchmarks_advise() -> None:
    seen = [
        Benchmark("shard", "a", 600.0, 2000.0, 600.0),
        Benchmark("shard", "b", 700.0, math.nan, 600.0),
        Benchmark("shard", "c", 100.0, 10.0, 600.0),
        Benchmark("tile_plan", "all", 0.3, math.nan, math.nan),
    ]
    found = advice([], seen)
    assert [(a.rule, a.memory_mb, a.minutes, a.accounted) for a in found] == [
        ("shard", 3000, 20, False),
        ("tile_plan", 700, 5, False),
    ]
    assert [a.basis for a in found] == ["3 jobs, by Snakemake", "1 job only, by Snakemake"]
    assert math.isnan(found[0].memory_used)


def test_rules_of_groups_are_advised_by_snakemake(jobs: list[SlurmJob]) -> None:
    found = advice(jobs, [Benchmark("one", "1", 5.0, 100.0, 1.0)])
    assert [(a.rule, a.accounted) for a in found] == [
        ("one", False),
        ("map_sheet", True),
        ("shard", True),
        ("train", True),
    ]
    assert unadvised(jobs, found) == ["two", "report"]


def test_a_group_is_one_whatever_its_members() -> None:
    """Also one of a single rule: it held several of its jobs side by side."""
    command = (
        "sbatch --parsable --export=ALL --comment rule_{} -p cpu -t 8 --mem 500 --requeue "
        "--wrap=python -m snakemake --target-jobs 'check_polygons:s=1' 'check_polygons:s=2' "
        "--allowed-rules {} --local-groupid '07245893-7915' --cores 32 --attempt 1"
    )
    for comment, allowed, group in (
        ("checks_check_polygons", "check_polygons", "checks"),
        ("judging_confusion_evaluation", "evaluation confusion", "judging"),
        ("judging_evaluation", "evaluation", "judging"),
        ("g_a_b_c_d_e_...", "f e d c b a", "g"),
        ("evaluation", "evaluation", ""),
    ):
        found = slurm_accounting._purpose(command.format(comment, allowed))
        assert found == (group, tuple(sorted(allowed.split())), "")
    both = [
        job(group="judging", rules=("confusion", "evaluation")),
        job(group="judging", rules=("evaluation",)),
    ]
    (step,) = step_jobs(both)
    assert (step.step, step.members) == ("judging", ["confusion", "evaluation"])
    assert advice(both, []) == []


def test_jobs_that_dask_has_for_a_shard_count_and_advise_nothing() -> None:
    columns = columns_of("1")
    columns[1:3] = [tile_jobs(Path("run")), "CANCELLED by 0"]
    columns[14] = "sbatch /tmp/tmpx1.sh"
    (tiles,) = found = read_jobs(SEPARATOR.join(columns), job_prefix(Path("run")))
    assert (tiles.step, tiles.rules, tiles.state) == ("tiles", ("shard",), "CANCELLED")
    (step,) = step_jobs(found)
    assert (step.step, step.members, step.cpu_hours) == ("tiles", ["shard"], 10 / 3600)
    assert advice(found, []) == []
    (of_shard,) = advice([*found, job(memory_mb=900.0)], [])
    assert (of_shard.rule, of_shard.jobs, of_shard.peak_mb) == ("shard", 1, 900)


def test_a_step_whose_start_is_not_known_yet() -> None:
    lines = raw(ANSWER).replace("\x1f2026-11-23T12:24:29\x1f2026-11-23T12:24:36\x1f7\x1f\x1f", "\x1fUnknown\x1fUnknown\x1f7\x1f\x1f")  # noqa: E501  # fmt: skip
    assert lines.count("Unknown") > raw(ANSWER).count("Unknown")
    found = one(read_jobs(lines, "tesela-abc_"), "11", "COMPLETED")
    assert found.memory_mb == 10.5 + 2 * 110.5


def test_the_file_is_lines_of_a_profile() -> None:
    text = resources_yaml([Advice("shard", 1700, 35, 4, True, 1300.0, 1300.0)])
    amounts = {"shard": {"mem_mb": "1700 * attempt", "runtime": "35 * attempt"}}
    assert yaml.safe_load(text) == amounts
    assert "\n  shard:  # 4 jobs\n" in text
    assert text.startswith("# Merge line by line below `set-resources:`")
    # Below that line, as they are.
    assert yaml.safe_load(f"set-resources:\n{text}") == {"set-resources": amounts}


@pytest.mark.parametrize("profile", ["slurm", "slurm/accelerated"])
def test_the_file_put_behind_a_profile_takes_nothing_out_of_it(profile: str) -> None:
    """It is no entry of Snakemake's there, and that is refused; GPUs and partitions stay."""
    lines = (ROOT / profile / "config.yaml").read_text("utf-8")
    text = resources_yaml([Advice("train", 1700, 35, 4, True, 1300.0, 1300.0)])
    kept, appended = yaml.safe_load(lines), yaml.safe_load(f"{lines}{text}")
    assert appended["set-resources"] == kept["set-resources"]
    components = appended["group-components"]
    with pytest.raises(TypeError):
        [int(number) for number in components.values()]


# ---- asking -------------------------------------------------------------------------------------


def program(folder: Path, script: str) -> dict[str, str]:
    """An environment in a job of SLURM whose sacct is this script."""
    path = folder / "sacct"
    path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    path.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}


def test_sacct_is_asked_once_for_all_that_is_needed(tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(raw(ANSWER), "utf-8")
    inside = program(
        tmp_path,
        f"echo \"$TZ $@\" > '{tmp_path}/asked'; cat '{tmp_path}/answer'",
    )
    found = accounting("tesela-abc_", 1_700_000_000.0, inside)
    assert (len(found.jobs), found.silence) == (11, "")
    asked = (tmp_path / "asked").read_text("utf-8").strip()
    assert asked == (
        "UTC --noheader --parsable2 --delimiter=\x1f --duplicates --units=M "
        f"--starttime=2023-11-14T22:13:20 --format={','.join(FIELDS)}"
    )
    outside = {key: value for key, value in inside.items() if key != "SLURM_JOB_ID"}
    assert repr(accounting("tesela-abc_", 1_700_000_000.0, outside)) == repr(found)  # NaN


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (
            "echo 'Slurm accounting storage is disabled' >&2; exit 1",
            "`sacct` says “Slurm accounting storage is disabled”.",
        ),
        (
            "echo first >&2; echo 'sacct: error: Connection refused' >&2; exit 1",
            "`sacct` says “Connection refused”.",
        ),
        ("exit 3", "`sacct` says “nothing, and ends with 3”."),
        ("exit 0", "it knows no job whose name begins with `tesela-abc_`."),
        ("echo hello", "`sacct` says “hello”."),
    ],
)
def test_without_accounting_the_reason_is_told_in_a_job_of_slurm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, script: str, why: str
) -> None:
    inside = program(tmp_path, script)
    with caplog.at_level(logging.WARNING):
        found = accounting("tesela-abc_", 0.0, inside)
    assert found == Accounting((), f"SLURM’s accounting tells nothing of this run: {why}")
    assert found.silence in caplog.text
    # Elsewhere a run had nothing to do with SLURM.
    del inside["SLURM_JOB_ID"]
    assert accounting("tesela-abc_", 0.0, inside) == Accounting()


def test_a_missing_or_silent_sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = accounting("tesela-abc_", 0.0, {"PATH": str(tmp_path), "SLURM_JOB_ID": "7"})
    assert "there is no program `sacct` where the report was made" in found.silence
    monkeypatch.setattr(slurm_accounting, "ANSWER", 0.2)
    found = accounting("tesela-abc_", 0.0, program(tmp_path, "exec sleep 5"))
    assert "`sacct` did not answer within 0 s" in found.silence


def test_jobs_of_another_run_in_the_same_folder_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(raw(ANSWER), "utf-8")
    inside = program(tmp_path, f"cat '{tmp_path}/answer'")
    begun = datetime(2026, 11, 23, 12, 24, 29, tzinfo=UTC).timestamp()
    # Its clock may be a little ahead of SLURM's.
    for ahead in (0.0, 3.0):
        found = accounting("tesela-abc_", 0.0, inside, begun + ahead).jobs
        assert [job.number for job in found] == ["11", "15", "19", "20"]
    late = accounting("tesela-abc_", 0.0, inside, begun + 3600)
    assert (late.jobs, "knows no job" in late.silence) == ((), True)


def test_the_run_is_asked_for_since_its_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is kept once: not by the logs, that a later start writes again."""
    asked: list[tuple[float, float]] = []

    def answer(prefix: str, since: float, *, begun: float) -> Accounting:
        asked.append((since, begun))
        return Accounting()

    monkeypatch.setattr(evidence, "accounting", answer)
    settings = config.Settings(
        run=tmp_path / "run", sheets=tmp_path / "s.csv", nomenclature=tmp_path / "n.yaml"
    )
    paths = RunPaths(settings.run)
    before = int(time.time())
    config.claim(settings)
    first = paths.started.read_text("utf-8")
    assert before <= datetime.fromisoformat(first.strip()).timestamp() <= time.time()
    paths.started.write_text("2026-11-23T12:24:29+00:00\n", "utf-8")
    config.claim(settings.model_copy(update={"seed": 99}))
    evidence.read_accounting(paths)
    begun = datetime(2026, 11, 23, 12, 24, 29, tzinfo=UTC).timestamp()
    assert asked == [(begun, begun)]
    paths.started.write_text("soon", "utf-8")
    with pytest.raises(InputError, match="holds no time"):
        evidence.read_accounting(paths)
    # A run that began before this was kept does not begin again.
    paths.started.unlink()
    config.claim(settings)
    assert not paths.started.exists()


def test_an_older_run_is_asked_for_by_its_name_since_its_first_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float]] = []

    def answer(prefix: str, since: float) -> Accounting:
        asked.append((prefix, since))
        return Accounting()

    monkeypatch.setattr(evidence, "accounting", answer)
    paths = RunPaths(tmp_path / "run")
    for path in (paths.log("shard", "a"), paths.benchmark("shard", "a")):
        path.parent.mkdir(parents=True)
        path.write_text("", "utf-8")
    os.utime(paths.log("shard", "a"), (1_700_000_000, 1_700_000_000))
    assert evidence.read_accounting(paths) == Accounting()
    assert asked == [(job_prefix(paths.run), 1_700_000_000 - 86_400)]


# ---- the report ---------------------------------------------------------------------------------


def page_of(data: ReportData) -> str:
    """The page without its drawings, which take long."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(figures, "confusion_panel", lambda *_: b"")
        return render_report(data, {})


def test_the_page_shows_the_jobs_and_the_advice(jobs: list[SlurmJob]) -> None:
    data = replace(full_report(), accounting=Accounting(jobs))
    page = page_of(data)
    assert "11 jobs on the cluster: 5 finished, 2 not yet at their end, 4 otherwise." in page
    assert "2 finished, 1 cancelled, 1 out of memory, 1 requeued, 1 out of time" in page
    assert '<td class="label">1 still running</td>' in page
    assert 'scope="row">pair<small class="members">one, two</small></th>' in page
    assert f"<pre>{resources_yaml(data.advice)}</pre>" in page
    assert "There is no advice where nothing finished was measured: one, two, report." in page
    steps = tables(data)["slurm_steps"].splitlines()
    assert steps[2].startswith(
        "shard,,6,2,0,2 COMPLETED; 1 CANCELLED; 1 OUT_OF_MEMORY; 1 REQUEUED; 1 TIMEOUT,18,7,49,29,"
    )
    listed = tables(data)["slurm_jobs"].splitlines()
    assert len(listed) == 12
    assert listed[1].startswith(
        "1,map_sheet,map_sheet,0722-1,COMPLETED,2026-11-23T12:20:52Z,2026-11-23T12:20:52Z,"
        "2026-11-23T12:20:57Z,0,5,300,1,2,2,"
    )


def test_the_page_of_a_run_without_slurm_is_as_it_was() -> None:
    data = replace(full_report(), accounting=Accounting())
    page = page_of(data)
    assert 'id="compute"' in page
    assert not re.search("accounting|cluster|resources.yaml|next time", page)
    note = "Nothing was accounted for: the run had no jobs of SLURM."
    for name in ("slurm_jobs", "slurm_steps"):
        assert tables(data)[name].splitlines()[1].strip(",") == note


def test_the_page_without_accounting_says_why_and_advises() -> None:
    why = "SLURM’s accounting tells nothing of this run: `sacct` says “off”."
    data = replace(full_report(), accounting=Accounting((), why))
    page = page_of(data)
    assert "this run: <code>sacct</code> says “off”." in page
    assert "mem_mb: 3700 * attempt" in page  # 1.25 x 2500 + 500, to a hundred
    assert why in tables(data)["slurm_jobs"]
    bare = ReportData("bare", NAMES, COLORS, 0.25, [], accounting=Accounting((), why))
    assert "What to ask for next time" not in page_of(bare)
