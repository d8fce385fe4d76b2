"""siose-check tells all that is wrong with a base at once, and where; siose-summary sums up."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas
import geopandas.testing
import numpy as np
import pytest
import shapely
from shapely import box
from typer.testing import CliRunner

from pipeline import cli, siose, siose_check
from pipeline.nomenclature import Nomenclature, TrainingClass
from pipeline.sections import LabelSettings, SioseSettings
from pipeline.siose_check import Check, CheckLimits, check, told
from pipeline.siose_problems import KINDS
from pipeline.siose_summary import summarise
from tests.siose_fixtures import CLASSES, VALUES, Parcel, pure, write_base

UTM = "EPSG:25830"
X, Y = 700_000.0, 4_400_000.0


def square(column: int, row: int = 0, side: float = 10.0) -> shapely.Polygon:
    left, top = X + column * side, Y - row * side
    return box(left, top - side, left + side, top)


def shifted(shape: shapely.Polygon, x: float, y: float = 0.0) -> shapely.Polygon:
    return shapely.transform(shape, lambda points: points + np.array([x, y]))


BOW_TIE = shapely.Polygon(
    [(X + 100, Y), (X + 110, Y - 10), (X + 110, Y), (X + 100, Y - 10), (X + 100, Y)]
)


def around(*corners: tuple[float, float]) -> shapely.Polygon:
    """A polygon in metres east and south of a corner of the sheet."""
    return shapely.Polygon([(X + x, Y - 50 - y) for x, y in corners])


PARCELS = [
    pure("sound", "EDF", 101, square(0)),
    Parcel("half", "50EDF_40SNE", square(1), [(101, "", 50.0), (121, "", 40.0)]),
    Parcel("alien", "XYZ", square(2), [(888, "XYZ", 100.0)]),
    Parcel("garbled", "60EDF_40", square(3)),
    Parcel("other", "CNF", square(4), [(101, "EDF", 100.0)]),
    Parcel("left over", "", square(5), [(101, "EDF", 100.0)]),
    pure("twice", "EDF", 101, square(6)),
    Parcel("twice", "EDF", square(7)),
    pure("bow tie", "EDF", 101, BOW_TIE),
    Parcel("nowhere", "EDF", shapely.Polygon(), [(101, "EDF", 100.0)]),
    pure("under", "EDF", 101, square(0, 3)),
    pure("over", "SNE", 121, shifted(square(0, 3), 8.0)),
    pure("inside", "CNF", 316, box(X + 2, Y - 38, X + 5, Y - 35)),
    pure("thin", "EDF", 101, box(X + 40, Y - 40, X + 40.4, Y - 30)),
    # A hole of 5 m x 5 m, whose corners are vertices of all around it, as in SIOSE.
    pure("north", "EDF", 101, around((0, 0), (25, 0), (25, 10), (15, 10), (10, 10), (0, 10))),
    pure("west", "EDF", 101, around((0, 10), (10, 10), (10, 15), (10, 20), (0, 20))),
    pure("east", "EDF", 101, around((15, 10), (25, 10), (25, 20), (15, 20), (15, 15))),
    pure("south", "EDF", 101, around((10, 15), (15, 15), (15, 20), (10, 20))),
]


@pytest.fixture(params=["EPSG:25830", "EPSG:4258"])
def messy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = write_base(tmp_path / "messy.gpkg", PARCELS, request.param, parcels_crs=UTM)
    with closing(sqlite3.connect(path)) as base:
        base.execute(
            f"INSERT INTO {VALUES} (ID_POLYGON, ID_COBERTURA, SUPERF_POR_SINREDONDEO) "
            "VALUES ('gone', 101, 100.0)"
        )
        base.commit()
    return path


def checked(path: Path, nomenclature: Nomenclature | None = None) -> Check:
    return check(siose.open_base(path), SioseSettings(), nomenclature, threads=2)


def test_everything_is_told_at_once_in_the_order_of_its_kinds(messy: Path) -> None:
    found = checked(messy, CLASSES)
    assert found.polygons == len(PARCELS)
    assert found.stops
    listed = list(zip(found.problems["kind"], found.problems["polygon_id"], strict=True))
    assert listed == [
        ("cover", "alien"),
        ("percentage", "half"),
        ("label", "garbled"),
        ("disagreement", "other"),
        ("unlabelled", "left over"),
        ("values_without_polygon", "gone"),
        ("repaired", "bow tie"),
        ("empty", "nowhere"),
        ("duplicate", "twice"),
        ("duplicate", "twice"),
        ("overlap", "under"),
        ("overlap", "under"),
        ("sliver", "thin"),
        ("gap", "north"),
    ]
    text = dict(zip(found.problems["kind"], found.problems["text"], strict=True))
    assert text["cover"] == "'XYZ' in XYZ"
    assert text["percentage"] == "50EDF_40SNE sums to 90 %"
    assert "position 9: expected a cover such as PAV" in text["label"]
    assert text["disagreement"] == "label CNF against table 100EDF"
    assert text["duplicate"] == "2 polygons have this ID_POLYGON"
    assert text["values_without_polygon"] == "1 covers in the table"
    assert "Self-intersection" in text["repaired"]
    overlaps = found.problems[found.problems["kind"] == "overlap"]
    assert overlaps["text"].str.startswith("with over: 20.0 m² in common, 20.0 %").tolist() == [
        True,
        False,
    ]
    assert "which wins" in overlaps["text"].iloc[0]
    assert "with inside: the second (9 m²) lies in the first" in overlaps["text"].iloc[1]
    metres = overlaps.geometry.to_crs(UTM)
    np.testing.assert_allclose(metres.area, [20, 9], rtol=2e-3)
    gap = found.problems[found.problems["kind"] == "gap"].geometry.to_crs(UTM).iloc[0]
    assert gap.area == pytest.approx(25, rel=2e-3)


def test_polygons_are_counted_with_and_without_ids(tmp_path: Path) -> None:
    parcels = [
        Parcel(None, "EDF", square(0)),
        Parcel(None, "CNF", square(1)),
        pure("twice", "EDF", 101, square(2)),
        Parcel("twice", "EDF", square(3)),
    ]
    found = checked(write_base(tmp_path / "b.gpkg", parcels, parcels_crs=UTM))
    assert found.polygons == 4
    assert found.counts() == {"no_rows": 2, "duplicate": 2}
    said = list(told(found))
    assert "2 polygons share their ID_POLYGON, and with it their rows of the table:" in said


def test_problems_have_coordinates_in_the_bases_own_crs(messy: Path) -> None:
    base = siose.open_base(messy)
    found = checked(messy)
    assert found.problems.crs == base.crs
    alien = found.problems[found.problems["polygon_id"] == "alien"].iloc[0]
    place = geopandas.GeoSeries([shapely.Point(alien.x, alien.y)], crs=base.crs).to_crs(UTM)
    assert shapely.distance(place.iloc[0], square(2).centroid) < 2
    lines = list(told(found))
    assert lines[0].endswith(f"{len(PARCELS)} polygons.")
    assert "1 polygons carry a cover that the codelist does not have:" in lines
    classified = list(told(checked(messy, CLASSES)))
    assert f"1 polygons {KINDS['cover'].sentence}:" in classified
    assert any(line.startswith("  alien  at ") and "'XYZ' in XYZ" in line for line in lines)
    assert any(line == "  gone: 1 covers in the table" for line in lines)


def test_squares_of_ground_change_nothing(messy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = checked(messy).problems
    monkeypatch.setattr(siose_check, "MOST_POLYGONS", 3)
    cut = checked(messy).problems
    geopandas.testing.assert_geodataframe_equal(
        whole.sort_values(["kind", "text"], ignore_index=True),
        cut.sort_values(["kind", "text"], ignore_index=True),
    )


def test_covers_of_the_codelist_in_no_class_are_named(tmp_path: Path) -> None:
    path = write_base(tmp_path / "b.gpkg", [pure("a", "EDF", 101, square(0))], parcels_crs=UTM)
    two = Nomenclature(
        (TrainingClass("built", ("EDF",), "#C00000"), TrainingClass("bare", ("SNE",), "#E0C080")),
        ignored=("PAV",),
    )
    found = checked(path, two)
    assert not found.stops
    assert {"CNF", "AMO"} <= {cover.label for cover in found.unassigned}
    assert not {"EDF", "SNE", "PAV", "DSC"} & {cover.label for cover in found.unassigned}
    assert any("not under `ignore`: " in line and "CNF" in line for line in told(found))


def test_limits(messy: Path) -> None:
    base = siose.open_base(messy)
    few = check(base, SioseSettings(), limits=CheckLimits(overlap_m2=10, sliver_m=0.1, gap_m2=0))
    kinds = few.problems["kind"].value_counts()
    assert kinds["overlap"] == 1
    assert "sliver" not in kinds
    assert "gap" not in kinds


def test_the_command_writes_a_geopackage_and_says_whether_a_run_would_stop(
    messy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "problems.gpkg"
    answer = CliRunner().invoke(cli.app, ["siose-check", str(messy), "--out", str(out)])
    assert answer.exit_code == 3
    assert "1 polygons have percentages that are none, or do not sum to 100:" in answer.output
    assert f"All 14 are in {out}." in answer.output
    back = geopandas.read_file(out)
    assert len(back) == 14
    assert back[back["polygon_id"] == "gone"].geometry.isna().all()
    with closing(sqlite3.connect(out)) as base:
        (style,) = base.execute(
            "SELECT styleQML FROM layer_styles WHERE f_table_name = 'problems' AND "
            "f_table_schema = '' AND f_geometry_column = 'geom' AND useAsDefault = 1"
        ).fetchone()
    assert 'value="overlap"' in style
    assert 'label="unknown cover"' in style


def test_a_sound_base_has_nothing_and_leaves_no_old_problems(tmp_path: Path) -> None:
    sound = [pure(f"p{i}", "EDF", 101, square(i)) for i in range(5)]
    path = write_base(tmp_path / "b.gpkg", sound, parcels_crs=UTM)
    out = tmp_path / "problems.gpkg"
    out.write_text("of an earlier check", "utf-8")
    answer = CliRunner().invoke(cli.app, ["siose-check", str(path), "--out", str(out)])
    assert answer.exit_code == 0
    assert "Nothing is wrong." in answer.output
    assert not out.exists()


# siose-summary

SIMPLE = [
    pure("a", "EDF", 101, square(0)),
    Parcel("b", "60EDF_40CNF", square(1), [(101, "", 60.0), (316, "", 40.0)]),
    Parcel("c", "60EDF_40PAV", square(2), [(101, "", 60.0), (104, "", 40.0)]),
    Parcel("d", "70SNE_30AMO", square(3)),
    pure("e", "DSC", 999, square(4)),
    Parcel("f", "", square(5)),
    Parcel("g", "50EDF_50SNE", square(6), [(101, "", 50.0), (121, "", 50.0)]),
]


@pytest.mark.parametrize("crs", ["EPSG:25830", "EPSG:4258"])
def test_areas_and_polygons_per_cover_and_class(tmp_path: Path, crs: str) -> None:
    path = write_base(tmp_path / "b.gpkg", SIMPLE, crs, parcels_crs=UTM)
    summary = summarise(siose.open_base(path), SioseSettings(), CLASSES, LabelSettings())

    def rounded(extents: dict[str, object]) -> dict[str, tuple[int, int]]:
        return {name: (round(e.area_m2), e.polygons) for name, e in extents.items()}  # type: ignore[attr-defined]

    assert (round(summary.whole.area_m2), summary.whole.polygons) == (700, 7)
    assert rounded(summary.covers) == {  # type: ignore[arg-type]
        "EDF Edificación": (270, 4),
        "CNF Coníferas": (40, 1),
        "PAV Zonas pavimentadas o selladas": (40, 1),
        "SNE Suelo no edificado": (120, 2),
        "AMO Mares y océanos": (30, 1),
        "DSC Desconocido": (100, 1),
    }
    assert rounded(summary.classes) == {  # type: ignore[arg-type]
        "built": (310, 4),
        "bare": (120, 2),
        "forest": (40, 1),
    }
    assert rounded(summary.masked) == {  # type: ignore[arg-type]
        "unknown": (100, 1),
        "empty_label": (100, 1),
        "below_min_margin": (100, 1),
    }
    assert (round(summary.composite.area_m2), summary.composite.polygons) == (400, 4)
    assert (round(summary.mixed.area_m2), summary.mixed.polygons) == (200, 2)
    assert (round(summary.unmapped.area_m2), summary.unmapped.polygons) == (30, 1)
    assert rounded(summary.sources) == {  # type: ignore[arg-type]
        "table": (500, 5),
        "label": (100, 1),
        "none": (100, 1),
    }


def test_what_would_be_masked_follows_the_settings(tmp_path: Path) -> None:
    path = write_base(tmp_path / "b.gpkg", SIMPLE, UTM, parcels_crs=UTM)
    settings = LabelSettings(composite="mask")
    summary = summarise(siose.open_base(path), SioseSettings(), CLASSES, settings)
    assert {name: extent.polygons for name, extent in summary.masked.items()} == {
        "unknown": 1,
        "empty_label": 1,
        "composite": 3,
    }


def test_the_summary_as_table_and_csv(tmp_path: Path) -> None:
    path = write_base(tmp_path / "b.gpkg", SIMPLE, UTM, parcels_crs=UTM)
    out = tmp_path / "summary.csv"
    answer = CliRunner().invoke(cli.app, ["siose-summary", str(path), "--out", str(out)])
    assert answer.exit_code == 0
    assert "EDF Edificación" in answer.output
    lines = out.read_text("utf-8").splitlines()
    assert lines[0] == "what,name,area_m2,polygons"
    assert "base,all polygons,700.0,7" in lines
    assert "cover,EDF Edificación,270.0,4" in lines
    assert not any(line.startswith("class,") for line in lines)


def test_a_mistake_on_the_command_line_is_one_message(tmp_path: Path) -> None:
    path = write_base(tmp_path / "b.gpkg", SIMPLE, UTM, parcels_crs=UTM)
    answer = CliRunner().invoke(cli.app, ["siose-summary", str(path), "--source", "tabel"])
    assert "source: is one of 'auto', 'table'" in str(answer.exception)


@pytest.mark.parametrize("command", ["siose-check", "siose-summary"])
def test_a_result_never_takes_the_place_of_the_base(tmp_path: Path, command: str) -> None:
    path = write_base(tmp_path / "b.gpkg", SIMPLE, UTM, parcels_crs=UTM)
    before = path.read_bytes()
    (tmp_path / "link.gpkg").symlink_to(path)
    for out in (path, tmp_path / "link.gpkg"):
        answer = CliRunner().invoke(cli.app, [command, str(path), "--out", str(out)])
        assert "belongs to the base itself" in str(answer.exception)
    assert path.read_bytes() == before
