"""The scenarios by name, each imported on demand: their dependencies are optional, and slow to import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

SERVER = ("url", "workers", "model")
"""Options of every scenario that runs against one server."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A scenario.

    Attributes:
        place: of its suite, as ``module:function``.
        about: what it shows, in a line.
        takes: fields of `Options`; if there are any, the suite has a parameter `options`.
        logs: whether the suite has a parameter `logs`, a folder for its logs.
        apart: has no quick form, and is not part of `all`.
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
