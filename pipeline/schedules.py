"""Learning rate over the course of a training, as a function of how much of it is done.

Of the share that is done and of nothing else: a schedule has no state that a resumed training
could lose, and it fits trainings that end by epochs, by iterations and by the clock.
"""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "constant", "one_cycle", "polynomial"]

POWER = 0.9
"""Exponent of ``polynomial``, as DeepLab has it."""

START, END = 1 / 25, 1e-4
"""``one_cycle`` begins with the first share of the highest rate, ends with the second of that."""

RISE = 0.3
"""Share of the training in which ``one_cycle`` rises, where the warm-up is no longer."""


def learning_rate_factor(progress: float, schedule: Schedule, warm_up: float) -> float:
    """Share of the highest learning rate.

    Args:
        progress: Share of the training that is done, 0 to 1.
        schedule: ``constant``; ``cosine``, half a cosine down to 0; ``polynomial``, down to 0 with
            the power 0.9; ``one_cycle``, up and down in cosines.
        warm_up: Share of the training in which the rate rises, in a straight line (in
            ``one_cycle``: by its cosine, over 30 % of the training at least).

    Returns:
        From 0 to 1. Behind the end: the last one.

    Source:
        Cosine: Loshchilov & Hutter (2017), without restarts. Polynomial: Chen et al. (2018).
        One-cycle: Smith & Topin (2019), with the shares of torch's ``OneCycleLR``. Warm-up: Goyal
        et al. (2017).
    """
    done = min(max(progress, 0.0), 1.0)
    if schedule == "one_cycle":
        rise = max(warm_up, RISE)
        if done < rise:
            return _cosine(START, 1.0, done / rise)
        return _cosine(1.0, START * END, (done - rise) / (1.0 - rise))
    # Never 0 at the start: the first step would be none.
    warm = min(1.0, 0.01 + done / warm_up) if warm_up else 1.0
    match schedule:
        case "constant":
            return warm
        case "cosine":
            return warm * _cosine(1.0, 0.0, done)
        case "polynomial":
            return float(warm * (1.0 - done) ** POWER)


def _cosine(start: float, end: float, share: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share))
