"""From several runs to one page that sets them side by side."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import config
from pipeline.errors import InputError, SettingsError
from pipeline.paths import RunPaths
from pipeline.publication import published
from pipeline.sheets import read_sheets

if TYPE_CHECKING:
    from pipeline.compute_costs import StepCost
    from pipeline.run_comparison import JudgedRun

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
        InputError: If files of the runs are missing, all at once, or do not fit together.
    """
    from pipeline import comparison_page, run_comparison
    from pipeline.comparison_summary import cautions, summary

    first = _number_of(folders, baseline)
    sheets = _judged_sheets(folders)
    names = run_comparison.distinct_names(folders)
    runs = [
        _read(name, folder, sheets[folder]) for name, folder in zip(names, folders, strict=True)
    ]
    comparison = run_comparison.compared(runs, first, draws, seed)
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
    missing, found = [], {}
    for folder in folders:
        paths = RunPaths(folder)
        if not paths.settings.is_file():
            missing.append(f"{paths.settings}: the run's own settings; is this a run's folder?")
            continue
        written = sorted(path.stem for path in _every(paths.confusion("*")))
        named = _labelled(paths)
        # A table that has none of them is another run's: this run's folder was moved.
        sheets = named if set(named) & set(written) else written
        found[folder] = sheets
        if not written:
            missing.append(f"{paths.confusion('*')}: written by the rule `confusion`")
            continue
        for sheet in sheets:
            if sheet not in written:
                missing.append(f"{paths.confusion(sheet)}: written by the rule `confusion`")
            if not paths.block_matrices(sheet).exists():
                missing.append(f"{paths.block_matrices(sheet)}: written by the rule `evaluation`")
    if missing:
        raise InputError(
            "Runs cannot be compared: files of theirs are missing.",
            missing,
            "Run the workflow of each; or the rule alone: python -m pipeline evaluation "
            "--config RUN/settings.yaml --sheet SHEET",
        )
    return found


def _labelled(paths: RunPaths) -> list[str]:
    """Sheets with labels in the run's sheets table; none where the table is not there."""
    told = config.read_yaml(paths.settings).get("sheets")
    table = config.find(Path(told), [paths.run]) if isinstance(told, str) else None
    if table is None:
        return []
    return [sheet.name for sheet in read_sheets(table).values() if sheet.split != "map"]


def _every(pattern: Path) -> list[Path]:
    """Files whose names and folders have `*` for what differs."""
    folder = pattern.parent
    if "*" in folder.name:
        return sorted(folder.parent.glob(f"{folder.name}/{pattern.name}"))
    return sorted(folder.glob(pattern.name))


def _read(name: str, folder: Path, sheets: Sequence[str]) -> JudgedRun:
    from pipeline import confusion, evidence
    from pipeline.ground_blocks import read_blocks
    from pipeline.run_comparison import JudgedRun

    paths = RunPaths(folder)
    settings = config.read_yaml(paths.settings)
    card = _card(paths, settings)
    costs = _costs(paths)
    speed = card.with_name(paths.speed.name) if card else None
    weights = card.with_name(paths.best.name) if card else None
    return JudgedRun(
        name=name,
        blocks={sheet: read_blocks(paths.block_matrices(sheet)) for sheet in sheets},
        matrices={
            sheet: confusion.from_json(
                paths.confusion(sheet).read_text("utf-8"), str(paths.confusion(sheet))
            )
            for sheet in sheets
        },
        settings=settings,
        card=evidence.read_json(card) if card else None,
        parameters=_parameters(weights) if weights and weights.exists() else None,
        training_seconds=_training_seconds(costs, speed),
        costs=costs,
    )


def _card(paths: RunPaths, settings: Mapping[str, Any]) -> Path | None:
    """The model card of a run, whose folder may have another name than when it was trained."""
    if paths.card.exists():
        return paths.card
    began = RunPaths(paths.run.parent / Path(str(settings.get("run", ""))).name).name
    folders = paths.card.parent.parent
    there = folders / began / paths.card.name
    cards = [there] if there.exists() else _every(folders / "*" / paths.card.name)
    if len(cards) != 1:
        log.warning("%s: %d model cards; none is shown", paths.run, len(cards))
        return None
    return cards[0]


def _costs(paths: RunPaths) -> list[StepCost]:
    """Time and memory of each step, in the order of the workflow; none where it ran by hand."""
    from pipeline import compute_costs, evidence

    order = {rule: number for number, rule in enumerate(evidence.STEPS)}
    files = _every(paths.benchmark("*", "*"))
    files.sort(key=lambda path: (order.get(path.parent.name, len(order)), str(path)))
    jobs = [
        job
        for path in files
        for job in compute_costs.read_benchmark(
            path.read_text("utf-8"), path.parent.name, path.stem
        )
    ]
    return compute_costs.step_costs(jobs)


def _training_seconds(costs: Sequence[StepCost], speed: Path | None) -> float:
    """Time of training: of the job, else of its steps as the training itself clocked them."""
    from pipeline import evidence

    measured = [step.seconds for step in costs if step.rule == "train"]
    if measured:
        return measured[0]
    if speed is None or not speed.exists():
        return math.nan
    return sum(float(row["seconds"]) for row in evidence.read_curves(speed))


def _parameters(weights: Path) -> int:
    """Numbers that a checkpoint's network has learnt."""
    from safetensors import SafetensorError, safe_open

    running = ("running_mean", "running_var", "num_batches_tracked")  # statistics, not learnt
    try:
        with safe_open(weights, framework="numpy") as file:
            return sum(
                math.prod(file.get_slice(name).get_shape())
                for name in file.keys()  # noqa: SIM118 - no mapping
                if not name.endswith(running)
            )
    except SafetensorError as error:
        raise InputError(
            f"{weights}: is no checkpoint ({error}).", remedy="Train again, or remove it."
        ) from error
