"""Clients that do next to nothing, from a process of their own: ten thousand that stay, or some that come and go.

The process says what it has done in lines of JSON, and does what the benchmark tells it in words. A client is one
`asyncio.Protocol` that answers pings and closes, so that what is measured is the server.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self, cast
from urllib.parse import urlsplit

from benchmarks.failures import RunFailed
from benchmarks.load.rfc6455 import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    BadPeer,
    Reader,
    close_code,
    handshake,
    masked,
)
from benchmarks.load.subprocesses import FAILED, Child

END = masked(TEXT, b'{"type": "end"}')
ERRAND = masked(BINARY, b"\0") + END
"""What somebody who comes and goes sends at once: one item, and that there are no more."""

MESSAGES = 3
"""What that gets: `ready`, the item's answer, `end`."""

NORMAL, GOING, ABNORMAL = 1000, 1001, 1006
"""Close codes of RFC 6455 section 7.4.1: as asked, the server stops, no close was heard."""

AT_ONCE = 64
"""Handshakes under way while many connect: enough to keep the server busy, and far below its backlog."""

CONNECT_S = 20.0
"""Longest wait for one `ready`, and then for a visit's end; each takes milliseconds."""

WAIT_S = 120.0
"""Longest wait for the process: ten thousand handshakes, or goodbyes, take a tenth of it."""

FAULTS = BadPeer, OSError
"""What a client meets where the server refuses, cuts it off or says nothing (a `TimeoutError` is an `OSError`)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the visitors do.

    Attributes:
        address: of the stream, ``http://HOST:PORT/PATH``.
        clients: how many stay; or how many come and go at the same time.
        seconds: for how long they come and go; None to stay.
        visits: how many of them there are in all, where that is to end it.
    """

    address: str
    clients: int
    seconds: float | None = None
    visits: int | None = None


class Visitor(asyncio.Protocol):
    """One client.

    Args:
        errand: what to send once the server is ready.
        gone: told of the end of the connection: the server's close code, or `ABNORMAL`.

    Attributes:
        texts: the server's messages so far.
    """

    __slots__ = ("_code", "_errand", "_gone", "_reader", "_ready", "_request", "_transport", "texts")

    def __init__(self, request: bytes, errand: bytes, gone: Callable[[int], None]) -> None:
        self._ready: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        self._request = request
        self._errand = errand
        self._gone = gone
        self._reader = Reader()
        self._code = ABNORMAL
        self.texts = 0

    async def ready(self) -> None:
        """Wait until the server has greeted.

        Raises:
            BadPeer: it refused.
        """
        if self._ready:
            async with asyncio.timeout(CONNECT_S):
                await self._ready
        self._ready = None  # of ten thousand that stay, each holds as little as it can

    def leave(self) -> None:
        """Say that no items come; the server answers with its count and closes."""
        self._transport.write(END)

    def cut(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a websocket."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Answer what must be answered."""
        try:
            for opcode, payload in self._reader.feed(data):
                self._heard(opcode, payload)
        except BadPeer as exc:
            self._settle(exc)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that it is over."""
        self._settle(exc or BadPeer("the server hung up"))
        self._gone(self._code)

    def _heard(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            self.texts += 1
            if self.texts == 1:
                if json.loads(payload)["type"] != "ready":
                    raise BadPeer(payload.decode())
                self._settle(None)
                self._transport.write(self._errand)
        elif opcode == PING:
            self._transport.write(masked(PONG, payload))
        elif opcode == CLOSE:
            self._code = close_code(payload)
            self._transport.write(masked(CLOSE, payload[:2]))

    def _settle(self, failure: Exception | None) -> None:
        if self._ready and not self._ready.done():
            if failure:
                self._ready.set_exception(failure)
            else:
                self._ready.set_result(None)


class Entrance:
    """Where visitors come in."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._loop = asyncio.get_running_loop()
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._request = handshake(address)

    async def enter(self, errand: bytes, gone: Callable[[int], None]) -> Visitor:
        """Connect, and wait until the server is ready.

        Raises:
            BadPeer: it refused.
            OSError: it does not listen, has cut the connection, or has said nothing for `CONNECT_S`.
        """
        _, visitor = await self._loop.create_connection(
            lambda: Visitor(self._request, errand, gone), self._host, self._port
        )
        try:
            await visitor.ready()
        except FAULTS:
            visitor.cut()
            raise
        return visitor


async def stay(plan: Plan) -> None:
    """Open all connections, answer ``count``, and at ``leave``, or when the server goes, tell how each ended."""
    loop = asyncio.get_running_loop()
    entrance, codes, empty = Entrance(plan.address), Counter[int](), asyncio.Event()
    visitors: list[Visitor] = []

    def gone(code: int) -> None:
        codes[code] += 1
        if codes.total() == plan.clients:
            empty.set()

    async def fill() -> None:
        while remaining:
            remaining.pop()
            visitors.append(await entrance.enter(b"", gone))

    begun = time.perf_counter()
    remaining = [None] * plan.clients
    await asyncio.gather(*(fill() for _ in range(AT_ONCE)))
    say(seconds=time.perf_counter() - begun)

    async def obey() -> None:
        while word := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            if word == "leave":
                for visitor in visitors:
                    visitor.leave()
                return
            say(open=plan.clients - codes.total(), codes=codes)

    obeying = asyncio.create_task(obey())
    await empty.wait()
    say(codes=codes)
    await obeying


async def come_and_go(plan: Plan) -> None:
    """Visit over and over, a number of clients at a time; tell how long each waited to be served.

    Whatever befalls a visit, it has failed, and the others go on.
    """
    entrance = Entrance(plan.address)
    waits: list[float] = []
    failed = visits = 0
    begun = time.perf_counter()
    until = begun + (plan.seconds or 0.0)

    async def visit() -> None:
        nonlocal failed, visits
        while time.perf_counter() < until and visits != plan.visits:
            visits += 1
            served = await _served(entrance, waits)
            failed += not served  # read and written in one step: the others count meanwhile

    await asyncio.gather(*(visit() for _ in range(plan.clients)))
    say(
        seconds=time.perf_counter() - begun,
        visits=visits,
        waits_ms=[wait * 1e3 for wait in waits],
        failed=failed,
    )


async def _served(entrance: Entrance, waits: list[float]) -> bool:
    """Visit once; whether everything came.

    Args:
        waits: where the seconds until `ready` go.
    """
    gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    asked = time.perf_counter()
    try:
        visitor = await entrance.enter(ERRAND, gone.set_result)
    except FAULTS:
        return False
    waits.append(time.perf_counter() - asked)
    try:
        async with asyncio.timeout(CONNECT_S):
            code = await asyncio.shield(gone)
    except TimeoutError:
        visitor.cut()
        return False
    return code == NORMAL and visitor.texts == MESSAGES


def say(**what: Any) -> None:
    """Tell the benchmark."""
    print(json.dumps(what), flush=True)


class Visitors:
    """The process, as the benchmark that starts it sees it; a context, at whose end the process is gone."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._child = Child("benchmarks.load.raw_clients", asdict(plan))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.__exit__()

    def tell(self, word: str) -> None:
        """Say what is to be done."""
        self._child.tell(word)

    def heard(self) -> dict[str, Any]:
        """Wait for the next thing that it says.

        Raises:
            RunFailed: it says nothing, or a client that was to stay could not.
        """
        line = self._child.line(WAIT_S)
        if line is None:
            raise RunFailed(f"clients of {self._plan.address} have waited {WAIT_S:.0f} s in vain")
        return cast("dict[str, Any]", json.loads(line))


def main() -> int:
    """Do what standard input tells."""
    plan = Plan(**json.loads(sys.stdin.readline()))
    try:
        asyncio.run(stay(plan) if plan.seconds is None else come_and_go(plan))
    except FAULTS as exc:
        print(f"{FAILED}{type(exc).__name__}: {exc}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
