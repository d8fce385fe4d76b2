"""What lies near a pixel: exact Euclidean distances, and discs, by whole arrays.

Both look no farther than they are asked to, and so need no more than a rim around a window. Within
it, results do not depend on where windows are cut.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_FARTHEST = 60  # pixels
_FAR = 100  # pixels: above the farthest; with the steps that are added to it, still a uint8
_BAND = 64  # rows: sums of squares of so many stay in the cache of a core


def squared_distances(marked: NDArray[np.bool_], halo: int, farthest: int) -> NDArray[np.uint16]:
    """Squared Euclidean distance of each pixel to the nearest marked one, between centres.

    Args:
        marked: Shape ``(rows + 2 * halo, cols + 2 * halo)``.
        halo: Pixels on each side for which nothing is asked, at least ``farthest``.
        farthest: Largest distance that is asked for, 1 to 60.

    Returns:
        Shape ``(rows, cols)``, exact; ``farthest**2 + 1`` where no marked pixel is that near.

    Raises:
        ValueError: If the halo is smaller than the largest distance, or that is not 1 to 60.

    Source:
        Saito & Toriwaki (1994): first along columns, then along rows; here by whole arrays and no
        farther than is asked for.
    """
    if not 1 <= farthest <= min(halo, _FARTHEST):
        raise ValueError(f"distances of 1 to {min(halo, _FARTHEST)} pixels, not {farthest}")
    rows, cols = (side - 2 * halo for side in marked.shape)
    along = np.where(marked, np.uint8(0), np.uint8(_FAR))
    step = 1
    while step <= farthest:
        # What lies within 2 * step - 1 rows, from what lies within step - 1.
        before = along + np.uint8(step)
        np.minimum(along[step:], before[:-step], out=along[step:])
        np.minimum(along[:-step], before[step:], out=along[:-step])
        step *= 2
    found = np.empty((rows, cols), np.uint16)
    for row in range(0, rows, _BAND):
        band = along[halo + row : halo + min(row + _BAND, rows)].astype(np.uint16)
        np.square(band, out=band)
        nearest = found[row : row + _BAND]
        nearest[...] = band[:, halo : halo + cols]
        if int(band.min()) > farthest**2:
            continue
        room = np.empty_like(nearest)
        for aside in range(1, farthest + 1):
            left, right = halo - aside, halo + aside
            np.minimum(band[:, left : left + cols], band[:, right : right + cols], out=room)
            room += np.uint16(aside**2)
            np.minimum(nearest, room, out=nearest)
    return np.minimum(found, np.uint16(farthest**2 + 1), out=found)


def near(bits: NDArray[np.uint8], radius: int, halo: int) -> NDArray[np.uint8]:
    """Bits that are set in any pixel of the disc around each pixel.

    Args:
        bits: Shape ``(rows + 2 * halo, cols + 2 * halo)``.
        radius: Of the disc in pixels: pixels are in it whose centre is no farther.
        halo: Pixels on each side for which nothing is asked, at least the radius.

    Returns:
        Shape ``(rows, cols)``.

    Raises:
        ValueError: If the halo is smaller than the radius.
    """
    if not 0 <= radius <= halo:
        raise ValueError(f"a disc of radius {radius} reaches beyond {halo} pixels")
    rows, cols = (side - 2 * halo for side in bits.shape)
    across = bits[:, halo : halo + cols].copy()  # bits of so many pixels left and right
    found = np.zeros((rows, cols), np.uint8)
    half_widths = [math.isqrt(radius**2 - down**2) for down in range(radius + 1)]
    for half in range(radius + 1):
        if half:
            across |= bits[:, halo - half : halo - half + cols]
            across |= bits[:, halo + half : halo + half + cols]
        for down in (d for d, width in enumerate(half_widths) if width == half):
            found |= across[halo - down : halo - down + rows]
            found |= across[halo + down : halo + down + rows]
    return found
