"""The report: what its page says, and that it needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image

from pipeline import (
    area_estimates,
    bootstrap,
    diagnosis,
    evidence,
    figures,
    geotiff,
    labels,
    reporting,
)
from pipeline.calibration import LEVELS, Calibration
from pipeline.changes import ChangeTables
from pipeline.class_overlays import encode_overlays
from pipeline.compute_costs import read_benchmark
from pipeline.confusion import ConfusionMatrix
from pipeline.consistency import JudgedSheet
from pipeline.diagnosis import Finding
from pipeline.errors import InputError
from pipeline.evaluation import Evaluation
from pipeline.grid import PixelGrid, Window
from pipeline.ground_blocks import BlockMatrices, write_blocks
from pipeline.interpretation import Stratum
from pipeline.map_digest import maps_digest
from pipeline.nomenclature import Nomenclature, parse
from pipeline.numerals import (
    THIN,
    area,
    count,
    decimal,
    duration,
    listed,
    percent,
    plain,
    plural,
    signed,
)
from pipeline.outlines import BINS, DISTANCES, OutlineCounts
from pipeline.paths import RunPaths
from pipeline.polygon_agreement import AgreementCounts
from pipeline.report_data import LabelCounts, ReportData, SheetReport
from pipeline.report_figures import drawings
from pipeline.report_gaps import NO_OUTLINES, NO_SQUARES, missing
from pipeline.report_scores import scores_json
from pipeline.report_summary import near_outlines, summary
from pipeline.report_tables import tables
from pipeline.reporting import REASONS, render_report
from pipeline.sample_draw import SamplePoint
from pipeline.sample_files import interpretation_digest, write_sample
from pipeline.sheets import Sheet
from pipeline.thumbnails import SheetThumbnails, data_uri, decimated
from pipeline.tile_pictures import TilePixels
from pipeline.tiling import Ground, TilePlan, write_plan
from tests.report_values import COLORS, LABEL, NAMES, SQUARES, agreement, full_report

SHEET = "0722<img src=x onerror=alert(1)>"

FIRST = ConfusionMatrix(NAMES, np.array([[1_200_345, 11, 0], [23, 4567, 0], [0, 0, 0]]), 99)
SECOND = ConfusionMatrix(NAMES, np.array([[5, 0, 2], [0, 1, 0], [0, 0, 0]]))

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

BENCHMARK = (
    "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    "61.5\t0:01:01\t812.25\t1\t1\t1\t1\t1\t150\t92.25\n"
)


class Page(HTMLParser):
    """Text of each table row, and every attribute that could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [
            value or ""
            for key, value in attrs
            if key in ("src", "href", "srcset", "data", "action")
        ]
        self.tags += [key for key, _ in attrs if key.startswith("on")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] = (self.rows[-1][-1] + data).strip()

    def row(self, name: str, columns: int) -> list[str]:
        """The one row of so many columns that begins with a name."""
        (found,) = (row for row in self.rows if row[0] == name and len(row) == columns)
        return found


def pictures() -> SheetThumbnails:
    reference = np.array([[0, 1, 255, 2]], np.uint8)
    mapped = np.array([[0, 2, 1, 255]], np.uint8)
    rgb = np.full((1, 4, 3), 90, np.uint8)
    return SheetThumbnails(rgb, np.array([[True, True, True, False]]), reference, mapped)


def sketched(data: ReportData) -> str:
    """The page without its drawings, matrices and curves, which take long to draw."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(figures, "confusion_panel", lambda *_: b"")
        patched.setattr(figures, "curves_panels", lambda _: {})
        return render_report(data, {})


@pytest.fixture(scope="module")
def data() -> ReportData:
    counts = LabelCounts(
        {NAMES[0]: 1_200_356, NAMES[1]: 4590}, {"boundary": 54, "unknown": 0}, 1_205_000
    )
    first = SheetReport(SHEET, "test", 2021, counts, FIRST, pictures())
    second = SheetReport("0723", "test", None, None, SECOND)
    third = SheetReport("0724", "train", 2021, LabelCounts({NAMES[0]: 30}, {"boundary": 70}, 100))
    curves = [
        {"epoch": str(epoch), "train_loss": "1.5", "val_loss": "", "val_miou": "0.4"}
        for epoch in (1, 2)
    ]
    return ReportData(
        run="valencia",
        names=NAMES,
        colors=COLORS,
        pixel_area=0.0625,
        sheets=(first, second, third),
        settings="run: run/valencia  # <b>see</b> https://example.org/x\n",
        curves=curves,
        card={"network": "segnet", "scores": {"mean_iou": math.nan}, "settings": {"epochs": 1500}},
        benchmarks=read_benchmark(BENCHMARK, "shard", "0722"),
        versions={"GDAL": "3.10.3"},
    )


@pytest.fixture(scope="module")
def text(data: ReportData) -> str:
    return render_report(data)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_nothing_is_loaded_from_elsewhere(text: str, page: Page) -> None:
    assert page.sources, "the page has pictures and links"
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    assert not re.search(r"url\(|@import", text)
    assert not {"link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert not [tag for tag in page.tags if tag.startswith("on")]
    links = {source for source in page.sources if source.startswith("#")}
    assert all(f'id="{link[1:]}"' in text for link in links)


def test_the_one_script_is_ours_and_no_other_may_run(text: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script == (Path(reporting.__file__).parent / "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'\">"
    ) in text


def test_names_are_escaped_wherever_they_stand(text: str, page: Page) -> None:
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "<b>see</b>" not in text
    assert page.text.count(NAMES[1]) > 8
    assert "{{ 7*7 }}" in page.text
    assert SHEET in page.text
    assert "<b>see</b> https://example.org/x" in page.text


def test_the_tables_hold_the_matrix(page: Page) -> None:
    total = FIRST + SECOND
    for name, row in zip(NAMES, total.counts.tolist(), strict=True):
        assert [name, *map(count, [*row, sum(row)])] in page.rows
    assert ["total", *map(count, total.counts.sum(axis=0)), count(1_204_954)] in page.rows
    for shares in (total.by_reference(), total.by_mapped()):
        for name, row in zip(NAMES, shares.tolist(), strict=True):
            assert [name, *map(percent, row)] in page.rows


def test_the_scores_are_those_of_the_summed_matrix(page: Page) -> None:
    scores = (FIRST + SECOND).scores()
    for entry in scores.classes:
        row = page.row(entry.name, 8)
        shares = (entry.users, entry.producers, entry.f1, entry.iou)
        assert row[1:3] == [count(entry.support), count(entry.mapped)]
        assert row[3:7] == [percent(share) for share in shares]
    olive = page.row(NAMES[0], 8)
    assert olive[7] == f"{NAMES[1]} ({percent(11 / 1_200_363)})"
    own = FIRST.scores()
    assert page.row(SHEET, 8)[2:5] == [
        count(own.pixels),
        percent(own.overall_accuracy),
        percent(own.mean_iou),
    ]
    assert page.row("All sheets", 8)[3:5] == [
        percent(scores.overall_accuracy),
        percent(scores.mean_iou),
    ]


def test_the_summary_says_it_in_words(text: str) -> None:
    lead = re.search(r'<p class="lead">(.*?)</p>', text, re.DOTALL)
    assert lead is not None
    words = Page(lead[1]).text
    scores = (FIRST + SECOND).scores()
    assert f"{count(1_204_954)} labelled pixels in 2 sheets" in words
    assert f"7.53{THIN}ha of test ground" in words
    assert f"{percent(scores.overall_accuracy)} of the pixels (overall accuracy)" in words
    best, worst = scores.classes[0], scores.classes[1]
    assert f"best class is Olivar, the worst {NAMES[1]} ({percent(23 / 4591)} of it is" in words
    assert f"both give {percent(best.iou)} and {percent(worst.iou)} to it (IoU)" in words
    assert f"{percent(scores.mean_iou)} on average over the 2 classes found there" in words
    assert f"Nothing can be said of {NAMES[2]}" in words
    assert "99 labelled pixels are nodata on the map" in words
    assert f"{percent(124 / 1_205_100)} of all pixels of the 2 labelled sheets are masked" in words


def test_what_is_masked_and_why(page: Page) -> None:
    assert ["boundary", "124", percent(124 / 1_205_100), REASONS["boundary"]] in page.rows
    seventy = f"70.0{THIN}%"
    assert ["0724", "train", "100", f"30.0{THIN}%", seventy, seventy] in page.rows
    test_share, train_share = percent(1_200_356 / 1_204_946), percent(1)
    assert [NAMES[0], count(1_200_356), test_share, "30", train_share] in page.rows


def test_every_reason_of_the_labels_is_explained() -> None:
    assert set(REASONS) == set(labels.REASONS)


def test_the_same_values_give_the_same_page(data: ReportData, text: str) -> None:
    assert sketched(data) == sketched(data)
    drawn = [source for source in Page(text).sources if source.startswith("data:image/png")]
    assert data_uri(figures.confusion_panel(FIRST + SECOND, "counts")) in drawn


def test_a_run_without_test_ground_says_so(data: ReportData) -> None:
    sheets = [replace(sheet, matrix=None, thumbnails=None) for sheet in data.sheets]
    bare = ReportData("bare", NAMES, COLORS, 0.25, [*sheets])
    text = sketched(bare)
    assert "says nothing about its accuracy" in Page(text).text
    assert 'id="scores"' not in text
    assert 'id="training"' not in text
    empty = [SheetReport("0722", "test", matrix=ConfusionMatrix.empty(NAMES))]
    assert "says nothing about its accuracy" in sketched(replace(bare, sheets=empty))


def test_sheets_of_other_classes_are_refused_all_at_once(data: ReportData) -> None:
    other = ConfusionMatrix.empty(("a", "b"))
    sheets = [
        SheetReport("0801", "test", matrix=other),
        SheetReport("0802", "train", labels=LabelCounts({"c": 3}, {}, 3)),
    ]
    with pytest.raises(InputError, match="other") as caught:
        replace(data, sheets=sheets)
    assert caught.value.items == ("0801: the matrix has a, b", "0802: the labels have c")


@pytest.mark.parametrize("color", ["red", "#12345", '#123456"><b>'])
def test_colours_that_are_none_are_refused(data: ReportData, color: str) -> None:
    with pytest.raises(ValueError, match="is not #RRGGBB"):
        replace(data, colors=(color, *COLORS[1:]))


def test_the_model_card_shows_nested_values(text: str) -> None:
    facts = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", text)
    assert ("network", "segnet") in facts
    assert ("mean iou", "–") in facts
    assert ("epochs", f"1{THIN}500") in facts


def test_numbers_as_people_read_them() -> None:
    assert count(1_234_567) == f"1{THIN}234{THIN}567"
    assert percent(0.12345) == f"12.3{THIN}%"
    assert percent(math.nan) == "–"
    assert area(4_000_000, 0.25) == f"1.00{THIN}km²"
    assert area(1000, 0.25) == f"0.03{THIN}ha"
    assert area(10**10, 0.25) == f"2{THIN}500{THIN}km²"
    assert duration(3.14) == f"3.1{THIN}s"
    assert duration(3785) == f"1{THIN}h 03{THIN}min"
    assert (plural(1, "sheet"), plural(2, "class", "classes")) == ("1 sheet", "2 classes")
    assert [signed(n) for n in (1.26, -1.26, -0.04, 0.04, 0)] == [
        "+1.3",
        "−1.3",
        "0.0",
        "0.0",
        "0.0",
    ]
    assert (signed(-0.04, 2), signed(float("nan"))) == ("−0.04", "–")
    assert [decimal(n) for n in (-2.2e-16, -0.5, 0.666, math.nan)] == ["0.00", "−0.50", "0.67", "–"]
    assert (listed(["a"]), listed(["a", "b", "c"])) == ("a", "a, b and c")
    assert [plain(value) for value in (True, None, 0.00012345, [1, "x"], [])] == [
        "yes",
        "–",
        "0.0001234",
        "1, x",
        "–",
    ]


def test_findings_are_told_in_words_and_settings_set_as_code(data: ReportData) -> None:
    finding = Finding("overfitting", (), "A gap of 21 points <b>", "Raise `training.weight_decay`.")
    text = sketched(replace(data, findings=[finding]))
    assert "<p>A gap of 21 points &lt;b&gt;</p>" in text
    assert "Raise <code>training.weight_decay</code>." in text
    assert "What stands out" in text
    assert "What stands out" not in sketched(replace(data, findings=[]))


def test_no_findings_is_said_only_where_somebody_looked(data: ReportData, text: str) -> None:
    assert "nothing can be said yet" not in text
    looked = sketched(replace(data, findings=[]))
    assert "After 0 validations nothing can be said yet" in looked
    curves = [{"epoch": e, "val_loss": 1.0} for e in range(1, 6)]
    assert "Nothing stands out." in sketched(replace(data, findings=[], curves=curves))


def test_speed_and_best_epoch_are_told(data: ReportData) -> None:
    curves = [
        {"epoch": "0.5", "step": "10", "val_miou": "0.5", "val_accuracy": "0.75"},
        {"epoch": "1", "step": "20", "val_miou": "0.25", "tiles_per_second": "40"},
    ]
    page = Page(sketched(replace(data, curves=curves)))
    assert (
        f"Trained for 1 epoch (20 steps). The maps are made with the weights of epoch 0.5, which "
        f"did best on validation ground: mean IoU 50.0{THIN}%, accuracy 75.0{THIN}%. "
        "Training took in 40 tiles a second." in page.text
    )


def test_sample_predictions_are_in_the_page(data: ReportData, text: str) -> None:
    assert "Sample predictions" not in text
    file = io.BytesIO()
    Image.new("RGB", (40, 20), (10, 20, 30)).save(file, "PNG")
    found = sketched(replace(data, samples=file.getvalue()))
    assert "Sample predictions" in found
    assert data_uri(file.getvalue()) in found


def test_findings_are_read_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "findings.json"
    assert evidence.read_findings(path) is None
    findings = [Finding("never_predicted", ("water",), "Never.", "More.")]
    diagnosis.publish(path, findings)
    assert evidence.read_findings(path) == findings
    for damaged in ("[", '[{"kind": "waiting"}]', "[1]"):
        path.write_text(damaged)
        with pytest.raises(InputError, match="holds no findings"):
            evidence.read_findings(path)


def test_speed_joins_the_curves_by_step(tmp_path: Path) -> None:
    curves, speed = tmp_path / "curves.csv", tmp_path / "speed.csv"
    curves.write_text("epoch,step,val_loss\n0.5,10,1.5\n1,20,1.25\n")
    plain = evidence.read_curves(curves, speed)
    assert plain == evidence.read_curves(curves)
    assert plain[0] == {"epoch": "0.5", "step": "10", "val_loss": "1.5"}
    speed.write_text("epoch,step,tiles_per_second,waiting\n0.75,15,9,0\n1,20,40,0.01\n")
    first, second = evidence.read_curves(curves, speed)
    assert first == plain[0]
    assert second == plain[1] | {"tiles_per_second": "40", "waiting": "0.01"}


@pytest.fixture(scope="module")
def full() -> str:
    return render_report(full_report())


def test_the_summary_says_where_to_trust_the_map_and_where_it_errs() -> None:
    told = summary(full_report())
    assert len(told) == 8
    assert f"between {percent(0.8)} and {percent(0.9)} (95{THIN}% interval" in told[0]
    assert told[3] == (
        f"{percent(1 / 3)} of the ground with a confidence can be trusted to be right on "
        f"95{THIN}% of its pixels: the part with a confidence of 91{THIN}% or more "
        f"({percent(30 / 150)} of the test ground has none); the map is surer of itself than it "
        f"should be (over-confident): on average it says {percent(106 / 120)} and is right on "
        f"{percent(95 / 120)}."
    )
    assert told[4] == (
        f"Within 3 pixels of an outline of SIOSE’s polygons ({percent(0.4)} of the ground) it is "
        f"right on {percent(0.7)}, farther inside on {percent(88 / 90)}; {percent(0.9)} of all "
        "errors lie at outlines."
    )
    assert told[5].startswith(
        "In 2 composite polygons, of which SIOSE tells shares only, the map has the same classes "
        f"on {percent(0.8)} of the area, and has too much of Olivar (+20.0 points) and too little "
        f"of {NAMES[1]} (−20.0); 31 polygons (1.23 ha) look as if the cover had changed since "
        "SIOSE was drawn"
    )
    assert told[6].startswith(
        "By 110 points that people have interpreted on 100.00 ha of 1 sheet the map is right on "
    )


@pytest.mark.parametrize(
    ("right", "trust", "verdict"),
    [
        (100, f"All of the map together is right on 95{THIN}% of its pixels or more", "better"),
        (91, f"No part of the map is right on 95{THIN}% of its pixels", "taken at its word"),
        (50, f"No part of the map is right on 95{THIN}% of its pixels", "surer of itself"),
    ],
)
def test_confidence_is_told_as_it_is(right: int, trust: str, verdict: str) -> None:
    levels = np.zeros((3, LEVELS, 2), np.int64)
    levels[0, 90] = 100 - right, right
    data = full_report()
    (sheet,) = data.sheets
    assert sheet.evaluation
    judged = replace(sheet.evaluation, calibration=Calibration(levels))
    told = summary(replace(data, sheets=[replace(sheet, evaluation=judged)]))[3]
    assert told.startswith(trust)
    assert verdict in told


def test_all_sections_are_there_and_lead_somewhere(full: str) -> None:
    page = Page(full)
    for section in ("outlines", "confidence", "errors", "agreement", "areas", "compute"):
        assert f'<h2 id="{section}">' in full
        assert f"#{section}" in page.sources
    assert 'class="missing"' not in full
    pictures = [source for source in page.sources if source.startswith("data:image/svg+xml")]
    assert len(pictures) == 7


def test_masked_outlines_are_not_taken_for_badly_drawn_ones() -> None:
    """Where a strip on both sides is masked, all ground is far from any outline of the labels."""
    data = full_report()
    sheets = list(data.sheets)
    for number, sheet in enumerate(sheets):
        if sheet.evaluation is not None:
            found = sheet.evaluation.outlines
            far = np.zeros_like(found.by_distance)
            far[:, -1] = found.by_distance.sum(axis=1)
            boundary = found.boundary * np.array([1, 0, 0, 0], np.int64)
            hidden = replace(found, by_distance=far, boundary=boundary)
            sheets[number] = replace(sheet, evaluation=replace(sheet.evaluation, outlines=hidden))
    data = replace(data, sheets=sheets)
    assert missing(data)["outlines"] == NO_OUTLINES
    assert "labels.boundary_px" in tables(data)["outlines"]
    assert "outlines" not in drawings(data)


def test_labels_and_names_are_escaped_in_every_section(full: str) -> None:
    assert "<script>alert" not in full
    assert "<b>ZAU" not in full
    assert LABEL in Page(full).text
    assert "\u200b" not in full, "a label that is copied has to be found"
    assert "70LOL_<wbr>30" in full
    assert full.count("<script>") == 1


def test_scores_stand_with_their_intervals(full: str) -> None:
    olive = Page(full).row(NAMES[0], 8)
    assert olive[6] == f"{percent(0.75)}50.0–83.3"
    assert "128 m and drawn anew from them 200 times" in Page(full).text


def test_areas_stand_with_their_intervals(full: str) -> None:
    estimates = full_report().estimates
    assert estimates is not None
    low, high = (estimates.area_limits_m2[0] / 1e4).tolist()
    assert low < 55.2 < high
    (row,) = (row for row in Page(full).rows if row[:2] == [NAMES[0], "60.00"])
    assert row[2] == f"55.20{low:.2f} to {high:.2f}"
    assert row[3].startswith(percent(0.9))


def test_polygons_are_listed_with_their_places(full: str) -> None:
    rows = Page(full).rows
    place, identity = "39.51235, -0.41235", "urn:uuid:8a1f"
    worst, candidate = (row for row in rows if len(row) > 8 and row[1] == LABEL)
    assert worst[2:4] == ["0722", "test"]
    assert worst[6:] == [percent(0.4), "81 %", "0.20", place, identity]
    assert candidate[-7:-4] == [NAMES[1], NAMES[0], "0.08"]


def test_every_class_of_a_test_sheet_has_its_overlay_and_tiles_their_pictures(full: str) -> None:
    (sheet,) = full_report().sheets
    assert sheet.thumbnails is not None
    assert sheet.thumbnails.mapped is not None
    labels, mapped = sheet.thumbnails.labels, sheet.thumbnails.mapped
    present = {int(k) for k in np.unique(labels)} | {int(k) for k in np.unique(mapped)}
    assert full.count(": found, made up and missed") == len(present)
    assert full.count("of the tile") == 2 * 4
    assert f"<strong>{percent(0.25)}</strong> right: 0722, row 0, column 8" in full


def test_two_classes_stand_beside_the_study_of_2017() -> None:
    matrix = ConfusionMatrix(("forest", "rest"), np.array([[8, 1], [2, 9]]))
    sheet = SheetReport("a", "test", matrix=matrix)
    data = ReportData("two", matrix.names, COLORS[:2], 0.25, [sheet])
    page = Page(sketched(data))
    (row,) = (row for row in page.rows if row[0] == "forest" and len(row) == 9)
    # Predicted forest: 8 are forest, 2 the rest.
    assert row[1:5] == ["8", "2", "0.80", "0.20"]
    assert row[5:] == [count(847_682_090), count(200_993_073), "0.81", "0.19"]
    (row,) = (row for row in page.rows if row[0] == "rest" and len(row) == 9)
    assert row[7:] == ["0.07", "0.93"]
    assert f"its accuracy was {percent(0.908)}" in page.text


def noisy(rng: np.random.Generator, classes: int, rows: int, cols: int) -> SheetThumbnails:
    """A sheet that is hard to compress."""
    coarse = rng.integers(0, classes, (rows // 3 + 1, cols // 3 + 1)).astype(np.uint8)
    reference = coarse.repeat(3, 0).repeat(3, 1)[:rows, :cols].copy()
    other = rng.integers(0, classes, (rows, cols)).astype(np.uint8)
    return SheetThumbnails(
        rng.integers(0, 255, (rows, cols, 3)).astype(np.uint8),
        np.ones((rows, cols), np.bool_),
        reference,
        np.where(rng.random((rows, cols)) < 0.7, reference, other),
        rng.integers(0, 101, (rows, cols)).astype(np.uint8),
    )


def many_sheets(classes: int, number: int, pictured: int) -> ReportData:
    """A report with all its sections, of many sheets, classes and comparisons of years."""
    names = tuple(f"Class {k} of cover" for k in range(classes))
    rng = np.random.default_rng(0)
    shown, pixels = noisy(rng, classes, 169, 240), noisy(rng, classes, 96, 96)
    counts = rng.integers(0, 10**7, (classes, classes)) + 10**8 * np.eye(classes, dtype=np.int64)
    met = rng.integers(1, 1000, (classes, 2)).repeat(2, axis=1)
    judged = Evaluation(
        names,
        Calibration(rng.integers(1, 1000, (classes, LEVELS, 2)), 3),
        OutlineCounts(rng.integers(1, 1000, (classes, BINS, 2)), met, 3),
        (),
    )
    sheet = SheetReport(
        "", "test", 2017,
        LabelCounts(dict.fromkeys(names, 10**7), dict.fromkeys(REASONS, 10**6), 2_052_000_000),
        ConfusionMatrix(names, counts), None, {"unknown": 3}, 2000, judged, 2_052_000_000,
    )  # fmt: skip
    sheets = [
        replace(sheet, name=f"{n:04d}", thumbnails=shown if n < pictured else None)
        for n in range(number)
    ]
    siose, mapped = rng.dirichlet(np.full(classes, 0.2), (2, 3000))
    agreed = agreement()
    told = AgreementCounts.of(names, mapped, siose, rng.random(3000) * 1e4, {"cut off": 2})
    told = replace(
        told, worst=agreed.worst * 20, candidates=agreed.candidates * 20, searched=90,
        candidate_count=31, candidate_m2=1e4,
    )  # fmt: skip
    squares = BlockMatrices(
        names,
        np.array([[n, 0] for n in range(20)]),
        "EPSG:25830",
        rng.integers(0, 1000, (20, classes, classes)),
        128.0,
    )
    areas = "from,to,area_ha,share\n" + "".join(f"{a},{b},1,0.01\n" for a in names for b in names)
    balance = "class,before_ha,after_ha,gain_ha,loss_ha,net_ha\n"
    balance += "".join(f"{name},1,2,3,4,5\n" for name in names)
    change = ChangeTables.parse(("p", "2017", "2020"), areas, balance)
    square = TilePixels(
        "0001", Window(0, 0, 96, 96), 0.5, pixels.orthophoto, pixels.valid, pixels.labels,
        pixels.labels,
    )  # fmt: skip
    picture = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (300, 500, 3)).astype(np.uint8)).save(picture, "PNG")
    return ReportData(
        run="many",
        names=names,
        colors=[f"#{8 * k:02X}A0{255 - 8 * k:02X}" for k in range(classes)],
        pixel_area=0.25,
        sheets=sheets,
        settings="key: value\n" * 200,
        curves=[{"epoch": e, "train_loss": 1 / e, "val_loss": 2 / e} for e in range(1, 300)],
        samples=picture.getvalue(),
        changes=[replace(change, place=f"p{n}") for n in range(number)],
        intervals=bootstrap.intervals([squares], 60, 0),
        block_m=128.0,
        agreement=told,
        estimates=area_estimates.estimate(
            names, rng.integers(1, 50, (classes, classes)), rng.random(classes) * 1e7
        ),
        tiles=([square] * 12, [square] * 12),
    )


def test_the_full_page_of_many_sheets_and_classes_can_be_mailed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Pictures of a sixteenth of their size, for speed; what they leave out is added.
    left_out = 0.0
    for name in ("SAMPLES", "THUMBNAILS", "OVERLAYS", "TILES"):
        whole = getattr(reporting, f"{name}_BYTES")
        monkeypatch.setattr(reporting, f"{name}_BYTES", whole // 16)
        left_out += whole * 15 / 16 * 4 / 3
    # Three matrices of 20 classes take 770 kB together, and long to draw.
    monkeypatch.setattr(figures, "confusion_panel", lambda *_: b"0" * 260_000)
    text = render_report(many_sheets(15, 220, 8))
    assert sum(map(len, re.findall(r"data:image/svg[^\"]*", text))) > 1e5
    assert left_out > 1e7
    assert len(text.encode()) + left_out < 15e6
    assert text.count(": errors") == 8
    assert "Of 220 sheets with test ground the first 8 are shown." in text
    assert "<details><summary>200 rows</summary>" in text
    assert "Of 220 comparisons the first 20 are shown" in text
    assert text.count(", 2017 to 2020</h3>") == reporting.SHOWN_CHANGES
    for number in (20, 219):
        file = f"changes/p{number}.2017-2020.csv"
        assert f"p{number}, 2017 to 2020: <code>{file}</code>" in text


def test_of_very_many_sheets_the_worst_stand_in_the_table() -> None:
    def judged(number: int) -> SheetReport:
        counts = np.array([[1000 - number, number], [0, 1000]])
        return SheetReport(f"s{number:03d}", "test", matrix=ConfusionMatrix(("a", "b"), counts))

    sheets = [judged(number) for number in range(reporting.TABLE_SHEETS + 2)]
    page = Page(sketched(ReportData("many", ("a", "b"), COLORS[:2], 0.25, sheets)))
    listed_sheets = [row[0] for row in page.rows if re.fullmatch(r"s\d{3}", row[0])]
    assert listed_sheets == [f"s{n:03d}" for n in range(2, reporting.TABLE_SHEETS + 2)]
    assert "2 more are in the file" in page.text


SORTING = """
<table class="sortable"><thead><tr><th class="n">IoU</th><th>Class</th></tr></thead><tbody>
<tr><td data-sort="0.09">9 %</td><td>b</td></tr><tr><td>–</td><td>d</td></tr>
<tr><td data-sort="0.5">50 %</td><td>a</td></tr><tr><td data-sort="0.1">10 %</td><td>C</td></tr>
<tr class="total"><td>21 %</td><td>all</td></tr></tbody></table><script>SCRIPT</script><script>
const told = [], heads = document.querySelectorAll("th button");
function click(i) {
  heads[i].click();
  told.push([...document.querySelectorAll("tbody tr")].map(row => row.cells[1].textContent).join("")
    + " " + [...document.querySelectorAll("th")].map(h => h.getAttribute("aria-sort")).join());
}
click(0); click(0); click(1); click(1);
document.body.setAttribute("data-told", told.join("; "));
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_click_sorts_a_table_and_the_pages_own_policy_lets_it(full: str, tmp_path: Path) -> None:
    page, table = tmp_path / "page.html", tmp_path / "table.html"
    page.write_text(full, "utf-8")
    script = (Path(reporting.__file__).parent / "report.js").read_text("utf-8")
    table.write_text(f"<!DOCTYPE html><body>{SORTING.replace('SCRIPT', script)}</body>", "utf-8")
    # Numbers by their value and the largest first; a dash behind them, and the total at the end.
    assert 'data-told="aCbdall descending,; bCadall ascending,; abCdall ,ascending; dCbaall ' in (
        found := _opened(table, tmp_path)
    ), found[-300:]
    heads = len(re.findall(r'<table class="sortable">\s*<thead><tr>(.*?)</tr>', full, re.DOTALL))
    assert _opened(page, tmp_path).count('<button type="button">') > heads > 5


def _opened(page: Path, folder: Path) -> str:
    """The page as a browser has it once its script has run."""
    answer = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu"),
            *(f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return answer.stdout


def test_squares_of_too_much_ground_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = RunPaths(tmp_path)
    counts = np.ones((4, 1, 1), np.int64)
    for name, left in (("a", 0), ("b", 4)):
        places = np.array([[left, 0], [left + 1, 0], [left + 2, 0], [left + 3, 0]])
        blocks = BlockMatrices(("x",), places, "EPSG:25830", counts, 128.0)
        paths.block_matrices(name).parent.mkdir(exist_ok=True)
        write_blocks(blocks, paths.block_matrices(name))
    matrix = ConfusionMatrix(("x",), np.array([[4]]))
    judged = [JudgedSheet(name, matrix) for name in ("a", "b")]
    found, told = evidence._squares(paths, judged)
    assert [len(blocks.places) for blocks in found] == [4, 4]
    assert [(one.name, one.squares, one.square_side) for one in told] == [
        ("a", matrix, 128.0),
        ("b", matrix, 128.0),
    ]
    monkeypatch.setattr(evidence, "SQUARES_BYTES", 5 * 8)
    first, second = evidence._squares(paths, judged)[0]
    assert first.side_m == second.side_m == 256.0
    assert second.places.tolist() == [[2, 0], [3, 0]]
    assert second.counts.ravel().tolist() == [2, 2]
    more = [*judged, JudgedSheet("c", matrix)]
    assert evidence._squares(paths, more) == ([], more), "half of the ground is not all of it"


def test_what_is_no_text_or_no_mapping_is_told(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    for content, message in ((b"[]", "no keys"), (b"\xff\xfe", "is not text"), (b"{", "not JSON")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            evidence.read_json(path)


@pytest.mark.parametrize(("tolerance", "edge"), [(3, 3), (7, 6), (9, 8), (31, 24), (32, 32)])
def test_near_outlines_is_as_far_as_bins_are_summed(tolerance: int, edge: int) -> None:
    by_distance = np.zeros((3, BINS, 2), np.int64)
    by_distance[0, :, 1] = 1
    counts = OutlineCounts(by_distance, np.zeros((3, 4), np.int64), tolerance)
    near = near_outlines(counts)
    assert near
    assert near.within_px == edge
    assert near.ground == (DISTANCES.index(edge) + 1) / BINS
    data = full_report()
    (sheet,) = data.sheets
    assert sheet.evaluation
    judged = replace(sheet.evaluation, outlines=counts)
    data = replace(data, sheets=[replace(sheet, evaluation=judged)])
    assert summary(data)[4].startswith(f"Within {edge} pixels of an outline")
    assert f"lies within {edge} pixels of an outline" in sketched(data)
    assert json.loads(scores_json(data))["outlines"]["near_px"] == edge


def test_too_few_squares_for_an_interval_are_told() -> None:
    data = full_report()
    assert "There are 2 squares only" in sketched(data)
    blocks = BlockMatrices(NAMES, np.array([[0, 0], [1, 0]]), "EPSG:25830", SQUARES, 128.0)
    few = replace(data, intervals=bootstrap.intervals([blocks], 200, 0))
    told = summary(few)
    assert told[1] == "The test ground has too few squares of ground (2) for an interval."
    text = sketched(few)
    assert "There are no 95 % intervals: the test ground has too few squares of 128 m (2)" in text
    assert "The small numbers are" not in text
    # Four whole squares, and twelve strips with 5 pixels of 100: 460² / (4 * 100² + 12 * 5²).
    strips = SQUARES[:1].repeat(16, axis=0)
    strips[4:] //= 16
    unlike = replace(data, intervals=bootstrap.intervals([in_a_row(strips)], 200, 0))
    worth = "(16, effectively 5 for their unlike sizes)"
    assert summary(unlike)[1] == (
        f"The test ground has too few squares of ground {worth} for an interval."
    )
    assert f"too few squares of 128 m {worth} for them" in sketched(unlike)


def in_a_row(counts: NDArray[np.int64]) -> BlockMatrices:
    places = np.stack([np.arange(len(counts)), np.zeros(len(counts), np.int64)], axis=1)
    return BlockMatrices(NAMES, places, "EPSG:25830", counts, 128.0)


def test_a_class_in_few_squares_leaves_means_without_an_interval() -> None:
    """Thirty squares, the second class in eight of them: overall accuracy alone has bounds."""
    data = full_report()
    counts = np.zeros((30, 3, 3), np.int64)
    counts[:, 0, 0], counts[:, 0, 1] = np.arange(30) + 60, 40 - np.arange(30)
    counts[:8, 1, 1] = 10
    few = replace(data, intervals=bootstrap.intervals([in_a_row(counts)], 200, 0))
    told = summary(few)
    assert f"95{THIN}% interval" in told[0]
    assert told[1] == (
        "Mean IoU, mean F1 and balanced accuracy have no interval, since too few squares of ground "
        f"have {NAMES[1]}."
    )
    assert "A class that effectively fewer than ten squares have has none, and then" in sketched(
        few
    )
    counts[:10, 1, 1] = 10
    enough = replace(data, intervals=bootstrap.intervals([in_a_row(counts)], 200, 0))
    assert not [sentence for sentence in summary(enough) if "have no interval" in sentence]


def test_sheets_with_test_ground_come_first_into_the_pictures() -> None:
    matrix = ConfusionMatrix(("x",), np.array([[1]]))
    sheets = [SheetReport(f"{number}", "train") for number in range(evidence.PICTURED_SHEETS)]
    found = evidence._pictured([*sheets, SheetReport("test", "test", matrix=matrix)])
    assert found == {"test", *(sheet.name for sheet in sheets[:-1])}


def test_areas_that_chance_explains_are_not_called_wrong() -> None:
    data = full_report()
    found = data.estimates
    assert found
    inside = "; no class’s area is shown to be wrong."
    outside = "; the class whose area it gets most wrong is "
    # The largest gap is of a class inside its interval; of the others one is outside.
    counts = [[20, 10, 0], [10, 20, 0], [0, 0, 900]]
    for areas in ([600_000.0, 300_000.0, 100_000.0], [1e4, 1e4, 1e7]):
        estimates = area_estimates.estimate(NAMES, counts, areas)
        told = summary(replace(data, estimates=estimates))[6]
        low, high = estimates.area_limits_m2.T
        beyond = (estimates.mapped_area_m2 < low) | (estimates.mapped_area_m2 > high)
        gaps = np.where(beyond, abs(estimates.area_m2 - estimates.mapped_area_m2), 0)
        k = int(gaps.argmax())
        if beyond.any():
            least, most = estimates.area_limits_m2[k] / 1e4
            assert told.endswith(
                f"{outside}{NAMES[k]}, with {areas[k] / 1e4:.2f} ha on the map and "
                f"{estimates.area_m2[k] / 1e4:.2f} ha by the sample ({least:.2f} to {most:.2f})."
            )
        else:
            assert told.endswith(inside)
    assert inside in told
    # Counted areas have no interval: any difference is one.
    counted = area_estimates.exact(NAMES, [[45, 5, 0], [2, 48, 0], [0, 0, 1]],
                                   np.array([[45, 5, 0], [2, 48, 0], [0, 0, 1]]) * 1e4)  # fmt: skip
    told = summary(replace(data, estimates=counted))[6]
    assert told.endswith(
        f"{outside}Olivar, with 50.00 ha on the map and 47.00 ha by the reference."
    )


def test_intervals_that_are_none_are_not_spoken_of() -> None:
    data = full_report()
    found = area_estimates.estimate(NAMES[:1], [[1]], [1e4])
    none = {
        key: np.full_like(getattr(found.shares, key), math.nan)
        for key in ("area_limits", "users_limits", "producers_limits", "overall_limits")
    }
    estimates = replace(found, shares=replace(found.shares, **none))
    data = ReportData("one", NAMES[:1], COLORS[:1], 0.25, [], estimates=estimates)
    text = Page(sketched(data)).text
    assert "the small numbers are 95 % intervals" not in text
    assert f"right on {percent(1)} of its area. The file does not say of which maps" in text
    assert "(–" not in summary(data)[1]
    assert "the small numbers are 95 % intervals" in Page(sketched(full_report())).text


@pytest.mark.parametrize(
    ("polygons", "on_test", "where"),
    [
        (1, 0, "looks as if the cover had changed since SIOSE was drawn, not on test ground."),
        (1, 1, "since SIOSE was drawn, on test ground."),
        (31, 0, "look as if the cover had changed since SIOSE was drawn, none of them on test"),
        (31, 7, "since SIOSE was drawn, 7 of them on test ground."),
    ],
)
def test_where_update_candidates_lie(polygons: int, on_test: int, where: str) -> None:
    data = full_report()
    assert data.agreement
    splits = {"test": on_test, "train": polygons - on_test}
    found = replace(data.agreement, candidate_count=polygons, candidate_splits=splits)
    assert where in " ".join(summary(replace(data, agreement=found)))


def test_a_map_of_one_class_is_no_worse_than_chance() -> None:
    data = full_report()
    one = np.zeros((3, 3), np.int64)
    one[:, 0] = 73, 63, 54  # kappa, rounded, is a little less than nothing
    sheets = [replace(data.sheets[0], matrix=ConfusionMatrix(NAMES, one), evaluation=None)]
    worst = replace(data, sheets=sheets, intervals=None)
    assert worst.scores
    assert f"{worst.scores.kappa:.2f}" == "-0.00"
    assert "<dt>Kappa</dt><dd>0.00<" in sketched(worst)


def test_the_ground_of_a_sample_is_told() -> None:
    data = full_report()
    assert data.estimates
    several = replace(data.estimates, sheets=("0722", "0723"), splits=("train", "test"))
    for sheets, ground in (
        (data.sheets, "100.00 ha of 2 sheets (training ground included)"),
        (
            [replace(data.sheets[0], split="blocks")],
            "100.00 ha of 2 sheets (training and validation ground included)",
        ),
        (
            [replace(data.sheets[0], split="validation")],
            "100.00 ha of 2 sheets (training and validation ground included)",
        ),
    ):
        trained = replace(data, sheets=sheets, estimates=several)
        assert f"interpreted on {ground} the map is" in summary(trained)[6]
        text = Page(sketched(trained)).text
        assert f"110 points were interpreted by people on {ground}; by them" in text
        assert (
            f"The accuracy is another than that of the test ground ({percent(130 / 150)})" in text
        )
        assert f"and of other ground, {ground}, that without labels too." in text
    assert "included" not in summary(data)[6]


def test_a_share_of_the_map_is_of_what_has_a_confidence(full: str) -> None:
    text = Page(full).text
    assert f"{percent(1 / 3)}of the ground with a confidence, to be right on 95" in text
    left_out = f"Left out is the {percent(30 / 150)} of the test ground that has no confidence."
    assert left_out in text
    data = full_report()
    (sheet,) = data.sheets
    assert sheet.evaluation
    known = Calibration(sheet.evaluation.calibration.counts)
    judged = replace(sheet.evaluation, calibration=known)
    data = replace(data, sheets=[replace(sheet, evaluation=judged)])
    told = summary(data)[3]
    assert told.startswith(f"{percent(1 / 3)} of the map can be trusted to be right on 95")
    assert "has none" not in told
    text = Page(sketched(data)).text
    assert f"{percent(1 / 3)}of the map, to be right on 95" in text
    assert left_out not in text


def test_a_part_of_the_test_ground_does_not_stand_for_all_of_it() -> None:
    data = full_report()
    (sheet,) = data.sheets
    other = replace(sheet, name="0723", evaluation=None, thumbnails=None)
    part = replace(data, sheets=[sheet, other], intervals=None)
    assert part.evaluation is None
    found = missing(part)
    for section in ("evaluation", "confidence", "outlines"):
        assert "1 of the 2 sheets with test ground has no evaluation yet (0723)" in found[section]
    assert found["intervals"] == NO_SQUARES
    assert "confidence" not in NO_SQUARES
    assert not [line for line in summary(part) if "trusted" in line or "outline" in line]
    _, row = tables(part)["trust"].splitlines()
    assert "1 of the 2 sheets" in row
    # A sheet without judged pixels needs no evaluation.
    whole = replace(data, sheets=[sheet, replace(other, matrix=None)])
    assert whole.evaluation == sheet.evaluation
    nobody = [replace(other, name=str(number)) for number in range(2)]
    assert "Nobody has looked" in missing(replace(part, sheets=nobody))["outlines"]


CLASSES = parse(
    {
        "classes": [
            {"name": "Forest", "covers": ["FDC"], "color": "#109C69"},
            {"name": "Water", "covers": ["AEM"], "color": "#0000FF"},
        ]
    },
    "classes.yaml",
)


@pytest.fixture
def judged_run(tmp_path: Path) -> tuple[RunPaths, dict[str, Sheet]]:
    """A sheet of 40 x 40 px in degrees: test ground is its left quarter, where all is wrong."""
    paths, size = RunPaths(tmp_path / "run"), 40
    grid = PixelGrid("EPSG:4258", -0.4, 39.5, 5e-6, 4e-6, size, size)
    reference = np.zeros((size, size), np.uint8)
    reference[:, 20:] = 1
    mapped = reference.copy()
    mapped[:, :10] = 1
    for path, pixels in ((paths.label_raster("a"), reference), (paths.land_cover_map("a"), mapped)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with geotiff.RasterWriter(path, grid, "uint8", 255) as raster:
            raster.write(grid.window, pixels)
    place = rasterio.Affine(grid.pixel_width, 0, grid.left, 0, -grid.pixel_height, grid.top)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", dtype="uint8", count=3, width=size, height=size,
        crs=grid.crs, transform=place,
    ) as photo:  # fmt: skip
        photo.write(np.full((3, size, size), 90, np.uint8))
    ground = [
        Ground.on(grid, "a", Window(0, 0, 10, size), "test"),
        Ground.on(grid, "a", Window(10, 0, 30, size), "train"),
    ]
    matrix = ConfusionMatrix(CLASSES.names, np.array([[0, 400], [0, 0]]))
    squares = BlockMatrices(
        CLASSES.names, np.array([[0, 0]]), "EPSG:4258", matrix.counts[None], 40 * 5e-6
    )
    for path, text in {
        paths.label_counts("a"): '{"classes": {"Forest": 800}, "masked": {}, "pixels": 1600}',
        paths.polygon_check_counts("a"): '{"problems": {}, "polygons": 3}',
        paths.confusion("a"): matrix.as_json(),
        paths.card: '{"versions": {"GDAL": "3"}}',
        paths.curves: "epoch,step\n",
        paths.block_matrices("a"): "",
        paths.tile_plan: "",
        paths.area_estimates: "",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    paths.area_estimates.unlink()
    write_plan(TilePlan((), tuple(ground), CLASSES.fingerprint, 8), paths.tile_plan, paths.ground)
    write_blocks(squares, paths.block_matrices("a"))
    return paths, {"a": Sheet("a", tmp_path / "a.tif", Path(), "test", None, 2, "b")}


def read_run(run: tuple[RunPaths, dict[str, Sheet]], classes: Nomenclature = CLASSES) -> ReportData:
    return evidence.report_data(*run, classes, "", blocks=True)


def test_overlays_show_test_ground_only(judged_run: tuple[RunPaths, dict[str, Sheet]]) -> None:
    data = read_run(judged_run)
    shown = data.sheets[0].thumbnails
    assert shown is not None
    assert shown.judged is not None
    assert shown.judged[:, :10].all()
    assert not shown.judged[:, 10:].any()
    ((one, other),) = encode_overlays([shown], 2)
    assert (one.number, one.found, one.made_up, one.missed) == (0, 0, 0, 400)
    assert (other.number, other.found, other.made_up, other.missed) == (1, 0, 400, 0)
    picture = np.asarray(Image.open(io.BytesIO(one.picture.content)))
    assert len(np.unique(picture[:, :10])) == len(np.unique(picture[:, 10:])) == 1
    assert picture[0, 0] != picture[0, 39]
    text = sketched(data)
    errors = text[text.index('<div class="pictures overlays">') :].split("</details>")[0]
    assert errors.count(f"</span> {percent(0)}</figcaption>") == 2


def test_decimated_ground_is_where_the_centres_are() -> None:
    ground = [Window(0, 0, 3, 5), Window(8, 6, 2, 4)]
    # Of 10 x 10 px every second one: the centres are at 1, 3, 5, 7, 9.
    found = decimated(ground, (10, 10), (5, 5)).astype(int)
    assert found.tolist() == [[1, 0, 0, 0, 0]] * 2 + [[0] * 5] + [[0, 0, 0, 0, 1]] * 2
    assert decimated(ground, (10, 10), (10, 10)).sum() == 15 + 8


def test_areas_of_geographic_sheets_are_in_metres(
    judged_run: tuple[RunPaths, dict[str, Sheet]],
) -> None:
    data = read_run(judged_run)
    # Radii of curvature of GRS 80 in the sheet's middle, along and across the meridian.
    sine, squared = math.sin(math.radians(39.5 - 20.5 * 4e-6)), 0.00669438002290
    across = 6_378_137 / math.sqrt(1 - squared * sine**2) * math.sqrt(1 - sine**2)
    along = 6_378_137 * (1 - squared) / (1 - squared * sine**2) ** 1.5
    square = across * along * math.radians(1) ** 2
    assert data.pixel_area == pytest.approx(square * 5e-6 * 4e-6, rel=1e-7)
    assert data.block_m == pytest.approx(40 * 5e-6 * math.sqrt(square), rel=1e-7)
    told = summary(data)
    assert told[0].startswith(f"On {area(400, data.pixel_area)} of test ground")
    assert told[0].startswith(f"On 0.01{THIN}ha")
    text = Page(sketched(data)).text
    assert f"one pixel is {data.pixel_area:.4g} m²" in text
    assert "too few squares of 19.5" in text


def test_areas_in_feet_and_of_different_sheets_are_in_square_metres() -> None:
    feet = PixelGrid("EPSG:2225", 6e6, 2e6, 2.0, 2.0, 100, 100)
    foot = 1200 / 3937
    assert evidence._pixel_m2([feet, feet]) == pytest.approx(4 * foot**2, rel=1e-12)
    assert evidence._unit_m(feet) == pytest.approx(foot, rel=1e-12)
    metres = PixelGrid("EPSG:25830", 7e5, 4e6, 0.5, 0.5, 100, 100)
    assert evidence._pixel_m2([metres, metres]) == 0.25
    assert evidence._unit_m(metres) == 1.0
    assert evidence._pixel_m2([metres, feet]) == pytest.approx((0.25 + 4 * foot**2) / 2)


def test_estimates_of_other_maps_or_classes_are_left_out(
    judged_run: tuple[RunPaths, dict[str, Sheet]],
) -> None:
    paths, _ = judged_run
    own = maps_digest({"a": paths.land_cover_map("a")})
    found = area_estimates.estimate(CLASSES.names, [[9, 1], [1, 9]], [1e4, 1e4])
    found = replace(found, sheets=("a",), splits=("train",), maps=own)
    paths.area_estimates.write_text(found.as_json())
    data = read_run(judged_run)
    assert data.estimates
    assert missing(data).get("areas") is None
    assert "on 2.00 ha of 1 sheet (training and validation ground included)" in summary(data)[-1]

    paths.area_estimates.write_text(replace(found, maps="0" * 16).as_json())
    stale = read_run(judged_run)
    assert stale.estimates is None
    why = missing(stale)["areas"]
    assert why.startswith("`assessment/estimates.json` is of maps that have been made anew")
    assert "`python -m pipeline sample`" in why
    assert "remove `assessment/estimates.json`" in why
    assert "made anew" in Page(sketched(stale)).text
    assert not [line for line in summary(stale) if "interpreted" in line]

    paths.area_estimates.write_text(replace(found, names=("Forest", "Lake")).as_json())
    other = missing(read_run(judged_run))["areas"]
    assert "is of other classes than the maps have now: Forest and Lake." in other
    assert "`python -m pipeline assess`" in other


@pytest.mark.parametrize(
    ("name", "rule", "keys"),
    [
        ("labels/a.json", "label_raster", "classes, masked, pixels"),
        ("checks/a.json", "check_polygons", "problems, polygons"),
        ("card", "train", "versions"),
    ],
)
def test_files_without_their_keys_are_named(
    judged_run: tuple[RunPaths, dict[str, Sheet]], name: str, rule: str, keys: str
) -> None:
    paths, _ = judged_run
    files = (paths.label_counts("a"), paths.polygon_check_counts("a"))
    path = paths.card if name == "card" else next(p for p in files if str(p).endswith(name))
    path.write_text("{}")
    with pytest.raises(InputError) as caught:
        read_run(judged_run)
    assert str(path) in str(caught.value)
    assert f"does not tell {keys}." in str(caught.value)
    assert f"Run {rule} again." in str(caught.value)


def test_estimates_of_a_sample_that_was_edited_since_are_left_out(
    judged_run: tuple[RunPaths, dict[str, Sheet]],
) -> None:
    paths, _ = judged_run
    points = [SamplePoint("a", i, 0, 0.0, 0.0, i % 2) for i in range(6)]
    strata = [Stratum(name, "#000000", 9, 9.0, 3) for name in CLASSES.names]
    write_sample(paths.sample, points, strata, "EPSG:25830", {})

    def interpret(statement: str) -> None:
        with closing(sqlite3.connect(paths.sample)) as base:
            for (name,) in base.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall():
                base.execute(f'DROP TRIGGER "{name}"')
            base.execute(statement)
            base.commit()

    interpret("UPDATE sample SET reference = 'Forest'")
    own = maps_digest({"a": paths.land_cover_map("a")})
    found = area_estimates.estimate(CLASSES.names, [[3, 0], [3, 0]], [1e4, 1e4])
    found = replace(
        found, sheets=("a",), maps=own, interpretation=interpretation_digest(paths.sample)
    )
    paths.area_estimates.write_text(found.as_json())
    assert read_run(judged_run).estimates
    interpret("UPDATE sample SET comment = 'looked at once more'")
    assert read_run(judged_run).estimates
    for statement in (
        "UPDATE sample SET reference = 'Built-up' WHERE id = 2",
        "UPDATE sample SET reference = NULL",
    ):
        interpret(statement)
        edited = read_run(judged_run)
        assert edited.estimates is None
        why = missing(edited)["areas"]
        assert why.startswith("`assessment/sample.gpkg` was edited, or drawn anew, since")
        assert "`python -m pipeline assess`" in why
        assert "was edited, or drawn anew" in Page(sketched(edited)).text
        assert not [line for line in summary(edited) if "interpreted" in line]
    # Of before the digest, and without a sample, nothing is claimed.
    paths.area_estimates.write_text(replace(found, interpretation="").as_json())
    assert read_run(judged_run).estimates
    paths.area_estimates.write_text(found.as_json())
    paths.sample.write_text("no GeoPackage")
    why = missing(read_run(judged_run))["areas"]
    assert why.startswith("`assessment/sample.gpkg` cannot be read")
    paths.sample.unlink()
    assert read_run(judged_run).estimates


def test_all_files_that_the_report_lacks_are_named_at_once(
    judged_run: tuple[RunPaths, dict[str, Sheet]],
) -> None:
    paths, sheets = judged_run
    more = {name: replace(sheets["a"], name=name) for name in ("a", "b", "c")}
    for name in ("b", "c"):
        for of in (paths.label_counts, paths.polygon_check_counts):
            of(name).write_text(of("a").read_text())
    lacking = [paths.card, paths.curves, paths.confusion("b"), paths.confusion("c")]
    for path in lacking[:2]:
        path.unlink()
    paths.label_counts("b").write_text("{}")
    paths.findings.write_text("no JSON")
    with pytest.raises(InputError, match=r"^6 files of the run cannot be used") as caught:
        evidence.report_data(paths, more, CLASSES, "", blocks=True)
    told = [item for item in caught.value.items if "cannot be read (No such file" in item]
    assert sorted(item.split(": cannot")[0] for item in told) == sorted(map(str, lacking))
    assert any("does not tell classes, masked, pixels" in item for item in caught.value.items)
    assert any(str(paths.findings) in item for item in caught.value.items)
    assert caught.value.remedy.splitlines().count("Run its rule first.") == 1


def test_points_that_were_left_out_do_not_wait_for_anybody() -> None:
    data = full_report()
    assert data.estimates is not None
    for pending, told in ((1, "1 point of the sample was"), (2, "2 points of the sample were")):
        found = replace(data, estimates=replace(data.estimates, pending=pending))
        text = Page(sketched(found)).text
        assert f" {told} left out." in text
        assert "wait for" not in text
