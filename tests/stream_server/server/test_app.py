"""Routes, the page, the handshake of a websocket, and who may use them, asked of a running server."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from yarl import URL

from stream_server.errors import RETRY_AFTER_MS
from stream_server.protocol.server_side import SUBPROTOCOL
from stream_server.server.app import CONTENT_TYPES, HEADERS
from tests.conftest import WAIT, RunningServer
from tests.stream_server.server.test_http_api import NO_NAMES

SAMPLES = "tests.inference.sample_models"


PAGE = sorted(
    file.name
    for file in resources.files("web_client").iterdir()
    if file.name[file.name.rfind(".") :] in CONTENT_TYPES
)

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


PROMISES = (
    "--model=promises=tests.stream_server.sample_models:Promise",
    "--set=models.promises.options.min_rate=4",
    "--set=models.promises.options.seconds=0.1",
)
"""A model whose every stream needs 0.4 of a worker."""


def ask(
    server: RunningServer, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One request, its headers as they are given and no others."""
    host = urlsplit(server.url)
    connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=WAIT)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in ({"Host": host.netloc} | (headers or {})).items():
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


async def refusal(server: RunningServer, path: str, **headers: str) -> tuple[dict[str, Any], int]:
    """The error and the close code with which a stream is refused."""
    async with (
        asyncio.timeout(WAIT),
        aiohttp.ClientSession() as session,
        session.ws_connect(URL(server.url + path, encoded=True), headers=headers) as ws,
    ):
        error = json.loads(await ws.receive_str())
        close = await ws.receive()
        assert close.type is aiohttp.WSMsgType.CLOSE
        return error, close.data


def test_the_page_has_a_script_and_a_sample() -> None:
    assert {"index.html", "app.js", "sample.jpg"} <= set(PAGE)


@pytest.mark.parametrize("name", PAGE)
def test_the_pages_files_are_served_as_what_they_are(name: str, server: RunningServer) -> None:
    status, headers, body = ask(server, "GET", f"/{name}")
    assert status == 200
    assert headers["Content-Type"] == CONTENT_TYPES[name[name.rfind(".") :]]
    assert body == (resources.files("web_client") / name).read_bytes()


def test_the_root_is_the_page(server: RunningServer) -> None:
    assert ask(server, "GET", "/")[2] == (resources.files("web_client") / "index.html").read_bytes()


@pytest.mark.parametrize(
    "path", ["/", "/client/client.js", "/v2/models", "/v2/models/nothing", "/nothing", "/metrics"]
)
def test_every_response_carries_the_headers_that_protect(path: str, server: RunningServer) -> None:
    _, headers, _ = ask(server, "GET", path)
    assert {name: headers[name] for name in HEADERS} == HEADERS
    policy = headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'self'", "frame-ancestors 'none'", "object-src 'none'", "base-uri 'none'"} <= set(
        policy
    )
    assert "unsafe" not in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/..%2fpyproject.toml",
        "/%2e%2e/pyproject.toml",
        "/%2e%2e%2fpyproject.toml",
        "/..%5cpyproject.toml",
        "/./../pyproject.toml",
        "/web_client/../pyproject.toml",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/etc/passwd",
        "/index.html/../../pyproject.toml",
        "/index.html%00.js",
        "/__init__.py",
        "/.gitignore",
        "/web_client/",
        "/client/client.js/",
    ],
)
def test_no_other_file_is_served(path: str, server: RunningServer) -> None:
    status, _, body = ask(server, "GET", path)
    assert status in (400, 404)
    assert b"[project]" not in body
    assert b"root:" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/v2/models", "/v2/models/echo", "/v2/models/echo/stream"])
def test_nothing_takes_another_method(method: str, path: str, server: RunningServer) -> None:
    status, headers, body = ask(server, method, path)
    assert (status, json.loads(body)["code"]) == (405, "no_route")
    assert headers["Allow"] == "GET,HEAD"  # RFC 9110 section 15.5.6


def test_a_plain_get_on_a_streams_address_is_told_what_it_takes(server: RunningServer) -> None:
    status, headers, body = ask(server, "GET", "/v2/models/echo/stream")
    assert (status, headers["Upgrade"]) == (426, "websocket")
    assert json.loads(body)["code"] == "not_a_websocket"


@pytest.mark.parametrize("path", ["/", "/v2/models", "/v2/models/echo/stream"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "localhost.evil.example", ""])
def test_another_hosts_name_is_refused_everywhere(host: str, path: str, server: RunningServer) -> None:
    """DNS rebinding: the page of a name that resolves to this machine would be same-origin."""
    status, _, body = ask(server, "GET", path, HANDSHAKE | {"Host": host})
    assert (status, json.loads(body)["code"]) == (403, "forbidden")


def exchange(server: RunningServer, request: bytes) -> bytes:
    host = urlsplit(server.url)
    with socket.create_connection((host.hostname, host.port or 0), timeout=WAIT) as sock:
        sock.sendall(request)
        return sock.recv(65536)


def test_a_request_without_a_host_is_refused(server: RunningServer) -> None:
    assert exchange(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 403")


def test_two_hosts_are_refused(server: RunningServer) -> None:
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert b" 400 " in exchange(server, request).splitlines()[0]


def test_an_address_in_the_request_line_does_not_stand_for_the_host(server: RunningServer) -> None:
    request = b"GET http://localhost/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    assert exchange(server, request).startswith(b"HTTP/1.1 403")


ORIGINS = [
    "null",
    "http://evil.example",
    "http://127.0.0.1:1",
    "http://[::1",
    "http://\u00ff",
    "https://good.evil",
]


@pytest.mark.parametrize(
    "target",
    ["http://evil.example/", "HTTP://evil.example:80/v2/models", "http://localhost@evil.example/", "ws:///"],
)
def test_another_host_in_the_request_line_is_refused_as_in_the_header(
    target: str, server: RunningServer
) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    assert b" 40" in exchange(server, request).splitlines()[0]


def test_an_address_in_the_request_line_may_be_ours(server: RunningServer) -> None:
    request = b"GET http://localhost/v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert exchange(server, request).startswith(b"HTTP/1.1 200")


def test_two_origins_are_refused(server: RunningServer) -> None:
    host = urlsplit(server.url).netloc
    request = (
        f"GET / HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nOrigin: http://evil.example\r\n\r\n"
    )
    assert exchange(server, request.encode()).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("origin", ORIGINS)
async def test_another_sites_page_gets_no_stream(origin: str, server: RunningServer) -> None:
    error, code = await refusal(server, "/v2/models/echo/stream", Origin=origin)
    assert (error["code"], error["retryable"], code) == ("forbidden", False, 4403)


@pytest.mark.parametrize("origin", ORIGINS)
def test_another_sites_page_gets_nothing_else_either(origin: str, server: RunningServer) -> None:
    status, headers, body = ask(server, "GET", "/v2/models", {"Origin": origin})
    assert (status, json.loads(body)["code"]) == (403, "forbidden")
    assert "Access-Control-Allow-Origin" not in headers


async def test_own_pages_and_programs_without_an_origin_get_one(server: RunningServer) -> None:
    async with asyncio.timeout(WAIT), aiohttp.ClientSession() as session:
        for headers in ({"Origin": server.url}, {}):
            url = server.url + "/v2/models/echo/stream"
            async with session.ws_connect(url, headers=headers) as ws:
                assert json.loads(await ws.receive_str())["type"] == "ready"


async def test_allowed_hosts_and_origins_get_in(start_server: Callable[..., RunningServer]) -> None:
    server = start_server(
        "--workers=1", "--model=echo", "--allow-host=Lab.example", "--allow-origin=https://lab.example"
    )
    headers = {"Host": "lab.example", "Origin": "https://lab.example"}
    assert ask(server, "GET", "/v2/models", headers)[0] == 200
    async with (
        asyncio.timeout(WAIT),
        aiohttp.ClientSession() as session,
        session.ws_connect(server.url + "/v2/models/echo/stream", headers=headers) as ws,
    ):
        assert json.loads(await ws.receive_str())["type"] == "ready"


@pytest.mark.parametrize("name", NO_NAMES.values(), ids=NO_NAMES.keys())
@pytest.mark.parametrize("path", ["/v2/models/{}/stream", "/v2/models/echo/versions/{}/stream"])
async def test_what_is_no_name_gets_no_stream(path: str, name: str, server: RunningServer) -> None:
    try:
        error, code = await refusal(server, path.format(name))
    except aiohttp.WSServerHandshakeError as exc:
        # a slash makes it another address; a proxy or the client's library has resolved its dots
        assert exc.status == 404  # noqa: PT017
    else:
        assert (error["code"], code) == ("unknown_model", 4404)
        assert "\n" not in error["message"]


async def test_the_subprotocol_is_chosen_among_others_and_nothing_is_compressed(
    server: RunningServer,
) -> None:
    offered = ["chat", SUBPROTOCOL, "stream-inference.v2"]
    async with (
        asyncio.timeout(WAIT),
        aiohttp.ClientSession() as session,
        session.ws_connect(server.url + "/v2/models/echo/stream", protocols=offered, compress=15) as ws,
    ):
        assert ws.protocol == SUBPROTOCOL
        assert not ws.compress


@pytest.mark.parametrize("limit", ["max_streams", "max_streams_per_principal"])
async def test_a_stream_too_many_is_refused_until_another_ends(
    limit: str, start_server: Callable[..., RunningServer]
) -> None:
    server = start_server("--workers=1", "--model=echo", f"--set=limits.{limit}=2")
    url = server.url + "/v2/models/echo/stream"
    async with asyncio.timeout(WAIT), aiohttp.ClientSession() as session, AsyncExitStack() as stack:
        first, _ = [await stack.enter_async_context(session.ws_connect(url)) for _ in range(2)]
        error, code = await refusal(server, "/v2/models/echo/stream")
        assert (error["code"], error["retryable"], code) == ("too_many_streams", True, 4429)
        await first.close()
        while server.metrics()['streams{model="echo"}'] == 2:
            await asyncio.sleep(0.01)
        async with session.ws_connect(url) as again:
            assert json.loads(await again.receive_str())["type"] == "ready"


async def test_a_stream_that_would_break_a_promise_is_refused_until_another_ends(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server("--workers=1", "--model=echo", *PROMISES)
    path = "/v2/models/promises/stream"
    async with asyncio.timeout(WAIT), aiohttp.ClientSession() as session, AsyncExitStack() as stack:
        url = server.url + path
        first, _ = [await stack.enter_async_context(session.ws_connect(url)) for _ in range(2)]
        error, code = await refusal(server, path)
        assert (error["code"], error["retryable"], code) == ("overloaded", True, 1013)
        assert error["retry_after_ms"] == RETRY_AFTER_MS
        error, code = await refusal(server, "/v2/models/echo/stream")
        assert (error["code"], code) == ("overloaded", 1013), "it would take its share of the same worker"
        await first.close()
        while server.metrics()['streams{model="promises"}'] == 2:
            await asyncio.sleep(0.01)
        async with session.ws_connect(url) as again:
            assert json.loads(await again.receive_str())["type"] == "ready"


@pytest.mark.parametrize("limit", [PROMISES, ("--set=limits.max_streams=2", *PROMISES[:1])])
async def test_streams_that_come_at_once_do_not_slip_in_together(
    limit: tuple[str, ...], start_server: Callable[..., RunningServer]
) -> None:
    server = start_server("--workers=1", "--set=models.promises.options.min_rate=0", *limit)
    url = server.url + "/v2/models/promises/stream"
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        asyncio.timeout(WAIT),
        aiohttp.ClientSession(connector=connector) as session,
        AsyncExitStack() as stack,
    ):
        streams = await asyncio.gather(
            *(stack.enter_async_context(session.ws_connect(url)) for _ in range(12))
        )
        said = [json.loads(await ws.receive_str()) for ws in streams]
    assert sorted(message["type"] for message in said) == ["error"] * 10 + ["ready"] * 2


async def test_a_modest_stream_finds_room_where_an_equal_one_does_not(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server("--workers=1", "--model=echo", *PROMISES)
    async with asyncio.timeout(WAIT), aiohttp.ClientSession() as session, AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(session.ws_connect(server.url + "/v2/models/promises/stream"))
        error, _ = await refusal(server, "/v2/models/echo/stream?weight=0.75")
        assert error["code"] == "overloaded"
        async with session.ws_connect(server.url + "/v2/models/echo/stream?weight=0.1") as ws:
            assert json.loads(await ws.receive_str())["type"] == "ready"


async def test_groups_keep_their_promises_apart(start_server: Callable[..., RunningServer]) -> None:
    server = start_server("--workers=1", "--model=echo", *PROMISES, "--group=apart=promises:1")
    async with asyncio.timeout(WAIT), aiohttp.ClientSession() as session, AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(session.ws_connect(server.url + "/v2/models/promises/stream"))
        assert (await refusal(server, "/v2/models/promises/stream"))[1] == 1013
        async with session.ws_connect(server.url + "/v2/models/echo/stream") as ws:
            assert json.loads(await ws.receive_str())["type"] == "ready"


async def test_the_largest_weight_is_the_operators(start_server: Callable[..., RunningServer]) -> None:
    server = start_server("--workers=1", "--model=echo", "--set=limits.max_weight=8")
    error, code = await refusal(server, "/v2/models/echo/stream?weight=8.5")
    assert (error["code"], code) == ("bad_option", 4400)
    async with (
        asyncio.timeout(WAIT),
        aiohttp.ClientSession() as session,
        session.ws_connect(server.url + "/v2/models/echo/stream?weight=8") as ws,
    ):
        assert json.loads(await ws.receive_str())["type"] == "ready"


async def test_the_streams_of_one_address_are_not_those_of_another(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server("--workers=1", "--model=echo", "--set=limits.max_streams_per_principal=1")
    url = server.url + "/v2/models/echo/stream"
    elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with (
        asyncio.timeout(WAIT),
        aiohttp.ClientSession() as here,
        aiohttp.ClientSession(connector=elsewhere) as there,
        here.ws_connect(url) as one,
        there.ws_connect(url) as other,
    ):
        for ws in (one, other):
            assert json.loads(await ws.receive_str())["type"] == "ready"
        error, _ = await refusal(server, "/v2/models/echo/stream")
        assert error["message"].startswith("your address has its 1 streams")


async def test_a_model_that_does_not_load_is_unavailable_and_others_serve(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server("--workers=1", "--model=echo", f"--model=broken={SAMPLES}:LoadRaises")
    error, code = await refusal(server, "/v2/models/broken/stream")
    assert (error["code"], error["retryable"], code) == ("model_unavailable", True, 1013)
    assert "OSError" in error["message"]
    async with (
        asyncio.timeout(WAIT),
        aiohttp.ClientSession() as session,
        session.ws_connect(server.url + "/v2/models/echo/stream") as ws,
    ):
        await ws.receive_str()
        await ws.send_bytes(b"abc")
        assert json.loads(await ws.receive_str())["outputs"] == {"bytes": 3}


async def test_behind_a_trusted_proxy_limits_are_by_the_address_that_it_tells(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server(
        "--workers=1",
        "--model=echo",
        "--set=limits.max_streams_per_principal=1",
        "--trusted-proxy=127.0.0.1",
    )
    url = server.url + "/v2/models/echo/stream"

    def through_proxy(claimed: str) -> dict[str, str]:
        return {"X-Forwarded-For": f"{claimed}, 198.51.100.7"}

    async with (
        asyncio.timeout(WAIT),
        aiohttp.ClientSession() as session,
        session.ws_connect(url, headers={"X-Forwarded-For": "203.0.113.9"}) as other,
        session.ws_connect(url, headers=through_proxy("192.0.2.1")) as one,
        session.ws_connect(url, headers=through_proxy("192.0.2.2")) as same_client,
    ):
        for ws in (other, one):
            assert json.loads(await ws.receive_str())["type"] == "ready"
        error = json.loads(await same_client.receive_str())
        assert error["code"] == "too_many_streams", (
            "what the client itself wrote into the header is not believed"
        )


async def test_without_a_trusted_proxy_nobody_is_believed_about_the_address(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server("--workers=1", "--model=echo", "--set=limits.max_streams_per_principal=1")
    url = server.url + "/v2/models/echo/stream"
    async with (
        asyncio.timeout(WAIT),
        aiohttp.ClientSession() as session,
        session.ws_connect(url, headers={"X-Forwarded-For": "203.0.113.9"}) as one,
        session.ws_connect(url, headers={"X-Forwarded-For": "203.0.113.10"}) as other,
    ):
        assert json.loads(await one.receive_str())["type"] == "ready"
        assert json.loads(await other.receive_str())["code"] == "too_many_streams"


@pytest.mark.parametrize(("fair_by", "least", "most"), [("principal", 0.4, 0.6), ("stream", 0.0, 0.25)])
async def test_the_workers_are_shared_by_stream_or_by_principal(
    start_server: Callable[..., RunningServer], fair_by: str, least: float, most: float
) -> None:
    """One stream of one address and nine of another, all of them with items that wait."""
    server = start_server(
        "--workers=1",
        f"--model=patient={SAMPLES}:Patient",
        "--trusted-proxy=127.0.0.1",
        f"--set=server.fair_by={fair_by}",
    )
    url = server.url + "/v2/models/patient/stream?policy=queue&window=4"
    counts: dict[int, int] = dict.fromkeys(range(10), 0)
    enough = asyncio.Event()

    async def client(number: int) -> None:
        address = "192.0.2.1" if number == 0 else "192.0.2.2"
        async with session.ws_connect(url, headers={"X-Forwarded-For": address}) as ws:
            assert json.loads(await ws.receive_str())["type"] == "ready"
            for _ in range(4):
                await ws.send_bytes(b"sleep 0.005")
            while not enough.is_set():
                assert json.loads(await ws.receive_str())["type"] == "result"
                counts[number] += 1
                if sum(counts.values()) >= 400:
                    enough.set()
                await ws.send_bytes(b"sleep 0.005")

    async with asyncio.timeout(3 * WAIT), aiohttp.ClientSession() as session:
        await asyncio.gather(*map(client, counts))
    assert least <= counts[0] / sum(counts.values()) <= most
