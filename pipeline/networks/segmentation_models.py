"""The architectures of segmentation-models-pytorch, behind the registry's call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm

from pipeline.errors import SettingsError
from pipeline.networks import NO_WEIGHTS, did_you_mean
from pipeline.networks.padding import AnySize, works_on
from pipeline.networks.weights import (
    IMAGENET,
    cached_weights,
    load_encoder_weights,
    read_weights,
)

TIMM = "tu-"
"""Prefix of an encoder that timm provides."""


def build_architecture(
    architecture: str, encoder: str, encoder_weights: str, bands: int, classes: int
) -> AnySize:
    """Build a network of segmentation-models-pytorch that takes images of any size.

    Args:
        architecture: Class of segmentation-models-pytorch, ``Unet`` for instance.
        encoder: Name of the encoder; ``tu-`` and a timm model are encoders too.
        encoder_weights: ``none``, ``imagenet`` or a file.
        bands: Bands of the images.
        classes: Number of classes.

    Returns:
        The network; it pads to the encoder's stride and crops back.

    Raises:
        SettingsError: If there is no such encoder, or it cannot serve this architecture.
        TrainingError: If the weights are not on this machine or do not fit.
    """
    _check_encoder(encoder)
    options: dict[str, Any] = {"encoder_weights": None}
    if encoder_weights == IMAGENET and encoder.startswith(TIMM):
        # timm renames and adapts its weights itself, if told to take them from a file.
        options = {
            "encoder_weights": True,
            "pretrained_cfg_overlay": {"file": str(_timm_weights(encoder))},
        }
    try:
        network: Any = getattr(smp, architecture)(
            encoder_name=encoder, in_channels=bands, classes=classes, **options
        )
    except (AssertionError, KeyError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _misfit(architecture, encoder, str(error)) from error
    if encoder_weights == IMAGENET and not encoder.startswith(TIMM):
        published = _smp_weights(encoder)
        load_encoder_weights(network.encoder, read_weights(published), f"{encoder} of ImageNet")
    elif encoder_weights not in (NO_WEIGHTS, IMAGENET):
        path = Path(encoder_weights)
        load_encoder_weights(network.encoder, read_weights(path), f"{encoder} from {path}")
    stride = int(network.encoder.output_stride)
    complaint = works_on(network, bands, 2 * max(stride, 32))
    if complaint:
        raise _misfit(architecture, encoder, complaint)
    return AnySize(network, stride)


def _check_encoder(encoder: str) -> None:
    if encoder.startswith(TIMM):
        name = encoder.removeprefix(TIMM)
        if not timm.is_model(name):
            raise SettingsError(
                f"training.encoder: timm has no model {name!r}"
                f"{did_you_mean(name, timm.list_models())}",
                remedy="Encoders of timm are written tu- and the model's name, tu-resnet18 say.",
            )
        return
    names = sorted(smp.encoders.get_encoder_names())
    if encoder not in names:
        raise SettingsError(
            f"training.encoder: there is no encoder {encoder!r}{did_you_mean(encoder, names)}",
            remedy=f"Encoders: {', '.join(names)}; and tu- with any timm model.",
        )


def _misfit(architecture: str, encoder: str, reason: str) -> SettingsError:
    return SettingsError(
        f"training.encoder: {encoder} cannot serve {architecture}.",
        [reason.splitlines()[0] if reason else "no reason given"],
        "Choose another encoder: resnet18 serves every network.",
    )


def _smp_weights(encoder: str) -> Path:
    published = smp.encoders.encoders[encoder]["pretrained_settings"]
    if IMAGENET not in published:
        raise SettingsError(
            f"training.encoder_weights: {encoder} was never published with ImageNet weights.",
            [f"published: {', '.join(published) or 'none'}"],
            "Name a state dict file, or write none.",
        )
    return cached_weights(
        encoder, published[IMAGENET]["repo_id"], published[IMAGENET].get("revision")
    )


def _timm_weights(encoder: str) -> Path:
    published = timm.get_pretrained_cfg(encoder.removeprefix(TIMM))
    if published is None or not published.hf_hub_id:
        raise SettingsError(
            f"training.encoder_weights: timm has no published weights of {encoder}.",
            remedy="Name a state dict file, or write none.",
        )
    return cached_weights(encoder, published.hf_hub_id)
