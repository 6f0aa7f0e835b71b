"""One run of MLPerf's LoadGen against a server, in its own process.

LoadGen decides when a sample is due, and measures until it is told of the answer. Between it and the server is a
`stream_server.client` with one `queue` stream, on a loop in a thread; its cost is part of the latencies.

LoadGen waits for every sample without a limit, and its C++ code may abort, so the benchmark runs this module as a
program: a trial comes as JSON on standard input, and the client's account goes out as JSON.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal, TypeAlias

import cv2
import msgspec
import numpy as np

from benchmarks.load.payloads import portrait
from benchmarks.load.subprocesses import order, say
from stream_server.client.stream import connect
from stream_server.protocol.client_side import Answer, Result

Scenario: TypeAlias = Literal["SingleStream", "MultiStream", "Server", "Offline"]

WINDOW = 16
"""Samples in flight: enough that two workers never wait for the client."""

SHIFTS = tuple(range(-140, 141, 40))
"""By how many pixels the portrait is shifted for each of the photographs; the face stays whole."""

SAMPLES_PER_QUERY = 8
"""Of MultiStream, as MLPerf's rules have it."""

CONNECT_S = 60.0


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run of LoadGen.

    Attributes:
        url: the server's address; its model is `faces`.
        seconds: the shortest run.
        longest_s: the longest run.
        queries: the fewest queries.
        rate: samples per second: sent by Server, expected of Offline.
        bound_ms: of Server, for 99 % of the answers.
        folder: where LoadGen writes its logs.
    """

    url: str
    scenario: Scenario
    seconds: float
    longest_s: float
    queries: int
    rate: float
    bound_ms: float
    folder: str = ""


class Counted(msgspec.Struct):
    """The client's own account.

    Attributes:
        issued: samples that LoadGen asked for.
        answered: answers that it was told of.
        faceless: errors, and results without exactly one face.
        received, results: the server's count.
    """

    issued: int = 0
    answered: int = 0
    faceless: int = 0
    received: int = 0
    results: int = 0

    @property
    def unaccounted(self) -> int:
        """Samples not answered exactly once, by the client's or the server's count."""
        return max(abs(self.issued - other) for other in (self.answered, self.received, self.results))


def photographs() -> list[bytes]:
    """Make different JPEGs of 640x480 with one face each."""
    (portrait_,) = portrait()
    image = cv2.imdecode(np.frombuffer(portrait_, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None  # it ships with the page, and tests decode it
    return [cv2.imencode(".jpg", np.roll(image, shift, axis=1))[1].tobytes() for shift in SHIFTS]


class Client:
    """Sends issued samples in order, and reports each answer.

    Args:
        complete: called with a sample's id, on the client's thread.
    """

    def __init__(self, url: str, complete: Callable[[int], None]) -> None:
        self._url = url
        self._complete = complete
        self._images = photographs()
        self._counted = Counted()
        self._flight: deque[int] = deque()
        self._connected = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        if not self._connected.wait(CONNECT_S):
            raise TimeoutError(f"no connection to {url}")

    def issue(self, samples: Sequence[Any]) -> None:
        """Take a query's samples, each with an `id` and the `index` of its photograph; from any thread."""
        # LoadGen frees its objects after this call
        pairs = [(sample.id, sample.index) for sample in samples]
        self._loop.call_soon_threadsafe(self._enqueue, pairs)

    def finish(self) -> Counted:
        """End the stream after the last answer; return the account."""
        self._loop.call_soon_threadsafe(self._due.put_nowait, None)
        self._thread.join()
        return self._counted

    def _run(self) -> None:
        try:
            asyncio.run(self._stream())
        except BaseException:  # noqa: BLE001  # LoadGen would wait without a limit
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    async def _stream(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
        async with connect(self._url, model="faces", policy="queue", window=WINDOW) as stream:
            self._connected.set()
            async for answer in stream.process(self._items()):
                self._settle(answer)
            end = await stream.end()
        assert end  # a stream that does not reconnect has one, or an error
        self._counted.received, self._counted.results = end.received, end.results

    async def _items(self) -> AsyncIterator[bytes]:
        while (sample := await self._due.get()) is not None:
            number, index = sample
            self._flight.append(number)
            yield self._images[index]

    def _enqueue(self, pairs: Sequence[tuple[int, int]]) -> None:
        self._counted.issued += len(pairs)
        for pair in pairs:
            self._due.put_nowait(pair)

    def _settle(self, answer: Answer) -> None:
        self._counted.answered += 1
        self._counted.faceless += not (isinstance(answer, Result) and len(answer.outputs["faces"]) == 1)
        self._complete(self._flight.popleft())


def settings(lg: Any, trial: Trial) -> Any:
    """Convert a trial to LoadGen's settings."""
    made = lg.TestSettings()
    made.scenario = getattr(lg.TestScenario, trial.scenario)
    made.mode = lg.TestMode.PerformanceOnly
    made.min_duration_ms = int(trial.seconds * 1e3)
    made.max_duration_ms = int(trial.longest_s * 1e3)
    made.min_query_count = trial.queries
    made.multi_stream_samples_per_query = SAMPLES_PER_QUERY
    made.server_target_qps = made.offline_expected_qps = trial.rate
    made.server_target_latency_ns = int(trial.bound_ms * 1e6)
    return made


def run(trial: Trial) -> Counted:
    """Run LoadGen against the server; return the client's account."""
    import mlperf_loadgen as lg  # type: ignore[import-not-found]  # noqa: PLC0415  # optional

    client = Client(trial.url, lambda number: lg.QuerySamplesComplete([lg.QuerySampleResponse(number, 0, 0)]))
    sut = lg.ConstructSUT(client.issue, lambda: None)
    # the photographs are in memory all the time
    qsl = lg.ConstructQSL(len(SHIFTS), len(SHIFTS), lambda _: None, lambda _: None)
    logs = lg.LogSettings()
    logs.enable_trace = False
    logs.log_output.outdir = trial.folder
    logs.log_output.copy_summary_to_stdout = False
    lg.StartTestWithLogSettings(sut, qsl, settings(lg, trial), logs)
    lg.DestroyQSL(qsl)
    lg.DestroySUT(sut)
    return client.finish()


if __name__ == "__main__":
    say(run(order(Trial)))
