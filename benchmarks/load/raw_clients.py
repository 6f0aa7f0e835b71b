"""Minimal websocket clients in their own process: thousands that stay connected, or a few that come and go.

The process reports as JSON what it has done. Each client is an `asyncio.Protocol` on wsproto that only answers
pings and closes: a library's complete client would cost more than the server that is measured.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias, cast
from urllib.parse import urlsplit

import msgspec
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from benchmarks.failures import RunFailed
from benchmarks.load.subprocesses import FAILED, Child, order, say

END = TextMessage('{"type": "end"}')
VISIT = (BytesMessage(b"\0"), END)
"""What a short-lived client sends at once: one item, and `end`."""

MESSAGES = 3
"""What it receives: `ready`, the item's answer, `end`."""

NORMAL, GOING_AWAY, ABNORMAL = 1000, 1001, 1006
"""Close codes of RFC 6455 section 7.4.1: as requested, the server stops, no close frame."""

SIMULTANEOUS = 64
"""Handshakes in progress while many connect: enough to keep the server busy, and far below its backlog."""

CONNECT_S = 20.0
"""Time limit of one `ready`, and then of a visit's end; each takes milliseconds."""

REPORT_S = 120.0
"""Time limit of a report: ten thousand handshakes or closes take a tenth of it."""


class BadPeer(RuntimeError):
    """The server refused, or sent something unexpected."""


FAULTS = BadPeer, OSError
"""Raised if the server refuses, disconnects or does not answer (a `TimeoutError` is an `OSError`)."""

Closed: TypeAlias = Callable[[int], None]
"""Called at the end of a connection with the server's close code, or `ABNORMAL`."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the clients do.

    Attributes:
        address: of the stream, ``http://HOST:PORT/PATH``.
        clients: how many stay, or come and go simultaneously.
        seconds: for how long they come and go; None to stay.
        visits: the most visits in total.
    """

    address: str
    clients: int
    seconds: float | None = None
    visits: int | None = None


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the process reports.

    Attributes:
        seconds: how long it took to connect all clients, or for all visits.
        open: clients still connected.
        codes: ended connections by close code.
        visits, failed: of clients that come and go.
        waits_ms: of each visit, from the start of connecting to `ready`.
    """

    seconds: float = 0.0
    open: int = 0
    codes: dict[int, int] = {}
    visits: int = 0
    failed: int = 0
    waits_ms: list[float] = []


class RawClient(asyncio.Protocol):
    """One client.

    Args:
        errand: sent once the server is ready.

    Attributes:
        texts: number of the server's messages so far.
    """

    __slots__ = ("_closed", "_code", "_errand", "_ready", "_request", "_text", "_transport", "_ws", "texts")

    def __init__(self, request: Request, errand: Sequence[Event], closed: Closed) -> None:
        self._ready: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        self._ws: WSConnection | Connection = WSConnection(ConnectionType.CLIENT)
        self._request = request
        self._errand = errand
        self._closed = closed
        self._code = ABNORMAL
        self._text = ""
        self.texts = 0

    async def ready(self) -> None:
        """Wait for `ready`.

        Raises:
            BadPeer: the server refused.
        """
        if self._ready:
            async with asyncio.timeout(CONNECT_S):
                await self._ready
        self._ready = None  # saves memory, with ten thousand clients

    def leave(self) -> None:
        """End the stream; the server answers with its count and closes."""
        self._send(END)

    def abort(self) -> None:
        """Close the connection without a close frame."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake."""
        self._transport = cast(asyncio.Transport, transport)
        self._send(self._request)

    def data_received(self, data: bytes) -> None:
        """Handle what the server sent."""
        try:
            self._ws.receive_data(data)
            for event in self._ws.events():
                self._handle(event)
        except (BadPeer, ProtocolError) as exc:
            self._settle(exc if isinstance(exc, BadPeer) else BadPeer(str(exc)))
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end."""
        self._settle(exc or BadPeer("the server disconnected"))
        self._closed(self._code)

    def _send(self, event: Event) -> None:
        self._transport.write(self._ws.send(event))

    def _handle(self, event: Event) -> None:
        match event:
            case AcceptConnection():
                if isinstance(self._ws, WSConnection) and self._ws.connection:
                    self._ws = self._ws.connection  # frees the parser of the handshake
            case RejectConnection():
                raise BadPeer(f"no websocket: HTTP status {event.status_code}")
            case TextMessage():
                self._text += event.data
                if event.message_finished:
                    text, self._text = self._text, ""
                    self._received(text)
            case Ping():
                self._send(event.response())
            case CloseConnection():
                self._code = int(event.code)
                with suppress(ProtocolError):  # a close frame that was invalid cannot be answered
                    self._send(event.response())

    def _received(self, text: str) -> None:
        self.texts += 1
        if self.texts == 1:
            if msgspec.json.decode(text)["type"] != "ready":
                raise BadPeer(text)
            self._settle(None)
            for event in self._errand:
                self._send(event)

    def _settle(self, failure: Exception | None) -> None:
        if self._ready and not self._ready.done():
            if failure:
                self._ready.set_exception(failure)
            else:
                self._ready.set_result(None)


async def connect(address: str, errand: Sequence[Event], closed: Closed) -> RawClient:
    """Connect, and wait until the server is ready.

    Raises:
        BadPeer: the server refused.
        OSError: it does not listen, disconnected, or did not answer in `CONNECT_S`.
    """
    parts = urlsplit(address)
    request = Request(parts.netloc, f"{parts.path}?{parts.query}" if parts.query else parts.path)
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: RawClient(request, errand, closed), parts.hostname or "", parts.port or 0
    )
    try:
        await client.ready()
    except FAULTS:
        client.abort()
        raise
    return client


async def stay(plan: Plan) -> None:
    """Connect all; answer ``count``; report the close codes after ``leave``, or when the server has closed all."""
    codes, all_closed = Counter[int](), asyncio.Event()
    clients: list[RawClient] = []

    def closed(code: int) -> None:
        codes[code] += 1
        if codes.total() == plan.clients:
            all_closed.set()

    async def fill() -> None:
        while remaining:
            remaining.pop()
            clients.append(await connect(plan.address, (), closed))

    begun = time.perf_counter()
    remaining = [None] * plan.clients
    await asyncio.gather(*(fill() for _ in range(SIMULTANEOUS)))
    say(Report(seconds=time.perf_counter() - begun))

    async def obey() -> None:
        read = asyncio.get_running_loop().run_in_executor
        while word := (await read(None, sys.stdin.readline)).strip():
            if word == "leave":
                for client in clients:
                    client.leave()
                return
            say(Report(open=plan.clients - codes.total(), codes=codes))

    obeying = asyncio.create_task(obey())
    await all_closed.wait()
    say(Report(codes=codes))
    await obeying


async def come_and_go(plan: Plan) -> None:
    """Visit repeatedly, with a number of clients at a time; a visit that fails is counted, and the others go on."""
    waits: list[float] = []
    failed = visits = 0
    begun = time.perf_counter()
    until = begun + (plan.seconds or 0.0)

    async def visit() -> None:
        nonlocal failed, visits
        while time.perf_counter() < until and visits != plan.visits:
            visits += 1
            served = await _visit(plan.address, waits)
            failed += not served  # in a statement of its own: `failed` must not be read before the await

    await asyncio.gather(*(visit() for _ in range(plan.clients)))
    say(
        Report(
            seconds=time.perf_counter() - begun,
            visits=visits,
            failed=failed,
            waits_ms=[wait * 1e3 for wait in waits],
        )
    )


async def _visit(address: str, waits: list[float]) -> bool:
    """Visit once; add the seconds until `ready` to `waits`; return whether everything came."""
    closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    begun = time.perf_counter()
    try:
        client = await connect(address, VISIT, closed.set_result)
    except FAULTS:
        return False
    waits.append(time.perf_counter() - begun)
    try:
        async with asyncio.timeout(CONNECT_S):
            code = await asyncio.shield(closed)
    except TimeoutError:
        client.abort()
        return False
    return code == NORMAL and client.texts == MESSAGES


class RawClients(Child):
    """The process of the clients; a context, at whose end it is killed."""

    def __init__(self, plan: Plan) -> None:
        super().__init__("benchmarks.load.raw_clients", plan)
        self._plan = plan

    def report(self) -> Report:
        """Wait for the next report.

        Raises:
            RunFailed: there is none, or a client that was to stay could not connect.
        """
        line = self.line(REPORT_S)
        if line is None:
            raise RunFailed(f"clients of {self._plan.address} have reported nothing for {REPORT_S:.0f} s")
        return msgspec.json.decode(line, type=Report)


def main() -> int:
    """Carry out the plan given on standard input."""
    plan = order(Plan)
    try:
        asyncio.run(stay(plan) if plan.seconds is None else come_and_go(plan))
    except FAULTS as exc:
        say(f"{FAILED}{type(exc).__name__}: {exc}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
