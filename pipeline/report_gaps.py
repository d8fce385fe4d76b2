"""Report gaps: which parts of the report are empty, and what to do to have them.

A step that was never run, a map without confidence and ground without polygons are no errors:
the report says so where the part would stand, and so do its files.
"""

from __future__ import annotations

from pipeline.report_data import ReportData

NO_TEST = "No labelled test ground was compared with the map: give a sheet the split “test”."
NO_EVALUATION = (
    "Nobody has looked at confidence, outlines and squares of ground yet: "
    "`python -m pipeline evaluation` does, sheet by sheet; then make the report again."
)
NO_CONFIDENCE = (
    "The maps tell no confidence: set `mapping.confidence: true`, map the sheets again, then run "
    "`python -m pipeline evaluation` and the report."
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
NO_COSTS = "Nothing was measured: the steps were run by hand, not by Snakemake."


def missing(data: ReportData) -> dict[str, str]:
    """Why a part of the report is empty, in one sentence each; only the parts that are."""
    found: dict[str, str] = {}
    if not data.scores:
        found |= dict.fromkeys(("scores", "evaluation", "confidence", "outlines"), NO_TEST)
    elif not data.evaluation:
        found |= dict.fromkeys(("evaluation", "confidence", "outlines"), NO_EVALUATION)
    else:
        if not data.evaluation.calibration.pixels:
            found["confidence"] = NO_CONFIDENCE
        if not data.evaluation.pixels:
            found["outlines"] = NO_TEST
    if not data.intervals:
        found["intervals"] = NO_EVALUATION if data.scores else NO_TEST
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
        found["areas"] = NO_ESTIMATES
    if not data.steps:
        found["costs"] = NO_COSTS
    return found
