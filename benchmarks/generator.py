"""The load: streams to a server from a process of its own, kept cheap; it judges nothing while it runs.

The process connects, says ``ready``, waits for ``go``, says ``done`` when everything is answered, and then gives
its accounts. It uses aiohttp's client, whose websocket costs half the CPU of the websockets library, on payloads
made beforehand, and reads no message before the run is over.
"""

from __future__ import annotations

import asyncio
import json
import random
import select
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Self

from aiohttp import ClientSession, ClientWebSocketResponse, TCPConnector, WSMsgType

from benchmarks.failures import RunFailed
from benchmarks.ledger import Account, settle
from benchmarks.payloads import PAYLOADS, Payloads, expected

END = '{"type": "end"}'
END_PREFIX = '{"type": "end"'

CONNECT_S = 60.0
"""Far above what 64 handshakes take: only a server that does not answer is given up."""

LATE_S = 60.0
"""How long after its last item a run may still wait for answers, before it is given up."""


@dataclass(frozen=True, slots=True)
class Load:
    """Streams of one kind.

    Attributes:
        url: the server's address.
        payload: a name in `PAYLOADS`; a stream sends its items in turn.
        rate: items per second of each stream, sent on an absolute schedule whatever is answered, the streams'
            first items at random moments of the first interval. None for a closed loop, which sends the next item
            when one is answered.
        window: items in flight of a closed loop.
        seconds: how long items are sent.
        count: items of each stream of a closed loop, in place of a time.
    """

    url: str
    model: str
    payload: str
    streams: int
    seconds: float
    policy: str = "queue"
    rate: float | None = None
    window: int = 1
    count: int | None = None
    seed: int = 1

    @property
    def address(self) -> str:
        """Where a stream connects to."""
        path = f"{self.url}/v2/models/{self.model}/stream?policy={self.policy}"
        return path if self.rate else f"{path}&window={self.window}"


class Stream:
    """One websocket and its part of a load; times are seconds since the start of the run."""

    def __init__(self, ws: ClientWebSocketResponse, load: Load, payloads: Payloads) -> None:
        self._ws = ws
        self._load = load
        self._payloads = payloads
        self._due: list[float] = []
        self._messages: list[tuple[float, str]] = []
        self._loop = asyncio.get_running_loop()

    async def run(self, begun: float, phase: float) -> None:
        """Send and receive until the server's `end`."""
        self._begun = begun
        if self._load.rate:
            await asyncio.gather(self._scheduled(self._load.rate, phase), self._receive(closed=False))
        else:
            for _ in range(min(self._load.window, self._load.count or self._load.window)):
                await self._send(self._now())
            await self._receive(closed=True)

    def account(self) -> Account:
        """Settle the stream."""
        return settle(self._due, self._messages, expected(self._load.payload))

    def _now(self) -> float:
        return self._loop.time() - self._begun

    async def _scheduled(self, rate: float, phase: float) -> None:
        due = phase
        while due < self._load.seconds:
            if (early := due - self._now()) > 0:
                await asyncio.sleep(early)
            elif self._now() >= self._load.seconds:
                break  # the server reads more slowly than this stream is to send
            await self._send(due)
            due += 1 / rate
        await self._ws.send_str(END)

    async def _receive(self, *, closed: bool) -> None:
        answered = 0
        while (message := await self._ws.receive()).type is WSMsgType.TEXT:
            now = self._now()
            self._messages.append((now, message.data))
            if message.data.startswith(END_PREFIX):
                return
            if closed:
                answered += 1
                if now < self._load.seconds and self._more:
                    await self._send(now)
                elif answered == len(self._due):
                    await self._ws.send_str(END)

    @property
    def _more(self) -> bool:
        return self._load.count is None or len(self._due) < self._load.count

    async def _send(self, due: float) -> None:
        payload = self._payloads[len(self._due) % len(self._payloads)]
        self._due.append(due)
        if isinstance(payload, str):
            await self._ws.send_str(payload)
        else:
            await self._ws.send_bytes(payload)


async def run(load: Load) -> list[Account]:
    """Connect, and run when told so on standard input."""
    payloads = PAYLOADS[load.payload]()
    loop = asyncio.get_running_loop()
    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        sockets = [await session.ws_connect(load.address, max_msg_size=0) for _ in range(load.streams)]
        streams = [Stream(ws, load, payloads) for ws in sockets]
        for ws in sockets:
            await ws.receive()  # what the server greets with
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        begun = loop.time()
        # the schedule is the load's own, not a secret
        phases = random.Random(load.seed)  # noqa: S311
        interval = 1 / load.rate if load.rate else 0.0
        await asyncio.gather(*(stream.run(begun, phases.uniform(0, interval)) for stream in streams))
        print("done", flush=True)
        for ws in sockets:
            await ws.close()
    return [stream.account() for stream in streams]


class Generator:
    """A load's process, as the benchmark that starts it sees it; a context, at whose end the process is gone."""

    def __init__(self, load: Load) -> None:
        self._load = load
        command = [sys.executable, "-m", "benchmarks.generator"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self._tell(json.dumps(asdict(load)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:  # closes its pipes and waits for it
            pass

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def connect(self) -> None:
        """Wait until every stream is open."""
        if not self._heard("ready", CONNECT_S):
            raise RunFailed(f"the load did not connect to {self._load.address}")

    def go(self) -> None:
        """Begin."""
        self._tell("go")

    def done_within(self, seconds: float) -> bool:
        """Wait for the end of the run, for so long at most; whether it came."""
        return self._heard("done", seconds)

    def finish(self) -> None:
        """Wait for the end of the run, whose length its load limits."""
        if not self.done_within(self._load.seconds + LATE_S):
            raise RunFailed(
                f"streams to {self._load.address} have not ended {LATE_S:.0f} s after the last item"
            )

    def accounts(self) -> list[Account]:
        """What became of each stream, after the run."""
        assert self._process.stdout
        # not `communicate`, which would miss what came together with the last line
        return [Account(**account) for account in json.load(self._process.stdout)]

    def _tell(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _heard(self, word: str, seconds: float) -> bool:
        assert self._process.stdout
        readable, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not readable:
            return False
        line = self._process.stdout.readline().strip()
        if line != word:
            raise RunFailed(f"the load's process ended in place of {word!r}: {line!r}")
        return True


if __name__ == "__main__":
    done = asyncio.run(run(Load(**json.loads(sys.stdin.readline()))))
    sys.stdout.write(json.dumps([asdict(account) for account in done]))
