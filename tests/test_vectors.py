"""Maps as polygons: exact outlines, no gaps or overlaps, the same for any windows."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet
import pytest
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, Polygon, box
from typer.testing import CliRunner

from pipeline import (
    cli,
    config,
    geotiff,
    siose,
    siose_shares,
    stages,
    styles,
    vector_files,
    vectors,
)
from pipeline.arc_simplification import check_geos
from pipeline.class_rasters import NOMENCLATURE_TAG, sidecars
from pipeline.errors import InputError, SettingsError
from pipeline.grid import PixelGrid, Window
from pipeline.proportions import Proportions
from pipeline.vectors import ClassMap, PatchBatch, patch_batches

_ = 255  # no class
NAMES = ("forest", "crops & scrub", "water")
COLORS = ("#109C69", "#E6AA5A", "#0000FF")


def grid_of(classes: NDArray[np.uint8], crs: str = "EPSG:25830", pixel: float = 0.5) -> PixelGrid:
    height, width = classes.shape
    left, top = (-3.7, 40.4) if crs == "EPSG:4258" else (700_000.0, 4_400_000.0)
    return PixelGrid(crs, left, top, pixel, pixel, width, height)


def map_of(classes: NDArray[np.uint8], **parts: Any) -> ClassMap:
    grid = parts.pop("grid", None) or grid_of(classes)
    return ClassMap(grid, lambda window: classes[window.slices()], 7, **parts)


def polygons_of(
    source: ClassMap, folder: Path, simplify_m: float = 0.0, **how: Any
) -> tuple[NDArray[np.object_], PatchBatch]:
    """All polygons of a map and what is known of them."""
    folder.mkdir(exist_ok=True)
    batches = list(patch_batches(source, folder, simplify_m, **how))
    assert not list(folder.iterdir()), "nothing is left on disk"
    joined = PatchBatch(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))
    return joined.geometry, joined


def blobs(seed: int, rows: int, cols: int, classes: int, smooth: int = 2) -> NDArray[np.uint8]:
    """A map of some classes in patches of all sizes, with holes and without data here and there."""
    rng = np.random.default_rng(seed)
    field = rng.random((rows, cols))
    for _step in range(smooth):
        wide = np.pad(field, 1, mode="edge")
        near = [wide[i : i + rows, j : j + cols] for i in range(3) for j in range(3)]
        field = np.mean(near, axis=0)
    found = (field.ravel().argsort().argsort().reshape(field.shape) * classes) // field.size
    found[rng.random((rows, cols)) < 0.02] = _
    found[: rows // 5, : cols // 4] = _
    return found.astype(np.uint8)


def burnt(
    geometry: NDArray[np.object_], classes: NDArray[np.uint8], grid: PixelGrid
) -> NDArray[np.uint8]:
    pairs = zip(geometry, classes.tolist(), strict=True)
    shape = (grid.height, grid.width)
    burned: NDArray[np.uint8] = rasterio.features.rasterize(
        pairs, shape, fill=_, transform=Affine(*grid.geotransform), dtype="uint8"
    )
    return burned


# --- outlines of pixels --------------------------------------------------------------------------


def test_patches_in_the_order_of_the_map_with_their_holes(tmp_path: Path) -> None:
    classes = np.array([[1, 1, 1, 1], [1, 0, 1, _], [1, 1, 1, 0]], np.uint8)
    confidence = np.array([[90, 90, 90, 90], [50, 30, 50, _], [_, 91, 91, 77]], np.uint8)
    source = map_of(classes, confidence=lambda window: confidence[window.slices()])
    geometry, found = polygons_of(source, tmp_path)
    assert found.classes.tolist() == [1, 0, 0]
    assert found.pixels.tolist() == [9, 1, 1]
    assert found.area_m2.tolist() == [9 / 4, 1 / 4, 1 / 4]
    assert found.confidence.tolist() == [pytest.approx((4 * 90 + 2 * 50 + 2 * 91) / 8), 30, 77]
    x, y = 700_000.0, 4_400_000.0

    def ring(*corners: tuple[int, int]) -> list[tuple[float, float]]:
        return [(x + col / 2, y - row / 2) for row, col in corners]

    # Where the hole, the outside and the outline meet, there is a corner.
    outline = ring((0, 0), (3, 0), (3, 3), (2, 3), (1, 3), (1, 4), (0, 4))
    hole = ring((1, 1), (1, 2), (2, 2), (2, 1))
    assert geometry[0].normalize() == Polygon(outline, [hole]).normalize()
    assert geometry[1].equals(Polygon(hole))
    assert geometry[2].equals(Polygon(ring((2, 3), (3, 3), (3, 4), (2, 4))))
    assert list(geometry[0].exterior.coords)[:2] == outline[:2]  # counter-clockwise
    assert geometry[0].exterior.is_ccw
    assert not geometry[0].interiors[0].is_ccw


@pytest.mark.parametrize("seed", range(4))
def test_polygons_burnt_back_are_the_map(tmp_path: Path, seed: int) -> None:
    classes = blobs(seed, 61, 47, 4, smooth=seed)
    geometry, found = polygons_of(map_of(classes), tmp_path, window=16)
    grid = grid_of(classes)
    np.testing.assert_array_equal(burnt(geometry, found.classes, grid), classes)
    assert shapely.is_valid(geometry).all()
    assert shapely.coverage_is_valid(geometry)
    np.testing.assert_allclose(shapely.area(geometry), found.area_m2, rtol=1e-9)
    assert found.pixels.sum() == np.count_nonzero(classes != _)
    shapes = rasterio.features.shapes(classes, classes != _, 4, Affine(*grid.geotransform))
    assert len(geometry) == len(list(shapes))


@pytest.mark.parametrize("size", [1, 2, 5, 16, 40])
def test_windows_and_threads_change_nothing(tmp_path: Path, size: int) -> None:
    classes = blobs(7, 27, 33, 3, smooth=1)
    one, whole = polygons_of(map_of(classes), tmp_path, window=100)
    many, parts = polygons_of(map_of(classes), tmp_path, window=size, threads=3)
    assert shapely.to_wkb(many).tolist() == shapely.to_wkb(one).tolist()
    for name in ("classes", "pixels", "area_m2"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_no_corner_lies_on_a_straight_side_unless_three_patches_meet(tmp_path: Path) -> None:
    classes = np.zeros((9, 9), np.uint8)
    classes[:, 5:] = 1
    classes[4:, 5:] = 2
    geometry, _found = polygons_of(map_of(classes), tmp_path, window=2)
    assert shapely.get_num_coordinates(geometry).tolist() == [6, 5, 5]


def test_a_spiral_through_many_windows_is_one_patch(tmp_path: Path) -> None:
    classes = np.zeros((31, 31), np.uint8)
    row = col = 0
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    classes[0, 0] = 1
    lengths = [30, *(n for n in range(30, 1, -2) for _twice in range(2))]
    for turn, length in enumerate(lengths):
        for _step in range(length):
            row, col = row + steps[turn % 4][0], col + steps[turn % 4][1]
            classes[row, col] = 1
    geometry, found = polygons_of(map_of(classes), tmp_path, window=4)
    assert found.classes.tolist() == [1, 0]
    np.testing.assert_array_equal(burnt(geometry, found.classes, grid_of(classes)), classes)
    assert shapely.is_valid(geometry).all()


def test_a_checkerboard_is_single_pixels_that_touch_at_corners(tmp_path: Path) -> None:
    classes = (np.indices((7, 8)).sum(axis=0) % 2).astype(np.uint8)
    for how in ({"window": 3}, {"window": 3, "simplify_m": 5.0}):
        geometry, found = polygons_of(map_of(classes), tmp_path, **how)
        assert found.pixels.tolist() == [1] * 56
        assert shapely.get_num_coordinates(geometry).tolist() == [5] * 56
        np.testing.assert_array_equal(burnt(geometry, found.classes, grid_of(classes)), classes)


@pytest.mark.parametrize("size", [2, 3, 100])
def test_a_patch_that_touches_itself_at_a_corner_is_valid(tmp_path: Path, size: int) -> None:
    # The pixel of class 1 is a hole that touches the outline; joined around it in other windows.
    classes = np.array([[0, 0, 0, _], [0, 1, 0, _], [0, 0, 1, 1], [_, _, 1, 1]], np.uint8)
    geometry, found = polygons_of(map_of(classes), tmp_path, window=size)
    assert found.pixels.tolist() == [7, 1, 4]
    assert shapely.is_valid(geometry).all()
    assert len(geometry[0].interiors) == 1
    assert shapely.coverage_is_valid(geometry)


def test_a_map_without_classes_has_no_polygons(tmp_path: Path) -> None:
    classes = np.full((20, 20), _, np.uint8)
    assert list(patch_batches(map_of(classes), tmp_path, 1.0, window=8)) == []


def test_files_between_the_passes_hold_few_patches_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = blobs(3, 40, 40, 3, smooth=0)
    one, _found = polygons_of(map_of(classes), tmp_path)
    monkeypatch.setattr(vectors, "_RUNS", 10)
    assert len(list(patch_batches(map_of(classes), tmp_path, window=8))) > 20
    many, _found = polygons_of(map_of(classes), tmp_path, window=8)
    assert shapely.to_wkb(many).tolist() == shapely.to_wkb(one).tolist()


def test_too_many_patches_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vectors, "MANY", 55)
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    classes = (np.indices((7, 8)).sum(axis=0) % 2).astype(np.uint8)
    polygons_of(map_of(classes, what="map of 0722"), tmp_path)
    assert "map of 0722 has 56 patches" in caplog.text
    assert "cleaning.min_area_m2" in caplog.text


def test_ids_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ids: 9, 12"):
        polygons_of(map_of(np.array([[1, 9, 12]], np.uint8)), tmp_path)


def test_areas_of_a_geographic_sheet_are_metres(tmp_path: Path) -> None:
    classes = np.array([[0, 0, 1], [0, 1, 1]], np.uint8)
    grid = grid_of(classes, "EPSG:4258", 1e-5)
    geometry, found = polygons_of(map_of(classes, grid=grid), tmp_path)
    for polygon, area in zip(geometry, found.area_m2, strict=True):
        from pyproj import Geod

        exact, _length = Geod(ellps="GRS80").geometry_area_perimeter(polygon)
        assert area == pytest.approx(exact, rel=1e-4)
    assert 2 < found.area_m2[0] < 3  # 1.1 m high, 0.85 m wide, three of them


# --- simplified ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("tolerance", "pixel"), [(0.3, 0.5), (1.0, 0.5), (2.5, 0.5), (0.3, 0.15), (0.66, 0.22)]
)
def test_simplified_outlines_have_no_gaps_and_stay_near(
    tmp_path: Path, seed: int, tolerance: float, pixel: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed % 2:  # windows are divided where GEOS would have too much at once
        monkeypatch.setattr(vectors, "_DENSE", 10)
        monkeypatch.setattr(vectors, "_LEAST", 8)
    classes = blobs(seed, 70, 60, 4, smooth=seed % 4)
    grid = replace(grid_of(classes, pixel=pixel), left=500_000.15, top=4_500_000.3)
    exact, _found = polygons_of(map_of(classes, grid=grid), tmp_path)
    near, found = polygons_of(map_of(classes, grid=grid), tmp_path, tolerance, window=32)
    assert len(near) == len(exact)
    assert shapely.is_valid(near).all()
    assert shapely.coverage_is_valid(near)
    # Pairs of polygons that only touch, and whose areas sum up, leave nothing out.
    assert shapely.area(near).sum() == pytest.approx(found.area_m2.sum(), rel=1e-9)
    assert shapely.union_all(near).symmetric_difference(shapely.union_all(exact)).area < 1e-6
    assert (shapely.area(near) > 0).all()
    moved = shapely.hausdorff_distance(shapely.boundary(near), shapely.boundary(exact), 0.25)
    assert moved.max() <= tolerance + 1e-8
    assert [len(p.interiors) for p in near] == [len(p.interiors) for p in exact]


def test_simplification_takes_the_stairs_off(tmp_path: Path) -> None:
    classes = (np.indices((64, 64)).sum(axis=0) > 60).astype(np.uint8)
    exact, _found = polygons_of(map_of(classes), tmp_path)
    near, _found = polygons_of(map_of(classes), tmp_path, 0.5)
    assert shapely.get_num_coordinates(exact).min() > 100
    assert shapely.get_num_coordinates(near).max() <= 8


def test_a_narrow_strip_does_not_vanish_however_long_it_is(tmp_path: Path) -> None:
    classes = np.zeros((9, 60), np.uint8)
    classes[:6, :] = 1
    classes[5, 40:] = 0
    classes[2, :30] = 2  # one pixel high, 15 m long; an area of 7.5 m²
    near, _found = polygons_of(map_of(classes), tmp_path, 3.0)
    exact, _found = polygons_of(map_of(classes), tmp_path)
    assert near[1].bounds == exact[1].bounds


def test_points_where_three_patches_meet_stay(tmp_path: Path) -> None:
    classes = blobs(11, 50, 50, 5)
    exact, _found = polygons_of(map_of(classes), tmp_path)
    near, _found = polygons_of(map_of(classes), tmp_path, 2.0)

    def met(geometry: NDArray[np.object_]) -> set[tuple[float, float]]:
        corners: dict[tuple[float, float], set[int]] = {}
        points, number = shapely.get_coordinates(geometry, return_index=True)
        for point, polygon in zip(points.tolist(), number.tolist(), strict=True):
            corners.setdefault((point[0], point[1]), set()).add(polygon)
        return {corner for corner, touched in corners.items() if len(touched) > 2}

    assert len(met(exact)) > 50
    assert met(exact) <= met(near)


def test_one_pixel_stays_a_square_and_the_same_twice(tmp_path: Path) -> None:
    classes = np.zeros((12, 12), np.uint8)
    classes[5, 6] = 1
    first, _found = polygons_of(map_of(classes), tmp_path, 4.0, window=4)
    again, _found = polygons_of(map_of(classes), tmp_path, 4.0, window=4, threads=2)
    assert shapely.to_wkb(first).tolist() == shapely.to_wkb(again).tolist()
    assert first[1].equals(box(700_003, 4_399_997, 700_003.5, 4_399_997.5))


def test_an_old_geos_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_geos()
    monkeypatch.setattr(shapely, "geos_version", (3, 11, 4))
    with pytest.raises(InputError, match=r"this is 3\.11\.4"):
        check_geos()


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture
def class_map(tmp_path: Path) -> tuple[Path, Path, NDArray[np.uint8]]:
    """A map with side files, its confidence, and its classes."""
    classes = blobs(5, 90, 80, 3)
    grid = grid_of(classes)
    path, sure = tmp_path / "map.tif", tmp_path / "map.confidence.tif"
    with geotiff.RasterWriter(path, grid, "uint8", _, COLORS) as raster:
        raster.write(grid.window, classes)
    with geotiff.RasterWriter(sure, grid, "uint8", _) as raster:
        raster.write(grid.window, np.where(classes == _, classes, 20 + classes))
    sidecars(path)[0].write_text(styles.class_pam(NAMES, COLORS), "utf-8")
    return path, sure, classes


def run(*arguments: str | Path) -> None:
    answer = CliRunner().invoke(cli.app, ["vector-map", *map(str, arguments)])
    if answer.exception is not None:
        raise answer.exception


def test_the_command_writes_a_styled_geopackage_and_the_same_one_twice(
    class_map: tuple[Path, Path, NDArray[np.uint8]], tmp_path: Path
) -> None:
    path, sure, classes = class_map
    out = tmp_path / "map.gpkg"
    run("--map", path, "--out", out, "--confidence", sure, "--simplify", "1")
    frame = geopandas.read_file(out, layer="patches", fid_as_index=True)
    assert frame.index.tolist() == list(range(1, len(frame) + 1))
    assert frame.crs.to_epsg() == 25830
    assert frame["name"].tolist() == [NAMES[i] for i in frame["class"]]
    assert frame["confidence"].tolist() == (20.0 + frame["class"]).tolist()
    counts = frame.groupby("class")["pixels"].sum()
    assert counts.tolist() == np.bincount(classes[classes != _]).tolist()
    assert (frame["area_m2"] == frame["pixels"] / 4).all()
    with closing(sqlite3.connect(out)) as base:
        (style,) = base.execute(
            "SELECT styleQML FROM layer_styles WHERE f_table_name = 'patches' AND "
            "f_table_schema = '' AND f_geometry_column = 'geom' AND useAsDefault = 1"
        ).fetchone()
    assert 'label="crops &amp; scrub"' in style
    before = out.read_bytes()
    run("--map", path, "--out", out, "--confidence", sure, "--simplify", "1", "--threads", "2")
    assert out.read_bytes() == before
    assert [p for p in tmp_path.iterdir() if "draft" in p.name or "arcs" in p.name] == []


def test_geoparquet_has_its_style_beside_it(
    class_map: tuple[Path, Path, NDArray[np.uint8]], tmp_path: Path
) -> None:
    path, _sure, classes = class_map
    out = tmp_path / "polygons.parquet"
    run("--map", path, "--out", out)
    frame = geopandas.read_parquet(out)
    assert frame.crs.to_epsg() == 25830
    assert frame["confidence"].isna().all()
    found = frame["class"].to_numpy().astype(np.uint8)
    back = burnt(frame.geometry.to_numpy(), found, grid_of(classes))
    np.testing.assert_array_equal(back, classes)
    geo = json.loads(pyarrow.parquet.read_metadata(out).metadata[b"geo"])
    assert geo["columns"]["geom"]["bbox"] == frame.total_bounds.tolist()
    assert 'attr="class"' in out.with_suffix(".qml").read_text("utf-8")


def test_a_map_that_does_not_tell_its_classes_needs_a_nomenclature(
    class_map: tuple[Path, Path, NDArray[np.uint8]], tmp_path: Path
) -> None:
    path, _sure, _classes = class_map
    sidecars(path)[0].unlink()
    with pytest.raises(InputError, match="--nomenclature"):
        run("--map", path, "--out", tmp_path / "x.gpkg")
    names = tmp_path / "classes.yaml"
    listed = [f"{{name: {n}, covers: [EDF], color: '#00000{i}'}}" for i, n in enumerate("abc")]
    listed = [
        line.replace("EDF", code) for line, code in zip(listed, ("EDF", "CNF", "SNE"), strict=True)
    ]
    names.write_text("classes:\n" + "".join(f"  - {line}\n" for line in listed), "utf-8")
    run("--map", path, "--out", tmp_path / "x.gpkg", "--nomenclature", names)
    frame = geopandas.read_file(tmp_path / "x.gpkg", layer="patches")
    assert set(frame["name"]) == {"a", "b", "c"}


def test_a_confidence_of_other_pixels_is_refused(
    class_map: tuple[Path, Path, NDArray[np.uint8]], tmp_path: Path
) -> None:
    path, sure, classes = class_map
    with geotiff.RasterWriter(sure, grid_of(classes[1:]), "uint8", _) as raster:
        raster.write(Window(0, 0, 80, 89), classes[1:])
    with pytest.raises(InputError, match="has other pixels than the map"):
        run("--map", path, "--out", tmp_path / "x.gpkg", "--confidence", sure)


def test_a_real_qgis_shows_the_classes_by_itself(
    class_map: tuple[Path, Path, NDArray[np.uint8]], tmp_path: Path, shared_data: Path
) -> None:
    checker = shared_data.parent / "tools" / "check_qgis_layer.py"
    python = Path("/usr/bin/python3")
    qgis = [str(python), "-c", "import qgis.core"]
    if not python.exists() or subprocess.run(qgis, check=False, capture_output=True).returncode:
        pytest.skip("QGIS is not installed (Debian's python3-qgis)")
    path, _sure, _classes = class_map
    out = tmp_path / "map.gpkg"
    run("--map", path, "--out", out, "--simplify", "1")
    legend = {
        str(i): [name, color] for i, (name, color) in enumerate(zip(NAMES, COLORS, strict=True))
    }
    (tmp_path / "classes.json").write_text(json.dumps(legend), "utf-8")
    command = [str(python), str(checker), f"{out}|layername=patches", "--crs", "EPSG:25830"]
    command += ["--classes", str(tmp_path / "classes.json"), "--render", str(tmp_path / "v.png")]
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


# --- SIOSE's polygons ----------------------------------------------------------------------------


def proportions_of(
    path: Path, parts: list[Polygon | MultiPolygon], shares: list[list[float]]
) -> Proportions:
    table = pyarrow.table(
        {
            "polygon_id": [f"p{i}" for i in range(len(parts))],
            "label": ["60EDF_40CNF"] * len(parts),
        }
    )
    pyarrow.parquet.write_table(table, path)
    known = np.array(shares)
    reasons = np.array([""] * len(parts), object)
    return Proportions([np.array(parts, object)], known, 1 - known.sum(axis=1), reasons, "")


@pytest.fixture
def polygons(tmp_path: Path) -> Callable[[], geopandas.GeoDataFrame]:
    """Three SIOSE polygons on a map of 3000 columns, written as GeoParquet and read back."""
    classes = np.zeros((4, 3000), np.uint8)
    classes[:, 2900:] = 2
    classes[0, :10] = _
    index = np.ones(classes.shape, np.uint32)
    index[:, 2000:] = 2
    index[3, :] = 0
    confidence = np.where(classes == 2, 40, 80).astype(np.uint8)

    def read() -> geopandas.GeoDataFrame:
        source = map_of(classes, confidence=lambda window: confidence[window.slices()])
        parts: list[Polygon | MultiPolygon] = [
            box(0, 0, 1, 1),
            MultiPolygon([box(2, 0, 3, 1), box(4, 0, 5, 1)]),
            box(9, 9, 10, 10),
        ]
        path = tmp_path / "p.parquet"
        shares: list[list[float]] = [
            [1, 0, 0, 0, 0, 0, 0],
            [0.6, 0, 0.3, 0, 0, 0, 0],
            [0, 1, 0, 0, 0, 0, 0],
        ]
        known = proportions_of(path, parts, shares)
        mapped = siose_shares.count_polygons(
            source, lambda window: index[window.slices()], 3, threads=2
        )
        names = tuple("abcdefg")
        rows = siose_shares.share_rows(path, known, mapped, names)
        schema = siose_shares.share_schema(names)
        files = [tmp_path / "s.parquet", tmp_path / "s.qml"]
        vector_files.write(rows, schema, files, "siose", "EPSG:25830", "<qgis/>")
        return geopandas.read_parquet(files[0])

    return read


def test_what_is_mapped_in_each_polygon(
    polygons: Callable[[], geopandas.GeoDataFrame],
) -> None:
    frame = polygons()
    assert frame["polygon_id"].tolist() == ["p0", "p1", "p2"]
    assert frame["pixels"].tolist() == [2000 * 3 - 10, 3000, 0]
    assert frame["mapped_a"].tolist()[:2] == [1.0, 0.9]
    assert frame["mapped_c"].tolist()[:2] == [0.0, 0.1]
    assert frame["siose_a"].tolist() == [1.0, 0.6, 0.0]
    assert frame["siose_c"].tolist() == [0.0, 0.3, 0.0]
    assert frame["siose_unmapped"].tolist() == pytest.approx([0, 0.1, 0])
    assert frame["confidence"].tolist()[:2] == [80.0, 0.9 * 80 + 0.1 * 40]
    assert frame["name"].tolist()[:2] == ["a", "a"]
    assert frame.iloc[2][["class", "name", "confidence", "mapped_a"]].isna().all()
    assert set(frame.geom_type) == {"MultiPolygon"}
    assert frame.area.tolist() == [1.0, 2.0, 1.0]


def test_an_index_of_other_polygons_is_refused() -> None:
    classes = np.zeros((2, 2), np.uint8)
    with pytest.raises(InputError, match="row 5 of 3 polygons"):
        siose_shares.count_polygons(
            map_of(classes), lambda window: np.full((2, 2), 5, np.uint32), 3
        )


# --- a run ---------------------------------------------------------------------------------------

SHEET = "hill"
NOMENCLATURE = """
classes:
  - {name: forest, covers: [CNF], color: "#109C69"}
  - {name: crops, covers: [CHE], color: "#E6AA5A"}
  - {name: water, covers: [AEM], color: "#0000FF"}
"""


@pytest.fixture(scope="module")
def province(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run: the map has the class that SIOSE has most of in each of 48 squares."""
    folder = tmp_path_factory.mktemp("province")
    rows, cols = np.indices((60, 80)) // 10
    index = (rows * 8 + cols + 1).astype(np.uint32)
    classes = np.where(index == 48, _, index % 3).astype(np.uint8)
    grid = grid_of(classes)
    ortho = folder / "hill.tif"
    with geotiff.RasterWriter(ortho, grid, "uint8", _) as raster:  # its grid is all that is asked
        raster.write(grid.window, classes)
    (folder / "classes.yaml").write_text(NOMENCLATURE, "utf-8")
    lines = ["sheet,orthophoto,siose,split", f"{SHEET},{ortho},{ortho},test", f"far,{ortho},,map"]
    (folder / "sheets.csv").write_text("\n".join(lines), "utf-8")
    opened = run_of(folder)
    paths, known = opened.paths, opened.nomenclature
    tags = {NOMENCLATURE_TAG: known.fingerprint}
    for sheet in (SHEET, "far"):
        place = paths.land_cover_map(sheet)
        place.parent.mkdir(parents=True, exist_ok=True)
        with geotiff.RasterWriter(place, grid, "uint8", _, known.colors, tags) as raster:
            raster.write(grid.window, classes)
        with geotiff.RasterWriter(paths.confidence(sheet), grid, "uint8", _) as raster:
            raster.write(grid.window, np.where(classes == _, classes, 60).astype(np.uint8))
    paths.polygon_index(SHEET).parent.mkdir()
    with geotiff.RasterWriter(paths.polygon_index(SHEET), grid, "uint32", 0) as raster:
        raster.write(grid.window, index)
    numbers = np.arange(48)
    shares = np.full((48, 3), 0.1)
    shares[numbers, (numbers + 1) % 3] = 0.7
    frame = geopandas.GeoDataFrame(
        {
            "polygon_id": [f"p{number}" for number in numbers],
            "label": "70CNF_30CHE",
            **{f"share_{name}": shares[:, k] for k, name in enumerate(known.names)},
            "share_unmapped": 0.1,
            "source": "label",
            "reason": "",
        },
        geometry=[
            box(*grid.bounds_of(Window(number % 8 * 10, number // 8 * 10, 10, 10)))
            for number in numbers.tolist()
        ],
        crs=grid.crs,
    )
    paths.proportions(SHEET).parent.mkdir()
    siose.write_proportions(frame, paths.proportions(SHEET), known.fingerprint)
    return folder


def run_of(folder: Path, **given: object) -> stages.Run:
    values = {
        "run": str(folder / "run"),
        "sheets": str(folder / "sheets.csv"),
        "nomenclature": str(folder / "classes.yaml"),
        "vectors": given,
    }
    return stages.Run(config.from_mapping(values, "test settings"))


def test_a_run_writes_patches_and_what_is_mapped_in_siose_polygons(province: Path) -> None:
    run = run_of(province, format="gpkg", siose_shares=True, simplify_m=1.0)
    stages.vector_map(run, SHEET, threads=2)
    out = run.paths.vectors(SHEET, "gpkg")
    frame = geopandas.read_file(out, layer="siose")
    before = geopandas.read_parquet(run.paths.proportions(SHEET))
    assert frame["polygon_id"].tolist() == before["polygon_id"].tolist()
    assert frame.geometry.geom_equals(before.geometry).all()
    names = run.nomenclature.names
    mapped = frame[[f"mapped_{name}" for name in names]].to_numpy()
    there = frame["pixels"] > 0
    assert frame["pixels"].tolist() == [100] * 47 + [0]
    np.testing.assert_allclose(mapped[there].max(axis=1), 1)
    shares = before[[f"share_{name}" for name in names]].to_numpy()
    assert (mapped[there].argmax(axis=1) == shares[there].argmax(axis=1)).all()
    assert frame["name"][there].tolist() == [names[i] for i in shares[there].argmax(axis=1)]
    assert (frame["confidence"][there] == 60).all()
    patches = geopandas.read_file(out, layer="patches")
    assert patches["pixels"].sum() == frame["pixels"].sum()
    with closing(sqlite3.connect(out)) as base:
        styled = base.execute("SELECT f_table_name FROM layer_styles ORDER BY id").fetchall()
    assert styled == [("patches",), ("siose",)]


def test_a_sheet_without_labels_has_patches_alone(province: Path) -> None:
    run = run_of(province, format="gpkg", siose_shares=True)
    stages.vector_map(run, "far")
    layers = geopandas.list_layers(run.paths.vectors("far", "gpkg"))["name"].tolist()
    assert layers == ["patches", "layer_styles"]


def test_geoparquet_of_a_run_and_nothing_of_earlier_settings(province: Path) -> None:
    run = run_of(province, format="parquet", siose_shares=True)
    stages.vector_map(run, SHEET)
    out = run.paths.vectors(SHEET, "parquet")
    names = {f"{SHEET}{end}" for end in (".parquet", ".qml", ".siose.parquet", ".siose.qml")}
    assert names <= {path.name for path in out.parent.iterdir()}
    assert len(geopandas.read_parquet(out.with_suffix(".siose.parquet"))) > 10
    stages.vector_map(run_of(province, format="parquet"), SHEET)
    assert not out.with_suffix(".siose.parquet").exists()
    assert not out.with_suffix(".siose.qml").exists()
    assert out.exists()


def test_polygons_do_not_take_the_style_of_the_map(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="would replace that of") as caught:
        stages.vector_raster(tmp_path / "0722.tif", tmp_path / "0722.parquet")
    assert "0722.polygons.parquet" in caught.value.remedy


def test_no_polygons_are_made_unless_asked_for(province: Path) -> None:
    with pytest.raises(SettingsError, match="no polygons are asked for"):
        stages.vector_map(run_of(province), SHEET)


def test_a_job_that_ends_by_an_error_leaves_nothing(
    class_map: tuple[Path, Path, NDArray[np.uint8]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, _sure, _classes = class_map
    for error in (KeyboardInterrupt(), InputError("that")):
        for name in ("map.gpkg", "map.parquet"):

            def broken(*_given: object, wrong: BaseException = error) -> None:
                raise wrong

            monkeypatch.setattr(vectors, "polygons", broken)
            out = tmp_path / "out" / name
            with pytest.raises(type(error)):
                stages.vector_raster(path, out)
            assert not list(out.parent.iterdir())


FULL = """
import resource, signal, sys
from pathlib import Path
from pipeline import stages
from pipeline.errors import OutputError

stages.vector_raster(Path(sys.argv[1]), Path(sys.argv[2]))  # loads all that has files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    stages.vector_raster(Path(sys.argv[1]), Path(sys.argv[2]))
except OutputError as error:
    print(error)
    sys.exit(77)
"""


def test_a_full_disk_is_told_and_the_old_file_stays(
    class_map: tuple[Path, Path, NDArray[np.uint8]], tmp_path: Path
) -> None:
    out = tmp_path / "out" / "map.gpkg"
    command = [sys.executable, "-c", FULL, str(class_map[0]), str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 77, done.stdout + done.stderr
    assert "cannot be written" in done.stdout
    assert [path.name for path in out.parent.iterdir()] == ["map.gpkg"]
    assert len(geopandas.read_file(out, layer="patches")) > 10
