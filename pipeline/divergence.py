"""Divergence: a loss that is no finite number, and the tiles that it comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import lightning
import torch
import torch.distributed
from torch import nn

from pipeline.batches import Batch
from pipeline.draws import Draw
from pipeline.errors import TrainingError
from pipeline.losses import Loss


@torch.no_grad()
def tiles(
    fabric: lightning.Fabric,
    network: nn.Module,
    loss: Loss,
    batches: Sequence[Batch],
    drawn: Sequence[Sequence[Draw]],
) -> list[int]:
    """Tiles of a step whose loss, each alone, is no finite number.

    Args:
        fabric: Computes.
        network: Takes stored values; as it was in the step.
        loss: What training minimises.
        batches: Batches of the step.
        drawn: Their draws.

    Returns:
        Indexes among the tiles of the training split.
    """
    training = network.training
    network.eval()  # a single tile says nothing about a batch's statistics
    found = []
    for (images, labels), draws in zip(batches, drawn, strict=True):
        for number, draw in enumerate(draws):
            with fabric.autocast():
                logits = network(images[number : number + 1])
            terms = loss(logits.float(), labels[number : number + 1])
            if not math.isfinite(float(terms.pixels + terms.regions)):
                found.append(draw.tile)
    network.train(training)
    return found


def of_all(fabric: lightning.Fabric, names: list[str]) -> list[str]:
    """Names that any process has found."""
    if fabric.world_size == 1:
        return names
    gathered: list[list[str]] = [[] for _ in range(fabric.world_size)]
    torch.distributed.all_gather_object(gathered, names)
    return [name for some in gathered for name in some]


def error(what: str, kept: str, names: Sequence[str], tiles: int) -> TrainingError:
    """What people read.

    Args:
        what: What has happened.
        kept: Where the best weights are; empty where there are none.
        names: Tiles whose loss is no number.
        tiles: Number of tiles in the step, over all processes; 0 in a validation.
    """
    items = [kept or "There are no weights yet."]
    if 0 < len(names) < tiles:
        items += [f"The loss of this tile is no number: {name}" for name in names]
    elif names:
        items.append("The loss of every tile is no number: the weights are at fault.")
    return TrainingError(
        f"Training diverged: {what}.",
        items,
        "Lower `training.learning_rate`, set `training.gradient_clip: 1`, or write "
        "`training.precision: float32`.",
    )
