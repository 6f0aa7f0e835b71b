"""The client's end of the wire protocol: addresses, what it writes, the typed answers it reads and counts.

No I/O, no clock.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast
from urllib.parse import quote, urlencode, urlsplit

from inference.model import InputKind, Policy
from stream_server.errors import ConfigError, ConnectFailed, TooLarge
from stream_server.protocol.server_side import MAX_AGE_MS, SUBPROTOCOL, Meta, StreamOptions

END = '{"type": "end"}'
"""What says that no more items come."""

_HTTP_SCHEME = {"http": "http", "ws": "http", "https": "https", "wss": "https"}


def server_address(url: str) -> str:
    """Read a server's base address: http:// or https://, no slash at its end; ws:// and wss:// do as well.

    Raises:
        ConfigError: it is no such address.
    """
    try:
        parts = urlsplit(url)
        complete = parts.scheme in _HTTP_SCHEME and parts.hostname and parts.port != 0
    except ValueError:
        complete = False
    if not complete or parts.query or parts.fragment:
        raise ConfigError(f"{url!r} is no server's address: write it as http://HOST:PORT")
    return f"{_HTTP_SCHEME[parts.scheme]}://{parts.netloc}{parts.path.rstrip('/')}"


def stream_address(url: str, model: str, version: str | None, options: StreamOptions) -> str:
    """Write the address of a new stream: ws:// or wss://.

    Args:
        url: the server's base address, see `server_address`.
        model, version: what shall answer; None for the version that the server serves by default.
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


def encode_item(item: Any, ready: Ready, max_age_ms: int | None) -> str | bytes:
    """Encode an item as the message that a stream takes: bytes as they are, for text and data models JSON.

    Raises:
        TypeError, ValueError: not what the model takes, or what JSON cannot hold.
        TooLarge: over the server's limit.
    """
    if max_age_ms is not None and not 1 <= max_age_ms <= MAX_AGE_MS:
        raise ValueError(f"max_age_ms must be a whole number from 1 to {MAX_AGE_MS:,}, not {max_age_ms}")
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
    if len(message) > ready.max_item_bytes:
        raise TooLarge(
            f"an item of {len(message):,} bytes is over this server's limit of {ready.max_item_bytes:,}"
        )
    return message


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
    """An error: of the item `seq`, and the stream lives on; or, without one, of the stream itself.

    Attributes:
        code: a stable word.
        retryable: whether the same item, or the same stream, can succeed later.
        retry_after_ms: of a stream, how long the server asks to be left alone first; None where it does not say.
    """

    seq: int | None
    id: str | None
    code: str
    message: str
    retryable: bool
    retry_after_ms: int | None = None


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
    "error": (Error, ("code", "message", "retryable"), ("seq", "id", "retry_after_ms")),
    "goaway": (Goaway, tuple(Goaway.__slots__), ()),
    "end": (End, tuple(End.__slots__), ()),
}

_INTEGERS = {"seq", "window", "max_item_bytes", "batch", "grace_ms", "retry_after_ms"} | set(End.__slots__)
_NUMBERS = {"age_ms", "queue_ms", "infer_ms"}


def _check(name: str, value: Any) -> Any:
    if name == "outputs":
        return value
    right: tuple[type, ...] = (str,)
    if name in _INTEGERS:
        right = (int,)
    elif name in _NUMBERS:
        right = (int, float)
    elif name == "retryable":
        right = (bool,)
    # bool is an int to isinstance
    if type(value) not in right:
        raise TypeError(f"{name} is {value!r}")
    return value


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
        fields = {name: _check(name, message[name]) for name in required}
        for name in optional:
            value = message.get(name)
            fields[name] = value if value is None else _check(name, value)
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise ConnectFailed(f"the server sent what is no message of {SUBPROTOCOL}: {text[:80]!r}") from exc
    return cast(ServerMessage, cls(**fields))


@dataclass(frozen=True, slots=True)
class Statistics:
    """A stream as its client counts it: sent == results + dropped + errors + unanswered, at every moment."""

    sent: int
    results: int
    dropped: int
    errors: int
    unanswered: int


class Ledger:
    """A stream's items as its client counts them: each gets exactly one answer, in order.

    The client's `seq` counts on when the stream reconnects; the server's begins at 1 on every connection.
    An `id` stays here and need not travel: the order of the answers says whose each one is.
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
        """Answer what is unanswered with an error here, since its connection is gone."""
        lost: list[Answer] = []
        while self._unanswered:
            lost.append(self._close(Error(None, None, "connection_lost", message, retryable=True)))
        self._answered_before = self._answered
        return lost

    def _close(self, answer: Answer) -> Answer:
        self._answered += 1
        self._counts[type(answer)] += 1
        return replace(answer, seq=self._answered, id=self._unanswered.popleft())
