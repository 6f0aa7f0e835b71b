"""The arithmetic of the figures: percentiles, fairness, rounds. It measures nothing itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

PERCENTS = (*range(1, 100), 99.5)
"""The points of a curve of percentiles."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Give the smallest value that at least `percent` of 100 of the values do not exceed (the nearest rank).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values, so no percentile")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def jain(shares: Sequence[float]) -> float:
    """Give the fairness of shares, from 1 / n (one has all) to 1 (all have the same); nothing at all is fair.

    Source: Jain, Chiu, Hawe: "A Quantitative Measure of Fairness", DEC-TR-301, 1984.
    """
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def part(moments: Sequence[tuple[float, float]], of: int, number: int, seconds: float) -> list[float]:
    """Give the values of one of `of` equal parts, from 0, of a run of so many seconds.

    Args:
        moments: seconds since the start of the run, and a value.
    """
    return [value for at, value in moments if number <= at * of / seconds < number + 1]
