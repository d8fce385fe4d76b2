"""Interruption: the signals by which a batch system says that a job's time is over."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import psutil

from pipeline.errors import TeselaError

WARNINGS = (signal.SIGUSR1, signal.SIGTERM)
"""SLURM's ``--signal=USR1@120`` before the time limit, and what it sends at the limit, at a
preemption and when a job is cancelled."""

_SECONDS = 30

_early: list[str] = []  # names of the warnings that came before anybody could heed them
_requeued = threading.Event()


class InterruptedWorkError(TeselaError):
    """A batch system ended a step that goes on when it is started again."""

    exit_code = 75  # EX_TEMPFAIL of sysexits: not done, try again


class InterruptedTrainingError(InterruptedWorkError):
    """A training that goes on behind its last step."""


class InterruptedMapError(InterruptedWorkError):
    """A map that goes on behind its last whole row of blocks."""


class Interruption:
    """Notes a warning, so that work ends between two of its parts and not inside one.

    Attributes:
        signal: Name of the signal that came; empty until one does.
    """

    def __init__(self) -> None:
        self.signal = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        # Python delivers signals to its main thread only.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in WARNINGS}
            self.signal = self.signal or "".join(_early[:1])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name


def note_warnings() -> None:
    """From now on a SIGUSR1 does not end this process: whoever heeds it later learns of it.

    A step that heeds none has as much time as it had without the warning.
    """
    signal.signal(signal.SIGUSR1, lambda *_: _early.append(signal.SIGUSR1.name))


def pass_on_warnings() -> None:
    """Inside a SLURM job, let Snakemake hand the warnings on to the steps that it runs.

    SLURM signals the processes that it has started itself, and with control groups no other: that
    is Snakemake, which would die of a SIGUSR1, and on SIGTERM waits for a step that knows nothing.
    """
    if "SLURM_JOB_ID" not in os.environ:
        return
    signal.signal(signal.SIGUSR1, lambda *_: None)
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    # Not by a handler of SIGTERM: Snakemake sets its own, later.
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    threading.Thread(target=_pass_on, args=(reads,), name="warnings", daemon=True).start()


def _pass_on(reads: int) -> None:
    while told := os.read(reads, 1):
        if told[0] not in WARNINGS:
            continue
        for step in _steps(psutil.Process()):
            with suppress(psutil.Error, OSError):
                _warn(step, told[0])


def _steps(process: psutil.Process) -> Iterator[psutil.Process]:
    """The steps that a process runs; what a step has started, by fork even, is the step's own."""
    with suppress(psutil.Error):
        for child in process.children():
            with suppress(psutil.Error):
                if child.cmdline()[1:3] == ["-m", "pipeline"]:
                    yield child
                else:
                    yield from _steps(child)


def _warn(process: psutil.Process, number: int) -> None:
    """Send a step a warning; a SIGUSR1 once it would not die of it any more."""
    deadline = time.monotonic() + _SECONDS
    while number == signal.SIGUSR1 and not _heeds(process.pid, number):
        if time.monotonic() > deadline:
            return
        time.sleep(0.1)
    process.send_signal(number)


def _heeds(process: int, number: int) -> bool:
    """Whether a process of this machine has a handler for a signal."""
    for line in Path(f"/proc/{process}/status").read_text("ascii", "replace").splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def is_leaving() -> bool:
    """Whether this process has asked for a requeue: it ends by itself, and need not be told to."""
    return _requeued.is_set()


def ask_for_requeue(*, further: bool = True) -> str:
    """Ask SLURM to start this job again, unless it is ending the job for another reason.

    A job that was cancelled would come back to life, and one that is out of time would run beside
    the one with more time that Snakemake submits.

    Args:
        further: Whether the step was warned of its time limit and has come further since it was
            started. If not, only a preempted job is started again: one that has too little time
            would be for ever, and a SIGTERM may be of somebody's own script, or terminal, that is
            not to be started from its first line.

    Returns:
        What came of it, in words; empty outside SLURM.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job:
        return ""
    try:
        known = _known(job)
        if known["JobState"] != "RUNNING":
            return f"SLURM is ending job {job}, so it is not asked to start it again."
        if not further and known.get("PreemptTime", "None") == "None":
            return f"Job {job} is not preempted, so SLURM is not asked to start it again."
        _requeued.set()  # SLURM's SIGTERM may come before its answer
        _scontrol("requeue", _name(known))
    except (OSError, subprocess.SubprocessError, KeyError) as error:
        _requeued.clear()
        said = getattr(error, "stderr", None) or str(error)
        return f"SLURM did not requeue job {job}: {said.strip()}"
    return f"SLURM starts job {job} again."


def _known(job: str) -> Mapping[str, str]:
    """What SLURM knows of a job, by name."""
    # The last task of an array has the number of the whole array, and is one line of several.
    for line in _scontrol("show", "job", job, "--oneliner").splitlines():
        known = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if known.get("JobId") == job:
            return known
    raise KeyError(f"JobId={job}")


def _name(known: Mapping[str, str]) -> str:
    """By which a job is requeued: with the number of the whole array, all its tasks would be."""
    if "ArrayTaskId" in known:
        return f"{known['ArrayJobId']}_{known['ArrayTaskId']}"
    return known["JobId"]


def _scontrol(*arguments: str) -> str:
    done = subprocess.run(
        ["scontrol", *arguments], capture_output=True, text=True, check=True, timeout=_SECONDS
    )
    return done.stdout
