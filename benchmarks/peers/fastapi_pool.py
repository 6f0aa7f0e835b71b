"""FastAPI: a websocket on uvicorn, and the standard library's pool of processes behind it.

An answer per message, in turn. uvicorn runs with uvloop and httptools, without logs, in one process: each of its
own workers would have a pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, WebSocket

from benchmarks.peers.shared import HOST, PATH, arguments, predict, workers


def application(model: str) -> FastAPI:
    """Make the application that serves a model."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with workers(model) as app.state.pool:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.websocket(PATH)
    async def stream(websocket: WebSocket) -> None:
        pool: ProcessPoolExecutor = app.state.pool
        loop = asyncio.get_running_loop()
        await websocket.accept()
        async for payload in websocket.iter_bytes():
            await websocket.send_json(await loop.run_in_executor(pool, predict, payload))

    return app


def main() -> None:
    """Serve until SIGTERM."""
    port, model = arguments(__doc__)
    uvicorn.run(
        application(model),
        host=HOST,
        port=port,
        log_level="warning",
        access_log=False,
        ws_per_message_deflate=False,  # a JPEG does not get smaller
    )


if __name__ == "__main__":
    main()
