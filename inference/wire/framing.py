"""Frames messages on a byte stream between the server and a worker. It does no I/O and reads no header or body.

A message is a prefix, a header and raw bytes::

    !II  length of the header, length of the body | header: JSON, see `inference.wire.messages` | body: bytes

Both lengths are checked before anything is kept for them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

PREFIX = struct.Struct("!II")

MAX_HEADER = 1 << 20
"""A header names the items of one batch, at most 256 of them; a megabyte is far above any honest one."""

MAX_ANSWER = 64 << 20
"""What a worker may answer to one batch: every answer becomes JSON text for a client, and the whole is held."""


class FramingError(Exception):
    """The other end announced a message over the limits."""


def frame(header: bytes, body: Sequence[Buffer] = ()) -> list[Buffer]:
    """Frame a message as the buffers of one `sendmsg`; the body's parts are not copied."""
    return [PREFIX.pack(len(header), sum(map(len, body))) + header, *body]


class Unpacker:
    """Cuts a stream of bytes into messages."""

    def __init__(self, max_body: int) -> None:
        self._buffer = bytearray()
        self._max_body = max_body

    def feed(self, data: Buffer) -> Iterator[tuple[memoryview, memoryview]]:
        """Take bytes as they come, give the header and body of each message that is whole.

        Raises:
            FramingError: a length is over its limit.
        """
        self._buffer += data
        while len(self._buffer) >= PREFIX.size:
            head, body = PREFIX.unpack_from(self._buffer)
            if head > MAX_HEADER or body > self._max_body:
                raise FramingError(f"a message of {head} + {body} bytes")
            end = PREFIX.size + head + body
            if len(self._buffer) < end:
                return
            with memoryview(self._buffer) as view:  # a slice of the buffer itself would be a copy more
                whole = memoryview(bytes(view[:end]))
            del self._buffer[:end]
            yield whole[PREFIX.size : PREFIX.size + head], whole[PREFIX.size + head :]
