"""Figures, read back: what is drawn where, in which words, and nothing from elsewhere."""

from __future__ import annotations

import base64
import functools
import io
import math
import re
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline import svg
from pipeline.agreement_figures import agreement_figure
from pipeline.area_estimates import AreaEstimates, estimate
from pipeline.area_figures import area_figure
from pipeline.bootstrap import Interval, Intervals
from pipeline.calibration import LEVELS, Calibration
from pipeline.cost_figures import cost_figure
from pipeline.evaluation_figures import (
    class_bars,
    distance_figure,
    reliability_figure,
    trust_figure,
)
from pipeline.outlines import BINS, OutlineCounts
from pipeline.polygon_agreement import AgreementCounts
from pipeline.scores import Scores, scores

NAMES = ("water", '<b>&"$5$', "road")
COLORS = ("#61AAF2", "#F4F0E1", "#787878")
MATRIX = np.array([[900, 100, 0], [50, 950, 0], [0, 0, 0]])  # nothing is road
COSTS = [
    ("label_raster", 30.0, 984.0, 410.0),
    ("train", 5200.0, 58_320.0, 3100.0),
    ("map_sheet", 60.0, math.nan, math.nan),
    ("confusion", 2.0, None, 80.0),
]


def calibration(*levels: tuple[int, int, int]) -> Calibration:
    """Per cent of confidence, pixels wrong, pixels right."""
    counts = np.zeros((2, LEVELS, 2), np.int64)
    for confidence, wrong, right in levels:
        counts[0, confidence] = wrong, right
    return Calibration(counts)


# At 95 per cent 96 of 100 are right, at 45 per cent 60 of 100, at 25 per cent 1 of 2.
SURE = calibration((95, 4, 96), (45, 40, 60), (25, 1, 1))


def outlines(classes: int = 3) -> OutlineCounts:
    """Half of class 0 is right up to 1 px, all of it farther; class 1 lies within 1 px only."""
    by_distance = np.zeros((classes, BINS, 2), np.int64)
    by_distance[0, 0], by_distance[0, 1:] = (50, 50), (0, 10)
    by_distance[1, 0] = 75, 25
    return OutlineCounts(by_distance, np.zeros((classes, 4), np.int64), 3)


def intervals(of: Scores) -> Intervals:
    def around(value: float) -> Interval:
        return Interval(value, value - 0.05, value + 0.02)

    def of_classes(name: str) -> tuple[Interval, ...]:
        return tuple(around(getattr(entry, name)) for entry in of.classes)

    whole = around(of.overall_accuracy)  # the figures show classes only
    return Intervals(
        tuple(entry.name for entry in of.classes), 20, 20, 100, (20,) * len(of.classes), whole,
        whole, whole, whole, whole, whole, of_classes("users"), of_classes("producers"),
        of_classes("f1"), of_classes("iou"),
    )  # fmt: skip


def agreement(classes: int = 3) -> AgreementCounts:
    siose = np.zeros((4, classes))
    mapped = np.zeros((4, classes))
    siose[:, 0], mapped[:, 0] = (1, 1, 0.5, 0), (0.22, 0.97, 0.5, 0)
    siose[:, 1], mapped[:, 1] = 1 - siose[:, 0], 1 - mapped[:, 0]
    return AgreementCounts.of(
        [f"class {k}" for k in range(classes)], mapped, siose, np.full(4, 10.0), {}
    )


def estimates(mapped: tuple[float, ...] = (4e6, 2e6, 1e6)) -> AreaEstimates:
    sample = np.array([[90, 10, 0], [5, 95, 0], [0, 0, 50]])
    return estimate(NAMES, sample, np.array(mapped))


FIGURES: dict[str, Callable[[], bytes]] = {
    "reliability": lambda: reliability_figure(SURE),
    "trust": lambda: trust_figure(SURE, 0.95),
    "distance": lambda: distance_figure(outlines(), NAMES, COLORS, 0.25),
    "classes": lambda: class_bars(scores(NAMES, MATRIX), None, NAMES, COLORS),
    "agreement": lambda: agreement_figure(agreement(), NAMES, COLORS),
    "areas": lambda: area_figure(estimates(), NAMES, COLORS),
    "costs": lambda: cost_figure(COSTS),
}


def elements(drawing: bytes, kind: str) -> list[ElementTree.Element]:
    return [e for e in ElementTree.fromstring(drawing).iter() if e.tag.endswith(f"}}{kind}")]


def texts(drawing: bytes) -> list[str]:
    return ["".join(e.itertext()) for e in elements(drawing, "text")]


def corners(element: ElementTree.Element) -> NDArray[np.float64]:
    """x, y of a path of straight lines."""
    numbers = re.findall(r"-?[\d.]+", element.get("d", ""))
    return np.array(numbers, np.float64).reshape(-1, 2)


def filled(drawing: bytes, color: str) -> list[NDArray[np.float64]]:
    """Boxes of that fill; the chips beside the names are none, they are 7 pixels wide."""
    paths = [
        corners(e) for e in elements(drawing, "path")
        if f"fill: {color.lower()}" in e.get("style", "") and " C " not in e.get("d", "")
    ]  # fmt: skip
    return [path for path in paths if np.ptp(path[:, 0]) > 10]


def grid(drawing: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions of the grid's lines: x of the upright ones, y of the level ones."""
    lines = [
        corners(e) for e in elements(drawing, "path")
        if f"stroke: {svg.LINE}" in e.get("style", "")
    ]  # fmt: skip
    upright = {line[0, 0] for line in lines if line[0, 0] == line[1, 0]}
    level = {line[0, 1] for line in lines if line[0, 1] == line[1, 1]}
    return np.array(sorted(upright)), np.array(sorted(level, reverse=True))


def per_cent(grid_lines: NDArray[np.float64], position: float) -> float:
    """What a position says on an axis whose grid runs from 0 to 100."""
    return float(100 * (position - grid_lines[0]) / (grid_lines[-1] - grid_lines[0]))


@functools.cache
def drawn(name: str) -> bytes:
    return FIGURES[name]()


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_values_give_the_same_bytes_whatever_the_users_own_style(name: str) -> None:
    drawing = drawn(name)
    with mpl.rc_context({"font.size": 30, "text.color": "red", "svg.fonttype": "path"}):
        assert FIGURES[name]() == drawing


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_loaded_from_elsewhere(name: str) -> None:
    text = drawn(name).decode()
    assert set(re.findall(r'https?:[^"]*', text)) <= {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink",
    }  # fmt: skip
    links = re.findall(r'href="([^"]*)"|url\(([^)]*)\)', text)
    assert all(a.startswith(("#", "data:image/png;base64,")) or b.startswith("#") for a, b in links)
    assert not re.search(r"<script|<metadata|<!DOCTYPE|@import|onload", text)
    ids = re.findall(r' id="(\w+)"', text)
    assert set(re.findall(r"#(i\d+)", text)) == set(ids)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", ["distance", "classes", "agreement", "areas"])
def test_names_are_text_whatever_they_hold(name: str) -> None:
    drawing = drawn(name)
    assert NAMES[1] in texts(drawing)
    assert b"&lt;b&gt;&amp;" in drawing


@pytest.mark.parametrize("name", FIGURES)
def test_ink_turns_with_the_readers_scheme_and_the_ground_is_clear(name: str) -> None:
    drawing = drawn(name)
    (sheet,) = elements(drawing, "style")
    light, _, dark = (sheet.text or "").partition("@media (prefers-color-scheme:dark)")
    assert "fill" not in light
    assert f'[style*="fill: {svg.INK}"]{{fill:#e4e8ee!important}}' in dark
    styles = [e.get("style", "") for e in ElementTree.fromstring(drawing).iter()]
    used = {color for style in styles for color in re.findall(r"(?:fill|stroke): (#\w{6})", style)}
    turned = set(re.findall(r"(#\w{6})\"", dark))
    # Classes and what stands for none alone keep their colours; white and black are nobody's.
    assert used - turned <= {color.lower() for color in COLORS}
    assert all(e.get("style") == "fill: none" for e in elements(drawing, "path")[:1])
    words = [e.get("style", "") for e in elements(drawing, "text")]
    assert all(re.search(f"fill: ({svg.INK}|{svg.QUIET})", style) for style in words)


def test_a_file_of_its_own_is_light_on_white_and_otherwise_the_same() -> None:
    page = drawn("distance")
    file = svg.on_white(page)
    assert b"@media" not in file
    (sheet,) = elements(file, "style")
    assert (sheet.text or "").startswith("text{font-family:")
    ground, *_rest = (e for e in ElementTree.fromstring(file) if not e.tag.endswith("}style"))
    assert ground.attrib == {"width": "100%", "height": "100%", "fill": "#ffffff"}
    assert texts(file) == texts(page)
    assert len(elements(file, "path")) == len(elements(page, "path"))


def test_roles_have_contrast_on_both_grounds() -> None:
    def light(color: str) -> float:
        channels = np.array(list(bytes.fromhex(color[1:]))) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ (0.2126, 0.7152, 0.0722))

    def contrast(one: str, other: str) -> float:
        high, low = sorted((light(one), light(other)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for role in (svg.INK, svg.QUIET, svg.ACCENT, svg.WARN, svg.GOOD):
        assert contrast(role, "#ffffff") >= 4.5, role
        assert contrast(svg._DARK[role], "#14181d") >= 4.5, role


def test_bars_of_reliability_stand_where_their_bins_are() -> None:
    drawing = reliability_figure(SURE)
    across, up = grid(drawing)
    (sure,) = [bar for bar in filled(drawing, svg.ACCENT) if per_cent(across, bar[:, 0].min()) > 80]
    assert per_cent(across, sure[:, 0].min()) == pytest.approx(90, abs=0.1)
    assert per_cent(up, sure[:, 1].min()) == pytest.approx(95, abs=0.1)  # then the gap to 96
    tops = [
        corners(e)[0, 1] for e in elements(drawing, "path")
        if "stroke-width: 2.2" in e.get("style", "")
    ]  # fmt: skip
    heights = sorted(per_cent(up, top) for top in tops[:3])
    assert heights == pytest.approx([50, 60, 96], abs=0.1)
    # 2 of 202 pixels are under one per cent: hollow.
    dotted = [
        e for e in elements(drawing, "path")
        if "stroke-dasharray: 1.8" in e.get("style", "") and "fill: none" in e.get("style", "")
    ]  # fmt: skip
    assert per_cent(across, corners(dotted[0])[:, 0].min()) == pytest.approx(20, abs=0.1)
    told = texts(drawing)
    assert {"100", "2"} <= set(told)  # pixels of the bins
    gap = (100 * 0.01 + 100 * 0.15 + 2 * 0.25) / 202
    assert f"Mean gap (ECE): {100 * gap:.1f}\u202f%" in told


def test_what_can_be_trusted_is_marked_and_told() -> None:
    drawing = trust_figure(SURE, 0.95)
    across, up = grid(drawing)
    marks = [e for e in elements(drawing, "use") if f"stroke: {svg.GROUND}" in e.get("style", "")]
    places = [
        (per_cent(across, float(e.get("x", ""))), per_cent(up, float(e.get("y", ""))))
        for e in marks
    ]
    # The x axis ends half a per cent behind 100; the grid does not.
    assert places[0] == pytest.approx((46, 96), abs=0.1)
    assert places[1] == pytest.approx((46, 100 * 100 / 202), abs=0.1)
    assert "49.5\u202f% of the map has 46 % confidence" in texts(drawing)
    assert "or more, and is at least 95 % right." in texts(drawing)
    assert "However sure, its pixels are never 99.9 % right." in texts(trust_figure(SURE, 0.999))
    assert "All of the map is 70 % right." in texts(trust_figure(SURE, 0.7))
    assert "share of the map they are" in texts(drawing)


def test_where_some_ground_has_no_confidence_trust_is_of_the_rest() -> None:
    partly = Calibration(SURE.counts, unknown=1)
    told = texts(trust_figure(partly, 0.95))
    assert "49.5\u202f% of the ground with a confidence has 46 %" in told
    assert "share of all with a confidence" in told
    assert not any("the map" in text for text in told)
    assert "However sure, its pixels are never 99.9 % right." in texts(trust_figure(partly, 0.999))
    told = texts(trust_figure(partly, 0.7))
    assert "All of the ground with a confidence is 70 % right." in told


def test_accuracy_by_distance_is_told_in_pixels_metres_and_by_class() -> None:
    drawing = distance_figure(outlines(), NAMES, COLORS, 0.25)
    told = texts(drawing)
    assert NAMES[2] not in told  # there is none of it
    assert {"0.25", "0.5", "8", "more"} <= set(told)
    # 200 of 320 pixels within the first, 10 of 320 in each of the others.
    assert "62" in told
    assert told.count("3") >= BINS - 1
    assert {"50", "25"} <= set(told)  # by class, within 1 px
    assert told.count("100") >= BINS - 1
    (image,) = elements(drawing, "image")
    alpha = pixels(image)[..., 3]
    assert alpha.shape == (2, BINS)
    assert (alpha[0] > 0).all()
    assert alpha[0, 0] < alpha[0, 1]
    assert alpha[1, 0] > 0
    assert (alpha[1, 1:] == 0).all()  # no pixels: nothing is drawn


def pixels(image: ElementTree.Element) -> NDArray[np.uint8]:
    address = next(value for key, value in image.attrib.items() if key.endswith("href"))
    content = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


def test_bars_of_classes_are_as_long_as_their_iou() -> None:
    of = scores(NAMES, MATRIX)
    drawing = class_bars(of, None, NAMES, COLORS)
    across, _ = grid(drawing)
    for k, iou in ((0, 900 / 1050), (1, 950 / 1100)):
        (bar,) = filled(drawing, COLORS[k])
        assert per_cent(across, bar[:, 0].max()) == pytest.approx(100 * iou, abs=0.1)
        assert f"{100 * iou:.1f}\u202f%" in texts(drawing)
    assert filled(drawing, COLORS[2]) == []  # absent: a name and a dash, no bar of length 0
    assert "–" in texts(drawing)
    users = [e for e in elements(drawing, "use") if f"fill: {svg.ACCENT}" in e.get("style", "")]
    found = sorted(per_cent(across, float(e.get("x", ""))) for e in users)[-2:]
    assert found == pytest.approx(sorted([100 * 900 / 950, 100 * 950 / 1050]), abs=0.1)


def test_whiskers_reach_over_their_intervals() -> None:
    of = scores(NAMES, MATRIX)
    drawing = class_bars(of, intervals(of), NAMES, COLORS)
    across, _ = grid(drawing)
    ends = [
        corners(e)[:, 0] for e in elements(drawing, "path")
        if f"stroke: {svg.INK}; stroke-width: 1.2" in e.get("style", "") and not e.get("id")
    ]  # fmt: skip
    found = sorted(tuple(round(per_cent(across, x), 1) for x in line) for line in ends)
    wanted = [(100 * (iou - 0.05), 100 * (iou + 0.02)) for iou in (900 / 1050, 950 / 1100)]
    assert np.array(found) == pytest.approx(np.array(wanted), abs=0.1)
    assert "per cent (whiskers: 95 % intervals)" in texts(drawing)


def test_polygons_lie_at_their_shares_siose_across_and_map_upwards() -> None:
    drawing = agreement_figure(agreement(), NAMES, COLORS)
    images = elements(drawing, "image")
    assert len(images) == 2  # no polygon has any road
    cells = np.argwhere(pixels(images[0])[..., 3] > 0).tolist()
    # Row 0 is above: a map's share of 22 per cent is the fifth bin from below.
    assert cells == [[0, 19], [9, 10], [15, 19], [19, 0]]
    (scale,) = {tuple(e.get("transform", "").split()[1:3]) for e in images}
    assert scale == ("0", "0")
    assert all(not e.get("transform", "").startswith("matrix(-") for e in images)
    mean_error = 100 * (0.78 + 0.03) / 4
    assert f"MAE {mean_error:.1f}, bias −{mean_error:.1f}" in texts(drawing)


def test_areas_are_told_with_the_digits_that_their_intervals_leave() -> None:
    found = estimates()
    drawing = area_figure(found, NAMES, COLORS)
    told = texts(drawing)
    for k in range(3):
        area, (low, high) = found.area_m2[k] / 1e6, found.area_limits_m2[k] / 1e6
        written = [f"{number:.2f}"[:-1] + r"\d+" for number in (area, low, high)]
        pattern = "{} \\({} to {}\\)".format(*written)
        assert any(re.fullmatch(pattern, text) for text in told), told
    assert "area in km²" in told
    assert "area in ha, logarithmic" in texts(
        area_figure(estimates((9e5, 5e4, 4e3)), NAMES, COLORS)
    )


@pytest.mark.parametrize(("water", "marks"), [(4e6, 3), (4e8, 2)])
def test_no_area_is_a_mark_at_zero_and_none_on_a_logarithmic_axis(water: float, marks: int) -> None:
    sample = np.array([[90, 10, 0], [5, 95, 0], [0, 0, 0]])
    found = estimate(NAMES, sample, np.array([water, 2e6, 0.0]))
    drawing = area_figure(found, NAMES, COLORS)
    diamonds = [e for e in elements(drawing, "use") if f"fill: {svg.GROUND}" in e.get("style", "")]
    assert len(diamonds) == marks + 1  # one of them in the legend
    assert NAMES[2] in texts(drawing)


def test_times_stand_beside_those_of_the_study_where_it_told_them() -> None:
    drawing = cost_figure(COSTS)
    told = texts(drawing)
    assert {"30.0\u202fs", "16\u202fmin 24\u202fs", "16\u202fh 12\u202fmin", "410\u202fMB"} <= set(
        told
    )
    assert {"3.1\u202fGB", "this run", "study of 2017"} <= set(told)
    diamonds = [e for e in elements(drawing, "use") if f"fill: {svg.WARN}" in e.get("style", "")]
    assert len(diamonds) == 3  # one of them in the legend; none for NaN and None
    alone = texts(cost_figure([("confusion", 2.0, None, math.nan)]))
    assert "study of 2017" not in alone


@pytest.mark.parametrize("classes", [1, 30])
def test_few_and_many_classes_stay_small_and_whole(classes: int) -> None:
    rng = np.random.default_rng(1)
    names = [f"Arbolado forestal denso de coníferas {k}" for k in range(classes)]
    colors = [f"#{value:06X}" for value in rng.integers(0, 1 << 24, classes)]
    matrix = rng.integers(1, 99, (classes, classes)).astype(np.int64)
    distances = rng.integers(1, 9999, (classes, BINS, 2))
    counts = OutlineCounts(distances, np.zeros((classes, 4), np.int64), 3)
    shares = rng.dirichlet(np.full(classes, 0.3), 500)
    polygons = AgreementCounts.of(names, shares, shares[::-1], np.ones(500), {})
    of = scores(names, matrix)
    areas = estimate(names, matrix, rng.uniform(1e4, 1e6, classes))
    drawings = {
        "distance": distance_figure(counts, names, colors, 0.5),
        "classes": class_bars(of, intervals(of), names, colors),
        "agreement": agreement_figure(polygons, names, colors),
        "areas": area_figure(areas, names, colors),
    }
    for name, drawing in drawings.items():
        assert len(drawing) < 65_000, name
        named = [text for text in texts(drawing) if text.startswith("Arbolado")]
        assert len(named) == classes, name
        height = float(ElementTree.fromstring(drawing).get("height", ""))
        # Each row has room for two lines of its name.
        assert height / classes > 22, name


def test_nothing_to_draw_is_refused() -> None:
    empty = Calibration.empty(2)
    nothing = np.zeros((3, 3), np.int64)
    with pytest.raises(ValueError, match="confidence"):
        reliability_figure(empty)
    with pytest.raises(ValueError, match="confidence"):
        trust_figure(empty, 0.95)
    with pytest.raises(ValueError, match="no pixel is judged"):
        distance_figure(OutlineCounts.empty(3, 3), NAMES, COLORS, 1.0)
    with pytest.raises(ValueError, match="no pixel is judged"):
        class_bars(scores(NAMES, nothing), None, NAMES, COLORS)
    with pytest.raises(ValueError, match="no polygon"):
        agreement_figure(AgreementCounts.empty(NAMES), NAMES, COLORS)
    with pytest.raises(ValueError, match="no step was timed"):
        cost_figure([("train", math.nan, None, 1.0)])


def test_classes_and_names_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ValueError, match="3 scores, 2 names"):
        class_bars(scores(NAMES, MATRIX), None, NAMES[:2], COLORS[:2])
    with pytest.raises(ValueError, match="3 areas, 2 names"):
        area_figure(estimates(), NAMES[:2], COLORS[:2])
