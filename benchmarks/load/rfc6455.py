"""The least of RFC 6455 that a client needs: its handshake, its frames, the server's frames. No I/O.

For clients of which there are thousands, or thousands a second: a library's websockets would weigh more than the
server that is measured. It knows no extensions, no fragments and no large frames, which that server does not send.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA

KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""RFC 6455 section 1.3's own example: a key proves that the server speaks the protocol, and no more."""

MASK = bytes(4)
"""Masks nothing. A key is to be unforeseeable to keep what a page sends from fooling a proxy (section 10.3), and on
a loopback interface there is neither; so to mask costs nothing."""

MAX_HEAD = 8 << 10
"""Bytes of the server's response to the handshake; ours has 500."""


class BadPeer(RuntimeError):
    """The server sent what this client does not understand."""


def handshake(address: str) -> bytes:
    """Write the request that opens a websocket at ``http://HOST:PORT/PATH?QUERY`` (section 4.1)."""
    parts = urlsplit(address)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    lines = (
        f"GET {target} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        "\r\n",
    )
    return "\r\n".join(lines).encode("ascii")


def masked(opcode: int, payload: bytes = b"") -> bytes:
    """Write a client's frame (section 5.2) of at most 125 bytes."""
    assert len(payload) <= 125
    return bytes((0x80 | opcode, 0x80 | len(payload))) + MASK + payload


def close_code(payload: bytes) -> int:
    """Read why a close frame closes; 1005 if it does not say (section 7.1.5)."""
    return int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005


class Reader:
    """Cuts what a server sends into frames; while nothing is left over it holds nothing."""

    __slots__ = ("_held", "_upgraded")

    def __init__(self) -> None:
        self._held = b""
        self._upgraded = False

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take bytes as they come, and give each frame that is complete: its opcode and payload.

        Raises:
            BadPeer: the server refused, or sent what it should not.
        """
        data, at = self._held + data, 0
        self._held = b""
        if not self._upgraded:
            at = _head_end(data)
            self._upgraded = at > 0
        while self._upgraded and (bounds := _bounds(data, at)):
            first, last = bounds
            yield data[at] & 0xF, data[first:last]
            at = last
        self._held = data[at:]


def _head_end(data: bytes) -> int:
    """Where the response to the handshake ends; 0 if it is not all there."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > MAX_HEAD:
            raise BadPeer("the response to the handshake does not end")
        return 0
    head = data[:end]
    if not head.startswith(b"HTTP/1.1 101 ") or ACCEPT.encode() not in head:
        raise BadPeer(f"no websocket: {data[:200]!r}")
    return end + 4


def _bounds(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the payload of the frame at an offset begins and ends; None if it is not all there."""
    if len(data) < at + 2:
        return None
    size, first = data[at + 1], at + 2
    if not data[at] & 0x80 or data[at] & 0x70 or size > 126:
        raise BadPeer(f"a fragment, an extension, a mask or a large frame: {data[at : at + 10]!r}")
    if size == 126:
        if len(data) < at + 4:
            return None
        size, first = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
    return (first, first + size) if len(data) >= first + size else None
