"""Trials of the back ends with one network on this machine: how fast, and how alike."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor, nn

from pipeline import checkpoint, geotiff
from pipeline.backends import BACKENDS, backend_precision, runner
from pipeline.checkpoint import ModelCard
from pipeline.errors import InputError, SettingsError
from pipeline.grid import Window

SHEET_MPX = 100
"""Size of the sheet that the recommendation is for, in megapixels."""

ENOUGH = 0.99
"""Share of a sample's pixels that a recommended back end gives the class of torch in float32."""

_PLACES = (0.5, 0.2, 0.8)
_LEAST_RUNS = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """What one back end did in one precision.

    Attributes:
        backend: One of ``BACKENDS``.
        precision: ``float32``, ``bf16`` or ``fp16``.
        speed: Megapixels a second, of the median window.
        start: Seconds until its first window was done, less those of a later one.
        noise: Share of the pixels of a window of noise that get the class of torch in float32.
        real: The same of the orthophoto's windows; None without an orthophoto.
        skipped: Why it was not tried; empty where it was.
    """

    backend: str
    precision: str
    speed: float = 0.0
    start: float = 0.0
    noise: float = 0.0
    real: float | None = None
    skipped: str = ""

    @property
    def agreement(self) -> float:
        """Share of alike pixels that counts: of real windows where there are any."""
        return self.noise if self.real is None else self.real

    @property
    def sheet_seconds(self) -> float:
        """Seconds for a sheet of :data:`SHEET_MPX` megapixels."""
        return self.start + SHEET_MPX / self.speed


def trials_of(
    model: Path, orthophoto: Path | None, *, window: int, seconds: float
) -> Iterator[Trial]:
    """Try each back end in each precision with a checkpoint.

    Args:
        model: The checkpoint.
        orthophoto: Where to take real windows from.
        window: Rows and columns of the windows.
        seconds: How long each is measured, after its start.

    Yields:
        A trial each, torch in float32 first.

    Raises:
        TrainingError: If the checkpoint cannot be read or is not for this orthophoto.
        InputError: If the orthophoto cannot be read, or is smaller than the window.
    """
    network, card = checkpoint.load(model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = _noise(card.bands, window)
    if orthophoto is not None:
        images = np.concatenate([images, _real(card, orthophoto, window)])
    yield from tried(network.to(device), _normalised(images, card, device), seconds=seconds)


def tried(network: nn.Module, images: Tensor, *, seconds: float) -> Iterator[Trial]:
    """Try each back end in each precision.

    Args:
        network: On the device of the images.
        images: Normalised, ``(N, bands, H, W)``: a window of noise, and real ones if any.
        seconds: How long each is measured, after its start.
    """
    expected: Tensor | None = None
    for backend in BACKENDS:
        for precision in ("float32", "bf16", *(["fp16"] if images.is_cuda else [])):
            log.info("%s in %s ...", backend, precision)
            try:
                trial, found = _trial(network, images, backend, precision, seconds, expected)
            except SettingsError as error:
                yield Trial(backend, precision, skipped=error.what)
                continue
            expected = found if expected is None else expected
            yield trial


def _trial(
    network: nn.Module,
    images: Tensor,
    backend: str,
    precision: str,
    seconds: float,
    expected: Tensor | None,
) -> tuple[Trial, Tensor]:
    begun = time.perf_counter()
    chosen = backend_precision(backend, precision, images.device)
    run = runner(backend, network, precision=chosen, device=images.device)

    def classes_of(number: int) -> Tensor:
        found = run(images[number : number + 1]).argmax(dim=1)
        if images.is_cuda:
            torch.cuda.synchronize()
        return found

    classes_of(0)
    first = time.perf_counter() - begun
    took: list[float] = []
    while len(took) < _LEAST_RUNS or sum(took) < seconds:
        begun = time.perf_counter()
        classes_of(len(took) % len(images))
        took.append(time.perf_counter() - begun)
    found = torch.cat([classes_of(number) for number in range(len(images))])
    same = (found == (found if expected is None else expected)).float()
    median = statistics.median(took)
    trial = Trial(
        backend,
        precision,
        speed=images.shape[-1] * images.shape[-2] / 1e6 / median,
        start=max(0.0, first - median),
        noise=same[:1].mean().item(),
        real=same[1:].mean().item() if len(images) > 1 else None,
    )
    return trial, found


def recommended(trials: Iterable[Trial]) -> str:
    """The settings that map a sheet of :data:`SHEET_MPX` megapixels soonest.

    Of what gives :data:`ENOUGH` of the pixels the class of torch in float32.
    """
    fit = [trial for trial in trials if not trial.skipped and trial.agreement >= ENOUGH]
    best = min(fit, key=lambda trial: trial.sheet_seconds)
    return (
        f"Soonest for a sheet of {SHEET_MPX} Mpx, {best.sheet_seconds:.0f} s:\n"
        f"mapping:\n  backend: {best.backend}\n  precision: {best.precision}"
    )


def table(trials: Sequence[Trial]) -> Table:
    """The trials for the terminal."""
    skipped = [f"Not tried, {t.backend} in {t.precision}: {t.skipped}" for t in trials if t.skipped]
    shown = Table(
        title=f"Back ends on {torch.get_num_threads()} threads",
        title_justify="left",
        caption="\n".join(
            [
                "Start: seconds before the first window. Noise, orthophoto: share of the pixels "
                "that get the class of torch in float32.",
                *skipped,
            ]
        ),
        caption_justify="left",
    )
    shown.add_column("back end", no_wrap=True)
    shown.add_column("precision", no_wrap=True)
    for heading in ("Mpx/s", "start", "noise", "orthophoto"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for trial in trials:
        if trial.skipped:
            continue
        real = "" if trial.real is None else f"{100 * trial.real:.2f} %"
        shown.add_row(
            trial.backend, trial.precision, f"{trial.speed:.2f}", f"{trial.start:.1f}",
            f"{100 * trial.noise:.2f} %", real,
        )  # fmt: skip
    return shown


def _noise(bands: int, window: int) -> NDArray[np.uint8]:
    shape = (1, bands, window, window)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _real(card: ModelCard, orthophoto: Path, window: int) -> NDArray[np.uint8]:
    """Windows of the middle and of two corners, where the orthophoto has data."""
    found = geotiff.read_orthophoto(orthophoto)
    grid = found.grid
    size = (grid.pixel_width, grid.pixel_height)
    card.check_fits(card.classes, len(found.bands), size, f"orthophoto {orthophoto}")
    if min(grid.width, grid.height) < window:
        raise InputError(
            f"{orthophoto}: is smaller than a window ({grid.width} x {grid.height} px).",
            remedy=f"Make --window smaller than {window}.",
        )
    images = []
    with geotiff.RasterReader(orthophoto, found.bands) as source:
        for place in _PLACES:
            col = round(place * (grid.width - window))
            row = round(place * (grid.height - window))
            image, valid = source.read_valid(Window(col, row, window, window))
            if valid.any():
                images.append(image * valid)
    if not images:
        raise InputError(f"{orthophoto}: has no data where windows were read.")
    return np.stack(images)


def _normalised(images: NDArray[np.uint8], card: ModelCard, device: torch.device) -> Tensor:
    mean, std = (
        torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (card.mean, card.std)
    )
    return ((torch.from_numpy(images).float() - mean) / std).to(device)
