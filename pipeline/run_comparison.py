"""Runs side by side: on the ground that all were judged on, with paired differences.

A map is better than another if it is so on the same ground by the same labels, and by more than
the chance of which ground that is. So runs are scored on the places that all have, the difference
of two has an interval of its own, and whatever makes a comparison unfair is told beside it.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.bootstrap import (
    OVERALL,
    PER_CLASS,
    Ground,
    Interval,
    Intervals,
    ground_differences,
    ground_intervals,
)
from pipeline.compute_costs import StepCost
from pipeline.confusion import ConfusionMatrix
from pipeline.errors import InputError
from pipeline.ground_blocks import BlockMatrices

LAYOUT = 1
"""Version of the JSON file; raised when its keys change their meaning."""

_OF_ITSELF = ("run",)
"""Settings that differ between any two runs and say nothing."""

_DIFFERENCE = ("difference", "difference_low", "difference_high")


@dataclass(frozen=True, eq=False)
class JudgedRun:
    """A run, as far as it can be held against another.

    Attributes:
        name: How the page calls it.
        blocks: Matrices of blocks of ground, by sheet.
        matrices: Confusion matrices of the same ground, by sheet.
        settings: Settings as used, nested as in their file.
        card: Model card as plain values; None where there is none.
        parameters: Of the network; None where its weights are not there.
        training_seconds: Time of training; NaN where nobody measured it.
        costs: Time and memory of each step.
    """

    name: str
    blocks: Mapping[str, BlockMatrices]
    matrices: Mapping[str, ConfusionMatrix]
    settings: Mapping[str, Any]
    card: Mapping[str, Any] | None = None
    parameters: int | None = None
    training_seconds: float = math.nan
    costs: Sequence[StepCost] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of their ids."""
        return next(iter(self.matrices.values())).names

    @cached_property
    def ground(self) -> Ground:
        """Blocks of all its sheets."""
        return Ground.of(list(self.blocks.values()))


@dataclass(frozen=True, eq=False)
class RunComparison:
    """Runs side by side.

    Attributes:
        runs: The runs, all with the classes of the first in its order.
        baseline: Number of the run that the others are held against.
        fair: Whether all scores are of the same ground. If not, each is of its run's own.
        pixels: Judged pixels of each run on that ground.
        scores: Scores of each run, with intervals.
        differences: Scores of each run minus the baseline's, on ground that both have; None for
            the baseline itself.
        ranked_by: The score that ranks them: mean IoU; overall accuracy where the references have
            other classes, so that means over them cannot be compared.
        ranking: Numbers of the runs by it, the best first; empty if it is not fair.
        leads: The best run's scores minus those of each other one, in the order of the ranking.
        same_labels: Whether all runs were judged by the same reference on that ground.
        own_sides: Sides of the blocks that each run was judged in, by coordinate system.
        times: Blocks were put together, so many by so many, so that they fit in memory.
    """

    runs: tuple[JudgedRun, ...]
    baseline: int
    fair: bool
    pixels: tuple[int, ...]
    scores: tuple[Intervals, ...]
    differences: tuple[Intervals | None, ...]
    ranked_by: str
    ranking: tuple[int, ...]
    leads: tuple[Intervals, ...]
    same_labels: bool
    own_sides: tuple[Mapping[str, tuple[float, ...]], ...] = ()
    times: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of their ids."""
        return self.runs[0].names

    @property
    def blocks(self) -> int:
        """Blocks of ground that all runs share; 0 if there are none."""
        return max(part.blocks for part in self.scores) if self.fair else 0

    @property
    def effective_blocks(self) -> int:
        """How many of one size those are worth, in the run where they are fewest."""
        return min((of.effective_blocks for of in self.scores if of.blocks), default=0)

    @property
    def sides(self) -> tuple[float, ...]:
        """Sides of the blocks that the scores are of, in units of their coordinate systems."""
        return tuple(sorted({side for _, side in self._lattices}))

    @property
    def unlike(self) -> tuple[str, ...]:
        """Coordinate systems in which sizes of blocks differ, though they were put together."""
        systems = [system for system, _ in self._lattices]
        return tuple(sorted({system for system in systems if systems.count(system) > 1}))

    @property
    def _lattices(self) -> set[tuple[str, float]]:
        parts = [part for run in self.runs for part in run.blocks.values() if len(part.places)]
        return {(part.crs, round(part.side_m, 6)) for part in parts}

    def as_json(self) -> str:
        """All numbers, NaN as null; the same runs give the same text."""
        content = {
            "layout": LAYOUT,
            "classes": self.names,
            "baseline": self.runs[self.baseline].name,
            "same_ground": self.fair,
            "same_labels": self.same_labels,
            "common_blocks": self.blocks,
            "common_effective_blocks": self.effective_blocks if self.fair else 0,
            "block_sides": self.sides,
            "blocks_put_together": self.times,
            "ranked_by": self.ranked_by,
            "ranking": [self.runs[number].name for number in self.ranking],
            "runs": [self._run_json(number) for number in range(len(self.runs))],
            "settings": {
                key: dict(zip((run.name for run in self.runs), values, strict=True))
                for key, values in differing_settings(self.runs).items()
            },
        }
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=str)
        return f"{text}\n"

    def as_csv(self) -> str:
        """Scores and differences, a line a run, a score and a class; lines without a class: all."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["run", "score", "class", "value", "low", "high", *_DIFFERENCE])
        for run, scores, gain in zip(self.runs, self.scores, self.differences, strict=True):
            for key in OVERALL:
                of = None if gain is None else getattr(gain, key)
                writer.writerow([run.name, key, "", *_cells(getattr(scores, key)), *_cells(of)])
            for key in PER_CLASS:
                for number, name in enumerate(self.names):
                    of = None if gain is None else getattr(gain, key)[number]
                    own = getattr(scores, key)[number]
                    writer.writerow([run.name, key, name, *_cells(own), *_cells(of)])
        return table.getvalue()

    def _run_json(self, number: int) -> dict[str, Any]:
        run, gain = self.runs[number], self.differences[number]
        return {
            "name": run.name,
            "pixels": self.pixels[number],
            "own_blocks": len(run.ground.places),
            "own_pixels": int(run.ground.total.sum()),
            "scores": self.scores[number].as_dict(),
            "difference_to_baseline": gain.as_dict() if gain is not None else None,
            "sheets": {name: of.scores().as_dict() for name, of in run.matrices.items()},
            "parameters": run.parameters,
            "training_seconds": _number(run.training_seconds),
            "steps": [
                {
                    "rule": step.rule,
                    "jobs": step.jobs,
                    "seconds": _number(step.seconds),
                    "memory_mb": _number(step.memory_mb),
                }
                for step in run.costs
            ],
        }


def compared(
    runs: Sequence[JudgedRun],
    baseline: int = 0,
    draws: int = 1000,
    seed: int = 0,
    times: int = 1,
) -> RunComparison:
    """Score runs on the ground that they share.

    Args:
        runs: Two or more. Classes may have another order in each; they are told apart by name.
        baseline: Number of the run that the others are held against.
        draws: How often blocks are drawn for each interval.
        seed: Of the draws.
        times: How many times as long the sides of the blocks are as those the runs were judged in.

    Raises:
        InputError: If runs have other classes, or blocks and matrices of a run are of other
            pixels; all of a kind at once.
    """
    runs = _aligned(runs)
    _check_matrices(runs)
    own_sides = tuple(_sides(run, times) for run in runs)
    runs = _of_one_size(runs)
    judged = [run.ground for run in runs if run.ground.places]
    shared = sorted(set.intersection(*(set(of.places) for of in judged))) if judged else []
    # Runs without any test ground stay without scores; the others are compared all the same.
    grounds = [run.ground.at(shared) if run.ground.places else run.ground for run in runs]
    fair = bool(shared)
    if not fair:
        grounds = [run.ground for run in runs]
    scores = tuple(ground_intervals(of, draws, seed) for of in grounds)

    def gain(a: int, b: int) -> Intervals:
        return ground_differences(grounds[a], grounds[b], draws, seed)

    present = {(of.total.sum(axis=1) > 0).tobytes() for of in grounds if of.places}
    ranked_by = "mean_iou" if len(present) < 2 else "overall_accuracy"
    points = [getattr(of, ranked_by).value for of in scores]
    ranked = [number for number, value in enumerate(points) if not math.isnan(value)]
    ranking = tuple(sorted(ranked, key=lambda number: -points[number])) if fair else ()
    references = [of.counts.sum(axis=2) for of in grounds if of.places]
    return RunComparison(
        runs=tuple(runs),
        baseline=baseline,
        fair=fair,
        pixels=tuple(int(of.total.sum()) for of in grounds),
        scores=scores,
        differences=tuple(
            None if number == baseline else gain(baseline, number) for number in range(len(runs))
        ),
        ranked_by=ranked_by,
        ranking=ranking,
        leads=tuple(gain(other, ranking[0]) for other in ranking[1:]),
        same_labels=fair and all(np.array_equal(references[0], of) for of in references),
        own_sides=own_sides,
        times=times,
    )


def differing_settings(runs: Sequence[JudgedRun]) -> dict[str, list[Any]]:
    """Settings by dotted name that are not the same in all runs, and each run's value.

    A run that has no such setting, being of another version say, has None.
    """
    flat = [_flat(run.settings) for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    return {
        key: [values.get(key) for values in flat]
        for key in keys
        if key not in _OF_ITSELF and any(values.get(key) != flat[0].get(key) for values in flat)
    }


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; of those that have the same, as much of the path as tells them apart."""
    resolved = [folder.resolve() for folder in folders]
    depths = [1] * len(folders)

    def names() -> list[str]:
        return ["/".join(p.parts[-depth:]) for p, depth in zip(resolved, depths, strict=True)]

    while len(set(told := names())) < len(set(resolved)):
        depths = [depth + (told.count(name) > 1) for depth, name in zip(depths, told, strict=True)]
    return told


def _aligned(runs: Sequence[JudgedRun]) -> list[JudgedRun]:
    """Runs with the classes of the first, in its order."""
    names = runs[0].names
    wrong = []
    for run in runs:
        of_sheets = [("confusion", name, part.names) for name, part in run.matrices.items()]
        of_sheets += [("evaluation", name, part.names) for name, part in run.blocks.items()]
        for kind, sheet, theirs in of_sheets:
            told = [f"lacks {name!r}" for name in names if name not in theirs]
            told += [f"has {name!r}" for name in theirs if name not in names]
            if told:
                wrong.append(f"{run.name}, {kind} of sheet {sheet}: {', '.join(told)}")
    if wrong:
        raise InputError(
            f"Runs can be compared on the same classes only; those of {runs[0].name} are "
            f"{', '.join(names)}.",
            wrong,
            "Compare runs of one nomenclature; or judge them again, `snakemake --forcerun "
            "confusion evaluation`, if it has changed since.",
        )
    return [
        replace(
            run,
            blocks={
                name: replace(part, names=names, counts=_ordered(part.counts, part.names, names))
                for name, part in run.blocks.items()
            },
            matrices={
                name: replace(part, names=names, counts=_ordered(part.counts, part.names, names))
                for name, part in run.matrices.items()
            },
        )
        for run in runs
    ]


def _sides(run: JudgedRun, times: int) -> dict[str, tuple[float, ...]]:
    """Sides of a run's blocks as they are in its files, by coordinate system."""
    sides: dict[str, set[float]] = {}
    for part in run.blocks.values():
        if len(part.places):
            sides.setdefault(part.crs, set()).add(round(part.side_m / times, 6))
    return {system: tuple(sorted(of)) for system, of in sides.items()}


def _of_one_size(runs: Sequence[JudgedRun]) -> list[JudgedRun]:
    """Runs with smaller blocks put together to the largest of their coordinate system.

    Blocks whose side is no whole part of the largest stay as they are.
    """
    parts = [part for run in runs for part in run.blocks.values() if len(part.places)]
    largest = {part.crs: 0.0 for part in parts}
    for part in parts:
        largest[part.crs] = max(largest[part.crs], part.side_m)

    def grown(part: BlockMatrices) -> BlockMatrices:
        wanted = largest.get(part.crs, part.side_m)
        times = round(wanted / part.side_m)
        if times < 2 or not math.isclose(times * part.side_m, wanted, rel_tol=1e-6):
            return part
        return replace(part.coarser(times), side_m=wanted)

    return [
        replace(run, blocks={name: grown(part) for name, part in run.blocks.items()})
        for run in runs
    ]


def _ordered(
    counts: NDArray[np.int64], names: Sequence[str], wanted: Sequence[str]
) -> NDArray[np.int64]:
    if tuple(names) == tuple(wanted):
        return counts
    order = [list(names).index(name) for name in wanted]
    return counts[..., order, :][..., order]


def _check_matrices(runs: Sequence[JudgedRun]) -> None:
    """Blocks and matrices of a sheet count the same pixels."""
    wrong = [
        f"{run.name}, sheet {name}: {int(part.counts.sum())} pixels of evaluation, "
        f"{run.matrices[name].pixels} of confusion"
        for run in runs
        for name, part in run.blocks.items()
        if not np.array_equal(part.counts.sum(axis=0), run.matrices[name].counts)
    ]
    if wrong:
        raise InputError(
            "Blocks of ground and confusion matrices do not count the same pixels.",
            wrong,
            "One is older than the map or the labels: run the rules `confusion` and `evaluation` "
            "again.",
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _cells(interval: Interval | None) -> list[str]:
    values = [math.nan] * 3 if interval is None else list(vars(interval).values())
    return ["" if math.isnan(value) else f"{value:.6f}" for value in values]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
