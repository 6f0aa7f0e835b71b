"""Which clients are connected, which of them have yet to send a request, and until when. Pure.

A connection without a request in progress is held for nothing: it has a deadline, and it is the first to go when
there is no room for another.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class ConnectionTable(Generic[T]):
    """Everyone who is connected.

    Args:
        capacity: most connections.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._open: set[T] = set()
        self._awaited: dict[T, float] = {}  # until when; who has waited longest comes first

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> bool:
        """Whether one must go before another comes."""
        return len(self._open) >= self.capacity

    def add(self, connection: T, deadline: float) -> None:
        """Take one more, which has until the deadline, in seconds, to send its first request."""
        self._open.add(connection)
        self.wait(connection, deadline)

    def remove(self, connection: T) -> None:
        """Forget one that is closed."""
        self._open.discard(connection)
        self._awaited.pop(connection, None)

    def wait(self, connection: T, deadline: float) -> None:
        """Wait for a client until the deadline."""
        if connection in self._open:
            self._awaited.pop(connection, None)
            self._awaited[connection] = deadline

    def serve(self, connection: T) -> None:
        """Its request has come: it may take its time."""
        self._awaited.pop(connection, None)

    def overdue(self, now: float) -> list[T]:
        """Those whose deadline has passed."""
        return [connection for connection, deadline in self._awaited.items() if deadline < now]

    def longest_awaited(self) -> T | None:
        """Who makes room for another: the one that has been waited for the longest; None if none is."""
        return next(iter(self._awaited), None)
