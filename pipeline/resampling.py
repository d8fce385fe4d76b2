"""Images on other pixels of the same coordinate system: means of areas, or between centres.

GDAL's warper chooses its chunks and, by them, its scales; a map must not depend on the windows in
which it is made. Here a pixel is the same sum of the same numbers whatever the window, and pixels
without data have no part in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import PixelGrid, Window, split

HALF = 0.5
"""Of a pixel's area: with less data it has none."""

_DIGITS = 6  # of a pixel of the source: 0.3 / 0.1 is a little less than 3

_SOURCE_ROWS = 1024  # read at once
_SOURCE_COLUMNS = 1024  # computed at once, in float32


Read = Callable[[Window], tuple[NDArray[np.uint8], NDArray[np.bool_]]]
"""Window inside the image -> image ``(bands, rows, cols)``, valid ``(rows, cols)``."""


@dataclass(frozen=True)
class _Axis:
    """Where the pixels of one axis come from.

    Attributes:
        places: Pixels of the source behind each pixel, inside the source, shape ``(n, taps)``.
        weights: What each counts, float32, shape ``(n, taps)``.
        full: Sum of the weights of a pixel that has all its area inside the source.
    """

    places: NDArray[np.intp]
    weights: NDArray[np.float32]
    full: float

    @property
    def span(self) -> tuple[int, int]:
        """First pixel of the source that counts, and the one behind the last."""
        return int(self.places.min()), int(self.places.max()) + 1

    def part(self, first: int, behind: int) -> _Axis:
        return _Axis(self.places[first:behind], self.weights[first:behind], self.full)

    def summed(self, pixels: NDArray[np.generic], axis: int, origin: int) -> NDArray[np.float32]:
        """Weighted sums along an axis of pixels that begin at a place of the source."""
        shape = [1] * pixels.ndim
        shape[axis] = -1
        total: NDArray[np.float32] | None = None
        for places, weights in zip(self.places.T - origin, self.weights.T, strict=True):
            term = np.multiply(
                pixels.take(places, axis=axis), weights.reshape(shape), dtype=np.float32
            )
            total = term if total is None else np.add(total, term, out=total)
        assert total is not None
        return total


def resampled(
    read: Read,
    bands: int,
    source: PixelGrid,
    grid: PixelGrid,
    window: Window,
    least_valid: float = HALF,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pixels of a window on another grid.

    Where pixels become larger, each is the mean of the area it covers, parts of pixels counting
    by their part; where they become smaller or only shift, it is interpolated between the four
    nearest centres (bilinear). Each axis by itself.

    Args:
        read: Gives the image's pixels.
        bands: Its bands.
        source: Its grid.
        grid: Other pixels in the same coordinate system.
        window: Pixels of ``grid``; ground outside of the source has no data.
        least_valid: Share of a pixel's area that must have data for it to have some.

    Returns:
        Image, shape ``(bands, rows, cols)``, 0 where there is no data; valid, ``(rows, cols)``.
    """
    rows = _axis(
        window.row, window.height, (source.top - grid.top) / source.pixel_height,
        grid.pixel_height / source.pixel_height, source.height,
    )  # fmt: skip
    columns = _axis(
        window.col, window.width, (grid.left - source.left) / source.pixel_width,
        grid.pixel_width / source.pixel_width, source.width,
    )  # fmt: skip
    image = np.zeros((bands, window.height, window.width), np.uint8)
    valid = np.zeros((window.height, window.width), np.bool_)
    first, behind = columns.span
    high = max(1, int(_SOURCE_ROWS * source.pixel_height / grid.pixel_height))
    wide = max(1, int(_SOURCE_COLUMNS * source.pixel_width / grid.pixel_width))
    for slab in split(Window(0, 0, window.width, window.height), window.width, high):
        down = rows.part(slab.row, slab.bottom)
        top, bottom = down.span
        pixels, known = read(Window(first, top, behind - first, bottom - top))
        for part in split(slab, wide, high):
            across = columns.part(part.col, part.right)
            left, right = across.span
            cut = slice(left - first, right - first)
            place = part.slices()
            image[:, place[0], place[1]], valid[place] = _means(
                pixels[:, :, cut], known[:, cut], down, across, least_valid
            )
    return image, valid


def _means(
    pixels: NDArray[np.uint8],
    known: NDArray[np.bool_],
    down: _Axis,
    across: _Axis,
    least_valid: float,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    top, left = down.span[0], across.span[0]
    # Never short-cut where all is known: sums in another order end in another last bit.
    weight = across.summed(down.summed(known, 0, top), 1, left)
    sums = across.summed(down.summed(pixels * known, 1, top), 2, left)
    valid = weight >= np.float32(least_valid * down.full * across.full)
    sums /= np.where(valid, weight, 1)
    sums += 0.5
    return np.floor(sums * valid).astype(np.uint8), valid


def _axis(first: int, count: int, offset: float, step: float, length: int) -> _Axis:
    """Weights of one axis.

    Args:
        first: First pixel.
        count: Pixels.
        offset: Where pixel 0 begins, in pixels of the source.
        step: Size of a pixel, in pixels of the source.
        length: Pixels of the source.
    """
    # By the number of the pixel in its grid, not in the window: no window gives other weights.
    number = np.arange(first, first + count)
    if round(step, _DIGITS) <= 1:
        centre = np.round(offset + (number + 0.5) * step, _DIGITS)
        inside = (centre >= 0) & (centre <= length)
        lower = np.floor(centre - 0.5)
        share = centre - 0.5 - lower
        places = np.stack([lower, lower + 1], axis=1)
        weights = np.stack([1 - share, share], axis=1) * inside[:, np.newaxis]
        full = 1.0
    else:
        begin = np.round(offset + number * step, _DIGITS)
        end = np.round(offset + (number + 1) * step, _DIGITS)
        taps = int((np.ceil(end) - np.floor(begin)).max())
        places = np.floor(begin)[:, np.newaxis] + np.arange(taps)
        weights = np.minimum(places + 1, end[:, np.newaxis])
        weights = (weights - np.maximum(places, begin[:, np.newaxis])).clip(0)
        weights[(places < 0) | (places >= length)] = 0
        full = step
    places = places.clip(0, length - 1).astype(np.intp)
    return _Axis(places, weights.astype(np.float32), full)
