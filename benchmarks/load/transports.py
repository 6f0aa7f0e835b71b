"""How streams send items to a server: by this project's protocol, a plain websocket, or one POST per item.

During the run each only records what was due and what came back. aiohttp's websocket costs half the CPU of the
websockets library.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from aiohttp import ClientConnectionError, ClientError, ClientSession, ClientWebSocketResponse, WSMsgType

from benchmarks.failures import Refused
from benchmarks.load.accounts import Account, settle, settle_plain
from benchmarks.load.generator import Load
from benchmarks.load.payloads import Payloads, expected
from benchmarks.load.schedule import Clock, Pace, chance_of, schedule

END = '{"type": "end"}'
END_PREFIX = '{"type": "end"'

OCTETS = {"Content-Type": "application/octet-stream"}


class Stream(Protocol):
    """One stream of a load; times are seconds since the start of the run."""

    async def open(self) -> None:
        """Connect."""

    async def run(self) -> None:
        """Send, and receive until everything is answered."""

    async def close(self) -> None:
        """Disconnect."""

    def account(self) -> Account:
        """Make the stream's account, after the run."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a stream is made from.

    Attributes:
        number: of the stream in its load.
        lags: where the lag of each item goes, in seconds.
    """

    session: ClientSession
    load: Load
    number: int
    payloads: Payloads
    clock: Clock
    lags: list[float]

    def plan(self) -> Sequence[float]:
        """Make the schedule; empty in a closed loop."""
        load = self.load
        if not load.rate:
            return []
        return schedule(load.arrivals, load.rate, load.seconds, chance_of(load.seed, self.number))


class Websocket:
    """A stream over a websocket, of this project's protocol or a plain one."""

    def __init__(self, setup: Setup) -> None:
        self._session = setup.session
        self._load = setup.load
        self._payloads = setup.payloads
        self._clock = setup.clock
        self._pace = Pace(setup.clock, setup.lags)
        self._plan = setup.plan()
        self._due: list[float] = []
        self._messages: list[tuple[float, str]] = []
        self._sent_all = False
        self._ws: ClientWebSocketResponse

    async def open(self) -> None:
        """Connect; with this project's protocol, wait for `ready`.

        Raises:
            Refused: the server refused the stream.
        """
        self._ws = await self._session.ws_connect(self._load.address, max_msg_size=0)
        if self._load.transport == "stream":
            greeting = json.loads((await self._ws.receive()).data or "{}")
            if greeting.get("type") != "ready":
                raise Refused(greeting.get("code", "none"), greeting.get("message", str(greeting)))

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
        if self._load.transport == "stream":
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
        if self._load.transport == "stream":
            await self._ws.send_str(END)
        elif len(self._messages) >= len(self._due):
            await self._ws.close()

    def _ended(self, text: str) -> bool:
        """Whether a message is the last one."""
        if self._load.transport == "stream":
            return text.startswith(END_PREFIX)
        return self._sent_all and len(self._messages) >= len(self._due)

    @property
    def _more(self) -> bool:
        return self._load.count is None or len(self._due) < self._load.count

    async def _send(self, due: float) -> None:
        payload = self._payloads[len(self._due) % len(self._payloads)]
        self._due.append(due)
        handle = self._pace.sending()
        if isinstance(payload, str):
            await self._ws.send_str(payload)
        else:
            await self._ws.send_bytes(payload)
        self._pace.sent(handle)


class Posts:
    """A stream whose items are posted one by one, over connections that open when needed."""

    def __init__(self, setup: Setup) -> None:
        self._session = setup.session
        self._load = setup.load
        self._headers = OCTETS if setup.load.kept else {**OCTETS, "Connection": "close"}
        self._bodies = [item.encode() if isinstance(item, str) else item for item in setup.payloads]
        self._clock = setup.clock
        self._lags = setup.lags
        self._plan = setup.plan()
        self._due: list[float] = []
        self._answers: list[tuple[int, float, str]] = []

    async def open(self) -> None:
        """Do nothing."""

    async def run(self) -> None:
        """Post everything, and wait for every answer."""
        async with asyncio.TaskGroup() as posts:
            if not self._load.rate:
                for _ in range(self._load.window):
                    posts.create_task(self._in_turn())
            for due in self._plan:
                await self._clock.until(due)
                posts.create_task(self._post(due))

    async def close(self) -> None:
        """Do nothing: the session has the connections."""

    def account(self) -> Account:
        """Make the account."""
        return settle_plain(self._due, self._answers)

    async def _in_turn(self) -> None:
        """Post an item when the previous one is answered."""
        load = self._load
        while (now := self._clock.now()) < load.seconds and (
            load.count is None or len(self._due) < load.count
        ):
            await self._post(now)

    async def _post(self, due: float) -> None:
        if self._load.rate:
            self._lags.append(self._clock.now() - due)
        body = self._bodies[len(self._due) % len(self._bodies)]
        self._due.append(due)
        number = len(self._due)
        try:
            async with self._session.post(self._load.url, data=body, headers=self._headers) as response:
                await response.read()
                code = "" if response.ok and response.status < 300 else str(response.status)
        except ClientError as exc:
            code = type(exc).__name__
        self._answers.append((number, self._clock.now(), code))
