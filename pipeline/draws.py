"""Draws: which tile comes next, as seed and epoch alone decide.

A draw carries its epoch with it, so that DataLoader workers stay alive over epochs, any number of
them gives the same batches, and an epoch that goes on after a kill is the same epoch. An order
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
        epoch: From 0; decides the augmentation, together with the other two.
        tile: Index among the split's tiles of all shards.
        again: How often the tile came before in its epoch's list: 0 unless rare ones are repeated.
    """

    epoch: int
    tile: int
    again: int = 0


class EpochSampler:
    """The batches of one epoch on one process.

    An epoch is dealt out in steps of nearly equal size: each draw comes once over all processes,
    none is left out and none is added to fill the last step up, and no step is so small that batch
    normalisation takes its few tiles for the whole. The tiles of a step do not depend on how many
    processes share it (but for ``local`` order, see below) nor on ``accumulate``.

    Args:
        stretches: Number of tiles of the split in each shard, in the order of the shards.
        seed: Seed of the run.
        shuffle: How the order is mixed; None for the order of the shards, which is validation's:
            its tiles are dealt out one by one, in batches that may differ in number.
        batch_size: Tiles a batch, at most; one or two more where there are hardly any tiles.
        accumulate: Batches a step.
        rank: Number of this process.
        world: Number of processes. The tiles of a step are dealt out one by one, but in ``local``
            order by parts of the epoch: what is near on the disk is read on one node.
        repeats: How often each tile comes in an epoch on average, at least 1, shape ``(tiles,)``;
            the part behind the point is drawn anew each epoch. None for once.

    Raises:
        ValueError: If there are fewer tiles to train on than processes.
    """

    def __init__(
        self,
        stretches: Sequence[int],
        seed: int,
        *,
        shuffle: Shuffle | None,
        batch_size: int,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        repeats: NDArray[np.float64] | None = None,
    ) -> None:
        self.stretches, self.tiles = tuple(stretches), sum(stretches)
        if shuffle is not None and self.tiles < world:
            raise ValueError(f"{self.tiles} tiles for {world} processes")
        self.seed, self.shuffle = seed, shuffle
        self.batch_size, self.accumulate = batch_size, accumulate
        self.rank, self.world = rank, world
        self.repeats = repeats
        self.epoch = self.first = 0
        self._counts = self._counted()

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Choose what the next iteration draws.

        Args:
            epoch: Number of the epoch, from 0.
            first: Steps at its beginning that are left out, as they were done before.
        """
        self.epoch, self.first = epoch, first
        self._counts = self._counted()

    @property
    def steps(self) -> int:
        """Steps of the chosen epoch, those that are left out too."""
        return self._steps(self._draws())

    @property
    def batches(self) -> int:
        """Batches of each step of the chosen epoch: ``accumulate``, but where tiles are few."""
        draws = self._draws()
        return max(1, min(self.accumulate, draws // self._steps(draws) // self._least))

    def __len__(self) -> int:
        if self.shuffle is None:
            return math.ceil(len(range(self.rank, self.tiles, self.world)) / self.batch_size)
        return (self.steps - self.first) * self.batches

    def __iter__(self) -> Iterator[list[Draw]]:
        """Batches: of each step as many as :attr:`batches`."""
        epoch = self.epoch
        if self.shuffle is None:
            mine = range(self.rank, self.tiles, self.world)
            for first in range(0, len(mine), self.batch_size):
                yield [Draw(epoch, tile) for tile in mine[first : first + self.batch_size]]
            return
        tiles, again = self._order()
        steps, batches = self._steps(len(tiles)), self.batches
        for step in range(self.first, steps):
            mine = self._mine(len(tiles), step, steps)
            for part in np.array_split(np.arange(mine.start, mine.stop, mine.step), batches):
                yield [
                    Draw(epoch, int(tiles[i]), 0 if again is None else int(again[i])) for i in part
                ]

    def _mine(self, draws: int, step: int, steps: int) -> range:
        """Places in the epoch's order of this process's draws of a step."""
        if self.shuffle == "local":
            begin, end = (draws * part // self.world for part in (self.rank, self.rank + 1))
            length = end - begin
            return range(begin + length * step // steps, begin + length * (step + 1) // steps)
        return range(draws * step // steps + self.rank, draws * (step + 1) // steps, self.world)

    def _steps(self, draws: int) -> int:
        wanted = math.ceil(draws / (self.batch_size * self.accumulate * self.world))
        return max(1, min(wanted, draws // (self._least * self.accumulate)))

    @property
    def _least(self) -> int:
        """Draws of a batch over all processes, where there are enough.

        One for each of them, and not a single one: its statistics would say nothing.
        """
        return max(self.world, min(self.batch_size * self.world, 2))

    def _draws(self) -> int:
        return self.tiles if self._counts is None else int(self._counts.sum())

    def _counted(self) -> NDArray[np.int64] | None:
        """How often each tile comes in the chosen epoch; None for once."""
        if self.repeats is None:
            return None
        rng = np.random.default_rng((self.seed, self.epoch, 1))
        return np.floor(self.repeats + rng.random(self.tiles)).astype(np.int64)

    def _order(self) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """The chosen epoch's tiles in their order, and how often each came before."""
        rng = np.random.default_rng((self.seed, self.epoch))
        counts = self._counts
        if counts is None:
            return self._mixed(self.stretches, rng), None
        tiles = np.repeat(np.arange(self.tiles), counts)
        again = np.arange(len(tiles)) - np.repeat(np.cumsum(counts) - counts, counts)
        parts = np.split(counts, np.cumsum(self.stretches)[:-1])
        order = self._mixed([int(part.sum()) for part in parts], rng)
        return tiles[order], again[order]

    def _mixed(self, stretches: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
        if self.shuffle == "local":
            return local_order(stretches, rng)
        return rng.permutation(sum(stretches))


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
