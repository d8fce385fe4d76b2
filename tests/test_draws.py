from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from pipeline.draws import RUN, WINDOW, EpochSampler, Shuffle

SHARDS = [2500, 0, 40, 6400, 1, 3000]  # 11 941 tiles
TILES = sum(SHARDS)


def order(
    shuffle: Shuffle | None, seed: int = 1, epoch: int = 0, rank: int = 0, world: int = 1
) -> list[int]:
    sampler = EpochSampler(SHARDS, seed, shuffle=shuffle, rank=rank, world=world)
    sampler.set_epoch(epoch)
    draws = list(sampler)
    assert {draw.epoch for draw in draws} == {epoch}
    assert len(draws) == len(sampler)
    return [draw.tile for draw in draws]


@pytest.mark.parametrize("shuffle", ["full", "local"])
def test_an_order_depends_on_seed_and_epoch_and_draws_each_tile_once(shuffle: Shuffle) -> None:
    first = order(shuffle)
    assert sorted(first) == list(range(TILES))
    assert order(shuffle, epoch=3) == order(shuffle, epoch=3)
    assert len({tuple(first), tuple(order(shuffle, epoch=1)), tuple(order(shuffle, 2))}) == 3


def test_without_shuffling_tiles_come_in_the_order_of_the_shards() -> None:
    assert order(None, epoch=5) == list(range(TILES))


@pytest.mark.parametrize("shuffle", ["full", "local"])
def test_processes_share_training_evenly(shuffle: Shuffle) -> None:
    shares = [order(shuffle, rank=rank, world=3) for rank in range(3)]
    whole = order(shuffle)
    assert [len(share) for share in shares] == [3981] * 3
    # 2 of 11 943 draws fill up, with the first of the epoch; all others are disjoint.
    drawn = [tile for share in shares for tile in share]
    assert set(drawn) == set(range(TILES))
    assert sorted(drawn) == sorted([*whole, *whole[:2]])


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
    sampler = EpochSampler([4000] * 250, 0, shuffle=shuffle)
    tracemalloc.start()
    try:
        next(iter(sampler))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 8e6 <= peak < 9e6  # of a million tiles


def test_few_tiles_are_shuffled_as_a_whole() -> None:
    sampler = EpochSampler([3, 2], 0, shuffle="local")
    seen = set()
    for epoch in range(200):
        sampler.set_epoch(epoch)
        seen.add(tuple(draw.tile for draw in sampler))
    assert all(sorted(tiles) == [0, 1, 2, 3, 4] for tiles in seen)
    assert len(seen) > 80  # of 120
