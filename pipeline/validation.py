"""Validation: scores of the weights on the validation split, and a few of its tiles to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.batches import TileDataset, TileLoader
from pipeline.draws import Draw
from pipeline.following import Samples
from pipeline.losses import Loss
from pipeline.nomenclature import IGNORE

Logits = Callable[[Tensor], Tensor]
"""Logits ``(N, classes, H, W)`` of stored values, uint8 ``(N, bands, H, W)``."""


def _nothing() -> None:
    return


@torch.no_grad()
def score(
    fabric: lightning.Fabric,
    logits_of: Logits,
    loss: Loss,
    batches: TileLoader,
    classes: int,
    between: Callable[[], None] = _nothing,
) -> tuple[float, NDArray[np.int64]]:
    """Loss and confusion matrix on the validation split.

    Args:
        fabric: Its processes share the split.
        logits_of: The network, in evaluation mode.
        loss: What training minimises.
        batches: This process's tiles.
        classes: Number of classes.
        between: Is called between two batches, by all processes as often; what it raises ends the
            validation there.

    Returns:
        Over all processes: the loss, as one batch of all tiles would have it (the mean over
        batches for losses of regions), and the matrix, row = reference, column = predicted.
    """
    # Not torchmetrics: under deterministic algorithms it compares each pixel with each cell, which
    # takes gigabytes. Whole numbers add up to the same in any order.
    counts = torch.zeros(classes * classes, dtype=torch.int64, device=fabric.device)
    sums = torch.zeros(4, dtype=torch.float64, device=fabric.device)
    # As many as every process has: one of them may have one batch more.
    most = math.ceil(batches.draws.tiles // fabric.world_size / batches.draws.batch_size)
    for number, (images, labels) in enumerate(map(fabric.to_device, batches)):
        if 0 < number < most:
            between()
        with fabric.autocast():
            logits = logits_of(images)
        logits = logits.float()
        known = labels != IGNORE
        cells = labels[known].long() * classes + logits.argmax(1)[known]
        counts += torch.bincount(cells, minlength=classes * classes)
        terms, tiles = loss(logits, labels), len(images)
        sums += torch.tensor(
            [float(terms.pixels), float(loss.weight(labels)), float(terms.regions) * tiles, tiles],
            dtype=torch.float64,
            device=fabric.device,
        )
    pixels, weight, regions, tiles = fabric.all_reduce(sums, reduce_op="sum").tolist()
    counts = fabric.all_reduce(counts, reduce_op="sum")
    return pixels / weight + regions / tiles, counts.view(classes, classes).cpu().numpy()


def scores(loss: float, matrix: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Scores by name; None for a class that the validation split does not have.

    Returns:
        ``loss``, ``overall_accuracy``, ``mean_iou`` over the classes that are there, and ``iou``
        by class.
    """
    correct = matrix.diagonal()
    reference = matrix.sum(1)
    union = reference + matrix.sum(0) - correct
    iou = np.where(reference > 0, correct / np.maximum(union, 1), math.nan)
    return {
        "loss": loss,
        "overall_accuracy": float(correct.sum() / matrix.sum()),
        "mean_iou": float(np.nanmean(iou)),
        "iou": {
            name: None if math.isnan(value) else value
            for name, value in zip(classes, iou.tolist(), strict=True)
        },
    }


class SampleTiles:
    """Some validation tiles, the same each time, spread over the split.

    Args:
        tiles: The validation split.
        count: How many.
        name_of: Names the place of a tile by its sheet and its position in the shard.
    """

    def __init__(self, tiles: TileDataset, count: int, name_of: Callable[[str, int], str]) -> None:
        spread = np.linspace(0, len(tiles) - 1, min(count, len(tiles))).round().astype(int)
        chosen = sorted(set(spread.tolist()))
        self.names = [name_of(*tiles.place(tile)) for tile in chosen]
        self.images, self.labels = tiles.__getitems__([Draw(0, tile) for tile in chosen])

    @torch.no_grad()
    def predicted(self, fabric: lightning.Fabric, logits_of: Logits) -> Samples:
        """What the network makes of them now."""
        found: list[tuple[Tensor, Tensor]] = []
        for image in self.images:  # one by one: memory for a batch of them may not be left
            with fabric.autocast():
                logits = logits_of(fabric.to_device(image[None]))
            confidence, predicted = logits.float().softmax(1)[0].max(0)
            found.append((predicted.byte().cpu(), (confidence * 100).round().byte().cpu()))
        predictions, confidences = (torch.stack(part).numpy() for part in zip(*found, strict=True))
        return Samples(
            self.names, self.images.numpy(), self.labels.numpy(), predictions, confidences
        )
