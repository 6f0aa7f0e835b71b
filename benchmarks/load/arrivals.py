"""When the items of an open loop are due. Pure: the whole schedule is made before the run, and no clock is read.

An open loop does not wait for answers, as cameras and people do not: whatever the server does, the next item is
due when it is due, and its clock runs from then. So a server that stalls is charged with everything that comes
meanwhile, which a closed loop would not have sent (coordinated omission; Gil Tene: "How NOT to Measure Latency").
"""

from __future__ import annotations

import random
from typing import Literal, TypeAlias

Arrivals: TypeAlias = Literal["steady", "poisson"]
"""How the items of a stream follow each other: `steady`, as a camera's do, or `poisson`, as people's requests."""


def schedule(arrivals: Arrivals, rate: float, seconds: float, chance: random.Random) -> list[float]:
    """Make one stream's schedule.

    Args:
        rate: items per second, on average.
        seconds: how long items are due.
        chance: a stream's own, seeded, so that a run can be repeated.

    Returns:
        Seconds from the start of the run to each item, ascending, all below `seconds`.
    """
    return _steady(rate, seconds, chance) if arrivals == "steady" else _poisson(rate, seconds, chance)


def chance_of(seed: int, stream: int) -> random.Random:
    """Give the random numbers of one stream, the same ones in whichever process it runs."""
    # a schedule is no secret
    return random.Random(f"{seed}/{stream}")  # noqa: S311


def _steady(rate: float, seconds: float, chance: random.Random) -> list[float]:
    """Equal intervals from a random moment of the first one on: cameras are not in step with each other."""
    phase = chance.uniform(0, 1 / rate)
    # multiplied, not added up, so that no rounding accumulates
    due = (phase + number / rate for number in range(int(seconds * rate) + 1))
    return [at for at in due if at < seconds]


def _poisson(rate: float, seconds: float, chance: random.Random) -> list[float]:
    """Exponential intervals: requests of many people who know nothing of each other."""
    due = []
    at = chance.expovariate(rate)
    while at < seconds:
        due.append(at)
        at += chance.expovariate(rate)
    return due
