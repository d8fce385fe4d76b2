"""Seamless maps of whole sheets: windows in, bands of classes out, memory of one band.

While the network computes a window, the rows of the next band are read; whoever takes the bands
writes them meanwhile. On a GPU the next windows go over while the last ones are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import gpus
from pipeline.blending import Blend
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE
from pipeline.prediction import Predictor, check_finite
from pipeline.sections import MappingSettings
from pipeline.sheet_rows import Read, SheetRows
from pipeline.windows import Axis, axis_parts, touching

# What a GPU needs to be busy; a processor is busy with one, and its caches like it better.
_PIXELS_AT_ONCE = {"cuda": 8 * 512 * 512, "cpu": 512 * 512}

SAMPLE_PX = 512
"""Pixels a side of a sample: a quarter of a million of them tell what a precision costs."""

Inside = Callable[[Window], NDArray[np.bool_]]
"""Window inside the sheet -> which of its pixels are asked for, shape ``(rows, cols)``."""


@dataclass(frozen=True)
class MappedBand:
    """The map of some rows, of all columns that are asked for.

    Attributes:
        window: The pixels.
        layers: By name, shape ``(rows, cols)``; 255 where the orthophoto has no data. ``classes``:
            ids. ``confidence``: probability of that class in per cent. ``entropy``: of the
            probabilities, in per cent of its greatest value. ``probabilities``: of each class in
            per cent, shape ``(classes, rows, cols)``.
    """

    window: Window
    layers: Mapping[str, NDArray[np.uint8]]


def best_device() -> torch.device:
    """The first GPU that the job was given, or the CPU."""
    return torch.device(gpus.accelerator())


def predicted_bands(
    predictor: Predictor,
    read: Read,
    grid: PixelGrid,
    settings: MappingSettings,
    *,
    region: Window | None = None,
    inside: Inside | None = None,
    first_row: int = 0,
    block_height: int = 512,
    threads: int = 1,
    advance: Callable[[int], None] | None = None,
    between: Callable[[], None] | None = None,
) -> Generator[MappedBand, None, None]:
    """Map a sheet, top to bottom, each pixel once.

    The network sees windows of ``window_px``; neighbours share ``overlap_px``. With ``crop`` each
    keeps the half on its own side; with ``blend`` what they share is the mean of both. Beyond the
    sheet's edges the network sees the ground mirrored, as often as a narrow sheet needs. With
    ``crop``, a network that looks no further than half of the overlap gives the same map for any
    window (:func:`pipeline.windows.axis_parts`). Windows without a valid pixel are not computed;
    other pixels without data look to the network like the mean of the training.

    Args:
        predictor: The network.
        read: Gives the pixels of windows inside the sheet.
        grid: The sheet.
        settings: Section ``mapping``: windows, seams and layers.
        region: What is mapped of the sheet; all of it where left out. Its pixels are those of the
            whole sheet's map: windows lie where they would lie for that.
        inside: Which pixels are asked for; all where left out.
        first_row: Rows of the region above this one are there already, whole bands of them or
            not; bands that end above it are not computed.
        block_height: Rows of the file's blocks, which are read together.
        threads: Threads that read.
        advance: Is told the number of pixels done since it was called last.
        between: Is called before each batch of windows; what it raises ends the map there.

    Returns:
        An iterator of bands as wide as the region; each is computed when it is asked for.

    Raises:
        TrainingError: While iterating, if the network gives another number of classes or no
            numbers at all, or the device's memory does not hold the windows.
        ValueError: If the overlap is odd or leaves nothing to keep, or there are no such layers.
    """
    # Not a generator itself: what is wrong with the arguments is told at the call.
    sheet = _Sheet.of(predictor, grid, settings, region or grid.window, inside, between or _nothing)
    return sheet.bands(read, first_row, block_height, threads, advance or _silent)


def sample_window(read: Read, region: Window, settings: MappingSettings) -> Window | None:
    """A window with much valid ground, to try things on: of :data:`SAMPLE_PX` at most.

    Of nine places spread over the region, the middle one first, it is the first that is all valid,
    or the most valid one; None where all of them are without data.
    """
    size = min(settings.window_px, SAMPLE_PX)
    width, height = min(size, region.width), min(size, region.height)
    best: tuple[int, Window | None] = (0, None)
    for down, across in ((2, 2), (1, 1), (3, 3), (1, 3), (3, 1), (2, 1), (2, 3), (1, 2), (3, 2)):
        col = region.col + (region.width - width) * across // 4
        row = region.row + (region.height - height) * down // 4
        window = Window(col, row, width, height)
        known = int(np.count_nonzero(read(window)[1]))
        if known > best[0]:
            best = (known, window)
        if known == window.pixels:
            break
    return best[1]


def _silent(_: int) -> None:
    return


def _nothing() -> None:
    return


@dataclass(frozen=True)
class _Sheet:
    """A sheet cut into windows."""

    predictor: Predictor
    grid: PixelGrid
    region: Window
    inside: Inside | None
    rows: Sequence[Axis]
    columns: Sequence[Axis]
    layers: Sequence[str]
    blend: bool
    batch_size: int
    between: Callable[[], None]

    @classmethod
    def of(
        cls,
        predictor: Predictor,
        grid: PixelGrid,
        settings: MappingSettings,
        region: Window,
        inside: Inside | None,
        between: Callable[[], None],
    ) -> _Sheet:
        size, overlap = settings.window_px, settings.overlap_px
        # A square where windows are turned.
        least = min(size, max(grid.height, grid.width) + overlap) if settings.symmetries else 0
        rows = axis_parts(grid.height, size, overlap, least)
        columns = axis_parts(grid.width, size, overlap, least)
        pixels = rows[0].seen * columns[0].seen
        fitting = _PIXELS_AT_ONCE.get(predictor.device.type, 512 * 512) // pixels
        return cls(
            predictor, grid, region, inside, rows, columns, settings.layers,
            settings.seams == "blend", settings.batch_size or max(1, fitting), between,
        )  # fmt: skip

    def bands(
        self,
        read: Read,
        first_row: int,
        block_height: int,
        threads: int,
        advance: Callable[[int], None],
    ) -> Generator[MappedBand, None, None]:
        """The bands that end below ``first_row`` of the region."""
        top, bottom = self.region.row, self.region.bottom
        chosen = touching(self.rows, top, bottom, seen=self.blend)
        across = touching(self.columns, self.region.col, self.region.right, seen=self.blend)
        columns = [self.columns[i] for i in across]
        spans = self._spans(chosen)
        begun = [i for i in chosen if spans[i][1] > max(top, top + first_row)]
        if not begun:
            return
        # What a blended band shares with those above it has to be computed again.
        shared = [i for i in chosen if self.rows[i].behind > spans[begun[0]][0]]
        start = shared[0] if self.blend else begun[0]
        places = np.concatenate([part.mirrored(self.grid.width) for part in columns])
        left, right = int(places.min()), int(places.max()) + 1
        seen = Window(left, 0, right - left, self.grid.height)
        blend = None
        if self.blend:
            grid = self.grid
            shape = (self.predictor.classes, grid.height, grid.width)
            blend = Blend(self.rows, self.columns, columns, shape)
        with SheetRows(read, seen, block_height, threads) as source:
            for number in range(start, chosen.stop):
                needed = self.rows[number].mirrored(self.grid.height)
                after = self.rows[min(number + 1, chosen.stop - 1)].mirrored(self.grid.height)
                source.hold(int(needed.min()), int(max(needed.max(), after.max())) + 1)
                band = self._window(spans[number])
                layers = {name: self._empty(name, band) for name in self.layers}
                row = _Row(self, source, self.rows[number], band, layers)
                if blend is None:
                    self._cropped(row, columns, advance)
                else:
                    # What a window shares with its neighbours counts too: not only what it keeps.
                    seeing = [part for part in columns if row.gives(part)]
                    whole = {part: (slice(None), slice(None)) for part in seeing}
                    blend.add(number, band, self.predicted(row, seeing, whole), row.fill)
                if number >= begun[0]:
                    if blend is not None:
                        advance(band.pixels)
                    yield MappedBand(band, layers)

    def _spans(self, chosen: range) -> dict[int, tuple[int, int]]:
        """First row of each band, and the one behind its last, inside the region."""
        spans = {}
        for i in chosen:
            begin, end = self.rows[i].kept
            if self.blend:  # finished is what no later window sees
                begin = self.rows[i].first if i > 0 else 0
                end = self.rows[i + 1].first if i + 1 < len(self.rows) else self.grid.height
            spans[i] = (max(begin, self.region.row), min(end, self.region.bottom))
        return spans

    def _window(self, span: tuple[int, int]) -> Window:
        return Window(self.region.col, span[0], self.region.width, max(0, span[1] - span[0]))

    def _empty(self, layer: str, band: Window) -> NDArray[np.uint8]:
        shape = (band.height, band.width)
        full = (self.predictor.classes, *shape) if layer == "probabilities" else shape
        return np.full(full, IGNORE, np.uint8)

    def predicted(
        self, row: _Row, waiting: Sequence[Axis], kept: Mapping[Axis, tuple[slice, slice]]
    ) -> Iterator[tuple[Axis, Tensor]]:
        """Probabilities of what is kept of windows, ``(classes, rows, cols)``, one by one."""
        before: list[tuple[Axis, Tensor]] = []
        for start in range(0, len(waiting), self.batch_size):
            self.between()
            parts = waiting[start : start + self.batch_size]
            images, valid = zip(*(row.seen(part) for part in parts), strict=True)
            asked = [kept[part] for part in parts]
            if self.predictor.one_size and start:  # the last batch of a row is filled up
                more = self.batch_size - len(parts)
                images, valid = (*images, *images[-1:] * more), (*valid, *valid[-1:] * more)
                asked += asked[-1:] * more
            found = self.predictor(_stacked(images), _stacked(valid), asked)
            # Handed on one batch late: a GPU computes this one while that one is looked at.
            yield from before
            before = list(zip(parts, found, strict=False))
        yield from before

    def _cropped(self, row: _Row, columns: Sequence[Axis], advance: Callable[[int], None]) -> None:
        """Fill a band with what its windows keep."""
        band = row.band
        inner = slice(band.row - row.rows.first, band.bottom - row.rows.first)
        waiting, kept = [], {}
        for part in columns:
            window = _kept(part, band)
            if row.wanted(window).any():
                waiting.append(part)
                kept[part] = (inner, slice(window.col - part.first, window.right - part.first))
            else:
                advance(window.pixels)
        for part, found in self.predicted(row, waiting, kept):
            window = _kept(part, band)
            row.fill(found, window)
            advance(window.pixels)


@dataclass(frozen=True)
class _Row:
    """A row of windows, and the band of the map that is finished with it.

    Attributes:
        sheet: The sheet.
        source: Its pixels.
        rows: Rows that the windows see.
        band: What is finished.
        layers: The band's rasters, by name.
    """

    sheet: _Sheet
    source: SheetRows
    rows: Axis
    band: Window
    layers: Mapping[str, NDArray[np.uint8]]

    def seen(self, part: Axis) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Image and valid pixels of one window, mirrored beyond the sheet's edges."""
        rows = self.rows.mirrored(self.sheet.grid.height)
        cols = part.mirrored(self.sheet.grid.width)
        image, valid = self.source.pixels(_around(rows, cols))
        rows, cols = rows - rows.min(), cols - cols.min()
        return _taken(_taken(image, rows, 1), cols, 2), _taken(_taken(valid, rows, 0), cols, 1)

    def gives(self, part: Axis) -> bool:
        """Whether a window sees any pixel that is mapped."""
        seen = Window(part.first, self.rows.first, part.seen, self.rows.seen)
        window = seen.intersection(self.sheet.region)
        return window is not None and bool(self.wanted(window).any())

    def wanted(self, window: Window) -> NDArray[np.bool_]:
        """Which pixels are mapped: valid, and asked for."""
        valid = self.source.valid(window)
        return valid if self.sheet.inside is None else valid & self.sheet.inside(window)

    def fill(self, probabilities: Tensor, window: Window) -> None:
        """Write probabilities ``(classes, rows, cols)`` of a part of the band to its layers."""
        best = probabilities.amax(dim=0)
        classes = self.sheet.predictor.classes
        check_finite(best, self.sheet.predictor.precision)
        missing = ~self.wanted(window)
        for name, target in self.layers.items():
            match name:
                case "classes":
                    values = _ids(probabilities, best)
                case "confidence":
                    values = best.mul(100).round_()
                case "probabilities":
                    values = probabilities.mul(100).round_()
                case "entropy":
                    most = math.log(max(2, classes))
                    values = torch.special.entr(probabilities).sum(0).mul_(100 / most).round_()
                case _:
                    raise ValueError(f"there is no layer {name!r}")
            found = values.to(torch.uint8).cpu().numpy()
            found[..., missing] = IGNORE
            target[..., window.col - self.band.col : window.right - self.band.col] = found


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Arrays of one shape as one array; of a single one, itself."""
    return np.stack(arrays) if len(arrays) > 1 else arrays[0][np.newaxis]


def _ids(probabilities: Tensor, best: Tensor) -> Tensor:
    """Number of the first class that has the highest probability, uint8, ``(rows, cols)``."""
    # A tenth of the time that torch takes to look for the place of a maximum.
    ids = torch.zeros_like(best, dtype=torch.uint8)
    for number in range(len(probabilities) - 1, 0, -1):
        ids.masked_fill_(probabilities[number] == best, number)
    return ids.masked_fill_(probabilities[0] == best, 0)


def _kept(part: Axis, band: Window) -> Window:
    """Pixels of a band that a window keeps."""
    first, behind = max(part.kept[0], band.col), min(part.kept[1], band.right)
    return Window(first, band.row, behind - first, band.height)


def _around(rows: NDArray[np.intp], cols: NDArray[np.intp]) -> Window:
    """The window around some rows and columns."""
    left, top = int(cols.min()), int(rows.min())
    return Window(left, top, int(cols.max()) + 1 - left, int(rows.max()) + 1 - top)


def _taken(array: NDArray[Any], places: NDArray[np.intp], axis: int) -> NDArray[Any]:
    """Rows or columns by number; without a copy where they follow each other."""
    first, count = int(places[0]), len(places)
    if int(places[-1]) - first == count - 1 and (np.diff(places) == 1).all():
        return array[(slice(None),) * axis + (slice(first, first + count),)]
    return np.take(array, places, axis=axis)
