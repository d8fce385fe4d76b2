"""From several runs to one page that sets them side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pipeline import config
from pipeline.errors import InputError, SettingsError
from pipeline.paths import RunPaths
from pipeline.publication import published

log = logging.getLogger(__name__)


def compare(
    folders: Sequence[Path],
    out: Path,
    *,
    baseline: Path | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> None:
    """Set runs side by side: ``index.html``, ``compare.csv`` and ``compare.json``.

    Args:
        folders: Folders of two or more runs.
        out: Folder to write.
        baseline: The run that the others are held against; the first where none is named.
        draws: How often blocks of ground are drawn for each interval.
        seed: Of the draws.

    Raises:
        SettingsError: If the runs are not two or more, or one stands there twice.
        InputError: If files of the runs are missing or damaged, all at once, or do not fit
            together.
    """
    from pipeline import comparison_page, judged_runs, run_comparison
    from pipeline.comparison_summary import cautions, summary

    first = _number_of(folders, baseline)
    sheets = _judged_sheets(folders)
    names = run_comparison.distinct_names(folders)
    settings = [config.read_yaml(RunPaths(folder).settings) for folder in folders]
    runs, times = judged_runs.read_runs(names, folders, settings, [sheets[of] for of in folders])
    comparison = run_comparison.compared(runs, first, draws, seed, times)
    page = comparison_page.render(comparison, draws)
    outputs = (out / "index.html", out / "compare.csv", out / "compare.json")
    with published(*outputs) as (index, table, numbers):
        index.write_text(page, "utf-8")
        table.write_text(comparison.as_csv(), "utf-8")
        numbers.write_text(comparison.as_json(), "utf-8")
    for line in summary(comparison):
        log.info("%s", line)
    for line in cautions(comparison):
        log.warning("%s", line)
    log.info("Comparison: %s", outputs[0])


def _number_of(folders: Sequence[Path], baseline: Path | None) -> int:
    """Check the folders that are named, and find the baseline among them."""
    resolved = [folder.resolve() for folder in folders]
    if len(folders) < 2:
        raise SettingsError(
            "compare: sets two or more runs side by side.",
            remedy="Name their folders: python -m pipeline compare run/a run/b",
        )
    twice = sorted({str(f) for f, at in zip(folders, resolved, strict=True)
                    if resolved.count(at) > 1})  # fmt: skip
    if twice:
        raise SettingsError("compare: a run is named twice.", twice)
    if baseline is None:
        return 0
    if baseline.resolve() not in resolved:
        raise SettingsError(
            f"--baseline {baseline}: is none of the runs.", [str(folder) for folder in folders]
        )
    return resolved.index(baseline.resolve())


def _judged_sheets(folders: Sequence[Path]) -> dict[Path, list[str]]:
    """Sheets of each run that have been judged; all that is missing is told at once."""
    from pipeline.judged_runs import every, ground_sheets

    missing, found = [], {}
    for folder in folders:
        paths = RunPaths(folder)
        if not paths.settings.is_file():
            missing.append(f"{paths.settings}: the run's own settings; is this a run's folder?")
            continue
        written = sorted(path.stem for path in every(paths.confusion("*")))
        squares = [path.name for path in every(paths.block_matrices("*"))]
        if not written:
            missing.append(f"{paths.confusion('*')}: written by the rule `confusion`")
            continue
        # Of the run's own plan: the sheets table may have moved, or another be where it was.
        sheets = written
        if paths.ground.exists():
            try:
                sheets = ground_sheets(paths.ground) or written
            except InputError as error:
                missing.append(error.what)
                continue
        found[folder] = sheets
        for sheet in sheets:
            if sheet not in written:
                missing.append(f"{paths.confusion(sheet)}: written by the rule `confusion`")
            if paths.block_matrices(sheet).name not in squares:
                missing.append(f"{paths.block_matrices(sheet)}: written by the rule `evaluation`")
    if missing:
        raise InputError(
            "Runs cannot be compared: files of theirs are missing.",
            missing,
            "Run the workflow of each; or the rule alone: python -m pipeline evaluation "
            "--config RUN/settings.yaml --sheet SHEET",
        )
    return found
