"""A model in its worker: decodes items, calls `predict`, encodes answers and states. It knows no socket.

Whatever decoding, the model or its answers raise costs the item that they raise it for.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from inference.model import (
    InputKind,
    ItemError,
    Model,
    ModelCard,
    ModelError,
    ModelSource,
    StatefulItem,
    describe,
)
from inference.worker.denials import denial
from inference.worker.outputs import BadOutput, Output, Payload, answers_of, encode_output, read_state

log = logging.getLogger("inference.worker.main")

Answer: TypeAlias = Output | ItemError
"""One item's output, or why it has none."""


class LoadedModel:
    """A model, described when this is made and ready to answer after `load`.

    Attributes:
        card: its description.
        infer_ms: what its second inference took, without decoding: the first also pays for what happens once. 0
            where there is no sample to infer.
        sandbox: what `sandbox.seal` returned, once it was called; a denial is then told from other errors.
    """

    def __init__(self, source: ModelSource) -> None:
        self._model: Model = source.build()
        self.card: ModelCard = describe(source.name, self._model)
        self._long_side: int | None = getattr(self._model, "long_side", None)
        if self._long_side is not None and (type(self._long_side) is not int or self._long_side < 1):
            raise ModelError(f"model {source.name}: `long_side` must be None or a number of pixels")
        self._decode: Callable[[Payload], Any] = bytes
        self.infer_ms = 0.0
        self.sandbox: Mapping[str, str] = {}

    def load(self) -> None:
        """Load the model and warm it up.

        Raises:
            ModelError: what it answers to a sample is wrong for any item.
            Exception: what its `load` raised.
        """
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
        sent = [(payload, states[i] if states else b"") for i, payload in enumerate(payloads)]
        answers: dict[int, Answer] = {}
        items: dict[int, Any] = {}
        for i, one in enumerate(sent):
            value = self._read(*one)
            if isinstance(value, ItemError):
                answers[i] = value
            else:
                items[i] = value
        places = list(items)
        if places:
            outcome = self._predict(list(items.values()))
            items.clear()  # gives their memory back to those that are tried again
            if outcome is not None:
                answers.update(zip(places, outcome, strict=True))
            else:
                answers.update((i, self._alone(*sent[i])) for i in places)
        return [answers[i] for i in range(len(payloads))]

    def _read(self, payload: Payload, state: Payload) -> Any:
        """Decode an item; an `ItemError` where that fails."""
        try:
            value = self._decode(payload)
            return StatefulItem(value, read_state(state)) if self.card.stateful else value
        except ItemError as exc:
            return exc
        except MemoryError:
            return out_of_memory()
        except Exception as exc:  # a decoder may raise what nobody has seen yet
            log.warning("an item for model %s cannot be decoded", self.card.name, exc_info=True)
            return ItemError("bad_item", f"decoding the item failed with {type(exc).__name__}")

    def _alone(self, payload: Payload, state: Payload) -> Answer:
        """Answer an item of a batch that failed; decoded again, for `predict` may have changed what it had."""
        value = self._read(payload, state)
        if isinstance(value, ItemError):
            return value
        return (self._predict([value]) or [out_of_memory()])[0]

    def _predict(self, items: list[Any]) -> list[Answer] | None:
        """Answer items together; None where that failed, and each must be tried alone. `items` is the model's."""
        count = len(items)
        try:
            outputs = answers_of(self._model.predict(items), count)
        except Exception as exc:  # noqa: BLE001  # a user's code may raise anything, and it costs one item
            return [self._error(exc)] if count == 1 else None
        return [self._encode(output) for output in outputs]

    def _encode(self, output: Any) -> Answer:
        if isinstance(output, Exception):
            return self._error(output, raised=False)
        try:
            return encode_output(output, stateful=self.card.stateful)
        except Exception as exc:  # noqa: BLE001  # as above: `tolist` or `len` of a user's object
            return self._error(exc)

    def _error(self, exc: Exception, *, raised: bool = True) -> ItemError:
        """Turn what a model raised, or returned for an item, into the item's error."""
        if isinstance(exc, ItemError):
            return exc
        if isinstance(exc, MemoryError):
            return out_of_memory()
        if isinstance(exc, BadOutput):
            log.warning("model %s: %s", self.card.name, exc, exc_info=exc.__cause__)
            return ItemError("bad_output", str(exc))
        reason = denial(exc, self.sandbox) or f"the model failed with {type(exc).__name__}"
        if raised:
            log.warning("model %s failed on an item: %s", self.card.name, reason, exc_info=exc)
        return ItemError("model_error", reason)

    def _warm(self) -> float:
        """Run twice, so that no client waits for what happens only the first time; what the second took.

        A batch of two comes after: a model that answers it as a whole must not be ready.
        """
        if sample_item(self.card.input, self._long_side) is None:
            return 0.0
        self._try_out(1)
        started = time.perf_counter()
        self._try_out(1)
        seconds = time.perf_counter() - started
        if self.card.max_batch > 1:
            self._try_out(2)
        return seconds * 1e3

    def _try_out(self, count: int) -> None:
        """Run on samples. What other items may cure is logged, and the model is served all the same.

        Raises:
            ModelError: what it returns is wrong for any item.
            NameError, ImportError: so is its code.
        """
        name = self.card.name
        items = [sample_item(self.card.input, self._long_side) for _ in range(count)]
        try:
            given = [StatefulItem(item) for item in items] if self.card.stateful else items
            for answer in answers_of(self._model.predict(given), count):
                if not isinstance(answer, Exception):
                    encode_output(answer, stateful=self.card.stateful)
        except BadOutput as exc:
            if exc.certain:
                raise ModelError(f"model {name}: {exc}") from exc.__cause__
            log.warning("model %s answers the sample that warms it up wrongly: %s", name, exc)
        except UnboundLocalError:  # depends on the way through the code, and so on the item
            log.warning("model %s fails on the sample that warms it up", name, exc_info=True)
        except (NameError, ImportError):
            raise
        except ItemError:  # it refuses the sample, as it may
            pass
        except Exception:  # the sample may be none of its items
            log.warning("model %s fails on the sample that warms it up", name, exc_info=True)


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
