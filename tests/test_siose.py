"""SIOSE bases: shares are the table's, whatever a base is like; what is odd is said, all of it."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from shapely import box

from pipeline import geotiff, labels, mending, siose
from pipeline.errors import InputError
from pipeline.grid import PixelGrid
from pipeline.nomenclature import Nomenclature, TrainingClass
from pipeline.sections import LabelSettings, SioseSettings
from tests.siose_fixtures import CLASSES, LAYER, VALUES, Parcel, pure, write_base

UTM = "EPSG:25830"
X, Y = 700_000.0, 4_400_000.0
GRID = PixelGrid(UTM, X, Y, 0.5, 0.5, 200, 200)  # 100 m x 100 m south-east of (X, Y)
IGNORE_ALL = SioseSettings(unknown_covers="ignore", off_percentages="ignore")


def square(column: int, row: int = 0, side: float = 10.0) -> shapely.Polygon:
    """A square of the sheet, counted from its upper left corner."""
    left, top = X + column * side, Y - row * side
    return box(left, top - side, left + side, top)


def resolved(
    path: Path,
    settings: SioseSettings | None = None,
    nomenclature: Nomenclature = CLASSES,
    grid: PixelGrid = GRID,
) -> tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]:
    base = siose.open_base(path)
    return siose.class_proportions(
        base,
        geotiff.bounds_in(grid, base.crs),
        grid.bounds,
        grid.crs,
        nomenclature,
        settings or SioseSettings(),
    )


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes a base in EPSG:4258 of parcels in EPSG:25830."""

    def write(*parcels: Parcel, **options: Any) -> Path:
        return write_base(tmp_path / "base.gpkg", parcels, **{"parcels_crs": UTM, **options})

    return write


def shares_of(frame: geopandas.GeoDataFrame) -> dict[str, list[float]]:
    names = [*CLASSES.names, "unmapped"]
    return {
        polygon: [round(float(row[f"share_{n}"]), 6) for n in names]
        for polygon, row in zip(frame["polygon_id"], frame.to_dict("records"), strict=True)
    }


# Shares


def test_shares_are_the_tables_and_covers_of_one_class_add_up(written: Callable[..., Path]) -> None:
    path = written(
        Parcel("a", "60EDF_40SNE", square(0), [(101, "60EDF", 60.25), (121, "40SNE", 39.75)]),
        Parcel(
            "b",
            "40PAV_30EDF_30CNF",
            square(1),
            [(104, "PAV", 40.0), (101, "EDF", 15.0), (101, "EDF", 15.0), (316, "CNF", 30.0)],
        ),
        Parcel("c", "70SNE_30AMO", square(2), [(121, "SNE", 70.0), (523, "AMO", 30.0)]),
    )
    frame, odd = resolved(path)
    assert shares_of(frame) == {
        "a": [0.6025, 0.3975, 0, 0],
        "b": [0.7, 0, 0.3, 0],
        "c": [0, 0.7, 0, 0.3],
    }
    assert frame["reason"].tolist() == ["", "", ""]
    assert len(odd) == 0


def test_polygons_come_in_the_order_of_their_fid_and_only_from_the_sheet(
    written: Callable[..., Path],
) -> None:
    order = [7, 3, 9, 0, 5, 1, 8, 2, 6, 4]
    far = [pure(f"far{i}", "EDF", 101, square(i + 40)) for i in range(5)]
    near = [pure(f"near{i}", "EDF", 101, square(i)) for i in order]
    mixed = [parcel for pair in zip(near, far + far, strict=True) for parcel in pair]
    frame, _ = resolved(written(*mixed))
    assert frame["polygon_id"].tolist() == [f"near{i}" for i in order]


@pytest.mark.parametrize(
    ("base_crs", "sheet_crs", "x", "y"),
    [
        ("EPSG:4258", "EPSG:25830", 700_000.0, 4_400_000.0),
        ("EPSG:4326", "EPSG:32640", 352_000.0, 2_790_000.0),
        ("EPSG:25830", "EPSG:25830", 700_000.0, 4_400_000.0),
        ("EPSG:4258", "EPSG:25829", 700_000.0, 4_400_000.0),
    ],
)
def test_polygons_are_reprojected_to_the_sheet(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    base_crs: str,
    sheet_crs: str,
    x: float,
    y: float,
) -> None:
    caplog.set_level(logging.INFO)
    ground = box(x + 3.25, y - 20.5, x + 17.0, y - 4.75)
    path = write_base(
        tmp_path / "b.gpkg", [pure("a", "EDF", 101, ground)], base_crs, parcels_crs=sheet_crs
    )
    frame, _ = resolved(path, grid=PixelGrid(sheet_crs, x, y, 0.5, 0.5, 100, 100))
    assert frame.crs == sheet_crs
    assert shapely.hausdorff_distance(frame.geometry.iloc[0], ground) < 1e-6
    said = f"polygons reprojected from {base_crs} to {sheet_crs}"
    assert (said in caplog.text) == (base_crs != sheet_crs)


def test_the_label_serves_where_the_table_has_no_rows(written: Callable[..., Path]) -> None:
    frame, odd = resolved(
        written(
            Parcel("a", "66PAV_34CNFpl", square(0)),
            Parcel("b", "SNE", square(1)),
            pure("c", "EDF", 101, square(2)),
        )
    )
    assert shares_of(frame) == {"a": [0.66, 0, 0.34, 0], "b": [0, 1, 0, 0], "c": [1, 0, 0, 0]}
    assert odd[["kind", "polygon_id"]].to_numpy().tolist() == [["no_rows", "a"], ["no_rows", "b"]]


def test_a_label_that_disagrees_is_said_and_the_table_wins(
    written: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    frame, odd = resolved(
        written(
            Parcel("a", "70EDF_30SNE", square(0), [(101, "EDF", 30.0), (121, "SNE", 70.0)]),
            Parcel("b", "70EDF_30SNE", square(1), [(101, "EDF", 69.6), (121, "SNE", 30.4)]),
        )
    )
    assert shares_of(frame)["a"] == [0.3, 0.7, 0, 0]
    assert odd[["kind", "polygon_id"]].to_numpy().tolist() == [["disagreement", "a"]]
    assert "label 70EDF_30SNE against table 30EDF_70SNE" in odd["text"].iloc[0]
    assert "1 polygons have a label that disagrees with the table" in caplog.text


def test_what_nobody_interpreted_has_a_reason(
    written: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    frame, odd = resolved(
        written(
            Parcel("null", None, square(0)),
            Parcel("empty", "  ", square(1)),
            Parcel("left over", "", square(2), [(101, "EDF", 100.0)]),
            pure("unknown", "DSC", 999, square(3)),
            Parcel("unknown by label", "DSC", square(4)),
            pure("ignored", "AMO", 523, square(5)),
            Parcel("part", "70SNE_30DSC", square(6), [(121, "SNE", 70.0), (999, "DSC", 30.0)]),
        )
    )
    assert dict(zip(frame["polygon_id"], frame["reason"], strict=True)) == {
        "null": "empty_label",
        "empty": "empty_label",
        "left over": "empty_label",
        "unknown": "unknown",
        "unknown by label": "unknown",
        "ignored": "unmapped",
        "part": "",
    }
    assert shares_of(frame)["part"] == [0, 0.7, 0, 0.3]
    assert shares_of(frame)["left over"] == [0, 0, 0, 0]
    assert shares_of(frame)["unknown"] == [0, 0, 0, 1]
    assert odd[["kind", "polygon_id"]].to_numpy().tolist() == [
        ["unlabelled", "left over"],
        ["no_rows", "unknown by label"],
    ]
    assert "empty label and are not used, though the table has rows" in caplog.text


def test_aliases_hold_in_label_and_table(written: Callable[..., Path]) -> None:
    frame, _ = resolved(
        written(
            Parcel("a", "60PIN_40SNE", square(0)),
            Parcel("b", "PIN", square(1), [(None, "PIN", 100.0)]),
            Parcel("c", "CNF", square(2), [(None, "CONIF", 100.0)]),
        )
    )
    assert shares_of(frame) == {"a": [0, 0.4, 0.6, 0], "b": [0, 0, 1, 0], "c": [0, 0, 1, 0]}


def test_covers_by_their_abbreviation_alone(written: Callable[..., Path]) -> None:
    """CODE_ABREV carries the percentage where a polygon has several covers."""
    parcel = Parcel("a", "70SNE_30CNFpl", square(0), [(121, "70SNE", 70.0), (316, "30CNFpl", 30.0)])
    frame, odd = resolved(written(parcel, leave_out=["ID_COBERTURA"]))
    assert shares_of(frame) == {"a": [0, 0.7, 0.3, 0]}
    assert len(odd) == 0


def test_numbers_may_be_text_with_a_decimal_comma(written: Callable[..., Path]) -> None:
    path = written(Parcel("a", "70SNE_30EDF", square(0), [("121", "", "70,5"), (101.0, "", 29.5)]))
    assert shares_of(resolved(path)[0]) == {"a": [0.295, 0.705, 0, 0]}


# What a base may be like


@pytest.mark.parametrize("lower", [{VALUES}, {LAYER}, {VALUES, LAYER}])
def test_column_names_in_lower_case(written: Callable[..., Path], lower: set[str]) -> None:
    frame, _ = resolved(written(pure("a", "EDF", 101, square(0)), lower=lower))
    assert shares_of(frame) == {"a": [1, 0, 0, 0]}


def test_a_table_that_is_not_registered_is_found(written: Callable[..., Path]) -> None:
    path = written(pure("a", "EDF", 101, square(0)), registered=False)
    assert shares_of(resolved(path)[0]) == {"a": [1, 0, 0, 0]}


def test_the_bases_own_codelist_wins(written: Callable[..., Path]) -> None:
    path = written(
        Parcel("a", "EDF", square(0), [(7, "EDF", 100.0)]),
        Parcel("b", "CNF", square(1)),
        codelist=[(7, "EDF", "Edificios"), (101, "XYZ", "another"), (121, "sne", "Suelo")],
    )
    base = siose.open_base(path)
    ids = {cover.label: cover.id for cover in base.codelist}
    assert (ids["EDF"], ids["XYZ"], ids["SNE"]) == (7, 101, 121)
    assert ids["CNF"] == 316  # not in the base's list: SIOSE AR's own
    assert len(ids) == len(base.codelist) == len({cover.id for cover in base.codelist})
    assert shares_of(resolved(path)[0]) == {"a": [1, 0, 0, 0], "b": [0, 0, 1, 0]}


def test_a_base_without_codelist_has_the_published_one(written: Callable[..., Path]) -> None:
    path = written(pure("a", "EDF", 101, square(0)), codelist=None)
    assert len(siose.open_base(path).codelist) == 62
    assert shares_of(resolved(path)[0]) == {"a": [1, 0, 0, 0]}


def test_a_codelist_whose_ids_are_no_numbers(written: Callable[..., Path]) -> None:
    path = written(pure("a", "EDF", 101, square(0)), codelist=[("uno", "EDF", "")])
    with pytest.raises(InputError, match="ID_COBERTURA 'uno' of EDF is not a number"):
        siose.open_base(path)


def test_several_polygons_of_one_id_share_its_rows(
    written: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    frame, odd = resolved(
        written(
            pure("a", "EDF", 101, square(0)),
            Parcel("a", "EDF", square(4)),
            pure("b", "SNE", 121, square(1)),
        )
    )
    assert frame["share_built"].tolist() == [1, 1, 0]
    assert odd["kind"].tolist() == ["duplicate", "duplicate"]
    assert "2 polygons share their ID_POLYGON" in caplog.text


def test_a_polygon_without_id_has_its_label(written: Callable[..., Path]) -> None:
    frame, _ = resolved(
        written(Parcel(None, "EDF", square(0), [(121, "SNE", 100.0)]), Parcel("", "CNF", square(1)))
    )
    assert frame["share_built"].tolist() == [1, 0]
    assert frame["share_forest"].tolist() == [0, 1]


def test_multipolygons_are_one_row(written: Callable[..., Path]) -> None:
    both = shapely.MultiPolygon([square(0), square(3)])
    frame, _ = resolved(written(pure("a", "EDF", 101, both), pure("b", "SNE", 121, square(1))))
    assert frame["polygon_id"].tolist() == ["a", "b"]
    assert frame.geometry.iloc[0].area == pytest.approx(200, rel=1e-6)


def test_what_is_no_polygon_is_made_one_or_left_out(
    written: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    mixed = shapely.GeometryCollection([square(3), shapely.LineString([(X, Y), (X + 5, Y - 5)])])
    frame, odd = resolved(
        written(
            pure("mixed", "EDF", 101, mixed),
            pure("line", "EDF", 101, shapely.LineString([(X, Y), (X + 5, Y - 5)])),
            Parcel("null", "EDF", None),
            Parcel("empty", "EDF", shapely.Polygon()),
            pure("sound", "EDF", 101, square(7)),
        )
    )
    assert frame["polygon_id"].tolist() == ["mixed", "sound"]
    assert set(frame.geom_type) <= {"Polygon", "MultiPolygon"}
    assert frame.geometry.area.tolist() == pytest.approx([100, 100], rel=1e-5)
    assert odd[["kind", "polygon_id"]].to_numpy().tolist() == [["repaired", "mixed"]]
    assert odd["text"].iloc[0] == "is a GeometryCollection of 1 Polygon, 1 LineString; repaired"
    assert "1 polygons had invalid geometry and were repaired" in caplog.text
    assert "1 polygons of" in caplog.text
    assert "have no area, and are left out: line" in caplog.text


@pytest.mark.parametrize("seed", range(200))
def test_an_outline_that_crosses_itself_burns_as_if_it_were_repaired(seed: int) -> None:
    """So it need not be repaired before, which takes longer than all else of a sheet."""
    rng = np.random.default_rng(seed)
    shape = shapely.Polygon(rng.uniform((1, -30), (30, -1), (rng.integers(4, 12), 2)))
    grid = PixelGrid(UTM, 0.0, 0.0, 1.0, 1.0, 32, 32)

    def burnt(geometry: shapely.Geometry) -> np.ndarray[Any, Any]:
        proportions = siose.Proportions(
            [np.array([geometry], object)], np.ones((1, 1)), np.zeros(1),
            np.array([""], object), "x",
        )  # fmt: skip
        return labels.burn(labels.label_shapes(proportions, grid, LabelSettings()), grid.window)

    (repaired,) = mending.mended(np.array([shape], object))
    np.testing.assert_array_equal(burnt(shape), burnt(repaired))
    assert burnt(shape).any()


def test_parts_on_the_same_ground_are_one(written: Callable[..., Path]) -> None:
    """Burnt one by one they would fill it, and burnt together leave it empty."""
    twice = shapely.MultiPolygon([square(0), square(0), square(2)])
    frame, odd = resolved(written(pure("a", "EDF", 101, twice)))
    assert frame.geometry.area.tolist() == pytest.approx([200], rel=1e-5)
    assert odd["kind"].tolist() == ["repaired"]


# Mistakes that stop a run


def test_unknown_covers_are_listed_with_every_polygon(written: Callable[..., Path]) -> None:
    parcels = [
        Parcel(f"bad{i}", "60XYZ_40EDF", square(i), [(777, "XYZ", 60.0), (101, "EDF", 40.0)])
        for i in range(5)
    ]
    parcels += [Parcel("label", "60QQQ_40WWW", square(6)), pure("good", "EDF", 101, square(7))]
    path = written(*parcels)
    with pytest.raises(siose.PolygonError) as caught:
        resolved(path)
    message = str(caught.value)
    assert caught.value.what.startswith("6 polygons carry a cover")
    for column in range(5):
        place = f"bad{column}  at {X + column * 10 + 5:.0f}, {Y - 5:.0f} (EPSG:25830)"
        assert f"{place}: 'XYZ' in 60XYZ_40EDF" in message
    assert "'QQQ' in 60QQQ_40WWW" in message
    assert "'WWW' in 60QQQ_40WWW" in message
    assert "good" not in message
    assert "siose.unknown_covers: ignore" in message
    assert caught.value.problems["polygon_id"].nunique() == 6
    assert caught.value.problems.crs == UTM

    frame, odd = resolved(path, IGNORE_ALL)
    shares = shares_of(frame)
    assert shares["bad0"] == [0.4, 0, 0, 0.6]
    assert shares["label"] == [0, 0, 0, 1]
    assert frame["reason"].tolist() == [""] * 5 + ["unmapped", ""]
    assert len(odd) == 7


def test_covers_that_no_class_gathers_are_unknown_too(written: Callable[..., Path]) -> None:
    path = written(pure("a", "EDF", 101, square(0)), pure("b", "CNF", 316, square(1)))
    two = Nomenclature(
        (TrainingClass("built", ("EDF",), "#C00000"), TrainingClass("bare", ("SNE",), "#E0C080"))
    )
    with pytest.raises(siose.PolygonError, match="'CNF' in CNF"):
        resolved(path, nomenclature=two)


@pytest.mark.parametrize(
    ("label", "values", "said"),
    [
        ("60EDF_30SNE", [(101, "", 60.0), (121, "", 30.0)], "60EDF_30SNE sums to 90 %"),
        ("60EDF_30SNE", [], "60EDF_30SNE: it sums to 90 %"),
        ("60EDF_60SNE", [], "it sums to 120 %"),
        ("A(60EDF_40UDS(50SNE_20CNF))", [], "UDS in A sums to 70 %"),
        ("EDF", [(101, "EDF", -5.0), (101, "EDF", 105.0)], "-5 % of EDF in 'EDF'"),
        ("EDF", [(101, "EDF", None)], "no number of EDF in 'EDF'"),
        ("EDF", [(101, "EDF", "much")], "no number of EDF in 'EDF'"),
        ("EDF", [(101, "EDF", float("inf"))], "no number of EDF in 'EDF'"),
    ],
)
def test_percentages_that_do_not_sum_to_100(
    written: Callable[..., Path], label: str, values: list[tuple[int, str, object]], said: str
) -> None:
    path = written(Parcel("bad", label, square(0), values), pure("good", "EDF", 101, square(1)))
    with pytest.raises(siose.PolygonError) as caught:
        resolved(path)
    assert caught.value.what.startswith("1 polygons have percentages")
    assert said in str(caught.value)
    assert "siose.off_percentages: ignore" in str(caught.value)
    frame, odd = resolved(path, IGNORE_ALL)
    assert frame["polygon_id"].tolist() == ["bad", "good"]
    assert set(odd["kind"]) == {"percentage"}
    assert (frame[["share_built", "share_bare", "share_forest"]].to_numpy() >= 0).all()


def test_percentages_may_miss_100_by_rounding(written: Callable[..., Path]) -> None:
    frame, odd = resolved(
        written(
            Parcel("a", "33EDF_33SNE_33CNF", square(0)),
            Parcel("b", "EDF", square(1), [(101, "", 33.33), (104, "", 33.33), (101, "", 33.33)]),
        )
    )
    # The table is used as it is; a label's rounding belongs to its covers.
    third = round(1 / 3, 6)
    assert shares_of(frame) == {"a": [third, third, third, 0], "b": [0.9999, 0, 0, 0]}
    assert "percentage" not in set(odd["kind"])


def test_a_label_that_cannot_be_read_stops_unless_told(written: Callable[..., Path]) -> None:
    path = written(
        Parcel("a", "60EDF_40", square(0)),
        Parcel("b", "70EDF 30SNE", square(1), [(101, "", 70.0), (121, "", 30.0)]),
        pure("c", "XYZ", 888, square(2)),
    )
    with pytest.raises(siose.PolygonError) as caught:
        resolved(path)
    message = str(caught.value)
    assert "2 polygons have a label that cannot be read" in message
    assert "label '60EDF_40', position 9: expected a cover such as PAV" in message
    assert "'XYZ' in XYZ" in message  # other kinds are in the same report
    frame, _ = resolved(path, IGNORE_ALL)
    assert shares_of(frame)["b"] == [0.7, 0.3, 0, 0]
    assert frame["reason"].tolist() == ["unmapped", "", "unmapped"]


def test_problems_open_as_a_geopackage(written: Callable[..., Path], tmp_path: Path) -> None:
    path = written(pure("a", "XYZ", 777, square(0)), pure("b", "EDF", 101, square(1)))
    with pytest.raises(siose.PolygonError) as caught:
        resolved(path)
    siose.write_problems(caught.value.problems, tmp_path / "problems.gpkg")
    back = geopandas.read_file(tmp_path / "problems.gpkg")
    assert back.crs == UTM
    assert back[["kind", "polygon_id", "text"]].to_numpy().tolist() == [
        ["cover", "a", "'XYZ' in XYZ"]
    ]
    assert back.geometry.iloc[0].area == pytest.approx(100, rel=1e-6)


def test_no_polygon_on_the_sheet_names_both_extents(written: Callable[..., Path]) -> None:
    path = written(pure("a", "EDF", 101, square(0)))
    far = PixelGrid(UTM, X + 5_000, Y, 0.5, 0.5, 200, 200)
    with pytest.raises(InputError) as caught:
        resolved(path, grid=far)
    message = str(caught.value)
    assert "No polygon of" in message
    bounds = geotiff.bounds_in(far, "EPSG:4258")
    assert f"sheet:    {', '.join(f'{v:.6g}' for v in bounds)} (EPSG:4258)" in message
    held = geotiff.bounds_in(PixelGrid(UTM, X, Y, 0.5, 0.5, 20, 20), "EPSG:4258")
    assert f"polygons: {', '.join(f'{v:.6g}' for v in held)} (EPSG:4258)" in message


def test_a_sheet_next_to_the_polygons_has_none_either(written: Callable[..., Path]) -> None:
    """The boxes overlap in degrees, the ground does not: the sheet's own CRS decides."""
    path = written(pure("a", "EDF", 101, box(X, Y - 1_000, X + 1_000, Y)))
    beside = PixelGrid(UTM, X + 1_001, Y, 0.5, 0.5, 200, 2000)
    with pytest.raises(InputError, match="No polygon of"):
        resolved(path, grid=beside)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer": "SAR_99_T_USOS"}, "has no layer that looks like SIOSE"),
        ({"layer": "SAR_99_T_USOS"}, "layers: SAR_99_T_USOS"),
        (
            {"values": None, "leave_out": ["ROTULO", "ID_COBERTURA_MAX"]},
            "has nothing that tells its covers",
        ),
        ({"leave_out": ["ID_POLYGON"]}, f"{LAYER}: column ID_POLYGON is missing"),
        ({"leave_out": ["ID_POLYGON"]}, f"{VALUES}: column ID_POLYGON is missing"),
        (
            {"leave_out": ["SUPERF_POR_SINREDONDEO"]},
            f"{VALUES}: column SUPERF_POR_SINREDONDEO (SIOSE AR) or SUPERF_POR (classic) is",
        ),
        (
            {"leave_out": ["ID_COBERTURA", "CODE_ABREV"]},
            f"{VALUES}: neither ID_COBERTURA (ID_COBERTURAS) nor CODE_ABREV is there",
        ),
        ({"crs": None, "parcels_crs": None}, f"layer {LAYER} has no coordinate reference system"),
    ],
)
def test_what_a_base_lacks_is_named(
    written: Callable[..., Path], options: dict[str, Any], said: str
) -> None:
    path = written(pure("a", "EDF", 101, square(0)), **options)
    with pytest.raises(InputError) as caught:
        siose.open_base(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_table_of_another_province_is_left_alone(written: Callable[..., Path]) -> None:
    path = written(pure("a", "EDF", 101, square(0)))
    with closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE SAR_98_T_VALORES (ID_POLYGON TEXT)")
        base.commit()
    values = siose.open_base(path).table
    assert values is not None
    assert values.name == VALUES


def test_two_provinces_in_one_file_are_refused_unless_the_layer_is_named(
    written: Callable[..., Path],
) -> None:
    path = written(pure("a", "EDF", 101, square(0)))
    frame = geopandas.GeoDataFrame({"ID_POLYGON": ["b"]}, geometry=[square(1)], crs=UTM)
    frame.to_file(path, layer="SAR_98_T_POLIGONOS", driver="GPKG")
    with pytest.raises(InputError, match=r"(?s)more than one layer of polygons: .*siose.layer"):
        siose.open_base(path)
    named = siose.open_base(path, SioseSettings(layer="sar_99_t_poligonos"))
    assert named.layer == LAYER


@pytest.mark.parametrize("content", [b"", b"ID_POLYGON;ROTULO\n1;EDF\n", b"SQLite format 3\x00"])
def test_what_is_no_geopackage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "base.gpkg"
    path.write_bytes(content)
    with pytest.raises(InputError, match="SIOSE base"):
        siose.open_base(path)


def test_a_missing_base(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        siose.open_base(tmp_path / "base.gpkg")


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_base_is_refused(written: Callable[..., Path], share: float) -> None:
    """GDAL reads what is left of it and says nothing of the polygons that are not."""
    parcels = [pure(f"p{i}", "EDF", 101, square(i % 10, i // 10)) for i in range(100)]
    path = written(*parcels)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match="is truncated"):
        siose.open_base(path)


def test_reading_leaves_nothing_beside_the_base(written: Callable[..., Path]) -> None:
    """Provinces lie on read-only shares, and SQLite wants to write beside a base in WAL mode."""
    path = written(pure("a", "EDF", 101, square(0)))
    with closing(sqlite3.connect(path)) as base:
        base.execute("PRAGMA journal_mode=WAL")
        base.execute(f"UPDATE {VALUES} SET ROTULO = 'EDF'")
        base.commit()
    before = path.read_bytes()
    path.parent.chmod(0o555)
    path.chmod(0o444)
    try:
        frame, _ = resolved(path)
    finally:
        path.parent.chmod(0o755)
    assert shares_of(frame) == {"a": [1, 0, 0, 0]}
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_a_base_that_is_being_written_is_read_with_its_log(written: Callable[..., Path]) -> None:
    path = written(pure("a", "EDF", 101, square(0)))
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute(f"UPDATE {VALUES} SET ID_COBERTURA = 121")
        writer.commit()
        assert Path(f"{path}-wal").stat().st_size > 0
        frame, odd = resolved(path)
    assert shares_of(frame) == {"a": [0, 1, 0, 0]}
    assert odd["kind"].tolist() == ["disagreement"]


# The file of proportions


def test_proportions_come_back_and_are_the_same_bytes_twice(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    path = written(
        Parcel("a", "60EDF_40SNE", square(0), [(101, "60EDF", 60.25), (121, "40SNE", 39.75)]),
        pure("b", "DSC", 999, shapely.MultiPolygon([square(2), square(5)])),
    )
    digests = set()
    for name in ("one.parquet", "two.parquet"):
        frame, _ = resolved(path)
        siose.write_proportions(frame, tmp_path / name, CLASSES.fingerprint)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    back = siose.read_proportions(tmp_path / "one.parquet", CLASSES)
    np.testing.assert_array_equal(back.shares, [[0.6025, 0.3975, 0], [0, 0, 0]])
    np.testing.assert_array_equal(back.unmapped, [0, 1])
    assert back.reasons.tolist() == ["", "unknown"]
    assert back.nomenclature == CLASSES.fingerprint
    for _ in range(2):  # polygons are read anew each time
        (polygons,) = back.geometry
        assert shapely.equals_exact(polygons, frame.geometry.to_numpy(), 0).all()
    whole = geopandas.read_parquet(tmp_path / "one.parquet")
    assert whole.crs == UTM
    assert whole["label"].tolist() == ["60EDF_40SNE", "DSC"]


def test_proportions_of_another_nomenclature_are_refused(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    frame, _ = resolved(written(pure("a", "EDF", 101, square(0))))
    draft = tmp_path / "p.parquet"
    siose.write_proportions(frame, draft, "0123456789abcdef")
    with pytest.raises(InputError, match=r"another nomenclature \(0123456789abcdef"):
        siose.read_proportions(draft, CLASSES)
    frame.to_parquet(draft)
    with pytest.raises(InputError, match=r"another nomenclature \(none"):
        siose.read_proportions(draft, CLASSES)
    frame.drop(columns="geometry").to_parquet(draft)
    with pytest.raises(InputError, match=r"cannot be read \(it has no GeoParquet column"):
        siose.read_proportions(draft, CLASSES)
    draft.write_bytes(draft.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read"):
        siose.read_proportions(draft, CLASSES)
    with pytest.raises(InputError, match="Run class_proportions first"):
        siose.read_proportions(tmp_path / "none.parquet", CLASSES)


# The real scenes

DUBAI = Nomenclature(
    (
        TrainingClass("water", ("AMO",), "#0000FF"),
        TrainingClass("land", ("SNE",), "#E0C080"),
        TrainingClass("road", (104,), "#404040"),
        TrainingClass("building", ("EDF",), "#C00000"),
        TrainingClass("vegetation", ("ZAU",), "#206020"),
    )
)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["parcels", "exact"])
def test_every_real_polygon_has_the_shares_of_its_table(shared_data: Path, name: str) -> None:
    path = shared_data / "dubai" / f"{name}.gpkg"
    columns = {523: 0, 121: 1, 104: 2, 101: 3, 102: 4}
    table: dict[str, list[float]] = defaultdict(lambda: [0.0] * 6)
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as base:
        for polygon, cover, percent in base.execute(
            f"SELECT ID_POLYGON, ID_COBERTURA, SUPERF_POR_SINREDONDEO FROM {VALUES}"
        ):
            table[polygon][columns.get(cover, 5)] += percent / 100
    seen = 0
    for scene in range(1, 7):
        orthophoto = shared_data / "dubai" / "ortho" / f"scene_{scene}.tif"
        frame, odd = resolved(path, nomenclature=DUBAI, grid=geotiff.read_grid(orthophoto))
        assert len(odd) == 0
        found = frame[[*(f"share_{n}" for n in DUBAI.names), "share_unmapped"]].to_numpy()
        expected = np.array([table[polygon] for polygon in frame["polygon_id"]])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        unknown = frame["label"] == "DSC"
        assert (frame["reason"] == np.where(unknown, "unknown", "")).all()
        seen += len(frame)
    assert seen == len(table)
