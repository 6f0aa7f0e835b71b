"""The scenarios by name, and their options.

Each is imported on demand, because its dependencies are optional and slow to import.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from stream_server.errors import ConfigError

LEAST = {"workers": 1, "streams": 1, "fps": 1, "seconds": 2, "fresh_ms": 1, "sustained_rate": 0}
"""Minimum of each. At one frame a second, a frame is measured only in runs of at least two seconds."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a scenario; None leaves one to the scenario.

    Raises:
        ConfigError: a number is too small.
    """

    url: str | None = None  # a running server; without it one is started with this many `workers`
    workers: int = 2
    model: str | None = None  # as ``stream-server serve --model`` takes it, or its name on the running server
    streams: int | None = None  # how many; for a search the most
    fps: float = 15.0  # frames per second of each camera
    seconds: float | None = None  # of each run
    # an answer is fresh up to this age, from the frame's capture to its arrival: the client's bound, while the
    # server's `max_age_ms` expires waiting items
    fresh_ms: float = 200.0
    # fresh answers per second that every camera needs to count as sustained: below five, boxes jump rather than
    # move
    sustained_rate: float = 5.0

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ConfigError(f"--{name.replace('_', '-')} {value:g}: use {least} or more")


DEFAULT = Options()
"""No option given."""

SERVER = ("url", "workers", "model")
"""Options of every scenario that runs against one server."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A scenario."""

    place: str  # of its suite, as ``module:function``
    about: str  # what it shows, in a line
    takes: tuple[str, ...] = ()  # fields of `Options`; if there are any, the suite has a parameter `options`
    logs: bool = False  # whether the suite has a parameter `logs`, a folder for its logs
    apart: bool = False  # has no quick form, and is not part of `all`

    def load(self) -> Callable[..., Any]:
        """Import the suite.

        Raises:
            ModuleNotFoundError: an optional package is missing.
        """
        module, _, function = self.place.partition(":")
        suite: Callable[..., Any] = getattr(import_module(module), function)
        return suite


SUITES = {
    "camera": Entry(
        "benchmarks.scenarios.camera:measure",
        "cameras on a fixed schedule: how fresh, fair and complete the answers are",
        (*SERVER, "streams", "fps", "seconds", "fresh_ms"),
    ),
    "search": Entry(
        "benchmarks.scenarios.search:measure",
        "how many cameras the server sustains, by bisection",
        (*SERVER, "streams", "fps", "seconds", "fresh_ms", "sustained_rate"),
    ),
    "text": Entry(
        "benchmarks.scenarios.text:measure",
        "texts at random times: latency against load",
        (*SERVER, "streams", "seconds"),
    ),
    "connect": Entry(
        "benchmarks.scenarios.connect:measure",
        "idle connections, and those that come and go: memory, CPU, rate",
    ),
    "mlperf": Entry(
        "benchmarks.scenarios.mlperf:measure",
        "the four scenarios of MLPerf's LoadGen, with its own verdicts",
        logs=True,
    ),
    "speed": Entry(
        "benchmarks.scenarios.baseline:measure",
        "what serving adds to the bare model: CPU, latency, growth with the streams, stalls",
    ),
    "peers": Entry("benchmarks.scenarios.peers:measure", "other servers on the same work, in the same run"),
    "engine": Entry(
        "benchmarks.engine.suites:measure",
        "the engine's figures with their targets, chaos and recovery among them",
        apart=True,
    ),
}
