"""Response bodies that take time to make: made anew while that takes little of the event loop's time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from inference.token_bucket import TokenBucket

SHARE = 0.02
"""The part of the event loop's time that each body may take: a flood of requests costs the streams 2 % for each."""

BURST_S = 0.5
"""Seconds of work that may be saved up, about a thousand bodies: whoever polls until a count changes, as tests and
scripts do, always gets what is true now."""

MAX_AGE_S = 1.0
"""A copy is never older: below the interval of any scraper. In a flood, a body that takes over 20 ms is made once
in this time."""


@dataclass(slots=True)
class _Snapshot:
    budget: TokenBucket
    made: float
    body: bytes


class Snapshots:
    """The last body of each name.

    Args:
        clock: seconds, monotonic.
        work: seconds of CPU that this thread has used; time in which other programs ran costs streams nothing more.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        work: Callable[[], float] = time.thread_time,
    ) -> None:
        self._clock = clock
        self._work = work
        self._snapshots: dict[str, _Snapshot] = {}

    def get(self, name: str, make: Callable[[], bytes]) -> bytes:
        """Give a body: a new one, or the last if making it has taken its share of time lately.

        Args:
            name: what to keep it by; callers bound how many there are.
        """
        now = self._clock()
        snapshot = self._snapshots.get(name)
        if snapshot and now - snapshot.made < MAX_AGE_S and snapshot.budget.available(now) <= 0:
            return snapshot.body
        began = self._work()
        body = make()
        budget = snapshot.budget if snapshot else TokenBucket(SHARE, BURST_S, now)
        budget.spend(self._work() - began, now)
        self._snapshots[name] = _Snapshot(budget, now, body)
        return body
