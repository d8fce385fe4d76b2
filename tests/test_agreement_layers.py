"""SIOSE's polygons on a map: counts, what is compared, lists and their layers."""

from __future__ import annotations

import json
import logging
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import shapely
from numpy.typing import NDArray
from pyproj import Geod
from shapely.geometry import box

from pipeline import agreement_layers, config, geotiff, siose, siose_shares, stages, tiling
from pipeline.class_rasters import NOMENCLATURE_TAG
from pipeline.compared_polygons import (
    COMPARED,
    ELSEWHERE,
    NOWHERE,
    REASONS,
    ComparedPolygons,
    changes,
    compare,
    shown,
    sizes,
)
from pipeline.errors import InputError, SettingsError
from pipeline.grid import PixelGrid, Window
from pipeline.polygon_agreement import AgreementCounts, from_json
from pipeline.proportions import Proportions
from pipeline.siose_shares import count_polygons
from pipeline.vectors import ClassMap

_ = 255
UTM = PixelGrid("EPSG:25830", 700_000.0, 4_400_000.0, 0.5, 0.5, 80, 60)


# --- counting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_counts_are_those_of_every_single_pixel(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(siose_shares, "WINDOW", 16)
    rng = np.random.default_rng(4)
    rows, cols = 40, 50
    grid = PixelGrid("EPSG:25830", 0.0, 0.0, 1.0, 1.0, cols, rows)
    # Rows of the table that are far from each other lie side by side.
    index = rng.choice(np.array([0, 1, 2, 90, 700, 701], np.uint32), (rows, cols))
    index[:16, :16] = 701  # a window of one polygon alone
    classes = rng.choice(np.array([0, 1, 2, _], np.uint8), (rows, cols))
    sure = rng.choice(np.array([0, 79, 80, 100, _], np.uint8), (rows, cols))
    judged = [Window(3, 5, 20, 12), Window(30, 20, 20, 20)]
    grounds = [[Window(0, 0, 50, 10)], [Window(0, 10, 7, 30), Window(9, 10, 41, 30)], []]
    source = ClassMap(
        grid, lambda window: classes[window.slices()], 3, lambda window: sure[window.slices()]
    )
    found = count_polygons(
        source, lambda window: index[window.slices()], 701, threads,
        min_confidence=80, judged=judged, grounds=grounds,
    )  # fmt: skip

    pixels, confident = np.zeros((702, 3), int), np.zeros((702, 3), int)
    unmapped, on_judged = np.zeros(702, int), np.zeros((702, 4), int)
    on_grounds = np.zeros((702, 3), int)
    values: dict[int, list[int]] = {}
    for row in range(rows):
        for col in range(cols):
            polygon, k = int(index[row, col]), int(classes[row, col])
            here = Window(col, row, 1, 1)
            if any(part.intersection(here) for part in judged):
                on_judged[polygon, min(k, 3)] += 1
            for number, parts in enumerate(grounds):
                on_grounds[polygon, number] += any(part.intersection(here) for part in parts)
            if k == _:
                unmapped[polygon] += 1
                continue
            pixels[polygon, k] += 1
            if sure[row, col] != _:
                values.setdefault(polygon, []).append(int(sure[row, col]))
                confident[polygon, k] += sure[row, col] >= 80
    np.testing.assert_array_equal(found.pixels, pixels)
    np.testing.assert_array_equal(found.unmapped, unmapped)
    np.testing.assert_array_equal(found.confident, confident)
    np.testing.assert_array_equal(found.judged, on_judged)
    np.testing.assert_array_equal(found.grounds, on_grounds)
    for polygon, known in values.items():
        assert found.confidence[polygon] == pytest.approx(np.mean(known), rel=1e-15)
    assert np.isnan(found.confidence[3])


def test_an_id_that_is_no_class_is_refused() -> None:
    grid = PixelGrid("EPSG:25830", 0.0, 0.0, 1.0, 1.0, 2, 1)
    source = ClassMap(grid, lambda window: np.array([[0, 7]], np.uint8), 3, what="map of hill")
    with pytest.raises(InputError, match="map of hill: has the id 7; its classes are 0 to 2"):
        count_polygons(source, lambda window: np.zeros((1, 2), np.uint32), 1)


# --- what is compared ----------------------------------------------------------------------------


def known(
    shares: list[list[float]], unmapped: list[float], reasons: list[str] | None = None
) -> Proportions:
    told = np.array(reasons or [""] * len(shares), object)
    return Proportions([], np.array(shares), np.array(unmapped), told, "")


def test_polygons_that_cannot_be_compared_say_why() -> None:
    half = [0.5, 0.5]
    polygons = [  # SIOSE, unmapped, reason, mapped, without a class, whole size; what comes of it
        (half, 0.0, "", [50, 50], 0, 100.0, "compared"),
        (half, 0.0, "the label is empty", [50, 50], 0, 100.0, "not interpreted"),
        ([0.0, 0.0], 1.0, "", [50, 50], 0, 100.0, "not interpreted"),
        ([0.45, 0.5], 1 - 0.95, "", [50, 50], 0, 100.0, "compared"),
        ([0.44, 0.5], 0.06, "", [50, 50], 0, 100.0, "partly in no class"),
        (half, 0.0, "", [45, 45], 0, 100.0, "compared"),
        (half, 0.0, "", [45, 44], 0, 100.0, "cut off"),
        (half, 0.0, "", [50, 40], 10, 100.0, "compared"),
        (half, 0.0, "", [50, 39], 11, 100.0, "not mapped"),
        (half, 0.0, "", [24, 1], 0, 25.0, "compared"),
        (half, 0.0, "", [24, 0], 0, 24.0, "too small"),
        (half, 0.0, "", [0, 0], 0, 24.0, "nowhere"),
    ]
    siose_shares_of, unmapped, reasons, mapped, bare, whole, expected = zip(*polygons, strict=True)
    none = np.zeros(len(polygons), bool)
    found = compare(
        known(list(siose_shares_of), list(unmapped), list(reasons)),
        np.array(mapped), np.array(bare), np.array(whole), none, none,
    )  # fmt: skip
    names = dict(enumerate(REASONS)) | {-1: "compared", NOWHERE: "nowhere"}
    assert [names[reason] for reason in found.reasons.tolist()] == list(expected)
    assert list(found.left_out.values()) == [0, 2, 1, 1, 1, 1]
    # Shares of what is in a class: 45 of 95 per cent.
    np.testing.assert_allclose(found.siose[3], [0.45 / 0.95, 0.5 / 0.95])
    differences = found.differences()
    assert np.isnan(differences[[1, 2, 4, 6, 8, 10, 11]]).all()
    np.testing.assert_allclose(differences[[0, 5, 7, 9]], [0, 0, 50 / 90 - 0.5, 0.46])


def test_each_polygon_is_compared_on_the_first_sheet_that_shows_nearly_all_of_it() -> None:
    here = np.array([[100, 0], [100, 0], [89, 0], [89, 0], [100, 0], [0, 0]])
    earlier, later = np.array([0, 1, 1, 0, 0, 1], bool), np.array([0, 0, 0, 1, 1, 1], bool)
    found = compare(
        known([[1.0, 0.0]] * 6, [0.0] * 6), here, np.zeros(6, int), np.full(6, 100.0),
        earlier, later,
    )  # fmt: skip
    elsewhere = REASONS.index(ELSEWHERE)
    expected = [COMPARED, elsewhere, elsewhere, elsewhere, COMPARED, NOWHERE]
    assert found.reasons.tolist() == expected
    assert {reason: count for reason, count in found.left_out.items() if count} == {ELSEWHERE: 3}
    unread = compare(
        known([[1.0, 0.0]], [0.0], ["the label is empty"]), here[:1], np.zeros(1, int),
        np.full(1, 100.0), np.array([True]), np.array([False]),
    )  # fmt: skip
    assert unread.reasons.tolist() == [elsewhere], "and so the reasons of sheets add up"


def test_a_polygon_is_shown_by_the_sheet_that_has_nine_tenths_of_it() -> None:
    # Blocks side by side are one ground; those of two sheets are not.
    left, right = [(0.0, 0.0, 50.0, 100.0), (50.0, 0.0, 100.0, 100.0)], [(100.0, 0.0, 200.0, 100.0)]
    bow_tie = shapely.Polygon([(120, 10), (140, 30), (140, 10), (120, 30)])
    polygons = [
        (box(45, 10, 55, 20), True),
        (box(91, 10, 101, 20), True),
        (box(90.9, 10, 101.1, 20), False),
        (box(89, 10, 111, 20), False),
        (box(99, 10, 109, 20), True),
        (box(98.9, 10, 108.9, 20), False),
        (None, False),
        (shapely.Polygon(), False),
        (bow_tie, True),
        (box(300, 10, 310, 20), False),
        (box(100, 200, 110, 210), False),
    ]
    shapes = np.array([shape for shape, _ in polygons], object)
    some = replace(known([[1.0]] * 11, [0.0] * 11), geometry=[shapes[:4], shapes[4:]])
    expected = [yes for _, yes in polygons]
    assert shown(some, [left, right]).tolist() == expected
    assert shown(some, [right]).tolist() == [*[False] * 4, True, *[False] * 3, True, False, False]
    assert shown(some, [left[:1]]).tolist() == [False] * 11
    assert not shown(some, []).any()


def test_only_what_siose_does_not_explain_is_a_change() -> None:
    siose_says = np.array([[0.7, 0.3, 0.0], [0.7, 0.3, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    mapped = np.array([[0.1, 0.9, 0.0], [0.7, 0.3, 0.0], [0.0, 0.4, 0.6], [0.0, 0.4, 0.6]])
    sure = np.array([[0.1, 0.8, 0.0], [0.7, 0.3, 0.0], [0.0, 0.35, 0.15], [0.0, 0.35, 0.15]])
    reasons = np.array([-1, -1, -1, 0])
    found = changes(ComparedPolygons(reasons, mapped, siose_says), sure)
    np.testing.assert_allclose(found.share, [0.5, 0.0, 0.5, np.nan])
    assert found.lost.tolist()[0:3:2] == [0, 0]
    assert found.won.tolist()[0:3:2] == [1, 1]
    assert found.candidates(0.5).tolist() == [0, 2]
    assert found.candidates(0.6).tolist() == []
    assert found.candidates(0.0).tolist() == [0, 2], "without any change there is no candidate"


def test_sizes_in_metres_and_in_degrees() -> None:
    square = np.array([box(700_000, 4_399_990, 700_010, 4_400_000), None], object)
    found = sizes([square[:1], square[1:]], UTM)
    assert found.pixels[0] == pytest.approx(400)
    assert found.area_m2[0] == pytest.approx(100)
    assert np.isnan(found.pixels[1])
    assert found.bounds == (700_000, 4_399_990, 700_010, 4_400_000)
    assert sizes([], UTM).bounds == (np.inf, np.inf, -np.inf, -np.inf)
    degrees = PixelGrid("EPSG:4258", -3.7, 40.4, 5e-6, 5e-6, 4000, 4000)
    west, south = -3.69, 40.39
    field = box(west, south, west + 0.001, south + 0.001)
    found = sizes([np.array([field], object)], degrees)
    assert found.pixels[0] == pytest.approx(200 * 200, rel=1e-6)
    area = abs(Geod(ellps="GRS80").geometry_area_perimeter(field)[0])
    assert found.area_m2[0] == pytest.approx(area, rel=1e-5)


def test_rows_are_read_in_the_order_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement_layers, "_ROWS", 3)
    path = tmp_path / "p.parquet"
    table = {
        "polygon_id": pa.array(range(10)),
        "label": [f"L{i}" for i in range(10)],
        "geometry": [bytes([i]) for i in range(10)],
    }
    pyarrow.parquet.write_table(pa.table(table), path)
    found = agreement_layers.read_rows(path, np.array([9, 0, 4, 3]))
    assert found["polygon_id"] == ["9", "0", "4", "3"]
    assert found["label"] == ["L9", "L0", "L4", "L3"]
    assert found["geometry"] == [b"\x09", b"\x00", b"\x04", b"\x03"]
    assert agreement_layers.read_rows(path, np.zeros(0, np.int64))["label"] == []


# --- a run ---------------------------------------------------------------------------------------

SHEET = "hill"
NOMENCLATURE = """
classes:
  - {name: forest, covers: [CNF], color: "#109C69"}
  - {name: crops & scrub, covers: [CHE], color: "#E6AA5A"}
  - {name: water, covers: [AEM], color: "#0000FF"}
"""
WRONG, DOUBTFUL, CUT, EMPTY, BARE, PARTLY, TRAINED = 30, 35, 0, 25, 47, 40, 5


@pytest.fixture(scope="module")
def province(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of 48 squares, each 70 % forest and 30 % crops on the map and in SIOSE.

    SIOSE says water of two of them: the map is sure of one (``WRONG``), and was trained on the
    other (``TRAINED``). Of ``DOUBTFUL`` SIOSE says 20 % less forest, but the map is not sure.
    """
    folder = tmp_path_factory.mktemp("agreement")
    rows, cols = np.indices((60, 80))
    index = (rows // 10 * 8 + cols // 10 + 1).astype(np.uint32)
    classes = np.where(rows % 10 < 7, 0, 1).astype(np.uint8)
    classes[index == BARE + 1] = _
    sure = np.full(classes.shape, 90, np.uint8)
    sure[index == DOUBTFUL + 1] = 79
    sure[classes == _] = _
    ortho = folder / "hill.tif"
    (folder / "classes.yaml").write_text(NOMENCLATURE, "utf-8")
    lines = f"sheet,orthophoto,siose,split\n{SHEET},{ortho},{ortho},test\n"
    (folder / "sheets.csv").write_text(lines, "utf-8")
    opened = run_of(folder)
    paths, names = opened.paths, opened.nomenclature.names
    tags = {NOMENCLATURE_TAG: opened.nomenclature.fingerprint}

    def write(path: Path, pixels: NDArray[Any], nodata: int, **how: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with geotiff.RasterWriter(path, UTM, str(pixels.dtype), nodata, **how) as raster:
            raster.write(UTM.window, pixels)

    write(paths.land_cover_map(SHEET), classes, _, tags=tags)
    write(paths.confidence(SHEET), sure, _)
    write(paths.polygon_index(SHEET), index, 0)
    # What cleaning has changed: the rest of a square whose map is all forest then.
    cleaned = np.where(index == DOUBTFUL + 1, 0, classes).astype(np.uint8)
    write(paths.cleaned_map(SHEET), cleaned, _, tags=tags)

    ground = (
        tiling.Ground.on(UTM, SHEET, Window(0, 0, 80, 25), "train"),
        tiling.Ground.on(UTM, SHEET, Window(0, 25, 80, 35), "test"),
    )
    paths.ground.parent.mkdir()
    plan = tiling.TilePlan((), ground, opened.nomenclature.fingerprint, 16)
    tiling.write_plan(plan, paths.tile_plan, paths.ground)

    shares = np.tile([0.7, 0.3, 0.0], (48, 1))
    shares[[WRONG, TRAINED]] = [0, 0, 1]
    shares[DOUBTFUL] = [0.5, 0.5, 0.0]
    unmapped = np.zeros(48)
    shares[PARTLY], unmapped[PARTLY] = [0.6, 0.3, 0.0], 0.1
    geometry = [box(*UTM.bounds_of(Window(i % 8 * 10, i // 8 * 10, 10, 10))) for i in range(48)]
    geometry[CUT] = box(UTM.left - 5, UTM.top - 5, UTM.left + 5, UTM.top)  # half on the sheet
    frame = geopandas.GeoDataFrame(
        {
            "polygon_id": [f"p{number:02}" for number in range(48)],
            "label": ["AEM" if i in (WRONG, TRAINED) else "70CNF_30CHE" for i in range(48)],
            **{f"share_{name}": shares[:, k] for k, name in enumerate(names)},
            "share_unmapped": unmapped,
            "source": "label",
            "reason": ["the label is empty" if i == EMPTY else "" for i in range(48)],
        },
        geometry=geometry,
        crs=UTM.crs,
    )
    paths.proportions(SHEET).parent.mkdir()
    siose.write_proportions(frame, paths.proportions(SHEET), opened.nomenclature.fingerprint)
    return folder


def run_of(folder: Path, **given: object) -> stages.Run:
    values = {
        "run": str(folder / "run"),
        "sheets": str(folder / "sheets.csv"),
        "nomenclature": str(folder / "classes.yaml"),
        **given,
    }
    return stages.Run(config.from_mapping(values, "test settings"))


def test_a_wrong_label_is_the_worst_polygon_and_the_only_candidate_on_test_ground(
    province: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(province)
    with caplog.at_level(logging.INFO):
        stages.polygon_agreement(run, SHEET)
    package = run.paths.polygon_agreement(SHEET)
    worst = geopandas.read_file(package, layer="worst").set_index("polygon_id")
    # Of the two that say water the second has learnt from SIOSE, and says so.
    assert worst.index.tolist() == [f"p{TRAINED:02}", f"p{WRONG}", f"p{DOUBTFUL}"]
    assert worst["split"].tolist() == ["train", "test", "test"]
    assert worst["difference"].tolist() == [1.0, 1.0, 0.2]
    row = worst.loc[f"p{WRONG}"]
    assert (row["label"], row["pixels"], row["area_m2"], row["area_ha"]) == ("AEM", 100, 25, 0.0025)
    assert (row["largest_siose"], row["largest_siose_share"]) == ("water", 1.0)
    assert (row["largest_mapped"], row["largest_mapped_share"]) == ("forest", 0.7)
    assert (row["siose"], row["mapped"]) == ("100 % water", "70 % forest, 30 % crops & scrub")
    assert row["mapped_crops & scrub"] == 0.3
    assert (row["siose_water"], row["siose_unmapped"], row["confidence"]) == (1.0, 0.0, 90.0)
    corner = (700_000 + 6 * 5, 4_400_000 - 4 * 5, 700_000 + 7 * 5, 4_400_000 - 3 * 5)
    assert row.geometry.bounds == corner

    candidates = geopandas.read_file(package, layer="candidates")
    assert candidates["polygon_id"].tolist() == [f"p{TRAINED:02}", f"p{WRONG}"]
    assert candidates[candidates["split"] == "test"]["polygon_id"].tolist() == [f"p{WRONG}"]
    assert candidates["from"].tolist() == ["water", "water"]
    assert candidates["to"].tolist() == ["forest", "forest"]
    assert candidates["changed_share"].tolist() == [1.0, 1.0]
    assert candidates["changed_m2"].tolist() == [25.0, 25.0]
    assert "2 update candidates" in caplog.text


def test_counts_are_of_whole_polygons_on_test_ground(province: Path) -> None:
    run = run_of(province)
    stages.polygon_agreement(run, SHEET)
    path = run.paths.polygon_agreement_counts(SHEET)
    counts = from_json(path.read_text("utf-8"), str(path))
    # The third row of squares lies half on test ground; the last three are wholly on it.
    left_out = {"not interpreted": 1, "partly in no class": 1, "cut off": 8, "not mapped": 1}
    assert dict(counts.left_out) == {ELSEWHERE: 0, **left_out, "too small": 0}
    assert counts.candidate_splits == {"train": 1, "test": 1}
    assert counts.polygons.tolist() == [21, 20]
    found = counts.statistics()
    assert found.difference == pytest.approx((1.0 + 0.2) / 21)
    np.testing.assert_allclose(found.bias * 21, [0.7 + 0.2, 0.3 - 0.2, -1.0])
    assert counts.searched == 44
    assert [row.polygon_id for row in counts.worst][:2] == [f"p{TRAINED:02}", f"p{WRONG}"]
    row = counts.candidates[1]
    assert (row.sheet, row.polygon_id, row.split) == (SHEET, f"p{WRONG}", "test")
    assert (row.from_class, row.to_class) == ("water", "forest")
    assert (counts.candidate_count, counts.candidate_m2) == (2, 50.0)
    assert (row.longitude, row.latitude) == pytest.approx((-0.666, 39.726), abs=1e-3)


def test_layers_and_counts_are_the_same_bytes_for_any_number_of_threads(province: Path) -> None:
    run = run_of(province)
    paths = run.paths.polygon_agreement(SHEET), run.paths.polygon_agreement_counts(SHEET)
    found = []
    for threads in (1, 4):
        stages.polygon_agreement(run, SHEET, threads)
        found.append([path.read_bytes() for path in paths])
    assert found[0] == found[1]


def test_as_many_of_the_worst_as_asked_for_and_a_lower_bar_for_changes(province: Path) -> None:
    limits = {"worst_polygons": 1, "min_confidence": 79, "min_change": 0.2}
    run = run_of(province, evaluation=limits)
    stages.polygon_agreement(run, SHEET)
    package = run.paths.polygon_agreement(SHEET)
    assert len(geopandas.read_file(package, layer="worst")) == 1
    candidates = geopandas.read_file(package, layer="candidates")
    assert candidates["polygon_id"].tolist()[2:] == [f"p{DOUBTFUL}"]
    assert candidates.iloc[2][["from", "to"]].tolist() == ["crops & scrub", "forest"]
    assert candidates.iloc[2]["changed_share"] == pytest.approx(0.2)


def test_what_cleaning_has_changed_is_not_sure(province: Path) -> None:
    limits = {"min_confidence": 50, "min_change": 0.2}
    run = run_of(province, evaluation=limits, cleaning={"majority_px": 3})
    stages.polygon_agreement(run, SHEET)
    package = run.paths.polygon_agreement(SHEET)
    worst = geopandas.read_file(package, layer="worst").set_index("polygon_id")
    assert worst.loc[f"p{DOUBTFUL}", "mapped_forest"] == 1.0
    candidates = geopandas.read_file(package, layer="candidates").set_index("polygon_id")
    # 70 % are surely forest; of the 30 % that became forest nobody is sure.
    assert candidates.loc[f"p{DOUBTFUL}", "changed_share"] == pytest.approx(0.2)


def test_without_confidence_there_are_no_candidates_and_it_is_said(
    province: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(province, mapping={"confidence": False})
    with caplog.at_level(logging.INFO):
        stages.polygon_agreement(run, SHEET)
    package = run.paths.polygon_agreement(SHEET)
    assert len(geopandas.read_file(package, layer="candidates")) == 0
    assert geopandas.read_file(package, layer="worst")["confidence"].isna().all()
    told = json.loads(run.paths.polygon_agreement_counts(SHEET).read_text("utf-8"))
    assert "mapping.confidence" in told["no_search"]
    assert (told["searched"], told["candidate_count"]) == (0, 0)
    assert "mapping.confidence" in caplog.text


def test_a_job_that_ends_by_an_error_leaves_nothing(
    province: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(province)
    package, counts = run.paths.polygon_agreement(SHEET), run.paths.polygon_agreement_counts(SHEET)
    for path in (package, counts):
        path.unlink(missing_ok=True)

    def broken(*_given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(agreement_layers, "candidate_style", broken)
    with pytest.raises(KeyboardInterrupt):
        stages.polygon_agreement(run, SHEET)
    assert not list(package.parent.iterdir())


def test_layers_open_styled_in_qgis(province: Path) -> None:
    run = run_of(province)
    stages.polygon_agreement(run, SHEET)
    package = run.paths.polygon_agreement(SHEET)
    with closing(sqlite3.connect(package)) as base:
        styles = dict(base.execute("SELECT f_table_name, styleQML FROM layer_styles").fetchall())
    assert list(styles) == ["worst", "candidates"]
    assert '<range lower="0.75" upper="1.0" label="75 to 100 % differs"' in styles["worst"]
    python = Path("/usr/bin/python3")
    probe = [str(python), "-c", "import qgis.core"]
    if not python.exists() or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no QGIS here: apt-get install python3-qgis")
    session = Path(__file__).with_name("qgis_session.py")
    asked = {"layers": [f"{package}|layername={name}" for name in styles], "projects": []}
    answer = subprocess.run(
        [str(python), str(session)], input=json.dumps(asked), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    worst, candidates = json.loads(answer.stdout)["layers"].values()
    assert (worst["renderer"], worst["features"]) == ("graduatedSymbol", 3)
    assert candidates["classes"]["crops & scrub"] == ["now crops & scrub", "#e6aa5a"]
    assert (candidates["features"], candidates["crs"]) == (2, "EPSG:25830")


def test_a_sheet_without_labels_or_of_no_table_is_refused_by_name(province: Path) -> None:
    run = run_of(province)
    run.sheets["flat"] = replace(run.sheets[SHEET], name="flat", split="map")
    with pytest.raises(SettingsError, match="sheet flat: has no labels"):
        stages.polygon_agreement(run, "flat")
    with pytest.raises(SettingsError, match="there is no sheet 'moon'"):
        stages.polygon_agreement(run, "moon")


# --- sheets that overlap -------------------------------------------------------------------------

SQUARES = {
    # First column of each polygon and the one behind the last; a ends at 80, b begins at 60.
    "left": (20, 40),
    "seam": (50, 90),  # three quarters on each: no sheet shows it
    "nearly": (62, 82),  # 90 % on a, all on b
    "edge": (70, 90),  # half on a, all on b
    "right": (100, 120),
}


@pytest.fixture
def coast(tmp_path: Path) -> Callable[..., stages.Run]:
    """Makes runs of two sheets, ``a`` of columns 0 to 79 and ``b`` of columns 60 to 139.

    All is mapped as forest with certainty, and all polygons are water in SIOSE.
    """

    def made(splits: tuple[str, str] = ("test", "test"), years: tuple[str, str] = ("", "")) -> Any:
        (tmp_path / "classes.yaml").write_text(NOMENCLATURE, "utf-8")
        lines = [
            f"{name},{tmp_path}/{name}.tif,{tmp_path}/s.gpkg,{split},{year},{name}\n"
            for name, split, year in zip("ab", splits, years, strict=True)
        ]
        head = "sheet,orthophoto,siose,split,year,place\n"
        (tmp_path / "sheets.csv").write_text(head + "".join(lines), "utf-8")
        run = run_of(tmp_path)
        paths, tags = run.paths, {NOMENCLATURE_TAG: run.nomenclature.fingerprint}
        index = np.zeros((50, 140), np.uint32)
        for number, (first, end) in enumerate(SQUARES.values()):
            index[10 * number : 10 * number + 10, first:end] = number + 1
        grids = {
            name: PixelGrid(UTM.crs, UTM.left + 0.5 * first, UTM.top, 0.5, 0.5, 80, 50)
            for name, first in (("a", 0), ("b", 60))
        }
        shapes = [
            box(*grids["a"].bounds_of(Window(first, 10 * number, end - first, 10)))
            for number, (first, end) in enumerate(SQUARES.values())
        ]
        ground = []
        for name, split in zip("ab", splits, strict=True):
            grid, first = grids[name], 0 if name == "a" else 60
            ground.append(tiling.Ground.on(grid, name, grid.window, split))
            part = index[:, first : first + 80]
            there = [k for k in range(len(shapes)) if (part == k + 1).any()]
            own = np.zeros_like(part)  # rows of the sheet's own table
            for row, k in enumerate(there, start=1):
                own[part == k + 1] = row
            rasters: tuple[tuple[Path, Any, int, dict[str, Any]], ...] = (
                (paths.land_cover_map(name), np.zeros((50, 80), np.uint8), _, {"tags": tags}),
                (paths.confidence(name), np.full((50, 80), 90, np.uint8), _, {}),
                (paths.polygon_index(name), own, 0, {}),
            )
            for path, pixels, nodata, more in rasters:
                path.parent.mkdir(parents=True, exist_ok=True)
                with geotiff.RasterWriter(path, grid, str(pixels.dtype), nodata, **more) as raster:
                    raster.write(grid.window, pixels)
            frame = geopandas.GeoDataFrame(
                {
                    "polygon_id": [list(SQUARES)[k] for k in there],
                    "label": "AEM",
                    **{f"share_{c}": float(c == "water") for c in run.nomenclature.names},
                    "share_unmapped": 0.0,
                    "source": "label",
                    "reason": "",
                },
                geometry=[shapes[k] for k in there],
                crs=UTM.crs,
            )
            paths.proportions(name).parent.mkdir(exist_ok=True)
            siose.write_proportions(frame, paths.proportions(name), run.nomenclature.fingerprint)
        paths.ground.parent.mkdir(exist_ok=True)
        plan = tiling.TilePlan((), tuple(ground), run.nomenclature.fingerprint, 16)
        tiling.write_plan(plan, paths.tile_plan, paths.ground)
        for name in "ab":
            stages.polygon_agreement(run, name)
        return run

    return made


def listed_on(run: stages.Run, sheet: str) -> tuple[set[str], AgreementCounts]:
    """Polygons of the layers, which have to be the same in both, and the counts."""
    package = run.paths.polygon_agreement(sheet)
    worst, candidates = (
        geopandas.read_file(package, layer=layer)["polygon_id"].tolist()
        for layer in ("worst", "candidates")
    )
    assert sorted(worst) == sorted(candidates)
    text = run.paths.polygon_agreement_counts(sheet).read_text("utf-8")
    counts = from_json(text, sheet)
    assert counts.searched == counts.candidate_count == len(counts.worst) == len(worst)
    assert counts.candidate_m2 == sum(row.changed_m2 for row in counts.candidates)
    return set(worst), counts


def reasons_of(counts: AgreementCounts) -> dict[str, int]:
    return {reason: polygons for reason, polygons in counts.left_out.items() if polygons}


def test_a_polygon_of_overlapping_sheets_is_compared_and_listed_once(
    coast: Callable[..., stages.Run],
) -> None:
    run = coast()
    on_a, counts_a = listed_on(run, "a")
    on_b, counts_b = listed_on(run, "b")
    assert (on_a, on_b) == ({"left", "nearly"}, {"edge", "right"})
    assert counts_a.polygons.tolist() == counts_b.polygons.tolist() == [2, 0]
    # Whole on b across the edge of a: neither sheet lost it.
    assert reasons_of(counts_a) == {ELSEWHERE: 1, "cut off": 1}
    assert reasons_of(counts_b) == {ELSEWHERE: 1, "cut off": 1}
    assert (counts_a + counts_b).candidate_splits == {"test": 4}


def test_a_year_later_is_another_time(coast: Callable[..., stages.Run]) -> None:
    run = coast(years=("2017", "2021"))
    assert listed_on(run, "a")[0] == {"left", "nearly"}
    on_b, counts = listed_on(run, "b")
    assert on_b == {"nearly", "edge", "right"}
    assert reasons_of(counts) == {"cut off": 1}


def test_lists_ask_all_sheets_with_labels_and_counts_those_of_test(
    coast: Callable[..., stages.Run],
) -> None:
    run = coast(splits=("train", "test"))
    on_a, counts_a = listed_on(run, "a")
    on_b, counts_b = listed_on(run, "b")
    assert (on_a, on_b) == ({"left", "nearly"}, {"edge", "right"})
    assert counts_a.polygons.tolist() == [0, 0]
    # The numbers of test ground do not miss what training ground shows too.
    assert counts_b.polygons.tolist() == [3, 0]
    assert reasons_of(counts_b) == {"cut off": 1}
    assert (counts_a + counts_b).candidate_splits == {"train": 2, "test": 2}
