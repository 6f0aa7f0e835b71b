"""What the load scenarios may be told. It imports nothing optional, since the command line reads it, too."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stream_server.errors import ConfigError

LEAST = {"workers": 1, "streams": 1, "fps": 1, "seconds": 2, "max_age_ms": 1, "min_rate": 0}
"""With one frame a second, two seconds are the shortest run with a frame that is measured."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a scenario may be told; None leaves it to the scenario.

    Attributes:
        url: a server that runs; without it one is started, with so many `workers`.
        model: what to serve, as ``stream-server serve --model`` takes it, or its name on a server that runs.
        streams: how many; of a search the most.
        fps: frames per second of each camera.
        seconds: of each run.
        max_age_ms: the age above which an answer is stale, from the frame's capture to its arrival.
        min_rate: fresh answers per second that every camera must get, to count as sustained. With less than five
            boxes jump rather than move.

    Raises:
        ConfigError: a number is too small for a run.
    """

    url: str | None = None
    workers: int = 2
    model: str | None = None
    streams: int | None = None
    fps: float = 15.0
    seconds: float | None = None
    max_age_ms: float = 200.0
    min_rate: float = 5.0

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ConfigError(f"--{name.replace('_', '-')} {value:g}: use {least} or more")


DEFAULT = Options()
"""Everything left to the scenario."""
