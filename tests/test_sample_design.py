"""How many points, and where: against the paper's numbers and against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pipeline.errors import SettingsError
from pipeline.sample_design import (
    EXPECTED_USERS,
    Rule,
    allocate,
    expected_se,
    expected_users,
    least_size,
    sample_size,
)

# Olofsson et al. (2014), section 5.1.
WEIGHTS = [0.020, 0.015, 0.320, 0.645]
USERS = [0.70, 0.60, 0.90, 0.95]


def test_the_papers_sample_has_641_points() -> None:
    # (0.02 * 0.4583 + 0.015 * 0.4899 + 0.32 * 0.3 + 0.645 * 0.2179)^2 / 0.01^2 = 640.5
    assert sample_size(WEIGHTS, USERS, 0.01) == 641
    assert sample_size(np.array(WEIGHTS) * 1e7, USERS, 0.01, population=10_000_000) == 641
    assert sample_size(WEIGHTS, USERS, 0.01, population=1000) == 384  # 640.54 / (1 + 0.6724)


def test_the_papers_allocations() -> None:
    assert allocate(WEIGHTS, 641, "proportional", 0).tolist() == [13, 10, 205, 413]
    assert allocate(WEIGHTS, 640, "equal", 0).tolist() == [160, 160, 160, 160]
    # It rounds the rest of 75 and 75 to 165 and 325; 490 * 0.320 / 0.965 is 162.5.
    assert allocate(WEIGHTS, 640, "proportional", 75).tolist() == [75, 75, 162, 328]


def test_each_rule_needs_what_its_allocation_reaches() -> None:
    rules: tuple[Rule, ...] = ("neyman", "proportional", "equal")
    assert [sample_size(WEIGHTS, USERS, 0.01, rule) for rule in rules] == [641, 673, 1165]
    for rule in rules:
        size = sample_size(WEIGHTS, USERS, 0.01, rule)
        reached = expected_se(WEIGHTS, USERS, allocate(WEIGHTS, size, rule, 0, USERS))
        assert reached == pytest.approx(0.01, rel=2e-3)


def test_the_least_size_minds_the_minimum() -> None:
    assert least_size(WEIGHTS, USERS, 0.01, "proportional", 75) == 735
    for size, enough in ((734, False), (735, True)):
        sizes = allocate(WEIGHTS, size, "proportional", 75, USERS)
        assert (expected_se(WEIGHTS, USERS, sizes) <= 0.01) is enough
    # 200 points reach 0.05 before the minima are dealt out.
    assert least_size(WEIGHTS, USERS, 0.05, "neyman", 50) == 200
    with pytest.raises(SettingsError, match="out of reach: the map has 40 pixels"):
        least_size(WEIGHTS, USERS, 0.001, available=[10, 10, 10, 10])


def test_neyman_has_the_least_standard_error_of_all_allocations() -> None:
    """Brute force over all ways to deal 24 points to three strata with bounds."""
    weights, users, available = [0.1, 0.3, 0.6], [0.6, 0.9, 0.7], [100, 4, 14]
    ways = [
        (a, b, 24 - a - b)
        for a, b in itertools.product(range(3, 25), range(3, 5))
        if 3 <= 24 - a - b <= 14
    ]
    best = min(ways, key=lambda sizes: expected_se(weights, users, sizes))
    found = allocate(weights, 24, "neyman", 3, users, available)
    assert tuple(found.tolist()) == best


@pytest.mark.parametrize("rule", ["equal", "proportional", "neyman"])
def test_any_allocation_adds_up_and_keeps_the_bounds(rule: Rule) -> None:
    random = np.random.default_rng(1)
    for _ in range(300):
        strata = int(random.integers(1, 9))
        weights = random.exponential(1, strata) ** 3
        weights[random.random(strata) < 0.2] = 0
        if not weights.any():
            continue
        available = np.where(weights > 0, random.integers(1, 80, strata), 0)
        minimum = int(random.integers(0, 12))
        low = np.minimum(minimum, available)
        total = int(random.integers(low.sum(), available.sum() + 1))
        sizes = allocate(weights, total, rule, minimum, random.random(strata), available)
        assert sizes.sum() == total
        assert (sizes >= low).all()
        assert (sizes <= available).all()


def test_what_a_small_class_cannot_take_the_others_share() -> None:
    # 30 points: 10 each, but the first has 4 pixels; 26 for the other two.
    assert allocate([1, 8, 9], 30, "equal", 0, available=[4, 90, 90]).tolist() == [4, 13, 13]
    # The minimum of 10 for both small ones leaves 30 to the rest: 12 and 18.
    found = allocate([0.01, 0.01, 0.392, 0.588], 50, "proportional", 10)
    assert found.tolist() == [10, 10, 12, 18]


def test_classes_that_are_not_on_the_map_get_no_points() -> None:
    assert allocate([3, 0, 1], 8, "proportional", 2).tolist() == [6, 0, 2]
    assert allocate([3, 9, 1], 8, "equal", 2, available=[50, 0, 50]).tolist() == [4, 0, 4]


def test_too_few_and_too_many_points_are_told() -> None:
    with pytest.raises(SettingsError, match=r"100 points are too few: 3 classes .* 150 together"):
        allocate([1, 1, 1, 0], 100)
    with pytest.raises(SettingsError, match="31 points are more than the 30 pixels"):
        allocate([1, 2], 31, available=[10, 20])
    with pytest.raises(SettingsError, match=r"A standard error of 1 cannot be planned"):
        sample_size(WEIGHTS, USERS, 1)


def test_neyman_without_expectations_is_proportional() -> None:
    even = allocate(WEIGHTS, 500, "neyman", 0)
    assert even.tolist() == allocate(WEIGHTS, 500, "proportional", 0).tolist()
    # Nor does it prefer any where all are sure.
    assert allocate(WEIGHTS, 500, "neyman", 0, [1, 1, 1, 1]).tolist() == even.tolist()


def test_accuracies_to_plan_with_come_from_a_matrix_and_are_never_perfect() -> None:
    counts = np.array([[30, 10, 0, 0], [10, 0, 0, 0], [0, 0, 0, 5], [0, 0, 0, 95]], np.int64)
    expected = [0.75, 0.05, EXPECTED_USERS, 0.95]
    assert expected_users(counts, 4).tolist() == pytest.approx(expected, abs=1e-12)
    assert expected_users(None, 2).tolist() == [EXPECTED_USERS] * 2


def test_a_stratum_without_points_leaves_the_error_open() -> None:
    assert expected_se([1, 1], [0.8, 0.8], [10, 0]) == math.inf
    assert expected_se([1, 0], [0.8, 0.8], [16, 0]) == pytest.approx(0.1)
