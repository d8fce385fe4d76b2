"""Report figures: the drawings of the report, in its page and as files of their own."""

from __future__ import annotations

import textwrap
from html import escape

from pipeline.agreement_figures import agreement_figure
from pipeline.area_figures import area_figure
from pipeline.compute_costs import beside_the_study
from pipeline.cost_figures import cost_figure
from pipeline.evaluation_figures import (
    class_bars,
    distance_figure,
    reliability_figure,
    trust_figure,
)
from pipeline.paths import REPORT_FIGURES
from pipeline.report_data import ReportData
from pipeline.report_gaps import missing


def drawings(data: ReportData) -> dict[str, bytes]:
    """The drawings that there is something to draw for.

    Returns:
        Name -> SVG: those of :data:`pipeline.paths.REPORT_FIGURES`, and ``areas`` where a sample
        was assessed.
    """
    absent, names, colors = missing(data), data.names, data.colors
    found = {}
    if data.scores:
        found["classes"] = class_bars(data.scores, data.intervals, names, colors)
    if data.evaluation and "confidence" not in absent:
        found["reliability"] = reliability_figure(data.evaluation.calibration)
        found["trust"] = trust_figure(data.evaluation.calibration, data.target_accuracy)
    if data.evaluation and "outlines" not in absent:
        found["outlines"] = distance_figure(
            data.evaluation.outlines, names, colors, data.pixel_area**0.5
        )
    if data.agreement and "agreement" not in absent:
        found["agreement"] = agreement_figure(data.agreement, names, colors)
    if data.estimates:
        found["areas"] = area_figure(data.estimates, names, colors)
    if any(step.seconds > 0 for step in data.steps):
        study = {
            rule: compared.study_seconds
            for compared in beside_the_study(data.steps)
            for rule in compared.published.rules
        }
        found["costs"] = cost_figure(
            [(s.rule, s.seconds, study.get(s.rule), s.memory_mb) for s in data.steps]
        )
    return found


def files(data: ReportData, found: dict[str, bytes]) -> dict[str, bytes]:
    """Every figure of :data:`pipeline.paths.REPORT_FIGURES`; words where there is no drawing.

    Args:
        data: All values.
        found: Its :func:`drawings`.

    Returns:
        Name -> SVG.
    """
    absent = missing(data)
    part = {"classes": "scores", "reliability": "confidence", "trust": "confidence"}
    return {
        name: found.get(name)
        or _note(absent.get(part.get(name, name), "There is nothing to draw."))
        for name in REPORT_FIGURES
    }


def _note(text: str) -> bytes:
    """A drawing of words."""
    lines = textwrap.wrap(text.replace("`", ""), 56)
    height = 24 + 18 * len(lines)
    words = "".join(
        f'<text x="12" y="{26 + 18 * number}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="420" height="{height}" '
        f'viewBox="0 0 420 {height}"><style>text{{font:13px system-ui,sans-serif;fill:#76808d}}'
        f"</style>{words}</svg>\n"
    ).encode()
