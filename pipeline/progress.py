"""Progress for people: a bar with rate and remaining time at a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

log = logging.getLogger(__name__)

console = Console(stderr=True)
stdout = Console()

SECONDS_BETWEEN_LINES = 15.0
"""Without a terminal, one line is written about so often: a log is read, not watched."""


def start_logging(log_file: Path | None = None) -> None:
    """Send what the pipeline says to the standard error stream, or to a file.

    Args:
        log_file: Gets everything, libraries' warnings too. A terminal gets plain lines beside it;
            where there is none, standard error is left to errors.
    """
    handler: logging.Handler
    number = process_number(os.environ)
    if log_file is not None:
        if number:  # a file of its own: the first process writes the one that was asked for
            log_file = log_file.with_suffix(f".{number}{log_file.suffix}")
        log_file.parent.mkdir(parents=True, exist_ok=True)
        # Line by line: whoever follows a job reads along.
        console.file = log_file.open("w", encoding="utf-8", buffering=1)
        logging.captureWarnings(True)
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S")
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(console.file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handlers = [handler]
    if log_file is not None and sys.stderr.isatty():
        # Snakemake's jobs share one terminal: lines there, no bars.
        watched = logging.StreamHandler(sys.stderr)
        watched.setFormatter(logging.Formatter("%(message)s"))
        handlers.append(watched)
    for name in ("pipeline", "py.warnings", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        logger.propagate = False
        logger.setLevel(logging.WARNING if number else logging.INFO)


def process_number(environment: Mapping[str, str]) -> int:
    """Number of this process among those that train together, from 0.

    Args:
        environment: Variables that torchrun, ``srun`` or Lightning have set.
    """
    for name in ("RANK", "LOCAL_RANK"):
        if name in environment:
            return int(environment[name])
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return int(environment.get("SLURM_PROCID", "0"))
    return 0


@contextmanager
def track(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Follow a loop.

    Args:
        what: What is being done, with the sheet.
        total: Units in all.
        unit: Name of a unit, such as ``Mpx`` or ``tiles``.

    Yields:
        A function that takes the number of units done since its last call.
    """
    if console.is_terminal:
        with _bar(what, total, unit) as moved:
            yield moved
        return
    began = said = time.monotonic()
    done = 0

    def advance(units: int) -> None:
        nonlocal said, done
        done += units
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES and done:
            said = now
            rate = done / (now - began)
            left = (total - done) / rate
            log.info(
                "%s: %d of %d %s, %.1f %s/s, %s left",
                *(what, done, total, unit, rate, unit, _time(left)),
            )

    yield advance
    seconds = max(time.monotonic() - began, 1e-9)
    log.info("%s: %d %s in %s, %.1f %s/s", what, done, unit, _time(seconds), done / seconds, unit)


@contextmanager
def _bar(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}  {{task.fields[rate]}}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total, rate="")

        def advance(units: int) -> None:
            progress.advance(task, units)
            speed = progress.tasks[task].speed
            progress.update(task, rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield advance


def _time(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
