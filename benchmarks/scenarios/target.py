"""What the load scenarios have in common: the server that they run against, and how they run a load against it.

A scenario's server is one that runs already, or one started for it on this machine with one model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.failures import RunFailed
from benchmarks.load.generator import Load
from benchmarks.load.payloads import FRAME_BYTES
from benchmarks.load.run import Run, drive, drive_again_if_void
from benchmarks.load.schedule import Arrivals
from benchmarks.load.servers import Program, serving
from benchmarks.report.results import Say
from benchmarks.scenarios.options import Options
from stream_server.client.sync import connect_sync
from stream_server.errors import ClientError
from stream_server.server.config import named_model

PAYLOAD_OF = {"image": "portrait", "bytes": "frame", "text": "texts"}
"""What a model is sent, by the kind of input that it takes."""

ITEMS = {"portrait": "640x480 JPEGs", "frame": f"items of {FRAME_BYTES:,} bytes", "texts": "texts"}
"""What these are, for readers."""

PER_PROCESS = 2000.0
"""Items per second of one generator's process: it takes a third of a core for them, so that they hardly queue."""

STREAMS_MOST = 2000
"""Streams of a search. The server's own limits are for the world outside, and would end the search too early."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server that a scenario runs against.

    Attributes:
        payload: what its model is sent, by its name in `PAYLOADS`.
        program: the server's process; None where it is not ours.
        say: told when a run has to be done again.
    """

    say: Say
    url: str
    model: str
    payload: str
    program: Program | None

    @property
    def items(self) -> str:
        """What its model is sent, for readers."""
        return ITEMS[self.payload]

    @property
    def sharing(self) -> str:
        """A sentence for readers on what the load took from the server."""
        if self.program:
            return "The load ran on the same machine and took its part of the cores."
        return "The server was started by somebody else; its CPU time is not known."

    def closed(self, streams: int, seconds: float, policy: str = "queue", processes: int = 1) -> Run:
        """Run streams that wait for each answer: what the server does at most.

        Args:
            processes: of the generator, see `generators`.
        """
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
        """Run an open loop; once more if it was void, since what disturbed the generator may be over.

        Args:
            rate: items per second of each stream.
        """
        load = Load(
            self.url,
            self.model,
            self.payload,
            streams,
            seconds,
            policy,
            rate,
            arrivals=arrivals,
            processes=generators(streams, streams * rate),
        )
        return drive_again_if_void(self.program, load, self.say)

    def cpu_ms(self, run: Run) -> float:
        """CPU milliseconds of the server's tree per result; NaN where nothing can be said."""
        return run.cpu / run.results * 1e3 if self.program and run.results else math.nan


def generators(streams: int, rate: float) -> int:
    """Give how many processes a load needs for so many items per second of all its streams."""
    return min(streams, max(1, math.ceil(rate / PER_PROCESS)))


@contextmanager
def target(say: Say, options: Options, default: str, *args: str) -> Iterator[Target]:
    """Find or start the server.

    Args:
        say: see `Target`.
        default: the scenario's own model.
        args: further arguments of ``stream-server serve``.

    Raises:
        RunFailed: there is no such server, it has no such model, or one whose kind of items is not to be had here.
    """
    model = options.model or default
    if options.url:
        yield _target(say, options.url, model, None)
        return
    with serving(model, "--workers", str(options.workers), *limits(), *args) as program:
        yield _target(say, program.url, named_model(model).name, program)


def limits() -> Sequence[str]:
    """Give the settings of a server that lets one address have all streams."""
    names = ("max_streams", "max_streams_per_peer")
    return [part for name in names for part in ("--set", f"limits.{name}={STREAMS_MOST}")]


def _target(say: Say, url: str, model: str, program: Program | None) -> Target:
    try:
        with connect_sync(url, model) as stream:
            takes = stream.ready.input
    except ClientError as exc:
        raise RunFailed(str(exc)) from exc
    if takes not in PAYLOAD_OF:
        raise RunFailed(f"{model} takes {takes}, of which the benchmarks have no items")
    return Target(say, url.rstrip("/"), model, PAYLOAD_OF[takes], program)
