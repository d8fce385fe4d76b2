"""Benchmarks: timings as ratios to a named reference of the same run; never part of the tests."""
