"""Areas with intervals: the paper's worked example, other formulas, and what is not known."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.area_estimates import HECTARE, AreaEstimates, Z, estimate, exact, from_json
from pipeline.errors import InputError
from pipeline.stratified_shares import stratified_shares

# Olofsson et al. (2014), tables 8 and 9: the map of a change, pixels of 30 m.
NAMES = ("Deforestation", "Forest gain", "Stable forest", "Stable non-forest")
SAMPLE = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
PIXEL_M2 = 900.0


@pytest.fixture
def paper() -> AreaEstimates:
    return estimate(NAMES, SAMPLE, PIXELS * PIXEL_M2)


def _printed(values: NDArray[np.float64], digits: int) -> object:
    rounded: object = values.round(digits).tolist()
    return rounded


def test_the_papers_error_matrix(paper: AreaEstimates) -> None:
    assert _printed(paper.proportions, 4) == [
        [0.0176, 0.0, 0.0013, 0.0011],
        [0.0, 0.0110, 0.0016, 0.0024],
        [0.0019, 0.0, 0.2967, 0.0213],
        [0.0040, 0.0020, 0.0179, 0.6212],
    ]
    assert _printed(paper.mapped_share, 3) == [0.020, 0.015, 0.320, 0.645]


def test_the_papers_accuracies(paper: AreaEstimates) -> None:
    assert _printed(paper.users, 2) == [0.88, 0.73, 0.93, 0.96]
    assert _printed(paper.users_ci, 2) == [0.07, 0.10, 0.04, 0.02]
    assert _printed(paper.producers, 2) == [0.75, 0.85, 0.93, 0.96]
    # The paper prints 0.23 and 0.01 for the second and the last, which its equation 7 does not
    # give: 0.2544 and 0.0184, by hand below, too.
    assert _printed(paper.producers_ci, 2) == [0.21, 0.25, 0.03, 0.02]
    assert round(paper.overall, 2) == 0.95
    assert round(paper.overall_ci, 2) == 0.02


def test_the_papers_areas(paper: AreaEstimates) -> None:
    assert round(paper.area_m2[0] / PIXEL_M2) == 235_086
    assert round(paper.shares.area[0], 3) == 0.024
    assert round(paper.shares.area_se[0], 4) == 0.0035
    # 34 097 pixels in print, a slip of two digits: its interval of 68 418 is 1.96 * 34 907.
    assert round(paper.area_se_m2[0] / PIXEL_M2) == 34_907
    assert round(paper.area_ci_m2[0] / PIXEL_M2) == 68_418
    assert _printed(paper.area_m2 / HECTARE, 0) == [21_158, 11_686, 285_770, 581_386]
    assert _printed(paper.area_ci_m2 / HECTARE, 0) == [6_158, 3_756, 15_510, 16_282]
    assert round(paper.area_ci_m2[0] / paper.area_m2[0], 2) == 0.29
    assert paper.area_m2.sum() == pytest.approx(900_000 * HECTARE, rel=1e-12)


def test_producers_intervals_by_hand(paper: AreaEstimates) -> None:
    """Equation 7 in pixels, with plain numbers, for each class."""
    users = [66 / 75, 55 / 75, 153 / 165, 313 / 325]
    points = [75, 75, 165, 325]
    for j in range(4):
        real = sum(PIXELS[i] * SAMPLE[i, j] / points[i] for i in range(4))
        found = PIXELS[j] * users[j] / real
        own = PIXELS[j] ** 2 * (1 - found) ** 2 * users[j] * (1 - users[j]) / (points[j] - 1)
        others = 0.0
        for i in set(range(4)) - {j}:
            share = SAMPLE[i, j] / points[i]
            others += float(PIXELS[i]) ** 2 * share * (1 - share) / (points[i] - 1)
        variance = (own + found**2 * others) / real**2
        assert paper.producers_ci[j] == pytest.approx(1.96 * math.sqrt(variance), rel=1e-12)


@pytest.mark.parametrize("right", [0, 1, 3, 7])
def test_limits_inside_one_stratum_leave_two_and_a_half_per_cent_on_each_side(right: int) -> None:
    """Jeffreys: of the density x^(right - 1/2) (1 - x)^(wrong - 1/2), summed up numerically."""
    found = estimate(("a", "b"), [[right, 7 - right], [0, 0]], [5.0, 0.0])
    low, high = found.users_limits[0]
    angle = (np.arange(200_000) + 0.5) / 200_000 * math.pi / 2  # x = sin^2: no pole at the ends
    density = np.sin(angle) ** (2 * right) * np.cos(angle) ** (2 * (7 - right))
    share = np.sin(angle) ** 2
    for limit, below, end in ((low, 0.025, right == 0), (high, 0.975, right == 7)):
        if end:  # the limit is the end of the scale itself
            assert limit in (0, 1)
        else:
            assert density[share < limit].sum() / density.sum() == pytest.approx(below, abs=1e-4)
    np.testing.assert_allclose(found.shares.area_limits[0], [low, high], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.overall_limits, [low, high], rtol=1e-12, atol=1e-15)
    # What is mapped nowhere is not found, if it is there.
    expected = [0, 0] if right < 7 else [math.nan, math.nan]
    np.testing.assert_array_equal(found.producers_limits[1], expected)


def test_limits_of_strata_are_combined_by_their_squares() -> None:
    found = estimate(("a", "b"), [[30, 10], [4, 56]], [3.0, 7.0])
    first, second = found.users_limits
    lower = math.hypot(0.3 * (30 / 40 - first[0]), 0.7 * (second[1] - 56 / 60))
    upper = math.hypot(0.3 * (first[1] - 30 / 40), 0.7 * (56 / 60 - second[0]))
    share = (0.3 * 30 / 40) + 0.7 * 4 / 60
    assert found.shares.area_limits[0].tolist() == pytest.approx([share - lower, share + upper])
    # Where found - r * missed meets its own limit, by the definition of the producer's limits.
    low, high = found.producers_limits[0]
    hit, missed = 0.3 * 30 / 40, 0.7 * 4 / 60
    for limit, side, hit_reach, missed_reach in (
        # The second stratum's limits of the first class mirror those of its own.
        (low, 1, 0.3 * (30 / 40 - first[0]), 0.7 * (56 / 60 - second[0])),
        (high, -1, 0.3 * (first[1] - 30 / 40), 0.7 * (second[1] - 56 / 60)),
    ):
        ratio = limit / (1 - limit)
        reach = math.hypot(hit_reach, ratio * missed_reach)
        assert hit - ratio * missed == pytest.approx(side * reach)


def test_limits_tell_of_what_no_point_shows() -> None:
    """A class that no point is of: 0 +- 0, but perhaps up to 2.5 points' worth of the ground."""
    found = estimate(("a", "b"), [[100, 0], [0, 100]], [90.0, 10.0])
    assert found.users_ci.tolist() == found.producers_ci.tolist() == [0, 0]
    assert (found.users_limits[:, 0] < 0.98).all()
    assert found.users_limits[:, 1].tolist() == [1, 1]
    # 90 ha hide up to 2.5 %, 2.2 ha, of the 10 ha class: it may be missed by a fifth.
    assert found.area_limits_m2[1, 1] == pytest.approx(10 + 90 * (1 - found.users_limits[0, 0]))
    assert found.producers_limits[1, 0] == pytest.approx(10 / (10 + 90 * 0.0248), abs=2e-3)
    assert found.producers_limits[1, 1] == 1


def test_a_map_without_strata_is_the_textbooks_binomial() -> None:
    """All points in one stratum: share and standard error of a plain random sample."""
    found = estimate(("a", "b"), [[60, 40], [0, 0]], [5.0, 0.0])
    assert found.area_m2.tolist() == pytest.approx([3.0, 2.0])
    assert found.shares.area_se.tolist() == pytest.approx([math.sqrt(0.6 * 0.4 / 99)] * 2)
    assert found.overall_ci == pytest.approx(Z * math.sqrt(0.6 * 0.4 / 99))


def test_many_samples_at_once_are_each_by_itself() -> None:
    random = np.random.default_rng(4)
    many = random.integers(0, 9, (3, 5, 4, 4)) + 1
    together = stratified_shares(many, PIXELS)
    for i, j in np.ndindex(3, 5):
        alone = stratified_shares(many[i, j], PIXELS)
        for key, values in vars(alone).items():
            np.testing.assert_allclose(vars(together)[key][i, j], values, rtol=1e-14)


def test_classes_of_the_map_without_points_are_all_told() -> None:
    sample = SAMPLE.copy()
    sample[[1, 2]] = 0
    with pytest.raises(InputError, match="nothing is known of their ground") as caught:
        estimate(NAMES, sample, PIXELS * PIXEL_M2)
    assert caught.value.items == (
        "Forest gain: 13500.00 ha, 1.50 % of the map",
        "Stable forest: 288000.00 ha, 32.00 % of the map",
    )


def test_points_where_nothing_is_mapped_are_of_another_map() -> None:
    with pytest.raises(InputError, match="not on the map") as caught:
        estimate(("a", "b"), [[5, 5], [0, 3]], [10.0, 0.0])
    assert caught.value.items == ("b: 3",)


def test_one_point_of_a_class_leaves_the_intervals_open() -> None:
    found = estimate(("a", "b"), [[5, 5], [0, 1]], [10.0, 2.0])
    assert found.area_m2.tolist() == [5.0, 7.0]
    assert np.isnan(found.area_ci_m2).all()
    assert found.users.tolist() == [0.5, 1.0]
    assert np.isnan(found.users_ci).tolist() == [False, True]
    assert not np.isnan(found.users_limits).any()
    assert math.isnan(found.overall_ci)


def test_a_class_that_is_in_the_sample_as_a_whole_has_no_sampling_error() -> None:
    found = estimate(("a", "b"), [[6, 4], [0, 1]], [10.0, 2.0], pixels=[1000, 1])
    assert found.users_ci[1] == 0
    assert found.users_limits[1].tolist() == [1, 1]
    # Of the first class alone: 10/12 of the ground.
    assert found.area_ci_m2[1] == pytest.approx(1.96 * 10 * math.sqrt(0.6 * 0.4 / 9))
    all_of_it = estimate(("a", "b"), [[6, 4], [0, 1]], [10.0, 2.0], pixels=[10, 1])
    assert all_of_it.area_ci_m2.tolist() == [0, 0]
    assert all_of_it.producers_ci.tolist() == [0, 0]


def test_what_no_other_stratum_can_hold_is_found_whole() -> None:
    """One class alone on the map, or the others in the sample as a whole, without any of it."""
    alone = estimate(("a", "b"), [[8, 2], [0, 0]], [10.0, 0.0])
    assert alone.producers_limits[0].tolist() == [1, 1]
    assert alone.producers_limits[1].tolist() == [0, 0]
    whole = estimate(("a", "b"), [[8, 2], [0, 3]], [10.0, 1.0], pixels=[1000, 3])
    assert whole.producers[0] == 1
    assert whole.producers_limits[0].tolist() == [1, 1]
    assert 0 < whole.producers_limits[1, 0] < whole.producers[1] < whole.producers_limits[1, 1] < 1


def test_the_finite_population_correction_is_asked_for() -> None:
    plain = estimate(("a", "b"), [[6, 4], [5, 15]], [4.0, 6.0], pixels=[40, 100])
    finite = estimate(("a", "b"), [[6, 4], [5, 15]], [4.0, 6.0], pixels=[40, 100], finite=True)
    ratio = finite.users_ci / plain.users_ci
    assert ratio.tolist() == pytest.approx([math.sqrt(0.75), math.sqrt(0.8)])
    with pytest.raises(ValueError, match="asks for pixels"):
        estimate(("a", "b"), [[6, 4], [5, 15]], [4.0, 6.0], finite=True)
    with pytest.raises(ValueError, match="do not fit"):
        estimate(("a", "b"), [[6, 4], [5, 15]], [4.0, 6.0], pixels=[9, 100])


def test_absent_classes() -> None:
    """The second is mapped and never real, the third real and never mapped, the last neither."""
    names = ("a", "b", "c", "d")
    sample = [[8, 0, 2, 0], [4, 0, 1, 0], [0] * 4, [0] * 4]
    found = estimate(names, sample, [10.0, 5.0, 0.0, 0.0])
    assert found.area_m2.tolist() == pytest.approx([12.0, 0.0, 3.0, 0.0])
    assert found.users[:2].tolist() == [0.8, 0.0]
    assert np.isnan(found.users[2:]).all()
    assert np.isnan(found.users_ci[2:]).all()
    assert found.producers[0] == pytest.approx(8 / 12)
    assert found.producers[2] == 0
    assert np.isnan(found.producers[[1, 3]]).all()
    assert np.isnan(found.producers_ci[[1, 3]]).all()
    assert found.producers_ci[2] == 0
    assert found.area_ci_m2[2] > 0
    assert not np.isnan([found.overall, found.overall_ci, *found.overall_limits]).any()
    assert np.isnan(found.producers_limits[[1, 3]]).all()
    assert found.area_limits_m2[3, 1] > 0  # it may be there, unseen


def test_a_full_reference_is_counted() -> None:
    counts = np.array([[70, 10, 0], [5, 15, 0], [0, 0, 0]])
    found = exact(("a", "b", "c"), counts, counts * 0.25)
    assert found.source == "reference"
    assert found.area_m2.tolist() == [18.75, 6.25, 0.0]
    assert found.mapped_area_m2.tolist() == [20.0, 5.0, 0.0]
    assert found.area_ci_m2.tolist() == [0, 0, 0]
    assert found.users[:2].tolist() == [0.875, 0.75]
    assert found.producers[:2].tolist() == [70 / 75, 15 / 25]
    assert (found.overall, found.overall_ci) == (0.85, 0.0)
    assert found.area_limits_m2[0].tolist() == [18.75, 18.75]
    assert found.overall_limits == (0.85, 0.85)
    assert np.isnan([found.users[2], found.users_ci[2], found.producers[2]]).all()
    # Every pixel as a sample of itself gives the same shares.
    sampled = estimate(("a", "b", "c"), counts, found.mapped_area_m2, pixels=counts.sum(axis=1))
    np.testing.assert_allclose(sampled.area_m2, found.area_m2, rtol=1e-12)
    assert sampled.area_ci_m2.tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["sample", "reference", "absent"])
def test_json_keeps_all(kind: str) -> None:
    counts = np.array([[70, 10, 0], [5, 15, 0], [0, 0, 0]])
    if kind == "reference":
        found = exact(("Agua", "Viñedo", "c"), counts, counts * 0.1)
    elif kind == "sample":
        found = estimate(NAMES, SAMPLE, PIXELS * PIXEL_M2, pixels=PIXELS, finite=True, pending=7)
    else:
        found = estimate(("a", "b"), [[5, 5], [0, 1]], [10.0, 2.0])
    text = found.as_json()
    back = from_json(text, "f.json")
    assert back.as_json() == text
    assert back.as_csv() == found.as_csv()
    for key in ("area_m2", "area_ci_m2", "users", "users_ci", "producers", "producers_ci"):
        np.testing.assert_array_equal(getattr(back, key), getattr(found, key))
    np.testing.assert_array_equal(back.area_limits_m2, found.area_limits_m2)
    content = json.loads(text)  # without NaN, which is no JSON
    assert content["source"] == found.source
    if kind == "sample":
        assert content["pending"] == 7
        assert content["estimates"][0]["area_ha"] == found.area_m2[0] / HECTARE
    if kind == "absent":
        assert content["overall_accuracy_ci95"] is None
    assert "Viñedo" in text or kind != "reference"


@pytest.mark.parametrize("source", ["sample", "reference"])
def test_json_says_what_ground_it_is_of(source: str) -> None:
    counts = np.array([[7, 1], [2, 15]])
    found = exact(("a", "b"), counts, counts * 0.25)
    if source == "sample":
        found = estimate(("a", "b"), counts, [40.0, 60.0], pixels=[160, 240])
    content = json.loads(found.as_json())
    assert [content[key] for key in ("sheets", "splits", "maps")] == [[], [], ""]
    assert content["total_area_m2"] == found.total_m2 == (100 if source == "sample" else 6.25)
    told = replace(found, sheets=("s", "t"), splits=("test", "map"), maps="0123456789abcdef")
    text = told.as_json()
    back = from_json(text, "f.json")
    assert (back.sheets, back.splits, back.maps) == (("s", "t"), ("test", "map"), told.maps)
    assert back.as_json() == text
    # Files of before know nothing of it.
    later = ("sheets", "splits", "maps", "skipped", "sampling", "outside")
    older = {k: v for k, v in content.items() if k not in later}
    assert from_json(json.dumps(older), "f.json").as_json() == found.as_json()
    with pytest.raises(InputError, match="do not fit together"):
        from_json(text.replace('["test", "map"]', '["test"]'), "f.json")


def test_json_says_which_points_were_left_out() -> None:
    found = estimate(("a", "b"), [[7, 1], [2, 15]], [40.0, 60.0], pending=9)
    assert json.loads(found.as_json())["skipped"] == []
    text = replace(found, skipped=(0, 4), outside=3, sampling="simple").as_json()
    back = from_json(text, "f.json")
    assert (back.skipped, back.outside, back.sampling) == ((0, 4), 3, "simple")
    assert back.as_json() == text
    assert json.loads(exact(("a",), [[4]], [[1.0]]).as_json())["sampling"] is None
    for right, wrong in (
        ("[0, 4]", "[0]"), ("[0, 4]", "[0, 9.5]"), ("[0, 4]", "[0, -4]"), ('"simple"', '"odd"'),
        ('"outside": 3', '"outside": -3'),
    ):  # fmt: skip
        with pytest.raises(InputError, match="do not fit together"):
            from_json(text.replace(right, wrong), "f.json")


def test_what_is_no_json_of_ours_is_refused(paper: AreaEstimates) -> None:
    text = paper.as_json()
    wrong = {
        "{": "is not JSON",
        "[]": "holds no area estimates",
        text.replace('"layout": 1', '"layout": 9'): "holds no area estimates",
        text.replace('"Forest gain", ', "", 1): "do not fit together",
        text.replace("[66, ", '["x", ', 1): "do not fit together",
        text.replace("[66, ", "[6.5, ", 1): "do not fit together",
        text.replace("[66, ", "[-66, ", 1): "do not fit together",
        text.replace('"areas_m2"', '"a"').replace('"sample",', '"reference",', 1): "do not fit",
    }
    for broken, message in wrong.items():
        assert broken != text
        with pytest.raises(InputError, match=rf"f\.json: .*{message}"):
            from_json(broken, "f.json")


def test_the_table_has_hectares_and_leaves_empty_what_is_not_known(paper: AreaEstimates) -> None:
    rows = list(csv.DictReader(io.StringIO(paper.as_csv())))
    assert [row["class"] for row in rows] == [*NAMES, "total"]
    assert rows[0]["points"] == "75"
    assert rows[0]["mapped_ha"] == "18000.000000"
    assert float(rows[0]["area_ha"]) == pytest.approx(21157.762, abs=1e-3)
    assert float(rows[0]["area_ci95_ha"]) == pytest.approx(6157.634, abs=1e-3)
    assert (rows[4]["points"], rows[4]["area_ha"]) == ("640", "900000.000000")
    assert rows[4]["overall"] == "0.946512"
    assert rows[0]["overall"] == rows[4]["users"] == ""
    absent = estimate(("a", "b"), [[5, 5], [0, 0]], [10.0, 0.0])
    assert list(csv.DictReader(io.StringIO(absent.as_csv())))[1]["users"] == ""


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="2 classes need 2 x 2 counts"):
        estimate(("a", "b"), [[1, 2, 3]], [1.0, 1.0])
    with pytest.raises(ValueError, match="areas are numbers"):
        estimate(("a", "b"), [[1, 2], [1, 2]], [1.0, -1.0])
    with pytest.raises(InputError, match="all areas are 0"):
        estimate(("a", "b"), [[0, 0], [0, 0]], [0.0, 0.0])
