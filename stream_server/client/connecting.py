"""Opens connections, decides when to try again, and translates the errors of websockets into ours."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from inference.model import MAX_OUTPUT
from stream_server.errors import ClientError, ConnectFailed, ConnectionLost, Refused
from stream_server.protocol.client_side import Error, Ready, ServerMessage, read_server_message
from stream_server.protocol.server_side import SUBPROTOCOL

MAX_ANSWER_BYTES = MAX_OUTPUT + (1 << 20)
"""Largest message: the largest outputs, and what is around them, which is far less than this leaves for it."""

OPEN_TIMEOUT_S = 10.0
"""Longest wait for the handshake, and then for `ready`: a running server answers within milliseconds."""

PING_INTERVAL_S = 20.0
"""Between pings: proxies cut what is silent for 60 s."""

PING_TIMEOUT_S = 60.0
"""Longest wait for a pong: a shorter network outage does not end the stream."""

CLOSE_TIMEOUT_S = 2.0
"""Longest wait for the server's close: by then every answer has arrived."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """When to try again: exponential backoff with full jitter, so that clients do not come back in step.

    Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Attributes:
        base_s: the first wait is at most this long, and each further one at most twice the one before.
        cap_s: no wait is longer; a server's own `retry_after_ms` comes on top.
        tries: attempts for one interruption; None leaves it to the time.
        give_up_s: seconds after which an interruption is final; None leaves it to the tries.
    """

    base_s: float = 0.25
    cap_s: float = 30.0
    tries: int | None = None
    give_up_s: float | None = 300.0

    def wait_s(self, attempt: int, chance: random.Random) -> float:
        """Choose how long to wait before an attempt, counted from 0."""
        # a float's exponent ends at 1024, and no cap is that far away
        return chance.uniform(0, min(self.cap_s, self.base_s * 2.0 ** min(attempt, 64)))


def translate(exc: Exception, address: str, unanswered: int = 0) -> ClientError:
    """Translate a foreign exception; the only place that does."""
    address = address.partition("?")[0]
    match exc:
        case ConnectionClosed():
            return ConnectionLost(
                f"the connection to {address} ended with {unanswered} items unanswered ({exc})",
                unanswered=unanswered,
            )
        case InvalidStatus():
            return _refusal(exc.response.status_code, exc.response.body, address)
        case TimeoutError():
            return ConnectFailed(f"{address} sent nothing for {OPEN_TIMEOUT_S:.0f} s; is it a stream server?")
        case OSError():
            # asyncio's own words hold a tuple; a name that does not resolve has a negative number
            why = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror or exc
            host = urlsplit(address).netloc
            return ConnectFailed(
                f"no server at {host} ({why}); is it running? start one: stream-server serve"
            )
        case _:
            return ConnectFailed(f"what answers at {address} is not a stream server ({exc})")


class _Refusal(msgspec.Struct):
    """The body of an HTTP error of our server."""

    code: str
    error: str
    retryable: bool


_REFUSAL = msgspec.json.Decoder(_Refusal)


def _refusal(status: int, body: bytes | bytearray | None, address: str) -> ClientError:
    try:
        said = _REFUSAL.decode(body or b"")
        return Refused(said.code, said.error, retryable=said.retryable)
    except (ValueError, RecursionError):
        pass  # from a proxy or another server
    if status in (429, 502, 503, 504):
        return Refused(f"http_{status}", f"{address} cannot be reached now", retryable=True)
    return ConnectFailed(f"what answers at {address} is not a stream server (HTTP status {status})")


def read_message(message: str | bytes) -> ServerMessage | None:
    """Read a message, None for one of a later version.

    Raises:
        ConnectFailed: it is not a message of the protocol.
        Refused: it is an error of the stream, not of an item, so the stream cannot continue.
    """
    if isinstance(message, bytes):
        raise ConnectFailed("the server sent a binary message, so it is not a stream server")
    said = read_server_message(message)
    if isinstance(said, Error) and said.seq is None:
        raise Refused(said.code, said.message, retryable=said.retryable, retry_after_ms=said.retry_after_ms)
    return said


def asked_s(error: ClientError) -> float:
    """How long the server asks the client to wait, in seconds."""
    return (error.retry_after_ms or 0) / 1000 if isinstance(error, Refused) else 0.0


async def open_connection(address: str) -> tuple[ClientConnection, Ready]:
    """Open a connection and wait for the server's `ready`.

    Raises:
        ConnectFailed: no server there, or it does not speak the protocol.
        ConnectionLost: it closed before it sent anything.
        Refused: the server refused the stream.
    """
    try:
        connection = await connect(
            address,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,  # an encoded frame does not shrink, and trying costs milliseconds
            max_size=MAX_ANSWER_BYTES,
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=PING_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
        )
    except (OSError, InvalidHandshake) as exc:
        raise translate(exc, address) from exc
    try:
        if connection.subprotocol != SUBPROTOCOL:
            raise ConnectFailed(f"what answers at {address} does not speak {SUBPROTOCOL}")
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            ready = read_message(await connection.recv())
        if not isinstance(ready, Ready):
            raise ConnectFailed(f"the server at {address} did not begin with `ready`")
    except BaseException as exc:
        await connection.close()
        if isinstance(exc, (ConnectionClosed, TimeoutError)):
            raise translate(exc, address) from exc
        raise
    return connection, ready


async def reopen_connection(
    address: str, backoff: Backoff, why: ClientError, retry_after_s: float
) -> tuple[ClientConnection, Ready]:
    """Try to open a connection until that succeeds.

    Args:
        why: what ended the previous connection.
        retry_after_s: how long the server asked the client to wait.

    Raises:
        ConnectionLost: the backoff's limit is reached.
        Refused: the server refused the stream, and trying again cannot help.
    """
    now = asyncio.get_running_loop().time
    began = now()
    retry_after_s = max(retry_after_s, asked_s(why))
    for attempt in itertools.count():
        wait_s = retry_after_s + backoff.wait_s(attempt, random.SystemRandom())
        late = backoff.give_up_s is not None and now() + wait_s - began > backoff.give_up_s
        if attempt == backoff.tries or late:
            break
        await asyncio.sleep(wait_s)
        try:
            return await open_connection(address)
        except ClientError as exc:
            if isinstance(exc, Refused) and not exc.retryable:
                raise
            why, retry_after_s = exc, asked_s(exc)
    raise ConnectionLost(f"{address} did not come back after {attempt} attempts; at last: {why}") from why
