"""How many points a stratified sample needs, and how many of them each stratum gets.

The strata are the classes of the map; a point of a stratum is right with the stratum's user's
accuracy, so one point varies by S = sqrt(U (1 - U)).

Source:
    Olofsson et al. (2014), Good practices for estimating area and assessing accuracy of land
    change, Remote Sensing of Environment 148, section 5.1; Cochran (1977), Sampling Techniques,
    chapter 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import SettingsError
from pipeline.numerals import plural

Rule = Literal["equal", "proportional", "neyman"]
"""As many points in each stratum; by its area; by its area and how unsure its points are."""

MINIMUM = 50
"""Points of each stratum, at least, as Olofsson et al. (2014) advise for rare classes.

They make user's accuracies of rare classes sure. What is missed of a rare class lies in the strata
of other classes, so its area and its producer's accuracy ask for more points in all.
"""

LEAST = 2
"""Points that a stratum cannot do without: of one alone, no standard error can be told."""

EXPECTED_USERS = 0.8
"""User's accuracy that is expected of a class that nothing is known of."""

_SUREST = 0.95  # a class that seems perfect is looked at nevertheless


def expected_users(counts: NDArray[np.int64] | None, classes: int) -> NDArray[np.float64]:
    """User's accuracies to plan with, from a confusion matrix of the same or a like map.

    Args:
        counts: Pixels, row = reference, column = mapped; None where there is no matrix.
        classes: Number of classes.

    Returns:
        Shares from 0.05 to 0.95, shape ``(classes,)``: labels agree with the map that learnt from
        them better than the ground does, so nothing is planned to be perfect.
        :data:`EXPECTED_USERS` of classes that the matrix says nothing of.
    """
    expected = np.full(classes, EXPECTED_USERS)
    if counts is not None:
        mapped = counts.sum(axis=0)
        np.divide(np.diagonal(counts), mapped, out=expected, where=mapped > 0)
    return np.asarray(np.clip(expected, 1 - _SUREST, _SUREST))


def deviations(users: ArrayLike) -> NDArray[np.float64]:
    """Standard deviation of one point of each stratum, S = sqrt(U (1 - U)).

    Raises:
        ValueError: If an accuracy is no share from 0 to 1.
    """
    shares = np.asarray(users, np.float64)
    if not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(f"user's accuracies are shares from 0 to 1, not {shares}")
    return np.asarray(np.sqrt(shares * (1 - shares)))


def expected_se(weights: ArrayLike, expected_users: ArrayLike, sizes: ArrayLike) -> float:
    """Standard error of the overall accuracy that a sample is expected to have.

    Args:
        weights: Area or pixels of each stratum, in any unit, shape ``(strata,)``.
        expected_users: Their user's accuracies.
        sizes: Their points.

    Returns:
        As a share; infinite where a stratum with area has no points.

    Source:
        Cochran (1977), equation 5.9 without finite population correction.
    """
    shares, points = _shares(weights), np.asarray(sizes, np.float64)
    parts = (shares * deviations(expected_users)) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        variances = np.where(shares > 0, parts / points, 0.0)
    variances[(shares > 0) & (points == 0)] = math.inf
    return math.sqrt(float(variances.sum()))


def sample_size(
    weights: ArrayLike,
    expected_users: ArrayLike,
    target_se: float,
    rule: Rule = "neyman",
    population: int | None = None,
) -> int:
    """Points for a standard error of the overall accuracy, without a minimum of each stratum.

    Args:
        weights: Area or pixels of each stratum, in any unit, shape ``(strata,)``.
        expected_users: Their user's accuracies.
        target_se: Standard error wanted, as a share.
        rule: How the points are going to be allocated. The equation in Olofsson et al. (2014)
            holds for ``neyman``; proportional and equal allocations need more.
        population: Pixels in all, for the finite population correction; without it where left
            out. It hardly matters for any map.

    Returns:
        The least number that is expected to reach it. :func:`least_size` minds the minimum.

    Raises:
        SettingsError: If the standard error is not between 0 and 1.

    Source:
        Olofsson et al. (2014), equation 13; Cochran (1977), equations 5.25 and 5.52 ff.
    """
    _check_target(target_se)
    shares, spread = _shares(weights), deviations(expected_users)
    within = float((shares * spread**2).sum())
    if rule == "neyman":
        needed = float((shares * spread).sum()) ** 2
    elif rule == "proportional":
        needed = within
    else:
        needed = int((shares > 0).sum()) * float(((shares * spread) ** 2).sum())
    correction = within / population if population else 0.0
    # Rounded: 640.0000000001 points are 640.
    return max(1, math.ceil(round(needed / (target_se**2 + correction), 9)))


def least_size(
    weights: ArrayLike,
    expected_users: ArrayLike,
    target_se: float,
    rule: Rule = "neyman",
    minimum: int = MINIMUM,
    available: ArrayLike | None = None,
) -> int:
    """Points for a standard error of the overall accuracy, as :func:`allocate` deals them out.

    Args:
        weights: Area or pixels of each stratum, in any unit, shape ``(strata,)``.
        expected_users: Their user's accuracies.
        target_se: Standard error wanted, as a share.
        rule: How the points are going to be allocated.
        minimum: Points of each stratum, at least.
        available: Pixels of each stratum.

    Raises:
        SettingsError: If the standard error is not between 0 and 1, or all pixels are too few.
    """
    _check_target(target_se)
    low, high = _bounds(weights, minimum, available)

    def reached(total: int) -> bool:
        sizes = allocate(weights, total, rule, minimum, expected_users, available)
        return expected_se(weights, expected_users, sizes) <= target_se * (1 + 1e-12)

    # Beyond any rule's need, or all there is.
    few, enough = int(low.sum()), int(low.sum()) + 1
    most = int(min(high.sum(), 2**62))
    while enough < most and not reached(enough):
        enough *= 2
    enough = min(enough, most)
    if not reached(enough):
        raise SettingsError(
            f"A standard error of {target_se:g} is out of reach: the map has {most} pixels.",
            remedy="Ask for a larger one.",
        )
    while few < enough:
        middle = (few + enough) // 2
        few, enough = (few, middle) if reached(middle) else (middle + 1, enough)
    return few


def allocate(
    weights: ArrayLike,
    total: int,
    rule: Rule = "neyman",
    minimum: int = MINIMUM,
    expected_users: ArrayLike | None = None,
    available: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Deal points out to strata.

    Each gets what the rule gives it, but no less than the minimum and no more than it has pixels;
    what that takes or leaves, the others share by the same rule. Under these bounds, ``neyman``
    has the least standard error of the overall accuracy that so many points can have. For the
    areas of rare classes more points in their strata are better: that is what the minimum is for.

    Args:
        weights: Area or pixels of each stratum, in any unit, shape ``(strata,)``.
        total: Points in all.
        rule: ``equal``, ``proportional`` to the weights, or ``neyman``: proportional to the
            weight times the standard deviation of a point.
        minimum: Points of each stratum, at least, or all its pixels.
        expected_users: User's accuracy of each stratum, for ``neyman``; :data:`EXPECTED_USERS` for
            all where left out, which makes it ``proportional``.
        available: Pixels of each stratum; unlimited where left out. A stratum without weight has
            none.

    Returns:
        Points of each stratum, shape ``(strata,)``, which sum up to ``total``.

    Raises:
        SettingsError: If there are fewer points than the minimum asks for, or more than pixels.

    Source:
        Olofsson et al. (2014), section 5.1.2; Cochran (1977), sections 5.5 and 5.8; rounded by
        largest remainders.
    """
    low, high = _bounds(weights, minimum, available)
    if total < low.sum():
        raise SettingsError(
            f"{total} points are too few: {int((low > 0).sum())} classes are on the map, and each "
            f"is to have {minimum} or all its pixels, {int(low.sum())} together.",
            remedy="Ask for more points, or for a lower minimum of each class.",
        )
    if total > high.sum():
        raise SettingsError(
            f"{total} points are more than the {int(high.sum())} pixels of the map.",
            remedy="Ask for fewer points.",
        )
    appeal = _appeal(weights, rule, expected_users)
    appeal[high == 0] = 0
    exact = _filled(appeal, low, high, total)
    # What is whole but for the last digit is whole.
    sizes = np.floor(exact + 1e-9).astype(np.int64)
    rest = total - int(sizes.sum())
    remainders = np.where(sizes < high, (exact - sizes).round(9), -1.0)
    sizes[np.argsort(-remainders, kind="stable")[:rest]] += 1
    return sizes


def check_sizes(
    names: Sequence[str],
    sizes: NDArray[np.int64],
    weights: ArrayLike,
    rule: Rule,
    minimum: int,
    expected_users: ArrayLike,
    available: ArrayLike,
) -> None:
    """Check that each stratum has two points, or all its pixels: with fewer it has no interval.

    Args:
        names: Names of the strata.
        sizes: What :func:`allocate` has dealt out.
        weights: As there.
        rule: As there.
        minimum: As there.
        expected_users: As there.
        available: As there.

    Raises:
        SettingsError: With all strata that have fewer, and what would do.
    """
    pixels = np.asarray(available, np.int64)
    needed = np.minimum(LEAST, pixels)
    few = np.flatnonzero(sizes < needed)
    if not len(few):
        return

    def enough(total: int) -> bool:
        dealt = allocate(weights, total, rule, minimum, expected_users, available)
        return bool((dealt >= needed).all())

    # All pixels do, at the latest.
    low, high = int(sizes.sum()), int(sizes.sum()) + 1
    while not enough(high):
        low, high = high, min(2 * high, int(pixels.sum()))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    raise SettingsError(
        f"{plural(len(few), 'class', 'classes')} of the map would have fewer than {LEAST} points, "
        "and a sample without them says nothing of the ground that is mapped so.",
        [f"{names[k]}: {sizes[k]} of {plural(int(pixels[k]), 'pixel')}" for k in few.tolist()],
        f"Say --minimum {LEAST} or more, or --size {high} or more.",
    )


def _appeal(weights: ArrayLike, rule: Rule, users: ArrayLike | None) -> NDArray[np.float64]:
    """What the points of each stratum are proportional to."""
    if rule not in get_args(Rule):
        raise ValueError(f"the rules are {', '.join(get_args(Rule))}, not {rule!r}")
    shares = _shares(weights)
    if rule == "equal":
        return (shares > 0).astype(np.float64)
    if rule == "proportional":
        return shares
    spread = deviations(np.full(len(shares), EXPECTED_USERS) if users is None else users)
    if not (shares * spread).any():  # all sure: nothing to prefer
        return shares
    return np.asarray(shares * spread)


def _bounds(
    weights: ArrayLike, minimum: int, available: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Fewest and most points of each stratum."""
    shares = _shares(weights)
    # So that the sum over a few hundred strata fits into int64.
    unlimited = np.full(len(shares), 2**53, np.int64)
    high = unlimited if available is None else np.asarray(available, np.int64)
    if high.shape != shares.shape or high.min() < 0:
        raise ValueError(f"{len(shares)} strata have pixels each, not {high}")
    high = np.where(shares > 0, high, 0)
    return np.minimum(minimum, high), high


def _filled(
    appeal: NDArray[np.float64], low: NDArray[np.int64], high: NDArray[np.int64], total: int
) -> NDArray[np.float64]:
    """Points by appeal between the bounds, not rounded yet: ``clip(level * appeal)``."""
    filled = low.astype(np.float64)
    open_ = (appeal > 0) & (low < high)
    while True:
        rest = total - filled[~open_].sum()
        if not open_.any():
            break
        shares = rest * appeal[open_] / appeal[open_].sum()
        over, under = shares - high[open_], low[open_] - shares
        wrong = over if over[over > 0].sum() >= under[under > 0].sum() else under
        places = np.flatnonzero(open_)
        filled[places] = shares
        if not (wrong > 0).any():
            return filled
        # Those beyond the bound that weighs more stay there for good; the others try again.
        fixed = places[wrong > 0]
        filled[fixed] = (high if wrong is over else low)[fixed]
        filled[places[wrong <= 0]] = 0
        open_[fixed] = False
    # Only strata without appeal are left: they share what is left by their room.
    room = np.where(appeal > 0, 0, high - filled)
    if rest > 0 and room.any():
        filled += rest * room / room.sum()
    return filled


def _shares(weights: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(weights, np.float64)
    if values.ndim != 1 or not len(values) or not (values >= 0).all() or not values.any():
        raise ValueError(f"weights are areas or pixels of strata, not {values}")
    return np.asarray(values / values.sum())


def _check_target(target_se: float) -> None:
    if not 0 < target_se < 1:
        raise SettingsError(
            f"A standard error of {target_se:g} cannot be planned for.",
            remedy="It is a share between 0 and 1: 0.01 for one per cent.",
        )
