"""On what terms a stream is opened, and how many bytes all streams may hold. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from inference.items import Dropped, Failed, Item
from inference.model import ModelError, Policy

DEFAULT_WINDOW: dict[Policy, int] = {"latest": 1, "queue": 16}
"""A camera needs its newest frame answered, not its newest sixteen; a queue's window hides the round trip."""

MAX_STREAM_BYTES = 8 << 20
"""A window of large items must not fill the memory: as many bytes as one item may have by default."""

FREE_BYTES = 256 << 10
"""What a stream may hold however much the others do, so that those with small items always go on: the largest
frames of a camera. It is allowed twice: of items and answers, and of what has come and was not taken. A thousand
streams have 512 MiB of it at most."""


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What a caller wants of a stream; None leaves it to the model.

    Attributes:
        model: the model's name.
        version: the version that alone may answer; None for the current one, and its successors.
        policy: None for the model's own.
        window: `latest`: the most items running at once; `queue`: the most waiting. None for the policy's own.
        max_age_ms: items that waited longer are dropped as expired; None for never.
        weight: its share of the workers, relative to other streams.
        principal: on whose behalf it is opened.
        max_bytes: bytes of its items that wait or run, beyond which no further item is to be offered.
    """

    model: str
    version: str | None = None
    policy: Policy | None = None
    window: int | None = None
    max_age_ms: int | None = None
    weight: float = 1.0
    principal: str = ""
    max_bytes: int = MAX_STREAM_BYTES


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an item that has come cannot run.

    Attributes:
        code: ``draining``, which drops it, or an error's code.
        message: what to do about it.
    """

    code: str
    message: str = ""

    def outcome(self, item: Item) -> Dropped | Failed:
        """The outcome that the item gets."""
        return Dropped(item, "draining") if self.code == "draining" else Failed(item, self.code, self.message)


class Reader(Protocol):
    """Who reads a message piece by piece."""

    def resume(self) -> None:
        """The budget may grant more; ask again."""


@dataclass(slots=True)
class ByteBudget:
    """The bytes that all streams hold: items, unfinished messages, and answers that have not left.

    Over `limit`, a stream that holds more than `FREE_BYTES` has to wait. An item or an answer is waited for as long
    as that takes: items run, and answers are read or their reader is cut off. Where there are none, unfinished
    messages wait for each other, and are finished one at a time, first come, first served.

    So at most `limit` bytes are held, and besides: twice `FREE_BYTES` of each stream, one message, and the answers
    of what runs.

    Attributes:
        limit: see above.
        used: bytes that are held now, but for those of `FREE_BYTES` that are not counted.
    """

    limit: int
    used: int = 0
    _unfinished: int = 0
    _waiting: dict[Reader, None] = field(default_factory=dict)

    @property
    def exceeded(self) -> bool:
        """Whether streams that hold something must wait."""
        return self.used > self.limit

    def release(self, size: int) -> None:
        """Items or answers are gone."""
        self.used -= size
        if self._waiting:
            self._wake()

    def unfinished(self, reader: Reader, change: int, *, done: bool) -> None:
        """The unfinished message of a reader has grown by so many bytes, or it is done."""
        self.used += change
        self._unfinished += change
        if done:
            self._waiting.pop(reader, None)
        if self._waiting and (change < 0 or done):
            self._wake()

    def grant(self, reader: Reader) -> bool:
        """Whether a reader may have more of its message now; if not, its `resume` is called."""
        if not self.exceeded:
            self._waiting.pop(reader, None)
            return True
        self._waiting.setdefault(reader)
        return self._unfinished == self.used and next(iter(self._waiting)) is reader

    def _wake(self) -> None:
        if not self.exceeded:
            for reader in list(self._waiting):
                reader.resume()
        elif self._unfinished == self.used:
            next(iter(self._waiting)).resume()


class UnknownModelError(ModelError):
    """No model has that name, or no worker that version of it."""


class ModelUnavailableError(ModelError):
    """The model has not loaded: not yet, or not at all."""


class OverloadedError(ModelError):
    """With one stream more, not every stream would get the rate that its model promises."""
