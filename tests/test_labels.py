"""Labels: pixel by pixel, whatever the window; the reasons of what is masked; the real truth."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import geopandas
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

from pipeline import config, geotiff, labels, scanline, siose
from pipeline.errors import InputError, SettingsError
from pipeline.grid import PixelGrid, Window, split
from pipeline.labels import (
    REASONS,
    LabelShapes,
    burn,
    label_shapes,
    label_window,
    near_outline,
    outline_margin,
    polygon_classes,
)
from pipeline.nomenclature import IGNORE, Nomenclature, TrainingClass
from pipeline.parallel import ordered
from pipeline.proportions import Proportions
from pipeline.scanline import Outlines
from pipeline.sections import LabelSettings, SioseSettings
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
        [array],
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
@settings(max_examples=80, deadline=None)
def test_windows_burn_the_same_pixels_as_the_whole_sheet(
    polygons: list[Polygon], width: int, height: int
) -> None:
    shapes = prepared(polygons, SHEET)
    whole = burn(shapes, SHEET.window)
    np.testing.assert_array_equal(in_windows(shapes, width, height), whole)
    geometry = shapely.transform(
        np.array(polygons, object), lambda points: labels.pixel_coordinates(points, SHEET)
    )
    everything = rasterize(
        ((polygon, i + 1) for i, polygon in enumerate(geometry)),
        out_shape=whole.shape,
        transform=Affine.identity(),
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
    for size in (25, 61, 128, 300):
        np.testing.assert_array_equal(in_windows(shapes, size, size), whole)


@pytest.mark.parametrize("room", [1, 50, 2**22])
def test_outlines_do_not_depend_on_how_polygons_come(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """At once, one by one, with arrays of none between: multipolygons, holes, empty ones."""
    monkeypatch.setattr(scanline, "_ROOM", room)
    rng = np.random.default_rng(5)
    points = shapely.MultiPoint(rng.uniform((-3, -3), (45, 33), (40, 2)))
    some = [
        *shapely.get_parts(shapely.voronoi_polygons(points)),
        Polygon(),
        shapely.MultiPolygon([box(1, 1, 9, 9), box(20, 3, 30, 28)]),
        box(2, 2, 30, 25).difference(box(5, 5, 11, 11)),
        shapely.Point(20, 15).buffer(12, quad_segs=600),  # several pieces of an outline
    ]
    whole = np.array(some, object)
    none = whole[:0]
    window, rows = Window(3, 2, 30, 20), np.arange(len(some) + 1, dtype=np.uint32)
    flipped = shapely.transform(whole, lambda xy: xy * (1, -1))
    flipped[shapely.is_empty(whole)] = box(-9, 5, -8, 6)  # GDAL warns of none
    expected = by_gdal(list(flipped), PixelGrid("EPSG:25830", 0, 0, 1, 1, 45, 33))
    for arrays in ([whole], [none, *whole[:, None], none], [whole[:7], none, whole[7:]]):
        found = Outlines.of(arrays).runs(window)
        assert not found.apart
        np.testing.assert_array_equal(found.painted(rows), expected[window.slices()])
    for arrays in ([], [none], [np.array([Polygon()], object)]):
        assert Outlines.of(arrays).runs(window).painted(rows).tolist() == [[0] * 30] * 20


def test_few_overlaps_among_many_polygons() -> None:
    """Runs that lie alone are painted in one go, the others over them: which are which."""
    grid = PixelGrid("EPSG:25830", 0, 40, 1, 1, 60, 40)
    tiles = [box(x, y, x + 10, y + 10) for y in range(0, 40, 10) for x in range(0, 60, 10)]
    over = [box(3, 3, 57, 4), box(12, 12, 18, 28), box(5, 5, 6, 6), box(15, 20, 45, 23)]
    for polygons in (tiles + over, over + tiles, [*tiles[:9], *over, *tiles[9:]]):
        np.testing.assert_array_equal(burnt(polygons, grid), by_gdal(polygons, grid))


def test_labels_load_neither_pandas_nor_dask(tmp_path: Path) -> None:
    """They cost a second and 200 MB, which a label raster has no use for."""
    heavy = ("pandas", "geopandas", "pyogrio", "pyproj", "dask")
    code = f"""
import sys
from pathlib import Path
from pipeline import block_raster, config, labels, nomenclature, proportions, sections
from pipeline.grid import PixelGrid
grid = PixelGrid("EPSG:25830", 0, 4, 1, 1, 5, 4)
classes = nomenclature.Nomenclature((nomenclature.TrainingClass("a", (1,), "#000000"),))
found = proportions.read_proportions(Path(sys.argv[1]), classes)
shapes = labels.label_shapes(found, grid, sections.LabelSettings())
print(labels.burn(shapes, grid.window)[0].tolist())
print([m for m in {heavy} if m in sys.modules])
"""
    classes = Nomenclature((TrainingClass("a", (1,), "#000000"),))
    frame = geopandas.GeoDataFrame(
        {"polygon_id": ["p"], "share_a": [1.0], "share_unmapped": [0.0], "reason": [""]},
        geometry=[box(1, 0, 3, 4)],
        crs="EPSG:25830",
    )
    siose.write_proportions(frame, tmp_path / "p.parquet", classes.fingerprint)
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "p.parquet")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.splitlines() == ["[0, 1, 1, 0, 0]", "[]"]


# Classes


@pytest.mark.parametrize(
    ("shares", "unmapped", "composite", "min_share", "expected"),
    [
        ([1, 0, 0], 0, "dominant", 0.5, 0),
        ([0.5, 0.5, 0], 0, "dominant", 0.5, "below_min_margin"),  # a tie has no largest
        ([0.5, 0.3, 0.2], 0, "dominant", 0.5, 0),
        ([0.4, 0.35, 0.25], 0, "dominant", 0.5, "below_min_share"),
        ([0.4, 0.35, 0.25], 0, "dominant", 0.4, 0),
        ([0.4, 0.35, 0.25], 0, "dominant", 0.0, 0),
        ([0, 0, 0.6], 0.4, "dominant", 0.5, 2),
        ([0, 0, 0.4], 0.6, "dominant", 0.5, "below_min_share"),
        ([0, 0.7 + 0.2 + 0.1, 0], 0, "mask", 0.5, 1),  # 0.9999999999999999
        ([0, 0.7 + 0.2 + 0.1, 0], 0, "dominant", 1.0, 1),
        ([0.1 + 0.2 + 0.3, 0.4, 0], 0, "dominant", 0.6, 0),
        ([0.3 + 0.2, 0.1 + 0.4, 0], 0, "dominant", 0.5, "below_min_margin"),
        ([0.1 + 0.2, 0.3, 0.4], 0, "dominant", 0.0, 2),
        ([0.1 + 0.2, 0.3, 0], 0.4, "dominant", 0.0, "below_min_margin"),
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


@pytest.mark.parametrize(
    ("shares", "min_share", "min_margin", "expected"),
    [
        ([0.6, 0.4, 0], 0.5, 0.2, 0),  # 0.6 - 0.4 is 0.19999999999999996
        ([0.6, 0.4, 0], 0.5, 0.21, "below_min_margin"),
        ([0.1 + 0.2, 0.6, 0.1], 0.5, 0.3, 1),
        ([0.4, 0.35, 0.25], 0.0, 0.05, 0),
        ([0.4, 0.35, 0.25], 0.0, 0.06, "below_min_margin"),
        ([0.4, 0.35, 0.25], 0.5, 0.06, "below_min_share"),  # both: the share is told
        ([0.5, 0.5, 0], 0.6, 0.0, "below_min_share"),
        ([0.3, 0.3, 0.3], 0.0, 0.0, "below_min_margin"),
        ([0.5, 0.5 - 1e-12, 0], 0.5, 0.0, "below_min_margin"),  # a tie but for the sums
        ([0.35, 0.05, 0], 0.3, 0.3, 0),  # 0.6 of no class is no second
        ([0.34, 0.05, 0], 0.3, 0.3, "below_min_margin"),
        ([0.995, 0, 0], 0.5, 1.0, 0),  # one class alone leads by all there is
        ([0.99, 0.01, 0], 0.5, 1.0, "below_min_margin"),
    ],
)
def test_the_lead_of_a_class(
    shares: list[float], min_share: float, min_margin: float, expected: int | str
) -> None:
    rest = 1 - sum(shares)
    unmapped = rest if rest > 0.05 else 0
    for composite in ("dominant", "mask"):
        options = LabelSettings.model_validate(
            {"composite": composite, "min_share": min_share, "min_margin": min_margin}
        )
        classes, reasons = polygon_classes(proportions([], [shares], [unmapped]), options)
        wanted = "composite" if composite == "mask" and max(shares) < 0.99 + 1e-9 else expected
        if isinstance(wanted, int):
            assert (classes.tolist(), reasons.tolist()) == ([wanted], [255])
        else:
            assert (classes.tolist(), reasons.tolist()) == ([IGNORE], [REASONS.index(wanted)])


def test_a_reason_that_labels_do_not_know_is_refused() -> None:
    odd = proportions([], [[0.0, 0, 0]] * 2, [0, 0], ["unknown", "guessed"])
    with pytest.raises(ValueError, match=r"reasons \['guessed'\] are none"):
        polygon_classes(odd, LabelSettings())


@pytest.mark.parametrize("composite", ["dominant", "mask"])
@pytest.mark.parametrize("reason", ["unknown", "empty_label", "unmapped"])
def test_what_nobody_interpreted_has_no_class(composite: str, reason: str) -> None:
    options = LabelSettings.model_validate({"composite": composite, "min_share": 0})
    for shares in ([0.0, 0, 0], [1.0, 0, 0]):
        classes, reasons = polygon_classes(proportions([], [shares], [0], [reason]), options)
        assert classes.tolist() == [IGNORE]
        assert reasons.tolist() == [REASONS.index(reason)]


def test_every_pixel_has_a_class_or_the_first_reason() -> None:
    grid = PixelGrid("EPSG:25830", X, Y, 0.5, 0.5, 8, 4)
    columns = [box(X + 0.5 * c, Y - 2, X + 0.5 * (c + 1), Y) for c in range(7)]
    options = LabelSettings(min_margin=0.3)
    shapes = label_shapes(
        proportions(
            columns,
            [[1, 0, 0], [0, 0.4, 0.3], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0.6, 0.4], [0, 0, 1]],
            [0, 0.3, 1, 0, 1, 0, 0],
            ["", "", "unknown", "empty_label", "unmapped", "", ""],
        ),
        grid,
        options,
    )
    valid = np.ones((4, 8), bool)
    valid[3] = False
    plain = label_window(shapes, grid.window, valid, (0, 0), 3)
    row = [0, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE, 2, IGNORE]
    assert plain.label.tolist() == [row, row, row, [IGNORE] * 8]
    assert plain.polygons.tolist() == [[1, 2, 3, 4, 5, 6, 7, 0]] * 4
    assert plain.class_pixels.tolist() == [3, 0, 3]
    masked = dict(zip(REASONS, plain.masked_pixels.tolist(), strict=True))
    assert masked == {
        "orthophoto_nodata": 8, "no_polygon": 3, "unknown": 3, "empty_label": 3, "unmapped": 3,
        "composite": 0, "below_min_share": 3, "below_min_margin": 3, "boundary": 0,
    }  # fmt: skip
    # Every column has an outline beside it: only pixels that had a class become boundary.
    outlined = label_window(shapes, grid.window, valid, (0, 1), 3)
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
    np.testing.assert_array_equal(near_outline(index, (1, 1)), expected)


@pytest.mark.parametrize("margin", [(3, 3), (1, 4), (4, 1), (3, 0), (0, 3), (0, 0), (50, 2)])
def test_the_boundary_is_a_rectangle_around_each_pixel(margin: tuple[int, int]) -> None:
    rows, cols = margin
    index = np.full((9, 12), 5, np.uint32)
    index[4, 6] = 9
    expected = np.zeros((9, 12), bool)
    expected[max(0, 4 - rows) : 5 + rows, 6 - cols : 7 + cols] = True
    expected[4, 6] = margin != (0, 0)
    np.testing.assert_array_equal(near_outline(index, margin), expected)


def test_the_edge_of_an_array_is_no_outline() -> None:
    for distance in (1, 3, 20):
        assert not near_outline(np.full((5, 4), 2, np.uint32), (distance, distance)).any()


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(0, 14), st.integers(0, 14)),
    st.integers(1, 13),
    st.integers(1, 13),
    st.sampled_from([0.1, 0.5, 0.95]),
)
@settings(max_examples=150, deadline=None)
def test_outlines_equal_brute_force(
    seed: int, margin: tuple[int, int], rows: int, cols: int, same: float
) -> None:
    rng = np.random.default_rng(seed)
    other = rng.choice(np.array([1, 2, 2**32 - 1], np.uint32), (rows, cols))
    index = np.where(rng.random((rows, cols)) < same, np.uint32(0), other)
    before = index.copy()
    expected = np.zeros((rows, cols), bool)
    for r in range(rows):
        for c in range(cols):
            near = index[
                max(0, r - margin[0]) : r + margin[0] + 1, max(0, c - margin[1]) : c + margin[1] + 1
            ]
            expected[r, c] = (near != index[r, c]).any()
    np.testing.assert_array_equal(near_outline(index, margin), expected)
    np.testing.assert_array_equal(index, before)


@pytest.mark.parametrize("distance", [*range(1, 40), 63, 64, 65, 127, 128, 200])
def test_every_distance_reaches_as_far_as_it_says(distance: int) -> None:
    """An outline between columns 99 and 100, and one pixel in the north."""
    index = np.ones((1, 200), np.uint32)
    index[:, 100:] = 2
    wanted = np.abs(np.arange(200) - 99.5) < distance
    for margin, array in (((7, distance), index), ((distance, 7), np.ascontiguousarray(index.T))):
        assert near_outline(array, margin).ravel().tolist() == wanted.tolist()
    column = np.zeros((200, 1), np.uint32)
    column[0] = 1
    assert near_outline(column, (distance, 0)).ravel().tolist() == [
        i <= distance for i in range(200)
    ]


@pytest.mark.parametrize("margin", [(0, 0), (1, 1), (3, 3), (2, 5), (50, 50)])
@pytest.mark.parametrize("size", [2, 5, 16, 64])
def test_labels_do_not_depend_on_the_window(margin: tuple[int, int], size: int) -> None:
    rng = np.random.default_rng(1)
    points = shapely.MultiPoint(rng.uniform((X, Y - 14), (X + 20, Y), (9, 2)))
    parcels = list(shapely.get_parts(shapely.voronoi_polygons(points)))[:-2]
    shapes = label_shapes(proportions(parcels), SHEET, LabelSettings())
    valid = rng.random((SHEET.height, SHEET.width)) < 0.95
    whole = label_window(shapes, SHEET.window, valid, margin, 3)
    assert whole.class_pixels.sum() + whole.masked_pixels.sum() == SHEET.window.pixels
    assert (whole.label != IGNORE).any() == (margin < (50, 50))
    class_pixels, masked = np.zeros(3, np.int64), np.zeros(len(REASONS), np.int64)
    for window in SHEET.blocks(size):
        part = label_window(shapes, window, valid[window.slices()], margin, 3)
        np.testing.assert_array_equal(part.label, whole.label[window.slices()])
        np.testing.assert_array_equal(part.polygons, whole.polygons[window.slices()])
        class_pixels += part.class_pixels
        masked += part.masked_pixels
    np.testing.assert_array_equal(class_pixels, whole.class_pixels)
    np.testing.assert_array_equal(masked, whole.masked_pixels)


def test_boundaries_mask_both_sides_and_not_the_sheets_edge(grid: PixelGrid) -> None:
    west, east = box(X - 9, Y - 9, X + 1.5, Y + 9), box(X + 1.5, Y - 9, X + 9, Y + 9)
    shapes = prepared([west, east], grid)
    found = label_window(shapes, grid.window, np.ones((4, 6), bool), (1, 1), 3)
    assert found.label.tolist() == [[0, 0, IGNORE, IGNORE, 1, 1]] * 4
    assert found.polygons.tolist() == [[1, 1, 1, 2, 2, 2]] * 4


def test_a_boundary_in_metres_is_as_wide_on_oblong_pixels() -> None:
    """Half a metre on each side: one column of 0.5 m, two rows of 0.25 m."""
    grid = PixelGrid("EPSG:25830", X, Y, 0.5, 0.25, 6, 8)
    margin = outline_margin(LabelSettings(boundary_m=0.5), grid, 0)
    assert margin == (2, 1)
    south, north = box(X, Y - 2, X + 3, Y - 1), box(X, Y - 1, X + 3, Y)
    west, east = box(X, Y - 2, X + 1.5, Y), box(X + 1.5, Y - 2, X + 3, Y)
    none = IGNORE
    for pair, expected in (
        ((north, south), [[0] * 6] * 2 + [[none] * 6] * 4 + [[1] * 6] * 2),
        ((west, east), [[0, 0, none, none, 1, 1]] * 8),
    ):
        found = label_window(prepared(pair, grid), grid.window, np.ones((8, 6), bool), margin, 3)
        assert found.label.tolist() == expected
        assert found.masked_pixels[REASONS.index("boundary")] == sum(
            r.count(none) for r in expected
        )


# Margins


def square(size: float, crs: str = "EPSG:25830", pixels: int = 100_000) -> PixelGrid:
    """A sheet whose upper left corner is at the test's place."""
    return PixelGrid(crs, X, Y, size, size, pixels, pixels)


@pytest.mark.parametrize(
    ("size", "boundary_px", "boundary_m", "tolerance_m", "pixels"),
    [
        (0.1, 0, 0, 5, 0),
        (0.1, 3, 0, 5, 3),
        (0.1, 0, 5, 0, 50),
        (0.25, 0, 5, 0, 20),
        (0.25, 0, 5.01, 0, 21),
        (0.25, 0, 0.001, 0, 1),
        (0.1, 0, 1.1, 0, 11),  # 1.1 / 0.1 is 11.000000000000002
        (0.1, 0, 0.7, 0, 7),  # 6.999999999999999
        (0.25, 19, 5, 0, 20),
        (0.25, 21, 5, 0, 21),
        (0.5, 0, "source", 5, 10),
        (0.5, 0, "source", 0.2, 1),
        (0.5, 0, "source", 0, 0),
        (0.5, 12, "source", 5, 12),
        (0.5, 0, 1, 5, 2),  # metres that are told win over the source's
    ],
)
def test_the_margin_of_outlines(
    size: float, boundary_px: int, boundary_m: object, tolerance_m: float, pixels: int
) -> None:
    options = LabelSettings.model_validate({"boundary_px": boundary_px, "boundary_m": boundary_m})
    assert outline_margin(options, square(size), tolerance_m) == (pixels, pixels)


@pytest.mark.parametrize("size", [0.1, 0.2, 0.22, 0.25, 0.3, 0.5, 1.0])
def test_whole_pixels_of_metres_stay_whole(size: float) -> None:
    for count in range(1, 300):
        options = LabelSettings(boundary_m=round(count * size, 6))
        assert outline_margin(options, square(size), 0) == (count, count)


def test_a_margin_is_never_wider_than_the_sheet() -> None:
    grid = PixelGrid("EPSG:25830", X, Y, 0.1, 0.1, 30, 20)
    assert outline_margin(LabelSettings(boundary_m=1000), grid, 0) == (20, 30)
    assert outline_margin(LabelSettings(boundary_px=25), grid, 0) == (20, 25)


def test_feet_are_not_metres() -> None:
    # 5 m are 16.4 US survey feet.
    grid = square(1.0, "EPSG:2263")
    assert outline_margin(LabelSettings(boundary_m=5), grid, 0) == (17, 17)


@pytest.mark.parametrize(
    ("latitude", "north", "east"),
    # km a degree: "Length of a degree", Wikipedia, Latitude (WGS 84)
    [
        (0, 110.574, 111.320),
        (15, 110.649, 107.550),
        (30, 110.852, 96.486),
        (45, 111.132, 78.847),
        (-45, 111.132, 78.847),
        (60, 111.412, 55.800),
        (75, 111.618, 28.902),
    ],
)
@pytest.mark.parametrize("crs", ["EPSG:4258", "EPSG:4326"])
def test_degrees_are_as_long_as_at_the_sheets_centre(
    crs: str, latitude: float, north: float, east: float
) -> None:
    size = 1e-8  # so small that rounding up does not matter
    grid = PixelGrid(crs, -3.0, latitude + 0.05, size, size, 10**7, 10**7)
    rows, cols = outline_margin(LabelSettings(boundary_m=1000), grid, 0)
    assert 1 / (rows * size) == pytest.approx(north, abs=6e-4)
    assert 1 / (cols * size) == pytest.approx(east, abs=6e-4)


def test_a_geographic_sheet_has_more_columns_than_rows_in_a_margin() -> None:
    # At 39.5 degrees north a millionth of a degree is 0.1110 m high and 0.0860 m wide.
    grid = PixelGrid("EPSG:4258", -0.4, 39.5 + 0.01, 1e-6, 1e-6, 20_000, 20_000)
    assert outline_margin(LabelSettings(boundary_m=5), grid, 0) == (46, 59)


def test_a_source_without_a_tolerance_cannot_be_the_margin() -> None:
    for unknown in (float("nan"), float("inf"), -1.0):
        with pytest.raises(InputError, match=r"labels.boundary_m: source: .* is not known"):
            outline_margin(LabelSettings(boundary_m="source"), square(0.5), unknown)
    assert outline_margin(LabelSettings(boundary_m=1), square(0.5), float("nan")) == (2, 2)


@pytest.mark.parametrize(
    ("key", "value", "mistake"),
    [
        ("boundary_m", -1, "is metres from 0 to 1000, or source, not -1"),
        ("boundary_m", 1000.5, "is metres from 0 to 1000, or source, not 1000.5"),
        ("boundary_m", float("inf"), "is metres from 0 to 1000, or source, not inf"),
        ("boundary_m", float("nan"), "is metres from 0 to 1000, or source, not nan"),
        ("boundary_m", "sorce", "is metres from 0 to 1000, or source, not 'sorce'"),
        (
            "boundary_m",
            "2,5",
            "is metres from 0 to 1000, or source, not '2,5'; decimals take a point",
        ),
        ("boundary_m", True, "is metres from 0 to 1000, or source, not true or yes"),
        ("boundary_m", None, "is metres from 0 to 1000, or source, not nothing"),
        ("boundary_m", [5], "is metres from 0 to 1000, or source, not [5]"),
        ("min_margin", 20, "is a share from 0 to 1; for 20 % write 0.2"),
        ("min_margin", True, "is a number, not yes or no"),
    ],
)
def test_mistakes_in_the_settings_of_labels(key: str, value: object, mistake: str) -> None:
    with pytest.raises(SettingsError) as caught:
        config.from_mapping({"labels": {key: value}}, "run.yaml")
    assert list(caught.value.items) == [f"labels.{key}: {mistake}"]


def test_metres_are_read_back_as_they_were_written() -> None:
    for value in (0.0, 2.5, "source"):
        options = LabelSettings.model_validate({"boundary_m": value})
        assert options.boundary_m == value
        assert LabelSettings.model_validate_json(options.model_dump_json()) == options


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
            [frame.geometry.to_numpy()],
            frame[[f"share_{name}" for name in DUBAI.names]].to_numpy(np.float64),
            frame["share_unmapped"].to_numpy(np.float64),
            frame["reason"].to_numpy(),
            DUBAI.fingerprint,
        )
        shapes = label_shapes(polygons, grid, LabelSettings())

        def labelled(window: Window, shapes: LabelShapes = shapes) -> NDArray[np.uint8]:
            valid = np.ones((window.height, window.width), bool)
            return label_window(shapes, window, valid, (0, 0), len(DUBAI)).label

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
