"""How streams bring their items to a server: by this project's protocol, a plain websocket, or one POST per item.

Each keeps what is due and what comes back, cheaply, and judges nothing before the run is over. aiohttp's websocket
costs half the CPU of the websockets library.
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
from benchmarks.load.arrivals import chance_of, schedule
from benchmarks.load.generator import Load
from benchmarks.load.pacing import Clock, Pace
from benchmarks.load.payloads import Payloads, expected

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
        """Leave."""

    def account(self) -> Account:
        """Settle the stream, after the run."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What one stream is given.

    Attributes:
        number: which one of the load's streams it is.
        lags: where the lag of each of its items goes, in seconds.
    """

    session: ClientSession
    load: Load
    number: int
    payloads: Payloads
    clock: Clock
    lags: list[float]

    def plan(self) -> Sequence[float]:
        """Make its schedule; a closed loop has none."""
        load = self.load
        if not load.rate:
            return []
        return schedule(load.arrivals, load.rate, load.seconds, chance_of(load.seed, self.number))


class Websocket:
    """A stream over a websocket, of this project's protocol or a plain one."""

    def __init__(self, lane: Lane) -> None:
        self._session = lane.session
        self._load = lane.load
        self._payloads = lane.payloads
        self._clock = lane.clock
        self._pace = Pace(lane.clock, lane.lags)
        self._plan = lane.plan()
        self._due: list[float] = []
        self._messages: list[tuple[float, str]] = []
        self._sent_all = False
        self._ws: ClientWebSocketResponse

    async def open(self) -> None:
        """Connect, and hear the greeting, where there is one.

        Raises:
            Refused: the server does not take the stream.
        """
        self._ws = await self._session.ws_connect(self._load.address, max_msg_size=0)
        if self._load.transport == "stream":
            greeting = json.loads((await self._ws.receive()).data or "{}")
            if greeting.get("type") != "ready":
                raise Refused(greeting.get("code", "none"), greeting.get("message", str(greeting)))

    async def run(self) -> None:
        """Send, and receive until everything is answered or the server ends the stream."""
        # of a server that has closed: what is missing shows in the account
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
        """Settle the stream."""
        unsent = self._plan[len(self._due) :]
        if self._load.transport == "stream":
            return settle(self._due, self._messages, expected(self._load.payload), unsent)
        answers = [(number, at, "") for number, (at, _) in enumerate(self._messages, 1)]
        return settle_plain(self._due, answers, unsent)

    async def _scheduled(self) -> None:
        for due in self._plan:
            await self._pace.until(due)
            if self._pace.held(due) and self._clock.now() >= self._load.seconds:
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
        """Tell the server that there is nothing more; a plain one is left as soon as it has answered all."""
        self._sent_all = True
        if self._load.transport == "stream":
            await self._ws.send_str(END)
        elif len(self._messages) >= len(self._due):
            await self._ws.close()

    def _ended(self, text: str) -> bool:
        """Whether a message that came is the last one."""
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
    """A stream whose items are posted one by one; its connections open when they are first needed."""

    def __init__(self, lane: Lane) -> None:
        self._session = lane.session
        self._load = lane.load
        self._headers = OCTETS if lane.load.kept else {**OCTETS, "Connection": "close"}
        self._bodies = [item.encode() if isinstance(item, str) else item for item in lane.payloads]
        self._clock = lane.clock
        self._lags = lane.lags
        self._plan = lane.plan()
        self._due: list[float] = []
        self._answers: list[tuple[int, float, str]] = []

    async def open(self) -> None:
        """Nothing to open."""

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
        """Nothing to close: the connections are the session's."""

    def account(self) -> Account:
        """Settle the stream."""
        return settle_plain(self._due, self._answers)

    async def _in_turn(self) -> None:
        """Post one item after the other, each when the last one is answered."""
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
