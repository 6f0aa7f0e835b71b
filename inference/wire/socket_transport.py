"""Messages on the socket pair between the server and a worker: framing and the two ends. It reads no payload.

A message is a struct prefix, a small JSON header and raw bytes::

    !II  length of the header, length of the body | header: JSON object | body: bytes

There is no pickle: a worker that turned hostile can send the other end nothing but JSON and bytes.
"""

from __future__ import annotations

import errno
import json
import logging
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from inference.wire import strict_json

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

log = logging.getLogger(__name__)

Header: TypeAlias = dict[str, Any]
Buffer: TypeAlias = bytes | bytearray | memoryview

PREFIX = struct.Struct("!II")

DUMP_SIGNAL = signal.SIGUSR1
"""Makes a worker print where its threads are."""

MAX_HEADER = 1 << 20
"""A header names the items of one batch, at most 256 of them; a megabyte is far above any honest one."""

MAX_ANSWER = 64 << 20
"""What a worker may answer to one batch: every answer becomes JSON text for a client, and the whole is held."""

READ_SIZE = 256 << 10
"""What one read takes from a socket, at first: several frames, or hundreds of answers."""

KEPT = 4 << 20
"""The largest buffer that a worker keeps for the next message: to map, clear and unmap a megabyte for each batch of
frames costs both ends a fifth of what a frame takes them."""

_received = memoryview(bytearray(READ_SIZE))
"""Where every channel reads to, one at a time on the loop: a buffer of its own for each read would be mapped and
unmapped by malloc, which costs more than the reading."""

_encoder = json.JSONEncoder(separators=(",", ":"))


class ChannelError(Exception):
    """The other end broke the framing, or closed in the middle of a message."""


def pack(header: Header, body: Sequence[Buffer] = ()) -> list[Buffer]:
    """Frame a message as the buffers of one `sendmsg`; the body's parts are not copied."""
    text = _encoder.encode(header).encode()
    return [PREFIX.pack(len(text), sum(map(len, body))) + text, *body]


class Unpacker:
    """Cuts a stream of bytes into messages, without I/O."""

    def __init__(self, max_body: int) -> None:
        self._buffer = bytearray()
        self._max_body = max_body

    def feed(self, data: Buffer) -> Iterator[tuple[Header, memoryview]]:
        """Take bytes as they come, give the messages that are whole.

        Raises:
            ChannelError: a length is over its limit, or a header is no JSON object.
        """
        self._buffer += data
        while len(self._buffer) >= PREFIX.size:
            head, body = PREFIX.unpack_from(self._buffer)
            if head > MAX_HEADER or body > self._max_body:
                raise ChannelError(f"a message of {head} + {body} bytes")
            end = PREFIX.size + head + body
            if len(self._buffer) < end:
                return
            whole = memoryview(bytes(self._buffer[:end]))
            del self._buffer[:end]
            yield _header(whole[PREFIX.size : PREFIX.size + head]), whole[PREFIX.size + head :]


def _header(text: memoryview) -> Header:
    try:
        header = strict_json.read(str(text, "utf-8"))
    except (ValueError, RecursionError) as exc:
        raise ChannelError("a header that is no JSON") from exc
    if not isinstance(header, dict):
        raise ChannelError("a header that is no object")
    return header


class Channel:
    """The server's end: non-blocking, on the event loop, without a task.

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
        on_message: Callable[[Header, memoryview], None],
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

    def send(self, header: Header, body: Sequence[Buffer] = ()) -> None:
        """Send a message, now as far as the socket takes it and the rest when it can.

        The pool has one batch at a time in a worker, which bounds what waits here.
        """
        buffers = pack(header, body)
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
        except ChannelError as exc:
            self._lose(f"it broke the framing: {exc}")
        except Exception:  # of the callback, which may raise anything
            log.exception("a worker's message could not be taken; this is no fault of the worker's")
            self._lose("the server failed to take its message")
        return self._open

    def _lose(self, reason: str) -> None:
        if self._open:
            self.close()
            self._on_lost(reason)


class WorkerChannel:
    """The worker's end: blocking, one message at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._ahead = self._buffer[:0]  # what was read of the next message

    def receive(self) -> tuple[Header, memoryview | None] | None:
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
        return _header(view[PREFIX.size : PREFIX.size + head]), view[PREFIX.size + head : end]

    def _skip(self, got: int, head: int, end: int) -> tuple[Header, None] | None:
        """Read a message of which `got` bytes are in the buffer to its end, and keep the header alone."""
        kept = bytearray(self._buffer[:got])
        while got < end:
            if not (n := self._read(self._buffer[: end - got])):
                return None
            kept += self._buffer[: min(n, max(0, PREFIX.size + head - len(kept)))]
            got += n
        self._ahead = self._buffer[:0]
        return _header(memoryview(kept)[PREFIX.size : PREFIX.size + head]), None

    def _read(self, into: memoryview) -> int:
        try:
            return self._sock.recv_into(into)
        except ConnectionResetError:
            return 0

    def send(self, header: Header, body: Sequence[Buffer] = ()) -> None:
        """Send a message whole."""
        buffers = pack(header, body)
        sent = self._sock.sendmsg(buffers)
        if sent < sum(map(len, buffers)):
            self._sock.sendall(b"".join(buffers)[sent:])
