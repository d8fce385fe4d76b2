"""The only opener and writer of rasters: windows, masks, palettes, COGs, clear errors.

All writers write drafts; :mod:`pipeline.publication` publishes them.
"""

from __future__ import annotations

import math
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # the copy lets GDAL's own errors out
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.shutil import copy as copy_raster
from rasterio.warp import transform_bounds
from rasterio.windows import Window as RasterioWindow

from pipeline.errors import InputError, OutputError
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE
from pipeline.publication import unwritable

BLOCK = 512
"""Pixels a side of the blocks of what is written."""

# In bytes: GDAL's own default is 5 % of the node's memory, 25 GB on a large one. (Set through
# rasterio.Env the value is bytes; the environment variable of that name means megabytes.)
CACHE_BYTES = 256 * 2**20

_Found = TypeVar("_Found")

# rasterio lets some of GDAL's errors through unchanged, closing a file among them.
_GDAL_ERRORS = (RasterioError, CPLE_BaseError)


@dataclass(frozen=True)
class Orthophoto:
    """What the pipeline needs to know of an orthophoto before it reads pixels.

    Attributes:
        path: The file.
        grid: Its pixel grid.
        bands: Band numbers (from 1) that are imagery; an alpha band is a mask, not imagery.
        masked: Whether it can have pixels without data (nodata value, mask or alpha).
        driver: GDAL's name of the format.
    """

    path: Path
    grid: PixelGrid
    bands: tuple[int, ...]
    masked: bool
    driver: str


@contextmanager
def session() -> Iterator[None]:
    """GDAL as the pipeline wants it: a bounded block cache, the same on every node.

    One thread inside a reading: windows are read side by side, and more would wait for each other.
    """
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES, GDAL_NUM_THREADS="1"):
        yield


def read_orthophoto(path: Path) -> Orthophoto:
    """Look at an orthophoto and check that the pipeline can use it.

    Args:
        path: Anything rasterio opens: GeoTIFF, COG, JPEG 2000, VRT.

    Raises:
        InputError: With everything that is wrong: missing, unreadable, truncated, no CRS,
            rotated or sheared, not 8-bit, fewer than three bands, a mosaic of missing files.
    """
    with _opened(path) as source:
        wrong = _grid_mistakes(source)
        alpha = {
            i for i, meaning in zip(source.indexes, source.colorinterp, strict=True)
            if meaning == ColorInterp.alpha
        }  # fmt: skip
        bands = tuple(i for i in source.indexes if i not in alpha)
        if len(bands) < 3:
            counted = "1 band" if len(bands) == 1 else f"{len(bands)} bands"
            paletted = ColorInterp.palette in source.colorinterp
            wrong.append(
                f"has {counted} of imagery; 3 or more are needed"
                + ("; gdal_translate -expand rgb turns its colour table into bands" * paletted)
            )
        kinds = sorted({source.dtypes[i - 1] for i in bands})
        if kinds and kinds != ["uint8"]:
            wrong.append(
                f"its pixels are {', '.join(kinds)}, not 8-bit (uint8); "
                "gdal_translate -ot Byte -scale converts"
            )
        if source.driver == "GTiff":
            wrong += _truncation(source, path)
        if source.driver == "VRT":
            wrong += [f"is a mosaic of {part}, which is not there" for part in _gone(source)]
        if wrong:
            raise InputError(f"orthophoto {path}: cannot be used.", wrong)
        flags = {flag for band in bands for flag in source.mask_flag_enums[band - 1]}
        return Orthophoto(
            path, _grid_of(source), bands, flags != {MaskFlags.all_valid}, source.driver
        )


def source_files(path: Path) -> tuple[Path, ...]:
    """All plain files that a raster is read from: itself, masks beside it, parts of a mosaic.

    Raises:
        InputError: If it cannot be opened.
    """
    with _opened(path) as source:
        beside = {Path(part) for part in source.files if not re.match(r"/vsi|\w{2,}:", part)}
        return (path, *sorted(part for part in beside - {path} if part.is_file()))


def read_grid(path: Path) -> PixelGrid:
    """Pixel grid of any raster.

    Raises:
        InputError: If it cannot be opened, has no CRS, or is rotated or sheared.
    """
    with _opened(path) as source:
        wrong = _grid_mistakes(source)
        if wrong:
            raise InputError(f"{path}: cannot be used.", wrong)
        return _grid_of(source)


def check_alike(orthophotos: Mapping[str, Orthophoto]) -> None:
    """Check that the sheets of a run share bands and pixel size; nothing is resampled silently.

    Raises:
        InputError: Listing the sheets that differ from the most common kind.
    """
    # Six digits, not six decimals: pixels of a geographic CRS are millionths of a degree.
    kinds = {
        sheet: (
            len(o.bands), float(f"{o.grid.pixel_width:.6g}"), float(f"{o.grid.pixel_height:.6g}")
        )
        for sheet, o in orthophotos.items()
    }  # fmt: skip
    counted = list(kinds.values())
    usual = max(counted, key=counted.count, default=None)
    different = [
        f"sheet {sheet}: {bands} bands, pixels of {width:g} x {height:g}"
        for sheet, (bands, width, height) in kinds.items()
        if (bands, width, height) != usual
    ]
    if different and usual:
        raise InputError(
            f"The sheets of a run share bands and pixel size; most have {usual[0]} bands and "
            f"pixels of {usual[1]:g} x {usual[2]:g}, but these do not:",
            different,
            "Leave them to a run of their own, or bring them to the same pixels "
            "(gdalwarp -tr, gdal_translate -b).",
        )


def bounds_in(grid: PixelGrid, crs: str) -> tuple[float, float, float, float]:
    """Bounds of a sheet in another CRS: left, bottom, right, top.

    The edges are followed at 21 points each: a straight edge of one CRS bends in the other.
    """
    return window_bounds_in(grid, grid.window, crs)


def window_bounds_in(
    grid: PixelGrid, window: Window, crs: str
) -> tuple[float, float, float, float]:
    """Bounds of a window in another CRS: left, bottom, right, top.

    Raises:
        InputError: If the window is nowhere in that CRS.
    """
    bounds = grid.bounds_of(window)
    if crs == grid.crs:
        return bounds
    try:
        found = tuple(transform_bounds(grid.crs, crs, *bounds, densify_pts=21))
    except _GDAL_ERRORS as error:
        reason = _reason(error)
    else:
        if all(map(math.isfinite, found)):
            return found
        reason = "its coordinates are outside of what these systems can express"
    raise InputError(
        f"({bounds[0]:g}, {bounds[1]:g}) to ({bounds[2]:g}, {bounds[3]:g} in {grid.crs}) cannot "
        f"be brought to {crs}.",
        [reason],
        "Check the coordinate reference systems with gdalinfo and ogrinfo: one of them is wrong.",
    )


class _Mask(NamedTuple):
    """Bands that tell which pixels have data: those with another value in any of them.

    Attributes:
        bands: Band numbers; none where a mask of its own tells.
        nodata: Value of each that means no data.
    """

    bands: tuple[int, ...] = ()
    nodata: tuple[int, ...] = ()


def _mask_of(source: Any) -> _Mask:  # noqa: ANN401 - rasterio ships no types
    """What rasterio's ``dataset_mask`` looks at, in its order: a mask, alpha, nodata values."""
    flags = {flag for flags in source.mask_flag_enums for flag in flags}
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        return _Mask()
    if ColorInterp.alpha in source.colorinterp:
        return _Mask((source.colorinterp.index(ColorInterp.alpha) + 1,), (0,))
    values = source.nodatavals
    if flags != {MaskFlags.nodata} or set(source.dtypes) != {"uint8"}:
        return _Mask()
    if not all(value is not None and float(value).is_integer() for value in values):
        return _Mask()
    return _Mask(tuple(source.indexes), tuple(map(int, values)))


class RasterReader:
    """Reads windows of a raster from any thread.

    Each thread has its own GDAL dataset: one dataset read by two threads gives wrong pixels.

    Args:
        path: The raster.
        bands: Band numbers to read, from 1; all where left out.

    Raises:
        InputError: If it cannot be opened, and when a window cannot be read.
    """

    def __init__(self, path: Path, bands: Sequence[int] | None = None) -> None:
        self.path = path
        self._local = threading.local()
        self._all: list[Any] = []
        self._lock = threading.Lock()
        source = self._source()
        self.bands = tuple(bands) if bands else tuple(source.indexes)
        self.grid = _grid_of(source)
        self.masked = {f for flags in source.mask_flag_enums for f in flags} != {
            MaskFlags.all_valid
        }
        self._mask = _mask_of(source) if self.masked else _Mask()
        self.tags: dict[str, str] = source.tags()
        self.block_height, self.block_width = source.block_shapes[0]

    def read(self, window: Window) -> NDArray[Any]:
        """Pixels of a window inside the sheet, shape ``(bands, rows, cols)``.

        Raises:
            ValueError: If the window sticks out of the sheet.
            InputError: If the pixels are damaged.
        """
        self._check_inside(window)
        return self._told(window, lambda part: self._pixels(self.bands, part))

    def read_band(self, window: Window) -> NDArray[Any]:
        """Pixels of the first band, shape ``(rows, cols)``."""
        return self.read(window)[0]  # type: ignore[no-any-return]

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Which pixels have data, shape ``(rows, cols)``: by nodata value, mask or alpha."""
        self._check_inside(window)
        if not self.masked:
            return np.ones((window.height, window.width), np.bool_)
        return self._told(window, self._valid)

    def read_valid(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels of a window and which of them have data, as :meth:`read` and :meth:`valid`.

        Each block is decoded once: what tells of data is read along with the pixels.

        Raises:
            ValueError: If the window sticks out of the sheet.
            InputError: If the pixels are damaged.
        """
        self._check_inside(window)
        return self._told(window, self._pixels_valid)

    def thumbnail(self, most: int, average: bool = False) -> NDArray[Any]:
        """The whole raster with at most ``most`` pixels a side, shape ``(bands, rows, cols)``.

        Args:
            most: Longest side in pixels.
            average: Mean of the pixels, for imagery; otherwise the nearest pixel, for classes.
        """
        shape = self._thumbnail_shape(most)
        how = Resampling.average if average else Resampling.nearest
        try:
            return self._source().read(  # type: ignore[no-any-return]
                self.bands, out_shape=(len(self.bands), *shape), resampling=how
            )
        except _GDAL_ERRORS as error:
            raise self._unreadable(self.grid.window, error) from error

    def thumbnail_valid(self, most: int) -> NDArray[np.bool_]:
        """Which pixels of the thumbnail have data."""
        shape = self._thumbnail_shape(most)
        if not self.masked:
            return np.ones(shape, np.bool_)
        try:
            mask = self._source().dataset_mask(out_shape=shape)
        except _GDAL_ERRORS as error:
            raise self._unreadable(self.grid.window, error) from error
        return np.asarray(mask != 0)

    def close(self) -> None:
        """Close the datasets of all threads."""
        with self._lock:
            for source in self._all:
                source.close()
            self._all.clear()
        self._local = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pixels(self, bands: Sequence[int], window: Window) -> NDArray[Any]:
        return self._source().read(bands, window=_rasterio(window))  # type: ignore[no-any-return]

    def _valid(self, window: Window) -> NDArray[np.bool_]:
        return np.asarray(self._source().dataset_mask(window=_rasterio(window)) != 0)

    def _pixels_valid(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        telling = self._mask.bands
        if not telling:
            pixels = self._pixels(self.bands, window)
            if not self.masked:
                return pixels, np.ones((window.height, window.width), np.bool_)
            return pixels, self._valid(window)
        wanted = (*self.bands, *(band for band in telling if band not in self.bands))
        pixels = self._pixels(wanted, window)
        valid = np.zeros((window.height, window.width), np.bool_)
        for band, nodata in zip(telling, self._mask.nodata, strict=True):
            valid |= pixels[wanted.index(band)] != nodata
        return pixels[: len(self.bands)], valid

    def _told(self, window: Window, read: Callable[[Window], _Found]) -> _Found:
        """What reading gives, or an error that names the first damaged block."""
        try:
            return read(window)
        except _GDAL_ERRORS as error:
            for part in self._blocks(window):
                try:
                    read(part)
                except _GDAL_ERRORS as found:
                    raise self._unreadable(part, found) from error
            raise self._unreadable(window, error) from error

    def _blocks(self, window: Window) -> Iterator[Window]:
        high, wide = self.block_height, self.block_width
        for row in range(window.row // high * high, window.bottom, high):
            for col in range(window.col // wide * wide, window.right, wide):
                part = Window(col, row, wide, high).intersection(window)
                assert part is not None
                yield part

    def _source(self) -> Any:  # noqa: ANN401 - rasterio ships no types
        if not hasattr(self._local, "source"):
            self._local.source = _open(self.path)
            with self._lock:
                self._all.append(self._local.source)
        return self._local.source

    def _check_inside(self, window: Window) -> None:
        # rasterio would cut the window to the sheet and return fewer pixels without a word.
        if window.intersection(self.grid.window) != window:
            raise ValueError(
                f"{window} is not inside the {self.grid.width} x {self.grid.height} pixels of "
                f"{self.path}"
            )

    def _thumbnail_shape(self, most: int) -> tuple[int, int]:
        factor = max(1.0, max(self.grid.width, self.grid.height) / most)
        return max(1, round(self.grid.height / factor)), max(1, round(self.grid.width / factor))

    def _unreadable(self, window: Window, error: Exception) -> InputError:
        left, _, _, top = self.grid.bounds_of(window)
        own = any(tag.startswith("TESELA_") for tag in self.tags)
        again = (
            "remove it: the step that wrote it makes it anew"
            if own
            else "copy or download it again"
        )
        return InputError(
            f"{self.path}: cannot be read at column {window.col}, row {window.row} "
            f"({left:.1f}, {top:.1f} in {self.grid.crs}).",
            [_reason(error)],
            f"The file is damaged or truncated; {again}.",
        )


class RasterWriter:
    """Writes a one-band raster in windows, tiled and compressed, into a draft.

    Args:
        draft: File to write.
        grid: The pixel grid.
        dtype: ``uint8`` or ``uint32``.
        nodata: Value of pixels without data.
        colors: ``#RRGGBB`` of the classes in the order of their ids; a palette is written.
        tags: Metadata of the file.

    Raises:
        OutputError: If it cannot be written, here, in :meth:`write` or in :meth:`close`.
    """

    def __init__(
        self,
        draft: Path,
        grid: PixelGrid,
        dtype: str,
        nodata: int,
        colors: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._draft = draft
        self._grid = grid
        self._dtype = np.dtype(dtype)
        try:
            self._target = rasterio.open(
                draft, "w", driver="GTiff", width=grid.width, height=grid.height, count=1,
                dtype=dtype, nodata=nodata, crs=CRS.from_string(grid.crs),
                transform=Affine(*grid.geotransform), tiled=True, blockxsize=BLOCK,
                blockysize=BLOCK, compress="deflate", bigtiff="if_safer",
                # One thread compresses: with more, GDAL reports a full disk to nobody.
                num_threads=1,
            )  # fmt: skip
            if colors:
                self._target.write_colormap(1, palette(colors))
            self._target.update_tags(**(tags or {}))
        except _GDAL_ERRORS as error:
            raise self._failed(error) from error

    def write(self, window: Window, pixels: NDArray[Any]) -> None:
        """Write the pixels of a window, shape ``(rows, cols)``, of the raster's type.

        Raises:
            ValueError: If shape or type differ, or the window sticks out of the sheet.
            OutputError: If they cannot be written.
        """
        check_fits(pixels, window, self._grid, self._dtype)
        try:
            self._target.write(pixels, 1, window=_rasterio(window))
        except _GDAL_ERRORS as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Flush and check that all of it reached the disk."""
        try:
            self._target.close()
            # GDAL's close tells nobody when the last blocks did not fit: look at the file.
            with rasterio.open(self._draft) as written:
                missing = _truncation(written, self._draft)
        except _GDAL_ERRORS as error:
            raise self._failed(error) from error
        if missing:
            raise self._failed(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            # The draft is lost already: that it cannot be flushed must not hide why.
            with suppress(*_GDAL_ERRORS):
                self._target.close()

    def _failed(self, error: Exception | None) -> OutputError:
        return _unwritten(self._draft, self._grid, error)


def check_fits(pixels: NDArray[Any], window: Window, grid: PixelGrid, dtype: np.dtype[Any]) -> None:
    """Refuse pixels that are not those of a window of a raster.

    Raises:
        ValueError: If shape or type differ, or the window sticks out of the sheet.
    """
    # GDAL would stretch another shape over the window, and clip what does not fit the type.
    if pixels.shape != (window.height, window.width) or pixels.dtype != dtype:
        raise ValueError(
            f"pixels of shape {pixels.shape} and type {pixels.dtype} for {window} of a "
            f"{dtype} raster"
        )
    if window.intersection(grid.window) != window:
        raise ValueError(f"{window} is not inside {grid.width} x {grid.height} pixels")


def write_header(
    draft: Path,
    grid: PixelGrid,
    dtype: str,
    nodata: int,
    colors: Sequence[str],
    tags: Mapping[str, str],
) -> None:
    """Write a tiled one-band raster, compressed with ZSTD, without any of its blocks.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        with rasterio.open(
            draft, "w", driver="GTiff", width=grid.width, height=grid.height, count=1,
            dtype=dtype, nodata=nodata, crs=CRS.from_string(grid.crs),
            transform=Affine(*grid.geotransform), tiled=True, blockxsize=BLOCK,
            blockysize=BLOCK, compress="zstd", bigtiff="yes", sparse_ok="true",
        ) as target:  # fmt: skip
            if colors:
                target.write_colormap(1, palette(colors))
            target.update_tags(**tags)
    except _GDAL_ERRORS as error:
        raise _unwritten(draft, grid, error) from error


def write_cog(source: Path, draft: Path, overviews: str) -> None:
    """Write a tiled raster anew as a cloud-optimised GeoTIFF with overviews and statistics.

    Args:
        source: What :class:`RasterWriter` wrote.
        draft: File to write.
        overviews: How overviews are made: ``mode`` for classes, ``average`` for measures.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        # STATISTICS: without them QGIS computes its own and drops an .aux.xml beside the map.
        copy_raster(
            source, draft, driver="COG", COMPRESS="DEFLATE", BLOCKSIZE=BLOCK, STATISTICS="YES",
            OVERVIEW_RESAMPLING=overviews.upper(), BIGTIFF="IF_SAFER", NUM_THREADS="2",
        )  # fmt: skip
        with rasterio.open(draft) as written:
            missing = _truncation(written, draft)
    except _GDAL_ERRORS as error:
        raise _unwritten(draft, read_grid(source), error) from error
    if missing:
        raise _unwritten(draft, read_grid(source), None)


def palette(colors: Sequence[str]) -> dict[int, tuple[int, int, int, int]]:
    """Colour table of a class raster; ids without a class and nodata are transparent."""
    table = dict.fromkeys(range(256), (0, 0, 0, 0))
    for value, color in enumerate(colors):
        table[value] = (int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16), 255)
    table[IGNORE] = (0, 0, 0, 0)
    return table


def _unwritten(draft: Path, grid: PixelGrid, error: Exception | None) -> OutputError:
    failure = unwritable(draft)
    return OutputError(
        f"{grid.width} x {grid.height} pixels cannot be written to {draft.parent}"
        f"{f' ({_reason(error)})' if error else ''}.",
        failure.items,
        failure.remedy,
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with warnings.catch_warnings():
        # Said as an error of ours, with what to do.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        source = _open(path)
    try:
        yield source
    finally:
        source.close()


def _open(path: Path) -> Any:  # noqa: ANN401 - rasterio ships no types
    try:
        there = path.exists()
    except OSError as error:  # a folder above it may not be looked into
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    if not there:
        raise InputError(
            f"{path}: there is no such file.",
            remedy="Check the name, or run the step that makes it.",
        )
    try:
        # sharing=False: a shared dataset would hand two threads the same GDAL handle.
        return rasterio.open(path, sharing=False)
    except _GDAL_ERRORS as error:
        raise InputError(
            f"{path}: is not a raster that GDAL can read.",
            [_reason(error)],
            "Check it with gdalinfo; a download that broke off looks like this.",
        ) from error


def _grid_mistakes(source: Any) -> list[str]:  # noqa: ANN401
    wrong = []
    if source.crs is None:
        wrong.append("has no coordinate reference system; gdal_edit.py -a_srs EPSG:25830 sets one")
    elif not (source.crs.is_projected or source.crs.is_geographic):
        wrong.append(
            "its coordinate reference system is a local one, which says nothing of where it lies; "
            "gdal_edit.py -a_srs EPSG:25830 sets another"
        )
    transform = source.transform
    # Rounding leaves rotations of 1e-15; what does not move a pixel of the sheet is none.
    skew = max(abs(transform.b) * source.height, abs(transform.d) * source.width)
    if transform.is_identity:
        wrong.append("has no georeference (no geotransform, no world file)")
    elif skew > 1e-3 * min(
        math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e)
    ):
        wrong.append("its grid is rotated or sheared; gdalwarp makes it north up")
    elif transform.a <= 0 or transform.e >= 0:
        wrong.append("its grid is not north up; gdalwarp makes it so")
    return wrong


def _gone(source: Any) -> list[str]:  # noqa: ANN401
    """Files of a mosaic that are not there; parts that are no plain files are GDAL's to judge."""
    parts = [part for part in source.files if not re.match(r"/vsi|\w{2,}:", part)]
    return [part for part in parts if not Path(part).exists()]


def _truncation(source: Any, path: Path) -> list[str]:  # noqa: ANN401
    """Blocks of a TIFF whose bytes lie behind the end of the file, as one line, or nothing."""
    size = path.stat().st_size
    rows, cols = source.block_shapes[0]
    across, down = -(-source.width // cols), -(-source.height // rows)
    beyond = total = 0
    bands = source.indexes if source.interleaving and source.interleaving.name == "band" else (1,)
    for band in bands:
        for row in range(down):
            for col in range(across):
                total += 1
                offset = source.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=band)
                length = source.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=band)
                if offset and length and int(offset) + int(length) > size:
                    beyond += 1
    return [f"is truncated: {beyond} of {total} blocks lie behind its end"] if beyond else []


def _grid_of(source: Any) -> PixelGrid:  # noqa: ANN401
    transform = source.transform
    crs = source.crs.to_string() if source.crs else ""
    return PixelGrid(
        crs, transform.c, transform.f, transform.a, -transform.e, source.width, source.height
    )


def _rasterio(window: Window) -> RasterioWindow:
    return RasterioWindow(window.col, window.row, window.width, window.height)


def _reason(error: BaseException) -> str:
    """GDAL's own words, which rasterio keeps in the chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())
