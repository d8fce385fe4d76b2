"""Warnings of a batch system: who heeds them, and when a job is asked to start again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline import interruption
from pipeline.interruption import Interruption, ask_for_requeue
from tests.test_tune import opened, settings_file
from tests.test_tuning import states

RUNNING = "JobId=17 JobName=train JobState=RUNNING Reason=None PreemptTime=None"
PREEMPTED = RUNNING.replace("PreemptTime=None", "PreemptTime=2026-01-02T03:04:05")
ARRAY = """\
JobId=17 ArrayJobId=17 ArrayTaskId=9 JobState=RUNNING PreemptTime=None
JobId=16 ArrayJobId=17 ArrayTaskId=8 JobState=RUNNING PreemptTime=None
"""

AGAIN = "SLURM starts job 17 again."
ENDING = "SLURM is ending job 17, so it is not asked to start it again."
STUCK = "Job 17 is not preempted, so SLURM is not asked to start it again."


@pytest.fixture
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in interruption.WARNINGS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _not_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(interruption, "_early", [])
    yield
    interruption._requeued.clear()


@pytest.mark.parametrize(
    ("told", "further", "answer", "requeued"),
    [
        (RUNNING, True, AGAIN, ["17"]),
        (RUNNING, False, STUCK, []),
        (PREEMPTED, True, AGAIN, ["17"]),
        (PREEMPTED, False, AGAIN, ["17"]),
        # What SLURM says of a job that was cancelled or is out of time.
        (RUNNING.replace("RUNNING", "COMPLETING"), True, ENDING, []),
        (RUNNING.replace("RUNNING", "CANCELLED"), True, ENDING, []),
        # The last task has the number of the array, and with it all tasks would be requeued.
        (ARRAY, True, AGAIN, ["17_9"]),
    ],
)
def test_a_job_is_requeued_unless_slurm_ends_it_or_it_is_stuck(
    monkeypatch: pytest.MonkeyPatch, told: str, further: bool, answer: str, requeued: list[str]
) -> None:
    asked: list[str] = []

    def scontrol(*arguments: str) -> str:
        if arguments[0] == "show":
            assert arguments == ("show", "job", "17", "--oneliner")
            return told
        assert arguments[0] == "requeue"
        asked.extend(arguments[1:])
        return ""

    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setattr(interruption, "_scontrol", scontrol)
    assert ask_for_requeue(further=further) == answer
    assert asked == requeued
    assert interruption.is_leaving() == bool(requeued)


def test_outside_slurm_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(interruption, "_scontrol", lambda *_: pytest.fail("asked"))
    assert ask_for_requeue() == ""


def test_what_slurm_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def scontrol(*arguments: str) -> str:
        if arguments[0] == "show":
            return RUNNING
        raise subprocess.CalledProcessError(1, "scontrol", stderr="Job may not be requeued\n")

    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setattr(interruption, "_scontrol", scontrol)
    assert ask_for_requeue() == "SLURM did not requeue job 17: Job may not be requeued"
    assert not interruption.is_leaving()
    monkeypatch.setattr(interruption, "_scontrol", lambda *_: "")
    assert ask_for_requeue() == "SLURM did not requeue job 17: 'JobId=17'"


@pytest.mark.usefixtures("_signals")
def test_a_warning_that_comes_too_early_is_heeded_later() -> None:
    interruption.note_warnings()
    os.kill(os.getpid(), signal.SIGUSR1)
    with Interruption() as warned:
        assert warned.signal == "SIGUSR1"
    with Interruption() as warned:
        os.kill(os.getpid(), signal.SIGTERM)
        assert warned.signal == "SIGTERM"


@pytest.mark.parametrize("number", interruption.WARNINGS)
def test_snakemake_hands_warnings_on_to_its_step_inside_a_job(
    tmp_path: Path, number: signal.Signals
) -> None:
    """With a handler of SIGTERM that is set later, as Snakemake's is; other children get none.

    Neither does what a step has forked, whose command line is the step's.
    """
    package = tmp_path / "pipeline"
    package.mkdir()
    (package / "__main__.py").write_text(
        "import os, signal, sys, time\n"
        "time.sleep(1)\n"  # not ready yet: a SIGUSR1 would be the end
        "name = 'step' if os.fork() else 'forked'\n"
        "for n in (signal.SIGUSR1, signal.SIGTERM):\n"
        "    signal.signal(n, lambda n, _: sys.exit(f'{name}: {signal.Signals(n).name}'))\n"
        "if name == 'forked':\n"
        "    time.sleep(4)\n"
        "    os._exit(0)\n"
        "try:\n"
        "    time.sleep(30)\n"
        "finally:\n"
        "    os.wait()\n",
        "utf-8",
    )
    program = (
        "import os, signal, subprocess, sys, time\n"
        "from pipeline import interruption\n"
        "interruption.pass_on_warnings()\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        f"step = subprocess.Popen([sys.executable, '-m', 'pipeline'], cwd={str(tmp_path)!r})\n"
        "other = subprocess.Popen(['sleep', '30'])\n"
        f"time.sleep({0.3 if number == signal.SIGUSR1 else 3})\n"
        f"os.kill(os.getpid(), {int(number)})\n"
        "print(step.wait(), other.poll())\n"
        "other.kill()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"SLURM_JOB_ID": "17"}, cwd=Path(interruption.__file__).parents[1],
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("1 None\n", f"step: {number.name}\n")


@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_step_whose_workers_are_signalled_too_can_be_gone_on_with(
    tmp_path: Path, command: str
) -> None:
    """SLURM's SIGTERM goes to all processes of a job, and a trial is not failed by it."""
    path = settings_file(
        tmp_path,
        training={"epochs": 5000, "patience": 5000, "workers": 1, "sample_tiles": 0},
        tuning={"trials": 1, "space": {"training.learning_rate": [0.001]}},
    )  # fmt: skip
    paths = opened(path).paths
    folder = paths.models if command == "train" else paths.trial(0)
    step = subprocess.Popen(
        [sys.executable, "-m", "pipeline", command, "--config", str(path)],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(interruption.__file__).parents[1],
    )  # fmt: skip
    with step:
        deadline = time.monotonic() + 120
        while not (folder / "curves.csv").exists():
            assert step.poll() is None, step.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        workers = psutil.Process(step.pid).children(recursive=True)
        assert workers
        for pid in (*(worker.pid for worker in workers), step.pid):
            os.kill(pid, signal.SIGTERM)
        _, told = step.communicate(timeout=60)
    assert step.returncode == 75, told
    assert "Training was interrupted (SIGTERM) after " in told
    assert (folder / "last.ckpt").exists()
    if command == "tune":
        assert states(paths.tuning) == ["RUNNING"]
    assert not psutil.wait_procs(workers, timeout=30)[1]


@pytest.mark.usefixtures("_signals")
def test_outside_a_job_snakemake_keeps_its_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    interruption.pass_on_warnings()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("told", "says", "asked"),
    [
        (PREEMPTED, AGAIN, ["requeue 17"]),
        (RUNNING, STUCK, []),
    ],
)
def test_any_step_that_is_preempted_asks_for_another_start(
    tmp_path: Path, told: str, says: str, asked: list[str]
) -> None:
    """SIGUSR1 alone ends none: it has no checkpoint, and may well be done in time."""
    scontrol = tmp_path / "scontrol"
    # Like SLURM, which ends a job that it requeues: the step must get its word in.
    scontrol.write_text(
        f'#!/bin/sh\ntest "$1" = show && echo "{told}" && exit\n'
        f"echo \"$@\" >> '{tmp_path}/asked'\nkill -TERM $PPID\n",
        "utf-8",
    )
    scontrol.chmod(0o755)
    program = (
        "import os, signal\n"
        "from pipeline import cli\n"
        "class App:\n"
        "  registered_commands = ()\n"
        "  def __call__(self, **_):\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    print('went on', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "cli.app = App()\n"
        "cli.main()\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"PATH": path, "SLURM_JOB_ID": "17"},
        cwd=Path(interruption.__file__).parents[1],
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (143, "went on\n", f"{says}\n")
    found = tmp_path / "asked"
    assert (found.read_text("utf-8").splitlines() if found.exists() else []) == asked
