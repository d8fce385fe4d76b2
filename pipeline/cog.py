"""Cloud-Optimised GeoTIFFs put together from compressed blocks.

GDAL's COG driver reads a finished raster and compresses it again. Here blocks are compressed when
their pixels are there, and the file is put together at the end by copying bytes: the tags of all
images first, then the blocks, smallest overview first, each between its size and a repeat of its
last four bytes, as the text at the file's beginning promises. GDAL writes what describes the
raster (georeference, palette, metadata) into a small file, whose tags are taken over.

Bands are interleaved by pixel: GDAL has COGs of whole bands from 3.11 on only, and older ones
would take such a file's promise of the order of blocks amiss.

Source: GDAL's documentation of the COG driver, "Header ghost area"; TIFF 6.0; the BigTIFF design.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from pipeline.geotiff import BLOCK, palette
from pipeline.grid import PixelGrid
from pipeline.nomenclature import IGNORE

CLASSIC_BYTES = 2**32 - 1
"""Bytes of the largest file whose offsets have 32 bits; larger ones become BigTIFFs."""

# zlib's level of run lengths: class maps become as small as with level 6 in a quarter of the time,
# and differences of measures smaller, in a seventh.
_LEVEL, _STRATEGY, _MEMORY = 1, zlib.Z_RLE, 9

_SHORT, _LONG, _LONG8 = 3, 4, 16  # field types
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
_SUBFILE, _WIDTH, _HEIGHT, _OFFSETS, _COUNTS = 254, 256, 257, 324, 325
# Bits, compression, photometric, samples, planes, predictor, palette, tile sides, extra samples,
# sample format, nodata: what an overview has like the raster itself.
_SHARED = frozenset({258, 259, 262, 277, 284, 317, 320, 322, 323, 338, 339, 42113})

_PROMISE = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
# The blank is the room for the YES of whoever changes the file.
_GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(_PROMISE) + _PROMISE


class Field(NamedTuple):
    """The value of a TIFF tag.

    Attributes:
        kind: TIFF's number of the type.
        values: How many they are.
        data: Their bytes, little-endian.
    """

    kind: int
    values: int
    data: bytes


@dataclass(frozen=True)
class Image:
    """The raster itself, or one of its overviews.

    Attributes:
        width: Columns.
        height: Rows.
        sizes: Bytes of each compressed block, row by row.
        content: What :func:`framed` made of the blocks in the same order, in parts of any number.
    """

    width: int
    height: int
    sizes: Sequence[int]
    content: Iterable[bytes]


def blocks_of(pixels: NDArray[np.uint8], differences: bool) -> list[bytes]:
    """Compress a row of blocks.

    Args:
        pixels: Shape ``(bands, rows, cols)`` with 512 rows, or fewer at the raster's end.
        differences: Whether a pixel is stored as its difference to the one before (TIFF's
            predictor 2): measures become smaller by it, classes larger.
    """
    return [
        _block(pixels[:, :, col : col + BLOCK], differences)
        for col in range(0, pixels.shape[2], BLOCK)
    ]


def framed(blocks: Iterable[bytes]) -> bytes:
    """Blocks as they lie in the file: after their size, before a repeat of their end."""
    return b"".join(
        part for block in blocks for part in (struct.pack("<I", len(block)), block, block[-4:])
    )


def statistics(histogram: NDArray[np.int64]) -> dict[str, str]:
    """Statistics of a band, as GDAL names and writes them, without pixels of no data.

    Args:
        histogram: Pixels of each value, shape ``(256,)``.

    Returns:
        Nothing but the share of pixels with data where there are none.
    """
    total, valid = int(histogram.sum()), int(histogram[:IGNORE].sum())
    if not valid:
        return {"STATISTICS_VALID_PERCENT": "0"}
    values = np.flatnonzero(histogram[:IGNORE])
    # Python's whole numbers: exact whatever the sheet's size.
    pairs = [(int(value), int(histogram[value])) for value in values]
    total_value = sum(value * count for value, count in pairs)
    squares = sum(value * value * count for value, count in pairs)
    spread = valid * squares - total_value * total_value
    share = f"{100 * valid / total:.4g}"
    return {
        "STATISTICS_MINIMUM": str(pairs[0][0]),
        "STATISTICS_MAXIMUM": str(pairs[-1][0]),
        "STATISTICS_MEAN": f"{total_value / valid:.14g}",
        "STATISTICS_STDDEV": f"{math.sqrt(spread) / valid:.14g}",
        # GDAL says 100 only where nothing is missing.
        "STATISTICS_VALID_PERCENT": "99.999" if share == "100" and valid < total else share,
    }


def description(
    grid: PixelGrid,
    bands: Sequence[Mapping[str, str]],
    differences: bool,
    colors: Sequence[str] = (),
    names: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
) -> dict[int, Field]:
    """The tags that describe a raster, as GDAL writes them.

    Args:
        grid: The pixel grid.
        bands: Metadata of each band, its statistics say.
        differences: As :func:`blocks_of` was told.
        colors: ``#RRGGBB`` of the classes in the order of their ids; a palette is written.
        names: Descriptions of the bands.
        tags: Metadata of the file.

    Returns:
        Tag number to value.
    """
    # One block is enough: what says where it lies does not depend on the size.
    with MemoryFile(ext=".tif") as file:
        with file.open(
            driver="GTiff", width=BLOCK, height=BLOCK, count=len(bands), dtype="uint8",
            nodata=IGNORE, crs=CRS.from_string(grid.crs), transform=Affine(*grid.geotransform),
            tiled=True, blockxsize=BLOCK, blockysize=BLOCK, compress="deflate",
            predictor=2 if differences else 1, interleave="pixel", sparse_ok="true",
            photometric="palette" if colors else "minisblack", alpha="no", bigtiff="no",
            endianness="little",
        ) as target:  # fmt: skip
            if colors:
                target.write_colormap(1, palette(colors))
            for band, items in enumerate(bands, 1):
                target.update_tags(band, **items)
            for band, name in enumerate(names, 1):
                target.set_band_description(band, name)
            target.update_tags(**(tags or {}))
        return _fields(file.read())


def write(draft: Path, described: Mapping[int, Field], images: Sequence[Image]) -> None:
    """Write the file.

    Args:
        draft: File to write.
        described: What :func:`description` gave.
        images: The raster itself, then its overviews, largest first.

    Raises:
        OSError: If it cannot be written: whoever publishes the draft says of which result.
    """
    header = _header(described, images, big=False)
    if len(header) + sum(_length(image) for image in images) > CLASSIC_BYTES:
        header = _header(described, images, big=True)
    with draft.open("wb") as file:
        file.write(header)
        for image in reversed(images):
            for part in image.content:
                file.write(part)


def _block(pixels: NDArray[np.uint8], differences: bool) -> bytes:
    first = pixels[:, :1, :1]
    if (pixels == first).all():
        return _constant(first.tobytes(), differences)
    beyond = [(0, 0), *((0, BLOCK - side) for side in pixels.shape[1:])]
    if any(after for _, after in beyond):
        # Repeated, and not zero: it compresses best, and nobody sees it.
        pixels = np.pad(pixels, beyond, mode="edge")
    return _compressed(np.ascontiguousarray(pixels.transpose(1, 2, 0)), differences)


@lru_cache(maxsize=1024)
def _constant(values: bytes, differences: bool) -> bytes:
    block = np.empty((BLOCK, BLOCK, len(values)), np.uint8)
    block[...] = np.frombuffer(values, np.uint8)
    return _compressed(block, differences)


def _compressed(block: NDArray[np.uint8], differences: bool) -> bytes:
    if differences:
        # Modulo 256, which is what the reader adds up.
        block = np.concatenate([block[:, :1], block[:, 1:] - block[:, :-1]], axis=1)
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, _MEMORY, _STRATEGY)
    return compressor.compress(block.data) + compressor.flush()


def _length(image: Image) -> int:
    return sum(image.sizes) + 8 * len(image.sizes)


def _fields(tiff: bytes) -> dict[int, Field]:
    """Tags of the first image of a little-endian classic TIFF."""
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    found = {}
    for position in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from("<HHI", tiff, position)
        length = _BYTES[kind] * values
        place = position + 8 if length <= 4 else struct.unpack_from("<I", tiff, position + 8)[0]
        found[tag] = Field(kind, values, tiff[place : place + length])
    return found


def _header(described: Mapping[int, Field], images: Sequence[Image], big: bool) -> bytes:
    """All that lies before the blocks."""
    kind = struct.pack("<2sHHH", b"II", 43, 8, 0) if big else struct.pack("<2sH", b"II", 42)
    pointer = "<Q" if big else "<I"
    begin = len(kind) + struct.calcsize(pointer) + len(_GHOST)
    begin += begin % 2
    # Where the blocks begin depends on the length of the tags alone, not on what they say.
    where = [0] * len(images)
    for _ in range(2):
        tags, at = b"", begin
        for number, (image, start) in enumerate(zip(images, where, strict=True)):
            fields = _image_fields(described, image, start, overview=number > 0, big=big)
            tags += _directory(fields, at, number == len(images) - 1, big)
            at = begin + len(tags)
        for number in reversed(range(len(images))):
            where[number] = at
            at += _length(images[number])
    return (kind + struct.pack(pointer, begin) + _GHOST).ljust(begin, b"\0") + tags


def _image_fields(
    described: Mapping[int, Field], image: Image, start: int, *, overview: bool, big: bool
) -> dict[int, Field]:
    fields = {
        tag: field for tag, field in described.items() if not overview or tag in _SHARED
    }  # fmt: skip
    sizes = np.asarray(image.sizes, np.uint64)
    offsets = start + 4 + np.cumsum(sizes + 8, dtype=np.uint64) - (sizes + 8)
    if overview:
        fields[_SUBFILE] = Field(_LONG, 1, struct.pack("<I", 1))
    fields[_WIDTH] = Field(_LONG, 1, struct.pack("<I", image.width))
    fields[_HEIGHT] = Field(_LONG, 1, struct.pack("<I", image.height))
    kind, width = (_LONG8, "<u8") if big else (_LONG, "<u4")
    fields[_OFFSETS] = Field(kind, len(sizes), offsets.astype(width).tobytes())
    fields[_COUNTS] = Field(_LONG, len(sizes), sizes.astype("<u4").tobytes())
    return dict(sorted(fields.items()))


def _directory(fields: Mapping[int, Field], at: int, last: bool, big: bool) -> bytes:
    """One image's tags, and behind them the values that do not fit into them."""
    entry, number, word = ("<HHQ", "<Q", 8) if big else ("<HHI", "<H", 4)
    pointer = "<Q" if big else "<I"
    length = struct.calcsize(number) + len(fields) * (struct.calcsize(entry) + word) + word
    entries, values = struct.pack(number, len(fields)), b""
    for tag, (kind, count, data) in fields.items():
        entries += struct.pack(entry, tag, kind, count)
        if len(data) <= word:
            entries += data.ljust(word, b"\0")
        else:
            entries += struct.pack(pointer, at + length + len(values))
            values += data.ljust(-(-len(data) // 8) * 8, b"\0")
    following = 0 if last else at + length + len(values)
    return entries + struct.pack(pointer, following) + values
