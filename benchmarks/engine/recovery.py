"""How long a `faces` worker is missing after SIGKILL: with a warm spare, and until a cold one has loaded."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

from benchmarks.failures import RunFailed
from benchmarks.load.payloads import portrait
from benchmarks.report.results import Figure, Say, Section, at_most
from benchmarks.report.stats import percentile
from inference.engine import Engine
from inference.items import Result
from inference.model import ModelSource
from inference.pool.pool import PoolStatus, WorkerOptions

KILLS = 12
LOOK_S = 0.001
LONGEST_S = 10.0


def measure(say: Say) -> Section:
    """Kill workers of idle engines, one at a time."""
    logging.getLogger("inference.pool.slot").setLevel(logging.ERROR)  # it warns of every kill
    cold = asyncio.run(_measure(say, spares=0))
    warm = asyncio.run(_measure(say, spares=1))
    return Section(
        "recovery",
        "How long one of two `faces` workers is missing after SIGKILL, until every slot has one that can work "
        "again: with a warm spare in its place, and without, when a new one has to load. The engine does nothing "
        "else.",
        tuple(_figures(cold, warm)),
    )


def _figures(cold: list[float], warm: list[float]) -> list[Figure]:
    return [
        at_most(
            "recovery: cold replacement of a worker, p50",
            percentile(cold, 50),
            0.6,
            "s",
            f"{KILLS} kills; the other worker idle",
        ),
        at_most("recovery: cold replacement of a worker, max", max(cold), 1.5, "s"),
        at_most(
            "recovery: a warm spare in its place, max",
            max(warm) * 1e3,
            50.0,
            "ms",
            f"{KILLS} kills, p50 {percentile(warm, 50) * 1e3:.0f} ms",
        ),
    ]


async def _measure(say: Say, spares: int) -> list[float]:
    (image,) = portrait()
    taken = []
    sources = [ModelSource("faces", "inference.models.faces:Faces")]
    async with Engine(sources, 2, WorkerOptions(spares=spares)) as engine:
        for number in range(KILLS):
            say(f"kill {number + 1} of {KILLS}, {spares} spares")
            whole = await _until(engine, number, spares)
            os.kill(whole.serving[number % 2], signal.SIGKILL)
            killed = engine.now()
            await _until(engine, number + 1, 0)
            taken.append(engine.now() - killed)
            if not isinstance(await engine.infer("faces", image), Result):
                raise RunFailed("the engine does not answer after a worker was replaced")
    return taken


async def _until(engine: Engine, deaths: int, spares: int) -> PoolStatus:
    """Wait until there were `deaths`, there are `spares`, and every slot has a ready worker."""
    async with asyncio.timeout(LONGEST_S):
        while True:
            now = engine.workers()
            if now.deaths >= deaths and now.ready == now.slots and now.spares >= spares:
                return now
            await asyncio.sleep(LOOK_S)
