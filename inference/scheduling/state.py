"""What the scheduler knows of streams, models and groups: plain state with a few questions. It decides nothing."""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias

from inference.items import Cause, Item
from inference.model import ModelId, Policy
from inference.scheduling.quantiles import RECENT, Recent
from inference.scheduling.statistics import ModelStatistics, StreamStatistics, Tally

FairBy: TypeAlias = Literal["stream", "principal"]
"""Among whom the workers are shared: the streams, each with its weight; or the principals, equally, and what each
gets among its streams."""

FIRST_COST = 0.001
"""Seconds an item is taken to cost before any of its model has been measured."""

MEMORY = 0.2
"""Share of the newest measurement in an estimate: about the last ten items of a stream count."""

PART = 0.001
"""Seconds of work in a batch, below which it is not divided further: a hand-over costs both ends about 0.1 ms."""

SLACK = 4.0
"""How far virtual time may stay behind the fluid system's, in dearest batches: items are not divided, so that
streams served in turn lie behind and ahead by a batch or two."""

KILLS, KILL_SPAN = 3, 60.0
"""A stream that ends so many workers within so many seconds is closed: each costs the others a cold start."""

PROOF = {Cause.CRASH: 2, Cause.TIMEOUT: 1, Cause.UNKNOWN: 3}
"""How many ends prove that an item ends workers, by the cause of the last, in which it was alone. One crash may be
chance; of signals that may have come from outside, two may still be. A timeout is proof by itself."""

Tag: TypeAlias = tuple[float, int]
"""A start tag, and a number that makes equals first come, first served."""


Departure: TypeAlias = list[float]
"""The finish tag at which someone leaves the fluid system, and the weight; 0 when that has happened or is void."""

FEW_AHEAD = 64
"""Departures that are kept whether or not they are void: a smaller heap is not worth compacting."""


class Loss(NamedTuple):
    """Why nothing that waits for a model version can run: what its items are told."""

    message: str
    retryable: bool


@dataclass(slots=True, eq=False)
class Principal:
    """Whoever streams of one group are opened for.

    Attributes:
        streams: how many are known: open, or closed with an item that runs.
        busy: how many of its streams have an item that waits or runs.
        weight: the sum of their weights.
        departure: when it leaves the fluid system, where principals are what shares the workers.
    """

    name: str
    streams: int = 0
    busy: int = 0
    weight: float = 0.0
    departure: Departure | None = None


@dataclass(slots=True, eq=False)
class Workers:
    """The workers of one group of models, and the streams that share them.

    Attributes:
        virtual: the virtual time of their fair queueing. Each group has its own: groups do not share workers.
        fluid: the virtual time of a fluid system, see `served`.
        dearest: the most that a batch took lately, over the least weight in it; until the fluid system's time is
            `until`, when what that batch delayed is made up for.
        busy: how many share the workers now, streams or principals.
        weight: the sum of the weights of those that do in the fluid system.
        ahead: the departures of those that are done here and not there, a heap.
        principals: those with open streams, by name.
    """

    count: int = 1
    virtual: float = 0.0
    fluid: float = 0.0
    dearest: float = 0.0
    until: float = 0.0
    busy: int = 0
    weight: float = 0.0
    ahead: list[Departure] = field(default_factory=list)
    streams: dict[int, Stream] = field(default_factory=dict)
    principals: dict[str, Principal] = field(default_factory=dict)

    def join(self, weight: float, departure: Departure | None) -> None:
        """Someone has items that wait or run, who may not have left the fluid system yet."""
        self.busy += 1
        if departure and departure[1]:
            self.weight -= departure[1]
            departure[1] = 0.0
        self.weight += weight

    def leave(self, weight: float, finish: float) -> Departure | None:
        """Someone has no item any more; in the fluid system those that were served are done at the finish tag."""
        self.busy -= 1
        if finish <= self.fluid:
            self.weight = self.weight - weight if self.busy or self.ahead else 0.0
            return None
        departure = [finish, weight]
        heapq.heappush(self.ahead, departure)
        if len(self.ahead) > FEW_AHEAD + 2 * len(self.streams):
            self.ahead = [entry for entry in self.ahead if entry[1]]
            heapq.heapify(self.ahead)
        return departure

    def served(self, cost: float, weight: float) -> None:
        """A batch has come back: virtual time follows that of a fluid system, at some distance.

        In the fluid system everybody who has items is served at once, in proportion to the weights, and virtual
        time is what each has had for a weight of 1 (Parekh, Gallager: "A Generalized Processor Sharing Approach to
        Flow Control", IEEE/ACM Transactions on Networking 1993). By start tags alone it would stand still while
        streams come and go with an item each, and those that have waited all along would never be served.

        Args:
            cost: worker seconds that it took.
            weight: the least weight in it.
        """
        self.fluid = max(self.fluid, self.virtual)
        while self.ahead and (self.ahead[0][0] - self.fluid) * self.weight <= cost:
            departure = heapq.heappop(self.ahead)
            cost -= max(0.0, departure[0] - self.fluid) * self.weight
            self.fluid = max(self.fluid, departure[0])
            self.weight = self.weight - departure[1] if self.busy or self.ahead else 0.0
            departure[1] = 0.0
        if self.weight > 0:
            self.fluid += cost / self.weight
        dear = cost / weight
        if dear >= self.dearest or self.fluid > self.until:
            self.dearest, self.until = dear, self.fluid + SLACK * dear
        self.virtual = max(self.virtual, self.fluid - SLACK * self.dearest)


@dataclass(slots=True, eq=False)
class Model:
    """One version of a model.

    Attributes:
        target: seconds that a batch should take at most.
        min_rate: items per second that each of its streams is promised; 0 promises nothing.
        stateful: each item takes the state that its stream's previous result left.
        cap: the largest batch now.
        cost: estimate of worker seconds per item.
        tally: what became of its items.
        peak: the most items that waited or ran at once.
        loss: why nothing that waits for it can run; None if it can.
        removed: it is to be forgotten when nothing refers to it any more.
        heap: its streams that can run, by start tag, and stale entries (lazy deletion).
        stale: how many entries are stale.
    """

    id: ModelId
    workers: Workers
    max_batch: int = 1
    target: float = math.inf
    min_rate: float = 0.0
    stateful: bool = False
    cap: int = 1
    cost: float = FIRST_COST
    tally: Tally = field(default_factory=Tally)
    peak: int = 0
    loss: Loss | None = None
    removed: bool = False
    open_streams: int = 0
    ages: Recent = field(default_factory=lambda: Recent(RECENT))
    costs: Recent = field(default_factory=lambda: Recent(RECENT))
    streams: dict[int, Stream] = field(default_factory=dict)
    heap: list[tuple[Tag, Stream]] = field(default_factory=list)
    stale: int = 0

    def part(self, free: int) -> int:
        """How many items a batch takes of what waits, when so many workers are free to share it."""
        waiting = self.tally.waiting
        parts = min(free, int(waiting * self.cost / PART)) if free > 1 else 1
        return min(self.cap, -(-waiting // parts)) if parts > 1 else self.cap

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
        return ModelStatistics(
            tally=replace(self.tally),
            batch_cap=self.cap,
            peak=self.peak,
            ages=self.ages.at(now),
            costs=self.costs.at(now),
            open_streams=self.open_streams,
        )


class Running(NamedTuple):
    """An item that runs.

    Attributes:
        estimate, weight: with which the finish tag was moved.
        binding: the number of its stream's binding when it started.
    """

    estimate: float
    weight: float
    binding: int


@dataclass(slots=True)
class Suspect:
    """What is known of an item with which a worker ended; it runs again, alone.

    Attributes:
        ends: workers that ended with it and not from outside, whether or not it was alone.
        alone: when the last of them did that it had alone; None if there is none.
        kills: workers that were ended from outside while they had it.
    """

    ends: int = 0
    alone: float | None = None
    kills: int = 0


@dataclass(slots=True, eq=False)
class Stream:
    """One stream.

    Attributes:
        cost: estimate of worker seconds per item.
        shared: whether its principal's other streams count in its weight.
        state: what its model's last result left for its next item; empty for None.
        worker_s: worker seconds that its items took.
        bindings: how often it was bound to another version.
        running: the items that run, by `seq`.
        finish: its last finish tag.
        entry: its entry in the model's heap, None while it has none.
        departure: when it leaves the fluid system, where streams are what shares the workers.
        interval: estimate of seconds between its items; infinite before the second.
        suspects: items with which a worker ended, by `seq`; each runs again, alone, which proves that it ends
            workers or that it does not.
        returns: how often a worker ended before it had read an item, by `seq`.
        kills: when its items ended workers, as far as that is proven and of the last `KILL_SPAN`.
        blocked: it has ended too many workers: nothing of it runs any more.
        held_back: its answers have not left: nothing of it starts, but for what must run again.
    """

    number: int
    model: Model
    policy: Policy
    window: int
    weight: float
    principal: Principal
    cost: float
    shared: bool = False
    state: bytes = b""
    tally: Tally = field(default_factory=Tally)
    worker_s: float = 0.0
    waiting: deque[Item] = field(default_factory=deque)
    bindings: int = 0
    running: dict[int, Running] = field(default_factory=dict)
    finish: float = 0.0
    entry: Tag | None = None
    departure: Departure | None = None
    open: bool = True
    last: float = -math.inf
    interval: float = math.inf
    suspects: dict[int, Suspect] = field(default_factory=dict)
    returns: dict[int, int] = field(default_factory=dict)
    kills: list[float] = field(default_factory=list)
    blocked: bool = False
    held_back: bool = False

    @property
    def eligible(self) -> bool:
        """Whether an item of it may run now."""
        if not self.waiting:
            return False
        first = self.waiting[0].seq
        if self.held_back and first not in self.suspects and first not in self.returns:
            return False
        running = self.tally.running
        if self.model.stateful and running:  # the next item needs the state that this one leaves
            return False
        return self.policy == "queue" or running < self.window

    @property
    def fair_weight(self) -> float:
        """Its weight in fair queueing; with fairness by principal, its part of its principal's weight of 1."""
        # the sum of floats may have lost a small weight beside large ones
        return self.weight / max(self.weight, self.principal.weight) if self.shared else self.weight

    def statistics(self, used: float) -> StreamStatistics:
        """Count everything, as it stands now; `used` is the worker time that its share is of."""
        return StreamStatistics(
            self.number, self.principal.name, replace(self.tally), self.worker_s, self.worker_s / used
        )

    def receive(self) -> None:
        """Count an item that has come."""
        self.tally.received += 1
        self.model.tally.received += 1

    def arrive(self, item: Item) -> None:
        """Let a new item wait."""
        gap = item.received - self.last
        if gap < math.inf:
            self.interval = (
                gap if self.interval == math.inf else self.interval + MEMORY * (gap - self.interval)
            )
        self.last = item.received
        self.receive()
        self.waiting.append(item)
        self.begin_waiting()

    def begin_waiting(self) -> None:
        """Count an item that waits, now or again."""
        ours, model = self.tally, self.model
        models = model.tally
        ours.waiting += 1
        models.waiting += 1
        model.peak = max(model.peak, models.waiting + models.running)
        if ours.waiting + ours.running == 1:
            principal = self.principal
            principal.busy += 1
            principal.weight += self.weight
            if not self.shared:
                model.workers.join(self.weight, self.departure)
            elif principal.busy == 1:
                model.workers.join(1.0, principal.departure)

    def end_waiting(self) -> None:
        """Count an item that waits no longer and does not run."""
        self.tally.waiting -= 1
        self.model.tally.waiting -= 1
        self._rest()

    def start(self, item: Item) -> None:
        """Let an item that waited run; its finish tag moves on by what such an item took before."""
        weight = self.fair_weight
        self.running[item.seq] = Running(self.cost, weight, self.bindings)
        self.finish += self.cost / weight
        for tally in (self.tally, self.model.tally):
            tally.waiting -= 1
            tally.running += 1

    def charge(self, item: Item, cost: float, model: Model) -> None:
        """An item no longer runs: correct the finish tag by what it took, in worker seconds.

        Args:
            model: the version that it ran on, which may no longer be the stream's.
        """
        running = self.running.pop(item.seq)
        self.finish += (cost - running.estimate) / running.weight
        self.worker_s += cost
        self.tally.running -= 1
        model.tally.running -= 1
        self._rest()

    def _rest(self) -> None:
        if not (self.tally.waiting or self.tally.running):
            principal = self.principal
            principal.busy -= 1
            principal.weight = principal.weight - self.weight if principal.busy else 0.0
            if not self.shared:
                self.departure = self.model.workers.leave(self.weight, self.finish)
            elif not principal.busy:
                principal.departure = self.model.workers.leave(1.0, self.finish)

    def demand(self, now: float) -> float:
        """Worker seconds per second that it asks for, by what it sends: a silent stream asks for ever less."""
        interval = max(self.interval, now - self.last)
        return self.cost / interval if interval else math.inf

    def promised(self) -> float:
        """Worker seconds per second that it needs for its model's `min_rate`."""
        return self.model.min_rate * self.cost

    def isolated(self, now: float) -> bool:
        """Whether its items run alone: one of them may have ended a worker, or has done so lately."""
        return bool(self.suspects) or (bool(self.kills) and now - self.kills[-1] <= KILL_SPAN)

    def blame(self, suspect: Suspect, now: float, *, proven: bool) -> None:
        """An item of it, alone in a worker, ended that worker.

        An end that is not proven yet counts once only, now: an item that does no harm when it runs again leaves
        nothing behind.

        Args:
            proven: the item is known by now to end workers, see `PROOF`. Its end before this one counts as well.
        """
        before = [suspect.alone] if proven and suspect.alone is not None else []
        self.kills = [when for when in (*self.kills, *before) if now - when <= KILL_SPAN]
        self.blocked = self.blocked or len(self.kills) + 1 >= KILLS
        if proven:
            self.kills.append(now)
        suspect.alone = now
