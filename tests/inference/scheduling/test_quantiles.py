"""Quantiles within their error, in bounded memory, of what is recent."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.scheduling.quantiles import ERROR, LARGEST, SMALLEST, Distribution, Recent

durations = st.lists(st.floats(SMALLEST, LARGEST), min_size=1, max_size=200)


def of(values: list[float]) -> Distribution:
    distribution = Distribution()
    for value in values:
        distribution.add(value)
    return distribution


@given(durations, st.floats(0, 1))
def test_a_quantile_is_within_the_error_of_the_exact_one(values: list[float], q: float) -> None:
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    assert of(values).quantile(q) == pytest.approx(exact, rel=ERROR + 1e-9)


@given(durations)
def test_no_quantile_exceeds_the_largest_or_a_higher_quantile(values: list[float]) -> None:
    distribution = of(values)
    told = [distribution.quantile(q) for q in (0.0, 0.5, 0.99, 1.0)]
    assert told == sorted(told)
    assert told[-1] <= distribution.largest


@given(durations, durations)
def test_adding_two_is_adding_what_is_in_them(some: list[float], more: list[float]) -> None:
    assert of(some) + of(more) == of(some + more)


def test_count_and_largest_are_exact() -> None:
    distribution = of([0.25, 7200.0, 1e-9])
    assert (distribution.count, distribution.largest) == (3, 7200.0)


def test_nothing_has_no_quantiles() -> None:
    assert (Distribution().quantile(0.5), Distribution().largest) == (0.0, 0.0)


def test_what_is_out_of_range_counts_at_its_ends() -> None:
    distribution = of([0.0, 1e9])
    assert distribution.quantile(0) == pytest.approx(SMALLEST, rel=ERROR)
    assert distribution.quantile(1) == pytest.approx(LARGEST, rel=ERROR)


def test_memory_is_bounded() -> None:
    distribution = of([SMALLEST * 1.001**i for i in range(30_000)])
    assert len(distribution._buckets) < 600


def test_recent_forgets_after_twice_its_span_and_not_before_once() -> None:
    recent = Recent(span=10.0)
    recent.add(1.0, 100.0)
    assert recent.at(109.9).count == 1
    recent.add(2.0, 112.0)
    assert recent.at(119.0).count == 2
    assert recent.at(122.0).largest == 2.0
    assert recent.at(122.0).count == 1
    assert recent.at(500.0).count == 0


def test_nothing_is_known_until_something_was_added() -> None:
    recent = Recent(span=10.0)
    assert not recent.known
    recent.add(1.0, 0.0)
    assert recent.known


def test_what_is_no_longer_recent_is_still_known() -> None:
    recent = Recent(span=10.0)
    recent.add(1.0, 100.0)
    assert recent.at(500.0).count == 0
    assert recent.known


def test_asking_makes_nothing_known() -> None:
    recent = Recent(span=10.0)
    assert recent.at(100.0).count == 0
    assert not recent.known
