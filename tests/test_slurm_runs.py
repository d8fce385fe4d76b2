"""Jobs of a run, by their names, with SLURM's commands played by scripts."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.slurm_runs import (
    Executor,
    Persistence,
    Scheduler,
    end_orphans,
    job_prefix,
    name_jobs,
)

SQUEUE = """#!/bin/sh
[ "$*" = "--me --noheader --format=%A|%j|%Z" ] || exit 2
[ -e "$QUEUE" ] || { echo "Unable to contact slurm controller" >&2; exit 1; }
cat "$QUEUE"
"""
SCANCEL = """#!/bin/sh
echo "$@" >> "$QUEUE.cancelled"
[ -e "$QUEUE.deaf" ] && exit 0
for job; do sed -i "/^$job|/d" "$QUEUE"; done
"""


class _Log(logging.Logger):
    """Remembers what was said."""

    def __init__(self) -> None:
        super().__init__("snakemake")
        self.said: list[str] = []
        self.warned: list[str] = []

    def handle(self, record: logging.LogRecord) -> None:
        (self.said if record.levelno < logging.WARNING else self.warned).append(record.getMessage())


@dataclass
class _Executor:
    logger: logging.Logger = field(default_factory=_Log)
    run_uuid: str = "4711"


class _SlurmExecutor(_Executor):
    """As Snakemake's plugin makes it."""


_SlurmExecutor.__module__ = "snakemake_executor_plugin_slurm"


@dataclass
class _Scheduler:
    _executor: Executor


@dataclass
class _Persistence:
    path: Path
    _lockfile: dict[str, str] = field(default_factory=dict)

    def lock(self, number: int = 0) -> None:
        (self.path / "locks").mkdir(exist_ok=True)
        for kind in ("input", "output"):
            self._lockfile[kind] = f"{self.path.name}/locks/{number}.{kind}.lock"
            Path(self._lockfile[kind]).touch()


@dataclass
class _Workflow:
    scheduler: Scheduler
    persistence: Persistence


@pytest.fixture
def log() -> _Log:
    return _Log()


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Persistence:
    """Those of this start of Snakemake, and no others."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake").mkdir()
    made = _Persistence(tmp_path / ".snakemake")
    made.lock()
    return made


@pytest.fixture
def workflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: _Log, locks: _Persistence
) -> _Workflow:
    """A start of Snakemake that has locked its folder, where two jobs of an earlier one run."""
    for name, script in (("squeue", SQUEUE), ("scancel", SCANCEL)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(script, "utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("QUEUE", str(tmp_path / "queue"))
    return _Workflow(_Scheduler(_SlurmExecutor(log)), locks)


@pytest.fixture
def queue(tmp_path: Path, workflow: _Workflow) -> Path:
    """Jobs 11 and 12 are of the run; the others are of somebody or something else."""
    own, other = job_prefix(Path("run/a")), job_prefix(Path("run/b"))
    lines = [
        f"11|{own}_old|{tmp_path}",
        f"12|{own}_older|{tmp_path}",
        f"13|{other}_old|{tmp_path}",
        f"14|{own}_old|{tmp_path / 'elsewhere'}",
        f"15|{own}|{tmp_path}",
        f"16|jupyter|{tmp_path}",
    ]
    path = tmp_path / "queue"
    path.write_text("\n".join([*lines, ""]), "utf-8")
    return path


def test_names_begin_with_the_run_wherever_it_is_named_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert job_prefix(Path("run/a")) == job_prefix(tmp_path / "run" / "a")
    assert job_prefix(Path("run/a")) != job_prefix(Path("run/b"))
    assert len(job_prefix(Path("run/a"))) == len("tesela-1a2b3c4d")


def test_only_jobs_of_slurm_are_named(workflow: _Workflow) -> None:
    name_jobs(workflow, Path("run/a"))
    assert workflow.scheduler._executor.run_uuid == f"{job_prefix(Path('run/a'))}_4711"
    workflow.scheduler._executor = _Executor()
    name_jobs(workflow, Path("run/a"))
    assert workflow.scheduler._executor.run_uuid == "4711"


def test_jobs_of_an_earlier_start_are_cancelled_and_no_others(
    workflow: _Workflow, queue: Path, log: _Log
) -> None:
    end_orphans(workflow, Path("run/a"))
    assert _cancelled(queue) == ["11 12"]
    assert [line.split("|")[0] for line in queue.read_text("utf-8").splitlines()] == [
        "13", "14", "15", "16",
    ]  # fmt: skip
    assert log.said == ["Cancelling jobs of an earlier start of this run: 11, 12"]
    assert log.warned == []


def test_a_run_without_earlier_jobs_says_nothing(
    workflow: _Workflow, queue: Path, log: _Log
) -> None:
    end_orphans(workflow, Path("run/c"))
    assert (_cancelled(queue), log.said, log.warned) == ([], [], [])


def test_without_slurm_nobody_asks_for_jobs(workflow: _Workflow, log: _Log) -> None:
    workflow.scheduler._executor = _Executor(log)  # squeue would fail: there is no queue
    end_orphans(workflow, Path("run/a"))
    assert (log.said, log.warned) == ([], [])


@pytest.mark.parametrize("how", ["another's lock", "no lock", "a database of locks"])
def test_jobs_of_a_snakemake_that_may_be_alive_are_left_alone(
    workflow: _Workflow, locks: _Persistence, queue: Path, log: _Log, how: str
) -> None:
    if how == "another's lock":
        (locks.path / "locks" / "1.output.lock").touch()
    elif how == "no lock":
        locks._lockfile.clear()
    else:
        del locks._lockfile
    end_orphans(workflow, Path("run/a"))
    assert _cancelled(queue) == []
    assert log.warned == [
        "There are jobs of an earlier start of this run: 11, 12. They are left alone: their "
        "Snakemake may be alive."
    ]


def test_jobs_that_do_not_end_are_told_and_waited_for_no_longer(
    workflow: _Workflow, queue: Path, log: _Log
) -> None:
    queue.with_name("queue.deaf").touch()
    end_orphans(workflow, Path("run/a"), seconds=0.1)
    assert log.warned == [
        "Not ended within 0 s: 11, 12. Going on: their files are whole, but their work is done "
        "twice."
    ]


def test_a_slurm_that_does_not_answer_is_told_and_the_run_goes_on(
    workflow: _Workflow, log: _Log
) -> None:
    end_orphans(workflow, Path("run/a"))
    prefix = job_prefix(Path("run/a"))
    assert log.warned == [
        "SLURM does not say whether jobs of an earlier start of this run are left (Unable to "
        "contact slurm controller). If Snakemake was killed: squeue --me, and scancel those "
        f"named {prefix}_..."
    ]


def _cancelled(queue: Path) -> list[str]:
    told = queue.with_name("queue.cancelled")
    return told.read_text("utf-8").splitlines() if told.exists() else []
