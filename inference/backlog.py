"""What the scheduler knows of streams, models and groups: plain state with a few questions. It decides nothing."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from inference.distribution import Recent
from inference.items import Item
from inference.model import Policy
from inference.statistics import ModelStatistics, StreamStatistics, Tally

FIRST_COST = 0.001
"""Seconds an item is taken to cost before any of its model has been measured."""

MEMORY = 0.2
"""Share of the newest measurement in an estimate: about the last ten items of a stream count."""

RECENT = 30.0
"""Seconds that statistics of now look back: a scrape's usual interval, and long enough for a p99."""

PART = 0.001
"""Seconds of work in a batch, below which it is not divided further: a hand-over costs both ends about 0.1 ms."""

KILLS, KILL_SPAN = 3, 60.0
"""A stream that ends so many workers within so many seconds is closed: each costs the others a cold start."""

Tag: TypeAlias = tuple[float, int]
"""A start tag, and a number that makes equals first come, first served."""


@dataclass(slots=True, eq=False)
class Workers:
    """The workers of one group of models, and the streams that share them.

    Attributes:
        virtual: the virtual time of their fair queueing. It is their own, because other groups' workers run ahead
            of these or behind.
    """

    count: int = 1
    virtual: float = 0.0
    streams: dict[int, Stream] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Model:
    """One model.

    Attributes:
        target: seconds that a batch should take at most.
        min_rate: items per second that each of its streams is promised; 0 promises nothing.
        cap: the largest batch now.
        cost: estimate of worker seconds per item.
        closed: what became of the items of streams that are no more.
        waiting: items that wait.
        present, peak: items that wait or run, and the most there were.
        heap: its streams that can run, by start tag.
    """

    name: str
    workers: Workers
    max_batch: int = 1
    target: float = math.inf
    min_rate: float = 0.0
    cap: int = 1
    cost: float = FIRST_COST
    closed: Tally = field(default_factory=Tally)
    waiting: int = 0
    present: int = 0
    peak: int = 0
    ages: Recent = field(default_factory=lambda: Recent(RECENT))
    costs: Recent = field(default_factory=lambda: Recent(RECENT))
    streams: dict[int, Stream] = field(default_factory=dict)
    heap: list[tuple[Tag, Stream]] = field(default_factory=list)

    def part(self, free: int) -> int:
        """How many items a batch takes of what waits, when so many workers are free to share it."""
        parts = min(free, int(self.waiting * self.cost / PART)) if free > 1 else 1
        return min(self.cap, -(-self.waiting // parts)) if parts > 1 else self.cap

    def adapt(self, size: int, cost: float) -> None:
        """Fit the cap to the target: one more while full batches keep to it, a tenth less when one does not.

        Source: additive increase, multiplicative decrease, as in Crankshaw and others: "Clipper: A Low-Latency
        Online Prediction Serving System", NSDI 2017, section 4.3.
        """
        if cost > self.target:
            self.cap = max(1, min(self.cap, size) * 9 // 10)
        elif size >= self.cap and self.cap < self.max_batch:
            self.cap += 1

    def statistics(self, now: float) -> ModelStatistics:
        """Count everything, as it stands now."""
        streams = [stream for stream in self.streams.values() if stream.open]
        used = sum(stream.worker_s for stream in streams) or 1.0
        return ModelStatistics(
            tally=sum((stream.tally for stream in self.streams.values()), self.closed + Tally()),
            batch_cap=self.cap,
            peak=self.peak,
            ages=self.ages.at(now),
            costs=self.costs.at(now),
            streams=tuple(
                StreamStatistics(s.number, replace(s.tally), s.worker_s, s.worker_s / used) for s in streams
            ),
        )


@dataclass(slots=True, eq=False)
class Stream:
    """One stream.

    Attributes:
        cost: estimate of worker seconds per item.
        worker_s: worker seconds that its items took.
        finish: its last finish tag.
        entry: its place in the model's heap, None while it has none.
        interval: estimate of seconds between its items; infinite before the second.
        suspects: items with which a worker ended, by `seq`, and when that was charged to the stream, if it was;
            each runs once more, alone.
        kills: when its items ended workers.
        condemned: it has ended too many: nothing of it runs any more.
    """

    number: int
    model: Model
    policy: Policy
    window: int
    weight: float
    cost: float
    tally: Tally = field(default_factory=Tally)
    worker_s: float = 0.0
    waiting: deque[Item] = field(default_factory=deque)
    finish: float = 0.0
    entry: Tag | None = None
    open: bool = True
    last: float = -math.inf
    interval: float = math.inf
    suspects: dict[int, float | None] = field(default_factory=dict)
    kills: deque[float] = field(default_factory=lambda: deque(maxlen=KILLS))
    condemned: bool = False

    @property
    def eligible(self) -> bool:
        """Whether an item of it may run now."""
        return bool(self.waiting) and (self.policy == "queue" or self.tally.running < self.window)

    def arrive(self, item: Item) -> None:
        """Let an item wait."""
        gap = item.received - self.last
        if gap < math.inf:
            self.interval = (
                gap if self.interval == math.inf else self.interval + MEMORY * (gap - self.interval)
            )
        self.last = item.received
        self.waiting.append(item)
        self.tally.received += 1
        self.tally.waiting += 1
        self.model.waiting += 1

    def demand(self, now: float) -> float:
        """Worker seconds per second that it asks for, by what it sends: a silent stream asks for ever less."""
        interval = max(self.interval, now - self.last)
        return self.cost / interval if interval else math.inf

    def promised(self) -> float:
        """Worker seconds per second that it needs for its model's `min_rate`."""
        return self.model.min_rate * self.cost

    def charge(self, cost: float) -> None:
        """Correct its finish tag, which an estimate moved on when the item started."""
        self.finish += (cost - self.cost) / self.weight
        self.worker_s += cost

    def kill(self, now: float) -> None:
        """Note that an item of it, alone in a worker, ended that worker."""
        self.kills.append(now)
        if len(self.kills) == KILLS and now - self.kills[0] <= KILL_SPAN:
            self.condemned = True

    def acquit(self, item: Item) -> None:
        """Take back what an item was charged with: it has run alone now, and did no harm."""
        charged = self.suspects.pop(item.seq, None)
        if charged is not None and charged in self.kills:
            self.kills.remove(charged)
