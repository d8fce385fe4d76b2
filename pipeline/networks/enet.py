"""ENet as published: bottlenecks at low resolution, max-unpooling, a third of a million weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.padding import padded

STRIDE = 8

_WIDTHS = (16, 64, 128)
_NARROWING = 4
_EPSILON = 1e-3
_DROPOUT, _LATER_DROPOUT = 0.01, 0.1

# The eight bottlenecks of stages 2 and 3: plain, dilated by 2, asymmetric of length 5, ...
_CONTEXT = ("plain", 2, "asymmetric", 4, "plain", 8, "asymmetric", 16)


class Initial(nn.Module):
    """The first block: strided convolution beside pooling, 16 maps of half the size.

    With more bands than three it has fewer filters, so that all that follows stays as published.

    Args:
        bands: Bands of the images.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(bands, _WIDTHS[0] - bands, 3, stride=2, padding=1)
        self.normalised = nn.Sequential(
            nn.BatchNorm2d(_WIDTHS[0], eps=_EPSILON), nn.PReLU(_WIDTHS[0])
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(N, 16, H / 2, W / 2)`` of images ``(N, bands, H, W)``."""
        both = torch.cat([self.convolution(images), F.max_pool2d(images, 2)], dim=1)
        features: Tensor = self.normalised(both)
        return features


class Bottleneck(nn.Module):
    """Narrowed to a quarter, convolved, widened again, and added to what came in.

    Args:
        channels: Features in and out.
        dropout: Share of feature maps that training leaves out.
        kind: ``plain``, ``asymmetric`` (5 x 1 and 1 x 5), or the dilation.
    """

    def __init__(self, channels: int, dropout: float, kind: str | int = "plain") -> None:
        super().__init__()
        inner = channels // _NARROWING
        self.extension = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            *_activated(inner),
            *_convolution(inner, kind),
            *_activated(inner),
            *_widened(inner, channels, dropout),
        )
        self.activation = nn.PReLU(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape."""
        added: Tensor = self.activation(features + self.extension(features))
        return added


class Downsampling(nn.Module):
    """A bottleneck that halves the size: pooling beside it, missing maps filled with zeros.

    Args:
        channels: Features in.
        wider: Features out.
        dropout: As in :class:`Bottleneck`.
    """

    def __init__(self, channels: int, wider: int, dropout: float) -> None:
        super().__init__()
        inner = wider // _NARROWING
        self.missing = wider - channels
        self.extension = nn.Sequential(
            nn.Conv2d(channels, inner, 2, stride=2, bias=False),
            *_activated(inner),
            *_convolution(inner, "plain"),
            *_activated(inner),
            *_widened(inner, wider, dropout),
        )
        self.activation = nn.PReLU(wider)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features of half the size, and where the pooling's maxima were."""
        pooled, positions = F.max_pool2d(features, 2, return_indices=True)
        filled = F.pad(pooled, (0, 0, 0, 0, 0, self.missing))
        return self.activation(filled + self.extension(features)), positions


class Upsampling(nn.Module):
    """A bottleneck that doubles the size: values go back to where the maxima were.

    Args:
        channels: Features in.
        narrower: Features out.
    """

    def __init__(self, channels: int, narrower: int) -> None:
        super().__init__()
        inner = narrower // _NARROWING
        self.main = nn.Sequential(
            nn.Conv2d(channels, narrower, 1, bias=False), nn.BatchNorm2d(narrower, eps=_EPSILON)
        )
        self.extension = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            *_activated(inner),
            nn.ConvTranspose2d(inner, inner, 3, stride=2, padding=1, output_padding=1),
            *_activated(inner),
            *_widened(inner, narrower, _LATER_DROPOUT),
        )
        self.activation = nn.PReLU(narrower)

    def forward(self, features: Tensor, positions: Tensor) -> Tensor:
        """Features of twice the size.

        Args:
            features: Shape ``(N, channels, H, W)``.
            positions: Of the maxima, shape ``(N, narrower, H, W)``.
        """
        put_back = F.max_unpool2d(self.main(features), positions, [2, 2], [2, 2])
        added: Tensor = self.activation(put_back + self.extension(features))
        return added


class Encoder(nn.Module):
    """The initial block and stages 1 to 3: features of an eighth of the size.

    Args:
        bands: Bands of the images.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        narrow, middle, wide = _WIDTHS
        self.initial = Initial(bands)
        self.down1 = Downsampling(narrow, middle, _DROPOUT)
        self.stage1 = nn.Sequential(*(Bottleneck(middle, _DROPOUT) for _ in range(4)))
        self.down2 = Downsampling(middle, wide, _LATER_DROPOUT)
        self.stage2 = nn.Sequential(*(Bottleneck(wide, _LATER_DROPOUT, kind) for kind in _CONTEXT))
        self.stage3 = nn.Sequential(*(Bottleneck(wide, _LATER_DROPOUT, kind) for kind in _CONTEXT))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode images whose height and width are multiples of 8.

        Args:
            images: Shape ``(N, bands, H, W)``.

        Returns:
            Features ``(N, 128, H / 8, W / 8)``, and where the maxima of the two poolings were.
        """
        features, first = self.down1(self.initial(images))
        features, second = self.down2(self.stage1(features))
        return self.stage3(self.stage2(features)), first, second


class ENet(nn.Module):
    """ENet: a wide encoder at an eighth of the resolution, a small decoder.

    Runs on images of any size, padded to multiples of 8 and cropped back as SegNet's.

    Args:
        bands: Bands of the images.
        classes: Number of classes.

    Source:
        Paszke, Chaurasia, Kim & Culurciello (2016), arXiv:1606.02147, table 1 and figure 2; 0.37 M
        parameters (their table 3). Kernels, biases and the normalisation's epsilon as in the
        authors' Torch code; PReLU and dropout in the decoder too, as the paper says (the code has
        ReLU and none there). He initialisation.
    """

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        narrow, middle, wide = _WIDTHS
        self.encoder = Encoder(bands)
        self.up4 = Upsampling(wide, middle)
        self.stage4 = nn.Sequential(*(Bottleneck(middle, _LATER_DROPOUT) for _ in range(2)))
        self.up5 = Upsampling(middle, narrow)
        self.stage5 = Bottleneck(narrow, _LATER_DROPOUT)
        self.logits = nn.ConvTranspose2d(narrow, classes, 2, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, classes, H, W)`` of images ``(N, bands, H, W)``."""
        height, width = images.shape[-2:]
        features, first, second = self.encoder(padded(images, STRIDE))
        features = self.stage4(self.up4(features, second))
        features = self.stage5(self.up5(features, first))
        logits: Tensor = self.logits(features)
        return logits[..., :height, :width]


def _activated(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels, eps=_EPSILON), nn.PReLU(channels)]


def _convolution(channels: int, kind: str | int) -> list[nn.Module]:
    if kind == "asymmetric":
        return [
            nn.Conv2d(channels, channels, (1, 5), padding=(0, 2), bias=False),
            nn.Conv2d(channels, channels, (5, 1), padding=(2, 0)),
        ]
    dilation = 1 if kind == "plain" else int(kind)
    return [nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)]


def _widened(inner: int, channels: int, dropout: float) -> list[nn.Module]:
    return [
        nn.Conv2d(inner, channels, 1, bias=False),
        nn.BatchNorm2d(channels, eps=_EPSILON),
        nn.Dropout2d(dropout),
    ]
