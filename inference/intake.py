"""On what terms a stream is opened, and how many bytes all streams may hold. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass

from inference.items import Dropped, Failed, Item
from inference.model import ModelError, Policy

DEFAULT_WINDOW: dict[Policy, int] = {"latest": 1, "queue": 16}
"""A camera needs its newest frame answered, not its newest sixteen; a queue's window hides the round trip."""

MAX_STREAM_BYTES = 8 << 20
"""A window of large items must not fill the memory: as many bytes as one item may have by default."""


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


@dataclass(slots=True)
class ByteBudget:
    """The bytes of all items that wait or run.

    Over `limit` a stream is read only while none of its items waits or runs: so every stream goes on, and one
    message of each may be under way in any case.
    """

    limit: int
    used: int = 0

    @property
    def exceeded(self) -> bool:
        """Whether streams that have an item must wait."""
        return self.used > self.limit


class UnknownModelError(ModelError):
    """No model has that name, or no worker that version of it."""


class ModelUnavailableError(ModelError):
    """The model has not loaded: not yet, or not at all."""


class OverloadedError(ModelError):
    """With one stream more, not every stream would get the rate that its model promises."""
