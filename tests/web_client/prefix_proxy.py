"""A reverse proxy that serves another server under a path prefix, websockets included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PREFIX = "/some/prefix"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class PrefixProxy:
    """What to open, and the paths that were requested: below the prefix, and outside of it."""

    url: str = ""
    inside: set[str] = field(default_factory=set)
    outside: list[str] = field(default_factory=list)


@asynccontextmanager
async def run_proxy(upstream: str) -> AsyncIterator[PrefixProxy]:
    """Serve `upstream` under PREFIX; any other path is recorded and answered with 404."""
    proxy = PrefixProxy()
    target = urlsplit(upstream)
    running: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        running.add(task)
        task.add_done_callback(running.discard)
        # a browser may open a connection and never use it, or cut one short
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, _ = head.split(b" ", 2)
            name = path.decode().partition("?")[0]
            if not name.startswith(f"{PREFIX}/"):
                proxy.outside.append(name)
                writer.write(NOT_FOUND)
                await writer.drain()
            else:
                proxy.inside.add(name.removeprefix(PREFIX))
                rest = path.removeprefix(PREFIX.encode())
                head = head.replace(b"%s %s " % (method, path), b"%s %s " % (method, rest), 1)
                # only one request per connection is rewritten
                head = head.replace(b"Connection: keep-alive", b"Connection: close")
                upstream_reader, upstream_writer = await asyncio.open_connection(target.hostname, target.port)
                upstream_writer.write(head)
                await asyncio.gather(copy(reader, upstream_writer), copy(upstream_reader, writer))
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PREFIX}/"
    try:
        yield proxy
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until either end closes, then close the other one."""
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
