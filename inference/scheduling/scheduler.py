"""Decides what runs next; the only place where an item waits. No I/O, no clock: `now` is an argument.

Streams share the workers by start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queueing", SIGCOMM
1996): an item's start tag is the later of the virtual time and its stream's last finish tag; the lowest
start tag runs first, and the virtual time is at least the first start tag of what ran last. A finish tag lies an
item's cost over its stream's weight beyond its start tag. The cost is worker time, estimated from what the stream's
items took before and corrected when the item is done, so that a stream of large frames pays for them. One
virtual time spans all models of a group, because they share its workers; `Workers.served` says how it goes on
while streams come and go. With `fair_by` "principal" each principal has the weight 1, which its streams with
items divide.

Of a `latest` stream at most one item waits: a newer one replaces it. One exception: an item with which a worker
ended gives way neither to a newer one nor to its deadline. Its next try, alone, is how a stream whose items end
workers is told from those that were in the same batch, or in a worker that was ended from outside. There are never
more of these than its window, and the newest item waits behind them.

Only what is proven condemns. The end of a worker counts against an item that was alone in it, unless it came from
outside (`Cause.OUTSIDE`). Where that cannot be told (`Cause.UNKNOWN`), it is taken to have come from outside if a
worker without any item was killed within `KILL_SPAN`, for which no stream can be the reason; else it takes one try
more to prove it. The ends of workers that had other streams' items excuse no stream: several may be poisonous at
once.

Models are known by name and version. A stream is bound to one version; `rebind` alone changes that.

The loop that drives it: `offer` what arrives, or `refuse` it; whenever a worker is free, `take` what it shall run;
`done` when that has run, `lost` or `returned` when its worker ended; `expire` at an item's deadline, for no worker
may be free by then. Whatever outcomes any of these returns must be delivered.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter

from inference.items import POISON, Batch, Cause, Dropped, DropReason, Failed, Item, Outcome, Result
from inference.model import DEFAULT_GROUP, ModelId, Policy
from inference.scheduling.admission import admits
from inference.scheduling.deadlines import Deadlines
from inference.scheduling.state import (
    KILL_SPAN,
    KILLS,
    MEMORY,
    PROOF,
    FairBy,
    Loss,
    Model,
    Principal,
    Stream,
    Suspect,
    Tag,
    Workers,
)
from inference.scheduling.statistics import Statistics, StreamStatistics, Tally

ITEM_BYTES = 1024
"""What an item of a batch costs besides its payload, in bytes of it: handing it over and answering it takes some
tens of microseconds, and so does a KiB of text in the spam model."""

MAX_BATCH_BYTES = 32 << 20
"""Bytes of payload after which a batch takes no further item: four of the largest items that a server takes by
default. A worker holds all of them at once, decoded."""

MAX_RETURNS = 2
"""How often an item may come back unread before it counts as one with which a worker ended. A worker that is ended
from outside does not read; one that the kernel ends for the batch's memory does not either, again and again."""

MAX_KILLS = 5
"""How many workers may be ended from outside with one item until it is given up: its sender may send it again."""


class UnknownStream(LookupError):
    """You misused the scheduler: that stream was never opened, or has been closed."""


class StreamFull(RuntimeError):
    """You misused the scheduler: a queue stream has no capacity left, and `has_capacity` said so."""


class Scheduler:
    """All streams of the groups of workers.

    Args:
        fair_by: among whom the workers are shared.
    """

    def __init__(self, fair_by: FairBy = "stream") -> None:
        self._fair_by = fair_by
        self._groups: dict[str, Workers] = {}
        self._models: dict[ModelId, Model] = {}
        self._streams: dict[int, Stream] = {}
        self._gone: dict[str, Tally] = {}  # of versions that were removed, by the model's name
        self._order = 0
        self._killed_idle = -math.inf
        self._deadlines = Deadlines(lambda stream, seq: self._waiting_item(stream, seq) is not None)

    def add_group(self, name: str, workers: int) -> None:
        """Make a group of models known, and how many workers they share."""
        self._groups.setdefault(name, Workers()).count = workers

    def add_model(
        self,
        model: ModelId,
        max_batch: int,
        target: float = math.inf,
        *,
        min_rate: float = 0.0,
        group: str = DEFAULT_GROUP,
        stateful: bool = False,
    ) -> None:
        """Make a model version known, or change its settings. Items for it can run (again), see `abandon`.

        Args:
            target: seconds that a batch should take at most. Batches then grow from one item as long as they
                keep to it; without a target they are as large as what waits.
            min_rate: items per second that each of its streams is promised, see `admits`.
            stateful: an item of a stream runs only when the one before it is done, with the state that it left.
        """
        known = self._models.get(model)
        if known is None:
            known = self._models[model] = Model(model, self._groups.setdefault(group, Workers()))
        known.min_rate, known.stateful, known.loss, known.removed = min_rate, stateful, None, False
        if (known.max_batch, known.target) != (max_batch, target):
            known.max_batch, known.target = max_batch, target
            known.cap = max_batch if target == math.inf else 1

    def versions(self, name: str) -> list[ModelId]:
        """The versions of a model that are known, also those that are to be forgotten."""
        return [model for model in self._models if model.name == name]

    def remove_model(self, model: ModelId) -> None:
        """Forget an abandoned version when no stream is bound to it and nothing runs; its counts are kept."""
        known = self._models[model]
        known.removed = True
        self._discard_if_unused(known)

    def expect(self, model: ModelId, cost: float) -> None:
        """Say what an item of a model takes, in worker seconds, where none has been measured yet."""
        known = self._models[model]
        if not known.costs.known:
            known.cost = cost

    def admits(self, model: ModelId, weight: float, now: float, principal: str = "") -> bool:
        """Forecast whether a model can have one more stream, see `inference.scheduling.admission`."""
        sharer = principal if self._fair_by == "principal" else None
        return admits(self._models.values(), self._models[model], weight, now, sharer)

    def open(
        self,
        number: int,
        model: ModelId,
        policy: Policy,
        window: int,
        weight: float = 1.0,
        principal: str = "",
    ) -> None:
        """Open a stream, bound to a version.

        Args:
            number: the caller's name for it, never used twice.
            window: for `latest` the most items running at once, for `queue` the most waiting.
            weight: its share of the workers, relative to others.
            principal: on whose behalf.
        """
        known = self._models[model]
        workers = known.workers
        payer = workers.principals.setdefault(principal, Principal(principal))
        payer.streams += 1
        stream = Stream(
            number, known, policy, window, weight, payer, known.cost, self._fair_by == "principal"
        )
        self._streams[number] = known.streams[number] = workers.streams[number] = stream
        known.open_streams += 1

    def rebind(self, number: int, model: ModelId) -> list[Outcome]:
        """Bind an open stream to another version of its model: what waits runs there, what runs stays.

        A stateful stream starts anew, without a state.
        """
        stream, new = self._stream(number), self._models[model]
        old = stream.model
        if old is new:
            return []
        self._leave(stream, anyway=True)
        self._move_waiting(stream, old, new)
        del old.streams[number]
        old.open_streams -= 1
        stream.model, stream.state, stream.bindings = new, b"", stream.bindings + 1
        new.streams[number] = stream
        new.open_streams += 1
        self._discard_if_unused(old)
        return self._go_on(stream)

    def has_capacity(self, number: int) -> bool:
        """Whether a stream may offer another item. A `latest` stream always may."""
        stream = self._stream(number)
        return stream.policy == "latest" or len(stream.waiting) < stream.window

    def offer(self, item: Item) -> list[Outcome]:
        """Take an item in; a `latest` stream's waiting one gives way to it.

        Raises:
            UnknownStream, StreamFull: the caller's mistake.
        """
        stream = self._stream(item.stream)
        superseded: list[Outcome] = []
        if stream.policy == "latest":
            if stream.waiting and stream.waiting[-1].seq not in stream.suspects:
                superseded.append(self._drop(stream, stream.waiting.pop(), "superseded"))
        elif len(stream.waiting) >= stream.window:
            raise StreamFull(f"stream {item.stream} has {len(stream.waiting)} items waiting")
        stream.arrive(item)
        if item.deadline is not None:
            self._deadlines.add(item.deadline, item.stream, item.seq)
        return superseded + self._go_on(stream)

    def hold_back(self, number: int, held_back: bool) -> None:
        """Start nothing of a stream, or go on: its answers have not left, and more would only be kept.

        What a worker ended with runs again all the same: the answers after it may be waiting for its own.
        """
        stream = self._stream(number)
        stream.held_back = held_back
        if held_back:
            self._leave(stream)
        elif not stream.blocked and not stream.model.loss:
            self._queue_up(stream)

    def refuse(self, outcome: Dropped | Failed) -> None:
        """Count an item that cannot run, with the outcome that it gets."""
        stream = self._stream(outcome.item.stream)
        stream.receive()
        self._count(stream, stream.model, outcome)

    @property
    def anything_waits(self) -> bool:
        """Whether there is an item that no worker has."""
        return any(model.tally.waiting for model in self._models.values())

    def take(
        self, now: float, models: Container[ModelId], free: int = 1
    ) -> tuple[Batch | None, list[Outcome]]:
        """Choose what a free worker that holds `models` runs now: the fairest stream's item, and a batch with it.

        A batch takes only what waits already: nothing waits for a batch to fill.

        Args:
            free: how many such workers are free, this one included; what waits is divided among them.
        """
        dropped: list[Outcome] = []
        while (model := self._next_model(models)) is not None:
            items = list(self._fill(model, now, free, dropped))
            if items:
                states = tuple(self._streams[item.stream].state for item in items) if model.stateful else ()
                return Batch(model.id, tuple(items), now, states), dropped
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
        self._served(batch, model, cost)
        per_byte = 0.0 if size == 1 else cost / sum(ITEM_BYTES + len(item.payload) for item in batch.items)
        wanted: list[Outcome] = []
        for outcome in outcomes:
            item = outcome.item
            share = cost if size == 1 else per_byte * (ITEM_BYTES + len(item.payload))
            stream = self._streams[item.stream]
            rebound = stream.running[item.seq].binding != stream.bindings
            self._came_back(item, share, model)
            if item.seq in stream.suspects:
                self._retried(stream, item, model)
            if isinstance(outcome, Result):
                stream.cost += MEMORY * (share - stream.cost)
                if not rebound:  # else the stream has started anew
                    stream.state = outcome.state
                model.costs.add(share, now)
                model.ages.add(now - item.received, now)
            self._count(stream, model, outcome)
            wanted += [outcome] if stream.open else []
            wanted += self._go_on(stream, waited=True)
        self._discard_if_unused(model)
        return wanted

    def lost(self, batch: Batch, cost: float, now: float, cause: Cause) -> list[Outcome]:
        """A batch's worker ended with it: each item runs again, alone, or has its error.

        Which of several items it was shows when each runs alone. What ends a worker alone is held against its
        stream, which is blocked by its third within `KILL_SPAN` if the two before are proven, see `PROOF`. For so
        long after a proven one all items of the stream run alone: others lose no second batch to it. What ended a
        worker from outside is held against none; an item has `MAX_KILLS` tries then.

        Of the time that several took together, none is charged with more than such an item took before: else those
        that did no harm would pay for one that hung. That one is charged with it when it hangs alone.

        Args:
            cost: seconds of worker time the batch took.

        Returns:
            What is told, of streams that are still open: the errors of items that do not run again, and of whatever
            else waits of a stream that is blocked; and an item that waited while a newer one runs again.
        """
        model = self._models[batch.model]
        cause = self._likely(cause, now)
        alone = len(batch.items) == 1
        pays = alone and cause is not Cause.OUTSIDE
        self._served(batch, model, cost if pays else min(cost, self._charged(batch)))
        wanted: list[Outcome] = []
        for item in batch.items:
            stream = self._streams[item.stream]
            self._came_back(item, cost if pays else min(cost / len(batch.items), stream.cost), model)
            suspect = stream.suspects.get(item.seq)
            if suspect is None:
                suspect = Suspect()
            else:
                self._retried(stream, item, model, keep=True)
            failed = _verdict(stream, item, suspect, now, cause, alone=alone)
            if failed is None:
                stream.suspects[item.seq] = suspect
                wanted += self._wait_again(stream, item, model)
            else:
                stream.suspects.pop(item.seq, None)
                self._count(stream, model, failed)
                wanted += [failed] if stream.open else []
            wanted += self._go_on(stream)
        self._discard_if_unused(model)
        return wanted

    def worker_killed(self, now: float) -> None:
        """A worker that had no batch was ended by a signal that the server did not send: no item is the reason."""
        self._killed_idle = now

    def returned(self, batch: Batch, now: float, cause: Cause) -> list[Outcome]:
        """A batch's worker ended before it had read it: its items wait on as if nothing had happened.

        What has come back `MAX_RETURNS` times, and not because of a kill from outside, may be why: it runs once
        more, alone, and then has its error.

        Returns:
            The outcomes of those that do not wait on, of streams that are still open: a `latest` stream has a newer
            item, the stream was blocked meanwhile, or it was the last return.
        """
        model = self._models[batch.model]
        outside = self._likely(cause, now) is Cause.OUTSIDE
        wanted: list[Outcome] = []
        for item in batch.items:
            stream = self._came_back(item, 0.0, model)
            stream.returns[item.seq] = returns = stream.returns.get(item.seq, 0) + (not outside)
            if returns > MAX_RETURNS and item.seq in stream.suspects:
                del stream.suspects[item.seq]
                failed = _worker_lost(item)
                self._count(stream, model, failed)
                wanted += [failed] if stream.open else []
            else:
                if returns == MAX_RETURNS:
                    stream.suspects.setdefault(item.seq, Suspect())
                wanted += self._wait_again(stream, item, model)
            wanted += self._go_on(stream)
        self._discard_if_unused(model)
        return wanted

    def close(self, number: int) -> None:
        """The client has gone: what waits is cancelled at once, what runs is discarded when it arrives."""
        stream = self._stream(number)
        stream.open = False
        stream.model.open_streams -= 1
        self._give_up(stream, "cancelled")
        self._forget_if_idle(stream)

    def expire(self, now: float) -> tuple[list[Outcome], float | None]:
        """Drop what has waited too long while no worker was free; and say when to call again, None for never."""
        dropped: list[Outcome] = []
        while (late := self._deadlines.pop(now)) is not None:
            number, seq = late
            stream, item = self._streams[number], self._waiting_item(number, seq)
            assert item is not None
            stream.waiting.remove(item)
            dropped.append(self._drop(stream, item, "expired"))
            self._leave(stream)
        return dropped, self._deadlines.next()

    def drain(self) -> list[Outcome]:
        """Drop everything that waits: it can no longer run."""
        return [dropped for stream in self._streams.values() for dropped in self._give_up(stream, "draining")]

    def abandon(self, model: ModelId, message: str, *, retryable: bool) -> list[Outcome]:
        """Fail what waits for a version that no worker will run, and what comes, until it is added again.

        Args:
            message, retryable: what the items' errors say.
        """
        known = self._models[model]
        known.loss = Loss(message, retryable)
        return [failed for stream in known.streams.values() for failed in self._fail_lost(stream, known.loss)]

    def tally(self, number: int) -> Tally:
        """What became of an open stream's items so far."""
        return replace(self._stream(number).tally)

    def statistics(self, now: float) -> Statistics:
        """Count everything, as it stands now. The cost does not depend on the number of streams."""
        models = {known.id: known.statistics(now) for known in self._models.values()}
        return Statistics(models, dict(self._gone))

    def stream_statistics(self, models: Iterable[ModelId], most: int | None = None) -> list[StreamStatistics]:
        """One row for each open stream of these versions.

        Args:
            most: give so many at most, those with the most worker time first; None for all, in any order. Each of
                the others costs about 0.2 us.

        Raises:
            KeyError: there is no such version.
        """
        streams = [one for model in models for one in self._models[model].streams.values() if one.open]
        used = sum(stream.worker_s for stream in streams) or 1.0
        if most is not None:
            streams = heapq.nlargest(most, streams, key=attrgetter("worker_s"))
        return [stream.statistics(used) for stream in streams]

    def _stream(self, number: int) -> Stream:
        stream = self._streams.get(number)
        if stream is None or not stream.open:
            raise UnknownStream(f"stream {number}")
        return stream

    def _likely(self, cause: Cause, now: float) -> Cause:
        """What an unknown cause is taken for: a kill of a worker without an item tells of kills from outside."""
        killed = cause is Cause.UNKNOWN and now - self._killed_idle <= KILL_SPAN
        return Cause.OUTSIDE if killed else cause

    def _served(self, batch: Batch, model: Model, cost: float) -> None:
        streams = self._streams
        model.workers.served(cost, min(streams[item.stream].running[item.seq].weight for item in batch.items))

    def _charged(self, batch: Batch) -> float:
        """What is charged at most for a batch whose worker ended, unless an item alone did that."""
        return sum(self._streams[item.stream].cost for item in batch.items)

    def _came_back(self, item: Item, cost: float, model: Model) -> Stream:
        stream = self._streams[item.stream]
        stream.charge(item, cost, model)
        return stream

    def _retried(self, stream: Stream, item: Item, model: Model, *, keep: bool = False) -> None:
        """Count a second try that is over."""
        stream.tally.retried += 1
        model.tally.retried += 1
        if not keep:
            del stream.suspects[item.seq]

    def _wait_again(self, stream: Stream, item: Item, ran_on: Model) -> list[Outcome]:
        """Put an item back where it was taken from; of a `latest` stream the newest stays, and what is suspect."""
        if stream.model is not ran_on:  # the stream was bound to another version meanwhile
            ran_on.tally.rebound += 1
            stream.model.tally.received += 1
        stream.begin_waiting()
        waiting = stream.waiting
        waiting.insert(sum(one.seq < item.seq for one in waiting), item)
        if item.deadline is not None and item.seq not in stream.suspects:
            self._deadlines.add(item.deadline, item.stream, item.seq)
        if not stream.open:
            self._give_up(stream, "cancelled")
        elif stream.policy == "latest":
            superseded = [one for one in waiting if one is not waiting[-1] and one.seq not in stream.suspects]
            for one in superseded:
                waiting.remove(one)
            return [self._drop(stream, one, "superseded") for one in superseded]
        return []

    def _move_waiting(self, stream: Stream, old: Model, new: Model) -> None:
        """Count what waits of a stream on its new version."""
        waiting = stream.tally.waiting
        old.tally.waiting -= waiting
        old.tally.rebound += waiting
        new.tally.waiting += waiting
        new.tally.received += waiting
        new.peak = max(new.peak, new.tally.present)

    def _go_on(self, stream: Stream, *, waited: bool = False) -> list[Outcome]:
        """An item of it has come, or come back: queue the stream, or fail what waits if nothing of it can run.

        Args:
            waited: an item of it ran until now, so that what waits may have waited all along.
        """
        if not stream.open:
            self._forget_if_idle(stream)
        elif stream.blocked:
            return self._fail_waiting(stream, POISON, _POISONED, fatal=True)
        elif stream.model.loss:
            return self._fail_lost(stream, stream.model.loss)
        else:
            self._queue_up(stream, waited=waited)
        return []

    def _fail_lost(self, stream: Stream, loss: Loss) -> list[Outcome]:
        return self._fail_waiting(stream, "model_unavailable", loss.message, retryable=loss.retryable)

    def _waiting_item(self, number: int, seq: int) -> Item | None:
        """The item, if it waits and may expire; None if it has run, was dropped or must run again."""
        stream = self._streams.get(number)
        if stream is None or not stream.waiting or seq < stream.waiting[0].seq or seq in stream.suspects:
            return None
        return next((item for item in stream.waiting if item.seq == seq), None)

    def _queue_up(self, stream: Stream, *, waited: bool = False) -> None:
        """Put a stream into its model's heap; one that has waited all along keeps its corrected finish tag."""
        if stream.entry is None and stream.eligible:
            self._order += 1
            if not waited:
                stream.finish = max(stream.model.workers.virtual, stream.finish)
            stream.entry = (stream.finish, self._order)
            heapq.heappush(stream.model.heap, (stream.entry, stream))

    def _leave(self, stream: Stream, *, anyway: bool = False) -> None:
        """Take a stream that has nothing left to run, or anyway, out of its model's heap.

        Its entry stays as a stale one until it is first, or until stale entries are most of the heap: while no
        worker holds the model nothing is taken from it.
        """
        if stream.entry and (anyway or not stream.eligible):
            stream.entry = None
            model = stream.model
            model.stale += 1
            if 2 * model.stale > len(model.heap):
                model.heap = [entry for entry in model.heap if _current(entry)]
                heapq.heapify(model.heap)
                model.stale = 0

    def _next_model(self, models: Container[ModelId]) -> Model | None:
        first: Model | None = None
        for model in self._models.values():
            if model.id in models and self._head(model) and (first is None or model.heap[0] < first.heap[0]):
                first = model
        return first

    def _head(self, model: Model) -> bool:
        """Remove stale entries from the top of the heap; whether a current one is left."""
        while model.heap and not _current(model.heap[0]):
            heapq.heappop(model.heap)
            model.stale -= 1
        return bool(model.heap)

    def _fill(self, model: Model, now: float, free: int, dropped: list[Outcome]) -> Iterator[Item]:
        """Take the items of a batch from the streams with the lowest start tags."""
        limit = left = model.part(free)
        size = 0
        while left and self._head(model):
            entry, stream = model.heap[0]
            item = stream.waiting[0]
            expired = item.deadline is not None and item.deadline <= now and item.seq not in stream.suspects
            alone = (stream.suspects or stream.kills) and stream.isolated(now)
            full = alone or size + len(item.payload) > MAX_BATCH_BYTES
            if full and left < limit and not expired:
                return  # it runs with the next worker
            heapq.heappop(model.heap)
            stream.entry = None
            stream.waiting.popleft()
            if expired:
                dropped.append(self._drop(stream, item, "expired"))
            else:
                if left == limit:  # a batch is served as one: its later items must not carry the time ahead
                    model.workers.virtual = max(model.workers.virtual, entry[0])
                # onto what `done` corrected while it waited: from the entry's tag, that would be forgotten
                stream.start(item)
                size += len(item.payload)
                left = 0 if alone else left - 1
                yield item
            self._queue_up(stream, waited=True)

    def _drop(self, stream: Stream, item: Item, reason: DropReason) -> Outcome:
        """Drop an item that waits; one that a worker ended with has an error, for a worker had started on it."""
        stream.end_waiting()
        outcome: Dropped | Failed = Dropped(item, reason)
        if item.seq in stream.suspects:
            del stream.suspects[item.seq]
            outcome = _worker_lost(item)
        self._count(stream, stream.model, outcome)
        return outcome

    def _give_up(self, stream: Stream, reason: DropReason) -> list[Outcome]:
        """Drop whatever waits of a stream."""
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
            stream.end_waiting()
            self._count(stream, stream.model, failed[-1])
        self._leave(stream)
        return failed

    def _count(self, stream: Stream, model: Model, outcome: Outcome) -> None:
        """Count an outcome, for the stream and for the version where the item waited or ran."""
        if stream.returns:
            stream.returns.pop(outcome.item.seq, None)
        ours, models = stream.tally, model.tally
        if isinstance(outcome, Result):
            ours.results += 1
            models.results += 1
        elif isinstance(outcome, Failed):
            ours.errors += 1
            models.errors += 1
        else:
            ours.drop(outcome.reason)
            models.drop(outcome.reason)
            return
        if not stream.open:
            undelivered = isinstance(outcome, Failed)
            for tally in (ours, models):
                tally.discarded += 1
                tally.undelivered += undelivered

    def _forget_if_idle(self, stream: Stream) -> None:
        if not stream.tally.running:
            workers, principal = stream.model.workers, stream.principal
            del self._streams[stream.number], stream.model.streams[stream.number]
            del workers.streams[stream.number]
            principal.streams -= 1
            if not principal.streams:
                del workers.principals[principal.name]
            self._discard_if_unused(stream.model)

    def _discard_if_unused(self, model: Model) -> None:
        """Forget a removed version that nothing refers to any more."""
        if model.removed and not model.streams and not model.tally.running and model.id in self._models:
            del self._models[model.id]
            self._gone[model.id.name] = (self._gone.get(model.id.name, Tally()) + model.tally).merged()


def _current(entry: tuple[Tag, Stream]) -> bool:
    """Whether a heap's entry is still its stream's; else it is stale."""
    tag, stream = entry
    return stream.entry is tag


_POISONED = (
    f"this stream's items have ended {KILLS} workers within {KILL_SPAN:.0f} s, so nothing of it runs any more; "
    "find the item that the model cannot bear"
)


def _verdict(
    stream: Stream, item: Item, suspect: Suspect, now: float, cause: Cause, *, alone: bool
) -> Failed | None:
    """What an item gets whose worker ended with it; None if it is to run again, alone."""
    if cause is Cause.OUTSIDE:
        suspect.kills += 1
        proven = False
    else:
        suspect.ends += 1
        proven = alone and suspect.ends >= PROOF[cause]
        if alone and stream.open:
            stream.blame(suspect, now, proven=proven)
    if stream.blocked:
        return Failed(item, POISON, _POISONED, fatal=True)
    if proven and cause is Cause.TIMEOUT:
        return Failed(item, "timeout", "the model took too long, and its worker was ended")
    if proven:
        message = f"{suspect.ends} workers ended with this item, the last with it alone"
        return Failed(item, "worker_lost", message)
    return _worker_lost(item) if suspect.kills >= MAX_KILLS else None


def _worker_lost(item: Item) -> Failed:
    return Failed(item, "worker_lost", "the worker ended with this item; send it again", retryable=True)
