"""Models for tests of what streams get, or are refused for. They run in workers; only their names are used."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

WARMING = b"\0"
"""What a worker warms a bytes model up with."""


class Promise:
    """Promises each stream a rate, by default one that no small number of workers can keep; an item takes its time
    by a clock of the model's own."""

    input = "bytes"

    def __init__(self, *, min_rate: float = 1000.0, seconds: float = 0.05) -> None:
        self.min_rate = min_rate
        self.seconds = seconds
        self.clock = 0.0

    def load(self) -> None:
        time.perf_counter = lambda: self.clock  # what the worker measures with

    def predict(self, items: Sequence[bytes], /) -> Sequence[Any]:
        self.clock += self.seconds
        return [{"bytes": len(item)} for item in items]


class Fragile:
    """Takes its process with it on every item."""

    input = "bytes"

    def load(self) -> None:
        pass

    def predict(self, items: Sequence[bytes], /) -> Sequence[Any]:
        if list(items) != [WARMING]:
            os._exit(1)
        return [None]


class Numbered:
    """Takes items one at a time and answers which it is of all; at "stop" it stands still until it is resumed."""

    input = "bytes"
    max_batch = 1
    timeout_ms = 60_000

    def load(self) -> None:
        self.number = 0

    def predict(self, items: Sequence[bytes], /) -> Sequence[Any]:
        self.number += 1
        if list(items) == [b"stop"]:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.004)
        return [self.number]


class Swells:
    """Answers with as many letters as it is told."""

    input = "data"
    policy = "queue"

    def load(self) -> None: ...

    def predict(self, items: Sequence[int], /) -> Sequence[str]:
        return ["x" * item for item in items]
