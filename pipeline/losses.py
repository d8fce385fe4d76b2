"""Losses: weighted sums of losses of pixels and of regions, for labels with ignored pixels.

Losses of pixels (cross-entropy, focal) are sums that add up over batches and processes. Losses of
regions (dice, jaccard, tversky, lovasz) measure overlaps in a batch as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.nomenclature import IGNORE
from pipeline.setting_types import LOSSES

PIXEL_LOSSES = ("cross_entropy", "focal")
"""Losses that are sums over pixels; the others of :data:`LOSSES` are of regions."""


class LossTerms(NamedTuple):
    """Both kinds of loss of one batch, scalars, float32.

    Attributes:
        pixels: Sum over the labelled pixels; over the summed :meth:`Loss.weight` it is a mean.
        regions: Mean over the classes that occur in the batch.
    """

    pixels: Tensor
    regions: Tensor


class Loss(nn.Module):
    """A weighted sum of losses.

    Cross-entropy and focal loss take class weights, and only cross-entropy label smoothing: the
    others do not compare distributions. The overlaps of the losses of regions are means over
    classes, in which rare ones count as much as the others.

    Args:
        parts: Losses of :data:`LOSSES` and their weights in the sum.
        class_weights: Weight of each class.
        label_smoothing: Share of each label that is spread over all classes, 0 to below 1.
        focal_gamma: Exponent of the focal loss, 0 or more.

    Raises:
        ValueError: If there is no part, or there is no such loss.
    """

    _class_weights: Tensor
    _by_label: Tensor

    def __init__(
        self,
        parts: Mapping[str, float],
        class_weights: Sequence[float],
        *,
        label_smoothing: float = 0.0,
        focal_gamma: float = 2.0,
    ) -> None:
        super().__init__()
        unknown = parts.keys() - set(LOSSES)
        if unknown or not parts:
            raise ValueError(f"losses {sorted(parts)}: one or more of {', '.join(LOSSES)}")
        self._parts = dict(parts)
        self._smoothing, self._gamma = label_smoothing, focal_gamma
        # Made anew from settings and shards each time: no part of a checkpoint.
        self.register_buffer(
            "_class_weights", torch.tensor(class_weights, dtype=torch.float32), persistent=False
        )
        by_label = torch.zeros(IGNORE + 1)
        by_label[: len(class_weights)] = self._class_weights
        self.register_buffer("_by_label", by_label, persistent=False)
        self._overlaps = {name: _overlap(name) for name in parts if name not in PIXEL_LOSSES}

    def weight(self, labels: Tensor) -> Tensor:
        """Sum of the class weights of the labelled pixels, which normalises ``pixels``.

        Args:
            labels: Class ids, shape ``(N, H, W)``; 255 is ignored.

        Returns:
            Scalar, float32; 0 where nothing is labelled.
        """
        return self._by_label[labels.long()].sum()

    def forward(self, logits: Tensor, labels: Tensor) -> LossTerms:
        """Both terms of one batch, computed in float32 whatever the logits are.

        Args:
            logits: Floats of any kind, shape ``(N, classes, H, W)``.
            labels: Class ids, uint8, shape ``(N, H, W)``; 255 is ignored.

        Returns:
            Where nothing is labelled both are exactly 0, and so are their gradients.
        """
        values = logits.float()
        return LossTerms(self._pixels(values, labels), self._regions(values, labels))

    def _pixels(self, logits: Tensor, labels: Tensor) -> Tensor:
        total = logits.new_zeros(())
        ids = labels.long()
        # Pixel by pixel and then the sum: CUDA's sum of nll_loss2d depends on chance.
        if share := self._parts.get("cross_entropy"):
            each = F.cross_entropy(
                logits,
                ids,
                self._class_weights,
                ignore_index=IGNORE,
                reduction="none",
                label_smoothing=self._smoothing,
            )
            total = total + share * each.sum()
        if share := self._parts.get("focal"):
            each = self._by_label[ids] * _focal(logits, ids, self._gamma)
            total = total + share * each.sum()
        return total

    def _regions(self, logits: Tensor, labels: Tensor) -> Tensor:
        total = logits.new_zeros(())
        if not self._overlaps:
            return total
        classes = logits.shape[1]
        present = torch.stack([(labels == c).any() for c in range(classes)]).sum()
        for name, overlap in self._overlaps.items():
            if name == "lovasz":
                # Where nothing is labelled, smp gives an empty tensor instead of a number.
                value = overlap(logits, labels) if present else logits[:0].sum()
            else:
                # smp counts classes that are not in the batch as a perfect overlap: a batch of
                # one class, all of it wrong, would have the loss 1 / classes.
                value = overlap(logits, labels) * classes / present.clamp_min(1)
            total = total + self._parts[name] * value
        return total


def _focal(logits: Tensor, ids: Tensor, gamma: float) -> Tensor:
    """Focal loss of each pixel, 0 where it is ignored.

    Source:
        Lin et al. (2017), equation 4.
    """
    surprise = F.cross_entropy(logits, ids, ignore_index=IGNORE, reduction="none")
    # expm1, as 1 - p would lose small differences; the least number, as the slope of a power
    # below 1 is infinite at 0, and times 0 no number.
    missed = (-torch.expm1(-surprise)).clamp_min(torch.finfo(surprise.dtype).tiny)
    return missed**gamma * surprise


def _overlap(name: str) -> nn.Module:
    """One of segmentation-models-pytorch's losses."""
    # Inside, as it takes seconds to import.
    from segmentation_models_pytorch import losses

    made = {
        "dice": lambda: losses.DiceLoss("multiclass", ignore_index=IGNORE),
        "jaccard": lambda: losses.JaccardLoss("multiclass", ignore_index=IGNORE),
        # Salehi, Erdogmus & Gholipour (2017): misses weigh more; with 0.5 each it would be dice.
        "tversky": lambda: losses.TverskyLoss(
            "multiclass", ignore_index=IGNORE, alpha=0.3, beta=0.7
        ),
        "lovasz": lambda: losses.LovaszLoss("multiclass", ignore_index=IGNORE),
    }
    module: nn.Module = made[name]()
    return module
