"""Shares of the ground, estimated from stratified samples: of one or of thousands at once.

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
        standard error of what rests on a single point.

    Source:
        Olofsson et al. (2014): equation 4 (proportions), 1 to 3 (accuracies), 5 to 7 (their
        variances), 8 and 9 (areas), 10 (their standard errors). Finite populations: Cochran
        (1977), section 5.3.
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
    )


def _diagonal(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.diagonal(matrices, axis1=-2, axis2=-1)
