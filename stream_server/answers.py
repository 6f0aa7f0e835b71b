"""The client's end of the wire protocol: what it writes and the typed answers it reads. No I/O, no clock."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from inference.model import InputKind, Policy
from stream_server.errors import ConnectFailed
from stream_server.protocol import SUBPROTOCOL, Meta

END = '{"type": "end"}'
"""What says that no more items come."""


def _with_meta(body: dict[str, Any], meta: Meta) -> str:
    if meta.id is not None:
        body["id"] = meta.id
    if meta.max_age_ms is not None:
        body["max_age_ms"] = meta.max_age_ms
    return json.dumps(body, allow_nan=False)


def write_item(value: Any, kind: InputKind, meta: Meta) -> str:
    """Write an item for a text or data model.

    Raises:
        TypeError, ValueError: `value` is nothing that JSON can hold.
    """
    return _with_meta({"type": "item", kind: value}, meta)


def write_meta(meta: Meta) -> str:
    """Write what describes the next binary message."""
    return _with_meta({"type": "meta"}, meta)


@dataclass(frozen=True, slots=True)
class Ready:
    """The server serves this stream; the first message."""

    stream: str
    model: str
    version: str
    policy: Policy
    window: int
    max_item_bytes: int
    input: InputKind


@dataclass(frozen=True, slots=True)
class Result:
    """An item's answer.

    Attributes:
        seq: the item's place in the stream, from 1.
        id: the client's own name for the item.
        outputs: what the model answered.
        model, version: which model answered.
        age_ms: milliseconds between receipt and answer, by the server's clock.
        queue_ms: of these, waiting for a worker.
        infer_ms: of these, in the worker.
        batch: how many items were answered together.
    """

    seq: int
    id: str | None
    outputs: Any
    model: str
    version: str
    age_ms: float
    queue_ms: float
    infer_ms: float
    batch: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """An item the server dropped unanswered: superseded by a newer one, expired, or drained."""

    seq: int
    id: str | None
    reason: Literal["superseded", "expired", "draining"]


@dataclass(frozen=True, slots=True)
class Error:
    """An error: of the item `seq`, and the stream lives on; or, without one, of the stream itself."""

    seq: int | None
    id: str | None
    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Goaway:
    """The server drains: answers still come for `grace_ms`; come back after `retry_after_ms`."""

    grace_ms: int
    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class End:
    """The last message: the server's own count of the stream."""

    received: int
    results: int
    dropped: int
    errors: int


Answer: TypeAlias = Result | Dropped | Error
ServerMessage: TypeAlias = Ready | Answer | Goaway | End

_SERVER_MESSAGES: dict[str, tuple[type, tuple[str, ...], tuple[str, ...]]] = {
    # type: class, fields that must be there, fields that may be missing
    "ready": (Ready, tuple(Ready.__slots__), ()),
    "result": (
        Result,
        ("seq", "outputs", "model", "version", "age_ms", "queue_ms", "infer_ms", "batch"),
        ("id",),
    ),
    "dropped": (Dropped, ("seq", "reason"), ("id",)),
    "error": (Error, ("code", "message", "retryable"), ("seq", "id")),
    "goaway": (Goaway, tuple(Goaway.__slots__), ()),
    "end": (End, tuple(End.__slots__), ()),
}


def read_server_message(text: str) -> ServerMessage | None:
    """Read what a server says; None for a type of a later version. Unknown fields are ignored.

    Raises:
        ConnectFailed: it is no message of the protocol, so whoever is there is no such server.
    """
    try:
        message = json.loads(text)
        known = _SERVER_MESSAGES.get(message["type"])
        if known is None:
            return None
        cls, required, optional = known
        fields = {name: message[name] for name in required}
        fields |= {name: message.get(name) for name in optional}
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise ConnectFailed(f"the server sent what is no message of {SUBPROTOCOL}: {text[:80]!r}") from exc
    return cast(ServerMessage, cls(**fields))
