"""FCN-32s, FCN-16s and FCN-8s: a classifier's network made convolutional, with skips of scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders.vgg import VGGEncoder
from torch import Tensor, nn

HIDDEN = 4096
"""Width of VGG's two fully connected layers."""

_WINDOW = 7
"""Side of the last feature map of a 224 px image, all of which the first of the two sees."""


class Doubling(nn.ConvTranspose2d):
    """Scores at twice the resolution: bilinear interpolation at first, learned from there on.

    The outermost scores are repeated outwards, so that borders are interpolated like the rest.

    Args:
        classes: Number of classes.

    Source:
        Long, Shelhamer & Darrell (2015), 3.3 and 4.2.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes, classes, 4, stride=2, padding=3, bias=False)
        across = torch.tensor([0.25, 0.75, 0.75, 0.25])
        with torch.no_grad():
            self.weight.zero_()
            self.weight[range(classes), range(classes)] = torch.outer(across, across)

    def forward(self, scores: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Scores ``(N, classes, 2 H, 2 W)`` of scores ``(N, classes, H, W)``."""
        return super().forward(F.pad(scores, (1, 1, 1, 1), mode="replicate"), output_size)


class Fcn(nn.Module):
    """A fully convolutional network, with predictions every 32, 16 or 8 pixels.

    The class scores of the last features are doubled in size and added to scores of features of
    stride 16, for FCN-8s once more to those of stride 8, and interpolated to the image's size.

    With VGG the skips are pool4 and pool3, and fc6 and fc7 are convolutions of 7 x 7 and 1 x 1 with
    4096 features, as published. Other encoders get the paper's recipe: the classifier is dropped,
    and their last features of strides 32, 16 and 8 are scored. ResNet and MobileNetV2 have no
    fully connected layer but the classifier, hence none here (nor has torchvision's FCN-ResNet,
    which dilates the last stages instead of skipping and has a 3 x 3 layer of its own).

    Takes multiples of 32 pixels. The released Caffe networks pad their images by 100 pixels of
    zeros and crop the scores; here fc6 is padded instead, which gives the same alignment.

    Args:
        encoder: Of segmentation-models-pytorch, 5 stages deep.
        stride: 32, 16 or 8.
        classes: Number of classes.

    Source:
        Long, Shelhamer & Darrell (2015), CVPR, arXiv:1411.4038: scores start from zero, skips are
        doubled by learned filters, the last interpolation is fixed; 134 M parameters for VGG16 and
        21 classes (their table 1). Their networks released later fix all filters.
    """

    def __init__(self, encoder: nn.Module, stride: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.stride = stride
        self.pooled = isinstance(encoder, VGGEncoder)
        channels = cast("list[int]", encoder.out_channels)
        last = channels[-1]
        if self.pooled:
            channels = channels[:-1]  # pool4 and pool3 are pooled from the stages before
            self.hidden = nn.Sequential(
                nn.Conv2d(last, HIDDEN, _WINDOW, padding=_WINDOW // 2),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Conv2d(HIDDEN, HIDDEN, 1),
                nn.ReLU(inplace=True),
                nn.Dropout(),
            )
            for layer in self.hidden:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(cast(Tensor, layer.bias))
            last = HIDDEN
        else:
            self.hidden = nn.Sequential()
        skips = {32: 0, 16: 1, 8: 2}[stride]
        self.score = _scores(last, classes)
        self.skip_scores = nn.ModuleList(
            _scores(channels[-2 - number], classes) for number in range(skips)
        )
        self.doublings = nn.ModuleList(Doubling(classes) for _ in range(skips))

    def take_classifier(self, weights: Mapping[str, Tensor]) -> bool:
        """Take fc6 and fc7 from a classifier's weights, as the paper does; tell whether it could.

        Args:
            weights: Of torchvision's VGG16, with its ``classifier.0`` and ``classifier.3``.
        """
        names = ("classifier.0.weight", "classifier.3.weight")
        if not self.pooled or any(name not in weights for name in names):
            return False
        with torch.no_grad():
            for name, number in zip(names, (0, 3), strict=True):
                layer = cast(nn.Conv2d, self.hidden[number])
                layer.weight.copy_(weights[name].reshape(layer.weight.shape))
                bias = weights[name.replace("weight", "bias")]
                cast(Tensor, layer.bias).copy_(bias)
        return True

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, classes, H, W)`` of images ``(N, bands, H, W)``."""
        *earlier, last = self.encoder(images)
        scores: Tensor = self.score(self.hidden(last))
        if self.pooled:
            earlier = [F.max_pool2d(features, 2) for features in earlier[2:4]]
        skips: Any = zip(self.skip_scores, self.doublings, reversed(earlier), strict=False)
        for score, double, features in skips:
            scores = double(scores) + score(features)
        # A transposed convolution with a fixed bilinear kernel, borders repeated, is just this.
        return F.interpolate(
            scores, scale_factor=float(self.stride), mode="bilinear", align_corners=False
        )


def _scores(channels: int, classes: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, classes, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer
