"""The token bucket, on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.token_bucket import TokenBucket


def test_a_full_burst_is_there_at_first() -> None:
    bucket = TokenBucket(rate=2.0, burst=10.0, now=100.0)
    assert bucket.available(100.0) == 10.0
    assert bucket.delay(100.0) == 0.0


def test_tokens_come_back_at_the_rate_up_to_the_burst() -> None:
    bucket = TokenBucket(rate=2.0, burst=10.0, now=0.0)
    bucket.spend(10.0, 0.0)
    assert bucket.available(0.0) == 0.0
    assert bucket.available(3.0) == 6.0
    assert bucket.available(60.0) == 10.0


def test_a_debt_delays_and_is_paid_at_the_rate() -> None:
    bucket = TokenBucket(rate=2.0, burst=1.0, now=0.0)
    bucket.spend(5.0, 0.0)
    assert bucket.delay(0.0) == 2.0
    assert bucket.delay(1.5) == 0.5
    assert bucket.delay(2.0) == 0.0


def test_a_clock_that_goes_back_gives_no_tokens() -> None:
    bucket = TokenBucket(rate=1.0, burst=5.0, now=10.0)
    bucket.spend(5.0, 10.0)
    bucket.spend(0.0, 5.0)
    assert bucket.available(10.0) == 0.0


@given(
    st.floats(0.1, 100),
    st.floats(0, 100),
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 50)), max_size=50),
)
def test_no_more_is_spent_than_burst_and_rate_allow(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    bucket = TokenBucket(rate, burst, 0.0)
    now = spent = 0.0
    for pause, wanted in steps:
        now += pause
        tokens = min(wanted, max(0.0, bucket.available(now)))
        bucket.spend(tokens, now)
        spent += tokens
        assert spent <= burst + rate * now + 1e-6
        assert bucket.available(now) <= burst
        assert bucket.delay(now) == pytest.approx(0.0, abs=1e-6)
