"""Decides what runs next; the only place where an item waits. No I/O, no clock: `now` is an argument.

Streams share the workers by start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queueing", SIGCOMM
1996): an item's start tag is the later of the virtual time and its stream's last finish tag; the lowest
start tag runs first, and the virtual time is the first start tag of what ran last. A finish tag lies an item's
cost over its stream's weight beyond its start tag. The cost is worker time, estimated from what the stream's
items took before and corrected when the item is done, so that a stream of large frames pays for them. One
virtual time spans all models of a group, because they share its workers.

The loop that drives it: `offer` what arrives; whenever a worker is free, `take` what it shall run; `done`
when that has run, `lost` or `returned` when its worker ended; `expire` at an item's deadline, for no worker
may be free by then. Whatever outcomes any of these returns must be delivered.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace

from inference.backlog import KILL_SPAN, KILLS, MEMORY, Model, Stream, Workers
from inference.groups import DEFAULT
from inference.items import POISON, Batch, Dropped, DropReason, Failed, Item, Outcome, Result
from inference.model import Policy
from inference.statistics import Statistics, Tally


class UnknownStream(LookupError):
    """You misused the scheduler: that stream was never opened, or has been closed."""


class StreamFull(RuntimeError):
    """You misused the scheduler: a queue stream's waiting room is full, and `room` said so."""


class Scheduler:
    """All streams of the groups of workers."""

    def __init__(self) -> None:
        self._groups: dict[str, Workers] = {}
        self._models: dict[str, Model] = {}
        self._streams: dict[int, Stream] = {}
        self._order = 0

    def add_group(self, name: str, workers: int) -> None:
        """Make a group of models known, and how many workers they share."""
        self._groups.setdefault(name, Workers()).count = workers

    def add_model(
        self,
        name: str,
        max_batch: int,
        target: float = math.inf,
        *,
        min_rate: float = 0.0,
        group: str = DEFAULT,
    ) -> None:
        """Make a model known, or change its largest batch, target or promise.

        Args:
            target: seconds that a batch should take at most. Batches then grow from one item as long as they
                keep to it; without a target they are as large as what waits.
            min_rate: items per second that each of its streams is promised, see `admits`.
        """
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = Model(name, self._groups.setdefault(group, Workers()))
        model.min_rate = min_rate
        if (model.max_batch, model.target) != (max_batch, target):
            model.max_batch, model.target = max_batch, target
            model.cap = max_batch if target == math.inf else 1

    def expect(self, name: str, cost: float) -> None:
        """Say what an item of a model takes, in worker seconds, where none has been measured yet."""
        model = self._models[name]
        if not model.costs.known:
            model.cost = cost

    def admits(self, name: str, weight: float, now: float) -> bool:
        """Forecast whether a model can have one more stream, and every stream of its group what it was promised.

        A promised rate is kept if a stream's fair share covers it. That share is the least in which all promises
        fit; the streams may take as much of it as they ask for, by what they sent lately, and at least what they
        were promised. The new stream, if it is promised nothing, may take all of it.
        """
        model = self._models[name]
        workers = model.workers
        if not any(other.min_rate for other in self._models.values() if other.workers is workers):
            return (
                True  # nobody is promised anything, which need not be asked of each of thousands of streams
            )
        promise = model.min_rate * model.cost
        needs = [promise / weight, *(s.promised() / s.weight for s in workers.streams.values() if s.open)]
        share = max(needs)  # of the workers, per weight
        asked = promise or share * weight
        for stream in workers.streams.values():
            if stream.open:
                asked += min(max(stream.demand(now), stream.promised()), share * stream.weight)
        return asked <= workers.count

    def open(self, number: int, model: str, policy: Policy, window: int, weight: float = 1.0) -> None:
        """Open a stream.

        Args:
            number: the caller's name for it, never used twice.
            window: for `latest` the most items running at once, for `queue` the most waiting.
            weight: its share of the workers, relative to others.
        """
        known = self._models[model]
        stream = Stream(number, known, policy, window, weight, known.cost)
        self._streams[number] = known.streams[number] = known.workers.streams[number] = stream

    def room(self, number: int) -> bool:
        """Whether a stream may offer another item. A `latest` stream always may."""
        stream = self._stream(number)
        return stream.policy == "latest" or len(stream.waiting) < stream.window

    def offer(self, item: Item) -> list[Outcome]:
        """Take an item in; a `latest` stream's waiting one gives way to it.

        Raises:
            UnknownStream, StreamFull: the caller's mistake.
        """
        stream = self._stream(item.stream)
        given_up: list[Outcome] = []
        if stream.policy == "latest" and stream.waiting:
            given_up.append(self._drop(stream, stream.waiting.popleft(), "superseded"))
        elif not self.room(item.stream):
            raise StreamFull(f"stream {item.stream} has {len(stream.waiting)} items waiting")
        stream.arrive(item)
        model = stream.model
        model.present += 1
        model.peak = max(model.peak, model.present)
        if stream.condemned:
            given_up += self._fail_waiting(stream, POISON, _POISONED)
        self._queue_up(stream)
        return given_up

    @property
    def anything_waits(self) -> bool:
        """Whether there is an item that no worker has."""
        return any(model.waiting for model in self._models.values())

    def take(self, now: float, models: Container[str], free: int = 1) -> tuple[Batch | None, list[Outcome]]:
        """Choose what a free worker that holds `models` runs now: the fairest stream's item, and a batch with it.

        A batch takes only what waits already: nothing waits for a batch to fill.

        Args:
            free: how many such workers are free, this one included; what waits is divided among them.
        """
        dropped: list[Outcome] = []
        while (model := self._next_model(models)) is not None:
            items = list(self._fill(model, now, free, dropped))
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
            model.cost += MEMORY * (share - model.cost)
        model.adapt(len(batch.items), cost)
        wanted: list[Outcome] = []
        for outcome in outcomes:
            item = outcome.item
            stream = self._came_back(item, share)
            stream.acquit(item)
            if isinstance(outcome, Result):
                stream.cost += MEMORY * (share - stream.cost)
                model.costs.add(share, now)
                model.ages.add(now - item.received, now)
            self._count(stream, outcome)
            wanted += [outcome] if stream.open else []
            self._go_on(stream)
        return wanted

    def lost(self, batch: Batch, cost: float, now: float, *, timed_out: bool) -> list[Outcome]:
        """A batch's worker ended with it: each item runs once more, alone, or has its error.

        Which of several items it was shows when each runs alone. One that was alone is charged to its stream,
        which is condemned when it has ended `KILLS` workers within `KILL_SPAN`; a second try that goes well takes
        the charge back.

        Args:
            cost: seconds of worker time the batch took.
            timed_out: the worker was ended because it took too long. The item did that if it was alone: it gets
                no second try.

        Returns:
            The errors of items that do not run again, of streams that are still open.
        """
        alone = len(batch.items) == 1
        wanted: list[Outcome] = []
        for item in reversed(batch.items):  # so that those that run again stand in their order
            stream = self._came_back(item, cost / len(batch.items))
            if alone and stream.open:
                stream.kill(now)
            failed = _verdict(stream, item, hopeless=alone and timed_out)
            if failed is None:
                stream.suspects[item.seq] = now if alone else None
                wanted += self._wait_again(stream, item)
                stream.tally.retried += item.seq in stream.suspects
            else:
                stream.suspects.pop(item.seq, None)
                self._count(stream, failed)
                wanted += [failed] if stream.open else []
            if stream.condemned:
                wanted += self._fail_waiting(stream, POISON, _POISONED)
            self._go_on(stream)
        return wanted

    def returned(self, batch: Batch) -> list[Outcome]:
        """A batch's worker ended before it had read it: its items wait on as if nothing had happened.

        Returns:
            The outcomes of those that do not wait on, of streams that are still open: a `latest` stream has a newer
            item, or the stream was condemned meanwhile.
        """
        wanted: list[Outcome] = []
        for item in reversed(batch.items):  # so that they stand in their order again
            stream = self._came_back(item, 0.0)
            wanted += self._wait_again(stream, item)
            if stream.condemned:
                wanted += self._fail_waiting(stream, POISON, _POISONED)
            self._go_on(stream)
        return wanted

    def close(self, number: int) -> None:
        """The client has gone: what waits is cancelled at once, what runs is discarded when it arrives."""
        stream = self._stream(number)
        stream.open = False
        while stream.waiting:
            self._drop(stream, stream.waiting.popleft(), "cancelled")
        self._leave(stream)
        self._forget_if_idle(stream)

    def expire(self, now: float) -> tuple[list[Outcome], float | None]:
        """Drop what has waited too long while no worker was free; and say when to call again, None for never."""
        dropped: list[Outcome] = []
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

    def drain(self) -> list[Outcome]:
        """Drop everything that waits: there is no time left to run it."""
        return [
            self._drop(stream, stream.waiting.popleft(), "draining")
            for stream in self._streams.values()
            for _ in range(len(stream.waiting))
        ]

    def abandon(self, model: str) -> list[Outcome]:
        """Fail everything that waits for a model that no worker could load again: nothing waits for ever."""
        reason = f"model {model} was lost, and could not be loaded again"
        return [
            failed
            for stream in self._models[model].streams.values()
            for failed in self._fail_waiting(stream, "model_unavailable", reason, retryable=True)
        ]

    def tally(self, number: int) -> Tally:
        """What became of an open stream's items so far."""
        return replace(self._stream(number).tally)

    def statistics(self, now: float) -> Statistics:
        """Count everything, as it stands now."""
        return Statistics({model.name: model.statistics(now) for model in self._models.values()})

    def _stream(self, number: int) -> Stream:
        stream = self._streams.get(number)
        if stream is None or not stream.open:
            raise UnknownStream(f"stream {number}")
        return stream

    def _came_back(self, item: Item, cost: float) -> Stream:
        stream = self._streams[item.stream]
        stream.tally.running -= 1
        stream.charge(cost)
        return stream

    def _wait_again(self, stream: Stream, item: Item) -> list[Outcome]:
        """Put an item back where it was taken from; of a `latest` stream's the newest alone stays."""
        stream.tally.waiting += 1
        stream.model.waiting += 1
        stream.waiting.appendleft(item)
        if not stream.open:
            self._drop(stream, stream.waiting.popleft(), "cancelled")
        elif stream.policy == "latest" and len(stream.waiting) > 1:
            older = min(stream.waiting, key=lambda one: one.seq)
            stream.waiting.remove(older)
            return [self._drop(stream, older, "superseded")]
        return []

    def _go_on(self, stream: Stream) -> None:
        """An item of it has come back."""
        if stream.open:
            self._queue_up(stream)
        else:
            self._forget_if_idle(stream)

    def _queue_up(self, stream: Stream, *, waited: bool = False) -> None:
        """Give a stream its place; one that has waited all along keeps what its corrected costs left it behind."""
        if stream.entry is None and stream.eligible:
            self._order += 1
            if not waited:
                stream.finish = max(stream.model.workers.virtual, stream.finish)
            stream.entry = (stream.finish, self._order)
            heapq.heappush(stream.model.heap, (stream.entry, stream))

    def _leave(self, stream: Stream) -> None:
        """Give up the place of a stream that has nothing left to run.

        `take` would clear it away, but never comes while no worker holds the model.
        """
        if stream.entry and not stream.eligible:
            stream.model.heap.remove((stream.entry, stream))
            heapq.heapify(stream.model.heap)
            stream.entry = None

    def _next_model(self, models: Container[str]) -> Model | None:
        first: Model | None = None
        for model in self._models.values():
            if (
                model.name in models
                and self._head(model)
                and (first is None or model.heap[0] < first.heap[0])
            ):
                first = model
        return first

    def _head(self, model: Model) -> bool:
        """Clear away the entries of streams that have left or emptied; whether one remains."""
        while model.heap and not model.heap[0][1].eligible:
            heapq.heappop(model.heap)[1].entry = None
        return bool(model.heap)

    def _fill(self, model: Model, now: float, free: int, dropped: list[Outcome]) -> Iterator[Item]:
        full = room = model.part(free)
        while room and self._head(model):
            entry, stream = model.heap[0]
            item = stream.waiting[0]
            expired = item.deadline is not None and item.deadline <= now
            suspect = item.seq in stream.suspects
            if suspect and room < full and not expired:
                return  # it runs alone, with the next worker
            heapq.heappop(model.heap)
            stream.entry = None
            stream.waiting.popleft()
            if expired:
                dropped.append(self._drop(stream, item, "expired"))
            else:
                if room == full:  # a batch is served as one: its later items must not carry the time ahead
                    model.workers.virtual = max(model.workers.virtual, entry[0])
                # onto what `done` corrected while it waited: from the entry's tag, that would be forgotten
                stream.finish += stream.cost / stream.weight
                stream.tally.waiting -= 1
                model.waiting -= 1
                stream.tally.running += 1
                room = 0 if suspect else room - 1
                yield item
            self._queue_up(stream, waited=True)

    def _drop(self, stream: Stream, item: Item, reason: DropReason) -> Outcome:
        """Give up an item that waits; one that has had its worker is no more one that nobody started on."""
        stream.tally.waiting -= 1
        stream.model.waiting -= 1
        outcome: Outcome = Dropped(item, reason)
        if item.seq in stream.suspects:
            del stream.suspects[item.seq]
            outcome = _worker_lost(item)
        self._count(stream, outcome)
        return outcome

    def _fail_waiting(
        self, stream: Stream, code: str, message: str, *, retryable: bool = False
    ) -> list[Outcome]:
        failed: list[Outcome] = []
        while stream.waiting:
            item = stream.waiting.popleft()
            stream.suspects.pop(item.seq, None)
            failed.append(Failed(item, code, message, retryable))
            stream.tally.waiting -= 1
            stream.model.waiting -= 1
            self._count(stream, failed[-1])
        self._leave(stream)
        return failed

    def _count(self, stream: Stream, outcome: Outcome) -> None:
        tally = stream.tally
        stream.model.present -= 1
        match outcome:
            case Result():
                tally.results += 1
            case Failed():
                tally.errors += 1
            case Dropped(reason=reason):
                setattr(tally, reason, getattr(tally, reason) + 1)
        if not (stream.open or isinstance(outcome, Dropped)):
            tally.discarded += 1

    def _forget_if_idle(self, stream: Stream) -> None:
        if not stream.tally.running:
            model = stream.model
            model.closed += stream.tally
            del self._streams[stream.number], model.streams[stream.number]
            del model.workers.streams[stream.number]


_POISONED = (
    f"this stream's items have ended {KILLS} workers within {KILL_SPAN:.0f} s, so nothing of it runs any more; "
    "find the item that the model cannot bear"
)


def _verdict(stream: Stream, item: Item, *, hopeless: bool) -> Failed | None:
    """What an item gets whose worker ended with it; None if it is to run once more, alone."""
    if stream.condemned:
        return Failed(item, POISON, _POISONED)
    if hopeless:
        return Failed(item, "timeout", "the model took too long, and its worker was ended")
    if item.seq in stream.suspects:
        return Failed(item, "worker_lost", "two workers ended with this item, the second with it alone")
    return None


def _worker_lost(item: Item) -> Failed:
    return Failed(item, "worker_lost", "the worker ended with this item; send it again", retryable=True)
