"""A worker's place in the pool, which outlives it: it starts one, replaces it when it ends, and backs off.

It chooses no work, and not when a worker is replaced that still lives; the pool does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from typing import Protocol

from inference.items import Batch, Cause, Failed, Outcome
from inference.model import ModelCard, ModelId, ModelSource
from inference.pool.launcher import Clock, Launcher, LaunchError, Timer
from inference.pool.options import WorkerOptions
from inference.pool.states import LOADS, State
from inference.pool.worker import Worker
from inference.token_bucket import TokenBucket

log = logging.getLogger(__name__)

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 10.0
"""Seconds before a slot that could not start tries again; doubled each time, so that forks stay rare."""

RESTARTS, RESTART_EVERY = 5, 1.0
"""A worker that was ready is replaced at once, so many times in a row, and then once in so many seconds: one that
dies whenever it is ready must not take up a core. These pauses do not grow: it had loaded, so there is hope. The
same holds for one that was killed from outside while it loaded what has loaded before."""

KILLED = (Cause.OUTSIDE, Cause.UNKNOWN)
"""Ends by a signal that the server did not send: no evidence against a model that has ever loaded."""

MAX_KILLS = 6
"""Workers of a slot in a row that were killed before they were ready, perhaps for want of memory, until that counts
against what they loaded: else a model that has grown too large would keep its neighbours from loading for ever."""

RECYCLE_PAUSE = 10.0
"""Seconds a worker serves before it may be worn: much memory at once is not a leak, and a start is expensive."""


class SlotOwner(Protocol):
    """Who a slot reports to: the pool."""

    clock: Clock
    launcher: Launcher
    options: WorkerOptions
    generation: int
    stopping: bool

    def setup(self, without: Set[str]) -> tuple[Mapping[str, ModelSource], bytes]:
        """What a new worker is to load, and the message that tells it; models left out by name."""

    def described(self, source: ModelSource, card: ModelCard) -> ModelCard | None:
        """See `Place`."""

    def still_loading(self, slot: Slot, source: ModelSource, seconds: float, limit: int) -> None:
        """See `Place`."""

    def failed(self, source: ModelSource, reason: str, *, permanent: bool) -> None:
        """See `Place`."""

    def sealed(self, features: dict[str, str]) -> None:
        """See `Place`."""

    def loaded(self, source: ModelSource, card: ModelCard, infer_ms: float, generation: int) -> bool:
        """See `Place`; `generation` is the worker's."""

    def became_ready(self, slot: Slot) -> None:
        """A slot's worker has loaded what it could, and can work."""

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float) -> None:
        """See `Place`."""

    def became_idle(self, slot: Slot) -> None:
        """A slot's worker is free again; it may be stale."""

    def died_loading(self, source: ModelSource, status: int, late: str) -> None:
        """A worker ended while it imported or loaded a model; `late` says if that took too long, else empty."""

    def died_starting(self, times: int) -> None:
        """A worker could not be started, or ended while it loaded no model, so many times in a row."""

    def slot_changed(self) -> None:
        """A worker is gone, and with it perhaps the last of some version."""

    def has_loaded(self, source: ModelSource | None) -> bool:
        """Whether a model, or without one any, has ever been loaded."""

    def worker_killed(self) -> None:
        """A signal that the server did not send ended a worker that had no batch."""

    def batch_lost(self, batch: Batch, cause: Cause, *, unread: bool) -> None:
        """A worker ended with a batch."""

    def worker_free(self) -> None:
        """Another worker may take what a death held back."""


class Slot:
    """One worker at a time.

    Attributes:
        number: for logs.
        serving: whether its worker gets work; the others are warm spares.
        worker: the one that it has now, None while it has none.
        without: names of models that its next worker is not to load.
        deaths, recycled: workers that ended unasked, and those that were replaced.
    """

    def __init__(self, pool: SlotOwner, number: int, *, serving: bool) -> None:
        self._pool = pool
        self._restart: Timer | None = None
        self._restarts = TokenBucket(1 / RESTART_EVERY, RESTARTS, pool.clock.now())
        self._backoff = FIRST_BACKOFF
        self._kills = 0  # workers in a row that were never ready, and whose end has an unknown cause
        self._unexplained = 0  # workers in a row that were never ready, and ended while they loaded no model
        self._retiring = False
        self.number = number
        self.serving = serving
        self.worker: Worker | None = None
        self.without: Set[str] = frozenset()
        self.deaths = self.recycled = 0

    @property
    def gone(self) -> bool:
        """Whether it has no worker."""
        return self.worker is None

    @property
    def dormant(self) -> bool:
        """Whether it has no worker, and will not start one by itself."""
        return self.worker is None and self._restart is None

    @property
    def loading(self) -> ModelSource | None:
        """The model that its worker imports or loads now."""
        return self.worker.loading if self.worker and self.worker.state in LOADS else None

    @property
    def ready(self) -> bool:
        """Whether its worker has loaded its models, and lives."""
        return self.worker is not None and self.worker.ready

    @property
    def idle(self) -> bool:
        """Whether its worker is ready and has nothing to do."""
        return self.worker is not None and self.worker.idle

    @property
    def busy(self) -> bool:
        """Whether its worker has a batch."""
        return self.worker is not None and self.worker.busy

    @property
    def free(self) -> bool:
        """Whether its worker can take a batch now."""
        return self.worker is not None and self.worker.free

    @property
    def pid(self) -> int | None:
        """Its worker's process number, None if there is none on this machine."""
        return self.worker.pid if self.worker else None

    @property
    def stale(self) -> bool:
        """Whether its worker is to be replaced when that costs nothing."""
        return self.worker is not None and (
            self.worker.worn or self.worker.generation < self._pool.generation
        )

    @property
    def since(self) -> float:
        """When its worker became ready; 0 if it has not."""
        return (self.worker.was_ready or 0.0) if self.worker else 0.0

    @property
    def resident_mb(self) -> int:
        """Its worker's resident memory in MiB, as last reported."""
        return self.worker.resident_mb if self.worker else 0

    @property
    def models(self) -> Mapping[ModelId, ModelCard]:
        """The versions that its worker has loaded."""
        return self.worker.models if self.worker else {}

    @property
    def names(self) -> set[str]:
        """The models that its worker has loaded, in whichever version."""
        return {held.name for held in self.models}

    def holds(self, other: Slot) -> bool:
        """Whether its worker has every model that another's has: new code may not load."""
        return other.names <= self.names

    def start(self) -> None:
        """Start a worker and tell it what to load."""
        self._restart = None
        without, self.without = self.without, frozenset()
        sources, setup = self._pool.setup(without)
        worker = Worker(self, self._pool.clock, sources, self._pool.generation)
        self.worker = worker
        try:
            worker.start(self._pool.launcher, setup)
        except LaunchError as exc:  # what is lacking may come back
            self.worker = None
            log.error("slot %d: cannot start a worker: %s", self.number, exc)
            self._unexplained += 1
            self._pool.died_starting(self._unexplained)
            self._restart_later()

    def retire(self) -> None:
        """Replace its worker, which is idle or loads, by a new one."""
        if self.worker:
            log.info("slot %d: worker %s is replaced", self.number, self.worker.name)
            self.worker.stop()
            self.recycled += 1
            self._retiring = True

    def stop(self) -> None:
        """End its worker, a busy one at once, and start no other."""
        if self._restart:
            self._restart.cancel()
            self._restart = None
        if self.worker is None or self.worker.state in (State.STOPPING, State.KILLED):
            return
        if self.worker.busy:
            self.worker.kill()
        else:
            self.worker.stop()

    def described(self, source: ModelSource, card: ModelCard) -> ModelCard | None:
        """See `Place`."""
        return self._pool.described(source, card)

    def still_loading(self, source: ModelSource, seconds: float, limit: int) -> None:
        """See `Place`."""
        self._pool.still_loading(self, source, seconds, limit)

    def failed(self, source: ModelSource, reason: str, *, permanent: bool) -> None:
        """See `Place`."""
        self._pool.failed(source, reason, permanent=permanent)

    def sealed(self, features: dict[str, str]) -> None:
        """See `Place`."""
        self._pool.sealed(features)

    def loaded(self, worker: Worker, source: ModelSource, card: ModelCard, infer_ms: float) -> bool:
        """See `Place`."""
        return self._pool.loaded(source, card, infer_ms, worker.generation)

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float) -> None:
        """See `Place`."""
        self._pool.batch_done(batch, outcomes, infer_ms)

    def became_ready(self) -> None:
        """See `Place`."""
        self._backoff = FIRST_BACKOFF
        self._kills = self._unexplained = 0
        self._pool.became_ready(self)

    def idle_again(self, outcomes: Sequence[Outcome]) -> None:
        """See `Place`."""
        if self.worker and self._wears_out(self.worker, outcomes):
            self.worker.worn = True
        self._pool.became_idle(self)

    def _wears_out(self, worker: Worker, outcomes: Sequence[Outcome]) -> bool:
        options = self._pool.options
        if self._pool.clock.now() - self.since < RECYCLE_PAUSE:
            return False
        return (
            0 < options.recycle_mb < worker.resident_mb - worker.resident_mb_before
            or 0 < options.recycle_batches <= worker.batches
            # whatever it could not free then may stand in the way of the next items
            or any(isinstance(o, Failed) and o.code == "out_of_memory" for o in outcomes)
        )

    def worker_exited(self, status: int) -> None:
        """See `Place`."""
        worker = self.worker
        assert worker is not None  # it reports its exit once
        batch = worker.take_batch()
        try:
            self._replace(worker, status)
        finally:  # whatever fails before: nobody else knows of the batch
            if batch is not None:
                self._pool.batch_lost(batch, worker.cause, unread=worker.unread)
            elif worker.cause in KILLED:
                self._pool.worker_killed()
        self._pool.worker_free()

    def _replace(self, worker: Worker, status: int) -> None:
        """Have another worker in the place of the one that is gone."""
        retired, self._retiring = self._retiring, False
        self.worker = None
        if not self._pool.stopping:
            if retired:
                self.start()
            else:
                self._on_crash(worker, status)
        self._pool.slot_changed()

    def _on_crash(self, worker: Worker, status: int) -> None:
        self.deaths += 1
        why = worker.exit_reason or "by itself"
        log.warning("slot %d: worker ended (%s, exit status %d)", self.number, why, status)
        innocent = worker.cause in KILLED and self._pool.has_loaded(worker.loading)
        if worker.was_ready is not None or (innocent and worker.cause is Cause.OUTSIDE):
            self._restart_soon()
            return
        self._kills += 1
        if not innocent or self._kills >= MAX_KILLS:
            self._report(worker, status)
        self._restart_later()

    def _report(self, worker: Worker, status: int) -> None:
        """Tell the pool what a worker did that never was ready."""
        if worker.loading:
            self._unexplained = 0
            late = worker.exit_reason if worker.timed_out else ""
            self._pool.died_loading(worker.loading, status, late)
        else:
            self._unexplained += 1
            self._pool.died_starting(self._unexplained)

    def _restart_soon(self) -> None:
        now = self._pool.clock.now()
        self._restarts.spend(1, now)
        if (delay := self._restarts.delay(now)) > 0:
            self._restart = self._pool.clock.call_later(delay, self.start)
        else:
            self.start()

    def _restart_later(self) -> None:
        delay = min(self._backoff, LAST_BACKOFF)
        self._restart = self._pool.clock.call_later(delay, self.start)
        self._backoff = min(2 * self._backoff, LAST_BACKOFF)
