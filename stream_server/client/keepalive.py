"""Notices a dead server: one with which no byte moves either way, although it was pinged. It reads no message.

The keepalive of websockets wants a pong within a time, and a pong comes after a frame that is still under way: a
large frame on a slow line would end its own stream. Here a server is alive while bytes move. Time during which the
program blocks the event loop does not count, since what came meanwhile has not been read.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

try:
    import fcntl
    import termios
except (
    ImportError
):  # Windows: the kernel's buffer is not seen, which matters for frames of megabytes on slow lines
    fcntl = termios = None  # type: ignore[assignment]

PING_AFTER_S = 20.0
"""Silence after which the server is pinged: proxies cut what is silent for 60 s."""

SILENCE_S = 60.0
"""Silence after which the server is dead, pinged twice in vain; shorter network outages do not end a stream."""

TICK_S = 2.0
"""How often we look."""

LATE_S = 4.0
"""After so long without a look the program blocks its event loop; and no look counts more silence than this."""

BLOCKED_S = 10.0
"""A block that can explain a lost connection: by default a server closes one that is silent for 30 s."""


class Silence:
    """How long no byte has moved, and how long the event loop was blocked. No clock of its own.

    Attributes:
        seconds: the silence, in time that the loop could run.
    """

    def __init__(self, now: float) -> None:
        self.seconds = 0.0
        self._looked = now
        self._block = (now, 0.0)  # when the last one ended, and its seconds

    def look(self, now: float, moved: bool) -> None:
        """Take note of whether bytes have moved since the last look, which is due every `TICK_S`."""
        elapsed = now - self._looked
        if elapsed > LATE_S:
            self._block = (now, elapsed)
        self._looked = now
        self.seconds = 0.0 if moved else self.seconds + min(elapsed, LATE_S)

    def blocked_s(self, now: float) -> float:
        """For how long the loop has been blocked, until now or a moment ago; 0 if it was not."""
        if now - self._looked > LATE_S:
            return now - self._looked
        ended, seconds = self._block
        return seconds if now - ended <= LATE_S else 0.0


class WatchedConnection(ClientConnection):
    """A websocket that drops itself when its server is dead.

    Attributes:
        received: how many bytes came, parts of a message included.
        silent: it was dropped since nothing had moved for `SILENCE_S`.
    """

    received = 0
    silent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to watch."""
        super().connection_made(transport)
        self._silence = Silence(self.loop.time())
        self._received_before = self._unsent_before = 0
        self._pinged_at = 0.0  # of the silence
        self._ping_task: asyncio.Task[None] | None = None
        self._look_timer = self.loop.call_later(TICK_S, self._look)

    def data_received(self, data: bytes) -> None:
        """Count, and pass on."""
        self.received += len(data)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Watch no longer."""
        self._look_timer.cancel()
        if self._ping_task is not None:
            self._ping_task.cancel()
        super().connection_lost(exc)

    @property
    def blocked_s(self) -> float:
        """For how long the program has just blocked the loop, where that can explain a lost connection; else 0."""
        seconds = self._silence.blocked_s(self.loop.time())
        return seconds if seconds >= BLOCKED_S else 0.0

    def _look(self) -> None:
        self._look_timer = self.loop.call_later(TICK_S, self._look)
        self._silence.look(self.loop.time(), self._moved())
        silent_s = self._silence.seconds
        if silent_s >= SILENCE_S:
            self.silent = True
            self.transport.abort()
        elif silent_s == 0:
            self._pinged_at = 0.0
        elif silent_s - self._pinged_at >= PING_AFTER_S and (
            self._ping_task is None or self._ping_task.done()
        ):
            self._pinged_at = silent_s
            self._ping_task = self.loop.create_task(_ping(self))

    def _moved(self) -> bool:
        """Whether bytes came, or fewer are unsent than before.

        That something was sent proves nothing: the kernel of a server that hangs still takes a few megabytes.
        """
        received, unsent = self.received, unsent_bytes(self.transport)
        moved = received > self._received_before or unsent < self._unsent_before
        self._received_before, self._unsent_before = received, unsent
        return moved


async def _ping(connection: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):  # who reads from it hears of it
        await connection.ping()


def unsent_bytes(transport: Any) -> int:
    """Count what a peer has not acknowledged: in asyncio's buffer, and in the kernel's where it tells."""
    unsent: int = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if fcntl is not None and sock is not None:
        queued = array.array("i", [0])
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, queued)
            unsent += queued[0]
    return unsent
