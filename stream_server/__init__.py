"""Websocket streaming inference: the server, and the clients that talk to it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream_server.client.stream import Backoff, Stream, connect
    from stream_server.client.sync import SyncStream, connect_sync
    from stream_server.protocol.client_side import Answer, Dropped, End, Error, Ready, Result

__all__ = [
    "Answer",
    "Backoff",
    "Dropped",
    "End",
    "Error",
    "Ready",
    "Result",
    "Stream",
    "SyncStream",
    "connect",
    "connect_sync",
]

_HOMES = {
    "stream_server.protocol.client_side": ("Answer", "Dropped", "End", "Error", "Ready", "Result"),
    "stream_server.client.stream": ("Backoff", "Stream", "connect"),
    "stream_server.client.sync": ("SyncStream", "connect_sync"),
}


def __getattr__(name: str) -> Any:
    """Import the clients when they are asked for: the server's process does without them."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
