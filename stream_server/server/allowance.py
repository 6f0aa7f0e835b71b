"""What one stream may send besides its items. Pure.

The engine bounds items: they wait there, and each is answered once. Everything else that a client sends takes the
event loop's time, and so every other stream's, without waiting for a worker: pings, pongs, small fragments,
malformed messages, a `meta` that no item follows, items without bytes. One allowance pays for all of it.
"""

from __future__ import annotations

from inference.token_bucket import TokenBucket

FLOOD_S = 10.0
"""How long a stream may be over its allowance, in seconds, before it is closed: longer than any burst."""


class Allowance:
    """An average rate, and a burst of one second's worth. Who spends more is read more slowly.

    Args:
        rate: messages and frames per second.
        now: the time, in seconds.

    Attributes:
        flooding: whether the stream has been over its allowance for `FLOOD_S` seconds. It starts anew once the
            stream has all of its allowance again.
    """

    __slots__ = ("_bucket", "_burst", "_slowed_since", "flooding")

    def __init__(self, rate: float, now: float) -> None:
        self._burst = rate
        self._bucket = TokenBucket(rate, rate, now)
        self._slowed_since: float | None = None
        self.flooding = False

    def spend(self, count: int, now: float) -> None:
        """Pay for so many messages or frames."""
        if self._bucket.available(now) >= self._burst:
            self._slowed_since = None
        self._bucket.spend(count, now)
        if self._bucket.delay(now) > 0:
            if self._slowed_since is None:
                self._slowed_since = now
            self.flooding = self.flooding or now - self._slowed_since >= FLOOD_S

    def delay(self, now: float) -> float:
        """Seconds to wait before anything else is read."""
        return self._bucket.delay(now)
