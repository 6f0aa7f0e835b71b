"""Histograms of times with bounded error, which can be sent between processes and added. No I/O, no clock.

Percentiles of several processes or streams cannot be averaged; histograms with the same buckets can be added.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

LONGEST_S = 600.0
"""Longer times are counted as this; a run waits at most a minute for its last answer."""

DIGITS = 3
"""Significant digits: a thousandth is far below what two runs differ by."""

SLOT_S = 0.25
"""Step of a timeline: four cameras at 15 frames a second put 15 answers in a slot."""


class Latencies:
    """A histogram of times, 1 us to `LONGEST_S`. Takes seconds, as clocks give them; gives milliseconds.

    Args:
        times: seconds; negative ones count as 0.
    """

    def __init__(self, times: Iterable[float] = ()) -> None:
        self._histogram = HdrHistogram(1, round(LONGEST_S * 1e6), DIGITS)
        for seconds in times:
            self._histogram.record_value(round(min(max(seconds, 0.0), LONGEST_S) * 1e6))

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read what `encode` wrote."""
        latencies = cls()
        latencies._histogram.decode_and_add(text.encode("ascii"))
        return latencies

    def encode(self) -> str:
        """Write it as text (HdrHistogram's V2 format, deflated, in base64)."""
        encoded: bytes = self._histogram.encode()
        return encoded.decode("ascii")

    def add(self, other: Latencies) -> None:
        """Count what the other one has counted, too."""
        self._histogram.add(other._histogram)

    @property
    def count(self) -> int:
        """The number of times."""
        return int(self._histogram.get_total_count())

    def percentile(self, percent: float) -> float:
        """Give the nearest rank, as `stats.percentile` does, in milliseconds.

        Raises:
            ValueError: it is empty.
        """
        if not self.count:
            raise ValueError("no times, so no percentile")
        rank = max(1, math.ceil(self.count * percent / 100))
        # the library rounds a rank's fraction to nearest, so give it the percentage of a whole rank
        return float(self._histogram.get_value_at_percentile(100 * rank / self.count)) / 1e3

    def percentiles(self, *percents: float) -> tuple[float, ...]:
        """Give several percentiles in milliseconds; NaN if it is empty."""
        return tuple(self.percentile(percent) if self.count else math.nan for percent in percents)


def total(parts: Iterable[Latencies]) -> Latencies:
    """Add histograms."""
    whole = Latencies()
    for part in parts:
        whole.add(part)
    return whole


@dataclass(frozen=True, slots=True)
class Moment:
    """One slot of a timeline."""

    at: float  # the slot's middle, in seconds since the start of the run
    count: int  # results that arrived in it
    p50: float  # their milliseconds since they were due
    p99: float
    most: float


def slots(answers: Iterable[tuple[float, float]]) -> dict[int, Latencies]:
    """Sort answers into slots; each has its arrival since the start of the run and its latency, in seconds."""
    found: defaultdict[int, list[float]] = defaultdict(list)
    for at, seconds in answers:
        found[int(at / SLOT_S)].append(seconds)
    return {slot: Latencies(times) for slot, times in sorted(found.items())}


def timeline(parts: Iterable[Mapping[int, Latencies]]) -> tuple[Moment, ...]:
    """Add the slots of all processes; empty slots are left out."""
    whole: defaultdict[int, Latencies] = defaultdict(Latencies)
    for part in parts:
        for slot, latencies in part.items():
            whole[slot].add(latencies)
    return tuple(
        Moment((slot + 0.5) * SLOT_S, latencies.count, *latencies.percentiles(50, 99, 100))
        for slot, latencies in sorted(whole.items())
    )
