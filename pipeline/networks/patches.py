"""Convolutions of patches, which processors with AMX get wrong in bf16."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_DEEP = 32
_UNIT = 32


class PatchConvolution(nn.Conv2d):
    """A convolution that the processor computes in float32, whatever the precision around it."""

    def forward(self, images: Tensor) -> Tensor:
        """Features as of any convolution; GPUs compute them in the precision around."""
        if images.device.type != "cpu":
            return super().forward(images)
        with torch.autocast("cpu", enabled=False):
            return super().forward(images.float())


def keep_exact(network: nn.Module) -> None:
    """Let convolutions of patches be computed in float32 where bf16 gives rubbish.

    The AMX kernel of the oneDNN in torch 2.14 folds a patch's columns into the channels where
    stride and kernel are equal, and then reads past them if there are 64, 96, 128... of them: all
    values are wrong, without a warning, by their own size. A vision transformer's first layer is
    such a convolution for 2, 4, 6 or 8 bands; for 3 it is none.

    Args:
        network: Changed in place; parameters and their names stay.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and _is_misread(child):
                setattr(parent, name, _exact(child))


def _is_misread(layer: nn.Conv2d) -> bool:
    folded = layer.in_channels * layer.kernel_size[1]
    return (
        layer.kernel_size == layer.stride
        and layer.in_channels < _DEEP
        and folded >= 2 * _UNIT
        and folded % _UNIT == 0
    )


def _exact(layer: nn.Conv2d) -> PatchConvolution:
    assert not isinstance(layer.padding, str)
    with torch.device("meta"):
        exact = PatchConvolution(
            layer.in_channels, layer.out_channels, (layer.kernel_size[0], layer.kernel_size[1]),
            stride=(layer.stride[0], layer.stride[1]), bias=layer.bias is not None,
            padding=(layer.padding[0], layer.padding[1]), groups=layer.groups,
        )  # fmt: skip
    exact.weight = layer.weight
    exact.bias = layer.bias
    return exact.train(layer.training)
