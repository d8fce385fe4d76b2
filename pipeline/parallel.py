"""Many windows at once, results in order, few of them in memory.

Results never depend on who computes them or on how many do: they are handed on in the order of
the items. Whatever ends a stage, its tasks are cancelled and the workers that were started for it
go away; an existing cluster stays as it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 1.0
"""Seconds between two looks at whether an engine still lives, while a result lets wait."""


def _lives() -> None:
    """Threads of this process live as long as it does."""


@dataclass(frozen=True)
class Engine:
    """Who runs tasks.

    Attributes:
        executor: Takes tasks.
        slots: So many of them run at once.
        check: To be called now and then while a result lets wait; raises TeselaError when it
            will never come.
    """

    executor: Executor
    slots: int
    check: Callable[[], None] = _lives


@contextmanager
def engine(name: str, workers: int, threads: int, jobs: str = "") -> Iterator[Engine]:
    """Start an engine; at the end, end it with all that runs in it.

    Args:
        name: ``threads`` of this process, ``processes`` of this machine, jobs of ``slurm``, or
            the address of a dask scheduler such as ``tcp://node1:8786``.
        workers: Number of processes or of jobs; of a cluster that is there, how many threads it
            will have at least: those of workers that come later count in ``slots`` only so.
        threads: Number of threads.
        jobs: Name of the jobs of SLURM; empty for that of dask's configuration.

    Raises:
        SettingsError: If the engine cannot be had.
        TeselaError: If no worker comes.
    """
    if name == "threads":
        pool = ThreadPoolExecutor(threads)
        try:
            yield Engine(pool, threads)
        finally:
            pool.shutdown(cancel_futures=True)
        return
    # Imported here: threads do not pay for dask.
    from pipeline.clusters import cluster

    with cluster(name, workers, jobs) as parts:
        yield Engine(*parts)


def in_order(
    function: Callable[[T], R], items: Iterable[T], pool: Engine, ahead: int
) -> Iterator[tuple[T, R]]:
    """Results in the order of the items, a bounded number of them ahead.

    Args:
        function: What is done to an item. Engines other than threads send it to each of their
            processes once, pickled; what it opens and keeps there stays open for all tasks of
            that process, and its threads share it.
        items: Taken only as tasks are submitted.
        pool: Who computes them.
        ahead: At most so many tasks are submitted and not yet handed on: the bound of the
            memory, here and in the workers. With fewer than ``pool.slots + 1`` some slots idle.

    Yields:
        An item and its result.

    Raises:
        TeselaError: If the engine cannot go on. What ``function`` raises is raised as it is.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.executor.submit(function, item)))
            if len(waiting) >= ahead:
                yield _first(waiting, pool)
        while waiting:
            yield _first(waiting, pool)
    finally:
        for _, future in waiting:
            future.cancel()


def _first(waiting: deque[tuple[T, Future[R]]], pool: Engine) -> tuple[T, R]:
    # A function of its own: no name keeps the result alive once it is handed on.
    item, future = waiting[0]
    while not wait([future], PATIENCE).done:
        pool.check()
    waiting.popleft()
    return item, future.result()


def ordered(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[tuple[T, R]]:
    """Results in the order of the items by threads, a few of them ahead: memory stays bounded."""
    with engine("threads", threads, threads) as pool:
        yield from in_order(function, items, pool, 2 * threads + 1)
