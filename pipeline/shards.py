"""Tiles of one sheet in an LMDB: records, writer, reader, manifest.

A shard is a folder with ``data.mdb`` and ``manifest.json``. Tiles of one split are contiguous and
lie in the plan's order; the key of tile ``i`` is ``i`` as eight bytes, big-endian. A record is a
small header and three zstd frames: image, label, polygon index with the proportions of the
polygons in the tile. Nothing in a shard depends on the number of workers that made it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import zstandard
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.grid import PixelGrid
from pipeline.publication import unwritable

LAYOUT = 1
"""Version of the record and manifest layout; readers refuse another one."""

MANIFEST = "manifest.json"
_DATA = "data.mdb"

_HEADER = struct.Struct("<4sHHIIIII")
_MAGIC = b"TSL1"
_DISK_REASONS = ("No space", "Disk quota", "File too large", "Input/output error")
_COMMIT_EVERY = 256  # records a transaction: 50 MB at 256 px, few enough syncs to keep up


_VALUES = np.arange(256, dtype=np.int64)


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


@dataclass(frozen=True)
class SplitCounts:
    """What the tiles of one split hold, as integers that add up exactly over shards.

    Attributes:
        tiles: Number of tiles.
        pixels: Image pixels that are valid (not the orthophoto's nodata).
        band_sum: Sum of the valid values of each band.
        band_sum_squares: Sum of their squares.
        class_pixels: Labelled pixels of each class.
        present_pixels: For each class, labelled pixels of the tiles in which it occurs.
    """

    tiles: int
    pixels: int
    band_sum: tuple[int, ...]
    band_sum_squares: tuple[int, ...]
    class_pixels: tuple[int, ...]
    present_pixels: tuple[int, ...]

    @staticmethod
    def of(tile: Tile, valid: NDArray[np.bool_], classes: int) -> SplitCounts:
        """Count one tile.

        Args:
            tile: The tile.
            valid: Pixels that the orthophoto has, shape ``(rows, cols)``.
            classes: Number of classes.
        """
        # By histograms: exact in int64 (the squares of one 512 px tile already pass 2**32), and ten
        # times faster than the squares of all pixels.
        every = bool(valid.all())
        bands = [_histogram(band if every else band[valid]) for band in tile.image]
        labels = _histogram(tile.label)[:classes]
        labelled = int(labels.sum())
        return SplitCounts(
            1,
            int(bands[0].sum()),
            tuple(int(band @ _VALUES) for band in bands),
            tuple(int(band @ (_VALUES * _VALUES)) for band in bands),
            tuple(int(v) for v in labels),
            tuple(labelled if v else 0 for v in labels),
        )

    def __add__(self, other: SplitCounts) -> SplitCounts:
        def added(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(x + y for x, y in zip(a, b, strict=True))

        return SplitCounts(
            self.tiles + other.tiles,
            self.pixels + other.pixels,
            added(self.band_sum, other.band_sum),
            added(self.band_sum_squares, other.band_sum_squares),
            added(self.class_pixels, other.class_pixels),
            added(self.present_pixels, other.present_pixels),
        )

    @staticmethod
    def nothing(bands: int, classes: int) -> SplitCounts:
        """The counts of no tile."""
        return SplitCounts(0, 0, (0,) * bands, (0,) * bands, (0,) * classes, (0,) * classes)


@dataclass(frozen=True)
class Manifest:
    """What a shard holds.

    Attributes:
        layout: Version of the layout.
        sheet: Name of the sheet.
        grid: The orthophoto's pixel grid.
        bands: Bands of the images.
        tile_px: Pixels a side.
        classes: Class names in the order of their ids.
        nomenclature: Fingerprint of the nomenclature.
        source: Checksum of the orthophoto's file.
        splits: First position and the one behind the last of each split's tiles.
        counts: Counts by split.
        records: Checksum of all records in their order: of every pixel and label.
    """

    layout: int
    sheet: str
    grid: PixelGrid
    bands: int
    tile_px: int
    classes: tuple[str, ...]
    nomenclature: str
    source: str
    splits: Mapping[str, tuple[int, int]]
    counts: Mapping[str, SplitCounts]
    records: str = ""

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return sum(end - first for first, end in self.splits.values())

    def as_json(self) -> str:
        """The manifest as text."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str, source: Path) -> Manifest:
        """Read a manifest.

        Raises:
            InputError: If the text is no manifest of this layout.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            if content["layout"] != LAYOUT:
                raise InputError(
                    f"{source}: has layout {content['layout']}; this version reads {LAYOUT}.",
                    remedy="Remove the shard and let `shard` make it again.",
                )
            counts = {
                split: SplitCounts(
                    int(c["tiles"]),
                    int(c["pixels"]),
                    tuple(c["band_sum"]),
                    tuple(c["band_sum_squares"]),
                    tuple(c["class_pixels"]),
                    tuple(c["present_pixels"]),
                )
                for split, c in content["counts"].items()
            }
            splits = {split: (int(a), int(b)) for split, (a, b) in content["splits"].items()}
            grid = PixelGrid(**content["grid"])
            content |= {"counts": counts, "splits": splits, "grid": grid}
            content["classes"] = tuple(content["classes"])
            return Manifest(**content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{source}: is not the manifest of a shard ({error!r}).",
                remedy="Remove the shard and let `shard` make it again.",
            ) from error


def encode(tile: Tile) -> bytes:
    """A tile as one record.

    Raises:
        ValueError: If shapes or types do not fit together.
    """
    bands, rows, cols = tile.image.shape
    if tile.label.shape != (rows, cols) or tile.polygons.shape != (rows, cols):
        raise ValueError(f"image {tile.image.shape}, label {tile.label.shape}")
    if tile.image.dtype != np.uint8 or tile.label.dtype != np.uint8:
        raise ValueError(f"image {tile.image.dtype}, label {tile.label.dtype}: both are uint8")
    if len(tile.proportion_rows) != len(tile.proportions):
        raise ValueError(f"{len(tile.proportion_rows)} rows, {len(tile.proportions)} proportions")
    # Level 1 on imagery: higher levels cost ten times as much for a few per cent.
    image = _packed(tile.image.tobytes(), 1)
    label = _packed(tile.label.tobytes(), 3)
    known = tile.proportion_rows.astype("<u4").tobytes()
    shares = np.ascontiguousarray(tile.proportions, "<f4").tobytes()
    index = _packed(np.ascontiguousarray(tile.polygons, "<u4").tobytes() + known + shares, 3)
    header = _HEADER.pack(
        _MAGIC, bands, tile.proportions.shape[1], rows, cols,
        len(tile.proportion_rows), len(image), len(label),
    )  # fmt: skip
    return header + image + label + index


def decode(record: bytes | memoryview, polygons: bool = True) -> Tile:
    """The tile of a record.

    Args:
        record: What :func:`encode` returned.
        polygons: Whether to read the polygon index too; it is left empty otherwise, which
            saves a third of the time where only image and label are wanted.

    Raises:
        ValueError: If it is no record.
    """
    view = memoryview(record)
    if len(view) < _HEADER.size:
        raise ValueError("not a record: too short")
    magic, bands, classes, rows, cols, known, image_size, label_size = _HEADER.unpack_from(view)
    if magic != _MAGIC:
        raise ValueError(f"not a record: starts with {magic!r}")
    start, pixels = _HEADER.size, rows * cols
    image = np.frombuffer(_unpacked(view[start : start + image_size], bands * pixels), np.uint8)
    start += image_size
    label = np.frombuffer(_unpacked(view[start : start + label_size], pixels), np.uint8)
    start += label_size
    if polygons:
        unpacked = _unpacked(view[start:], 4 * (pixels + known + known * classes))
        index = np.frombuffer(unpacked, "<u4").astype(np.uint32, copy=False)
        rows_known = index[pixels : pixels + known]
        shares = index[pixels + known :].view(np.float32).reshape(known, classes)
        index = index[:pixels].reshape(rows, cols)
    else:
        rows_known = np.zeros(0, np.uint32)
        shares = np.zeros((0, classes), np.float32)
        index = np.zeros((0, 0), np.uint32)
    return Tile(
        image.reshape(bands, rows, cols), label.reshape(rows, cols), index, rows_known, shares
    )


def _packed(content: bytes, level: int) -> bytes:
    # With a checksum: imagery hardly compresses, and a flipped bit in it would pass for a pixel.
    return zstandard.ZstdCompressor(level=level, write_checksum=True).compress(content)


def _unpacked(frame: memoryview, size: int) -> bytes:
    """Content of a frame.

    Raises:
        ValueError: If it is damaged or of another size; the size is known before memory is asked.
    """
    try:
        told = zstandard.get_frame_parameters(frame).content_size
        if told != size:
            raise ValueError(f"a part of {told} bytes, expected {size}")
        return zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


class ShardWriter:
    """Writes the records of one shard, in order, into a draft folder.

    Args:
        folder: Draft of the shard's folder; made here.
        records: How many records will come.
        record_bytes: What a record takes at most, as a rule; the map is sized by it, and grows
            where that is not enough. The file itself only takes what is written.

    Raises:
        OutputError: If the disk fills up.
    """

    def __init__(self, folder: Path, records: int, record_bytes: int) -> None:
        folder.mkdir()
        self._folder = folder
        self._waiting: list[bytes] = []
        self._next = 0
        self._hash = hashlib.blake2b(digest_size=16)
        # A record takes whole 4 KiB overflow pages, and its key a share of a branch page.
        size = (records + 64) * (record_bytes + 3 * 4096) + 2**20
        # No lock file: the draft has one writer, and the published shard only readers.
        self._environment = lmdb.open(
            str(folder), map_size=size, lock=False, sync=False, metasync=False, max_dbs=0
        )

    def put(self, record: bytes) -> None:
        """Append a record."""
        self._hash.update(record)
        self._waiting.append(record)
        if len(self._waiting) >= _COMMIT_EVERY:
            self._commit()

    @property
    def checksum(self) -> str:
        """Checksum of the records so far."""
        return self._hash.hexdigest()

    def finish(self, manifest: Manifest) -> None:
        """Commit what waits, sync, and write the manifest.

        Raises:
            ValueError: If the number of records is not the manifest's.
        """
        self._commit()
        if self._next != manifest.tiles:
            raise ValueError(f"{self._next} records, {manifest.tiles} in the manifest")
        self._environment.sync(True)
        needed = _needed(self._environment)
        self.close()
        data = self._folder / _DATA
        if data.stat().st_size < needed:
            # LMDB does not write pages that it allocated and let go of; readers look at the size.
            os.truncate(data, needed)
        (self._folder / MANIFEST).write_text(manifest.as_json(), encoding="utf-8")

    def close(self) -> None:
        """Let go of the file."""
        self._environment.close()

    def _commit(self) -> None:
        try:
            try:
                self._put_waiting()
            except lmdb.MapFullError:
                room = 2 * (sum(map(len, self._waiting)) + len(self._waiting) * 3 * 4096)
                self._environment.set_mapsize(self._environment.info()["map_size"] + room)
                self._put_waiting()
        except lmdb.Error as error:
            # A write that the disk cuts short is LMDB's "Input/output error".
            if any(reason in str(error) for reason in _DISK_REASONS):
                raise unwritable(self._folder) from error
            raise
        self._next += len(self._waiting)
        self._waiting.clear()

    def _put_waiting(self) -> None:
        with self._environment.begin(write=True) as transaction:
            for key, record in enumerate(self._waiting, self._next):
                transaction.put(key.to_bytes(8, "big"), record, append=True)


def _histogram(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels of each value from 0 to 255, int64, shape ``(256,)``."""
    return np.bincount(values.ravel(), minlength=256).astype(np.int64)


class ShardReader:
    """Reads tiles of one shard, in any process and thread.

    The LMDB is opened by whoever reads first, once per process: an environment that is carried
    across a fork makes DataLoader workers hang, so a forked process lets go of its parent's.

    Args:
        folder: The shard's folder.

    Raises:
        InputError: If it holds no shard of this layout.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"{self.folder}: is not a shard ({error.strerror}: {MANIFEST}).",
                remedy="Let `shard` make it.",
            ) from error
        self.manifest = Manifest.from_json(text, path)

    def __len__(self) -> int:
        return self.manifest.tiles

    def read(self, position: int, polygons: bool = True) -> Tile:
        """Read a tile.

        Args:
            position: From 0 to ``len(self) - 1``.
            polygons: Whether to read the polygon index and proportions too.

        Raises:
            IndexError: If there is no such tile.
            InputError: If the shard is damaged.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"tile {position} of {len(self)} in {self.folder}")
        with _environment(self.folder).begin(buffers=True) as transaction:
            record = transaction.get(position.to_bytes(8, "big"))
            if record is None:
                raise self._damaged(position, "it is missing")
            try:
                return decode(record, polygons)
            except ValueError as error:
                raise self._damaged(position, str(error)) from error

    def _damaged(self, position: int, why: str) -> InputError:
        return InputError(
            f"{self.folder}: tile {position} cannot be read: {why}.",
            remedy="Remove the shard and let `shard` make it again.",
        )


def combined(manifests: Iterable[Manifest], split: str) -> SplitCounts | None:
    """Counts of one split over shards, or None where no shard has tiles of it."""
    total: SplitCounts | None = None
    for manifest in manifests:
        counts = manifest.counts.get(split)
        if counts is not None and counts.tiles:
            total = counts if total is None else total + counts
    return total


def record_bound(tile_px: int, bands: int, classes: int) -> int:
    """Upper bound of the bytes of a record whose tile shows at most 4096 polygons.

    However little of it compresses: zstd adds less than 1/128 to a frame.
    """
    pixels = tile_px * tile_px
    raw = pixels * (bands + 1 + 4) + min(pixels, 4096) * 4 * (1 + classes)
    return raw + raw // 128 + 4096


def split_ranges(splits: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Ranges of positions of tiles that are sorted by split.

    Raises:
        ValueError: If the tiles of a split are not contiguous.
    """
    ranges: dict[str, tuple[int, int]] = {}
    for position, split in enumerate(splits):
        if split not in ranges:
            ranges[split] = (position, position + 1)
        elif ranges[split][1] == position:
            ranges[split] = (ranges[split][0], position + 1)
        else:
            raise ValueError(f"tiles of split {split!r} are not contiguous at {position}")
    return ranges


_open_lock = threading.Lock()
_open: dict[tuple[str, int], lmdb.Environment] = {}


def _environment(folder: Path) -> lmdb.Environment:
    """The environment of a folder in this process, opened at most once (lmdb 3 insists).

    Raises:
        InputError: If there is none, or it is truncated: LMDB maps the file, and a page behind
            its end kills the process.
    """
    try:
        status = (folder / _DATA).stat()
        # With the inode: a shard that was made anew under the same name is another store.
        key = (str(folder.resolve()), status.st_ino)
        with _open_lock:
            if key not in _open:
                environment = lmdb.open(
                    str(folder), readonly=True, lock=False, readahead=False, max_spare_txns=4
                )
                needed = _needed(environment)
                if status.st_size < needed:
                    environment.close()
                    raise _unusable(folder, f"has {status.st_size} bytes of {needed}")
                _open[key] = environment
            return _open[key]
    except (OSError, lmdb.Error) as error:
        raise _unusable(folder, str(error)) from error


def _unusable(folder: Path, why: str) -> InputError:
    return InputError(
        f"{folder}: {_DATA} cannot be read: {why}.",
        remedy="Remove the shard and let `shard` make it again.",
    )


def _needed(environment: lmdb.Environment) -> int:
    """Bytes up to the last page that an environment uses."""
    return int((environment.info()["last_pgno"] + 1) * environment.stat()["psize"])


def _forget() -> None:
    """Let go of what a forked process inherited: lmdb 3 takes it for opened by the process."""
    global _open_lock  # the parent's may be held by a thread that is not here
    _open_lock = threading.Lock()
    for environment in _open.values():
        environment.close()
    _open.clear()


os.register_at_fork(after_in_child=_forget)
