"""The benchmark of connections: small runs, and its figures on made-up ones."""

from __future__ import annotations

import dataclasses
import os
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from benchmarks.failures import RunFailed
from benchmarks.load import servers
from benchmarks.load.histograms import Latencies
from benchmarks.load.raw_clients import Report
from benchmarks.load.run import Run
from benchmarks.load.servers import Usage
from benchmarks.report.results import Figure, Section
from benchmarks.scenarios import connect
from benchmarks.scenarios.connect import Crowd, Idle

MIB = 1 << 20


def figures(section: Section) -> dict[str, Figure]:
    return {figure.name.partition(": ")[2].partition(" (")[0]: figure for figure in section.figures}


def test_churn_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "WARM_VISITS", 50)
    monkeypatch.setattr(connect, "CROWDS", 2)
    monkeypatch.setattr(servers, "SETTLED_S", 0.05)
    section = connect.measure_churn(lambda _: None, 0.3)
    found = figures(section)
    assert found["visits that failed"].measured == 0
    assert found["descriptors kept"].measured == 0
    assert len(found["memory kept of 1,000 connections"].rounds) == 1
    (grid,) = section.grids
    assert len(grid.rows) == 2


def test_idle_connections_stay_open_and_are_closed_with_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(servers, "SETTLED_S", 0.05)
    quiet, live = connect.measure_idle(lambda _: None, 40, 2, 1, 0.5)
    found = figures(quiet)
    assert found["connections lost"].measured == 0
    assert found["closed without a close code"].measured == 0
    assert len(found["server's memory per connection"].rounds) == 2
    assert figures(live)["the live stream's items unaccounted for"].measured == 0
    assert "40 streams" in quiet.about


def run(ms: float, **changes: Any) -> Run:
    return Run([], 1.0, 0.1, 0.0, Latencies([ms / 1e3] * 100), **changes)


@pytest.fixture
def seen() -> Idle:
    return Idle(
        count=1000,
        opened=[500.0, 700.0],
        alone=[run(2.0), run(4.0)],
        beside=[run(4.0), run(12.0)],
        before=Usage(50 * MIB, 40 * MIB, 20),
        full=[Usage(100 * MIB, 80 * MIB, 1020)],
        core=0.05,
        last=Report(open=990, codes={4408: 10}),
        unclosed=11,
    )


def idling(monkeypatch: pytest.MonkeyPatch, seen: Idle, wanted: int = 1000) -> list[Section]:
    monkeypatch.setattr(connect, "raise_descriptors", lambda _: 1000)
    monkeypatch.setattr(connect, "_idle_rounds", lambda *_: seen)
    return connect.measure_idle(lambda _: None, wanted, 2, 1, 0.5)


def test_idle_cost_is_per_connection(monkeypatch: pytest.MonkeyPatch, seen: Idle) -> None:
    quiet, live = idling(monkeypatch, seen)
    found = figures(quiet) | figures(live)
    assert found["server's memory per connection"].measured == pytest.approx(51.2)
    assert not found["server's memory per connection"].reached
    assert found["CPU for the heartbeats"].measured == pytest.approx(5)
    assert found["a live stream's p99 beside them, to alone"].rounds == pytest.approx((2.0, 3.0), rel=1e-2)
    assert found["connections lost"].measured == 10
    assert "10 closed with 4408" in found["connections lost"].note
    assert found["closed without a close code"].measured == 11
    assert live.void == ""
    assert "limit of open files" not in quiet.about


def test_late_generator_voids_only_live_stream(monkeypatch: pytest.MonkeyPatch, seen: Idle) -> None:
    late = dataclasses.replace(seen, beside=[run(4.0), run(12.0, void="it was late")])
    quiet, live = idling(monkeypatch, late)
    assert (quiet.void, live.void) == ("", "it was late")


def test_reduced_connection_count_is_stated(monkeypatch: pytest.MonkeyPatch, seen: Idle) -> None:
    quiet, _ = idling(monkeypatch, seen, wanted=10_000)
    assert "1,000 streams" in quiet.about
    assert "limit of open files does not allow 10,000" in quiet.about


def test_descriptor_limit_bounds_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = []
    limits = SimpleNamespace(
        RLIMIT_NOFILE=7,
        RLIM_INFINITY=-1,
        getrlimit=lambda _: (1024, 4096),
        setrlimit=lambda _, both: raised.append(both),
    )
    monkeypatch.setattr(servers, "resource", limits)
    assert servers.raise_descriptors(10_000) == 4096 - servers.SPARE
    assert servers.raise_descriptors(100) == 100
    assert raised == [(4096, 4096)] * 2


def test_leak_misses_target_but_single_step_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*mibs: int) -> Figure:
        report = Report(seconds=1.0, visits=1000, waits_ms=[1.0] * 1000)
        crowds = iter(Crowd(report, 1.0, Usage(mib * MIB, 0, 20)) for mib in (50, *mibs))
        monkeypatch.setattr(connect, "_churn", lambda *_: next(crowds))
        return figures(connect.measure_churn(lambda _: None, 1.0))["memory kept of 1,000 connections"]

    assert measured(50, 70, 70, 70).reached
    leaking = measured(50, 72, 94, 116)
    assert (leaking.measured, leaking.reached) == (22 * 1024, False)


def test_churn_without_any_ready_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report(seconds=1.0, visits=9, failed=9)
    monkeypatch.setattr(connect, "RawClients", lambda _: nullcontext(SimpleNamespace(report=lambda: report)))
    monkeypatch.setattr(
        connect, "serving", lambda *_, **__: nullcontext(SimpleNamespace(url="", cpu=lambda: 0.0))
    )
    with pytest.raises(RunFailed, match="in none of 9 visits was the server ready"):
        connect.measure_churn(lambda _: None, 1.0)


def test_settled_usage_of_a_process() -> None:
    usage = servers.settled(psutil.Process(os.getpid()))
    assert usage.rss >= usage.uss > MIB
    assert usage.descriptors > 2
