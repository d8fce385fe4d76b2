"""Input of any size for networks that halve it several times."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


def padded(images: Tensor, stride: int, least: int = 0) -> Tensor:
    """Enlarge images at the right and the lower edge to whole multiples of the stride.

    The ground is mirrored there; where an image is too narrow to mirror, its last pixel repeats.

    Args:
        images: Shape ``(N, bands, H, W)``.
        stride: What height and width shall be multiples of.
        least: What height and width shall be at least; a multiple of the stride.
    """
    height, width = images.shape[-2:]
    down = max(-height % stride, least - height)
    right = max(-width % stride, least - width)
    if not down and not right:
        return images
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(images, (0, right, 0, down), mode=mode)


class AnySize(nn.Module):
    """A network that wants multiples of its stride, made to take any height and width.

    Pads at the right and the lower edge (:func:`padded`) and crops the logits back.

    Args:
        network: Takes and gives ``(N, _, H, W)``.
        stride: What it wants H and W to be multiples of.
        least: How many pixels it wants at least; a multiple of the stride.
    """

    def __init__(self, network: nn.Module, stride: int, least: int = 0) -> None:
        super().__init__()
        self.network = network
        self.stride = stride
        self.least = least

    @property
    def encoder(self) -> nn.Module:
        """The network's encoder, for learning rates and weights of its own."""
        return cast(nn.Module, self.network.encoder)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, classes, H, W)`` of images ``(N, bands, H, W)``."""
        height, width = images.shape[-2:]
        logits: Tensor = self.network(padded(images, self.stride, self.least))
        return logits[..., :height, :width]
