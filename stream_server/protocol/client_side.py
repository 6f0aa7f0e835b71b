"""The client's end of the wire protocol: addresses, what it writes, the typed answers it reads and counts.

No I/O, no clock.
"""

from __future__ import annotations

import json
import math
from collections import deque
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from inference.model import InputKind, Policy
from stream_server.errors import ConfigError, ConnectFailed, TooLarge
from stream_server.protocol.decoding import decode, words
from stream_server.protocol.server_side import MAX_AGE_MS, MIN_WEIGHT, SUBPROTOCOL, Meta, StreamOptions

END = '{"type": "end"}'
"""Tells the server that no more items come."""

_HTTP_SCHEME = {"http": "http", "ws": "http", "https": "https", "wss": "https"}


def server_address(url: str) -> str:
    """Read a server's base address: http:// or https://, no slash at its end; ws:// and wss:// do as well.

    Raises:
        ConfigError: it is not such an address.
    """
    try:
        parts = urlsplit(url)
        complete = parts.scheme in _HTTP_SCHEME and parts.hostname and parts.port != 0
    except ValueError:
        complete = False
    if not complete or parts.query or parts.fragment:
        raise ConfigError(f"{url!r} is not a server's address: write it as http://HOST:PORT")
    return f"{_HTTP_SCHEME[parts.scheme]}://{parts.netloc}{parts.path.rstrip('/')}"


def stream_address(url: str, model: str, version: str | None, options: StreamOptions) -> str:
    """Write the address of a new stream: ws:// or wss://.

    Args:
        url: the server's base address, see `server_address`.
        model, version: which model answers; None for the version that the server serves by default.
        options: those that are None are left to the server.
    """
    path = f"/v2/models/{quote(model, safe='')}"
    if version is not None:
        path += f"/versions/{quote(version, safe='')}"
    asked = {name: getattr(options, name) for name in StreamOptions.__slots__}
    if options.weight is not None:
        asked["weight"] = round(options.weight, 6)  # the server reads no more digits
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    address = "ws" + server_address(url).removeprefix("http") + path + "/stream"
    return f"{address}?{query}" if query else address


def check_options(options: StreamOptions) -> None:
    """Check what a program asks for, before anything is sent; what is only too much is for the server to refuse.

    Raises:
        TypeError: an option is of a wrong type.
        ValueError: it is out of range.
    """
    if options.policy not in (None, *get_args(Policy)):
        raise ValueError(f"policy must be {words(Policy)}, not {options.policy!r}")
    _check_whole("window", options.window, None)
    _check_whole("max_age_ms", options.max_age_ms, MAX_AGE_MS)
    weight = options.weight
    if weight is None:
        return
    # bool is an int to isinstance
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise TypeError(f"weight must be a number, not {weight!r}")
    if not MIN_WEIGHT <= weight < math.inf:
        raise ValueError(f"weight must be a number of at least {MIN_WEIGHT}, not {weight}")


def _check_whole(name: str, value: Any, most: int | None) -> None:
    allowed = "of at least 1" if most is None else f"from 1 to {most:,}"
    sentence = f"{name} must be a whole number {allowed}, not {value!r}"
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(sentence)
    if value is not None and not 1 <= value <= (value if most is None else most):
        raise ValueError(sentence)


def _with_meta(body: dict[str, Any], meta: Meta) -> str:
    if meta.id is not None:
        body["id"] = meta.id
    if meta.max_age_ms is not None:
        body["max_age_ms"] = meta.max_age_ms
    text = json.dumps(body, allow_nan=False, ensure_ascii=False)
    # half a surrogate pair is in no encoding: it alone is escaped, as JSON writes it, and the text gets no longer
    return text.encode("utf-8", "backslashreplace").decode()


def write_item(value: Any, kind: InputKind, meta: Meta) -> str:
    """Write an item for a text or data model.

    Raises:
        TypeError, ValueError: JSON cannot hold `value`.
    """
    return _with_meta({"type": "item", kind: value}, meta)


def encode_item(item: Any, ready: Ready, max_age_ms: int | None) -> str | bytes:
    """Encode an item as the message that a stream takes: bytes as they are, for text and data models JSON.

    Raises:
        TypeError, ValueError: not what the model takes, or what JSON cannot hold.
        TooLarge: over the server's limit.
    """
    _check_whole("max_age_ms", max_age_ms, MAX_AGE_MS)
    message: str | bytes
    if ready.input in ("image", "bytes"):
        if not isinstance(item, (bytes, bytearray, memoryview)):
            wanted = "an encoded image, such as a JPEG file's bytes" if ready.input == "image" else "bytes"
            raise TypeError(f"model {ready.model} takes {wanted}, not {type(item).__name__}")
        message = bytes(item)
    elif ready.input == "text" and not isinstance(item, str):
        raise TypeError(f"model {ready.model} takes a str, not {type(item).__name__}")
    else:
        message = write_item(item, ready.input, Meta(None, max_age_ms))
    size = len(message.encode() if isinstance(message, str) else message)
    if size > ready.max_item_bytes:
        raise TooLarge(f"an item of {size:,} bytes is over this server's limit of {ready.max_item_bytes:,}")
    return message


def write_meta(meta: Meta) -> str:
    """Write what describes the next binary message."""
    return _with_meta({"type": "meta"}, meta)


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The server serves this stream; the first message."""

    stream: str
    model: str
    version: str
    policy: Policy
    window: int
    max_item_bytes: int
    input: InputKind


class Result(msgspec.Struct, frozen=True, tag="result"):
    """An item's answer.

    Attributes:
        seq: the item's place in the stream, from 1.
        outputs: what the model answered.
        model, version: which model answered.
        age_ms: milliseconds between receipt and answer, by the server's clock.
        queue_ms: of these, waiting for a worker.
        infer_ms: of these, in the worker.
        batch: how many items were answered together.
        id: the client's own name for the item.
    """

    seq: int
    outputs: Any
    model: str
    version: str
    age_ms: float
    queue_ms: float
    infer_ms: float
    batch: int
    id: str | None = None


class Dropped(msgspec.Struct, frozen=True, tag="dropped"):
    """An item that the server dropped unanswered.

    Attributes:
        seq: the item's place in the stream, from 1.
        reason: "superseded" by a newer item, "expired", or "draining"; later servers may have others.
        id: the client's own name for the item.
    """

    seq: int
    reason: str
    id: str | None = None


class Error(msgspec.Struct, frozen=True, tag="error"):
    """An error: of the item `seq`, whose stream continues; or, without one, of the stream itself.

    Attributes:
        code: a stable word, see the table in docs/protocol.md; "connection_lost" is the client's own.
        message: what happened, for people.
        retryable: whether the same item, or the same stream, can succeed later.
        seq: the item's place in the stream, from 1.
        id: the client's own name for the item.
        retry_after_ms: of a stream, how long the server asks the client to wait first; None if it does not say.
    """

    code: str
    message: str
    retryable: bool
    seq: int | None = None
    id: str | None = None
    retry_after_ms: int | None = None


class Goaway(msgspec.Struct, frozen=True, tag="goaway"):
    """The server drains: answers still come for `grace_ms`; come back after `retry_after_ms`."""

    grace_ms: int
    retry_after_ms: int


class End(msgspec.Struct, frozen=True, tag="end"):
    """The last message: the server's own count of the stream."""

    received: int
    results: int
    dropped: int
    errors: int


Answer: TypeAlias = Result | Dropped | Error
ServerMessage: TypeAlias = Ready | Answer | Goaway | End


class _Message(msgspec.Struct):
    type: str


_TYPE = msgspec.json.Decoder(_Message)
_SERVER_MESSAGE: msgspec.json.Decoder[ServerMessage] = msgspec.json.Decoder(ServerMessage)
_TYPES = {cls.__struct_config__.tag for cls in get_args(ServerMessage)}


def read_server_message(text: str) -> ServerMessage | None:
    """Read a server's message; None for a type of a later version. Unknown fields are ignored.

    Raises:
        ConnectFailed: it is not a message of the protocol, so the peer is not such a server.
    """
    try:
        return decode(_SERVER_MESSAGE, text)
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, msgspec.ValidationError) and _is_of_later_version(text):
            return None
        raise ConnectFailed(
            f"the server sent something that is not a message of {SUBPROTOCOL}: {text[:80]!r}"
        ) from exc


def _is_of_later_version(text: str) -> bool:
    try:
        return decode(_TYPE, text).type not in _TYPES
    except (ValueError, RecursionError):
        return False


@dataclass(frozen=True, slots=True)
class Statistics:
    """A stream as its client counts it: sent == results + dropped + errors + unanswered, at every moment."""

    sent: int
    results: int
    dropped: int
    errors: int
    unanswered: int


class PendingItems:
    """A stream's unanswered items, and its counts: each item gets exactly one answer, in order.

    The client's `seq` counts on when the stream reconnects; the server's begins at 1 on every connection.
    An `id` stays here and is not sent: the order of the answers tells which item each belongs to.
    """

    def __init__(self) -> None:
        self._unanswered: deque[str | None] = deque()
        self._counts: dict[type, int] = {Result: 0, Dropped: 0, Error: 0}
        self._answered = 0
        self._answered_before = 0  # on earlier connections

    @property
    def unanswered(self) -> int:
        """How many items wait for their answer."""
        return len(self._unanswered)

    @property
    def sent(self) -> int:
        """How many items were sent, which is the last one's `seq`."""
        return self._answered + len(self._unanswered)

    @property
    def statistics(self) -> Statistics:
        """A snapshot."""
        counts = self._counts
        return Statistics(self.sent, counts[Result], counts[Dropped], counts[Error], self.unanswered)

    def send(self, id_: str | None) -> int:
        """Count an item as sent, and number it from 1."""
        self._unanswered.append(id_)
        return self.sent

    def settle(self, answer: Answer) -> Answer:
        """Count the server's answer to the oldest unanswered item, under the client's own `seq` and `id`.

        Raises:
            ConnectFailed: it answers another item than that.
        """
        expected = self._answered + 1 - self._answered_before
        if not self._unanswered or answer.seq != expected:
            raise ConnectFailed(f"the server answered item {answer.seq} where {expected} was next")
        return self._close(answer)

    def lose(self, message: str) -> list[Answer]:
        """Answer every unanswered item with an error, since its connection is gone."""
        lost: list[Answer] = []
        while self._unanswered:
            lost.append(self._close(Error("connection_lost", message, retryable=True)))
        self._answered_before = self._answered
        return lost

    def _close(self, answer: Answer) -> Answer:
        self._answered += 1
        self._counts[type(answer)] += 1
        return msgspec.structs.replace(answer, seq=self._answered, id=self._unanswered.popleft())
