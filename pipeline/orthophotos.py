"""Orthophotos that were never in a run: files and folders to one image that a network can map."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyproj

from pipeline import geotiff
from pipeline.errors import InputError
from pipeline.geotiff import Orthophoto
from pipeline.grid import PixelGrid, Window
from pipeline.imagery import Imagery, MosaicImagery, MosaicPart, ResampledImagery, SheetImagery

log = logging.getLogger(__name__)

SUFFIXES = (".tif", ".tiff", ".jp2", ".img")
"""What counts as an orthophoto in a folder. Not VRT and JPEG: mosaics and previews of the rest."""

SAME_PIXEL = 0.01
"""Pixel sizes that differ by a smaller share are the same to a network."""

_MOST_TIMES = 20  # larger or smaller: nothing is left of objects, or all of them is invented

# Where four images meet, one of them has at least a quarter of each pixel's area.
_QUARTER = 0.25 - 1e-3

_SPARSE = 0.1  # of the box around a mosaic

_ALIGNED = 0.01  # of a pixel; world files have few digits


def listed(paths: Sequence[Path]) -> list[Path]:
    """Orthophotos by file: those of a folder in the order of their names.

    Args:
        paths: Files and folders.

    Raises:
        InputError: If a folder has none.
    """
    found: list[Path] = []
    empty = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            found += inside
            if not inside:
                empty.append(f"{path}: has no {', '.join(SUFFIXES)}")
        else:
            found.append(path)
    if empty:
        raise InputError(
            "Folders without orthophotos:", empty, "Folders inside of a folder are not looked into."
        )
    return found


def open_imagery(
    files: Sequence[Path],
    *,
    bands: int,
    pixel_size: tuple[float, float],
    chosen: Sequence[int] | None = None,
    resample: bool = False,
) -> Imagery:
    """Open orthophotos as one image, and check that a network can map it.

    Args:
        files: One file or several; where they overlap, a later one counts.
        bands: Bands that the network takes.
        pixel_size: Width and height of its pixels, in CRS units.
        chosen: Band numbers to give it, from 1, in its order; all of the imagery where left out.
        resample: Whether to bring them to the network's pixel size, where theirs differs by 1 %
            or more, and to one grid, where they are not on one: each pixel is a mean of the area
            it covers, or interpolated where pixels become smaller (:mod:`pipeline.resampling`).

    Raises:
        InputError: If one cannot be read, they do not fit each other, or not the network.
    """
    photos = _read(files)
    numbers = _bands(photos, bands, chosen)
    what = f"orthophoto {photos[0].path}"
    if len(photos) > 1:
        what = f"mosaic of {len(photos)} orthophotos, {photos[0].path} the first"
    _check_one_system(photos)
    _check_units(photos[0], pixel_size)
    apart = [photo for photo in photos if _place(photo.grid, photos[0].grid) is None]
    if apart and not resample:
        raise InputError(
            f"{len(apart)} of {len(photos)} orthophotos are not on the pixels of {photos[0].path} "
            f"({_size(photos[0].grid)}, corner at {_corner(photos[0].grid)}):",
            [f"{o.path}: {_size(o.grid)}, corner at {_corner(o.grid)}" for o in apart],
            "Map them one by one, or let --resample bring them to one grid.",
        )
    if not apart:
        imagery = _mosaic([(photo.grid, _opener(photo, numbers)) for photo in photos], what)
        if _same_size(imagery.grid, pixel_size):
            return imagery
        if resample:
            _check_factor(what, imagery.grid, pixel_size)
            return ResampledImagery(imagery, _grid(imagery.grid.bounds, imagery.grid, pixel_size))
        imagery.close()
        raise InputError(
            f"{what}: its pixels are {_size(imagery.grid)}; the network learnt "
            f"{pixel_size[0]:g} x {pixel_size[1]:g}.",
            remedy="Objects of another size look strange to it. Let --resample bring the image to "
            "its pixels, or use a network of such pixels.",
        )
    for photo in photos:
        _check_factor(f"orthophoto {photo.path}", photo.grid, pixel_size)
    bounds = [photo.grid.bounds for photo in photos]
    left, top = min(b[0] for b in bounds), max(b[3] for b in bounds)
    parts = []
    for photo, (west, south, east, north) in zip(photos, bounds, strict=True):
        # On the pixels of one grid that begins at the upper left corner of all.
        col = math.floor((west - left) / pixel_size[0] + _ALIGNED)
        row = math.floor((top - north) / pixel_size[1] + _ALIGNED)
        corner = (left + col * pixel_size[0], south, east, top - row * pixel_size[1])
        grid = _grid(corner, photo.grid, pixel_size, beyond=True)
        parts.append((grid, partial(_resampled, photo, numbers, grid)))
    return _mosaic(parts, what)


def _read(files: Sequence[Path]) -> list[Orthophoto]:
    if len(files) == 1:
        return [geotiff.read_orthophoto(files[0])]
    photos, wrong = [], []
    for path in files:
        try:
            photos.append(geotiff.read_orthophoto(path))
        except InputError as error:
            wrong.append(" ".join([error.what, "; ".join(error.items)]).strip())
    if wrong:
        raise InputError(
            f"{len(wrong)} of {len(files)} orthophotos cannot be used:", wrong,
            "Mend them, or name the others one by one.",
        )  # fmt: skip
    return photos


def _bands(
    photos: Sequence[Orthophoto], wanted: int, chosen: Sequence[int] | None
) -> tuple[int, ...]:
    """Band numbers to read, the same in all."""
    kinds = {photo.bands for photo in photos}
    if chosen is None:
        wrong = [photo for photo in photos if len(photo.bands) != wanted]
        if wrong:
            more = all(len(photo.bands) > wanted for photo in wrong)
            first = ",".join(map(str, wrong[0].bands[:wanted]))
            raise InputError(
                f"The network takes {wanted} bands:",
                [f"{o.path}: has {len(o.bands)} bands of imagery" for o in wrong],
                f"Say which of them, in the order of its training: --bands {first}, say."
                if more
                else "Use a network that was trained on such imagery.",
            )
        if len(kinds) > 1:
            raise InputError(
                "Imagery is in other bands from orthophoto to orthophoto:",
                [f"{o.path}: {', '.join(map(str, o.bands))}" for o in photos],
                "Say which are meant with --bands.",
            )
        return photos[0].bands
    if len(chosen) != wanted:
        raise InputError(
            f"--bands {','.join(map(str, chosen))}: are {len(chosen)}; the network takes {wanted}."
        )
    lacking = [o for o in photos if not {*chosen} <= {*o.bands}]
    if lacking:
        raise InputError(
            f"--bands {','.join(map(str, chosen))}: are not all there.",
            [f"{o.path}: imagery is in bands {', '.join(map(str, o.bands))}" for o in lacking],
        )
    return tuple(chosen)


def _check_one_system(photos: Sequence[Orthophoto]) -> None:
    if len({photo.grid.crs for photo in photos}) == 1:
        return
    # The same system may be spelt in several ways.
    first = pyproj.CRS(photos[0].grid.crs)
    others = [photo for photo in photos if pyproj.CRS(photo.grid.crs) != first]
    if others:
        raise InputError(
            f"{len(others)} of {len(photos)} orthophotos are in another coordinate reference "
            f"system than {photos[0].path} ({first.name}):",
            [f"{o.path}: {pyproj.CRS(o.grid.crs).name}" for o in others],
            "Map them one by one, or bring them to one system with gdalwarp -t_srs.",
        )


def _check_units(photo: Orthophoto, pixel_size: tuple[float, float]) -> None:
    """Refuse degrees where the network learnt metres: no factor brings them together."""
    if pyproj.CRS(photo.grid.crs).is_geographic and min(pixel_size) > 0.01 > photo.grid.pixel_width:
        raise InputError(
            f"orthophoto {photo.path}: its pixels are {_size(photo.grid)} degrees; the network "
            f"learnt {pixel_size[0]:g} x {pixel_size[1]:g} in a system of metres or feet.",
            remedy="Bring it to such a system, its UTM zone say, with gdalwarp -t_srs EPSG:25830.",
        )


def _opener(photo: Orthophoto, bands: Sequence[int]) -> Callable[[], Imagery]:
    return partial(SheetImagery, photo, bands)


def _resampled(photo: Orthophoto, bands: Sequence[int], grid: PixelGrid) -> Imagery:
    return ResampledImagery(SheetImagery(photo, bands), grid, _QUARTER)


def _mosaic(parts: Sequence[tuple[PixelGrid, Callable[[], Imagery]]], what: str) -> Imagery:
    """Images whose pixels are on one grid; one alone as it is."""
    first = parts[0][1]()
    if len(parts) == 1:
        return first
    bands = first.bands
    first.close()
    base = parts[0][0]
    places = []
    for grid, _ in parts:
        place = _place(grid, base)
        assert place is not None
        places.append(place)
    col, row = min(p.col for p in places), min(p.row for p in places)
    whole = PixelGrid(
        base.crs, base.left + col * base.pixel_width, base.top - row * base.pixel_height,
        base.pixel_width, base.pixel_height, max(p.right for p in places) - col,
        max(p.bottom for p in places) - row,
    )  # fmt: skip
    filled = sum(place.pixels for place in places) / whole.window.pixels
    if filled < _SPARSE:
        log.warning(
            "%s: fills %.1f %% of the box around it; mapped one by one, or by parts with --bbox, "
            "orthophotos that are far apart take less memory and smaller files",
            what,
            100 * filled,
        )
    return MosaicImagery(
        [
            MosaicPart(Window(p.col - col, p.row - row, p.width, p.height), opened)
            for p, (_, opened) in zip(places, parts, strict=True)
        ],
        whole,
        bands,
        what,
    )


def _place(grid: PixelGrid, base: PixelGrid) -> Window | None:
    """Pixels of a grid as a window of another one; None where they are no pixels of it."""
    left, bottom, right, top = grid.bounds
    across = [(x - base.left) / base.pixel_width for x in (left, right)]
    down = [(base.top - y) / base.pixel_height for y in (top, bottom)]
    col, behind, row, below = (round(edge) for edge in (*across, *down))
    off = max(abs(edge - round(edge)) for edge in (*across, *down))
    if off > _ALIGNED or (behind - col, below - row) != (grid.width, grid.height):
        return None
    return Window(col, row, grid.width, grid.height)


def _grid(
    bounds: tuple[float, float, float, float],
    like: PixelGrid,
    pixel_size: tuple[float, float],
    *,
    beyond: bool = False,
) -> PixelGrid:
    """Pixels of a size from a box's upper left corner on.

    They end within half a pixel of its other edges, or not before them.
    """
    left, bottom, right, top = bounds
    width, height = pixel_size
    across, down = (right - left) / width, (top - bottom) / height
    if beyond:
        across, down = math.ceil(across - _ALIGNED), math.ceil(down - _ALIGNED)
    return PixelGrid(like.crs, left, top, width, height, max(1, round(across)), max(1, round(down)))


def _check_factor(what: str, grid: PixelGrid, pixel_size: tuple[float, float]) -> None:
    factor = max(
        max(a / b, b / a)
        for a, b in zip((grid.pixel_width, grid.pixel_height), pixel_size, strict=True)
    )
    if factor > _MOST_TIMES:
        raise InputError(
            f"{what}: its pixels are {_size(grid)}; the network learnt {pixel_size[0]:g} x "
            f"{pixel_size[1]:g}. That is more than {_MOST_TIMES} times as much.",
            remedy="Nothing of what it knows can be seen in such pixels; use another network.",
        )


def _same_size(grid: PixelGrid, pixel_size: tuple[float, float]) -> bool:
    mine = (grid.pixel_width, grid.pixel_height)
    return all(
        math.isclose(a, b, rel_tol=SAME_PIXEL) for a, b in zip(mine, pixel_size, strict=True)
    )


def _size(grid: PixelGrid) -> str:
    return f"{grid.pixel_width:g} x {grid.pixel_height:g}"


def _corner(grid: PixelGrid) -> str:
    return f"({grid.left:.10g}, {grid.top:.10g})"
