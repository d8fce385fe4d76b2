"""The report: one self-contained page that says how good the map is, and of what it was made.

Values in, text out: the stages read and write the files. Nothing in the page is loaded from
elsewhere, so it can be mailed, archived and opened without a network.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline import diagnosis, figures, thumbnails
from pipeline.bootstrap import Interval
from pipeline.class_overlays import COLORS, encode_overlays
from pipeline.compute_costs import STUDY_GIGAPIXELS, beside_the_study
from pipeline.confusion import ConfusionMatrix
from pipeline.job_costs import SNAKEMAKE_MB, in_words, resources_yaml, unadvised
from pipeline.numerals import (
    area,
    count,
    decimal,
    duration,
    hectares,
    hours,
    percent,
    plain,
    signed,
)
from pipeline.paths import RunPaths
from pipeline.report_data import ReportData
from pipeline.report_figures import drawings
from pipeline.report_gaps import missing
from pipeline.report_summary import (
    confusions,
    judged_ground,
    masked_reasons,
    near_outlines,
    on_cluster,
    sampled_ground,
    summary,
    target_text,
)
from pipeline.siose_problems import KINDS
from pipeline.tile_pictures import encode_tiles

REASONS = {
    "orthophoto_nodata": "the orthophoto has no data there",
    "no_polygon": "no SIOSE polygon covers it",
    "unknown": "SIOSE itself says that the cover is unknown",
    "empty_label": "the polygon carries no label",
    "unmapped": "none of the polygon’s covers belongs to a class",
    "composite": "several classes in one polygon, and composite polygons are masked",
    "below_min_share": "several classes in one polygon, none with the share that is asked for",
    "below_min_margin": "several classes in one polygon, the largest hardly ahead of the second",
    "boundary": "too near to a polygon’s outline",
}
"""What the reasons for masking mean, for people."""

SAMPLES_BYTES, THUMBNAILS_BYTES, OVERLAYS_BYTES, TILES_BYTES = 2**20, 2**22, 2**21, 3 * 2**19
"""What pictures may take of a page that is mailed: 12 MB in all once in base64, which is a third
more, and leaves room for the tables."""

OVERLAYS = 300
"""So many overlays of classes are shown at most."""

STUDY_NAMES = ("forest", "rest")
STUDY_COUNTS = ((847_682_090, 200_993_073), (297_048_081, 4_053_969_030))
"""Confusion matrix of the study of 2017 as it printed it: rows predicted, columns real."""

TABLE_SHEETS = 200
"""So many sheets stand in a table of the page; the files have all."""


SHOWN_CHANGES = 20
"""So many comparisons of years have their tables in the page; the files have all."""


def page_environment() -> Environment:
    """What turns a template of this package into a page; filters write numbers as people do.

    A page that includes ``report.css`` may carry the script that sorts its tables, ``script``,
    which its Content-Security-Policy allows by ``script_hash``.
    """
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "count": count,
        "percent": percent,
        "duration": duration,
        "hectares": hectares,
        "value": plain,
        "uri": thumbnails.data_uri,
        "between": between,
        "state": in_words,
        "hours": hours,
        "signed": signed,
        "decimal": decimal,
    }
    environment.filters |= filters
    script = _template("report.js")
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    environment.globals |= {
        "script": Markup(script),
        "script_hash": f"sha256-{base64.b64encode(digest).decode('ascii')}",
        "isnan": math.isnan,
    }
    return environment


def between(interval: Interval) -> str:
    """The bounds of an interval of shares, in per cent without the sign."""
    return f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"


def render_report(data: ReportData, drawn: Mapping[str, bytes] | None = None) -> str:
    """Write the page.

    Args:
        data: All values; the same values give the same text.
        drawn: Its drawings, where they are made already.

    Returns:
        HTML, self-contained, below 15 MB.
    """
    matrix, scores, absent = data.matrix, data.scores, missing(data)
    judged = [(s, s.matrix.scores()) for s in data.sheets if s.matrix and s.matrix.pixels]
    ranked = sorted(judged, key=lambda pair: pair[1].overall_accuracy)[:TABLE_SHEETS]
    shown = {sheet.name for sheet, _ in ranked}
    labelled = [sheet for sheet in data.sheets if sheet.labels]
    panels = figures.PANELS if matrix and scores else ()
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            matrix=matrix,
            scores=scores,
            summary=summary(data),
            missing=lambda part: absent.get(part, ""),
            drawings=drawings(data) if drawn is None else drawn,
            confusions=confusions(matrix) if matrix else [],
            panels={name: figures.confusion_panel(matrix, name) for name in panels if matrix},
            by_row=matrix.by_reference().tolist() if matrix else [],
            by_column=matrix.by_mapped().tolist() if matrix else [],
            study=_study(matrix) if matrix and scores else None,
            intervals=data.intervals,
            block_m=f"{data.block_m:.4g} m",
            draws=data.intervals.draws if data.intervals else 0,
            sheet_scores=[pair for pair in judged if pair[0].name in shown],
            sheet_scores_left=len(judged) - len(shown),
            curves=figures.curves_panels(data.curves) if data.curves else {},
            trained=diagnosis.course(data.curves),
            silence=diagnosis.silence(data.curves),
            samples=thumbnails.fitted(data.samples, SAMPLES_BYTES) if data.samples else None,
            label_rows=labelled[:TABLE_SHEETS],
            label_rows_left=len(labelled[TABLE_SHEETS:]),
            label_pixels=sum(s.labels.pixels for s in labelled if s.labels),
            splits=_splits(data),
            reasons=masked_reasons(data),
            meanings=REASONS,
            errors=(thumbnails.CORRECT, thumbnails.WRONG, thumbnails.UNMAPPED),
            steps=data.steps,
            compared=beside_the_study(data.steps),
            resources=resources_yaml(data.advice),
            slurm_total=on_cluster(data),
            snakemake_mb=SNAKEMAKE_MB,
            unadvised=unadvised(data.accounting.jobs, data.advice),
            target=target_text(data),
            trust_ground=judged_ground(data),
            sampled=sampled_ground(data),
            limits_known=bool(
                data.estimates
                and data.estimates.source == "sample"
                and np.isfinite(data.estimates.area_limits_m2).any()
            ),
            study_gigapixels=STUDY_GIGAPIXELS,
            **_confidence(data),
            **_polygons(data),
            **_checks(data),
            **_changes(data),
            **_pictures(data),
        )
    )


@cache
def _environment() -> Environment:
    """That of the report, whose templates are compiled once."""
    environment = page_environment()
    environment.filters["area"] = _area
    return environment


@pass_context
def _area(context: Context, pixels: int) -> str:
    return area(pixels, context["data"].pixel_area)


def _template(name: str) -> str:
    return files("pipeline").joinpath(name).read_text(encoding="utf-8")


def _confidence(data: ReportData) -> dict[str, Any]:
    """What the sections on confidence and outlines show beyond their drawings."""
    if not data.evaluation:
        return {"calibration": None, "outlines": None, "near": None}
    calibration, outlines = data.evaluation.calibration, data.evaluation.outlines
    return {
        "calibration": calibration,
        "class_ece": calibration.class_ece().tolist(),
        "class_confidence": [_mean_confidence(level) for level in calibration.counts],
        "trusted": calibration.trusted_share(data.target_accuracy),
        "outlines": outlines,
        "boundary": outlines.boundary_f(),
        "near": near_outlines(outlines),
    }


def _mean_confidence(levels: NDArray[np.int64]) -> tuple[int, float, float]:
    """Pixels, mean confidence and accuracy of the pixels that are mapped as one class."""
    pixels = int(levels.sum())
    if not pixels:
        return 0, math.nan, math.nan
    sure = sum(level * int(n) for level, n in enumerate(levels.sum(axis=1)))
    return pixels, sure / pixels / 100, int(levels[:, 1].sum()) / pixels


def _polygons(data: ReportData) -> dict[str, Any]:
    """Agreement with SIOSE's polygons: of all, and of composite ones alone."""
    if not data.agreement:
        return {"agreement": None}
    kinds = (("all polygons", False), ("composite polygons", True))
    return {
        "agreement": data.agreement,
        "statistics": [
            (title, data.agreement.statistics("polygon", c), data.agreement.statistics("area", c))
            for title, c in kinds
            if data.agreement.polygons[int(c)]
        ],
    }


def _checks(data: ReportData) -> dict[str, Any]:
    """Problems of SIOSE's polygons, those of the sheets that were checked."""
    checked = [sheet for sheet in data.sheets if sheet.problems is not None]
    return {
        "checked": checked,
        "checked_rows": checked[:TABLE_SHEETS],
        "problems": [
            (kind.name, kind.sentence, [(s.problems or {}).get(key, 0) for s in checked])
            for key, kind in KINDS.items()
            if any((s.problems or {}).get(key) for s in checked)
        ],
    }


def _changes(data: ReportData) -> dict[str, Any]:
    """Comparisons of years that are shown, and those whose files are named."""
    paths = RunPaths(Path())
    return {
        "changes": data.changes[:SHOWN_CHANGES],
        "changes_left": [
            (told, paths.change_areas(told.place, told.before, told.after).as_posix())
            for told in data.changes[SHOWN_CHANGES:]
        ],
    }


def _pictures(data: ReportData) -> dict[str, Any]:
    """Pictures of sheets, overlays of classes, and tiles, each within its budget."""
    pictured = [(s, s.thumbnails) for s in data.sheets if s.thumbnails]
    # Pictures too small to see say nothing: of many classes, fewer sheets.
    most = max(1, OVERLAYS // len(data.names))
    judged = [(sheet, layers) for sheet, layers in pictured if sheet.matrix]
    overlays = encode_overlays(
        [layers for _, layers in judged[:most]], len(data.names), OVERLAYS_BYTES
    )
    worst, best = data.tiles
    tiles = encode_tiles([*worst, *best], data.colors, TILES_BYTES)
    shown = list(zip([*worst, *best], tiles, strict=True))
    encoded = thumbnails.encode(
        [layers for _, layers in pictured], data.colors, budget=THUMBNAILS_BYTES
    )
    return {
        "sheet_pictures": list(zip((s for s, _ in pictured), encoded, strict=True)),
        "sheet_pictures_left": len(data.sheets) - len(pictured),
        "overlays": list(zip((s for s, _ in judged[:most]), overlays, strict=True)),
        "overlays_left": sum(sheet.matrix is not None for sheet in data.sheets) - len(overlays),
        "overlay_colors": COLORS,
        "tiles": {"Worst tiles": shown[: len(worst)], "Best tiles": shown[len(worst) :]},
    }


def _study(matrix: ConfusionMatrix) -> dict[str, Any] | None:
    """The matrix in the layout of the study of 2017, for two classes as it had; None of others."""
    if len(matrix.names) != len(STUDY_NAMES):
        return None
    columns = zip(
        matrix.counts.T.tolist(), matrix.by_mapped().T.tolist(), STUDY_COUNTS, strict=True
    )
    right = sum(row[number] for number, row in enumerate(STUDY_COUNTS))
    return {
        "names": STUDY_NAMES,
        "accuracy": right / sum(map(sum, STUDY_COUNTS)),
        "rows": [
            {
                "counts": counts,
                "shares": shares,
                "study_counts": published,
                "study_shares": [pixels / sum(published) for pixels in published],
            }
            for counts, shares, published in columns
        ],
    }


def _splits(data: ReportData) -> dict[str, dict[str, int]]:
    """Split -> class -> labelled pixels, in the order in which the sheets name the splits."""
    splits: dict[str, dict[str, int]] = {}
    for sheet in data.sheets:
        if sheet.labels:
            pixels = splits.setdefault(sheet.split, dict.fromkeys(data.names, 0))
            for name, number in sheet.labels.classes.items():
                pixels[name] += number
    return splits
