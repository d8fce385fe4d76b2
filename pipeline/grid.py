"""PixelGrid and Window: where the pixels of a sheet are, in whole pixels only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Window(NamedTuple):
    """A rectangle of whole pixels of one sheet.

    Attributes:
        col: Column of the left edge, from 0.
        row: Row of the upper edge, from 0.
        width: Columns.
        height: Rows.
    """

    col: int
    row: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """Column behind the last one."""
        return self.col + self.width

    @property
    def bottom(self) -> int:
        """Row behind the last one."""
        return self.row + self.height

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    def grown(self, margin: int) -> Window:
        """The window with ``margin`` more pixels on each side."""
        return Window(
            self.col - margin, self.row - margin, self.width + 2 * margin, self.height + 2 * margin
        )

    def intersection(self, other: Window) -> Window | None:
        """The common pixels, or None where there are none."""
        col, row = max(self.col, other.col), max(self.row, other.row)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        if right <= col or bottom <= row:
            return None
        return Window(col, row, right - col, bottom - row)

    def slices(self, origin: Window | None = None) -> tuple[slice, slice]:
        """Row and column slices of this window in an array that covers ``origin``.

        Args:
            origin: The window that the array covers; the whole sheet where it is left out.
        """
        col, row = (origin.col, origin.row) if origin else (0, 0)
        return (
            slice(self.row - row, self.bottom - row),
            slice(self.col - col, self.right - col),
        )


@dataclass(frozen=True)
class PixelGrid:
    """The pixel grid of a sheet: north up, no rotation, no shear.

    Attributes:
        crs: Coordinate reference system as WKT.
        left: x of the left edge of column 0, in CRS units.
        top: y of the upper edge of row 0, in CRS units.
        pixel_width: Width of a pixel in CRS units, positive.
        pixel_height: Height of a pixel in CRS units, positive (rows run southwards).
        width: Columns.
        height: Rows.
    """

    crs: str
    left: float
    top: float
    pixel_width: float
    pixel_height: float
    width: int
    height: int

    def __str__(self) -> str:
        """The grid as messages name it."""
        return (
            f"{self.width} x {self.height} pixels of {self.pixel_width:.9g} x "
            f"{self.pixel_height:.9g} from ({self.left:.12g}, {self.top:.12g}) in "
            f"{self.crs or 'no coordinate system'}"
        )

    @property
    def window(self) -> Window:
        """All pixels."""
        return Window(0, 0, self.width, self.height)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top in CRS units."""
        return self.bounds_of(self.window)

    @property
    def geotransform(self) -> tuple[float, float, float, float, float, float]:
        """Affine coefficients ``(a, b, c, d, e, f)`` from pixel to CRS coordinates."""
        return (self.pixel_width, 0.0, self.left, 0.0, -self.pixel_height, self.top)

    def bounds_of(self, window: Window) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of a window in CRS units."""
        return (
            self.left + window.col * self.pixel_width,
            self.top - window.bottom * self.pixel_height,
            self.left + window.right * self.pixel_width,
            self.top - window.row * self.pixel_height,
        )

    def same_pixels(self, other: PixelGrid) -> bool:
        """Whether both grids have the same pixels: size, position to 1/1000 pixel, and CRS text."""
        near = 1e-3 * min(self.pixel_width, self.pixel_height)
        ends = zip(self.bounds, other.bounds, strict=True)
        return (
            (self.width, self.height, self.crs) == (other.width, other.height, other.crs)
            and all(abs(mine - theirs) <= near for mine, theirs in ends)
        )  # fmt: skip

    def blocks(self, size: int) -> Iterator[Window]:
        """Windows of at most ``size`` x ``size`` pixels that cover the sheet once, row by row."""
        return split(self.window, size, size)


def split(window: Window, width: int, height: int) -> Iterator[Window]:
    """Cut a window into parts of at most ``width`` x ``height`` pixels, row by row.

    Raises:
        ValueError: If a size is not positive.
    """
    if width <= 0 or height <= 0:
        raise ValueError(f"parts of {width} x {height} pixels: sizes are positive")
    for row in range(window.row, window.bottom, height):
        for col in range(window.col, window.right, width):
            yield Window(col, row, min(width, window.right - col), min(height, window.bottom - row))
