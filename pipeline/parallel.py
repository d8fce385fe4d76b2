"""Many windows at once, results in order, few of them in memory.

Results never depend on the number of threads: they are handed on in the order of the items.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import dask

T = TypeVar("T")
R = TypeVar("R")


def ordered(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[tuple[T, R]]:
    """Results in the order of the items, a few of them ahead: memory stays bounded."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[T, Future[R]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > 2 * threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


def computed(function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """Results in the order of the items, computed by dask in batches that bound the memory."""
    size = 4 * threads
    delayed = dask.delayed(function, pure=False)
    for start in range(0, len(items), size):
        batch = [delayed(item) for item in items[start : start + size]]
        yield from dask.compute(*batch, scheduler="threads", num_workers=threads)
