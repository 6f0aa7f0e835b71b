"""Percentiles, fairness and parts of a run, on numbers with known answers."""

from __future__ import annotations

import random

import pytest

from benchmarks.report.stats import jain, part, percentile


def test_a_percentile_is_the_nearest_rank() -> None:
    values = [15.0, 20.0, 35.0, 40.0, 50.0]
    assert [percentile(values, p) for p in (5, 30, 40, 50, 100)] == [15, 20, 20, 35, 50]


def test_99th_percentile_of_hundred_values() -> None:
    values = [float(v) for v in range(1, 101)]
    random.Random(1).shuffle(values)
    assert percentile(values, 99) == 99
    assert percentile(values, 50) == 50
    assert percentile(values, 0) == 1


def test_one_value_is_every_percentile() -> None:
    assert percentile([7.0], 1) == percentile([7.0], 99) == 7


def test_empty_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 99)


def test_equal_shares_are_fair() -> None:
    assert jain([3.0] * 24) == pytest.approx(1)


def test_single_holder_is_least_fair() -> None:
    assert jain([10.0, 0, 0, 0]) == pytest.approx(1 / 4)


def test_fairness_does_not_depend_on_the_unit() -> None:
    assert jain([1.0, 2, 3]) == pytest.approx(36 / 42)
    assert jain([1000.0, 2000, 3000]) == pytest.approx(36 / 42)


def test_all_zero_shares_are_fair() -> None:
    assert jain([0.0, 0.0]) == 1


def test_parts_divide_moments() -> None:
    moments = [(0.0, 1.0), (3.9, 2.0), (4.0, 3.0), (19.9, 4.0), (20.1, 5.0)]
    assert part(moments, 5, 0, 20.0) == [1, 2]
    assert part(moments, 5, 1, 20.0) == [3]
    assert part(moments, 5, 4, 20.0) == [4]
