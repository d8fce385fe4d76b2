"""How a search chooses settings and ends trials early: Optuna's samplers and pruners."""

from __future__ import annotations

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.pruners import SuccessiveHalvingPruner as Halving
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from pipeline.search_space import Axis
from pipeline.sections import TuningSettings

_EARLY = 16
"""No trial ends in this part (one in so many) of its training: the learning rate still rises."""


def sampler(settings: TuningSettings, seed: int, number: int) -> BaseSampler:
    """What chooses the settings of a trial.

    Its seed is of the run and the trial, not of the worker: the same whoever asks, and a worker
    that starts again does not repeat what it began with.
    """
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if settings.sampler == "tpe":
        # Of a short search not half at random.
        first = min(10, max(2, settings.trials // 4))
        return TPESampler(seed=own, n_startup_trials=first, constant_liar=True)
    return RandomSampler(seed=own)


def pruner(name: str, validations: int | None) -> BasePruner:
    """What ends trials early.

    Args:
        name: As in the settings.
        validations: Most validations of a training, if known.

    Source:
        Jamieson & Talwalkar (2016) for successive halving, in the asynchronous form of Li et al.
        (2020); Li et al. (2018) for Hyperband.
    """
    early = max(1, (validations or 0) // _EARLY)
    if name == "median":
        return MedianPruner(n_warmup_steps=early + 1)
    if name == "successive_halving":
        return Halving(min_resource=early, reduction_factor=3)
    if name == "hyperband":
        longest = validations or "auto"
        return HyperbandPruner(min_resource=early, max_resource=longest, reduction_factor=3)
    return NopPruner()


def distribution(axis: Axis) -> BaseDistribution:
    """What an axis is to Optuna."""
    if axis.choices:
        return CategoricalDistribution(list(axis.choices))
    # Optuna wants ranges to end on a step.
    high = axis.labels()[-1] if axis.step is not None else axis.high
    if axis.whole:
        step = int(axis.step or 1)
        return IntDistribution(int(axis.low), int(high), log=axis.log, step=step)
    return FloatDistribution(axis.low, high, log=axis.log, step=axis.step)


def suggest(trial: optuna.Trial, key: str, among: BaseDistribution) -> None:
    """Choose a trial's value of one setting, unless it has one."""
    match among:
        case CategoricalDistribution(choices=choices):
            trial.suggest_categorical(key, choices)
        case IntDistribution(low=low, high=high, log=log, step=step):
            trial.suggest_int(key, low, high, log=log, step=step)
        case FloatDistribution(low=low, high=high, log=log, step=step):
            trial.suggest_float(key, low, high, log=log, step=step)
