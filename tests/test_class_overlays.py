"""Overlays of classes, read back pixel by pixel."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline import class_overlays
from pipeline.class_overlays import (
    COLORS,
    FOUND,
    MADE_UP,
    MISSED,
    OTHER,
    ClassOverlay,
    encode_overlays,
    overlay,
)
from pipeline.thumbnails import Picture, SheetThumbnails

_ = 255
LABELS = np.array([[0, 0, 1, 2], [1, _, 0, _]], np.uint8)
MAPPED = np.array([[0, 1, 0, 2], [1, 1, _, _]], np.uint8)


def sheet(labels: NDArray[np.uint8], mapped: NDArray[np.uint8] | None) -> SheetThumbnails:
    photo = np.zeros((*labels.shape, 3), np.uint8)
    return SheetThumbnails(photo, np.ones(labels.shape, bool), labels, mapped)


def rgba(picture: Picture) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(picture.content)).convert("RGBA"))


def size(encoded: list[tuple[ClassOverlay, ...]]) -> int:
    return sum(len(one.picture.content) for overlays in encoded for one in overlays)


def noise(classes: int, seed: int, side: tuple[int, int] = (338, 480)) -> SheetThumbnails:
    """The worst that a PNG can be given."""
    rng = np.random.default_rng(seed)
    labels, mapped = rng.integers(0, classes, (2, *side), dtype=np.uint8)
    return sheet(labels, mapped)


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (0, [[FOUND, MISSED, MADE_UP, OTHER], [OTHER, _, _, _]]),
        (1, [[OTHER, MADE_UP, MISSED, OTHER], [FOUND, _, _, _]]),
        (2, [[OTHER, OTHER, OTHER, FOUND], [OTHER, _, _, _]]),
        (7, [[OTHER, OTHER, OTHER, OTHER], [OTHER, _, _, _]]),
    ],
)
def test_pixels_are_found_made_up_or_missed(k: int, expected: list[list[int]]) -> None:
    found = overlay(LABELS, MAPPED, k)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_the_numbers_are_those_that_others_rely_on() -> None:
    assert (OTHER, FOUND, MADE_UP, MISSED) == (0, 1, 2, 3)


def test_each_kind_has_its_colour_and_nothing_known_is_transparent() -> None:
    (overlays,) = encode_overlays([sheet(LABELS, MAPPED)], 3)
    colors = [(*bytes.fromhex(color[1:]), 255) for color in COLORS]
    for one in overlays:
        pixels = rgba(one.picture)
        expected = overlay(LABELS, MAPPED, one.number)
        for kind, color in enumerate(colors):
            assert (pixels[expected == kind] == color).all()
        assert (pixels[expected == _][:, 3] == 0).all()
        assert (one.picture.width, one.picture.height) == (4, 2)


def test_only_classes_that_labels_or_map_have_where_both_are_known_are_shown() -> None:
    labels = np.array([[0, 3, _], [0, 0, 0]], np.uint8)
    mapped = np.array([[0, 5, 4], [0, _, 0]], np.uint8)
    (overlays,) = encode_overlays([sheet(labels, mapped)], 30)
    told = [(one.number, one.found, one.made_up, one.missed) for one in overlays]
    assert told == [(0, 3, 0, 0), (3, 0, 0, 1), (5, 0, 1, 0)]


def test_sheets_without_a_map_have_none() -> None:
    assert encode_overlays([None, sheet(LABELS, None), sheet(LABELS, MAPPED)], 3)[:2] == [(), ()]
    assert encode_overlays([], 3) == []
    unknown = np.full((2, 4), _, np.uint8)
    assert encode_overlays([sheet(unknown, MAPPED)], 3) == [()]


def test_smaller_pictures_take_the_nearest_pixel_and_keep_the_counts() -> None:
    labels = np.zeros((90, 30), np.uint8)
    labels[45:] = 1
    (overlays,) = encode_overlays([sheet(labels, np.zeros_like(labels))], 2, side=6)
    first, second = overlays
    assert (first.found, first.made_up, first.missed) == (1350, 1350, 0)
    assert (second.found, second.made_up, second.missed) == (0, 0, 1350)
    green, red = (bytes.fromhex(COLORS[kind][1:]) for kind in (FOUND, MADE_UP))
    pixels = rgba(first.picture)
    assert pixels.shape == (6, 2, 4)
    assert (pixels[:3, :, :3] == tuple(green)).all()
    assert (pixels[3:, :, :3] == tuple(red)).all()


def test_five_entries_take_half_a_byte() -> None:
    (overlays,) = encode_overlays([noise(3, 0)], 3)
    assert len(overlays) == 3
    for one in overlays:
        assert one.picture.content[24] == 4  # bits, in the header of a PNG
        assert one.picture.content[25] == 3  # palette


def test_fifty_sheets_of_thirty_classes_stay_within_the_budget() -> None:
    classes = 30
    # The same sheet fifty times: what counts is what all pictures take.
    encoded = encode_overlays([noise(classes, 1, (110, 160))] * 50, classes)
    assert [len(overlays) for overlays in encoded] == [classes] * 50
    # Not smaller than need be.
    assert 0.75 * class_overlays.BUDGET_BYTES < size(encoded) <= class_overlays.BUDGET_BYTES
    widths = {one.picture.width for overlays in encoded for one in overlays}
    assert len(widths) == 1
    assert widths.pop() < 160


def test_what_is_tried_is_not_all_and_yet_all_of_it_fits() -> None:
    zeros = np.zeros((200, 200), np.uint8)
    # 120 pictures, of which every third is tried: flat ones only, that need not shrink at all.
    flat, loud = sheet(zeros, zeros), noise(2, 4, (200, 200))
    sheets = [flat, loud] * 40
    encoded = encode_overlays(sheets, 2, budget=60_000)
    assert size(encoded) <= 60_000
    assert encoded == encode_overlays(sheets, 2, budget=60_000)


def test_the_smallest_picture_ends_the_shrinking() -> None:
    (overlays,) = encode_overlays([noise(3, 0)], 3, budget=1)
    assert {max(one.picture.width, one.picture.height) for one in overlays} == {16}


def test_colours_differ_in_lightness() -> None:
    def lightness(color: str) -> float:
        channels = np.array(list(bytes.fromhex(color[1:]))) / 255
        curve = ((channels + 0.055) / 1.055) ** 2.4
        linear = np.where(channels <= 0.04045, channels / 12.92, curve)
        return float(116 * np.cbrt(linear @ (0.2126, 0.7152, 0.0722)) - 16)

    steps = [lightness(color) for color in COLORS]
    assert all(pale - dark >= 15 for pale, dark in pairwise(steps)), steps


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        overlay(LABELS, MAPPED[:1], 0)
