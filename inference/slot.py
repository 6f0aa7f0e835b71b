"""A worker's place in the pool, which outlives it: it starts a process, gives it batches, replaces it when it ends.

It chooses no work, and not when a worker is replaced that still lives; the pool does.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from inference.channel import Channel, Header
from inference.items import Batch, Failed, Outcome, Result
from inference.model import ModelCard, ModelError
from inference.process import WorkerProcess

if TYPE_CHECKING:
    from inference.pool import Pool

log = logging.getLogger(__name__)

LOAD_TIMEOUT = 60.0
"""Seconds a worker may take to load its models: reading weights takes under one, a hang takes for ever."""

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 10.0
"""Seconds before a slot that could not start tries again; doubled each time, so that it is no fork bomb."""

STOP_GRACE = 1.0
"""Seconds an idle worker has to exit by itself when its socket closes, before it is ended."""

RECYCLE_PAUSE = 10.0
"""Seconds a worker serves before it may be worn: what needs much memory at once is no leak, and a start costs."""

DUMP_GRACE = 0.1
"""Seconds that a worker has to write where it hangs, and in which its answer still counts."""

TIMEOUT = "a batch took too long"


class Slot:
    """One worker at a time.

    Attributes:
        serving: whether its worker gets work; the others are warm spares.
        stale: its worker is to be replaced, as soon as that costs nobody anything.
        cards: what its worker has loaded.
        deaths, recycled: workers that ended unasked, and those that were replaced.
        resident_mb: its worker's resident memory in MiB, as last told.
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
        self._failures = 0
        self._epitaph = ""
        self._since = 0.0  # when its worker was ready, and what it took up then
        self._resident_before = 0
        self._batches = 0
        self.serving = serving
        self.stale = False
        self.cards: dict[str, ModelCard] = {}
        self.deaths = self.recycled = self.resident_mb = 0

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

    def start(self) -> None:
        """Start a worker and tell it what to load."""
        loop = self._pool.loop
        self._epitaph = ""
        self._ended = self.stale = False
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
            match header["type"]:
                case "answers":
                    self._answered(header, body)
                case "loading" if not self._ready:
                    self._loading = self._pool.known(header["model"])
                case "sandbox" if not self._ready:
                    self._pool.sealed(dict(header["features"]))
                case "loaded" if not self._ready:
                    card = ModelCard(**header["card"])
                    self.cards[card.name] = card
                    self._pool.loaded(card, _milliseconds(header))
                case "failed" if not self._ready:
                    self._pool.failed(self._pool.known(header["model"]), str(header["reason"]))
                case "ready" if not self._ready:
                    self._became_ready(_megabytes(header))
                case other:
                    raise ValueError(f"a message of type {other!r} now")
        except (KeyError, TypeError, ValueError, UnicodeDecodeError, ModelError) as exc:
            # a worker that says what a worker does not say is not one to give work to
            log.error("worker %s sent nonsense: %r", self.pid, exc)
            self._end("it sent nonsense")

    def _became_ready(self, resident_mb: int) -> None:
        self._disarm()
        self._loading = None
        self._failures = 0
        self._ready = True
        self._since = time.monotonic()
        self._batches = 0
        self.resident_mb = self._resident_before = resident_mb
        self._pool.became_ready(self)

    def _answered(self, header: Header, body: memoryview) -> None:
        batch = self._batch
        if batch is None:
            raise ValueError("answers to no batch")
        infer_ms = _milliseconds(header)
        # streams are charged with it, so it must be true; both ends read the same clock
        if infer_ms > (time.monotonic() - batch.started) * 1e3:
            raise ValueError(f"a batch that took {infer_ms} ms")
        outcomes = list(self._outcomes(batch, header, body, infer_ms))
        self.resident_mb = _megabytes(header)
        self._disarm()
        self._batch = None
        self._batches += 1
        self._pool.owner.batch_done(batch, outcomes, infer_ms)
        if self.stale or self._worn(outcomes):
            self.stale = True
            self._pool.renew()
        self._pool.owner.worker_free()

    def _worn(self, outcomes: Sequence[Outcome]) -> bool:
        options = self._pool.options
        if time.monotonic() - self._since < RECYCLE_PAUSE:
            return False
        return (
            0 < options.recycle_mb < self.resident_mb - self._resident_before
            or 0 < options.recycle_batches <= self._batches
            # whatever it could not free then may stand in the way of the next items
            or any(isinstance(o, Failed) and o.code == "out_of_memory" for o in outcomes)
        )

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
        unread = False
        if self._channel:
            self._channel.finish()  # its last answer, and whether it had read its batch
            unread = self._channel.unread
        self.close()
        was_loading, self._loading = self._loading, None
        batch, self._batch = self._batch, None
        retired, self._retiring = self._retiring, False
        timed_out = self._epitaph == TIMEOUT
        self._process = self._channel = None
        self.cards = {}
        self.resident_mb = 0
        if self._pool.stopping:
            self._pool.exited()
        elif retired:
            self.start()
        else:
            self._bury(status, was_loading)
        self._pool.balance()
        if batch is not None:
            self._pool.owner.batch_lost(batch, timed_out=timed_out, unread=unread)
        self._pool.owner.worker_free()  # a spare's, or another slot's for what waited for these items

    def _bury(self, status: int, was_loading: str | None) -> None:
        self.deaths += 1
        why = self._epitaph or "by itself"
        log.warning("slot %d: worker ended (%s, exit status %d)", self._number, why, status)
        if was_loading:
            self._pool.died_loading(was_loading, status)
        self._restart()

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


def _megabytes(header: Header) -> int:
    resident_mb = header["resident_mb"]
    if type(resident_mb) is not int or resident_mb < 0:
        raise ValueError(f"{resident_mb!r} MiB of memory")
    return resident_mb


def _milliseconds(header: Header) -> float:
    infer_ms = float(header["infer_ms"])
    if not 0 <= infer_ms < math.inf:
        raise ValueError(f"{infer_ms} ms")
    return infer_ms
