"""SegNet as published: VGG16 with batch normalisation, mirrored, max-unpooling."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.padding import padded

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
STRIDE = 2 ** len(_STAGES)


class Vgg16Encoder(nn.Module):
    """The 13 convolutions of VGG16, each with batch normalisation and ReLU, and 5 poolings.

    Layers are numbered as in torchvision's ``vgg16_bn``, so that its weights fit by name.

    Args:
        bands: Bands of the images.

    Source:
        Simonyan & Zisserman (2015), configuration D; fully connected layers dropped as in SegNet.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = bands
        for stage in _STAGES:
            for features in stage:
                layers += _convolution(channels, features)
                channels = features
            layers.append(nn.MaxPool2d(2, stride=2, return_indices=True))
        self.features = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode images whose height and width are multiples of 32.

        Args:
            images: Shape ``(N, bands, H, W)``.

        Returns:
            Features ``(N, 512, H / 32, W / 32)``, and the pooling indices of the 5 stages, the
            first stage first.
        """
        x: Tensor = images
        indices = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                x, positions = layer(x)
                indices.append(positions)
            else:
                x = layer(x)
        return x, indices


class SegNet(nn.Module):
    """SegNet: encoder, mirrored decoder, and unpooling to where the maxima were.

    Each decoder stage puts its input back to the positions that the encoder's pooling of the same
    size took it from, and convolves: the 13 convolutions of VGG16 in reverse. The last one, the
    mirror of VGG16's first, gives the logits and so has neither normalisation nor ReLU.

    Runs on images of any size: they are enlarged at the right and the lower edge to a multiple of
    32 pixels with mirrored ground (the last pixel repeated where they are narrower than that), and
    the logits are cropped back. A size that is such a multiple already costs nothing extra.

    Args:
        bands: Bands of the images.
        classes: Number of classes.

    Source:
        Badrinarayanan, Kendall & Cipolla (2017), SegNet, IEEE TPAMI 39(12); encoder 14.7 M and
        whole network 29.5 M parameters (their table 6); He initialisation; ReLU in the decoder as
        in the authors' released model, whose text leaves it open.
    """

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        self.encoder = Vgg16Encoder(bands)
        stages = []
        for stage, below in _mirrored():
            layers: list[nn.Module] = []
            for features in stage[:-1]:
                layers += _convolution(features, features)
            if below:
                layers += _convolution(stage[-1], below)
            else:
                layers.append(nn.Conv2d(stage[-1], classes, 3, padding=1))
            stages.append(nn.Sequential(*layers))
        self.decoder = nn.ModuleList(stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, classes, H, W)`` of images ``(N, bands, H, W)``."""
        height, width = images.shape[-2:]
        x: Tensor
        x, indices = self.encoder(padded(images, STRIDE))
        for stage, positions in zip(self.decoder, reversed(indices), strict=True):
            x = stage(F.max_unpool2d(x, positions, [2, 2], [2, 2]))
        return x[..., :height, :width]


def _mirrored() -> Iterator[tuple[tuple[int, ...], int]]:
    """Stages from the deepest up, each with the features of the one that follows; 0 = logits."""
    for number in reversed(range(len(_STAGES))):
        yield _STAGES[number], _STAGES[number - 1][-1] if number else 0


def _convolution(channels: int, features: int) -> list[nn.Module]:
    # The bias in front of the normalisation does nothing; it is there because VGG16's published
    # weights, and the authors' model, have it.
    return [
        nn.Conv2d(channels, features, 3, padding=1),
        nn.BatchNorm2d(features),
        nn.ReLU(inplace=True),
    ]
