"""A launcher, workers and a clock in memory: the pool's protocols without processes, sockets or waiting.

A scripted worker decodes what it is sent and answers with the real messages; a test decides when.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from inference.model import ModelCard
from inference.pool.launcher import Events, LaunchError
from inference.wire import messages
from inference.wire.framing import Buffer


class Timer:
    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class MemoryClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.time = 100.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, Timer]] = []

    def now(self) -> float:
        return self.time

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        timer = Timer(lambda: callback(*args))
        heapq.heappush(self._timers, (self.time + delay, next(self._order), timer))
        return timer

    def pending(self) -> list[float]:
        """Seconds until each call that is not cancelled."""
        return sorted(at - self.time for at, _, timer in self._timers if not timer.cancelled)

    def advance(self, seconds: float) -> None:
        end = self.time + seconds
        while self._timers and self._timers[0][0] <= end:
            at, _, timer = heapq.heappop(self._timers)
            self.time = max(self.time, at)
            if not timer.cancelled:
                timer.call()
        self.time = end


@dataclass
class MemoryTransport:
    worker: MemoryWorker
    unread: bool = False
    open: bool = True

    def send(self, header: bytes, body: Sequence[Buffer] = ()) -> None:
        if self.open:
            self.worker.inbox.append((messages.read_to_worker(header), b"".join(body)))

    def finish(self) -> None:
        self.worker.deliver()
        self.unread = self.unread or bool(self.worker.inbox)

    def close(self) -> None:
        self.open = False


@dataclass
class MemoryWorker:
    """What a test drives: `load`, `answer` and `die` do what a worker would; nothing happens by itself."""

    events: Events
    number: int
    clock: MemoryClock
    inbox: list[tuple[messages.ToWorker, bytes]] = field(default_factory=list)
    said: list[tuple[bytes, bytes]] = field(default_factory=list)
    dumped: int = 0
    killed: bool = False
    exited: bool = False
    memory: bool = True

    def __post_init__(self) -> None:
        self.transport = MemoryTransport(self)

    @property
    def name(self) -> str:
        return f"memory-{self.number}"

    @property
    def pid(self) -> int | None:
        return None

    def memory_sufficed(self) -> bool:
        return self.memory

    def dump(self) -> None:
        self.dumped += 1

    def kill(self) -> None:
        self.killed = True

    def say(self, *said: messages.FromWorker | bytes, body: bytes = b"") -> None:
        for message in said:
            self.said.append((message if isinstance(message, bytes) else messages.encode(message), body))

    def deliver(self) -> None:
        while self.said and self.transport.open:
            header, body = self.said.pop(0)
            self.events.received(memoryview(header), memoryview(body))

    def load(
        self, versions: Mapping[str, str | None], features: dict[str, str] | None = None, **card: Any
    ) -> None:
        """Load what it was told to, in these versions; None fails."""
        setup, _ = self.inbox.pop(0)
        assert isinstance(setup, messages.Setup)
        loaded = []
        for model in setup.models:
            self.say(messages.Importing(model.name))
            if (version := versions[model.name]) is None:
                self.say(messages.ModelFailed(model.name, "broken"))
            else:
                self.say(messages.Described(card_of(model.name, version, **card)))
                loaded.append(model.name)
        self.say(messages.Sealing(), *([messages.Sandbox(features)] if features else []))
        self.say(*(messages.Loaded(name, 5.0) for name in loaded), messages.Ready(10))
        self.deliver()

    def answer(self, *outputs: str, **header: Any) -> messages.BatchHeader:
        """Take the batch that it was given, and answer it."""
        batch, _ = self.inbox.pop(0)
        assert isinstance(batch, messages.BatchHeader)
        texts = [output.encode() for output in outputs] or [b"1"] * len(batch.lengths)
        answers = messages.Answers(0.0, 10, [len(text) for text in texts], **header)
        self.say(answers, body=b"".join(texts))
        self.deliver()
        return batch

    def die(self, status: int = -9) -> None:
        assert not self.exited
        self.exited = True
        self.events.exited(status)

    @property
    def options(self) -> dict[str, Any]:
        """The options of each model that it was told to load."""
        setup, _ = self.inbox[0]
        assert isinstance(setup, messages.Setup)
        return {model.name: msgspec.json.decode(model.options) for model in setup.models}


def card_of(name: str, version: str = "1", **more: Any) -> ModelCard:
    settings: dict[str, Any] = {"max_batch": 4, "timeout_ms": 1000, "description": "", **more}
    return ModelCard(name, version, "bytes", "queue", **settings)


@dataclass
class MemoryLauncher:
    clock: MemoryClock
    workers: list[MemoryWorker] = field(default_factory=list)
    fails: bool = False

    def launch(self, events: Events) -> MemoryWorker:
        if self.fails:
            raise LaunchError("no machine is left")
        self.workers.append(MemoryWorker(events, len(self.workers), self.clock))
        return self.workers[-1]

    @property
    def living(self) -> list[MemoryWorker]:
        return [worker for worker in self.workers if not worker.exited]

    def reap(self) -> None:
        """Let those exit that were killed or whose transport was closed."""
        for worker in self.living:
            if worker.killed or not worker.transport.open:
                worker.die(-9 if worker.killed else 0)


def raw(message: Any) -> bytes:
    return json.dumps(message).encode()
