"""Imagery: the pixels of a sheet, of an image that was never in a run, or of a mosaic of images.

All of it is read in windows, from any thread; memory is that of the window.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline import geotiff
from pipeline.grid import PixelGrid, Window
from pipeline.resampling import HALF, resampled

_OPEN = 32
"""Images of a mosaic that one thread keeps open."""


class Imagery(Protocol):
    """An image on a pixel grid."""

    @property
    def grid(self) -> PixelGrid:
        """Its pixels."""

    @property
    def bands(self) -> int:
        """Number of its bands."""

    @property
    def what(self) -> str:
        """What to call it in messages."""

    @property
    def block_height(self) -> int:
        """Rows that are decoded together."""

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Pixels of a window inside the grid; from any thread.

        Returns:
            Image, shape ``(bands, rows, cols)``; which pixels have data, ``(rows, cols)``.

        Raises:
            InputError: If pixels are damaged; with the file and the place.
        """

    def close(self) -> None:
        """Close its files."""


class SheetImagery:
    """An orthophoto as it is.

    Args:
        orthophoto: The orthophoto.
        bands: Band numbers to read, from 1; all of its imagery where left out.
    """

    def __init__(self, orthophoto: geotiff.Orthophoto, bands: Sequence[int] | None = None) -> None:
        numbers = tuple(bands or orthophoto.bands)
        self._reader = geotiff.RasterReader(orthophoto.path, numbers)
        self.grid, self.bands = orthophoto.grid, len(numbers)
        self.what = f"orthophoto {orthophoto.path}"
        self.block_height = self._reader.block_height

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Pixels of a window; see :class:`Imagery`."""
        return self._reader.read_valid(window)

    def close(self) -> None:
        """Close its file."""
        self._reader.close()


class ResampledImagery:
    """An image on other pixels of its coordinate system; see :func:`resampling.resampled`.

    Args:
        source: The image; it is closed along with this one.
        grid: The other pixels.
        least_valid: Share of a pixel's area that must have data for it to have some.
    """

    def __init__(self, source: Imagery, grid: PixelGrid, least_valid: float = HALF) -> None:
        self._source, self._least_valid = source, least_valid
        self.grid, self.bands, self.what = grid, source.bands, source.what
        rows = source.block_height * source.grid.pixel_height / grid.pixel_height
        self.block_height = max(1, round(rows))

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Pixels of a window; see :class:`Imagery`."""
        source = self._source
        return resampled(source.read, self.bands, source.grid, self.grid, window, self._least_valid)

    def close(self) -> None:
        """Close the image's files."""
        self._source.close()


@dataclass(frozen=True)
class MosaicPart:
    """An image of a mosaic.

    Attributes:
        place: Its pixels in the mosaic's grid.
        open: Opens it, on these very pixels.
    """

    place: Window
    open: Callable[[], Imagery]


class MosaicImagery:
    """Images on one grid, side by side; where they overlap, the last one that has data counts.

    Each thread has some of them open, those that it used last.

    Args:
        parts: The images.
        grid: The mosaic's pixels; those of no image have no data.
        bands: Bands of each.
        what: What to call it in messages.
    """

    def __init__(self, parts: Sequence[MosaicPart], grid: PixelGrid, bands: int, what: str) -> None:
        self._parts = tuple(parts)
        self.grid, self.bands, self.what = grid, bands, what
        self.block_height = geotiff.BLOCK
        self._local = threading.local()
        self._opened: list[OrderedDict[int, Imagery]] = []
        self._lock = threading.Lock()

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Pixels of a window; see :class:`Imagery`."""
        image = np.zeros((self.bands, window.height, window.width), np.uint8)
        valid = np.zeros((window.height, window.width), np.bool_)
        for number, part in enumerate(self._parts):
            shared = part.place.intersection(window)
            if shared is None:
                continue
            inner = Window(
                shared.col - part.place.col, shared.row - part.place.row, shared.width,
                shared.height,
            )  # fmt: skip
            pixels, known = self._part(number).read(inner)
            rows, columns = shared.slices(window)
            np.copyto(image[:, rows, columns], pixels, where=known)
            valid[rows, columns] |= known
        return image, valid

    def close(self) -> None:
        """Close the images of all threads."""
        with self._lock:
            for opened in self._opened:
                while opened:
                    opened.popitem()[1].close()
            self._opened.clear()
        self._local = threading.local()

    def _part(self, number: int) -> Imagery:
        if not hasattr(self._local, "opened"):
            self._local.opened = OrderedDict()
            with self._lock:
                self._opened.append(self._local.opened)
        opened: OrderedDict[int, Imagery] = self._local.opened
        if number not in opened:
            opened[number] = self._parts[number].open()
        opened.move_to_end(number)
        if len(opened) > _OPEN:
            opened.popitem(last=False)[1].close()
        return opened[number]
