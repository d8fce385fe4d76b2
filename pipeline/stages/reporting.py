"""From matrices, curves and maps to the report."""

from __future__ import annotations

import logging

from pipeline.confusion import ConfusionMatrix
from pipeline.paths import REPORT_FIGURES, REPORT_TABLES
from pipeline.publication import published
from pipeline.run import Run

log = logging.getLogger(__name__)


def report(run: Run) -> None:
    """Put matrices, curves, maps and data together in one page, and in files of their own."""
    from pipeline import (
        evidence,
        figures,
        job_costs,
        report_figures,
        report_scores,
        report_summary,
        report_tables,
        reporting,
    )

    paths, settings = run.paths, run.settings
    cleaned = settings.cleaning.asked
    data = evidence.report_data(
        paths,
        run.sheets,
        run.nomenclature,
        settings.as_yaml(),
        settings.tiling.split == "blocks",
        cleaned,
        settings.evaluation,
        settings.seed,
    )
    matrix = data.matrix or ConfusionMatrix.empty(run.nomenclature.names)
    drawn = report_figures.drawings(data)
    text = reporting.render_report(data, drawn)
    lines = [
        *report_summary.summary(data),
        f"Report: {paths.report}",
        f"Maps: {paths.delivered_map('*', cleaned)}",
        f"QGIS project: {paths.project}",
    ]
    beside = {
        paths.scores: report_scores.scores_json(data).encode(),
        paths.matrix: matrix.as_csv().encode(),
        paths.matrix_picture: figures.confusion_picture(matrix),
        paths.resources: job_costs.resources_yaml(data.advice).encode(),
        paths.summary: ("\n".join(lines) + "\n").encode(),
    }
    tables, drawings = report_tables.tables(data), report_figures.files(data, drawn)
    beside |= {paths.report_table(name): tables[name].encode() for name in REPORT_TABLES}
    beside |= {paths.report_figure(name): drawings[name] for name in REPORT_FIGURES}
    with published(paths.report, *beside) as (page, *drafts):
        page.write_text(text, "utf-8")
        for draft, content in zip(drafts, beside.values(), strict=True):
            draft.write_bytes(content)
    for line in lines:
        log.info("%s", line)
