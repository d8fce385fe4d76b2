"""The networks by name: one registry, one call, one contract for all of them.

A network is a module that takes ``(N, bands, H, W)`` and gives logits ``(N, classes, H, W)``, for
any H and W. Importing this package loads neither torch nor segmentation-models-pytorch (7 to 10 s
and 850 MB): a network's modules are imported when one of it is built.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import SettingsError, TrainingError
from pipeline.networks import weights_store
from pipeline.networks.precision import autocast, resolve_precision
from pipeline.setting_types import did_you_mean

if TYPE_CHECKING:
    import torch

    from pipeline.sections import TrainingSettings

__all__ = [
    "IMAGENET",
    "NETWORKS",
    "NO_WEIGHTS",
    "TIMM",
    "autocast",
    "build",
    "check_batch",
    "encoder_of",
    "first_weights",
    "resolve_precision",
]

MOST_BANDS = 8
NO_WEIGHTS = "none"
"""Value of ``training.encoder_weights`` for an encoder that starts from random numbers."""
IMAGENET = "imagenet"
"""Value of ``training.encoder_weights`` for the published ImageNet weights of the encoder."""
TIMM = "tu-"
"""Prefix of an encoder that timm provides."""

Builder = Callable[[str, str, int, int], "torch.nn.Module"]
"""Encoder, the file of its weights (or ``none``), bands, classes -> network."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry.

    Attributes:
        title: Its name in print.
        paper: Who published it.
        build: Makes the network; imports what it needs.
        encoder: The encoder that is part of the network; empty where any may be chosen.
        suggested: An encoder that surely serves.
        pretrained: Whether its encoder was ever published with ImageNet weights.
        least_batch: Images that a step of training needs at least: 2 where a feature of the whole
            image is normalised over the batch.
    """

    title: str
    paper: str
    build: Builder
    encoder: str = ""
    suggested: str = "resnet18"
    pretrained: bool = True
    least_batch: int = 1


def _segnet(encoder: str, encoder_weights: str, bands: int, classes: int) -> torch.nn.Module:
    from pipeline.networks.segnet import SegNet
    from pipeline.networks.weights import start_encoder

    network = SegNet(bands, classes)
    if encoder_weights != NO_WEIGHTS:
        start_encoder(network.encoder, encoder, Path(encoder_weights))
    return network


def _enet(encoder: str, encoder_weights: str, bands: int, classes: int) -> torch.nn.Module:
    from pipeline.networks.enet import ENet
    from pipeline.networks.weights import start_encoder

    network = ENet(bands, classes)
    if encoder_weights != NO_WEIGHTS:
        start_encoder(network.encoder, encoder, Path(encoder_weights))
    return network


def _fcn(stride: int) -> Builder:
    def build_it(encoder: str, encoder_weights: str, bands: int, classes: int) -> torch.nn.Module:
        from pipeline.networks.segmentation_models import build_fcn

        return build_fcn(stride, encoder, encoder_weights, bands, classes)

    return build_it


def _smp(architecture: str) -> Builder:
    def build_it(encoder: str, encoder_weights: str, bands: int, classes: int) -> torch.nn.Module:
        from pipeline.networks.segmentation_models import build_architecture

        return build_architecture(architecture, encoder, encoder_weights, bands, classes)

    return build_it


_LONG = "Long et al. 2015"

NETWORKS: dict[str, Architecture] = {
    "segnet": Architecture(
        "SegNet", "Badrinarayanan et al. 2017", _segnet, encoder="vgg16_bn"
    ),
    "fcn8s": Architecture("FCN-8s", _LONG, _fcn(8), suggested="vgg16"),
    "fcn16s": Architecture("FCN-16s", _LONG, _fcn(16), suggested="vgg16"),
    "fcn32s": Architecture("FCN-32s", _LONG, _fcn(32), suggested="vgg16"),
    "enet": Architecture("ENet", "Paszke et al. 2016", _enet, encoder="enet", pretrained=False),
    "unet": Architecture("U-Net", "Ronneberger et al. 2015", _smp("Unet")),
    "unetplusplus": Architecture("UNet++", "Zhou et al. 2018", _smp("UnetPlusPlus")),
    "manet": Architecture("MA-Net", "Fan et al. 2020", _smp("MAnet")),
    "linknet": Architecture("LinkNet", "Chaurasia & Culurciello 2017", _smp("Linknet")),
    "fpn": Architecture("FPN", "Kirillov et al. 2019", _smp("FPN")),
    "pspnet": Architecture("PSPNet", "Zhao et al. 2017", _smp("PSPNet")),
    "pan": Architecture("PAN", "Li et al. 2018", _smp("PAN"), least_batch=2),
    "deeplabv3": Architecture("DeepLabV3", "Chen et al. 2017", _smp("DeepLabV3"), least_batch=2),
    "deeplabv3plus": Architecture(
        "DeepLabV3+", "Chen et al. 2018", _smp("DeepLabV3Plus"), least_batch=2
    ),
    "upernet": Architecture("UPerNet", "Xiao et al. 2018", _smp("UPerNet"), least_batch=2),
    "segformer": Architecture("SegFormer", "Xie et al. 2021", _smp("Segformer")),
    "dpt": Architecture(
        "DPT", "Ranftl et al. 2021", _smp("DPT"),
        suggested="tu-vit_small_patch16_224",
    ),
}  # fmt: skip


def build(
    network: str,
    *,
    encoder: str,
    encoder_weights: str,
    bands: int,
    classes: int,
    weights_dir: Path | None = None,
) -> torch.nn.Module:
    """Build a network.

    Args:
        network: A key of :data:`NETWORKS`.
        encoder: Encoder of segmentation-models-pytorch, or ``tu-`` and a timm model; not used by
            networks that bring their own (see :func:`encoder_of`).
        encoder_weights: ``none``; ``imagenet``, from ``weights_dir`` only; or a file
            (.safetensors, .pth, .pt) with the state dict of the encoder or of a whole network.
        bands: Bands of the orthophotos, 1 to 8.
        classes: Number of classes.
        weights_dir: Folder that ``fetch-weights`` has filled; nothing is ever downloaded here.

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
    if encoder_weights == IMAGENET:
        if not architecture.pretrained:
            raise SettingsError(
                f"training.encoder_weights: {used} was never published with ImageNet weights.",
                remedy="Write none, or name a state dict file.",
            )
        encoder_weights = str(weights_store.weights_file(weights_dir, used))
    return architecture.build(used, encoder_weights, bands, classes)


def first_weights(training: TrainingSettings) -> list[Path]:
    """The file of the encoder's first weights, to be known before anything runs; none for `none`.

    Raises:
        SettingsError: If there is no such network.
        TrainingError: If there is no such file.
    """
    encoder = encoder_of(training.network, training.encoder)
    if training.encoder_weights == NO_WEIGHTS:
        return []
    if training.encoder_weights == IMAGENET:
        return [weights_store.found_file(training.weights_dir, encoder)]
    path = Path(training.encoder_weights)
    if not path.is_file():
        raise TrainingError(
            f"training.encoder_weights: there is no file {path}.",
            remedy="Name a file with a state dict, or write imagenet or none.",
        )
    return [path]


def check_batch(network: str, batch_size: int) -> None:
    """Check that a network can be trained on batches of a size.

    Raises:
        SettingsError: If there is no such network, or it needs more tiles at once.
    """
    least = _architecture(network).least_batch
    if batch_size < least:
        raise SettingsError(
            f"training.batch_size: {network} normalises a feature of the whole tile over the "
            f"batch, and needs {least} tiles at least.",
            remedy=f"Write {least} or more, and a smaller `tiling.tile_px` if memory is short.",
        )


def encoder_of(network: str, encoder: str) -> str:
    """The encoder that a network of these settings has: its own, or the one that was chosen.

    Raises:
        SettingsError: If there is no such network.
    """
    return _architecture(network).encoder or encoder


def _architecture(network: str) -> Architecture:
    if network not in NETWORKS:
        raise SettingsError(
            f"training.network: there is no network {network!r}{did_you_mean(network, NETWORKS)}",
            remedy=f"Networks: {', '.join(NETWORKS)}.",
        )
    return NETWORKS[network]
