"""Percentiles, fairness, and parts of a run. No I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence

PERCENTS = (*range(1, 100), 99.5)
"""The points of a curve of percentiles."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Give the nearest rank: the smallest value that at least `percent` % of the values do not exceed.

    Not `statistics.quantiles`, which interpolates: histograms have nearest ranks, and both are compared.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values, so no percentile")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def jain(shares: Sequence[float]) -> float:
    """Give the fairness of shares, from 1 / n (one has all) to 1 (all are equal); 1 if all are 0.

    Source: Jain, Chiu, Hawe: "A Quantitative Measure of Fairness", DEC-TR-301, 1984.
    """
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def part(moments: Sequence[tuple[float, float]], of: int, number: int, seconds: float) -> list[float]:
    """Give the values in the `number`-th (from 0) of `of` equal parts of a run.

    Args:
        moments: seconds since the start of the run, and a value.
    """
    return [value for at, value in moments if number <= at * of / seconds < number + 1]
