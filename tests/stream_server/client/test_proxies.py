"""Connections through the environment's proxies, and around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from stream_server.client.connecting import open_connection
from stream_server.client.proxies import find_proxy, http_proxy, is_loopback
from stream_server.errors import ConnectFailed
from tests.stream_server.peer import obedient, scripted

ELSEWHERE = "ws://elsewhere.test:8080/v2/models/echo/stream"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ws", "wss", "http", "https", "socks", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_PROXY".upper(), raising=False)


@asynccontextmanager
async def proxy(status: bytes, target: str | None = None) -> AsyncIterator[str]:
    """An HTTP proxy: it answers CONNECT with this status, and leads to `target` whatever it was asked for."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"CONNECT elsewhere.test:8080 ")
        writer.write(b"HTTP/1.1 %s\r\n\r\n" % status)
        if target:
            host, _, port = target.rpartition("/")[2].rpartition(":")
            there, back = await asyncio.open_connection(host, int(port))
            await asyncio.gather(copy(reader, back), copy(there, writer))
        writer.close()
        await writer.wait_closed()
        handled.set()

    handled = asyncio.Event()
    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"http://user:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await handled.wait()


async def failure() -> str:
    with pytest.raises(ConnectFailed) as caught:
        await open_connection(ELSEWHERE)
    said = str(caught.value)
    assert "secret" not in said
    assert "set no_proxy=elsewhere.test to go without it" in said
    return said


async def test_the_environments_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(obedient) as url, proxy(b"200 OK", url) as between:
        monkeypatch.setenv("https_proxy", between)
        connection, ready = await open_connection(ELSEWHERE)
        assert ready.model == "echo"
        await connection.close()


async def test_this_machine_is_never_behind_a_proxy(
    monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    for name in ("ws", "http", "https"):
        monkeypatch.setenv(f"{name}_proxy", f"http://127.0.0.1:{unused_tcp_port}")
    async with scripted(obedient) as url:
        connection, _ = await open_connection(url.replace("http", "ws") + "/v2/models/echo/stream")
        await connection.close()
    assert http_proxy("http://localhost:1/v2/models") is None
    assert http_proxy("http://elsewhere.test/v2/models") == f"http://127.0.0.1:{unused_tcp_port}"
    assert find_proxy("ws://localhost:1/") is None
    assert find_proxy("wss://[::1]:1/") is None
    assert find_proxy(ELSEWHERE) == f"http://127.0.0.1:{unused_tcp_port}"
    monkeypatch.setenv("no_proxy", "elsewhere.test")
    assert find_proxy(ELSEWHERE) is None


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("camera.localhost", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost.example", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_what_this_machine_is_called(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


async def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{unused_tcp_port}")
    said = await failure()
    assert (
        f"the proxy http://127.0.0.1:{unused_tcp_port}, which the environment names, cannot be reached"
        in said
    )


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (b"407 Proxy Authentication Required", "wants a login (HTTP status 407)"),
        (b"502 Bad Gateway", "does not lead to http://elsewhere.test:8080 (HTTP status 502)"),
        (b"403 Forbidden", "does not lead to http://elsewhere.test:8080 (HTTP status 403)"),
    ],
)
async def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch, status: bytes, words: str) -> None:
    async with proxy(status) as between:
        monkeypatch.setenv("http_proxy", between)
        assert words in await failure()


async def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ws_proxy", "ftp://user:secret@127.0.0.1:1")
    assert "scheme ftp isn't supported" in await failure()


async def test_a_socks_proxy_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("connecting through a SOCKS proxy requires python-socks")

    monkeypatch.setattr("websockets.asyncio.client.connect_socks_proxy", missing)
    monkeypatch.setenv("ws_proxy", "socks5h://user:secret@127.0.0.1:1")
    assert "speaks SOCKS, which takes python-socks: pip install python-socks" in await failure()
