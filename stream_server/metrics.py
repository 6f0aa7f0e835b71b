"""What operators watch, in Prometheus format: counts read from the engine's snapshot when scraped, and times.

Labels are the names of served models and closed sets of words, never anything a client sent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from inference.distribution import Distribution
from inference.engine import PoolStatus
from inference.items import Failed, Outcome, Result
from inference.statistics import Statistics
from stream_server.errors import StreamServerError, meaning

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From what the server itself costs to a batch's default timeout."""


@dataclass(slots=True)
class _Times:
    """Durations, counted by bucket. The library's own histogram takes a lock for each of its three counts."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Pairs of an upper bound and how many are not above it, as a scraper reads them."""
        bounds = map(floatToGoString, (*SECONDS, float("inf")))
        return list(zip(bounds, accumulate(self.counts), strict=True))


@dataclass(slots=True)
class _ModelTimes:
    age: _Times = field(default_factory=_Times)
    queue: _Times = field(default_factory=_Times)
    infer: _Times = field(default_factory=_Times)


class Metrics(Collector):
    """The registry of one server.

    Args:
        statistics, workers: give the engine's snapshots.
        lag: gives how late the event loop was lately.
    """

    def __init__(
        self,
        statistics: Callable[[], Statistics],
        workers: Callable[[], PoolStatus],
        lag: Callable[[], Distribution],
    ) -> None:
        self._statistics = statistics
        self._workers = workers
        self._lag = lag
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._times: dict[str, _ModelTimes] = {}
        self._codes: dict[tuple[str, str], int] = {}
        self._refused: Counter[str] = Counter()

    def observe(self, model: str, outcome: Outcome, now: float) -> None:
        """Note the times of a result and the code of an error."""
        if isinstance(outcome, Result):
            times = self._times.get(model)
            if times is None:
                times = self._times[model] = _ModelTimes()
            times.age.add(now - outcome.item.received)
            times.queue.add(outcome.queue_ms / 1e3)
            times.infer.add(outcome.infer_ms / 1e3)
        elif isinstance(outcome, Failed):
            key = (model, outcome.code)
            self._codes[key] = self._codes.get(key, 0) + 1

    def refuse(self, error: StreamServerError) -> None:
        """Note that a stream was refused."""
        self._refused[meaning(error).code] += 1

    def render(self) -> bytes:
        """Everything, as a scraper reads it."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Read the snapshots; the registry calls this for every scrape."""
        statistics = self._statistics()
        received = CounterMetricFamily("stream_items_received", "Items received", labels=["model"])
        results = CounterMetricFamily("stream_items_results", "Items answered", labels=["model"])
        dropped = CounterMetricFamily(
            "stream_items_dropped", "Items nobody started on", labels=["model", "reason"]
        )
        waiting = GaugeMetricFamily("stream_items_waiting", "Items that wait", labels=["model"])
        running = GaugeMetricFamily("stream_items_running", "Items in workers", labels=["model"])
        streams = GaugeMetricFamily("streams", "Open streams", labels=["model"])
        retried = CounterMetricFamily(
            "stream_items_retried",
            "Times an item ran once more because its worker had ended",
            labels=["model"],
        )
        discarded = CounterMetricFamily(
            "stream_items_discarded", "Results and errors whose client had gone", labels=["model"]
        )
        for model, known in statistics.models.items():
            tally = known.tally
            received.add_metric([model], tally.received)
            results.add_metric([model], tally.results)
            for reason in ("superseded", "expired", "draining", "cancelled"):
                dropped.add_metric([model, reason], getattr(tally, reason))
            waiting.add_metric([model], tally.waiting)
            running.add_metric([model], tally.running)
            streams.add_metric([model], len(known.streams))
            retried.add_metric([model], tally.retried)
            discarded.add_metric([model], tally.discarded)
        errors = CounterMetricFamily("stream_items_errors", "Items with an error", labels=["model", "code"])
        untold = {model: known.tally.errors for model, known in statistics.models.items()}
        for (model, code), count in self._codes.items():
            errors.add_metric([model, code], count)
            untold[model] -= count
        for model, count in untold.items():  # their clients had gone
            errors.add_metric([model, "undelivered"], count)
        yield from (received, results, dropped, errors, waiting, running, streams, retried, discarded)
        for name, text in (
            ("age", "Receipt of an item to its result"),
            ("queue", "Receipt of an item to the start of its batch"),
            ("infer", "Time of an item's batch in its worker"),
        ):
            histogram = HistogramMetricFamily(f"stream_{name}_seconds", text, labels=["model"])
            for model, of_model in self._times.items():
                times: _Times = getattr(of_model, name)
                histogram.add_metric([model], times.buckets(), times.total)
            yield histogram
        refused = CounterMetricFamily("stream_refusals", "Streams that were refused", labels=["code"])
        for code, count in self._refused.items():
            refused.add_metric([code], count)
        yield refused
        pool, lag = self._workers(), self._lag()
        for name, text, value in (
            ("stream_workers", "Worker slots", pool.slots),
            ("stream_workers_ready", "Workers that can work", pool.ready),
            ("stream_workers_spare", "Workers ready to take a lost one's place", pool.spares),
            ("stream_workers_resident_bytes", "Resident memory of all workers", pool.resident_mb << 20),
            (
                "stream_loop_lag_p99_seconds",
                "How late the event loop was, of the last 30 to 60 s",
                lag.quantile(0.99),
            ),
            ("stream_loop_lag_max_seconds", "The same, at its worst", lag.largest),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        yield CounterMetricFamily("stream_worker_deaths", "Workers that ended unasked", value=pool.deaths)
        yield CounterMetricFamily(
            "stream_worker_recycles", "Workers replaced between batches", value=pool.recycled
        )
