"""Reads back what :mod:`pipeline.block_raster` wrote, block by block.

GDAL copies each block twice on its way through its cache; the polygon index of a sheet is 8 GB,
which would cost more than decompressing it. Here blocks are decompressed straight out of the file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import tifffile
import zstandard
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.geotiff import BLOCK
from pipeline.grid import Window


class BlockPixels:
    """Decoded blocks, from which windows are cut without a copy of the whole.

    Args:
        blocks: Pixels of each block, shape ``(512, 512)``, by its row and column of blocks.
    """

    def __init__(self, blocks: Mapping[tuple[int, int], NDArray[Any]]) -> None:
        self._blocks = dict(blocks)

    def __or__(self, other: BlockPixels) -> BlockPixels:
        return BlockPixels(self._blocks | other._blocks)

    def cut(self, window: Window) -> NDArray[Any]:
        """Pixels of a window of these blocks, contiguous, shape ``(rows, cols)``."""
        parts = [
            (self._blocks[down, across], Window(across * BLOCK, down * BLOCK, BLOCK, BLOCK))
            for down, across in _numbers(window)
        ]
        if len(parts) == 1:
            pixels, block = parts[0]
            return np.ascontiguousarray(pixels[window.slices(block)])
        whole = np.empty((window.height, window.width), parts[0][0].dtype)
        for pixels, block in parts:
            part = block.intersection(window)
            assert part is not None
            whole[part.slices(window)] = pixels[part.slices(block)]
        return whole


class BlockReader:
    """Reads windows of a raster of whole ZSTD blocks, from any thread.

    Args:
        path: A raster that :class:`pipeline.block_raster.BlockRaster` wrote.

    Raises:
        InputError: If it is missing or another kind of raster; from :meth:`read`, if it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with tifffile.TiffFile(path) as file:
                page = file.pages.first
                kind = (page.compression, page.tile, page.samplesperpixel, file.byteorder)
                self._offsets, self._sizes = page.dataoffsets, page.databytecounts
                self._dtype = np.dtype(page.dtype).newbyteorder("<")
                self.height, self.width = page.imagelength, page.imagewidth
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}).",
                remedy="Let `label_raster` make it.",
            ) from error
        except (tifffile.TiffFileError, ValueError) as error:
            raise self._unusable(str(error)) from error
        if kind != (tifffile.COMPRESSION.ZSTD, (BLOCK, BLOCK), 1, "<"):
            raise self._unusable("it does not consist of blocks that `label_raster` wrote")
        self._across = -(-self.width // BLOCK)
        self._file = path.open("rb")
        self._local = threading.local()

    def read(self, window: Window) -> NDArray[Any]:
        """Pixels of a window inside the raster, shape ``(rows, cols)``.

        Raises:
            ValueError: If the window sticks out of the raster.
            InputError: If the pixels are damaged.
        """
        return self.decode(window).cut(window)

    def decode(self, window: Window) -> BlockPixels:
        """The blocks that a window inside the raster lies in.

        Raises:
            ValueError: If the window sticks out of the raster.
            InputError: If the pixels are damaged.
        """
        if window.intersection(Window(0, 0, self.width, self.height)) != window:
            raise ValueError(f"{window} is not inside {self.path}")
        return BlockPixels({place: self._block(*place) for place in _numbers(window)})

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._offsets = self._sizes = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _block(self, down: int, across: int) -> NDArray[Any]:
        if not hasattr(self._local, "decompressor"):
            self._local.decompressor = zstandard.ZstdDecompressor()
        number = down * self._across + across
        try:
            # pread: threads share the file, and each has a place of its own in it.
            packed = os.pread(self._file.fileno(), self._sizes[number], self._offsets[number])
            content = self._local.decompressor.decompress(packed)
            return np.frombuffer(content, self._dtype).reshape(BLOCK, BLOCK)
        except (OSError, ValueError, zstandard.ZstdError) as error:
            where = f"the block at column {across * BLOCK}, row {down * BLOCK}: {error}"
            raise self._unusable(where) from error

    def _unusable(self, why: str) -> InputError:
        return InputError(
            f"{self.path}: cannot be read: {why}.",
            remedy="Remove it and let `label_raster` make it again.",
        )


def _numbers(window: Window) -> Iterator[tuple[int, int]]:
    """Rows and columns of the blocks that a window lies in."""
    for down in range(window.row // BLOCK, (window.bottom - 1) // BLOCK + 1):
        for across in range(window.col // BLOCK, (window.right - 1) // BLOCK + 1):
            yield down, across
