"""Change maps: which sheets are compared, which pixels, and what is written of them."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pyproj
import pytest
import rasterio
from numpy.typing import NDArray
from typer.testing import CliRunner

from pipeline import cli, comparison, config, evidence, stages, styles
from pipeline.changes import ChangeCode, ChangeTables
from pipeline.class_rasters import NOMENCLATURE_TAG, sidecars
from pipeline.comparison import common_pixels
from pipeline.errors import InputError, SettingsError
from pipeline.geotiff import RasterReader, RasterWriter
from pipeline.grid import PixelGrid
from pipeline.ground_area import row_areas_m2
from pipeline.report_data import ReportData
from pipeline.reporting import render_report
from pipeline.sheets import Sheet, comparisons, read_sheets
from pipeline.stages.changes import check_places

TABLE = "sheet,orthophoto,siose,split,year,place\n"


def _table(folder: Path, rows: str, header: str = TABLE) -> dict[str, Sheet]:
    path = folder / "table.csv"
    path.write_text(header + rows, "utf-8")
    return read_sheets(path)


# Places


def test_years_of_a_place_are_compared_with_the_next_and_the_first_with_the_last(
    tmp_path: Path,
) -> None:
    sheets = _table(
        tmp_path,
        "b10,b.tif,,map,2010,b\na17,a.tif,,map,2017,a\na05,a.tif,,map,2005,a\n"
        "b05,b.tif,,map,2005,b\na10,a.tif,,map,2010,a\nalone,c.tif,,map,2010,\n"
        "timeless,d.tif,,map,,\n",
    )
    found = comparisons(sheets)
    assert list(found) == [
        ("b", "2005", "2010"), ("a", "2005", "2010"), ("a", "2010", "2017"), ("a", "2005", "2017"),
    ]  # fmt: skip
    assert [(c.before.name, c.after.name) for c in found.values()] == [
        ("b05", "b10"), ("a05", "a10"), ("a10", "a17"), ("a05", "a17"),
    ]  # fmt: skip


def test_a_sheet_is_the_place_of_its_name(tmp_path: Path) -> None:
    sheets = _table(tmp_path, "0722,a.tif,,map,2005,\nnewer,a.tif,,map,2010,0722\n")
    assert [sheet.place for sheet in sheets.values()] == ["0722", "0722"]
    assert list(comparisons(sheets)) == [("0722", "2005", "2010")]


def test_a_table_without_places_compares_nothing(tmp_path: Path) -> None:
    header = "sheet,orthophoto,siose,split,year\n"
    assert not comparisons(_table(tmp_path, "a,a.tif,,map,2005\nb,a.tif,,map,2010\n", header))


def test_all_places_that_cannot_be_compared_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        _table(
            tmp_path,
            "a,a.tif,,map,,p\nb,b.tif,,map,2005,q\nc,c.tif,,map,2005,q\nr,d.tif,,map,,\n"
            "s,e.tif,,map,2010,r\nt,f.tif,,map,2010,San Juan\n",
        )
    assert sorted(caught.value.items) == [
        "line 2: sheet 'a' has the place 'p' and no year",
        "line 4: sheet 'c' has the place 'q' and the year 2005, as has sheet 'b' in line 3",
        "line 5: sheet 'r' has no year, and other sheets have its place",
        "line 7: place 'San Juan' becomes part of file names; use up to 100 letters (a to z), "
        "digits, - and _",
    ]


# Pixels


NAMES, COLORS = ("Forest", "Built-up", "Water"), ("#109C69", "#DC1E1E", "#0000FF")
_ = 255
BEFORE = np.array([[0, 0, 0, 1], [0, 0, 2, 1], [_, 2, 2, 2]], np.uint8)
AFTER = np.array([[0, 1, 1, 1], [0, _, 2, 0], [0, 2, 2, 1]], np.uint8)
# before * 3 + after
VALUES = np.array([[0, 1, 1, 4], [0, _, 8, 3], [_, 8, 8, 7]], np.uint8)


def _grid(
    pixels: NDArray[np.uint8], left: float = 700_000.0, top: float = 4_400_000.0
) -> PixelGrid:
    return PixelGrid("EPSG:25830", left, top, 20.0, 10.0, pixels.shape[1], pixels.shape[0])


def _raster(
    path: Path, pixels: NDArray[np.uint8], grid: PixelGrid | None = None, fingerprint: str = "a"
) -> Path:
    """A class map with its side files."""
    tags = {NOMENCLATURE_TAG: fingerprint} if fingerprint else {}
    where = grid or _grid(pixels)
    path.parent.mkdir(exist_ok=True, parents=True)
    with RasterWriter(path, where, "uint8", 255, COLORS, tags) as raster:
        raster.write(where.window, pixels)
    sidecars(path)[0].write_text(styles.class_pam(NAMES, COLORS), "utf-8")
    return path


def _pixels(path: Path) -> NDArray[Any]:
    with RasterReader(path) as reader:
        return reader.read_band(reader.grid.window)


def _rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text("utf-8").splitlines()))


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """The change map of BEFORE and AFTER."""
    first, second = _raster(tmp_path / "a.tif", BEFORE), _raster(tmp_path / "b.tif", AFTER)
    stages.compare_maps(first, second, tmp_path / "c.tif")
    return tmp_path / "c.tif"


def test_values_hold_both_classes(compared: Path) -> None:
    np.testing.assert_array_equal(_pixels(compared), VALUES)
    with RasterReader(compared) as reader:
        assert reader.grid == _grid(BEFORE)
        assert NOMENCLATURE_TAG not in reader.tags  # it is no class map
        assert reader.tags["TESELA_CHANGES_OF"] == "a"
    with rasterio.open(compared) as raster:
        assert raster.nodata == 255
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert raster.colormap(1)[1] == (0xDC, 0x1E, 0x1E, 255)  # the class it has become
        assert raster.colormap(1)[4] == (0xF7, 0xCE, 0xCE, 255)  # the same, pale: unchanged
        assert len(raster.colormap(1)) == 9


def test_areas_of_all_changes_the_largest_first(compared: Path) -> None:
    # Ten pixels of 20 m x 10 m have a class in both years.
    assert _rows(compared.with_suffix(".csv")) == [
        ["from", "to", "pixels", "area_ha", "share"],
        ["Forest", "Built-up", "2", "0.040000", "0.20000000"],
        ["Built-up", "Forest", "1", "0.020000", "0.10000000"],
        ["Water", "Built-up", "1", "0.020000", "0.10000000"],
        ["Water", "Water", "3", "0.060000", "0.30000000"],
        ["Forest", "Forest", "2", "0.040000", "0.20000000"],
        ["Built-up", "Built-up", "1", "0.020000", "0.10000000"],
    ]


def test_gain_loss_and_net_change_of_classes(compared: Path) -> None:
    assert _rows(compared.with_suffix(".classes.csv")) == [
        ["class", "before_ha", "after_ha", "gain_ha", "loss_ha", "net_ha", "swap_ha", "net_share"],
        ["Forest", "0.080000", "0.060000", "0.020000", "0.040000", "-0.020000", "0.040000",
         "-0.250000"],
        ["Built-up", "0.040000", "0.080000", "0.060000", "0.020000", "0.040000", "0.040000",
         "1.000000"],
        ["Water", "0.080000", "0.060000", "0.000000", "0.020000", "-0.020000", "0.000000",
         "-0.250000"],
    ]  # fmt: skip


def test_the_legend_has_what_occurs_and_nothing_else(compared: Path) -> None:
    entries = ET.fromstring(compared.with_suffix(".qml").read_text("utf-8")).iter("paletteEntry")
    assert [(e.get("value"), e.get("label"), e.get("color")) for e in entries] == [
        ("1", "Forest → Built-up", "#dc1e1e"),
        ("3", "Built-up → Forest", "#109c69"),
        ("7", "Water → Built-up", "#dc1e1e"),
        ("8", "Water, unchanged", "#c7c7ff"),
        ("0", "Forest, unchanged", "#cae9de"),
        ("4", "Built-up, unchanged", "#f7cece"),
    ]
    table = ET.fromstring(Path(f"{compared}.aux.xml").read_text("utf-8"))
    rows = [[field.text for field in row] for row in table.iter("Row")]
    assert rows[1] == ["1", "2", "Forest → Built-up", "220", "30", "30", "255", "Forest",
                       "Built-up", "0.040000"]  # fmt: skip
    assert [row[0] for row in rows] == ["0", "1", "3", "4", "7", "8"]
    names = [name.text for name in table.iter("Category")]
    assert len(names) == 9
    assert names[5] == "Built-up → Water"


def test_light_colours_stand_out_of_pale_ones() -> None:
    code = ChangeCode(("Sand", "Water"), ("#F4F0E1", "#0000FF"))
    assert [code.color(value) for value in range(4)] == [
        "#FDFCF8", "#0000FF", "#C3C0B4", "#C7C7FF",
    ]  # fmt: skip


def test_gdal_reads_the_attribute_table(compared: Path) -> None:
    gdalinfo = shutil.which("gdalinfo")
    if gdalinfo is None:
        pytest.skip("no gdalinfo here")
    ran = subprocess.run(
        [gdalinfo, "-json", str(compared)], capture_output=True, text=True, check=True
    )
    assert "ERROR" not in ran.stderr
    info = json.loads(ran.stdout)
    assert info["bands"][0]["colorTable"]["count"] == 9
    assert [field["name"] for field in info["rat"]["fieldDefn"]][-3:] == ["From", "To", "Area_ha"]
    assert info["rat"]["row"][1]["f"][-3:] == ["Forest", "Built-up", 0.04]


def test_a_real_qgis_shows_the_changes_by_itself(compared: Path, shared_data: Path) -> None:
    checker = shared_data.parent / "tools" / "check_qgis_layer.py"
    python = Path("/usr/bin/python3")
    qgis = [str(python), "-c", "import qgis.core"]
    if not checker.exists() or not python.exists() or subprocess.run(qgis, check=False).returncode:
        pytest.skip("no QGIS here")
    entries = ET.fromstring(compared.with_suffix(".qml").read_text("utf-8")).iter("paletteEntry")
    expected = {e.get("value"): [e.get("label"), e.get("color")] for e in entries}
    assert len(expected) == 6
    (compared.parent / "classes.json").write_text(json.dumps(expected), "utf-8")
    command = [str(python), str(checker), str(compared), "--crs", "EPSG:25830", "--nodata", "255"]
    ran = subprocess.run(
        [*command, "--classes", str(compared.parent / "classes.json")],
        capture_output=True, text=True, check=False,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(("col", "row"), [(0, 0), (1, 2), (-2, 1), (3, -2)])
def test_maps_that_lie_apart_are_compared_where_both_are(
    tmp_path: Path, col: int, row: int
) -> None:
    grid = _grid(AFTER, 700_000.0 + 20 * col + 1e-3, 4_400_000.0 - 10 * row)
    first = _raster(tmp_path / "a.tif", BEFORE)
    stages.compare_maps(first, _raster(tmp_path / "b.tif", AFTER, grid), tmp_path / "c.tif")
    expected = {
        (r, c): BEFORE[r, c] * 3 + AFTER[r - row, c - col]
        if _ not in (BEFORE[r, c], AFTER[r - row, c - col]) else _
        for r in range(3) for c in range(4) if 0 <= r - row < 3 and 0 <= c - col < 4
    }  # fmt: skip
    top, left = min(expected)
    with RasterReader(tmp_path / "c.tif") as reader:
        assert reader.grid.left == 700_000.0 + 20 * left
        assert reader.grid.top == 4_400_000.0 - 10 * top
        pixels = reader.read_band(reader.grid.window)
    found = {(top + r, left + c): value for (r, c), value in np.ndenumerate(pixels)}
    assert found == expected


def test_unsure_pixels_are_not_compared(tmp_path: Path) -> None:
    first, second = _raster(tmp_path / "a.tif", BEFORE), _raster(tmp_path / "b.tif", AFTER)
    sure = np.full((3, 4), 60, np.uint8)
    less = sure.copy()
    less[0, 1] = 59  # a change
    less[1, 1] = 10  # has no class in the later year anyway
    other = sure.copy()
    other[0, 0] = 0  # unchanged
    paths = _raster(tmp_path / "ac.tif", less), _raster(tmp_path / "bc.tif", other)
    stages.compare_maps(
        first, second, tmp_path / "c.tif", confidences=paths, min_confidence=60
    )  # fmt: skip
    expected = VALUES.copy()
    expected[0, :2] = 255
    np.testing.assert_array_equal(_pixels(tmp_path / "c.tif"), expected)
    rows = _rows(tmp_path / "c.csv")
    assert ["Forest", "Built-up", "1", "0.020000", "0.12500000"] in rows
    assert sum(int(row[2]) for row in rows[1:]) == 8


def test_confidence_that_is_not_known_is_none(tmp_path: Path) -> None:
    first, second = _raster(tmp_path / "a.tif", BEFORE), _raster(tmp_path / "b.tif", AFTER)
    sure = np.full((3, 4), 100, np.uint8)
    unknown = sure.copy()
    unknown[0, 1] = 255
    paths = _raster(tmp_path / "ac.tif", unknown), _raster(tmp_path / "bc.tif", sure)
    stages.compare_maps(first, second, tmp_path / "c.tif", confidences=paths, min_confidence=70)
    expected = VALUES.copy()
    expected[0, 1] = 255
    np.testing.assert_array_equal(_pixels(tmp_path / "c.tif"), expected)


def test_maps_of_others_are_read_with_their_own_nodata(tmp_path: Path) -> None:
    paths = []
    for name, pixels in (("a", BEFORE), ("b", AFTER)):
        path = tmp_path / f"{name}.tif"
        where = _grid(pixels)
        with RasterWriter(path, where, "uint8", 2, COLORS) as raster:
            raster.write(where.window, pixels)
        sidecars(path)[0].write_text(styles.class_pam(NAMES, COLORS), "utf-8")
        paths.append(path)
    stages.compare_maps(paths[0], paths[1], tmp_path / "c.tif")
    expected = np.where((BEFORE == 2) | (AFTER == 2), 255, VALUES)
    np.testing.assert_array_equal(_pixels(tmp_path / "c.tif"), expected)


def test_maps_that_are_no_bytes_are_refused(tmp_path: Path) -> None:
    where = _grid(BEFORE)
    for name in ("a", "b"):
        with RasterWriter(tmp_path / f"{name}.tif", where, "uint32", 255, (), {}) as raster:
            raster.write(where.window, BEFORE.astype(np.uint32))
        text = styles.class_pam(NAMES, COLORS)
        sidecars(tmp_path / f"{name}.tif")[0].write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"a\.tif: its pixels are uint32; class ids"):
        stages.compare_maps(tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "c.tif")
    assert not (tmp_path / "c.tif").exists()


def test_bands_do_not_depend_on_threads_or_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    shape = (1300, 900)
    first, second = (rng.integers(0, 3, shape, np.uint8) for _ in range(2))
    first[rng.random(shape) < 0.1] = 255
    grid = PixelGrid("EPSG:25830", 0.0, 0.0, 0.25, 0.25, 900, 1300)
    there = PixelGrid("EPSG:25830", 0.25 * 37, -0.25 * 411, 0.25, 0.25, 900, 1300)
    paths = _raster(tmp_path / "a.tif", first, grid), _raster(tmp_path / "b.tif", second, there)
    for name, threads, across in (("one", 1, 8192), ("three", 3, 8192), ("narrow", 2, 100)):
        monkeypatch.setattr(comparison, "ACROSS", across)
        stages.compare_maps(*paths, tmp_path / name / "c.tif", threads=threads)
    files = sorted((tmp_path / "one").iterdir())
    assert len(files) == 5
    for file in files:
        for other in ("three", "narrow"):
            assert (tmp_path / other / file.name).read_bytes() == file.read_bytes(), file.name
    mine, theirs = first[411:, 37:], second[:-411, :-37]
    expected = np.where(mine == 255, 255, mine * 3 + theirs)
    np.testing.assert_array_equal(_pixels(tmp_path / "one" / "c.tif"), expected)
    pixels = np.bincount(expected.ravel(), minlength=256)
    rows = _rows(tmp_path / "one" / "c.csv")[1:]
    assert {row[0] + row[1]: int(row[2]) for row in rows} == {
        NAMES[value // 3] + NAMES[value % 3]: pixels[value] for value in range(9)
    }


def test_areas_in_degrees_are_those_of_their_rows(tmp_path: Path) -> None:
    first = np.zeros((3, 2), np.uint8)
    second = np.array([[1, 0], [1, 2], [0, 0]], np.uint8)
    grid = PixelGrid("EPSG:4258", -4.0, 41.0, 0.5, 0.5, 2, 3)
    paths = _raster(tmp_path / "a.tif", first, grid), _raster(tmp_path / "b.tif", second, grid)
    stages.compare_maps(*paths, tmp_path / "c.tif")
    areas = row_areas_m2(grid) / 1e4
    rows = {row[1]: row[3:] for row in _rows(tmp_path / "c.csv")[1:]}
    assert float(rows["Built-up"][0]) == pytest.approx(areas[0] + areas[1], abs=1e-6)
    assert float(rows["Water"][0]) == pytest.approx(areas[1], abs=1e-6)
    assert float(rows["Forest"][0]) == pytest.approx(areas[0] + 2 * areas[2], abs=1e-6)


def test_many_classes_have_values_of_sixteen_bits(tmp_path: Path) -> None:
    fifteen = ChangeCode(("x",) * 15, ("#000000",) * 15)
    assert (fifteen.dtype, fifteen.nodata, len(fifteen.palette)) == ("uint8", 255, 225)
    names = [f"class {number}" for number in range(30)]
    colors = [f"#{number:02X}0000" for number in range(30)]
    first, second = np.array([[0, 29, 255]], np.uint8), np.array([[29, 29, 3]], np.uint8)
    for name, pixels in (("a", first), ("b", second)):
        path = _raster(tmp_path / f"{name}.tif", pixels)
        sidecars(path)[0].write_text(styles.class_pam(names, colors), "utf-8")
    stages.compare_maps(tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "c.tif")
    with rasterio.open(tmp_path / "c.tif") as raster:
        assert (raster.dtypes[0], raster.nodata) == ("uint16", 65535)
        assert raster.read(1).tolist() == [[29, 899, 65535]]
    entries = ET.fromstring((tmp_path / "c.qml").read_text("utf-8")).iter("paletteEntry")
    assert [entry.get("label") for entry in entries] == [
        "class 0 → class 29", "class 29, unchanged"
    ]  # fmt: skip


def test_maps_without_common_classes_say_so_and_have_an_empty_table(tmp_path: Path) -> None:
    none = np.full((3, 4), 255, np.uint8)
    first, second = _raster(tmp_path / "a.tif", BEFORE), _raster(tmp_path / "b.tif", none)
    stages.compare_maps(first, second, tmp_path / "c.tif")
    assert (_pixels(tmp_path / "c.tif") == 255).all()
    assert len(_rows(tmp_path / "c.csv")) == 1
    assert _rows(tmp_path / "c.classes.csv")[1][1:] == ["0.000000"] * 6 + [""]


# Mistakes


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (PixelGrid("EPSG:25829", 7e5, 4.4e6, 20, 10, 4, 3), "their coordinate systems differ"),
        (PixelGrid("EPSG:25830", 7e5, 4.4e6, 20, 10.01, 4, 3), "their pixels have other sizes"),
        (
            PixelGrid("EPSG:25830", 7e5 + 5, 4.4e6 + 1, 20, 10, 4, 3),
            "their pixels are shifted by 0.25 columns and 0.1 rows",
        ),
    ],
)
def test_grids_that_do_not_lie_on_each_other_are_named(
    tmp_path: Path, grid: PixelGrid, message: str
) -> None:
    first, second = _raster(tmp_path / "a.tif", BEFORE), _raster(tmp_path / "b.tif", AFTER, grid)
    with pytest.raises(InputError, match="nothing is resampled") as caught:
        stages.compare_maps(first, second, tmp_path / "c.tif")
    assert message in caught.value.what
    assert caught.value.items[0] == (
        f"{first}: 4 x 3 pixels of 20 x 10 from (700000, 4400000) in EPSG:25830"
    )
    assert str(second) in caught.value.items[1]
    moved = " -t_srs 'EPSG:25830'" if grid.crs != "EPSG:25830" else ""
    command = f"gdalwarp -r cubic{moved} -tr 20 10 -te 700000 4399970 700080 4400000)"
    assert command in caught.value.remedy
    assert not (tmp_path / "c.tif").exists()


def test_the_same_system_in_other_words_is_the_same() -> None:
    grid = _grid(BEFORE)
    other = dataclasses.replace(grid, crs=pyproj.CRS(grid.crs).to_wkt())
    assert common_pixels(grid, other, ("a", "b")).after == grid.window


def test_sizes_that_drift_apart_over_a_sheet_are_other_sizes() -> None:
    grid = PixelGrid("EPSG:25830", 7e5, 4.4e6, 0.25, 0.25, 50_000, 50_000)
    common_pixels(grid, dataclasses.replace(grid, pixel_width=0.25 * (1 + 1e-9)), ("a", "b"))
    with pytest.raises(InputError, match="other sizes"):
        common_pixels(grid, dataclasses.replace(grid, pixel_width=0.25 * (1 + 1e-6)), ("a", "b"))


def test_maps_of_other_ground(tmp_path: Path) -> None:
    grid = _grid(AFTER, 700_080.0)
    first, second = _raster(tmp_path / "a.tif", BEFORE), _raster(tmp_path / "b.tif", AFTER, grid)
    with pytest.raises(InputError, match=r"a\.tif and .*b\.tif share no ground"):
        stages.compare_maps(first, second, tmp_path / "c.tif")


def test_maps_of_other_classes_or_of_none(tmp_path: Path) -> None:
    first = _raster(tmp_path / "a.tif", BEFORE)
    second = _raster(tmp_path / "b.tif", AFTER, fingerprint="b")
    with pytest.raises(InputError, match="other classes than each other") as caught:
        stages.compare_maps(first, second, tmp_path / "c.tif")
    assert "Forest, Built-up, Water (nomenclature b)" in caught.value.items[1]
    sidecars(first)[0].unlink()
    with pytest.raises(InputError, match=r"a\.tif: does not say the names[\s\S]*--nomenclature"):
        stages.compare_maps(first, second, tmp_path / "c.tif")
    _raster(tmp_path / "b.tif", np.where(AFTER == 1, 7, AFTER).astype(np.uint8))
    _raster(tmp_path / "a.tif", BEFORE)
    with pytest.raises(InputError, match=r"b\.tif: holds the values 7, which are no classes"):
        stages.compare_maps(first, second, tmp_path / "c.tif")
    assert not (tmp_path / "c.tif").exists()


def test_what_would_overwrite_or_is_missing(tmp_path: Path) -> None:
    first, second = _raster(tmp_path / "a.tif", BEFORE), _raster(tmp_path / "b.tif", AFTER)
    with pytest.raises(SettingsError, match="is one of the maps"):
        stages.compare_maps(first, second, tmp_path / "." / "b.tif")
    with pytest.raises(SettingsError, match=r"its name ends in \.tif"):
        stages.compare_maps(first, second, tmp_path / "c.csv")
    with pytest.raises(SettingsError, match="needs both maps' confidence"):
        stages.compare_maps(first, second, tmp_path / "c.tif", min_confidence=50)


# A run


NOMENCLATURE = """
classes:
  - {name: Forest, covers: [FDC], color: "#109C69"}
  - {name: Built-up, covers: [EDF], color: "#DC1E1E"}
  - {name: Water, covers: [AEM], color: "#0000FF"}
"""


@pytest.fixture
def run(tmp_path: Path) -> stages.Run:
    """A run with the maps of two years of a place."""
    (tmp_path / "classes.yaml").write_text(NOMENCLATURE, "utf-8")
    for name in ("old", "new"):
        _raster(tmp_path / f"{name}.tif", BEFORE)  # its grid is all that is asked of it
    text = f"old,{tmp_path}/old.tif,,map,2005,hill\nnew,{tmp_path}/new.tif,,map,2010,hill\n"
    (tmp_path / "table.csv").write_text(TABLE + text, "utf-8")
    (tmp_path / "run.yaml").write_text(
        f"{{run: {tmp_path}/r, sheets: table.csv, nomenclature: classes.yaml}}", "utf-8"
    )
    opened = stages.Run(config.load(tmp_path / "run.yaml"))
    config.claim(opened.settings)
    for name, pixels in (("old", BEFORE), ("new", AFTER)):
        _raster(
            opened.paths.land_cover_map(name), pixels, fingerprint=opened.nomenclature.fingerprint
        )
    return opened


def test_a_run_compares_its_places(run: stages.Run) -> None:
    stages.change_map(run, "hill", "2005", "2010")
    np.testing.assert_array_equal(_pixels(run.paths.change_map("hill", 2005, 2010)), VALUES)
    areas = run.paths.change_areas("hill", 2005, 2010)
    assert areas.name == "hill.2005-2010.csv"
    assert len(_rows(areas)) == 7
    assert len(_rows(run.paths.change_balance("hill", 2005, 2010))) == 4


def test_a_run_takes_the_cleaned_maps_and_the_confidence_that_are_asked_for(
    run: stages.Run,
) -> None:
    cleaned = {"cleaning": {"majority_px": 3}, "changes": {"min_confidence": 50}}
    folder = run.settings.sheets.parent
    (folder / "more.yaml").write_text(json.dumps(cleaned), "utf-8")
    asked = stages.Run(config.load(folder / "run.yaml", folder / "more.yaml"))
    fingerprint = run.nomenclature.fingerprint
    for name in ("old", "new"):
        _raster(run.paths.cleaned_map(name), np.where(BEFORE == 2, 1, BEFORE), None, fingerprint)
        sure = np.full((3, 4), 80, np.uint8)
        sure[0, 0] = 49 if name == "new" else 50
        _raster(run.paths.confidence(name), sure)
    stages.change_map(asked, "hill", "2005", "2010")
    expected = [[255, 0, 0, 4], [0, 0, 4, 4], [255, 4, 4, 4]]
    assert _pixels(run.paths.change_map("hill", 2005, 2010)).tolist() == expected
    _raster(run.paths.confidence("new"), np.full((1, 4), 80, np.uint8))
    with pytest.raises(
        InputError, match=r"new\.confidence\.tif: has other pixels than the map"
    ) as wrong:
        stages.change_map(asked, "hill", "2005", "2010")
    assert wrong.value.items == (
        "confidence: 4 x 1 pixels of 20 x 10 from (700000, 4400000) in EPSG:25830",
        "map: 4 x 3 pixels of 20 x 10 from (700000, 4400000) in EPSG:25830",
    )


def test_the_report_has_the_largest_changes_and_the_balance(run: stages.Run) -> None:
    assert not evidence._changes(run.paths, run.sheets)  # not made yet
    stages.change_map(run, "hill", "2005", "2010")
    (tables,) = evidence._changes(run.paths, run.sheets)
    assert tables.area_ha == pytest.approx(0.2)
    assert tables.changed_share == pytest.approx(0.4)
    data = ReportData("r", NAMES, COLORS, 200.0, [], changes=[tables])
    page = re.sub(r"\s*<[^>]+>\s*", "|", render_report(data))
    said = re.sub(r"\|+", "|", page).replace("\u202f", " ")
    assert "|hill, 2005 to 2010|40.0 % of 0.20 ha that have a class in both years.|" in said
    assert "|Forest|Built-up|0.04|20.0 %|Built-up|Forest|0.02|10.0 %|" in said
    assert "|Built-up|0.04|0.08|0.06|0.02|0.04|" in said
    assert "|Changes|" not in re.sub(
        r"<[^>]+>", "|", render_report(dataclasses.replace(data, changes=[]))
    )
    none = ChangeTables("p", "2005", "2010", [], [])
    assert "No pixel has a class in both years." in render_report(
        dataclasses.replace(data, changes=[none])
    )


def test_time_of_change_maps_is_in_the_report(run: stages.Run) -> None:
    path = run.paths.benchmark("change_map", "hill.2005-2010")
    path.parent.mkdir(parents=True)
    path.write_text("s\tmax_rss\tcpu_time\n1.5\t200\t1\n", "utf-8")
    found = evidence.read_benchmarks(run.paths, ["old", "new"], (), ["hill.2005-2010"])
    assert [(job.rule, job.sheet, job.seconds) for job in found] == [
        ("change_map", "hill.2005-2010", 1.5)
    ]


def test_a_comparison_that_nobody_asked_for(run: stages.Run) -> None:
    with pytest.raises(SettingsError, match=r"hill, 2005 and 2017 are not[\s\S]*hill, 2005 and 20"):
        stages.change_map(run, "hill", "2005", "2017")


def test_all_places_that_do_not_lie_on_each_other_are_told_before_anything_is_mapped(
    run: stages.Run,
) -> None:
    check_places(run)
    folder = run.settings.sheets.parent
    _raster(folder / "new.tif", BEFORE, _grid(BEFORE, 700_003.0))
    with pytest.raises(InputError, match=r"sheet old \(2005\) and sheet new \(2010\) cannot be"):
        check_places(run)
    more = f"other,{folder}/old.tif,,map,2017,hill\n"
    with (folder / "table.csv").open("a") as table:
        table.write(more)
    with pytest.raises(InputError, match=r"2 changes cannot be mapped") as caught:
        check_places(stages.Run(run.settings))
    assert len(caught.value.items) == 6
    assert "shifted by 0.15 columns" in caught.value.items[3]


def test_maps_of_an_older_run_are_refused(run: stages.Run) -> None:
    _raster(run.paths.land_cover_map("new"), AFTER, fingerprint="of before")
    with pytest.raises(InputError, match="was made with another nomenclature"):
        stages.change_map(run, "hill", "2005", "2010")


def test_confidence_is_needed_to_ask_for_it(run: stages.Run) -> None:
    folder = run.settings.sheets.parent
    (folder / "more.yaml").write_text(
        "{mapping: {confidence: false}, changes: {min_confidence: 1}}", "utf-8"
    )
    with pytest.raises(SettingsError, match=r"changes\.min_confidence: needs mapping\.confidence"):
        config.load(folder / "run.yaml", folder / "more.yaml")


def test_the_command_compares_a_run_and_files(run: stages.Run) -> None:
    folder = run.settings.sheets.parent
    years = ["change-map", "--before", "2005", "--after", "2010"]
    runner = CliRunner()
    of_run = ["--config", str(folder / "run.yaml"), "--place", "hill"]
    assert runner.invoke(cli.app, [*years, *of_run]).exit_code == 0
    maps = [str(run.paths.land_cover_map(name)) for name in ("old", "new")]
    files = ["change-map", "--before", maps[0], "--after", maps[1]]
    out = ["--out", str(folder / "c.tif"), "--nomenclature", str(folder / "classes.yaml")]
    assert runner.invoke(cli.app, [*files, *out]).exit_code == 0
    made = run.paths.change_map("hill", 2005, 2010)
    assert made.with_suffix(".qml").read_bytes() == (folder / "c.qml").read_bytes()
    np.testing.assert_array_equal(_pixels(folder / "c.tif"), _pixels(made))
    of_files = ("--min-confidence", "99"), ("--before-confidence", maps[0]), out[2:]
    for wrong in (
        [*years, *of_run[:2]], [*years, *of_run, *out], files, [*files, *of_run[2:]],
        *([*years, *of_run, *option] for option in of_files),
        [*files, *out, "--before-confidence", maps[0], "--min-confidence", "9"],
        [*files, *out, "--before-confidence", maps[0], "--after-confidence", maps[1]],
    ):  # fmt: skip
        assert isinstance(runner.invoke(cli.app, wrong).exception, SettingsError), wrong


@pytest.mark.workflow
def test_a_dry_run_shows_a_job_for_each_comparison(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    rows = [
        f"s{number},{tmp_path}/s.tif,{tmp_path}/s.gpkg,{split},{year},{place}"
        for number, (split, year, place) in enumerate(
            [("train", 2005, "a"), ("map", 2010, "a"), ("map", 2017, "a"),
             ("validation", 2005, "b"), ("test", 2010, "")]
        )
    ]  # fmt: skip
    for name in ("s.tif", "s.gpkg"):
        (tmp_path / name).touch()
    (tmp_path / "table.csv").write_text(TABLE + "\n".join(rows) + "\n", "utf-8")
    (tmp_path / "classes.yaml").write_text(NOMENCLATURE, "utf-8")
    (tmp_path / "run.yaml").write_text(
        "{run: run/x, sheets: table.csv, nomenclature: classes.yaml, "
        "changes: {min_confidence: 50}, cleaning: {min_area_m2: 0}}",
        "utf-8",
    )
    snakemake = str(Path(sys.executable).parent / "snakemake")
    asked = ["--cores", "1", "--dry-run", "--configfile", "run.yaml"]
    command = [snakemake, "--snakefile", str(root / "Snakefile"), *asked]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    jobs = done.stdout.split("\nrule change_map:")[1:]
    inputs = [re.findall(r"input: (.*)", job)[0] for job in jobs]
    outputs = [re.findall(r"output: run/x/changes/(\S+),", job)[0] for job in jobs]
    assert sorted(outputs) == ["a.2005-2010.tif", "a.2005-2017.tif", "a.2010-2017.tif"]
    first = inputs[outputs.index("a.2005-2017.tif")]
    assert first.split(", ") == [
        f"run/x/maps/{name}{end}.tif" for end in ("", ".confidence") for name in ("s0", "s2")
    ]
