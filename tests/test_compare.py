"""Runs side by side: common ground, paired differences, what is unfair, and the page."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from pipeline import judged_runs, stages
from pipeline.bootstrap import Interval
from pipeline.comparison_page import Scale, render, setting
from pipeline.comparison_summary import cautions, signed, summary
from pipeline.compute_costs import read_benchmark, step_costs
from pipeline.confusion import ConfusionMatrix
from pipeline.errors import InputError, SettingsError
from pipeline.ground_blocks import BlockMatrices, write_blocks
from pipeline.numerals import THIN, count, percent
from pipeline.paths import RunPaths
from pipeline.run_comparison import (
    JudgedRun,
    RunComparison,
    compared,
    differing_settings,
    distinct_names,
)
from pipeline.scores import scores
from tests.test_reporting import Page

NAMES = ("Olivar", '<script>alert("x")</script> & más', "Vía {{ 7*7 }}")
COLORS = ["#A0C800", "#0000FF", "#DC1E1E"]
BLOCKS = 30

CARD: dict[str, Any] = {
    "network": "segnet",
    "encoder": "vgg16",
    "classes": list(NAMES),
    "colors": COLORS,
    "nomenclature": "abc",
    "pixel_size": [0.5, 0.5],
    "scores": {"epoch": 9.5, "mean_iou": 0.5},
    "data": {"sheets": {"train": ["s1", "s2"]}, "pixels": {"train": {"a": 1000, "b": 234}}},
    "versions": {"torch": "2.1", "numpy": "2.0"},
    "commit": "0123456789abcdef",
}


def truth(seed: int = 0) -> NDArray[np.int64]:
    """Reference pixels of each class in each block."""
    return np.random.default_rng(seed).integers(100, 900, (BLOCKS, 3))


def judged(reference: NDArray[np.int64], right: float, seed: int = 1) -> NDArray[np.int64]:
    """Matrices of a map that is right on about so large a share, more on some blocks."""
    random = np.random.default_rng(seed)
    share = np.clip(right + random.normal(0, 0.1, (len(reference), 1)), 0, 1)
    correct = np.round(reference * share).astype(np.int64)
    counts = np.zeros((len(reference), 3, 3), np.int64)
    for number in range(3):
        counts[:, number, number] = correct[:, number]
        counts[:, number, (number + 1) % 3] = (reference - correct)[:, number]
    return counts


def blocks(counts: NDArray[np.int64], first: int = 0, **other: Any) -> BlockMatrices:
    places = np.stack([np.arange(first, first + len(counts)), np.full(len(counts), 3)], axis=1)
    names = other.pop("names", NAMES)
    return BlockMatrices(names, places, "EPSG:25830", counts, other.pop("side_m", 128.0))


def run_of(name: str, part: BlockMatrices, **others: Any) -> JudgedRun:
    matrix = ConfusionMatrix(part.names, part.counts.sum(axis=0))
    settings = others.pop("settings", {"run": f"run/{name}", "seed": 0})
    return JudgedRun(name, {"0722": part}, {"0722": matrix}, settings, **others)


def good() -> JudgedRun:
    return run_of("good", blocks(judged(truth(), 0.8)))


def better() -> JudgedRun:
    """Right where the good one is, and on five per cent more of every block."""
    counts = good().blocks["0722"].counts.copy()
    for number in range(3):
        gain = counts[:, number, (number + 1) % 3] // 4
        counts[:, number, number] += gain
        counts[:, number, (number + 1) % 3] -= gain
    return run_of("better", blocks(counts))


@pytest.fixture(scope="module")
def pair() -> RunComparison:
    return compared([good(), better()], draws=200)


# What is compared with what.


def test_scores_are_those_of_the_summed_blocks(pair: RunComparison) -> None:
    for run, found in zip(pair.runs, pair.scores, strict=True):
        own = scores(NAMES, run.blocks["0722"].counts.sum(axis=0))
        assert found.mean_iou.value == own.mean_iou
        assert found.overall_accuracy.value == own.overall_accuracy
        assert found.mean_iou.low < own.mean_iou < found.mean_iou.high
        assert [of.value for of in found.iou] == [of.iou for of in own.classes]
    gain = pair.differences[1]
    assert gain is not None
    assert gain.mean_iou.value == pair.scores[1].mean_iou.value - pair.scores[0].mean_iou.value
    assert gain.mean_iou.excludes_zero
    assert pair.differences[0] is None
    assert (pair.ranking, pair.ranked_by, pair.fair, pair.same_labels) == (
        (1, 0),
        "mean_iou",
        True,
        True,
    )
    assert pair.leads[0].mean_iou == gain.mean_iou
    assert pair.pixels == (int(truth().sum()),) * 2


def test_runs_are_compared_on_the_places_that_all_have() -> None:
    counts = judged(truth(), 0.8)
    one, other = run_of("one", blocks(counts)), run_of("two", blocks(counts[10:], first=10))
    third = run_of("three", blocks(counts[:25]))
    found = compared([one, other, third], draws=100)
    assert found.blocks == 15
    assert found.pixels == (int(counts[10:25].sum()),) * 3
    expected = scores(NAMES, counts[10:25].sum(axis=0)).mean_iou
    assert [of.mean_iou.value for of in found.scores] == [expected] * 3
    assert found.same_labels
    (told,) = [text for text in cautions(found) if "same ground" in text]
    assert "15 blocks that all have" in told
    assert f"{percent(counts[10:25].sum() / counts.sum())} of what one was judged on" in told
    assert f"{percent(counts[10:25].sum() / counts[10:].sum())} of what two was" in told


def test_runs_without_common_ground_are_told_apart_only(tmp_path: Path) -> None:
    counts = judged(truth(), 0.8)
    apart = compared([run_of("a", blocks(counts)), run_of("b", blocks(counts, 500))], draws=100)
    assert not apart.fair
    assert apart.ranking == ()
    assert apart.leads == ()
    own = scores(NAMES, counts.sum(axis=0)).mean_iou
    assert [of.mean_iou.value for of in apart.scores] == [own, own]
    gain = apart.differences[1]
    assert gain is not None
    assert math.isnan(gain.mean_iou.value)
    assert "which is best cannot be said" in summary(apart)[0]
    assert cautions(apart)[0].startswith("They share no block of ground. Scores are of each run’s")
    assert "which is best cannot be said" in Page(render(apart, 100)).text
    finer = run_of("b", blocks(counts, side_m=100.0))
    sides = compared([run_of("a", blocks(counts)), finer], draws=100)
    assert sides.unlike == ("EPSG:25830",)
    assert "(128 in a and 100 in b, in units" in cautions(sides)[1]
    assert "`evaluation.block_px`" in cautions(sides)[1]


def test_blocks_of_half_the_size_are_put_together() -> None:
    fine = blocks(judged(truth(), 0.8), side_m=64.0)
    coarse = fine.coarser(2)
    assert coarse.side_m == 128.0
    found = compared([run_of("a", coarse), run_of("b", fine)], draws=100)
    assert (found.fair, found.same_labels, found.blocks, found.sides) == (True, True, 15, (128.0,))
    assert found.runs[1].blocks["0722"] == coarse
    (told,) = [text for text in cautions(found) if "differ in size" in text]
    assert "(128 in a and 64 in b, in units" in told
    assert "all scores are of blocks of 128" in told
    text = Page(render(found, 100)).text
    assert "squares with a side of 128 in units of the coordinate system" in text


def test_sizes_that_differ_are_named_though_other_blocks_are_shared() -> None:
    """Two sheets of a run, the second in blocks that fit no others."""
    one, two = good(), better()
    odd = replace(blocks(judged(truth(3), 0.8), first=900), side_m=100.0)
    matrix = ConfusionMatrix(NAMES, odd.counts.sum(axis=0))
    mixed = replace(
        two,
        blocks={**two.blocks, "0723": odd},
        matrices={**two.matrices, "0723": matrix},
    )
    found = compared([one, mixed], draws=100)
    assert (found.fair, found.blocks) == (True, 30)
    (told,) = [text for text in cautions(found) if "differ in size" in text]
    assert "(128 in good and 100 and 128 in better, in units" in told
    assert "ground in blocks of unlike size is not compared" in told


def test_a_run_without_test_ground_does_not_hinder_the_others() -> None:
    nothing = run_of("bare", blocks(np.zeros((0, 3, 3), np.int64)))
    found = compared([nothing, good(), better()], draws=100)
    assert found.fair
    assert found.ranking == (2, 1)
    assert cautions(found) == ["bare: no test ground, so no scores."]
    assert summary(found)[0].startswith("better is the best by mean IoU")
    render(found, 100)
    assert summary(compared([nothing, good()], draws=100)) == [
        "Only good has test ground, so there is nothing to compare."
    ]
    bare = compared([nothing, replace(nothing, name="b")], draws=100)
    assert "nothing can be said" in summary(bare)[0]
    render(bare, 100)


def test_classes_in_another_order_are_told_apart_by_name() -> None:
    order = [2, 0, 1]
    part = better().blocks["0722"]
    shuffled = replace(
        part, names=tuple(NAMES[n] for n in order), counts=part.counts[:, order][:, :, order]
    )
    there, here = run_of("better", shuffled), better()
    found = compared([good(), there], draws=100)
    assert found.runs[1].names == NAMES
    expected = compared([good(), here], draws=100)
    assert found.as_json() == expected.as_json()


def test_other_classes_are_refused_all_at_once() -> None:
    names = ("Olivar", "water", NAMES[2])
    part = blocks(judged(truth(), 0.8), names=names)
    runs = [good(), run_of("two", part), run_of("three", replace(part, names=("a", *names[1:])))]
    with pytest.raises(InputError, match="those of good are Olivar") as caught:
        compared(runs)
    lacks = f"lacks {NAMES[1]!r}"
    assert list(caught.value.items) == [
        f"two, confusion of sheet 0722: {lacks}, has 'water'",
        f"two, evaluation of sheet 0722: {lacks}, has 'water'",
        f"three, confusion of sheet 0722: lacks 'Olivar', {lacks}, has 'a', has 'water'",
        f"three, evaluation of sheet 0722: lacks 'Olivar', {lacks}, has 'a', has 'water'",
    ]


def test_blocks_that_are_older_than_the_matrix_are_refused() -> None:
    run = good()
    matrix = run.matrices["0722"]
    newer = matrix + ConfusionMatrix(NAMES, np.eye(3, dtype=np.int64))
    with pytest.raises(InputError, match="do not count the same pixels") as caught:
        compared([better(), replace(run, matrices={"0722": newer})])
    (item,) = caught.value.items
    assert item == (
        f"good, sheet 0722: {matrix.pixels} pixels of evaluation, {matrix.pixels + 3} of confusion"
    )


def test_other_labels_are_told() -> None:
    other = run_of("other", blocks(judged(truth(9), 0.7)))
    found = compared([good(), other], draws=100)
    assert found.fair
    assert not found.same_labels
    told = " ".join(summary(found))
    assert "good has the highest mean IoU" in told
    assert "not judged by the same labels" in told
    (caution,) = [text for text in cautions(found) if "different labels" in text]
    assert f"{count(truth(9).sum())} pixels in other" in caution


def test_labels_that_lack_a_class_forbid_means_over_classes() -> None:
    counts = judged(truth(), 0.5)
    counts[:, 2] = 0  # no reference of the third class
    found = compared([good(), run_of("two", blocks(counts))], draws=100)
    assert found.ranked_by == "overall_accuracy"
    gain = found.differences[1]
    assert gain is not None
    assert math.isnan(gain.mean_iou.value)
    assert math.isnan(gain.balanced_accuracy.high)
    assert gain.overall_accuracy.excludes_zero
    assert "good has the highest overall accuracy" in summary(found)[0]
    assert any(f"have {NAMES[2]} in good only" in text for text in cautions(found))
    assert "Bold is the run with the highest overall accuracy" in Page(render(found, 100)).text


def test_few_blocks_and_other_covers_are_told() -> None:
    few = blocks(judged(truth()[:6], 0.8))
    cards = [CARD, CARD | {"nomenclature": "xyz"}]
    runs = [run_of(f"r{n}", few, card=card) for n, card in enumerate(cards)]
    told = cautions(compared(runs, draws=100))
    assert told[0].startswith(
        "6 blocks of ground, effectively 5 for their unlike sizes, are few: with less than 10 there"
    )
    assert told[1].startswith("Classes of the same names gather other covers in r1 ")


def test_too_few_blocks_have_no_bounds_anywhere() -> None:
    runs = [run_of(n, blocks(judged(truth()[:9], s, 1))) for n, s in (("a", 0.5), ("b", 0.9))]
    found = compared(runs, draws=100)
    told = " ".join(summary(found))
    assert "b has the highest mean IoU" in told
    assert "on too little ground to say whether that is more than chance" in told
    assert "nan" not in told + " ".join(cautions(found))
    text = render(found, 100)
    assert 'class="whisker"' not in text
    assert not re.search(r"\bnan\b", text.partition("</main>")[0], re.IGNORECASE)
    row = next(csv.DictReader(io.StringIO(found.as_csv())))
    assert (row["low"], row["high"]) == ("", "")
    reason = json.loads(found.as_json())["runs"][1]["scores"]["unbounded"]
    assert reason == (
        "an interval takes 10 blocks of ground, and there are 9, effectively 8 for their unlike "
        "sizes"
    )
    page = Page(text)
    assert page.row("b", 9)[3] == percent(found.scores[1].overall_accuracy.value)
    eleven = [run_of(n, blocks(judged(truth()[:11], 0.8))) for n in "ab"]
    (few,) = cautions(compared(eleven, draws=100))
    assert "likely to be narrower" in few


def rare_truth(number: int) -> NDArray[np.int64]:
    """Reference pixels, 2000 in each block; the third class lies in the first so many."""
    reference = truth()
    reference[number:, 2] = 0
    reference[:, 0] = 2000 - reference[:, 1:].sum(axis=1)
    return reference


def rare_pair(number: int) -> RunComparison:
    """Two runs of which one is better everywhere, with a class in so many blocks of 30."""
    counts = judged(rare_truth(number), 0.6)
    gained = counts.copy()
    for at in range(3):
        gain = gained[:, at, (at + 1) % 3] // 2
        gained[:, at, at] += gain
        gained[:, at, (at + 1) % 3] -= gain
    return compared([run_of("low", blocks(counts)), run_of("high", blocks(gained))], draws=100)


def test_a_class_on_too_little_ground_leaves_the_lead_in_mean_iou_open() -> None:
    found = rare_pair(8)
    assert found.effective_blocks == found.blocks == BLOCKS
    first, second, third = summary(found)
    assert first.startswith("high has the highest mean IoU: ")
    assert "interval" not in first
    assert second.endswith(
        f"points more than low, on too little ground with {NAMES[2]} to say whether that is more "
        "than chance."
    )
    assert third.startswith("By overall accuracy it is ahead, too: ")
    assert third.endswith(": more than the chance of which ground was looked at.")
    (told,) = cautions(found)
    assert told.startswith(
        f"Too little ground for some intervals: {NAMES[2]} in 8 blocks of ground, where one takes "
        "10. So mean IoU, mean F1 and balanced accuracy have none either"
    )
    for run in json.loads(found.as_json())["runs"]:
        assert run["scores"]["unbounded"] is None
        assert run["scores"]["unbounded_means"].endswith(f"and there are 8 with {NAMES[2]}")
        assert run["scores"]["mean_iou"]["low"] is None
        assert run["scores"]["kappa"]["low"] is not None
    rows = [r for r in csv.DictReader(io.StringIO(found.as_csv())) if r["score"] == "mean_iou"]
    assert [(row["low"], row["difference_high"]) for row in rows] == [("", "")] * 2
    page = Page(render(found, 100))
    assert page.row("high", 9)[4] == percent(found.scores[1].mean_iou.value)
    assert told.replace("`", "") in page.text
    enough = rare_pair(10)
    assert cautions(enough) == []
    assert summary(enough)[0].startswith("high is the best by mean IoU: ")


def test_blocks_of_unlike_sizes_are_few_by_what_they_are_worth() -> None:
    """Four whole blocks and twelve strips of a sixteenth."""
    counts = judged(truth()[:16], 0.6)
    counts[4:] //= 16
    found = compared([run_of("a", blocks(counts)), run_of("b", blocks(counts))], draws=100)
    assert (found.blocks, found.effective_blocks) == (16, 4)
    (told,) = cautions(found)
    assert told.startswith(
        "16 blocks of ground, effectively 4 for their unlike sizes, are few: with less than 10 "
    )
    assert json.loads(found.as_json())["common_effective_blocks"] == 4
    # The same map twice is one, with bounds or without.
    assert summary(found)[0].startswith("a and b have the same scores to the pixel")


def test_a_kappa_of_nothing_has_no_sign() -> None:
    """Both classes are mapped at random: kappa is -0.0001 or so."""
    counts = np.zeros((20, 3, 3), np.int64)
    counts[:, :2, :2] = [[2499, 2501], [2500, 2500]]
    runs = [run_of(name, blocks(counts)) for name in ("a", "b")]
    found = compared(runs, draws=100)
    assert -0.0005 < found.scores[0].kappa.value < 0
    assert Page(render(found, 100)).row("a", 9)[-1] == "0.0000.000 to 0.000"


# In words.


def test_the_best_is_told_with_the_interval_of_its_lead(pair: RunComparison) -> None:
    own, lead = pair.scores[1].mean_iou, pair.leads[0].mean_iou
    first, second, third = summary(pair)
    assert first == (
        f"better is the best by mean IoU: {percent(own.value)} (95{THIN}% interval "
        f"{100 * own.low:.1f} to {100 * own.high:.1f}{THIN}%) on 30 blocks of ground "
        f"({count(truth().sum())} pixels)."
    )
    assert second == (
        f"That is {100 * lead.value:.1f}{THIN}points more than good, with a 95{THIN}% interval of "
        f"the difference from {signed(lead.low)} to {signed(lead.high)}: more than the chance of "
        "which ground was looked at."
    )
    accuracies = [percent(of.overall_accuracy.value) for of in pair.scores]
    assert third == (
        f"By overall accuracy it is ahead, too: {accuracies[1]} of the pixels, {accuracies[0]} "
        "next."
    )
    assert cautions(pair) == []


def test_a_lead_that_may_be_chance_is_told_as_one() -> None:
    likely = run_of("like", blocks(judged(truth(), 0.8, seed=5)))
    found = compared([good(), likely], draws=200)
    assert not found.leads[0].mean_iou.excludes_zero
    told = " ".join(summary(found))
    assert "has the highest mean IoU" in told
    assert "which holds zero: it may be the chance of which ground was looked at" in told


def test_the_same_map_twice_is_told_as_such() -> None:
    found = compared([good(), replace(good(), name="twin")], draws=100)
    assert summary(found)[0].startswith("good and twin have the same scores to the pixel")
    assert found.differences[1] is not None
    assert found.differences[1].kappa == Interval(0.0, 0.0, 0.0)


def test_another_winner_by_accuracy_is_named() -> None:
    """Class 0 is nearly all the ground: who is right there wins by pixels, not by classes."""
    reference = truth() * np.array([50, 1, 1])
    even, first = judged(reference, 0.85, seed=3), judged(reference, 0.85, seed=3)
    for number in (1, 2):
        wrong = first[:, number, number] // 2
        first[:, number, number] -= wrong
        first[:, number, (number + 1) % 3] += wrong
    right = first[:, 0, 1] // 3
    first[:, 0, 0] += right
    first[:, 0, 1] -= right
    found = compared([run_of("large", blocks(first)), run_of("even", blocks(even))], draws=200)
    assert found.scores[0].overall_accuracy.value > found.scores[1].overall_accuracy.value
    if found.ranking[0] == 0:
        pytest.fail("the fixture is meant to have two winners")
    told = summary(found)
    assert told[2].startswith("By overall accuracy, large is ahead of it: ")
    assert "more than the chance" in told[2]


# Files.


def test_the_tables_hold_all_numbers(pair: RunComparison) -> None:
    rows = list(csv.DictReader(io.StringIO(pair.as_csv())))
    assert len(rows) == 2 * (6 + 4 * 3)
    found = next(
        r for r in rows if (r["run"], r["score"], r["class"]) == ("better", "iou", NAMES[1])
    )
    own, gain = pair.scores[1].iou[1], pair.differences[1]
    assert gain is not None
    numbers = [*vars(own).values(), *vars(gain.iou[1]).values()]
    assert list(found.values())[3:] == [f"{value:.6f}" for value in numbers]
    first = next(row for row in rows if row["run"] == "good")
    assert first["difference"] == ""
    content = json.loads(pair.as_json())
    assert content["ranking"] == ["better", "good"]
    assert content["runs"][1]["scores"]["mean_iou"] == vars(pair.scores[1].mean_iou)
    assert content["runs"][0]["difference_to_baseline"] is None
    assert content["runs"][0]["training_seconds"] is None
    assert compared([good(), better()], draws=200).as_json() == pair.as_json()


def test_only_settings_that_differ_are_told() -> None:
    common = {"sheets": "a.csv", "training": {"network": "unet", "loss": {"dice": 1.0}}}
    other = {"sheets": "a.csv", "training": {"network": "unet", "loss": {"focal": 1}}, "new": None}
    runs = [
        run_of("a", blocks(judged(truth(), 0.8)), settings={"run": "a"} | common),
        run_of("b", blocks(judged(truth(), 0.8)), settings={"run": "b"} | other),
    ]
    assert differing_settings(runs) == {
        "training.loss.dice": [1.0, None],
        "training.loss.focal": [None, 1],
    }
    assert [setting(value) for value in (None, True, [1, None], 0.5, "x")] == [
        "null",
        "true",
        "[1, null]",
        "0.5",
        "x",
    ]


def test_folders_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c"]
    assert distinct_names(folders) == ["a/run", "b/run", "c"]
    assert distinct_names(folders[1:]) == ["run", "c"]


def test_scales_have_round_numbers_around_all_intervals() -> None:
    scale = Scale.of([Interval(0.54, 0.41, 0.6), Interval(0.88, math.nan, math.nan)])
    assert scale.ticks == pytest.approx((0.4, 0.5, 0.6, 0.7, 0.8, 0.9))
    assert [scale.at(value) for value in (0.4, 0.65, 0.9)] == ["0.00", "50.00", "100.00"]
    around = Scale.of([Interval(-0.004, -0.009, 0.001)], zero=True)
    assert around.ticks == pytest.approx((-0.01, -0.005, 0.0, 0.005))
    told = [around.told(tick, plus=True) for tick in around.ticks]
    assert told == ["−1.0", "−0.5", "0", "+0.5"]
    assert Scale.of([]).ticks == (0.0, 0.001)


# The page.


@pytest.fixture(scope="module")
def text() -> str:
    costs = step_costs(read_benchmark("s\tmax_rss\tcpu_time\n61.5\t812\t90\n", "train", "all"))
    one = replace(good(), card=CARD, parameters=1234567, training_seconds=61.5, costs=costs)
    settings = {"run": "x", "seed": 0, "note": "<b>see</b> https://example.org/x"}
    evil = replace(better(), name="run<img src=x onerror=alert(1)>", settings=settings)
    return render(compared([one, evil], draws=200), 200)


def test_nothing_is_loaded_and_only_the_page_s_own_script_runs(text: str) -> None:
    page = Page(text)
    assert all(source.startswith("#") for source in page.sources)
    assert not re.search(r"url\(|@import", text)
    assert not {"link", "iframe", "object", "embed", "img"} & set(page.tags)
    assert not [tag for tag in page.tags if tag.startswith("on")]
    assert all(f'id="{source[1:]}"' in text for source in page.sources)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1] == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def test_names_are_escaped_wherever_they_stand(text: str) -> None:
    page = Page(text)
    assert '<script>alert("x")' not in text
    assert "<img src=x" not in text
    assert "<b>see</b>" not in text
    assert page.text.count(NAMES[1]) > 2
    assert "{{ 7*7 }}" in page.text
    assert "<b>see</b> https://example.org/x" in page.text
    assert "run<img src=x onerror=alert(1)>" in page.text


def test_the_page_holds_scores_differences_settings_models_and_time(
    text: str, pair: RunComparison
) -> None:
    page = Page(text)
    own = pair.scores[0]

    def told(interval: Interval) -> str:
        return f"{percent(interval.value)}{100 * interval.low:.1f}–{100 * interval.high:.1f}"

    row = page.row("good", 9)
    assert row[1:5] == ["30", count(truth().sum()), told(own.overall_accuracy), told(own.mean_iou)]
    kappa = own.kappa
    assert row[-1] == f"{kappa.value:.3f}{kappa.low:.3f} to {kappa.high:.3f}"
    gain = pair.differences[1]
    assert gain is not None
    difference = page.row("run<img src=x onerror=alert(1)>", 8)[3]
    assert difference == (
        f"{signed(gain.mean_iou.value)}{signed(gain.mean_iou.low)} to {signed(gain.mean_iou.high)}"
    )
    first = next(row for row in page.rows if row[:2] == ["Olivar", "good"])
    assert (
        first[2:]
        == [told(getattr(own, k)[0]) for k in ("iou", "f1", "users", "producers")] + ["–"] * 4
    )
    accuracy = percent(own.overall_accuracy.value)
    sheet = page.row("0722", 7)
    assert sheet[1:4] == [count(truth().sum()), accuracy, percent(own.mean_iou.value)]
    assert ["note", "null", "<b>see</b> https://example.org/x"] in page.rows
    assert not [row for row in page.rows if row[0] in ("seed", "run")]
    assert ["parameters", f"1{THIN}234{THIN}567", "–"] in page.rows
    assert ["train pixels", f"1{THIN}234", "–"] in page.rows
    assert ["time of training", f"1{THIN}min 02{THIN}s", "–"] in page.rows
    assert ["train", "1", f"1{THIN}min 02{THIN}s", "812 MB", "–", "–", "–"] in page.rows


def test_dots_and_whiskers_lie_where_the_numbers_are(text: str, pair: RunComparison) -> None:
    scale = Scale.of(
        getattr(of, key)
        for of in pair.scores
        for key in ("overall_accuracy", "mean_iou", "frequency_weighted_iou", "mean_f1")
    )
    own = pair.scores[1].mean_iou
    assert f'd="M{scale.at(own.low)} 1.5H{scale.at(own.high)}"' in text
    assert f'd="M{scale.at(own.value)} 1.5h0"' in text
    assert text.count('class="zero"') == 5, "one line of zero in each row of the differences"
    assert 'style="background:#A0C800"' in text


def test_colours_that_are_none_are_left_out() -> None:
    card = CARD | {"colors": ["red;background:url(//x)", *COLORS[1:]]}
    text = render(compared([replace(good(), card=card), better()], draws=100), 100)
    assert "url(" not in text
    assert 'class="chip"' not in text


# The command.


def written_run(folder: Path, run: JudgedRun, *others: str, measured: bool = True) -> Path:
    """The files of a run, as the workflow writes them."""
    paths = RunPaths(folder)
    folder.mkdir(parents=True)
    paths.settings.write_text(f"run: {folder.name}\nsheets: none.csv\nseed: 0\n")
    for sheet in ("0722", *others):
        matrix = run.matrices["0722"] if sheet == "0722" else ConfusionMatrix.empty(NAMES)
        part = run.blocks["0722"]
        if sheet != "0722":
            part = replace(part, places=part.places[:0], counts=part.counts[:0])
        for path in (paths.confusion(sheet), paths.block_matrices(sheet)):
            path.parent.mkdir(exist_ok=True)
        paths.confusion(sheet).write_text(matrix.as_json())
        write_blocks(part, paths.block_matrices(sheet))
    paths.models.mkdir(parents=True)
    paths.card.write_text(json.dumps(CARD))
    weights = {"a.weight": np.zeros((3, 4)), "a.running_mean": np.zeros(7), "b": np.zeros(5)}
    save_file(weights, paths.best)
    paths.speed.write_text("epoch,step,seconds\n1,10,20.5\n2,20,30\n")
    if measured:
        benchmark = paths.benchmark("map_sheet", "0722")
        benchmark.parent.mkdir(parents=True)
        benchmark.write_text("s\tmax_rss\tcpu_time\n8.5\t500\t9\n")
    return folder


def test_the_command_reads_the_runs_folders(tmp_path: Path) -> None:
    one = written_run(tmp_path / "one", good(), "0723")
    two = written_run(tmp_path / "two", better(), measured=False)
    stages.compare([one, two], tmp_path / "out", baseline=two, draws=100)
    content = json.loads((tmp_path / "out" / "compare.json").read_text("utf-8"))
    assert content["baseline"] == "two"
    assert content["ranking"] == ["two", "one"]
    first, second = content["runs"]
    assert first["parameters"] == 17
    assert first["training_seconds"] == 50.5
    assert first["steps"] == [{"rule": "map_sheet", "jobs": 1, "seconds": 8.5, "memory_mb": 500}]
    assert second["steps"] == []
    assert list(first["sheets"]) == ["0722", "0723"]
    page = Page((tmp_path / "out" / "index.html").read_text("utf-8"))
    assert ["map_sheet", "1", f"8.5{THIN}s", "500 MB", "–", "–", "–"] in page.rows
    assert page.row("one", 8)[1] == "30"
    before = (tmp_path / "out" / "index.html").read_bytes()
    stages.compare([one, two], tmp_path / "out", baseline=two, draws=100)
    assert (tmp_path / "out" / "index.html").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "compare.csv",
        "compare.json",
        "index.html",
    ]


def test_a_run_whose_folder_has_been_renamed_keeps_its_model(tmp_path: Path) -> None:
    one = written_run(tmp_path / "one", good())
    two = Path(shutil.copytree(one, tmp_path / "two"))
    bare = written_run(tmp_path / "bare", better())
    shutil.rmtree(bare / "models")
    stages.compare([one, two, bare], tmp_path / "out", draws=100)
    content = json.loads((tmp_path / "out" / "compare.json").read_text("utf-8"))
    assert [run["parameters"] for run in content["runs"]] == [17, 17, None]
    RunPaths(one).best.write_bytes(b"no safetensors")
    with pytest.raises(InputError, match="is no checkpoint"):
        stages.compare([one, two], tmp_path / "out", draws=100)


def test_all_missing_files_are_told_at_once(tmp_path: Path) -> None:
    one = written_run(tmp_path / "one", good(), "0723")
    two = written_run(tmp_path / "two", better())
    three = written_run(tmp_path / "three", better())
    for path in (
        RunPaths(one).block_matrices("0722"),
        RunPaths(one).block_matrices("0723"),
        RunPaths(two).confusion("0722"),
        RunPaths(three).settings,
    ):
        path.unlink()
    with pytest.raises(InputError, match="files of theirs are missing") as caught:
        stages.compare([one, two, three], tmp_path / "out")
    assert list(caught.value.items) == [
        f"{one}/evaluation/0722.blocks.parquet: written by the rule `evaluation`",
        f"{one}/evaluation/0723.blocks.parquet: written by the rule `evaluation`",
        f"{two}/confusion/*.json: written by the rule `confusion`",
        f"{three}/settings.yaml: the run's own settings; is this a run's folder?",
    ]
    assert not (tmp_path / "out").exists()


def test_sheets_are_those_of_the_run_s_own_ground(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = written_run(tmp_path / "one", good(), "0723", "0724")
    two = written_run(tmp_path / "two", better())
    ground = RunPaths(one).ground
    ground.parent.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"sheet": ["0723", "0722", "0722"]}), ground)
    # Another project's table where the command is given, of the name that the settings tell.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "none.csv").write_text("sheet,orthophoto,siose,split\n0722,a.tif,b.gpkg,test\n")
    monkeypatch.chdir(elsewhere)
    stages.compare([one, two], tmp_path / "out", draws=100)
    content = json.loads((tmp_path / "out" / "compare.json").read_text("utf-8"))
    assert [list(run["sheets"]) for run in content["runs"]] == [["0723", "0722"], ["0722"]]
    (elsewhere / "none.csv").write_text("not a table of sheets")
    stages.compare([one, two], tmp_path / "out", draws=100)
    pyarrow.parquet.write_table(pyarrow.table({"sheet": ["0722", "0725"]}), ground)
    with pytest.raises(InputError, match="missing") as caught:
        stages.compare([one, two], tmp_path / "out", draws=100)
    assert len(caught.value.items) == 2
    ground.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="missing") as caught:
        stages.compare([one, two], tmp_path / "out", draws=100)
    assert caught.value.items[0].startswith(f"{ground}: cannot be read")


def test_all_damaged_files_are_told_at_once(tmp_path: Path) -> None:
    one = written_run(tmp_path / "one", good())
    two = written_run(tmp_path / "two", better())
    RunPaths(one).confusion("0722").write_bytes(b'{"layout": "\xff"}')
    RunPaths(one).card.write_text("[1]")
    RunPaths(one).speed.write_text("epoch,step\n1,10\n")
    RunPaths(two).card.write_text(json.dumps(CARD | {"data": [1]}))
    RunPaths(two).block_matrices("0722").write_bytes(b"none")
    RunPaths(two).speed.write_text("epoch,step,seconds\n1,10,soon\n")
    with pytest.raises(InputError, match="files of theirs are damaged") as caught:
        stages.compare([one, two], tmp_path / "out", draws=100)
    items = list(caught.value.items)
    assert len(items) == 6
    assert items[0].startswith(f"{RunPaths(two).block_matrices('0722')}: cannot be read")
    assert items[1:] == [
        f"{RunPaths(one).confusion('0722')}: is no UTF-8 text (invalid start byte).",
        f"{RunPaths(one).card}: is no model card, which is a mapping of names.",
        f"{RunPaths(one).speed}: has no column `seconds` of numbers.",
        f"{RunPaths(two).card}: `data` is no mapping, as it is in a model card.",
        f"{RunPaths(two).speed}: has no column `seconds` of numbers.",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("swap", [False, True])
def test_squares_are_as_large_as_memory_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: bool
) -> None:
    folders = [written_run(tmp_path / "one", good()), written_run(tmp_path / "two", better())]
    folders = folders[::-1] if swap else folders
    # 30 blocks of 3 x 3 numbers of 8 bytes in each run; 15 of each fit.
    monkeypatch.setattr(judged_runs, "SQUARES_BYTES", 2 * 15 * 72)
    stages.compare(folders, tmp_path / "out", draws=100)
    content = json.loads((tmp_path / "out" / "compare.json").read_text("utf-8"))
    assert content["common_blocks"] == 15
    assert (content["block_sides"], content["blocks_put_together"]) == ([256.0], 2)
    assert content["same_labels"]
    expected = compared([good(), better()], draws=100)
    told = {run["name"]: run["scores"]["mean_iou"]["value"] for run in content["runs"]}
    values = [of.mean_iou.value for of in expected.scores]
    assert [told["one"], told["two"]] == values
    text = Page((tmp_path / "out" / "index.html").read_text("utf-8")).text
    assert "put together, 2 by 2, to be held in memory: their side is 256" in text


def test_runs_are_two_or_more_and_named_once(tmp_path: Path) -> None:
    one = written_run(tmp_path / "one", good())
    with pytest.raises(SettingsError, match="two or more runs"):
        stages.compare([one], tmp_path / "out")
    with pytest.raises(SettingsError, match="named twice"):
        stages.compare([one, tmp_path / "x" / ".." / "one"], tmp_path / "out")
    with pytest.raises(SettingsError, match="none of the runs"):
        stages.compare([one, tmp_path], tmp_path / "out", baseline=tmp_path / "three")
