from __future__ import annotations

import numpy as np
import pytest

from pipeline.windows import axis_parts, blend_weights, touching


@pytest.mark.parametrize("length", [1, 2, 23, 24, 25, 48, 49, 1000])
@pytest.mark.parametrize(("window_px", "overlap_px"), [(32, 0), (32, 8), (32, 16), (100, 50)])
def test_parts_of_an_axis_keep_each_pixel_once_with_its_surroundings(
    length: int, window_px: int, overlap_px: int
) -> None:
    parts = axis_parts(length, window_px, overlap_px)
    halo = overlap_px // 2
    kept = [position for part in parts for position in range(*part.kept)]
    assert kept == list(range(length))
    assert len({part.seen for part in parts}) == 1
    assert parts[0].seen <= window_px
    for part in parts:
        assert part.first <= part.kept[0] - halo
        assert part.first + part.seen >= part.kept[1] + halo
        seen = part.mirrored(length)
        assert seen.min() >= 0
        assert seen.max() < length
        inside = slice(part.kept[0] - part.first, part.kept[1] - part.first)
        assert seen[inside].tolist() == list(range(*part.kept))


def test_narrow_sheets_are_mirrored_again_and_again() -> None:
    (part,) = axis_parts(3, 16, 8)
    assert part.first == -4
    assert part.mirrored(3)[:12].tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]
    (pixel,) = axis_parts(1, 16, 8)
    assert set(pixel.mirrored(1).tolist()) == {0}


@pytest.mark.parametrize("overlap_px", [7, 32, 40])
def test_overlaps_that_keep_nothing_are_refused(overlap_px: int) -> None:
    with pytest.raises(ValueError, match="is even and smaller"):
        axis_parts(100, 32, overlap_px)


@pytest.mark.parametrize("length", [1, 24, 25, 60, 97, 400])
@pytest.mark.parametrize("overlap_px", [0, 8, 16])
def test_weights_of_a_pixel_add_up_to_one(length: int, overlap_px: int) -> None:
    parts = axis_parts(length, 32, overlap_px)
    total = np.zeros(length)
    for part, weights in zip(parts, blend_weights(parts, length), strict=True):
        assert weights.shape == (part.seen,)
        for place, weight in zip(range(part.first, part.behind), weights, strict=True):
            if 0 <= place < length:
                total[place] += weight
            else:
                assert weight == 0
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_weights_grow_with_the_distance_to_the_edge() -> None:
    parts = axis_parts(56, 32, 16)
    first, second = blend_weights(parts, 56)[:2]
    # Shared are the pixels 8 to 23: of the first window the last sixteen.
    assert parts[1].first == 8
    near, far = (np.arange(16) + 0.5) ** 4, (np.arange(16)[::-1] + 0.5) ** 4
    np.testing.assert_allclose(first[16:], far / (near + far), rtol=1e-6)
    np.testing.assert_allclose(second[:16], near / (near + far), rtol=1e-6)


@pytest.mark.parametrize(
    ("length", "window_px"), [(1000, 256), (513, 320), (129, 192), (2000, 512)]
)
def test_the_last_window_ends_where_one_window_over_all_of_it_ends(
    length: int, window_px: int
) -> None:
    parts = axis_parts(length, window_px, 128)
    (whole,) = axis_parts(length, 4096, 128)
    assert parts[-1].behind == whole.behind
    assert {part.first % 32 for part in parts} == {whole.first % 32}


def test_parts_that_touch_some_pixels() -> None:
    parts = axis_parts(100, 32, 8)
    assert touching(parts, 0, 100, seen=False) == range(len(parts))
    assert touching(parts, 24, 25, seen=False) == range(1, 2)
    assert touching(parts, 24, 25, seen=True) == range(2)
