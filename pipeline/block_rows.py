"""Files of a store: what a row of blocks has become, with checksums.

A file appears whole or not at all, and says of itself what it belongs to; each part of it has a
checksum. Whoever opens it again sees whether it is what was written.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from pipeline.errors import OutputError
from pipeline.publication import published

_HEAD = struct.Struct("<I16s")  # length and checksum of the index behind it


@dataclass(frozen=True)
class Part:
    """Bytes to store, or their place in a file.

    Attributes:
        numbers: What it takes to use them: sizes of blocks, shape of an array.
        content: The bytes.
    """

    numbers: tuple[int, ...]
    content: bytes


@dataclass(frozen=True)
class StoredRow:
    """An opened file.

    Attributes:
        path: The file.
        histogram: Pixels of each value of each band, shape ``(bands, 256)``.
        numbers: Of each part, by its name.
    """

    path: Path
    histogram: NDArray[np.int64]
    numbers: Mapping[str, tuple[int, ...]]
    _places: Mapping[str, tuple[int, int, str]]

    def read(self, name: str) -> bytes:
        """Bytes of a part.

        Raises:
            OutputError: If they are not what was written.
        """
        content = self._checked(name)
        if content is None:
            raise lost(self.path)
        return content

    @property
    def whole(self) -> bool:
        """Whether all parts are what was written."""
        return all(self._checked(name) is not None for name in self._places)

    def _checked(self, name: str) -> bytes | None:
        start, length, checksum = self._places[name]
        try:
            with self.path.open("rb") as file:
                content = _read(file, start, length)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return content if xxhash.xxh3_128_hexdigest(content) == checksum else None


class LostRowsError(OutputError):
    """What a store had written is no longer there."""


def lost(path: Path) -> LostRowsError:
    """The error of a file that is no longer what it was when the store was opened."""
    return LostRowsError(
        f"{path}: was lost or damaged after it had been stored.",
        remedy="Start again: what is whole is taken up, the rest is made anew. The disk may be "
        "failing, or another copy of the job has ended meanwhile and removed it.",
    )


def array_part(values: NDArray[np.uint8]) -> Part:
    """An array as a part."""
    return Part(values.shape, zstandard.ZstdCompressor(1).compress(values.tobytes()))


def array_of(numbers: Sequence[int], content: bytes) -> NDArray[np.uint8]:
    """The array of a part."""
    return np.frombuffer(zstandard.ZstdDecompressor().decompress(content), np.uint8).reshape(
        tuple(numbers)
    )


def write_row(
    target: Path, belongs: str, histogram: NDArray[np.int64], parts: Mapping[str, Part]
) -> None:
    """Write a file.

    Args:
        target: The file.
        belongs: To which store, layer and row; asked for again by :func:`open_row`.
        histogram: Pixels of each value of each band, shape ``(bands, 256)``.
        parts: By their names.

    Raises:
        OutputError: If it cannot be written. Nothing is left behind.
    """
    listed, start = [], 0
    for name, part in parts.items():
        checksum = xxhash.xxh3_128_hexdigest(part.content)
        listed.append([name, part.numbers, start, len(part.content), checksum])
        start += len(part.content)
    content = {"belongs": belongs, "histogram": histogram.tolist(), "parts": listed}
    index = json.dumps(content, separators=(",", ":")).encode()
    with published(target) as (draft,), draft.open("wb") as file:
        file.write(_HEAD.pack(len(index), xxhash.xxh3_128_digest(index)) + index)
        for part in parts.values():
            file.write(part.content)


def open_row(path: Path, belongs: str) -> StoredRow | None:
    """Open a file, without a look at its parts.

    Returns:
        None where it is not there, is damaged or belongs to something else.
    """
    try:
        with path.open("rb") as file:
            head = _read(file, 0, _HEAD.size)
            if len(head) < _HEAD.size:
                return None
            length, checksum = _HEAD.unpack(head)
            index = _read(file, _HEAD.size, length)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if xxhash.xxh3_128_digest(index) != checksum:
        return None
    content: dict[str, Any] = json.loads(index)
    if content["belongs"] != belongs:
        return None
    numbers, places = {}, {}
    for name, values, start, size, digest in content["parts"]:
        numbers[name] = tuple(values)
        places[name] = (_HEAD.size + length + start, size, digest)
    return StoredRow(path, np.array(content["histogram"], np.int64), numbers, places)


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    # A damaged length may ask for gigabytes of room.
    return file.read(min(length, os.fstat(file.fileno()).st_size))
