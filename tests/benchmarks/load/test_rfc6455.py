"""The least websocket client, against what a server may send, in whatever pieces it arrives."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from benchmarks.load.rfc6455 import (
    ACCEPT,
    BINARY,
    CLOSE,
    PING,
    TEXT,
    BadPeer,
    Reader,
    close_code,
    handshake,
    masked,
)

HEAD = f"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n".encode()
MEDIUM = bytes(range(256)) * 2


def sent(opcode: Opcode, payload: bytes) -> bytes:
    """A server's frame, as another implementation writes it."""
    return Frame(opcode, payload).serialize(mask=False)


def test_another_implementation_understands_it() -> None:
    server = ServerProtocol()
    server.receive_data(handshake("http://127.0.0.1:8080/v2/models/echo/stream?policy=queue"))
    (request,) = server.events_received()
    assert isinstance(request, Request)
    assert request.path == "/v2/models/echo/stream?policy=queue"
    assert request.headers["Host"] == "127.0.0.1:8080"
    server.send_response(server.accept(request))
    server.receive_data(masked(BINARY, b"\x01\x02") + masked(TEXT, b"{}"))
    assert [(frame.opcode, bytes(frame.data)) for frame in server.events_received()] == [
        (Opcode.BINARY, b"\x01\x02"),
        (Opcode.TEXT, b"{}"),
    ]
    reader = Reader()
    assert list(reader.feed(b"".join(server.data_to_send()))) == []  # which is the response alone
    server.send_text(b"hello")
    assert list(reader.feed(b"".join(server.data_to_send()))) == [(TEXT, b"hello")]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_frames_come_in_any_pieces(size: int) -> None:
    stream = HEAD + sent(Opcode.TEXT, b"short") + sent(Opcode.TEXT, MEDIUM) + sent(Opcode.PING, b"")
    reader = Reader()
    frames = [
        frame for start in range(0, len(stream), size) for frame in reader.feed(stream[start : start + size])
    ]
    assert frames == [(TEXT, b"short"), (TEXT, MEDIUM), (PING, b"")]


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "no websocket"),
        (b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: other\r\n\r\n", "no websocket"),
        (b"x" * 9000, "does not end"),
        (HEAD + b"\x01\x01x", "a fragment"),
        (HEAD + b"\xc1\x01x", "an extension"),
        (HEAD + b"\x81\x81\0\0\0\0x", "a mask"),
        (HEAD + sent(Opcode.TEXT, bytes(70_000)), "a large frame"),
    ],
)
def test_what_it_does_not_understand_is_an_error(stream: bytes, words: str) -> None:
    with pytest.raises(BadPeer, match=words):
        list(Reader().feed(stream))


def test_close_codes() -> None:
    assert close_code(b"\x03\xe8bye") == 1000
    assert close_code(b"") == 1005
    assert list(Reader().feed(HEAD + sent(Opcode.CLOSE, b"\x03\xe9"))) == [(CLOSE, b"\x03\xe9")]
