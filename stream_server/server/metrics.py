"""What operators watch, in Prometheus format: counts read from the engine's snapshot when scraped, and times.

Labels are the names and versions of served models, closed sets of words, and the codes of items' errors, which are
words of the models and therefore bounded here; never anything a client sent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from inference.items import DropReason, Failed, Outcome, Result
from inference.model import ModelId
from inference.pool.pool import PoolStatus
from inference.scheduling.quantiles import Distribution
from inference.scheduling.statistics import Statistics, Tally
from stream_server.errors import StreamServerError, error_info

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From what the server itself costs to a batch's default timeout."""

MODEL = ("model", "version")
"""The labels that name a version of a model."""

MAX_CODES = 32
"""Most codes of errors that are told apart, of each model: ours are about ten, and scrapers keep each for ever."""

UNDELIVERED = "undelivered"
"""The code that errors are counted as whose clients had gone: nobody was told of them."""

REST = "other"
"""The code that the errors with any further one are counted as."""


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

    Attributes:
        log_dropped: records that are not in the log, by reason.
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
        self._times: dict[ModelId, _ModelTimes] = {}
        self._codes: dict[ModelId, Counter[str]] = {}
        self._refused: Counter[str] = Counter()
        self.log_dropped: Mapping[str, int] = {}

    def observe(self, model: ModelId, outcome: Outcome, now: float) -> None:
        """Note the times of a result and the code of an error."""
        if isinstance(outcome, Result):
            times = self._times.get(model)
            if times is None:
                times = self._times[model] = _ModelTimes()
            times.age.add(now - outcome.item.received)
            times.queue.add(outcome.queue_ms / 1e3)
            times.infer.add(outcome.infer_ms / 1e3)
        elif isinstance(outcome, Failed):
            codes = self._codes.setdefault(model, Counter())
            known = outcome.code in codes or len(codes) < MAX_CODES
            codes[outcome.code if known and outcome.code != UNDELIVERED else REST] += 1

    def refuse(self, error: StreamServerError) -> None:
        """Note that a stream was refused."""
        self._refused[error_info(error).code] += 1

    def render(self) -> bytes:
        """Everything, as a scraper reads it."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Read the snapshots; the registry calls this for every scrape."""
        models = self._statistics().models
        self._forget(models)
        tallies = {model: known.tally for model, known in models.items()}
        yield from _items(tallies)
        yield self._errors(tallies)
        streams = GaugeMetricFamily("streams", "Open streams", labels=MODEL)
        for model, known in models.items():
            streams.add_metric(model, known.open_streams)
        yield streams
        yield from self._durations()
        refused = CounterMetricFamily("stream_refusals", "Streams that were refused", labels=["code"])
        for code, count in self._refused.items():
            refused.add_metric([code], count)
        yield refused
        yield from _workers(self._workers())
        log = CounterMetricFamily("stream_log_dropped", "Records left out of the log", labels=["reason"])
        for reason, count in self.log_dropped.items():
            log.add_metric([reason], count)
        yield log
        lag = self._lag()
        text = "How late the event loop was, of the last 30 to 60 s"
        yield GaugeMetricFamily("stream_loop_lag_p99_seconds", text, value=lag.quantile(0.99))
        yield GaugeMetricFamily("stream_loop_lag_max_seconds", "The same, at its worst", value=lag.largest)

    def _forget(self, models: Container[ModelId]) -> None:
        """Forget versions that are no longer served: nothing may grow with every update."""
        for known in (self._times, self._codes):
            for gone in [model for model in known if model not in models]:
                del known[gone]

    def _errors(self, tallies: Mapping[ModelId, Tally]) -> Metric:
        errors = CounterMetricFamily("stream_items_errors", "Items with an error", labels=[*MODEL, "code"])
        for model, tally in tallies.items():
            codes = self._codes.get(model, Counter())
            for code, count in codes.items():
                errors.add_metric([*model, code], count)
            errors.add_metric([*model, UNDELIVERED], tally.undelivered)
        return errors

    def _durations(self) -> Iterator[Metric]:
        for name, text in (
            ("age", "Receipt of an item to its result"),
            ("queue", "Receipt of an item to the start of its batch"),
            ("infer", "Time of an item's batch in its worker"),
        ):
            histogram = HistogramMetricFamily(f"stream_{name}_seconds", text, labels=MODEL)
            for model, of_model in self._times.items():
                times: _Times = getattr(of_model, name)
                histogram.add_metric(model, times.buckets(), times.total)
            yield histogram


def _items(tallies: Mapping[ModelId, Tally]) -> Iterator[Metric]:
    for kind, name, text in (
        (CounterMetricFamily, "received", "Items received"),
        (CounterMetricFamily, "results", "Items answered"),
        (GaugeMetricFamily, "waiting", "Items that wait"),
        (GaugeMetricFamily, "running", "Items in workers"),
        (CounterMetricFamily, "retried", "Times an item ran once more because its worker had ended"),
        (CounterMetricFamily, "discarded", "Results and errors whose client had gone"),
        (CounterMetricFamily, "rebound", "Items that waited when their stream was bound to another version"),
    ):
        family = kind(f"stream_items_{name}", text, labels=MODEL)
        for model, tally in tallies.items():
            family.add_metric(model, getattr(tally, name))
        yield family
    dropped = CounterMetricFamily(
        "stream_items_dropped", "Items nobody started on", labels=[*MODEL, "reason"]
    )
    for model, tally in tallies.items():
        for reason in get_args(DropReason):
            dropped.add_metric([*model, reason], getattr(tally, reason))
    yield dropped


def _workers(pool: PoolStatus) -> Iterator[Metric]:
    for name, text, value in (
        ("stream_workers", "Worker slots", pool.slots),
        ("stream_workers_ready", "Workers that can work", pool.ready),
        ("stream_workers_spare", "Workers ready to take a lost one's place", pool.spares),
        ("stream_workers_resident_bytes", "Resident memory of all workers", pool.resident_mb << 20),
    ):
        yield GaugeMetricFamily(name, text, value=value)
    yield CounterMetricFamily("stream_worker_deaths", "Workers that ended unasked", value=pool.deaths)
    yield CounterMetricFamily(
        "stream_worker_recycles", "Workers replaced between batches", value=pool.recycled
    )
