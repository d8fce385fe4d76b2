"""The report's first paragraph: what the map is worth, in plain words.

A term of the field stands behind what it means, in brackets.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pipeline.confusion import ConfusionMatrix
from pipeline.numerals import (
    THIN,
    area,
    count,
    duration,
    hectares,
    hours,
    listed,
    percent,
    plural,
    signed,
)
from pipeline.outlines import DISTANCES, OutlineCounts
from pipeline.report_data import ReportData
from pipeline.scores import ClassScores, Scores

NAMED_REASONS = 3
"""So many reasons for masking are named; the table has all."""

CLOSE = 0.02
"""Mean confidence and accuracy no farther apart than this are the same, for people."""


def summary(data: ReportData) -> list[str]:
    """The result in plain sentences, nine at most."""
    if not data.matrix or not data.scores:
        return [
            "No labelled test ground was compared with the map, so this report says nothing "
            "about its accuracy. Give a sheet the split “test” to find out.",
            *_areas(data),
            *_masked(data),
        ]
    return [
        *_accuracy(data, data.scores),
        *_by_class(data.matrix, data.scores),
        *_confidence(data),
        *_outlines(data),
        *_composites(data),
        *_areas(data),
        *_masked(data),
    ]


def confusions(matrix: ConfusionMatrix) -> list[tuple[str, str, float]]:
    """Each class, the one that it is most often mapped as in error, and the share; "" if none."""
    found = []
    for number, (name, row) in enumerate(zip(matrix.names, matrix.counts, strict=True)):
        wrong = row.copy()
        wrong[number] = 0
        other, pixels = int(wrong.argmax()), int(row.sum())
        if wrong[other]:
            found.append((name, matrix.names[other], int(wrong[other]) / pixels))
        else:
            found.append((name, "", math.nan))
    return found


def masked_reasons(data: ReportData) -> dict[str, int]:
    """Reason -> masked pixels of all sheets, the most frequent first."""
    reasons: dict[str, int] = {}
    for sheet in data.sheets:
        for reason, number in (sheet.labels.masked if sheet.labels else {}).items():
            if number:
                reasons[reason] = reasons.get(reason, 0) + number
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def target_text(data: ReportData) -> str:
    """The accuracy that is asked for, as short as it was given."""
    return f"{100 * data.target_accuracy:.4g}{THIN}%"


class NearOutlines(NamedTuple):
    """Where the errors are.

    Attributes:
        ground: Share of the ground that lies near outlines.
        accuracy: Accuracy there.
        inside: Accuracy of the rest.
        errors: Share of all errors that lie near; NaN without any.
        within_px: How far is near, in pixels.
    """

    ground: float
    accuracy: float
    inside: float
    errors: float
    within_px: int


def near_outlines(outlines: OutlineCounts) -> NearOutlines | None:
    """Where the errors are: near outlines, or inside; None where either has no pixels.

    Near is up to the tolerance, or where no bin of distances ends there, up to the last edge of
    one before it.
    """
    bins = sum(edge <= outlines.tolerance_px for edge in DISTANCES)
    by_distance = outlines.by_distance.sum(axis=0)
    wrong, right = by_distance[:bins].sum(axis=0).tolist()
    wrong_inside, right_inside = by_distance[bins:].sum(axis=0).tolist()
    near, inside = wrong + right, wrong_inside + right_inside
    if not near or not inside:
        return None
    errors = wrong + wrong_inside
    return NearOutlines(
        near / (near + inside),
        right / near,
        right_inside / inside,
        wrong / errors if errors else math.nan,
        DISTANCES[bins - 1],
    )


def judged_ground(data: ReportData) -> str:
    """What a share of the map is of: the map, or of its ground that has a confidence."""
    unknown = data.evaluation.calibration.unknown if data.evaluation else 0
    return "the ground with a confidence" if unknown else "the map"


def on_cluster(data: ReportData) -> str:
    """What the jobs of the run took in all, in a sentence or two."""
    steps = data.slurm_steps
    jobs, finished = len(data.accounting.jobs), sum(step.finished for step in steps)
    still = sum(step.open for step in steps)
    ended = f"{count(finished)} finished"
    if still:
        ended += f", {count(still)} not yet at their end"
    if other := jobs - finished - still:
        ended += f", {count(other)} otherwise"
    held = [f"{hours(sum(step.cpu_hours for step in steps))} CPU hours"]
    if gpu_hours := sum(step.gpu_hours for step in steps):
        held.append(f"{hours(gpu_hours)} GPU hours")
    queued = sum(step.queued_seconds for step in steps)
    return (
        f"{plural(jobs, 'job')} on the cluster: {ended}. They held {listed(held)}, and waited "
        f"{duration(queued)} in the queue, all added up."
    )


def sampled_ground(data: ReportData) -> str:
    """The ground that a sample is of, such as "1.00 ha of 2 sheets"; "" if it is not told."""
    found = data.estimates
    if not found or not found.sheets:
        return ""
    splits = {sheet.name: sheet.split for sheet in data.sheets}
    seen = {*found.splits, *(splits.get(name, "") for name in found.sheets)}
    # Blocks of ground are of all splits, whatever the table says of their sheets.
    included = {"training": {"train", "blocks"}, "validation": {"validation", "blocks"}}
    kinds = [kind for kind, among in included.items() if seen & among]
    ground = f"{hectares(found.total_m2 / 1e4)} ha of {plural(len(found.sheets), 'sheet')}"
    return f"{ground} ({' and '.join(kinds)} ground included)" if kinds else ground


def _accuracy(data: ReportData, scores: Scores) -> list[str]:
    sheets = sum(sheet.matrix.pixels > 0 for sheet in data.sheets if sheet.matrix)
    sentence = (
        f"On {area(scores.pixels, data.pixel_area)} of test ground that the network never saw "
        f"({count(scores.pixels)} labelled pixels in {plural(sheets, 'sheet')}) the map agrees "
        f"with SIOSE on {percent(scores.overall_accuracy)} of the pixels (overall accuracy)"
    )
    if data.intervals and not math.isnan(data.intervals.overall_accuracy.low):
        low, high = data.intervals.overall_accuracy.low, data.intervals.overall_accuracy.high
        sentence += (
            f"; for ground of this kind as a whole that share lies between {percent(low)} and "
            f"{percent(high)} (95{THIN}% interval, from how much places of the test ground differ)"
        )
    sentences = [sentence + "."]
    found = data.intervals
    if found and math.isnan(found.overall_accuracy.low):
        sentences.append(
            f"The test ground has too few squares of ground ({found.told_blocks}) for an interval."
        )
    elif found and found.sparse and math.isnan(found.mean_iou.low):
        rare = listed([name for name, _ in found.sparse])
        sentences.append(
            "Mean IoU, mean F1 and balanced accuracy have no interval, since too few squares of "
            f"ground have {rare}."
        )
    return sentences


def _by_class(matrix: ConfusionMatrix, scores: Scores) -> list[str]:
    present = sorted(scores.present, key=lambda entry: entry.iou)
    worst, best = present[0], present[-1]
    if len(present) > 1:
        sentences = [
            f"The best class is {best.name}, the worst {worst.name}{_mistaken_for(matrix, worst)}: "
            f"of the ground that the map or SIOSE gives to the class, both give "
            f"{percent(best.iou)} and {percent(worst.iou)} to it (IoU), and "
            f"{percent(scores.mean_iou)} on average over the "
            f"{plural(len(present), 'class', 'classes')} found there."
        ]
    else:
        sentences = [
            f"Of the ground that the map or SIOSE gives to {best.name}, the only class found "
            f"there, both give {percent(best.iou)} to it (IoU)."
        ]
    absent = [entry.name for entry in scores.classes if not entry.support]
    if absent:
        sentences.append(
            f"Nothing can be said of {listed(absent)}: the test ground has no such pixels."
        )
    return sentences


def _confidence(data: ReportData) -> list[str]:
    if not data.evaluation or not data.evaluation.calibration.pixels:
        return []
    calibration, target = data.evaluation.calibration, target_text(data)
    trusted, ground = calibration.trusted_share(data.target_accuracy), judged_ground(data)
    if trusted is None:
        trust = f"No part of {ground} is right on {target} of its pixels, however sure it is there"
    elif trusted[1] == 1:
        trust = f"All of {ground} together is right on {target} of its pixels or more"
    else:
        trust = (
            f"{percent(trusted[1])} of {ground} can be trusted to be right on {target} of its "
            f"pixels: the part with a confidence of {trusted[0]}{THIN}% or more"
        )
    if calibration.unknown:
        every = calibration.pixels + calibration.unknown
        trust += f" ({percent(calibration.unknown / every)} of the test ground has none)"
    said, right = calibration.mean_confidence, calibration.accuracy
    means = f"on average it says {percent(said)} and is right on {percent(right)}"
    if said - right > CLOSE:
        verdict = f"the map is surer of itself than it should be (over-confident): {means}"
    elif right - said > CLOSE:
        verdict = f"the map is better than it says (under-confident): {means}"
    else:
        verdict = f"its confidence can be taken at its word: {means}"
    return [f"{trust}; {verdict}."]


def _outlines(data: ReportData) -> list[str]:
    found = near_outlines(data.evaluation.outlines) if data.evaluation else None
    if not data.evaluation or found is None:
        return []
    ground, near, inside, errors, edge = found
    within = plural(edge, "pixel")
    sentence = (
        f"Within {within} of an outline of SIOSE’s polygons ({percent(ground)} of the ground) it "
        f"is right on {percent(near)}, farther inside on {percent(inside)}"
    )
    return [sentence + ("." if math.isnan(errors) else f"; {percent(errors)} of all errors lie "
                        "at outlines.")]  # fmt: skip


def _composites(data: ReportData) -> list[str]:
    if not data.agreement:
        return []
    sentences = []
    statistics = data.agreement.statistics("area", composite=True)
    if statistics.polygons:
        sentence = (
            f"In {plural(statistics.polygons, 'composite polygon')}, of which SIOSE tells shares "
            f"only, the map has the same classes on {percent(1 - statistics.difference)} of the "
            "area"
        )
        bias = np.nan_to_num(statistics.bias)
        most, least = int(bias.argmax()), int(bias.argmin())
        if round(100 * bias[most], 1) > 0 > round(100 * bias[least], 1):
            sentence += (
                f", and has too much of {statistics.names[most]} "
                f"({signed(100 * bias[most])} points) and too little of "
                f"{statistics.names[least]} ({signed(100 * bias[least])})"
            )
        sentences.append(sentence)
    if data.agreement.candidate_count:
        polygons = data.agreement.candidate_count
        on_test = data.agreement.candidate_splits.get("test", 0)
        where = f"{count(on_test) if on_test else 'none'} of them on test ground"
        if polygons == 1:
            where = "on test ground" if on_test else "not on test ground"
        sentences.append(
            f"{plural(polygons, 'polygon')} "
            f"({hectares(data.agreement.candidate_m2 / 1e4)} ha) "
            f"look{'s' * (polygons == 1)} as if the cover had changed since "
            f"SIOSE was drawn, {where}"
        )
    return ["; ".join(sentences) + "."] if sentences else []


def _areas(data: ReportData) -> list[str]:
    if not data.estimates:
        return []
    found = data.estimates
    points = int(found.sample.sum())
    what = "points that people have interpreted" if found.source == "sample" else "reference pixels"
    low, high = found.overall_limits
    sampled = found.source == "sample"
    between = f" ({percent(low)} to {percent(high)})" if sampled and not math.isnan(low) else ""
    where = sampled_ground(data)
    sentence = (
        f"By {count(points)} {what}{where and ' on '}{where} the map is right on "
        f"{percent(found.overall)} of its area{between}"
    )
    gaps = np.nan_to_num(np.abs(found.area_m2 - found.mapped_area_m2))
    limits = found.area_limits_m2
    # What chance explains is not wrong; sums of areas are exact to some digits only.
    slack = 1e-9 * found.total_m2
    beyond = np.maximum(limits[:, 0] - found.mapped_area_m2, found.mapped_area_m2 - limits[:, 1])
    gaps[~(beyond > slack)] = 0  # NaN is not
    number = int(gaps.argmax())
    if gaps[number] > 0:
        least, most = (limits[number] / 1e4).tolist()
        told = f"{hectares(found.area_m2[number] / 1e4)} ha by the {found.source}"
        sentence += (
            f"; the class whose area it gets most wrong is {found.names[number]}, with "
            f"{hectares(found.mapped_area_m2[number] / 1e4)} ha on the map and {told}"
        ) + (f" ({hectares(least)} to {hectares(most)})" if sampled else "")
    elif sampled and np.isfinite(limits).any():
        sentence += "; no class’s area is shown to be wrong"
    return [sentence + "."]


def _masked(data: ReportData) -> list[str]:
    labelled = [sheet.labels for sheet in data.sheets if sheet.labels]
    pixels = sum(labels.pixels for labels in labelled)
    reasons = masked_reasons(data)
    masked = sum(reasons.values())
    unmapped = data.matrix.unmapped if data.matrix and data.scores else 0
    parts = []
    if pixels and masked:
        named = list(reasons.items())[:NAMED_REASONS]
        why = [f"{percent(n / pixels)} {reason.replace('_', ' ')}" for reason, n in named]
        if rest := masked - sum(n for _, n in named):
            why.append(f"{percent(rest / pixels)} for other reasons")
        where = f"the {count(len(labelled))} labelled sheets" if len(labelled) > 1 else "the sheet"
        parts.append(
            f"{percent(masked / pixels)} of all pixels of {where} are masked, neither trained on "
            f"nor tested: {listed(why)}"
        )
    if unmapped:
        parts.append(f"{count(unmapped)} labelled pixels are nodata on the map and count nowhere")
    return ["; ".join(parts) + "."] if parts else []


def _mistaken_for(matrix: ConfusionMatrix, scores: ClassScores) -> str:
    for name, other, share in confusions(matrix):
        if name == scores.name and other:
            return f" ({percent(share)} of it is mapped as {other})"
    return ""
