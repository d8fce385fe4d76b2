"""Report scores: all that the report says of a map's accuracy, as one JSON document."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pipeline.confusion import ConfusionMatrix
from pipeline.polygon_agreement import WEIGHTS
from pipeline.report_data import ReportData
from pipeline.report_summary import near_outlines


def scores_json(data: ReportData) -> str:
    """The matrix and its scores as :meth:`ConfusionMatrix.as_json`, and all else beside them.

    Returns:
        JSON with the keys of a confusion matrix, and ``intervals``, ``calibration``, ``outlines``,
        ``agreement`` and ``estimates``, each ``null`` where there is none.
    """
    matrix = data.matrix or ConfusionMatrix.empty(data.names)
    content: dict[str, Any] = json.loads(matrix.as_json())
    content["intervals"] = data.intervals.as_dict() if data.intervals else None
    content["calibration"] = _calibration(data)
    content["outlines"] = _outlines(data)
    content["agreement"] = _agreement(data)
    content["estimates"] = json.loads(data.estimates.as_json()) if data.estimates else None
    lines = [
        f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for key, value in content.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _calibration(data: ReportData) -> Mapping[str, Any] | None:
    if not data.evaluation or not data.evaluation.calibration.pixels:
        return None
    found = data.evaluation.calibration
    trusted = found.trusted_share(data.target_accuracy)
    return {
        "pixels": found.pixels,
        "without_confidence": found.unknown,
        "mean_confidence": found.mean_confidence,
        "accuracy": found.accuracy,
        "ece": found.ece(),
        "class_ece": [_null(value) for value in found.class_ece().tolist()],
        "target_accuracy": data.target_accuracy,
        "trusted_from": trusted[0] if trusted else None,
        "trusted_share": trusted[1] if trusted else 0.0,
    }


def _outlines(data: ReportData) -> Mapping[str, Any] | None:
    if not data.evaluation or not data.evaluation.pixels:
        return None
    found = data.evaluation.outlines
    boundary = found.boundary_f()
    near = near_outlines(found) or (*(math.nan,) * 4, None)
    keys = ("share_near", "accuracy_near", "accuracy_inside", "share_of_errors_near", "near_px")
    return {
        "tolerance_px": found.tolerance_px,
        **{key: _null(value) for key, value in zip(keys, near, strict=True)},
        "mean_boundary_f": _null(boundary.mean),
        "boundary_f": [_null(value) for value in boundary.f.tolist()],
        "boundary_precision": [_null(value) for value in boundary.precision.tolist()],
        "boundary_recall": [_null(value) for value in boundary.recall.tolist()],
    }


def _agreement(data: ReportData) -> Mapping[str, Any] | None:
    if not data.agreement:
        return None
    found: dict[str, Any] = {
        f"{which} by {weight}": data.agreement.statistics(weight, which == "composite").as_dict()
        for which in ("all", "composite")
        for weight in WEIGHTS
    }
    found["candidates"] = data.agreement.candidate_count
    found["candidates_m2"] = data.agreement.candidate_m2
    # Means of no polygon are NaN in whatever key.
    return {key: _finite(value) for key, value in found.items()}


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return _null(value)


def _null(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value
