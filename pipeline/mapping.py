"""Seamless maps of whole sheets: windows in, bands of classes out, memory of one band.

While the network computes a window, the rows of the next band are read; whoever takes the bands
writes them meanwhile. On a GPU the next windows go over while the last ones are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE
from pipeline.prediction import Predictor, check_finite
from pipeline.sections import MappingSettings
from pipeline.sheet_rows import Read, SheetRows
from pipeline.windows import Axis, axis_parts, blend_weights, touching

# What a GPU needs to be busy; a processor is busy with one, and its caches like it better.
_PIXELS_AT_ONCE = {"cuda": 8 * 512 * 512, "cpu": 512 * 512}

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
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
) -> Iterator[MappedBand]:
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

    Returns:
        An iterator of bands as wide as the region; each is computed when it is asked for.

    Raises:
        TrainingError: While iterating, if the network gives another number of classes or no
            numbers at all, or the device's memory does not hold the windows.
        ValueError: If the overlap is odd or leaves nothing to keep, or there are no such layers.
    """
    # Not a generator itself: what is wrong with the arguments is told at the call.
    sheet = _Sheet.of(predictor, grid, settings, region or grid.window, inside)
    return sheet.bands(read, first_row, block_height, threads, advance or _silent)


def sample_window(read: Read, grid: PixelGrid, settings: MappingSettings) -> Window | None:
    """A window of the size that the network will see with much valid ground, to try things on.

    Of nine places spread over the sheet, the middle one first, it is the first that is all valid,
    or the most valid one; None where all of them are without data.
    """
    size = settings.window_px
    width, height = min(size, grid.width), min(size, grid.height)
    best: tuple[int, Window | None] = (0, None)
    for down, across in ((2, 2), (1, 1), (3, 3), (1, 3), (3, 1), (2, 1), (2, 3), (1, 2), (3, 2)):
        col = (grid.width - width) * across // 4
        row = (grid.height - height) * down // 4
        window = Window(col, row, width, height)
        known = int(np.count_nonzero(read(window)[1]))
        if known > best[0]:
            best = (known, window)
        if known == window.pixels:
            break
    return best[1]


def _silent(_: int) -> None:
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

    @classmethod
    def of(
        cls,
        predictor: Predictor,
        grid: PixelGrid,
        settings: MappingSettings,
        region: Window,
        inside: Inside | None,
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
            settings.seams == "blend", settings.batch_size or max(1, fitting),
        )  # fmt: skip

    def bands(
        self,
        read: Read,
        first_row: int,
        block_height: int,
        threads: int,
        advance: Callable[[int], None],
    ) -> Iterator[MappedBand]:
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
        seams = _Seams(self, columns) if self.blend else None
        with SheetRows(read, seen, block_height, threads) as source:
            for number in range(start, chosen.stop):
                needed = self.rows[number].mirrored(self.grid.height)
                first, behind = int(needed.min()), int(needed.max()) + 1
                image, valid = source.take(first, behind)
                if number + 1 < chosen.stop:
                    after = self.rows[number + 1].mirrored(self.grid.height)
                    source.announce(int(after.min()), int(after.max()) + 1)
                strip = _Strip(
                    _taken(image, needed - first, 1), _taken(valid, needed - first, 0), left
                )
                band = self._window(spans[number])
                wanted = self._wanted(band, image=strip, part=self.rows[number])
                waiting = [part for part in columns if self._has_ground(part, strip, wanted, band)]
                layers = {name: self._empty(name, band) for name in self.layers}
                if seams is None:
                    self._cropped(strip, self.rows[number], waiting, band, layers, advance)
                else:
                    seams.add(strip, number, waiting, band, layers)
                if number < begun[0]:
                    continue
                for pixels in layers.values():
                    pixels[..., ~wanted] = IGNORE
                if seams is None:  # of windows that were passed over
                    left_out = [part for part in columns if part not in waiting]
                    advance(sum(_width(part, band) for part in left_out) * band.height)
                else:
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

    def _wanted(self, band: Window, image: _Strip, part: Axis) -> NDArray[np.bool_]:
        """Which pixels of a band are mapped: valid, and asked for."""
        rows = slice(band.row - part.first, band.bottom - part.first)
        columns = slice(band.col - image.left, band.right - image.left)
        wanted = image.valid[rows, columns]
        if self.inside is not None and band.height:
            wanted = wanted & self.inside(band)
        return wanted

    def _has_ground(
        self, part: Axis, strip: _Strip, wanted: NDArray[np.bool_], band: Window
    ) -> bool:
        """Whether a window gives something to the map."""
        if self.blend:
            # Pixels that it shares with its neighbours count too: weights are of all windows.
            first, behind = max(part.first, 0), min(part.behind, self.grid.width)
            return bool(strip.valid[:, first - strip.left : behind - strip.left].any())
        first, behind = max(part.kept[0], band.col), min(part.kept[1], band.right)
        return bool(wanted[:, first - band.col : behind - band.col].any())

    def _empty(self, layer: str, band: Window) -> NDArray[np.uint8]:
        shape = (band.height, band.width)
        full = (self.predictor.classes, *shape) if layer == "probabilities" else shape
        return np.full(full, IGNORE, np.uint8)

    def predicted(
        self, strip: _Strip, waiting: Sequence[Axis], kept: Mapping[Axis, tuple[slice, slice]]
    ) -> Iterator[tuple[Axis, Tensor]]:
        """Probabilities of what is kept of windows, ``(classes, rows, cols)``, one by one."""
        before: list[tuple[Axis, Tensor]] = []
        for start in range(0, len(waiting), self.batch_size):
            parts = waiting[start : start + self.batch_size]
            images, valid = zip(*(strip.window(p, self.grid.width) for p in parts), strict=True)
            asked = [kept[part] for part in parts]
            found = self.predictor(np.stack(images), np.stack(valid), asked)
            # Handed on one batch late: a GPU computes this one while that one is looked at.
            yield from before
            before = list(zip(parts, found, strict=True))
        yield from before

    def _cropped(
        self,
        strip: _Strip,
        rows: Axis,
        waiting: Sequence[Axis],
        band: Window,
        layers: Mapping[str, NDArray[np.uint8]],
        advance: Callable[[int], None],
    ) -> None:
        """Fill a band with what its windows keep."""
        inner = slice(band.row - rows.first, band.bottom - rows.first)
        ends = {p: (max(p.kept[0], band.col), min(p.kept[1], band.right)) for p in waiting}
        kept = {
            part: (inner, slice(first - part.first, behind - part.first))
            for part, (first, behind) in ends.items()
        }
        for part, found in self.predicted(strip, waiting, kept):
            first, behind = ends[part]
            self.fill(found, layers, slice(first - band.col, behind - band.col))
            advance((behind - first) * band.height)

    def fill(
        self, probabilities: Tensor, layers: Mapping[str, NDArray[np.uint8]], columns: slice
    ) -> None:
        """Write probabilities ``(classes, rows, cols)`` as the layers that are asked for."""
        best = probabilities.amax(dim=0)
        check_finite(best, self.predictor.precision)
        for name, target in layers.items():
            match name:
                case "classes":
                    values = _ids(probabilities, best)
                case "confidence":
                    values = best.mul(100).round_()
                case "probabilities":
                    values = probabilities.mul(100).round_()
                case "entropy":
                    most = math.log(max(2, self.predictor.classes))
                    values = torch.special.entr(probabilities).sum(0).mul_(100 / most).round_()
                case _:
                    raise ValueError(f"there is no layer {name!r}")
            target[..., columns] = values.to(torch.uint8).cpu().numpy()


@dataclass(frozen=True)
class _Strip:
    """What the windows of one row of windows see: rows mirrored already, columns of the sheet.

    Attributes:
        image: Shape ``(bands, rows, cols)``.
        valid: Shape ``(rows, cols)``.
        left: Column of the sheet of the first column.
    """

    image: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    left: int

    def window(self, part: Axis, width: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Image and valid pixels of one window."""
        columns = part.mirrored(width) - self.left
        return _taken(self.image, columns, 2), _taken(self.valid, columns, 1)


class _Seams:
    """Adds windows up, weighted; what no later window sees is finished.

    Held are the rows that the next row of windows sees too, of all columns, and one window.
    """

    def __init__(self, sheet: _Sheet, columns: Sequence[Axis]) -> None:
        self._sheet, self._columns = sheet, columns
        down = blend_weights(sheet.rows, sheet.grid.height)
        across = blend_weights(sheet.columns, sheet.grid.width)
        self._down = [torch.from_numpy(weights) for weights in down]
        self._across = {
            part: torch.from_numpy(weights)
            for part, weights in zip(sheet.columns, across, strict=True)
        }
        self._left = max(0, columns[0].first)
        right = min(columns[-1].behind, sheet.grid.width)
        self._width = right - self._left
        # What the rows below will add to: from the first row that the next windows see.
        self._shared: Tensor | None = None

    def add(
        self,
        strip: _Strip,
        number: int,
        waiting: Sequence[Axis],
        band: Window,
        layers: Mapping[str, NDArray[np.uint8]],
    ) -> None:
        """Add a row of windows, and fill the band that is finished with it."""
        sheet = self._sheet
        rows = sheet.rows[number]
        below = sheet.rows[number + 1].first if number + 1 < len(sheet.rows) else rows.behind
        finished = below - rows.first
        shared = torch.zeros((sheet.predictor.classes, rows.seen - finished, self._width))
        weights = self._down[number][:, None]
        # Columns from `done` on are not finished; `sums` begins there.
        done = self._columns[0].first
        sums = torch.zeros((sheet.predictor.classes, rows.seen, self._columns[0].seen))
        whole = {part: (slice(None), slice(None)) for part in waiting}
        predicted = sheet.predicted(strip, waiting, whole)
        computed = set(waiting)
        for place, part in enumerate(self._columns):
            if part in computed:
                same, probabilities = next(predicted)
                assert same == part
                begin = part.first - done
                sums[:, :, begin : begin + part.seen].addcmul_(
                    probabilities.cpu() * weights, self._across[part].expand_as(probabilities)
                )
            last = place + 1 == len(self._columns)
            upto = part.behind if last else self._columns[place + 1].first
            self._finish(sums[:, :, : upto - done], done, rows, finished, shared, band, layers)
            moved = torch.zeros_like(sums)
            kept = sums.shape[2] - (upto - done)
            if kept > 0:
                moved[:, :, :kept] = sums[:, :, upto - done :]
            sums, done = moved, upto
        self._shared = shared

    def _finish(
        self,
        sums: Tensor,
        first: int,
        rows: Axis,
        finished: int,
        shared: Tensor,
        band: Window,
        layers: Mapping[str, NDArray[np.uint8]],
    ) -> None:
        """Take columns that no later window of this row sees: some rows are finished with them."""
        begin, end = max(first, self._left), min(first + sums.shape[2], self._left + self._width)
        if begin >= end:
            return
        sums = sums[:, :, begin - first : end - first]
        here = slice(begin - self._left, end - self._left)
        if self._shared is not None:
            sums[:, : self._shared.shape[1]] += self._shared[:, :, here]
        shared[:, :, here] = sums[:, finished:]
        begin, end = max(begin, band.col), min(end, band.right)
        if begin < end and band.height:
            top = band.row - rows.first
            kept = sums[:, top : top + band.height]
            offset = self._left + here.start
            self._sheet.fill(
                kept[:, :, begin - offset : end - offset],
                layers,
                slice(begin - band.col, end - band.col),
            )


def _ids(probabilities: Tensor, best: Tensor) -> Tensor:
    """Number of the first class that has the highest probability, uint8, ``(rows, cols)``."""
    # A tenth of the time that torch takes to look for the place of a maximum.
    ids = torch.zeros_like(best, dtype=torch.uint8)
    for number in range(len(probabilities) - 1, 0, -1):
        ids.masked_fill_(probabilities[number] == best, number)
    return ids.masked_fill_(probabilities[0] == best, 0)


def _width(part: Axis, band: Window) -> int:
    """Columns of a band that a window keeps."""
    return max(0, min(part.kept[1], band.right) - max(part.kept[0], band.col))


def _taken(array: NDArray[Any], places: NDArray[np.intp], axis: int) -> NDArray[Any]:
    """Rows or columns by number; without a copy where they follow each other."""
    first, count = int(places[0]), len(places)
    if int(places[-1]) - first == count - 1 and (np.diff(places) == 1).all():
        return array[(slice(None),) * axis + (slice(first, first + count),)]
    return np.take(array, places, axis=axis)
