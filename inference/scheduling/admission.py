"""Forecasts whether one more stream can be admitted and every promised rate be kept. Pure: it changes nothing.

A promised rate is kept if a stream's fair share covers it. That share is the least in which all promises fit; the
streams may take as much of it as they ask for, by what they sent lately, and at least what they were promised. The
new stream, if it is promised nothing, may take all of it. Where principals share the workers, what counts is the
sum of the promises of a principal's streams, and of what they ask for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from inference.scheduling.state import Model


def admits(
    models: Iterable[Model], model: Model, weight: float, now: float, principal: str | None = None
) -> bool:
    """Whether a model can have one more stream.

    Args:
        models: all models.
        weight: the new stream's.
        principal: the new stream's, where principals share the workers; else None.
    """
    workers = model.workers
    if not any(other.min_rate for other in models if other.workers is workers):
        return True  # without a promise there is no need to ask each of thousands of streams
    by_principal = principal is not None
    promise = model.min_rate * model.cost
    # of whoever shares the workers: the weight, what was promised, what is asked for, in worker seconds per second
    sharers: dict[object, list[float]] = {principal: [1.0 if by_principal else weight, promise, promise]}
    if not promise:
        sharers[principal][2] = math.inf
    for stream in workers.streams.values():
        if stream.open:
            key, own = (stream.principal.name, 1.0) if by_principal else (stream, stream.weight)
            sharer = sharers.setdefault(key, [own, 0.0, 0.0])
            sharer[1] += stream.promised()
            sharer[2] += max(stream.demand(now), stream.promised())
    share = max(promised / own for own, promised, _ in sharers.values())  # of the workers, per weight
    return sum(min(asked, share * own) for own, _, asked in sharers.values()) <= workers.count
