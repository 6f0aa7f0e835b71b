"""A websocket client of bare bytes (RFC 6455), for what no library sends and for whom no library lets one be."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, mask: bool = True
) -> bytes:
    """One frame as a client sends it (section 5.2)."""
    head = bytes([fin << 7 | reserved << 4 | opcode])
    size, masked = len(payload), mask << 7
    if size < 126:
        head += bytes([masked | size])
    elif size < 1 << 16:
        head += bytes([masked | 126]) + struct.pack("!H", size)
    else:
        head += bytes([masked | 127]) + struct.pack("!Q", size)
    # a mask of zeros is a mask, and leaves the payload as it is
    return head + bytes(4 * mask) + payload


class Wire:
    """A connection whose handshake is done. Nothing is read but what is asked for, and nothing answered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    async def item(self, payload: bytes) -> None:
        await self.send(frame(BINARY, payload))

    async def say(self, text: str) -> None:
        await self.send(frame(TEXT, text.encode()))

    async def receive(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload."""
        first, size = await self.reader.readexactly(2)
        assert first & 0x80, "the server fragments nothing"
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 0x0F, await self.reader.readexactly(size)

    async def message(self) -> dict[str, Any]:
        """The next message; pings are left unanswered."""
        while (received := await self.receive())[0] == PING:
            pass
        opcode, payload = received
        assert opcode == TEXT, f"opcode {opcode}: {payload!r}"
        message: dict[str, Any] = json.loads(payload)
        return message

    async def close_code(self) -> int:
        """Skip to the server's close."""
        while (received := await self.receive())[0] != CLOSE:
            pass
        return int.from_bytes(received[1][:2], "big")

    async def closed(self) -> None:
        """Skip to the end of the connection."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass

    def reset(self) -> None:
        """Vanish: the peer gets an RST, and no word."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def dial(
    url: str, path: str, *, receive_buffer: int | None = None, limit: int = 1 << 16
) -> AsyncIterator[Wire]:
    """Connect, shake hands, take the server's `ready`.

    Args:
        receive_buffer: the kernel's, in bytes; a small one fills soon when nobody reads.
        limit: half of what is read ahead.
    """
    host = urlsplit(url)
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host.hostname, host.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {host.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        response = await reader.readuntil(b"\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 101 "), response
        # the key and its answer are the example of section 1.3
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in response
        wire = Wire(reader, writer)
        assert (await wire.message())["type"] == "ready"
        yield wire
    finally:
        writer.transport.abort()
