"""The network as training sees it: with its normalisation before, and as a moving average."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

MOST_AVERAGING = 0.998
"""Decay of the averaged weights: they look back 500 steps at most."""


class NormalisedNetwork(nn.Module):
    """A network that takes stored values.

    Args:
        network: Logits ``(N, classes, H, W)`` for normalised images ``(N, bands, H, W)``.
        mean: Mean of each band, of 0..255 values.
        std: Standard deviation of each band.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def normalised(self, images: Tensor) -> Tensor:
        """Images as the network wants them.

        Args:
            images: uint8, shape ``(N, bands, H, W)``.
        """
        values: Tensor = (images.float() - self.mean) / self.std
        return values.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, classes, H, W)`` of uint8 images ``(N, bands, H, W)``."""
        return cast(Tensor, self.network(self.normalised(images)))


class AveragedNetwork:
    """Exponential moving average of a network's weights, which is what is validated and saved.

    It looks back over a tenth of the steps so far, so that it forgets the beginning of a short run
    as well as of a long one.

    Args:
        network: The network that is trained.
        most: Largest decay; 0 follows the network without averaging.

    Source:
        Polyak & Juditsky (1992); the growing decay as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, most: float = MOST_AVERAGING) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.most = most
        self._followed = network
        self._floats: tuple[list[Tensor], list[Tensor]] | None = None
        self._counts: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the network's weights after ``step`` steps."""
        share = 1.0 - min(self.most, (1 + step) / (10 + step))
        if self._floats is None:
            self._floats = self._paired()  # not before: both have moved to their device now
        # All in one: a GPU would wait for hundreds of small kernels.
        torch._foreach_lerp_(*self._floats, share)
        for averaged, new in self._counts:
            averaged.copy_(new)

    def _paired(self) -> tuple[list[Tensor], list[Tensor]]:
        floats: tuple[list[Tensor], list[Tensor]] = ([], [])
        new = self._followed.state_dict()
        for name, averaged in self.network.state_dict().items():
            if averaged.is_floating_point():
                floats[0].append(averaged)
                floats[1].append(new[name])
            else:
                self._counts.append((averaged, new[name]))
        return floats
