"""The scheduler and the pool put together: items in, outcomes out. It knows no transport and decides nothing.

async with Engine([ModelSource.parse("mypackage.mymodule:MyModel")], workers=2) as engine:
    outcome = await engine.infer("mymodel", payload)
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from inference.items import Batch, Item, Outcome
from inference.model import ModelCard, ModelError, ModelSource, Policy
from inference.pool import ModelState, Pool
from inference.sandbox import Mode
from inference.scheduler import Scheduler, Statistics, Tally

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


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The workers now: how many slots, how many can work, how many deaths so far, and their processes.

    Attributes:
        sandbox: its features, each with "on" or what is wrong; empty when it is off or no worker has told.
    """

    slots: int
    ready: int
    deaths: int
    pids: tuple[int, ...]
    sandbox: Mapping[str, str] = field(default_factory=dict)


class Engine:
    """Runs models in worker processes.

    Every item offered gets exactly one outcome, by its stream's `deliver`, unless the stream is closed
    first. Outcomes come as they are done; a stream that needs its order keeps it itself.

    It belongs to the event loop it is made on.

    Args:
        sources: the models; their names are different.
        workers: how many processes; every one holds all models.
        sandbox, worker_memory_mb: as the pool takes them.

    Raises:
        ModelError: two models have one name.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        workers: int,
        *,
        sandbox: Mode = "auto",
        worker_memory_mb: int = 0,
    ) -> None:
        names = [source.name for source in sources]
        if len(set(names)) < len(names):
            raise ModelError(f"two models have the same name; give one another with name=... ({names})")
        self._names = names
        self._loop = asyncio.get_running_loop()
        self._pool = Pool(sources, workers, self, sandbox=sandbox, worker_memory_mb=worker_memory_mb)
        self._scheduler = Scheduler()
        self._deliver: dict[int, Deliver] = {}
        self._lost: list[str] = []  # models that were ready once and no worker could load again
        self._streams = 0
        self._changed = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self.start()
        await self.warm()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        """Start the workers. Items may be offered once their model is ready."""
        self._pool.start()

    async def warm(self) -> None:
        """Wait until every model is ready or unavailable."""
        while any(status.state == "loading" for status in self.models()):
            self._changed.clear()
            await self._changed.wait()

    async def stop(self) -> None:
        """End the workers; whatever still waits or runs gets its outcome first."""
        self.drain()
        if self._expiry:
            self._expiry.cancel()
        await self._pool.stop()
        self.drain()  # what came meanwhile

    def now(self) -> float:
        """The time on the clock of items, in seconds."""
        return self._loop.time()

    def models(self) -> list[ModelStatus]:
        """What is known of each model, in the order they were given."""
        return [ModelStatus(name, self._pool.card(name), *self._pool.state(name)) for name in self._names]

    def workers(self) -> PoolStatus:
        """How the workers are."""
        slots = self._pool.slots
        return PoolStatus(
            len(slots),
            sum(slot.ready for slot in slots),
            sum(slot.deaths for slot in slots),
            tuple(slot.pid for slot in slots if slot.pid is not None),
            self._pool.features,
        )

    def statistics(self) -> Statistics:
        """What became of every item, as it stands now."""
        return self._scheduler.statistics(self.now())

    def tally(self, stream: int) -> Tally:
        """What became of an open stream's items so far."""
        return self._scheduler.tally(stream)

    def open(self, model: str, policy: Policy, window: int, deliver: Deliver) -> int:
        """Open a stream to a model that has a card.

        Args:
            window: for `latest` the most items running at once, for `queue` the most waiting.
            deliver: called on the loop with each item's outcome.

        Returns:
            The stream's number, for its items.
        """
        self._streams += 1
        self._scheduler.open(self._streams, model, policy, window)
        self._deliver[self._streams] = deliver
        return self._streams

    def close(self, stream: int) -> None:
        """Close a stream: nothing more is delivered to it."""
        self._scheduler.close(stream)
        del self._deliver[stream]

    def offer(self, item: Item) -> None:
        """Take an item in and start on it if a worker is free.

        Raises:
            StreamFull: a queue stream offers more than its window.
        """
        self._hand_out(self._scheduler.offer(item))
        self.worker_free()
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
            if status.card:
                target = (status.card.latency_target_ms or math.inf) / 1e3
                self._scheduler.add_model(status.name, status.card.max_batch, target)
                if status.state == "unavailable":
                    self._lost.append(status.name)
        self._abandon()
        self._changed.set()

    def worker_free(self) -> None:
        """The pool reports: a worker can take a batch."""
        for slot in self._pool.slots:
            if not slot.free:
                continue
            batch, dropped = self._scheduler.take(self.now(), slot.cards)
            if batch is not None:
                slot.submit(batch)
            self._hand_out(dropped)  # after it: who is told may offer the next item, and find the slot taken

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float) -> None:
        """The pool reports: a batch has run, or died with its worker."""
        cost = infer_ms / 1e3 or self.now() - batch.started
        self._hand_out(self._scheduler.done(batch, outcomes, cost, self.now()))

    def _watch(self, deadline: float | None) -> None:
        """See to it that `_expire` is called by then: items expire also while every worker is busy."""
        if deadline is None or (self._expiry and self._expiry.when() <= deadline):
            return
        if self._expiry:
            self._expiry.cancel()
        self._expiry = self._loop.call_at(deadline, self._expire)

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
