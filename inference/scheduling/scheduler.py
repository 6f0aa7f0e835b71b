"""Decides what runs next; the only place where an item waits. No I/O, no clock: `now` is an argument.

Streams share the workers by start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queueing", SIGCOMM
1996): an item's start tag is the later of the virtual time and its stream's last finish tag; the lowest
start tag runs first, and the virtual time is the first start tag of what ran last. A finish tag lies an item's
cost over its stream's weight beyond its start tag. The cost is worker time, estimated from what the stream's
items took before and corrected when the item is done, so that a stream of large frames pays for them. One
virtual time spans all models of a group, because they share its workers.

Of a `latest` stream at most one item waits: a newer one replaces it. One exception: an item with which a worker
ended gives way neither to a newer one nor to its deadline. Its second try, alone, is how a stream whose items end
workers is told from those that were in the same batch, or in a worker that was ended from outside. There are never
more of these than its window, and the newest item waits behind them.

The loop that drives it: `offer` what arrives; whenever a worker is free, `take` what it shall run; `done`
when that has run, `lost` or `returned` when its worker ended; `expire` at an item's deadline, for no worker
may be free by then. Whatever outcomes any of these returns must be delivered.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace

from inference.items import POISON, Batch, Dropped, DropReason, Failed, Item, Outcome, Result
from inference.model import DEFAULT_GROUP, Policy
from inference.scheduling.state import KILL_SPAN, KILLS, MEMORY, Model, Stream, Workers
from inference.scheduling.statistics import ModelStatistics, Statistics, Tally

ITEM_BYTES = 1024
"""What an item of a batch costs besides its payload, in bytes of it: handing it over and answering it takes some
tens of microseconds, and so does a KiB of text in the spam model."""

FEW = 64
"""Deadlines that are kept whether or not their items still wait: clearing up is not worth its while before."""


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
        self._deadlines: list[tuple[float, int, int]] = []  # a heap, with stream and seq
        self._most_deadlines = FEW

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
        group: str = DEFAULT_GROUP,
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
        if stream.policy == "latest":
            if stream.waiting and stream.waiting[-1].seq not in stream.suspects:
                given_up.append(self._drop(stream, stream.waiting.pop(), "superseded"))
        elif len(stream.waiting) >= stream.window:
            raise StreamFull(f"stream {item.stream} has {len(stream.waiting)} items waiting")
        stream.arrive(item)
        model = stream.model
        model.present += 1
        model.peak = max(model.peak, model.present)
        if item.deadline is not None:
            self._watch(item.deadline, item)
        return given_up + self._go_on(stream)

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

        What each of several items took is not known. They are charged in proportion to the bytes of their payloads,
        with `ITEM_BYTES` for each: a proxy, for decoding and inference of a text or a picture grow with it.

        Args:
            cost: seconds of worker time the whole batch took.

        Returns:
            The outcomes of streams that are still open; the others' are counted and discarded.
        """
        model = self._models[batch.model]
        size = len(batch.items)
        if any(isinstance(outcome, Result) for outcome in outcomes):
            model.cost += MEMORY * (cost / size - model.cost)
        model.adapt(size, cost)
        per_byte = 0.0 if size == 1 else cost / sum(ITEM_BYTES + len(item.payload) for item in batch.items)
        wanted: list[Outcome] = []
        for outcome in outcomes:
            item = outcome.item
            share = cost if size == 1 else per_byte * (ITEM_BYTES + len(item.payload))
            stream = self._came_back(item, share)
            if item.seq in stream.suspects:
                del stream.suspects[item.seq]
                stream.tally.retried += 1
            if isinstance(outcome, Result):
                stream.cost += MEMORY * (share - stream.cost)
                model.costs.add(share, now)
                model.ages.add(now - item.received, now)
            self._count(stream, outcome)
            wanted += [outcome] if stream.open else []
            wanted += self._go_on(stream)
        return wanted

    def lost(self, batch: Batch, cost: float, now: float, *, timed_out: bool) -> list[Outcome]:
        """A batch's worker ended with it: each item runs once more, alone, or has its error.

        Which of several items it was shows when each runs alone. What ends a worker alone is held against its
        stream, which is condemned by its third within `KILL_SPAN` if the two before are proven: by a second try
        that ended a worker too, or by a timeout. For so long after a proven one all items of the stream run alone:
        others lose no second batch to it.

        Of the time that several took together, none is charged with more than such an item took before: else those
        that did no harm would pay for one that hung. That one is charged with it when it hangs alone.

        Args:
            cost: seconds of worker time the batch took.
            timed_out: the worker was ended because it took too long. The item did that if it was alone: it gets
                no second try.

        Returns:
            What is told, of streams that are still open: the errors of items that do not run again, and of whatever
            else waits of a stream that is condemned; and an item that waited while a newer one runs again.
        """
        alone = len(batch.items) == 1
        wanted: list[Outcome] = []
        for item in batch.items:
            stream = self._streams[item.stream]
            self._came_back(item, cost if alone else min(cost / len(batch.items), stream.cost))
            again = item.seq in stream.suspects
            stream.tally.retried += again
            if alone and stream.open:
                stream.blame(item, now, proven=again or timed_out)
            failed = _verdict(stream, item, hopeless=alone and timed_out)
            if failed is None:
                stream.suspects[item.seq] = now if alone else None
                wanted += self._wait_again(stream, item)
            else:
                stream.suspects.pop(item.seq, None)
                self._count(stream, failed)
                wanted += [failed] if stream.open else []
            wanted += self._go_on(stream)
        return wanted

    def returned(self, batch: Batch) -> list[Outcome]:
        """A batch's worker ended before it had read it: its items wait on as if nothing had happened.

        Returns:
            The outcomes of those that do not wait on, of streams that are still open: a `latest` stream has a newer
            item, or the stream was condemned meanwhile.
        """
        wanted: list[Outcome] = []
        for item in batch.items:
            stream = self._came_back(item, 0.0)
            wanted += self._wait_again(stream, item)
            wanted += self._go_on(stream)
        return wanted

    def close(self, number: int) -> None:
        """The client has gone: what waits is cancelled at once, what runs is discarded when it arrives."""
        stream = self._stream(number)
        stream.open = False
        self._give_up(stream, "cancelled")
        self._forget_if_idle(stream)

    def expire(self, now: float) -> tuple[list[Outcome], float | None]:
        """Drop what has waited too long while no worker was free; and say when to call again, None for never."""
        dropped: list[Outcome] = []
        while self._deadlines:
            deadline, number, seq = self._deadlines[0]
            late = self._patient(number, seq)
            if late is not None:
                if deadline > now:
                    return dropped, deadline
                stream = self._streams[number]
                stream.waiting.remove(late)
                dropped.append(self._drop(stream, late, "expired"))
                self._leave(stream)
            heapq.heappop(self._deadlines)
        return dropped, None

    def drain(self) -> list[Outcome]:
        """Drop everything that waits: there is no time left to run it."""
        return [dropped for stream in self._streams.values() for dropped in self._give_up(stream, "draining")]

    def abandon(self, model: str) -> list[Outcome]:
        """Fail everything that waits for a model that no worker could load again: nothing waits for ever."""
        reason = f"model {model} was lost, and could not be loaded again"
        failed: list[Outcome] = []
        known = self._models[model]
        # first those that have a place, for it is called after every offer, and then there is one among thousands
        for streams in ([stream for _, stream in known.heap], known.streams.values()):
            if known.waiting:
                for stream in streams:
                    failed += self._fail_waiting(stream, "model_unavailable", reason, retryable=True)
        return failed

    def tally(self, number: int) -> Tally:
        """What became of an open stream's items so far."""
        return replace(self._stream(number).tally)

    def statistics(self, now: float) -> Statistics:
        """Count everything, as it stands now."""
        return Statistics({model.name: model.statistics(now) for model in self._models.values()})

    def model_statistics(self, name: str, now: float) -> ModelStatistics:
        """Count everything of one model, as it stands now.

        Raises:
            KeyError: there is no such model.
        """
        return self._models[name].statistics(now)

    def _stream(self, number: int) -> Stream:
        stream = self._streams.get(number)
        if stream is None or not stream.open:
            raise UnknownStream(f"stream {number}")
        return stream

    def _came_back(self, item: Item, cost: float) -> Stream:
        stream = self._streams[item.stream]
        stream.charge(item, cost)
        return stream

    def _wait_again(self, stream: Stream, item: Item) -> list[Outcome]:
        """Put an item back where it was taken from; of a `latest` stream the newest stays, and what is suspect."""
        stream.tally.waiting += 1
        stream.model.waiting += 1
        waiting = stream.waiting
        waiting.insert(sum(one.seq < item.seq for one in waiting), item)
        if item.deadline is not None and item.seq not in stream.suspects:
            self._watch(item.deadline, item)
        if not stream.open:
            self._give_up(stream, "cancelled")
        elif stream.policy == "latest":
            given_up = [one for one in waiting if one is not waiting[-1] and one.seq not in stream.suspects]
            for one in given_up:
                waiting.remove(one)
            return [self._drop(stream, one, "superseded") for one in given_up]
        return []

    def _go_on(self, stream: Stream) -> list[Outcome]:
        """An item of it has come, or come back: give it its place, or fail what waits if it is condemned."""
        if not stream.open:
            self._forget_if_idle(stream)
        elif stream.condemned:
            return self._fail_waiting(stream, POISON, _POISONED, fatal=True)
        else:
            self._queue_up(stream)
        return []

    def _watch(self, deadline: float, item: Item) -> None:
        """Remember an item's deadline; forget those of items that wait no more before they are most of them."""
        heapq.heappush(self._deadlines, (deadline, item.stream, item.seq))
        if len(self._deadlines) > self._most_deadlines:
            self._deadlines = [one for one in set(self._deadlines) if self._patient(*one[1:])]
            heapq.heapify(self._deadlines)
            self._most_deadlines = FEW + 2 * len(self._deadlines)

    def _patient(self, number: int, seq: int) -> Item | None:
        """The item, if it waits and may expire; None if it has run, was given up or must run again."""
        stream = self._streams.get(number)
        if stream is None or not stream.waiting or seq < stream.waiting[0].seq or seq in stream.suspects:
            return None
        return next((item for item in stream.waiting if item.seq == seq), None)

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

        The place stays vacant until its turn comes, or such places are most of them: while no worker holds the
        model no turn comes.
        """
        if stream.entry and not stream.eligible:
            stream.entry = None
            model = stream.model
            model.vacant += 1
            if 2 * model.vacant > len(model.heap):
                model.heap = [place for place in model.heap if place[1].entry is place[0]]
                heapq.heapify(model.heap)
                model.vacant = 0

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
        """Clear away places that are vacant; whether one is left that is not."""
        while model.heap and model.heap[0][1].entry is not model.heap[0][0]:
            heapq.heappop(model.heap)
            model.vacant -= 1
        return bool(model.heap)

    def _fill(self, model: Model, now: float, free: int, dropped: list[Outcome]) -> Iterator[Item]:
        full = room = model.part(free)
        while room and self._head(model):
            entry, stream = model.heap[0]
            item = stream.waiting[0]
            expired = item.deadline is not None and item.deadline <= now and item.seq not in stream.suspects
            alone = (stream.suspects or stream.kills) and stream.shunned(now)
            if alone and room < full and not expired:
                return  # it runs with the next worker
            heapq.heappop(model.heap)
            stream.entry = None
            stream.waiting.popleft()
            if expired:
                dropped.append(self._drop(stream, item, "expired"))
            else:
                if room == full:  # a batch is served as one: its later items must not carry the time ahead
                    model.workers.virtual = max(model.workers.virtual, entry[0])
                # onto what `done` corrected while it waited: from the entry's tag, that would be forgotten
                stream.start(item)
                stream.tally.waiting -= 1
                model.waiting -= 1
                room = 0 if alone else room - 1
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

    def _give_up(self, stream: Stream, reason: DropReason) -> list[Outcome]:
        """Drop all of a stream that waits."""
        dropped = [self._drop(stream, stream.waiting.popleft(), reason) for _ in range(len(stream.waiting))]
        self._leave(stream)
        return dropped

    def _fail_waiting(
        self, stream: Stream, code: str, message: str, *, retryable: bool = False, fatal: bool = False
    ) -> list[Outcome]:
        failed: list[Outcome] = []
        while stream.waiting:
            item = stream.waiting.popleft()
            stream.suspects.pop(item.seq, None)
            failed.append(Failed(item, code, message, retryable, fatal))
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
        return Failed(item, POISON, _POISONED, fatal=True)
    if hopeless:
        return Failed(item, "timeout", "the model took too long, and its worker was ended")
    if item.seq in stream.suspects:
        return Failed(item, "worker_lost", "two workers ended with this item, the second with it alone")
    return None


def _worker_lost(item: Item) -> Failed:
    return Failed(item, "worker_lost", "the worker ended with this item; send it again", retryable=True)
