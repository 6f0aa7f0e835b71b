"""The process that puts a load on a server; `generator` starts it.

It reads its load as JSON, connects, waits for its word and runs. Accounts and histograms are made only when nothing
is measured any more, and written last.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterable
from contextlib import suppress

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from benchmarks.failures import Refused, RunFailed
from benchmarks.load.generator import Load, Outcome
from benchmarks.load.histograms import Latencies, slots
from benchmarks.load.payloads import PAYLOADS
from benchmarks.load.schedule import Clock, watch
from benchmarks.load.subprocesses import FAILED, REFUSED, order, say
from benchmarks.load.transports import Posts, Setup, Stream, Websocket

CLOSE_S = 5.0
"""Time limit of closing the websockets after the run; it takes milliseconds."""


async def run(load: Load) -> Outcome:
    """Connect, and run when told so on standard input."""
    payloads = PAYLOADS[load.payload]()
    clock = Clock()
    lags: list[float] = []
    late: list[float] = []
    # the benchmark gives up a run that takes too long
    unlimited = ClientTimeout(total=None)
    async with ClientSession(connector=TCPConnector(limit=0), timeout=unlimited) as session:
        kind: type[Posts | Websocket] = Posts if load.transport == "http" else Websocket
        streams: list[Stream] = [
            kind(Setup(session, load, load.first + number, payloads, clock, lags))
            for number in range(load.streams)
        ]
        for stream in streams:
            await stream.open()
        say("ready")
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        # a collection would look at every answer kept so far, which takes longer and longer
        gc.disable()
        clock.start()
        watching = asyncio.create_task(watch(clock, late))
        await asyncio.gather(*(stream.run() for stream in streams))
        watching.cancel()
        ended = clock.now()
        say("done")
        await close(streams)
    return _outcome(load, streams, ended, lags, late)


async def close(streams: Iterable[Stream]) -> None:
    """Close all streams at once; do not wait longer for those that the server does not close."""
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


def main() -> int:
    """Run the load given on standard input."""
    try:
        say(asyncio.run(run(order(Load))).encode())
    except Refused as exc:
        say(f"{REFUSED}{exc.code} {exc.reason}")
        return 1
    except (ClientError, OSError, RunFailed) as exc:
        say(f"{FAILED}{exc}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
