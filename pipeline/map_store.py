"""The rasters of a map while it is made: rows come in, and what is stored survives a kill.

Each row of blocks is compressed when its last pixel is there, together with the blocks of
overviews that it completes, and stored in a file a layer. At the end the files are put together
to Cloud-Optimised GeoTIFFs. A store that is opened again goes on behind the last row of blocks
that is whole in all layers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import cog, overviews
from pipeline.block_rows import Part, StoredRow, array_of, array_part, lost, open_row, write_row
from pipeline.geotiff import BLOCK
from pipeline.grid import PixelGrid

_FORMAT = 1  # raised when files of an older version would be taken amiss


@dataclass(frozen=True)
class Layer:
    """One raster of a map: uint8, 255 where there is no data.

    Attributes:
        name: Its name, a part of file names.
        bands: How many bands it has.
        overviews: ``mode`` for classes, ``average`` for measures.
        colors: ``#RRGGBB`` of the classes in the order of their ids; a palette is written.
        descriptions: Of the bands.
    """

    name: str
    bands: int = 1
    overviews: overviews.Method = "mode"
    colors: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()


class MapStore:
    """Layers of a map on their way to the disk, from the top to the bottom.

    What is written does not depend on the heights of the bands that are put, nor on how often the
    store was opened again. Two stores of one folder and fingerprint write the same files. In
    memory are a row of blocks, the overviews of at most another one, and what one layer's row
    becomes when it is compressed. Not for several threads at once.

    Args:
        folder: Where the files are; made when the first is written.
        grid: The pixel grid.
        layers: The rasters.
        fingerprint: Of all that decides the pixels; what the folder holds of another one is
            removed.
    """

    def __init__(
        self, folder: Path, grid: PixelGrid, layers: Sequence[Layer], fingerprint: str
    ) -> None:
        self._folder, self._grid = folder, grid
        self._layers = {layer.name: layer for layer in layers}
        self._levels = overviews.levels(grid.width, grid.height, BLOCK)
        blocks = [[layer.name, layer.bands, layer.overviews] for layer in layers]
        key = json.dumps([_FORMAT, BLOCK, fingerprint, astuple(grid), blocks])
        self._key = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
        self._remove_others()
        self._histograms = {
            layer.name: np.zeros((layer.bands, 256), np.int64) for layer in layers
        }  # fmt: skip
        self._rows = 0
        while self._rows < self._total and self._taken_up():
            self._rows += 1
        # Of each layer and level: the rows of overviews that wait to become blocks.
        self._waiting = {
            layer.name: [self._strips(layer.name, level) for level in range(1, self._levels + 1)]
            for layer in layers
        }
        self._filled = 0
        self._buffers = {
            layer.name: np.empty((layer.bands, min(BLOCK, grid.height), grid.width), np.uint8)
            for layer in layers
        }

    @property
    def rows(self) -> int:
        """Rows of the map."""
        return self._grid.height

    @property
    def rows_done(self) -> int:
        """Rows from the top that are stored: whole rows of blocks of 512, or all."""
        return min(self._rows * BLOCK, self._grid.height)

    def put(self, row: int, layers: Mapping[str, NDArray[np.uint8]]) -> None:
        """Take the next rows.

        Args:
            row: The first of them; rows that were put before are passed over.
            layers: Pixels of each layer, shape ``(rows, width)`` or ``(bands, rows, width)``.

        Raises:
            ValueError: If rows are left out, or shapes, types or names do not fit.
            OutputError: If they cannot be stored. The store can be opened again.
        """
        pixels, height = self._checked(row, layers)
        at = self.rows_done + self._filled - row
        while at < height:
            room = min(BLOCK, self._grid.height - self.rows_done) - self._filled
            taken = min(room, height - at)
            for name, buffer in self._buffers.items():
                part = pixels[name][:, at : at + taken]
                buffer[:, self._filled : self._filled + taken] = part
            self._filled, at = self._filled + taken, at + taken
            if taken == room:
                self._store()

    def histogram(self, layer: str) -> NDArray[np.int64]:
        """How many stored pixels have each value, over all bands, shape ``(256,)``."""
        total: NDArray[np.int64] = self._histograms[layer].sum(axis=0)
        return total

    def write_cog(self, layer: str, draft: Path, tags: Mapping[str, str] | None = None) -> None:
        """Write a layer as a Cloud-Optimised GeoTIFF with overviews and statistics.

        Args:
            layer: Its name.
            draft: File to write.
            tags: Metadata of the file.

        Raises:
            ValueError: If rows are missing.
            OutputError: If stored files have been lost or damaged since.
            OSError: If the draft cannot be written: whoever publishes it says of which result.
        """
        if self._rows < self._total:
            raise ValueError(f"{self.rows_done} of {self._grid.height} rows are there")
        drawn = self._layers[layer]
        stored = [self._needed(layer, row) for row in range(self._total)]
        described = cog.description(
            self._grid,
            [cog.statistics(band) for band in self._histograms[layer]],
            _differences(drawn),
            drawn.colors,
            drawn.descriptions,
            tags,
        )
        images = [self._image(stored, level) for level in range(self._levels + 1)]
        cog.write(draft, described, images)

    def remove(self) -> None:
        """Remove the files; the layers have been written."""
        # What another copy of the job stores meanwhile stays, and the next one takes it up.
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _total(self) -> int:
        return -(-self._grid.height // BLOCK)

    def _path(self, layer: str, row: int) -> Path:
        return self._folder / f"{self._key}.{layer}.{row:06d}.blocks"

    def _opened(self, layer: str, row: int) -> StoredRow | None:
        return open_row(self._path(layer, row), f"{self._key} {layer} {row}")

    def _needed(self, layer: str, row: int) -> StoredRow:
        stored = self._opened(layer, row)
        if stored is None:
            raise lost(self._path(layer, row))
        return stored

    def _remove_others(self) -> None:
        for path in self._folder.glob("*"):
            if path.is_file() and not path.name.lstrip(".").startswith(self._key):
                path.unlink(missing_ok=True)

    def _taken_up(self) -> bool:
        """Whether the next row of blocks is whole in all layers; what is not is written anew."""
        found = {name: self._opened(name, self._rows) for name in self._layers}
        whole = {name: row for name, row in found.items() if row is not None and row.whole}
        if len(whole) < len(found):
            return False
        for name, row in whole.items():
            self._histograms[name] += row.histogram
        return True

    def _strips(self, layer: str, level: int) -> list[NDArray[np.uint8]]:
        if self._rows == self._total:
            return []
        part = f"strip {level}"
        rows = [self._needed(layer, n) for n in range(self._rows >> level << level, self._rows)]
        return [array_of(row.numbers[part], row.read(part)) for row in rows]

    def _checked(
        self, row: int, layers: Mapping[str, NDArray[np.uint8]]
    ) -> tuple[dict[str, NDArray[np.uint8]], int]:
        if layers.keys() != self._layers.keys():
            raise ValueError(f"layers {sorted(layers)}, not {sorted(self._layers)}")
        pixels = {n: p[np.newaxis] if p.ndim == 2 else p for n, p in layers.items()}
        heights = {p.shape[1] for p in pixels.values() if p.ndim == 3}
        height = max(heights, default=0)
        for name, values in pixels.items():
            expected = (self._layers[name].bands, height, self._grid.width)
            if values.shape != expected or values.dtype != np.uint8:
                raise ValueError(
                    f"{name}: {values.dtype} pixels of shape {values.shape}, not uint8 {expected}"
                )
        following = self.rows_done + self._filled
        if not 0 <= row <= following or row + height > self._grid.height:
            raise ValueError(
                f"rows {row} to {row + height} of {self._grid.height}; row {following} comes next"
            )
        return pixels, height

    def _store(self) -> None:
        """Compress the row of blocks that is full, and store it."""
        for name, buffer in self._buffers.items():
            histogram, parts = self._compressed(self._layers[name], buffer[:, : self._filled])
            belongs = f"{self._key} {name} {self._rows}"
            path = self._path(name, self._rows)
            try:
                write_row(path, belongs, histogram, parts)
            except FileNotFoundError as error:  # the folder was removed under it
                raise lost(path) from error
            self._histograms[name] += histogram
        self._rows, self._filled = self._rows + 1, 0

    def _compressed(
        self, layer: Layer, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int64], dict[str, Part]]:
        made = [overviews.reduced(band, self._levels, layer.overviews) for band in pixels]
        parts = {"blocks 0": _blocks(layer, pixels)}
        for level, waiting in enumerate(self._waiting[layer.name], 1):
            strip = np.stack([smaller[level - 1] for _, smaller in made])
            waiting.append(strip)
            if (self._rows + 1) % (1 << level) and self._rows + 1 < self._total:
                parts[f"strip {level}"] = array_part(strip)
            else:
                parts[f"blocks {level}"] = _blocks(layer, np.concatenate(waiting, axis=1))
                waiting.clear()
        return np.stack([histogram for histogram, _ in made]), parts

    def _image(self, stored: Sequence[StoredRow], level: int) -> cog.Image:
        part = f"blocks {level}"
        rows = [row for row in stored if part in row.numbers]
        sizes = [number for row in rows for number in row.numbers[part]]
        width, height = (overviews.size(n, level) for n in (self._grid.width, self._grid.height))
        return cog.Image(width, height, sizes, (row.read(part) for row in rows))


def _differences(layer: Layer) -> bool:
    return layer.overviews == "average"


def _blocks(layer: Layer, pixels: NDArray[np.uint8]) -> Part:
    blocks = cog.blocks_of(pixels, _differences(layer))
    return Part(tuple(map(len, blocks)), cog.framed(blocks))
