"""Histograms of times, compared with the percentiles of the times themselves."""

from __future__ import annotations

import math
import random

import pytest

from benchmarks.load.histograms import LONGEST_S, SLOT_S, Latencies, slots, timeline, total
from benchmarks.report.stats import percentile

PERCENTS = (0, 1, 50, 90, 99, 99.9, 100)


def times(count: int, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [chance.expovariate(20) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 50, 101, 149, 170, 1000, 12_345])
@pytest.mark.parametrize("percent", PERCENTS)
def test_percentile_is_nearest_rank_to_three_digits(count: int, percent: float) -> None:
    exact = percentile(times(count), percent) * 1e3
    assert Latencies(times(count)).percentile(percent) == pytest.approx(exact, rel=1e-3, abs=1e-3)


def test_histograms_add_up() -> None:
    parts = [times(500, seed) for seed in range(4)]
    whole = Latencies(time for part in parts for time in part)
    added = total(Latencies.decode(Latencies(part).encode()) for part in parts)
    assert added.count == whole.count == 2000
    assert added.percentiles(*PERCENTS) == whole.percentiles(*PERCENTS)


def test_histogram_round_trips() -> None:
    sent = Latencies(times(1000))
    assert Latencies.decode(sent.encode()).percentiles(*PERCENTS) == sent.percentiles(*PERCENTS)
    assert Latencies.decode(Latencies().encode()).count == 0


def test_times_are_clamped_to_range() -> None:
    latencies = Latencies([-1.0, 2 * LONGEST_S])
    assert latencies.count == 2
    assert latencies.percentile(0) == 0
    assert latencies.percentile(100) == pytest.approx(LONGEST_S * 1e3, rel=1e-3)


def test_empty_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no times"):
        Latencies().percentile(50)
    assert all(map(math.isnan, Latencies().percentiles(50, 99)))


def test_timeline_adds_slots_of_all_parts() -> None:
    one = slots([(0.1, 0.2), (SLOT_S + 0.05, 0.1)])
    other = slots([(0.2, 0.4), (5.0, 0.3)])
    moments = timeline([one, other])
    assert [(moment.at, moment.count) for moment in moments] == [(0.125, 2), (0.375, 1), (5.125, 1)]
    assert (moments[0].p50, moments[0].p99, moments[0].most) == pytest.approx((200, 400, 400), rel=1e-3)
