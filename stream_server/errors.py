"""Every way a conversation goes wrong, and the one table that says what each is called outside.

    StreamServerError
    ├── ClientFault          they misbehaved: the peer sent something it should not have
    │   ├── Malformed            a text message that is no message of the protocol
    │   ├── BadOption            an unknown or impossible query parameter
    │   ├── WrongKind            a text to an image model, or the other way round
    │   ├── TooLarge             a message over the limit
    │   ├── UnknownModel         no such model or version
    │   ├── Forbidden            an Origin or Host that may not use this server
    │   ├── Idle                 nothing heard for too long
    │   ├── TooManyStreams       over the number this server allows
    │   └── Poison               items that end one worker after the other
    ├── ServerFault          we cannot serve now
    │   ├── Unavailable          the model did not start, or has no worker yet
    │   ├── Overloaded           one stream more, and the others would not get what they were promised
    │   ├── Draining             the server is shutting down
    │   └── Broken               a defect of the server itself
    ├── ConfigError          you misused us: a flag or a settings file is wrong
    └── ClientError          what the clients raise
        ├── ConnectFailed        no server there, or it does not speak the protocol
        ├── Refused              the server said no, with a code
        ├── ConnectionLost       the connection ended before every item was answered
        └── StreamClosed         you misused us: sent on a stream that has ended

Errors of single items (`inference.items.Failed`) are values, not exceptions: the stream lives on.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference.items import POISON


class StreamServerError(Exception):
    """Any error of this package."""


class ClientFault(StreamServerError):
    """The peer sent something it should not have. The message is for its developer."""


class Malformed(ClientFault):
    """A text message that is no message of the protocol."""


class BadOption(ClientFault):
    """An unknown or impossible query parameter."""


class WrongKind(ClientFault):
    """A text to an image model, or the other way round."""


class TooLarge(ClientFault):
    """A message over the limit."""


class UnknownModel(ClientFault):
    """No such model or version."""


class Forbidden(ClientFault):
    """An Origin or Host that may not use this server."""


class Idle(ClientFault):
    """Nothing heard for too long."""


class TooManyStreams(ClientFault):
    """Over the number of streams this server allows."""


class Poison(ClientFault):
    """Items that end one worker after the other."""


class ServerFault(StreamServerError):
    """The server cannot serve this now."""


class Unavailable(ServerFault):
    """The model did not start, or has no worker yet."""


class Overloaded(ServerFault):
    """One stream more, and the others would not get what they were promised."""


class Draining(ServerFault):
    """The server is shutting down."""


class Broken(ServerFault):
    """A defect of the server itself; the log has the traceback."""


class ConfigError(StreamServerError):
    """A flag or a settings file is wrong. The message says which and what to write instead."""


class ClientError(StreamServerError):
    """What the clients raise."""


class ConnectFailed(ClientError):
    """No server there, or it does not speak the protocol."""


class Refused(ClientError):
    """The server said no.

    Attributes:
        code: the stable word of the table below.
        retryable: whether trying again later can help.
        retry_after_ms: how long the server asks to be left alone first; None where it does not say.
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
class Meaning:
    """What an error is called on the wire.

    Attributes:
        code: the stable word in an `error` message.
        close: the websocket close code (RFC 6455 section 7.4), or None where the stream lives on.
        status: the HTTP status of the same error.
        retryable: whether the same request can succeed later.
        retry_after_ms: how long to wait with that at least; None where a client knows as well as we do.
    """

    code: str
    close: int | None
    status: int
    retryable: bool
    retry_after_ms: int | None = None


RETRY_AFTER_MS = 5000
"""What a client is told to wait that found no room: some stream must end first, and nobody knows when."""

MEANINGS: dict[type[StreamServerError], Meaning] = {
    Malformed: Meaning("malformed", None, 400, retryable=False),
    BadOption: Meaning("bad_option", 4400, 400, retryable=False),
    WrongKind: Meaning("wrong_kind", 1003, 415, retryable=False),
    TooLarge: Meaning("too_large", 1009, 413, retryable=False),
    UnknownModel: Meaning("unknown_model", 4404, 404, retryable=False),
    Forbidden: Meaning("forbidden", 4403, 403, retryable=False),
    Idle: Meaning("idle", 4408, 408, retryable=True),
    TooManyStreams: Meaning("too_many_streams", 4429, 429, retryable=True),
    Poison: Meaning(POISON, 1011, 422, retryable=False),
    Unavailable: Meaning("model_unavailable", 1013, 503, retryable=True),
    Overloaded: Meaning("overloaded", 1013, 503, retryable=True, retry_after_ms=RETRY_AFTER_MS),
    Draining: Meaning("draining", 1001, 503, retryable=True),
    Broken: Meaning("internal", 1011, 500, retryable=True),
}


def meaning(error: BaseException) -> Meaning:
    """Look an error up by its class, then by its nearest ancestor; a stranger is `Broken`."""
    for cls in type(error).__mro__:
        if cls in MEANINGS:
            return MEANINGS[cls]
    return MEANINGS[Broken]
