"""Copies of shards on a node's own disk, made while training reads the originals already.

One thread copies shard after shard at the lowest priority. A copy appears at once and whole, under
a name with the checksum of its manifest: a training that starts again finds it, and a shard that
was made anew is another one. Processes of one node take turns, so that each shard is copied once.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import InputError, TeselaError, TrainingError
from pipeline.publication import free_bytes, published
from pipeline.shards import DATA, MANIFEST, Manifest, ShardReader

RESERVE = 2**30
"""Bytes that stay free on the node's disk: it is not the cache's alone."""

SECONDS_BETWEEN_LOOKS = 5.0
"""A process that waits for its turn to copy asks so often."""

_LOCK = ".tesela.lock"
_PIECE = 2**23  # bytes between two looks whether training has ended
_PIECES_BETWEEN_SYNCS = 32  # 256 MiB: what waits to be written counts as the job's memory

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")

log = logging.getLogger(__name__)


class NodeCache:
    """A folder of copies.

    Args:
        folder: Setting ``training.cache_dir``; environment variables in it are put in. Where it is
            None, there are no copies, and shards are read where they lie.

    Raises:
        TrainingError: If a variable is not set, or the folder cannot be written.
    """

    def __init__(self, folder: str | None) -> None:
        self.folder = None if folder is None else node_folder(folder)
        self._readers: list[tuple[ShardReader, Path]] = []
        self._stop = threading.Event()
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / _LOCK).touch()
            except OSError as error:
                raise TrainingError(
                    f"training.cache_dir: {self.folder} cannot be written ({error.strerror}).",
                    remedy="Name a folder on the node's own disk, or write "
                    "`training.cache_dir: null`.",
                ) from error

    def reader(self, shard: Path) -> ShardReader:
        """Open a shard, which is read from its copy as soon as there is one.

        Args:
            shard: The shard's folder.

        Raises:
            InputError: If it holds no whole shard.
        """
        reader = ShardReader(shard)
        if self.folder is None:
            return reader
        place = self.place_of(reader.manifest)
        if place.exists() and not _is_whole(place, shard_bytes(shard)):
            log.warning("%s is damaged and is removed", place)  # cleaners take single files away
            shutil.rmtree(place, ignore_errors=True)
        self._readers.append((reader, place))
        return ShardReader(shard, copy=place)

    def place_of(self, manifest: Manifest) -> Path:
        """The folder of a shard's copy, whether there is one or not."""
        if self.folder is None:
            raise ValueError("a cache without a folder has no places")
        checksum = hashlib.blake2b(manifest.as_json().encode(), digest_size=16).hexdigest()
        return self.folder / f"{manifest.sheet}-{checksum}.lmdb"

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Copy the shards of all readers so far, as long as the block runs.

        What goes wrong with a copy is a warning: its shard is read where it lies.
        """
        if not self._readers:
            yield
            return
        self._stop.clear()
        # In a thread: processes that read tiles beside the training see what it publishes.
        thread = threading.Thread(target=self._filled, name="node-cache", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _filled(self) -> None:
        try:
            self._fill()
        except OSError as error:  # a file system without locks, say
            log.warning("no shard is copied to %s (%s): all are read where they lie",
                        self.folder, error.strerror)  # fmt: skip

    def _fill(self) -> None:
        if sys.platform == "linux":  # elsewhere, a thread has no priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        assert self.folder is not None
        with (self.folder / _LOCK).open("r+b") as lock:
            waited = False
            while not _locked(lock):
                waited = True
                if self._stop.wait(SECONDS_BETWEEN_LOOKS):
                    return
            for draft in self.folder.glob(".*.lmdb.draft-*"):
                # Of a process that was killed: whoever copies holds the lock.
                shutil.rmtree(draft, ignore_errors=True)
            self._copy_all(quiet=waited)

    def _copy_all(self, quiet: bool) -> None:
        # Processes that waited for their turn leave the telling to the one before them.
        began, copied, left = time.monotonic(), 0, []
        for reader, place in self._readers:
            if place.exists():
                continue
            try:
                size = shard_bytes(reader.folder)
                if size + RESERVE > free_bytes(place.parent):
                    left.append((reader.manifest.sheet, size))
                    continue
                self._copy(reader, place, size)
                copied += size
            except _StoppedError:
                return
            except (OSError, TeselaError) as error:
                why = error.what if isinstance(error, TeselaError) else str(error)
                log.warning("sheet %s is read where it lies: %s", reader.manifest.sheet, why)
        if copied:
            log.info(
                "%.1f GiB of shards are copied to %s in %.0f s",
                *(copied / 2**30, self.folder, time.monotonic() - began),
            )
        if left and not quiet:
            assert self.folder is not None
            sheets = ", ".join(sheet for sheet, _ in left[:5]) + (", ..." if len(left) > 5 else "")
            log.warning(
                "%d of %d shards (%s) stay where they are: their copies need %.2f GiB, and %s has "
                "%.2f GiB free, %.0f of which are left alone",
                *(len(left), len(self._readers), sheets, sum(size for _, size in left) / 2**30),
                *(self.folder, free_bytes(self.folder) / 2**30, RESERVE / 2**30),
            )

    def _copy(self, reader: ShardReader, place: Path, size: int) -> None:
        """Copy one shard.

        Raises:
            OSError: If it cannot be read, or is not the one that is trained on.
            InputError: If it is no shard any more.
            OutputError: If the copy cannot be written.
        """
        with published(place) as (draft,), (reader.folder / DATA).open("rb") as source:
            # After opening: a shard that was made anew since the start has another manifest.
            if ShardReader(reader.folder).manifest != reader.manifest:
                raise OSError(f"{reader.folder} was made anew since training began")
            draft.mkdir()
            with (draft / DATA).open("wb") as target:
                written = self._pour(source, target)
            if written != size:
                raise OSError(f"{reader.folder}: {written} of {size} bytes could be read")
            (draft / MANIFEST).write_text(reader.manifest.as_json(), encoding="utf-8")

    def _pour(self, source: BinaryIO, target: BinaryIO) -> int:
        """Copy a file piece by piece; returns its bytes."""
        piece = memoryview(bytearray(_PIECE))
        written = pieces = 0
        while count := source.readinto(piece):  # type: ignore[attr-defined]
            if self._stop.is_set():
                raise _StoppedError
            target.write(piece[:count])
            written, pieces = written + count, pieces + 1
            if pieces % _PIECES_BETWEEN_SYNCS == 0:
                target.flush()
                os.fsync(target.fileno())
        return written


class _StoppedError(Exception):
    """Training has ended before a copy was whole."""


def node_folder(setting: str) -> Path:
    """The folder that ``training.cache_dir`` means on this node.

    Raises:
        TrainingError: If environment variables in it are not set, with all of them.
    """
    names = [plain or braced for plain, braced in _VARIABLE.findall(setting)]
    # An empty one as well: $SLURM_TMPDIR/tesela would be /tesela.
    missing = [f"${name}" for name in dict.fromkeys(names) if not os.environ.get(name)]
    if missing:
        raise TrainingError(
            f"training.cache_dir: {setting!r} names variables that are not set on this machine.",
            missing,
            "Set them, name a folder on the node's own disk, or write `training.cache_dir: null`.",
        )
    return Path(os.path.expandvars(setting)).expanduser()


def shard_bytes(shard: Path) -> int:
    """Bytes that the records of a shard take.

    Raises:
        InputError: If they are not there.
    """
    try:
        return (shard / DATA).stat().st_size
    except OSError as error:
        raise InputError(
            f"{shard}: {DATA} cannot be read ({error.strerror}).",
            remedy="Remove the shard and let `shard` make it again.",
        ) from error


def _is_whole(place: Path, size: int) -> bool:
    data = place / DATA
    return data.exists() and data.stat().st_size == size and (place / MANIFEST).exists()


def _locked(lock: BinaryIO) -> bool:
    """Take the turn to copy, if nobody has it; it ends with the process, however that ends."""
    try:
        # Not flock: a forked reader would inherit it.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def node_memory(
    cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int:
    """Bytes of memory that this process may use: the node's, or less where a job is limited.

    Args:
        cgroups: Where control groups are mounted.
        own: File that names this process's groups.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return total
    limits = [total]
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":  # version 2
            top, file = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            top, file = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / name.lstrip("/")
        # A group is bound by those above it, too.
        for folder in (group, *group.parents):
            if (folder / file).is_file():
                limit = (folder / file).read_text(encoding="utf-8").strip()
                if limit.isdigit():  # or `max`
                    limits.append(int(limit))
            if folder == top:
                break
    return min(limits)
