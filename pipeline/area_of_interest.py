"""Area of interest: the part of an image that is mapped, a box or polygons of any file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from pipeline import geotiff, topology
from pipeline.errors import InputError
from pipeline.grid import PixelGrid, Window
from pipeline.labels import pixel_coordinates
from pipeline.named_systems import named_system
from pipeline.scanline import Outlines

Bounds = tuple[float, float, float, float]

_SLACK = 1e-6  # of a pixel: an edge of a pixel, written with few digits, is still that edge

_READ_ERRORS = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.FeatureError,
)


@dataclass(frozen=True)
class AreaOfInterest:
    """What is mapped of an image.

    Attributes:
        region: The pixels of the box around it, in the image.
        outlines: Its polygons in the image's pixels.
    """

    region: Window
    outlines: Outlines

    @property
    def fingerprint(self) -> str:
        """Hash of all its pixels: another area has another one."""
        content = hashlib.blake2b(repr(self.region).encode(), digest_size=16)
        for column in (self.outlines.x, self.outlines.y, self.outlines.starts):
            content.update(np.ascontiguousarray(column).tobytes())
        return content.hexdigest()

    def inside(self, window: Window) -> NDArray[np.bool_]:
        """Which pixels of a window of the image have their centre in a polygon, ``(rows, cols)``.

        A window gives the same pixels as the whole image; the rule is that of labels.
        """
        values = np.ones(int(self.outlines.polygon.max(initial=-1)) + 2, np.uint8)
        values[0] = 0
        return np.asarray(self.outlines.runs(window).painted(values)).astype(np.bool_)


def box(bounds: Bounds, crs: str, grid: PixelGrid, what: str) -> Window:
    """Pixels of an image that a box touches; a box of another CRS counts with its bent edges.

    Args:
        bounds: West, south, east, north.
        crs: Their CRS.
        grid: The image's pixels.
        what: What to call the image in messages.

    Raises:
        InputError: If the box is none, its CRS is not known, or it is outside of the image.
    """
    west, south, east, north = bounds
    if not (all(map(math.isfinite, bounds)) and west < east and south < north):
        raise InputError(
            f"--bbox {_numbers(bounds)}: is no box.",
            remedy="Write west, south, east, north: the smaller x, the smaller y, the larger ones.",
        )
    found = bounds
    if named_system(crs, "--bbox-crs") != pyproj.CRS(grid.crs):
        corner = PixelGrid(crs, west, north, east - west, north - south, 1, 1)
        found = geotiff.bounds_in(corner, grid.crs)
    region = _snapped(found, grid)
    if region is None:
        raise _outside(f"--bbox {_numbers(bounds)}", found, grid, what)
    return region


def polygons(path: Path, grid: PixelGrid, what: str, layer: str | None = None) -> AreaOfInterest:
    """Read an area of interest: all polygons of a layer together.

    Vertices are moved to the image's CRS. The region is the box around the polygons, cut to the
    image and grown to whole pixels.

    Args:
        path: GeoPackage, GeoJSON, Shapefile or whatever GDAL reads.
        grid: The image's pixels.
        what: What to call the image in messages.
        layer: Name of the layer; the only one where left out.

    Raises:
        InputError: If it cannot be read, has no CRS, no polygons or invalid ones, or is outside
            of the image or between its pixels' centres.
    """
    layer = _layer(path, layer)
    crs, fids, shapes = _read(path, layer)
    wrong = topology.invalid(shapes)
    if wrong:
        raise InputError(
            f"area {path}: {len(wrong)} of {len(shapes)} shapes are no valid polygons.",
            [
                f"feature {fids[f.rows[0]]}"
                + (f" at {f.place[0]:.10g}, {f.place[1]:.10g}" if f.place else "")
                + f": {f.text}"
                for f in wrong
            ],
            "Mend them (in QGIS: Fix geometries), or leave them out.",
        )
    source, target = pyproj.CRS(crs), pyproj.CRS(grid.crs)
    if source != target:
        step = pyproj.Transformer.from_crs(source, target, always_xy=True)
        points = shapely.get_coordinates(shapes)
        moved = np.column_stack(step.transform(points[:, 0], points[:, 1]))
        if not np.isfinite(moved).all():
            raise InputError(
                f"area {path}: cannot be brought from {source.name} to {target.name}.",
                ["its coordinates are outside of what these systems can express"],
                "Check its coordinate reference system; it may be a wrong one.",
            )
        shapes = shapely.set_coordinates(shapes, moved)
    bounds = shapely.bounds(shapes)
    boxes = [_snapped((b[0], b[1], b[2], b[3]), grid) for b in bounds.tolist()]
    touching = [found for found in boxes if found is not None]
    if not touching:
        around = np.concatenate([bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)]).tolist()
        raise _outside(f"area {path}", (around[0], around[1], around[2], around[3]), grid, what)
    near = np.array([found is not None for found in boxes])
    area = AreaOfInterest(
        _around(touching),
        Outlines.of([shapes[near]], lambda points: pixel_coordinates(points, grid)),
    )
    # Row by row: the box may be that of a whole sheet.
    region = area.region
    rows = (Window(region.col, row, region.width, 1) for row in range(region.row, region.bottom))
    if not any(len(area.outlines.runs(row).begin) for row in rows):
        raise InputError(
            f"area {path}: no pixel of {what} has its centre in it.",
            [f"pixels are {grid.pixel_width:g} x {grid.pixel_height:g}"],
            "It lies between the pixels' centres; draw it larger.",
        )
    return area


def _layer(path: Path, layer: str | None) -> str:
    """The layer to read."""
    if not path.exists():
        raise InputError(f"area {path}: there is no such file.")
    try:
        listed = pyogrio.list_layers(path)
    except _READ_ERRORS as error:
        raise InputError(
            f"area {path}: is no file of polygons that GDAL can read.", [str(error)],
            "GeoPackage, GeoJSON and Shapefile are such files.",
        ) from error  # fmt: skip
    names = [str(name) for name, kind in listed if kind is not None]
    if layer is None and len(names) == 1:
        return names[0]
    if layer in names:
        return layer
    raise InputError(
        f"area {path}: has {len(names)} layers with geometry."
        if layer is None
        else f"area {path}: has no layer {layer!r} with geometry.",
        names,
        "Say which with --area-layer." if names else "",
    )


def _read(path: Path, layer: str) -> tuple[str, NDArray[np.int64], NDArray[np.object_]]:
    """CRS, feature numbers and shapes of a layer."""
    try:
        meta, fids, wkb, _ = pyogrio.raw.read(path, layer=layer, columns=[], return_fids=True)
    except _READ_ERRORS as error:
        raise InputError(
            f"area {path}: cannot be read.", [str(error)],
            "If other programs cannot read it either, copy or download it again: it is damaged.",
        ) from error  # fmt: skip
    if not len(fids):
        raise InputError(f"area {path}: has no polygons in layer {layer}.")
    if not meta["crs"]:
        raise InputError(
            f"area {path}: has no coordinate reference system.",
            remedy="ogr2ogr -a_srs EPSG:25830 new.gpkg old.shp sets one; of a Shapefile, copy the "
            ".prj file too.",
        )
    return meta["crs"], fids, np.asarray(shapely.from_wkb(wkb, on_invalid="ignore"), object)


def _snapped(bounds: Bounds, grid: PixelGrid) -> Window | None:
    """The pixels that a box touches, inside the image; None where there are none."""
    left, bottom, right, top = bounds
    # Clipped first: what is far off, or infinite, is no whole number of pixels.
    across = [(x - grid.left) / grid.pixel_width for x in (left, right)]
    down = [(grid.top - y) / grid.pixel_height for y in (top, bottom)]
    col, behind = (min(max(x, -1.0), grid.width + 1.0) for x in across)
    row, below = (min(max(y, -1.0), grid.height + 1.0) for y in down)
    first, upper = math.floor(col + _SLACK), math.floor(row + _SLACK)
    window = Window(
        first, upper, math.ceil(behind - _SLACK) - first, math.ceil(below - _SLACK) - upper
    )
    return window.intersection(grid.window)


def _around(windows: Sequence[Window]) -> Window:
    col, row = min(w.col for w in windows), min(w.row for w in windows)
    right, bottom = max(w.right for w in windows), max(w.bottom for w in windows)
    return Window(col, row, right - col, bottom - row)


def _outside(area: str, bounds: Bounds, grid: PixelGrid, what: str) -> InputError:
    return InputError(
        f"{area}: is outside of {what}.",
        [
            f"the area is from {_numbers(bounds[:2])} to {_numbers(bounds[2:])} in the image's "
            "coordinate system",
            f"the image is from {_numbers(grid.bounds[:2])} to {_numbers(grid.bounds[2:])}",
        ],
        "Check the coordinate reference systems: those of --bbox are the image's unless "
        "--bbox-crs says another.",
    )


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.10g}" for value in values)
