"""Blend: windows added up, weighted by the distance to their edges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from pipeline.grid import Window
from pipeline.windows import Axis, blend_weights


class Blend:
    """Adds rows of windows up; what no later window sees is finished.

    Held are the rows that the next row of windows sees too, of all columns, and one window.

    Args:
        rows: All parts of the sheet's rows.
        columns: All parts of its columns.
        chosen: Columns that are mapped, from left to right.
        shape: Classes, rows and columns of the sheet.
    """

    def __init__(
        self,
        rows: Sequence[Axis],
        columns: Sequence[Axis],
        chosen: Sequence[Axis],
        shape: tuple[int, int, int],
    ) -> None:
        self._rows, self._columns = rows, chosen
        self._classes, height, width = shape
        self._down = [torch.from_numpy(weights) for weights in blend_weights(rows, height)]
        across = map(torch.from_numpy, blend_weights(columns, width))
        self._across = dict(zip(columns, across, strict=True))
        self._left = max(0, chosen[0].first)
        self._width = min(chosen[-1].behind, width) - self._left
        # What the rows below will add to: from the first row that the next windows see.
        self._shared: Tensor | None = None

    def add(
        self,
        number: int,
        band: Window,
        predicted: Iterable[tuple[Axis, Tensor]],
        finished: Callable[[Tensor, Window], None],
    ) -> None:
        """Add a row of windows.

        Args:
            number: Which of the rows; one behind the other.
            band: Pixels of the map that are finished with it.
            predicted: Probabilities ``(classes, rows, cols)`` of its windows from left to right;
                those without ground may be left out.
            finished: Is told the finished probabilities of parts of the band.
        """
        rows = self._rows[number]
        last = number + 1 == len(self._rows)
        below = rows.behind if last else self._rows[number + 1].first
        done = below - rows.first
        shared = torch.zeros((self._classes, rows.seen - done, self._width))
        weights = self._down[number][:, None]
        # Columns from `first` on are not finished; `sums` begins there.
        first = self._columns[0].first
        sums = torch.zeros((self._classes, rows.seen, self._columns[0].seen))
        windows = iter(predicted)
        waiting = next(windows, None)
        for place, part in enumerate(self._columns):
            if waiting is not None and waiting[0] == part:
                probabilities = waiting[1].cpu()
                begin = part.first - first
                sums[:, :, begin : begin + part.seen].addcmul_(
                    probabilities * weights, self._across[part].expand_as(probabilities)
                )
                waiting = next(windows, None)
            behind = [*(p.first for p in self._columns[place + 1 : place + 2]), part.behind][0]
            count = behind - first
            self._finish(sums[:, :, :count], first, rows.first, done, shared, band, finished)
            moved = torch.zeros_like(sums)
            if count < sums.shape[2]:
                moved[:, :, : sums.shape[2] - count] = sums[:, :, count:]
            sums, first = moved, behind
        self._shared = shared

    def _finish(
        self,
        sums: Tensor,
        first: int,
        top: int,
        done: int,
        shared: Tensor,
        band: Window,
        finished: Callable[[Tensor, Window], None],
    ) -> None:
        """Take columns that no later window of this row sees: some rows are finished with them."""
        begin, end = max(first, self._left), min(first + sums.shape[2], self._left + self._width)
        if begin >= end:
            return
        sums = sums[:, :, begin - first : end - first]
        here = slice(begin - self._left, end - self._left)
        if self._shared is not None:
            sums[:, : self._shared.shape[1]] += self._shared[:, :, here]
        shared[:, :, here] = sums[:, done:]
        left, right = max(begin, band.col), min(end, band.right)
        if left < right and band.height:
            rows = slice(band.row - top, band.bottom - top)
            window = Window(left, band.row, right - left, band.height)
            finished(sums[:, rows, left - begin : right - begin], window)
