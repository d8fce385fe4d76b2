"""Rasters written block by block from many threads: sheets of two thousand million pixels.

GDAL compresses inside its block cache, one block after the other and several copies each; a label
raster then takes as long to write as to burn. Here threads compress whole windows, and what is
compressed is appended to the file. GDAL itself writes the file's header, palette and
georeference, and reads the file like any other tiled GeoTIFF.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
import tifffile
import zstandard
from numpy.typing import NDArray

from pipeline.geotiff import BLOCK, check_fits, write_header
from pipeline.grid import PixelGrid, Window

_LEVEL = 1  # class and polygon rasters shrink to a hundredth; higher levels gain little


class EncodedWindow(NamedTuple):
    """A window's blocks, compressed.

    Attributes:
        numbers: Number of each block in its raster, row by row.
        blocks: Their bytes.
    """

    numbers: tuple[int, ...]
    blocks: tuple[bytes, ...]


class BlockRaster:
    """A one-band tiled GeoTIFF, compressed with ZSTD, that is written in whole blocks.

    :meth:`encode` may be called from any thread; :meth:`put` from one at a time. The file depends
    on the order of the calls of :meth:`put` alone.

    Args:
        draft: File to write.
        grid: The pixel grid.
        dtype: ``uint8`` or ``uint32``.
        nodata: Value of pixels without data.
        colors: ``#RRGGBB`` of the classes in the order of their ids; a palette is written.
        tags: Metadata of the file.

    Raises:
        OutputError: If the header cannot be written.
        OSError: From :meth:`put` and :meth:`close`, if the rest cannot: whoever publishes the
            draft says of which result.
    """

    def __init__(
        self,
        draft: Path,
        grid: PixelGrid,
        dtype: str,
        nodata: int,
        colors: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._draft, self._grid, self._dtype = draft, grid, np.dtype(dtype).newbyteorder("<")
        self._across = -(-grid.width // BLOCK)
        count = self._across * -(-grid.height // BLOCK)
        self._offsets, self._sizes = [0] * count, [0] * count
        self._local = threading.local()
        write_header(draft, grid, dtype, nodata, colors, tags or {})
        self._file: BinaryIO = draft.open("r+b")
        self._end = self._file.seek(0, 2)

    def encode(self, window: Window, pixels: NDArray[Any]) -> EncodedWindow:
        """Compress the pixels of a window of whole blocks.

        Args:
            window: Begins at a block, and ends at one or at the sheet's edge.
            pixels: Of the raster's type, shape ``(rows, cols)``.

        Raises:
            ValueError: If shape, type or window do not fit.
        """
        check_fits(pixels, window, self._grid, self._dtype)
        ends = ((window.bottom, self._grid.height), (window.right, self._grid.width))
        if window.col % BLOCK or window.row % BLOCK or any(e % BLOCK and e != m for e, m in ends):
            raise ValueError(f"{window} is not made of whole blocks of {BLOCK} pixels")
        if not hasattr(self._local, "compressor"):
            self._local.compressor = zstandard.ZstdCompressor(_LEVEL, write_content_size=True)
        numbers, blocks = [], []
        for row in range(0, window.height, BLOCK):
            for col in range(0, window.width, BLOCK):
                part = pixels[row : row + BLOCK, col : col + BLOCK]
                if part.shape != (BLOCK, BLOCK):
                    # Repeated, and not zero: it compresses best, and nobody sees it.
                    beyond = [(0, BLOCK - part.shape[0]), (0, BLOCK - part.shape[1])]
                    part = np.pad(part, beyond, mode="edge")
                down, across = (window.row + row) // BLOCK, (window.col + col) // BLOCK
                numbers.append(down * self._across + across)
                blocks.append(self._local.compressor.compress(np.ascontiguousarray(part)))
        return EncodedWindow(tuple(numbers), tuple(blocks))

    def put(self, encoded: EncodedWindow) -> None:
        """Append a window's blocks."""
        self._file.write(b"".join(encoded.blocks))
        for number, block in zip(encoded.numbers, encoded.blocks, strict=True):
            self._offsets[number], self._sizes[number] = self._end, len(block)
            self._end += len(block)

    def close(self) -> None:
        """Write where each block is.

        Raises:
            ValueError: If a block was never put.
        """
        missing = self._sizes.count(0)
        if missing:
            self._file.close()
            raise ValueError(f"{missing} of {len(self._sizes)} blocks were not written")
        self._file.close()
        with tifffile.TiffFile(self._draft, mode="r+") as header:
            tags = header.pages.first.tags
            tags["TileOffsets"].overwrite(self._offsets, dtype="Q")
            tags["TileByteCounts"].overwrite(self._sizes, dtype="I")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()  # the draft is lost already
