"""Websocket streaming inference: the server, and the clients that talk to it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream_server.client.stream import Backoff, Stream, connect
    from stream_server.client.sync import SyncStream, connect_sync
    from stream_server.errors import (
        ClientError,
        ClientFault,
        ConfigError,
        ConnectFailed,
        ConnectionLost,
        Refused,
        StreamClosed,
        StreamServerError,
        TooLarge,
    )
    from stream_server.protocol.client_side import (
        Answer,
        Dropped,
        End,
        Error,
        Ready,
        Result,
        Statistics,
    )

__all__ = [
    "Answer",
    "Backoff",
    "ClientError",
    "ClientFault",
    "ConfigError",
    "ConnectFailed",
    "ConnectionLost",
    "Dropped",
    "End",
    "Error",
    "Ready",
    "Refused",
    "Result",
    "Statistics",
    "Stream",
    "StreamClosed",
    "StreamServerError",
    "SyncStream",
    "TooLarge",
    "connect",
    "connect_sync",
]

_HOMES = {
    "stream_server.client.stream": ("Backoff", "Stream", "connect"),
    "stream_server.client.sync": ("SyncStream", "connect_sync"),
    "stream_server.errors": (
        "ClientError",
        "ClientFault",
        "ConfigError",
        "ConnectFailed",
        "ConnectionLost",
        "Refused",
        "StreamClosed",
        "StreamServerError",
        "TooLarge",
    ),
    "stream_server.protocol.client_side": (
        "Answer",
        "Dropped",
        "End",
        "Error",
        "Ready",
        "Result",
        "Statistics",
    ),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: the server's process does without the clients."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
