"""What happens on a connection before, between and after its requests."""

from __future__ import annotations

import asyncio
import json
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest

from stream_server.server.config import Limits, Timeouts
from stream_server.server.connection_table import ConnectionTable
from stream_server.server.http_connection import HEADERS, HttpConnection
from tests.conftest import WAIT, RunningServer

GET = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(server: RunningServer, **options: int) -> socket.socket:
    host = urlsplit(server.url)
    sock = socket.socket()
    for name, value in options.items():
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    sock.settimeout(WAIT)
    sock.connect((host.hostname, host.port))
    return sock


def response(sock: socket.socket) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and JSON body of the one response before the server closes."""
    data = b""
    while more := sock.recv(65536):
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), json.loads(body)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: tea\r\nConnection: close\r\n\r\n", 417),
    ],
    ids=["tls", "no HTTP", "two hosts", "long header", "no length", "expects something else"],
)
def test_what_the_parser_refuses_is_answered_as_every_other_error(
    request_: bytes, status: int, server: RunningServer
) -> None:
    with connect(server) as sock:
        sock.sendall(request_)
        answered, headers, body = response(sock)
    assert (answered, body["code"], body["retryable"]) == (status, "bad_request", False)
    assert body["error"]
    assert HEADERS.items() <= headers.items()


@pytest.mark.parametrize("more", [b"", b"GET", GET[:-2]], ids=["idle", "half a line", "half a head"])
def test_a_kept_connection_is_closed_unless_it_asks_again(
    more: bytes, start_server: Callable[..., RunningServer]
) -> None:
    server = start_server("--workers=1", "--model=echo", "--set=timeouts.keepalive_s=1")
    with connect(server) as sock, connect(server) as other:
        for _ in range(2):
            sock.sendall(GET)
            assert b"200 OK" in sock.recv(65536)
        sock.sendall(more)
        assert sock.recv(65536) == b"", "it is told nothing, as nothing was asked"
        other.sendall(GET)
        assert b"200 OK" in other.recv(65536), "the first request has more time"


def test_a_client_that_does_not_read_its_responses_is_dropped(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server("--workers=1", "--model=echo", "--set=timeouts.write_s=1")
    with connect(server, SO_RCVBUF=4096) as sock:
        sock.settimeout(1)
        with suppress(TimeoutError, ConnectionError):
            while True:
                sock.sendall(b"GET /sample.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        poll = select.poll()
        poll.register(sock, 0)  # errors alone: to read would be to read
        assert poll.poll(WAIT * 1000), "the connection is still open"


async def test_who_reads_slowly_is_waited_for() -> None:
    table = ConnectionTable[HttpConnection](9)
    connection = HttpConnection(Mock(), table, Limits(), Timeouts())
    transport = Mock(spec=asyncio.Transport)
    connection._socket = transport
    table.add(connection, 0.0)
    for unsent in (100, 50, 49):
        transport.get_write_buffer_size.return_value = unsent
        connection.check_deadline()
        assert not transport.abort.called
        assert not table.overdue(0.0)
    connection.check_deadline()
    assert transport.abort.called
