"""Image chips: exact pixels, a mark that hides none, grey where there is nothing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline import sample_chips
from pipeline.grid import PixelGrid, Window
from pipeline.sample_chips import (
    DETAIL,
    GAP,
    HEIGHT,
    MARK,
    NODATA,
    TITLE,
    ZOOM,
    View,
    chip,
    chip_of,
    encoded,
    height,
)

HALF = DETAIL // 2
MIDDLE = HALF * ZOOM


class Picture:
    """An image in memory."""

    what, block_height = "a picture", 64

    def __init__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> None:
        self.pixels, self.known = pixels, valid
        self.bands = len(pixels)
        self.grid = PixelGrid("EPSG:25830", 0.0, 0.0, 0.5, 0.5, *valid.shape[::-1])

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        assert window.intersection(self.grid.window) == window
        place = window.slices()
        return self.pixels[:, *place], self.known[place]

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def picture() -> Picture:
    """Noise of four bands, larger than a chip shows; none of it has the colour of the mark."""
    draw = np.random.default_rng(5)
    pixels = draw.integers(0, 250, (4, 900, 1000)).astype(np.uint8)
    return Picture(pixels, np.ones((900, 1000), np.bool_))


def marked(part: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((part == MARK).all(axis=-1))


def test_the_left_side_has_the_pixels_enlarged_and_only_the_mark_besides(picture: Picture) -> None:
    made = chip(picture, 450, 500)
    assert made.shape == (HEIGHT, 2 * HEIGHT + GAP, 3)
    left = made[:, :HEIGHT]
    rows, cols = slice(450 - HALF, 450 + HALF + 1), slice(500 - HALF, 500 + HALF + 1)
    true = np.moveaxis(picture.pixels[:3, rows, cols], 0, -1).repeat(ZOOM, 0).repeat(ZOOM, 1)
    mark = marked(left)
    np.testing.assert_array_equal(left[~mark], true[~mark])
    # A frame of 6 x 6 around the 4 x 4 of the pixel, and four arms of 2 x 20.
    assert mark.sum() == 20 + 4 * 2 * 20
    inner = slice(MIDDLE, MIDDLE + ZOOM)
    np.testing.assert_array_equal(
        left[inner, inner], np.broadcast_to(true[MIDDLE, MIDDLE], (4, 4, 3))
    )
    frame = mark[MIDDLE - 1 : MIDDLE + ZOOM + 1, MIDDLE - 1 : MIDDLE + ZOOM + 1]
    expected = np.ones((6, 6), np.bool_)
    expected[1:-1, 1:-1] = False
    np.testing.assert_array_equal(frame, expected)
    # The mark is the same from all four sides.
    around = mark[MIDDLE - 40 : MIDDLE + 44, MIDDLE - 40 : MIDDLE + 44]
    for turns in range(4):
        np.testing.assert_array_equal(around, np.rot90(around, turns))


def test_the_right_side_has_means_of_four_pixels_and_shows_where_the_left_side_is(
    picture: Picture,
) -> None:
    right = chip(picture, 450, 500)[:, -HEIGHT:]
    rows, cols = slice(450 - HEIGHT, 450 + HEIGHT), slice(500 - HEIGHT, 500 + HEIGHT)
    area = picture.pixels[:3, rows, cols].astype(float)
    mean = area.reshape(3, HEIGHT, 2, HEIGHT, 2).mean(axis=(2, 4))
    mark = marked(right)
    np.testing.assert_array_equal(
        right[~mark], np.moveaxis(np.floor(mean + 0.5), 0, -1)[~mark].astype(np.uint8)
    )
    down, across = np.nonzero(mark)
    # Inside of the frame lies all that the left side shows: 48 pixels to each side.
    first, last = (HEIGHT - HALF) // 2, (HEIGHT + HALF) // 2
    assert (down.min(), down.max()) == (across.min(), across.max()) == (first - 1, last + 1)
    assert not mark[first : last + 1, first : last + 1].any()


def test_what_has_no_data_or_lies_outside_is_grey() -> None:
    pixels = np.full((3, 60, 80), 10, np.uint8)
    valid = np.ones((60, 80), np.bool_)
    valid[:, 40:] = False
    pixels[:, :, 40:] = 77  # below nodata anything may stand
    made = chip(Picture(pixels, valid), 0, 39)
    left, right = made[:, :HEIGHT], made[:, -HEIGHT:]
    assert left[MIDDLE, MIDDLE].tolist() == [10, 10, 10]
    assert left[MIDDLE - 20, MIDDLE].tolist() == [NODATA] * 3  # above the first row
    assert left[MIDDLE + 60, MIDDLE + 60].tolist() == [NODATA] * 3  # masked
    assert left[MIDDLE + 60, MIDDLE - 60].tolist() == [10, 10, 10]
    # Columns 39 and 40 share a pixel of the overview: the mean is of what has data.
    assert right[HEIGHT // 2 + 3, HEIGHT // 2].tolist() == [10, 10, 10]
    assert right[HEIGHT // 2 + 3, HEIGHT // 2 + 1].tolist() == [NODATA] * 3
    assert right[0, 0].tolist() == [NODATA] * 3


def test_files_are_the_chips_whatever_the_threads(tmp_path: Path, picture: Picture) -> None:
    places = {tmp_path / f"{n}.jpg": place for n, place in enumerate([(880, 3), (2, 990), (2, 4)])}
    found = list(sample_chips.write_chips([View(picture)], places, threads=2))
    # Along the file: by rows of blocks, then from the left.
    assert [path.name for path in found] == ["2.jpg", "1.jpg", "0.jpg"]
    for path, place in places.items():
        assert path.read_bytes() == encoded(chip(picture, *place))
        with Image.open(path) as image:
            assert image.format == "JPEG"


def test_two_dates_stand_side_by_side_the_same_ground_in_the_same_place(picture: Picture) -> None:
    later = Picture(picture.pixels[:, 30:, 20:], picture.known[30:, 20:])
    views = [View(picture, "before"), View(later, "after", down=-30, across=-20)]
    made = chip_of(views, 450, 500)
    assert made.shape == (height(2), 2 * HEIGHT + GAP, 3) == (TITLE + 2 * HEIGHT + GAP, 784, 3)
    assert height(1) == HEIGHT
    np.testing.assert_array_equal(chip_of(views[:1], 450, 500), chip(picture, 450, 500))
    single = chip(picture, 450, 500)
    for part in (made[:, :HEIGHT], made[:, -HEIGHT:]):
        np.testing.assert_array_equal(part[TITLE : TITLE + HEIGHT], single[:, :HEIGHT])
        np.testing.assert_array_equal(part[-HEIGHT:], single[:, -HEIGHT:])
        assert (part[TITLE + HEIGHT : -HEIGHT] == 255).all()
    assert (made[:, HEIGHT:-HEIGHT] == 255).all()
    # Each half has its own title, in the middle of its strip, and nothing else is written.
    titles = [made[:TITLE, :HEIGHT], made[:TITLE, -HEIGHT:]]
    for title in titles:
        rows, cols = np.nonzero(title.min(axis=-1) < 100)
        assert 10 <= np.ptp(rows) + 1 <= TITLE - 2
        assert 20 <= np.ptp(cols) <= 80
        assert abs(cols.min() + cols.max() - HEIGHT) <= 4
    assert (titles[0] != titles[1]).any()
    other = Picture(255 - picture.pixels, picture.known)
    changed = chip_of([views[0], View(other, "after")], 450, 500)
    np.testing.assert_array_equal(changed[:, :HEIGHT], made[:, :HEIGHT])
    assert (changed[TITLE:, -HEIGHT:] != made[TITLE:, -HEIGHT:]).mean() > 0.9


def test_jpeg_leaves_the_colour_of_the_pixel(picture: Picture) -> None:
    smooth = Picture(np.full((3, 400, 400), 90, np.uint8), np.ones((400, 400), np.bool_))
    with Image.open(io.BytesIO(encoded(chip(smooth, 200, 200)))) as image:
        seen = np.asarray(image).astype(int)
    inner = seen[MIDDLE : MIDDLE + ZOOM, MIDDLE : MIDDLE + ZOOM]
    assert np.abs(inner.mean(axis=(0, 1)) - 90).max() < 4
    assert np.abs(seen[20:100, 20:100] - 90).max() <= 1
