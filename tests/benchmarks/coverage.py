"""How often 95 % intervals over blocks of ground hold the truth, by simulation.

The figures beside :data:`pipeline.bootstrap.FEWEST_BLOCKS` are what this prints:
``python -m tests.benchmarks.coverage``, in less than a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from pipeline import bootstrap
from pipeline.bootstrap import Ground, ground_intervals
from pipeline.scores import measures

TRIALS, DRAWS, PIXELS = 1500, 300, 4096
MEANS = ("mean_iou", "mean_f1", "balanced_accuracy", "kappa", "overall_accuracy")
RARE = 7, 8
"""Blocks that have each of two classes of five on ground like that of a real run."""

Counts = NDArray[np.int64]


def of_accuracy(sizes: Sequence[int], random: np.random.Generator) -> Counts:
    """Blocks of so many pixels, right in a share of mean 0.8 and standard deviation 0.12."""
    right = np.round(random.beta(8, 2, len(sizes)) * sizes).astype(np.int64)
    counts = np.zeros((len(sizes), 2, 2), np.int64)
    counts[:, 0, 0], counts[:, 0, 1] = right, np.asarray(sizes) - right
    return counts


def of_five_classes(blocks: int, rare: Sequence[int], random: np.random.Generator) -> Counts:
    """Blocks with three classes in most of them, and others in so many each."""
    amount = random.gamma(0.7, 1.0, (blocks, 5))
    for k, number in zip((3, 4), rare, strict=True):
        # Much of a rare class lies together, in a village or along a motorway.
        amount[:, k] = 0.1 * random.lognormal(0.0, 1.5, blocks)
        amount[random.permutation(blocks)[number:], k] = 0
    pixels = np.round(PIXELS * amount / amount.sum(axis=1, keepdims=True)).astype(np.int64)
    spread = np.array([8.0, 8.0, 8.0, 1.5, 1.5])  # what is rare is found here and missed there
    right = np.round(random.beta(spread * 0.75, spread * 0.25, (blocks, 5)) * pixels)
    right = right.astype(np.int64)
    counts = np.zeros((blocks, 5, 5), np.int64)
    for k in range(5):
        counts[:, k, k] = right[:, k]
        counts[:, k, (k + 1) % 3 if k < 3 else k - 3] += pixels[:, k] - right[:, k]
    return counts


def held(samples: Sequence[Counts], truth: dict[str, float]) -> dict[str, float]:
    """Share of the intervals that hold the truth, by score, if two blocks were enough for them."""
    inside: dict[str, list[bool]] = {key: [] for key in truth}
    with patch.object(bootstrap, "FEWEST_BLOCKS", 2):
        for seed, counts in enumerate(samples):
            names = tuple(map(str, range(counts.shape[-1])))
            places = tuple(("", 1.0, n, 0) for n in range(len(counts)))
            found: Any = ground_intervals(Ground(names, places, counts), DRAWS, seed)
            for key, value in truth.items():
                interval = found.iou[3] if key == "rare_iou" else getattr(found, key)
                if not np.isnan(interval.low):
                    inside[key].append(interval.low <= value <= interval.high)
    return {key: float(np.mean(each)) for key, each in inside.items()}


def main() -> None:
    """Print all."""
    random = np.random.default_rng(7)
    grounds = {f"{n} of one size": [PIXELS] * n for n in (4, 6, 10, 16, 20, 40)}
    for large, strips in ((4, 12), (10, 30)):
        title = f"{large} and {strips} strips of a sixteenth"
        grounds[title] = [PIXELS] * large + [PIXELS // 16] * strips
    for title, sizes in grounds.items():
        samples = [of_accuracy(sizes, random) for _ in range(TRIALS)]
        share = held(samples, {"overall_accuracy": 0.8})["overall_accuracy"]
        worth = int(bootstrap.effective_number(np.array(sizes)))
        print(f"{title}, effectively {worth}: {share:.0%}")
    for rare in (RARE, (18, 18)):
        many = [100_000 * number // 36 for number in rare]
        whole = measures(of_five_classes(100_000, many, random).sum(axis=0))
        truth = {key: float(getattr(whole, key)) for key in MEANS}
        truth["rare_iou"] = float(whole.iou[3])
        samples = [of_five_classes(36, rare, random) for _ in range(TRIALS)]
        told = {key: f"{share:.0%}" for key, share in held(samples, truth).items()}
        print(f"36 blocks, two of five classes in {rare}: {told}")


if __name__ == "__main__":
    main()
