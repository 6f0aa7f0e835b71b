"""Snapshots of the scheduler: what metrics, the HTTP API, the page and the tests all read. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, fields

from inference.scheduling.quantiles import Distribution


@dataclass(slots=True)
class Tally:
    """What became of the items of a stream, a model or the whole engine.

    ``received == results + errors + dropped + waiting + running`` at every moment (law 1).

    Attributes:
        cancelled: dropped because the client had gone.
        retried: items that have run once more, because a worker had ended with them. It is no outcome.
        discarded: of the results and errors, those whose client had gone when they came.
    """

    received: int = 0
    results: int = 0
    errors: int = 0
    superseded: int = 0
    expired: int = 0
    draining: int = 0
    cancelled: int = 0
    waiting: int = 0
    running: int = 0
    retried: int = 0
    discarded: int = 0

    @property
    def dropped(self) -> int:
        """Items nobody started on, for whatever reason."""
        return self.superseded + self.expired + self.draining + self.cancelled

    @property
    def balanced(self) -> bool:
        """Whether law 1 holds."""
        return self.received == self.results + self.errors + self.dropped + self.waiting + self.running

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Tally)))


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """One open stream.

    Attributes:
        number: the engine's number for it.
        tally: what became of its items.
        worker_s: seconds of worker time that it was charged with for its items.
        share: its part of the worker time of all open streams of its model, 0 to 1.
    """

    number: int
    tally: Tally
    worker_s: float
    share: float


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """One model: a snapshot.

    Attributes:
        tally: what became of its items, since the start.
        batch_cap: its largest batch now.
        peak: most items that waited or ran at once.
        ages: of the results of the last half minute to a minute, seconds from receipt to result.
        costs: of the same, seconds of worker time per item.
        streams: its open streams.
    """

    tally: Tally
    batch_cap: int
    peak: int
    ages: Distribution
    costs: Distribution
    streams: tuple[StreamStatistics, ...]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of everything, by model."""

    models: dict[str, ModelStatistics]

    @property
    def total(self) -> Tally:
        """All models together."""
        return sum((model.tally for model in self.models.values()), Tally())
