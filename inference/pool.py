"""The worker processes: a slot is a worker's place, and outlives it. It chooses no work; it runs what it is given.

One process and one socket pair per slot, on the event loop, with no helper thread, queue or pickle. The
standard library's pool fails every pending call when one worker dies, cannot end a running one and leaves
orphans; here a death costs the batch that was in that worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Literal, Protocol, TypeAlias

from inference.channel import Channel, Header
from inference.items import Batch, Failed, Item, Outcome, Result
from inference.model import ModelCard, ModelError, ModelSource
from inference.process import WorkerProcess
from inference.sandbox import Mode, missing

log = logging.getLogger(__name__)

LOAD_TIMEOUT = 60.0
"""Seconds a worker may take to load its models: reading weights takes under one, a hang takes for ever."""

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 10.0
"""Seconds before a slot that could not start tries again; doubled each time, so that it is no fork bomb."""

LOAD_DEATHS = 3
"""A model that killed its worker this often while loading is left out, so that its neighbours can start."""

STOP_GRACE = 1.0
"""Seconds an idle worker has to exit by itself when its socket closes, before it is ended."""

ModelState: TypeAlias = Literal["loading", "ready", "unavailable"]


class Owner(Protocol):
    """Who the pool reports to: the engine."""

    def models_changed(self) -> None:
        """A model was loaded, or could not be."""

    def worker_free(self) -> None:
        """A worker can take a batch."""

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float) -> None:
        """Every item of a batch has its outcome; `infer_ms` is what the worker spent on it."""


class Slot:
    """A worker's place: starts a process, gives it a batch, replaces it when it dies."""

    def __init__(self, pool: Pool, number: int) -> None:
        self._pool = pool
        self._number = number
        self._process: WorkerProcess | None = None
        self._channel: Channel | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._batch: Batch | None = None
        self._loading: str | None = None
        self._ready = False
        self._failures = 0
        self._epitaph = ""
        self.cards: dict[str, ModelCard] = {}
        self.deaths = 0

    @property
    def ready(self) -> bool:
        """Whether its worker has loaded the models and lives."""
        return self._ready

    @property
    def busy(self) -> bool:
        """Whether it has a batch."""
        return self._batch is not None

    @property
    def free(self) -> bool:
        """Whether it can take a batch now."""
        return self._ready and self._batch is None

    @property
    def pid(self) -> int | None:
        """Its process's number, None while it has none."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start a worker and tell it what to load."""
        loop = self._pool.loop
        self._epitaph = ""
        try:
            self._process = WorkerProcess(loop, self._exited)
        except OSError as exc:  # no memory, processes or files left: they may come back
            log.error("slot %d: cannot start a worker: %s", self._number, exc)
            self._restart()
            return
        self._channel = Channel(self._process.sock, loop, self._received, self._lost)
        self._channel.send(self._pool.setup())
        self._timer = loop.call_later(LOAD_TIMEOUT, self._end, f"loading took over {LOAD_TIMEOUT:.0f} s")

    def submit(self, batch: Batch) -> None:
        """Give the free worker a batch."""
        if not (self.free and self._channel):
            raise RuntimeError(f"slot {self._number} is not free")
        self._batch = batch
        payloads = [item.payload for item in batch.items]
        header: Header = {"model": batch.model, "lengths": [len(p) for p in payloads]}
        timeout = self.cards[batch.model].timeout_ms / 1000
        self._timer = self._pool.loop.call_later(timeout, self._end, "timeout")
        self._channel.send(header, payloads)

    def close(self) -> None:
        """Close the channel: an idle worker exits, a busy one after its batch."""
        self._ready = False
        self._disarm()
        if self._channel:
            self._channel.close()

    def kill(self) -> None:
        """End the process now."""
        if self._process:
            self._process.kill()

    @property
    def gone(self) -> bool:
        """Whether it has no process."""
        return self._process is None

    def _received(self, header: Header, body: memoryview) -> None:
        if self._epitaph:
            return  # it is being ended, and what it still says comes too late
        try:
            match header["type"]:
                case "answers":
                    self._answered(header, body)
                case "loading":
                    self._loading = self._pool.known(header["model"])
                case "sandbox" if not self._ready:
                    self._pool.sealed(dict(header["features"]))
                case "loaded":
                    card = ModelCard(**header["card"])
                    self.cards[card.name] = card
                    self._pool.loaded(card)
                case "failed":
                    self._pool.failed(self._pool.known(header["model"]), str(header["reason"]))
                case "ready" if not self._ready:
                    self._became_ready()
                case other:
                    raise ValueError(f"a message of type {other!r} now")
        except (KeyError, TypeError, ValueError, UnicodeDecodeError, ModelError) as exc:
            # a worker that says what a worker does not say is not one to give work to
            log.error("worker %s sent nonsense: %r", self.pid, exc)
            self._end("it sent nonsense")

    def _became_ready(self) -> None:
        self._disarm()
        self._loading = None
        self._failures = 0
        self._ready = True
        self._pool.owner.worker_free()

    def _answered(self, header: Header, body: memoryview) -> None:
        batch = self._batch
        if batch is None:
            raise ValueError("answers to no batch")
        infer_ms = float(header["infer_ms"])
        # streams are charged with it, so it must be true; both ends read the same clock
        if not 0 <= infer_ms <= (self._pool.loop.time() - batch.started) * 1e3:
            raise ValueError(f"a batch that took {infer_ms} ms")
        outcomes = list(self._outcomes(batch, header, body, infer_ms))
        self._disarm()
        self._batch = None
        self._pool.owner.batch_done(batch, outcomes, infer_ms)
        self._pool.owner.worker_free()

    def _outcomes(self, batch: Batch, header: Header, body: memoryview, infer_ms: float) -> Iterable[Outcome]:
        version = self.cards[batch.model].version
        at = 0
        for item, answer in zip(batch.items, header["items"], strict=True):
            if isinstance(answer, dict):
                yield Failed(item, str(answer["code"]), str(answer["message"]))
                continue
            if not 0 < answer <= len(body) - at:
                raise ValueError(f"an answer of {answer} bytes, and {len(body) - at} are left")
            outputs = str(body[at : at + answer], "utf-8")
            at += answer
            queue_ms = (batch.started - item.received) * 1e3
            yield Result(item, outputs, version, queue_ms, infer_ms, len(batch.items))

    def _lost(self, why: str) -> None:
        self._end(self._epitaph or why)  # it may have closed its end and live on

    def _end(self, why: str) -> None:
        self._epitaph = why
        self._ready = False  # it takes a moment to die, and work given to it then would be lost
        self.kill()

    def _exited(self, status: int) -> None:
        self.close()
        was_loading, self._loading = self._loading, None
        batch, self._batch = self._batch, None
        lost = [self._epitaph_of(item) for item in batch.items] if batch else []
        self._process = self._channel = None
        self.cards = {}
        if self._pool.stopping:
            self._pool.exited()
        else:
            self._bury(status, was_loading)
        if batch is not None:
            self._pool.owner.batch_done(batch, lost, 0.0)
            self._pool.owner.worker_free()  # another slot's, for what waited for these items

    def _bury(self, status: int, was_loading: str | None) -> None:
        self.deaths += 1
        log.warning("slot %d: worker ended (%s, exit status %d)", self._number, self._epitaph, status)
        if was_loading:
            self._pool.died_loading(was_loading, status)
        self._restart()

    def _epitaph_of(self, item: Item) -> Failed:
        if self._epitaph == "timeout":
            return Failed(item, "timeout", "the model took too long, and its worker was ended")
        return Failed(item, "worker_lost", "the worker died with this item; send it again", retryable=True)

    def _restart(self) -> None:
        self._failures += 1
        if self._failures == 1:  # it had been ready: replace it at once
            self.start()
        else:
            delay = min(FIRST_BACKOFF * 2 ** (self._failures - 2), LAST_BACKOFF)
            self._timer = self._pool.loop.call_later(delay, self.start)

    def _disarm(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


class Pool:
    """The slots of one group of models: every worker in it holds all of them.

    Args:
        sources: the models.
        workers: how many slots.
        owner: who is told about free workers and finished batches.
        sandbox: whether what a worker may do is fenced once it has loaded, and whether it must be.
        worker_memory_mb: cap on a worker's address space, models included, in MiB; 0 is none.

    Attributes:
        features: what the sandbox has here, each with "on" or what is wrong; empty until a worker has told.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        workers: int,
        owner: Owner,
        *,
        sandbox: Mode = "auto",
        worker_memory_mb: int = 0,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.owner = owner
        self.stopping = False
        self._sources = {source.name: source for source in sources}
        self.features: dict[str, str] = {}
        self._sandbox = sandbox
        self._worker_memory_mb = worker_memory_mb
        self._cards: dict[str, ModelCard] = {}
        self._reasons: dict[str, str] = {}
        self._load_deaths = dict.fromkeys(self._sources, 0)
        self._all_gone = asyncio.Event()
        self.slots = [Slot(self, number) for number in range(workers)]

    def start(self) -> None:
        """Start every slot's worker; `owner.worker_free` tells when one can work."""
        for slot in self.slots:
            slot.start()

    async def stop(self) -> None:
        """End busy workers, close every channel, end what has not exited within `STOP_GRACE`, reap all."""
        self.stopping = True
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
            await self._all_gone.wait()

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

    def card(self, model: str) -> ModelCard | None:
        """A model's card, None until a worker has loaded it; it outlives the workers."""
        return self._cards.get(model)

    def setup(self) -> Header:
        """What a new worker is to load, and within which limits."""
        loadable = [s for s in self._sources.values() if self._load_deaths[s.name] < LOAD_DEATHS]
        return {
            "models": [asdict(source) for source in loadable],
            "sandbox": self._sandbox,
            "memory_mb": self._worker_memory_mb,
        }

    def sealed(self, features: dict[str, str]) -> None:
        """A worker has closed its sandbox, as far as it could."""
        if features != self.features and missing(features):
            log.warning("the workers' sandbox is not whole: %s", missing(features))
        self.features = features

    def known(self, model: str) -> str:
        """Give a model's name back if it is one of this pool's.

        Raises:
            KeyError, TypeError: it is not.
        """
        return self._sources[model].name

    def loaded(self, card: ModelCard) -> None:
        """A worker has loaded a model."""
        self.known(card.name)
        self._cards[card.name] = card
        self._reasons.pop(card.name, None)
        self._load_deaths[card.name] = 0
        self.owner.models_changed()

    def failed(self, model: str, reason: str) -> None:
        """A worker could not load a model."""
        if model not in self._reasons:
            log.error("model %s is unavailable: %s", model, reason)
        self._reasons[model] = reason
        self.owner.models_changed()

    def died_loading(self, model: str, status: int) -> None:
        """A worker ended while it loaded a model."""
        self._load_deaths[model] += 1
        if self._load_deaths[model] >= LOAD_DEATHS:
            self.failed(model, f"its worker ended while loading it (exit status {status})")
