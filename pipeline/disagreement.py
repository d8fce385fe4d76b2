"""Where a map differs from its reference, and what should have been there.

Values: 0 where both say the same, 1 + c where the reference has class c and the map another one,
255 where one of them has none. What the map said instead is on the map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.nomenclature import IGNORE

RIGHT = 0
"""Value of pixels where map and reference agree."""

BACKGROUNDS = ("#F5F5F5", "#262626", "#9E9E9E", "#B8E0F0")
"""Colours for what is right; the one that is least like any class is taken."""


def disagreement(
    reference: NDArray[np.uint8], mapped: NDArray[np.uint8], classes: int
) -> NDArray[np.uint8]:
    """Mark the pixels of a window where the map is wrong with the class that belongs there.

    Args:
        reference: Class ids, 255 where there is none, shape ``(rows, cols)``.
        mapped: Class ids of the map at the same pixels, 255 where there is none.
        classes: Number of classes, at most 254.

    Returns:
        0 where both agree, 1 + the reference's class where they do not, 255 where one of them has
        none; shape ``(rows, cols)``.

    Raises:
        ValueError: If the shapes differ, or an id is neither a class nor 255.
    """
    if reference.shape != mapped.shape:
        raise ValueError(f"reference of {reference.shape} and map of {mapped.shape} pixels")
    if not 0 < classes < IGNORE:
        raise ValueError(f"{classes} classes do not fit; 1 to {IGNORE - 1} do")
    for ids, what in ((reference, "reference"), (mapped, "map")):
        wrong = (ids >= classes) & (ids != IGNORE)
        if wrong.any():
            raise ValueError(f"the {what} holds the id {ids[wrong][0]}; there are {classes}")
    shown = np.where(reference == mapped, np.uint8(RIGHT), reference + np.uint8(1))
    shown[(reference == IGNORE) | (mapped == IGNORE)] = IGNORE
    return shown


def legend(names: Sequence[str], colors: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and colours of the values 0, 1, ...

    Args:
        names: Class names in the order of their ids.
        colors: ``#RRGGBB`` of each.

    Returns:
        ``right``, then each class where it was taken for another, in its own colour. What is right
        has the colour that is least like any of the classes, so that a pale class shows on dark
        ground and a dark one on pale ground.
    """
    right = max(BACKGROUNDS, key=lambda color: min(_distance(color, other) for other in colors))
    return (
        ("right", *(f"{name}, mapped as another class" for name in names)),
        (right, *colors),
    )


def _distance(one: str, other: str) -> int:
    pairs = ((int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5))
    return sum((mine - theirs) ** 2 for mine, theirs in pairs)
