"""What the scheduler knows of streams, models and groups: plain state with a few questions. It decides nothing."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from inference.items import Item
from inference.model import Policy
from inference.scheduling.quantiles import RECENT, Recent
from inference.scheduling.statistics import ModelStatistics, StreamStatistics, Tally

FIRST_COST = 0.001
"""Seconds an item is taken to cost before any of its model has been measured."""

MEMORY = 0.2
"""Share of the newest measurement in an estimate: about the last ten items of a stream count."""

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
        heap: its streams that can run, by start tag; and places that were given up, which nobody has any more.
        vacant: how many of these.
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
    vacant: int = 0

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
        running: the estimate of each item that runs, by `seq`, as its finish tag was moved on by it.
        finish: its last finish tag.
        entry: its place in the model's heap, None while it has none.
        interval: estimate of seconds between its items; infinite before the second.
        suspects: items with which a worker ended, by `seq`, and when, if they were alone in it; each runs once
            more, alone, which proves it or acquits it.
        kills: when its items ended workers, as far as that is proven and of the last `KILL_SPAN`.
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
    running: dict[int, float] = field(default_factory=dict)
    finish: float = 0.0
    entry: Tag | None = None
    open: bool = True
    last: float = -math.inf
    interval: float = math.inf
    suspects: dict[int, float | None] = field(default_factory=dict)
    kills: list[float] = field(default_factory=list)
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

    def start(self, item: Item) -> None:
        """Let an item that waited run; its finish tag moves on by what such an item took before."""
        self.running[item.seq] = self.cost
        self.finish += self.cost / self.weight
        self.tally.running += 1

    def charge(self, item: Item, cost: float) -> None:
        """An item runs no more: correct the finish tag by what it took indeed, in worker seconds."""
        self.finish += (cost - self.running.pop(item.seq)) / self.weight
        self.worker_s += cost
        self.tally.running -= 1

    def shunned(self, now: float) -> bool:
        """Whether its items run alone: one of them may have ended a worker, or has done so lately."""
        return bool(self.suspects) or (bool(self.kills) and now - self.kills[-1] <= KILL_SPAN)

    def blame(self, item: Item, now: float, *, proven: bool) -> None:
        """An item of it, alone in a worker, ended that worker.

        What nobody has proven yet counts once only, now: whoever ends several workers at once, from outside, ends
        no stream whose items all do no harm when they run again.

        Args:
            proven: it did so by taking too long, or a worker had ended with it before.
        """
        known = [when for when in (*self.kills, self.suspects.get(item.seq)) if when is not None]
        self.kills = [when for when in known if now - when <= KILL_SPAN]
        self.condemned = self.condemned or len(self.kills) + 1 >= KILLS
        if proven:
            self.kills.append(now)
