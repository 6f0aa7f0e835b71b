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

from benchmarks.load.accounts import due_before
from benchmarks.load.generator import Load, Outcome
from benchmarks.load.histograms import Latencies, slots
from benchmarks.load.payloads import PAYLOADS
from benchmarks.load.schedule import Clock, watch
from benchmarks.load.subprocesses import obey, say
from benchmarks.load.transports import Posts, Setup, Stream, Websocket, open_session

CLOSE_S = 5.0
"""Time limit of closing the websockets after the run; it takes milliseconds."""


async def run(load: Load) -> None:
    """Connect, run when told so on standard input, and report."""
    payloads = PAYLOADS[load.payload]()
    clock = Clock()
    lags: list[float] = []
    late: list[float] = []
    async with open_session() as session:
        kind = Posts if load.transport == "http" else Websocket
        setups = (
            Setup(session, load, load.first + number, payloads, clock, lags) for number in range(load.streams)
        )
        streams: list[Stream] = [kind(setup) for setup in setups]
        for stream in streams:
            await stream.open()
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        # a collection would look at every answer kept so far, which takes longer and longer
        gc.disable()
        clock.start()
        watching = asyncio.create_task(watch(clock, late))
        await asyncio.gather(*(stream.run() for stream in streams))
        watching.cancel()
        ended = clock.now()
        say("done")
        await close(streams)
    say(_outcome(load, streams, ended, lags, late).encode())


async def close(streams: Iterable[Stream]) -> None:
    """Close all streams at once; do not wait longer for those that the server does not close."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await asyncio.gather(*(stream.close() for stream in streams))


def _outcome(
    load: Load, streams: list[Stream], ended: float, lags: list[float], late: list[float]
) -> Outcome:
    accounts = [stream.account() for stream in streams]
    waits = (wait_ms / 1e3 for account in accounts for _, wait_ms in account.waits(ended, load.measured_s))
    results = ((at, wait_ms) for account in accounts for at, _, wait_ms in account.answers)
    timeline = slots((at, wait_ms / 1e3) for at, wait_ms in due_before(results, load.measured_s))
    return Outcome(accounts, Latencies(waits), Latencies(lags), Latencies(late), timeline)


if __name__ == "__main__":
    sys.exit(obey(Load, run))
