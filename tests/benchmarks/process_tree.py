"""Peak memory of a process and all that descend from it, sampled while they run.

Not ``ru_maxrss``: a child begins with its parent's.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

INTERVAL = 0.05
"""Seconds from one sample to the next."""

_KIB = 1024


@dataclass
class TreePeak:
    """Highest memory seen, in bytes.

    Attributes:
        tree: Sum over the processes of the tree at one time: Pss, which counts a shared page once.
        process: Largest ``VmHWM`` of a single process, which misses nothing between two samples.
        processes: Most processes at one time.
        each: ``VmHWM`` of each process, by its number.
    """

    tree: int = 0
    process: int = 0
    processes: int = 0
    each: dict[int, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The peak: the larger of both."""
        return max(self.tree, self.process)


class TreeMonitor:
    """Samples a process tree in a thread of its own until it is closed.

    Args:
        pid: The root. It runs already what it is to be measured by (it is past ``exec``).
    """

    def __init__(self, pid: int) -> None:
        self.peak = TreePeak()
        self._known = {pid}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch(self) -> None:
        while True:
            self._sample()
            if self._stop.wait(INTERVAL):
                return

    def _sample(self) -> None:
        waiting, resident = list(self._known), {}
        seen = set(waiting)
        while waiting:
            pid = waiting.pop()
            found = _resident(pid)
            if found is None:  # gone; one that lost its parent is still known by its number
                self._known.discard(pid)
                continue
            resident[pid], high = found
            self.peak.each[pid] = max(high, self.peak.each.get(pid, 0))
            children = set(_children(pid)) - seen
            seen |= children
            self._known |= children
            waiting += children
        self.peak.processes = max(self.peak.processes, len(resident))
        self.peak.process = max([self.peak.process, *self.peak.each.values()])
        # Pss walks the page tables, 10 ms a GB: only where it can be a new peak, being at most Rss.
        if sum(resident.values()) > 1.02 * self.peak.tree:
            self.peak.tree = max(self.peak.tree, sum(map(_shared_out, resident)))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text("ascii").split())
    except OSError:  # ended meanwhile
        return found
    return found


def _resident(pid: int) -> tuple[int, int] | None:
    """Rss and its highest value so far, in bytes; None where the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:
        return None
    if "VmRSS:" not in status:
        return None
    return _kib(status, "VmRSS:"), _kib(status, "VmHWM:")


def _shared_out(pid: int) -> int:
    """Pss in bytes; 0 where the process has ended."""
    try:
        return _kib(Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8"), "\nPss:")
    except OSError:
        return 0


def _kib(text: str, key: str) -> int:
    return int(text.split(key, 1)[1].split(None, 1)[0]) * _KIB
