"""Whether a peer's bytes move: slow is not dead, and dead is noticed. Pure: no I/O, no clock."""

from __future__ import annotations

MIN_RATE = 4096
"""Bytes per second that a message must move at on average, in either direction: a tenth of a 3G uplink. Without a
minimum, one byte at a time would hold a message's memory, and the stream's place, for ever."""


class Progress:
    """How a transfer fares, asked at regular ticks: while the machine stands still there are none, to blame a peer.

    Args:
        tick_s: seconds between two ticks.
        patience: ticks without a byte after which the peer counts as dead. The whole transfer may take as long, and
            a second more for every `MIN_RATE` bytes that have moved.
    """

    __slots__ = ("_moved", "_patience", "_still", "_tick_s", "_ticks")

    def __init__(self, tick_s: float, patience: int) -> None:
        self._tick_s = tick_s
        self._patience = patience
        self._ticks = self._still = self._moved = 0

    def stalled(self, moved: int) -> bool:
        """Take a tick; return whether the peer is dead or too slow.

        Args:
            moved: bytes that have moved since the last tick.
        """
        self._ticks += 1
        self._moved += moved
        self._still = 0 if moved > 0 else self._still + 1
        if self._still >= self._patience:
            return True
        return (self._ticks - self._patience) * self._tick_s > self._moved / MIN_RATE
