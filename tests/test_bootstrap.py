"""Bootstrap intervals: against what can be enumerated, against SciPy, and by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipeline import bootstrap
from pipeline.bootstrap import (
    OVERALL,
    PER_CLASS,
    Ground,
    Interval,
    differences,
    effective_number,
    intervals,
)
from pipeline.ground_blocks import BlockMatrices
from pipeline.scores import measures

NAMES = ("olives", "water", "roads")


def blocks(
    counts: object,
    places: object = None,
    names: tuple[str, ...] = NAMES,
    crs: str = "EPSG:25830",
    side_m: float = 128.0,
) -> BlockMatrices:
    matrices = np.array(counts, np.int64).reshape(-1, len(names), len(names))
    if places is None:
        places = [(column, 7) for column in range(len(matrices))]
    return BlockMatrices(
        names, np.array(places, np.int64).reshape(-1, 2), crs, matrices, side_m=side_m
    )


def random_blocks(number: int, seed: int = 0) -> BlockMatrices:
    """Blocks whose accuracy differs from one to the next, as on real ground."""
    random = np.random.default_rng(seed)
    diagonal = np.eye(3, dtype=np.int64) * random.integers(0, 900, (number, 3, 1))
    return blocks(diagonal + random.integers(0, 200, (number, 3, 3)))


def even_blocks(number: int, seed: int = 0, pixels: int = 3000) -> BlockMatrices:
    """The same with as many pixels in each."""
    part = random_blocks(number, seed).counts // 3
    part[:, 0, 0] += pixels - part.sum(axis=(1, 2))
    return blocks(part)


def accuracy_blocks(right: NDArray[np.int64], wrong: NDArray[np.int64]) -> BlockMatrices:
    counts = np.zeros((len(right), 2, 2), np.int64)
    counts[:, 0, 0], counts[:, 0, 1] = right, wrong
    return blocks(counts, names=("a", "b"))


def test_two_blocks_give_the_three_sums_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two blocks, both are drawn half of the time, and each twice a quarter of the time."""
    monkeypatch.setattr(bootstrap, "FEWEST_BLOCKS", 1)
    pair = accuracy_blocks(np.array([10, 30]), np.array([0, 70]))
    found = intervals([pair], draws=4000, seed=1)
    assert found.blocks == 2
    # A quarter of the draws is far more than 2.5 % on either side: the bounds are the extremes.
    assert found.overall_accuracy == Interval(40 / 110, 0.3, 1.0)
    assert found.users[0] == Interval(1.0, 1.0, 1.0)
    assert found.users[1].value == 0.0
    assert math.isnan(found.users[1].low), "b is in no block of the reference"


def test_the_draws_are_those_of_all_sequences_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks have 27 equally likely sequences: their quantiles, enumerated."""
    monkeypatch.setattr(bootstrap, "FEWEST_BLOCKS", 2)
    counts = np.array([[[8, 2], [1, 4]], [[3, 5], [2, 9]], [[40, 1], [6, 2]]])
    part = blocks(counts, names=("a", "b"))
    sums = [sum(counts[list(drawn)]) for drawn in itertools.product(range(3), repeat=3)]
    exact = measures(np.array(sums))
    found = intervals([part], draws=20_000, seed=3)
    whole = measures(counts.sum(axis=0))
    for key in OVERALL:
        values = np.sort(getattr(exact, key))
        interval = getattr(found, key)
        assert interval.value == float(getattr(whole, key))
        # 1/27 of the sequences lies at either end, more than the tail of 2.5 %.
        assert (interval.low, interval.high) == (values[0], values[-1])
    for key in PER_CLASS:
        for number, interval in enumerate(getattr(found, key)):
            values = np.sort(getattr(exact, key)[:, number])
            assert (interval.low, interval.high) == (values[0], values[-1])


def test_accuracy_has_the_interval_that_scipy_gives() -> None:
    part = random_blocks(60)
    right = np.trace(part.counts, axis1=1, axis2=2)
    pixels = part.counts.sum(axis=(1, 2))

    def ratio(numerator: NDArray[np.int64], whole: NDArray[np.int64], axis: int) -> object:
        return numerator.sum(axis=axis) / whole.sum(axis=axis)

    theirs = stats.bootstrap(
        (right, pixels), ratio, paired=True, vectorized=True, n_resamples=20_000,
        method="percentile", rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    ours = intervals([part], draws=20_000, seed=6).overall_accuracy
    assert ours.value == right.sum() / pixels.sum()
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_the_difference_has_the_interval_that_scipy_gives() -> None:
    one, other = random_blocks(40, seed=1), random_blocks(40, seed=2)

    def gain(*sums: NDArray[np.int64], axis: int) -> object:
        a, whole_a, b, whole_b = (values.sum(axis=axis) for values in sums)
        return b / whole_b - a / whole_a

    values = [
        array
        for part in (one, other)
        for array in (np.trace(part.counts, axis1=1, axis2=2), part.counts.sum(axis=(1, 2)))
    ]
    theirs = stats.bootstrap(
        values, gain, paired=True, vectorized=True, n_resamples=20_000, method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    ours = differences([one], [other], draws=20_000, seed=6).overall_accuracy
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Blocks whose accuracy varies; pixels taken for independent would cover half of that."""
    random = np.random.default_rng(11)
    held = naive = 0
    trials, number, pixels = 300, 40, 1000
    for trial in range(trials):
        share = random.beta(8, 2, number)  # mean 0.8
        right = np.round(share * pixels).astype(np.int64)
        found = intervals([accuracy_blocks(right, pixels - right)], draws=200, seed=trial)
        held += found.overall_accuracy.low <= 0.8 <= found.overall_accuracy.high
        mean = found.overall_accuracy.value
        naive += abs(mean - 0.8) <= 1.96 * math.sqrt(mean * (1 - mean) / (number * pixels))
    assert 0.90 <= held / trials <= 0.98
    assert naive / trials < 0.4


def test_a_run_differs_from_itself_by_nothing() -> None:
    part = random_blocks(25)
    found = differences([part], [part], draws=300)
    nothing = Interval(0.0, 0.0, 0.0)
    assert all(getattr(found, key) == nothing for key in OVERALL)
    assert all(getattr(found, key) == (nothing,) * 3 for key in PER_CLASS)
    assert not nothing.excludes_zero


def test_what_is_hard_for_both_does_not_widen_the_difference() -> None:
    """The second map is right on 10 pixels more of every block, however hard the block."""
    random = np.random.default_rng(4)
    right = random.integers(100, 900, 50)
    one = accuracy_blocks(right, 1000 - right)
    other = accuracy_blocks(right + 10, 990 - right)
    found = differences([one], [other], draws=500).overall_accuracy
    assert (found.value, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01))
    assert found.excludes_zero
    single = [intervals([part], draws=500).overall_accuracy for part in (one, other)]
    assert single[0].high > single[1].low, "taken alone, the intervals overlap"
    back = differences([other], [one], draws=500).overall_accuracy
    assert (back.value, back.low, back.high) == (-found.value, -found.high, -found.low)


def test_only_places_that_both_have_are_compared() -> None:
    counts = np.arange(36).reshape(4, 3, 3) + 1
    one = blocks(counts[:3], [(0, 0), (1, 0), (2, 0)])
    other = blocks(counts[[3, 1, 0]], [(1, 0), (5, 5), (2, 0)])
    found = differences([one], [other], draws=100)
    assert found.blocks == 2
    shared_one, shared_other = counts[[1, 2]].sum(axis=0), counts[[3, 0]].sum(axis=0)
    expected = measures(shared_other).mean_iou - measures(shared_one).mean_iou
    assert found.mean_iou.value == expected
    apart = differences([one], [blocks(counts[:1], [(9, 9)])], draws=100)
    assert apart.blocks == 0
    assert all(math.isnan(value) for value in vars(apart.overall_accuracy).values())


@pytest.mark.parametrize("other", [{"crs": "EPSG:25829"}, {"side_m": 64.0}])
def test_a_place_is_one_of_its_system_and_lattice(other: dict[str, object]) -> None:
    one = random_blocks(3)
    moved = blocks(one.counts, one.places, **other)  # type: ignore[arg-type]
    assert differences([one], [moved], draws=100).blocks == 0
    assert len(Ground.of([one, moved]).places) == 6


def test_blocks_of_several_sheets_at_one_place_are_drawn_together() -> None:
    part = random_blocks(12)
    half = part.counts // 2
    twice = [blocks(half, part.places), blocks((part.counts - half)[::-1], part.places[::-1])]
    assert intervals(twice, draws=200).as_dict() == intervals([part], draws=200).as_dict()
    rest = [blocks(part.counts[7:], part.places[7:]), blocks(part.counts[:7], part.places[:7])]
    assert intervals(rest, draws=200).as_dict() == intervals([part], draws=200).as_dict()


def test_the_same_seed_gives_the_same_in_chunks_of_any_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part = random_blocks(11)
    whole = intervals([part], draws=333, seed=8).as_dict()
    assert intervals([part], draws=333, seed=9).as_dict() != whole
    for cells in (9, 20, 100):
        monkeypatch.setattr(bootstrap, "_CELLS", cells)
        assert intervals([part], draws=333, seed=8).as_dict() == whole


@pytest.mark.parametrize("number", [1, 2, 3, 9])
def test_fewer_than_ten_blocks_have_scores_without_bounds(number: int) -> None:
    part = even_blocks(number)
    gain = differences([part], [even_blocks(number, seed=1)], draws=100)
    for found in (intervals([part], draws=100), gain):
        every = [getattr(found, key) for key in OVERALL]
        every += [interval for key in PER_CLASS for interval in getattr(found, key)]
        assert not any(math.isnan(interval.value) for interval in every)
        assert all(math.isnan(interval.low) and math.isnan(interval.high) for interval in every)
        assert not any(interval.excludes_zero for interval in every)
        told = found.as_dict()
        assert told["fewest_effective_blocks"] == 10
        assert told["blocks"] == told["effective_blocks"] == number
        assert told["unbounded"] == (
            f"an interval takes 10 blocks of ground, and there are {number}"
        )


def test_ten_blocks_have_bounds_and_say_nothing_of_lacking_them() -> None:
    found = intervals([even_blocks(10)], draws=100)
    assert found.mean_iou.low < found.mean_iou.value < found.mean_iou.high
    assert found.iou[0].low < found.iou[0].high
    assert found.unbounded == ""
    assert found.as_dict()["unbounded"] is None


def test_ground_without_blocks_has_no_scores() -> None:
    none = intervals([blocks([])], draws=100)
    assert none.blocks == 0
    assert math.isnan(none.overall_accuracy.value)
    assert none.as_dict()["overall_accuracy"] == {"value": None, "low": None, "high": None}


def test_a_class_of_one_block_has_no_bounds_and_an_absent_one_no_score() -> None:
    counts = np.zeros((20, 3, 3), np.int64)
    counts[:, 0, 0] = np.arange(20) + 50
    counts[:, 0, 1] = 5
    counts[4, 1, 1] = 30
    found = intervals([blocks(counts)], draws=500)
    assert found.iou[0].low < found.iou[0].value < found.iou[0].high
    assert found.producers[1].value == 1.0
    assert math.isnan(found.producers[1].low)
    assert math.isnan(found.iou[1].high)
    assert math.isnan(found.users[1].low), "mapped in all blocks, but right in one"
    assert math.isnan(found.iou[2].value)
    assert found.class_blocks == (20, 1, 0)


def test_draws_without_a_class_are_draws_of_another_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 is the rare class's producer's accuracy; without it the mean would be of the first."""
    monkeypatch.setattr(bootstrap, "FEWEST_BLOCKS", 1)
    counts = np.zeros((20, 3, 3), np.int64)
    counts[:, 0, 0] = np.arange(20) + 50
    counts[:, 0, 1] = 5
    counts[4, 1, 1] = 30
    found = intervals([blocks(counts)], draws=500)
    assert found.balanced_accuracy.low > (1 + found.producers[0].low) / 2 - 0.01


def test_the_effective_number_of_blocks_is_kishs() -> None:
    assert effective_number(np.full(40, 262_144)) == 40
    assert effective_number(np.full(3, 2**40 + 1)) == 3
    # 4 whole blocks and 12 strips of a sixteenth: 4.75² / (4 + 12 / 256) = 5.6.
    assert effective_number(np.array([16] * 4 + [1] * 12)) == 6
    assert effective_number(np.array([1, 0, 0, 1])) == 2
    assert effective_number(np.array([10**6] + [1] * 99)) == 1
    assert effective_number(np.zeros((0, 2), np.int64)).tolist() == [0, 0]
    several = np.array([[16, 5, 0], [16, 5, 0], [1, 5, 0]])
    assert effective_number(several).tolist() == [2, 3, 0]


def sliver_blocks(whole: int, strips: int, seed: int = 0) -> BlockMatrices:
    """Blocks of 3000 pixels, and strips at the edge with a fifteenth of that."""
    parts = even_blocks(whole, seed), even_blocks(strips, seed + 1)
    counts = np.concatenate([parts[0].counts, parts[1].counts // 15])
    counts[whole:, 0, 0] += 200 - counts[whole:].sum(axis=(1, 2))
    return blocks(counts)


@pytest.mark.parametrize(("whole", "effective", "bounded"), [(4, 6, False), (9, 11, True)])
def test_strips_at_the_edge_count_for_what_they_hold(
    whole: int, effective: int, bounded: bool
) -> None:
    """Sixteen blocks are no ten if four of them have nearly all the pixels."""
    one, other = sliver_blocks(whole, 12), sliver_blocks(whole, 12, seed=7)
    for found in (intervals([one], draws=100), differences([one], [other], draws=100)):
        assert (found.blocks, found.effective_blocks) == (whole + 12, effective)
        for key in OVERALL:
            assert math.isnan(getattr(found, key).low) is not bounded, key
        told = found.as_dict()
        assert told["effective_blocks"] == effective
        reason = "an interval takes 10 blocks of ground, and there are 16, effectively 6 for their"
        assert told["unbounded"] == (None if bounded else f"{reason} unlike sizes")


def test_a_class_in_strips_counts_for_what_they_hold() -> None:
    """Not for the class's own pixels: a class that has much of one block is no rarer for it."""
    counts = np.concatenate([sliver_blocks(4, 12).counts, even_blocks(20, seed=3).counts])
    counts[16:, 0] += counts[16:, 1]
    counts[16:, 1] = 0
    counts[16:, 0, 2] += counts[16:, 2].sum(axis=1) - 30
    counts[16:, 2] = 10
    found = intervals([blocks(counts)], draws=100)
    assert (found.blocks, found.effective_blocks, found.class_blocks) == (36, 26, (26, 6, 26))
    assert math.isnan(found.iou[1].low)
    assert found.iou[2].low < found.iou[2].high
    assert found.unbounded_means == (
        "a mean over classes takes 10 blocks of ground with each class, and there are effectively "
        "6 with water"
    )


MEANS = ("balanced_accuracy", "mean_iou", "mean_f1")


def rare_blocks(*numbers: int, size: int = 36) -> BlockMatrices:
    """Classes in the first so many blocks of equally many pixels, mostly right; the last fills."""
    names = (*(f"class {n}" for n in range(len(numbers))), "rest")
    counts = np.zeros((size, len(names), len(names)), np.int64)
    random = np.random.default_rng(size)
    for number, among in enumerate(numbers):
        right = random.integers(50, 90, among)
        counts[:among, number, number] = right
        counts[:among, number, -1] = 100 - right
    counts[:, -1, -1] = 1000 - counts.sum(axis=(1, 2))
    return blocks(counts, names=names)


@pytest.mark.parametrize(("number", "bounded"), [(8, False), (9, False), (10, True), (36, True)])
def test_means_have_bounds_where_every_class_may_have_them(number: int, bounded: bool) -> None:
    """A mean over classes hangs on the class of the fewest blocks as much as on any other."""
    part = rare_blocks(30, number)
    other = rare_blocks(30, number)
    other.counts[:, 0] = other.counts[:, 0, [2, 1, 0]]
    for found in (intervals([part], draws=200), differences([part], [other], draws=200)):
        for key in MEANS:
            assert not math.isnan(getattr(found, key).value)
            assert math.isnan(getattr(found, key).low) is not bounded, key
            assert math.isnan(getattr(found, key).high) is not bounded, key
        for key in ("overall_accuracy", "kappa", "frequency_weighted_iou"):
            assert not math.isnan(getattr(found, key).low), key
        assert math.isnan(found.iou[1].low) is not bounded
        assert found.class_blocks == (30, number, 36)
        assert found.sparse == (() if bounded else (("class 1", number),))


def test_means_without_bounds_say_why() -> None:
    told = intervals([rare_blocks(8, 30, 7)], draws=200).as_dict()
    assert told["unbounded"] is None
    assert told["unbounded_means"] == (
        "a mean over classes takes 10 blocks of ground with each class, and there are 8 with "
        "class 0 and 7 with class 2"
    )
    assert [entry["effective_blocks"] for entry in told["classes"]] == [8, 30, 7, 36]
    full = intervals([rare_blocks(20, 30)], draws=200).as_dict()
    assert full["unbounded_means"] is None
    few = intervals([random_blocks(9)], draws=200)
    assert few.unbounded_means == few.unbounded
    assert few.as_dict()["unbounded_means"] == few.unbounded


def test_a_class_that_the_ground_lacks_takes_no_bounds_from_means() -> None:
    counts = random_blocks(30).counts.copy()
    counts[:, 2] = 0
    found = intervals([blocks(counts)], draws=200)
    assert found.mean_iou.low < found.mean_iou.value < found.mean_iou.high
    assert found.sparse == ()


def test_what_is_right_in_few_blocks_has_no_bounds_of_users_accuracy() -> None:
    """Mapped everywhere, but in the reference in 8 blocks: all that is right lies in those."""
    counts = rare_blocks(8, 30).counts.copy()
    counts[:, 2, 0] = 20
    found = intervals([blocks(counts, names=("class 0", "class 1", "rest"))], draws=200)
    assert math.isnan(found.users[0].low)
    assert not math.isnan(found.users[1].low)


@pytest.mark.parametrize(("number", "bounded"), [(9, False), (10, True)])
def test_a_class_has_bounds_where_ten_blocks_have_it(number: int, bounded: bool) -> None:
    counts = np.zeros((20, 3, 3), np.int64)
    counts[:, 0, 0] = np.arange(20) + 50
    counts[:number, 1, 1] = np.arange(number) + 30
    counts[:number, 1, 0] = 7
    found = intervals([blocks(counts)], draws=500)
    assert math.isnan(found.overall_accuracy.low) is False
    for key in PER_CLASS:
        assert not math.isnan(getattr(found, key)[1].value)
        assert math.isnan(getattr(found, key)[1].low) is not bounded


def test_means_of_other_classes_are_not_subtracted() -> None:
    """The second run's labels lack a class: its means are over the other two."""
    one, other = random_blocks(30, seed=1).counts.copy(), random_blocks(30, seed=2).counts.copy()
    other[:, 2] = 0
    found = differences([blocks(one)], [blocks(other)], draws=200)
    for key in ("balanced_accuracy", "mean_iou", "mean_f1"):
        assert all(math.isnan(value) for value in vars(getattr(found, key)).values()), key
    for key in ("overall_accuracy", "kappa", "frequency_weighted_iou"):
        assert getattr(found, key).low < getattr(found, key).value < getattr(found, key).high, key
    one[:, 2] = 0
    same = differences([blocks(one)], [blocks(other)], draws=200)
    expected = measures(other.sum(axis=0)).mean_iou - measures(one.sum(axis=0)).mean_iou
    assert same.mean_iou.value == expected
    assert same.mean_iou.low < expected < same.mean_iou.high


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="same classes"):
        intervals([])
    with pytest.raises(ValueError, match="same classes"):
        intervals([random_blocks(2), blocks(np.zeros((1, 2, 2)), names=("a", "b"))])
    with pytest.raises(ValueError, match="other classes"):
        differences([random_blocks(2)], [blocks(np.zeros((1, 2, 2)), names=("a", "b"))])
    with pytest.raises(ValueError, match="too few"):
        intervals([random_blocks(2)], draws=10)
    with pytest.raises(ValueError, match="exact"):
        intervals([accuracy_blocks(np.full(10, 2**50), np.zeros(10, np.int64))])


def test_sums_beyond_float32_are_exact() -> None:
    part = accuracy_blocks(np.array([2**40 + 1, 2**40 + 3]), np.array([1, 5]))
    (sums,) = bootstrap._resampled(part.counts[:, np.newaxis], 64, 0)
    assert set(sums[:, 0, 0, 0].tolist()) == {2**41 + 2, 2**41 + 4, 2**41 + 6}
    assert set(sums[:, 0, 0, 1].tolist()) == {2, 6, 10}
