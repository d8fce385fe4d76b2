"""Shares of the map beside SIOSE's: sums, statistics, JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.listed_polygons import CandidateRow, PolygonRow
from pipeline.polygon_agreement import (
    BINS,
    SHOWN,
    AgreementCounts,
    Weight,
    from_json,
    of_all_sheets,
    share_bins,
)
from pipeline.report_data import ReportData
from pipeline.report_summary import summary
from pipeline.reporting import render_report
from tests.report_values import full_report

NAMES = ("forest", "crops", "water")
MAPPED = np.array([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.5, 0.5, 0.0]])
SIOSE = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
AREA = np.array([100.0, 300.0, 600.0])


def counts_of(rows: slice = slice(None)) -> AgreementCounts:
    return AgreementCounts.of(NAMES, MAPPED[rows], SIOSE[rows], AREA[rows], {"too small": 2})


def row(sheet: str = "a", polygon_id: str = "p", difference: float = 0.5) -> PolygonRow:
    return PolygonRow(
        sheet, polygon_id, "50CNF_50CHE", "test", 100.0, difference, "forest", 0.5, "crops", 0.9,
        np.nan, -3.7, 40.4,
    )  # fmt: skip


def candidate(polygon_id: str = "p", changed_m2: float = 50.0) -> CandidateRow:
    plain = row(polygon_id=polygon_id).as_dict()
    changes = {"from_class": "forest", "to_class": "crops", "changed_share": 0.5}
    return CandidateRow.of({**plain, **changes, "changed_m2": changed_m2})


def test_statistics_reckoned_by_hand() -> None:
    found = counts_of().statistics()
    assert (found.polygons, found.present.tolist()) == (3, [2, 2, 0])
    np.testing.assert_allclose(found.siose_share, [0.5, 0.5, np.nan])
    np.testing.assert_allclose(found.mapped_share, [1.75 / 3, 1.25 / 3, np.nan])
    np.testing.assert_allclose(found.bias, [0.25 / 3, -0.25 / 3, np.nan])
    np.testing.assert_allclose(found.mean_absolute_error, [0.25, 0.25, np.nan])
    np.testing.assert_allclose(found.rmse, [np.sqrt(0.3125 / 3)] * 2 + [np.nan])
    assert found.difference == pytest.approx((0 + 0.25 + 0.5) / 3)
    by_area = counts_of().statistics("area")
    np.testing.assert_allclose(by_area.bias, [0.225, -0.225, np.nan])
    assert by_area.difference == pytest.approx(0.3 * 0.25 + 0.6 * 0.5)


def test_composite_polygons_alone() -> None:
    found = counts_of().statistics(composite=True)
    assert (found.polygons, found.present.tolist()) == (1, [1, 1, 0])
    np.testing.assert_allclose(found.bias, [-0.25, 0.25, np.nan])
    assert np.isnan(found.correlation).all(), "of one polygon there is none"


@pytest.mark.parametrize("weight", ["polygon", "area"])
def test_statistics_are_those_of_scipy(weight: Weight) -> None:
    rng = np.random.default_rng(3)
    mapped, siose = rng.dirichlet([0.4] * 4, 500), rng.dirichlet([0.4] * 4, 500)
    mapped = 0.6 * siose + 0.4 * mapped
    # Whole weights: a polygon of twice the area is as good as two.
    area = rng.integers(1, 5, 500)
    times = area if weight == "area" else np.ones(500, np.int64)
    found = AgreementCounts.of("abcd", mapped, siose, area.astype(float), {}).statistics(weight)
    many, true = np.repeat(mapped, times, axis=0), np.repeat(siose, times, axis=0)
    for k in range(4):
        expected = scipy.stats.pearsonr(many[:, k], true[:, k]).statistic
        assert found.correlation[k] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(found.mean_absolute_error, np.abs(many - true).mean(axis=0))
    np.testing.assert_allclose(found.rmse, np.sqrt(((many - true) ** 2).mean(axis=0)))
    np.testing.assert_allclose(found.bias, (many - true).mean(axis=0), atol=1e-15)


def test_a_share_that_never_changes_has_no_correlation() -> None:
    siose = np.full((7, 2), [0.3, 0.7])
    mapped = np.random.default_rng(0).dirichlet([1, 1], 7)
    found = AgreementCounts.of("ab", mapped, siose, np.full(7, 1 / 3), {})
    assert np.isnan(found.statistics().correlation).all()
    assert np.isnan(found.statistics("area").correlation).all()


def test_no_polygons_are_nan_and_never_zero() -> None:
    empty = AgreementCounts.empty(NAMES)
    found = empty.statistics()
    assert found.polygons == 0
    assert np.isnan(found.difference)
    for values in (found.bias, found.mean_absolute_error, found.rmse, found.mapped_share):
        assert np.isnan(values).all()
    assert '"difference": null' in empty.as_json()


def test_the_histogram_has_each_polygon_once_a_class() -> None:
    histogram = counts_of().histogram
    assert histogram.sum(axis=(1, 2)).tolist() == [3, 3, 3]
    assert histogram[0, BINS - 1, BINS - 1] == 1  # share 1 in both
    assert histogram[0, 10, 5] == 1
    assert histogram[0, 0, 10] == 1
    assert histogram[2, 0, 0] == 3


def test_shares_on_an_edge_go_into_the_upper_bin() -> None:
    shares: NDArray[np.float64] = np.arange(21) / 20
    assert share_bins(shares).tolist() == [*range(20), 19]
    assert share_bins(np.array([0.65 / 0.95 * 0.95, 1 - 0.45])).tolist() == [13, 11]


def test_counts_of_sheets_add_up() -> None:
    both = counts_of(slice(0, 1)) + counts_of(slice(1, None))
    whole = counts_of()
    assert both.polygons.tolist() == whole.polygons.tolist() == [3, 1]
    np.testing.assert_allclose(both.moments, whole.moments, rtol=1e-15)
    np.testing.assert_array_equal(both.histogram, whole.histogram)
    assert both.left_out == {"too small": 4}
    with pytest.raises(ValueError, match="other classes"):
        whole + AgreementCounts.empty("ab")


def test_all_sheets_of_other_classes_are_named_at_once() -> None:
    counts = {"a": counts_of(slice(0, 1)), "b": counts_of(slice(1, None))}
    whole = of_all_sheets(counts.items(), NAMES)
    assert whole is not None
    assert whole.polygons.tolist() == [3, 1]
    assert of_all_sheets([], NAMES) is None
    counts |= {"c": AgreementCounts.empty("xy"), "d": AgreementCounts.empty(NAMES[::-1])}
    with pytest.raises(InputError, match="other classes than the run has now") as caught:
        of_all_sheets(counts.items(), NAMES)
    assert caught.value.items == (
        "sheet c: of the classes x, y",
        "sheet d: of the classes water, crops, forest",
    )
    for words in ("polygon-agreement` again", "--sheet` c, d;", "--forcerun polygon_agreement"):
        assert words in caught.value.remedy


def with_lists(worst: list[PolygonRow], candidates: list[CandidateRow]) -> AgreementCounts:
    plain = counts_of()
    return AgreementCounts(
        plain.names, plain.left_out, plain.polygons, plain.present, plain.moments, plain.histogram,
        tuple(worst), 9, tuple(candidates), len(candidates), 70.5, "why",
        {"test": 3, worst[0].sheet: 1},
    )  # fmt: skip


def test_a_sum_keeps_the_worst_and_the_largest_of_both() -> None:
    first = with_lists([row("a", f"p{i}", 1 - i / 20) for i in range(SHOWN)], [candidate("x", 5.0)])
    second = with_lists([row("b", "q", 0.97)], [candidate("y", 6.0), candidate("z", 4.0)])
    both = first + second
    assert len(both.worst) == SHOWN
    assert [one.polygon_id for one in both.worst[:3]] == ["p0", "q", "p1"]
    assert [one.polygon_id for one in both.candidates] == ["y", "x", "z"]
    assert (both.searched, both.candidate_count, both.candidate_m2) == (18, 3, 141.0)
    assert both.no_search == "why"
    assert both.candidate_splits == {"test": 6, "a": 1, "b": 1}


def test_json_gives_back_the_same() -> None:
    before = with_lists([row()], [candidate()])
    text = before.as_json()
    after = from_json(text, "a.json")
    assert after.as_json() == text
    np.testing.assert_array_equal(after.moments, before.moments)
    assert np.isnan(after.worst[0].confidence)
    assert after.candidate_splits == {"test": 3, "a": 1}
    told = json.loads(text)["statistics"]["all by polygon"]["classes"][0]
    assert told["name"] == "forest"
    assert told["mean_absolute_error"] == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "layout 2"),
        ('{"layout": 1}', "layout 2"),
        ('{"layout": 2}', "does not fit together"),
        (
            counts_of().as_json().replace('"crops", "water"]', '"crops"]', 1),
            "does not fit together",
        ),
    ],
)
def test_other_files_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_json(text, "agreement/a.json")
    assert "polygon_agreement" in caught.value.remedy


def report_of(splits: dict[str, int], left_out: dict[str, int]) -> ReportData:
    data = full_report()
    assert data.agreement is not None
    counts = replace(data.agreement, candidate_splits=splits, left_out=left_out)
    return replace(data, agreement=counts)


def test_the_report_says_how_many_candidates_lie_on_test_ground() -> None:
    data = report_of(
        {"train": 24, "test": 7}, {"on another sheet": 4, "cut off": 2, "too small": 0}
    )
    said = "31 polygons (1.23 ha) look as if the cover had changed since SIOSE was drawn, 7 of them"
    assert f"{said} on test ground." in " ".join(summary(data))
    page = render_report(data)
    assert "7 of them lie on test ground" in page
    section = page[page.index("Update candidates</h3>") :]
    heads = re.findall('<th scope="col"[^>]*>([^<]*)</th>', section[: section.index("</thead>")])
    body = section[section.index("<tbody>") : section.index("</tbody>")]
    cells = re.findall("<t[hd][^>]*>(.*?)</t[hd]>", body)
    assert len(cells) == len(heads)
    assert dict(zip(heads, cells, strict=True))["Ground"] == "test"
    # What another sheet has is compared there.
    assert "Not compared: 2 (cut off).</p>" in page
    assert "Not compared" not in render_report(report_of({}, {"on another sheet": 4}))
