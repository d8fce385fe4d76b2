"""What a comparison reads of the folders of runs; all that is damaged is told at once."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow
import pyarrow.parquet

from pipeline import compute_costs, confusion
from pipeline.compute_costs import StepCost
from pipeline.errors import InputError
from pipeline.evidence import STEPS
from pipeline.ground_blocks import BlockMatrices, read_blocks
from pipeline.paths import RunPaths
from pipeline.run_comparison import JudgedRun

log = logging.getLogger(__name__)

SQUARES_BYTES = 64 * 2**20
"""Squares of all runs that are more than this are put together, two by two, until they are not."""

_T = TypeVar("_T")


def read_runs(
    names: Sequence[str],
    folders: Sequence[Path],
    settings: Sequence[Mapping[str, Any]],
    sheets: Sequence[Sequence[str]],
) -> tuple[list[JudgedRun], int]:
    """Read runs sheet by sheet, with squares no finer than memory allows.

    Args:
        names: How each run is called.
        folders: Folder of each.
        settings: Settings of each.
        sheets: Sheets of each that have been judged.

    Returns:
        The runs, and how many times as long the sides of their squares are as in their files: the
        same power of 2 for all, whatever the order.

    Raises:
        InputError: If files are damaged, all at once.
    """
    wrong: list[str] = []
    squares, times = _squares(folders, sheets, wrong)
    runs = []
    for number, (name, folder, of, judged) in enumerate(
        zip(names, folders, settings, sheets, strict=True)
    ):
        paths = RunPaths(folder)
        matrices = {sheet: _tried(wrong, _matrix, paths.confusion(sheet)) for sheet in judged}
        path = _card_path(paths, of)
        speed = path.with_name(paths.speed.name) if path else None
        weights = path.with_name(paths.best.name) if path else None
        costs = _costs(paths, wrong)
        card = _tried(wrong, _card, path) if path else None
        learnt = None
        if weights and weights.exists():
            learnt = _tried(wrong, _parameters, weights)
        seconds = _training_seconds(costs, speed, wrong)
        runs.append(
            JudgedRun(
                name=name,
                blocks={
                    sheet: squares[number, sheet] for sheet in judged if (number, sheet) in squares
                },
                matrices={sheet: part for sheet, part in matrices.items() if part is not None},
                settings=of,
                card=card,
                parameters=learnt,
                training_seconds=seconds,
                costs=costs,
            )
        )
    if wrong:
        raise InputError(
            "Runs cannot be compared: files of theirs are damaged.",
            wrong,
            "Each is written again by the rule that made it; `speed.csv` and benchmarks may also "
            "be deleted: their times are then left out.",
        )
    return runs, times


def ground_sheets(ground: Path) -> list[str]:
    """Sheets with ground in a run's tile plan, in its order.

    Raises:
        InputError: If the file is damaged.
    """
    try:
        rows = pyarrow.parquet.read_table(ground, columns=["sheet"])
        return list(dict.fromkeys(rows["sheet"].to_pylist()))
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise InputError(
            f"{ground}: cannot be read ({error}).", remedy="Run tile_plan again."
        ) from error


def every(pattern: Path) -> list[Path]:
    """Files whose names and folders have `*` for what differs."""
    folder = pattern.parent
    if "*" in folder.name:
        return sorted(folder.parent.glob(f"{folder.name}/{pattern.name}"))
    return sorted(folder.glob(pattern.name))


def _squares(
    folders: Sequence[Path], sheets: Sequence[Sequence[str]], wrong: list[str]
) -> tuple[dict[tuple[int, str], BlockMatrices], int]:
    found: dict[tuple[int, str], BlockMatrices] = {}
    times = 1
    for number, (folder, judged) in enumerate(zip(folders, sheets, strict=True)):
        for sheet in judged:
            path = RunPaths(folder).block_matrices(sheet)
            part = _tried(wrong, _blocks, path)
            if part is None:
                continue
            found[number, sheet] = part.coarser(times) if times > 1 else part
            # Not for ever: one square of each of very many sheets may be too much, and has to do.
            while sum(of.counts.nbytes for of in found.values()) > SQUARES_BYTES and times < 2**12:
                times *= 2
                found = {key: of.coarser(2) for key, of in found.items()}
    return found, times


def _tried(wrong: list[str], read: Callable[[Path], _T], path: Path) -> _T | None:
    """What a file holds; None where it is damaged, which is noted."""
    try:
        return read(path)
    except InputError as error:
        wrong.append(error.what)
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 text ({error.reason}).") from error


def _matrix(path: Path) -> confusion.ConfusionMatrix:
    return confusion.from_json(_text(path), str(path))


def _blocks(path: Path) -> BlockMatrices:
    try:
        return read_blocks(path)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: holds no matrices of squares ({error}).") from error


def _card_path(paths: RunPaths, settings: Mapping[str, Any]) -> Path | None:
    """The model card of a run, whose folder may have another name than when it was trained."""
    if paths.card.exists():
        return paths.card
    began = RunPaths(paths.run.parent / Path(str(settings.get("run", ""))).name).name
    folders = paths.card.parent.parent
    there = folders / began / paths.card.name
    cards = [there] if there.exists() else every(folders / "*" / paths.card.name)
    if len(cards) != 1:
        log.warning("%s: %d model cards; none is shown", paths.run, len(cards))
        return None
    return cards[0]


def _card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: is not JSON ({error}).") from error
    if not isinstance(card, dict):
        raise InputError(f"{path}: is no model card, which is a mapping of names.")
    for key in ("data", "scores", "versions"):
        if not isinstance(card.get(key, {}), dict):
            raise InputError(f"{path}: `{key}` is no mapping, as it is in a model card.")
    for key in ("classes", "colors"):
        if not isinstance(card.get(key, []), list):
            raise InputError(f"{path}: `{key}` is no list, as it is in a model card.")
    data = card.get("data", {})
    pixels = data.get("pixels", {})
    counts = pixels.values() if isinstance(pixels, dict) else [None]
    if not isinstance(data.get("sheets", {}), dict) or not all(
        isinstance(of, dict) and all(isinstance(n, int) for n in of.values()) for of in counts
    ):
        raise InputError(f"{path}: `data` holds no sheets and pixels of each split.")
    values = [*card.get("scores", {}).items()]
    if wrong := [key for key, of in values if key in ("overall_accuracy", "mean_iou")
                 and not isinstance(of, int | float)]:  # fmt: skip
        raise InputError(f"{path}: `scores` has no number as {', '.join(wrong)}.")
    return card


def _costs(paths: RunPaths, wrong: list[str]) -> list[StepCost]:
    """Time and memory of each step, in the order of the workflow; none where it ran by hand."""
    order = {rule: number for number, rule in enumerate(STEPS)}
    files = every(paths.benchmark("*", "*"))
    files.sort(key=lambda path: (order.get(path.parent.name, len(order)), str(path)))
    jobs = []
    for path in files:
        jobs += _tried(wrong, _benchmark, path) or []
    return compute_costs.step_costs(jobs)


def _benchmark(path: Path) -> list[compute_costs.Benchmark]:
    try:
        return compute_costs.read_benchmark(_text(path), path.parent.name, path.stem)
    except ValueError as error:
        raise InputError(f"{path}: holds no numbers ({error}).") from error


def _training_seconds(costs: Sequence[StepCost], speed: Path | None, wrong: list[str]) -> float:
    """Time of training: of the job, else of its steps as the training itself clocked them."""
    clocked = _tried(wrong, _clocked, speed) if speed and speed.exists() else None
    measured = [step.seconds for step in costs if step.rule == "train"]
    if measured:
        return measured[0]
    return math.nan if clocked is None else clocked


def _clocked(speed: Path) -> float:
    try:
        return sum(float(row["seconds"]) for row in csv.DictReader(_text(speed).splitlines()))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{speed}: has no column `seconds` of numbers.") from error


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
        raise InputError(f"{weights}: is no checkpoint ({error}).") from error
