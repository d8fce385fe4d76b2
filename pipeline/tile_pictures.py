"""Pictures of single tiles: orthophoto, labels, map and errors, as sharp as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import Window
from pipeline.thumbnails import Picture, SheetThumbnails, encode

SIDE_PX = 256
"""Longest side of a picture; a larger tile is shown smaller."""

BUDGET_BYTES = 3 * 2**19
"""The pictures of all tiles together."""


@dataclass(frozen=True, eq=False)
class TilePixels:
    """A tile, read at full resolution, every array of the rows and columns of its window.

    Attributes:
        sheet: Name of the sheet.
        window: Where in the sheet.
        accuracy: Share of its judged pixels that is right, from 0 to 1.
        orthophoto: Red, green, blue, uint8, shape ``(rows, cols, 3)``.
        valid: Where the orthophoto has data, bool.
        labels: Reference class ids, uint8; 255 = not judged.
        mapped: Mapped class ids, uint8; 255 = nodata.

    Raises:
        ValueError: If shapes or types do not fit the window, or each other.
    """

    sheet: str
    window: Window
    accuracy: float
    orthophoto: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    mapped: NDArray[np.uint8]

    def __post_init__(self) -> None:
        shape = (self.window.height, self.window.width)
        if self.labels.shape != shape:
            raise ValueError(f"labels {self.labels.shape} of a window of {shape}")
        self.layers()

    def layers(self) -> SheetThumbnails:
        """The same as the value that thumbnails are made of."""
        return SheetThumbnails(self.orthophoto, self.valid, self.labels, self.mapped)


def encode_tiles(
    tiles: Sequence[TilePixels],
    colors: Sequence[str],
    budget: int = BUDGET_BYTES,
    side: int = SIDE_PX,
) -> list[tuple[Picture, ...]]:
    """Encode the pictures of all tiles, smaller if need be to stay within a size.

    Args:
        tiles: The tiles.
        colors: ``#RRGGBB`` of each class.
        budget: Bytes of all files together, not to be passed (down to pictures of 32 pixels).
        side: Longest side in pixels; no picture is enlarged.

    Returns:
        Orthophoto (JPEG), labels, map and errors (palette PNG) of each tile, in this order. The
        orthophoto is averaged where it is shown smaller; of classes the nearest pixel is taken.

    Raises:
        ValueError: If an array holds an id that is neither a class nor 255.
    """
    return encode([tile.layers() for tile in tiles], colors, side, budget)
