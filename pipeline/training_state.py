"""TrainingState: where a training stands, and ``last.ckpt``, which it goes on from."""

from __future__ import annotations

import dataclasses
import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.publication import published

LAYOUT = 2
"""Version of ``last.ckpt``; raised when its keys change their meaning."""

logger = logging.getLogger(__name__)


@dataclass
class Tally:
    """What the steps since the last validation sum up to, over all processes.

    Attributes:
        loss: Sum of the steps' losses.
        steps: Number of them.
        correct: Labelled pixels whose class was found.
        labelled: Labelled pixels.
    """

    loss: float = 0.0
    steps: int = 0
    correct: int = 0
    labelled: int = 0


@dataclass
class TrainingState:
    """Where a training stands between two steps; with the weights, all of ``last.ckpt``.

    Random numbers are no part of it: each step's are drawn from the seed and the step's number,
    each tile's from the seed, its epoch and its place.

    Attributes:
        epoch: Epochs done.
        position: Steps done of the epoch that is begun.
        world: Processes that share the epoch's steps.
        step: Steps done.
        elapsed: Seconds trained, all starts together.
        waited: Validations since the best one.
        tally: Of the steps since the last validation.
        rows: Lines of the curves.
        best: Scores of the best validation, or nothing yet.
        stopped_because: Which limit ended the training; empty while it goes on.
        rate: Learning rate of the last step.
        unvalidated: Pace of the steps whose validation was begun and is to begin again; empty
            where there are none.
    """

    epoch: int = 0
    position: int = 0
    world: int = 1
    step: int = 0
    elapsed: float = 0.0
    waited: int = 0
    tally: Tally = field(default_factory=Tally)
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    stopped_because: str = ""
    rate: float = 0.0
    unvalidated: dict[str, Any] = field(default_factory=dict)


@dataclass
class Checkpoint:
    """Content of ``last.ckpt``.

    Attributes:
        fingerprint: What decides the result, as text.
        state: Where the training stands.
        network: Weights.
        average: Averaged weights.
        optimizer: State of the optimiser.
        precision: State of the precision: the loss scale of fp16, else nothing.
        best_weights: Averaged weights of the best validation.
    """

    fingerprint: str
    state: TrainingState
    network: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    precision: Mapping[str, Any]
    best_weights: Mapping[str, Tensor]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Publish a checkpoint; an older one is replaced in one step.

    Raises:
        OutputError: If it cannot be written; an older one stays as it was.
    """
    content = {f.name: getattr(checkpoint, f.name) for f in dataclasses.fields(checkpoint)}
    content |= {"layout": LAYOUT, "state": dataclasses.asdict(checkpoint.state)}
    with published(path) as (draft,):
        torch.save(content, draft)


def load(path: Path, fingerprint: str, weights: Mapping[str, Tensor]) -> Checkpoint | None:
    """Read a checkpoint, if it is one to go on from; say so where it is not.

    Args:
        path: The file; there may be none.
        fingerprint: What decides the result of the training that asks.
        weights: Its network's weights, whose names and shapes must be the checkpoint's.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        same = (content.pop("layout"), content["fingerprint"]) == (LAYOUT, fingerprint)
        if same and _shapes(content["network"]) == _shapes(weights):
            state = dict(content.pop("state"))
            state["tally"] = Tally(**state["tally"])
            return Checkpoint(state=TrainingState(**state), **content)
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError,
            AttributeError, pickle.UnpicklingError) as error:  # fmt: skip
        logger.warning("%s cannot be read (%s); training starts afresh", path, error)
        return None
    logger.warning("%s is of other settings, data or network; training starts afresh", path)
    return None


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}
