"""The text that a Prometheus scraper reads, read by Prometheus's own parser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference.items import Dropped, Failed, Item, Outcome, Result
from inference.model import ModelId
from inference.pool.pool import PoolStatus
from inference.scheduling.quantiles import Distribution
from inference.scheduling.statistics import ModelStatistics, Statistics, Tally
from stream_server.errors import Forbidden, Overloaded
from stream_server.server.metrics import MAX_CODES, SECONDS, Metrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"

ECHO, VERSION = ("model", "echo"), ("version", "1")
MODEL = ModelId("echo", "1")


def scrape(metrics: Metrics) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def make(
    tally: Tally, streams: int = 1, pool: PoolStatus | None = None, lag: Distribution | None = None
) -> Metrics:
    model = ModelStatistics(tally, 1, 0, Distribution(), Distribution(), streams)
    statistics = Statistics({MODEL: model})
    return Metrics(
        lambda: statistics, lambda: pool or PoolStatus(2, 1, 4, (10,)), lambda: lag or Distribution()
    )


def item(received: float = 0.0) -> Item:
    return Item(1, 1, b"", received)


def test_every_count_of_the_snapshot_is_there() -> None:
    tally = Tally(
        received=36,
        results=1,
        errors=2,
        superseded=3,
        expired=4,
        draining=5,
        cancelled=6,
        waiting=7,
        running=8,
        retried=9,
        discarded=2,
    )
    assert tally.balanced
    samples = scrape(make(tally, streams=10))
    assert samples["stream_items_received_total", (ECHO, VERSION)] == 36
    assert samples["stream_items_results_total", (ECHO, VERSION)] == 1
    for reason, count in {"superseded": 3, "expired": 4, "draining": 5, "cancelled": 6}.items():
        assert samples["stream_items_dropped_total", (ECHO, ("reason", reason), VERSION)] == count
    assert samples["stream_items_waiting", (ECHO, VERSION)] == 7
    assert samples["stream_items_running", (ECHO, VERSION)] == 8
    assert samples["stream_items_retried_total", (ECHO, VERSION)] == 9
    assert samples["stream_items_discarded_total", (ECHO, VERSION)] == 2
    assert samples["streams", (ECHO, VERSION)] == 10


def test_the_workers_are_there() -> None:
    pool = PoolStatus(2, 1, 4, (10,), spares=3, recycled=5, resident_mb=6)
    lag = Distribution()
    for _ in range(99):
        lag.add(0.001)
    lag.add(0.2)
    samples = scrape(make(Tally(), pool=pool, lag=lag))
    assert samples["stream_workers", ()] == 2
    assert samples["stream_workers_ready", ()] == 1
    assert samples["stream_workers_spare", ()] == 3
    assert samples["stream_workers_resident_bytes", ()] == 6 * 2**20
    assert samples["stream_loop_lag_p99_seconds", ()] == pytest.approx(0.001, rel=0.02)
    assert samples["stream_loop_lag_max_seconds", ()] == 0.2
    assert samples["stream_worker_deaths_total", ()] == 4
    assert samples["stream_worker_recycles_total", ()] == 5


def test_errors_are_counted_by_their_code() -> None:
    metrics = make(Tally(received=4, errors=4))
    for code in ("bad_image", "bad_image", "timeout"):
        metrics.observe(MODEL, Failed(item(), code, "why"), 0.0)
    samples = scrape(metrics)
    assert samples["stream_items_errors_total", (("code", "bad_image"), ECHO, VERSION)] == 2
    assert samples["stream_items_errors_total", (("code", "timeout"), ECHO, VERSION)] == 1


def test_errors_that_found_their_client_gone_are_counted_too() -> None:
    """Nobody is told of them, so nobody observes them, and the law of the counts would not hold."""
    metrics = make(Tally(received=3, errors=3, discarded=2, undelivered=2))
    metrics.observe(MODEL, Failed(item(), "bad_image", "why"), 0.0)
    errors = {key: n for key, n in scrape(metrics).items() if key[0] == "stream_items_errors_total"}
    assert sum(errors.values()) == 3
    assert errors["stream_items_errors_total", (("code", "undelivered"), ECHO, VERSION)] == 2


def test_a_model_with_ever_new_codes_makes_no_endless_metrics() -> None:
    metrics = make(Tally(received=1001, errors=1001))
    for number in range(1000):
        metrics.observe(MODEL, Failed(item(), f"code_{number}", "why"), 0.0)
    metrics.observe(MODEL, Failed(item(), "code_0", "why"), 0.0)
    errors = {dict(key[1])["code"]: n for key, n in scrape(metrics).items() if "errors" in key[0]}
    assert len(errors) == MAX_CODES + 2
    assert (errors["code_0"], errors["other"], errors["undelivered"]) == (2, 1000 - MAX_CODES, 0)


def test_a_version_that_is_gone_is_forgotten() -> None:
    metrics = make(Tally())
    metrics.observe(ModelId("echo", "0"), Result(item(), "{}", "0", 0.0, 0.0, 1), 1.0)
    metrics.observe(ModelId("echo", "0"), Failed(item(), "timeout", ""), 1.0)
    assert "timeout" not in metrics.render().decode()
    assert not any(version == ("version", "0") for _, labels in scrape(metrics) for version in labels)


def test_the_times_of_a_result_fall_into_their_buckets() -> None:
    metrics = make(Tally(received=2, results=2))
    for received in (10.0, 10.5):
        metrics.observe(MODEL, Result(item(received), "{}", "1", 3.0, 20.0, 1), 11.0)
    samples = scrape(metrics)
    assert samples["stream_age_seconds_count", (ECHO, VERSION)] == 2
    assert samples["stream_age_seconds_sum", (ECHO, VERSION)] == pytest.approx(1.5)
    assert samples["stream_queue_seconds_sum", (ECHO, VERSION)] == pytest.approx(0.006)
    assert samples["stream_infer_seconds_sum", (ECHO, VERSION)] == pytest.approx(0.04)
    buckets = [samples["stream_age_seconds_bucket", (("le", str(le)), ECHO, VERSION)] for le in SECONDS]
    assert buckets == [sum(age <= le for age in (0.5, 1.0)) for le in SECONDS]


@pytest.mark.parametrize("outcome", [Dropped(item(), "expired"), Failed(item(), "timeout", "")])
def test_only_results_have_times(outcome: Outcome) -> None:
    metrics = make(Tally())
    metrics.observe(MODEL, outcome, 1.0)
    assert not any(name.startswith("stream_age") for name, _ in scrape(metrics))


def test_two_servers_in_one_process_do_not_share_counts() -> None:
    first, second = make(Tally()), make(Tally())
    first.observe(MODEL, Result(item(), "{}", "1", 0.0, 0.0, 1), 1.0)
    assert ("stream_age_seconds_count", (ECHO, VERSION)) not in scrape(second)


def test_operators_are_told_to_watch_what_is_there() -> None:
    metrics = make(Tally(received=2, results=1, errors=1))
    metrics.observe(MODEL, Result(item(), "{}", "1", 0.0, 0.0, 1), 1.0)
    metrics.observe(MODEL, Failed(item(), "timeout", ""), 1.0)
    text = metrics.render().decode()
    there = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    told = set(re.findall(r"\bstream_[a-z_]+", OPERATIONS.read_text("utf-8")))
    assert len(told) > 10
    assert told <= there


def test_refused_streams_are_counted_by_their_code() -> None:
    metrics = make(Tally())
    for error in (Overloaded("full"), Overloaded("full"), Forbidden("who are you?")):
        metrics.refuse(error)
    samples = scrape(metrics)
    assert samples["stream_refusals_total", (("code", "overloaded"),)] == 2
    assert samples["stream_refusals_total", (("code", "forbidden"),)] == 1
