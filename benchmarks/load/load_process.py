"""The process that puts a load on a server; `generator` starts it.

It reads its load as JSON, connects, waits for its word and runs. What it has to say comes last, as JSON: books are
settled and histograms made only when nothing is measured any more.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Iterable
from contextlib import suppress

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from benchmarks.failures import Refused, RunFailed
from benchmarks.load.generator import Load, Outcome
from benchmarks.load.histograms import Latencies, slots
from benchmarks.load.pacing import Clock, watch
from benchmarks.load.payloads import PAYLOADS
from benchmarks.load.subprocesses import FAILED, REFUSED
from benchmarks.load.transports import Lane, Posts, Stream, Websocket

CLOSE_S = 5.0
"""How long the websockets may take to close when all is over; it takes milliseconds."""


async def run(load: Load) -> Outcome:
    """Connect, and run when told so on standard input."""
    payloads = PAYLOADS[load.payload]()
    clock = Clock()
    lags: list[float] = []
    late: list[float] = []
    # whoever started this process gives a run up that takes too long
    patience = ClientTimeout(total=None)
    async with ClientSession(connector=TCPConnector(limit=0), timeout=patience) as session:
        kind: type[Posts | Websocket] = Posts if load.transport == "http" else Websocket
        streams: list[Stream] = [
            kind(Lane(session, load, load.first + number, payloads, clock, lags))
            for number in range(load.streams)
        ]
        for stream in streams:
            await stream.open()
        _say("ready")
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        # a collection looks at every answer kept so far, which takes longer and longer
        gc.disable()
        clock.start()
        watching = asyncio.create_task(watch(clock, late))
        await asyncio.gather(*(stream.run() for stream in streams))
        watching.cancel()
        ended = clock.now()
        _say("done")
        await leave(streams)
    return _outcome(load, streams, ended, lags, late)


async def leave(streams: Iterable[Stream]) -> None:
    """Close all streams at once; the books do not wait for those that the server does not close."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await asyncio.gather(*(stream.close() for stream in streams))


def _outcome(
    load: Load, streams: list[Stream], ended: float, lags: list[float], late: list[float]
) -> Outcome:
    accounts = [stream.account() for stream in streams]
    results = [
        (at, wait_ms / 1e3)
        for account in accounts
        for at, _, wait_ms in account.answers
        if at - wait_ms / 1e3 < load.measured_s
    ]
    latency = Latencies(
        waited_ms / 1e3 for account in accounts for _, waited_ms in account.waits(ended, load.measured_s)
    )
    return Outcome(accounts, latency, Latencies(lags), Latencies(late), slots(results))


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """Run the load that standard input tells."""
    load = Load(**json.loads(sys.stdin.readline()))
    try:
        outcome = asyncio.run(run(load))
    except Refused as exc:
        _say(f"{REFUSED}{exc.code} {exc.reason}")
        return 1
    except (ClientError, OSError, RunFailed) as exc:
        _say(f"{FAILED}{exc}")
        return 1
    _say(json.dumps(outcome.as_json()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
