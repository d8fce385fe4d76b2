"""What a network costs: parameters and multiply-adds, counted on tensors without contents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import SettingsError
from pipeline.networks import NETWORKS, NO_WEIGHTS, build, encoder_of

SIDE = 512
"""Pixels along each side of the image that multiply-adds are told for."""


@dataclass(frozen=True)
class Complexity:
    """What one network costs.

    Attributes:
        network: Key of the registry.
        encoder: Its encoder.
        parameters: Of the whole network.
        encoder_parameters: Of its encoder.
        multiply_adds: Of one image of 512 x 512 pixels.
    """

    network: str
    encoder: str
    parameters: int
    encoder_parameters: int
    multiply_adds: int


def complexity(network: str, *, encoder: str, bands: int, classes: int) -> Complexity:
    """Count what a network of the registry costs.

    Args:
        network: Key of the registry.
        encoder: As in :func:`pipeline.networks.build`.
        bands: Bands of the images.
        classes: Number of classes.

    Raises:
        SettingsError: If there is no such network or encoder, or they do not fit together.
    """
    used = encoder_of(network, encoder)
    module = build(network, encoder=used, encoder_weights=NO_WEIGHTS, bands=bands, classes=classes)
    inner = module.encoder
    assert isinstance(inner, nn.Module)
    return Complexity(
        network=network,
        encoder=used,
        parameters=parameters_of(module),
        encoder_parameters=parameters_of(inner),
        multiply_adds=multiply_adds_of(module, bands, SIDE, SIDE),
    )


def registry(encoder: str, bands: int, classes: int) -> Iterator[Complexity]:
    """What each network of the registry costs.

    Args:
        encoder: Encoder of all networks that it can serve; others get the one suggested for them.
        bands: Bands of the images.
        classes: Number of classes.

    Raises:
        SettingsError: If there is no such encoder.
    """
    from pipeline.networks.segmentation_models import check_encoder

    check_encoder(encoder)
    for name, architecture in NETWORKS.items():
        try:
            yield complexity(name, encoder=encoder, bands=bands, classes=classes)
        except SettingsError:
            yield complexity(name, encoder=architecture.suggested, bands=bands, classes=classes)


def parameters_of(module: nn.Module) -> int:
    """Number of parameters; running means and variances are none."""
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds_of(network: nn.Module, bands: int, height: int, width: int) -> int:
    """Multiply-adds of convolutions, matrix products and attention for one image.

    Normalisations, activations, poolings and interpolations are not counted.

    Args:
        network: Loses its weights: it is moved to torch's device without contents.
        bands: Bands of the image.
        height: Rows of the image.
        width: Its columns.
    """
    # Attention is there made of matrix products, which the counter knows; the processor's own
    # kernel for it, it does not.
    network.to("meta").eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, bands, height, width, device="meta"))
    return int(counter.get_total_flops()) // 2  # a multiply-add is two operations


def table(rows: Iterable[Complexity], bands: int, classes: int) -> Table:
    """The costs of networks for the terminal."""
    shown = Table(
        title=f"Networks for {bands} band{'s' * (bands > 1)} and {classes} classes",
        title_justify="left",
        caption=f"Parameters in M; multiply-adds of one image of {SIDE} x {SIDE} px in G.",
        caption_justify="left",
    )
    shown.add_column("network", no_wrap=True)
    shown.add_column("published by")
    shown.add_column("encoder", overflow="fold")
    for heading in ("parameters", "encoder's", "mult.-adds"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(
            row.network, NETWORKS[row.network].paper, row.encoder,
            f"{row.parameters / 1e6:.2f}", f"{row.encoder_parameters / 1e6:.2f}",
            f"{row.multiply_adds / 1e9:.2f}",
        )  # fmt: skip
    return shown
