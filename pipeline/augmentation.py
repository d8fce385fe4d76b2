"""Augmentation: turns, mirrors, angles, zoom and another light, of image and label together.

Everything is drawn from torch's generator, which whoever calls has seeded for the tile at hand.
Tiles go in and come out as uint8. Light comes before place, so that what lies outside a moved tile
keeps the bands' means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample, pad
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline.sections import AugmentationSettings

Augmentation = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Changes an image (a tv_tensors.Image) and its label (a Mask) together."""

MOVED, LIT, BLURRED = 0.5, 0.8, 0.5
"""Share of tiles that are rotated, zoomed and shifted; that get another light; that are blurred."""

_STRIP = 64  # pixels
_COLORS = 3  # bands that have a hue


class Strengths(NamedTuple):
    """How much of each change; as they stand here, none of any.

    Attributes:
        symmetries: Whether to turn by quarters and mirror.
        rotation: Largest angle, degrees.
        scale: Largest zoom, in and out.
        shift: Largest shift, as a share of the tile.
        brightness: Largest change, as a share of the value range.
        contrast: Largest factor about mid-grey.
        gamma: Largest exponent of the tone curve.
        saturation: Largest change of the distance to grey, as a share of it.
        hue: Largest turn about the grey axis, degrees.
        cast: Largest factor of a single band.
        blur: Largest standard deviation, pixels.
    """

    symmetries: bool = False
    rotation: float = 0.0
    scale: float = 1.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    saturation: float = 0.0
    hue: float = 0.0
    cast: float = 1.0
    blur: float = 0.0


PRESETS: Mapping[str, Strengths] = {
    "none": Strengths(),
    "geometric": Strengths(symmetries=True),
    # No blur: a zoom to the double is soft enough, and texture is what tells classes apart.
    "aerial": Strengths(True, 45, 2, 0.1, 0.15, 1.4, 1.5, 0.8, 15, 1.1),
}


def strengths(settings: AugmentationSettings) -> Strengths:
    """The preset's strengths, with the settings' own where they have any."""
    own = {
        name: value for name in Strengths._fields if (value := getattr(settings, name)) is not None
    }
    return PRESETS[settings.preset]._replace(**own)


def augmentation(settings: AugmentationSettings, fill: Sequence[float]) -> Augmentation | None:
    """The transforms that the settings ask for, or None if they ask for nothing.

    Args:
        settings: Section ``augmentation``.
        fill: Value of each band for image pixels from outside the tile; their label is 255.
    """
    wanted = strengths(settings)
    parts: list[v2.Transform] = []
    if wanted.symmetries:
        parts.append(Symmetries())
    light = wanted[4:10]
    if light != Strengths()[4:10]:
        parts.append(v2.RandomApply([Light(*light)], LIT))
    if wanted.blur:
        parts.append(v2.RandomApply([Blur(wanted.blur)], BLURRED))
    if wanted[1:4] != Strengths()[1:4]:
        place = Displacement(wanted.rotation, wanted.scale, wanted.shift, fill)
        parts.append(v2.RandomApply([place], MOVED))
    if not parts:
        return None
    whole: Augmentation = parts[0] if len(parts) == 1 else v2.Compose(parts)
    return whole


class Symmetries(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """One of the eight symmetries of the square, each as likely; pixels are only moved."""

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a number of quarter turns and whether to mirror, and move both alike."""
        turns, mirrored = int(torch.randint(4, ())), bool(torch.randint(2, ()))
        pixels, ids = (
            turned(part.as_subclass(Tensor).numpy(), turns, mirrored) for part in (image, label)
        )
        return _wrapped(pixels, image), _wrapped(ids, label)


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


class Displacement(v2.RandomAffine):  # type: ignore[misc]
    """Rotation, zoom and shift, drawn as torchvision draws them, in one resampling of both.

    The image is interpolated (bilinear), the label takes the nearest pixel. A pixel whose centre
    comes from outside the tile has ``fill`` and the label 255; all others come from pixels of the
    tile alone, those of its rim included.

    Args:
        rotation: Largest angle, degrees.
        scale: Largest zoom; factors are drawn uniformly from ``1 / scale`` to ``scale``.
        shift: Largest shift, as a share of the tile, rounded to pixels.
        fill: Value of each band outside the tile.
    """

    def __init__(self, rotation: float, scale: float, shift: float, fill: Sequence[float]) -> None:
        super().__init__(rotation, translate=(shift, shift), scale=(1 / scale, scale))
        self.outside = np.array([round(value) for value in fill], np.uint8)[:, None, None]

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Move both: torchvision would do it one after the other, in three times the time."""
        params = self.make_params([image])
        grid = _sources(image.shape[-2:], params["angle"], params["scale"], params["translate"])
        # One more than the id: what grid_sample adds outside is 0, and 0 - 1 is 255 as a byte.
        ids = label.as_subclass(Tensor).float().add_(1)[None, None]
        ids = grid_sample(ids, grid, "nearest", "zeros", align_corners=False)[0, 0]
        nearest = ids.to(torch.int32)
        pixels = image.as_subclass(Tensor).float()[None]
        # To the border and not to zeros, which the rim's pixels would be mixed with.
        pixels = grid_sample(pixels, grid, "bilinear", "border", align_corners=False)[0]
        values = pixels.add_(0.5).numpy().astype(np.uint8)  # torch takes seven times as long
        # Bits: torch.where and masks of numpy take as long as the resampling.
        missing = (nearest == 0).numpy().view(np.uint8) * np.uint8(255)
        values &= ~missing
        values |= self.outside & missing
        return _wrapped(values, image), _wrapped(nearest.sub_(1).to(torch.uint8).numpy(), label)


def _sources(
    shape: Sequence[int], angle: float, scale: float, shift: tuple[float, float]
) -> Tensor:
    """Where each pixel comes from: x and y of its source, -1 and 1 at the tile's edges.

    Shape ``(1, rows, cols, 2)``. As torchvision has it, pixels are first zoomed and turned by
    ``angle`` (degrees, with the clock) about the tile's centre, then shifted (right, down).
    """
    rows, cols = shape
    x = torch.arange(cols) + (0.5 - cols / 2 - shift[0])
    y = torch.arange(rows) + (0.5 - rows / 2 - shift[1])
    cos, sin = (f(math.radians(angle)) * 2 / scale for f in (math.cos, math.sin))
    grid = torch.empty(1, rows, cols, 2)
    torch.add(x * (cos / cols), y[:, None] * (sin / cols), out=grid[0, ..., 0])
    torch.add(x * (-sin / rows), y[:, None] * (cos / rows), out=grid[0, ..., 1])
    return grid


class Light(v2.Transform):  # type: ignore[misc]
    """Another hour, haze, season or camera: a tone curve a band, then saturation and hue.

    Every band is taken for light: brightness, contrast and gamma are common to all, a cast is a
    band's own. Saturation and hue are of the first three bands where there are as many: as they
    would be seen if these were shown as red, green and blue, which for false colour (near
    infrared, red, green) changes the balance of the three alike. Further bands and images of one
    or two have none. Where a band is no light (a height), leave brightness, contrast, gamma and
    cast out.

    Args:
        brightness: Largest shift, as a share of the value range.
        contrast: Largest factor about mid-grey.
        gamma: Largest exponent.
        saturation: Largest change of the distance to grey, as a share of it.
        hue: Largest turn about the grey axis, in degrees.
        cast: Largest factor of a single band.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 1.0,
        gamma: float = 1.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        cast: float = 1.0,
    ) -> None:
        super().__init__()
        self.brightness, self.contrast, self.gamma, self.cast = brightness, contrast, gamma, cast
        self.saturation, self.hue = saturation, hue

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Look the values up in a curve a band and mix the colours; the label stays."""
        bands = image.as_subclass(Tensor).numpy()
        curves, colors = self._drawn(len(bands))
        # A half more, and the fraction cut off, is rounding.
        curves += np.float32(0.5)
        tables = curves.astype(np.uint8)
        # A table of 256 values a band is far cheaper than powers of every pixel.
        if colors is None:
            changed = np.stack([t.take(band) for t, band in zip(tables, bands, strict=True)])
        else:
            changed = np.empty_like(bands)
            toned = np.stack([curves[i].take(bands[i]) for i in range(_COLORS)])
            # Rows of the matrix sum to 1: the half stays what it is.
            mixed = colors @ toned.reshape(_COLORS, -1)
            np.clip(mixed, 0, 255, out=mixed)
            changed[:_COLORS] = mixed.reshape(toned.shape)
            for i in range(_COLORS, len(bands)):
                changed[i] = tables[i].take(bands[i])
        return _wrapped(changed, image), label

    def _drawn(self, bands: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Curves ``(bands, 256)`` from 0 to 255, and a colour matrix ``(3, 3)`` or None."""
        drawn = torch.empty(5 + bands).uniform_(-1, 1).numpy().astype(np.float64)
        gamma, contrast, shift, saturation, hue = drawn[:5]
        cast = self.cast ** drawn[5:, None]
        values = np.linspace(0, 1, 256) ** self.gamma**gamma
        curves = ((values - 0.5) * self.contrast**contrast + 0.5 + self.brightness * shift) * cast
        curves = (255 * curves.clip(0, 1)).astype(np.float32)
        if bands < _COLORS or (self.saturation == 0 and self.hue == 0):
            return curves, None
        strength = 1 + self.saturation * saturation
        colors = strength * np.eye(_COLORS) + (1 - strength) / _COLORS
        colors = _about_grey(math.radians(self.hue) * hue) @ colors
        return curves, colors.astype(np.float32)


def _about_grey(angle: float) -> NDArray[np.float64]:
    """Rotation about (1, 1, 1), Rodrigues' formula: grey stays grey."""
    axis = 1 / math.sqrt(3)
    cross = np.array([[0, -axis, axis], [axis, 0, -axis], [-axis, axis, 0]])
    rotation: NDArray[np.float64]
    rotation = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)
    return rotation


class Blur(v2.Transform):  # type: ignore[misc]
    """A Gaussian blur of the image: less sharp optics, motion, another resampling.

    The values are those of torchvision's GaussianBlur, which takes eight times as long: it weighs
    a square of pixels at once where rows and columns will do one after the other.

    Args:
        blur: Largest standard deviation, pixels.
    """

    def __init__(self, blur: float) -> None:
        super().__init__()
        self.blur = blur

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a standard deviation and blur the bands; the label stays."""
        sigma = self.blur * float(torch.rand(()))
        rows, cols = image.shape[-2:]
        reach = min(math.ceil(3 * sigma), min(rows, cols) - 1)
        if not reach:
            return image, label
        weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-reach, reach + 1)]
        weights = [weight / sum(weights) for weight in weights]
        values = image.as_subclass(Tensor).float()
        values = pad(values[None], [reach] * 4, mode="reflect")[0]
        values = _weighed([values[..., i : i + rows, :] for i in range(len(weights))], weights)
        values = _weighed([values[..., i : i + cols] for i in range(len(weights))], weights)
        return _wrapped(values.add_(0.5).numpy().astype(np.uint8), image), label


def _weighed(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total.add_(part, alpha=weight)
    return total


def _wrapped(pixels: NDArray[np.uint8], like: Tensor) -> Tensor:
    wrapped: Tensor = tv_tensors.wrap(torch.from_numpy(pixels), like=like)
    return wrapped
