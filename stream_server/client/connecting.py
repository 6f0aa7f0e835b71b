"""Opens connections, and decides when to try again."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from inference.model import MAX_OUTPUT
from stream_server.client.keepalive import SILENCE_S, WatchedConnection
from stream_server.client.proxies import find_proxy, shown
from stream_server.client.translation import OPEN_TIMEOUT_S, blame, lost, translate
from stream_server.errors import ClientError, ConnectFailed, ConnectionLost, Refused
from stream_server.protocol.client_side import Error, Ready, ServerMessage, read_server_message
from stream_server.protocol.server_side import SUBPROTOCOL

MAX_ANSWER_BYTES = MAX_OUTPUT + (1 << 20)
"""Largest message: the largest outputs, and what is around them, which is far less than this leaves for it."""

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


def asked_s(error: ClientError) -> float:
    """How long the server asks the client to wait, in seconds."""
    return (error.retry_after_ms or 0) / 1000 if isinstance(error, Refused) else 0.0


class _Opening(connect):
    """Opens a websocket, and follows no redirect: the address that a program names is the one it talks to."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


async def open_connection(address: str) -> tuple[WatchedConnection, Ready]:
    """Open a connection and wait for the server's `ready`.

    Errors have no chained traceback: their sentence says what failed and what to do.

    Raises:
        ConfigError: `address` cannot be one.
        ConnectFailed: no server there, or it does not speak the protocol.
        ConnectionLost: it closed before it sent anything.
        Refused: the server refused the stream.
    """
    proxy = find_proxy(address)
    try:
        connection = await _Opening(
            address,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,  # an encoded frame does not shrink, and trying costs milliseconds
            max_size=MAX_ANSWER_BYTES,
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=None,  # see `keepalive`
            close_timeout=CLOSE_TIMEOUT_S,
            proxy=proxy,
            create_connection=WatchedConnection,
        )
    except (OSError, WebSocketException, UnicodeError, ImportError) as exc:
        raise translate(exc, address, proxy) from None
    assert isinstance(connection, WatchedConnection)
    try:
        if connection.subprotocol != SUBPROTOCOL:
            raise ConnectFailed(f"{shown(address)} answers and does not speak {SUBPROTOCOL}")
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            ready = await receive(connection, address)
        if not isinstance(ready, Ready):
            raise ConnectFailed(f"the server at {shown(address)} did not begin with `ready`")
    except BaseException as exc:
        await connection.close()
        if isinstance(exc, TimeoutError):
            raise translate(exc, address) from None
        raise
    return connection, ready


async def receive(
    connection: WatchedConnection, address: str, unanswered: Callable[[], int] = lambda: 0
) -> ServerMessage | None:
    """Receive a message; None for one of a later version.

    Args:
        unanswered: how many items are lost with the connection.

    Raises:
        ConnectFailed: it is not a message of the protocol.
        ConnectionLost: the connection ended.
        Refused: it is an error of the stream, not of an item, so the stream cannot continue.
    """
    try:
        message = await connection.recv()
    except ConnectionClosed as exc:
        why = f"no byte moved for {SILENCE_S:.0f} s" if connection.silent else str(exc)
        raise lost(why, address, unanswered(), connection.blocked_s) from None
    if isinstance(message, bytes):
        raise ConnectFailed("the server sent a binary message, so it is not a stream server")
    said = read_server_message(message)
    if isinstance(said, Error) and said.seq is None:
        why = said.message + (blame(connection.blocked_s) if said.code == "idle" else "")
        raise Refused(said.code, why, retryable=said.retryable, retry_after_ms=said.retry_after_ms)
    return said


async def reopen_connection(
    address: str, backoff: Backoff, why: ClientError, retry_after_s: float
) -> tuple[WatchedConnection, Ready]:
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
    raise ConnectionLost(
        f"{shown(address)} did not come back after {attempt} attempts; at last: {why}"
    ) from None
