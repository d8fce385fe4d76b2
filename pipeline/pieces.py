"""Pieces of patches by window, and the patches that they become.

A patch is 4-connected pixels of one class. A window has pieces of patches; those of neighbouring
windows that touch are joined when all windows have been seen. What is kept until then goes with
the number of pieces, not of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.chains import connected
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE

NONE = -1
"""Number of what is no patch: pixels without a class, and what lies outside."""

_UNKNOWN = 255  # of a confidence

_SUMS = ("first", "pixels", "runs", "area", "confidence", "known")


@dataclass(frozen=True)
class Pieces:
    """The pieces of patches in a window, in the raster order of their first pixels.

    Attributes:
        window: The window.
        classes: Class of each piece, uint8, shape ``(n,)``.
        first: Place of its first pixel in the sheet: row times the sheet's width, plus column.
        pixels: Its pixels.
        runs: Runs of pixels in rows that it consists of: half of its upright edges.
        area: Its area in the unit of the rows' areas.
        confidence: Sum of the confidence of its pixels, in per cent.
        known: Pixels that have a confidence.
        edges: Number of the piece at each pixel of the upper, lower, left and right edge, or
            :data:`NONE`.
    """

    window: Window
    classes: NDArray[np.uint8]
    first: NDArray[np.int64]
    pixels: NDArray[np.int64]
    runs: NDArray[np.int64]
    area: NDArray[np.int64]
    confidence: NDArray[np.int64]
    known: NDArray[np.int64]
    edges: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]


def numbered(classes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Number the pieces of a window from 0, in the raster order of their first pixels.

    Args:
        classes: Class ids, 255 for none, shape ``(rows, cols)``.

    Returns:
        int32, shape ``(rows, cols)``, :data:`NONE` where there is no class.
    """
    return _numbered(classes)[0]


def find_pieces(
    classes: NDArray[np.uint8],
    confidence: NDArray[np.uint8] | None,
    window: Window,
    grid: PixelGrid,
    row_areas: NDArray[np.int64],
) -> Pieces:
    """Find the pieces of patches in a window.

    Args:
        classes: Class ids, 255 for none, shape ``(rows, cols)``.
        confidence: Per cent, 255 where not known, same shape; None where there is no raster.
        window: Where they are.
        grid: The sheet's grid.
        row_areas: Area of a pixel in each row of the sheet, in any unit, shape ``(height,)``.
    """
    pieces, starts, of_run = _numbered(classes)
    lengths = np.diff(starts, append=classes.size)
    rows, cols = np.divmod(starts, window.width)
    kept = of_run >= 0
    numbers = of_run[kept]
    count = int(numbers.max(initial=-1)) + 1
    _, first_run = np.unique(numbers, return_index=True)
    places = (rows + window.row) * grid.width + cols + window.col

    def total(weights: NDArray[np.int64]) -> NDArray[np.int64]:
        # In float64, which is exact: whole numbers, whose sums in a window stay below 2**53.
        return np.bincount(numbers, weights[kept], count).astype(np.int64)

    sums = known = np.zeros(count, np.int64)
    if confidence is not None:
        told = confidence != _UNKNOWN
        values = np.where(told, confidence, np.uint8(0)).ravel()
        sums = total(np.add.reduceat(values, starts, dtype=np.int64))
        known = total(np.add.reduceat(told.ravel(), starts, dtype=np.int64))
    return Pieces(
        window,
        classes.ravel()[starts][kept][first_run],
        places[kept][first_run],
        total(lengths),
        np.bincount(numbers, minlength=count),
        total(lengths * row_areas[window.row + rows]),
        sums,
        known,
        (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]),
    )


def _numbered(
    classes: NDArray[np.uint8],
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of pieces by pixel, where runs of pixels start, and numbers by run."""
    changes = np.empty(classes.shape, np.bool_)
    changes[:, :1] = True
    np.not_equal(classes[:, 1:], classes[:, :-1], out=changes[:, 1:])
    starts = np.flatnonzero(changes)
    run = (np.cumsum(changes.ravel(), dtype=np.int32) - 1).reshape(classes.shape)
    # Two runs begin to touch where one of them begins.
    touch = (classes[1:] == classes[:-1]) & (changes[1:] | changes[:-1])
    root = connected(len(starts), run[:-1][touch], run[1:][touch])
    classed = classes.ravel()[starts] != IGNORE
    numbers = np.cumsum(classed & (root == np.arange(len(root)))) - 1
    of_run = np.where(classed, numbers[root], NONE)
    return of_run.astype(np.int32)[run], starts, of_run


class Patches(NamedTuple):
    """The patches of a sheet, in the raster order of their first pixels.

    Attributes:
        classes: Class of each patch, uint8, shape ``(n,)``.
        pixels: Its pixels.
        runs: Runs of pixels in rows that its pieces consist of.
        area: Its area in the unit of the rows' areas.
        confidence: Mean confidence of its pixels in per cent, NaN where none is known.
        of_piece: Patch of each piece, the pieces of all windows one after the other.
        offsets: Where the pieces of each window begin in ``of_piece``.
    """

    classes: NDArray[np.uint8]
    pixels: NDArray[np.int64]
    runs: NDArray[np.int64]
    area: NDArray[np.int64]
    confidence: NDArray[np.float64]
    of_piece: NDArray[np.int64]
    offsets: dict[Window, int]


def join_pieces(windows: Iterable[Pieces], grid: PixelGrid) -> Patches:
    """Join the pieces of all windows to patches.

    Args:
        windows: Pieces of windows that cover the sheet, row by row of windows.
        grid: The sheet's grid.
    """
    columns: dict[str, list[NDArray[np.int64]]] = {name: [] for name in _SUMS}
    classes, links = [np.zeros(0, np.uint8)], [np.zeros((0, 2), np.int64)]
    offsets: dict[Window, int] = {}
    count = 0
    # Pieces and classes of the row above the windows, and of the column to the left of the next.
    above = np.full(grid.width, NONE, np.int64), np.full(grid.width, IGNORE)
    beside = above
    for pieces in windows:
        window = pieces.window
        offsets[window] = count
        of_piece = np.append(pieces.classes, np.uint8(IGNORE))  # of NONE, the last one
        upper, lower, left, right = (
            (np.where(edge >= 0, edge.astype(np.int64) + count, NONE), of_piece[edge])
            for edge in pieces.edges
        )
        across = slice(window.col, window.right)
        links.append(_links((above[0][across], above[1][across]), upper))
        if window.col:
            links.append(_links(beside, left))
        above[0][across], above[1][across] = lower
        beside = right
        classes.append(pieces.classes)
        for name, parts in columns.items():
            parts.append(getattr(pieces, name))
        count += len(pieces.classes)
    pairs = np.concatenate(links)
    heads, patch = np.unique(connected(count, *pairs.T), return_inverse=True)
    first = np.full(len(heads), np.iinfo(np.int64).max)
    np.minimum.at(first, patch, np.concatenate([np.zeros(0, np.int64), *columns.pop("first")]))
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    patch = rank[patch]

    def total(name: str) -> NDArray[np.int64]:
        sums = np.zeros(len(heads), np.int64)
        np.add.at(sums, patch, np.concatenate([np.zeros(0, np.int64), *columns.pop(name)]))
        return sums

    with np.errstate(invalid="ignore"):
        confidence = total("confidence") / total("known")
    return Patches(
        np.concatenate(classes)[heads[order]],
        total("pixels"),
        total("runs"),
        total("area"),
        confidence,
        patch,
        offsets,
    )


def _links(
    one: tuple[NDArray[np.int64], NDArray[np.uint8]],
    other: tuple[NDArray[np.int64], NDArray[np.uint8]],
) -> NDArray[np.int64]:
    """Pairs of pieces on both sides of an edge that belong together, each once."""
    alike = (one[1] == other[1]) & (one[0] >= 0) & (other[0] >= 0)
    return np.unique(np.column_stack([one[0], other[0]])[alike], axis=0)
