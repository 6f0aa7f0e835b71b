"""What a stream may send besides its items, on a clock of the test's own."""

from __future__ import annotations

import pytest

from stream_server.server.allowance import FLOOD_S, Allowance


def test_a_second_s_worth_is_free_and_the_rest_waits() -> None:
    allowance = Allowance(10.0, 0.0)
    allowance.spend(10, 0.0)
    assert allowance.delay(0.0) == 0.0
    allowance.spend(5, 0.0)
    assert allowance.delay(0.0) == pytest.approx(0.5)


def test_a_burst_is_not_a_flood_however_large() -> None:
    allowance = Allowance(10.0, 0.0)
    allowance.spend(90, 0.0)
    allowance.spend(1, FLOOD_S - 1)
    assert not allowance.flooding


def test_to_be_over_it_for_too_long_is_a_flood() -> None:
    allowance = Allowance(10.0, 0.0)
    now = 0.0
    while now < FLOOD_S:
        assert not allowance.flooding
        allowance.spend(11, now)
        now += 1.0
    for _ in range(10):
        allowance.spend(2, now)
    assert allowance.flooding


def test_who_keeps_to_it_for_a_while_begins_anew() -> None:
    allowance = Allowance(10.0, 0.0)
    for burst in range(20):
        allowance.spend(20, 3.0 * burst)
    assert not allowance.flooding
