"""A worker's place in the pool, which outlives it: it starts a process, gives it batches, replaces it when it ends.

It chooses no work, and not when a worker is replaced that still lives; the pool does.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from inference.items import RESERVED, Batch, Failed, Outcome, Result
from inference.model import ModelCard, ModelError, ModelId
from inference.pool.process import WorkerProcess
from inference.wire.channel import Channel, Header

if TYPE_CHECKING:
    from inference.pool.pool import Pool

log = logging.getLogger(__name__)

LOAD_TIMEOUT = 60.0
"""Seconds a worker may take to load its models: reading weights takes under one, a hang takes for ever."""

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 10.0
"""Seconds before a slot that could not start tries again; doubled each time, so that it is no fork bomb."""

RESTARTS, RESTART_EVERY = 5, 1.0
"""A worker that was ready is replaced at once, so many times in a row, and then once in so many seconds: one that
dies whenever it is ready must not take up a core. These pauses do not grow: it had loaded, so there is hope."""

STOP_GRACE = 1.0
"""Seconds an idle worker has to exit by itself when its socket closes, before it is ended."""

RECYCLE_PAUSE = 10.0
"""Seconds a worker serves before it may be worn: what needs much memory at once is no leak, and a start costs."""

DUMP_GRACE = 0.1
"""Seconds that a worker has to write where it hangs, and in which its answer still counts."""

TIMEOUT = "a batch took too long"

CODE = re.compile(r"[a-z][a-z_]{0,63}")
"""An item's error code: it becomes a label of a metric, and programs compare it."""

MOST_MB = 1 << 28
"""MiB that a process can have at most: x86-64 and arm64 have addresses of 48 bits."""

MAX_REASON = 1000
"""Characters of what a worker says of a model that does not load: clients read it, and so does the log."""


class Slot:
    """One worker at a time.

    Attributes:
        serving: whether its worker gets work; the others are warm spares.
        stale: its worker is to be replaced, as soon as that costs nobody anything.
        cards: what its worker has loaded.
        deaths, recycled: workers that ended unasked, and those that were replaced.
        resident_mb: its worker's resident memory in MiB, as last told.
        since: when its worker was ready, in seconds of a monotonic clock; 0 if it has not been.
    """

    def __init__(self, pool: Pool, number: int, *, serving: bool) -> None:
        self._pool = pool
        self._number = number
        self._process: WorkerProcess | None = None
        self._channel: Channel | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._batch: Batch | None = None
        self._loading: str | None = None
        self._ready = False
        self._ended = False
        self._retiring = False
        self._backoff = FIRST_BACKOFF
        self._unexplained = 0  # workers in a row that were never ready, and ended while they loaded no model
        self._paid_until = 0.0  # when the restarts so far would be over at one in `RESTART_EVERY`
        self._epitaph = ""
        self._resident_before = 0  # when its worker was ready
        self._batches = 0
        self.serving = serving
        self.stale = False
        self.cards: dict[str, ModelCard] = {}
        self.deaths = self.recycled = self.resident_mb = 0
        self.since = 0.0

    @property
    def ready(self) -> bool:
        """Whether its worker has loaded the models and lives."""
        return self._ready and not self._ended

    @property
    def busy(self) -> bool:
        """Whether it has a batch."""
        return self._batch is not None

    @property
    def free(self) -> bool:
        """Whether it can take a batch now."""
        return self.idle and self.serving

    @property
    def idle(self) -> bool:
        """Whether its worker lives and has nothing to do."""
        return self.ready and self._batch is None

    def holds(self, other: Slot) -> bool:
        """Whether its worker has every model that another's has: new code may not load."""
        return other.cards.keys() <= self.cards.keys()

    @property
    def pid(self) -> int | None:
        """Its process's number, None while it has none."""
        return self._process.pid if self._process else None

    @property
    def models(self) -> set[ModelId]:
        """The versions that its worker holds."""
        return {card.id for card in self.cards.values()}

    def start(self) -> None:
        """Start a worker and tell it what to load."""
        loop = self._pool.loop
        self._epitaph = ""
        self.since = 0.0
        self._ended = self.stale = False
        try:
            self._process = WorkerProcess(loop, self._exited)
        except (
            OSError,
            RuntimeError,
        ) as exc:  # no memory, processes, threads or files left: they may come back
            log.error("slot %d: cannot start a worker: %s", self._number, exc)
            self._unexplained += 1
            self._pool.died_starting(self._unexplained)
            self._restart_later()
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
        header: Header = {"model": batch.model.name, "lengths": [len(p) for p in payloads]}
        timeout = self.cards[batch.model.name].timeout_ms / 1000
        self._timer = self._pool.loop.call_later(timeout, self._hangs)
        self._channel.send(header, payloads)

    def close(self) -> None:
        """Close the channel: an idle worker exits, a busy one after its batch."""
        self._ready = False
        self._disarm()
        if self._channel:
            self._channel.close()

    def retire(self) -> None:
        """Replace its worker, which is idle, by a new one."""
        log.info("slot %d: worker %s is replaced", self._number, self.pid)
        self.close()
        self.stale = False
        self.recycled += 1
        self._retiring = True
        self._timer = self._pool.loop.call_later(STOP_GRACE, self.kill)

    def kill(self) -> None:
        """End the process now."""
        if self._process:
            self._process.kill()

    @property
    def gone(self) -> bool:
        """Whether it has no process."""
        return self._process is None

    def _received(self, header: Header, body: memoryview) -> None:
        if self._epitaph or (self._ended and self._batch is None):
            return  # what it still says comes too late
        try:
            act = self._read(header, body)
        except (ArithmeticError, LookupError, ModelError, RecursionError, TypeError, ValueError) as exc:
            # a worker that says what a worker does not say is not one to give work to
            log.error("worker %s sent nonsense: %.200r", self.pid, exc)
            self._end("it sent nonsense")
            return
        act()  # not in the try: what fails here is no fault of the worker's

    def _read(self, header: Header, body: memoryview) -> partial[None]:
        """Understand a message and give what is to be done about it; nothing is done yet."""
        match header["type"]:
            case "answers":
                act = self._read_answers(header, body)
            case "loading" if not self._ready:
                act = partial(self._loads, self._pool.known(header["model"]))
            case "sealing" if not self._ready:
                act = partial(self._loads, None)
            case "sandbox" if not self._ready:
                act = partial(self._pool.sealed, _features(header))
            case "loaded" if not self._ready:
                card = ModelCard(**header["card"])
                self._pool.known(card.name)
                act = partial(self._loaded, card, _milliseconds(header, LOAD_TIMEOUT * 1e3))
            case "failed" if not self._ready:
                reason = str(header["reason"])[:MAX_REASON]
                act = partial(self._pool.failed, self._pool.known(header["model"]), reason)
            case "ready" if not self._ready:
                act = partial(self._became_ready, _megabytes(header))
            case other:
                raise ValueError(f"a message of type {other!r} now")
        return act

    def _loads(self, model: str | None) -> None:
        self._loading = model  # whose a death is

    def _loaded(self, card: ModelCard, infer_ms: float) -> None:
        self._loading = None
        self.cards[card.name] = card
        self._pool.loaded(card, infer_ms)

    def _became_ready(self, resident_mb: int) -> None:
        self._disarm()
        self._loading = None
        self._backoff = FIRST_BACKOFF
        self._unexplained = 0
        self._ready = True
        self.since = time.monotonic()
        self._batches = 0
        self.resident_mb = self._resident_before = resident_mb
        self._pool.became_ready(self)

    def _read_answers(self, header: Header, body: memoryview) -> partial[None]:
        batch = self._batch
        if batch is None:
            raise ValueError("answers to no batch")
        # streams are charged with it, so it must be true; a worker measures with `perf_counter`, which on Linux and
        # macOS is the same clock as `monotonic` (PEP 418)
        infer_ms = _milliseconds(header, (time.monotonic() - batch.started) * 1e3)
        outcomes = list(self._outcomes(batch, header, body, infer_ms))
        return partial(self._answered, batch, outcomes, infer_ms, _megabytes(header))

    def _answered(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float, resident_mb: int) -> None:
        self._disarm()
        self.resident_mb = resident_mb
        self._batches += 1
        self._pool.owner.batch_done(batch, outcomes, infer_ms)
        self._batch = None  # not before: if that fails, the batch is lost with this worker, and not for ever
        if self.stale or self._worn(outcomes):
            self.stale = True
            self._pool.renew()
        self._pool.owner.worker_free()

    def _worn(self, outcomes: Sequence[Outcome]) -> bool:
        options = self._pool.options
        if time.monotonic() - self.since < RECYCLE_PAUSE:
            return False
        return (
            0 < options.recycle_mb < self.resident_mb - self._resident_before
            or 0 < options.recycle_batches <= self._batches
            # whatever it could not free then may stand in the way of the next items
            or any(isinstance(o, Failed) and o.code == "out_of_memory" for o in outcomes)
        )

    def _outcomes(self, batch: Batch, header: Header, body: memoryview, infer_ms: float) -> Iterable[Outcome]:
        version = batch.model.version
        at = 0
        for item, answer in zip(batch.items, header["items"], strict=True):
            if isinstance(answer, dict):
                yield Failed(item, _code(answer), str(answer["message"]))
                continue
            if not 0 < answer <= len(body) - at:
                raise ValueError(f"an answer of {answer} bytes, and {len(body) - at} are left")
            outputs = str(body[at : at + answer], "utf-8")
            at += answer
            queue_ms = (batch.started - item.received) * 1e3
            yield Result(item, outputs, version, queue_ms, infer_ms, len(batch.items))

    def _lost(self, why: str) -> None:
        self._end(self._epitaph or why)  # it may have closed its end and live on

    def _hangs(self) -> None:
        """Let the worker write where it hangs, before it is ended."""
        if self._process:
            self._process.dump()
        self._timer = self._pool.loop.call_later(DUMP_GRACE, self._end, TIMEOUT)

    def _end(self, why: str) -> None:
        self._epitaph = why
        self._ready = False  # it takes a moment to die, and work given to it then would be lost
        self.kill()

    def _exited(self, status: int) -> None:
        self._ended = True
        if self._channel:
            self._channel.finish()  # its last answer, and whether it had read its batch
        self.close()
        unread = self._channel is not None and self._channel.unread
        batch, self._batch = self._batch, None
        timed_out = self._epitaph == TIMEOUT
        try:
            self._succeed(status)
        finally:  # whatever fails before: nobody else knows of the batch
            if batch is not None:
                self._pool.owner.batch_lost(batch, timed_out=timed_out, unread=unread)
        self._pool.owner.worker_free()  # a spare's, or another slot's for what waited for these items

    def _succeed(self, status: int) -> None:
        """Have another worker in the place of the one that has ended."""
        was_loading, self._loading = self._loading, None
        retired, self._retiring = self._retiring, False
        self._process = self._channel = None
        self.cards = {}
        self._pool.owner.models_changed()
        self.resident_mb = 0
        if self._pool.stopping:
            self._pool.exited()
        elif retired:
            self.start()
        else:
            self._bury(status, was_loading)
        self._pool.balance()

    def _bury(self, status: int, was_loading: str | None) -> None:
        self.deaths += 1
        why = self._epitaph or "by itself"
        log.warning("slot %d: worker ended (%s, exit status %d)", self._number, why, status)
        if self.since:
            self._restart_soon()
            return
        if was_loading:
            self._unexplained = 0
            self._pool.died_loading(was_loading, status)
        else:
            self._unexplained += 1
            self._pool.died_starting(self._unexplained)
        self._restart_later()

    def _restart_soon(self) -> None:
        now = time.monotonic()
        self._paid_until = max(self._paid_until, now) + RESTART_EVERY
        if (delay := self._paid_until - now - RESTARTS * RESTART_EVERY) > 0:
            self._timer = self._pool.loop.call_later(delay, self.start)
        else:
            self.start()

    def _restart_later(self) -> None:
        self._timer = self._pool.loop.call_later(min(self._backoff, LAST_BACKOFF), self.start)
        self._backoff = min(2 * self._backoff, LAST_BACKOFF)

    def _disarm(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


def _code(answer: Header) -> str:
    """Give an item's error code, if a model may give it: the engine's own would end streams and mislead clients."""
    code: str = answer["code"]
    return code if CODE.fullmatch(code) and code not in RESERVED else "model_error"


def _features(header: Header) -> dict[str, str]:
    features: dict[str, str] = header["features"]
    if not (isinstance(features, dict) and all(isinstance(state, str) for state in features.values())):
        raise ValueError("features of a sandbox that are none")
    return features


def _megabytes(header: Header) -> int:
    resident_mb = header["resident_mb"]
    if type(resident_mb) is not int or not 0 <= resident_mb <= MOST_MB:
        raise ValueError(f"{resident_mb!r} MiB of memory")
    return resident_mb


def _milliseconds(header: Header, most: float) -> float:
    infer_ms = header["infer_ms"]
    if type(infer_ms) not in (int, float) or not 0 <= infer_ms <= most:
        raise ValueError(f"a batch that took {infer_ms!r} ms")
    return float(infer_ms)
