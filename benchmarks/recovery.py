"""How long a `faces` worker is missing after SIGKILL, until its replacement has loaded the model and is warm."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

from benchmarks.generator import RunFailed
from benchmarks.measures import percentile
from benchmarks.payloads import portrait
from benchmarks.report import Figure, Say, run
from inference.engine import Engine
from inference.items import Result
from inference.model import ModelSource

KILLS = 12
LOOK_S = 0.002
LONGEST_S = 10.0


def measure(say: Say) -> list[Figure]:
    """Kill workers of an engine that does nothing else, one at a time."""
    logging.getLogger("inference.pool").setLevel(logging.ERROR)  # it warns of every kill
    seconds = asyncio.run(_measure(say))
    return [
        Figure(
            "recovery: cold replacement of a worker, p50",
            (percentile(seconds, 50),),
            "s",
            "<=",
            0.6,
            f"{KILLS} kills; the other worker idle",
        ),
        Figure("recovery: cold replacement of a worker, max", (max(seconds),), "s", "<=", 1.5),
    ]


async def _measure(say: Say) -> list[float]:
    (image,) = portrait()
    taken = []
    async with Engine([ModelSource("faces", "inference.models.faces:Faces")], workers=2) as engine:
        await _full(engine, deaths=0)
        for number in range(KILLS):
            say(f"kill {number + 1} of {KILLS}")
            os.kill(engine.workers().pids[number % 2], signal.SIGKILL)
            killed = engine.now()
            await _full(engine, deaths=number + 1)
            taken.append(engine.now() - killed)
            if not isinstance(await engine.infer("faces", image), Result):
                raise RunFailed("the engine does not answer after a worker was replaced")
    return taken


async def _full(engine: Engine, deaths: int) -> None:
    """Wait until so many workers have died and every slot has one that can work."""
    async with asyncio.timeout(LONGEST_S):
        while (now := engine.workers()).deaths < deaths or now.ready < now.slots:  # noqa: ASYNC110  # none tells of it
            await asyncio.sleep(LOOK_S)


if __name__ == "__main__":
    run({"recovery": measure}, __doc__)
