"""The benchmarks by name, each imported when it is asked for: what they need is optional, and slow to import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

SERVER = ("url", "workers", "model")
"""Options of every scenario that runs against one server."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A benchmark.

    Attributes:
        place: where its suite is, as ``module:function``.
        about: what it shows, in a line.
        takes: the fields of `Options` that it takes; the suite takes such a value as `options`, if any.
        logs: it takes the folder for logs of its own as `logs`, if any.
        apart: it cannot be quick, and is no part of `all`.
    """

    place: str
    about: str
    takes: tuple[str, ...] = ()
    logs: bool = False
    apart: bool = False

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
        "cameras that keep their own time: how fresh, fair and complete the answers are",
        (*SERVER, "streams", "fps", "seconds", "max_age_ms"),
    ),
    "search": Entry(
        "benchmarks.scenarios.search:measure",
        "how many cameras the server sustains, by bisection",
        (*SERVER, "streams", "fps", "seconds", "max_age_ms", "min_rate"),
    ),
    "text": Entry(
        "benchmarks.scenarios.text:measure",
        "texts that arrive at random: latency against load",
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
        "what serving adds to the bare work: CPU, latency, growth with the streams, stalls",
    ),
    "peers": Entry("benchmarks.scenarios.peers:measure", "other servers on the same work, in the same run"),
    "engine": Entry(
        "benchmarks.engine.suites:measure",
        "the engine's figures with their targets, chaos and recovery among them",
        apart=True,
    ),
}
