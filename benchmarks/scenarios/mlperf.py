"""MLPerf's four scenarios by its own LoadGen, with the `faces` model: the method, not an official result.

LoadGen makes the load, measures, and decides whether a run is VALID; this module starts it and reads its summary. A
submission would also need 600 seconds a scenario, MLPerf's models and data, and an accuracy run.

LoadGen waits for every sample without a limit, and its C++ code may abort, so each trial runs in its own process:
``python -m benchmarks.scenarios.mlperf`` reads a trial as JSON on standard input, and writes the client's account.
Between LoadGen and the server is a `stream_server.client` with one `queue` stream, on a loop in a thread; its cost
is part of the latencies.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import msgspec
import numpy as np
from msgspec.structs import replace

from benchmarks.failures import INSTALL, RunFailed
from benchmarks.load.payloads import portrait
from benchmarks.load.servers import serving
from benchmarks.load.subprocesses import call, order, say
from benchmarks.report.results import Cell, Grid, Plot, Say, Section, Series, grid, none
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


SECONDS, QUICK_SECONDS = 10.0, 1.5
LONGEST_S = 120.0
"""MultiStream takes half a minute on two cores; machines of a quarter of that speed still finish."""

START_S = 60.0
"""Additional time for starting Python, connecting, and ending LoadGen."""

QUERIES: Mapping[Scenario, int] = {"SingleStream": 64, "MultiStream": 662, "Server": 662, "Offline": 1}
"""The fewest from which LoadGen's early stopping estimates a 90th and a 99th percentile."""

QUICK_QUERIES = 64
PROBE_S, PROBE_RATE = 1.0, 200.0
SPARE = 1.5
"""Offline's one query must last as long as requested, so it gets more samples than the probe's rate needs."""

PART, BOUND_MS = 0.6, 100.0
"""Server: share of Offline's rate, and the limit of feeling instantaneous (Nielsen, "Usability Engineering")."""

PERCENTILES = "50.00", "90.00", "95.00", "97.00", "99.00"

KEPT = "mlperf_log_summary.txt", "mlperf_log_detail.txt"


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run of LoadGen."""

    url: str  # the server's address; its model is `faces`
    scenario: Scenario
    seconds: float  # the shortest run
    longest_s: float  # the longest run
    queries: int  # the fewest queries
    rate: float  # samples per second: sent by Server, expected of Offline
    bound_ms: float  # of Server, for 99 % of the answers
    folder: str = ""  # where LoadGen writes its logs


class Counted(msgspec.Struct):
    """The client's own account."""

    issued: int = 0  # samples that LoadGen asked for
    answered: int = 0  # answers that it was told of
    faceless: int = 0  # errors, and results without exactly one face
    received: int = 0  # by the server's count, as are `results`
    results: int = 0

    @property
    def unaccounted(self) -> int:
        """Samples not answered exactly once, by the client's or the server's count."""
        return max(abs(self.issued - other) for other in (self.answered, self.received, self.results))


@dataclass(frozen=True, slots=True)
class Summary:
    """LoadGen's summary of a run."""

    verdict: str  # `VALID` or `INVALID`
    values: Mapping[str, str]  # all its named values, in its units
    reasons: tuple[str, ...]  # why the run is invalid, and recommendations, in its words

    def number(self, name: str) -> float:
        """Give one of the values.

        Raises:
            RunFailed: it does not exist.
        """
        if name not in self.values:
            raise RunFailed(f"LoadGen's summary has no {name!r}")
        return float(self.values[name])


@dataclass(frozen=True, slots=True)
class Outcome:
    """One scenario's run, as LoadGen and as the client saw it."""

    scenario: Scenario
    summary: Summary
    counted: Counted


def parse(text: str) -> Summary:
    """Read LoadGen's `mlperf_log_summary.txt`.

    Raises:
        RunFailed: it has no verdict.
    """
    values = dict(re.findall(r"^[ *]*([^:\n]+?) *: *(\S[^\n]*?) *$", text, re.MULTILINE))
    verdict = values.get("Result is")
    if verdict not in ("VALID", "INVALID"):
        raise RunFailed("LoadGen's summary has no verdict")
    if verdict == "VALID":
        return Summary(verdict, values, ())
    judged = text.partition("Result is")[2].partition("=====")[0]
    unkept = re.findall(r"^ *(.+?) satisfied *: *NO", judged, re.MULTILINE)
    # a sentence may continue on indented lines without a star
    said = re.findall(r"^ \* (.+(?:\n (?! ?\*).+)*)", judged, re.MULTILINE)
    reasons = [f"{name} not satisfied." for name in unkept] + [" ".join(each.split()) for each in said]
    return Summary(verdict, values, tuple(reasons))


def run(trial: Trial, keep: Path | None = None) -> Outcome:
    """Run one trial in its own process; leave LoadGen's logs in the folder `keep`.

    Raises:
        RunFailed: it failed, did not end, or LoadGen gave no verdict.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            counted = call(
                "benchmarks.scenarios.mlperf",
                seconds=trial.longest_s + START_S,
                kind=Counted,
                order=replace(trial, folder=folder),
            )
        except RunFailed as exc:
            raise RunFailed(f"LoadGen's {trial.scenario}: {exc}") from exc
        summary = parse((Path(folder) / KEPT[0]).read_text("utf-8"))
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            for name in KEPT:
                shutil.copyfile(Path(folder) / name, keep / name)
    return Outcome(trial.scenario, summary, counted)


def measure(say: Say, quick: bool, logs: Path | None = None) -> list[Section]:
    """Run the four scenarios against a server with two workers; leave LoadGen's logs in `logs`, by scenario.

    Raises:
        RunFailed: LoadGen is not installed, or did not end.
    """
    if find_spec("mlperf_loadgen") is None:
        raise RunFailed(f"mlcommons-loadgen is not installed: {INSTALL}")
    seconds = QUICK_SECONDS if quick else SECONDS
    with serving("faces") as server:

        def trial(scenario: Scenario, rate: float) -> Outcome:
            queries = min(QUERIES[scenario], QUICK_QUERIES) if quick else QUERIES[scenario]
            say(f"{scenario}, at least {seconds:.0f} s and {queries} queries")
            one = Trial(server.url, scenario, seconds, LONGEST_S, queries, rate, BOUND_MS)
            return run(one, logs / scenario if logs else None)

        say("warming up, to find how many samples an Offline query needs")
        warm = Trial(server.url, "Offline", PROBE_S, LONGEST_S, 1, PROBE_RATE, BOUND_MS)
        expected = throughput(run(warm)) * SPARE
        scenarios: tuple[Scenario, ...] = ("SingleStream", "MultiStream", "Offline")
        outcomes = [trial(scenario, expected) for scenario in scenarios]
        outcomes.append(trial("Server", throughput(outcomes[-1]) * PART))
    return [section(outcomes, seconds)]


def throughput(offline: Outcome) -> float:
    """Give the samples per second of an Offline run."""
    return offline.summary.number("Samples per second")


def section(outcomes: Sequence[Outcome], seconds: float) -> Section:
    """Make the section of all outcomes."""
    total = sum(outcome.counted.issued for outcome in outcomes)
    return Section(
        "mlperf",
        _about(seconds),
        figures=(
            none(
                "mlperf: samples not answered exactly once",
                sum(outcome.counted.unaccounted for outcome in outcomes),
                f"of {total:,}",
            ),
            none("mlperf: answers without the face", sum(outcome.counted.faceless for outcome in outcomes)),
        ),
        grids=(grid("LoadGen's verdicts", outcomes, COLUMNS), *_reasons(outcomes)),
        plots=(_latencies(outcomes),),
    )


def _about(seconds: float) -> str:
    return (
        f"MLPerf LoadGen scenarios; not an official MLPerf result. LoadGen, in a process of its own on the same "
        f"machine, is a client over one websocket with at most {WINDOW} samples in flight; a sample is one of "
        f"{len(SHIFTS)} JPEGs of 640x480, its answer the face in it. SingleStream sends the next sample when the "
        f"last one is answered, MultiStream {SAMPLES_PER_QUERY} at a time, Offline all at once, and Server at "
        f"random moments (Poisson) {PART:.0%} of what Offline reached, with a bound of {BOUND_MS:.0f} ms for 99 "
        f"of 100.\n\nThe clock starts when a sample was scheduled, and the verdicts are LoadGen's own. An "
        f"estimate of a percentile is early stopping's: the shorter the run, the nearer it is to the greatest "
        f"latency.\n\nA scenario ran for at least {seconds:.0f} s where MLPerf asks for 600, with a model and "
        f"data that are not MLPerf's, and without a run for accuracy: nothing here can be compared with "
        f"published results."
    )


def _reasons(outcomes: Sequence[Outcome]) -> list[Grid]:
    """Make the table of LoadGen's reasons, if a run is invalid."""
    rows = tuple((outcome.scenario, reason) for outcome in outcomes for reason in outcome.summary.reasons)
    return [Grid("What LoadGen says of what is INVALID", ("scenario", "reason"), rows)] if rows else []


def metric(outcome: Outcome) -> tuple[str, float, str]:
    """Give the name of the scenario's metric, its value and its unit.

    Latencies are early stopping's estimates, by MLPerf's rules; a run too short for one has only the percentile.
    """
    summary = outcome.summary
    if outcome.scenario == "Server":
        return "scheduled rate", summary.number("Scheduled samples per second"), "samples/s"
    if outcome.scenario == "Offline":
        return "throughput", throughput(outcome), "samples/s"
    percent = "90" if outcome.scenario == "SingleStream" else "99"
    estimate = f"Early stopping {percent}.0th percentile estimate"
    if estimate in summary.values:
        return f"query p{percent}, estimate", summary.number(estimate) / 1e6, "ms"
    return f"query p{percent}", summary.number(f"{percent}.0th percentile latency (ns)") / 1e6, "ms"


COLUMNS: Mapping[str, Callable[[Outcome], Cell]] = {
    "scenario": lambda outcome: outcome.scenario,
    "metric": lambda outcome: metric(outcome)[0],
    "": lambda outcome: metric(outcome)[1],
    "unit": lambda outcome: metric(outcome)[2],
    "verdict": lambda outcome: outcome.summary.verdict,
    "samples": lambda outcome: outcome.counted.issued,
}


def _latencies(outcomes: Sequence[Outcome]) -> Plot:
    """Plot the latencies of queries; Offline has a single query."""
    return Plot(
        "MLPerf LoadGen scenarios: latency of a query",
        "percentile",
        "ms, from scheduled to answered",
        tuple(
            Series(
                outcome.scenario,
                tuple(
                    (float(number), outcome.summary.number(f"{percentile} percentile latency (ns)") / 1e6)
                    for number, percentile in enumerate(PERCENTILES)
                ),
            )
            for outcome in outcomes
            if outcome.scenario != "Offline"
        ),
        "bar",
        tuple(f"p{percentile.partition('.')[0]}" for percentile in PERCENTILES),
    )


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


def run_loadgen(trial: Trial) -> Counted:
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
    say(run_loadgen(order(Trial)))
