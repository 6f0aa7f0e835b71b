"""Runs a model in the program's own process, with the decoding and encoding of a worker, but without any worker.

For notebooks, tests of a model and batch jobs. The server never imports it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from inference.model import ItemError, ModelCard
from inference.naming import named_source
from inference.pictures import to_bytes
from inference.worker.loaded_model import Answer, LoadedModel
from inference.worker.outputs import Payload


class LocalModel:
    """A model in this process; `load_model` makes it. A stateful model takes its items as those of one stream.

    Attributes:
        card: its name, version, what it takes and how it is served.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.card: ModelCard = loaded.card
        self._loaded = loaded
        self._state = b""

    def __call__(self, item: Any) -> Any:
        """Answer one item, see `predict`."""
        return self.predict([item])[0]

    def predict(self, items: Sequence[Any], *, return_errors: bool = False) -> list[Any]:
        """Answer items, in batches of at most the model's `max_batch`.

        Args:
            items: for a text model a str, for a data model what JSON can hold, for a bytes model bytes or a Path;
                for an image model an encoded image, a Path, a numpy array (uint8, height x width x 3 in blue green
                red, or height x width) or a PIL image. Arrays and PIL images are encoded as JPEG, as a client
                would send them.
            return_errors: return an `ItemError` in the place of an answer, instead of raising the first.

        Returns:
            As many answers in the same order, as a client gets them: what JSON can hold.

        Raises:
            ItemError: an item cannot be answered.
            TypeError, ValueError: an item is not what the model takes.
            OSError: a file cannot be read.
        """
        payloads = [memoryview(self._encode(item)) for item in items]
        most = 1 if self.card.stateful else self.card.max_batch
        answers: list[Any] = []
        for start in range(0, len(payloads), most):
            for answer in self._answer(payloads[start : start + most]):
                if isinstance(answer, ItemError) and not return_errors:
                    raise answer
                answers.append(answer if isinstance(answer, ItemError) else json.loads(answer.text))
        return answers

    def reset(self) -> None:
        """Begin another stream: the next item of a stateful model gets no state."""
        self._state = b""

    def _answer(self, payloads: Sequence[Payload]) -> list[Answer]:
        if not self.card.stateful:
            return self._loaded.answer(payloads)
        answers = self._loaded.answer(payloads, [self._state])
        for answer in answers:
            if not isinstance(answer, ItemError):
                self._state = answer.state
        return answers

    def _encode(self, item: Any) -> bytes:
        kind = self.card.input
        if kind == "data":
            return json.dumps(item, allow_nan=False).encode()
        if kind == "text":
            if not isinstance(item, str):
                raise TypeError(f"model {self.card.name} takes a str, not {type(item).__name__}")
            return item.encode("utf-8", "replace")
        return to_bytes(item, kind, self.card.name)


def load_model(model: str, /, **options: Any) -> LocalModel:
    """Load a model into this process and warm it up. OpenCV, if the model uses it, is set to one thread.

    Args:
        model: a shipped model's name, or ``[name=]package.module:Class``.
        options: arguments of its class.

    Raises:
        ModelError: it cannot be imported or described, or an option is wrong. What its `load` raises is passed on.
    """
    loaded = LoadedModel(replace(named_source(model), options=options))
    loaded.load()
    return LocalModel(loaded)
