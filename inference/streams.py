"""An open stream: the one way in for its items. The engine decides what becomes of them."""

from __future__ import annotations

from typing import Protocol

from inference.intake import DEFAULT_WINDOW, FREE_BYTES, MAX_STREAM_BYTES, ByteBudget, Refusal, StreamRequest
from inference.items import Dropped, Failed, Item, Outcome, Result
from inference.model import ModelCard, ModelId, Policy
from inference.scheduling.statistics import Tally


class StreamOwner(Protocol):
    """Who a stream's outcomes go to. Both methods are called on the event loop."""

    def deliver(self, outcome: Outcome) -> None:
        """Take an item's outcome. Its item comes without the payload."""

    def fail(self, error: Exception) -> None:
        """The stream is closed, because `deliver` raised."""


class Intake(Protocol):
    """What a stream needs of the engine."""

    @property
    def budget(self) -> ByteBudget:
        """The bytes that all streams hold."""

    def now(self) -> float:
        """The time on the clock of items, in seconds."""

    def offer(self, stream: Stream, item: Item) -> None:
        """Take an item in; `Stream.admit` accounts for it."""

    def refuse(self, stream: Stream, outcome: Dropped | Failed) -> None:
        """Count and answer an item that cannot run."""

    def tally(self, stream: int) -> Tally:
        """What became of an open stream's items so far."""

    def hold_back(self, stream: Stream, held_back: bool) -> None:
        """Start nothing of a stream, or go on: it has answers enough that have not left."""

    def close(self, stream: Stream) -> None:
        """Forget a stream."""


class Stream:
    """An open stream: the one way in for its items.

    Attributes:
        number: the engine's number for it.
        name: its model's name.
        pinned: whether another version may never answer it.
        policy, window, weight: as agreed.
        capacity: the most items that run at once (`latest`) or wait (`queue`). That is one more than a queue's
            window: a client that keeps its window is read all the time, its pongs and its close too.
        card: of the version that it was opened on.
        model: the version that it is bound to now.
        bytes: of its items that wait or run.
    """

    def __init__(self, engine: Intake, number: int, request: StreamRequest, card: ModelCard) -> None:
        self._engine = engine
        self.number = number
        self.name = request.model
        self.pinned = request.version is not None
        self.policy: Policy = request.policy or card.policy
        self.window = request.window or DEFAULT_WINDOW[self.policy]
        self.weight = request.weight
        self.model = card.id
        self.capacity = self.window if self.policy == "latest" else self.window + 1
        self.max_age_ms = request.max_age_ms
        self.card = card
        self._max_bytes = request.max_bytes
        self.bytes = 0
        self._answers = 0  # bytes of answers that have not left
        self._held_back = False
        self._sizes: dict[int, int] = {}
        self._seq = 0
        self._final: Tally | None = None

    @property
    def may_offer(self) -> bool:
        """Whether it and all streams hold few enough bytes for another item. One may always come."""
        held = self.bytes + self._answers
        return held == 0 or (
            held <= self._max_bytes and (held <= FREE_BYTES or not self._engine.budget.exceeded)
        )

    def hold(self, size: int) -> None:
        """Say how many bytes its owner holds of answers that have not left.

        A stream with more than `MAX_STREAM_BYTES` of them gets no further ones before they have been read; while
        all streams hold too much, one with more than `FREE_BYTES`.
        """
        budget = self._engine.budget
        change = size - self._answers
        if change and self._final is None:
            self._answers = size
            if change > 0:
                budget.used += change
            else:
                budget.release(-change)
        held_back = size > FREE_BYTES and (size > MAX_STREAM_BYTES or budget.exceeded)
        if held_back != self._held_back and self._final is None:
            self._held_back = held_back
            self._engine.hold_back(self, held_back)

    def offer(self, payload: bytes, *, max_age_ms: int | None = None, refusal: Refusal | None = None) -> None:
        """Take an item in. Whatever becomes of it, its outcome is delivered once.

        Args:
            payload: the encoded item.
            max_age_ms: how long it may wait; None for the stream's own limit.
            refusal: why it cannot run, if it cannot.

        Raises:
            StreamFull: a queue stream offers more than its window.
        """
        now = self._engine.now()
        limit = max_age_ms or self.max_age_ms
        item = Item(self.number, self._seq + 1, payload, now, now + limit / 1e3 if limit else None)
        if refusal is None:
            self._engine.offer(self, item)
        else:
            self._engine.refuse(self, refusal.outcome(item))

    def answered_by(self, outcome: Outcome) -> ModelId:
        """The version that a result names, else the one that the stream is bound to."""
        return ModelId(self.name, outcome.version) if isinstance(outcome, Result) else self.model

    def admit(self, item: Item) -> None:
        """Account for an item that is taken in."""
        self._seq = item.seq
        self._sizes[item.seq] = size = len(item.payload)
        self.bytes += size
        self._engine.budget.used += size

    def settle(self, seq: int) -> None:
        """Release the bytes of an item that has its outcome."""
        size = self._sizes.pop(seq, 0)
        self.bytes -= size
        self._engine.budget.release(size)

    def tally(self) -> Tally:
        """What became of its items so far; of a closed stream, until it was closed."""
        return self._final or self._engine.tally(self.number)

    def close(self) -> None:
        """Deliver nothing more, and drop what waits. It may be called twice."""
        if self._final is None:
            self.hold(0)
            self._final = self._engine.tally(self.number)
            self._engine.close(self)
            for seq in list(self._sizes):
                self.settle(seq)
