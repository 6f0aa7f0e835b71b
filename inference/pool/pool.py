"""The workers of one group of models: which serve, which are spare, and when one is replaced.

One process and one transport per slot, on the event loop, with no helper thread, queue or pickle. The standard
library's pool fails every pending call when one worker dies, cannot end a running one and leaves orphans; here a
death costs the batch that was in that worker, and a warm spare takes its place at once.

The pool has a generation, which each change of its models increases. A worker keeps the generation that it was
started with; one of an older generation is replaced when it is idle and others can take over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence, Set
from typing import Protocol

from inference.items import Batch, Cause, Outcome
from inference.model import ModelCard, ModelId, ModelSource
from inference.pool import replacement
from inference.pool.catalogue import LOAD_DEATHS, Catalogue
from inference.pool.clock import LoopClock
from inference.pool.launcher import Clock, Launcher, Timer
from inference.pool.options import ModelState, PoolStatus, WorkerOptions
from inference.pool.process import ProcessLauncher
from inference.pool.slot import RECYCLE_PAUSE, Slot
from inference.pool.worker import STOP_GRACE, Worker
from inference.wire.features import missing

__all__ = [
    "LOAD_DEATHS",
    "ModelState",
    "Owner",
    "Pool",
    "PoolStatus",
    "WorkerOptions",
]

log = logging.getLogger(__name__)

REAP_GRACE = 5.0
"""Seconds that a killed worker has to be gone: one that waits for a broken disk may not go for hours."""

FIRST_RETRY, LAST_RETRY = 10.0, 600.0
"""Seconds until one worker tries again to load what could not be loaded; doubled each time. It costs a start."""


class Owner(Protocol):
    """Who the pool reports to: the engine."""

    def models_changed(self) -> None:
        """A model was loaded, or could not be, or a worker that held some is gone."""

    def worker_free(self) -> None:
        """A worker can take a batch."""

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float) -> None:
        """Every item of a batch has its outcome; `infer_ms` is what the worker spent on it."""

    def batch_lost(self, batch: Batch, cause: Cause, *, unread: bool) -> None:
        """A worker ended with a batch; perhaps before it had read it."""

    def worker_killed(self) -> None:
        """A signal that the server did not send ended a worker that had no batch."""


class Pool:
    """The slots of one group of models: every worker in it holds all of them.

    Args:
        sources: the models.
        workers: how many slots serve.
        owner: who is told about free workers and finished batches.
        launcher: starts the workers; processes of this machine if omitted.
        clock: the event loop's if omitted.

    Attributes:
        slots: those that serve and the spares.
        features: what the sandbox has here, each with "on" or what is wrong; empty until a worker has told.
        generation: how often the models have been changed or renewed.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        workers: int,
        owner: Owner,
        options: WorkerOptions,
        launcher: Launcher | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock: Clock = clock or LoopClock(asyncio.get_running_loop())
        self.launcher: Launcher = launcher or ProcessLauncher(asyncio.get_running_loop())
        self.owner = owner
        self.options = options
        self.generation = 0
        self.stopping = False
        self.features: dict[str, str] = {}
        self._workers = workers
        self._models = Catalogue(sources)
        self._all_gone = asyncio.Event()
        self._retry: Timer | None = None
        self._retry_delay = FIRST_RETRY
        self._spares_wait = True
        self._slow: set[str] = set()  # models that took long, until they are loaded
        self.slots = [
            Slot(self, number, serving=number < workers) for number in range(workers + options.spares)
        ]

    def start(self) -> None:
        """Start the workers; `owner.worker_free` tells when one can work. The spares start after them."""
        for slot in self.slots:
            if slot.serving:
                slot.start()

    async def stop(self) -> None:
        """Kill busy workers, let the others exit within `STOP_GRACE`, wait until all are gone."""
        self.stopping = True
        if self._retry:
            self._retry.cancel()
        for slot in self.slots:
            slot.stop()
        self._note_gone()
        patience = self.clock.call_later(STOP_GRACE + REAP_GRACE, self._all_gone.set)
        try:
            await self._all_gone.wait()
        finally:
            patience.cancel()
        if left := [slot.worker.name for slot in self.slots if slot.worker]:
            log.error(
                "%.0f s after they were killed workers %s are still there: ps shows what they wait for",
                REAP_GRACE,
                ", ".join(left),
            )

    def _note_gone(self) -> None:
        if self.stopping and all(slot.gone for slot in self.slots):
            self._all_gone.set()

    def workers(self) -> list[Worker]:
        """All workers that have not gone, spares and those that load included."""
        return [slot.worker for slot in self.slots if slot.worker]

    def free_workers(self) -> list[Worker]:
        """Those that can take a batch now."""
        return [worker for worker in self.workers() if worker.free]

    def status(self) -> PoolStatus:
        """The workers now."""
        serving = [slot for slot in self.slots if slot.serving]
        return PoolStatus(
            slots=len(serving),
            ready=sum(slot.ready for slot in serving),
            deaths=sum(slot.deaths for slot in self.slots),
            pids=tuple(slot.pid for slot in self.slots if slot.pid is not None),
            sandbox=self.features,
            spares=sum(slot.ready for slot in self.slots if not slot.serving),
            recycled=sum(slot.recycled for slot in self.slots),
            resident_mb=sum(slot.resident_mb for slot in self.slots),
            serving=tuple(slot.pid for slot in serving if slot.ready and slot.pid is not None),
        )

    def state(self, name: str) -> tuple[ModelState, str | None]:
        """Whether a model can answer, and if not, why.

        Raises:
            KeyError: it is not one of the pool's.
        """
        self._models.sources[name]
        if self._held(name):
            return "ready", None
        if name in self._models.reasons:
            return "unavailable", self._models.reasons[name]
        return "loading", self._progress(name)

    def permanent(self, name: str) -> bool:
        """Whether a model is unavailable because its code or an option is wrong."""
        return name in self._models.permanent

    def _progress(self, name: str) -> str | None:
        """Say what a model's loading takes or waits for; None if no worker has begun to load any."""
        workers = [slot.worker for slot in self.slots if slot.loading and slot.worker]
        for worker in workers:
            if worker.loading and worker.loading.name == name:
                seconds = self.clock.now() - worker.loading_since
                return f"for {seconds:.0f} s so far, of at most {worker.load_limit} s (`load_timeout_s`)"
        others = [worker.loading.name for worker in workers if worker.loading]
        return f"its worker is loading {others[0]} now" if others else None

    def cards(self, name: str) -> list[ModelCard]:
        """The card of every version of a model that live workers hold now, oldest loaded first."""
        held = {card.id: card for slot in self.slots for card in slot.models.values() if card.name == name}
        return sorted(held.values(), key=self._models.load_order)

    def card(self, name: str) -> ModelCard | None:
        """The card of a model's newest loaded version, None until there is one; it outlives the workers."""
        return self._models.card(name)

    def infer_ms(self, model: ModelId) -> float:
        """Milliseconds that an inference of a version took when it was warmed up; 0 if that is not known."""
        return self._models.infer_ms(model)

    def add(self, source: ModelSource) -> None:
        """Serve another model: the workers are replaced one after the other to load it.

        Raises:
            ModelError: there is one of that name.
        """
        self._models.add(source)
        self._next_generation()

    def remove(self, name: str) -> None:
        """Stop serving a model: no batch of it is started from now on, and the workers are replaced.

        Raises:
            KeyError: it is not one of the pool's.
        """
        self._models.remove(name)
        for worker in self.workers():
            worker.forget(name)
        self._next_generation()

    def renew(self, *, all_workers: bool = False) -> None:
        """Replace what is stale and idle: spares at once, a worker that serves when others can take over.

        Args:
            all_workers: make every worker stale first, and try again to load what could not be loaded.
        """
        if all_workers:
            self._models.forgive()
            self._next_generation()
            return
        if self.stopping:
            return
        for slot in self.slots:
            spares = bool(self.options.spares)
            if slot.stale and slot.idle and replacement.dispensable(self.slots, slot, spares=spares):
                slot.retire()

    def _next_generation(self) -> None:
        self.generation += 1
        self.renew()

    def _held(self, name: str) -> bool:
        return any(held.name == name for slot in self.slots for held in slot.models)

    def balance(self) -> None:
        """Let warm spares serve in the place of workers that cannot."""
        replacement.balance(self.slots, self._workers)

    def setup(self, without: Set[str] = frozenset()) -> tuple[Mapping[str, ModelSource], bytes]:
        """What a new worker is to load and within which limits, and the message that tells it."""
        return self._models.setup(self.options, without)

    def still_loading(self, slot: Slot, source: ModelSource, seconds: float, limit: int) -> None:
        """A worker has been loading a model for so long. If none is ready, a spare serves the others meanwhile."""
        name = source.name
        loads = [other for other in self.slots if other.loading and other.loading.name == name]
        if loads and slot is loads[0] and not self._held(name):
            log.warning(
                "model %s has been loading for %.0f s; it may take %d s (`load_timeout_s`)",
                name,
                seconds,
                limit,
            )
        self._slow.add(name)
        spare = next((spare for spare in self.slots if not spare.serving), None)
        if spare is None or any(other.ready for other in self.slots) or self._slow >= self._models.loadable:
            return
        if spare.dormant:
            spare.without = frozenset(self._slow)
            spare.start()
        elif spare.loading and spare.loading.name in self._slow:
            spare.without = frozenset(self._slow)
            spare.retire()

    def described(self, source: ModelSource, card: ModelCard) -> ModelCard | None:
        """See `Place.described`."""
        used = self._models.described(source, card)
        if used is None:
            self._retry_later()
            self.owner.models_changed()
        return used

    def loaded(self, source: ModelSource, card: ModelCard, infer_ms: float, generation: int) -> bool:
        """A worker has loaded a model, and one inference takes so long; whether it is still one of the pool's."""
        if not self._models.loaded(source, card, infer_ms, generation):
            return False
        self._slow.discard(card.name)
        if self._models.available(card.name):
            log.warning("model %s is available", card.name)
            self._retry_delay = FIRST_RETRY
        self.owner.models_changed()
        return True

    def failed(self, source: ModelSource, reason: str, *, permanent: bool) -> None:
        """A worker could not load a model."""
        if self._models.sources.get(source.name) is source:
            self._unavailable(source.name, reason, permanent=permanent)

    def _unavailable(self, name: str, reason: str, *, permanent: bool = False) -> None:
        self._slow.discard(name)
        self._models.failed(name, reason, permanent=permanent)
        self._retry_later()
        self.owner.models_changed()

    def sealed(self, features: dict[str, str]) -> None:
        """A worker has closed its sandbox, as far as it could."""
        if features != self.features and missing(features):
            log.warning("the workers' sandbox is not whole: %.1000s", missing(features))
        self.features = features

    def became_ready(self, slot: Slot) -> None:
        """A slot's worker has loaded what it could, and can work."""
        for other in self.slots:
            lacks = not slot.names <= other.names  # a model that could not be loaded before
            if other.worker and other.ready and (lacks or self._outdated(other, slot)):
                other.worker.worn = True
        if self._spares_wait and all(slot.ready for slot in self.slots if slot.serving):
            self._spares_wait = False
            for spare in self.slots:
                if not spare.serving and spare.dormant:
                    spare.start()
        self.balance()
        self.renew()
        self.owner.worker_free()

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float) -> None:
        """A worker has answered a batch, and is not free yet."""
        self.owner.batch_done(batch, outcomes, infer_ms)

    def became_idle(self, slot: Slot) -> None:
        """A slot's worker has answered, and is free unless it is replaced now."""
        if slot.stale:
            self.renew()
        self.owner.worker_free()

    def _outdated(self, other: Slot, slot: Slot) -> bool:
        """Whether a slot's worker has loaded a newer version, as after a crash, than another one holds.

        Streams follow the newest version, so the other worker would idle. It is not replaced more often than a worn
        one: a model that has another version whenever it loads must not take up a core.
        """
        newest = {card.id for name in slot.names if (card := self._models.card(name))}
        rested = self.clock.now() - other.since >= RECYCLE_PAUSE
        return rested and bool(newest & slot.models.keys() - other.models.keys())

    def died_loading(self, source: ModelSource, status: int, late: str) -> None:
        """A worker ended while it imported or loaded a model."""
        name = source.name
        if self._models.sources.get(name) is source and self._models.died_loading(name, late=bool(late)):
            advice = f"{late}; if it needs longer, raise load_timeout_s in [models.{name}]"
            ended = f"its worker ended while loading it (exit status {status})"
            self._unavailable(name, advice if late else ended)

    def died_starting(self, times: int) -> None:
        """A slot's worker could not be started, or ended while it loaded no model, so many times in a row."""
        if times < LOAD_DEATHS:
            return
        reason = "no worker lives until it is ready; the server's log says how they ended"
        for name in list(self._models.sources):
            if not self._held(name):
                self._unavailable(name, self._models.reasons.get(name, reason))

    def slot_changed(self) -> None:
        """A worker is gone, and with it perhaps the last of some version."""
        self._models.keep({held for slot in self.slots for held in slot.models})
        self.owner.models_changed()
        self.balance()
        self._note_gone()

    def has_loaded(self, source: ModelSource | None) -> bool:
        """Whether a worker has ever loaded a model; without one, whether it has loaded any."""
        names = [source.name] if source else self._models.sources
        return any(self._models.card(name) for name in names)

    def batch_lost(self, batch: Batch, cause: Cause, *, unread: bool) -> None:
        """A worker ended with a batch."""
        self.owner.batch_lost(batch, cause, unread=unread)

    def worker_killed(self) -> None:
        """A signal that the server did not send ended a worker that had no batch."""
        self.owner.worker_killed()

    def worker_free(self) -> None:
        """A death may have made room for others."""
        self.owner.worker_free()

    def _retry_later(self) -> None:
        if self._retry is None and not self.stopping:
            self._retry = self.clock.call_later(self._retry_delay, self._try_again)
            self._retry_delay = min(2 * self._retry_delay, LAST_RETRY)

    def _try_again(self) -> None:
        """Let one worker, a spare if there is one, load what is missing; if it can, the others follow.

        None is taken from a model that it alone has.
        """
        self._retry = None
        missing_here = self._models.retryable
        lacking = [
            slot
            for slot in self.slots
            if slot.ready and not missing_here <= slot.names and replacement.held_elsewhere(self.slots, slot)
        ]
        if lacking:
            self._models.one_more_try()
            worker = min(lacking, key=lambda slot: slot.serving).worker
            if worker:
                worker.worn = True
            self.renew()
        elif missing_here:
            self._retry_later()
