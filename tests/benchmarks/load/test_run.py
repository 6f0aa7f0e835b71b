"""Loads against real servers that stall, refuse and do not read: latency and lag are measured correctly."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from benchmarks.failures import RunFailed
from benchmarks.load import run as run_module
from benchmarks.load.accounts import Account
from benchmarks.load.generator import Load, Outcome, Transport
from benchmarks.load.histograms import Latencies
from benchmarks.load.run import TICK, Run, drive, lateness
from benchmarks.load.servers import Program
from tests.benchmarks.stalling import running_here
from tests.conftest import RunningServer

STALL_S = 2.0


@pytest.fixture
def stalling() -> Iterator[Program]:
    with running_here() as program:
        yield program


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """Outcomes of the generators in the following runs."""
    seen: list[Outcome] = []

    def noting(outcome: Outcome) -> str:
        seen.append(outcome)
        return lateness(outcome)

    monkeypatch.setattr(run_module, "lateness", noting)
    return seen


def assert_own_lag_alone(outcome: Outcome) -> None:
    # on a busy machine the event loop is as late as the items; while a send waits for the server, it is not
    assert outcome.lag.percentile(50) < outcome.loop.percentile(100) + 100


@pytest.mark.parametrize(("transport", "path"), [("websocket", "/stream"), ("http", "/post")])
def test_open_loop_measures_stall(stalling: Program, transport: Transport, path: str) -> None:
    url = f"{stalling.url}{path}?stall={STALL_S}"
    run = drive(stalling, [Load(url, "", "frame", 1, 2.5, rate=100.0, transport=transport)])
    # items that the websocket still holds back at the end of the run are never sent
    assert (run.results, run.sent + run.unsent, run.latency.count) == (run.sent, 250, 250)
    # two seconds delay 200 of the 250 items: the 99th percentile is near the whole stall
    assert run.latency.percentile(99) > 1500
    assert max(moment.most for moment in run.timeline) > 1500


def test_closed_loop_hides_stall(stalling: Program) -> None:
    url = f"{stalling.url}/stream?stall={STALL_S}"
    run = drive(stalling, [Load(url, "", "frame", 1, 60.0, count=1000, transport="websocket")])
    assert run.results == 1000
    # of 1000 items that wait for each other it delays one; pauses of the machine delay few more
    assert run.latency.percentile(100) > 1500
    assert run.latency.percentile(99) < 1000


def test_server_that_reads_late_is_latency_not_lag(stalling: Program, outcomes: list[Outcome]) -> None:
    url = f"{stalling.url}/late?seconds=1"
    # far more than the sockets' buffers hold: items come due while a send waits for the server
    run = drive(stalling, [Load(url, "", "frame", 1, 1.2, rate=600.0, transport="websocket")])
    assert run.results == run.sent
    assert run.latency.percentile(99) > 800
    assert_own_lag_alone(outcomes[0])


def test_unsent_items_count_as_latency_not_lag(stalling: Program, outcomes: list[Outcome]) -> None:
    url = f"{stalling.url}/unread?seconds=1.5"
    run = drive(stalling, [Load(url, "", "frame", 2, 1.0, rate=400.0, transport="websocket")])
    assert run.results == 0
    assert run.unsent > 0
    assert run.sent + run.unsent == 800
    assert run.unaccounted == run.sent
    # unsent items have waited, too
    assert run.latency.count == 800
    assert run.latency.percentile(99) > 1000
    assert_own_lag_alone(outcomes[0])


def test_http_error_is_counted_by_status(stalling: Program) -> None:
    run = drive(stalling, [Load(f"{stalling.url}/refuse", "", "frame", 2, 0.5, rate=40.0, transport="http")])
    assert (run.sent, run.results, run.errors, run.unaccounted) == (40, 20, 20, 0)
    assert {code for account in run.streams for code in account.errors} == {"429"}
    # an error has been waited for, too
    assert run.latency.count == len(run.waits) == 40
    assert run.load_cpu > 0
    assert run.measured_s == 0.5


def test_closed_loop_of_posts_sends_count(stalling: Program) -> None:
    load = Load(f"{stalling.url}/post", "", "numbered", 3, 60.0, window=4, count=50, transport="http")
    run = drive(stalling, [load])
    assert [(account.sent, account.results) for account in run.streams] == [(50, 50)] * 3
    assert run.lag.count == 0


def test_closed_loop_is_void_if_event_loop_is_late(
    stalling: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "LAG_MS", -1.0)  # no load meets this limit
    run = drive(stalling, [Load(f"{stalling.url}/post", "", "frame", 1, 0.2, transport="http")])
    assert "its event loop ran" in run.void


def test_load_in_several_processes_is_the_same(server: RunningServer) -> None:
    load = Load(server.url, "echo", "numbered", 5, 1.0, rate=40.0, arrivals="poisson")
    one, several = drive(None, [load]), drive(None, [replace(load, processes=3)])
    assert [account.sent for account in several.streams] == [account.sent for account in one.streams]
    for run in (one, several):
        assert run.results == run.sent == run.latency.count == run.lag.count
        assert run.results == sum(moment.count for moment in run.timeline)
        assert (run.unaccounted, run.unsent, run.dropped, run.errors, run.cpu) == (0, 0, 0, 0, 0)
        assert not any(account.wrong for account in run.streams)


def test_refused_stream_ends_run_with_reason(server: RunningServer) -> None:
    with pytest.raises(RunFailed, match="refused a stream: no model 'nothing'"):
        drive(None, [Load(server.url, "nothing", "frame", 1, 1.0, rate=1.0)])


def outcome(lag_s: float, loop_s: float) -> Outcome:
    few = [lag_s] * 2 + [0.0] * 98
    return Outcome([], lag=Latencies(few), loop=Latencies([loop_s] * 2 + [0.0] * 98))


@pytest.mark.parametrize(
    ("lag_s", "loop_s", "said"),
    [(0.019, 0.019, ""), (0.05, 0.0, "items went out up to 50 ms late"), (0.0, 0.05, "its event loop ran")],
)
def test_generator_lag_voids_run(lag_s: float, loop_s: float, said: str) -> None:
    found = lateness(outcome(lag_s, loop_s))
    assert said in found
    assert bool(found) == bool(said)


def test_cpu_below_one_tick_counts_as_one() -> None:
    run = Run([[Account(1, 1)]], seconds=0.2, cpu=0.0, foreign=0.0)
    assert run.per_cpu == run.results / TICK
    assert dataclasses.replace(run, cpu=2.0).per_cpu == run.results / 2
