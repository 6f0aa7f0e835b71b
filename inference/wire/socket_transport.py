"""The server's end of a worker's stream socket, on the event loop. It frames bytes and understands none of them."""

from __future__ import annotations

import errno
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from inference.wire.framing import MAX_ANSWER, Buffer, FramingError, Unpacker, frame

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

log = logging.getLogger(__name__)

READ_SIZE = 256 << 10
"""What one read takes from a socket, at first: several frames, or hundreds of answers."""

_received = memoryview(bytearray(READ_SIZE))
"""All transports read into this buffer, one at a time on the loop: a new one for each read would be mapped and
unmapped by malloc, which costs more than the read."""


class SocketTransport:
    """Implements `inference.pool.launcher.Transport` on a stream socket: non-blocking, without a task.

    Args:
        on_message: called with the header and body of each message. If it raises, the other end is lost: what it
            sends must not pile up because nobody takes it.
        on_lost: called once, when the other end has closed or broken the framing, with the reason.

    Attributes:
        unread: this end or the other closed before the other had read all that was to be sent.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: AbstractEventLoop,
        on_message: Callable[[memoryview, memoryview], None],
        on_lost: Callable[[str], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = loop
        self._on_message = on_message
        self._on_lost = on_lost
        self._unpacker = Unpacker(MAX_ANSWER)
        self._unsent: deque[memoryview] = deque()
        self._writing = False
        self._open = True
        self.unread = False
        loop.add_reader(sock, self._readable)

    def send(self, header: bytes, body: Sequence[Buffer] = ()) -> None:
        """Send a message, now as far as the socket takes it and the rest when it can.

        A worker has one batch at a time, which bounds what waits here.
        """
        buffers = frame(header, body)
        if not self._open:
            return  # on_lost has been called, or the pool closed it
        self._unsent.extend(map(memoryview, buffers))
        if not self._writing:
            self._flush()

    def finish(self) -> None:
        """Read what is left of a worker that has ended, up to the loss."""
        while self._open and self._readable():
            pass

    def close(self) -> None:
        """Close this end; the worker reads the end of the stream and exits. Callbacks cease."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self.unread = self.unread or bool(self._unsent)
            self._unsent.clear()

    def _flush(self) -> None:
        try:
            sent = self._sock.sendmsg(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self.unread = True
            # the reader hears of it as well, but a caller of send must not be called back from within
            self._loop.call_soon(self._lose, f"cannot write to it: {exc.strerror}")
            return
        while self._unsent and sent >= len(self._unsent[0]):
            sent -= len(self._unsent.popleft())
        if self._unsent:
            self._unsent[0] = self._unsent[0][sent:]
        if self._writing != bool(self._unsent):
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self._sock, self._flush)
            else:
                self._loop.remove_writer(self._sock)

    def _readable(self) -> bool:
        """Pass on what can be read; whether there was anything."""
        try:
            count = self._sock.recv_into(_received)
        except BlockingIOError:
            return False
        except OSError as exc:
            # Linux says so when the other end of a socket pair closes with unread bytes in it (unix_release_sock)
            self.unread = self.unread or exc.errno == errno.ECONNRESET
            self._lose(f"cannot read from it: {exc.strerror}")
            return False
        if not count:
            self._lose("it closed its end")
            return False
        try:
            for header, body in self._unpacker.feed(_received[:count]):
                self._on_message(header, body)
                if not self._open:
                    break  # the callback closed it
        except FramingError as exc:
            self._lose(f"it broke the framing: {exc}")
        except Exception:  # of the callback, which may raise anything
            log.exception("a worker's message could not be processed; the server is at fault, not the worker")
            self._lose("the server failed to take its message")
        return self._open

    def _lose(self, reason: str) -> None:
        if self._open:
            self.close()
            self._on_lost(reason)
