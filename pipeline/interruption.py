"""Interruption: the signals by which a batch system says that a job's time is over."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from types import FrameType, TracebackType
from typing import Any

from pipeline.errors import TeselaError

WARNINGS = (signal.SIGUSR1, signal.SIGTERM)
"""SLURM's ``--signal=USR1@120`` before the time limit, and what it sends at the limit, at a
preemption and when a job is cancelled."""

_SECONDS = 30

logger = logging.getLogger(__name__)


class InterruptedTrainingError(TeselaError):
    """A batch system ended a training that goes on when it is started again."""

    exit_code = 75  # EX_TEMPFAIL of sysexits: not done, try again


class Interruption:
    """Notes a warning, so that training ends behind a step and not inside it.

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


def ask_for_requeue() -> str:
    """Ask SLURM to start this job again, unless somebody has cancelled it.

    Returns:
        What came of it, in words; empty outside SLURM.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job:
        return ""
    try:
        state = _scontrol("show", "job", job, "--oneliner")
        if "JobState=CANCELLED" in state:
            return f"Job {job} was cancelled and is not requeued."
        _scontrol("requeue", job)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return f"SLURM did not requeue job {job}: {said.strip()}"
    return f"SLURM starts job {job} again."


def _scontrol(*arguments: str) -> str:
    done = subprocess.run(
        ["scontrol", *arguments], capture_output=True, text=True, check=True, timeout=_SECONDS
    )
    return done.stdout
