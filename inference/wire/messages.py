"""The messages between the server and its workers, as types. It encodes and decodes; it does no I/O and no framing.

Every message is a JSON object with a ``type``. Decoding is strict: an unknown type or field, a missing field, a
value of another type or out of its range is a `BadMessage`. So a hostile worker can send the server nothing but
these values, within these bounds. Payloads, outputs and states are the message's body, which nobody here reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from inference.model import MAX_BATCH, MAX_OUTPUT, MAX_STATE, ModelCard, ModelError
from inference.wire.features import Mode
from inference.wire.framing import Buffer

MAX_REASON = 1000
"""Characters of why a model does not load: clients read it, and so does the log."""

MAX_CODE, MAX_MESSAGE = 64, 240
"""Longest error of an item, in characters: 256 of them in the worst JSON, 12 bytes each, fit `MAX_HEADER`."""

MAX_DESCRIPTION = 1000
"""Characters of a model's description, the first line of its docstring: clients read it."""

MAX_FEATURES = 32
"""Parts of a sandbox; there are six."""

MOST_MB = 1 << 28
"""MiB that a process can have at most: x86-64 and arm64 have addresses of 48 bits."""

MOST_MS = 24 * 3600 * 1e3
"""Milliseconds that anything reported can have taken: a model may load for an hour."""

Name: TypeAlias = Annotated[str, Meta(max_length=64)]
Megabytes: TypeAlias = Annotated[int, Meta(ge=0, le=MOST_MB)]
Milliseconds: TypeAlias = Annotated[float, Meta(ge=0, le=MOST_MS)]
OutputLength: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_OUTPUT)]
StateLength: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_STATE)]


class BadMessage(Exception):
    """A header that is not one of these messages."""


class ModelSetup(Struct, frozen=True, forbid_unknown_fields=True):
    """A model to load. Serving settings stay with the server."""

    name: str
    reference: str
    options: msgspec.Raw
    """A JSON object, encoded beforehand: one model's bad options must not spoil the message for the others."""


class Setup(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="setup"):
    """To the worker, first: what to load, and within which limits."""

    models: list[ModelSetup]
    sandbox: Mode
    memory_mb: int


class BatchHeader(
    Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="batch"
):
    """To the worker: a batch. The body holds the states, then the payloads.

    Attributes:
        states: lengths of the states, one for each item of a stateful model, else none.
        lengths: lengths of the payloads.
    """

    model: str
    version: str
    lengths: list[int]
    states: list[int] = []


class Importing(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="importing"):
    """The worker is about to import a model's class."""

    model: Name


class Described(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="described"):
    """The worker has built a model that it is about to load."""

    card: ModelCard


class ModelFailed(
    Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="failed"
):
    """A model cannot be imported, described or loaded.

    Attributes:
        permanent: it would fail again, because its code or an option is wrong.
    """

    model: Name
    reason: str
    permanent: bool = False


class Sealing(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="sealing"):
    """Nothing more is loaded: from here on an exit is not a model's fault."""


class Sandbox(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="sandbox"):
    """The sandbox is closed, as far as it could be; see `inference.wire.features`."""

    features: Annotated[dict[Name, Annotated[str, Meta(max_length=500)]], Meta(max_length=MAX_FEATURES)]


class Loaded(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="loaded"):
    """A model can answer; a warm inference takes `infer_ms`, 0 if that is not known."""

    model: Name
    infer_ms: Milliseconds


class Ready(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="ready"):
    """The worker waits for batches."""

    resident_mb: Megabytes


class ItemFailure(Struct, frozen=True, forbid_unknown_fields=True):
    """Why one item has no output."""

    code: Annotated[str, Meta(max_length=MAX_CODE)]
    message: Annotated[str, Meta(max_length=MAX_MESSAGE)]


class Answers(
    Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="answers"
):
    """The answers to a batch. The body holds the states, then the outputs.

    Attributes:
        items: for each item the length of its output, or its error.
        states: lengths of the new states, one for each item of a stateful model, else none.
    """

    infer_ms: Milliseconds
    resident_mb: Megabytes
    items: Annotated[list[OutputLength | ItemFailure], Meta(max_length=MAX_BATCH)]
    states: Annotated[list[StateLength], Meta(max_length=MAX_BATCH)] = []


ToWorker: TypeAlias = Setup | BatchHeader
FromWorker: TypeAlias = Importing | Described | ModelFailed | Sealing | Sandbox | Loaded | Ready | Answers

encode = msgspec.json.Encoder().encode
_to_worker: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)
_from_worker: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)


def read_to_worker(header: Buffer) -> ToWorker:
    """Decode a message of the server's.

    Raises:
        BadMessage: it is not one.
    """
    try:
        return _to_worker.decode(header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadMessage(str(exc)) from exc


def read_from_worker(header: Buffer) -> FromWorker:
    """Decode a message of a worker's.

    Raises:
        BadMessage: it is not one, or a card in it is invalid.
    """
    try:
        return _from_worker.decode(header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ModelError) as exc:
        raise BadMessage(str(exc)) from exc


def short(text: str, most: int) -> str:
    """Cut a text, and replace what UTF-8 cannot hold: half of a surrogate pair, as in JSON data and file names."""
    return text[:most].encode("utf-8", "replace").decode()


def cut(body: memoryview, lengths: Sequence[int]) -> Iterator[memoryview]:
    """Cut a body into parts of these lengths.

    Raises:
        BadMessage: they do not add up to the body's length.
    """
    if sum(lengths) != len(body):
        raise BadMessage(f"parts of {sum(lengths)} bytes in a body of {len(body)}")
    return (body[end - length : end] for length, end in zip(lengths, accumulate(lengths), strict=True))
