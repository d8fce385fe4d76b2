"""Records: one tile as bytes, and back.

A record is a header, the image as its codec packs it, the annotation, and a checksum of all that.
The annotation is one zstd frame: label and polygon index as runs of equal values (ground is made
of areas), and the proportions of the polygons in the tile.
"""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import lz4.block
import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray
from PIL import Image

CODECS = ("raw", "lz4", "zstd", "webp", "jpeg")
"""How images are packed; a record names its own. All but ``jpeg`` are lossless."""

_HEADER = struct.Struct("<4sBBHIIIIIII")
_MAGIC = b"TSL2"
_DIGEST = 16  # bytes
_GROUP = 16  # rows whose differences hang together: undone by 15 sums of many rows at once
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Tile:
    """One training sample.

    Attributes:
        image: uint8, shape ``(bands, rows, cols)``.
        label: Class ids, uint8, shape ``(rows, cols)``; 255 is ignored.
        polygons: Row (from 1) of each pixel's polygon in the sheet's proportions, uint32, shape
            ``(rows, cols)``; 0 is none.
        proportion_rows: The rows that occur in ``polygons``, ascending, uint32, shape ``(n,)``.
        proportions: Their class shares, float32, shape ``(n, classes)``.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    polygons: NDArray[np.uint32]
    proportion_rows: NDArray[np.uint32]
    proportions: NDArray[np.float32]


class Runs(NamedTuple):
    """A raster as runs of equal values along its rows.

    Attributes:
        ends: Position behind each run in the flattened array, uint32, shape ``(n,)``.
        values: Its value, shape ``(n,)``.
    """

    ends: NDArray[np.uint32]
    values: NDArray[Any]

    @staticmethod
    def of(raster: NDArray[Any]) -> Runs:
        """The runs of an array of at least one pixel."""
        flat = raster.ravel()
        changes = np.flatnonzero(flat[1:] != flat[:-1])
        last = np.empty(len(changes) + 1, np.int64)
        last[:-1], last[-1] = changes, flat.size - 1
        return Runs((last + 1).astype(np.uint32), flat[last])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Pixels of each run."""
        lengths = self.ends.astype(np.int64)
        lengths[1:] -= lengths[:-1].copy()
        return lengths

    def counts(self) -> NDArray[np.int64]:
        """Pixels of each value of a uint8 raster, shape ``(256,)``."""
        # Sums of at most 2**32 pixels are whole numbers that float64 holds.
        return np.bincount(self.values, self.lengths, 256).astype(np.int64)

    def raster(self, shape: tuple[int, int]) -> NDArray[Any]:
        """The raster again.

        Raises:
            ValueError: If the runs do not fill it.
        """
        lengths = self.lengths
        if not len(lengths) or lengths.min() < 1 or int(self.ends[-1]) != shape[0] * shape[1]:
            raise ValueError("the runs do not fill the tile")
        return self.values.repeat(lengths).reshape(shape)


class Annotation(NamedTuple):
    """What is known of a tile's pixels besides the image.

    Attributes:
        label: Class ids.
        polygons: Rows of polygons.
        known: Rows of polygons that occur, ascending, uint32, shape ``(n,)``.
        shares: Their class shares, float32, shape ``(n, classes)``.
    """

    label: Runs
    polygons: Runs
    known: NDArray[np.uint32]
    shares: NDArray[np.float32]


def encode(image: NDArray[np.uint8], annotation: Annotation, codec: str = "raw") -> bytearray:
    """A tile as one record.

    Args:
        image: uint8, shape ``(bands, rows, cols)``, of any order in memory.
        annotation: Of the same pixels.
        codec: One of :data:`CODECS`.

    Raises:
        ValueError: If shapes or types do not fit together.
    """
    bands, rows, cols = image.shape
    label, polygons, known, shares = annotation
    if int(label.ends[-1]) != rows * cols or int(polygons.ends[-1]) != rows * cols:
        raise ValueError(f"image {image.shape}, label {label.ends[-1]}, index {polygons.ends[-1]}")
    if image.dtype != np.uint8 or label.values.dtype != np.uint8:
        raise ValueError(f"image {image.dtype}, label {label.values.dtype}: both are uint8")
    if len(known) != len(shares):
        raise ValueError(f"{len(known)} rows, {len(shares)} proportions")
    packed = b"" if codec == "raw" else _PACK[codec](np.ascontiguousarray(image))
    size = len(packed) or image.size
    table = _compressor().compress(
        b"".join(
            [
                *(
                    part.astype("<u4", copy=False).tobytes()
                    for part in (label.ends, polygons.ends, polygons.values, known)
                ),
                shares.astype("<f4", copy=False).tobytes(),
                label.values.tobytes(),
            ]
        )
    )
    header = _HEADER.pack(
        _MAGIC, CODECS.index(codec), bands, shares.shape[1], rows, cols,
        len(label.ends), len(polygons.ends), len(known), size, len(table),
    )  # fmt: skip
    record = bytearray(_HEADER.size + size + len(table) + _DIGEST)
    view = memoryview(record)
    end = _HEADER.size + size
    view[: _HEADER.size], view[end:-_DIGEST] = header, table
    if codec == "raw":  # straight into its place: it is most of the record
        np.frombuffer(view[_HEADER.size : end], np.uint8).reshape(image.shape)[:] = image
    else:
        view[_HEADER.size : end] = packed
    view[-_DIGEST:] = xxhash.xxh3_128_digest(view[:-_DIGEST])
    return record


def encode_tile(tile: Tile, codec: str = "raw") -> bytearray:
    """A tile as one record.

    Raises:
        ValueError: If shapes or types do not fit together.
    """
    if not tile.image.shape[1:] == tile.label.shape == tile.polygons.shape:
        raise ValueError(
            f"image {tile.image.shape}, label {tile.label.shape}, polygon index "
            f"{tile.polygons.shape}"
        )
    annotation = Annotation(
        Runs.of(tile.label), Runs.of(tile.polygons), tile.proportion_rows, tile.proportions
    )
    return encode(tile.image, annotation, codec)


def digest_of(record: bytes | bytearray) -> bytes:
    """The checksum of a record: of every pixel, label and share in it."""
    return bytes(record[-_DIGEST:])


def decode(record: bytes | bytearray | memoryview, polygons: bool = True) -> Tile:
    """The tile of a record.

    Args:
        record: What :func:`encode` returned.
        polygons: Whether to unfold the polygon index too; it is left empty otherwise, which
            saves time where only image and label are wanted.

    Returns:
        A tile of its own memory, which may be written to.

    Raises:
        ValueError: If it is no record, or damaged.
    """
    view = memoryview(record)
    if len(view) < _HEADER.size + _DIGEST:
        raise ValueError("not a record: too short")
    magic, codec, bands, classes, rows, cols, *sizes = _HEADER.unpack_from(view)
    if magic != _MAGIC or codec >= len(CODECS):
        raise ValueError(f"not a record: starts with {magic!r}")
    label_runs, runs, known, image_size, table_size = sizes
    image_end = _HEADER.size + image_size
    if len(view) != image_end + table_size + _DIGEST:
        raise ValueError("not a record: of another length than it says")
    if xxhash.xxh3_128_digest(view[:-_DIGEST]) != view[-_DIGEST:]:
        raise ValueError("its checksum is wrong")
    image = _UNPACK[CODECS[codec]](view[_HEADER.size : image_end], (bands, rows, cols))
    try:
        table = _decompressor().decompress(view[image_end : image_end + table_size])
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    words = label_runs + 2 * runs + known * (1 + classes)
    if len(table) != 4 * words + label_runs:
        raise ValueError(f"an annotation of {len(table)} bytes")
    numbers = np.frombuffer(table, "<u4", words).astype(np.uint32)
    parts = [label_runs, runs, runs, known, known * classes]
    ends, index_ends, index_values, rows_known, shares = (
        numbers[last - size : last] for size, last in zip(parts, accumulate(parts), strict=True)
    )
    label = Runs(ends, np.frombuffer(table, np.uint8, offset=4 * words)).raster((rows, cols))
    if polygons:
        index = Runs(index_ends, index_values).raster((rows, cols))
    else:
        index, rows_known, shares = (np.zeros(0, np.uint32) for _ in range(3))
        index = index.reshape(0, 0)
    return Tile(image, label, index, rows_known, shares.view(np.float32).reshape(-1, classes))


def record_bound(tile_px: int, bands: int, classes: int) -> int:
    """Bytes that a record takes at most, as a rule: noise, with 4096 polygons in it."""
    pixels = tile_px * tile_px
    raw = pixels * (bands + 13) + min(pixels, 4096) * 4 * (3 + classes)
    return raw + raw // 32 + 8192


def _planes(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """An image as pictures of one or three bands, which is all that picture formats have."""
    first = [image[:3]] if len(image) >= 3 else []
    return [*first, *(image[i : i + 1] for i in range(3 * len(first), len(image)))]


def _pack_pictures(image: NDArray[np.uint8], **options: Any) -> bytes:  # noqa: ANN401 - Pillow's
    parts = []
    for plane in _planes(image):
        picture = io.BytesIO()
        pixels = np.moveaxis(plane, 0, -1) if len(plane) == 3 else plane[0]
        Image.fromarray(np.ascontiguousarray(pixels)).save(picture, **options)
        parts.append(picture.getvalue())
    return b"".join([struct.pack(f"<{len(parts)}I", *map(len, parts)), *parts])


def _unpack_pictures(packed: memoryview, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    image = np.empty(shape, np.uint8)
    planes = _planes(image)
    sizes = struct.unpack_from(f"<{len(planes)}I", packed)
    start = 4 * len(planes)
    for plane, size in zip(planes, sizes, strict=True):
        with Image.open(io.BytesIO(packed[start : start + size])) as picture:
            pixels = np.asarray(picture.convert("RGB" if len(plane) == 3 else "L"))
        plane[:] = np.moveaxis(pixels, -1, 0) if len(plane) == 3 else pixels
        start += size
    return image


def _differences(image: NDArray[np.uint8]) -> bytes:
    """Each row as the difference to the one above, and red and blue as that to green."""
    colors = image.copy()
    if len(image) >= 3:
        colors[0] -= image[1]
        colors[2] -= image[1]
    rows = colors.copy()
    rows[:, 1:] -= colors[:, :-1]
    rows[:, ::_GROUP] = colors[:, ::_GROUP]
    return rows.tobytes()


def _sums(packed: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Undo :func:`_differences`."""
    image = _plain(packed, shape)
    for row in range(1, _GROUP):
        below = image[:, row::_GROUP]
        below += image[:, row - 1 :: _GROUP][:, : below.shape[1]]
    if len(image) >= 3:
        image[0] += image[1]
        image[2] += image[1]
    return image


def _plain(packed: bytes | memoryview, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.frombuffer(packed, np.uint8).reshape(shape).copy()


# Level 1 of zstd: differences of imagery hold few repetitions that a higher one would find.
_PACK: dict[str, Callable[[NDArray[np.uint8]], bytes]] = {
    "lz4": lz4.block.compress,
    "zstd": lambda image: _compressor().compress(_differences(image)),
    "webp": lambda image: _pack_pictures(image, format="WEBP", lossless=True, method=0, quality=0),
    "jpeg": lambda image: _pack_pictures(image, format="JPEG", quality=_JPEG_QUALITY),
}
_UNPACK: dict[str, Callable[[memoryview, tuple[int, int, int]], NDArray[np.uint8]]] = {
    "raw": _plain,
    "lz4": lambda packed, shape: _plain(lz4.block.decompress(packed), shape),
    "zstd": lambda packed, shape: _sums(_decompressor().decompress(packed), shape),
    "webp": _unpack_pictures,
    "jpeg": _unpack_pictures,
}

_local = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    """This thread's compressor: making one costs as much as packing an annotation."""
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=1)
    return _local.compressor  # type: ignore[no-any-return]


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    return _local.decompressor  # type: ignore[no-any-return]
