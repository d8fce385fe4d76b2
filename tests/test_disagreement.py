"""Where map and reference differ: values and legend."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.disagreement import BACKGROUNDS, disagreement, legend

_ = 255


def test_what_is_wrong_has_the_class_that_belongs_there() -> None:
    reference = np.array([[0, 1, 2, _], [2, 0, _, 1]], np.uint8)
    mapped = np.array([[0, 2, 1, 1], [_, 2, _, 1]], np.uint8)
    expected = np.array([[0, 2, 3, _], [_, 1, _, 0]], np.uint8)
    found = disagreement(reference, mapped, 3)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8


def test_the_last_class_that_fits_is_not_taken_for_no_data() -> None:
    reference = np.array([[253, 0]], np.uint8)
    assert disagreement(reference, reference[:, ::-1], 254).tolist() == [[254, 1]]
    with pytest.raises(ValueError, match="255 classes do not fit"):
        disagreement(reference, reference, 255)


def test_ids_and_shapes_that_are_none_are_refused() -> None:
    good = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="the map holds the id 3; there are 3"):
        disagreement(good, good + np.uint8(3), 3)
    with pytest.raises(ValueError, match="the reference holds the id 7"):
        disagreement(good + np.uint8(7), good, 3)
    with pytest.raises(ValueError, match="pixels"):
        disagreement(good, good[:1], 3)


@pytest.mark.parametrize(
    ("colors", "ground"),
    [
        (("#F4F0E1", "#787878", "#61AAF2"), "#262626"),  # a pale class on dark ground
        (("#000000", "#A00000", "#404040"), "#F5F5F5"),  # dark classes on pale ground
        (("#FFFFFF", "#000000", "#B8E0F0"), "#9E9E9E"),
    ],
)
def test_what_is_right_looks_like_no_class(colors: tuple[str, ...], ground: str) -> None:
    names, shown = legend(("a & b", "c", "d"), colors)
    assert ground in BACKGROUNDS
    assert shown == (ground, *colors)
    assert names == (
        "right",
        "a & b, mapped as another class",
        "c, mapped as another class",
        "d, mapped as another class",
    )
