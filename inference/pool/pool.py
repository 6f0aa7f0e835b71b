"""The worker processes of one group of models: which serve, which are spare, and when one is replaced.

One process and one socket pair per slot, on the event loop, with no helper thread, queue or pickle. The
standard library's pool fails every pending call when one worker dies, cannot end a running one and leaves
orphans; here a death costs the batch that was in that worker, and a warm spare takes its place at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol, TypeAlias

from inference.items import Batch, Outcome
from inference.model import ModelCard, ModelId, ModelSource
from inference.pool.slot import STOP_GRACE, Slot
from inference.wire.channel import Header
from inference.wire.features import Mode, missing, worst

log = logging.getLogger(__name__)

LOAD_DEATHS = 3
"""A model that killed its worker this often while loading is left out, so that its neighbours can start."""

REAP_GRACE = 5.0
"""Seconds that a killed worker has to be gone: one that waits for a broken disk may not go for hours."""

FIRST_RETRY, LAST_RETRY = 10.0, 600.0
"""Seconds until one worker tries again to load what could not be loaded; doubled each time. It costs a start."""

ModelState: TypeAlias = Literal["loading", "ready", "unavailable"]


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How workers are kept.

    Attributes:
        sandbox: whether what a worker may do is fenced once it has loaded, and whether it must be.
        memory_mb: cap on a worker's address space, models included, in MiB; 0 is none.
        spares: workers, of each group, that are ready and get no work, until one that has some is lost or they
            alone hold a model.
        recycle_mb: a worker is replaced, between batches, when its resident memory has grown by so many MiB
            since it was ready; 0 is never.
        recycle_batches: a worker is replaced after so many batches; 0 is never.
    """

    sandbox: Mode = "auto"
    memory_mb: int = 0
    spares: int = 0
    recycle_mb: int = 0
    recycle_batches: int = 0


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The workers now.

    Attributes:
        slots: places of workers that get work.
        ready: of these, those that can work.
        deaths, recycled: workers that ended unasked, and those that were replaced, since the start.
        serving: the processes of those that can work.
        pids: all processes, spares and those that load included.
        sandbox: its features, each with "on" or what is wrong with it in some group; empty when it is off or no
            worker has told.
        spares: workers that are ready to take a lost one's place.
        resident_mb: resident memory of all of them together, in MiB.
    """

    slots: int
    ready: int
    deaths: int
    pids: tuple[int, ...]
    sandbox: Mapping[str, str] = field(default_factory=dict)
    spares: int = 0
    recycled: int = 0
    resident_mb: int = 0
    serving: tuple[int, ...] = ()

    @classmethod
    def sum(cls, pools: Sequence[PoolStatus]) -> PoolStatus:
        """The workers of several pools together."""
        return cls(
            slots=sum(pool.slots for pool in pools),
            ready=sum(pool.ready for pool in pools),
            deaths=sum(pool.deaths for pool in pools),
            pids=tuple(pid for pool in pools for pid in pool.pids),
            sandbox=worst(pool.sandbox for pool in pools),
            spares=sum(pool.spares for pool in pools),
            recycled=sum(pool.recycled for pool in pools),
            resident_mb=sum(pool.resident_mb for pool in pools),
            serving=tuple(pid for pool in pools for pid in pool.serving),
        )


class Owner(Protocol):
    """Who the pool reports to: the engine."""

    def models_changed(self) -> None:
        """A model was loaded, or could not be."""

    def worker_free(self) -> None:
        """A worker can take a batch."""

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float) -> None:
        """Every item of a batch has its outcome; `infer_ms` is what the worker spent on it."""

    def batch_lost(self, batch: Batch, *, timed_out: bool, unread: bool) -> None:
        """A worker ended with a batch, was ended because that took too long, or before it had read it."""


class Pool:
    """The slots of one group of models: every worker in it holds all of them.

    Args:
        sources: the models.
        workers: how many slots serve.
        owner: who is told about free workers and finished batches.

    Attributes:
        slots: those that serve and the spares.
        features: what the sandbox has here, each with "on" or what is wrong; empty until a worker has told.
    """

    def __init__(
        self, sources: Sequence[ModelSource], workers: int, owner: Owner, options: WorkerOptions
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.owner = owner
        self.options = options
        self.stopping = False
        self._workers = workers
        self._sources = {source.name: source for source in sources}
        self.features: dict[str, str] = {}
        self._cards: dict[str, ModelCard] = {}
        self._infer_ms: dict[str, float] = {}
        self._loaded_order: dict[ModelId, int] = {}
        self._reasons: dict[str, str] = {}
        self._load_deaths = dict.fromkeys(self._sources, 0)
        self._all_gone = asyncio.Event()
        self._retry: asyncio.TimerHandle | None = None
        self._retry_delay = FIRST_RETRY
        self._spares_wait = True
        self.slots = [
            Slot(self, number, serving=number < workers) for number in range(workers + options.spares)
        ]

    def start(self) -> None:
        """Start the workers; `owner.worker_free` tells when one can work. The spares follow, out of their way."""
        for slot in self.slots:
            if slot.serving:
                slot.start()

    async def stop(self) -> None:
        """End busy workers, close every channel, end what has not exited within `STOP_GRACE`, reap all."""
        self.stopping = True
        if self._retry:
            self._retry.cancel()
        for slot in self.slots:
            if slot.busy:
                slot.kill()
            slot.close()
        self.exited()
        try:
            async with asyncio.timeout(STOP_GRACE):
                await self._all_gone.wait()
        except TimeoutError:
            for slot in self.slots:
                slot.kill()
            await self._reap()

    async def _reap(self) -> None:
        try:
            async with asyncio.timeout(REAP_GRACE):
                await self._all_gone.wait()
        except TimeoutError:
            left = [slot.pid for slot in self.slots if not slot.gone]
            log.error(
                "%.0f s after SIGKILL workers %s are still there: ps shows what they wait for",
                REAP_GRACE,
                left,
            )

    def exited(self) -> None:
        """A worker ended while the pool stops."""
        if all(slot.gone for slot in self.slots):
            self._all_gone.set()

    def state(self, model: str) -> tuple[ModelState, str | None]:
        """Whether a model can answer, and if not, why."""
        if any(model in slot.cards for slot in self.slots):
            return "ready", None
        if model in self._reasons:
            return "unavailable", self._reasons[model]
        return "loading", None

    def cards(self, model: str) -> list[ModelCard]:
        """The card of every version that live workers hold, oldest loaded first."""
        held = {card for slot in self.slots for card in slot.cards.values() if card.name == model}
        return sorted(held, key=lambda card: self._loaded_order.get(card.id, 0))

    def free_workers(self) -> list[Slot]:
        """Those that can take a batch now."""
        return [slot for slot in self.slots if slot.free]

    def status(self) -> PoolStatus:
        """The workers now."""
        slots = self.slots
        serving = [slot for slot in slots if slot.serving]
        return PoolStatus(
            slots=len(serving),
            ready=sum(slot.ready for slot in serving),
            deaths=sum(slot.deaths for slot in slots),
            pids=tuple(slot.pid for slot in slots if slot.pid is not None),
            sandbox=self.features,
            spares=sum(slot.ready for slot in slots if not slot.serving),
            recycled=sum(slot.recycled for slot in slots),
            resident_mb=sum(slot.resident_mb for slot in slots),
            serving=tuple(slot.pid for slot in serving if slot.ready and slot.pid is not None),
        )

    def card(self, model: str) -> ModelCard | None:
        """A model's card, None until a worker has loaded it; it outlives the workers."""
        return self._cards.get(model)

    def infer_ms(self, model: ModelId) -> float:
        """Milliseconds that an inference of a loaded model took when it was warmed up; 0 if that is not known."""
        return self._infer_ms[model.name]

    def renew(self, *, all_workers: bool = False) -> None:
        """Replace what is stale and idle: spares at once, a worker that serves when a spare can take its place.

        Without spares it is one at a time, while all the others can work and hold what it holds. Where each has a
        model that others lack, it is the youngest one: what it has loaded last will most likely load again.

        Args:
            all_workers: make every worker stale first, and try again to load what could not be loaded.
        """
        if all_workers:
            self._load_deaths = dict.fromkeys(self._sources, 0)
            for slot in self.slots:
                slot.stale = not slot.gone
        for slot in self.slots:
            if slot.stale and slot.idle and self._dispensable(slot):
                slot.retire()

    def _dispensable(self, slot: Slot) -> bool:
        """Whether a worker may be replaced now; if it serves and a spare can, that one does from now on."""
        if not slot.serving or self._relieve(slot):
            return True
        others = [other for other in self.slots if other is not slot]
        if not all(other.ready for other in others):
            return False
        if all(other.holds(slot) for other in others):
            return not self.options.spares  # else one of them will be here as soon as it is renewed itself
        fewest = not any(slot.holds(other) and not other.holds(slot) for other in others)
        return fewest and all(slot.since > other.since for other in others)

    def balance(self) -> None:
        """Let warm spares serve in the place of workers that cannot, and beside them what only a spare holds.

        A model that only spares hold would be ready and never answer. With the spare there is a worker more than
        there should be, until others hold all that one of them has: that one is a spare then.
        """
        for slot in self.slots:
            if slot.serving and not slot.ready and not self._relieve(slot, stale=True):
                break
        for slot in self.slots:
            if slot.ready and not slot.serving and not self._elsewhere(slot, serving=True):
                slot.serving = True
        for slot in self.slots:
            if sum(other.serving for other in self.slots) <= self._workers:
                break
            if slot.serving and (not slot.ready or self._elsewhere(slot, serving=True)):
                slot.serving = False

    def _elsewhere(self, slot: Slot, *, serving: bool = False) -> bool:
        """Whether other workers, or those that serve, together hold every model that a slot's worker has."""
        others = (o for o in self.slots if o is not slot and o.ready and (o.serving or not serving))
        return slot.cards.keys() <= {model for other in others for model in other.cards}

    def _relieve(self, slot: Slot, *, stale: bool = False) -> bool:
        """Let a spare serve in a slot's place; whether there is one."""
        for spare in self.slots:
            if spare.ready and not spare.serving and (stale or (not spare.stale and spare.holds(slot))):
                spare.serving, slot.serving = True, False
                return True
        return False

    def became_ready(self, slot: Slot) -> None:
        """A slot's worker has loaded what it could, and can work."""
        for other in self.slots:
            if other.ready and not slot.cards.keys() <= other.cards.keys():
                other.stale = True  # it lacks a model that could not be loaded before
        if self._spares_wait and all(slot.ready for slot in self.slots if slot.serving):
            self._spares_wait = False
            for spare in self.slots:
                if not spare.serving:
                    spare.start()
        self.balance()
        self.renew()
        self.owner.worker_free()

    def setup(self) -> Header:
        """What a new worker is to load, and within which limits."""
        loadable = [s for s in self._sources.values() if self._load_deaths[s.name] < LOAD_DEATHS]
        return {
            "models": [asdict(source) for source in loadable],
            "sandbox": self.options.sandbox,
            "memory_mb": self.options.memory_mb,
        }

    def sealed(self, features: dict[str, str]) -> None:
        """A worker has closed its sandbox, as far as it could."""
        if features != self.features and missing(features):
            log.warning("the workers' sandbox is not whole: %.1000s", missing(features))
        self.features = features

    def known(self, model: str) -> str:
        """Give a model's name back if it is one of this pool's.

        Raises:
            KeyError, TypeError: it is not.
        """
        return self._sources[model].name

    def loaded(self, card: ModelCard, infer_ms: float) -> None:
        """A worker has loaded a model, and one inference takes so long."""
        self.known(card.name)
        self._cards[card.name] = card
        self._loaded_order[card.id] = max(self._loaded_order.values(), default=0) + 1
        self._infer_ms[card.name] = infer_ms
        self._load_deaths[card.name] = 0
        if self._reasons.pop(card.name, None):
            log.warning("model %s is available", card.name)
            self._retry_delay = FIRST_RETRY
        self.owner.models_changed()

    def failed(self, model: str, reason: str) -> None:
        """A worker could not load a model."""
        if model not in self._reasons:
            log.error("model %s is unavailable: %s", model, reason)
        self._reasons[model] = reason
        self._retry_later()
        self.owner.models_changed()

    def died_loading(self, model: str, status: int) -> None:
        """A worker ended while it loaded a model."""
        self._load_deaths[model] += 1
        if self._load_deaths[model] >= LOAD_DEATHS:
            self.failed(model, f"its worker ended while loading it (exit status {status})")

    def died_starting(self, times: int) -> None:
        """A slot's worker could not be started, or ended while it loaded no model, so many times in a row."""
        if times < LOAD_DEATHS:
            return
        reason = "no worker lives until it is ready; the server's log says how they ended"
        for model in self._sources:
            if not any(model in slot.cards for slot in self.slots):
                self.failed(model, self._reasons.get(model, reason))

    def _retry_later(self) -> None:
        if self._retry is None:
            self._retry = self.loop.call_later(self._retry_delay, self._try_again)
            self._retry_delay = min(2 * self._retry_delay, LAST_RETRY)

    def _try_again(self) -> None:
        """Let one worker, a spare if there is one, load what is missing; if it can, the others follow.

        None is taken from a model that it alone has.
        """
        self._retry = None
        lacking = [
            slot
            for slot in self.slots
            if slot.ready and not self._reasons.keys() <= slot.cards.keys() and self._elsewhere(slot)
        ]
        if lacking:
            for model in self._reasons:  # a single death then leaves it out again
                self._load_deaths[model] = min(self._load_deaths[model], LOAD_DEATHS - 1)
            min(lacking, key=lambda slot: slot.serving).stale = True
            self.renew()
        elif self._reasons:
            self._retry_later()
