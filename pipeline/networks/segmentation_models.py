"""The architectures and encoders of segmentation-models-pytorch, behind the registry's call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from pipeline.errors import SettingsError
from pipeline.networks import NO_WEIGHTS, TIMM
from pipeline.networks.fcn import Fcn
from pipeline.networks.padding import AnySize
from pipeline.networks.patches import keep_exact
from pipeline.networks.trial import complaint_of, drop_idle
from pipeline.networks.weights import read_weights, start_encoder
from pipeline.setting_types import did_you_mean

_FIXED_SIZE = {"strict_img_size": False}
"""What frees timm's Swin transformers of the image size that they were published for."""

_TRIAL_SIDE = 64

# PAN pools its encoder's last features three times. DPT fuses features of strides 4 to 32.
_PAN_POOLINGS = 8
_DPT_STRIDE = 32

# With these an encoder says that it lacks what an architecture asks of it.
_MISFITS = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def build_architecture(
    architecture: str, encoder: str, encoder_weights: str, bands: int, classes: int
) -> AnySize:
    """Build a network of segmentation-models-pytorch that takes images of any size.

    Args:
        architecture: Class of segmentation-models-pytorch, ``Unet`` for instance.
        encoder: Name of the encoder; ``tu-`` and a timm model are encoders too.
        encoder_weights: ``none`` or a file.
        bands: Bands of the images.
        classes: Number of classes.

    Returns:
        The network; it pads to the encoder's stride and crops back. What the logits do not depend
        on is gone: the deep stages of PSPNet's encoder, the last layers of classifiers.

    Raises:
        SettingsError: If there is no such encoder, or it cannot serve this architecture.
        TrainingError: If the weights do not fit.
    """
    check_encoder(encoder)
    made = {"encoder_name": encoder, "encoder_weights": None}

    def make(options: dict[str, Any]) -> nn.Module:
        network: nn.Module = getattr(smp, architecture)(
            **made, in_channels=bands, classes=classes, **options
        )
        return network

    network = _first_that_works(
        architecture, encoder, bands, make, _options_of(architecture, encoder)
    )
    if encoder_weights != NO_WEIGHTS:
        start_encoder(network.encoder, encoder, Path(encoder_weights))
    return network


def build_fcn(stride: int, encoder: str, encoder_weights: str, bands: int, classes: int) -> AnySize:
    """Build an FCN on an encoder of segmentation-models-pytorch; it takes images of any size.

    Args:
        stride: 32, 16 or 8.
        encoder: As in :func:`build_architecture`; with ``vgg16`` it is the published network.
        encoder_weights: ``none`` or a file; fc6 and fc7 are taken from it too if it has them.
        bands: Bands of the images.
        classes: Number of classes.

    Raises:
        SettingsError: If there is no such encoder, or it has no features of strides 8 to 32.
        TrainingError: If the weights do not fit.
    """
    name = f"FCN-{stride}s"
    check_encoder(encoder)

    def make(options: dict[str, Any]) -> nn.Module:
        body = smp.encoders.get_encoder(encoder, in_channels=bands, weights=None, **options)
        return Fcn(body, stride, classes)

    network = _first_that_works(name, encoder, bands, make, _options_of(name, encoder))
    if encoder_weights != NO_WEIGHTS:
        path = Path(encoder_weights)
        start_encoder(network.encoder, encoder, path)
        cast(Fcn, network.network).take_classifier(read_weights(path))
    return network


def _first_that_works(
    architecture: str,
    encoder: str,
    bands: int,
    make: Callable[[dict[str, Any]], nn.Module],
    variants: Iterable[dict[str, Any]],
) -> AnySize:
    """The first variant that takes an image it was not made for, without its idle parts."""
    complaints = []
    for options in variants:
        try:
            with warnings.catch_warnings():
                # smp announces the end of the `timm-` names that its own list still has.
                warnings.simplefilter("ignore", DeprecationWarning)
                network = make(options)
        except _MISFITS as error:
            complaints.append(str(error) or type(error).__name__)
            continue
        stride, least = _sizes_of(architecture, network)
        # Oblong, and no size that anything was published for.
        side = max(_TRIAL_SIDE, 2 * stride, least)
        images = torch.zeros(1, bands, side, side + stride)
        complaint = complaint_of(network, images)
        if not complaint:
            drop_idle(network, images)
            keep_exact(network)
            return AnySize(network, stride, least)
        complaints.append(complaint)
    raise _misfit(architecture, encoder, _worst(complaints))


def _worst(complaints: list[str]) -> str:
    """The complaint that tells most: that an option is unknown tells least."""
    if any("output_stride" in reason for reason in complaints):
        return "it cannot be dilated"
    return min(complaints, key=lambda reason: "unexpected keyword" in reason)


def _options_of(architecture: str, encoder: str) -> list[dict[str, Any]]:
    """What to build with; tried in turn."""
    if architecture == "DPT":
        if not encoder.startswith(TIMM):
            raise _misfit(architecture, encoder, "it takes encoders of timm only, named tu-...")
        readout = {"decoder_readout": "cat" if _has_class_token(encoder) else "ignore"}
        return [readout | size for size in ({"dynamic_img_size": True}, _FIXED_SIZE, {})]
    sizes = [{}, _FIXED_SIZE] if encoder.startswith(TIMM) else [{}]
    if architecture == "PAN":
        # Dilated to stride 16 as its authors do, where the encoder can be.
        strides = ({"encoder_output_stride": 16}, {"encoder_output_stride": 32})
        return [stride | size for stride in strides for size in sizes]
    return sizes


def _sizes_of(architecture: str, network: nn.Module) -> tuple[int, int]:
    """What height and width shall be multiples of, and their least."""
    stride = 32
    if not isinstance(network, Fcn):
        stride = int(cast(Any, network.encoder).output_stride)
    if architecture == "DPT":
        return max(stride, _DPT_STRIDE), 0
    return stride, _PAN_POOLINGS * stride if architecture == "PAN" else 0


def _has_class_token(encoder: str) -> bool:
    with torch.device("meta"):
        model = timm.create_model(encoder.removeprefix(TIMM))
    return bool(getattr(model, "num_prefix_tokens", 0))


def check_encoder(encoder: str) -> None:
    """Make sure that there is an encoder of this name.

    Raises:
        SettingsError: If there is none.
    """
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
    served = "resnet18 serves every network but DPT"
    if architecture == "DPT":
        served = "DPT is made for vision transformers, tu-vit_small_patch16_224 say"
    return SettingsError(
        f"training.encoder: {encoder} cannot serve {architecture}.",
        [reason.splitlines()[0]],
        f"Choose another encoder: {served}.",
    )
