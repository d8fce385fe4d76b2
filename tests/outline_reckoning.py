"""Distances to outlines and outlines that are met, reckoned over whole arrays, class by class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

EDGES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)


def patches(
    shape: tuple[int, int], classes: int, size: int, seed: int, masked: float = 0.0
) -> NDArray[np.uint8]:
    """Random areas of classes, some of them masked (255), with a few odd pixels."""
    draw = np.random.default_rng(seed)
    rough = draw.random((classes, shape[0] // size + 2, shape[1] // size + 2))
    fields = np.stack([ndimage.zoom(field, size, order=1) for field in rough])
    ids: NDArray[np.uint8] = fields[:, : shape[0], : shape[1]].argmax(axis=0).astype(np.uint8)
    odd = draw.random(shape) < 0.002
    ids[odd] = draw.integers(0, classes, int(odd.sum()))
    if masked:
        holes = ndimage.zoom(draw.random(rough.shape[1:]), size, order=1)[: shape[0], : shape[1]]
        ids[holes < np.quantile(holes, masked)] = 255
    return ids


def outlines(ids: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels with another class beside them."""
    padded = np.pad(ids, 1, constant_values=255)
    found = np.zeros(ids.shape, np.bool_)
    for down, across in ((0, 1), (2, 1), (1, 0), (1, 2)):
        beside = padded[down : down + ids.shape[0], across : across + ids.shape[1]]
        found |= (beside != 255) & (ids != 255) & (beside != ids)
    return found


def distances(marked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance of each pixel to the nearest marked one, infinite without any."""
    if not marked.any():
        return np.full(marked.shape, np.inf)
    found: NDArray[np.float64] = ndimage.distance_transform_edt(~marked)
    return found


def reckoned(
    reference: NDArray[np.uint8],
    mapped: NDArray[np.uint8],
    classes: int,
    tolerance: int,
    labels: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What OutlineCounts holds: by distance (to outlines of all labels), and boundary."""
    said = np.where(reference == 255, 255, mapped)
    unknown = (reference == 255) | (mapped == 255)
    true_lines, said_lines = outlines(reference), outlines(said)
    away = distances(true_lines if labels is None else outlines(labels))
    by_distance = np.zeros((classes, len(EDGES) + 1, 2), np.int64)
    boundary = np.zeros((classes, 4), np.int64)
    # A rim of unknown pixels around: what lies beyond is not judged.
    judged = distances(np.pad(unknown, 1, constant_values=True))[1:-1, 1:-1] > tolerance
    bounds = [-1.0, *EDGES, np.inf]
    for k in range(classes):
        for column, hit in enumerate((mapped != k, mapped == k)):
            here = away[~unknown & (reference == k) & hit]
            below = np.array([(here <= bound).sum() for bound in bounds])
            by_distance[k, :, column] = np.diff(below)
        ours, theirs = said_lines & (said == k), true_lines & (reference == k)
        boundary[k] = (
            (ours & judged).sum(),
            (ours & judged & (distances(theirs) <= tolerance)).sum(),
            (theirs & judged).sum(),
            (theirs & judged & (distances(ours) <= tolerance)).sum(),
        )
    return by_distance, boundary
