"""The networks by name: one registry, one call, one contract for all of them.

A network is a module that takes ``(N, bands, H, W)`` and gives logits ``(N, classes, H, W)``, for
any H and W. Importing this package loads neither torch nor segmentation-models-pytorch (7 to 10 s
and 850 MB): a network's modules are imported when one of it is built.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import SettingsError, TrainingError
from pipeline.networks.precision import autocast, resolve_precision

if TYPE_CHECKING:
    import torch

__all__ = ["NETWORKS", "NO_WEIGHTS", "autocast", "build", "encoder_of", "resolve_precision"]

MOST_BANDS = 8
NO_WEIGHTS = "none"
"""Value of ``training.encoder_weights`` for an encoder that starts from random numbers."""

Builder = Callable[[str, str, int, int], "torch.nn.Module"]
"""Encoder, its weights, bands, classes -> network."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry.

    Attributes:
        build: Makes the network; imports what it needs.
        encoder: The encoder that is part of the network; empty where any may be chosen.
    """

    build: Builder
    encoder: str = ""


def _segnet(encoder: str, encoder_weights: str, bands: int, classes: int) -> torch.nn.Module:
    from pipeline.networks.segnet import SegNet
    from pipeline.networks.weights import load_vgg16_weights

    network = SegNet(bands, classes)
    if encoder_weights != NO_WEIGHTS:
        load_vgg16_weights(network.encoder, encoder_weights)
    return network


def _smp(architecture: str) -> Architecture:
    def build_smp(encoder: str, encoder_weights: str, bands: int, classes: int) -> torch.nn.Module:
        from pipeline.networks.segmentation_models import build_architecture

        return build_architecture(architecture, encoder, encoder_weights, bands, classes)

    return Architecture(build_smp)


# Of segmentation-models-pytorch, PSPNet is missing because two thirds of its encoder get no
# gradient, PAN because it fails below 128 px, DPT because it takes few encoders and one size.
NETWORKS: dict[str, Architecture] = {
    "segnet": Architecture(_segnet, encoder="vgg16_bn"),
    "unet": _smp("Unet"),
    "unetplusplus": _smp("UnetPlusPlus"),
    "manet": _smp("MAnet"),
    "linknet": _smp("Linknet"),
    "fpn": _smp("FPN"),
    "deeplabv3": _smp("DeepLabV3"),
    "deeplabv3plus": _smp("DeepLabV3Plus"),
    "upernet": _smp("UPerNet"),
    "segformer": _smp("Segformer"),
}


def build(
    network: str, *, encoder: str, encoder_weights: str, bands: int, classes: int
) -> torch.nn.Module:
    """Build a network.

    Args:
        network: A key of :data:`NETWORKS`.
        encoder: Encoder of segmentation-models-pytorch, or ``tu-`` and a timm model; not used by
            networks that bring their own (see :func:`encoder_of`).
        encoder_weights: ``none``; ``imagenet``, from the local cache only; or a file
            (.safetensors, .pth, .pt) with the state dict of the encoder or of a whole network.
        bands: Bands of the orthophotos, 1 to 8.
        classes: Number of classes.

    Returns:
        A float32 network on the CPU, in training mode: ``(N, bands, H, W)`` to logits
        ``(N, classes, H, W)``.

    Raises:
        SettingsError: If there is no such network or encoder, or they do not fit together.
        TrainingError: If the number of bands is out of range, or the weights are not on this
            machine or of another encoder.
    """
    architecture = _architecture(network)
    if not 1 <= bands <= MOST_BANDS:
        raise TrainingError(
            f"Networks take orthophotos of 1 to {MOST_BANDS} bands; these have {bands}.",
            remedy="Make orthophotos that hold only the bands to learn from (gdal_translate -b).",
        )
    if classes < 2:
        raise TrainingError(
            f"A network needs two classes at least to tell apart; there are {classes}."
        )
    used = architecture.encoder or encoder
    if used != encoder:
        logger.info(
            "%s brings its own encoder, %s; training.encoder (%s) is for other networks",
            network, used, encoder,
        )  # fmt: skip
    return architecture.build(used, encoder_weights, bands, classes)


def encoder_of(network: str, encoder: str) -> str:
    """The encoder that a network of these settings has: its own, or the one that was chosen.

    Raises:
        SettingsError: If there is no such network.
    """
    return _architecture(network).encoder or encoder


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or nothing where no known word is near."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _architecture(network: str) -> Architecture:
    if network not in NETWORKS:
        raise SettingsError(
            f"training.network: there is no network {network!r}{did_you_mean(network, NETWORKS)}",
            remedy=f"Networks: {', '.join(NETWORKS)}.",
        )
    return NETWORKS[network]
