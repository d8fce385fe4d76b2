"""Report gaps: which parts of the report are empty, and what to do to have them.

A step that was never run, a map without confidence and ground without polygons are no errors:
the report says so where the part would stand, and so do its files.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.numerals import count, listed
from pipeline.outlines import OutlineCounts
from pipeline.report_data import ReportData

NO_TEST = "No labelled test ground was compared with the map: give a sheet the split “test”."
NO_EVALUATION = (
    "Nobody has looked at confidence and outlines yet: "
    "`python -m pipeline evaluation` does, sheet by sheet; then make the report again."
)
NO_SQUARES = (
    "The scores stand without 95 % intervals: not all of the test ground was cut into squares yet. "
    "`python -m pipeline evaluation` does, sheet by sheet; then make the report again."
)
NO_CONFIDENCE = (
    "The maps tell no confidence: set `mapping.confidence: true`, map the sheets again, then run "
    "`python -m pipeline evaluation` and the report."
)
NO_OUTLINES = (
    "No outline of the labels on the test ground can be judged: they have none there, or the strip "
    "that `labels.boundary_px` and `labels.boundary_m` mask on both sides hides all of them. How "
    "exact the map is at outlines is not known then."
)
NO_AGREEMENT = (
    "Nobody has compared the map with the shares of SIOSE’s polygons yet: "
    "`python -m pipeline polygon-agreement` does, sheet by sheet; then make the report again."
)
NO_POLYGONS = "No SIOSE polygon on the test ground can be compared with the map."
NO_CANDIDATES = "No polygon looks as if its cover had changed."
NO_ESTIMATES = (
    "No sample has been interpreted: areas counted on the map carry its errors with them. "
    "`python -m pipeline sample` draws points to interpret in QGIS, and `python -m pipeline "
    "assess` makes of them areas and accuracies with 95 % intervals; then make the report again."
)
NO_LABELS = "No sheet of this run has labels."
NO_MASKED = "No pixel of the labels is masked."
NO_PROBLEMS = "No SIOSE polygon of this run has a problem."
NO_CHECKS = (
    "Nobody has checked the SIOSE polygons: `python -m pipeline check-polygons` does, sheet by "
    "sheet; then make the report again."
)
NO_COSTS = "Nothing was measured: the steps were run by hand, not by Snakemake."
NO_ACCOUNTING = "Nothing was accounted for: the run had no jobs of SLURM."


NAMED_SHEETS = 5
"""So many sheets are named in a sentence."""


def other_classes(file: str, names: Sequence[str]) -> str:
    """Why estimates of other classes are left out.

    Args:
        file: The file of the estimates, as it is called in the run's folder.
        names: Its classes.
    """
    return f"`{file}` is of other classes than the maps have now: {listed(names)}. {_remedy(file)}"


def other_maps(file: str) -> str:
    """Why estimates of other maps are left out."""
    return (
        f"`{file}` is of maps that have been made anew, or removed, since its sample was drawn, "
        f"and says nothing of the present ones. {_remedy(file)}"
    )


def other_interpretation(sample: str) -> str:
    """Why estimates of a sample that was edited are left out."""
    return (
        f"`{sample}` was edited, or drawn anew, since areas were estimated from it. Run "
        "`python -m pipeline assess` again, then make the report again."
    )


def unreadable_sample(sample: str, file: str, why: str) -> str:
    """Why estimates of a sample that nobody can look into are left out."""
    return (
        f"`{sample}` cannot be read, so nobody can tell whether `{file}` is of what it says now: "
        f"{why} Close it in QGIS, or move it away; then make the report again."
    )


def _remedy(file: str) -> str:
    return (
        "Draw another sample (`python -m pipeline sample`), interpret it in QGIS and run "
        f"`python -m pipeline assess`; or remove `{file}`. Then make the report again."
    )


def _unevaluated(data: ReportData) -> str:
    """Which of the test ground nobody has looked at."""
    names, judged = data.unevaluated, sum(bool(s.matrix and s.matrix.pixels) for s in data.sheets)
    if len(names) == judged:
        return NO_EVALUATION
    told = listed([*names[:NAMED_SHEETS], *["others"] * (len(names) > NAMED_SHEETS)])
    return (
        f"{count(len(names))} of the {count(judged)} sheets with test ground "
        f"{'has' if len(names) == 1 else 'have'} no evaluation yet ({told}), and of the rest alone "
        "nothing is told here: `python -m pipeline evaluation` makes it, sheet by sheet; then make "
        "the report again."
    )


def _has_outlines(found: OutlineCounts) -> bool:
    """Whether there is ground near an outline of the labels, or an outline that is judged."""
    return bool(found.by_distance[:, :-1].any() or found.boundary[:, 2].any())


def missing(data: ReportData) -> dict[str, str]:
    """Why a part of the report is empty, in one sentence each; only the parts that are."""
    found: dict[str, str] = {}
    if not data.scores:
        found |= dict.fromkeys(("scores", "evaluation", "confidence", "outlines"), NO_TEST)
    elif not data.evaluation:
        found |= dict.fromkeys(("evaluation", "confidence", "outlines"), _unevaluated(data))
    else:
        if not data.evaluation.calibration.pixels:
            found["confidence"] = NO_CONFIDENCE
        if not data.evaluation.pixels:
            found["outlines"] = NO_TEST
        elif not _has_outlines(data.evaluation.outlines):
            found["outlines"] = NO_OUTLINES
    if not data.intervals:
        found["intervals"] = NO_SQUARES if data.scores else NO_TEST
    if not data.agreement:
        found |= dict.fromkeys(("agreement", "worst", "candidates"), NO_AGREEMENT)
    else:
        if not data.agreement.polygons[0]:
            found["agreement"] = NO_POLYGONS
        if not data.agreement.worst:
            found["worst"] = NO_POLYGONS
        if not data.agreement.candidates:
            found["candidates"] = data.agreement.no_search or NO_CANDIDATES
    if not data.estimates:
        found["areas"] = data.no_estimates or NO_ESTIMATES
    labels = [sheet.labels for sheet in data.sheets if sheet.labels]
    if not labels:
        found |= dict.fromkeys(("labels", "masked", "problems"), NO_LABELS)
    else:
        if not any(sum(each.masked.values()) for each in labels):
            found["masked"] = NO_MASKED
        checks = [sheet.problems for sheet in data.sheets if sheet.problems is not None]
        if not any(any(problems.values()) for problems in checks):
            found["problems"] = NO_PROBLEMS if checks else NO_CHECKS
    if not data.steps:
        found["costs"] = NO_COSTS
    if not data.accounting.jobs:
        found["accounting"] = data.accounting.silence or NO_ACCOUNTING
    return found
