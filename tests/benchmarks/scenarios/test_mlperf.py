"""MLPerf's LoadGen: reading its summary, and short real runs."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks.failures import RunFailed
from benchmarks.scenarios.mlperf import (
    KEPT,
    Counted,
    Outcome,
    Scenario,
    Trial,
    metric,
    parse,
    photographs,
    run,
    section,
)
from tests.conftest import RunningServer

RULE = "=" * 48

SINGLE = f"""\
{RULE}
MLPerf Results Summary
{RULE}
SUT name : PySUT
Scenario : SingleStream
Mode     : PerformanceOnly
90.0th percentile latency (ns) : 2229922
Result is : VALID
  Min duration satisfied : Yes
  Min queries satisfied : Yes
  Early stopping satisfied: Yes
Early Stopping Result:
 * Processed at least 64 queries (453).
 * Early stopping 90.0th percentile estimate: 2244463
 * Not enough queries processed for 99.0th percentile
 early stopping estimate (would need to process at
 least 662 total queries).

{RULE}
Additional Stats
{RULE}
QPS w/ loadgen overhead         : 451.20
50.00 percentile latency (ns)   : 2195055
90.00 percentile latency (ns)   : 2229922
95.00 percentile latency (ns)   : 2249176
97.00 percentile latency (ns)   : 2271018
99.00 percentile latency (ns)   : 2312650

No errors encountered during test.
"""

SERVER = f"""\
Scenario : Server
Completed samples per second    : 50.63
Result is : INVALID
  Performance constraints satisfied : NO
  Min duration satisfied : Yes
  Early stopping satisfied: NO
Recommendations:
 * Reduce target QPS to improve latency.
Early Stopping Result:
 * Run unsuccessful.
 * Would need to run at least 405 more queries,
 with the run being successful if every additional
 query were under latency.

{RULE}
Additional Stats
{RULE}
Scheduled samples per second : 50.75
50.00 percentile latency (ns)   : 2457416
90.00 percentile latency (ns)   : 2607657
95.00 percentile latency (ns)   : 2642087
97.00 percentile latency (ns)   : 2643334
99.00 percentile latency (ns)   : 3056638
"""

MULTI = """\
99.0th percentile latency (ns) : 17443434
Result is : INVALID
  Early stopping satisfied: NO
"""

OFFLINE = """\
Samples per second: 477.438
Result is : VALID
"""


def outcome(scenario: Scenario, text: str, counted: Counted | None = None) -> Outcome:
    return Outcome(scenario, parse(text), counted or Counted(9, 9, 0, 9, 9))


def test_valid_run_has_no_reasons() -> None:
    summary = parse(SINGLE)
    assert (summary.verdict, summary.reasons) == ("VALID", ())
    assert summary.number("QPS w/ loadgen overhead") == 451.2


def test_invalid_run_has_loadgens_reasons() -> None:
    summary = parse(SERVER)
    assert summary.verdict == "INVALID"
    assert summary.reasons == (
        "Performance constraints not satisfied.",
        "Early stopping not satisfied.",
        "Reduce target QPS to improve latency.",
        "Run unsuccessful.",
        "Would need to run at least 405 more queries, with the run being successful if every additional "
        "query were under latency.",
    )


@pytest.mark.parametrize("text", ["", "Result is : MAYBE", SINGLE.replace("Result is : VALID\n", "")])
def test_summary_without_verdict_is_refused(text: str) -> None:
    with pytest.raises(RunFailed, match="no verdict"):
        parse(text)


def test_missing_value_is_named() -> None:
    with pytest.raises(RunFailed, match="no 'Samples per second'"):
        parse(SINGLE).number("Samples per second")


@pytest.mark.parametrize(
    ("scenario", "text", "name", "value", "unit"),
    [
        ("SingleStream", SINGLE, "query p90, estimate", 2.244463, "ms"),
        ("MultiStream", MULTI, "query p99", 17.443434, "ms"),
        ("Server", SERVER, "scheduled rate", 50.75, "samples/s"),
        ("Offline", OFFLINE, "throughput", 477.438, "samples/s"),
    ],
)
def test_each_scenario_has_its_metric(
    scenario: Scenario, text: str, name: str, value: float, unit: str
) -> None:
    assert metric(outcome(scenario, text)) == (name, pytest.approx(value), unit)


def test_section_shows_verdicts_reasons_and_disclaimer() -> None:
    shown = section(
        [outcome("SingleStream", SINGLE), outcome("Server", SERVER), outcome("Offline", OFFLINE)], 10
    )
    assert "not an official MLPerf result" in shown.about
    verdicts, reasons = shown.grids
    single, server, offline = verdicts.rows
    assert single == ("SingleStream", "query p90, estimate", pytest.approx(2.244463), "ms", "VALID", 9)
    assert (server[4], offline[4]) == ("INVALID", "VALID")
    assert reasons.rows == tuple(("Server", reason) for reason in parse(SERVER).reasons)
    assert [series.name for series in shown.plots[0].series] == ["SingleStream", "Server"]
    assert shown.plots[0].series[0].points[0] == (0.0, pytest.approx(2.195055))


@pytest.mark.parametrize("side", ["answered", "received", "results"])
def test_miscounted_samples_are_found(side: str) -> None:
    for count in (8, 10):
        counted = replace(Counted(9, 9, 0, 9, 9), **{side: count})
        figures = section([outcome("Offline", OFFLINE, counted)], 10).figures
        assert figures[0].measured == 1


def test_no_reasons_grid_if_all_valid() -> None:
    assert len(section([outcome("Offline", OFFLINE)], 10).grids) == 1


def test_the_photographs_differ() -> None:
    made = photographs()
    assert len(set(made)) == len(made) == 8


needs_loadgen = pytest.mark.skipif(
    find_spec("mlperf_loadgen") is None, reason="mlcommons-loadgen has no wheel for this Python or machine"
)


@needs_loadgen
def test_loadgen_runs_and_keeps_logs(server: RunningServer, tmp_path: Path) -> None:
    order = Trial(server.url, "SingleStream", 1.0, 30.0, 8, 0.0, 0.0)
    outcome = run(order, tmp_path / "kept")
    counted = outcome.counted
    assert counted.issued >= 8
    assert (counted.unaccounted, counted.faceless) == (0, 0)
    assert outcome.summary.values["Scenario"] == "SingleStream"
    assert outcome.summary.values["Min queries satisfied"] == "Yes"
    assert metric(outcome)[1] > 0
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == sorted(KEPT)
    for name in KEPT:
        text = (tmp_path / "kept" / name).read_text("utf-8")
        # logs are published and must not identify the machine
        assert platform.node() not in text
        assert str(Path.home()) not in re.findall(r"[\w./-]+", text)
        assert str(tmp_path) not in text


@needs_loadgen
def test_each_sample_of_a_query_is_answered_once(server: RunningServer) -> None:
    outcome = run(Trial(server.url, "Offline", 0.2, 30.0, 1, 200.0, 0.0))
    assert outcome.counted.issued == int(outcome.summary.values["samples_per_query"]) > 20
    assert (outcome.counted.unaccounted, outcome.counted.faceless) == (0, 0)


@needs_loadgen
def test_unreachable_server_ends_run() -> None:
    with pytest.raises(RunFailed, match="SingleStream: it failed"):
        run(Trial("http://127.0.0.1:1", "SingleStream", 1.0, 30.0, 8, 0.0, 0.0))


@needs_loadgen
def test_killed_server_ends_run(start_server: Callable[..., RunningServer]) -> None:
    """LoadGen waits for samples without a limit, so the client must end the process."""
    server = start_server("--workers", "1", "--model", "faces")
    with ThreadPoolExecutor(1) as pool:
        # half a minute of samples
        over = pool.submit(run, Trial(server.url, "Offline", 1.0, 60.0, 1, 5000.0, 0.0))
        while not over.done() and not answered(server):
            time.sleep(0.01)
        server.kill()
        with pytest.raises(RunFailed, match=r"Offline: it failed: .*ConnectionLost"):
            over.result()


def answered(server: RunningServer) -> float:
    return sum(
        value for name, value in server.metrics().items() if name.startswith("stream_items_results_total{")
    )
