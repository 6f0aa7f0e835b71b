"""Decides what runs next; the only place where an item waits. No I/O, no clock: `now` is an argument.

Streams share the workers by start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queueing", SIGCOMM
1996): an item's start tag is the later of the virtual time and its stream's last finish tag; the lowest
start tag runs first, and the virtual time is the start tag of what ran last. A finish tag lies an item's
cost over its stream's weight beyond its start tag. The cost is worker time, estimated from what the stream's
items took before and corrected when the item is done, so that a stream of large frames pays for them. One
virtual time spans all models, because they share the workers.

The loop that drives it: `offer` what arrives; whenever a worker is free, `take` what it shall run; `done`
when that has run; `expire` at an item's deadline, for no worker may be free by then. Whatever outcomes any of
these returns must be delivered.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TypeAlias

from inference.distribution import Distribution, Recent
from inference.items import Batch, Dropped, DropReason, Failed, Item, Outcome, Result
from inference.model import Policy

FIRST_COST = 0.001
"""Seconds an item is taken to cost before any of its model has been measured."""

COST_MEMORY = 0.2
"""Share of the newest measurement in an estimate: about the last ten items of a stream count."""


RECENT = 30.0
"""Seconds that statistics of now look back: a scrape's usual interval, and long enough for a p99."""


class UnknownStream(LookupError):
    """You misused the scheduler: that stream was never opened, or has been closed."""


class StreamFull(RuntimeError):
    """You misused the scheduler: a queue stream's waiting room is full, and `room` said so."""


@dataclass(slots=True)
class Tally:
    """What became of the items of a stream, a model or the whole engine.

    ``received == results + errors + dropped + waiting + running`` at every moment (law 1).
    """

    received: int = 0
    results: int = 0
    errors: int = 0
    superseded: int = 0
    expired: int = 0
    draining: int = 0
    cancelled: int = 0
    waiting: int = 0
    running: int = 0

    @property
    def dropped(self) -> int:
        """Items nobody started on, for whatever reason."""
        return self.superseded + self.expired + self.draining + self.cancelled

    @property
    def balanced(self) -> bool:
        """Whether law 1 holds."""
        return self.received == self.results + self.errors + self.dropped + self.waiting + self.running

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Tally)))


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """One open stream.

    Attributes:
        number: the engine's number for it.
        tally: what became of its items.
        worker_s: seconds of worker time that its items took.
        share: its part of the worker time of all open streams of its model, 0 to 1.
    """

    number: int
    tally: Tally
    worker_s: float
    share: float


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """One model: a snapshot.

    Attributes:
        tally: what became of its items, since the start.
        batch_cap: its largest batch now.
        peak: most items that waited or ran at once.
        ages: of the results of the last half minute to a minute, seconds from receipt to result.
        costs: of the same, seconds of worker time per item.
        streams: its open streams.
    """

    tally: Tally
    batch_cap: int
    peak: int
    ages: Distribution
    costs: Distribution
    streams: tuple[StreamStatistics, ...]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of everything, by model."""

    models: dict[str, ModelStatistics]

    @property
    def total(self) -> Tally:
        """All models together."""
        return sum((model.tally for model in self.models.values()), Tally())


Tag: TypeAlias = tuple[float, int]
"""A start tag, and a number that makes equals first come, first served."""


@dataclass(slots=True)
class _Stream:
    number: int
    model: _Model
    policy: Policy
    window: int
    weight: float
    cost: float
    tally: Tally = field(default_factory=Tally)
    worker_s: float = 0.0
    waiting: deque[Item] = field(default_factory=deque)
    finish: float = 0.0
    entry: Tag | None = None  # its place in the model's heap, None while it has none
    open: bool = True

    @property
    def eligible(self) -> bool:
        return bool(self.waiting) and (self.policy == "queue" or self.tally.running < self.window)


@dataclass(slots=True)
class _Model:
    name: str
    max_batch: int = 1
    target: float = math.inf  # seconds that a batch should take at most
    cap: int = 1  # the largest batch now
    cost: float = FIRST_COST
    closed: Tally = field(default_factory=Tally)  # of the streams that are no more
    present: int = 0  # items that wait or run
    peak: int = 0
    ages: Recent = field(default_factory=lambda: Recent(RECENT))
    costs: Recent = field(default_factory=lambda: Recent(RECENT))
    streams: dict[int, _Stream] = field(default_factory=dict)
    heap: list[tuple[Tag, _Stream]] = field(default_factory=list)


class Scheduler:
    """All streams of one pool of workers."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}
        self._streams: dict[int, _Stream] = {}
        self._virtual = 0.0
        self._order = 0

    def add_model(self, name: str, max_batch: int, target: float = math.inf) -> None:
        """Make a model known, or change its largest batch.

        Args:
            target: seconds that a batch should take at most. Batches then grow from one item as long as they
                keep to it; without a target they are as large as what waits.
        """
        model = self._models.setdefault(name, _Model(name))
        if (model.max_batch, model.target) != (max_batch, target):
            model.max_batch, model.target = max_batch, target
            model.cap = max_batch if target == math.inf else 1

    def open(self, number: int, model: str, policy: Policy, window: int, weight: float = 1.0) -> None:
        """Open a stream.

        Args:
            number: the caller's name for it, never used twice.
            window: for `latest` the most items running at once, for `queue` the most waiting.
            weight: its share of the workers, relative to others.
        """
        known = self._models[model]
        stream = _Stream(number, known, policy, window, weight, known.cost)
        self._streams[number] = known.streams[number] = stream

    def room(self, number: int) -> bool:
        """Whether a stream may offer another item. A `latest` stream always may."""
        stream = self._stream(number)
        return stream.policy == "latest" or len(stream.waiting) < stream.window

    def offer(self, item: Item) -> list[Dropped]:
        """Take an item in; a `latest` stream's waiting one gives way to it.

        Raises:
            UnknownStream, StreamFull: the caller's mistake.
        """
        stream = self._stream(item.stream)
        dropped = []
        if stream.policy == "latest" and stream.waiting:
            dropped.append(self._drop(stream, stream.waiting.popleft(), "superseded"))
        elif not self.room(item.stream):
            raise StreamFull(f"stream {item.stream} has {len(stream.waiting)} items waiting")
        stream.tally.received += 1
        stream.tally.waiting += 1
        stream.waiting.append(item)
        model = stream.model
        model.present += 1
        model.peak = max(model.peak, model.present)
        self._queue_up(stream)
        return dropped

    def take(self, now: float, models: Container[str]) -> tuple[Batch | None, list[Dropped]]:
        """Choose what a free worker that holds `models` runs now: the fairest stream's item, and a batch with it.

        A batch takes only what waits already: nothing waits for a batch to fill.
        """
        dropped: list[Dropped] = []
        while (model := self._next_model(models)) is not None:
            items = list(self._fill(model, now, dropped))
            if items:
                return Batch(model.name, tuple(items), now), dropped
        return None, dropped

    def done(self, batch: Batch, outcomes: Sequence[Outcome], cost: float, now: float) -> list[Outcome]:
        """A batch has run: count it, charge its streams, let them run on.

        Args:
            cost: seconds of worker time the whole batch took.

        Returns:
            The outcomes of streams that are still open; the others' are counted and discarded.
        """
        share = cost / len(batch.items)
        model = self._models[batch.model]
        if any(isinstance(outcome, Result) for outcome in outcomes):
            model.cost += COST_MEMORY * (share - model.cost)
        _adapt(model, len(batch.items), cost)
        wanted = []
        for outcome in outcomes:
            stream = self._streams[outcome.item.stream]
            stream.tally.running -= 1
            self._count(stream, outcome)
            stream.finish += (share - stream.cost) / stream.weight
            stream.worker_s += share
            if isinstance(outcome, Result):
                stream.cost += COST_MEMORY * (share - stream.cost)
                model.costs.add(share, now)
                model.ages.add(now - outcome.item.received, now)
            if stream.open:
                wanted.append(outcome)
                self._queue_up(stream)
            else:
                self._forget_if_idle(stream)
        return wanted

    def close(self, number: int) -> None:
        """The client has gone: what waits is cancelled at once, what runs is discarded when it arrives."""
        stream = self._stream(number)
        stream.open = False
        while stream.waiting:
            self._drop(stream, stream.waiting.popleft(), "cancelled")
        self._leave(stream)
        self._forget_if_idle(stream)

    def expire(self, now: float) -> tuple[list[Dropped], float | None]:
        """Drop what has waited too long while no worker was free; and say when to call again, None for never."""
        dropped: list[Dropped] = []
        for stream in self._streams.values():
            kept: deque[Item] = deque()
            for item in stream.waiting:
                if item.deadline is not None and item.deadline <= now:
                    dropped.append(self._drop(stream, item, "expired"))
                else:
                    kept.append(item)
            stream.waiting = kept
            self._leave(stream)
        deadlines = (item.deadline for stream in self._streams.values() for item in stream.waiting)
        return dropped, min((deadline for deadline in deadlines if deadline is not None), default=None)

    def drain(self) -> list[Dropped]:
        """Drop everything that waits: there is no time left to run it."""
        return [
            self._drop(stream, stream.waiting.popleft(), "draining")
            for stream in self._streams.values()
            for _ in range(len(stream.waiting))
        ]

    def abandon(self, model: str) -> list[Failed]:
        """Fail everything that waits for a model that no worker could load again: nothing waits for ever."""
        failed = []
        for stream in self._models[model].streams.values():
            while stream.waiting:
                reason = f"model {model} was lost, and could not be loaded again"
                outcome = Failed(stream.waiting.popleft(), "model_unavailable", reason, retryable=True)
                stream.tally.waiting -= 1
                self._count(stream, outcome)
                failed.append(outcome)
        return failed

    def tally(self, number: int) -> Tally:
        """What became of an open stream's items so far."""
        return replace(self._stream(number).tally)

    def statistics(self, now: float) -> Statistics:
        """Count everything, as it stands now."""
        return Statistics({model.name: _statistics(model, now) for model in self._models.values()})

    def _stream(self, number: int) -> _Stream:
        stream = self._streams.get(number)
        if stream is None or not stream.open:
            raise UnknownStream(f"stream {number}")
        return stream

    def _queue_up(self, stream: _Stream) -> None:
        if stream.entry is None and stream.eligible:
            self._order += 1
            stream.finish = max(self._virtual, stream.finish)
            stream.entry = (stream.finish, self._order)
            heapq.heappush(stream.model.heap, (stream.entry, stream))

    def _leave(self, stream: _Stream) -> None:
        """Give up the place of a stream that has nothing left to run.

        `take` would clear it away, but never comes while no worker holds the model.
        """
        if stream.entry and not stream.eligible:
            stream.model.heap.remove((stream.entry, stream))
            heapq.heapify(stream.model.heap)
            stream.entry = None

    def _next_model(self, models: Container[str]) -> _Model | None:
        first: _Model | None = None
        for model in self._models.values():
            if (
                model.name in models
                and self._head(model)
                and (first is None or model.heap[0] < first.heap[0])
            ):
                first = model
        return first

    def _head(self, model: _Model) -> bool:
        """Clear away the entries of streams that have left or emptied; whether one remains."""
        while model.heap and not model.heap[0][1].eligible:
            heapq.heappop(model.heap)[1].entry = None
        return bool(model.heap)

    def _fill(self, model: _Model, now: float, dropped: list[Dropped]) -> Iterator[Item]:
        room = model.cap
        while room and self._head(model):
            entry, stream = heapq.heappop(model.heap)
            stream.entry = None
            item = stream.waiting.popleft()
            if item.deadline is not None and item.deadline <= now:
                dropped.append(self._drop(stream, item, "expired"))
            else:
                self._virtual = max(self._virtual, entry[0])
                # onto what `done` corrected while it waited: from the entry's tag, that would be forgotten
                stream.finish += stream.cost / stream.weight
                stream.tally.waiting -= 1
                stream.tally.running += 1
                room -= 1
                yield item
            self._queue_up(stream)

    def _drop(self, stream: _Stream, item: Item, reason: DropReason) -> Dropped:
        dropped = Dropped(item, reason)
        stream.tally.waiting -= 1
        self._count(stream, dropped)
        return dropped

    def _count(self, stream: _Stream, outcome: Outcome) -> None:
        tally = stream.tally
        stream.model.present -= 1
        match outcome:
            case Result():
                tally.results += 1
            case Failed():
                tally.errors += 1
            case Dropped(reason=reason):
                setattr(tally, reason, getattr(tally, reason) + 1)

    def _forget_if_idle(self, stream: _Stream) -> None:
        if not stream.tally.running:
            model = stream.model
            model.closed += stream.tally
            del model.streams[stream.number], self._streams[stream.number]


def _adapt(model: _Model, size: int, cost: float) -> None:
    """Fit the largest batch to the target: a little more while full batches keep to it, a tenth less when not.

    Source: additive increase, multiplicative decrease, as in Crankshaw and others: "Clipper: A Low-Latency
    Online Prediction Serving System", NSDI 2017, section 4.3.
    """
    if cost > model.target:
        model.cap = max(1, min(model.cap, size) * 9 // 10)
    elif size >= model.cap and model.cap < model.max_batch:
        model.cap += 1


def _statistics(model: _Model, now: float) -> ModelStatistics:
    streams = [stream for stream in model.streams.values() if stream.open]
    used = sum(stream.worker_s for stream in streams) or 1.0
    return ModelStatistics(
        tally=sum((stream.tally for stream in model.streams.values()), model.closed + Tally()),
        batch_cap=model.cap,
        peak=model.peak,
        ages=model.ages.at(now),
        costs=model.costs.at(now),
        streams=tuple(
            StreamStatistics(s.number, replace(s.tally), s.worker_s, s.worker_s / used) for s in streams
        ),
    )
