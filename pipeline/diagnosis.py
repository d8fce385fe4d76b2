"""Diagnosis of a training: what its curves and its confusion matrix warn of, in words."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.following import Follower, Validation, column
from pipeline.numerals import count, listed, percent, plural
from pipeline.publication import write_text

GRACE = 5
"""Validations before anything is said of losses and classes: the first ones mean nothing."""

RECENT = 3
"""What counts is the median of so many validations: one bad one is no finding."""

GAP = 0.15
"""Training accuracy less validation accuracy; more is overfitting."""

RISE = 0.15
"""Rise of the validation loss above its lowest that tells, where the training loss has fallen."""

WINDOW = 6
"""Validations over which losses are called flat."""

FLAT = 0.01
"""Losses that fall by less over :data:`WINDOW` are flat."""

FALLEN = 0.05
"""A training loss that has fallen by less since the first validation never got going."""

FITTED = 0.85
"""From this accuracy on, flat losses mean that the network has learnt, not that it cannot."""

ANNEALED = 0.1
"""Below this share of its highest value the learning rate itself makes losses flat."""

LEARNT = 0.05
"""IoU that a class has to reach once to count as learnt."""

UNEQUAL = 3.0
"""Times that a class is predicted too often, or too seldom, to be named."""

PIXELS = 1000
"""Classes with fewer reference pixels in the validation are not judged by their scores."""

WAITING, BOTTLENECK = 0.02, 0.05
"""Shares of the time spent waiting for data: worth a word, and in the way of all else."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """One thing that somebody should know about a training.

    Attributes:
        kind: ``overfitting``, ``rising_loss``, ``underfitting``, ``never_predicted``,
            ``never_learnt``, ``unequal_areas``, ``waiting`` or ``bottleneck``.
        subjects: The classes that it is about, if it is about classes.
        what: What is wrong, with its figures: a sentence.
        remedy: What to do: a sentence.
    """

    kind: str
    subjects: tuple[str, ...]
    what: str
    remedy: str


class Diagnosis(Follower):
    """A follower that warns of findings when they first appear.

    Args:
        target: JSON file of the findings of the last validation, for the report.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._told: set[tuple[str, str]] = set()
        self._written: list[Finding] | None = None

    def validated(self, validation: Validation) -> None:
        """Look at the curves so far; warn of what is new."""
        found = findings(validation.rows, validation.matrix, validation.classes)
        for finding in found:
            keys = {(finding.kind, subject) for subject in finding.subjects or ("",)}
            if keys - self._told:
                logger.warning("%s %s", finding.what, finding.remedy)
            self._told |= keys
        if found != self._written:
            publish(self._target, found)
            self._written = found


def findings(
    rows: Sequence[Mapping[str, Any]],
    matrix: NDArray[np.int64] | None,
    classes: Sequence[str],
) -> list[Finding]:
    """What stands out at the end of a validation.

    Args:
        rows: Lines of the curves so far; columns that are missing are not judged.
        matrix: Pixels of the last validation, row = reference, column = predicted, shape
            ``(classes, classes)``; None where only the curves are left.
        classes: Names of the classes.

    Returns:
        The findings, the gravest kinds first; nothing of losses and classes before
        :data:`GRACE` validations.
    """
    losses = column(rows, "val_loss")
    validated = [row for row, loss in zip(rows, losses, strict=True) if not math.isnan(loss)]
    found: list[Finding | None] = []
    if len(validated) >= GRACE:
        found += [_gap(validated), _rising(validated), _flat(validated)]
        found += _of_classes(validated, matrix, classes)
    found.append(_waiting(rows))
    return [finding for finding in found if finding]


def course(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How long and how fast a training went, and what it came to, in sentences.

    Args:
        rows: Lines of its curves; what they do not have is not said.
    """
    if not rows:
        return []
    epochs, steps = (column(rows, name) for name in ("epoch", "step"))
    accuracy, score = (column(rows, name) for name in ("val_accuracy", "val_miou"))
    speed, waiting = (column(rows, name) for name in ("tiles_per_second", "waiting"))
    sentences = []
    if not math.isnan(epochs[-1]):
        length = f"{epochs[-1]:.4g} epoch{'' if epochs[-1] == 1 else 's'}"
        length += "" if math.isnan(steps[-1]) else f" ({plural(int(steps[-1]), 'step')})"
        sentences.append(f"Trained for {length}.")
    if not np.isnan(score).all():
        best = int(np.nanargmax(score))
        sentences.append(
            f"The maps are made with the weights of epoch {epochs[best]:.4g}, which did best on "
            f"validation ground: mean IoU {percent(float(score[best]))}, accuracy "
            f"{percent(float(accuracy[best]))}."
        )
    if not np.isnan(speed).all():
        sentence = f"Training took in {np.nanmedian(speed):.3g} tiles a second"
        if not np.isnan(waiting).all():
            sentence += f" and waited for data {percent(float(np.nanmedian(waiting)))} of the time"
        sentences.append(f"{sentence}.")
    return sentences


def silence(rows: Sequence[Mapping[str, Any]]) -> str:
    """What it means that there are no findings."""
    validations = int((~np.isnan(column(rows, "val_loss"))).sum())
    if validations < GRACE:
        return (
            f"After {plural(validations, 'validation')} nothing can be said yet of overfitting, "
            f"flat losses and missing classes: that takes {GRACE}."
        )
    return (
        "Nothing stands out. Looked for: overfitting, a rising validation loss, flat losses, "
        "classes that are never predicted or not learnt, and time spent waiting for data."
    )


def publish(target: Path, found: Sequence[Finding]) -> None:
    """Write findings as JSON.

    Raises:
        OutputError: If the file cannot be written.
    """
    content = [dataclasses.asdict(finding) for finding in found]
    write_text(target, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def from_json(content: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """The findings of a file of :func:`publish`."""
    return [
        Finding(entry["kind"], tuple(entry["subjects"]), entry["what"], entry["remedy"])
        for entry in content
    ]


def _gap(rows: Sequence[Mapping[str, Any]]) -> Finding | None:
    training = _recent(column(rows, "train_accuracy"))
    validation = _recent(column(rows, "val_accuracy"))
    # Rounded, so that 0.9 and 0.75 are not more than 15 points apart.
    if not round(training - validation, 9) > GAP:  # NaN is no gap
        return None
    return Finding(
        "overfitting",
        (),
        f"Overfitting: accuracy is {percent(training)} on training ground and "
        f"{percent(validation)} on validation ground, a gap of "
        f"{100 * (training - validation):.1f} points{_when(rows)}.",
        "Train on more sheets, write `augmentation.preset: aerial`, raise "
        "`training.weight_decay`, or take a smaller network.",
    )


def _rising(rows: Sequence[Mapping[str, Any]]) -> Finding | None:
    training, validation = column(rows, "train_loss"), column(rows, "val_loss")
    known = ~np.isnan(training)
    training, validation = _smooth(training[known]), _smooth(validation[known])
    if len(validation) <= RECENT:
        return None
    lowest = int(validation.argmin())
    # A validation loss that is well above its lowest in values that do not overlap with it.
    apart = len(validation) - 1 - lowest >= RECENT
    risen = validation[-1] - validation[lowest] > RISE * abs(validation[lowest])
    if not (apart and risen and training[-1] < training[lowest]):
        return None
    epoch = column(rows, "epoch")[known][lowest + RECENT // 2]
    return Finding(
        "rising_loss",
        (),
        f"The validation loss rises while the training loss falls: since epoch {epoch:g} from "
        f"{validation[lowest]:.3g} to {validation[-1]:.3g}, in training from "
        f"{training[lowest]:.3g} to {training[-1]:.3g}.",
        "The best weights are kept. Train for shorter or lower `training.patience`, write "
        "`augmentation.preset: aerial`, or train on more sheets.",
    )


def _flat(rows: Sequence[Mapping[str, Any]]) -> Finding | None:
    training, validation = column(rows, "train_loss"), column(rows, "val_loss")
    accuracy = _recent(column(rows, "train_accuracy"))
    where = "training"
    if math.isnan(accuracy):
        accuracy, where = _recent(column(rows, "val_accuracy")), "validation"
    if not accuracy < FITTED:
        return None
    rates = column(rows, "learning_rate")
    last = float(rates[-1])
    annealed = not math.isnan(last) and last < ANNEALED * float(np.nanmax(rates))
    now, first = _recent(training), float(training[0])
    if _fall(first, now) < FALLEN:
        said = f"the training loss was {first:.3g} at the first validation and is {now:.3g} now"
    elif len(rows) >= WINDOW and not annealed and all(map(_is_flat, (training, validation))):
        said = (
            f"over the last {WINDOW} validations the losses fell by less than "
            f"{100 * FLAT:g} per cent (training {now:.3g}, validation {_recent(validation):.3g})"
        )
    else:
        return None
    return Finding(
        "underfitting",
        (),
        f"Flat losses: {said}, at a {where} accuracy of only {percent(accuracy)}.",
        "Try a `training.learning_rate` ten times higher or lower, less augmentation or a larger "
        "network, and look at the labels: they may not fit the orthophotos.",
    )


def _of_classes(
    rows: Sequence[Mapping[str, Any]], matrix: NDArray[np.int64] | None, classes: Sequence[str]
) -> list[Finding]:
    never, unlearnt, unequal = {}, {}, {}
    for number, name in enumerate(classes):
        iou = column(rows, f"val_iou_{name}")
        iou = iou[~np.isnan(iou)]
        reference = predicted = None
        if matrix is not None:
            reference, predicted = int(matrix[number].sum()), int(matrix[:, number].sum())
        if reference and not predicted:
            if not iou[-RECENT:].any():
                never[name] = f"{name} ({count(reference)} reference pixels)"
        elif reference is not None and reference < PIXELS:
            continue
        elif len(iou) >= GRACE and iou.max() < LEARNT:
            unlearnt[name] = f"{name} (IoU {percent(float(iou.max()))} at best)"
        elif (
            reference and predicted and not reference / UNEQUAL <= predicted <= reference * UNEQUAL
        ):
            unequal[name] = f"{predicted / reference:.2g} times as much {name}"
    found = []
    if never:
        found.append(
            Finding(
                "never_predicted",
                tuple(never),
                f"Never predicted on validation ground: {listed(list(never.values()))}.",
                "See that training ground has enough of it; raise `training.oversample`, add "
                "`dice` or `lovasz` to `training.loss`, or merge it with a class that looks alike.",
            )
        )
    if unlearnt:
        found.append(
            Finding(
                "never_learnt",
                tuple(unlearnt),
                f"Not learnt in {len(rows)} validations: {listed(list(unlearnt.values()))}.",
                "Look at the sample pictures for what it is taken for; raise "
                "`training.oversample`, or merge it with that class in the nomenclature.",
            )
        )
    if unequal:
        found.append(
            Finding(
                "unequal_areas",
                tuple(unequal),
                "Predicted areas are far from those of SIOSE on validation ground: "
                f"{listed(list(unequal.values()))}.",
                "Too much: lower `training.oversample`, or write `training.class_weights: none`; "
                "too little: the other way round.",
            )
        )
    return found


def _waiting(rows: Sequence[Mapping[str, Any]]) -> Finding | None:
    # Without the first line: workers start in it, and files are read for the first time.
    waited = column(rows, "waiting")[1:]
    share = _recent(waited)
    if not share > WAITING:
        return None
    grave = share > BOTTLENECK
    return Finding(
        "bottleneck" if grave else "waiting",
        (),
        f"{'Loading is the bottleneck' if grave else 'Loading holds training back'}: "
        f"{percent(share)} of the time is spent waiting for tiles.",
        "Raise `training.workers` while there are cores, set `training.cache_dir` to a disk of "
        "the node, or write shards with `tiling.codec: raw`.",
    )


def _when(rows: Sequence[Mapping[str, Any]]) -> str:
    epoch = float(column(rows, "epoch")[-1])
    return "" if math.isnan(epoch) else f" at epoch {epoch:g}"


def _recent(values: NDArray[np.float64]) -> float:
    """Median of the last values; NaN if one of them is missing."""
    return float(np.median(values[-RECENT:])) if len(values) >= RECENT else math.nan


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running medians, shape ``(n - RECENT + 1,)``."""
    if len(values) < RECENT:
        return values[:0]
    windows = np.lib.stride_tricks.sliding_window_view(values, RECENT)
    medians: NDArray[np.float64] = np.median(windows, axis=1)
    return medians


def _fall(before: float, after: float) -> float:
    """By what share a loss has fallen, negative if it has risen."""
    return (before - after) / abs(before) if before else 0.0


def _is_flat(losses: NDArray[np.float64]) -> bool:
    half = WINDOW // 2
    before, after = np.median(losses[-WINDOW:-half]), np.median(losses[-half:])
    return _fall(float(before), float(after)) < FLAT
