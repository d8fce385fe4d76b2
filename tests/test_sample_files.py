"""The GeoPackage of a sample: what is in it, what a real QGIS makes of it, what is read back."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError, OutputError
from pipeline.interpretation import Stratum
from pipeline.sample_draw import SamplePoint
from pipeline.sample_files import (
    check_replaceable,
    chip_name,
    filled_points,
    in_one_system,
    interpretation_digest,
    read_sample,
    write_sample,
)
from pipeline.sample_form import sample_style

ROOT = Path(__file__).resolve().parents[1]
PYTHON = Path("/usr/bin/python3")
"""The one that has QGIS, where it is installed."""

STRATA = (
    Stratum("Water", "#0000FF", 600, 150.0, 2),
    Stratum('Built-up <"dense"> & más', "#DC1E1E", 300, 75.0, 2),
    Stratum("olive grove", "#10AA10", 100, 25.0, 1),
    Stratum("Road", "#777777", 0, 0.0, 0),  # mapped nowhere
)
POINTS = [
    SamplePoint("0722", row, col, 700_000.25 + col / 2, 4_399_999.75 - row / 2, stratum)
    for row, col, stratum in [(3, 9, 1), (0, 0, 0), (7, 2, 2), (5, 5, 0), (8, 8, 1)]
]
CHIPS = "chips-0123abcd"
DESIGN = {"seed": "7", "allocation": "neyman"}


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """Five points of three classes; a fourth class is mapped nowhere."""
    path = tmp_path / "a sample" / "sample.gpkg"
    path.parent.mkdir()
    write_sample(path, POINTS, STRATA, "EPSG:25830", DESIGN, CHIPS)
    return path


def change(path: Path, *statements: str) -> None:
    """Change the attributes of points; the index of geometries is nothing plain SQLite knows."""
    with closing(sqlite3.connect(path)) as base:
        for (name,) in base.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            base.execute(f'DROP TRIGGER "{name}"')
        for statement in statements:
            base.execute(statement)
        base.commit()


def interpreted(path: Path, **seen: str) -> None:
    """Fill points in: ``p3="Road"``."""
    change(
        path, *(f"UPDATE sample SET reference = '{v}' WHERE id = {k[1:]}" for k, v in seen.items())
    )


def test_the_layer_has_the_points_and_no_word_of_the_map(sample: Path) -> None:
    frame = geopandas.read_file(sample, layer="sample")
    assert list(frame.columns) == [
        "id", "reference", "certainty", "comment", "interpreter", "chip", "sheet", "row", "col",
        "stratum", "geometry",
    ]  # fmt: skip
    assert frame.crs == "EPSG:25830"
    assert frame["id"].tolist() == [1, 2, 3, 4, 5]
    assert frame["stratum"].tolist() == [1, 0, 2, 0, 1]
    assert frame["chip"].tolist() == [f"chips-0123abcd/0000{i}.jpg" for i in range(1, 6)]
    assert list(zip(frame.geometry.x, frame.geometry.y, strict=True)) == [p[3:5] for p in POINTS]
    assert frame[["reference", "certainty", "comment", "interpreter"]].isna().all().all()
    with closing(sqlite3.connect(sample)) as base:
        kinds = dict(base.execute("SELECT table_name, data_type FROM gpkg_contents"))
        strata = base.execute("SELECT * FROM strata ORDER BY stratum").fetchall()
        design = dict(base.execute("SELECT key, value FROM design").fetchall())
    # `drawn` is in no list that QGIS reads.
    assert kinds == {
        "sample": "features", "strata": "attributes", "design": "attributes",
        "layer_styles": "attributes",
    }  # fmt: skip
    assert strata[1] == (1, 'Built-up <"dense"> & más', "#DC1E1E", 300, 75.0, 2)
    assert design == {**DESIGN, "layout": "1", "points": "5"}


def test_the_same_points_give_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.gpkg"
    write_sample(again, POINTS, STRATA, "EPSG:25830", DESIGN, CHIPS)
    assert again.read_bytes() == sample.read_bytes()


def test_without_chips_nothing_shows_any(tmp_path: Path) -> None:
    path = tmp_path / "sample.gpkg"
    write_sample(path, POINTS, STRATA, "EPSG:25830", DESIGN)
    assert geopandas.read_file(path, layer="sample")["chip"].isna().all()
    style = ET.fromstring(sample_style(["a"], chips=False))
    assert style.find("fieldConfiguration/field[@name='chip']/editWidget").get("type") == "Hidden"  # type: ignore[union-attr]
    assert [group.get("name") for group in style.iter("attributeEditorContainer")] == [
        "Interpretation", "Point",
    ]  # fmt: skip


def test_what_was_seen_is_counted_by_stratum(sample: Path) -> None:
    fresh = read_sample(sample)
    assert (fresh.unlabelled, fresh.matrix.sum()) == ((1, 2, 3, 4, 5), 0)
    # As people write: other case, blanks, an accent as two characters, nothing but a blank.
    interpreted(
        sample, p1='  BUILT-UP  <"dense"> & ma\u0301s ', p2="water", p3="Road", p4=" ", p5="Water"
    )
    change(sample, "UPDATE sample SET certainty = 'Unsure ' WHERE id IN (3, 4)")
    found = read_sample(sample)
    assert found.names == tuple(stratum.name for stratum in STRATA)
    np.testing.assert_array_equal(
        found.matrix, [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    )
    assert found.unlabelled == (4,)
    assert found.unsure == (3,)
    assert found.mapped_area_m2.tolist() == [150.0, 75.0, 25.0, 0.0]
    assert found.mapped_pixels.tolist() == [600, 300, 100, 0]
    assert found.sampled.tolist() == [2, 2, 1, 0]
    assert found.design["seed"] == "7"
    assert filled_points(sample) == 5  # point 4 says how certain it is


def test_the_digest_is_of_what_is_interpreted_and_of_nothing_else(sample: Path) -> None:
    interpreted(sample, p1="Water", p2="Road")
    first = read_sample(sample).digest
    assert len(first) == 16
    assert interpretation_digest(sample) == first
    change(
        sample,
        "UPDATE sample SET comment = 'looked twice', interpreter = 'me'",
        "UPDATE sample SET certainty = '' WHERE id = 4",  # QGIS's empty is no word either
    )
    assert interpretation_digest(sample) == first
    found = {first}
    for statement in (
        "UPDATE sample SET reference = 'Water' WHERE id = 2",
        "UPDATE sample SET certainty = 'unsure' WHERE id = 2",
        "UPDATE sample SET reference = NULL WHERE id = 1",
        "UPDATE sample SET reference = 'Water' WHERE id = 3",  # another point than before
        "UPDATE sample SET reference = 'no class at all' WHERE id = 3",
        "DELETE FROM sample WHERE id = 5",
    ):
        change(sample, statement)
        found.add(interpretation_digest(sample))
    assert len(found) == 7


def test_two_names_that_differ_by_case_alone_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "sample.gpkg"
    strata = [Stratum("AB", "#000000", 9, 9.0, 5), Stratum("Ab", "#111111", 9, 9.0, 0)]
    points = [point._replace(stratum=0) for point in POINTS]
    write_sample(path, points, strata, "EPSG:25830", DESIGN)
    interpreted(path, p1="AB", p2="Ab")
    assert read_sample(path).matrix.tolist() == [[1, 1], [0, 0]]


def test_all_that_is_wrong_is_told_at_once(sample: Path) -> None:
    with closing(sqlite3.connect(sample)) as base:
        (moved,) = base.execute("SELECT geom FROM sample WHERE id = 5").fetchone()
    interpreted(sample, p1="olive groove")
    change(
        sample,
        "UPDATE sample SET certainty = 'maybe', stratum = 2 WHERE id = 1",
        "DELETE FROM sample WHERE id = 2",
        "INSERT INTO sample (id, reference, sheet, row, col, stratum, geom) "
        "SELECT id, 'Water', sheet, row, col, stratum, geom FROM sample WHERE id = 4",
        "INSERT INTO sample (id, reference) VALUES (99, 'Water')",
        "INSERT INTO sample (reference) VALUES ('Water')",
        f"UPDATE sample SET geom = X'{moved.hex()}' WHERE id = 3",
        "UPDATE sample SET geom = NULL, row = 12 WHERE id = 5",
    )
    with pytest.raises(InputError) as caught:
        read_sample(sample)
    assert list(caught.value.items) == [
        "id 2: was deleted",
        "id 4: is there 2 times",
        "id 99: was not drawn",
        "points without an id: 1; they were not drawn",
        "id 1: stratum is 2, it was drawn as 1",
        "id 1: reference 'olive groove' is no class; did you mean 'olive grove'?",
        "id 1: certainty 'maybe' is none of sure, unsure",
        "id 3: was moved",
        "id 5: row is 12, it was drawn as 8",
        "id 5: was moved",
    ]
    assert "Road" in caught.value.remedy


def test_what_is_no_sample_is_told(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_sample(tmp_path / "none.gpkg")
    (tmp_path / "text.gpkg").write_text("not a database, by far " * 50)
    with pytest.raises(InputError, match="is not a GeoPackage"):
        read_sample(tmp_path / "text.gpkg")
    change(sample, "DROP TABLE strata", "ALTER TABLE sample RENAME COLUMN reference TO reality")
    with pytest.raises(InputError, match="is no sample") as caught:
        read_sample(sample)
    assert list(caught.value.items) == ["columns of sample: reference", "table strata"]


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE strata SET pixels = 1 WHERE stratum = 0", "Water: 2 points of 1 pixel"),
        ("UPDATE strata SET sampled = 9 WHERE stratum = 0", "9 points were drawn, 2 are there"),
        ("UPDATE strata SET area_m2 = 0 WHERE stratum = 2", "1 point of 100 pixels with 0 m²"),
        ("UPDATE strata SET area_m2 = -1 WHERE stratum = 2", "(100, -1.0, 1)"),
        ("UPDATE strata SET pixels = 'many' WHERE stratum = 3", "('many', 0.0, 0)"),
        ("DELETE FROM strata WHERE stratum > 1", "stratum 2: has 1 point, and is not there"),
    ],
)
def test_strata_that_are_not_those_of_the_points_are_told(
    sample: Path, statement: str, told: str
) -> None:
    change(sample, statement)
    with pytest.raises(InputError, match="`strata` is not as it was drawn") as caught:
        read_sample(sample)
    assert len(caught.value.items) == 1
    assert told in caught.value.items[0]


def test_a_sample_of_another_layout_is_not_guessed_at(sample: Path) -> None:
    change(sample, "UPDATE design SET value = '2' WHERE key = 'layout'")
    with pytest.raises(InputError, match="layout 2"):
        read_sample(sample)


def test_a_journal_beside_it_counts_and_forbids_to_replace_it(sample: Path) -> None:
    with closing(sqlite3.connect(sample)) as other:  # as QGIS has it open
        for (name,) in other.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            other.execute(f'DROP TRIGGER "{name}"')
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("UPDATE sample SET reference = 'Water' WHERE id = 2")
        other.commit()
        assert sample.with_name("sample.gpkg-wal").stat().st_size > 0
        uri = f"{sample.as_uri()}?immutable=1"  # without its journal
        with closing(sqlite3.connect(uri, uri=True)) as file:
            count = "SELECT count(*) FROM sample WHERE reference IS NOT NULL"
            assert file.execute(count).fetchone() == (0,)
        assert read_sample(sample).matrix[0, 0] == 1
        with pytest.raises(OutputError, match="is open in another program"):
            check_replaceable(sample, overwrite=True)
        # What a killed QGIS leaves behind.
        left = sample.parent / "killed"
        left.mkdir()
        for path in sample.parent.glob("sample.gpkg*"):
            shutil.copy(path, left)
    assert read_sample(left / "sample.gpkg").matrix[0, 0] == 1
    check_replaceable(left / "sample.gpkg", overwrite=True)
    assert [path.name for path in left.iterdir()] == ["sample.gpkg"]
    assert read_sample(left / "sample.gpkg").matrix[0, 0] == 1


def test_only_a_sample_that_nobody_has_begun_is_replaced(sample: Path) -> None:
    chips = sample.parent / CHIPS
    check_replaceable(sample.with_name("none.gpkg"))
    chips.mkdir()
    (sample.parent / chip_name(1, CHIPS)).write_bytes(b"")
    (sample.parent / "chips").mkdir()  # of somebody else
    (sample.parent / "chips" / "crisps.txt").write_bytes(b"")
    check_replaceable(sample)
    change(sample, "UPDATE sample SET comment = 'a hut?' WHERE id = 2")
    interpreted(sample, p1="Water")
    with pytest.raises(OutputError, match="for 2 points would be lost") as caught:
        check_replaceable(sample)
    assert "Move sample.gpkg and chips-0123abcd away" in caught.value.remedy
    assert "--overwrite" in caught.value.remedy
    check_replaceable(sample, overwrite=True)
    (chips / "holiday.jpg").write_bytes(b"")
    with pytest.raises(OutputError, match="other things in them") as caught:
        check_replaceable(sample, overwrite=True)
    assert caught.value.items == (str(chips / "holiday.jpg"),)
    (chips / "holiday.jpg").unlink()
    geopandas.read_file(sample, layer="sample")[["id", "geometry"]].to_file(
        sample.with_name("other.gpkg")
    )
    with pytest.raises(OutputError, match="is no sample"):
        check_replaceable(sample.with_name("other.gpkg"), overwrite=True)


def test_points_of_two_systems_are_brought_to_one() -> None:
    points = [
        SamplePoint("a", 0, 0, 500_000.0, 4_427_757.0, 0),  # on the central meridian of zone 30
        SamplePoint("b", 0, 0, 500_000.0, 4_427_757.0, 0),  # and of zone 31
    ]
    same, crs = in_one_system(points, {"a": "EPSG:25830", "b": "EPSG:25830"})
    assert (same, crs) == (points, "EPSG:25830")
    moved, crs = in_one_system(points, {"a": "EPSG:25830", "b": "EPSG:25831"})
    assert crs == "EPSG:4326"
    assert [point.x for point in moved] == pytest.approx([-3.0, 3.0])
    assert [point.y for point in moved] == pytest.approx([40.0, 40.0], abs=1e-3)
    assert [point.sheet for point in moved] == ["a", "b"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A sample whose points 1, 2 and 5 were filled in, and what QGIS said of it."""
    there = [str(PYTHON), "-c", "import qgis.gui"]
    if not PYTHON.exists() or subprocess.run(there, check=False, capture_output=True).returncode:
        pytest.skip("QGIS is not installed here (python3-qgis)")
    path = tmp_path_factory.mktemp("in qgis") / "sample.gpkg"
    write_sample(path, POINTS, STRATA, "EPSG:25830", DESIGN, CHIPS)
    (path.parent / CHIPS).mkdir()
    # The chip of the point that the form shows, in a colour that nothing else has.
    Image.new("RGB", (784, 388), (250, 120, 20)).save(path.parent / chip_name(1, CHIPS), quality=95)
    request = {
        "file": str(path),
        "picture": str(path.parent / "form.png"),
        "edits": {
            1: {"reference": STRATA[1].name, "certainty": "sure", "interpreter": "ana"},
            2: {"reference": "Road"},
            5: {"reference": "Water", "certainty": "unsure", "comment": "in the shadow"},
        },
    }
    done = subprocess.run(
        [str(PYTHON), str(ROOT / "tests" / "qgis_form_session.py")],
        input=json.dumps(request), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return path, json.loads(done.stdout)


def test_qgis_opens_it_with_its_labels_and_its_form(seen: tuple[Path, dict[str, Any]]) -> None:
    said = seen[1]
    assert (said["valid"], said["crs"], said["features"]) == (True, "EPSG:25830", 5)
    assert said["labels"] == "id"
    assert said["groups"] == {
        "Image": ["chip"],
        "Interpretation": ["reference", "certainty", "comment", "interpreter"],
        "Point": ["id", "sheet", "row", "col"],
    }
    assert said["layout"] == 1  # the one with groups
    assert said["widgets"] == {
        "fid": ["Hidden", True],
        "id": ["TextEdit", True],
        "reference": ["ValueMap", False],
        "certainty": ["ValueMap", False],
        "comment": ["TextEdit", False],
        "interpreter": ["TextEdit", False],
        "chip": ["ExternalResource", True],
        "sheet": ["TextEdit", True],
        "row": ["TextEdit", True],
        "col": ["TextEdit", True],
        "stratum": ["Hidden", True],
    }
    assert {"fid", "stratum"} <= set(said["hidden_columns"])
    assert ["(not interpreted)", *(stratum.name for stratum in STRATA)] in said["choices"]
    assert ["(not told)", "sure", "unsure"] in said["choices"]


def test_the_form_shows_the_image_of_the_point(seen: tuple[Path, dict[str, Any]]) -> None:
    with Image.open(seen[0].parent / "form.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    shown = np.asarray((np.abs(pixels - (250, 120, 20)) < 12).all(axis=-1))
    # All of it, at its own size: the widget enlarges and shrinks what has another one.
    rows, columns = (int(np.any(shown, axis=axis).sum()) for axis in (1, 0))
    assert rows == 388
    assert columns in (784, 785)  # Qt rounds
    assert shown.sum() == rows * columns


def test_points_look_different_when_they_are_interpreted(
    seen: tuple[Path, dict[str, Any]],
) -> None:
    said = seen[1]
    assert set(map(tuple, said["before"].values())) == {("to interpret",)}
    assert said["after"] == {
        "1": ["interpreted"],
        "2": ["interpreted"],
        "3": ["to interpret"],
        "4": ["to interpret"],
        "5": ["unsure"],
    }


def test_what_qgis_saved_is_read(seen: tuple[Path, dict[str, Any]]) -> None:
    path, said = seen
    assert (said["editing"], said["saved"]) == (True, True)
    found = read_sample(path)
    np.testing.assert_array_equal(
        found.matrix, [[0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    )
    assert found.unlabelled == (3, 4)
    assert found.unsure == (5,)
    assert filled_points(path) == 3
