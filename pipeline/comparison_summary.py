"""A comparison of runs in plain sentences: which is best, and what makes it less than fair."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline import numerals
from pipeline.bootstrap import FEWEST_BLOCKS, OVERALL, PER_CLASS, Interval, Intervals
from pipeline.numerals import THIN, count, listed, percent, plain, plural
from pipeline.run_comparison import JudgedRun, RunComparison

MEASURES = {
    "overall_accuracy": "Overall accuracy",
    "mean_iou": "Mean IoU",
    "frequency_weighted_iou": "Frequency-weighted IoU",
    "mean_f1": "Mean F1",
    "balanced_accuracy": "Balanced accuracy",
    "kappa": "Kappa",
}
"""Scores of all classes together, as people read them, in the order of the page."""

FEW_BLOCKS = 20
"""With effectively fewer blocks, percentile intervals come out clearly too narrow."""

_MEANS = ("mean_iou", "mean_f1", "balanced_accuracy")  # over classes


def summary(comparison: RunComparison) -> list[str]:
    """Which run is best, by how much, and whether that is more than chance, in plain sentences."""
    runs, scores, ranking = comparison.runs, comparison.scores, comparison.ranking
    if not comparison.fair:
        told = [
            f"{run.name} has a mean IoU of {percent(of.mean_iou.value)}"
            for run, of in zip(runs, scores, strict=True)
            if of.blocks
        ]
        if not told:
            return ["No run has any test ground, so nothing can be said of which is best."]
        return [
            "These runs have not been judged on the same ground, so which is best cannot be said: "
            f"{listed(told)}, each on its own ground."
        ]
    if len(ranking) < 2:
        return [f"Only {runs[ranking[0]].name} has test ground, so there is nothing to compare."]
    by = comparison.ranked_by
    called = MEASURES[by][0].lower() + MEASURES[by][1:]
    first, second = ranking[:2]
    best, own = runs[first].name, getattr(scores[first], by)
    leads = [getattr(of, by) for of in comparison.leads]
    if all(_nothing(of) for of in comparison.leads):
        return [
            f"{listed([runs[n].name for n in ranking])} have the same scores to the pixel: a "
            f"{called} of {percent(own.value)}{_bounds(own)} on {_ground(comparison)}."
        ]
    sure = comparison.same_labels and leads[0].excludes_zero
    title = f"is the best by {called}" if sure else f"has the highest {called}"
    sentences = [
        f"{best} {title}: {percent(own.value)}{_bounds(own)} on {_ground(comparison)}.",
        f"That is {_points(leads[0].value)} more than {runs[second].name}, "
        f"{_verdict(comparison.leads[0], by)}",
    ]
    equal = [
        runs[number].name
        for number, lead in zip(ranking[2:], leads[1:], strict=True)
        if not lead.excludes_zero
    ]
    if equal:
        either = "" if leads[0].excludes_zero else " either"
        sentences.append(f"{listed(equal)} cannot be told apart from it{either}.")
    if by == "mean_iou":
        sentences.append(_accuracy_sentence(comparison))
    if not comparison.same_labels:
        sentences.append(
            "But the runs were not judged by the same labels, so this may say as much of the "
            "labels as of the maps."
        )
    return sentences


def cautions(comparison: RunComparison) -> list[str]:
    """What makes the comparison less than fair, a sentence or two each."""
    runs = comparison.runs
    told = []
    none = [run.name for run in runs if not run.ground.places]
    if none:
        told.append(f"{listed(none)}: no test ground, so no scores.")
    judged = [run for run in runs if run.ground.places]
    if not comparison.fair and len(judged) > 1:
        told.append(_apart(judged))
    if comparison.fair:
        parts = [
            f"{percent(pixels / int(run.ground.total.sum()))} of what {run.name} was judged on"
            for run, pixels in zip(runs, comparison.pixels, strict=True)
            if run.ground.places and len(run.ground.places) != comparison.blocks
        ]
        if parts:
            told.append(
                f"The runs were not judged on quite the same ground. All scores here are of the "
                f"{plural(comparison.blocks, 'block')} that all have, {listed(parts)}; the rest "
                "is left out."
            )
        if not comparison.same_labels:
            pixels = [
                f"{count(number)} pixels in {run.name}"
                for run, number in zip(runs, comparison.pixels, strict=True)
                if run.ground.places
            ]
            told.append(
                "The runs were judged by different labels, or on different pixels of the same "
                f"blocks ({listed(pixels)}): a difference may be one of the labels as much as of "
                "the maps. To compare the maps alone, judge them by the same labels."
            )
        if partial := _partial_classes(comparison):
            told.append(
                f"The labels of the common ground have {partial}. Mean IoU, mean F1 and balanced "
                "accuracy are means over the classes in each run’s own labels, so here they "
                "cannot be compared: overall accuracy ranks the runs."
            )
        if 0 < comparison.effective_blocks < FEW_BLOCKS:
            number = comparison.effective_blocks
            few = f"{plural(comparison.blocks, 'block')} of ground"
            if number != comparison.blocks:
                few += f", effectively {number} for their unlike sizes,"
            few += " are few: "
            few += (
                f"with less than {FEWEST_BLOCKS} there are no intervals, which would be far too "
                "narrow, so that nothing can be said of chance."
                if number < FEWEST_BLOCKS
                else "the intervals are likely to be narrower than they should be."
            )
            told.append(f"{few} {_MORE_GROUND}")
    told += _sparse_classes(comparison)
    if unlike := _of_other_sizes(comparison):
        told.append(unlike)
    if comparison.times > 1:
        many = comparison.times
        told.append(
            f"There is so much ground that its blocks were put together, {many} by {many}, to be "
            f"held in memory: their side is {_sizes(comparison.sides)}. Larger blocks make "
            "intervals wider, if anything; the scores are the same."
        )
    if other := _of_other_covers(runs):
        told.append(
            f"Classes of the same names gather other covers in {listed(other)} than in the first "
            "run with a model card: their scores are of other classes."
        )
    return told


_MORE_GROUND = "More test ground, or a smaller `evaluation.block_px` if objects are small, helps."


def signed(value: float, unit: float = 100.0) -> str:
    """A difference of two shares with its sign, in percentage points; with 1 as unit, as it is."""
    return numerals.signed(unit * value, 1 if unit == 100 else 3)


def _bounds(interval: Interval) -> str:
    if math.isnan(interval.low):
        return ""
    return f" (95{THIN}% interval {100 * interval.low:.1f} to {100 * interval.high:.1f}{THIN}%)"


def _nothing(lead: Intervals) -> bool:
    """Whether two runs have the same scores, as the same map has; their bounds may be none."""
    found = [getattr(lead, key) for key in OVERALL]
    found += [of for key in PER_CLASS for of in getattr(lead, key)]
    return all(of.value == 0 or math.isnan(of.value) for of in found)


def _verdict(of: Intervals, key: str, back: bool = False) -> str:
    """Whether a score's difference, or the one back, is more than chance."""
    lead = getattr(of, key)
    if back:
        lead = Interval(-lead.value, -lead.high, -lead.low)
    if math.isnan(lead.low):
        little = "on too little ground"
        if key in _MEANS and not of.unbounded and of.sparse:
            little += f" with {listed([name for name, _ in of.sparse])}"
        return f"{little} to say whether that is more than chance."
    bounds = (
        f"a 95{THIN}% interval of the difference from {signed(lead.low)} to {signed(lead.high)}"
    )
    if lead.excludes_zero:
        return f"with {bounds}: more than the chance of which ground was looked at."
    return f"with {bounds}, which holds zero: it may be the chance of which ground was looked at."


def _accuracy_sentence(comparison: RunComparison) -> str:
    """Whether overall accuracy, too, is best where mean IoU is."""
    runs, ranking = comparison.runs, comparison.ranking
    first, accuracies = ranking[0], [of.overall_accuracy.value for of in comparison.scores]
    ahead = max(ranking, key=lambda number: accuracies[number])
    best = percent(accuracies[first])
    if percent(accuracies[ahead]) == best:
        others = [n for n in ranking[1:] if percent(accuracies[n]) == best]
        if not others:
            rest = max(ranking[1:], key=lambda number: accuracies[number])
            told = (
                f"By overall accuracy it is ahead, too: {best} of the pixels, "
                f"{percent(accuracies[rest])} next"
            )
            lead = comparison.leads[ranking.index(rest) - 1]
            if math.isnan(lead.mean_iou.low) and not lead.unbounded:
                return f"{told}, {_verdict(lead, 'overall_accuracy')}"
            return f"{told}."
        level = listed([runs[number].name for number in others])
        return f"By overall accuracy it is level with {level}: {best} of the pixels."
    lead = comparison.leads[ranking.index(ahead) - 1]
    return (
        f"By overall accuracy, {runs[ahead].name} is ahead of it: {percent(accuracies[ahead])} of "
        f"the pixels against {best}, {_verdict(lead, 'overall_accuracy', back=True)}"
    )


def _ground(comparison: RunComparison) -> str:
    pixels = comparison.pixels[comparison.ranking[0]]
    return f"{plural(comparison.blocks, 'block')} of ground ({count(pixels)} pixels)"


def _apart(runs: Sequence[JudgedRun]) -> str:
    """What it means that runs share no ground, and why that may be."""
    why = "They share no block of ground."
    return (
        f"{why} Scores are of each run’s own ground, which may be easier in one than in another; "
        "differences are told of those pairs alone that share any."
    )


def _sparse_classes(comparison: RunComparison) -> list[str]:
    """Classes that lie in too few blocks for an interval, and what has none therefore."""
    found: dict[str, list[str]] = {}
    for run, of in zip(comparison.runs, comparison.scores, strict=True):
        if of.sparse and not of.unbounded:
            worth = "effectively " if of.effective_blocks != of.blocks else ""
            (name, number), *others = of.sparse
            parts = [f"{name} in {worth}{plural(number, 'block')} of ground"]
            parts += [f"{other} in {count(fewer)}" for other, fewer in others]
            found.setdefault(listed(parts), []).append(run.name)
    judged = sum(of.blocks > 0 for of in comparison.scores)
    told = []
    for classes, names in found.items():
        where = "" if len(names) == judged else f" (in {listed(names)})"
        told.append(
            f"Too little ground for some intervals{where}: {classes}, where one takes "
            f"{FEWEST_BLOCKS}. So mean IoU, mean F1 and balanced accuracy have none either: they "
            f"hang on each class as much as on any other. {_MORE_GROUND}"
        )
    return told


def _of_other_sizes(comparison: RunComparison) -> str:
    """That blocks differ in size, and what was made of it."""
    systems = dict.fromkeys(system for of in comparison.own_sides for system in of)
    found: dict[str, dict[float, None]] = {}
    for system in systems:
        if len({side for of in comparison.own_sides for side in of.get(system, ())}) > 1:
            for run, of in zip(comparison.runs, comparison.own_sides, strict=True):
                found.setdefault(run.name, {}).update(dict.fromkeys(of.get(system, ())))
    told = [f"{_sizes(sorted(of))} in {name}" for name, of in found.items() if of]
    if not told:
        return ""
    sizes = f"Blocks of ground differ in size ({listed(told)}, in units of the coordinate system)"
    agree = "set `evaluation.block_px` so that they agree, and run `evaluation` again."
    if comparison.unlike:
        return (
            f"{sizes}, and not all can be put together to the largest: ground in blocks of "
            f"unlike size is not compared. To compare it, {agree}"
        )
    return (
        f"{sizes}: the smaller ones were put together, and all scores are of blocks of "
        f"{_sizes(comparison.sides)}. To compare finer ones, {agree}"
    )


def _sizes(sides: Sequence[float]) -> str:
    return " and ".join(map(plain, sides))


def _partial_classes(comparison: RunComparison) -> str:
    """Classes that the labels of some runs have on the common ground, and of others have not."""
    judged = [
        (run.name, of)
        for run, of in zip(comparison.runs, comparison.scores, strict=True)
        if of.blocks
    ]
    found = []
    for number, name in enumerate(comparison.names):
        has = [run for run, of in judged if not math.isnan(of.producers[number].value)]
        if 0 < len(has) < len(judged):
            found.append(f"{name} in {listed(has)} only")
    return listed(found) if found else ""


def _of_other_covers(runs: Sequence[JudgedRun]) -> list[str]:
    """Runs whose classes have the names of the first card's, and another nomenclature."""
    cards = {run.name: run.card for run in runs if run.card}
    marks = {name: (of.get("classes"), of.get("nomenclature")) for name, of in cards.items()}
    if not marks:
        return []
    classes, mark = next(iter(marks.values()))
    # In another order the same nomenclature has another fingerprint: nothing can be said then.
    return [name for name, of in marks.items() if of[0] == classes and of[1] != mark]


def _points(difference: float) -> str:
    """A difference of two shares, in percentage points."""
    if difference < 0.0005:
        return f"less than 0.1{THIN}points"
    return f"{100 * difference:.1f}{THIN}points"
