"""The server that a scenario runs against: a running one, or one started on this machine with one model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from msgspec.structs import replace

from benchmarks.failures import RunFailed
from benchmarks.load.generator import Load
from benchmarks.load.payloads import FRAME_BYTES
from benchmarks.load.run import Run, drive, drive_again_if_void
from benchmarks.load.schedule import Arrivals
from benchmarks.load.servers import Program, serving
from benchmarks.report.results import Say
from benchmarks.scenarios.catalogue import Options
from stream_server.client.sync import connect_sync
from stream_server.errors import ClientError
from stream_server.server.config import named_model

PAYLOAD_OF = {"image": "portrait", "bytes": "frame", "text": "texts"}
"""The payload for each kind of input."""

ITEMS = {"portrait": "640x480 JPEGs", "frame": f"items of {FRAME_BYTES:,} bytes", "texts": "texts"}
"""Descriptions of the payloads."""

PER_PROCESS = 2000.0
"""Items per second of one generator process, which need a third of a core, so that they hardly queue."""

STREAMS_MOST = 2000
"""Most streams of a search. The server's default limits would end it too early."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server that a scenario runs against."""

    say: Say  # told when a run is repeated
    url: str
    model: str
    payload: str  # a name in `PAYLOADS`
    program: Program | None  # None if it was not started here

    @property
    def items(self) -> str:
        """Description of the items."""
        return ITEMS[self.payload]

    @property
    def sharing(self) -> str:
        """A sentence on what the load took from the server."""
        if self.program:
            return "The load ran on the same machine and shared its cores."
        return "The server was not started by the benchmark; its CPU time is unknown."

    def closed(self, streams: int, seconds: float, policy: str = "queue", processes: int = 1) -> Run:
        """Run a closed loop, which finds the server's capacity."""
        load = Load(self.url, self.model, self.payload, streams, seconds, policy, processes=processes)
        return drive(self.program, [load])

    def scheduled(
        self,
        streams: int,
        rate: float,
        seconds: float,
        policy: str = "queue",
        arrivals: Arrivals = "steady",
    ) -> Run:
        """Run an open loop with `rate` items per second of each stream; once more if it is void."""
        load = Load(self.url, self.model, self.payload, streams, seconds, policy, rate, arrivals=arrivals)
        shared = replace(load, processes=generators(streams, streams * rate))
        return drive_again_if_void(self.program, shared, self.say)

    def cpu_ms(self, run: Run) -> float:
        """CPU milliseconds of the server's tree per result; NaN if unknown."""
        return run.cpu / run.results * 1e3 if self.program and run.results else math.nan


def generators(streams: int, rate: float) -> int:
    """Give the number of processes for `rate` items per second of all streams together."""
    return min(streams, max(1, math.ceil(rate / PER_PROCESS)))


@contextmanager
def target(say: Say, options: Options, default: str) -> Iterator[Target]:
    """Find or start the server.

    Args:
        default: the scenario's own model.

    Raises:
        RunFailed: there is no such server or model, or no payload for it.
    """
    model = options.model or default
    if options.url:
        yield _target(say, options.url, model, None)
        return
    with serving(model, "--workers", str(options.workers), max_streams=STREAMS_MOST) as program:
        yield _target(say, program.url, named_model(model).name, program)


def _target(say: Say, url: str, model: str, program: Program | None) -> Target:
    try:
        with connect_sync(url, model) as stream:
            takes = stream.ready.input
    except ClientError as exc:
        raise RunFailed(str(exc)) from exc
    if takes not in PAYLOAD_OF:
        raise RunFailed(f"{model} takes {takes}, for which the benchmarks have no items")
    return Target(say, url.rstrip("/"), model, PAYLOAD_OF[takes], program)
