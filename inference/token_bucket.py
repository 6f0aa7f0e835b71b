"""A token bucket: an average rate with bursts. Pure: `now` is an argument, in seconds of any one clock.

Source: the token bucket of RFC 2697, section 3, with one colour; here it may go into debt, so that the cost of
something can be spent after it is known.
"""

from __future__ import annotations


class TokenBucket:
    """Tokens come at a steady rate, up to a largest number; what is done spends them.

    Args:
        rate: tokens per second.
        burst: the most tokens that are saved up, and how many there are at first.
        now: the time of creation, in seconds.
    """

    __slots__ = ("_burst", "_rate", "_since", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._since = now

    def available(self, now: float) -> float:
        """How many tokens there are; negative while in debt."""
        return min(self._burst, self._tokens + max(0.0, now - self._since) * self._rate)

    def spend(self, tokens: float, now: float) -> None:
        """Take tokens, also more than there are: the debt delays what comes next."""
        self._tokens = self.available(now) - tokens
        self._since = max(now, self._since)

    def delay(self, now: float) -> float:
        """Seconds until the bucket is out of debt; 0 if it is."""
        return max(0.0, -self.available(now) / self._rate)
