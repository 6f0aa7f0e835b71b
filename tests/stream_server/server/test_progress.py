"""What counts as slow, and what as dead."""

from __future__ import annotations

from stream_server.server.progress import MIN_RATE, Progress


def test_a_slow_transfer_goes_on() -> None:
    progress = Progress(tick_s=2.0, patience=3)
    assert not any(progress.stalled(2 * MIN_RATE) for _ in range(1000))


def test_bursts_may_be_apart() -> None:
    progress = Progress(tick_s=2.0, patience=3)
    assert not any(progress.stalled(0 if tick % 3 else 6 * MIN_RATE) for tick in range(999))


def test_one_that_stands_still_is_stalled_whatever_has_moved_before() -> None:
    progress = Progress(tick_s=2.0, patience=3)
    assert not progress.stalled(1 << 40)
    assert [progress.stalled(0) for _ in range(3)] == [False, False, True]


def test_a_byte_at_each_tick_is_not_enough() -> None:
    progress = Progress(tick_s=2.0, patience=3)
    assert [progress.stalled(1) for _ in range(4)] == [False, False, False, True]
