"""What the peers' modules share: their command line, and a process pool for those that have none of their own.

``python -m benchmarks.peers.NAME PORT MODEL`` serves on the loopback only. The pool is the standard library's, with
a model in each process: what people put behind a websocket by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager

from benchmarks.peers.work import MODELS, Answer, Predict

HOST = "127.0.0.1"
WORKERS = 2
PATH = "/predict"

MODEL_VARIABLE = "PEER_MODEL"
"""Environment variable with the model's name, for frameworks that import the peer's module in each worker."""


def arguments(description: str | None) -> tuple[int, str]:
    """Read the port and the model's name; also put the name into the environment."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("port", type=int)
    parser.add_argument("model", choices=sorted(MODELS))
    args = parser.parse_args()
    os.environ[MODEL_VARIABLE] = args.model
    return args.port, args.model


_predict: Predict


def _load(model: str) -> None:
    """Prepare a worker process."""
    global _predict  # noqa: PLW0603  # an initializer has no other way to leave anything to the calls
    _predict = MODELS[model]()


def predict(payload: bytes) -> Answer:
    """Answer an item, in a worker process."""
    return _predict(payload)


def _loaded() -> None:
    """Do nothing, in a worker process, which has loaded its model by then."""


@asynccontextmanager
async def workers(model: str) -> AsyncIterator[ProcessPoolExecutor]:
    """Hold a pool of worker processes that have loaded the model."""
    with ProcessPoolExecutor(WORKERS, initializer=_load, initargs=(model,)) as pool:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(pool, _loaded) for _ in range(WORKERS)))
        yield pool
