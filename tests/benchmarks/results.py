"""benchmarks.json and its table."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.publication import write_text

log = logging.getLogger(__name__)

LAYOUT = 1
_COLUMNS = (
    "benchmark",
    "runs",
    "median",
    "items/s",
    "reference",
    "ratio",
    "bar",
    "peak memory",
    "",
)
_RIGHT = range(1, 8)  # columns of numbers


def read(path: Path, machine: Mapping[str, Any], commit: str) -> dict[str, Any]:
    """Results to add to: those of the same machine and commit, or none yet.

    Results of another machine or commit are not mixed in: they are put aside beside the file,
    under the name of their commit.
    """
    fresh = {"layout": LAYOUT, "machine": dict(machine), "commit": commit, "results": {}}
    if not path.exists():
        return fresh
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    told = json.loads(json.dumps(machine))
    if found.get("layout") == LAYOUT and (found["commit"], found["machine"]) == (commit, told):
        return found
    aside = path.with_name(f"{path.stem}.{found.get('commit') or 'before'}{path.suffix}")
    path.rename(aside)
    log.warning("%s is of another machine or commit: it is now %s", path, aside)
    return fresh


def write(content: Mapping[str, Any], path: Path) -> str:
    """Write the results and their table beside them; returns the table."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    text = table(content)
    write_text(path.with_suffix(".md"), text)
    return text


def table(content: Mapping[str, Any]) -> str:
    """All results as Markdown."""
    machine = content["machine"]
    libraries = ", ".join(f"{k} {v}" for k, v in machine["libraries"].items() if v)
    lines = [
        "# Benchmarks",
        "",
        f"- Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['disk']}, Linux {machine['kernel']}",
        f"- Software: Python {machine['python']}, GDAL {machine['gdal']} (rasterio's), system's: "
        f"{machine['gdal_debian'] or 'none'}; {libraries}",
        f"- Commit: {content['commit'] or 'none'}",
        "",
        "Medians; time in seconds. A ratio is of times an item where both did not do as many. Peak "
        "memory is of our process tree, in MB of 10^6 bytes; inputs lie in the page cache.",
    ]
    for name, result in content["results"].items():
        lines += ["", f"## {name}", ""]
        if result.get("changed"):
            lines += ["The code had changes that are not in the commit.", ""]
        if result.get("small"):
            lines += ["Bars are of a full sheet; on this one the start of Python counts more.", ""]
        for reason in ("skipped", "failed"):
            if result.get(reason):
                lines += [f"{reason.capitalize()}: {result[reason]}", ""]
        if result.get("table"):
            lines += [result["table"].rstrip()]
        if not result.get("rows"):
            continue
        facts = {**result["sizes"], **result["facts"]}
        lines += ["; ".join(f"{key} {_plain(value)}" for key, value in facts.items()), ""]
        lines += [_line(_COLUMNS), _line(["---:" if i in _RIGHT else "---" for i in range(9)])]
        lines += [_line(_cells(row)) for row in result["rows"]]
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    bar = ""
    if row["bar"] is not None:
        bar = f"≤ {row['bar']:g} {_verdict(row['met'])}"
    elif row["within"] is not None:
        bar = f"1 ± {row['within']:g} {_verdict(row['met'])}"
    memory = "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
    if row["memory_bar_mb"] is not None:
        memory += f" (≤ {row['memory_bar_mb']:g} {_verdict(row['memory_met'])})"
    if row.get("peak_ratio") is not None:
        memory += f" ({row['peak_ratio']:.3f} of {row['peak_of']}"
        if row["peak_bar"] is not None:
            memory += f", ≤ {row['peak_bar']:g} {_verdict(row['peak_ratio'] <= row['peak_bar'])}"
        memory += ")"
    notes = [row["note"], f"skipped: {row['skipped']}" if row["skipped"] else ""]
    return [
        row["title"],
        str(row["runs"]),
        _number(row["seconds"]),
        _rate(row["items_a_second"]),
        _number(row["reference_seconds"]),
        "" if row["ratio"] is None else f"{row['ratio']:.3f}",
        bar,
        memory,
        "; ".join(filter(None, notes)),
    ]


def _verdict(met: bool | None) -> str:
    return {True: "met", False: "NOT MET", None: "not measured"}[met]


def _number(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


def _rate(items: float | None) -> str:
    if items is None:
        return ""
    return f"{items / 1e6:.0f} M" if items >= 1e7 else f"{items:.0f}"


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " x ".join(map(str, value))
    return str(value)
