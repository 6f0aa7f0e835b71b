"""A model in its worker: decodes items, calls `predict`, encodes answers and states. It knows no socket.

Whatever decoding, the model or its answers raise costs the item that they raise it for.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from inference.model import (
    MAX_STATE,
    InputKind,
    ItemError,
    Model,
    ModelCard,
    ModelSource,
    StatefulItem,
    describe,
)

log = logging.getLogger("inference.worker.main")


class Output(NamedTuple):
    """The answer to an item as JSON, and the stream's new state; empty for None and for stateless models."""

    text: bytes
    state: bytes = b""


Payload: TypeAlias = bytes | memoryview

Answer: TypeAlias = Output | ItemError
"""One item's output, or why it has none."""

JSON_STATE, RAW_STATE = b"j", b"b"
"""First byte of an encoded state: what follows is JSON, or the bytes themselves."""


def plain(value: Any) -> Any:
    """Turn a numpy scalar or array into what JSON holds.

    Raises:
        TypeError: it is neither.
    """
    to_list = getattr(value, "tolist", None)
    if to_list is None:
        raise TypeError(f"a {type(value).__name__} is nothing JSON can hold")
    return to_list()


_json = json.JSONEncoder(allow_nan=False, default=plain)


class LoadedModel:
    """A model, described when this is made and ready to answer after `load`.

    Attributes:
        card: its description.
        infer_ms: what its second inference took, without decoding: the first also pays for what happens once. 0
            where there is no sample to infer.
    """

    def __init__(self, source: ModelSource) -> None:
        self._model: Model = source.build()
        self.card: ModelCard = describe(source.name, self._model)
        self._long_side: int | None = getattr(self._model, "long_side", None)
        self._decode: Callable[[Payload], Any] = bytes
        self.infer_ms = 0.0

    def load(self) -> None:
        """Load the model and warm it up."""
        self._decode = decoder(self.card.input, self._long_side)
        self._model.load()
        if "cv2" in sys.modules:
            sys.modules["cv2"].setNumThreads(1)
        self.infer_ms = self._warm()

    def answer(self, payloads: Sequence[Payload], states: Sequence[Payload] = ()) -> list[Answer]:
        """Answer a batch: as many answers as payloads, in their order.

        Only what is no `Exception`, as `SystemExit`, ends the worker.

        Args:
            states: for a stateful model the encoded state of each item's stream, or none if nobody keeps them.
        """
        answers: dict[int, Answer] = {}
        items: dict[int, Any] = {}
        for i, payload in enumerate(payloads):
            try:
                value = self._decode(payload)
                if self.card.stateful:
                    value = StatefulItem(value, read_state(states[i]) if states else None)
                items[i] = value
            except ItemError as exc:
                answers[i] = exc
            except MemoryError:
                answers[i] = out_of_memory()
            except Exception as exc:  # a decoder may raise what nobody has seen yet
                log.warning("an item for model %s cannot be decoded", self.card.name, exc_info=True)
                answers[i] = ItemError("bad_item", f"decoding the item failed with {type(exc).__name__}")
        if items:
            outputs = self._predict(list(items.values()))
            answers.update(zip(items, map(self._encode, outputs), strict=True))
        return [answers[i] for i in range(len(payloads))]

    def _predict(self, items: list[Any]) -> list[Any]:
        try:
            outputs = list(self._model.predict(items))
        except MemoryError:
            if len(items) == 1:
                return [out_of_memory()]
        except ItemError as exc:
            if len(items) == 1:
                return [exc]
        except Exception as exc:  # a user's code may raise anything, and it costs one item
            if len(items) == 1:
                log.warning("model %s failed on an item", self.card.name, exc_info=True)
                return [ItemError("model_error", f"the model failed with {type(exc).__name__}")]
        else:
            if len(outputs) == len(items):
                return outputs
            log.warning("model %s: %d answers to %d items", self.card.name, len(outputs), len(items))
            return [ItemError("bad_output", "the model's answers do not match its items")] * len(items)
        # something in the batch is bad: one by one, so that it alone fails
        return [output for item in items for output in self._predict([item])]

    def _encode(self, output: Any) -> Answer:
        state = None
        if self.card.stateful and not isinstance(output, Exception):
            if not (isinstance(output, tuple | list) and len(output) == 2):
                log.warning("model %s answered without a state", self.card.name)
                return ItemError("bad_output", "the model's answer is not a pair of an answer and a state")
            output, state = output
        if isinstance(output, Exception):
            return returned(output)
        try:
            text, encoded = _json.encode(output).encode(), encode_state(state)
        except MemoryError:
            return out_of_memory()
        except Exception:  # the encoder's are TypeError and ValueError, but `tolist` may raise anything
            log.warning("model %s answered what JSON cannot hold", self.card.name, exc_info=True)
            return ItemError("bad_output", "the model's answer is nothing JSON can hold")
        if len(encoded) > MAX_STATE:
            words = f"the model's state has {len(encoded):,} bytes; {MAX_STATE:,} is the most"
            return ItemError("bad_output", words)
        return Output(text, encoded)

    def _warm(self) -> float:
        """Run twice, so that no client waits for what happens only the first time; what the second took."""
        sample = sample_item(self.card.input, self._long_side)
        if sample is None:
            return 0.0
        item = StatefulItem(sample) if self.card.stateful else sample
        self._predict([item])
        started = time.perf_counter()
        self._predict([item])
        return (time.perf_counter() - started) * 1e3


def returned(error: Exception) -> ItemError:
    """Turn an exception that the model returned for an item into the item's error."""
    if isinstance(error, ItemError):
        return error
    if isinstance(error, MemoryError):
        return out_of_memory()
    return ItemError("model_error", f"the model failed with {type(error).__name__}")


def encode_state(state: Any) -> bytes:
    """Encode a stream's state; empty for None.

    Raises:
        TypeError, ValueError: it is neither bytes nor what JSON can hold.
    """
    if state is None:
        return b""
    if isinstance(state, bytes | bytearray | memoryview):
        return RAW_STATE + bytes(state)
    return JSON_STATE + _json.encode(state).encode()


def read_state(encoded: Payload) -> Any:
    """Decode what `encode_state` gave."""
    if not encoded:
        return None
    if bytes(encoded[:1]) == RAW_STATE:
        return bytes(encoded[1:])
    return json.loads(bytes(encoded[1:]))


def out_of_memory() -> ItemError:
    """Say that an item does not fit into the worker's memory; the server replaces the worker."""
    return ItemError("out_of_memory", "the item needs more memory than a worker has")


def decoder(kind: InputKind, long_side: int | None) -> Callable[[Payload], Any]:
    """Give the function that turns a payload into what `predict` takes."""
    if kind == "image":
        from inference.worker import images  # noqa: PLC0415  # imports OpenCV, which other models do without

        return lambda payload: images.decode(payload, long_side)
    return {"text": read_text, "data": read_data}.get(kind, bytes)


def read_text(payload: Payload) -> str:
    """Read a text item.

    Raises:
        ItemError: ``bad_item``, it is not UTF-8.
    """
    try:
        return str(payload, "utf-8")
    except UnicodeDecodeError as exc:
        raise ItemError("bad_item", f"the text is not UTF-8 from byte {exc.start} on") from None


def read_data(payload: Payload) -> Any:
    """Read a data item.

    Raises:
        ItemError: ``bad_item``, it is no JSON, or nested more deeply than Python can read.
    """
    try:
        return json.loads(bytes(payload))
    except (ValueError, RecursionError):
        raise ItemError("bad_item", "the data is no JSON, or nested too deeply") from None


def sample_item(kind: InputKind, long_side: int | None) -> Any:
    """Make a small valid item to warm up with; None where only the model's author could."""
    if kind == "image":
        import numpy as np  # noqa: PLC0415  # as above

        from inference.image import Image  # noqa: PLC0415

        width = long_side or 640
        height = max(1, width * 3 // 4)
        return Image(np.zeros((height, width, 3), np.uint8), width, height)
    return {"text": "warm up", "bytes": b"\0"}.get(kind)
