"""What the client says of an address where no stream server answers: what failed, and what to do."""

from __future__ import annotations

import asyncio
import http
import shutil
import socket
import ssl
import subprocess
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from stream_server.client import translation
from stream_server.client.connecting import open_connection
from stream_server.client.network_errors import network_failure
from stream_server.errors import ClientError, ConfigError, ConnectFailed, Refused, StreamServerError
from tests.stream_server.peer import obedient, scripted


def address(url: str) -> str:
    return url.replace("http", "ws", 1) + "/v2/models/echo/stream"


async def failure(url: str) -> StreamServerError:
    """What `open_connection` raises; its traceback must show nothing else."""
    with pytest.raises(StreamServerError) as caught:
        await open_connection(address(url))
    shown = "".join(traceback.format_exception(caught.value))
    assert "During handling" not in shown
    assert "direct cause" not in shown
    return caught.value


@asynccontextmanager
async def listening(answer: bytes | None) -> AsyncIterator[str]:
    """Some other server: it sends these bytes to whoever sent something, or is silent, and closes."""

    handling = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.append(asyncio.current_task())
        await reader.read(4096)
        writer.write(answer or b"")
        if answer is None:
            await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await asyncio.gather(*handling)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of localhost, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("makes its certificate with openssl")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    files = ["-keyout", key, "-out", cert]
    command = ["openssl", "req", "-x509", *curve, "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


async def test_https_to_a_server_without_tls() -> None:
    async with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as host:
        said = await failure(f"https://{host}")
    assert f"{host} does not speak TLS (" in str(said)
    assert f"); write its address as http://{host}" in str(said)


async def test_http_to_a_server_with_tls(tls: ssl.SSLContext) -> None:
    async with scripted(obedient, ssl=tls) as url:
        said = await failure(url)
    assert f"if it has TLS, write its address as {url.replace('http', 'https')}" in str(said)


async def test_http_to_a_tls_port_that_says_so() -> None:
    body = b"<center>The plain HTTP request was sent to HTTPS port</center>"
    async with listening(
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    ) as host:
        said = await failure(f"http://{host}")
    assert f"write its address as https://{host}" in str(said)


async def test_a_certificate_that_is_not_trusted_names_the_way_to_trust_it(
    tls: ssl.SSLContext, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted(obedient, ssl=tls) as url:
        secure = url.replace("http://127.0.0.1", "https://localhost")
        said = await failure(secure)
        assert "is not accepted (self-signed certificate)" in str(said)
        assert "set SSL_CERT_FILE" in str(said)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        connection, ready = await open_connection(address(secure))
        await connection.close()
        assert ready.model == "echo"
        said = await failure(url.replace("http", "https"))  # its name is localhost, not 127.0.0.1
    assert "write the address with the name in the certificate" in str(said)


def test_a_certificate_out_of_date() -> None:
    exc = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")
    exc.verify_code, exc.verify_message = 10, "certificate has expired"
    said = str(network_failure(exc, "wss://host:1/v2"))
    assert said.startswith("the certificate of host:1 is not accepted (certificate has expired); renew it")


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"", b"220 mail ready\r\n", bytes(100)])
async def test_a_server_that_speaks_something_else(answer: bytes) -> None:
    async with listening(answer) as host:
        assert "does not answer in HTTP" in str(await failure(f"http://{host}"))
        assert "TLS" in str(await failure(f"https://{host}"))


async def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_server.client.connecting.OPEN_TIMEOUT_S", 0.05)
    monkeypatch.setattr(translation, "OPEN_TIMEOUT_S", 0.05)
    async with listening(None) as host:
        assert "did not answer within" in str(await failure(f"http://{host}"))


async def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_such_name(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", no_such_name)
    said = await failure("http://no-such-host:8080")
    assert "the host name no-such-host cannot be resolved (Name or service not known)" in str(said)


async def test_a_name_with_several_addresses_has_one_reason() -> None:
    both = OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] ...")
    assert "no server at localhost:1 (Connection refused); is it running?" in str(
        network_failure(both, "ws://localhost:1/v2")
    )


@pytest.mark.parametrize("url", ["http://user@host:90", "http://a..b:3"])
async def test_what_cannot_be_an_address(url: str) -> None:
    said = await failure(url)
    assert isinstance(said, ConfigError)
    assert "is not a server's address" in str(said)


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, ConnectFailed, "it may want a login"),
        (403, ConnectFailed, "does not let this program in"),
        (404, ConnectFailed, "is not a stream server (HTTP status 404)"),
        (502, Refused, "a proxy at http://127.0.0.1"),
    ],
)
async def test_a_proxy_in_front_of_the_server(status: int, error: type[ClientError], words: str) -> None:
    def refuse(ws: ServerConnection, _: Request) -> Response:
        return ws.respond(http.HTTPStatus(status), "<html>")

    async with scripted(obedient, process_request=refuse) as url:
        said = await failure(url)
    assert isinstance(said, error)
    assert words in str(said)


@pytest.mark.parametrize("scheme", ["https", "wss", "http"])
async def test_a_redirect_is_not_followed_and_names_its_address(scheme: str) -> None:
    def redirect(ws: ServerConnection, request: Request) -> Response:
        response = ws.respond(http.HTTPStatus.MOVED_PERMANENTLY, "")
        response.headers["Location"] = f"{scheme}://elsewhere:1{request.path}"
        return response

    async with scripted(obedient, process_request=redirect) as url:
        said = await failure(url)
    assert f"redirects to {scheme}://elsewhere:1 (HTTP status 301); write that address" in str(said)


async def test_no_password_is_shown(unused_tcp_port: int) -> None:
    said = await failure(f"http://user:secret@127.0.0.1:{unused_tcp_port}")
    assert f"no server at 127.0.0.1:{unused_tcp_port}" in str(said)
    assert "secret" not in str(said)
