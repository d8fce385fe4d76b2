"""Areas of pixels: any unit of length, and degrees."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest

from pipeline.errors import InputError
from pipeline.grid import PixelGrid
from pipeline.ground_area import pixel_area_m2, row_areas_m2

# US survey feet, and UTM with heights above the ellipsoid.
FEET, WITH_HEIGHTS = "EPSG:2263", "EPSG:25830+5773"


def _grid(crs: str, size: float = 0.5, top: float = 4_400_000.0, height: int = 4) -> PixelGrid:
    return PixelGrid(crs, 0.0 if size < 0.1 else 700_000.0, top, size, size, 3, height)


@pytest.mark.parametrize("crs", ["EPSG:25830", pyproj.CRS("EPSG:25830").to_wkt(), WITH_HEIGHTS])
def test_metres(crs: str) -> None:
    assert pixel_area_m2(_grid(crs)) == 0.25
    np.testing.assert_array_equal(row_areas_m2(_grid(crs)), [0.25] * 4)


def test_feet() -> None:
    foot = 1200 / 3937  # the US survey foot, by definition
    assert pixel_area_m2(_grid(FEET, 2.0)) == pytest.approx(4 * foot**2, rel=1e-14)


def test_oblong_pixels() -> None:
    grid = PixelGrid("EPSG:25830", 0, 0, 0.5, 0.25, 3, 4)
    assert pixel_area_m2(grid) == 0.125


def test_degrees_have_no_one_area() -> None:
    with pytest.raises(InputError, match=r"ETRS89: its pixels are measured in degrees[\s\S]*UTM"):
        pixel_area_m2(_grid("EPSG:4258", 1e-5, 40.0))


@pytest.mark.parametrize("crs", ["EPSG:4258", "EPSG:4326", "EPSG:4030"])
@pytest.mark.parametrize("top", [40.0, 0.5, -20.0, 90.0])
def test_areas_of_rows_are_the_ellipsoids(crs: str, top: float) -> None:
    # A degree high and a hundredth wide: edges along parallels are geodesics but for 1e-9.
    grid = PixelGrid(crs, -4.0, top, 1e-2, 1.0, 1, 3)
    geod = pyproj.CRS(crs).get_geod()
    assert geod is not None
    expected = []
    for row in range(3):
        north, south = top - row, top - row - 1
        area, _ = geod.polygon_area_perimeter([-4, -4, -3.99, -3.99], [north, south, south, north])
        expected.append(area)
    np.testing.assert_allclose(row_areas_m2(grid), expected, rtol=1e-7)


def test_small_pixels_keep_their_digits() -> None:
    whole = row_areas_m2(PixelGrid("EPSG:4258", -4.0, 40.0, 1e-2, 1e-2, 1, 1))[0]
    parts = row_areas_m2(PixelGrid("EPSG:4258", -4.0, 40.0, 1e-6, 1e-6, 10_000, 10_000))
    assert parts.sum() * 10_000 == pytest.approx(whole, rel=1e-9)
    np.testing.assert_allclose(np.diff(parts), np.diff(parts).mean(), atol=parts[0] * 1e-7)


def test_the_ellipsoids_whole_surface() -> None:
    grid = PixelGrid("EPSG:4326", -180.0, 90.0, 1.0, 1.0, 360, 180)
    assert row_areas_m2(grid).sum() * 360 == pytest.approx(510_065_621.7e6, rel=1e-9)
    sphere = PixelGrid("+proj=longlat +R=2", -180.0, 90.0, 1.0, 1.0, 360, 180)
    assert row_areas_m2(sphere).sum() * 360 == pytest.approx(4 * np.pi * 4, rel=1e-12)


def test_some_rows() -> None:
    grid = _grid("EPSG:4258", 1e-2, 40.0, 50)
    np.testing.assert_array_equal(row_areas_m2(grid, slice(10, 13)), row_areas_m2(grid)[10:13])
    assert row_areas_m2(grid)[0] < row_areas_m2(grid)[-1]  # wider towards the equator


def test_a_grid_beyond_the_pole() -> None:
    with pytest.raises(InputError, match="beyond a pole"):
        row_areas_m2(_grid("EPSG:4258", 1.0, 4_400_000.0))


@pytest.mark.parametrize("crs", ["", 'LOCAL_CS["made up",UNIT["metre",1]]'])
def test_a_grid_that_lies_nowhere(crs: str) -> None:
    for area in (pixel_area_m2, row_areas_m2):
        with pytest.raises(InputError, match="no area can be told"):
            area(_grid(crs))
