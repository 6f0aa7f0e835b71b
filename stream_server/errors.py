"""Every error of this package, and the one table that says what each is called on the wire.

    StreamServerError
    ├── ClientFault          the peer sent something it should not have
    │   ├── Malformed            a text message that is not a message of the protocol
    │   ├── BadOption            an unknown or invalid query parameter
    │   ├── WrongKind            a text to an image model, or the other way round
    │   ├── TooLarge             a message over the limit
    │   ├── UnknownModel         no such model or version
    │   ├── Forbidden            an Origin or Host that is not allowed
    │   ├── Flooding             too much besides items, for too long
    │   ├── Idle                 nothing received for too long
    │   ├── TooManyStreams       over the number this server allows
    │   └── Poison               items that keep ending their workers
    ├── ServerFault          the server cannot serve this now
    │   ├── Unavailable          the model did not start, or has no worker yet
    │   ├── Overloaded           one more stream would break the rates promised to the others
    │   ├── Draining             the server is shutting down
    │   └── Broken               a bug in the server
    ├── ConfigError          a flag or a settings file is wrong
    └── ClientError          what the clients raise
        ├── ConnectFailed        no server there, or it does not speak the protocol
        ├── Refused              the server refused the stream, with a code
        ├── ConnectionLost       the connection ended before every item was answered
        └── StreamClosed         the program sent on a stream that has ended

Errors of single items (`inference.items.Failed`) are values, not exceptions: their stream continues.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inference.items import POISON


class StreamServerError(Exception):
    """Any error of this package."""


class ClientFault(StreamServerError):
    """The peer sent something it should not have. The message is for its developer."""


class Malformed(ClientFault):
    """A text message that is not a message of the protocol."""


class BadOption(ClientFault):
    """An unknown or invalid query parameter."""


class WrongKind(ClientFault):
    """A text to an image model, or the other way round."""


class TooLarge(ClientFault):
    """A message over the limit."""


class UnknownModel(ClientFault):
    """No such model or version."""


class Forbidden(ClientFault):
    """An Origin or Host that is not allowed to use this server."""


class Flooding(ClientFault):
    """Too many pings, fragments or messages that are not items, for too long."""


class Idle(ClientFault):
    """Nothing received for too long."""


class TooManyStreams(ClientFault):
    """Over the number of streams this server allows."""


class Poison(ClientFault):
    """Items that keep ending their workers."""


class ServerFault(StreamServerError):
    """The server cannot serve this now."""


class Unavailable(ServerFault):
    """The model did not start, or has no worker yet."""


class Overloaded(ServerFault):
    """One more stream would break the rates promised to the others."""


class Draining(ServerFault):
    """The server is shutting down."""


class Broken(ServerFault):
    """A bug in the server; the log has the traceback."""


class ConfigError(StreamServerError):
    """A flag or a settings file is wrong. The message says which and what to write instead."""


class ClientError(StreamServerError):
    """Any error that the clients raise."""


class ConnectFailed(ClientError):
    """No server there, or it does not speak the protocol."""


class Refused(ClientError):
    """The server refused the stream.

    Attributes:
        code: the stable word, see `TABLE`.
        retryable: whether trying again later can help.
        retry_after_ms: how long the server asks the client to wait first; None if it does not say.
    """

    def __init__(
        self, code: str, message: str, *, retryable: bool, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms


class ConnectionLost(ClientError):
    """The connection ended before every item was answered.

    Attributes:
        unanswered: how many items were sent and have no answer.
    """

    def __init__(self, message: str, *, unanswered: int = 0) -> None:
        super().__init__(message)
        self.unanswered = unanswered


class StreamClosed(ClientError):
    """Something was sent on a stream that has ended."""


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """What an error is called on the wire.

    Attributes:
        code: the stable word in an `error` message.
        scope: "item" answers one item; "stream" concerns the conversation itself.
        close: the websocket close code (RFC 6455 section 7.4) that follows, or None if the stream continues.
        status: the HTTP status of the same error.
        retryable: whether the same request can succeed later.
        meaning: what happened, in one sentence.
        retry_after_ms: the least time to wait before that; None leaves it to the client.
    """

    code: str
    scope: Literal["item", "stream"]
    close: int | None
    status: int
    retryable: bool
    meaning: str
    retry_after_ms: int | None = None


RETRY_AFTER_MS = 5000
"""What a refused client is told to wait: another stream must end first, and nobody knows when that will be."""

STREAM_ERRORS: dict[type[StreamServerError], ErrorInfo] = {
    cls: ErrorInfo(code, "stream", close, status, retryable, meaning, retry_after_ms)
    for cls, code, close, status, retryable, meaning, retry_after_ms in (
        (Malformed, "malformed", None, 400, False, "A text message is not a message of the protocol.", None),
        (WrongKind, "wrong_kind", 1003, 415, False, "The model takes another kind of item.", None),
        (TooLarge, "too_large", 1009, 413, False, "A message is over `max_item_bytes`.", None),
        (BadOption, "bad_option", 4400, 400, False, "A query parameter is unknown or invalid.", None),
        (Forbidden, "forbidden", 4403, 403, False, "The page's origin is not allowed.", None),
        (UnknownModel, "unknown_model", 4404, 404, False, "There is no such model or version.", None),
        (Flooding, "flooding", 1008, 429, False, "Too much besides items was sent for 10 s.", None),
        (Idle, "idle", 4408, 408, True, "Nothing was received for 30 s, not even a pong.", None),
        (TooManyStreams, "too_many_streams", 4429, 429, True, "No more streams are allowed.", None),
        (Poison, POISON, 1011, 422, False, "Items of this stream ended three workers.", None),
        (Unavailable, "model_unavailable", 1013, 503, True, "The model has not loaded.", None),
        (
            Overloaded,
            "overloaded",
            1013,
            503,
            True,
            "One more stream would break the rates that models promise.",
            RETRY_AFTER_MS,
        ),
        (Draining, "draining", 1001, 503, True, "The server is shutting down.", None),
        (Broken, "internal", 1011, 500, True, "The server has a bug; its log has the details.", None),
    )
}
"""Errors of the conversation, by their class."""

ITEM_ERRORS: tuple[ErrorInfo, ...] = tuple(
    ErrorInfo(code, "item", close, status, retryable, meaning)
    for code, close, status, retryable, meaning in (
        ("empty", None, 400, False, "The item has no bytes."),
        ("unsupported_image", None, 415, False, "The item is not a JPEG, PNG or WebP."),
        ("bad_image", None, 422, False, "The image is damaged."),
        ("too_large", None, 413, False, "Decoding the image would take too much time or memory."),
        ("bad_item", None, 422, False, "The item cannot be decoded."),
        ("model_error", None, 500, False, "The model failed on the item."),
        ("bad_output", None, 500, False, "The model's answer is missing, too large or not JSON."),
        ("out_of_memory", None, 500, False, "The item needs more memory than a worker has."),
        ("timeout", None, 504, False, "The model took too long, and its worker was ended."),
        ("worker_lost", None, 500, False, "Two workers ended with this item, the second with it alone."),
        ("worker_lost", None, 503, True, "The worker ended with this item; it was not tried again."),
        (POISON, 1011, 422, False, "The third worker ended with an item of this stream."),
        ("model_unavailable", None, 503, True, "The model was lost and did not load again."),
        ("model_unavailable", None, 503, False, "The version, or the model, is no longer served."),
    )
)
"""Errors that answer an item. A model may add codes of its own."""

TABLE: tuple[ErrorInfo, ...] = (*ITEM_ERRORS, *STREAM_ERRORS.values())
"""Every error that a client can receive, as docs/protocol.md lists them."""


def error_info(error: BaseException) -> ErrorInfo:
    """Look an error up by its class, then by its nearest ancestor; a foreign exception is `Broken`."""
    for cls in type(error).__mro__:
        if cls in STREAM_ERRORS:
            return STREAM_ERRORS[cls]
    return STREAM_ERRORS[Broken]
