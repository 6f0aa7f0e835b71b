"""A server for the tests of the load generator, which stalls, refuses or does not read, depending on the path."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import WSMsgType, web

from benchmarks.load.servers import Program, running

STALL_AT = 20
"""The item at which the event loop is blocked."""

COUNTS = web.AppKey("counts", Counter)


def _stall(request: web.Request, seconds: float) -> None:
    """Block the event loop at one of the items, as a long garbage collection does."""
    counts = request.app[COUNTS]
    counts[request.path] += 1
    if counts[request.path] == STALL_AT:
        time.sleep(seconds)


async def post(request: web.Request) -> web.Response:
    await request.read()
    _stall(request, float(request.query.get("stall", 0)))
    return web.json_response({"bytes": request.content_length})


async def refuse(request: web.Request) -> web.Response:
    """Answer every second item with 429."""
    await request.read()
    request.app[COUNTS]["refuse"] += 1
    return web.Response(status=429 if request.app[COUNTS]["refuse"] % 2 else 200)


async def stream(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        if message.type is WSMsgType.BINARY:
            _stall(request, float(request.query.get("stall", 0)))
            await ws.send_json({"bytes": len(message.data)})
    return ws


async def late(request: web.Request) -> web.WebSocketResponse:
    """After the first item stop reading for some seconds, then read everything."""
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    first = await ws.receive()  # a load that has connected may begin much later
    request.transport.pause_reading()
    await asyncio.sleep(float(request.query["seconds"]))
    request.transport.resume_reading()
    await ws.send_json({"bytes": len(first.data)})
    async for message in ws:
        await ws.send_json({"bytes": len(message.data)})
    return ws


async def unread(request: web.Request) -> web.WebSocketResponse:
    """After the first item stop reading for some seconds, then disconnect."""
    ws = web.WebSocketResponse(autoping=False)
    await ws.prepare(request)
    await ws.receive()
    request.transport.pause_reading()
    await asyncio.sleep(float(request.query["seconds"]))
    request.transport.abort()
    return ws


async def posted(request: web.Request) -> web.Response:
    """Return how many items were posted."""
    return web.json_response(request.app[COUNTS]["/post"])


@contextmanager
def running_here() -> Iterator[Program]:
    """Run this server to the end of the context."""
    with running(sys.executable, __file__) as program:
        yield program


def main() -> None:
    app = web.Application()
    app[COUNTS] = Counter()
    app.router.add_post("/post", post)
    app.router.add_post("/refuse", refuse)
    app.router.add_get("/stream", stream)
    app.router.add_get("/late", late)
    app.router.add_get("/unread", unread)
    app.router.add_get("/posted", posted)
    listening = socket.create_server(("127.0.0.1", 0))

    async def announce(_: web.Application) -> None:
        print(f"ready at http://127.0.0.1:{listening.getsockname()[1]}", flush=True)

    app.on_startup.append(announce)
    web.run_app(app, sock=listening, print=None, access_log=None)


if __name__ == "__main__":
    main()
