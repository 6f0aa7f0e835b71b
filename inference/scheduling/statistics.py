"""Snapshots of the scheduler: what metrics, the HTTP API, the page and the tests read. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from inference.items import DropReason
from inference.model import ModelId
from inference.scheduling.quantiles import Distribution


@dataclass(slots=True)
class Tally:
    """What became of the items of a stream, a model version or the whole engine.

    ``received == results + errors + dropped + waiting + running + rebound`` at every moment (law 1).

    Attributes:
        cancelled: dropped because the client had gone.
        retried: items that have run once more, because a worker had ended with them. Not an outcome.
        discarded: of the results and errors, those whose client had gone when they came.
        undelivered: of these, the errors.
        rebound: items of a model version that were waiting when their stream was bound to another version. They
            count as received there. 0 for a stream and in total.
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
    rebound: int = 0
    undelivered: int = 0

    @property
    def dropped(self) -> int:
        """Items that no worker started on, for whatever reason."""
        return self.superseded + self.expired + self.draining + self.cancelled

    @property
    def present(self) -> int:
        """Items that wait or run."""
        return self.waiting + self.running

    @property
    def balanced(self) -> bool:
        """Whether law 1 holds."""
        return self.received == self.results + self.errors + self.dropped + self.present + self.rebound

    def drop(self, reason: DropReason) -> None:
        """Count an item that was dropped."""
        setattr(self, reason, getattr(self, reason) + 1)

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Tally)))

    def merged(self) -> Tally:
        """The sum over versions without the items that moved between them, which were received once."""
        merged = self + Tally(received=-self.rebound)
        merged.rebound = 0
        return merged


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """One open stream.

    Attributes:
        number: the engine's number for it.
        principal: on whose behalf it was opened.
        tally: what became of its items.
        worker_s: seconds of worker time that it was charged with for its items.
        share: its part of the worker time of all streams that were asked for, 0 to 1.
    """

    number: int
    principal: str
    tally: Tally
    worker_s: float
    share: float


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """One version of a model: a snapshot whose cost does not depend on the number of streams.

    Attributes:
        tally: what became of its items, since the start.
        batch_cap: its largest batch now.
        peak: most items that waited or ran at once.
        ages: of the results of the last half minute to a minute, seconds from receipt to result.
        costs: of the same, seconds of worker time per item.
        open_streams: how many streams are bound to it.
    """

    tally: Tally
    batch_cap: int
    peak: int
    ages: Distribution
    costs: Distribution
    open_streams: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of everything, by model version.

    Attributes:
        gone: what became of the items of versions that are no longer served, by the model's name.
    """

    models: dict[ModelId, ModelStatistics]
    gone: dict[str, Tally] = field(default_factory=dict)

    @property
    def total(self) -> Tally:
        """All models together, since the start."""
        tallies = (*self.gone.values(), *(model.tally for model in self.models.values()))
        return sum(tallies, Tally()).merged()

    def tally(self, name: str) -> Tally:
        """All versions of one model, since the start."""
        return sum((known.tally for known in self.of(name)), self.gone.get(name, Tally())).merged()

    def of(self, name: str) -> list[ModelStatistics]:
        """The versions of one model."""
        return [known for model, known in self.models.items() if model.name == name]
