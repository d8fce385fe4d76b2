"""Jobs of a run, by their names, with SLURM's commands played by scripts."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.heartbeats import this_process
from pipeline.slurm_runs import begin, end_orphans, finish, job_prefix, tile_jobs
from pipeline.snakemake_start import Executor, Scheduler

RUN = Path("run/a")

SQUEUE = """#!/bin/sh
[ "$*" = "--me --noheader --format=%A|%j" ] || exit 2
[ -e "$QUEUE" ] || { echo "Unable to contact slurm controller" >&2; exit 1; }
cat "$QUEUE"
"""
SCANCEL = """#!/bin/sh
echo "$@" >> "$QUEUE.cancelled"
[ -e "$QUEUE.deaf" ] && exit 0
sed -i "/|${1#--name=}$/d" "$QUEUE"
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
class _Workflow:
    scheduler: Scheduler


@pytest.fixture
def log() -> _Log:
    return _Log()


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: _Log) -> _Workflow:
    """A start of Snakemake on SLURM in a folder of its own."""
    for name, script in (("squeue", SQUEUE), ("scancel", SCANCEL)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(script, "utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("QUEUE", str(tmp_path / "queue"))
    monkeypatch.setitem(sys.modules, _SlurmExecutor.__module__, ModuleType("plugin"))
    monkeypatch.setattr(sys.modules[_SlurmExecutor.__module__], "query_job_status", None, False)
    monkeypatch.chdir(tmp_path)
    return _Workflow(_Scheduler(_SlurmExecutor(log)))


@pytest.fixture
def queue(tmp_path: Path, workflow: _Workflow) -> Path:
    """Jobs 11, 12 and 13 are of two starts of the run; the others are of something else."""
    own, other = job_prefix(RUN), job_prefix(Path("run/b"))
    lines = [
        f"13|{own}_older",
        f"11|{own}_old",
        f"12|{own}_old",
        f"14|{other}_old",
        f"15|{own}",
        "16|jupyter",
    ]
    path = tmp_path / "queue"
    path.write_text("\n".join([*lines, ""]), "utf-8")
    return path


@pytest.fixture
def another(workflow: _Workflow) -> Iterator[subprocess.Popen[str]]:
    """A living Snakemake: the start ``old`` of the run."""
    script = (
        "import json, sys\n"
        "from pipeline.heartbeats import this_process\n"
        "print(json.dumps(this_process()), flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        _written("old", process.stdout.readline())
        yield process
    finally:
        process.kill()
        process.communicate()


def test_names_begin_with_the_run_wherever_it_is_named_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert job_prefix(RUN) == job_prefix(tmp_path / "run" / "a")
    assert job_prefix(RUN) != job_prefix(Path("run/b"))
    assert len(job_prefix(RUN)) == len("tesela-1a2b3c4d")


def test_a_start_on_slurm_names_its_jobs_and_its_process_until_it_ends(
    workflow: _Workflow, queue: Path
) -> None:
    begin(workflow, RUN)
    assert workflow.scheduler._executor.run_uuid == f"{job_prefix(RUN)}_4711"
    assert json.loads((RUN / ".starts" / "4711").read_text("utf-8"))["pid"] == os.getpid()
    assert _starts() == ["4711"]
    finish(workflow, RUN)
    assert _starts() == []


def test_a_start_that_leaves_jobs_behind_stays_known(workflow: _Workflow, queue: Path) -> None:
    begin(workflow, RUN)
    with queue.open("a", encoding="utf-8") as file:
        file.write(f"17|{job_prefix(RUN)}_4711\n")
    finish(workflow, RUN)
    assert _starts() == ["4711"]
    queue.unlink()  # SLURM does not answer
    finish(workflow, RUN)
    assert _starts() == ["4711"]


def test_without_slurm_nothing_is_done(workflow: _Workflow, log: _Log) -> None:
    workflow.scheduler._executor = _Executor(log)  # squeue would fail: there is no queue
    end_orphans(workflow, RUN)
    begin(workflow, RUN)
    finish(workflow, RUN)
    assert workflow.scheduler._executor.run_uuid == "4711"
    assert (log.said, log.warned, _starts()) == ([], [], [])


def test_jobs_of_a_killed_start_are_cancelled_and_no_others(
    workflow: _Workflow, queue: Path, log: _Log, another: subprocess.Popen[str]
) -> None:
    queue.write_text(queue.read_text("utf-8").replace("_older", "_4710"), "utf-8")
    _written("4710", json.dumps({**_told("old"), "host": "login2"}))
    another.kill()
    another.wait()
    end_orphans(workflow, RUN)
    prefix = job_prefix(RUN)
    assert _cancelled(queue) == [f"--name={prefix}_old"]
    assert _left(queue) == ["13", "14", "15", "16"]
    assert log.said == ["Cancelling jobs of an earlier start of this run: 11, 12"]
    assert log.warned == [_left_alone("13", f"scancel --name={prefix}_4710")]
    assert _starts() == ["4710"]  # the killed one is forgotten with its jobs


def test_jobs_of_tiles_are_of_no_start(
    workflow: _Workflow, queue: Path, log: _Log, another: subprocess.Popen[str]
) -> None:
    """They end with their step: nothing waits for them, warns of them or cancels them."""
    queue.write_text(f"18|{tile_jobs(RUN)}\n", "utf-8")
    another.kill()
    another.wait()
    end_orphans(workflow, RUN)
    begin(workflow, RUN)
    finish(workflow, RUN)
    assert (_cancelled(queue), log.said, log.warned, _starts()) == ([], [], [], [])


def test_jobs_of_a_living_start_are_left_alone_whatever_became_of_the_locks(
    workflow: _Workflow, queue: Path, log: _Log, another: subprocess.Popen[str]
) -> None:
    queue.write_text("".join(queue.read_text("utf-8").splitlines(True)[1:]), "utf-8")
    end_orphans(workflow, RUN)
    assert (_cancelled(queue), log.said, log.warned, _starts()) == ([], [], [], ["old"])


def test_a_process_that_has_got_the_number_of_a_killed_start_is_not_it(
    workflow: _Workflow, queue: Path, another: subprocess.Popen[str]
) -> None:
    told = _told("old")
    _written("old", json.dumps({**told, "began": told["began"] - 100}))
    end_orphans(workflow, RUN)
    assert _cancelled(queue) == [f"--name={job_prefix(RUN)}_old"]


@pytest.mark.parametrize("file", ["", "{", None, "{}", "null", "[1]", "processes", "pid"])
def test_jobs_of_which_nothing_is_known_are_left_alone_and_named(
    workflow: _Workflow, queue: Path, log: _Log, file: str | None
) -> None:
    if file in ("processes", "pid"):
        file = json.dumps({**this_process(), file: "ours"})
    if file is not None:
        _written("old", file)
    end_orphans(workflow, RUN)
    prefix = job_prefix(RUN)
    assert _cancelled(queue) == []
    assert log.warned == [
        _left_alone("11, 12, 13", f"scancel --name={prefix}_old && scancel --name={prefix}_older")
    ]


def test_a_killed_start_without_jobs_is_forgotten(
    workflow: _Workflow, queue: Path, log: _Log, another: subprocess.Popen[str]
) -> None:
    another.kill()
    another.wait()
    queue.write_text("16|jupyter\n", "utf-8")
    _written(".4710.draft-login2-7-abc", "")
    end_orphans(workflow, RUN)
    assert (_cancelled(queue), log.said, log.warned) == ([], [], [])
    assert _starts() == [".4710.draft-login2-7-abc"]


def test_jobs_that_do_not_end_are_told_and_waited_for_no_longer(
    workflow: _Workflow, queue: Path, log: _Log, another: subprocess.Popen[str]
) -> None:
    another.kill()
    another.wait()
    queue.write_text(f"11|{job_prefix(RUN)}_old\n", "utf-8")
    queue.with_name("queue.deaf").touch()
    end_orphans(workflow, RUN, seconds=0.1)
    assert log.warned == [
        "Not ended within 0 s: 11. Going on: their files are whole, but their work is done twice."
    ]
    assert _starts() == ["old"]  # for the next start to try again


def test_a_slurm_that_does_not_answer_is_told_and_the_run_goes_on(
    workflow: _Workflow, log: _Log, another: subprocess.Popen[str]
) -> None:
    another.kill()
    another.wait()
    end_orphans(workflow, RUN)
    assert log.warned == [
        "SLURM does not say whether jobs of an earlier start of this run are left (Unable to "
        "contact slurm controller). If Snakemake was killed: squeue --me, and scancel those "
        f"named {job_prefix(RUN)}_..."
    ]
    assert _starts() == ["old"]


def _left_alone(jobs: str, commands: str) -> str:
    return (
        f"Jobs of another start of this run are left alone: {jobs}. Nothing on this machine tells "
        "whether their Snakemake has ended. If it has, cancel them, or their work is done twice: "
        f"{commands}"
    )


def _written(start: str, text: str) -> None:
    (RUN / ".starts").mkdir(parents=True, exist_ok=True)
    (RUN / ".starts" / start).write_text(text, "utf-8")


def _told(start: str) -> dict[str, float]:
    told: dict[str, float] = json.loads((RUN / ".starts" / start).read_text("utf-8"))
    return told


def _starts() -> list[str]:
    return sorted(path.name for path in (RUN / ".starts").glob("*"))


def _left(queue: Path) -> list[str]:
    return [line.split("|")[0] for line in queue.read_text("utf-8").splitlines()]


def _cancelled(queue: Path) -> list[str]:
    told = queue.with_name("queue.cancelled")
    return told.read_text("utf-8").splitlines() if told.exists() else []
