"""What hangs together: connected numbers, and the order of links that follow one another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def connected(
    count: int, first: NDArray[np.integer], second: NDArray[np.integer]
) -> NDArray[np.int64]:
    """The least number that each number is connected to.

    Args:
        count: The numbers are 0 to ``count - 1``.
        first: One end of each connection.
        second: Its other end.

    Returns:
        int64, shape ``(count,)``: numbers that are connected, by others too, get the same one.
    """
    root = np.arange(count)
    while True:
        one, other = root[first], root[second]
        apart = one != other
        if not apart.any():
            return root
        one, other = one[apart], other[apart]
        first, second = first[apart], second[apart]
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while True:
            nearer = root[root]
            if np.array_equal(nearer, root):
                break
            root = nearer


def chained(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which chain each link is of, and its place in it; a closed one begins with its least link.

    The time goes with the logarithm of the longest chain.

    Args:
        following: The link behind each link, or -1. No two links are followed by the same one.

    Returns:
        The first link of each link's chain, and the links before it, both int64, shape ``(n,)``.
    """
    before = np.full(len(following), -1)
    linked = following >= 0
    before[following[linked]] = np.flatnonzero(linked)
    first, place = _ranked(before)
    closed = np.flatnonzero(before[first] >= 0)
    if len(closed):
        numbers = np.empty(len(following), np.int64)
        numbers[closed] = np.arange(len(closed))
        least, ahead = closed.copy(), numbers[following[closed]]
        while True:
            lesser = np.minimum(least, least[ahead])
            if np.array_equal(lesser, least):
                break
            least, ahead = lesser, ahead[ahead]
        before[closed[least == closed]] = -1
        first, place = _ranked(before)
    return first, place


def _ranked(before: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same by the links before; a closed chain gets any of its own links as its first one."""
    place = (before >= 0).astype(np.int64)
    first = np.where(before >= 0, before, np.arange(len(before)))
    arrived = np.count_nonzero(before[first] < 0)
    while True:
        place += place[first]
        first = first[first]
        # No chain ends between 2**n and 2**(n + 1) links: none is longer either.
        now = np.count_nonzero(before[first] < 0)
        if now == arrived:
            return first, place
        arrived = now
