"""Topology: exact findings on squares, the same as the naive way at random, and no GEOS error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from shapely import (
    GeometryCollection,
    LineString,
    MultiPolygon,
    Point,
    Polygon,
    box,
)

from pipeline import mending
from pipeline.mending import mended
from pipeline.topology import (
    Finding,
    gaps,
    invalid,
    overlaps,
    slivers,
)

X, Y = 700_000.0, 4_400_000.0  # as in UTM: a coordinate has nine digits before its last metre

# Some shapes here have coordinates that are no numbers on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in line:RuntimeWarning")

BOW_TIE = Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
COLLAPSED = "MULTIPOLYGON (((1 4, 1 4, 1 4, 1 4)), ((3 3, 3 1, 1 0, 0 4, 3 3)))"


def array(*shapes: shapely.Geometry | None) -> NDArray[np.object_]:
    result = np.empty(len(shapes), object)
    result[:] = shapes
    return result


def mesh(side: int, noise: float = 0.0, cell: float = 100.0, seed: int = 0) -> NDArray[np.object_]:
    """Quadrangles that cover a square; noise moves each one's vertices by itself."""
    rng = np.random.default_rng(seed)
    knots = np.stack(np.meshgrid(np.arange(side + 1), np.arange(side + 1)), -1) * cell
    knots = knots + rng.uniform(-0.3, 0.3, knots.shape) * cell + [X, Y]
    corners = [knots[:-1, :-1], knots[:-1, 1:], knots[1:, 1:], knots[1:, :-1]]
    rings = np.stack(corners, -2).reshape(-1, 4, 2)
    return np.asarray(shapely.polygons(rings + rng.uniform(-noise, noise, rings.shape)), object)


def kinds(findings: Sequence[Finding]) -> list[tuple[str, tuple[int, ...]]]:
    return [(finding.kind, finding.rows) for finding in findings]


# --- invalid and mended


def test_each_kind_of_broken_shape_is_told_with_its_place() -> None:
    shapes = array(
        box(0, 0, 1, 1),
        None,
        Polygon(),
        BOW_TIE,
        LineString([(0, 0), (1, 1)]),
        GeometryCollection([box(0, 0, 1, 1), box(2, 0, 3, 1), Point(5, 5)]),
        Polygon([(0, 0), (1, np.nan), (1, 1)]),
        Polygon([(np.inf, 0), (7, 0), (7, 1)]),
        Polygon([(0, 0), (1, 0), (1, 1e200)]),
        Polygon([(0, 0), (0, 0), (0, 0)]),
        box(X, Y, X + 1, Y + 1),
    )
    found = invalid(shapes)
    assert [(f.rows[0], f.kind, f.text) for f in found] == [
        (1, "missing", "there is no geometry"),
        (2, "empty", "the Polygon is empty"),
        (3, "invalid", "Self-intersection at 1, 1"),
        (4, "not_polygonal", "is a LineString"),
        (5, "not_polygonal", "is a GeometryCollection of 2 Polygon, 1 Point"),
        (6, "not_finite", "1 of 4 vertices are no place on Earth, as 1, nan"),
        (7, "not_finite", "2 of 4 vertices are no place on Earth, as inf, 0"),
        (8, "not_finite", "1 of 4 vertices are no place on Earth, as 1, 1e+200"),
        (9, "invalid", "Too few points in geometry component at 0, 0"),
    ]
    assert [f.place for f in found[:3]] == [None, None, (1.0, 1.0)]
    assert found[6].place == (7.0, 0.0)
    assert all(np.isnan(f.measure) for f in found)


def test_a_reason_has_its_coordinates_to_the_millimetre() -> None:
    shape = shapely.transform(BOW_TIE, lambda points: points + np.array([712_345.125, 4_391_220.5]))
    (finding,) = invalid(array(shape))
    assert finding.text == "Self-intersection at 712346.125, 4391221.5"
    assert finding.place == (712_346.125, 4_391_221.5)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        (BOW_TIE, 2.0),
        (shapely.from_wkt(COLLAPSED), 7.5),  # GEOS raises on it as a whole
        (MultiPolygon([box(0, 0, 2, 1), box(1, 0, 3, 1)]), 3.0),  # parts that overlap
        (Polygon([(0, 0), (4, 0), (4, 4), (0, 4)], [[(5, 1), (6, 1), (6, 2), (5, 2)]]), 17.0),
        (Polygon([(0, 0), (2, 0), (2, 2), (0, 2), (0, 0), (-5, 0)]), 4.0),  # a spike
        (GeometryCollection([box(0, 0, 1, 1), GeometryCollection([box(2, 0, 3, 1)])]), 2.0),
        (GeometryCollection([BOW_TIE, LineString([(0, 0), (9, 9)])]), 2.0),
        (shapely.force_3d(box(0, 0, 1, 1), 9.0), 1.0),
        (shapely.from_wkt("POLYGON Z ((0 0 NaN, 2 2 1, 2 0 1, 0 2 NaN, 0 0 NaN))"), 2.0),
        (LineString([(0, 0), (1, 1)]), 0.0),
        (Polygon([(0, 0), (1, np.nan), (1, 1)]), 0.0),
        (Polygon([(0, 0), (1, 0), (1e10, 1)]), 0.0),
        (Polygon([(0, 0), (1, 1), (0, 0)]), 0.0),
        (Polygon(), 0.0),
        (None, 0.0),
    ],
)
def test_mended_keeps_the_ground_of_a_broken_shape(
    shape: shapely.Geometry | None, area: float
) -> None:
    good = box(0, 0, 1, 1)
    before, result, after = mended(array(good, shape, good))
    assert before is good
    assert after is good
    assert result.geom_type in ("Polygon", "MultiPolygon")
    assert result.is_valid
    assert not result.has_z
    assert result.is_empty == (area == 0)
    assert result.area == area


def test_mended_leaves_its_argument_alone() -> None:
    shapes = array(BOW_TIE, None)
    mended(shapes)
    assert shapes[0] is BOW_TIE
    assert shapes[1] is None


# --- overlaps


def test_the_later_row_wins_whatever_the_overlap() -> None:
    shapes = array(
        box(0, 0, 10, 10),
        box(8, 0, 18, 5),  # 2 x 5 with row 0
        box(2, 6, 4, 8),  # in row 0
        box(-20, 0, -10, 10),
        box(-20, 0, -10, 10),  # row 3 again
        box(30, 0, 31, 1),
        box(29, -1, 32, 2),  # holds row 5
        box(10, 5, 18, 10),  # touches rows 0 and 1
    )
    found = overlaps(shapes, 0.5)
    assert kinds(found) == [
        ("partial", (0, 1)),
        ("contained", (0, 2)),
        ("identical", (3, 4)),
        ("contained", (5, 6)),
    ]
    assert [f.measure for f in found] == [10.0, 4.0, 100.0, 1.0]
    assert [f.wins for f in found] == [1, 2, 4, 6]
    assert [f.shares for f in found] == [(0.1, 0.2), (0.04, 1.0), (1.0, 1.0), (1.0, 1 / 9)]
    assert [f.text for f in found] == [
        "10.0 m² in common, 10.0 % of the first, 20.0 % of the second, which wins as the later row",
        "the second (4 m²) lies in the first (4.0 % of it), and wins as the later row there",
        "the same 100.0 m² twice; the second wins as the later row, the first labels nothing",
        "the first (1 m²) lies in the second, which wins as the later row: it labels nothing",
    ]
    assert shapely.equals(found[0].geometry, box(8, 0, 10, 5))
    assert found[0].place == (9.0, 2.5)


def test_an_overlap_has_more_than_the_least_area() -> None:
    shapes = array(box(0, 0, 2, 2), box(1, 0, 3, 2))  # 2 m² in common
    assert kinds(overlaps(shapes, 1.999)) == [("partial", (0, 1))]
    assert overlaps(shapes, 2.0) == []


def test_broken_shapes_overlap_as_they_are_mended() -> None:
    shapes = array(BOW_TIE, None, box(0, 0, 2, 1), Polygon(), LineString([(0, 0), (2, 2)]))
    (found,) = overlaps(shapes, 0.1)
    assert (found.rows, found.measure) == ((0, 2), 1.0)


corners = st.tuples(*[st.integers(0, 8)] * 4)
rectangles = corners.map(
    lambda c: box(min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]) + 1, max(c[1], c[3]) + 1)
)
rings = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=3, max_size=7)
polygons = rectangles | rings.map(Polygon)


@settings(max_examples=150, deadline=None)
@given(st.lists(polygons, max_size=8), st.sampled_from([0.0, 0.01, 1.0, 7.3]))
def test_overlaps_are_those_of_the_naive_way(shapes: list[Polygon], least: float) -> None:
    whole = mended(array(*shapes))
    pairs: Iterable[tuple[int, ...]] = combinations(range(len(shapes)), 2)
    expected = {
        rows: area
        for rows in pairs
        if (area := shapely.intersection(*whole[list(rows)]).area) > least
    }
    found = overlaps(array(*shapes), least)
    assert [f.rows for f in found] == sorted(expected)
    for f in found:
        assert f.measure == pytest.approx(expected[f.rows], rel=1e-9)
        assert f.geometry is not None
        assert shapely.area(f.geometry) == pytest.approx(f.measure, rel=1e-9)
        one, two = whole[f.rows[0]], whole[f.rows[1]]
        within = [shapely.area(rest) < 1e-9 for rest in (one.difference(two), two.difference(one))]
        assert f.kind == ("partial", "contained", "identical")[sum(within)]


@settings(max_examples=50, deadline=None)
@given(st.lists(polygons, max_size=8))
def test_the_other_order_gives_the_same_pairs_with_the_other_winner(shapes: list[Polygon]) -> None:
    last = len(shapes) - 1
    forth = {f.rows: f for f in overlaps(array(*shapes), 0.1)}
    back = {f.rows: f for f in overlaps(array(*shapes[::-1]), 0.1)}
    assert set(back) == {(last - j, last - i) for i, j in forth}
    for (i, j), f in forth.items():
        other = back[last - j, last - i]
        assert other.measure == pytest.approx(f.measure, rel=1e-9)
        assert other.shares == pytest.approx(f.shares[::-1], rel=1e-9)
        assert {f.wins, last - other.wins} == {i, j}


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-6])
def test_neighbours_with_noisy_edges_do_not_overlap(noise: float) -> None:
    shapes = mesh(30, noise)
    assert overlaps(shapes, 0.01) == []
    assert gaps(shapes, 0.01, 1e9) == []
    shapes[400] = shapely.buffer(shapes[400], 0.01, join_style="mitre")  # 1 cm over 8 neighbours
    found = overlaps(shapes, 0.5)
    assert {row for f in found for row in f.rows if row != 400} == {399, 401, 370, 430}
    assert all(0.5 < f.measure < 1.7 for f in found)


@pytest.mark.parametrize("most", [8, 12, 40])
def test_large_polygons_overlap_the_same_in_pieces(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    comb = shapely.union_all(
        array(box(0, 0, 100, 1), *(box(x, 0, x + 2, 9) for x in range(0, 99, 5)))
    )
    shapes = array(comb, *(box(x, 1, x + 7, 8) for x in range(0, 90, 11)), comb)
    expected = overlaps(shapes, 0.5)
    assert expected[0].measure == 28.0  # the teeth from 0 to 2 and from 5 to 7, 7 m each
    monkeypatch.setattr(mending, "_MOST_VERTICES", most)
    pieces, owner = mending.cut(mended(shapes))
    assert len(pieces) > len(shapes)
    assert shapely.get_num_coordinates(pieces).max() <= most
    assert np.bincount(owner, shapely.area(pieces)) == pytest.approx(shapely.area(shapes))
    found = overlaps(shapes, 0.5)
    assert kinds(found) == kinds(expected)
    assert [f.measure for f in found] == pytest.approx([f.measure for f in expected])
    for one, other in zip(found, expected, strict=True):
        assert shapely.equals(one.geometry, other.geometry)


def test_overlays_that_geos_fails_at_are_done_in_rounded_coordinates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(operation: Callable[..., Any]) -> Callable[..., Any]:
        def fails(*operands: object, grid_size: float | None = None) -> object:
            if grid_size is None:
                raise shapely.GEOSException("TopologyException: found non-noded intersection")
            return operation(*operands, grid_size=grid_size)

        return fails

    shapes = array(box(X, Y, X + 2, Y + 2), box(X + 1, Y, X + 3, Y + 2))
    ring = array(box(X, Y, X + 9, Y + 9).difference(box(X + 3, Y + 3, X + 6, Y + 6)))
    for name in ("intersection", "difference", "union_all"):
        monkeypatch.setattr(shapely, name, failing(getattr(shapely, name)))
    assert overlaps(shapes, 0.5)[0].measure == pytest.approx(2.0, abs=1e-4)
    assert shapely.area(mending.union(shapes)) == pytest.approx(6.0, abs=1e-4)
    assert gaps(ring, 0.5, 10)[0].measure == 9.0


# --- duplicates


# --- slivers


def test_slivers_are_nowhere_as_wide_as_the_width() -> None:
    shapes = array(
        box(0, 0, 100, 0.5),
        box(0, 10, 1000, 12.5),  # a road, wider than 2 m
        shapely.union(box(0, 20, 50, 20.5), box(50, 15, 60, 25)),  # a field with a narrow tail
        MultiPolygon([box(0, 30, 20, 50), box(100, 30, 140, 31)]),
        box(0, 60, 0.5, 60.5),  # a speck
        box(0, 70, 40, 100).difference(box(1, 71, 39, 99)),  # a strip, 1 m wide, round a field
        None,
    )
    found = slivers(shapes, 2.0)
    assert kinds(found) == [("sliver", (row,)) for row in (0, 3, 4, 5)]
    assert [f.measure for f in found] == pytest.approx([0.5, 1.0, 0.5, 1.0], abs=0.02)
    assert [f.text for f in found[:3]] == [
        "0.5 m wide, 100.0 m long, 50.0 m²",
        "1 m wide, 40.0 m long, 40.0 m²",
        "0.5 m wide, 0.5 m long, 0.25 m²",
    ]
    assert shapely.equals(found[1].geometry, box(100, 30, 140, 31))
    assert slivers(shapes, 0.4) == []


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.1, 5), st.floats(1, 200), st.floats(0, 180), st.sampled_from([0.5, 0.95, 1.05, 2])
)
def test_a_rectangle_is_a_sliver_below_its_width(
    across: float, ratio: float, angle: float, share: float
) -> None:
    strip = shapely.box(X, Y, X + across * ratio, Y + across)
    turned = shapely.transform(
        strip,
        lambda p: (
            (p - [X, Y]) @ [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
            + [X, Y]
        ),
    )
    found = slivers(array(turned), across / share)
    assert len(found) == (share < 1)
    assert all(f.measure == pytest.approx(across, rel=1e-3) for f in found)


# --- gaps


def test_a_gap_is_enclosed_and_no_larger_than_a_hole_left_on_purpose() -> None:
    shapes = array(
        box(0, 0, 10, 4),
        box(0, 4, 4, 6),
        box(4.5, 4, 10, 6),  # a gap of 0.5 x 2
        box(0, 6, 10, 10),
        box(10, 0, 20, 4),
        box(10, 6, 20, 10),  # 10 x 2 that is open to the east
        box(30, 0, 40, 10).difference(box(31, 1, 39, 9)),  # a lake of 64
    )
    (found,) = gaps(shapes, 0.1, 10)
    assert (found.kind, found.rows, found.measure) == ("gap", (0, 1, 2, 3), 1.0)
    assert shapely.equals(found.geometry, box(4, 4, 4.5, 6))
    assert found.text == "1 m² that no polygon covers, between 4 polygons"
    assert [f.measure for f in gaps(shapes, 0.1, 64)] == [1.0, 64.0]
    assert [f.measure for f in gaps(shapes, 1, 64)] == [64.0]


def test_polygons_smaller_than_the_rounding_enclose_nothing() -> None:
    assert gaps(array(box(X, Y, X + 1e-8, Y + 1e-8)), 1.0, 100) == []
    assert gaps(array(None, Polygon()), 1.0, 100) == []


def test_islands_are_no_part_of_the_gap_around_them() -> None:
    shapes = array(
        box(0, 0, 10, 10).difference(box(2, 2, 8, 8)),
        box(4, 4, 7, 7).difference(box(5, 5, 6, 6)),
    )
    found = gaps(shapes, 0.1, 100)
    assert [(f.rows, f.measure) for f in found] == [((0, 1), 27.0), ((1,), 1.0)]


def test_only_gaps_within_a_box_are_told() -> None:
    shapes = array(box(0, 0, 10, 10).difference(shapely.union(box(1, 1, 2, 2), box(4, 4, 7, 7))))
    assert len(gaps(shapes, 0.1, 100)) == 2
    assert [f.measure for f in gaps(shapes, 0.1, 100, box=(0, 0, 5, 5))] == [1.0]


def test_polygons_that_lie_twice_beside_a_gap_do_not_hide_it() -> None:
    west, east, caps = box(0, 1, 4, 3), box(5, 1, 9, 3), (box(0, 0, 9, 1), box(0, 3, 9, 4))
    shapes = array(west, west, Polygon(west.exterior.coords[::-1]), east, *caps)
    (found,) = gaps(shapes, 0.1, 10)
    assert (found.rows, found.measure) == ((0, 1, 2, 3, 4, 5), 2.0)


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_gaps_of_a_large_mesh_have_their_ground_and_neighbours(noise: float) -> None:
    shapes = mesh(40, noise)
    taken = [45, 811, 812, 1010]  # 811 and 812 are neighbours
    kept = np.delete(np.arange(len(shapes)), taken)
    found = gaps(shapes[kept], 1.0, 1e5)
    areas = shapely.area(shapes[taken])
    assert [f.measure for f in found] == pytest.approx(
        [areas[0], areas[1] + areas[2], areas[3]], abs=0.1
    )
    around = np.flatnonzero(np.isin(kept, [45 + i + j for i in (-40, 0, 40) for j in (-1, 0, 1)]))
    assert found[0].rows == tuple(around.tolist())


@st.composite
def torn_grids(draw: st.DrawFn) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which cells of a grid are covered, and which of them are joined to their western one."""
    shape = draw(st.integers(3, 7)), draw(st.integers(3, 7))
    flags = st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    most = st.lists(
        st.sampled_from([True, True, False]),
        min_size=shape[0] * shape[1],
        max_size=shape[0] * shape[1],
    )
    return np.array(draw(most)).reshape(shape), np.array(draw(flags)).reshape(shape)


@settings(max_examples=150, deadline=None)
@given(torn_grids(), st.integers(1, 12))
def test_gaps_are_the_enclosed_cells_without_a_polygon(
    grid: tuple[NDArray[np.bool_], NDArray[np.bool_]], most: int
) -> None:
    covered, joined = grid
    rows, cols = covered.shape
    shapes: list[shapely.Geometry] = []
    for r in range(rows):
        for c in range(cols):
            if covered[r, c] and joined[r, c] and c and covered[r, c - 1]:
                shapes[-1] = shapely.union(shapes[-1], box(X + c, Y + r, X + c + 1, Y + r + 1))
            elif covered[r, c]:
                shapes.append(box(X + c, Y + r, X + c + 1, Y + r + 1))
    expected = []
    seen = covered.copy()
    for start in zip(*np.nonzero(~covered), strict=True):
        ground, enclosed, waiting = 0, True, [tuple(map(int, start))]
        while waiting:
            r, c = waiting.pop()
            if not (0 <= r < rows and 0 <= c < cols):
                enclosed = False
            elif not seen[r, c]:
                seen[r, c] = True
                ground += 1
                waiting += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
        if ground and enclosed and ground <= most:
            expected.append(ground)
    found = gaps(array(*shapes), 0.5, most)
    assert sorted(f.measure for f in found) == sorted(expected)
    for f in found:
        assert f.place is not None
        column, row = int(f.place[0] - X), int(f.place[1] - Y)
        assert not covered[row, column]
        assert all(shapely.touches(shapes[i], f.geometry) for i in f.rows)


# --- whatever is given


numbers = st.one_of(
    st.integers(0, 4).map(float),
    st.floats(-10, 10),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e300, 4_400_000.000000001, 1e-300, -0.0]),
)
wild_rings = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=6).map(
    lambda points: [*points, points[0]]
)


def wild_polygon(outlines: list[list[tuple[float, float]]]) -> Polygon | None:
    try:
        return Polygon(outlines[0], outlines[1:])
    except shapely.GEOSException:  # a ring that starts at NaN is never closed, so it cannot exist
        return None


wild_polygons = st.lists(wild_rings, min_size=1, max_size=3).map(wild_polygon)
there = wild_polygons.filter(lambda shape: shape is not None)
wild = st.one_of(
    wild_polygons,
    st.lists(there, max_size=3).map(MultiPolygon),
    st.lists(there | st.just(Point(1, 1)) | st.just(MultiPolygon()), max_size=3).map(
        lambda parts: GeometryCollection(parts)
    ),
    wild_rings.map(LineString),
    st.just(None),
    st.just(Point(np.nan, 0)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(wild, max_size=5))
def test_no_shape_makes_a_check_fail(shapes: list[shapely.Geometry | None]) -> None:
    given = array(*shapes)
    result = mended(given)
    assert len(result) == len(given)
    assert shapely.is_valid(result).all()
    assert set(shapely.get_type_id(result)) <= {3, 6}
    assert np.isfinite(shapely.area(result)).all()
    told = {f.rows[0] for f in invalid(given)}
    assert told == {
        i for i, (one, other) in enumerate(zip(given, result, strict=True)) if one is not other
    }
    for f in [
        *invalid(given),
        *overlaps(given, 0.01),
        *slivers(given, 1.0),
        *gaps(given, 0.01, 10.0),
    ]:
        assert f.text
        assert f.place is None or np.isfinite(f.place).all()
    assert invalid(result) == [] or all(f.kind == "empty" for f in invalid(result))
