"""The scheduler and the pools put together: items in, outcomes out. It knows no network and decides nothing.

async with Engine([ModelSource.parse("mypackage.mymodule:MyModel")], workers=2) as engine:
    outcome = await engine.infer("mymodel", payload)
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from inference.intake import (
    ByteBudget,
    ModelUnavailableError,
    OverloadedError,
    StreamRequest,
    UnknownModelError,
)
from inference.items import Batch, Cause, Dropped, Failed, Item, Outcome
from inference.model import ModelCard, ModelError, ModelId, ModelSource
from inference.pool.groups import Group, resolve_groups
from inference.pool.pool import ModelState, Pool, PoolStatus, WorkerOptions
from inference.scheduling.scheduler import Scheduler
from inference.scheduling.state import FairBy
from inference.scheduling.statistics import Statistics, StreamStatistics, Tally
from inference.streams import Stream, StreamOwner

log = logging.getLogger(__name__)

Observe: TypeAlias = Callable[[ModelId, Outcome, float], None]
"""Called with the version, the outcome and the time of every delivery: for metrics."""

MAX_UNANSWERED_BYTES = 512 << 20
"""Bytes that all streams may hold, see `ByteBudget`: ten thousand frames of a camera."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What is known of a model now.

    Attributes:
        card: of the current version, with the settings that it is served with; None until a worker has loaded it.
        state: whether the model can answer.
        reason: why it is unavailable, or how far its loading is; None if it is ready or nothing is known.
        versions: those that live workers hold, oldest first.
        permanent: it is unavailable because its code or an option is wrong; another try would fail as well.
    """

    name: str
    card: ModelCard | None
    state: ModelState
    reason: str | None
    versions: tuple[str, ...] = ()
    permanent: bool = False


@dataclass(slots=True, eq=False)
class _Model:
    """A model that is served."""

    source: ModelSource
    group: str
    pool: Pool
    current: ModelCard | None = None
    # versions that the scheduler knows; None for one that is lost and may come back
    known: dict[ModelId, ModelCard | None] = field(default_factory=dict)


class Engine:
    """Runs models in worker processes.

    Every item offered gets exactly one outcome, delivered to its stream's owner, unless the stream is closed
    first. Outcomes come as they are done; a stream that needs its order keeps it itself.

    A stream is bound to a version of its model when it is opened. When a newer version has loaded, the streams that
    asked for none are bound to that; one that is pinned has an error for each item once its version is gone.

    It belongs to the event loop it is made on.

    Args:
        sources: the models; their names are different.
        workers: how many processes; every one holds all models that are in no group.
        options: how the workers are kept.
        groups: models that have workers of their own.
        fair_by: among whom the workers are shared.
        max_unanswered_bytes: see `ByteBudget`.

    Attributes:
        budget: the bytes that all streams hold.
        observe: called at every delivery.

    Raises:
        ModelError: two models have one name, or a group is wrong.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        workers: int,
        options: WorkerOptions | None = None,
        groups: Sequence[Group] = (),
        *,
        fair_by: FairBy = "stream",
        max_unanswered_bytes: int = MAX_UNANSWERED_BYTES,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._scheduler = Scheduler(fair_by)
        self._pools: dict[str, Pool] = {}
        self._models: dict[str, _Model] = {}
        by_name = {source.name: source for source in sources}
        for group in resolve_groups(sources, workers, groups):
            members = [by_name[name] for name in group.models]
            pool = self._pools[group.name] = Pool(members, group.workers, self, options or WorkerOptions())
            self._models |= {source.name: _Model(source, group.name, pool) for source in members}
            self._scheduler.add_group(group.name, group.workers)
        self._models = {name: self._models[name] for name in by_name}  # in the order that they were given
        self._streams: dict[int, tuple[Stream, StreamOwner]] = {}
        self._opened = 0
        self._dispatching = self._stopped = False
        self._outbox: deque[Outcome] = deque()
        self._delivering = False
        self._changed = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None
        self._expires = math.inf
        self.budget = ByteBudget(max_unanswered_bytes)
        self.observe: Observe | None = None

    async def __aenter__(self) -> Self:
        self.start()
        await self.warm()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        """Start the workers. Items may be offered once their model is ready."""
        for pool in self._pools.values():
            pool.start()

    async def warm(self, *, until_permanent: bool = False) -> None:
        """Wait until every model is ready or unavailable.

        Args:
            until_permanent: return too when one has turned out to be unavailable for good.
        """
        while any(status.state == "loading" for status in self.models()):
            if until_permanent and any(status.permanent for status in self.models()):
                return
            self._changed.clear()
            await self._changed.wait()

    async def stop(self) -> None:
        """End the workers; whatever still waits or runs gets its outcome first, and what comes later is dropped."""
        self._stopped = True
        self.drain()
        await asyncio.gather(*(pool.stop() for pool in self._pools.values()))
        self.drain()  # what came meanwhile
        if self._expiry:
            self._expiry.cancel()
            self._expiry = None

    def now(self) -> float:
        """The time on the clock of items, in seconds."""
        return time.monotonic()  # a loop's own may stand still within a pass, as uvloop's does

    def renew(self) -> None:
        """Replace every worker by a new one, one after the other and each when it is idle: nothing is lost."""
        for pool in self._pools.values():
            pool.renew(all_workers=True)

    def add_model(self, source: ModelSource, group: str) -> None:
        """Serve another model with a group's workers; they are replaced one after the other to load it.

        Raises:
            ModelError: a model has that name, or streams are open to one that had it.
            KeyError: there is no such group.
        """
        pool = self._pools[group]
        if source.name in self._models:
            raise ModelError(f"model {source.name} is served already")
        if self._scheduler.versions(source.name):
            raise ModelError(f"model {source.name} was removed and still has open streams; close them first")
        pool.add(source)
        self._models[source.name] = _Model(source, group, pool)

    def remove_model(self, name: str) -> None:
        """Serve a model no longer: what waits for it has an error, what runs is answered.

        Raises:
            UnknownModelError: there is no such model.
        """
        model = self._model(name)
        del self._models[name]
        model.pool.remove(name)
        for stream, _ in self._streams.values():
            stream.pinned = stream.pinned or stream.name == name  # it follows no later model of that name
        reason = f"model {name} is no longer served"
        for version in model.known:
            outcomes = self._scheduler.abandon(version, reason, retryable=False)
            self._scheduler.remove_model(version)
            self._deliver(outcomes)

    def models(self) -> list[ModelStatus]:
        """What is known of each model, in the order they were given."""
        return [self._status(model) for model in self._models.values()]

    def model(self, name: str) -> ModelStatus:
        """What is known of one model.

        Raises:
            UnknownModelError: there is no such model.
        """
        return self._status(self._model(name))

    def resolve(self, name: str, version: str | None = None) -> ModelCard:
        """Find the card of a version that can answer; without one, of the current version.

        Raises:
            UnknownModelError: no model, or no worker's version, has that name.
            ModelUnavailableError: the model did not load, or never has yet. One that has loaded, and whose workers
                are being replaced, can answer: what comes waits for the next one.
        """
        model = self._model(name)
        state, reason = model.pool.state(name)
        lost = state == "unavailable" or (self._stopped and state != "ready")
        if model.current is None or lost:
            raise ModelUnavailableError(f"model {name} is {state}" + (f": {reason}" if reason else ""))
        if version is None:
            return model.current
        cards = {card.version: card for card in model.known.values() if card}
        if version not in cards:
            served = ", ".join(cards)
            raise UnknownModelError(f"no version {version!r} of model {name}; it has {served}")
        return cards[version]

    def workers(self) -> PoolStatus:
        """The workers of all groups."""
        return PoolStatus.sum([pool.status() for pool in self._pools.values()])

    def statistics(self) -> Statistics:
        """What became of every item, as it stands now. The cost does not depend on the number of streams."""
        return self._scheduler.statistics(self.now())

    def stream_statistics(self, name: str, most: int | None = None) -> list[StreamStatistics]:
        """One row for each open stream of a model, whichever version it is bound to.

        Args:
            most: give so many at most, those with the most worker time first; None for all, in any order.
        """
        return self._scheduler.stream_statistics(self._scheduler.versions(name), most)

    def tally(self, stream: int) -> Tally:
        """What became of an open stream's items so far."""
        return self._scheduler.tally(stream)

    def open(self, request: StreamRequest, owner: StreamOwner) -> Stream:
        """Open a stream, if the workers can keep what was promised to all.

        Raises:
            UnknownModelError, ModelUnavailableError: see `resolve`.
            OverloadedError: they cannot.
        """
        card = self.resolve(request.model, request.version)
        if not self._scheduler.admits(card.id, request.weight, self.now(), request.principal):
            raise OverloadedError(
                "with one stream more, not every stream would get the rate that its model promises"
            )
        self._opened += 1
        stream = Stream(self, self._opened, request, card)
        self._scheduler.open(
            stream.number, card.id, stream.policy, stream.capacity, stream.weight, request.principal
        )
        self._streams[stream.number] = (stream, owner)
        return stream

    def hold_back(self, stream: Stream, held_back: bool) -> None:
        """Start nothing of a stream, or go on; `Stream.hold` calls this."""
        self._scheduler.hold_back(stream.number, held_back)
        if not held_back:
            self._dispatch_soon()

    def close(self, stream: Stream) -> None:
        """Close a stream; `Stream.close` calls this."""
        del self._streams[stream.number]
        self._scheduler.close(stream.number)

    def offer(self, stream: Stream, item: Item) -> None:
        """Take an item in, and start on it with whatever else the loop has just read; `Stream.offer` calls this."""
        if self._stopped:
            self.refuse(stream, Dropped(item, "draining"))
            return
        outcomes = self._scheduler.offer(item)
        stream.admit(item)
        self._deliver(outcomes)
        self._dispatch_soon()
        self._watch(item.deadline)

    def refuse(self, stream: Stream, outcome: Dropped | Failed) -> None:
        """Count and answer an item that cannot run; `Stream.offer` calls this."""
        self._scheduler.refuse(outcome)
        stream.admit(outcome.item)
        self._deliver([outcome])

    def drain(self) -> None:
        """Drop what waits: it can no longer run."""
        self._deliver(self._scheduler.drain())

    async def infer(
        self,
        model: str,
        payload: bytes,
        *,
        version: str | None = None,
        max_age_ms: int | None = None,
        principal: str = "",
    ) -> Outcome:
        """Answer one item, for callers without a stream.

        Raises:
            UnknownModelError, ModelUnavailableError, OverloadedError: see `open`.
        """
        if self.budget.exceeded:
            raise OverloadedError("the streams hold as many bytes as they may; try again later")
        answer = _OneAnswer(self._loop.create_future())
        request = StreamRequest(model, version, "queue", 1, max_age_ms, principal=principal)
        stream = self.open(request, answer)
        try:
            stream.offer(payload)
            return await answer.future
        finally:
            stream.close()

    def models_changed(self) -> None:
        """The pool reports: what its workers hold has changed, or a model could not be loaded."""
        for name, model in list(self._models.items()):
            if self._models.get(name) is model:  # an owner may have removed it meanwhile
                self._update(name, model)
        self._changed.set()

    def worker_free(self) -> None:
        """The pool reports: a worker can take a batch."""
        if not self._scheduler.anything_waits:  # as after most batches, unless there is too much to do
            return
        for pool in self._pools.values():
            free = pool.free_workers()
            for number, worker in enumerate(free):
                if not worker.free:  # any more, since somebody was told of an outcome below
                    continue
                batch, dropped = self._scheduler.take(self.now(), worker.models, len(free) - number)
                if batch is not None:
                    worker.submit(batch)
                # after it: who is told may offer the next item, and find the worker taken
                self._deliver(dropped)

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float) -> None:
        """The pool reports: a batch has run."""
        self._deliver(self._scheduler.done(batch, outcomes, infer_ms / 1e3, self.now()))

    def batch_lost(self, batch: Batch, cause: Cause, *, unread: bool) -> None:
        """The pool reports: a worker ended with a batch, or before it had read it."""
        now = self.now()
        if unread:
            self._deliver(self._scheduler.returned(batch, now, cause))
            for item in batch.items:  # the alarm may have gone off while it ran
                self._watch(item.deadline)
        else:
            self._deliver(self._scheduler.lost(batch, now - batch.started, now, cause))

    def worker_killed(self) -> None:
        """The pool reports: a signal that the server did not send ended a worker that had no batch."""
        self._scheduler.worker_killed(self.now())

    def _model(self, name: str) -> _Model:
        model = self._models.get(name)
        if model is None:
            raise UnknownModelError(f"no model {name!r}; there are {', '.join(self._models)}")
        return model

    def _status(self, model: _Model) -> ModelStatus:
        name = model.source.name
        state, reason = model.pool.state(name)
        versions = tuple(card.version for card in model.pool.cards(name))
        permanent = state == "unavailable" and model.pool.permanent(name)
        return ModelStatus(name, model.current, state, reason, versions, permanent)

    def _update(self, name: str, model: _Model) -> None:
        """Fit the scheduler to the versions that a pool's workers hold now; the newest is the current one."""
        held = {card.id: card for card in model.pool.cards(name)}
        for card in held.values():
            if model.known.get(card.id) != card:
                self._add_version(model, card)
        newest = model.pool.card(name)
        if held:
            model.current = newest if newest and newest.id in held else list(held.values())[-1]
        elif newest:  # the only version that a worker may bring back
            model.current = newest
        if model.current:
            self._rebind(name, model.current)
        state, _ = model.pool.state(name)
        for version in [version for version in model.known if version not in held]:
            if newest and version != newest.id:
                del model.known[version]
                reason = f"version {version.version} of model {name} is no longer served"
                outcomes = self._scheduler.abandon(version, reason, retryable=False)
                self._scheduler.remove_model(version)
                self._deliver(outcomes)
            elif state == "unavailable" and model.known[version]:  # else a worker that restarts will load it
                model.known[version] = None
                reason = f"model {name} was lost, and could not be loaded again"
                self._deliver(self._scheduler.abandon(version, reason, retryable=True))

    def _add_version(self, model: _Model, card: ModelCard) -> None:
        target = (card.latency_target_ms or math.inf) / 1e3
        self._scheduler.add_model(
            card.id,
            card.max_batch,
            target,
            min_rate=card.min_rate,
            group=model.group,
            stateful=card.stateful,
        )
        if infer_ms := model.pool.infer_ms(card.id):
            self._scheduler.expect(card.id, infer_ms / 1e3)
        model.known[card.id] = card

    def _rebind(self, name: str, current: ModelCard) -> None:
        """Bind the streams that asked for no version to the current one: the only place where a binding changes.

        A stream keeps its version if the current one takes another kind of item.
        """
        for stream, _ in list(self._streams.values()):
            follows = stream.name == name and not stream.pinned and stream.card.input == current.input
            if follows and stream.model != current.id and stream.number in self._streams:
                stream.model = current.id
                self._deliver(self._scheduler.rebind(stream.number, current.id))
        self._dispatch_soon()

    def _dispatch_soon(self) -> None:
        """Give work to free workers, once for all items that the loop has read at a time: they make batches."""
        if not self._dispatching:
            self._dispatching = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatching = False
        self.worker_free()

    def _watch(self, deadline: float | None) -> None:
        """See to it that `_expire` is called by then: items expire also while every worker is busy."""
        if deadline is None or (self._expiry and self._expires <= deadline):
            return
        if self._expiry:
            self._expiry.cancel()
        self._expires = deadline
        self._expiry = self._loop.call_later(deadline - self.now(), self._expire)

    def _expire(self) -> None:
        self._expiry = None
        dropped, deadline = self._scheduler.expire(self.now())
        self._deliver(dropped)
        self._watch(deadline)

    def _deliver(self, outcomes: Iterable[Outcome]) -> None:
        """Tell the owners, in order; an owner that causes further outcomes is told of them afterwards."""
        self._outbox.extend(outcomes)
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._outbox:
                self._deliver_one(self._outbox.popleft())
        finally:
            self._delivering = False

    def _deliver_one(self, outcome: Outcome) -> None:
        """Release an item's bytes and tell its owner; whatever that raises costs its own stream alone."""
        item = outcome.item
        stream, owner = self._streams.get(item.stream, (None, None))
        if stream is None or owner is None:  # an earlier delivery closed it
            return
        stream.settle(item.seq)
        item.release()  # an owner may keep the outcome until those before it are told
        try:
            if self.observe:
                self.observe(stream.answered_by(outcome), outcome, self.now())
            owner.deliver(outcome)
        except Exception as exc:
            log.exception("stream %d: its owner failed to take an outcome, so it is closed", item.stream)
            stream.close()
            try:
                owner.fail(exc)
            except Exception:  # an owner may raise anything, and must not disturb the others
                log.exception("stream %d: its owner failed to take its end", item.stream)


class _OneAnswer:
    """The owner of a stream of one item."""

    def __init__(self, future: asyncio.Future[Outcome]) -> None:
        self.future = future

    def deliver(self, outcome: Outcome) -> None:
        if not self.future.done():  # the caller may have been cancelled
            self.future.set_result(outcome)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
