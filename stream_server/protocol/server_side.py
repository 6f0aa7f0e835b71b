"""The server's end of the wire protocol, version 1: what it reads and what it writes. No I/O, no clock.

`client_side` is the other end; `docs/protocol.md` describes both for those who write another client.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, get_args

import msgspec

from inference import items
from inference.model import InputKind, ModelCard, Policy
from stream_server.errors import (
    BadOption,
    Malformed,
    WrongKind,
    error_info,
)
from stream_server.protocol.decoding import Problem, decode, explain, words

SUBPROTOCOL = "stream-inference.v1"

MAX_WINDOW = 64
"""Most unanswered items of one stream: hides any round trip, and few enough to hold for every stream."""

MAX_AGE_MS = 3_600_000
"""Longest `max_age_ms`: an answer that may be an hour late needs no limit at all."""

MIN_WEIGHT = 0.01
"""Least weight: below this, throttle the sender instead."""

DECIMAL = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")

MAX_ID = 128
"""Longest `id`, in characters: it is kept for every unanswered item and sent back."""


SEND_BINARY = (
    "this model takes binary messages: send the file's bytes as they are, not in JSON or base64; "
    "from a canvas, those of toBlob() and not toDataURL()"
)


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


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="meta"):
    """Describes an item: the client's own name for it, and how old it may become, in milliseconds.

    From a client it describes the next binary message.
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID)] | None = None
    max_age_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_AGE_MS)] | None = None


@dataclass(frozen=True, slots=True)
class TextItem:
    """An item that came as JSON: UTF-8 text for a text model, UTF-8 JSON for a data model."""

    payload: bytes
    meta: Meta


class EndOfItems(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="end"):
    """The client has no more items."""


ClientMessage: TypeAlias = TextItem | Meta | EndOfItems


class _Text(Meta, frozen=True, forbid_unknown_fields=True, tag="item", kw_only=True):
    text: str


class _Data(Meta, frozen=True, forbid_unknown_fields=True, tag="item", kw_only=True):
    data: msgspec.Raw  # checked for syntax, and forwarded as it is


class _AnyItem(msgspec.Struct, tag="item"):
    """An item of either kind, to tell one of the wrong kind from a malformed one."""

    text: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _AnyMeta(msgspec.Struct, tag="meta"):
    """A `meta` where none belongs."""


_BINARY = msgspec.json.Decoder(_AnyItem | Meta | EndOfItems)
_DECODERS: dict[InputKind, msgspec.json.Decoder[Any]] = {
    "image": _BINARY,
    "bytes": _BINARY,
    "text": msgspec.json.Decoder(_Text | _AnyMeta | EndOfItems),
    "data": msgspec.json.Decoder(_Data | _AnyMeta | EndOfItems),
}
_ITEM = msgspec.json.Decoder(_AnyItem)

_DIGITS = bytes.maketrans(b"0123456789E", b"0000000000e")
_MANY_DIGITS = b"0" * 200


def read_options(query: Iterable[tuple[str, str]], max_weight: float = 1.0) -> StreamOptions:
    """Read a stream's query parameters, decoded.

    Args:
        max_weight: largest weight that a stream may ask for.

    Raises:
        BadOption: one is unknown, given twice or out of range.
    """
    seen: dict[str, Any] = {}
    for key, value in query:
        if key in seen:
            raise BadOption(f"option {key[:32]!r} is given twice; give it once")
        if key == "policy":
            if value not in get_args(Policy):
                raise BadOption(f"policy must be {words(Policy)}, not {value[:32]!r}")
            seen[key] = value
        elif key == "window":
            seen[key] = _whole(key, value, MAX_WINDOW)
        elif key == "max_age_ms":
            seen[key] = _whole(key, value, MAX_AGE_MS)
        elif key == "weight":
            seen[key] = _weight(value, max_weight)
        else:
            raise BadOption(f"unknown option {key[:32]!r}; there are policy, window, max_age_ms and weight")
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


def read_client_message(text: str, kind: InputKind) -> ClientMessage:
    """Read a text message to a stream whose model takes `kind`.

    Raises:
        Malformed: it is not a message of the protocol.
        WrongKind: it is an item, but of another kind.
    """
    decoder = _DECODERS[kind]
    try:
        message = decode(decoder, text)
    except msgspec.ValidationError as exc:
        raise _wrong_kind(text, kind) or _malformed(explain(exc, decoder.type), kind) from None
    except RecursionError:
        raise Malformed("the message is nested too deeply") from None
    except ValueError as exc:
        raise Malformed(f"invalid JSON: {str(exc)[:80]}") from None
    match message:
        case _Text():
            # half a surrogate pair is legal in JSON and in no encoding
            payload = message.text.encode("utf-8", "replace")
            return TextItem(payload, Meta(message.id, message.max_age_ms))
        case _Data():
            return TextItem(_checked(bytes(message.data)), Meta(message.id, message.max_age_ms))
        case Meta() | EndOfItems():
            return message
        case _AnyMeta():
            raise WrongKind(f"`meta` describes a binary message, and this model takes {kind}")
        case _:
            raise WrongKind(SEND_BINARY)


def _checked(data: bytes) -> bytes:
    """Make sure that no number in valid JSON is beyond a double, without parsing what cannot hold one.

    With fewer than 200 digits and an exponent of at most two, a number is below 1e299.
    """
    digits = data.translate(_DIGITS, b"+")
    if b"0e000" in digits or _MANY_DIGITS in digits:
        try:
            msgspec.json.decode(data)
        except RecursionError:
            raise Malformed("the message is nested too deeply") from None
        except msgspec.ValidationError:
            raise Malformed("`data` holds a number that is too large") from None
    return data


def _wrong_kind(text: str, kind: InputKind) -> WrongKind | None:
    """Tell whether a message is an item with the other one of `text` and `data`."""
    if kind not in ("text", "data"):
        return None
    other = "data" if kind == "text" else "text"
    try:
        item = decode(_ITEM, text)
    except (ValueError, RecursionError):
        return None
    if getattr(item, kind) is msgspec.UNSET and getattr(item, other) is not msgspec.UNSET:
        return WrongKind(f"this model takes `{kind}`, not `{other}`")
    return None


def _malformed(problem: Problem, kind: InputKind) -> Malformed:
    key = problem.key[:32]
    match problem.kind, key:
        case "invalid", "":
            return Malformed("a message must be a JSON object with a `type`")
        case _, "type":
            return Malformed("`type` must be item, meta or end")
        case "missing", _:
            return Malformed(f"an item for this model needs `{kind}`")
        case "unknown", _:
            return Malformed(f"unknown field {key!r}")
    return Malformed(f"`{key}` must be {problem.allowed}")


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
    # the words of a bug may hold paths and names that must not leave this machine
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
