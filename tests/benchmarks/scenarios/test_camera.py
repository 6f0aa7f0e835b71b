"""Freshness of cameras, on made-up runs; the command's tests run the real scenario."""

from __future__ import annotations

import pytest

from benchmarks.load.accounts import Account
from benchmarks.load.histograms import Latencies, slots, timeline
from benchmarks.load.run import Run
from benchmarks.scenarios.camera import freshness, over_time


def account(*ages: tuple[float, float], dropped: int = 0) -> Account:
    """One camera with answers at these seconds and of these milliseconds."""
    answers = [(at, age - 1, age) for at, age in ages]
    return Account(len(ages) + dropped, len(ages), dropped, answers=answers)


def run(*accounts: Account) -> Run:
    results = [(at, age / 1e3) for one in accounts for at, _, age in one.answers]
    latency = Latencies(age for _, age in results)
    return Run([list(accounts)], 10.0, 1.0, 0.0, latency, Latencies([0.001]), timeline([slots(results)]))


def test_answer_is_fresh_up_to_age() -> None:
    found = freshness(run(account((1, 50), (2, 200), (3, 201), (4, 900))), 200, until=10)
    assert (found.rate, found.fresh) == (0.4, 0.2)
    assert found.ages == pytest.approx((200, 900, 900, 900), rel=1e-3)


def test_frames_due_after_limit_are_not_measured() -> None:
    early, last = (9.5, 50), (10.5, 600)
    found = freshness(run(account((1, 50), early, last)), 1000, until=9.95)
    assert found.rate == pytest.approx(3 / 9.95)
    assert freshness(run(account((1, 50), early, last)), 1000, until=9.8).rate == pytest.approx(2 / 9.8)


def test_slowest_camera_is_reported() -> None:
    found = freshness(run(account((1, 50), (2, 50), (3, 50)), account((1, 50), (2, 500))), 200, until=10)
    assert found.least == pytest.approx(0.1)
    assert found.jain == pytest.approx(25 / 26)


def test_drops_are_a_share_of_sent() -> None:
    assert freshness(run(account((1, 50), dropped=3)), 200, until=10).dropped == 0.75


def test_plot_limit_is_stale_age() -> None:
    plot = over_time(run(account((0.1, 50), (1.1, 300))), 200)
    assert (plot.limit, plot.limit_name) == (200, "stale")
    p99 = plot.series[0]
    assert [at for at, _ in p99.points] == [0.125, 1.125]
    assert [age for _, age in p99.points] == pytest.approx([50, 300], rel=1e-3)
