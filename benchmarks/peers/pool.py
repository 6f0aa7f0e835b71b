"""The standard library's pool of processes with a model in each: what people put behind a websocket by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager

from benchmarks.peers.command import WORKERS
from benchmarks.peers.work import MODELS, Answer, Predict

_predict: Predict


def load(model: str) -> None:
    """Prepare a worker process."""
    global _predict  # noqa: PLW0603  # an initializer has no other way to leave anything to the calls
    _predict = MODELS[model]()


def predict(payload: bytes) -> Answer:
    """Answer an item, in a worker process."""
    return _predict(payload)


def loaded() -> None:
    """Do nothing, in a worker process, which has loaded its model by then."""


@asynccontextmanager
async def workers(model: str) -> AsyncIterator[ProcessPoolExecutor]:
    """Hold a pool of worker processes that have loaded the model."""
    with ProcessPoolExecutor(WORKERS, initializer=load, initargs=(model,)) as pool:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(pool, loaded) for _ in range(WORKERS)))
        yield pool
