"""The report: what its page says, and that it needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import diagnosis, evidence, labels, reporting
from pipeline.compute_costs import read_benchmark
from pipeline.confusion import ConfusionMatrix
from pipeline.diagnosis import Finding
from pipeline.errors import InputError
from pipeline.numerals import THIN, area, count, duration, listed, percent, plain, plural
from pipeline.report_data import LabelCounts, ReportData, SheetReport
from pipeline.reporting import REASONS, render_report
from pipeline.thumbnails import SheetThumbnails, data_uri
from tests.report_values import COLORS, NAMES

SHEET = "0722<img src=x onerror=alert(1)>"

FIRST = ConfusionMatrix(NAMES, np.array([[1_200_345, 11, 0], [23, 4567, 0], [0, 0, 0]]), 99)
SECOND = ConfusionMatrix(NAMES, np.array([[5, 0, 2], [0, 1, 0], [0, 0, 0]]))

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
    assert render_report(data) == text


def test_a_run_without_test_ground_says_so(data: ReportData) -> None:
    sheets = [replace(sheet, matrix=None, thumbnails=None) for sheet in data.sheets]
    bare = ReportData("bare", NAMES, COLORS, 0.25, [*sheets])
    text = render_report(bare)
    assert "says nothing about its accuracy" in Page(text).text
    assert 'id="scores"' not in text
    assert 'id="training"' not in text
    empty = [SheetReport("0722", "test", matrix=ConfusionMatrix.empty(NAMES))]
    assert "says nothing about its accuracy" in render_report(replace(bare, sheets=empty))


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
    text = render_report(replace(data, findings=[finding]))
    assert "<p>A gap of 21 points &lt;b&gt;</p>" in text
    assert "Raise <code>training.weight_decay</code>." in text
    assert "What stands out" in text
    assert "What stands out" not in render_report(replace(data, findings=[]))


def test_no_findings_is_said_only_where_somebody_looked(data: ReportData, text: str) -> None:
    assert "nothing can be said yet" not in text
    looked = render_report(replace(data, findings=[]))
    assert "After 0 validations nothing can be said yet" in looked
    curves = [{"epoch": e, "val_loss": 1.0} for e in range(1, 6)]
    assert "Nothing stands out." in render_report(replace(data, findings=[], curves=curves))


def test_speed_and_best_epoch_are_told(data: ReportData) -> None:
    curves = [
        {"epoch": "0.5", "step": "10", "val_miou": "0.5", "val_accuracy": "0.75"},
        {"epoch": "1", "step": "20", "val_miou": "0.25", "tiles_per_second": "40"},
    ]
    page = Page(render_report(replace(data, curves=curves)))
    assert (
        f"Trained for 1 epoch (20 steps). The maps are made with the weights of epoch 0.5, which "
        f"did best on validation ground: mean IoU 50.0{THIN}%, accuracy 75.0{THIN}%. "
        "Training took in 40 tiles a second." in page.text
    )


def test_sample_predictions_are_in_the_page(data: ReportData, text: str) -> None:
    assert "Sample predictions" not in text
    file = io.BytesIO()
    Image.new("RGB", (40, 20), (10, 20, 30)).save(file, "PNG")
    found = render_report(replace(data, samples=file.getvalue()))
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
