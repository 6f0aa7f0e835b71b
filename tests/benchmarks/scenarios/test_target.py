"""The target of a load: number of processes, and repeating a void run."""

from __future__ import annotations

import pytest

from benchmarks.load.accounts import Account
from benchmarks.load.generator import Load
from benchmarks.load.run import Run
from benchmarks.scenarios.target import PER_PROCESS, Target, generators


@pytest.mark.parametrize(
    ("streams", "rate", "processes"), [(64, 10, 1), (64, 3.5 * PER_PROCESS, 4), (2, 4 * PER_PROCESS, 2)]
)
def test_processes_follow_rate(streams: int, rate: float, processes: int) -> None:
    assert generators(streams, rate) == processes


@pytest.mark.parametrize(("voids", "runs"), [(["", "late"], 1), (["late", ""], 2), (["late", "late"], 2)])
def test_void_run_is_repeated_once(voids: list[str], runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Load] = []
    said: list[str] = []

    def drive(_: object, loads: list[Load]) -> Run:
        done.extend(loads)
        return Run([[Account(1, 1)]], 1.0, 1.0, 0.0, void=voids[len(done) - 1])

    monkeypatch.setattr("benchmarks.load.run.drive", drive)
    run = Target(said.append, "http://127.0.0.1:1", "echo", "frame", None).scheduled(2, 5.0, 1.0)
    assert (len(done), run.void) == (runs, voids[runs - 1])
    assert said == ["void, so once more: late"] * (runs - 1)
