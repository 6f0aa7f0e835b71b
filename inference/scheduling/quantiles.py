"""Durations remembered as a distribution: quantiles of any number of them in bounded memory. No I/O, no clock.

The buckets grow by a constant factor, so that every quantile is within `ERROR` of a value that was added
(Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees",
VLDB 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from math import ceil, log

ERROR = 0.02
"""Relative error of a quantile: nobody acts on the difference between 100 ms and 102."""

SMALLEST, LARGEST = 1e-6, 3600.0
"""Seconds that are told apart: below a microsecond is nothing, and no item may take an hour. 550 buckets."""

RECENT = 30.0
"""Seconds that statistics of now look back: a scrape's usual interval, and long enough for a p99."""

_GAMMA = (1 + ERROR) / (1 - ERROR)
_PER_LOG = 1 / math.log(_GAMMA)


@dataclass(slots=True)
class Distribution:
    """Durations in seconds, counted in buckets.

    Attributes:
        count: how many were added.
        largest: the largest of them, exactly; 0 without any.
    """

    count: int = 0
    largest: float = 0.0
    _buckets: dict[int, int] = field(default_factory=dict)

    def add(self, seconds: float) -> None:
        """Count one."""
        # twice for every answer: comparisons take half of what min and max take
        bounded = SMALLEST if seconds < SMALLEST else min(seconds, LARGEST)
        bucket = ceil(log(bounded) * _PER_LOG)
        buckets = self._buckets
        buckets[bucket] = buckets.get(bucket, 0) + 1
        self.count += 1
        self.largest = max(self.largest, seconds)

    def quantile(self, q: float) -> float:
        """The duration that a share `q`, 0 to 1, of all does not exceed, within `ERROR`; 0 without any."""
        rank = max(1, math.ceil(q * self.count))
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return min(2 * _GAMMA**bucket / (_GAMMA + 1), self.largest)
        return 0.0

    def __add__(self, other: Distribution) -> Distribution:
        buckets = dict(self._buckets)
        for bucket, count in other._buckets.items():
            buckets[bucket] = buckets.get(bucket, 0) + count
        return Distribution(self.count + other.count, max(self.largest, other.largest), buckets)


@dataclass(slots=True)
class Recent:
    """The distribution of what was added in the last `span` to twice `span` seconds.

    Attributes:
        known: whether anything was ever added.
    """

    span: float
    known: bool = False
    _since: float = -math.inf
    _current: Distribution = field(default_factory=Distribution)
    _before: Distribution = field(default_factory=Distribution)

    def add(self, seconds: float, now: float) -> None:
        """Count one that is known since `now`."""
        if now - self._since >= self.span:
            self._turn(now)
        self._current.add(seconds)
        self.known = True

    def at(self, now: float) -> Distribution:
        """What is recent now."""
        if now - self._since >= self.span:
            self._turn(now)
        return self._current + self._before

    def _turn(self, now: float) -> None:
        stale = now - self._since >= 2 * self.span
        self._before = Distribution() if stale else self._current
        self._current = Distribution()
        self._since = now
