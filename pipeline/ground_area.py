"""Areas of pixels on the ground, in m², from the coordinate system of their grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.grid import PixelGrid


def pixel_area_m2(grid: PixelGrid) -> float:
    """Area of a pixel of a projected grid, in m²; all its pixels have the same.

    It is the area in the plane of the map, as every GIS computes it of a projected layer: in UTM
    up to 0.1 % off the area on the ellipsoid.

    Args:
        grid: Grid in a projected coordinate system, whatever its unit of length.

    Raises:
        InputError: If the grid has no coordinate system, or one in degrees, where the pixels of
            each row have another area (:func:`row_areas_m2`).
    """
    crs = _crs(grid)
    if crs.is_geographic:
        raise InputError(
            f"{crs.name}: its pixels are measured in degrees, and have an area that changes from "
            "row to row.",
            [f"grid: {grid.width} x {grid.height} pixels of {grid.pixel_width:g} degrees"],
            "Bring the raster to a projected coordinate system, such as UTM: "
            "gdalwarp -t_srs EPSG:25830.",
        )
    # A vertical system may follow behind the first two axes.
    across, along = (axis.unit_conversion_factor for axis in crs.axis_info[:2])
    return float(grid.pixel_width * across * grid.pixel_height * along)


def row_areas_m2(grid: PixelGrid, rows: slice | None = None) -> NDArray[np.float64]:
    """Area of a pixel in each row, in m², in projected and in geographic coordinate systems.

    Args:
        grid: Any grid.
        rows: Some of its rows; all where left out.

    Returns:
        Areas, shape ``(rows,)``. Of geographic grids on the ellipsoid, exactly between the
        parallels and meridians that bound a pixel; of projected ones :func:`pixel_area_m2`.

    Raises:
        InputError: If the grid has no coordinate system, or reaches beyond a pole.

    Source:
        Snyder (1987), Map Projections: A Working Manual, equation 3-12 (authalic latitude).
    """
    start, stop, step = (rows or slice(None)).indices(grid.height)
    numbers = np.arange(start, stop, step)
    crs = _crs(grid)
    if not crs.is_geographic:
        return np.full(len(numbers), pixel_area_m2(grid))
    radians = crs.axis_info[0].unit_conversion_factor
    _, bottom, _, top = grid.bounds
    if max(abs(bottom), abs(top)) * radians > np.pi / 2 + 1e-9:
        raise InputError(
            f"{crs.name}: the grid reaches from latitude {bottom:g} to {top:g}, beyond a pole.",
            remedy="Its coordinate system or its georeference is wrong; check it with gdalinfo.",
        )
    north = (grid.top - numbers * grid.pixel_height) * radians
    # From the row's number, as the next row's north: so the areas of rows sum up to the sheet's.
    south = (grid.top - (numbers + 1) * grid.pixel_height) * radians
    ellipsoid = crs.get_geod()
    assert ellipsoid is not None  # every geographic system has one
    b, eccentricity = ellipsoid.b, float(np.sqrt(ellipsoid.es))
    zone = _zone(north, eccentricity) - _zone(south, eccentricity)
    return np.asarray(b**2 / 2 * zone * grid.pixel_width * radians)


def _zone(latitude: NDArray[np.floating[Any]], eccentricity: float) -> NDArray[np.float64]:
    """Area from the equator to a latitude, a radian wide, in halves of the square of b."""
    sine = np.sin(latitude)
    if eccentricity == 0:  # a sphere
        return np.asarray(2 * sine)
    flat = sine / (1 - (eccentricity * sine) ** 2)
    return np.asarray(flat + np.arctanh(eccentricity * sine) / eccentricity)


def _crs(grid: PixelGrid) -> pyproj.CRS:
    crs = pyproj.CRS(grid.crs) if grid.crs else None
    if crs is None or not (crs.is_projected or crs.is_geographic):
        raise InputError(
            f"{grid.width} x {grid.height} pixels: no area can be told, their coordinate system is "
            f"{grid.crs or 'not known'}.",
            remedy="gdal_edit.py -a_srs EPSG:25830 sets one.",
        )
    return crs
