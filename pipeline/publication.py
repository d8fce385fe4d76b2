"""Atomic publication: a result is a draft beside its target until it is whole.

Drafts have unique names, so that two copies of a job (a requeued one and its orphan, say) never
write into one file; fsync and rename make the result appear at once or not at all. Drafts of
processes that are gone are swept away by the next one that publishes the same target.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from pipeline.errors import OutputError

_MARK = ".draft-"

UNWRITABLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM}
)
"""Error numbers of a disk or quota that is full, and of folders that may not be written."""


@contextmanager
def published(target: Path, *beside: Path) -> Iterator[tuple[Path, ...]]:
    """Give draft names for one result of one or several files or folders, and publish them.

    The draft of ``a/b.tif`` lies in ``a`` and ends in ``.tif``, so that drivers that look at the
    suffix behave. ``target`` is renamed last, so that whoever waits for it finds the rest.

    Args:
        target: The file or folder that readers wait for.
        beside: More files of the same result.

    Yields:
        Draft paths, ``target``'s first.

    Raises:
        OutputError: If the disk is full or a folder cannot be written. Nothing is left behind.
    """
    targets = (target, *beside)
    drafts: tuple[Path, ...] = ()
    try:
        drafts = _prepared(targets)
        yield drafts
        for draft in drafts:
            for part in (draft, *draft.rglob("*")):
                _synced(part)
        for draft, path in reversed(list(zip(drafts, targets, strict=True))):
            _renamed(draft, path)
        # The folder's own entries, not what lies in it: other jobs make and remove drafts there.
        for folder in {path.parent for path in targets}:
            _synced(folder)
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise unwritable(target, error) from error
        raise
    finally:
        for draft in drafts:
            _removed(draft)


@contextmanager
def scratch(*places: Path) -> Iterator[tuple[Path, ...]]:
    """Give names for files that a stage needs on its way; they are gone when it ends.

    Args:
        places: Where they would lie; they are named like drafts, and swept up like drafts after
            a kill.

    Raises:
        OutputError: If a folder cannot be made.
    """
    drafts = _prepared(places)
    try:
        yield drafts
    finally:
        for draft in drafts:
            _removed(draft)


def unwritable(target: Path, error: OSError | None = None) -> OutputError:
    """The error of a result that cannot be written, with the room that is left."""
    folder = _there(target.parent)
    free = free_bytes(folder) / 2**30
    reason = error.strerror if error and error.strerror else "the disk may be full"
    culprit = getattr(error, "filename", None)
    if culprit and _MARK not in str(culprit) and Path(str(culprit)) != target:
        reason += f": {culprit}"
    full = error is None or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return OutputError(
        f"{target}: cannot be written ({reason}).",
        [f"{free:.2f} GiB are free in {folder}"],
        f"{'Make room' if full else 'Mend that'} or choose another `run` folder, then start "
        "again; nothing half-written is left.",
    )


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written in a folder, which need not be there yet."""
    return shutil.disk_usage(_there(folder)).free


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not os.path.isdir(folder):  # noqa: PTH112 - False, not an error, where we may not look
        folder = folder.parent
    return folder


def write_text(target: Path, text: str) -> None:
    """Publish a small text file.

    Raises:
        OutputError: If it cannot be written.
    """
    with published(target) as (draft,):
        draft.write_text(text, encoding="utf-8")


def _draft_of(path: Path) -> Path:
    token = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}{_MARK}{token}{path.suffix}")


def _prepared(targets: Sequence[Path]) -> tuple[Path, ...]:
    for path in targets:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a file where a folder should be, say
            raise unwritable(path, error) from error
        _sweep(path)
    return tuple(_draft_of(path) for path in targets)


def _sweep(target: Path) -> None:
    # Of this host alone, whose processes can be asked after: `node` leaves those of `node-1` be.
    stale = re.compile(
        re.escape(f".{target.name}{_MARK}{socket.gethostname()}-") + r"(\d+)-[0-9a-f]{8}(\..*)?"
    )
    for draft in target.parent.glob(f"{glob.escape(f'.{target.name}{_MARK}')}*"):
        owner = stale.fullmatch(draft.name)
        if owner and not psutil.pid_exists(int(owner[1])):
            _removed(draft)


def _synced(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems have no fsync of folders (PostgreSQL passes over it too).
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.EBADF)):
            raise
    finally:
        os.close(handle)


def _renamed(draft: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        # A folder cannot be renamed onto a folder that holds files: the old one steps aside first.
        old = draft.with_name(f"{draft.name}.old")
        target.rename(old)
        try:
            draft.rename(target)
        except OSError:
            old.rename(target)
            raise
        _removed(old)
    else:
        draft.replace(target)


def _removed(draft: Path) -> None:
    sidecars = draft.parent.glob(f"{glob.escape(draft.name)}.*")  # .aux.xml, SQLite's journals
    for path in (draft, *sidecars):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            # What cannot be removed must not hide why it is removed.
            with suppress(OSError):
                path.unlink(missing_ok=True)
