"""Many websocket clients in their own process: thousands that stay connected, or a few that come and go.

The process reports as JSON what it has done.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter

import msgspec
from aiohttp import ClientError, ClientSession, ClientWebSocketResponse, WSMsgType

from benchmarks.failures import Refused, RunFailed
from benchmarks.load.subprocesses import Child, obey, say
from benchmarks.load.transports import END, open_session, open_stream

MESSAGES = 2
"""What a client that comes and goes receives after `ready`: its item's answer, and `end`."""

NORMAL, GOING_AWAY, ABNORMAL = 1000, 1001, 1006
"""Close codes of RFC 6455 section 7.4.1: as requested, the server stops, no close frame."""

SIMULTANEOUS = 64
"""Handshakes in progress while many connect: enough to keep the server busy, and far below its backlog."""

CONNECT_S = 20.0
"""Time limit of one `ready`, and then of a visit's end; each takes milliseconds."""

REPORT_S = 120.0
"""Time limit of a report: ten thousand handshakes or closes take a tenth of it."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the clients do."""

    address: str  # of the stream, ``http://HOST:PORT/PATH``
    clients: int  # how many stay, or come and go simultaneously
    seconds: float | None = None  # for how long they come and go; None to stay
    visits: int | None = None  # the most visits in total


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the process reports."""

    seconds: float = 0.0  # how long it took to connect all clients, or for all visits
    open: int = 0  # clients still connected
    codes: dict[int, int] = {}  # ended connections by close code
    visits: int = 0
    failed: int = 0  # of the visits
    waits_ms: list[float] = []  # of each visit, from the start of connecting to `ready`


async def run(plan: Plan) -> None:
    """Carry out a plan."""
    async with open_session() as session:
        await (stay if plan.seconds is None else come_and_go)(session, plan)


async def read_to_end(ws: ClientWebSocketResponse) -> tuple[int, int]:
    """Read until the server closes; return the number of its messages and its close code, or `ABNORMAL`."""
    texts = 0
    while (message := await ws.receive()).type is WSMsgType.TEXT:
        texts += 1
    return texts, message.data if message.type is WSMsgType.CLOSE else ABNORMAL


async def stay(session: ClientSession, plan: Plan) -> None:
    """Connect all; answer ``count``; report the close codes after ``leave``, or when the server has closed all."""
    codes = Counter[int]()
    clients: list[ClientWebSocketResponse] = []
    reading: list[asyncio.Task[None]] = []
    numbers = iter(range(plan.clients))

    async def read(ws: ClientWebSocketResponse) -> None:
        _, code = await read_to_end(ws)
        codes[code] += 1

    async def fill() -> None:
        for _ in numbers:
            async with asyncio.timeout(CONNECT_S):
                clients.append(await open_stream(session, plan.address))
            reading.append(asyncio.create_task(read(clients[-1])))  # from now on it answers pings

    async def follow() -> None:
        while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
            if word == "leave":
                for ws in clients:
                    await ws.send_str(END)
                return
            say(Report(open=plan.clients - codes.total(), codes=codes))

    begun = time.perf_counter()
    await asyncio.gather(*(fill() for _ in range(SIMULTANEOUS)))
    say(Report(seconds=time.perf_counter() - begun))
    following = asyncio.create_task(follow())
    await asyncio.gather(*reading)
    say(Report(codes=codes))
    await following


async def come_and_go(session: ClientSession, plan: Plan) -> None:
    """Visit repeatedly, with a number of clients at a time; a visit that fails is counted, and the others go on."""
    waits_ms: list[float] = []
    failed = visits = 0
    begun = time.perf_counter()
    until = begun + (plan.seconds or 0.0)

    async def client() -> None:
        nonlocal failed, visits
        while time.perf_counter() < until and visits != plan.visits:
            visits += 1
            served = await _visit(session, plan.address, waits_ms)
            failed += not served  # in a statement of its own: `failed` must not be read before the await

    await asyncio.gather(*(client() for _ in range(plan.clients)))
    say(Report(time.perf_counter() - begun, visits=visits, failed=failed, waits_ms=waits_ms))


async def _visit(session: ClientSession, address: str, waits_ms: list[float]) -> bool:
    """Send one item and `end`; add the wait for `ready` to `waits_ms`; return whether everything came."""
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(CONNECT_S):
            ws = await open_stream(session, address)
        waits_ms.append((time.perf_counter() - begun) * 1e3)
        async with asyncio.timeout(CONNECT_S), ws:
            await ws.send_bytes(b"\0")
            await ws.send_str(END)
            return await read_to_end(ws) == (MESSAGES, NORMAL)
    except (ClientError, OSError, Refused):  # a TimeoutError is an OSError
        return False


class RawClients(Child):
    """The process of the clients; a context, at whose end it is killed."""

    def __init__(self, plan: Plan) -> None:
        super().__init__("benchmarks.load.raw_clients", plan)
        self._plan = plan

    def report(self) -> Report:
        """Wait for the next report.

        Raises:
            RunFailed: there is none in time, or an idle client could not connect.
        """
        line = self.line(REPORT_S)
        if line is None:
            raise RunFailed(f"clients of {self._plan.address} have reported nothing for {REPORT_S:.0f} s")
        return msgspec.json.decode(line, type=Report)


if __name__ == "__main__":
    sys.exit(obey(Plan, run))
