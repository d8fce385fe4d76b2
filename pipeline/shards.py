"""Tiles of one sheet in an LMDB: writer, reader, manifest.

A shard is a folder with ``data.mdb`` and ``manifest.json``. Tiles of one split are contiguous and
in the plan's order: the key of tile ``i`` is ``i`` as eight bytes, big-endian. They are written in
the order in which the sheet is read. Nothing in a shard depends on the number of workers that made
it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import lmdb
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, OutputError
from pipeline.grid import PixelGrid
from pipeline.publication import free_bytes, unwritable
from pipeline.records import Runs, Tile, decode, digest_of

log = logging.getLogger(__name__)

LAYOUT = 2
"""Version of the record and manifest layout; readers refuse another one."""

MANIFEST = "manifest.json"
DATA = "data.mdb"
"""LMDB's name of the file with the records."""

_DISK_REASONS = ("No space", "Disk quota", "File too large", "Input/output error")
_COMMIT_EVERY = 32 * 2**20  # bytes a transaction: LMDB holds its pages twice until it commits
_SYNC_EVERY = 4  # transactions
_PAGE = 4096
_LOOK_EVERY = 10.0  # seconds between two looks for a copy
_EXACT = 256  # values whose squares a float32 sums exactly: 256 * 255**2 < 2**24


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
    def of(
        image: NDArray[np.uint8],
        label: Runs,
        valid: NDArray[np.bool_] | None,
        classes: int,
    ) -> SplitCounts:
        """Count one tile.

        Args:
            image: uint8, shape ``(bands, rows, cols)``; 0 where it is not valid.
            label: Class ids.
            valid: Pixels that the orthophoto has, shape ``(rows, cols)``; None for all.
            classes: Number of classes.
        """
        sums, squares = _moments(image)
        labels = label.counts()[:classes]
        labelled = int(labels.sum())
        return SplitCounts(
            1,
            image[0].size if valid is None else int(np.count_nonzero(valid)),
            tuple(sums.tolist()),
            tuple(squares.tolist()),
            tuple(labels.tolist()),
            tuple(np.where(labels > 0, labelled, 0).tolist()),
        )

    def __add__(self, other: SplitCounts) -> SplitCounts:
        return SplitCounts.total([self, other])

    @staticmethod
    def total(some: Sequence[SplitCounts]) -> SplitCounts:
        """The sum of one or more."""

        def added(name: str) -> tuple[int, ...]:
            return tuple(np.sum([getattr(counts, name) for counts in some], axis=0).tolist())

        return SplitCounts(
            sum(counts.tiles for counts in some),
            sum(counts.pixels for counts in some),
            *map(added, ("band_sum", "band_sum_squares", "class_pixels", "present_pixels")),
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
        codec: How images are packed.
        splits: First position and the one behind the last of each split's tiles.
        counts: Counts by split.
        records: Checksum of all records as they are packed, in the order of the tiles.
    """

    layout: int
    sheet: str
    grid: PixelGrid
    bands: int
    tile_px: int
    classes: tuple[str, ...]
    nomenclature: str
    codec: str
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


class ShardWriter:
    """Writes the records of one shard into a draft folder.

    What is written is flushed to the disk while the next tiles are cut: pages that wait for it
    count as a job's memory, and would all be waited for at the end.

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
        self._waiting: list[tuple[int, bytes | bytearray]] = []
        self._waiting_bytes = self._written = self._transactions = 0
        self._digests: list[bytes | None] = [None] * records
        # No lock file: the draft has one writer, and the published shard only readers.
        self._environment = lmdb.open(
            str(folder),
            map_size=records * room_of(record_bytes) + 2**20,
            lock=False,
            sync=False,
            metasync=False,
            max_dbs=0,
        )
        self._flusher = ThreadPoolExecutor(1)
        self._flush: Future[None] | None = None

    def put(self, position: int, record: bytes | bytearray) -> None:
        """Take the record of a tile; tiles come in any order, each once.

        Raises:
            ValueError: If there is no such tile, or it came before.
        """
        if not 0 <= position < len(self._digests) or self._digests[position] is not None:
            raise ValueError(f"tile {position} of {len(self._digests)}: no such tile, or twice")
        self._digests[position] = digest_of(record)
        self._waiting.append((position, record))
        self._waiting_bytes += len(record)
        if self._waiting_bytes >= _COMMIT_EVERY:
            self._commit()

    @property
    def checksum(self) -> str:
        """Checksum of all records, in the order of the tiles."""
        digests = b"".join(digest or b"" for digest in self._digests)
        return hashlib.blake2b(digests, digest_size=16).hexdigest()

    def finish(self, manifest: Manifest) -> None:
        """Commit what waits, sync, and write the manifest.

        Raises:
            ValueError: If the number of records is not the manifest's.
        """
        self._commit()
        if self._written != manifest.tiles:
            raise ValueError(f"{self._written} records, {manifest.tiles} in the manifest")
        self._flushed()
        self._environment.sync(True)
        needed = _needed(self._environment)
        self.close()
        data = self._folder / DATA
        if data.stat().st_size < needed:
            # LMDB does not write pages that it allocated and let go of; readers look at the size.
            os.truncate(data, needed)
        (self._folder / MANIFEST).write_text(manifest.as_json(), encoding="utf-8")

    def close(self) -> None:
        """Let go of the file."""
        self._flusher.shutdown(wait=True)
        self._environment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _commit(self) -> None:
        try:
            try:
                self._put_waiting()
            except lmdb.MapFullError:
                more = 2 * sum(room_of(len(record)) for _, record in self._waiting)
                self._environment.set_mapsize(self._environment.info()["map_size"] + more)
                self._put_waiting()
        except lmdb.Error as error:
            # A write that the disk cuts short is LMDB's "Input/output error".
            if any(reason in str(error) for reason in _DISK_REASONS):
                raise unwritable(self._folder) from error
            raise
        self._written += len(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._transactions += 1
        if self._transactions % _SYNC_EVERY == 0:
            self._flushed()  # the one before: no more than two of them wait
            self._flush = self._flusher.submit(_flush, self._folder / DATA)

    def _put_waiting(self) -> None:
        with self._environment.begin(write=True) as transaction:
            for position, record in self._waiting:
                transaction.put(position.to_bytes(8, "big"), record)

    def _flushed(self) -> None:
        if self._flush is not None:
            self._flush.result()
            self._flush = None


def room_of(record_bytes: int) -> int:
    """Bytes of the file that a record takes: whole pages, and its share of the branch pages."""
    return -(-(record_bytes + 16) // _PAGE) * _PAGE + 128


def check_room(folder: Path, needed: int, what: str) -> None:
    """Check that a disk has room, before anything is written.

    Quotas are not seen here; a write that they refuse is told when it happens.

    Args:
        folder: Where it will lie.
        needed: Bytes.
        what: What needs them.

    Raises:
        OutputError: If there is not enough.
    """
    free = free_bytes(folder)
    if needed > free:
        raise OutputError(
            f"{what}: needs about {needed / 2**30:.2f} GiB in {folder}, where "
            f"{free / 2**30:.2f} GiB are free.",
            remedy="Make room, choose another `run` folder, or let tiles take less room with "
            "another `tiling.codec`: configs/default.yaml says what there is.",
        )


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(handle)
    finally:
        os.close(handle)


def _moments(image: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sum of the values and of their squares of each band, exact.

    Sums of at most 256 values are whole numbers that float32 holds, and that BLAS adds up.
    """
    bands, _, cols = image.shape
    sums, squares = np.zeros(bands), np.zeros(bands)
    values, ones = image.astype(np.float32), np.ones(_EXACT, np.float32)
    for first in range(0, cols, _EXACT):
        part = values[..., first : first + _EXACT]
        sums += np.vecdot(part, ones[: part.shape[-1]]).sum(axis=-1, dtype=np.float64)
        squares += np.vecdot(part, part).sum(axis=-1, dtype=np.float64)
    return sums.astype(np.int64), squares.astype(np.int64)


class ShardReader:
    """Reads tiles of one shard, in any process and thread.

    The LMDB is opened by whoever reads first, once per process: an environment that is carried
    across a fork makes DataLoader workers hang, so a forked process lets go of its parent's.

    Args:
        folder: The shard's folder.
        copy: A folder that is read instead as soon as it is there.

    Raises:
        InputError: If it holds no shard of this layout.
    """

    def __init__(self, folder: Path, copy: Path | None = None) -> None:
        self.folder = self._source = Path(folder)
        self._copy, self._looked = copy, -_LOOK_EVERY
        self._opened: tuple[int, lmdb.Environment] | None = None
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
            InputError: If the shard is damaged. Where its copy is, or is gone, the shard is read
                where it lies.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"tile {position} of {len(self)} in {self.folder}")
        try:
            return self._read(position, polygons)
        except InputError as error:
            if self.folder == self._source:
                raise
            log.warning("%s Its tiles are read from %s.", error.what, self._source)
            self.folder, self._opened = self._source, None
            return self._read(position, polygons)

    def _read(self, position: int, polygons: bool) -> Tile:
        store = self._store()
        try:
            with store.begin(buffers=True) as transaction:
                record = transaction.get(position.to_bytes(8, "big"))
                if record is None:
                    raise self._damaged(position, "it is missing")
                return decode(record, polygons)
        except (ValueError, lmdb.Error) as error:
            raise self._damaged(position, str(error)) from error

    def _store(self) -> lmdb.Environment:
        """The environment to read from: of the process that asks."""
        if self._copy is not None and time.monotonic() - self._looked >= _LOOK_EVERY:
            self._looked = time.monotonic()
            if (self._copy / MANIFEST).exists():
                self.folder, self._copy, self._opened = self._copy, None, None
        if self._opened is None or self._opened[0] != _forks:
            self._opened = (_forks, _environment(self.folder))
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}  # a store stays in its process

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
_forks = 0  # between the first process and this one


def _environment(folder: Path) -> lmdb.Environment:
    """The environment of a folder in this process, opened at most once (lmdb 3 insists).

    Raises:
        InputError: If there is none, or it is truncated: LMDB maps the file, and a page behind
            its end kills the process.
    """
    try:
        status = (folder / DATA).stat()
        # With the inode: a shard that was made anew under the same name is another store.
        key = (str(folder.resolve()), status.st_ino)
        with _open_lock:
            if key not in _open:
                environment = lmdb.open(
                    # With read-ahead: a record is fifty pages, and neighbours are drawn together.
                    str(folder),
                    readonly=True,
                    lock=False,
                    readahead=True,
                    max_spare_txns=4,
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
        f"{folder}: {DATA} cannot be read: {why}.",
        remedy="Remove the shard and let `shard` make it again.",
    )


def _needed(environment: lmdb.Environment) -> int:
    """Bytes up to the last page that an environment uses."""
    return int((environment.info()["last_pgno"] + 1) * environment.stat()["psize"])


def _forget() -> None:
    """Let go of what a forked process inherited: lmdb 3 takes it for opened by the process."""
    global _open_lock, _forks  # the parent's lock may be held by a thread that is not here
    _forks += 1
    _open_lock = threading.Lock()
    for environment in _open.values():
        environment.close()
    _open.clear()


os.register_at_fork(after_in_child=_forget)
