"""What travels through the engine: an item in, exactly one outcome out. Plain values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

from inference.model import ModelId

DropReason: TypeAlias = Literal["superseded", "expired", "draining", "cancelled"]
"""Why nobody started on an item. "cancelled" never reaches a wire: it means that the client has gone."""


POISON = "poison"
"""Code of the error that ends a stream whose items have ended too many workers."""

RESERVED = frozenset({POISON, "timeout", "worker_lost", "model_unavailable"})
"""Codes of errors that only the engine gives: a client must be able to trust what they say of its stream."""


class Cause(StrEnum):
    """Why a worker ended that had a batch, as far as that can be proven."""

    CRASH = "crash"
    """It exited, broke its protocol, or a signal ended it that a program's own fault raises."""
    TIMEOUT = "timeout"
    """The server ended it: the batch took too long."""
    OUTSIDE = "outside"
    """A signal ended it that neither the server nor the worker sent, nor the kernel for want of memory."""
    UNKNOWN = "unknown"
    """A signal ended it, and any of these may have sent it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One frame or one text, as its sender encoded it.

    Attributes:
        stream: the engine's number of the stream it belongs to.
        seq: its place in the stream, from 1, in order of arrival.
        payload: the encoded image, the bytes, UTF-8 text or UTF-8 JSON; never decoded on the loop.
        received: when it arrived, in seconds of a monotonic clock.
        deadline: when it is too old to start on, same clock; None means never.
    """

    stream: int
    seq: int
    payload: bytes = field(repr=False)  # a log line must never hold it
    received: float
    deadline: float | None = None

    def release(self) -> None:
        """Give the payload's memory back: the item has its outcome, which may still be kept."""
        object.__setattr__(self, "payload", b"")


@dataclass(frozen=True, slots=True)
class Result:
    """A model's answer to an item.

    Attributes:
        item: what is answered.
        outputs: the answer as JSON text, encoded in the worker and passed through unparsed.
        version: the version of the model that answered.
        queue_ms: milliseconds from receipt to the start of its batch.
        infer_ms: milliseconds its batch took in the worker, decoding included.
        batch: how many items that batch held.
        state: what a stateful model returned for the stream's next item, opaque; empty for None.
    """

    item: Item
    outputs: str
    version: str
    queue_ms: float
    infer_ms: float
    batch: int
    state: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Dropped:
    """An item that nobody started on, and why."""

    item: Item
    reason: DropReason


@dataclass(frozen=True, slots=True)
class Failed:
    """An item that got an error: a stable code, and a sentence that says what to do.

    Attributes:
        fatal: nothing of its stream runs any more. The scheduler alone says so; a model may well use its code.
    """

    item: Item
    code: str
    message: str
    retryable: bool = False
    fatal: bool = False


Outcome: TypeAlias = Result | Dropped | Failed


@dataclass(frozen=True, slots=True)
class Batch:
    """Items of one model, given to one `predict`.

    Attributes:
        started: when it was handed to a worker, in seconds of the items' clock.
        states: for a stateful model the state of each item's stream, opaque, empty for None; else no entries.
    """

    model: ModelId
    items: tuple[Item, ...]
    started: float
    states: tuple[bytes, ...] = ()
