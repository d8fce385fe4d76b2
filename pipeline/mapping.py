"""Seamless maps of whole sheets: windows in, bands of classes out, memory of one band."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import TrainingError
from pipeline.grid import PixelGrid, Window, split
from pipeline.networks.precision import Precision, autocast, resolve_precision
from pipeline.sections import MappingSettings

NODATA = 255
"""Class and confidence of pixels where the orthophoto has none."""

Read = Callable[[Window], tuple[NDArray[np.uint8], NDArray[np.bool_]]]
"""Window inside the sheet -> image ``(bands, rows, cols)``, valid ``(rows, cols)``."""

# Networks halve their input five times; sizes of such multiples need no padding of their own.
_STRIDE = 32

# What a GPU needs to be busy; a processor is busy with one, and its caches like it better.
_PIXELS_AT_ONCE = {"cuda": 8 * 512 * 512, "cpu": 512 * 512}


@dataclass(frozen=True)
class MappedBand:
    """The map of all columns of some rows.

    Attributes:
        window: The pixels; as wide as the sheet.
        classes: Class ids, shape ``(rows, cols)``; 255 where the orthophoto has no data.
        confidence: Probability of that class in per cent, 0 to 100, shape ``(rows, cols)``; 255
            where the orthophoto has no data.
    """

    window: Window
    classes: NDArray[np.uint8]
    confidence: NDArray[np.uint8]


class Axis(NamedTuple):
    """One part of the rows or of the columns: what is kept, and what the network sees.

    Attributes:
        kept: First kept pixel and the one behind the last.
        first: First pixel that the network sees; negative where that is mirrored ground.
        seen: Pixels that the network sees.
    """

    kept: tuple[int, int]
    first: int
    seen: int

    def mirrored(self, length: int) -> NDArray[np.intp]:
        """Pixel of the sheet behind each pixel that the network sees, shape ``(seen,)``."""
        return _mirrored(np.arange(self.first, self.first + self.seen), length)


def best_device() -> torch.device:
    """The first GPU that the job was given, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def predicted_bands(
    network: nn.Module,
    read: Read,
    grid: PixelGrid,
    settings: MappingSettings,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    classes: int,
    precision: str = "auto",
    device: str | torch.device = "cpu",
    batch_size: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Iterator[MappedBand]:
    """Map a sheet, top to bottom, each pixel once.

    The network sees windows of ``window_px``; neighbours share ``overlap_px``, of which each
    keeps the half on its own side. Beyond the sheet's edges it sees the ground mirrored, as often
    as a narrow sheet needs. The last window of a row lies inside the sheet as far as possible:
    all windows are of one size, and none sees more mirrored ground than it must. A network whose
    receptive field reaches no further than ``overlap_px / 2`` gives the same map for any window.
    Of rows, at most one band of ``window_px`` is held at a time. Windows that keep no valid pixel
    are not computed; other pixels without data look to the network like the mean of the training.

    Args:
        network: Images ``(N, bands, H, W)`` to logits ``(N, classes, H, W)``; it is moved to the
            device and put into evaluation mode.
        read: Gives the pixels of windows inside the sheet.
        grid: The sheet.
        settings: Section ``mapping``.
        mean: Mean of each band of the training split, of values from 0 to 255.
        std: Standard deviation of each band, likewise.
        classes: Number of classes.
        precision: ``auto``, ``float32``, ``bf16`` or ``fp16``.
        device: Where the network runs.
        batch_size: Windows at once; what suits the device where left out.
        advance: Is told the number of pixels done since it was called last.

    Returns:
        An iterator of bands as wide as the sheet; each is computed when it is asked for.

    Raises:
        TrainingError: While iterating, if the network gives another number of classes or no
            numbers at all, or the device's memory does not hold the windows.
        SettingsError: If the device cannot compute in this precision.
        ValueError: If ``mean``, ``std`` and the bands read differ in number, or the overlap is odd
            or leaves nothing to keep.
    """
    device = torch.device(device)
    chosen = resolve_precision(precision, device)
    network = network.to(device).eval().to(memory_format=torch.channels_last)
    predict = _Predictor(network, mean, std, classes, autocast_of=(chosen, device))
    rows = axis_parts(grid.height, settings.window_px, settings.overlap_px)
    columns = axis_parts(grid.width, settings.window_px, settings.overlap_px)
    if batch_size is None:
        pixels = rows[0].seen * columns[0].seen
        batch_size = max(1, _PIXELS_AT_ONCE.get(device.type, 512 * 512) // pixels)
    # Not a generator itself: what is wrong with the arguments is told at the call.
    return (_band(predict, read, grid, part, columns, batch_size, advance) for part in rows)


def axis_parts(length: int, window_px: int, overlap_px: int) -> list[Axis]:
    """Cut the rows or the columns of a sheet into parts that are kept, each with its surroundings.

    Args:
        length: Rows or columns of the sheet.
        window_px: What the network sees.
        overlap_px: What neighbours share; even, less than ``window_px``.

    Raises:
        ValueError: If the overlap is odd or leaves nothing to keep.
    """
    if overlap_px % 2 or not 0 <= overlap_px < window_px:
        raise ValueError(
            f"an overlap of {overlap_px} px in windows of {window_px} px: is even and smaller"
        )
    halo, kept = overlap_px // 2, window_px - overlap_px
    whole = -(-(length + overlap_px) // _STRIDE) * _STRIDE
    seen = min(window_px, whole)
    parts = []
    for window in split(Window(0, 0, length, 1), kept, 1):
        last = window.right == length
        first = length + halo - seen if last and window.col else window.col - halo
        parts.append(Axis((window.col, window.right), first, seen))
    return parts


def _band(
    predict: _Predictor,
    read: Read,
    grid: PixelGrid,
    rows: Axis,
    columns: Sequence[Axis],
    batch_size: int,
    advance: Callable[[int], None] | None,
) -> MappedBand:
    """Map the kept rows of one row of windows."""
    source_rows = rows.mirrored(grid.height)
    top = int(source_rows.min())
    # One read for all windows of the row: each block of the file is decoded once a band.
    image, valid = read(Window(0, top, grid.width, int(source_rows.max()) + 1 - top))
    first, behind = rows.kept
    band = Window(0, first, grid.width, behind - first)
    valid_kept = valid[first - top : behind - top]
    mapped = np.full((band.height, band.width), NODATA, np.uint8)
    confidence = np.full_like(mapped, NODATA)
    waiting = []
    for part in columns:
        left, right = part.kept
        if valid_kept[:, left:right].any():
            waiting.append(part)
        elif advance is not None:
            advance(band.height * (right - left))
    for start in range(0, len(waiting), batch_size):
        parts = waiting[start : start + batch_size]
        places = [np.ix_(source_rows - top, part.mirrored(grid.width)) for part in parts]
        ids, percents = predict(
            np.stack([image[:, r, c] for r, c in places]), np.stack([valid[p] for p in places])
        )
        inner = slice(first - rows.first, behind - rows.first)
        for part, window_ids, window_percents in zip(parts, ids, percents, strict=True):
            left, right = part.kept
            cut = (inner, slice(left - part.first, right - part.first))
            mapped[:, left:right] = window_ids[cut]
            confidence[:, left:right] = window_percents[cut]
        if advance is not None:
            advance(sum(band.height * (p.kept[1] - p.kept[0]) for p in parts))
    mapped[~valid_kept] = NODATA
    confidence[~valid_kept] = NODATA
    return MappedBand(band, mapped, confidence)


class _Predictor:
    """A network with its normalisation: images of 0 to 255 in, class ids and per cent out."""

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        classes: int,
        autocast_of: tuple[Precision, torch.device],
    ) -> None:
        if len(mean) != len(std):
            raise ValueError(f"{len(mean)} means and {len(std)} standard deviations")
        self.network = network
        self.precision, self.device = autocast_of
        self.classes = classes
        self.mean = torch.tensor(mean, dtype=torch.float32, device=self.device).view(1, -1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32, device=self.device).view(1, -1, 1, 1)

    # Only here and not around the generator: there it would hold for the caller's code as well.
    @torch.inference_mode()
    def __call__(
        self, images: NDArray[np.uint8], valid: NDArray[np.bool_]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Predict windows.

        Args:
            images: Shape ``(N, bands, rows, cols)``.
            valid: Shape ``(N, rows, cols)``.

        Returns:
            Class ids and per cent, both ``(N, rows, cols)``.
        """
        if images.shape[1] != self.mean.shape[1]:
            raise ValueError(f"{images.shape[1]} bands read, means of {self.mean.shape[1]}")
        try:
            logits = self._logits(images, valid)
            # float32: bf16 has 8 bits, too few for per cents.
            best, ids = logits.float().softmax(dim=1).max(dim=1)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"mapping: the memory of {self.device} does not hold {len(images)} windows of "
                f"{images.shape[3]} x {images.shape[2]} pixels.",
                remedy="Make mapping.window_px smaller.",
            ) from error
        if not bool(torch.isfinite(best).all()):
            raise TrainingError(
                "mapping: the network gives values that are no numbers.",
                [f"precision: {self.precision}"],
                "Training diverged; or, with fp16, numbers grew too large: use bf16 or float32.",
            )
        percent = (best * 100).round()
        return ids.to(torch.uint8).cpu().numpy(), percent.to(torch.uint8).cpu().numpy()

    def _logits(self, images: NDArray[np.uint8], valid: NDArray[np.bool_]) -> Tensor:
        pixels = torch.from_numpy(images).to(self.device)
        # Pixels without data are 0 in the tiles too, whatever the orthophoto's own nodata value.
        pixels = pixels * torch.from_numpy(valid).to(self.device).unsqueeze(1)
        normal = (pixels.float() - self.mean) / self.std
        with autocast(self.precision, self.device):
            logits: Tensor = self.network(normal.contiguous(memory_format=torch.channels_last))
        expected = (len(images), self.classes, *images.shape[2:])
        if tuple(logits.shape) != expected:
            raise TrainingError(
                f"mapping: the network gives {tuple(logits.shape)}, not {expected} (windows, "
                "classes, rows, columns).",
                remedy="It was trained for other classes; use a checkpoint of this nomenclature.",
            )
        return logits


def _mirrored(positions: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """Reflect positions outside ``0..length - 1`` at the first and the last pixel, repeatedly."""
    if length == 1:
        return np.zeros_like(positions)
    period = 2 * (length - 1)
    folded = positions % period
    return np.minimum(folded, period - folded)
