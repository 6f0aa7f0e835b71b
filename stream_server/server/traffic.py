"""What moves on a websocket's transport: bytes that came, bytes that the peer has taken, and the peer's end.

aiohttp reads a message whole before it tells of it, and notices a client that has gone only while it reads. So
this stands between the transport and aiohttp's protocol, passes everything on, and decides one thing: whether
more of an unfinished message may be read now (see `ByteBudget.grant`).
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Callable
from typing import cast

from inference.intake import FREE_BYTES, ByteBudget
from stream_server.server.paced_reader import Flow

try:
    import fcntl
    import termios

    UNSENT: int | None = termios.TIOCOUTQ
except (ImportError, AttributeError):  # then the transport's own buffer alone is watched
    UNSENT = None


class Traffic(asyncio.Protocol):
    """The protocol of a websocket's transport, in front of aiohttp's.

    Up to `FREE_BYTES` that were read and not taken count for nothing: what frames of a camera need costs no
    accounting. Beyond, all of them count in the budget, and only what it grants is read.

    Args:
        flow: the connection's flow control.
        on_lost: called when the connection is lost.

    Attributes:
        received: bytes that came, in all.
        paused: the budget holds the rest of a message back.
    """

    def __init__(
        self, transport: asyncio.Transport, flow: Flow, budget: ByteBudget, on_lost: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._flow = flow
        self._protocol = cast(asyncio.Protocol, transport.get_protocol())
        self._budget = budget
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._receiving = self._came = self._closing = False
        self._newest = 0  # the size of what came last
        self._pending = self._charged = 0
        self.received = 0
        self.paused = False
        transport.set_protocol(self)

    @property
    def unfinished(self) -> bool:
        """Whether more than `FREE_BYTES` of a message have come, and the rest may come at any moment."""
        return self._receiving and not self.paused and self._pending > FREE_BYTES

    def receive(self) -> None:
        """The next message is wanted; its reader waits for it."""
        self._receiving = True
        self._came = False
        if self.paused:  # not before the reader has seen what aiohttp has: that may be paused as well
            self._loop.call_soon(self.resume)

    def taken(self, size: int, *, control: bool = False) -> None:
        """The message that was waited for has been taken.

        What frames cost besides is not known here, so that too much is counted; but when a message has just come,
        only what came with its end can be left.
        """
        self._receiving = False
        left = max(0, self._pending - size)
        self._pending = min(left, self._newest) if self._came and not control else left
        if self._charged:
            self._charge()

    def outstanding(self) -> int:
        """Bytes that were sent and that the peer's machine has not acknowledged."""
        size = self._transport.get_write_buffer_size()
        sock = self._transport.get_extra_info("socket")
        if UNSENT is not None and sock is not None and sock.fileno() >= 0:
            size += int.from_bytes(fcntl.ioctl(sock.fileno(), UNSENT, bytes(4)), "little")
        return size

    def resume(self) -> None:
        """Read on, if that is wanted and granted."""
        if self.paused and self._receiving and (not self._charged or self._budget.grant(self)):
            self.paused = False
            self._flow.release(self)

    def close(self) -> None:
        """Hold nothing back any more, and count nothing: what comes before the close is read and dropped."""
        self._closing = True
        self._on_lost = _nothing
        self._pending = 0
        self._charge()
        if self.paused:
            self.paused = False
            self._flow.release(self)

    def data_received(self, data: bytes) -> None:
        """Pass on what came."""
        if self._closing:
            self._protocol.data_received(data)
            return
        self._newest = size = len(data)
        self.received += size
        self._pending += size
        self._came = True
        self._protocol.data_received(data)
        if self._pending > FREE_BYTES:
            self._charge()
            if not (self._receiving and self._budget.grant(self)):
                self.paused = True
                self._flow.hold(self)

    def eof_received(self) -> bool | None:
        """Pass on that the client sends nothing more: asyncio closes the transport."""
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the transport's buffer is full."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the transport's buffer has space."""
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on that the connection is lost."""
        self._protocol.connection_lost(exc)
        self._on_lost()
        self.close()

    def _charge(self) -> None:
        size = self._pending if self._pending > FREE_BYTES else 0
        charged, self._charged = self._charged, size
        if size != charged or not size:
            self._budget.unfinished(self, size - charged, done=not size)


def _nothing() -> None: ...


class Hangups:
    """Tells when a peer has gone while nothing is read from it: asyncio learns of it only by reading.

    One more epoll of the loop's, on Linux; elsewhere the heartbeat finds out.
    """

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._epoll: select.epoll | None = None

    def watch(self, transport: asyncio.Transport, on_hangup: Callable[[], None]) -> int:
        """Call back once when the peer has closed or reset the connection; return a number for `forget`."""
        sock = transport.get_extra_info("socket")
        number: int = sock.fileno() if sock is not None else -1
        if number >= 0 and hasattr(select, "epoll"):
            with contextlib.suppress(OSError):  # no more descriptors or watches: the heartbeat finds out
                self._start().register(number, select.EPOLLRDHUP | select.EPOLLONESHOT)
                self._callbacks[number] = on_hangup
        return number

    def forget(self, number: int, on_hangup: Callable[[], None]) -> None:
        """Watch a connection no longer; a socket that is closed has left by itself."""
        if self._callbacks.get(number) == on_hangup:  # else the number is another's by now
            del self._callbacks[number]
            with contextlib.suppress(OSError):
                self._start().unregister(number)

    def close(self) -> None:
        """Watch nothing more."""
        if self._epoll:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _start(self) -> select.epoll:
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._poll)
        return self._epoll

    def _poll(self) -> None:
        assert self._epoll
        for number, _ in self._epoll.poll(0):
            if callback := self._callbacks.get(number):
                callback()
