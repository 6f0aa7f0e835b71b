"""The worker's end of its socket to the server: blocking, without an event loop. It reads no header or body."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence

from inference.wire.framing import PREFIX, Buffer, frame

DUMP_SIGNAL = signal.SIGUSR1
"""Makes a worker on this machine print the stacks of its threads."""

READ_SIZE = 256 << 10
"""The buffer at first: several frames."""

KEPT = 4 << 20
"""The largest buffer that a worker keeps for the next message: to map, clear and unmap a megabyte for each batch of
frames costs both ends a fifth of what a frame takes them."""


class WorkerChannel:
    """Sends and receives one message at a time, blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._ahead = self._buffer[:0]  # what was read of the next message

    def receive(self) -> tuple[bytes, memoryview | None] | None:
        """Wait for a message; None when the server has gone.

        The body is good until the next call. None is in its place where this process has no memory for it.
        """
        view = self._buffer
        got = len(self._ahead)
        view[:got] = bytes(self._ahead)  # it may overlap
        while got < PREFIX.size:
            if not (n := self._read(view[got:])):
                return None
            got += n
        head, body = PREFIX.unpack_from(view)
        end = PREFIX.size + head + body
        if end > len(view):
            try:
                view = memoryview(bytearray(end))
            except MemoryError:
                return self._skip(got, head, end)
            view[:got] = self._buffer[:got]
            if end <= KEPT:
                self._buffer = view
        while got < end:
            if not (n := self._read(view[got:])):
                return None
            got += n
        self._ahead = view[end:got] if got > end else self._buffer[:0]  # which holds no large one alive
        return bytes(view[PREFIX.size : PREFIX.size + head]), view[PREFIX.size + head : end]

    def _skip(self, got: int, head: int, end: int) -> tuple[bytes, None] | None:
        """Read a message of which `got` bytes are in the buffer to its end, and keep the header alone."""
        kept = bytearray(self._buffer[:got])
        while got < end:
            if not (n := self._read(self._buffer[: end - got])):
                return None
            kept += self._buffer[: min(n, max(0, PREFIX.size + head - len(kept)))]
            got += n
        self._ahead = self._buffer[:0]
        return bytes(memoryview(kept)[PREFIX.size : PREFIX.size + head]), None

    def _read(self, into: memoryview) -> int:
        try:
            return self._sock.recv_into(into)
        except ConnectionResetError:
            return 0

    def send(self, header: bytes, body: Sequence[Buffer] = ()) -> None:
        """Send a message whole."""
        buffers = frame(header, body)
        sent = self._sock.sendmsg(buffers)
        if sent < sum(map(len, buffers)):
            self._sock.sendall(b"".join(buffers)[sent:])
