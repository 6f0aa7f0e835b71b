"""Killing workers: actual kills are counted, and too few of them miss the target."""

from __future__ import annotations

import pytest

from benchmarks.engine import chaos
from benchmarks.engine.chaos import FRAMES, STREAMS, accounted, kill_workers
from benchmarks.load.accounts import Account

WHOLE = [Account(FRAMES // STREAMS, FRAMES // STREAMS) for _ in range(STREAMS)]


class Worker:
    killed = 0

    def kill(self) -> None:
        self.killed += 1


class Server:
    """Has a worker at every second look only, as during restarts."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._looks = 0

    @property
    def workers(self) -> list[Worker]:
        self._looks += 1
        return [self._worker] if self._looks % 2 else []


class Load:
    """A run that ends after a number of polls."""

    def __init__(self, moments: int) -> None:
        self._left = moments

    def done_within(self, seconds: float) -> bool:
        self._left -= 1
        return self._left < 0


def test_only_actual_kills_are_counted() -> None:
    worker = Worker()
    assert kill_workers(Server(worker), Load(7)) == worker.killed == 4  # type: ignore[arg-type]


@pytest.mark.parametrize(("kills", "reached"), [(chaos.LEAST_KILLS - 1, False), (chaos.LEAST_KILLS, True)])
def test_too_few_kills_miss_target(kills: int, reached: bool) -> None:
    killed, *others = accounted(WHOLE, kills, 10.0)
    assert (killed.measured, killed.reached) == (kills, reached)
    assert all(figure.reached for figure in others)
