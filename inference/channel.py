"""Messages on the socket pair between the server and a worker: framing and the two ends. It reads no payload.

A message is a struct prefix, a small JSON header and raw bytes::

    !II  length of the header, length of the body | header: JSON object | body: bytes

There is no pickle: a worker that turned hostile can send the other end nothing but JSON and bytes.
"""

from __future__ import annotations

import json
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

Header: TypeAlias = dict[str, Any]
Buffer: TypeAlias = bytes | bytearray | memoryview

PREFIX = struct.Struct("!II")

MAX_HEADER = 1 << 20
"""A header names the items of one batch, at most 256 of them; a megabyte is far above any honest one."""

MAX_ANSWER = 64 << 20
"""What a worker may answer to one batch: every answer becomes JSON text for a client, and the whole is held."""

READ_SIZE = 256 << 10
"""What one read takes from a socket: Linux queues about 208 KiB on a socket pair."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
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

    def feed(self, data: bytes) -> Iterator[tuple[Header, memoryview]]:
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
        header = _decoder.decode(str(text, "utf-8"))
    except (ValueError, RecursionError) as exc:
        raise ChannelError("a header that is no JSON") from exc
    if not isinstance(header, dict):
        raise ChannelError("a header that is no object")
    return header


class Channel:
    """The server's end: non-blocking, on the event loop, without a task.

    Args:
        on_message: called with the header and body of each message.
        on_lost: called once, when the other end has closed or broken the framing, with the reason.
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

    def close(self) -> None:
        """Close this end; the worker reads the end of the stream and exits. Callbacks cease."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self._unsent.clear()

    def _flush(self) -> None:
        try:
            sent = self._sock.sendmsg(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
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

    def _readable(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as exc:
            self._lose(f"cannot read from it: {exc.strerror}")
            return
        if not data:
            self._lose("it closed its end")
            return
        try:
            for header, body in self._unpacker.feed(data):
                self._on_message(header, body)
                if not self._open:
                    return  # the callback closed it
        except ChannelError as exc:
            self._lose(f"it broke the framing: {exc}")

    def _lose(self, reason: str) -> None:
        if self._open:
            self.close()
            self._on_lost(reason)


class WorkerChannel:
    """The worker's end: blocking, one message at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock

    def receive(self) -> tuple[Header, memoryview] | None:
        """Wait for a message; None when the server has gone."""
        prefix = self._exactly(PREFIX.size)
        if prefix is None:
            return None
        head, body = PREFIX.unpack(prefix)
        whole = self._exactly(head + body)
        if whole is None:
            return None
        return _header(whole[:head]), whole[head:]

    def send(self, header: Header, body: Sequence[Buffer] = ()) -> None:
        """Send a message whole."""
        buffers = pack(header, body)
        sent = self._sock.sendmsg(buffers)
        if sent < sum(map(len, buffers)):
            self._sock.sendall(b"".join(buffers)[sent:])

    def _exactly(self, count: int) -> memoryview | None:
        view = memoryview(bytearray(count))
        got = 0
        while got < count:
            try:
                n = self._sock.recv_into(view[got:], count - got)
            except ConnectionResetError:
                return None
            if not n:
                return None
            got += n
        return view
