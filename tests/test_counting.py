"""Counts equal numpy's on areas, noise and anything between; tiles add up from whole blocks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline import counting
from pipeline.counting import TileCounter, block_windows, cell_counts, id_counts, pair_counts
from pipeline.grid import Window

SHAPES = st.one_of(
    st.tuples(st.integers(0, 5000)),
    st.tuples(st.integers(0, 90), st.integers(0, 90)),
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 40)),
    st.just(()),
)


def ids_of(shape: tuple[int, ...], kind: str, seed: int) -> NDArray[np.uint8]:
    """Areas of about 40 pixels, noise, areas with noise on one side, or one id."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    values = rng.choice([0, 1, 7, 200, 254, 255], size).astype(np.uint8)
    if kind == "any id":
        values = rng.integers(0, 256, size).astype(np.uint8)
    elif kind == "one id":
        values[:] = rng.integers(256)
    elif kind != "noise":
        areas = values[np.cumsum(rng.random(size) < 0.025) % max(size, 1)] if size else values
        half = size // 2 if kind == "mixed" else 0
        values = np.concatenate([values[:half], areas[half:]])
    return values.reshape(shape)


KINDS = st.sampled_from(["areas", "noise", "any id", "mixed", "one id"])
VIEWS = st.sampled_from(["whole", "part", "transposed", "backwards", "odd"])


def view_of(ids: NDArray[np.uint8], view: str) -> NDArray[np.uint8]:
    if view == "part":
        return ids[tuple(slice(1, -1) for _ in ids.shape)]
    if view == "transposed":
        return ids.T
    if view == "backwards":
        return ids[::-1] if ids.ndim else ids
    if view == "odd":
        return ids[..., ::2] if ids.ndim else ids
    return ids


@given(SHAPES, KINDS, KINDS, VIEWS, st.integers(0, 99), st.sampled_from([16, 1000, 2**19]))
@settings(max_examples=300, deadline=None)
def test_counts_equal_those_of_numpy(
    shape: tuple[int, ...], kind: str, other: str, view: str, seed: int, chunk: int
) -> None:
    first = view_of(ids_of(shape, kind, seed), view)
    second = view_of(ids_of(shape, other, seed + 1), view)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_CHUNK", chunk)
        counts, pairs = id_counts(first), pair_counts(first, second)
    assert counts.dtype == pairs.dtype == np.int64
    np.testing.assert_array_equal(counts, np.bincount(first.ravel(), minlength=256))
    codes = first.astype(np.int64).ravel() * 256 + second.ravel()
    expected = np.bincount(codes, minlength=65536).reshape(256, 256)
    np.testing.assert_array_equal(pairs, expected)


def test_rasters_of_different_order_in_memory_are_paired_by_place() -> None:
    first, second = ids_of((300, 700), "areas", 1), ids_of((300, 700), "mixed", 2)
    np.testing.assert_array_equal(
        pair_counts(np.asfortranarray(first), second), pair_counts(first, second)
    )
    assert pair_counts(first, second)[first[7, 8], second[7, 8]] > 0


def test_a_raster_larger_than_a_chunk_and_not_of_whole_words() -> None:
    ids = ids_of((1021, 1031), "mixed", 3)  # 1 052 651 pixels, odd
    np.testing.assert_array_equal(id_counts(ids), np.bincount(ids.ravel(), minlength=256))


@given(
    st.integers(0, 40),
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
    KINDS,
    st.integers(0, 99),
    st.sampled_from([16, 500, 2**19]),
)
@settings(max_examples=150, deadline=None)
def test_cells_have_the_pixels_between_their_edges(
    rows: int, widths: list[int], kind: str, seed: int, chunk: int
) -> None:
    edges = np.concatenate([[0], np.cumsum(widths)]).astype(np.intp)
    ids = ids_of((rows, int(edges[-1]) + 3), kind, seed)[:, 2:-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_CHUNK", chunk)
        found = cell_counts(ids, edges)
    expected = [
        np.bincount(ids[:, left:right].ravel(), minlength=256)
        for left, right in pairwise(edges.tolist())
    ]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("edges", [[0, 5], [1, 9], [0, 4, 4, 9], [0, 6, 5, 9], [0], []])
def test_edges_that_are_none_are_refused(edges: list[int]) -> None:
    with pytest.raises(ValueError, match="from 0 to 9"):
        cell_counts(np.zeros((2, 9), np.uint8), np.array(edges, np.intp))


def test_other_types_and_shapes_are_refused() -> None:
    ids = np.zeros((2, 3), np.uint8)
    wrong = np.zeros((2, 3), np.int16)
    with pytest.raises(ValueError, match="uint8, not int16"):
        id_counts(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uint8, not int16"):
        pair_counts(ids, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        pair_counts(ids, ids.T)


def test_windows_of_whole_blocks() -> None:
    sheet = Window(0, 0, 1200, 900)
    assert block_windows(sheet, [sheet], 512, 512) == [
        Window(0, 0, 1200, 512),
        Window(0, 512, 1200, 388),
    ]
    assert block_windows(sheet, [], 512, 512) == []
    # Ground that ends inside of blocks, and a tile that reaches beyond the sheet.
    wanted = [Window(500, 10, 20, 20), Window(1100, 800, 256, 256)]
    assert block_windows(sheet, wanted, 512, 512) == [
        Window(0, 0, 1024, 512),
        Window(1024, 512, 176, 388),
    ]
    assert block_windows(sheet, [Window(600, 600, 10, 10)], 1, 1200) == [
        Window(0, row, 1200, 1) for row in range(600, 610)
    ]


def test_wide_rows_of_blocks_are_read_in_parts() -> None:
    sheet = Window(0, 0, 54_000, 38_000)
    found = block_windows(sheet, [sheet], 512, 512)
    assert len(found) == 75 * 7
    assert found[5:8] == [
        Window(40_960, 0, 8192, 512),
        Window(49_152, 0, 4848, 512),
        Window(0, 512, 8192, 512),
    ]
    assert sum(window.pixels for window in found) == sheet.pixels


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.lists(
        st.tuples(st.integers(0, 69), st.integers(0, 69), st.integers(1, 40), st.integers(1, 40)),
        max_size=12,
    ),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    KINDS,
    st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_tiles_add_up_from_blocks_that_are_read_once(
    width: int,
    height: int,
    places: list[tuple[int, int, int, int]],
    block: tuple[int, int],
    kind: str,
    random: object,
) -> None:
    sheet = Window(0, 0, width, height)
    tiles = [Window(c % width, r % height, w, h) for c, r, w, h in places]
    labels = ids_of((height, width), kind, 5) % np.uint8(7)
    labels[labels == 6] = 255
    counter = TileCounter(tiles, sheet, 6, block)
    times = np.zeros((height, width), int)
    for window in counter.windows:
        assert window.row % block[0] == 0 == window.col % block[1]
        times[window.slices()] += 1
    assert times.max(initial=0) <= 1
    windows = list(counter.windows)
    random.shuffle(windows)  # type: ignore[attr-defined]
    for window in windows:
        counter.add(window, counter.count(window, labels[window.slices()]))
    inside = [window.intersection(sheet) for window in tiles]
    expected = [
        np.bincount(labels[part.slices()].ravel(), minlength=256)[:6] for part in inside if part
    ]
    assert len(expected) == len(tiles)
    np.testing.assert_array_equal(counter.class_pixels, np.array(expected).reshape(-1, 6))


def test_labels_that_are_no_class_are_refused() -> None:
    tiles = [Window(0, 0, 4, 4)]
    counter = TileCounter(tiles, Window(0, 0, 4, 4), 3, (512, 512))
    labels = np.zeros((4, 4), np.uint8)
    labels[1, 2], labels[3, 3] = 3, 254
    with pytest.raises(ValueError, match="hold the id 3, 254; ids run from 0 to 2, or are 255"):
        counter.count(counter.windows[0], labels)
