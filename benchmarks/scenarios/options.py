"""Options of the scenarios. Imports nothing optional, because the command line reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stream_server.errors import ConfigError

LEAST = {"workers": 1, "streams": 1, "fps": 1, "seconds": 2, "fresh_ms": 1, "sustained_rate": 0}
"""Minimum of each. At one frame a second, a frame is measured only in runs of at least two seconds."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a scenario; None leaves one to the scenario.

    Attributes:
        url: a running server; without it one is started with this many `workers`.
        model: what to serve, as ``stream-server serve --model`` takes it, or its name on the running server.
        streams: how many; for a search the most.
        fps: frames per second of each camera.
        seconds: of each run.
        fresh_ms: an answer is fresh up to this age, from the frame's capture to its arrival. It is the client's
            bound; the server's `max_age_ms` expires waiting items.
        sustained_rate: fresh answers per second that every camera needs to count as sustained. Below five, boxes
            jump rather than move.

    Raises:
        ConfigError: a number is too small.
    """

    url: str | None = None
    workers: int = 2
    model: str | None = None
    streams: int | None = None
    fps: float = 15.0
    seconds: float | None = None
    fresh_ms: float = 200.0
    sustained_rate: float = 5.0

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ConfigError(f"--{name.replace('_', '-')} {value:g}: use {least} or more")


DEFAULT = Options()
"""No option given."""
