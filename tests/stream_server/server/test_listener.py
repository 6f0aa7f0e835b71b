"""Connections are accepted as far as there are descriptors, and those that ask for nothing make room."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from unittest.mock import Mock, patch
from urllib.parse import urlsplit

import pytest

from stream_server.server import listener
from stream_server.server.config_file import read_settings
from stream_server.server.connection_table import ConnectionTable
from stream_server.server.http_connection import HttpConnection
from stream_server.server.listener import OTHER_CONNECTIONS, Listener, connection_capacity
from stream_server.server.server import Server
from tests.conftest import WAIT
from tests.stream_server.wire import dial

ECHO = "/v2/models/echo/stream"
CAPACITY = 4


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A server with few descriptors."""
    settings = read_settings({"server": {"port": 0, "workers": 1, "spares": 0, "models": ["echo"]}})
    with patch("stream_server.server.server.connection_capacity", return_value=CAPACITY):
        server = Server(settings)
        await server.start()
    try:
        async with asyncio.timeout(3 * WAIT):
            yield server.url
    finally:
        await server.stop()


async def ask(url: str, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host = urlsplit(url)
    reader, writer = await asyncio.open_connection(host.hostname, host.port)
    writer.write(request)
    return reader, writer


GET = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "request_", [b"", b"GET /", GET, GET + b"GET /"], ids=["none", "half", "one", "more"]
)
async def test_who_asks_for_nothing_makes_room_for_who_does(request_: bytes, url: str) -> None:
    async with AsyncExitStack() as stack:
        idle = []
        for _ in range(3 * CAPACITY):
            reader, writer = await ask(url, request_)
            stack.callback(writer.close)
            if request_.startswith(GET):
                assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            idle.append(reader)
        wire = await stack.enter_async_context(dial(url, ECHO))
        for _ in range(2):
            await wire.item(b"xyz")
            assert (await wire.message())["outputs"] == {"bytes": 3}
        for reader in idle[: 2 * CAPACITY]:
            with suppress(ConnectionResetError):
                await reader.read()


async def test_streams_make_room_for_nobody(url: str) -> None:
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(url, ECHO)) for _ in range(CAPACITY)]
        reader, writer = await ask(url, b"")
        assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b"X-Content-Type-Options: nosniff" in head
        assert (json.loads(body)["code"], json.loads(body)["retryable"]) == ("too_many_connections", True)
        writer.close()
        for wire in wires:
            await wire.item(b"xyz")
            assert (await wire.message())["outputs"] == {"bytes": 3}


def test_the_limit_is_raised_as_far_as_needed_and_workers_have_a_reserve() -> None:
    set_: list[tuple[int, int]] = []
    with (
        patch.object(resource, "getrlimit", side_effect=lambda _: set_[-1] if set_ else (256, 1 << 20)),
        patch.object(resource, "setrlimit", side_effect=lambda _, limits: set_.append(limits)),
    ):
        assert connection_capacity(100, 3) == 100 + OTHER_CONNECTIONS
    [(soft, hard)] = set_
    assert 100 + OTHER_CONNECTIONS + 3 * 8 < soft < 2000
    assert hard == 1 << 20


def test_with_a_low_hard_limit_there_are_fewer_connections(caplog: pytest.LogCaptureFixture) -> None:
    with (
        patch.object(resource, "getrlimit", return_value=(256, 256)),
        patch.object(resource, "setrlimit", side_effect=AssertionError),
    ):
        few, many = connection_capacity(100, 3), connection_capacity(100, 20)
        assert 1 <= many < few < 256 - 3 * 8
        assert connection_capacity(100, 200) == 1
    assert "may open 256 files" in caplog.text


async def test_a_loop_that_stood_still_closes_nobody_who_has_asked_meanwhile() -> None:
    table = ConnectionTable[HttpConnection](9)
    caller, checked = Mock(spec=HttpConnection), asyncio.Event()
    caller.check_deadline.side_effect = checked.set
    table.add(caller, time.monotonic())
    closing = asyncio.create_task(Listener(table, Mock(), 0.2)._close_overdue())
    await asyncio.sleep(0)
    time.sleep(0.5)
    for _ in range(5):  # a loop may see to its timers first, and read then what has come
        await asyncio.sleep(0)
    assert not checked.is_set()
    async with asyncio.timeout(WAIT):
        await checked.wait()
    closing.cancel()


async def test_without_descriptors_it_tries_again(url: str, caplog: pytest.LogCaptureFixture) -> None:
    accept, failed = socket.socket.accept, 0

    def fail_first(sock: socket.socket) -> tuple[socket.socket, object]:
        nonlocal failed
        if failed < 2:
            failed += 1
            raise OSError(24, "Too many open files")
        return accept(sock)

    with patch.object(socket.socket, "accept", fail_first), patch.object(listener, "RETRY_S", 0.01):
        for _ in range(4):
            reader, writer = await ask(url, GET)
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            assert json.loads(await reader.readexactly(14)) == {"live": True}
            writer.close()
    assert failed == 2
    assert caplog.text.count("cannot be accepted") == 1
