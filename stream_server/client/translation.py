"""Translates the errors of websockets and of the system into ours, with what to do about them. It opens nothing."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec
from websockets.exceptions import (
    InvalidMessage,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidURI,
    ProxyError,
)

from stream_server.client.network_errors import network_failure
from stream_server.client.proxies import shown
from stream_server.errors import (
    ClientError,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    Refused,
    StreamServerError,
)

OPEN_TIMEOUT_S = 10.0
"""Longest wait for the handshake, and then for `ready`: a running server answers within milliseconds."""

GATEWAY_ERRORS = (429, 502, 503, 504)
"""HTTP statuses of a proxy that is right and cannot reach a server now (RFC 9110, RFC 6585)."""


def translate(exc: Exception, address: str, proxy: str | None = None) -> StreamServerError:
    """Translate what was raised while a connection was opened.

    Args:
        address: the stream's, ws:// or wss://.
        proxy: the proxy that was used.
    """
    base = shown(address)
    http = "http" + base.removeprefix("ws")
    match exc:
        case InvalidStatus():
            return _refusal(exc, http)
        case ProxyError() | InvalidProxy() | ImportError():
            return ConnectFailed(_proxy_failure(exc, http, proxy))
        case InvalidURI() | UnicodeError():
            return ConfigError(f"{http} is not a server's address: {getattr(exc, 'msg', exc)}")
        case TimeoutError():
            return ConnectFailed(
                f"{http} did not answer within {OPEN_TIMEOUT_S:.0f} s; is it a stream server?"
            )
        case OSError():
            return network_failure(exc, base, proxy)
    what = f"{http} is not a stream server ({exc})"
    if isinstance(exc, InvalidMessage) and base.startswith("ws:"):
        what = f"{http} does not answer in HTTP; if it has TLS, write its address as https://{http[7:]}"
    return ConnectFailed(what)


def lost(why: str, address: str, unanswered: int, blocked_s: float) -> ConnectionLost:
    """Say how an open connection ended.

    Args:
        unanswered: how many items have no answer.
        blocked_s: for how long this program has just blocked the event loop.
    """
    return ConnectionLost(
        f"the connection to {shown(address)} ended with {unanswered} items unanswered ({why}){blame(blocked_s)}",
        unanswered=unanswered,
    )


def blame(blocked_s: float) -> str:
    """Say that a program has kept its own connection from being read, if it has."""
    if not blocked_s:
        return ""
    return (
        f"; this program blocked its event loop for {blocked_s:.0f} s, in which the server's pings had no answer: "
        "let it `await`, move what blocks to asyncio.to_thread, or use connect_sync"
    )


class _Refusal(msgspec.Struct):
    """The body of an HTTP error of our server."""

    code: str
    error: str
    retryable: bool


_REFUSAL = msgspec.json.Decoder(_Refusal)


def _refusal(exc: InvalidStatus, http: str) -> ClientError:
    """Tell our server's refusal from that of a proxy or of another server."""
    status, body = exc.response.status_code, bytes(exc.response.body or b"")
    try:
        said = _REFUSAL.decode(body)
        return Refused(said.code, said.error, retryable=said.retryable)
    except (ValueError, RecursionError):
        pass
    if status in GATEWAY_ERRORS:
        what = f"a proxy at {http} cannot reach the server now (HTTP status {status})"
        return Refused(f"http_{status}", what, retryable=True)
    if (location := exc.response.headers.get("Location")) and 300 <= status < 400:
        there = location.partition("/v2/models/")[0]
        return ConnectFailed(f"{http} redirects to {there[:200]} (HTTP status {status}); write that address")
    if status in (401, 403, 407):
        return ConnectFailed(
            f"{http}, or a proxy in front of it, does not let this program in (HTTP status {status}); "
            "it may want a login: http://USER:PASSWORD@HOST"
        )
    if status == 400 and b"https" in body.lower():
        return ConnectFailed(f"{http} has TLS (HTTP status 400); write its address as https://{http[7:]}")
    return ConnectFailed(f"{http} is not a stream server (HTTP status {status})")


def _proxy_failure(exc: Exception, http: str, proxy: str | None) -> str:
    name = f"the proxy {shown(proxy or '')}, which the environment names,"
    without = f"set no_proxy={urlsplit(http).hostname} to go without it"
    if isinstance(exc, ImportError):
        return f"{name} speaks SOCKS, which takes python-socks: pip install python-socks, or {without}"
    if isinstance(exc, InvalidProxyStatus):
        status = exc.response.status_code
        if status == 407:
            return (
                f"{name} wants a login (HTTP status 407); write it as http://USER:PASSWORD@HOST, or {without}"
            )
        return f"{name} does not lead to {http} (HTTP status {status}); is {http} right? or {without}"
    said = getattr(exc, "msg", exc)  # an InvalidProxy's own words hold the password
    return f"{name} cannot be used ({said}); correct it, or {without}"
