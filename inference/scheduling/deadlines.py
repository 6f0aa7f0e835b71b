"""The deadlines of items that wait, in one heap. Pure: no clock.

An item that no longer waits leaves a stale entry (lazy deletion); a compaction removes them before they are most
of the heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

FEW = 64
"""Entries that are kept whether or not their items still wait: a smaller heap is not worth compacting."""


class Deadlines:
    """A heap of (deadline in seconds, stream, seq).

    Args:
        is_waiting: whether the item with that stream and seq still waits and may expire.
    """

    def __init__(self, is_waiting: Callable[[int, int], bool]) -> None:
        self._is_waiting = is_waiting
        self._heap: list[tuple[float, int, int]] = []
        self._limit = FEW

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, deadline: float, stream: int, seq: int) -> None:
        """Remember an item's deadline."""
        heapq.heappush(self._heap, (deadline, stream, seq))
        if len(self._heap) > self._limit:
            self._heap = [entry for entry in set(self._heap) if self._is_waiting(*entry[1:])]
            heapq.heapify(self._heap)
            self._limit = FEW + 2 * len(self._heap)

    def next(self) -> float | None:
        """The earliest deadline of an item that waits; None if there is none."""
        while self._heap and not self._is_waiting(*self._heap[0][1:]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop(self, now: float) -> tuple[int, int] | None:
        """Remove and return the stream and seq of one item whose deadline has passed; None if there is none."""
        deadline = self.next()
        if deadline is None or deadline > now:
            return None
        _, stream, seq = heapq.heappop(self._heap)
        return stream, seq
