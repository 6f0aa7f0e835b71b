"""The scheduler and the pool put together: items in, outcomes out. It knows no transport and decides nothing.

async with Engine([ModelSource.parse("mypackage.mymodule:MyModel")], workers=2) as engine:
    outcome = await engine.infer("mymodel", payload)
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

from inference.items import Batch, Item, Outcome
from inference.model import ModelCard, ModelError, ModelId, ModelSource, Policy
from inference.pool.groups import Group, resolve_groups
from inference.pool.pool import ModelState, Pool, PoolStatus, WorkerOptions
from inference.scheduling.scheduler import Scheduler
from inference.scheduling.statistics import ModelStatistics, Statistics, Tally

log = logging.getLogger(__name__)

Deliver: TypeAlias = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What is known of a model now.

    Attributes:
        card: None until a worker has loaded it.
        reason: why it is unavailable, else None.
    """

    name: str
    card: ModelCard | None
    state: ModelState
    reason: str | None


class Engine:
    """Runs models in worker processes.

    Every item offered gets exactly one outcome, by its stream's `deliver`, unless the stream is closed
    first. Outcomes come as they are done; a stream that needs its order keeps it itself.

    It belongs to the event loop it is made on.

    Args:
        sources: the models; their names are different.
        workers: how many processes; every one holds all models that are in no group.
        options: how the workers are kept.
        groups: models that have workers of their own.

    Raises:
        ModelError: two models have one name, or a group is wrong.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        workers: int,
        options: WorkerOptions | None = None,
        groups: Sequence[Group] = (),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._names = [source.name for source in sources]
        self._scheduler = Scheduler()
        self._pools: list[Pool] = []
        self._pool_of: dict[str, Pool] = {}
        self._group_of: dict[str, str] = {}
        for group in resolve_groups(sources, workers, groups):
            members = [source for source in sources if source.name in group.models]
            pool = Pool(members, group.workers, self, options or WorkerOptions())
            self._pools.append(pool)
            self._pool_of.update(dict.fromkeys(group.models, pool))
            self._group_of.update(dict.fromkeys(group.models, group.name))
            self._scheduler.add_group(group.name, group.workers)
        self._deliver: dict[int, Deliver] = {}
        self._lost: list[str] = []  # models that were ready once and no worker could load again
        self._streams = 0
        self._dispatching = False
        self._changed = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None
        self._expires = math.inf

    async def __aenter__(self) -> Self:
        self.start()
        await self.warm()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        """Start the workers. Items may be offered once their model is ready."""
        for pool in self._pools:
            pool.start()

    async def warm(self) -> None:
        """Wait until every model is ready or unavailable."""
        while any(status.state == "loading" for status in self.models()):
            self._changed.clear()
            await self._changed.wait()

    async def stop(self) -> None:
        """End the workers; whatever still waits or runs gets its outcome first."""
        self.drain()
        await asyncio.gather(*(pool.stop() for pool in self._pools))
        self.drain()  # what came meanwhile
        if self._expiry:
            self._expiry.cancel()
            self._expiry = None

    def now(self) -> float:
        """The time on the clock of items, in seconds."""
        return time.monotonic()  # a loop's own may stand still within a pass, as uvloop's does

    def renew(self) -> None:
        """Replace every worker by a new one, one after the other and each when it is idle: nothing is lost."""
        for pool in self._pools:
            pool.renew(all_workers=True)

    def models(self) -> list[ModelStatus]:
        """What is known of each model, in the order they were given."""
        return [
            ModelStatus(name, self._pool_of[name].card(name), *self._pool_of[name].state(name))
            for name in self._names
        ]

    def workers(self) -> PoolStatus:
        """How the workers are."""
        return PoolStatus.sum([pool.status() for pool in self._pools])

    def statistics(self) -> Statistics:
        """What became of every item, as it stands now."""
        return self._scheduler.statistics(self.now())

    def model_statistics(self, model: str) -> ModelStatistics:
        """What became of the items of a model that has a card."""
        return self._scheduler.model_statistics(model, self.now())

    def tally(self, stream: int) -> Tally:
        """What became of an open stream's items so far."""
        return self._scheduler.tally(stream)

    def admits(self, model: str, weight: float = 1.0) -> bool:
        """Forecast whether a model that has a card can have one more stream and keep what was promised to all."""
        return self._scheduler.admits(model, weight, self.now())

    def open(self, model: str, policy: Policy, window: int, deliver: Deliver, *, weight: float = 1.0) -> int:
        """Open a stream to a model that has a card.

        Args:
            window: for `latest` the most items running at once, for `queue` the most waiting.
            deliver: called on the loop with each item's outcome.
            weight: its share of the workers, relative to others.

        Returns:
            The stream's number, for its items.
        """
        self._streams += 1
        self._scheduler.open(self._streams, model, policy, window, weight)
        self._deliver[self._streams] = deliver
        return self._streams

    def close(self, stream: int) -> None:
        """Close a stream: nothing more is delivered to it."""
        self._scheduler.close(stream)
        del self._deliver[stream]

    def offer(self, item: Item) -> None:
        """Take an item in, and start on it with whatever else the loop has just read if a worker is free.

        Raises:
            StreamFull: a queue stream offers more than its window.
        """
        self._hand_out(self._scheduler.offer(item))
        if not self._dispatching:  # once for all items that the loop has read at a time: they make batches
            self._dispatching = True
            self._loop.call_soon(self._dispatch)
        self._watch(item.deadline)
        self._abandon()

    def drain(self) -> None:
        """Drop what waits: there is no time left to run it."""
        self._hand_out(self._scheduler.drain())

    async def infer(self, model: str, payload: bytes) -> Outcome:
        """Answer one item, for callers without a stream.

        Raises:
            ModelError: the model is not ready.
        """
        for status in self.models():
            if status.name == model and status.state == "ready":
                break
        else:
            raise ModelError(f"model {model!r} is not ready; there are {self._names}")
        done: asyncio.Future[Outcome] = self._loop.create_future()

        def deliver(outcome: Outcome) -> None:
            if not done.cancelled():  # by a caller who has not yet come to close the stream
                done.set_result(outcome)

        stream = self.open(model, "queue", 1, deliver)
        try:
            self.offer(Item(stream, 1, payload, self.now()))
            return await done
        finally:
            self.close(stream)

    def models_changed(self) -> None:
        """The pool reports: a model was loaded, or could not be."""
        self._lost = []
        for status in self.models():
            card = status.card
            if card:
                self._scheduler.add_model(
                    card.name,
                    card.max_batch,
                    (card.latency_target_ms or math.inf) / 1e3,
                    min_rate=card.min_rate,
                    group=self._group_of[card.name],
                )
                if infer_ms := self._pool_of[card.name].infer_ms(card.id):
                    self._scheduler.expect(card.name, infer_ms / 1e3)
                if status.state == "unavailable":
                    self._lost.append(status.name)
        self._abandon()
        self._changed.set()

    def worker_free(self) -> None:
        """The pool reports: a worker can take a batch."""
        if not self._scheduler.anything_waits:  # as after most batches, unless there is too much to do
            return
        for pool in self._pools:
            free = pool.free_workers()
            for number, worker in enumerate(free):
                if not worker.free:  # any more, since somebody was told of an outcome below
                    continue
                held = {model.name: model for model in worker.models}
                batch, dropped = self._scheduler.take(self.now(), held, len(free) - number)
                if batch is not None:
                    worker.submit(replace(batch, model=held[str(batch.model)]))
                # after it: who is told may offer the next item, and find the worker taken
                self._hand_out(dropped)

    def _dispatch(self) -> None:
        self._dispatching = False
        self.worker_free()

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float) -> None:
        """The pool reports: a batch has run."""
        self._hand_out(self._scheduler.done(_by_name(batch), outcomes, infer_ms / 1e3, self.now()))

    def batch_lost(self, batch: Batch, *, timed_out: bool, unread: bool) -> None:
        """The pool reports: a worker ended with a batch, or before it had read it."""
        now = self.now()
        if unread:
            self._hand_out(self._scheduler.returned(_by_name(batch)))
            for item in batch.items:  # the alarm may have gone off while it ran
                self._watch(item.deadline)
        else:
            self._hand_out(
                self._scheduler.lost(_by_name(batch), now - batch.started, now, timed_out=timed_out)
            )

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
        self._hand_out(dropped)
        self._watch(deadline)

    def _abandon(self) -> None:
        for model in self._lost:
            self._hand_out(self._scheduler.abandon(model))

    def _hand_out(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            deliver = self._deliver.get(outcome.item.stream)
            if deliver is None:  # an earlier delivery closed its stream
                continue
            try:
                deliver(outcome)
            except Exception:  # it may be anything, and must cost its own stream alone
                log.exception("stream %d: its owner failed to take an outcome", outcome.item.stream)


def _by_name(batch: Batch) -> Batch:
    """Name a batch's model as the scheduler does, which knows no versions yet."""
    name = batch.model.name if isinstance(batch.model, ModelId) else batch.model
    return replace(batch, model=name)  # type: ignore[arg-type]
