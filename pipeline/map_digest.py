"""A fingerprint of maps that is cheap to take, to tell whether they have been made anew."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

_HEAD = 128 * 1024  # tags, among them the checkpoint's, and the sizes of the compressed blocks
_PARTS, _PART = 16, 4096  # of the rest, from places evenly over the file


def maps_digest(maps: Mapping[str, Path]) -> str:
    """Fingerprint of the maps of sheets, from the sizes of the files and parts of their bytes.

    The same network, settings and orthophotos give the same bytes, and the same fingerprint. A map
    of another network differs in its tags, one of other pixels in the sizes of its compressed
    blocks: less than 200 KiB of each file are read.

    Args:
        maps: File of each sheet; their order does not matter. One that is not there counts too.

    Returns:
        16 hexadecimal digits.
    """
    found = hashlib.sha256()
    for sheet, path in sorted(maps.items()):
        found.update(f"{sheet}\n{_digest(path)}\n".encode())
    return found.hexdigest()[:16]


def _digest(path: Path) -> str:
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        found.update(file.read(_HEAD))
        if size > _HEAD:
            for number in range(1, _PARTS + 1):
                file.seek(max(_HEAD, size * number // _PARTS - _PART))
                found.update(file.read(_PART))
    return found.hexdigest()
