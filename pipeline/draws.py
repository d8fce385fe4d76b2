"""Draws: which tile comes next, as seed and epoch alone decide.

A draw carries its epoch with it, so that DataLoader workers stay alive over epochs, any number of
them gives the same batches, and an epoch that is repeated after a kill is the same epoch. An order
takes 8 bytes a tile (48 MB for a terabyte of raw tiles of 256 px) and a few for each run of tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Shuffle = Literal["full", "local"]
"""Any tile may come next, or one that lies near those just read."""

RUN = 64
"""Tiles that lie behind one another in a shard and are drawn at about the same time."""

WINDOW = 16
"""Runs, of any shards, whose tiles are mixed."""


class Draw(NamedTuple):
    """Which tile is wanted, and in which epoch.

    Attributes:
        epoch: From 0; decides the augmentation, together with ``tile``.
        tile: Index among the split's tiles of all shards.
    """

    epoch: int
    tile: int


class EpochSampler:
    """The draws of one epoch on one process.

    Args:
        stretches: Number of tiles of the split in each shard, in the order of the shards.
        seed: Seed of the run.
        shuffle: How the order is mixed; None for the order of the shards, which is validation's.
        rank: Number of this process.
        world: Number of processes. Shuffled epochs are filled up from their beginning until all
            processes draw the same number, as torch's ``DistributedSampler`` does it; others are
            dealt out without repetition. Tiles are dealt out one by one, and in ``local`` order
            by parts of the epoch: what is near on the disk is read on one node.
    """

    def __init__(
        self,
        stretches: Sequence[int],
        seed: int,
        *,
        shuffle: Shuffle | None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.stretches, self.tiles = tuple(stretches), sum(stretches)
        self.seed, self.shuffle = seed, shuffle
        self.rank, self.world = rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle is None:
            return len(range(self.rank, self.tiles, self.world))
        return math.ceil(self.tiles / self.world)

    def __iter__(self) -> Iterator[Draw]:
        for tile in self._share():
            yield Draw(self.epoch, int(tile))

    def _share(self) -> NDArray[np.int64]:
        """The tiles of this process."""
        if self.shuffle is None:
            return np.arange(self.rank, self.tiles, self.world)
        rng = np.random.default_rng((self.seed, self.epoch))
        near = self.shuffle == "local"
        order = local_order(self.stretches, rng) if near else rng.permutation(self.tiles)
        draws = len(self)
        if draws * self.world != self.tiles:
            order = np.resize(order, draws * self.world)
        if near:
            return order[draws * self.rank : draws * (self.rank + 1)]
        return order[self.rank :: self.world]


def local_order(stretches: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """All tiles in an order that keeps near ones together and mixes them all the same.

    The tiles are cut into runs (within a shard, and each time at other places), the runs are
    shuffled, and so are the tiles of each window of runs.

    Args:
        stretches: Number of tiles in each shard.
        rng: Decides the order.

    Returns:
        Indexes of tiles over all shards, each once.
    """
    ends = np.cumsum(stretches, dtype=np.int64)
    tiles = int(ends[-1])
    cuts = np.union1d(np.arange(rng.integers(RUN), tiles, RUN), np.append(ends, 0))
    runs = rng.permutation(len(cuts) - 1)
    order, filled = np.empty(tiles, np.int64), 0
    # Windows of the same number of runs: a last one of a single run would not be mixed.
    for window in np.array_split(runs, math.ceil(len(runs) / WINDOW)):
        mixed = np.concatenate([np.arange(cuts[run], cuts[run + 1]) for run in window])
        rng.shuffle(mixed)
        order[filled : filled + len(mixed)] = mixed
        filled += len(mixed)
    return order
