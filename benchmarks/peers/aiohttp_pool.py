"""aiohttp: a websocket, and the standard library's pool of processes behind it.

Each message goes to the pool by itself, and is answered before the next one of its stream is read. There are no
windows, batches or limits, and no answer to a worker's death. A text comes as the stream server's clients send it.
It runs on asyncio's own loop, as aiohttp's documentation has it; FastAPI's peer shows the same pool under uvloop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor

from aiohttp import WSMsgType, web

from benchmarks.peers.shared import HOST, PATH, arguments, predict, workers

POOL = web.AppKey("pool", ProcessPoolExecutor)


async def stream(request: web.Request) -> web.WebSocketResponse:
    """Serve one websocket."""
    loop = asyncio.get_running_loop()
    ws = web.WebSocketResponse(compress=False)  # a JPEG does not get smaller
    await ws.prepare(request)
    async for message in ws:
        item = message.data if message.type is WSMsgType.BINARY else json.loads(message.data)["text"]
        await ws.send_json(await loop.run_in_executor(request.app[POOL], predict, item))
    return ws


def main() -> None:
    """Serve until SIGTERM."""
    port, model = arguments(__doc__)

    async def pool(app: web.Application) -> AsyncIterator[None]:
        async with workers(model) as app[POOL]:
            yield

    app = web.Application()
    app.cleanup_ctx.append(pool)
    app.router.add_get(PATH, stream)
    web.run_app(app, host=HOST, port=port, print=None, access_log=None)


if __name__ == "__main__":
    main()
