"""Area estimates as tables for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.table import Table

from pipeline.area_estimates import HECTARE, AreaEstimates
from pipeline.numerals import NONE, count, hectares, percent


def area_tables(estimates: AreaEstimates, truth: AreaEstimates | None = None) -> Group:
    """Areas in ha and per cent, and accuracies in per cent, with their 95 % intervals.

    Args:
        estimates: Of a sample, or of a full reference, which has no intervals.
        truth: A full reference of the same ground, to set beside a sample.

    Returns:
        Two tables of one row a class, and a line with the overall accuracy.
    """
    sampled = estimates.source == "sample"
    basis = f"{count(estimates.points)} {'points' if sampled else 'pixels'}"
    if estimates.pending:
        basis += f", {count(estimates.pending)} left out"
    areas = _table(f"Areas in ha, from {basis}")
    heads = ["points" if sampled else "pixels", "mapped", "area", "share"]
    heads[3:3] = ["95 % interval"] if sampled else []
    for head in (*heads, *(["truth"] if truth else [])):
        areas.add_column(head, justify="right")
    accuracies = _table("Accuracies")
    for head in ("user's", "producer's"):
        accuracies.add_column(head, justify="right")
        if sampled:
            accuracies.add_column("95 % interval", justify="right")
    for k, name in enumerate(estimates.names):
        cells = [count(int(estimates.sample[k].sum())), _ha(estimates.mapped_area_m2[k])]
        cells.append(_ha(estimates.area_m2[k]))
        row = [name]
        if sampled:
            half, (low, high) = estimates.area_ci_m2[k], estimates.area_limits_m2[k]
            cells[-1] += "" if math.isnan(half) else f" ± {_ha(half)}"
            cells.append(NONE if math.isnan(low) else f"{_ha(low)} to {_ha(high)}")
        cells.append(percent(float(estimates.shares.area[k])))
        if truth:
            cells.append(_ha(truth.area_m2[k]))
        areas.add_row(name, *cells, end_section=k == len(estimates.names) - 1)
        for value, half, limits in (
            (estimates.users[k], estimates.users_ci[k], estimates.users_limits[k]),
            (estimates.producers[k], estimates.producers_ci[k], estimates.producers_limits[k]),
        ):
            row.append(percent(value) + (_plus(half) if sampled else ""))
            row += [_span(limits)] if sampled else []
        accuracies.add_row(*row)
    areas.add_row(
        "total", count(estimates.points), _ha(estimates.total_m2), _ha(estimates.total_m2)
    )
    overall = f"Overall accuracy: {percent(estimates.overall)}"
    if sampled:
        overall += f"{_plus(estimates.overall_ci)}, 95 % interval "
        overall += _span(estimates.overall_limits)
    if truth:
        overall += f"; in truth {percent(truth.overall)}"
    note = "± is 1.96 standard errors, as published; the intervals hold for rare classes, too."
    return Group(areas, accuracies, overall, *([note] if sampled else []))


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", overflow="fold")
    return table


def _ha(area_m2: float) -> str:
    return NONE if math.isnan(area_m2) else hectares(area_m2 / HECTARE)


def _plus(half: float) -> str:
    return "" if math.isnan(half) else f" ± {100 * half:.1f}"


def _span(limits: Sequence[float]) -> str:
    low, high = limits
    return NONE if math.isnan(low) else f"{100 * low:.1f} to {percent(high)}"
