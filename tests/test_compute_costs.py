"""Compute costs: what was measured, added up, beside what the study of 2017 published."""

from __future__ import annotations

import math

import pytest

from pipeline.compute_costs import (
    STUDY_GIGAPIXELS,
    Benchmark,
    beside_the_study,
    read_benchmark,
    step_costs,
)
from pipeline.errors import InputError

BENCHMARK = (
    "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    "61.5\t0:01:01\t812.25\t1\t1\t1\t1\t1\t150\t92.25\n"
)


def test_benchmarks_are_read_and_what_was_not_measured_is_nan() -> None:
    assert read_benchmark(BENCHMARK, "shard", "a") == [Benchmark("shard", "a", 61.5, 812.25, 92.25)]
    (short,) = read_benchmark("s\tmax_rss\tcpu_time\n0.2\tNA\t-\n", "shard", "b")
    assert short.seconds == 0.2
    assert math.isnan(short.memory_mb)
    assert math.isnan(short.cpu_seconds)
    with pytest.raises(InputError, match="no column 's'"):
        read_benchmark("", "shard", "a")


def test_jobs_of_a_step_are_added_up() -> None:
    jobs = [
        Benchmark("shard", "a", 60.0, 800.0, 90.0),
        Benchmark("train", "all", 100.0, math.nan, math.nan),
        Benchmark("shard", "b", 20.0, 900.0, math.nan),
    ]
    shard, train = step_costs(jobs, {"a": 3 * 10**9, "b": 10**9})
    assert (shard.rule, shard.jobs, shard.seconds, shard.longest.sheet) == ("shard", 2, 80.0, "a")
    assert shard.cores == 1.5  # of the one job that was measured
    assert shard.memory_mb == 900.0
    assert (shard.gigapixels, shard.seconds_per_gigapixel) == (4.0, 20.0)
    assert (train.rule, train.jobs) == ("train", 1)
    for unknown in (train.cores, train.memory_mb, train.gigapixels, train.seconds_per_gigapixel):
        assert math.isnan(unknown)
    assert math.isnan(step_costs(jobs, {"a": 5})[0].gigapixels), "of b nothing is known"


def test_the_study_is_scaled_to_the_pixels_of_the_run() -> None:
    assert pytest.approx(307.8) == STUDY_GIGAPIXELS  # 150 sheets of 54 000 x 38 000
    jobs = [
        Benchmark("label_raster", "a", 30.0, 500.0, 30.0),
        Benchmark("shard", "a", 80.0, 900.0, 90.0),
        Benchmark("train", "all", 600.0, 2000.0, 600.0),
    ]
    labels, images, training, mapping = beside_the_study(step_costs(jobs, {"a": 2 * 10**9}))
    assert labels.published.seconds == pytest.approx(984.0)
    assert labels.seconds_per_gigapixel == 15.0
    assert labels.study_seconds == pytest.approx(984 * 2 / 307.8)
    assert images.published.seconds == pytest.approx(190.3 * 60)
    assert (images.seconds, images.memory_mb, images.published.memory_gb) == (80.0, 900.0, 350.0)
    # Its time follows from iterations, not from ground.
    assert training.study_seconds == pytest.approx(16.2 * 3600)
    assert math.isnan(training.seconds_per_gigapixel)
    assert math.isnan(training.published.seconds_per_gigapixel)
    assert math.isnan(mapping.published.seconds)
    assert math.isnan(mapping.seconds)


def test_without_steps_that_compare_there_is_no_comparison() -> None:
    assert beside_the_study(step_costs([Benchmark("tile_plan", "all", 1.0, 1.0, 1.0)])) == []
