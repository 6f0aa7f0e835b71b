"""What serving adds: the comparison with bare loops, and the loops themselves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
from psutil import Process

from benchmarks.failures import RunFailed
from benchmarks.load.accounts import Account
from benchmarks.load.generator import Load
from benchmarks.load.run import Run
from benchmarks.load.servers import Program, serving
from benchmarks.report.results import Section
from benchmarks.scenarios import baseline
from benchmarks.scenarios.baseline import Bare, FacesRound, bare, faces_figures, loop, loop_lag


def run(cpu: float, ages: list[float]) -> Run:
    account = Account(len(ages), results=len(ages), answers=[(0.0, age, age) for age in ages])
    return Run([[account]], 1.0, cpu, 0.0)


def faces_round(cpu_ms: float, natural_ms: float, ours_ms: float) -> FacesRound:
    return FacesRound(
        natural=Bare(100, natural_ms, []),
        server=run(cpu_ms / 1e3 * 100, [1.0] * 100),
        ours=Bare(100, ours_ms, []),
        alone=run(1.0, [10.0 + n / 100 for n in range(100)]),
        paced=Bare(3, 0.0, [8.0, 9.5, 30.0]),
    )


def test_rounds_are_compared_with_their_own_loops() -> None:
    natural, ours, p50, p99 = faces_figures([faces_round(9.0, 18.0, 10.0), faces_round(4.0, 16.0, 2.0)])
    assert natural.rounds == pytest.approx((0.5, 0.25))
    assert ours.rounds == pytest.approx((0.9, 2.0))
    assert p50.rounds == pytest.approx((10.49 - 9.5,) * 2)
    assert p99.rounds == pytest.approx((10.98 - 9.5,) * 2)
    assert (natural.target, ours.target, p50.target, p99.target) == (0.55, 1.05, 1.0, 5.0)


@pytest.mark.parametrize("lasts", ["", "late"])
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize(
    "part",
    [
        lambda: baseline.faces(str, 1, 0.1),
        lambda: baseline.spam(str, 1, 0.1),
        lambda: baseline.stall(str, 0.1),
    ],
    ids=["faces", "spam", "stall"],
)
def test_void_run_voids_its_section(
    part: Callable[[], Section], lasts: str, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[bool] = []

    def drive(_: object, loads: list[Load]) -> Run:
        loops.append(loads[0].rate is None)
        return replace(run(1.0, [1.0]), void=lasts if loops[-1] == closed else "")

    monkeypatch.setattr(
        baseline, "serving", lambda *_: nullcontext(Program(Process(), "http://127.0.0.1:1", 0.1))
    )
    monkeypatch.setattr(baseline, "drive", drive)
    monkeypatch.setattr(baseline, "bare", lambda *_: Bare(100, 1.0, [1.0]))
    monkeypatch.setattr(baseline, "loop_lag", lambda *_: 0.001)
    assert part().void == (lasts if closed in loops else "")


def test_bare_loop_excludes_warm_up() -> None:
    calls = []
    found = loop(lambda: calls.append(1), 5, 0.1, None)
    assert found.items == 5 * (len(calls) - 3)
    assert len(found.times_ms) == len(calls) - 3


def test_paced_loop_keeps_schedule() -> None:
    found = loop(lambda: None, 1, 0.2, 50.0)
    assert 1 <= found.items <= 11


def test_bare_loop_runs_model() -> None:
    found = bare("faces-ours", 0.2)
    assert found.items == len(found.times_ms) >= 1
    assert found.cpu_ms > 0


def test_loop_lag_is_read_from_server() -> None:
    with serving("echo") as server:
        before = loop_lag(server, "p99")  # each is read by itself, and meanwhile the largest can only grow
        assert loop_lag(server, "max") >= before * 0.98 >= 0


def test_paced_loop_counts_every_call() -> None:
    found = bare("faces-ours", 0.4, pace=10.0)
    assert found.items == len(found.times_ms) > 0
    assert found.cpu_ms > 0


def test_failed_loop_reports_last_line() -> None:
    with pytest.raises(
        RunFailed, match=r"^the bare loop of nothing: it failed: \S.* invalid choice: 'nothing'"
    ):
        bare("nothing", 0.1)


def test_endless_loop_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "GRACE_S", 0.01)
    with pytest.raises(RunFailed, match="the bare loop of faces-ours: it did not end"):
        bare("faces-ours", 0.0)
