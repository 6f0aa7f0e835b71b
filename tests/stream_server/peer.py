"""A server of scripted faults, on the websockets library: for what the real one does not do when asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from stream_server.protocol.server_side import SUBPROTOCOL


@dataclass
class Peer:
    """The server's end of one connection."""

    ws: ServerConnection
    number: int  # of the connection, from 1

    async def say(self, type_: str, **fields: Any) -> None:
        await self.ws.send(json.dumps({"type": type_, **fields}))

    async def ready(self, **changes: Any) -> None:
        fields = {
            "stream": f"s{self.number}",
            "model": "echo",
            "version": "1",
            "policy": "queue",
            "window": 4,
            "max_item_bytes": 1 << 20,
            "input": "bytes",
        }
        await self.say("ready", **(fields | changes))

    async def result(self, seq: int, outputs: Any = None) -> None:
        numbers = {"age_ms": 2.0, "queue_ms": 0.5, "infer_ms": 1.0, "batch": 1}
        await self.say("result", seq=seq, outputs=outputs, model="echo", version="1", **numbers)

    async def serve_on(self, seq: int = 0) -> None:
        """Answer all that comes as the real server would, after `seq` items that were answered before."""
        async for message in self.ws:
            if message == '{"type": "end"}':
                await self.say("end", received=seq, results=seq, dropped=0, errors=0)
                return
            seq += 1
            await self.result(seq, {"bytes": len(message)})

    def cut(self) -> None:
        """End the connection as a pulled cable does, for those who notice."""
        self.ws.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


async def obedient(peer: Peer) -> None:
    """Do all that a server should."""
    await peer.ready()
    await peer.serve_on()


@asynccontextmanager
async def scripted(*scripts: Script, **settings: Any) -> AsyncIterator[str]:
    """Serve each connection by the next script, further ones by the last; what goes wrong in one fails the test."""
    faults: list[BaseException] = []
    running: list[asyncio.Task[None]] = []

    async def handle(ws: ServerConnection) -> None:
        running.append(asyncio.current_task())  # type: ignore[arg-type]
        script = scripts[min(len(running), len(scripts)) - 1]
        try:
            with suppress(ConnectionClosed):
                await script(Peer(ws, len(running)))
        except Exception as exc:  # noqa: BLE001  # raised when the test is over
            faults.append(exc)

    options: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 0,
        "subprotocols": [SUBPROTOCOL],
        "compression": None,
    }
    async with serve(handle, **(options | settings)) as server:
        port = server.sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        except BaseException:
            for task in running:
                task.cancel()  # what a failed test never did, a script may wait for
            raise
    if faults:
        raise faults[0]
