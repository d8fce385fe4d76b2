"""What training minimises and how: the task (loss, optimiser), learning rate, averaged weights."""

from __future__ import annotations

import copy
import math

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.batches import Batch
from pipeline.nomenclature import IGNORE

WARM_UP = 0.05
"""Share of the training in which the learning rate rises."""

MOST_AVERAGING = 0.998
"""Decay of the averaged weights: they look back 500 steps at most."""


class SegmentationTask(lightning.LightningModule):  # type: ignore[misc]  # lightning has no types
    """A network, the loss it is trained with, and its optimiser.

    Args:
        network: Logits ``(N, classes, H, W)`` for normalised images ``(N, bands, H, W)``.
        mean: Mean of each band, of 0..255 values.
        std: Standard deviation of each band.
        class_weights: Weight of each class in the loss.
        learning_rate: Highest learning rate.
        weight_decay: Of the weights of convolutions and linear layers; biases and the scales of
            normalisation layers have none.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        class_weights: tuple[float, ...],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.register_buffer("class_weights", torch.tensor(class_weights))

    def normalised(self, images: Tensor) -> Tensor:
        """Images as the network wants them.

        Args:
            images: uint8, shape ``(N, bands, H, W)``.
        """
        values: Tensor = (images.float() - self.mean) / self.std
        return values.contiguous(memory_format=torch.channels_last)

    def training_step(self, batch: Batch, batch_idx: int = 0) -> Tensor:
        """Loss of one batch; 0 where nothing in it is labelled."""
        images, labels = batch
        logits = self.network(self.normalised(images))
        loss, weight = loss_sums(logits, labels, self.class_weights)
        return loss / weight.clamp_min(torch.finfo(weight.dtype).tiny)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW (Loshchilov & Hutter 2019)."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)


def loss_sums(logits: Tensor, labels: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy as two sums, that add up over batches.

    Args:
        logits: Shape ``(N, classes, H, W)``.
        labels: Class ids, uint8, shape ``(N, H, W)``; 255 is ignored.
        class_weights: Shape ``(classes,)``.

    Returns:
        Sum over the labelled pixels of weight times cross-entropy, and sum of their weights; both
        0 where nothing is labelled. Their quotient is the weighted mean.
    """
    loss = F.cross_entropy(
        logits.float(), labels.long(), class_weights, ignore_index=IGNORE, reduction="sum"
    )
    pixels = torch.bincount(labels.flatten(), minlength=IGNORE + 1)[: len(class_weights)]
    return loss, (pixels * class_weights).sum()


def learning_rate_factor(progress: float) -> float:
    """Share of the highest learning rate: a short rise, then half a cosine down to 0.

    Args:
        progress: Share of the training that is done, 0 to 1.

    Source:
        Loshchilov & Hutter (2017), without restarts.
    """
    warm = min(1.0, 0.01 + progress / WARM_UP)
    return warm * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


class AveragedNetwork:
    """Exponential moving average of a network's weights, which is what is validated and saved.

    It looks back over a tenth of the steps so far, so that it forgets the beginning of a short run
    as well as of a long one.

    Args:
        network: The network that is trained.

    Source:
        Polyak & Juditsky (1992); the growing decay as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after ``step`` steps."""
        share = 1.0 - min(MOST_AVERAGING, (1 + step) / (10 + step))
        new = network.state_dict()
        for name, averaged in self.network.state_dict().items():
            if averaged.is_floating_point():
                averaged.lerp_(new[name], share)
            else:
                averaged.copy_(new[name])
