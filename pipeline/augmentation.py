"""Augmentation: turns, mirrors, angles, zoom and another light, of image and label together.

Everything is drawn from torch's generator, which whoever calls has seeded for the tile at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline.nomenclature import IGNORE

Augmentation = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Changes an image (a tv_tensors.Image) and its label (a Mask) together."""

_STRIP = 64  # pixels


class Symmetries(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """One of the eight symmetries of the square, each as likely; pixels are only moved."""

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, int]:
        """Draw a number of quarter turns and whether to mirror."""
        return {"turns": int(torch.randint(4, ())), "mirrored": int(torch.randint(2, ()))}

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        """Turn and mirror rows and columns."""
        moved = turned(inpt.as_subclass(Tensor).numpy(), params["turns"], bool(params["mirrored"]))
        wrapped: Tensor = tv_tensors.wrap(torch.from_numpy(moved), like=inpt)
        return wrapped

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Move all inputs alike; torchvision's own way there takes longer than the pixels."""
        params = self.make_params([])
        return tuple(self.transform(part, params) for part in inputs)


def turned(pixels: NDArray[Any], turns: int, mirrored: bool) -> NDArray[Any]:
    """Turn pixels, then mirror their columns.

    Args:
        pixels: Shape ``(..., rows, cols)``.
        turns: Quarter turns against the clock.
        mirrored: Whether to mirror.

    Returns:
        A copy.
    """
    moved = np.rot90(pixels, turns, (-2, -1))
    if mirrored:
        moved = moved[..., ::-1]
    if turns % 2 == 0:
        return moved.copy()
    copied = np.empty(moved.shape, moved.dtype)
    # In strips: rows become columns, and whole columns at once would not stay in the cache.
    for first in range(0, moved.shape[-1], _STRIP):
        strip = np.s_[..., first : first + _STRIP]
        copied[strip] = moved[strip]
    return copied


class Light(v2.Transform):  # type: ignore[misc]
    """Another hour, haze, season or camera: a tone curve a band, then saturation and hue.

    Works with any number of bands: brightness, contrast and gamma are common to all, a slight cast
    is a band's own; saturation draws bands to or from their mean; hue turns the first three.

    Args:
        brightness: Largest shift, as a share of the value range.
        contrast: Largest factor about mid-grey.
        gamma: Largest exponent.
        cast: Largest factor of a single band.
        saturation: Smallest and largest factor of the distance to grey.
        hue: Largest turn about the grey axis, in degrees.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(
        self,
        brightness: float = 0.15,
        contrast: float = 1.4,
        gamma: float = 1.5,
        cast: float = 1.1,
        saturation: tuple[float, float] = (0.2, 1.8),
        hue: float = 15.0,
    ) -> None:
        super().__init__()
        self.brightness, self.contrast, self.gamma, self.cast = brightness, contrast, gamma, cast
        self.saturation, self.hue = saturation, hue

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, Tensor]:
        """Draw tone curves, shape ``(bands, 256)``, and a colour matrix ``(bands, bands)``."""
        bands = flat_inputs[0].shape[-3]
        gamma, contrast = (
            math.exp(math.log(most) * float(torch.empty(()).uniform_(-1, 1)))
            for most in (self.gamma, self.contrast)
        )
        shift = self.brightness * float(torch.empty(()).uniform_(-1, 1))
        cast = torch.empty(bands, 1).uniform_(-1, 1).mul_(math.log(self.cast)).exp_()
        values = torch.linspace(0, 1, 256) ** gamma
        curves = (((values - 0.5) * contrast + 0.5 + shift) * cast).clamp_(0, 1)
        strength = float(torch.empty(()).uniform_(*self.saturation))
        colors = strength * torch.eye(bands) + (1 - strength) / bands
        turn = math.radians(self.hue) * float(torch.empty(()).uniform_(-1, 1))
        if bands >= 3:
            rotation = torch.eye(bands)
            rotation[:3, :3] = _about_grey(turn)
            colors = rotation @ colors
        return {"curves": curves * 255, "colors": colors}

    def transform(self, inpt: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Look the values up in the curves and mix the bands."""
        values = inpt.as_subclass(Tensor)
        # A table of 256 values a band is far cheaper than powers of every pixel.
        toned = torch.stack(
            [curve[band.int()] for curve, band in zip(params["curves"], values, strict=True)]
        )
        mixed = params["colors"] @ toned.flatten(1)
        mixed = mixed.round_().clamp_(0, 255).to(torch.uint8)
        wrapped: Tensor = tv_tensors.wrap(mixed.view_as(values), like=inpt)
        return wrapped


def _about_grey(angle: float) -> Tensor:
    """Rotation about (1, 1, 1), Rodrigues' formula: grey stays grey."""
    axis = 1 / math.sqrt(3)
    cross = torch.tensor([[0.0, -axis, axis], [axis, 0.0, -axis], [-axis, axis, 0.0]])
    return torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)


def augmentation(preset: str, fill: Sequence[float]) -> Augmentation | None:
    """The transforms of ``training.augment``.

    Args:
        preset: ``none``; ``geometric``, the eight symmetries; ``aerial``, with them any rotation
            and zoom, and another light.
        fill: Value of each band for image pixels from outside the tile; their label is 255.

    Raises:
        ValueError: If there is no such preset.
    """
    if preset == "none":
        return None
    if preset == "geometric":
        symmetries: Augmentation = Symmetries()
        return symmetries
    if preset == "aerial":
        outside = {tv_tensors.Image: [round(v) for v in fill], tv_tensors.Mask: IGNORE}
        aerial: Augmentation = v2.Compose(
            [
                Symmetries(),
                v2.RandomApply(
                    [
                        v2.RandomAffine(
                            45,
                            translate=(0.1, 0.1),
                            scale=(0.6, 2.0),
                            interpolation=v2.InterpolationMode.BILINEAR,
                            fill=outside,
                        )
                    ],
                    p=0.5,
                ),
                v2.RandomApply([Light()], p=0.8),
            ]
        )
        return aerial
    raise ValueError(f"no augmentation {preset!r}")
