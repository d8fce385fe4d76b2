"""From matrices, curves and maps to the report."""

from __future__ import annotations

import logging

from pipeline.confusion import ConfusionMatrix
from pipeline.publication import published
from pipeline.run import Run

log = logging.getLogger(__name__)


def report(run: Run) -> None:
    """Put matrices, curves, maps and data together in one page."""
    from pipeline import evidence, figures, reporting

    paths = run.paths
    blocks = run.settings.tiling.split == "blocks"
    text = run.settings.as_yaml()
    cleaned = run.settings.cleaning.asked
    data = evidence.report_data(paths, run.sheets, run.nomenclature, text, blocks, cleaned)
    matrix = data.matrix or ConfusionMatrix.empty(run.nomenclature.names)
    scores = matrix.scores()
    lines = [
        *reporting.summary(data, matrix, scores),
        f"Report: {paths.report}",
        f"Maps: {paths.delivered_map('*', cleaned)}",
        f"QGIS project: {paths.project}",
    ]
    outputs = (paths.report, paths.scores, paths.matrix, paths.matrix_picture, paths.summary)
    with published(*outputs) as (page, numbers, table, picture, brief):
        page.write_text(reporting.render_report(data), "utf-8")
        numbers.write_text(matrix.as_json(), "utf-8")
        table.write_text(matrix.as_csv(), "utf-8")
        picture.write_bytes(figures.confusion_picture(matrix))
        brief.write_text("\n".join(lines) + "\n", "utf-8")
    for line in lines:
        log.info("%s", line)
