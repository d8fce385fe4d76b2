"""Predictor: images in, probabilities out; the mean of symmetries and of several networks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline import backends
from pipeline.errors import TrainingError
from pipeline.networks.precision import Precision

log = logging.getLogger(__name__)

ENOUGH = 0.99
"""Share of a sample's pixels that get the same class in float32; with less, ``auto`` is float32."""

FEW = 10_000
"""Valid pixels of a sample; with fewer, nothing is known and ``auto`` is float32."""


@dataclass(frozen=True)
class Member:
    """A network and the normalisation of its training.

    Attributes:
        network: Normalised images ``(N, bands, H, W)`` to logits ``(N, classes, H, W)``.
        mean: Mean of each band of the training split, of values from 0 to 255.
        std: Standard deviation of each band, likewise.
    """

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Predictor:
    """Networks with their normalisation: windows of 0 to 255 in, probabilities out.

    Args:
        members: One network, or several of the same bands and classes whose mean counts.
        classes: Number of classes.
        device: Where the networks run. They stay where they are, in evaluation mode: back ends
            have copies of their own.
        precision: ``float32``, ``bf16`` or ``fp16``, as in ``mapping.precision``. ``auto`` is what
            the device does best, until :meth:`check` finds that it costs accuracy.
        backend: What computes, as in ``mapping.backend``.
        symmetries: Whether to predict the eight symmetries of each window and take their mean.

    Attributes:
        precision: What ``precision`` came to.
        classes: Number of classes.
        device: Where the networks run.

    Raises:
        SettingsError: If the device does not compute so, or the back end is not installed.
        ValueError: If means, standard deviations and members differ in bands.
    """

    def __init__(
        self,
        members: Sequence[Member],
        classes: int,
        *,
        device: str | torch.device = "cpu",
        precision: str = "auto",
        backend: str = "torch",
        symmetries: bool = False,
    ) -> None:
        if len({len(m.mean) for m in members} | {len(m.std) for m in members}) != 1:
            raise ValueError("means and standard deviations of different numbers of bands")
        self.classes, self.bands = classes, len(members[0].mean)
        self.device = torch.device(device)
        self._chosen, self._backend, self._symmetries = precision, backend, symmetries
        self._members = [Member(m.network.eval(), m.mean, m.std) for m in members]
        self.precision: Precision = backends.backend_precision(backend, precision, self.device)
        self._runners: list[Callable[[Tensor], Tensor]] | None = None

    @property
    def one_size(self) -> bool:
        """Whether the back end prepares itself for each number of windows anew, for long."""
        return self._backend in ("compile", "openvino")

    def check(self, images: NDArray[np.uint8], valid: NDArray[np.bool_]) -> float:
        """Compare the chosen precision with float32 on a sample, and say how well they agree.

        Symmetries are left out on both sides. Where too few pixels agree, or too few are valid to
        tell, and the precision is ``auto``, float32 is used from now on.

        Args:
            images: Shape ``(N, bands, rows, cols)``, of the windows' own size.
            valid: Shape ``(N, rows, cols)``.

        Returns:
            Share of the valid pixels that get the same class; NaN where there are too few.
        """
        if self.precision == "float32" and self._backend == "torch":
            return 1.0
        agreement = math.nan
        if np.count_nonzero(valid) < FEW:
            log.info("Too few pixels have data to compare %s with float32.", self.precision)
        else:
            plain = Predictor(
                self._members, self.classes, device=self.device, precision=self.precision,
                backend=self._backend,
            )  # fmt: skip
            exact = Predictor(self._members, self.classes, device=self.device, precision="float32")
            mine, theirs = (
                torch.stack(predictor(images, valid)).argmax(dim=1).cpu().numpy()
                for predictor in (plain, exact)
            )
            if not self._symmetries:
                self._runners = plain._runners
            agreement = float((mine == theirs)[valid].mean())
            log.info(
                "%s in %s gives %.2f %% of a sample's pixels the class that float32 gives them",
                self._backend,
                self.precision,
                100 * agreement,
            )
        if self.precision != "float32" and not agreement >= ENOUGH:
            if self._chosen == "auto":
                log.info("This map is made in float32, which takes longer.")
                self.precision, self._runners = "float32", None
            else:
                log.warning("Write mapping.precision: float32 where that matters.")
        return agreement

    # Only here and not around a generator: there it would hold for the caller's code as well.
    @torch.inference_mode()
    def __call__(
        self,
        images: NDArray[np.uint8],
        valid: NDArray[np.bool_],
        kept: Sequence[tuple[slice, slice]] | None = None,
    ) -> list[Tensor]:
        """Predict windows.

        Args:
            images: Shape ``(N, bands, rows, cols)``; with symmetries, as many rows as columns.
            valid: Shape ``(N, rows, cols)``; other pixels look like the mean of the training.
            kept: Rows and columns of each window that are asked for; all where left out.

        Returns:
            Of each window the probabilities ``(classes, rows, cols)`` of what is kept, float32,
            on the device. On a GPU they may still be being computed.

        Raises:
            TrainingError: If the networks give another number of classes, or the device's memory
                does not hold the windows.
        """
        if images.shape[1] != self.bands:
            raise ValueError(f"{images.shape[1]} bands read, means of {self.bands}")
        kept = kept or [(slice(None), slice(None))] * len(images)
        totals: list[Tensor] = []
        try:
            if self._runners is None:
                self._runners = [
                    backends.runner(
                        self._backend, m.network, precision=self.precision, device=self.device
                    )
                    for m in self._members
                ]
            pixels = self._there(images)
            # Where all of them are valid, as nearly everywhere, nothing is to be masked.
            known = None if valid.all() else self._there(valid).unsqueeze(1)
            for member, run in zip(self._members, self._runners, strict=True):
                normal = _normalised(pixels, known, member)
                for turned, back in _symmetries(normal) if self._symmetries else [(normal, _same)]:
                    found = self._probabilities(back(self._checked(run(turned), turned)), kept)
                    for total, part in zip(totals, found, strict=False):
                        total.add_(part)
                    totals = totals or found
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"mapping: the memory of {self.device} does not hold {len(images)} windows of "
                f"{images.shape[3]} x {images.shape[2]} pixels.",
                remedy="Make mapping.batch_size or mapping.window_px smaller.",
            ) from error
        count = len(self._members) * (8 if self._symmetries else 1)
        return totals if count == 1 else [total.div_(count) for total in totals]

    def _checked(self, logits: Tensor, images: Tensor) -> Tensor:
        expected = (len(images), self.classes, *images.shape[2:])
        if tuple(logits.shape) != expected:
            raise TrainingError(
                f"mapping: the network gives {tuple(logits.shape)}, not {expected} (windows, "
                "classes, rows, columns).",
                remedy="It was trained for other classes; use a checkpoint of this nomenclature.",
            )
        return logits

    def _probabilities(self, logits: Tensor, kept: Sequence[tuple[slice, slice]]) -> list[Tensor]:
        # Of what is kept alone, and class by class: in the order of the network's own memory the
        # softmax would take a tenth of the network's time. float32: bf16 has 8 bits, too few for
        # per cents.
        return [
            window[:, rows, cols].to(torch.float32).contiguous().softmax(dim=0)
            for window, (rows, cols) in zip(logits, kept, strict=True)
        ]

    def _there(self, array: NDArray[np.uint8] | NDArray[np.bool_]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type != "cuda":
            return tensor
        # Pinned, so that it goes over while the GPU still computes the windows before.
        return tensor.pin_memory().to(self.device, non_blocking=True)


def check_finite(probabilities: Tensor, precision: Precision) -> None:
    """Stop a map whose network gives no numbers.

    Raises:
        TrainingError: If any value is none.
    """
    if not bool(torch.isfinite(probabilities).all()):
        raise TrainingError(
            "mapping: the network gives values that are no numbers.",
            [f"precision: {precision}"],
            "Training diverged; or, with fp16, numbers grew too large: use bf16 or float32.",
        )


def _normalised(pixels: Tensor, known: Tensor | None, member: Member) -> Tensor:
    """Normalised images, float32."""
    shape = (1, -1, 1, 1)
    mean = torch.tensor(member.mean, dtype=torch.float32, device=pixels.device).view(shape)
    std = torch.tensor(member.std, dtype=torch.float32, device=pixels.device).view(shape)
    if known is not None:
        # Pixels without data are 0 in the tiles too, whatever the orthophoto's own nodata value.
        pixels = pixels * known
    # Band by band: back ends that want channels last turn it round when it is done.
    return pixels.to(torch.float32).sub_(mean).div_(std)


def _same(images: Tensor) -> Tensor:
    return images


def _symmetries(images: Tensor) -> list[tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """The eight symmetries of a square, each with the way back."""
    found: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = []
    for turns in range(4):
        for flipped in (False, True):
            turned = images.rot90(turns, (2, 3))
            turned = turned.flip(3) if flipped else turned

            def back(maps: Tensor, turns: int = turns, flipped: bool = flipped) -> Tensor:
                return (maps.flip(3) if flipped else maps).rot90(-turns, (2, 3))

            found.append((turned, back))
    return found
