"""Labels: pixel by pixel, whatever the window; the reasons of what is masked; the real truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.transform import Affine
from shapely import Polygon, box

from pipeline import geotiff, siose
from pipeline.config import LabelSettings, SioseSettings
from pipeline.grid import PixelGrid, Window, split
from pipeline.labels import (
    REASONS,
    LabelShapes,
    burn,
    label_shapes,
    label_window,
    near_outline,
    polygon_classes,
)
from pipeline.nomenclature import IGNORE
from pipeline.parallel import ordered
from pipeline.siose import Proportions
from tests.test_siose import DUBAI

X, Y = 700_000.0, 4_400_000.0
_ = 0


def proportions(
    geometry: Sequence[shapely.Geometry],
    shares: Sequence[Sequence[float]] | None = None,
    unmapped: Sequence[float] | None = None,
    reasons: Sequence[str] | None = None,
) -> Proportions:
    """Proportions of polygons; of one class each, in turns, where nothing is told."""
    count = len(geometry) or len(shares or ())
    if shares is None:
        shares = [np.eye(3)[i % 3].tolist() for i in range(count)]
    table = np.array(shares, np.float64).reshape(count, -1)
    array = np.empty(count, object)
    array[:] = list(geometry) or [box(0, 0, 1, 1)] * count
    return Proportions(
        array,
        np.array([f"p{i}" for i in range(count)], object),
        table,
        np.array(unmapped if unmapped is not None else np.zeros(count), np.float64),
        np.array(reasons if reasons is not None else [""] * count, object),
        "",
    )


def prepared(geometry: Sequence[shapely.Geometry], grid: PixelGrid) -> LabelShapes:
    return label_shapes(proportions(geometry), grid, LabelSettings())


def burnt(
    geometry: Sequence[shapely.Geometry], grid: PixelGrid, window: Window | None = None
) -> NDArray[np.uint32]:
    return burn(prepared(geometry, grid), window or grid.window)


def in_windows(shapes: LabelShapes, width: int, height: int) -> NDArray[np.uint32]:
    """The whole sheet, burnt window by window."""
    grid = shapes.grid
    sheet = np.full((grid.height, grid.width), 2**32 - 1, np.uint32)
    for window in split(grid.window, width, height):
        sheet[window.slices()] = burn(shapes, window)
    return sheet


def by_gdal(geometry: Sequence[shapely.Geometry], grid: PixelGrid) -> NDArray[np.uint32]:
    """The whole sheet by rasterio in the sheet's own coordinates."""
    pixels: NDArray[np.uint32] = rasterize(
        ((polygon, i + 1) for i, polygon in enumerate(geometry)),
        out_shape=(grid.height, grid.width),
        transform=Affine(*grid.geotransform),
        fill=0,
        dtype="uint32",
    )
    return pixels


# Pixels


def test_pixel_centres_decide(grid: PixelGrid) -> None:
    olives = box(X, Y - 1.0, X + 1.5, Y)  # 3 columns x 2 rows
    water = box(X + 1.5, Y - 1.8, X + 3.0, Y - 1.0)  # 0.05 m past the last centres
    expected = np.array(
        [[1, 1, 1, _, _, _], [1, 1, 1, _, _, _], [_, _, _, 2, 2, 2], [_, _, _, 2, 2, 2]], np.uint32
    )
    np.testing.assert_array_equal(burnt([olives, water], grid), expected)
    np.testing.assert_array_equal(
        burnt([olives, water], grid, Window(2, 1, 3, 2)), expected[1:3, 2:5]
    )


def test_less_than_a_centre_is_nothing(grid: PixelGrid) -> None:
    sliver = box(X + 0.26, Y - 2, X + 0.74, Y)  # between the centres at 0.25 and 0.75 m
    assert not burnt([sliver], grid).any()
    assert burnt([box(X + 0.24, Y - 2, X + 0.74, Y)], grid)[:, 0].all()


def test_holes_belong_to_whoever_fills_them(grid: PixelGrid) -> None:
    field = Polygon(
        box(X, Y - 2, X + 3, Y).exterior.coords,
        [box(X + 0.5, Y - 1.5, X + 1.5, Y - 0.5).exterior.coords],
    )
    pond = box(X + 0.5, Y - 1.0, X + 1.0, Y - 0.5)
    expected = np.array(
        [[1, 1, 1, 1, 1, 1], [1, 2, _, 1, 1, 1], [1, _, _, 1, 1, 1], [1, 1, 1, 1, 1, 1]], np.uint32
    )
    np.testing.assert_array_equal(burnt([field, pond], grid), expected)


def test_the_last_row_wins_where_polygons_overlap(grid: PixelGrid) -> None:
    one, two = box(X, Y - 2, X + 2, Y), box(X + 1, Y - 1, X + 3, Y)
    assert burnt([one, two], grid)[0].tolist() == [1, 1, 2, 2, 2, 2]
    assert burnt([two, one], grid)[0].tolist() == [2, 2, 2, 2, 1, 1]


def test_a_multipolygon_is_one_row(grid: PixelGrid) -> None:
    both = shapely.MultiPolygon([box(X, Y - 0.5, X + 1, Y), box(X + 2, Y - 2, X + 3, Y - 1)])
    expected = np.array(
        [[1, 1, _, _, _, _], [_, _, _, _, _, _], [2, 2, 2, 2, 1, 1], [_, _, _, _, 1, 1]], np.uint32
    )
    np.testing.assert_array_equal(burnt([both, box(X, Y - 1.5, X + 2, Y - 1)], grid), expected)


def test_polygons_beyond_the_sheet_and_windows_without_any(grid: PixelGrid) -> None:
    assert not burnt([box(X + 50, Y - 50, X + 60, Y - 40)], grid).any()
    around = box(X - 1e5, Y - 1e5, X + 1e5, Y + 1e5)
    assert (burnt([around], grid) == 1).all()
    corner = box(X - 9, Y - 9, X + 9, Y + 9).difference(box(X - 8, Y - 9, X + 9, Y + 8))
    assert not burnt([corner], grid).any()  # its box covers the sheet, it does not


def test_parts_on_two_sides_of_a_window_leave_nothing_in_it(grid: PixelGrid) -> None:
    """The box of the whole covers the window, and each part lies beyond another side."""
    apart = shapely.MultiPolygon([box(X - 9, Y + 2, X - 8, Y + 3), box(X + 8, Y - 9, X + 9, Y - 8)])
    assert not burnt([apart], grid).any()


def test_pixels_need_not_be_square() -> None:
    grid = PixelGrid("EPSG:25830", X, Y, 0.5, 0.25, 4, 4)
    assert burnt([box(X, Y - 0.5, X + 1, Y)], grid).tolist() == [
        [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0],
    ]  # fmt: skip


SHEET = PixelGrid("EPSG:25830", X, Y, 0.5, 0.5, 41, 29)

# Multiples of a quarter pixel hit centres and pixel edges; the others lie anywhere.
_places = st.one_of(st.integers(-60, 220).map(lambda i: i / 8), st.floats(-8, 28, width=32))


@st.composite
def polygon_sets(draw: st.DrawFn) -> list[Polygon]:
    """Valid polygons, some with holes, over and beyond the sheet's edges."""
    found = []
    for _count in range(draw(st.integers(1, 4))):
        points = draw(st.lists(st.tuples(_places, _places), min_size=3, max_size=12, unique=True))
        shape = shapely.make_valid(Polygon([(X + x, Y - y) for x, y in points]))
        found += [p for p in shapely.get_parts(shape) if p.geom_type == "Polygon"]
    return found or [box(X, Y - 1, X + 1, Y)]


@given(polygon_sets(), st.integers(4, 45), st.integers(4, 33))
@settings(max_examples=100, deadline=None)
def test_windows_burn_the_same_pixels_as_the_whole_sheet(
    polygons: list[Polygon], width: int, height: int
) -> None:
    shapes = prepared(polygons, SHEET)
    whole = burn(shapes, SHEET.window)
    np.testing.assert_array_equal(in_windows(shapes, width, height), whole)
    # Every vertex, no window: what burn leaves out does not matter.
    everything = rasterize(
        ((polygon, i + 1) for i, polygon in enumerate(shapes.geometry)),
        out_shape=whole.shape,
        transform=Affine(1, 0, 0, 0, -1, 0),
        fill=0,
        dtype="uint32",
    )
    np.testing.assert_array_equal(whole, everything)


@given(st.integers(0, 2**32 - 1), st.integers(5, 45), st.integers(5, 33))
@settings(max_examples=30, deadline=None)
def test_shared_edges_leave_neither_gap_nor_overlap(seed: int, width: int, height: int) -> None:
    """Voronoi parcels over the whole sheet: each pixel is in one, whoever is burnt last."""
    rng = np.random.default_rng(seed)
    points = shapely.MultiPoint(rng.uniform((X - 3, Y - 18), (X + 24, Y + 3), (30, 2)).round(1))
    cells = shapely.get_parts(
        shapely.voronoi_polygons(points, extend_to=box(X - 9, Y - 30, X + 40, Y + 9))
    )
    parcels = list(cells)
    forwards = in_windows(prepared(parcels, SHEET), width, height)
    backwards = in_windows(prepared(parcels[::-1], SHEET), width, height)
    assert (forwards > 0).all()
    np.testing.assert_array_equal(forwards, len(parcels) + 1 - backwards)


@pytest.mark.parametrize("top", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("flipped", [(), (0,), (1,), (0, 1)])
def test_an_edge_on_the_centres_belongs_to_one_side(
    grid: PixelGrid, top: float, flipped: tuple[int, ...]
) -> None:
    """GDAL burns a lower edge that lies on centres by the direction in which its ring runs."""
    north = box(X, Y - 1 - top, X + 3, Y)
    south = box(X, Y - 2, X + 3, Y - 1 - top)
    pair = [north, south]
    for i in flipped:
        pair[i] = pair[i].reverse()
    found = burnt(pair, grid)
    np.testing.assert_array_equal(found, 3 - burnt(pair[::-1], grid))
    rows = 2 + (top > 0.25) + (top > 0.75)
    assert found[:, 0].tolist() == [1] * rows + [2] * (4 - rows)


def test_rings_of_many_vertices_burn_as_gdal_does() -> None:
    """A star of 40 000 vertices with holes: nearly all of them are left out of a window."""
    grid = PixelGrid("EPSG:25830", X, Y, 0.5, 0.5, 300, 200)
    rng = np.random.default_rng(3)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 20_000))

    def ring(least: float, most: float) -> NDArray[np.float64]:
        radius = rng.uniform(least, most, len(angle))
        return np.column_stack([X + 75 + radius * np.cos(angle), Y - 50 + radius * np.sin(angle)])

    star = shapely.make_valid(Polygon(ring(40, 90), [ring(5, 39)]))
    whole = by_gdal([star], grid)
    assert 0.1 < whole.mean() < 0.9
    shapes = prepared([star], grid)
    for size in (16, 61, 128, 300):
        np.testing.assert_array_equal(in_windows(shapes, size, size), whole)


# Classes


@pytest.mark.parametrize(
    ("shares", "unmapped", "composite", "min_share", "expected"),
    [
        ([1, 0, 0], 0, "dominant", 0.5, 0),
        ([0.5, 0.5, 0], 0, "dominant", 0.5, "below_min_share"),  # a tie has no largest
        ([0.5, 0.3, 0.2], 0, "dominant", 0.5, 0),
        ([0.4, 0.35, 0.25], 0, "dominant", 0.5, "below_min_share"),
        ([0.4, 0.35, 0.25], 0, "dominant", 0.4, 0),
        ([0.4, 0.35, 0.25], 0, "dominant", 0.0, 0),
        ([0, 0, 0.6], 0.4, "dominant", 0.5, 2),
        ([0, 0, 0.4], 0.6, "dominant", 0.5, "below_min_share"),
        ([0, 0.7 + 0.2 + 0.1, 0], 0, "mask", 0.5, 1),  # 0.9999999999999999
        ([0, 0.7 + 0.2 + 0.1, 0], 0, "dominant", 1.0, 1),
        ([0.1 + 0.2 + 0.3, 0.4, 0], 0, "dominant", 0.6, 0),
        ([0.3 + 0.2, 0.1 + 0.4, 0], 0, "dominant", 0.5, "below_min_share"),
        ([0.1 + 0.2, 0.3, 0.4], 0, "dominant", 0.0, 2),
        ([0.1 + 0.2, 0.3, 0], 0.4, "dominant", 0.0, "below_min_share"),
        ([0.6, 0.4, 0], 0, "mask", 0.5, "composite"),
        ([0.99, 0, 0], 0.01, "mask", 0.5, "composite"),
        ([0.9999, 0, 0], 0, "mask", 0.5, 0),  # 33.33 + 33.33 + 33.33 % of one class
        ([1.01, 0, 0], 0, "mask", 0.5, 0),
        ([0.6, 0, 0], 0, "mask", 0.5, "composite"),  # the rest is not told
        ([0.6, 0, 0], 0, "dominant", 0.7, "below_min_share"),
    ],
)
def test_the_class_of_a_polygon(
    shares: list[float], unmapped: float, composite: str, min_share: float, expected: int | str
) -> None:
    options = LabelSettings.model_validate({"composite": composite, "min_share": min_share})
    classes, reasons = polygon_classes(proportions([], [shares], [unmapped]), options)
    if isinstance(expected, int):
        assert (classes.tolist(), reasons.tolist()) == ([expected], [255])
    else:
        assert (classes.tolist(), reasons.tolist()) == ([IGNORE], [REASONS.index(expected)])


@pytest.mark.parametrize("composite", ["dominant", "mask"])
@pytest.mark.parametrize("reason", ["unknown", "empty_label", "unmapped"])
def test_what_nobody_interpreted_has_no_class(composite: str, reason: str) -> None:
    options = LabelSettings.model_validate({"composite": composite, "min_share": 0})
    for shares in ([0.0, 0, 0], [1.0, 0, 0]):
        classes, reasons = polygon_classes(proportions([], [shares], [0], [reason]), options)
        assert classes.tolist() == [IGNORE]
        assert reasons.tolist() == [REASONS.index(reason)]


def test_every_pixel_has_a_class_or_the_first_reason(grid: PixelGrid) -> None:
    columns = [box(X + 0.5 * c, Y - 2, X + 0.5 * (c + 1), Y) for c in range(5)]
    shapes = label_shapes(
        proportions(
            columns,
            [[1, 0, 0], [0, 0.4, 0.3], [0, 0, 0], [0, 0, 0], [0, 0, 1]],
            [0, 0.3, 1, 0, 0],
            ["", "", "unknown", "empty_label", ""],
        ),
        grid,
        LabelSettings(),
    )
    valid = np.ones((4, 6), bool)
    valid[3] = False
    plain = label_window(shapes, grid.window, valid, LabelSettings(), 3)
    row = [0, IGNORE, IGNORE, IGNORE, 2, IGNORE]
    assert plain.label.tolist() == [row, row, row, [IGNORE] * 6]
    assert plain.polygons.tolist() == [[1, 2, 3, 4, 5, 0]] * 4
    assert plain.class_pixels.tolist() == [3, 0, 3]
    masked = dict(zip(REASONS, plain.masked_pixels.tolist(), strict=True))
    assert masked == {
        "orthophoto_nodata": 6, "no_polygon": 3, "unknown": 3, "empty_label": 3, "unmapped": 0,
        "composite": 0, "below_min_share": 3, "boundary": 0,
    }  # fmt: skip
    # Every column has an outline beside it: only pixels that had a class become boundary.
    outlined = label_window(shapes, grid.window, valid, LabelSettings(boundary_px=1), 3)
    assert (outlined.label == IGNORE).all()
    again = dict(zip(REASONS, outlined.masked_pixels.tolist(), strict=True))
    assert again == {**masked, "boundary": 6}


# Outlines


def test_boundary_of_one_pixel() -> None:
    index = np.zeros((6, 8), np.uint32)
    index[:, 4:] = 7
    index[0, 0] = 3
    expected = np.zeros((6, 8), bool)
    expected[:, 3:5] = True
    expected[:2, :2] = True
    np.testing.assert_array_equal(near_outline(index, 1), expected)


def test_boundary_of_three_pixels() -> None:
    index = np.full((9, 12), 5, np.uint32)
    index[4, 6] = 9
    expected = np.zeros((9, 12), bool)
    expected[1:8, 3:10] = True
    np.testing.assert_array_equal(near_outline(index, 3), expected)


def test_the_edge_of_an_array_is_no_outline() -> None:
    for distance in (1, 3, 20):
        assert not near_outline(np.full((5, 4), 2, np.uint32), distance).any()


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_outlines_equal_brute_force(seed: int, distance: int, rows: int, cols: int) -> None:
    index = np.random.default_rng(seed).choice([0, 0, 0, 0, 1, 2**32 - 1], (rows, cols))
    index = index.astype(np.uint32)
    expected = np.zeros((rows, cols), bool)
    for r in range(rows):
        for c in range(cols):
            near = index[
                max(0, r - distance) : r + distance + 1, max(0, c - distance) : c + distance + 1
            ]
            expected[r, c] = (near != index[r, c]).any()
    np.testing.assert_array_equal(near_outline(index, distance), expected)


@pytest.mark.parametrize("boundary_px", [0, 1, 3, 50])
@pytest.mark.parametrize("size", [1, 5, 16, 64])
def test_labels_do_not_depend_on_the_window(boundary_px: int, size: int) -> None:
    rng = np.random.default_rng(1)
    points = shapely.MultiPoint(rng.uniform((X, Y - 14), (X + 20, Y), (9, 2)))
    parcels = list(shapely.get_parts(shapely.voronoi_polygons(points)))[:-2]
    options = LabelSettings(boundary_px=boundary_px)
    shapes = label_shapes(proportions(parcels), SHEET, options)
    valid = rng.random((SHEET.height, SHEET.width)) < 0.95
    whole = label_window(shapes, SHEET.window, valid, options, 3)
    assert whole.class_pixels.sum() + whole.masked_pixels.sum() == SHEET.window.pixels
    assert (whole.label != IGNORE).any() == (boundary_px < 50)
    class_pixels, masked = np.zeros(3, np.int64), np.zeros(len(REASONS), np.int64)
    for window in SHEET.blocks(size):
        part = label_window(shapes, window, valid[window.slices()], options, 3)
        np.testing.assert_array_equal(part.label, whole.label[window.slices()])
        np.testing.assert_array_equal(part.polygons, whole.polygons[window.slices()])
        class_pixels += part.class_pixels
        masked += part.masked_pixels
    np.testing.assert_array_equal(class_pixels, whole.class_pixels)
    np.testing.assert_array_equal(masked, whole.masked_pixels)


def test_boundaries_mask_both_sides_and_not_the_sheets_edge(grid: PixelGrid) -> None:
    west, east = box(X - 9, Y - 9, X + 1.5, Y + 9), box(X + 1.5, Y - 9, X + 9, Y + 9)
    options = LabelSettings(boundary_px=1)
    shapes = label_shapes(proportions([west, east]), grid, options)
    found = label_window(shapes, grid.window, np.ones((4, 6), bool), options, 3)
    assert found.label.tolist() == [[0, 0, IGNORE, IGNORE, 1, 1]] * 4
    assert found.polygons.tolist() == [[1, 1, 1, 2, 2, 2]] * 4


# The real scenes


@pytest.mark.real_data
def test_exact_polygons_give_the_truth_of_every_real_pixel(shared_data: Path) -> None:
    base = siose.open_base(shared_data / "dubai" / "exact.gpkg")
    wrong: dict[str, dict[str, int]] = {}
    ignored = 0
    for scene in range(1, 7):
        grid = geotiff.read_grid(shared_data / "dubai" / "ortho" / f"scene_{scene}.tif")
        frame, _ = siose.class_proportions(
            base,
            geotiff.bounds_in(grid, base.crs),
            grid.bounds,
            grid.crs,
            DUBAI,
            SioseSettings(),
        )
        polygons = Proportions(
            frame.geometry.to_numpy(),
            frame["polygon_id"].to_numpy(),
            frame[[f"share_{name}" for name in DUBAI.names]].to_numpy(np.float64),
            frame["share_unmapped"].to_numpy(np.float64),
            frame["reason"].to_numpy(),
            DUBAI.fingerprint,
        )
        options = LabelSettings()
        shapes = label_shapes(polygons, grid, options)

        def labelled(window: Window, shapes: LabelShapes = shapes) -> NDArray[np.uint8]:
            valid = np.ones((window.height, window.width), bool)
            return label_window(shapes, window, valid, LabelSettings(), len(DUBAI)).label

        with rasterio.open(shared_data / "dubai" / "truth" / f"scene_{scene}.tif") as source:
            truth = source.read(1)
        ignored += int((truth == IGNORE).sum())
        # Windows of one size on one thread, of another on two.
        size, threads = ((2048, 1), (1000, 2))[scene % 2]
        for window, label in ordered(labelled, grid.blocks(size), threads):
            differs = label != truth[window.slices()]
            if differs.any():
                wrong.setdefault(f"scene_{scene}", {})[str(window)] = int(differs.sum())
    assert not wrong, json.dumps(wrong)
    assert ignored > 0
