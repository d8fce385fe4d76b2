"""Points that were drawn elsewhere: read, put on the maps, and estimated from."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyproj
import pytest
import shapely
from numpy.typing import NDArray
from typer.testing import CliRunner

from pipeline import area_estimates, cli, config, stages, styles
from pipeline.area_estimates import AreaEstimates
from pipeline.class_rasters import NOMENCLATURE_TAG, sidecars
from pipeline.counting import pair_counts
from pipeline.errors import InputError, SettingsError
from pipeline.geotiff import RasterWriter
from pipeline.grid import PixelGrid
from pipeline.map_digest import maps_digest
from pipeline.nomenclature import IGNORE
from pipeline.point_samples import OUTSIDE, chance_of, classes_under, tabulated
from pipeline.run import Run
from pipeline.sample_draw import SheetMap
from pipeline.stages import PointSample
from pipeline.stratified_shares import stratified_shares

NAMES, COLORS = ("Forest", "Built-up", "Water"), ("#109C69", "#DC1E1E", "#0000FF")
GRID = PixelGrid("EPSG:25830", 700_000.0, 4_400_000.0, 2.0, 2.0, 10, 10)

Point = tuple[float, float, Any]
"""Column and row, as floats, and the class that was seen."""

# Six rows of forest, four of which the last two pixels say nothing of.
IDS = np.zeros((10, 10), np.uint8)
IDS[6:] = 1
IDS[9, 8:] = IGNORE
# On forest three of four are right, on built-up two of three.
POINTS: list[Point] = [
    (0.5, 0.5, "Forest"), (3.2, 1.9, "forest "), (9.9, 5.9, "Built-up"), (5.0, 3.0, 0),
    (0.1, 6.1, "Forest"), (4.5, 7.5, "Built-up"), (9.5, 8.5, "1"),
]  # fmt: skip

Maps = Callable[..., Path]


def place(col: float, row: float, grid: PixelGrid = GRID) -> tuple[float, float]:
    return grid.left + col * grid.pixel_width, grid.top - row * grid.pixel_height


@pytest.fixture
def raster(tmp_path: Path) -> Maps:
    def write(
        name: str, ids: NDArray[np.uint8] = IDS, tag: str = "", grid: PixelGrid = GRID,
        names: Sequence[str] = NAMES, colors: Sequence[str] = COLORS,
    ) -> Path:  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tags = {NOMENCLATURE_TAG: tag} if tag else {}
        with RasterWriter(path, grid, "uint8", IGNORE, colors, tags) as target:
            target.write(grid.window, ids)
        sidecars(path)[0].write_text(styles.class_pam(names, colors), "utf-8")
        return path

    return write


def write_csv(path: Path, header: str, rows: Sequence[Sequence[object]], mark: str = ",") -> Path:
    lines = [header, *(mark.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def plane_csv(path: Path, points: Sequence[Point], grid: PixelGrid = GRID) -> Path:
    rows = [(*place(col, row, grid), seen) for col, row, seen in points]
    return write_csv(path, "x,y,class", rows)


def frame(points: Sequence[Point], crs: str | None = "EPSG:25830") -> geopandas.GeoDataFrame:
    shapes = [shapely.Point(*place(col, row)) for col, row, _ in points]
    seen = [None if value is None else str(value) for _, _, value in points]
    return geopandas.GeoDataFrame({"class": seen}, geometry=shapes, crs=crs)


def assessed(map_file: Path, file: Path, **options: Any) -> AreaEstimates:
    keys = {k: options.pop(k) for k in ("out", "partial", "classes", "threads") if k in options}
    known = {"field": "class", "crs": "EPSG:25830", **options}
    return stages.assess_map_points([map_file], PointSample(file, **known), **keys)


# Estimates


def test_a_small_sample_by_hand(tmp_path: Path, raster: Maps) -> None:
    """240 m² of forest, of which a quarter is built-up; 152 m² built-up, a third of it forest."""
    out = tmp_path / "out"
    found = assessed(raster("m.tif"), plane_csv(tmp_path / "p.csv", POINTS), out=out)
    assert found.sample.tolist() == [[3, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert found.mapped_area_m2.tolist() == [240, 152, 0]
    assert found.area_m2.tolist() == pytest.approx([240 * 3 / 4 + 152 / 3, 60 + 152 * 2 / 3, 0])
    first, second = 240 / 392, 152 / 392
    assert found.overall == pytest.approx(first * 3 / 4 + second * 2 / 3)
    spread = first**2 * 0.75 * 0.25 / 3, second**2 * (2 / 3) * (1 / 3) / 2
    assert found.overall_ci == pytest.approx(1.96 * math.sqrt(sum(spread)))
    assert found.area_ci_m2[:2].tolist() == pytest.approx([1.96 * 392 * math.sqrt(sum(spread))] * 2)
    assert (found.sampling, found.outside, found.pending, found.pixels) == ("simple", 0, 0, None)
    assert (found.sheets, found.maps) == (("m",), maps_digest({"m": tmp_path / "m.tif"}))
    assert {path.name for path in out.iterdir()} == {
        "estimates.json", "estimates.csv", "estimates.points.csv",
    }  # fmt: skip
    text = (out / "estimates.json").read_text("utf-8")
    assert area_estimates.from_json(text, "e.json").as_json() == text == found.as_json()
    assert (out / "estimates.csv").read_text("utf-8") == found.as_csv()
    with (out / "estimates.points.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[2] == {
        "point": "row 4", "x": "700019.8", "y": "4399988.2", "sheet": "m", "map": "Forest",
        "reference": "Built-up",
    }  # fmt: skip
    assert [row["reference"] for row in rows].count("Forest") == 4


OLOFSSON = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])


@pytest.mark.parametrize("sampling", ["stratified", "simple"])
def test_the_papers_example_by_points(
    tmp_path: Path, raster: Maps, sampling: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Olofsson et al. (2014), tables 8 and 9, on a map of a thousandth of the pixels."""
    names = ("Deforestation", "Forest gain", "Stable forest", "Stable non-forest")
    ids = np.repeat(np.arange(4, dtype=np.uint8), [200, 150, 3200, 6450]).reshape(100, 100)
    grid = PixelGrid("EPSG:32720", 300_000.0, 8_500_000.0, 30.0, 30.0, 100, 100)
    colors = ("#FF0000", "#00FF00", "#008000", "#808080")
    path = raster("m.tif", ids, grid=grid, names=names, colors=colors)
    random, points = np.random.default_rng(3), []
    for stratum, row in enumerate(OLOFSSON):
        cells = random.choice(np.flatnonzero(ids == stratum), row.sum(), replace=False)
        seen = np.repeat(np.arange(4), row)
        for cell, real in zip(cells.tolist(), seen.tolist(), strict=True):
            points.append((cell % 100 + random.random(), cell // 100 + random.random(), real))
    file = plane_csv(tmp_path / "p.csv", points, grid)
    found = assessed(path, file, crs="EPSG:32720", sampling=sampling)
    np.testing.assert_array_equal(found.sample, OLOFSSON)
    hectares = (found.area_m2 / 1e4 * 1000).round().tolist()
    assert hectares == [21_158, 11_686, 285_770, 581_386]
    plus_minus = (found.area_ci_m2 / 1e4 * 1000).round().tolist()
    assert plus_minus == [6_158, 3_756, 15_510, 16_282]
    assert found.users.round(2).tolist() == [0.88, 0.73, 0.93, 0.96]
    assert round(found.overall, 2) == 0.95
    # 75 points on 2 % of the map: no simple random sample of 640 has them.
    assert ("Deforestation 75, not about 12.8" in caplog.text) == (sampling == "simple")


def _truth_and_map() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    random = np.random.default_rng(5)
    truth = np.repeat(np.repeat(random.choice(3, (20, 30), p=[0.6, 0.3, 0.1]), 4, 0), 4, 1)
    mapped = np.roll(truth, (1, 1), (0, 1)).astype(np.uint8)
    mapped[:3] = IGNORE
    return truth.astype(np.uint8), mapped


def coverage(samples: int, size: int, seed: int) -> tuple[NDArray[np.float64], float]:
    """In which share of simple random samples of places the limits hold areas and accuracy."""
    truth, mapped = _truth_and_map()
    grid = PixelGrid("EPSG:25830", 0.0, 0.0, 1.0, 1.0, mapped.shape[1], mapped.shape[0])
    sheet = SheetMap("s", grid, lambda window: mapped[window.slices()])
    random = np.random.default_rng(seed)
    x, y = random.random(samples * size) * grid.width, -random.random(samples * size) * grid.height
    found = classes_under([sheet], x, y, grid.crs)
    real = truth[np.floor(-y).astype(int), np.floor(x).astype(int)].astype(np.int64)
    tables = np.stack(
        [
            tabulated(found.classes[part][keep], real[part][keep], 3)
            for part in np.split(np.arange(samples * size), samples)
            for keep in [found.mapped[part]]
        ]
    )
    pairs = pair_counts(mapped, truth)[:3, :3]
    shares = stratified_shares(tables, pairs.sum(axis=1))
    area = pairs.sum(axis=0) / pairs.sum()
    held = (shares.area_limits[..., 0] <= area) & (area <= shares.area_limits[..., 1])
    overall = np.trace(pairs) / pairs.sum()
    limits = shares.overall_limits
    return held.mean(axis=0), float(((limits[:, 0] <= overall) & (overall <= limits[:, 1])).mean())


def test_intervals_of_simple_random_samples_hold_the_truth() -> None:
    """Of 600 intervals of 95 %, fewer than 92.5 % hold once in 200 times."""
    areas, overall = coverage(samples=600, size=200, seed=11)
    assert ((areas >= 0.925) & (areas <= 0.985)).all(), areas
    assert 0.925 <= overall <= 0.985


def test_spreads_that_chance_makes_and_does_not_make() -> None:
    area = np.array([90.0, 9.0, 1.0, 0.0])
    assert chance_of(np.array([90, 9, 1, 0]), area) == 1
    # Two classes: the tails of a binomial with 100 draws of 1/2, 40 or fewer and 60 or more.
    tails = 2 * sum(math.comb(100, k) for k in range(41)) / 2**100
    assert chance_of(np.array([40, 60]), np.array([5.0, 5.0])) == pytest.approx(tails, abs=0.01)
    assert chance_of(np.array([34, 33, 33, 0]), area) == 1e-4
    random = np.random.default_rng(2)
    chances = [chance_of(random.multinomial(200, area / 100), area) for _ in range(60)]
    assert sum(chance < 0.05 for chance in chances) <= 9
    assert min(chances) > 0.001


# Where points lie


def test_points_of_several_maps_are_of_the_first_that_says_a_class(
    tmp_path: Path, raster: Maps, caplog: pytest.LogCaptureFixture
) -> None:
    """The second map begins in the middle of the first one, whose last pixels say nothing."""
    right = PixelGrid("EPSG:25830", 700_010.0, 4_400_000.0, 2.0, 2.0, 10, 10)
    maps = [raster("a.tif"), raster("b.tif", np.full((10, 10), 2, np.uint8), grid=right)]
    points = [
        (1.5, 1.5, 0), (2.5, 1.5, 0), (7.5, 1.5, 0), (7.5, 7.5, 1), (6.5, 7.5, 1),
        (8.5, 9.5, 2), (14.5, 2.5, 2), (13.5, 2.5, 2), (20.5, 5.5, 0), (-0.5, 5.5, 0),
    ]  # fmt: skip
    file = plane_csv(tmp_path / "p.csv", points)
    sample = PointSample(file, "class", crs="EPSG:25830")
    found = stages.assess_map_points(maps, sample)
    assert found.sample.tolist() == [[3, 0, 0], [0, 2, 0], [0, 0, 3]]
    # Half of the second map, and the two pixels that the first one leaves to it.
    assert found.mapped_area_m2.tolist() == [240, 152, 208]
    assert found.outside == 2
    assert "2 of 10 points lie outside of the maps and are left out: row 10, row 11" in caplog.text
    alone = stages.assess_map_points(maps[:1], sample)
    assert (alone.points, alone.outside) == (5, 5)
    assert "1 of 10 points lie where nothing is mapped and are left out: row 7" in caplog.text
    again = stages.assess_map_points(maps, sample, threads=3)
    assert again.as_json() == found.as_json()


def test_edges_of_pixels_and_maps() -> None:
    grid = PixelGrid("EPSG:25830", 0.0, 0.0, 1.0, 1.0, 1100, 700)
    ids = (np.arange(700)[:, None] + np.arange(1100)) % 200
    sheet = SheetMap("s", grid, lambda window: ids[window.slices()].astype(np.uint8))
    x = np.array([0.0, 1.0, 511.999, 512.0, 1099.999, 1100.0, -0.001, 5.0, 5.0, np.inf])
    y = np.array([-0.0, -0.5, -512.0, -511.999, -699.999, -3.0, -3.0, -700.0, 0.001, -3.0])
    expected = [0, 1, (512 + 511) % 200, (511 + 512) % 200, (699 + 1099) % 200, *[OUTSIDE] * 5]
    for threads in (1, 3):
        found = classes_under([sheet], x, y, grid.crs, threads)
        assert found.classes.tolist() == expected
    assert found.maps.tolist() == [0] * 5 + [OUTSIDE] * 5


def test_points_without_a_mapped_pixel_are_refused(tmp_path: Path, raster: Maps) -> None:
    path = raster("m.tif")
    far = plane_csv(tmp_path / "far.csv", [(8.5, 9.5, 0), (30.0, 1.0, 1)])
    with pytest.raises(InputError, match="none of 2 points lies on a mapped pixel") as caught:
        assessed(path, far)
    assert "1 outside of the maps, 1 where nothing is mapped" in caught.value.what
    assert caught.value.items == (
        "map m: from 700000, 4399980 to 700020, 4400000; points there: from 700017, 4399981 to "
        "700060, 4399998",
    )
    with pytest.raises(InputError, match="none of 7 points lies on a mapped pixel") as caught:
        assessed(path, plane_csv(tmp_path / "p.csv", POINTS), crs="EPSG:25829")
    assert "They were read as EPSG:25829" in caught.value.remedy


def test_a_class_of_the_map_without_points_is_told(
    tmp_path: Path, raster: Maps, caplog: pytest.LogCaptureFixture
) -> None:
    file = plane_csv(tmp_path / "p.csv", POINTS[:5])
    found = assessed(raster("m.tif"), file)
    assert np.isnan(found.area_ci_m2[:2]).all()
    assert "Built-up: a single point gives no standard error" in caplog.text
    with pytest.raises(InputError, match="nothing is known of their ground") as caught:
        assessed(raster("m.tif"), plane_csv(tmp_path / "p.csv", POINTS[:4]))
    assert caught.value.items == ("Built-up: 0.02 ha, 38.78 % of the map",)


def test_maps_that_the_points_are_not_of_are_told(
    tmp_path: Path, raster: Maps, caplog: pytest.LogCaptureFixture
) -> None:
    far = PixelGrid("EPSG:25830", 710_000.0, 4_400_000.0, 2.0, 2.0, 100, 100)
    maps = [raster("a.tif"), raster("b.tif", np.zeros((100, 100), np.uint8), grid=far)]
    sample = PointSample(plane_csv(tmp_path / "p.csv", POINTS), "class", crs="EPSG:25830")
    stages.assess_map_points(maps, sample)
    assert "no simple random sample of the maps" in caplog.text
    assert "(Built-up 3, not about 0.0263; Forest 4, not about 6.97" in caplog.text
    assert "no point lies on b: leave them out" in caplog.text
    caplog.clear()
    stages.assess_map_points(maps[:1], sample)
    assert "no simple random sample" not in caplog.text


# Files


def ceo_rows(points: Sequence[Point]) -> list[list[object]]:
    """As Collect Earth Online writes its samples: one in each plot, in longitude and latitude."""
    step = pyproj.Transformer.from_crs("EPSG:25830", "EPSG:4326", always_xy=True)
    rows: list[list[object]] = []
    for number, (col, row, seen) in enumerate(points, start=1):
        lon, lat = step.transform(*place(col, row))
        rows.append(
            [number, 1, f"{lon:.9f}", f"{lat:.9f}", "a@b.org", "false", "", "2026-03-01 10:00",
             "12.3 secs", f'"{seen}"']
        )  # fmt: skip
    return rows


CEO = (
    "plotid,sampleid,lon,lat,email,flagged,flagged_reason,collection_time,analysis_duration,"
    "Land Cover?"
)


def test_all_kinds_of_files_say_the_same(tmp_path: Path, raster: Maps) -> None:
    path = raster("m.tif")
    plain = assessed(path, plane_csv(tmp_path / "p.csv", POINTS)).as_json()
    ceo = write_csv(tmp_path / "ceo.csv", "\ufeff" + CEO, ceo_rows(POINTS))
    assert assessed(path, ceo, field="Land Cover?", crs=None).as_json() == plain
    old = write_csv(tmp_path / "old.csv", CEO.upper().replace("PLOTID", "PLOT_ID"),
                    ceo_rows(POINTS))  # fmt: skip
    assert assessed(path, old, field="LAND COVER?", crs=None).as_json() == plain
    # Of a Spanish spreadsheet.
    rows = [[str(v).replace(".", ",") for v in (*place(c, r), s)] for c, r, s in POINTS]
    spanish = write_csv(tmp_path / "es.csv", "X;Y;class", rows, ";")
    assert assessed(path, spanish).as_json() == plain
    points = frame(POINTS)
    points.to_file(tmp_path / "p.gpkg", layer="plots")
    points.to_crs("EPSG:4326").to_file(tmp_path / "p.geojson")
    points.to_file(tmp_path / "p.shp")
    for name in ("p.gpkg", "p.geojson", "p.shp"):
        assert assessed(path, tmp_path / name, crs=None).as_json() == plain
    numbers = points.assign(**{"class": [0.0, 0, 1, 0, 0, 1, 1]})  # a Shapefile's numbers
    numbers.to_file(tmp_path / "n.shp")
    assert assessed(path, tmp_path / "n.shp", crs=None).as_json() == plain
    multi = points.set_geometry([shapely.MultiPoint([shape]) for shape in points.geometry])
    multi.to_file(tmp_path / "multi.gpkg")
    assert assessed(path, tmp_path / "multi.gpkg", crs=None).as_json() == plain


def test_layers_are_told_apart(tmp_path: Path, raster: Maps) -> None:
    path, file = raster("m.tif"), tmp_path / "p.gpkg"
    frame(POINTS).to_file(file, layer="a")
    frame(POINTS[1:]).to_file(file, layer="b")
    with pytest.raises(InputError, match="has 2 layers with geometry") as caught:
        assessed(path, file, crs=None)
    assert set(caught.value.items) == {"a", "b"}
    assert assessed(path, file, crs=None, layer="b").points == 6
    with pytest.raises(InputError, match="has no layer 'c'"):
        assessed(path, file, crs=None, layer="c")
    with pytest.raises(InputError, match="a CSV has no layer"):
        assessed(path, plane_csv(tmp_path / "p.csv", POINTS), layer="a")


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_what_a_file_lacks_is_told_at_once(tmp_path: Path, raster: Maps) -> None:
    path = raster("m.tif")
    bare = frame(POINTS, crs=None).rename(columns={"class": "cover"})
    bare.to_file(tmp_path / "p.shp")
    with pytest.raises(InputError, match="cannot be read") as caught:
        assessed(path, tmp_path / "p.shp", field="Cover", crs=None)
    assert caught.value.items[0] == (
        "there is no field 'Cover'; did you mean 'cover'?; its fields are cover"
    )
    assert "no coordinate reference system" in caught.value.items[1]
    assert len(caught.value.items) == 2
    with pytest.raises(InputError) as caught:
        assessed(path, plane_csv(tmp_path / "p.csv", POINTS), field="cover", crs=None)
    assert "its fields are x, y, class" in caught.value.items[0]
    assert "the coordinate reference system of x and y is not known" in caught.value.items[1]
    with pytest.raises(InputError) as caught:
        assessed(path, write_csv(tmp_path / "p.csv", "class,class,z", [(0, 1, 2)]))
    assert caught.value.items == (
        "there are no columns lon and lat, or x and y; its columns are class, class, z",
        "the column class is there twice",
    )
    frame(POINTS).to_file(tmp_path / "p.gpkg")
    with pytest.raises(InputError) as caught:
        assessed(path, tmp_path / "p.gpkg", crs="EPSG:25829")
    assert "its coordinate reference system is EPSG:25830, not EPSG:25829" in caught.value.items[0]
    with pytest.raises(InputError, match=r"--points-crs EPSG:0: is no coordinate"):
        assessed(path, tmp_path / "p.gpkg", crs="EPSG:0")
    with pytest.raises(InputError, match="there is no such file"):
        assessed(path, tmp_path / "none.csv")
    (tmp_path / "p.json").write_text("{}", "utf-8")
    with pytest.raises(InputError, match="no file of points that GDAL can read"):
        assessed(path, tmp_path / "p.json", crs=None)
    (tmp_path / "p.csv").write_bytes("x,y,class\n1,2,Viñedo\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8"):
        assessed(path, tmp_path / "p.csv")
    with pytest.raises(InputError, match="has no points"):
        assessed(path, write_csv(tmp_path / "p.csv", "x,y,class", []))


def test_all_rows_that_cannot_be_used_are_told(tmp_path: Path, raster: Maps) -> None:
    x, y = place(1.5, 1.5)
    rows = [
        (x, y, "Forrest"), (x + 2, y, 3), ("", y, "Water"), (x, "n/a", 0), (x, y, "Water"),
        (x + 4, y), ("", "", ""), (x + 6, y, 0.5), (x + 8, y, " WATER "), (x + 9, y, "2.0"),
    ]  # fmt: skip
    out = tmp_path / "out"
    with pytest.raises(InputError, match="7 of its entries cannot be used") as caught:
        assessed(raster("m.tif"), write_csv(tmp_path / "p.csv", "x,y,class", rows), out=out)
    assert caught.value.items == (
        f"row 4: '', '{y}' are no coordinates",
        f"row 5: '{x}', 'n/a' are no coordinates",
        "row 7: has 2 cells, the header 3",
        "row 2: 'Forrest' is no class; did you mean 'Forest'?",
        "row 3: '3' is no class",
        "row 9: '0.5' is no class",
        "row 2 and row 6: lie at the same place, as Forrest and Water",
    )
    assert "The classes are Forest, Built-up, Water, or their ids, 0 to 2." in caught.value.remedy
    assert "keep one of each" in caught.value.remedy
    assert not out.exists()


def test_places_that_are_none_are_told(tmp_path: Path, raster: Maps) -> None:
    path = raster("m.tif")
    file = write_csv(
        tmp_path / "p.csv", "lon,lat,class", [(700_001, 4_399_999, 0), (-0.6, 39.7, 0)]
    )
    with pytest.raises(InputError) as caught:
        assessed(path, file, crs=None)
    assert caught.value.items == ("row 2: 700001, 4399999 is no longitude and latitude",)
    assert "--points-crs" in caught.value.remedy
    shapes = [None, shapely.Point(), shapely.Point(1, 1).buffer(1), shapely.Point(2, 2)]
    odd = geopandas.GeoDataFrame({"class": ["0"] * 4}, geometry=shapes, crs="EPSG:25830")
    odd.to_file(tmp_path / "odd.gpkg")
    with pytest.raises(InputError) as caught:
        assessed(path, tmp_path / "odd.gpkg", crs=None)
    assert caught.value.items == (
        "feature 1: has no place", "feature 2: has no place",
        "feature 3: is a Polygon, not a point",
    )  # fmt: skip


def test_several_points_of_a_plot_are_no_simple_sample(tmp_path: Path, raster: Maps) -> None:
    rows = ceo_rows(POINTS)
    rows[3][0] = rows[5][0] = 1
    rows.append([*rows[6][:4], "other@b.org", *rows[6][5:]])  # somebody else on the same place
    file = write_csv(tmp_path / "ceo.csv", CEO, rows)
    with pytest.raises(InputError) as caught:
        assessed(raster("m.tif"), file, field="Land Cover?", crs=None)
    assert caught.value.items == (
        "row 8 and row 9: lie at the same place, as 1", "plot 1: has 3 points",
    )  # fmt: skip
    assert "intervals would be too short" in caught.value.remedy


def test_points_without_a_class_are_told_with_the_classes_they_hit(
    tmp_path: Path, raster: Maps, caplog: pytest.LogCaptureFixture
) -> None:
    path = raster("m.tif")
    points = [*POINTS, (1.5, 2.5, ""), (2.5, 7.5, " "), (3.5, 7.5, "")]
    file = plane_csv(tmp_path / "p.csv", points)
    with pytest.raises(InputError, match=r"3 of 10 points have no class in 'class'") as caught:
        assessed(path, file)
    assert caught.value.items == ("row 9", "row 10", "row 11")
    assert "--partial" in caught.value.remedy
    found = assessed(path, file, partial=True)
    assert (found.points, found.pending) == (7, 3)
    assert "mapped as Forest: 1 of 5" in caplog.text
    assert "Built-up: 2 of 5" in caplog.text
    nothing = frame([(c, r, None) for c, r, _ in POINTS])
    nothing.to_file(tmp_path / "p.gpkg")
    with pytest.raises(InputError, match="7 of 7 points have no class") as caught:
        assessed(path, tmp_path / "p.gpkg", crs=None, partial=True)
    assert "--partial" not in caught.value.remedy


def test_points_are_never_replaced_by_what_is_written(tmp_path: Path, raster: Maps) -> None:
    out = tmp_path / "out"
    out.mkdir()
    file = plane_csv(out / "estimates.csv", POINTS)
    before = file.read_text("utf-8")
    with pytest.raises(SettingsError, match="would be replaced"):
        assessed(raster("m.tif"), file, out=out)
    assert [path.name for path in out.iterdir()] == ["estimates.csv"]
    assert file.read_text("utf-8") == before


def test_maps_of_other_classes_are_refused(tmp_path: Path, raster: Maps) -> None:
    file = plane_csv(tmp_path / "p.csv", POINTS)
    maps = [raster("a.tif", tag="a"), raster("b.tif", tag="b")]
    sample = PointSample(file, "class", crs="EPSG:25830")
    with pytest.raises(InputError, match="have other classes than each other"):
        stages.assess_map_points(maps, sample)
    with pytest.raises(SettingsError, match="told apart by the names"):
        stages.assess_map_points([maps[0], raster("other/a.tif")], sample)
    with pytest.raises(SettingsError, match="is to be a folder"):
        stages.assess_map_points(maps[:1], sample, tmp_path / "e.json")


# Runs, and the command


@pytest.fixture
def settings(tmp_path: Path, raster: Maps) -> Path:
    """Settings of a run of one mapped sheet, and one of another year."""
    raster("data/s.tif")
    (tmp_path / "sheets.csv").write_text(
        "sheet,orthophoto,siose,split,year,place\ns,data/s.tif,,map,2010,p\n"
        "t,data/s.tif,,map,2015,p\n", "utf-8",
    )  # fmt: skip
    classes = "".join(
        f'  - {{name: {name}, covers: [{cover}], color: "{color}"}}\n'
        for name, cover, color in zip(NAMES, ("FDC", "EDF", "AEM"), COLORS, strict=True)
    )
    (tmp_path / "classes.yaml").write_text(f"classes:\n{classes}", "utf-8")
    path = tmp_path / "run.yaml"
    path.write_text(
        f"run: {tmp_path / 'run'}\nsheets: {tmp_path / 'sheets.csv'}\n"
        f"nomenclature: {tmp_path / 'classes.yaml'}\n", "utf-8",
    )  # fmt: skip
    run = Run(config.load(path))
    raster("run/maps/s.tif", tag=run.nomenclature.fingerprint)
    return path


def test_points_on_the_maps_of_a_run(
    tmp_path: Path, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.progress.stdout.width", 120)
    frame(POINTS).to_file(tmp_path / "p.gpkg")
    options = ["--config", str(settings), "--points", str(tmp_path / "p.gpkg"), "--field", "class"]
    runner = CliRunner()
    assert isinstance(runner.invoke(cli.app, ["assess", *options]).exception, SettingsError)
    both = runner.invoke(cli.app, ["assess", *options, "--sheets", "t"])
    assert "1 of 1 sheets have no map yet" in str(both.exception)
    answer = runner.invoke(cli.app, ["assess", *options, "--sheets", "s"])
    assert answer.exit_code == 0, answer.exception
    assert "Areas in ha, from 7 points" in answer.stdout
    run = Run(config.load(settings))
    text = run.paths.area_estimates.read_text("utf-8")
    found = area_estimates.from_json(text, "e.json")
    assert found.sample.tolist() == [[3, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert (found.sheets, found.splits) == (("s",), ("map",))
    assert found.maps == maps_digest({"s": run.paths.land_cover_map("s")})
    assert run.paths.area_estimates_table.read_text("utf-8") == found.as_csv()
    elsewhere = runner.invoke(
        cli.app, ["assess", *options, "--sheets", "s", "--out", str(tmp_path / "out")]
    )
    assert elsewhere.exit_code == 0
    assert (tmp_path / "out" / "estimates.json").read_text("utf-8") == text


def test_the_command_reads_what_collect_earth_online_writes(tmp_path: Path, raster: Maps) -> None:
    file = write_csv(tmp_path / "ceo.csv", CEO, ceo_rows(POINTS))
    answer = CliRunner().invoke(
        cli.app,
        ["assess", "--map", str(raster("m.tif")), "--points", str(file), "--field", "Land Cover?",
         "--sampling", "systematic", "--out", str(tmp_path / "out")],
    )  # fmt: skip
    assert answer.exit_code == 0, answer.exception
    content = json.loads((tmp_path / "out" / "estimates.json").read_text("utf-8"))
    assert (content["sampling"], content["points"], content["pixels"]) == ("systematic", 7, None)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--map", "a", "--points", "p"], "--field"),
        (["--points", "p", "--field", "f"], "--points with --config or --map"),
        (["--map", "a", "--config", "c", "--points", "p", "--field", "f"], "one of --config"),
        (["--map", "a", "--points", "p", "--field", "f", "--finite", "--size", "9", "--seed", "1"],
         "--finite, --size and --seed"),
        (["--map", "a", "--points", "p", "--field", "f", "--reference", "r"], "--reference"),
        (["--map", "a", "--points", "p", "--field", "f", "--sheets", "s"], "--sheets"),
        (["--config", "a", "--points", "p", "--field", "f", "-n", "n"], "--nomenclature"),
        (["--config", "a", "--points", "p", "--field", "f", "--sheets", ","], "names no sheet"),
        (["--config", "a", "--field", "f", "--sampling", "simple"], "--field and --sampling"),
        (["--sample", "a", "--points-crs", "c", "--points-layer", "l", "--sheets", "s"],
         "--points-crs, --points-layer and --sheets"),
        (["--map", "a", "--map", "b", "--reference", "r"], "one --map"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(options: list[str], told: str) -> None:
    answer = CliRunner().invoke(cli.app, ["assess", *options])
    assert isinstance(answer.exception, SettingsError)
    assert told in str(answer.exception)
