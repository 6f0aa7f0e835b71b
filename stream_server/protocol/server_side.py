"""The server's end of the wire protocol, version 1: what it reads and what it writes. No I/O, no clock.

`answers` is the client's end; `docs/protocol.md` describes both for those who write another client.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

from inference import items
from inference.model import InputKind, ModelCard, Policy
from inference.wire import strict_json
from stream_server.errors import (
    BadOption,
    Malformed,
    WrongKind,
    error_info,
)

SUBPROTOCOL = "stream-inference.v1"

MAX_WINDOW = 64
"""Most unanswered items of one stream: hides any round trip, and few enough to hold for every stream."""

DEFAULT_WINDOW: dict[Policy, int] = {"latest": 1, "queue": 16}
"""A camera wants its newest frame answered, not its newest sixteen; a queue hides the round trip."""

MAX_AGE_MS = 3_600_000
"""Longest `max_age_ms`: an answer that may be an hour late needs no limit at all."""

MIN_WEIGHT = 0.01
"""Least weight: a stream that is to have still less of the workers had better send less."""

DECIMAL = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")

MAX_ID = 128
"""Longest `id`, in characters: it is kept for every unanswered item and sent back."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What the query parameters of a stream say.

    Attributes:
        policy: None for the model's own.
        window: None for the policy's own.
        max_age_ms: items older than this are dropped as expired; None for never.
        weight: share of the workers, relative to other streams; None for 1.
    """

    policy: Policy | None = None
    window: int | None = None
    max_age_ms: int | None = None
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Meta:
    """Describes an item: the client's own name for it, and how old it may become.

    From a client it describes the next binary message.
    """

    id: str | None = None
    max_age_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TextItem:
    """An item that came as JSON: UTF-8 text for a text model, UTF-8 JSON for a data model."""

    payload: bytes
    meta: Meta


@dataclass(frozen=True, slots=True)
class EndOfItems:
    """The client has no more items."""


ClientMessage: TypeAlias = TextItem | Meta | EndOfItems


def read_options(query: Iterable[tuple[str, str]], max_weight: float = 1.0) -> StreamOptions:
    """Read a stream's query parameters, decoded.

    Args:
        max_weight: largest weight that a stream may ask for.

    Raises:
        BadOption: one is unknown, twice there or out of range.
    """
    seen: dict[str, Any] = {}
    for key, value in query:
        if key in seen:
            raise BadOption(f"option {key[:32]!r} is there twice")
        if key == "policy":
            if value not in get_args(Policy):
                raise BadOption(f"policy must be latest or queue, not {value[:32]!r}")
            seen[key] = value
        elif key == "window":
            seen[key] = _whole(key, value, MAX_WINDOW)
        elif key == "max_age_ms":
            seen[key] = _whole(key, value, MAX_AGE_MS)
        elif key == "weight":
            seen[key] = _weight(value, max_weight)
        else:
            raise BadOption(f"no option {key[:32]!r}; there are policy, window, max_age_ms and weight")
    return StreamOptions(**seen)


def _whole(key: str, value: str, most: int) -> int:
    # isdecimal alone lets other scripts' digits through, and int() takes signs, spaces and underscores
    if value.isascii() and value.isdecimal() and len(value) <= 9 and 1 <= int(value) <= most:
        return int(value)
    raise BadOption(f"{key} must be a whole number from 1 to {most:,}, not {value[:32]!r}")


def _weight(value: str, most: float) -> float:
    # the digits of a plain decimal fraction: float() takes much else, nan and infinity among it
    if DECIMAL.fullmatch(value) and MIN_WEIGHT <= float(value) <= most:
        return float(value)
    raise BadOption(f"weight must be a number from {MIN_WEIGHT} to {most:g}, not {value[:32]!r}")


def _object(text: str) -> dict[str, Any]:
    try:
        value = strict_json.read(text)
    except RecursionError:
        raise Malformed("the message is nested too deeply") from None
    except ValueError as exc:
        raise Malformed(f"the message is no JSON: {str(exc)[:80]}") from None
    if not isinstance(value, dict):
        raise Malformed("a message must be a JSON object with a `type`")
    return value


def read_client_message(text: str, kind: InputKind) -> ClientMessage:
    """Read a text message to a stream whose model takes `kind`.

    Raises:
        Malformed: it is no message of the protocol.
        WrongKind: it is an item, but of another kind.
    """
    message = _object(text)
    match message.pop("type", None):
        case "item":
            return _read_item(message, kind)
        case "meta":
            if kind not in ("image", "bytes"):
                raise WrongKind(f"`meta` describes a binary message, and this model takes {kind}")
            return _read_meta(message)
        case "end":
            _no_more(message)
            return EndOfItems()
        case None:
            raise Malformed("the message has no `type`; there are item, meta and end")
        case other:
            raise Malformed(f"no message type {str(other)[:32]!r}; there are item, meta and end")


def _read_item(message: dict[str, Any], kind: InputKind) -> TextItem:
    if kind in ("image", "bytes"):
        raise WrongKind("this model takes binary messages: send the encoded bytes as they are")
    other = "data" if kind == "text" else "text"
    if other in message and kind not in message:
        raise WrongKind(f"this model takes `{kind}`, not `{other}`")
    if kind not in message:
        raise Malformed(f"an item for this model needs `{kind}`")
    value = message.pop(kind)
    if kind == "text":
        if not isinstance(value, str):
            raise Malformed("`text` must be a string")
        # half a surrogate pair is legal in JSON and in no encoding
        payload = value.encode("utf-8", "replace")
    else:
        try:
            payload = json.dumps(value, allow_nan=False).encode()
        except ValueError:
            raise Malformed("`data` holds a number too large for JSON") from None
    return TextItem(payload, _read_meta(message))


def _read_meta(message: dict[str, Any]) -> Meta:
    id_ = message.pop("id", None)
    if id_ is not None and not (isinstance(id_, str) and 1 <= len(id_) <= MAX_ID):
        raise Malformed(f"`id` must be a string of 1 to {MAX_ID} characters")
    max_age_ms = message.pop("max_age_ms", None)
    # bool is an int to isinstance
    if max_age_ms is not None and not (type(max_age_ms) is int and 1 <= max_age_ms <= MAX_AGE_MS):
        raise Malformed(f"`max_age_ms` must be a whole number from 1 to {MAX_AGE_MS:,}")
    _no_more(message)
    return Meta(id_, max_age_ms)


def _no_more(message: dict[str, Any]) -> None:
    if message:
        raise Malformed(f"unknown field {next(iter(message))[:32]!r}")


def write_ready(stream: str, card: ModelCard, policy: Policy, window: int, max_item_bytes: int) -> str:
    """Write the first message of a stream."""
    return json.dumps(
        {
            "type": "ready",
            "stream": stream,
            "model": card.name,
            "version": card.version,
            "policy": policy,
            "window": window,
            "max_item_bytes": max_item_bytes,
            "input": card.input,
        }
    )


def _head(type_: str, seq: int, id_: str | None) -> str:
    if id_ is None:
        return f'{{"type": "{type_}", "seq": {seq}'
    return f'{{"type": "{type_}", "seq": {seq}, "id": {json.dumps(id_)}'


def write_result(result: items.Result, id_: str | None, model: str, age_ms: float) -> str:
    """Write a result around outputs that are JSON already; they are not parsed again."""
    return (
        f"{_head('result', result.item.seq, id_)}"
        f', "outputs": {result.outputs}, "model": "{model}", "version": "{result.version}"'
        f', "age_ms": {age_ms:.3f}, "queue_ms": {result.queue_ms:.3f}'
        f', "infer_ms": {result.infer_ms:.3f}, "batch": {result.batch}}}'
    )


def write_dropped(dropped: items.Dropped, id_: str | None) -> str:
    """Write that an item was dropped, and why."""
    return f'{_head("dropped", dropped.item.seq, id_)}, "reason": "{dropped.reason}"}}'


def write_failed(failed: items.Failed, id_: str | None) -> str:
    """Write the error that answers an item."""
    message = json.dumps(failed.message)
    return (
        f'{_head("error", failed.item.seq, id_)}, "code": {json.dumps(failed.code)}'
        f', "message": {message}, "retryable": {json.dumps(failed.retryable)}}}'
    )


def write_error(error: BaseException) -> str:
    """Write an error of the conversation itself, with its code out of the table in `errors`."""
    info = error_info(error)
    # a defect's own words may hold paths and names that are nobody else's business
    message = "the server failed" if info.code == "internal" else str(error)
    body: dict[str, Any] = {
        "type": "error",
        "code": info.code,
        "message": message,
        "retryable": info.retryable,
    }
    if info.retry_after_ms:
        body["retry_after_ms"] = info.retry_after_ms
    return json.dumps(body)


def write_goaway(grace_ms: int, retry_after_ms: int) -> str:
    """Write that the server drains: answers still come for `grace_ms`, come back after `retry_after_ms`."""
    return json.dumps({"type": "goaway", "grace_ms": grace_ms, "retry_after_ms": retry_after_ms})


def write_end(received: int, results: int, dropped: int, errors: int) -> str:
    """Write the last message of a stream, with the server's count of it."""
    return json.dumps(
        {
            "type": "end",
            "received": received,
            "results": results,
            "dropped": dropped,
            "errors": errors,
        }
    )
