"""Overlays of one class: what of it the map found, what it made up, and what it missed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.counting import pair_counts
from pipeline.nomenclature import IGNORE
from pipeline.thumbnails import SIDE_PX, Picture, SheetThumbnails, nearest, palette_png

OTHER, FOUND, MADE_UP, MISSED = range(4)
"""What a pixel of an overlay is; :data:`~pipeline.nomenclature.IGNORE` where nothing is known."""

COLORS = ("#E9E9E6", "#86C98A", "#D7301F", "#16338F")
"""Pale grey; green for true positives, red for false positives, blue for false negatives. Their
lightness falls in steps of 15 and more (L* 92, 75, 48, 25), for eyes that tell no hues and for
grey paper."""

BUDGET_BYTES = 2 * 2**20
"""All overlays of a report together; base64 makes a third more of them."""

_SMALLEST_PX = 16
_TRIED = 50


@dataclass(frozen=True)
class ClassOverlay:
    """The overlay of one class on one sheet.

    Attributes:
        number: Id of the class.
        found: Pixels of the decimated sheet that are this class in labels and map.
        made_up: Those that are on the map only.
        missed: Those that are in the labels only.
        picture: The file.
    """

    number: int
    found: int
    made_up: int
    missed: int
    picture: Picture


def overlay(labels: NDArray[np.uint8], mapped: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    """Compare one class in labels and map, pixel by pixel.

    Args:
        labels: Reference class ids, any shape; 255 = no usable label.
        mapped: Mapped class ids of the same pixels; 255 = nodata.
        k: Id of the class.

    Returns:
        0 where neither has the class, 1 where both have it (true positive), 2 where only the map
        has it (false positive), 3 where only the labels have it (false negative); 255 where
        either has no data.

    Raises:
        ValueError: If the shapes differ.
    """
    if labels.shape != mapped.shape:
        raise ValueError(f"labels {labels.shape} and map {mapped.shape} differ")
    # By the bits "on the map" and "in the labels".
    kinds = np.array([OTHER, MADE_UP, MISSED, FOUND], np.uint8)
    compared: NDArray[np.uint8] = kinds[(mapped == k) + np.uint8(2) * (labels == k)]
    compared[(labels == IGNORE) | (mapped == IGNORE)] = IGNORE
    return compared


def encode_overlays(
    sheets: Sequence[SheetThumbnails | None],
    classes: int,
    budget: int = BUDGET_BYTES,
    side: int = SIDE_PX,
) -> list[tuple[ClassOverlay, ...]]:
    """Encode the overlays of all sheets, smaller if need be to stay within a size.

    Args:
        sheets: Decimated sheets; None, or one without a map, has no overlay.
        classes: Number of classes.
        budget: Bytes of all files together, not to be passed (down to pictures of 16 pixels).
        side: Longest side in pixels; no picture is enlarged.

    Returns:
        The overlays of each sheet, in the order of the classes; only of classes that its labels or
        its map have where both are known. Palette PNG: nearest pixels, transparent where nothing is
        known, or the map is not judged.
    """
    # Whether a class is shown, and its counts, do not depend on how small the pictures get.
    found = [_occurring(sheet, classes) for sheet in sheets]
    wanted = [(sheet, k) for sheet, of in zip(sheets, found, strict=True) if sheet for k in of]
    side = _fitting_side(wanted, budget, side)
    while True:
        encoded = [
            tuple(ClassOverlay(k, *counts, _picture(sheet, k, side)) for k, counts in of.items())
            if sheet is not None
            else ()
            for sheet, of in zip(sheets, found, strict=True)
        ]
        size = sum(len(one.picture.content) for overlays in encoded for one in overlays)
        if size <= budget or side <= _SMALLEST_PX:
            return encoded
        side = _smaller(side, budget / size)


def _fitting_side(wanted: Sequence[tuple[SheetThumbnails, int]], budget: int, side: int) -> int:
    """The side at which all pictures will fit, going by some of them: to encode takes long."""
    step = -(-len(wanted) // _TRIED)
    while tried := wanted[::step] if wanted else ():
        size = sum(len(_picture(sheet, k, side).content) for sheet, k in tried)
        share = budget * len(tried) / (len(wanted) * size)
        if share >= 1 or side <= _SMALLEST_PX:
            break
        side = _smaller(side, share)
    return side


def _smaller(side: int, share: float) -> int:
    # What a file takes whatever its side does not shrink, hence the rest.
    return max(_SMALLEST_PX, min(side - 1, int(side * 0.97 * math.sqrt(share))))


def _occurring(sheet: SheetThumbnails | None, classes: int) -> dict[int, tuple[int, int, int]]:
    """Pixels found, made up and missed, of each class that there is."""
    if sheet is None or sheet.mapped is None:
        return {}
    # Nothing of a pixel that either has no data for is counted.
    pairs = pair_counts(sheet.judged_labels, sheet.mapped)[:IGNORE, :IGNORE]
    labelled, mapped = pairs.sum(axis=1), pairs.sum(axis=0)
    return {
        k: (int(pairs[k, k]), int(mapped[k] - pairs[k, k]), int(labelled[k] - pairs[k, k]))
        for k in range(classes)
        if labelled[k] or mapped[k]
    }


def _picture(sheet: SheetThumbnails, k: int, side: int) -> Picture:
    assert sheet.mapped is not None
    rows, cols = sheet.labels.shape
    scale = min(1.0, side / max(rows, cols))
    size = (max(1, round(cols * scale)), max(1, round(rows * scale)))
    ids = overlay(nearest(sheet.judged_labels, size), nearest(sheet.mapped, size), k)
    return Picture("overlay", *size, "image/png", palette_png(ids, COLORS, "overlay"))
