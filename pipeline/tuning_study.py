"""The study of a search in its file: opened, locked, mended, known by its settings."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from pipeline import tuning_methods
from pipeline.errors import SettingsError, TrainingError
from pipeline.search_space import Axis
from pipeline.sections import TuningSettings

LOCK_GRACE = 60
"""Seconds after which the lock of a process that died while it held it is broken."""

_NAME = "tuning"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """A search, as the settings of a run say it.

    Attributes:
        folder: Folder of the study.
        trial_folder: Folder of a trial, by number.
        settings: Section ``tuning``.
        axes: What is searched, by dotted name.
        seed: Seed of the run.
        validations: Most validations of a training; None if nobody knows beforehand.
        fingerprint: What makes the trials comparable: data, settings that are not searched, space
            and metric.
    """

    folder: Path
    trial_folder: Callable[[int], Path]
    settings: TuningSettings
    axes: Mapping[str, Axis]
    seed: int
    validations: int | None
    fingerprint: Mapping[str, Any]

    @property
    def journal(self) -> Path:
        """The study's file."""
        return self.folder / "study.journal"

    @property
    def limit(self) -> int:
        """Trials of all workers together."""
        if self.settings.sampler != "grid":
            return self.settings.trials
        cells = math.prod(len(axis.labels()) for axis in self.axes.values())
        return min(self.settings.trials, cells)


def opened(search: Search) -> optuna.Study:
    """Open the study of a search, or begin it; to be called :func:`alone`.

    Raises:
        SettingsError: If it is of other settings, data or space.
        TrainingError: If its file cannot be read.
    """
    _quiet()
    path = str(search.journal)
    # A file made exclusively, not Optuna's default: its symbolic link by a relative name leads
    # nowhere, and is then waited for without an end when its owner was killed.
    lock = JournalFileOpenLock(path, LOCK_GRACE)
    lock.acquire()
    try:
        _mend(search.journal)
    finally:
        lock.release()
    try:
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(path, lock)),
            study_name=_NAME,
            direction="minimize" if search.settings.metric == "loss" else "maximize",
            pruner=tuning_methods.pruner(search.settings.pruner, search.validations),
            load_if_exists=True,
        )
    except (ValueError, LookupError, TypeError) as error:
        raise TrainingError(
            f"{path}: is no journal of a study ({error}).",
            remedy=f"Remove {search.folder} to begin anew.",
        ) from error
    mine = json.loads(json.dumps(search.fingerprint, sort_keys=True))
    known = study.user_attrs.get("fingerprint")
    if known is None:
        study.set_user_attr("fingerprint", mine)
    elif known != mine:
        raise SettingsError(
            f"{search.folder} holds a study of other settings, data or space.",
            _differences(known, mine),
            f"Write what it began with, or remove {search.folder} to begin anew. "
            "Sampler, pruner, trials and workers may change.",
        )
    return study


@contextmanager
def alone(search: Search) -> Iterator[None]:
    """Nobody else chooses, takes up or ends a trial meanwhile."""
    lock = JournalFileOpenLock(str(search.folder / "choosing"), LOCK_GRACE)
    lock.acquire()
    try:
        yield
    finally:
        try:
            lock.release()
        except RuntimeError:
            logger.warning(
                "%s: others have waited for more than %d s and gone on; the file system is slow, "
                "and there may be a trial too many", search.folder, LOCK_GRACE,
            )  # fmt: skip


def _mend(journal: Path) -> None:
    """Cut off a line that a full disk or a kill left half-written: no reader gets past it."""
    if not journal.exists():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        logger.warning("%s: its last line is incomplete and is cut off", journal)
        with journal.open("rb+") as file:
            file.truncate(whole)


def _differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Where two nested mappings differ, by dotted name."""
    before, after = _flat(there), _flat(now)
    return [
        f"{key}: {before.get(key)!r} there, {after.get(key)!r} now"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{above}{key}.")
        else:
            found[above + key] = value
    return found


def _quiet() -> None:
    """Optuna's words go where all others go, and only where something is wrong."""
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
