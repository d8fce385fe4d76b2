from __future__ import annotations

import tracemalloc
from itertools import chain

import numpy as np
import pytest

from pipeline.draws import RUN, WINDOW, EpochSampler, Shuffle

SHARDS = [2500, 0, 40, 6400, 1, 3000]  # 11 941 tiles
TILES = sum(SHARDS)


def order(
    shuffle: Shuffle | None, seed: int = 1, epoch: int = 0, rank: int = 0, world: int = 1
) -> list[int]:
    return [tile for batch in batches(shuffle, 8, seed, epoch, rank, world) for tile in batch]


def batches(
    shuffle: Shuffle | None, size: int, seed: int = 1, epoch: int = 0, rank: int = 0, world: int = 1
) -> list[list[int]]:
    sampler = EpochSampler(SHARDS, seed, shuffle=shuffle, batch_size=size, rank=rank, world=world)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert {(draw.epoch, draw.again) for batch in drawn for draw in batch} == {(epoch, 0)}
    assert len(drawn) == len(sampler)
    return [[draw.tile for draw in batch] for batch in drawn]


@pytest.mark.parametrize("shuffle", ["full", "local"])
def test_an_order_depends_on_seed_and_epoch_and_draws_each_tile_once(shuffle: Shuffle) -> None:
    first = order(shuffle)
    assert sorted(first) == list(range(TILES))
    assert order(shuffle, epoch=3) == order(shuffle, epoch=3)
    assert len({tuple(first), tuple(order(shuffle, epoch=1)), tuple(order(shuffle, 2))}) == 3


def test_without_shuffling_tiles_come_in_the_order_of_the_shards() -> None:
    assert order(None, epoch=5) == list(range(TILES))


@pytest.mark.parametrize("shuffle", ["full", "local"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_an_epoch_loses_no_tile_and_doubles_none(shuffle: Shuffle, world: int) -> None:
    shares = [batches(shuffle, 7, rank=rank, world=world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1  # the same number of steps
    sizes = {len(batch) for share in shares for batch in share}
    assert sizes in ({6, 7}, {5, 6, 7}, {7})
    drawn = [tile for share in shares for batch in share for tile in batch]
    assert sorted(drawn) == list(range(TILES))


def test_processes_share_the_steps_of_one() -> None:
    whole = batches("full", 12)
    shares = [batches("full", 4, rank=rank, world=3) for rank in range(3)]
    steps = [sorted(chain.from_iterable(parts)) for parts in zip(*shares, strict=True)]
    assert steps == [sorted(batch) for batch in whole]


def test_accumulated_batches_are_the_parts_of_larger_ones() -> None:
    sampler = EpochSampler([10, 91], 0, shuffle="full", batch_size=4, accumulate=3, world=2)
    larger = EpochSampler([10, 91], 0, shuffle="full", batch_size=12, world=2)
    parts = list(sampler)
    assert sampler.batches == 3
    assert sampler.steps == larger.steps == len(list(larger)) == 5
    joined = [
        list(chain.from_iterable(parts[first : first + 3])) for first in range(0, len(parts), 3)
    ]
    assert joined == list(larger)


@pytest.mark.parametrize(
    ("tiles", "size", "accumulate", "world", "steps", "batches_a_step"),
    [(3, 1, 1, 2, 1, 1), (5, 8, 4, 1, 1, 2), (2, 8, 4, 1, 1, 1), (7, 2, 1, 3, 2, 1)],
)
def test_each_process_has_tiles_in_each_batch_however_few_there_are(
    tiles: int, size: int, accumulate: int, world: int, steps: int, batches_a_step: int
) -> None:
    drawn = []
    for rank in range(world):
        sampler = EpochSampler(
            [tiles], 0, shuffle="full", batch_size=size, accumulate=accumulate, rank=rank,
            world=world,
        )  # fmt: skip
        assert (sampler.steps, sampler.batches) == (steps, batches_a_step)
        mine = list(sampler)
        assert all(mine)
        drawn += [draw.tile for batch in mine for draw in batch]
    assert sorted(drawn) == list(range(tiles))


@pytest.mark.parametrize("shuffle", ["full", "local"])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_no_batch_is_of_one_tile_and_none_is_too_large(
    shuffle: Shuffle, accumulate: int, world: int
) -> None:
    for size in (2, 3, 8):
        for tiles in range(2 * accumulate * world, 150):
            batches = []
            for rank in range(world):
                sampler = EpochSampler(
                    [tiles], 0, shuffle=shuffle, batch_size=size, accumulate=accumulate,
                    rank=rank, world=world,
                )  # fmt: skip
                batches.append([len(batch) for batch in sampler])
            together = np.sum(batches, axis=0)  # statistics are of all processes
            assert together.sum() == tiles
            assert together.min() >= 2
            assert np.min(batches) >= 1
            assert np.max(batches) <= size + 2


@pytest.mark.parametrize("tiles", [10, 11, 199, 1001])
def test_steps_do_not_depend_on_how_they_are_shared(tiles: int) -> None:
    steps = {
        EpochSampler(
            [tiles], 0, shuffle="full", batch_size=8 // accumulate // world,
            accumulate=accumulate, world=world,
        ).steps
        for accumulate, world in ((1, 1), (2, 1), (1, 2), (2, 2), (1, 4))
    }  # fmt: skip
    assert len(steps) == 1


def test_fewer_tiles_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="1 tiles for 2 processes"):
        EpochSampler([1], 0, shuffle="full", batch_size=1, world=2)


@pytest.mark.parametrize("shuffle", ["full", "local"])
def test_an_epoch_goes_on_where_it_was_left(shuffle: Shuffle) -> None:
    sampler = EpochSampler([30], 5, shuffle=shuffle, batch_size=2, accumulate=2, rank=1, world=2)
    assert (sampler.steps, sampler.batches) == (4, 2)
    sampler.set_epoch(4)
    whole = list(sampler)
    sampler.set_epoch(4, first=2)
    assert len(sampler) == len(whole) - 4
    assert list(sampler) == whole[4:]


@pytest.mark.parametrize("shuffle", ["full", "local"])
def test_rare_tiles_come_as_often_as_they_shall(shuffle: Shuffle) -> None:
    repeats = np.ones(50)
    repeats[3], repeats[40] = 2.5, 3.0
    counts = np.zeros((400, 50), int)
    for epoch in range(400):
        drawn: list[tuple[int, int]] = []
        for rank in range(2):
            sampler = EpochSampler(
                [20, 30], 1, shuffle=shuffle, batch_size=4, rank=rank, world=2, repeats=repeats
            )
            sampler.set_epoch(epoch)
            drawn += [(draw.tile, draw.again) for batch in sampler for draw in batch]
        # Each comes under a number of its own: it is augmented otherwise each time.
        assert len(drawn) == len(set(drawn))
        np.add.at(counts[epoch], [tile for tile, _ in drawn], 1)
        assert sorted(again for tile, again in drawn if tile == 40) == [0, 1, 2]
    usual = np.delete(counts, [3, 40], axis=1)
    assert (usual.min(), usual.max()) == (1, 1)
    assert set(counts[:, 3]) == {2, 3}
    assert 2.4 < counts[:, 3].mean() < 2.6


def test_processes_share_validation_without_repetition() -> None:
    shares = [order(None, rank=rank, world=3) for rank in range(3)]
    assert [len(share) for share in shares] == [3981, 3980, 3980]
    assert sorted(tile for share in shares for tile in share) == list(range(TILES))


def distances(tiles: list[int]) -> np.ndarray:
    """Of each tile to the nearest of those drawn within one window."""
    found = []
    for first in range(0, len(tiles) - RUN * WINDOW, RUN * WINDOW):
        near = np.sort(tiles[first : first + RUN * WINDOW])
        gaps = np.diff(near)
        found.append(np.minimum(np.append(gaps, TILES), np.insert(gaps, 0, TILES)))
    return np.concatenate(found)


def test_a_local_order_reads_what_lies_together_at_about_the_same_time() -> None:
    local, full = order("local"), order("full")
    assert distances(full).mean() > 5
    assert distances(local).mean() < 2
    assert np.median(distances(local)) == 1
    # Of 187 areas of a run's size on the disk, 1024 draws touch those of two windows' runs (two
    # areas each, as runs are cut anywhere), and not nearly all.
    for first in range(0, TILES - RUN * WINDOW, RUN * WINDOW):
        touched = set(np.array(local[first : first + RUN * WINDOW]) // RUN)
        assert len(touched) <= 4 * WINDOW
        assert len(set(np.array(full[first : first + RUN * WINDOW]) // RUN)) > 180


def test_a_local_order_mixes_runs_within_a_batch() -> None:
    tiles = np.array(order("local"))
    batches = tiles[: TILES // 8 * 8].reshape(-1, 8) // RUN
    assert min(len(set(batch)) for batch in batches) >= 3
    assert np.mean([len(set(batch)) for batch in batches]) > 6
    # The last window as well: it is no shorter than the others.
    assert min(len(set(batch)) for batch in batches[-16:]) >= 3


def test_runs_are_cut_at_other_places_each_epoch() -> None:
    def pairs(epoch: int) -> set[frozenset[int]]:
        tiles = np.array(order("local", epoch=epoch))
        place = np.empty(TILES, int)
        place[tiles] = np.arange(TILES)
        apart = np.abs(np.diff(place)) > RUN * WINDOW
        return {frozenset((int(i), int(i) + 1)) for i in np.flatnonzero(apart)}

    assert len(pairs(0)) > 50
    assert len(pairs(0) & pairs(1)) < 10


@pytest.mark.parametrize("shuffle", ["full", "local"])
def test_an_order_takes_eight_bytes_a_tile(shuffle: Shuffle) -> None:
    sampler = EpochSampler([4000] * 250, 0, shuffle=shuffle, batch_size=8)
    tracemalloc.start()
    try:
        next(iter(sampler))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 8e6 <= peak < 9e6  # of a million tiles


def test_few_tiles_are_shuffled_as_a_whole() -> None:
    sampler = EpochSampler([3, 2], 0, shuffle="local", batch_size=5)
    seen = set()
    for epoch in range(200):
        sampler.set_epoch(epoch)
        seen.add(tuple(draw.tile for batch in sampler for draw in batch))
    assert all(sorted(tiles) == [0, 1, 2, 3, 4] for tiles in seen)
    assert len(seen) > 80  # of 120
