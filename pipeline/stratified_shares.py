"""Shares of the ground, estimated from stratified samples: of one or of thousands at once.

Beside the standard errors of Olofsson et al. (2014) stand limits of 95 % intervals that hold for
rare classes too. What a large stratum hides of a rare class is often in no point of the sample at
all; then the standard error knows nothing of it, and the estimate +- 1.96 standard errors is too
short. On a real scene with 640 points it held the area of a class of 0.8 % of the ground in about
84 of 100 samples and of one of 1.8 % in about 90; the limits held both in about 96. More points of
the rare classes do not help: it took 3000 points in all for the standard errors to do as well. For
overall accuracy and for common classes both hold in 94 to 96, and hardly differ.

Source:
    Olofsson et al. (2014), Good practices for estimating area and assessing accuracy of land
    change, Remote Sensing of Environment 148: 42-57.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class StratifiedShares:
    """Estimates from a stratified sample, as shares; leading axes are those of the samples.

    Attributes:
        proportions: Share of the ground mapped as one class (row) and being another (column),
            shape ``(..., K, K)``.
        area: Share of the ground that is each class, shape ``(..., K)``.
        area_se: Its standard error.
        users: User's accuracy of each class, shape ``(..., K)``; NaN without points.
        users_se: Its standard error.
        producers: Producer's accuracy of each class; NaN if no point is of the class.
        producers_se: Its standard error.
        overall: Overall accuracy, shape ``(...)``.
        overall_se: Its standard error.
        area_limits: Lower and upper limit of the 95 % interval of ``area``, shape ``(..., K, 2)``.
        users_limits: The same of ``users``.
        producers_limits: The same of ``producers``.
        overall_limits: The same of ``overall``, shape ``(..., 2)``.
    """

    proportions: NDArray[np.float64]
    area: NDArray[np.float64]
    area_se: NDArray[np.float64]
    users: NDArray[np.float64]
    users_se: NDArray[np.float64]
    producers: NDArray[np.float64]
    producers_se: NDArray[np.float64]
    overall: NDArray[np.float64]
    overall_se: NDArray[np.float64]
    area_limits: NDArray[np.float64]
    users_limits: NDArray[np.float64]
    producers_limits: NDArray[np.float64]
    overall_limits: NDArray[np.float64]


def stratified_shares(
    sample: NDArray[np.int64], weights: ArrayLike, sampled_share: ArrayLike | None = None
) -> StratifiedShares:
    """Estimate shares from one sample or from thousands at once.

    Args:
        sample: Points, shape ``(..., K, K)``, row = stratum, column = reference.
        weights: Area of each stratum in any unit, shape ``(K,)``.
        sampled_share: Share of each stratum's pixels that are in the sample, shape ``(K,)``: the
            variances are reduced by it. Nothing where left out.

    Returns:
        The estimates. NaN is whatever rests on a stratum with area and without points; so is the
        standard error of what rests on a single point; limits are not.

    Source:
        Olofsson et al. (2014): equation 4 (proportions), 1 to 3 (accuracies), 5 to 7 (their
        variances), 8 and 9 (areas), 10 (their standard errors). Finite populations: Cochran
        (1977), section 5.3. Limits: Jeffreys intervals of the shares inside each stratum (Brown,
        Cai & DasGupta, 2001), combined as Zou, Huang & Zhang (2009) do for linear functions of
        binomial proportions, and Donner & Zou (2012) for ratios.
    """
    shares = np.asarray(weights, np.float64)
    shares = shares / shares.sum()
    on_map = shares > 0
    points = sample.sum(axis=-1, keepdims=True)
    left = 1 - np.asarray(0.0 if sampled_share is None else sampled_share)
    with np.errstate(divide="ignore", invalid="ignore"):
        within = sample / points
        spread = within * (1 - within) / (points - 1)
    # A stratum that is in the sample as a whole has no sampling error, be it of a single pixel.
    left = np.broadcast_to(left, shares.shape)[:, None]
    spread = np.where(left == 0, np.where(points > 0, 0.0, np.nan), spread * left)
    proportions = np.where(on_map[:, None], shares[:, None] * within, 0.0)
    variances = np.where(on_map[:, None], shares[:, None] ** 2 * spread, 0.0)

    area = proportions.sum(axis=-2)
    correct, users = _diagonal(proportions), _diagonal(within)
    with np.errstate(divide="ignore", invalid="ignore"):
        producers = correct / area
        omitted = np.where(np.eye(len(shares), dtype=bool), 0.0, variances).sum(axis=-2)
        of_producers = (1 - producers) ** 2 * _diagonal(variances) + producers**2 * omitted
        producers_se = np.sqrt(of_producers) / area
    distances = _distances(sample, points) * np.sqrt(left)[..., None]
    reach = np.where(on_map[:, None, None], shares[:, None, None] * distances, 0.0)
    own = np.moveaxis(np.diagonal(reach, axis1=-3, axis2=-2), -1, -2)
    elsewhere = np.where(np.eye(len(shares), dtype=bool)[..., None], 0.0, reach)
    omitted_reach = np.sqrt((elsewhere**2).sum(axis=-3))
    return StratifiedShares(
        proportions=proportions,
        area=area,
        area_se=np.sqrt(variances.sum(axis=-2)),
        users=users,
        users_se=np.sqrt(_diagonal(spread)),
        producers=producers,
        producers_se=producers_se,
        overall=correct.sum(axis=-1),
        overall_se=np.sqrt(_diagonal(variances).sum(axis=-1)),
        area_limits=_limits(area, np.sqrt((reach**2).sum(axis=-3))),
        users_limits=_limits(
            users, np.moveaxis(np.diagonal(distances, axis1=-3, axis2=-2), -1, -2)
        ),
        producers_limits=_found_limits(correct, own, area - correct, omitted_reach),
        overall_limits=_limits(correct.sum(axis=-1), np.sqrt((own**2).sum(axis=-2))),
    )


def _diagonal(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.diagonal(matrices, axis1=-2, axis2=-1)


def _distances(sample: NDArray[np.int64], points: NDArray[np.int64]) -> NDArray[np.float64]:
    """From the share of the points to both limits of the share of the pixels, last axis."""
    # Imported here: whoever only reads estimates does not pay for it.
    from scipy.special import betaincinv

    rest = points - sample
    with np.errstate(divide="ignore", invalid="ignore"):
        share = sample / points
    low = np.where(sample == 0, 0.0, betaincinv(sample + 0.5, rest + 0.5, 0.025))
    high = np.where(rest == 0, 1.0, betaincinv(sample + 0.5, rest + 0.5, 0.975))
    return np.stack([share - low, high - share], axis=-1)


def _limits(value: NDArray[np.float64], reach: NDArray[np.float64]) -> NDArray[np.float64]:
    ends = np.stack([value - reach[..., 0], value + reach[..., 1]], axis=-1)
    return np.asarray(np.clip(ends, 0, 1))


def _found_limits(
    found: NDArray[np.float64],
    found_reach: NDArray[np.float64],
    missed: NDArray[np.float64],
    missed_reach: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Limits of found / (found + missed), which are of different strata.

    With r = found / missed, they are where found - r * missed leaves its own interval.
    """
    missed = np.maximum(missed, 0)  # the difference of equal sums may be -1e-17
    product = found * missed
    low_found, high_missed = found - found_reach[..., 0], missed + missed_reach[..., 1]
    high_found, low_missed = found + found_reach[..., 1], missed - missed_reach[..., 0]
    of_low = low_found * (2 * found - low_found), high_missed * (2 * missed - high_missed)
    of_high = high_found * (2 * found - high_found), low_missed * (2 * missed - low_missed)
    with np.errstate(divide="ignore", invalid="ignore"):
        low = of_low[0] / (product + _root(product, of_low))
        high = (product + _root(product, of_high)) / of_high[1]
        ends = np.stack(
            [
                np.where(of_low[0] > 0, low / (1 + low), 0.0),
                np.where(of_high[1] > 0, high / (1 + high), 1.0),
            ],
            axis=-1,
        )
    total = found + missed
    ends[(high_found == 0) & (total > 0)] = 0  # a class that is mapped nowhere
    ends[(high_missed == 0) & (found > 0)] = 1  # one that nothing else can hold
    ends[np.isnan(total) | (total == 0)] = np.nan
    return np.asarray(ends)


def _root(
    product: NDArray[np.float64], of: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.maximum(product**2 - of[0] * of[1], 0)))
