"""The folder of ImageNet weights: filled by ``fetch-weights`` on a login node, read by jobs.

One file an encoder, ``{encoder}.safetensors``, and beside it ``{encoder}.json``, which says where
the weights come from and what the file's checksum is. A file of the user's own is used as well if
it has the encoder's name (``resnet18.safetensors``, ``.pth`` or ``.pt``); it has no JSON, and so is
checked by the names and shapes of its layers alone. Nothing here opens a connection.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import TrainingError

SUFFIXES = (".safetensors", ".pth", ".pt")
"""Kinds of files that are looked for, in this order."""


@dataclass(frozen=True)
class Origin:
    """Where stored weights come from.

    Attributes:
        encoder: Name of the encoder, as in ``training.encoder``.
        source: Who published them: repository, address or package.
        revision: Commit, version or checksum there.
        license: Licence that the publisher names; empty where none is known.
        sha256: Checksum of the stored file.
        bytes: Its size.
    """

    encoder: str
    source: str
    revision: str
    license: str
    sha256: str
    bytes: int

    def as_json(self) -> str:
        """The text of the file beside the weights."""
        return json.dumps({"weights": "imagenet", **asdict(self)}, indent=2) + "\n"


def found_file(folder: Path | None, encoder: str) -> Path:
    """Find the ImageNet weights of an encoder.

    Args:
        folder: ``training.weights_dir``.
        encoder: Name of the encoder.

    Raises:
        TrainingError: If there are none.
    """
    if folder is None:
        raise TrainingError(
            f"training.encoder_weights: imagenet, but no folder is named for those of {encoder}.",
            remedy="Name it in `training.weights_dir`.",
        )
    path = found(folder, encoder)
    if path is None:
        raise TrainingError(
            f"training.encoder_weights: the ImageNet weights of {encoder} are not in {folder}.",
            [f"looked for: {encoder}{{{','.join(SUFFIXES)}}}"],
            "Fetch them where there is internet:\n"
            f"  {fetch_command(folder, encoder)}\n"
            "or train from scratch with `encoder_weights: none`. Jobs download nothing.",
        )
    return path


def weights_file(folder: Path | None, encoder: str) -> Path:
    """Find the ImageNet weights of an encoder and check that they are whole.

    Args:
        folder: ``training.weights_dir``.
        encoder: Name of the encoder.

    Raises:
        TrainingError: If there are none, or the file is not the one that was fetched.
    """
    path = found_file(folder, encoder)
    wrong = damage(path)
    if wrong:
        raise TrainingError(
            f"training.encoder_weights: {path} is not as it was fetched.",
            [wrong],
            f"Fetch it again where there is internet:\n  {fetch_command(path.parent, encoder)}\n"
            f"If the file is your own, delete {record_of(path).name} beside it.",
        )
    return path


def found(folder: Path, encoder: str) -> Path | None:
    """The file of an encoder's weights, or None where there is none."""
    folder = expanded(folder)
    for suffix in SUFFIXES:
        path = folder / f"{encoder}{suffix}"
        if path.is_file():
            return path
    return None


def origin_of(path: Path) -> dict[str, Any]:
    """What is known of a file of weights: its name, and what ``fetch-weights`` wrote beside it.

    Args:
        path: A file that :func:`damage` finds nothing wrong with.
    """
    record = record_of(path)
    if path.suffix == SUFFIXES[0] and record.is_file():
        told: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        return {"file": path.name, **told}
    return {"file": path.name, "sha256": sha256_of(path)}


def damage(path: Path) -> str:
    """What is wrong with a file against its JSON; empty if nothing is, or it is the user's own."""
    record = record_of(path)
    if path.suffix != SUFFIXES[0] or not record.is_file():
        return ""
    try:
        told = json.loads(record.read_text(encoding="utf-8"))
        size, digest = int(told["bytes"]), str(told["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        return f"{record.name} cannot be read ({type(error).__name__}: {error})"
    if path.stat().st_size != size:
        return f"it has {path.stat().st_size} bytes, {record.name} says {size}"
    given = sha256_of(path)
    return "" if given == digest else f"its sha256 is {given}, {record.name} says {digest}"


def record_of(path: Path) -> Path:
    """The JSON beside a file of weights."""
    return path.with_name(path.name.removesuffix(path.suffix) + ".json")


def fetch_command(folder: Path, encoder: str) -> str:
    """What to type on a machine with internet."""
    words = ["python", "-m", "pipeline", "fetch-weights", "--encoder", encoder, "--out"]
    return shlex.join([*words, str(folder)])


def expanded(folder: Path) -> Path:
    """A folder without ``~`` and variables of the environment."""
    return Path(os.path.expandvars(folder)).expanduser()


def sha256_of(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
