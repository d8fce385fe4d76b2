"""Signs of life of processes on many nodes that share a folder.

Optuna's own heartbeats need a database server. A file whose time of change moves on needs a shared
folder only: whether it moves is seen without comparing the clocks of two nodes.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Hashable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import psutil

BEAT = 20.0
"""Seconds between two signs of life."""

GRACE = 180.0
"""Seconds without one after which a process is taken for dead: NFS shows changes 60 s late."""

State = Literal["alive", "unknown", "gone"]

logger = logging.getLogger(__name__)


def this_process() -> dict[str, Any]:
    """What tells this process from all others, on this host and elsewhere."""
    me = psutil.Process()
    return {**_host(), "pid": me.pid, "began": round(_began(me), 1)}


def has_ended(process: Mapping[str, Any]) -> bool:
    """Whether a process, as :func:`this_process` tells it, was one of this host and has ended."""
    if any(process[key] != value for key, value in _host().items()):
        return False
    try:
        other = psutil.Process(process["pid"])
        # The number may be another process's by now.
        return abs(_began(other) - process["began"]) > 1 or not other.is_running()
    except psutil.NoSuchProcess:
        return True


class Heartbeat:
    """Touches a file as long as it is entered.

    Args:
        path: The file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        touch(self._path)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                touch(self._path)
            except OSError as error:
                # The next one may get through; the work itself goes on.
                logger.warning("%s: no sign of life could be given (%s)", self._path, error)


class Watch:
    """What one process has seen of the others' signs of life."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[int, float, bool]] = {}

    def state(self, key: Hashable, path: Path) -> State:
        """Whether a process lives, as far as it was watched.

        Args:
            key: The process; another one with the same file is watched anew.
            path: The file that it touches.

        Returns:
            ``alive`` if the file has changed since it was first looked at, ``gone`` if it has not
            for a long time, else ``unknown``.
        """
        now, beat = time.monotonic(), _last(path)
        before, since, moved = self._seen.get(key, (beat, now, False))
        if beat != before:
            since, moved = now, True
        self._seen[key] = (beat, since, moved)
        if now - since > GRACE:
            return "gone"
        return "alive" if moved else "unknown"


def _began(process: psutil.Process) -> float:
    # Seconds after the start of the machine, which are the same when its clock has been set.
    return process.create_time() - psutil.boot_time()


def _host() -> dict[str, Any]:
    # Containers on one node may have its name, and do not see each other's processes.
    numbers = Path("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        "processes": str(numbers.readlink()) if numbers.is_symlink() else "",
    }


def touch(path: Path) -> None:
    """Give one sign of life."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _last(path: Path) -> int:
    # Opened, not only asked after: NFS looks at the server's copy when a file is opened.
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return -1
