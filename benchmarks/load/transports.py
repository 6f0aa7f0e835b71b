"""How streams send items to a server: by this project's protocol, a plain websocket, or one POST per item.

During the run each only records what was due and what came back. aiohttp's websocket costs half the CPU of the
websockets library.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import (
    ClientConnectionError,
    ClientError,
    ClientSession,
    ClientTimeout,
    ClientWebSocketResponse,
    TCPConnector,
    WSMsgType,
)

from benchmarks.failures import Refused
from benchmarks.load.accounts import Account, settle, settle_plain
from benchmarks.load.generator import Load
from benchmarks.load.payloads import Payloads, expected
from benchmarks.load.schedule import Clock, Pace, chance_of, schedule

END = '{"type": "end"}'
END_PREFIX = '{"type": "end"'

OCTETS = {"Content-Type": "application/octet-stream"}


def open_session() -> ClientSession:
    """Open a session without limits: the benchmark gives up a run that takes too long."""
    return ClientSession(connector=TCPConnector(limit=0), timeout=ClientTimeout(total=None))


async def open_stream(session: ClientSession, address: str) -> ClientWebSocketResponse:
    """Connect by this project's protocol, and wait for `ready`.

    Raises:
        Refused: the server refused the stream.
    """
    ws = await session.ws_connect(address, max_msg_size=0)
    message = await ws.receive()
    greeting = json.loads(message.data) if message.type is WSMsgType.TEXT else {}
    if greeting.get("type") != "ready":
        await ws.close()
        raise Refused(greeting.get("code", "none"), greeting.get("message", "it disconnected"))
    return ws


@dataclass(frozen=True, slots=True)
class Setup:
    """What a stream is made from."""

    session: ClientSession
    load: Load
    number: int  # of the stream in its load
    payloads: Payloads
    clock: Clock
    lags: list[float]  # where the lag of each item goes, in seconds


class Stream:
    """One stream of a load; times are seconds since the start of the run."""

    def __init__(self, setup: Setup) -> None:
        load = self._load = setup.load
        self._session = setup.session
        self._payloads = setup.payloads
        self._clock = setup.clock
        self._lags = setup.lags
        # empty in a closed loop
        self._plan: list[float] = []
        if load.rate:
            chance = chance_of(load.seed, setup.number)
            self._plan = schedule(load.arrivals, load.rate, load.seconds, chance)
        self._due: list[float] = []

    async def open(self) -> None:
        """Connect, if items share a connection; raises `Refused` if the server refuses."""

    async def run(self) -> None:
        """Send, and receive until everything is answered or the server ends the stream."""
        raise NotImplementedError

    async def close(self) -> None:
        """Disconnect what `open` connected."""

    def account(self) -> Account:
        """Make the stream's account, after the run."""
        raise NotImplementedError

    @property
    def _more(self) -> bool:
        """Whether a closed loop has items left."""
        return self._load.count is None or len(self._due) < self._load.count

    def _next(self, due: float) -> str | bytes:
        """Take the next item, which is due then."""
        self._due.append(due)
        return self._payloads[(len(self._due) - 1) % len(self._payloads)]


class Websocket(Stream):
    """A stream over a websocket, of this project's protocol or a plain one."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._pace = Pace(setup.clock, setup.lags)
        self._plain = setup.load.transport != "stream"
        self._messages: list[tuple[float, str]] = []
        self._sent_all = False
        self._ws: ClientWebSocketResponse

    async def open(self) -> None:
        """Connect; with this project's protocol, wait for `ready`."""
        if self._plain:
            self._ws = await self._session.ws_connect(self._load.address, max_msg_size=0)
        else:
            self._ws = await open_stream(self._session, self._load.address)

    async def run(self) -> None:
        """Send, and receive until everything is answered or the server ends the stream."""
        # the server has closed: what is missing shows in the account
        with suppress(ClientConnectionError, ConnectionError):
            if self._load.rate:
                await asyncio.gather(self._scheduled(), self._receive(closed=False))
            else:
                for _ in range(min(self._load.window, self._load.count or self._load.window)):
                    await self._send(self._clock.now())
                await self._receive(closed=True)

    async def close(self) -> None:
        """Close the websocket."""
        await self._ws.close()

    def account(self) -> Account:
        """Make the account."""
        unsent = self._plan[len(self._due) :]
        if not self._plain:
            return settle(self._due, self._messages, expected(self._load.payload), unsent)
        answers = [(number, at, "") for number, (at, _) in enumerate(self._messages, 1)]
        return settle_plain(self._due, answers, unsent)

    async def _scheduled(self) -> None:
        for due in self._plan:
            await self._pace.until(due)
            if self._pace.delayed(due) and self._clock.now() >= self._load.seconds:
                break  # the server reads more slowly than this stream is to send
            await self._send(due)
        await self._sent()

    async def _receive(self, *, closed: bool) -> None:
        while (message := await self._ws.receive()).type in {WSMsgType.TEXT, WSMsgType.BINARY}:
            now = self._clock.now()
            self._messages.append((now, message.data))
            if self._ended(message.data):
                return
            if closed:
                if now < self._load.seconds and self._more:
                    await self._send(now)
                elif len(self._messages) == len(self._due):
                    await self._sent()

    async def _sent(self) -> None:
        """End the stream; a plain websocket is closed when everything is answered."""
        self._sent_all = True
        if not self._plain:
            await self._ws.send_str(END)
        elif len(self._messages) >= len(self._due):
            await self._ws.close()

    def _ended(self, text: str) -> bool:
        """Whether a message is the last one."""
        if not self._plain:
            return text.startswith(END_PREFIX)
        return self._sent_all and len(self._messages) >= len(self._due)

    async def _send(self, due: float) -> None:
        payload = self._next(due)
        handle = self._pace.sending()
        if isinstance(payload, str):
            await self._ws.send_str(payload)
        else:
            await self._ws.send_bytes(payload)
        self._pace.sent(handle)


class Posts(Stream):
    """A stream whose items are posted one by one, over connections that open when needed."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._headers = OCTETS if setup.load.kept else {**OCTETS, "Connection": "close"}
        self._answers: list[tuple[int, float, str]] = []

    async def run(self) -> None:
        """Post everything, and wait for every answer."""
        async with asyncio.TaskGroup() as posts:
            if not self._load.rate:
                for _ in range(self._load.window):
                    posts.create_task(self._in_turn())
            for due in self._plan:
                await self._clock.until(due)
                posts.create_task(self._post(due))

    def account(self) -> Account:
        """Make the account."""
        return settle_plain(self._due, self._answers)

    async def _in_turn(self) -> None:
        """Post an item when the previous one is answered."""
        while (now := self._clock.now()) < self._load.seconds and self._more:
            await self._post(now)

    async def _post(self, due: float) -> None:
        if self._load.rate:
            self._lags.append(self._clock.now() - due)
        item = self._next(due)
        number = len(self._due)
        body = item.encode() if isinstance(item, str) else item
        try:
            async with self._session.post(self._load.url, data=body, headers=self._headers) as response:
                await response.read()
                code = "" if response.ok and response.status < 300 else str(response.status)
        except ClientError as exc:
            code = type(exc).__name__
        self._answers.append((number, self._clock.now(), code))
