"""Counts equal numpy's on areas, noise and anything between."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline import counting
from pipeline.counting import cell_counts, id_counts, pair_counts

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


SIZES = st.sampled_from(
    [
        {"_CHUNK": 2**19, "_SIDE": 512},
        {"_CHUNK": 1000, "_SIDE": 16, "_SAMPLED": 4, "_FEW": 64},
        {"_CHUNK": 16, "_SIDE": 3, "_SAMPLED": 1, "_FEW": 6},
    ]
)


@given(SHAPES, KINDS, KINDS, VIEWS, st.integers(0, 99), SIZES)
@settings(max_examples=300, deadline=None)
def test_counts_equal_those_of_numpy(
    shape: tuple[int, ...], kind: str, other: str, view: str, seed: int, sizes: dict[str, int]
) -> None:
    first = view_of(ids_of(shape, kind, seed), view)
    second = view_of(ids_of(shape, other, seed + 1), view)
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(counting, name, size)
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


def test_noise_beside_areas() -> None:
    first = np.kron(ids_of((3, 3), "noise", 4), np.ones((700, 700), np.uint8))
    first[600:1400, 900:1500] = ids_of((800, 600), "any id", 5)
    second = np.roll(first, (2, 3), (0, 1))
    np.testing.assert_array_equal(id_counts(first), np.bincount(first.ravel(), minlength=256))
    codes = first.astype(np.int64).ravel() * 256 + second.ravel()
    np.testing.assert_array_equal(
        pair_counts(first, second).ravel(), np.bincount(codes, minlength=65536)
    )


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
