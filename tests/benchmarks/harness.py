"""What a benchmark is, and how one is measured.

Measured work runs in a process of its own. Before each run the files that it reads are read once,
untimed, and what was written before is on the disk: the state of the page cache is the same for
all. Runs of a benchmark alternate.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tests.benchmarks.machine import ROOT
from tests.benchmarks.process_tree import TreeMonitor

# Of this environment: the system's GDAL and a peer's interpreter have their own.
_OURS = ("PYTHONPATH", "GDAL_DATA", "PROJ_DATA", "PROJ_LIB", "GDAL_DRIVER_PATH")


@dataclass(frozen=True)
class Setup:
    """What is asked for.

    Attributes:
        folder: Inputs and results; full-size ones take 25 GB.
        size: Columns and rows of the sheet.
        repeat: Runs of each.
        threads: Threads, or cores, of both sides.
        peers: Python of an environment with ``peers.txt``; None where there is none.
        imagery: Folder of real orthophotos (TIFF, in any subfolder); None where there is none.
        peer_share: Share of the sheet's rows that slow peers do.
        polygons: Polygons of a full sheet; of a smaller one the same density.
        province: Polygons of the base of ``class_proportions``.
        keep: Whether prepared runs are used again although the code has changed.
        minutes: What each network is trained.
        networks: Which networks and peers; all of them where empty.
        weights: Folder of ImageNet weights; None where there is none.
        model: Checkpoint of Tesela; one with weights by chance where there is none.
    """

    folder: Path
    size: tuple[int, int] = (54_000, 38_000)
    repeat: int = 3
    threads: int = 2
    peers: Path | None = None
    imagery: Path | None = None
    peer_share: float = 0.125
    polygons: int = 20_000
    province: int = 2_500_000
    keep: bool = False
    minutes: float = 6.0
    networks: tuple[str, ...] = ()
    weights: Path | None = None
    model: Path | None = None


@dataclass(frozen=True)
class Run:
    """One thing to measure.

    Attributes:
        command: The process.
        items: What its time is divided by to be compared: pixels, tiles.
        inside: Whether it times itself, and prints it (:func:`answer`) in its last line: its start
            and imports do not count. Otherwise its whole life does.
        reads: Files that it reads.
        removes: Files and folders that it is to make anew.
    """

    command: tuple[str, ...]
    items: int = 1
    inside: bool = False
    reads: tuple[Path, ...] = ()
    removes: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """One row of the table.

    Attributes:
        title: What is compared.
        ours: Name of our run.
        reference: Names of the runs it is compared with, whose times are added; none for seconds
            only.
        bar: The ratio, of times an item, is to be at most this.
        within: The ratio is to differ from 1 by at most this.
        memory_mb: Our peak is to be at most this, in MB of 10^6 bytes.
        note: What else the reader must know.
        peak_of: Name of the run whose peak memory ours is divided by.
        peak_ratio: That ratio is to be at most this.
    """

    title: str
    ours: str
    reference: tuple[str, ...] = ()
    bar: float | None = None
    within: float | None = None
    memory_mb: float | None = None
    note: str = ""
    peak_of: str = ""
    peak_ratio: float | None = None


@dataclass(frozen=True)
class Prepared:
    """A benchmark whose inputs are there.

    Attributes:
        sizes: What it works on.
        runs: What is measured, by name, in the order in which they alternate.
        comparisons: The rows of the table.
        missing: Why a run that the comparisons name cannot be, by its name.
        facts: Looked at once, after the runs: that both sides did the same.
    """

    sizes: Mapping[str, Any]
    runs: Mapping[str, Run]
    comparisons: tuple[Comparison, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    facts: Callable[[], dict[str, Any]] = dict


class Benchmark(Protocol):
    """A module of this folder has one, called ``BENCHMARK``."""

    def prepare(self, setup: Setup) -> Prepared:
        """Make the inputs, untimed.

        Raises:
            BenchmarkSkippedError: If something is missing that it needs.
        """
        ...


@runtime_checkable
class Ranking(Protocol):
    """A benchmark of long runs with a table of its own; a module's ``BENCHMARK`` likewise."""

    def measure(self, setup: Setup, say: Callable[[str], None]) -> dict[str, Any]:
        """Measure, or take up what an earlier start has measured.

        Returns:
            Its part of the JSON: its ``table`` in Markdown, ``failed`` where a part of it did.

        Raises:
            BenchmarkSkippedError: If something is missing that all of it needs.
            BenchmarkFailedError: If nothing could be measured.
        """
        ...


class BenchmarkSkippedError(Exception):
    """Something is missing that a benchmark needs; says what, and how to get it."""


class BenchmarkFailedError(Exception):
    """A measured process failed; says how."""


def module(name: str, *arguments: str) -> tuple[str, ...]:
    """Command of a module of this project."""
    return (sys.executable, "-m", name, *arguments)


def answer(seconds: float, **facts: Any) -> None:
    """Print what a process that times itself found; ``items`` where it alone knows how many."""
    print(json.dumps({"seconds": seconds, **facts}))


def execute(command: tuple[str, ...]) -> None:
    """Run a command untimed, to make inputs.

    Raises:
        BenchmarkFailedError: If it fails.
    """
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailedError(f"{' '.join(command)}\n{done.stderr[-2000:]}")


def told_by(command: tuple[str, ...], log: Path, threads: int) -> dict[str, Any]:
    """Run a long command that times itself, unwatched: nothing takes the processor from it.

    Args:
        command: Its last line is what it found, as :func:`answer` prints it.
        log: File of what it says.
        threads: Of its computation.

    Raises:
        BenchmarkFailedError: If it fails.
    """
    environment = _environment() | {"OMP_NUM_THREADS": str(threads)}
    os.sync()
    with log.open("a", encoding="utf-8") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=said, start_new_session=True, text=True,
        )  # fmt: skip
        try:
            text, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if process.returncode:
        told = log.read_text("utf-8")[-2000:]
        raise BenchmarkFailedError(f"{' '.join(command)} ended with {process.returncode}:\n{told}")
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in _OURS}


def remove(path: Path) -> None:
    """Remove a file or a folder that may be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def warm(path: Path) -> None:
    """Read a file, or all files of a folder, so that they lie in the page cache."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb", buffering=0) as source:
                while source.read(2**24):
                    pass


def measure(run: Run) -> dict[str, Any]:
    """Run it once.

    Returns:
        ``seconds`` and ``items``; ``wall_seconds`` of the process, ``user_seconds`` and
        ``system_seconds`` of it and its children; ``peak_mb`` and what it was made of; and what
        the process itself told.

    Raises:
        BenchmarkFailedError: If it fails.
    """
    for path in run.removes:
        remove(path)
    for path in run.reads:
        warm(path)
    os.sync()  # what was written before is no burden of this run
    environment = _environment()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as told:
        began = time.perf_counter()
        process = subprocess.Popen(
            run.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out,
            stderr=told, start_new_session=True,
        )  # fmt: skip
        try:
            with TreeMonitor(process.pid) as monitor:
                _, status, usage = os.wait4(process.pid, 0)
                wall = time.perf_counter() - began
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        told.seek(0)
        text = out.read().decode()
        if process.returncode:
            said = (text + told.read().decode())[-3000:]
            raise BenchmarkFailedError(
                f"{' '.join(run.command)} ended with {process.returncode}:\n{said}"
            )
    inside = json.loads(text.splitlines()[-1]) if run.inside else {}
    peak = monitor.peak
    return {
        "seconds": wall,
        "items": run.items,
        "wall_seconds": wall,
        "user_seconds": usage.ru_utime,
        "system_seconds": usage.ru_stime,
        "peak_mb": peak.bytes / 1e6,
        "tree_pss_mb": peak.tree / 1e6,
        "largest_vmhwm_mb": peak.process / 1e6,
        "processes": peak.processes,
        **inside,
    }


def measure_all(
    prepared: Prepared, repeat: int, say: Callable[[str], None]
) -> dict[str, list[dict[str, Any]]]:
    """All runs, alternating."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in prepared.runs}
    for number in range(repeat):
        for name, run in prepared.runs.items():
            result = measure(run)
            found[name].append(result)
            say(
                f"  {name} {number + 1}/{repeat}: {result['seconds']:.2f} s, "
                f"{result['peak_mb']:.0f} MB"
            )
    return found


def compare(
    comparison: Comparison, found: Mapping[str, list[dict[str, Any]]], missing: Mapping[str, str]
) -> dict[str, Any]:
    """A row: medians, ratio, whether the bars are met; None where there is nothing to compare."""
    ours = found.get(comparison.ours, [])
    gone = [missing[n] for n in (comparison.ours, *comparison.reference) if n in missing]
    row: dict[str, Any] = {
        "title": comparison.title,
        "ours": comparison.ours,
        "reference": list(comparison.reference),
        "runs": len(ours),
        "seconds": _median(ours, "seconds") if ours else None,
        "items_a_second": 1 / _each(ours) if ours and ours[0]["items"] > 1 else None,
        "reference_seconds": None,
        "ratio": None,
        "bar": comparison.bar,
        "within": comparison.within,
        "met": None,
        "peak_mb": max((run["peak_mb"] for run in ours), default=None),
        "memory_bar_mb": comparison.memory_mb,
        "memory_met": None,
        "note": comparison.note,
        "skipped": "; ".join(dict.fromkeys(gone)),
    }
    other = max((run["peak_mb"] for run in found.get(comparison.peak_of, [])), default=None)
    if ours and other is not None:
        row["peak_of"], row["peak_ratio"] = comparison.peak_of, row["peak_mb"] / other
        row["peak_bar"] = comparison.peak_ratio
    if ours and comparison.memory_mb is not None:
        row["memory_met"] = row["peak_mb"] <= comparison.memory_mb
    if not ours or gone or not comparison.reference:
        return row
    reference = [found[name] for name in comparison.reference]
    row["reference_seconds"] = sum(_median(runs, "seconds") for runs in reference)
    ratio = _each(ours) / sum(map(_each, reference))
    row["ratio"] = ratio
    if comparison.bar is not None:
        row["met"] = ratio <= comparison.bar
    if comparison.within is not None:
        row["met"] = abs(ratio - 1) <= comparison.within
    return row


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(run[key] for run in runs))


def _each(runs: list[dict[str, Any]]) -> float:
    """Median time an item."""
    return float(statistics.median(run["seconds"] / run["items"] for run in runs))
