"""The report's files: tables, scores and figures, whether there is anything to tell or not."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from pipeline import confusion, report_figures, report_scores, report_tables
from pipeline.confusion import ConfusionMatrix
from pipeline.paths import REPORT_FIGURES, REPORT_TABLES
from pipeline.report_data import ReportData
from pipeline.report_gaps import missing
from tests.report_values import COLORS, LABEL, NAMES, full_report


@pytest.fixture(scope="module")
def data() -> ReportData:
    return full_report()


@pytest.fixture(scope="module")
def tables(data: ReportData) -> dict[str, list[dict[str, str]]]:
    return _read(report_tables.tables(data))


def _read(texts: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    return {name: list(csv.DictReader(text.splitlines())) for name, text in texts.items()}


def test_there_are_always_the_same_files_with_the_same_columns(
    data: ReportData, tables: dict[str, list[dict[str, str]]]
) -> None:
    empty = ReportData("bare", NAMES, COLORS, 0.25, [])
    bare = _read(report_tables.tables(empty))
    assert tuple(bare) == tuple(tables) == REPORT_TABLES
    for name, rows in tables.items():
        assert rows, name
        assert not any(row["note"] for row in rows), name
        (row,) = bare[name]
        assert list(row) == list(rows[0]), name
        assert row.pop("note"), name
        assert not any(row.values()), name
    for report in (data, empty):
        found = report_figures.files(report, report_figures.drawings(report))
        assert tuple(found) == REPORT_FIGURES
        for content in found.values():
            assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"


def test_what_is_missing_is_said_with_what_to_do(data: ReportData) -> None:
    assert missing(data) == {}
    assert set(report_figures.drawings(data)) == {*REPORT_FIGURES, "areas"}
    sheets = [replace(sheet, evaluation=None) for sheet in data.sheets]
    bare = replace(data, sheets=sheets, intervals=None, agreement=None, estimates=None)
    found = missing(bare)
    assert set(found) == {
        *("evaluation", "confidence", "outlines", "intervals"),
        *("agreement", "worst", "candidates", "areas"),
    }
    assert "`python -m pipeline evaluation`" in found["outlines"]
    assert "`python -m pipeline polygon-agreement`" in found["worst"]
    assert "`python -m pipeline sample`" in found["areas"]
    note = report_figures.files(bare, report_figures.drawings(bare))["trust"].decode()
    words = " ".join(ElementTree.fromstring(note).itertext())
    assert "python -m pipeline evaluation" in words


def test_labels_are_listed_by_sheet(tables: dict[str, list[dict[str, str]]]) -> None:
    assert [row["pixels"] for row in tables["labels"]] == ["75", "75", "0"]
    assert [row["share_of_labelled"] for row in tables["labels"]] == ["0.5", "0.5", "0"]
    assert [list(row.values())[:6] for row in tables["masked"]] == [
        ["0722", "test", "2021", "boundary", "50", "0.25"]
    ]
    assert [list(row.values())[:5] for row in tables["polygon_problems"]] == [
        ["0722", "test", "sliver", "2", "3"]
    ]


def test_no_check_and_no_problem_are_two_things(data: ReportData) -> None:
    for problems, note in (({"sliver": 0}, "No SIOSE polygon"), (None, "Nobody has checked")):
        sheets = [replace(sheet, problems=problems) for sheet in data.sheets]
        assert missing(replace(data, sheets=sheets))["problems"].startswith(note)
    whole = [replace(s, labels=replace(s.labels, masked={})) for s in data.sheets if s.labels]
    assert missing(replace(data, sheets=whole))["masked"] == "No pixel of the labels is masked."


def test_no_candidates_and_no_search_are_two_things(data: ReportData) -> None:
    assert data.agreement is not None
    none = replace(data, agreement=replace(data.agreement, candidates=(), candidate_count=0))
    assert missing(none)["candidates"] == "No polygon looks as if its cover had changed."
    assert none.agreement is not None
    unsearched = replace(none, agreement=replace(none.agreement, no_search="No confidence."))
    assert missing(unsearched)["candidates"] == "No confidence."


def test_scores_have_their_intervals(tables: dict[str, list[dict[str, str]]]) -> None:
    olive, other, road = tables["scores_by_class"]
    assert (olive["class"], other["class"], road["class"]) == NAMES
    pixels = [olive[f"{key}_pixels"] for key in ("reference", "mapped", "correct")]
    assert pixels == ["75", "65", "60"]
    assert float(olive["iou"]) == 60 / 80
    # Squares drawn: the first alone 50/60, the second alone 10/20, or both.
    bounds = [float(olive["iou_low"]), float(olive["iou_high"])]
    assert bounds == pytest.approx([0.5, 50 / 60])
    assert olive["most_often_mapped_as"] == NAMES[1]
    assert float(olive["share_mapped_so"]) == pytest.approx(10 / 75)
    assert (road["iou"], road["users_accuracy"], road["producers_accuracy"]) == ("", "0", "")
    sheet, total = tables["scores_by_sheet"]
    assert (sheet["sheet"], total["sheet"], sheet["pixels"]) == ("0722", "all", "150")
    assert float(total["overall_accuracy"]) == pytest.approx(130 / 150)
    assert float(sheet["mean_boundary_f"]) == pytest.approx((0.6 + 2 / 3) / 2)
    assert len(tables["scores_by_sheet_and_class"]) == 3


def test_confidence_and_outlines_are_counted(tables: dict[str, list[dict[str, str]]]) -> None:
    everything = [row for row in tables["calibration"] if row["class"] == "all"]
    assert [row["pixels"] for row in everything] == ["0"] * 5 + ["20", "0", "0", "60", "40"]
    assert (everything[8]["up_to"], everything[8]["mean_confidence"]) == ("0.9", "0.9")
    assert float(everything[8]["accuracy"]) == pytest.approx(50 / 60)
    assert everything[0]["accuracy"] == ""
    at_90, above = tables["trust"][90], tables["trust"][91]
    assert (at_90["confidence_per_cent"], at_90["pixels"], at_90["accuracy"]) == (
        "90",
        "100",
        "0.9",
    )
    assert (above["pixels"], above["accuracy"]) == ("40", "1")
    whole, first, *_ = tables["outlines"]
    assert (whole["pixels"], whole["right"], whole["above_px"]) == ("150", "130", "")
    assert (first["up_to_px"], first["pixels"], first["right"]) == ("1", "40", "25")
    (olive,) = (r for r in tables["outlines"] if r["class"] == NAMES[0] and r["boundary_f"])
    assert (olive["boundary_precision"], olive["boundary_recall"]) == ("0.5", "0.75")


def test_polygons_areas_and_costs_are_listed(tables: dict[str, list[dict[str, str]]]) -> None:
    (worst,), (candidate,) = tables["worst_polygons"], tables["update_candidates"]
    assert worst["label"] == candidate["label"] == LABEL
    assert (candidate["to_class"], candidate["changed_m2"]) == (NAMES[0], "800")
    composite = [r for r in tables["agreement"] if r["polygons_with"] == "composite"]
    assert [r["polygons"] for r in composite] == ["2"] * 6
    assert [float(r["bias"]) for r in composite[:2]] == pytest.approx([0.2, -0.2])
    assert composite[2]["bias"] == ""
    assert tables["areas"][0]["area_m2"] == "552000"
    first, training = tables["costs"]
    assert (first["step"], first["study_seconds"]) == ("label_raster", "984")
    assert (training["study_work"], training["study_seconds_per_gigapixel"]) == ("training", "")
    assert [row["kind"] for row in tables["tiles"]] == ["worst", "best"]


def test_the_scores_are_one_document_that_is_still_a_matrix(data: ReportData) -> None:
    text = report_scores.scores_json(data)
    assert confusion.from_json(text, "scores.json") == data.matrix
    content = json.loads(text)
    assert list(content) == [
        *("layout", "classes", "order", "counts", "unmapped", "scores"),
        *("intervals", "calibration", "outlines", "agreement", "estimates"),
    ]
    assert content["intervals"]["overall_accuracy"] == {
        "value": pytest.approx(130 / 150),
        "low": 0.8,
        "high": 0.9,
    }
    assert content["calibration"]["trusted_from"] == 91
    assert content["calibration"]["trusted_share"] == pytest.approx(40 / 120)
    assert content["calibration"]["ece"] == pytest.approx((60 * (0.9 - 50 / 60) + 20 * 0.35) / 120)
    assert content["outlines"]["accuracy_near"] == pytest.approx(42 / 60)
    assert content["outlines"]["share_of_errors_near"] == pytest.approx(18 / 20)
    assert content["outlines"]["boundary_f"][2] is None
    assert content["agreement"]["composite by area"]["difference"] == pytest.approx(0.2)
    bare = ReportData("bare", NAMES, COLORS, 0.25, [])
    content = json.loads(report_scores.scores_json(bare))
    assert {content[key] for key in list(content)[-5:]} == {None}
    assert confusion.from_json(json.dumps(content), "") == ConfusionMatrix.empty(NAMES)


def test_the_same_values_give_the_same_files(data: ReportData) -> None:
    again = full_report()
    assert report_tables.tables(again) == report_tables.tables(data)
    assert report_scores.scores_json(again) == report_scores.scores_json(data)
    assert report_figures.drawings(again) == report_figures.drawings(data)
