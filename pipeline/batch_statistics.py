"""Batch normalisation: over all processes, and without the beginning in the running statistics."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

MOMENTUM = 0.1
"""Least share of a step in the running statistics; torch's default."""


class _Sum(torch.autograd.Function):
    """Sum over all processes; its gradient is summed over all processes as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ANN401
        summed = values.clone()
        torch.distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        summed = gradients[0].clone()
        torch.distributed.all_reduce(summed)
        return summed


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes, on any device.

    torch's own works on GPUs only. Sums are of float64, so that two processes with half a batch
    each give what one gives with the whole.

    Args:
        layer: Takes its place, with its parameters and statistics; a dropout and an activation
            that are part of it (timm's layers) come along.

    Source:
        Zhang et al. (2018), Context Encoding for Semantic Segmentation.
    """

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        super().__init__(
            layer.num_features,
            layer.eps,
            layer.momentum,
            layer.affine,
            layer.track_running_stats,
        )
        self.weight, self.bias = layer.weight, layer.bias
        for name, buffer in layer.named_buffers(recurse=False):
            setattr(self, name, buffer)
        self.train(layer.training)
        after = [getattr(layer, name, None) for name in ("drop", "act")]
        self._after = [part for part in after if isinstance(part, nn.Module)]
        for name in ("drop", "act"):
            if isinstance(part := getattr(layer, name, None), nn.Module):
                setattr(self, name, part)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise ``(N, features, H, W)``."""
        output = self._synced(input) if self.training else super().forward(input)
        for part in self._after:
            output = part(output)
        return output

    def _synced(self, images: Tensor) -> Tensor:
        values = images.double()
        pixels = torch.full((1,), values.numel() // values.shape[1], dtype=torch.float64)
        own = [values.sum((0, 2, 3)), (values * values).sum((0, 2, 3)), pixels.to(values.device)]
        summed = cast(Tensor, _Sum.apply(torch.cat(own)))
        count = summed[-1]
        mean, square = (summed[:-1] / count).chunk(2)
        variance = (square - mean * mean).clamp_min(0.0)
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            share = self.momentum
            if share is None:
                share = 1.0 / int(self.num_batches_tracked)
            unbiased = variance * count / (count - 1).clamp_min(1.0)
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale + (self.bias if self.affine else 0.0)
        normalised = values * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
        return normalised.to(images.dtype)


def synced(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch normalisation over all processes; the names of weights stay.

    Args:
        network: Is changed.
        device: Where it will run: GPUs have kernels of torch's own for it.
    """
    if device.type == "cuda":
        import timm.layers

        convert: Any = getattr(timm.layers, "convert_sync_batchnorm")  # noqa: B009 - untyped
        return cast(nn.Module, convert(network))
    return _replaced(network)


def _replaced(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.BatchNorm2d):
        return SyncedBatchNorm(layer)
    for name, child in layer.named_children():
        setattr(layer, name, _replaced(child))
    return layer


class RunningStatistics:
    """Lets running means and variances follow the images from the first step on.

    The first steps count alike: with its usual momentum a layer still holds a third of its made-up
    first statistics (mean 0, variance 1) after ten steps, and scores of the first validation are
    wild. Momenta below :data:`MOMENTUM`, of networks that were made for millions of steps, are
    raised to it: they would lag behind the averaged weights.

    Args:
        network: Whose layers.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = [
            (layer, max(layer.momentum, MOMENTUM))
            for layer in network.modules()
            if isinstance(layer, _BatchNorm) and layer.momentum is not None
        ]

    def before(self, step: int) -> None:
        """Set the layers' momentum for a step (from 0); it depends on nothing else."""
        for layer, momentum in self._layers:
            layer.momentum = max(momentum, 1.0 / (step + 1))
