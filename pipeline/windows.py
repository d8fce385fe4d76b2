"""Windows that the network sees, and what each of them gives to the map.

Neighbouring windows share ground. With ``crop`` each pixel comes from the window in which it lies
deeper; with ``blend`` it is the mean of all windows that see it, weighted by its distance to their
edges. Beyond the sheet's edges the network sees the ground mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import Window, split

BLEND_POWER = 4
"""Weights of a blend grow with this power of the distance to the window's edge. What a network
says near the edge is worth little: with the distance itself, a blend of windows of 1024 px that
share 256 differs from one piece in 0.070 % of the pixels of a real scene, with its square in
0.026 %, with its fourth power in 0.014 %; ``crop`` in 0.010 %."""

STRIDE = 32
"""Networks halve their input five times. Windows that begin at multiples of it see the ground in
the same phase, as one window over the whole sheet does."""


class Axis(NamedTuple):
    """One part of the rows or of the columns: what is kept, and what the network sees.

    Attributes:
        kept: First kept pixel and the one behind the last, with ``crop``.
        first: First pixel that the network sees; negative where that is mirrored ground.
        seen: Pixels that the network sees.
    """

    kept: tuple[int, int]
    first: int
    seen: int

    @property
    def behind(self) -> int:
        """The pixel behind the last one that the network sees."""
        return self.first + self.seen

    def mirrored(self, length: int) -> NDArray[np.intp]:
        """Pixel of the sheet behind each pixel that the network sees, shape ``(seen,)``."""
        return _mirrored(np.arange(self.first, self.behind), length)


def axis_parts(length: int, window_px: int, overlap_px: int, least: int = 0) -> list[Axis]:
    """Cut the rows or the columns of a sheet into parts that are kept, each with its surroundings.

    All parts see as many pixels. The last one lies inside the sheet as far as it can: it begins
    where a window in the same phase just reaches the mirrored ground behind the edge that one
    window over the whole sheet would see. So windows of multiples of 32 pixels that overlap by
    multiples of 64 give the map of one window, for networks that look no further than half of
    the overlap.

    Args:
        length: Rows or columns of the sheet.
        window_px: What the network sees at most.
        overlap_px: What neighbours share; even, less than ``window_px``.
        least: What the network sees at least, where the sheet is smaller.

    Raises:
        ValueError: If the overlap is odd or leaves nothing to keep.
    """
    if overlap_px % 2 or not 0 <= overlap_px < window_px:
        raise ValueError(
            f"an overlap of {overlap_px} px in windows of {window_px} px: is even and smaller"
        )
    halo, kept = overlap_px // 2, window_px - overlap_px
    whole = _in_phase(length + overlap_px)
    seen = min(window_px, max(whole, _in_phase(least)))
    parts = []
    for window in split(Window(0, 0, length, 1), kept, 1):
        last = window.right == length
        inside = _in_phase(max(0, length + overlap_px - seen)) - halo
        first = min(inside, window.col - halo) if last else window.col - halo
        parts.append(Axis((window.col, window.right), first, seen))
    return parts


def blend_weights(parts: Sequence[Axis], length: int) -> list[NDArray[np.float32]]:
    """Weight of each pixel that each part sees: a power of its distance to the part's edges.

    Over all parts, the weights of a pixel of the sheet add up to one. In two dimensions a pixel's
    weight is the product of its row's and its column's.

    Args:
        parts: Parts of one axis.
        length: Rows or columns of the sheet.

    Returns:
        One array a part, shape ``(seen,)``; 0 beyond the sheet's edges.
    """
    total = np.zeros(length)
    ramps = []
    for part in parts:
        inner = np.arange(part.seen) + 0.5
        ramp = np.minimum(inner, part.seen - inner) ** BLEND_POWER
        place = np.arange(part.first, part.behind)
        ramp[(place < 0) | (place >= length)] = 0
        inside = slice(max(0, part.first), min(length, part.behind))
        total[inside] += ramp[inside.start - part.first : inside.stop - part.first]
        ramps.append(ramp)
    weights = []
    for part, ramp in zip(parts, ramps, strict=True):
        place = np.clip(np.arange(part.first, part.behind), 0, length - 1)
        weights.append((ramp / total[place]).astype(np.float32))
    return weights


def touching(parts: Sequence[Axis], first: int, behind: int, *, seen: bool) -> range:
    """Numbers of the parts that touch some pixels.

    Args:
        parts: Parts of one axis.
        first: First pixel.
        behind: The pixel behind the last.
        seen: By what the network sees of them, or by what is kept.
    """
    spans = [(part.first, part.behind) if seen else part.kept for part in parts]
    found = [i for i, (begin, end) in enumerate(spans) if begin < behind and first < end]
    return range(found[0], found[-1] + 1)


def _in_phase(pixels: int) -> int:
    return -(-pixels // STRIDE) * STRIDE


def _mirrored(positions: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """Reflect positions outside ``0..length - 1`` at the first and the last pixel, repeatedly."""
    if length == 1:
        return np.zeros_like(positions)
    period = 2 * (length - 1)
    folded = positions % period
    return np.minimum(folded, period - folded)
