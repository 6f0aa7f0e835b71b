"""What a pool knows of its models: sources, cards, why one is unavailable. It knows no worker and does no I/O."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence, Set
from dataclasses import replace

import msgspec

from inference.model import ModelCard, ModelError, ModelId, ModelSource
from inference.pool.options import WorkerOptions
from inference.wire import messages
from inference.wire.framing import MAX_HEADER

log = logging.getLogger(__name__)

LOAD_DEATHS = 3
"""A model that killed its worker this often while loading is left out, so that its neighbours can start."""

SPARE_HEADER = 4 << 10
"""Bytes of the set-up message for what is not a model's: far more than it has."""


class Catalogue:
    """The models of one pool.

    Attributes:
        sources: the models, by name.
        reasons: why a model was unavailable when it was last tried.
        permanent: the models of these whose code or options are wrong.
    """

    def __init__(self, sources: Sequence[ModelSource]) -> None:
        self.sources: dict[str, ModelSource] = {}
        self.reasons: dict[str, str] = {}
        self.permanent: set[str] = set()
        self._setups: dict[str, messages.ModelSetup] = {}
        self._deaths: dict[str, int] = {}
        self._newest: dict[str, ModelCard] = {}
        self._infer_ms: dict[ModelId, float] = {}
        self._loads: dict[ModelId, tuple[int, int]] = {}
        self._count = 0
        for source in sources:
            self.add(source)

    def add(self, source: ModelSource) -> None:
        """Add a model. One whose options cannot be sent to a worker is unavailable.

        Raises:
            ModelError: there is one of that name.
        """
        if source.name in self.sources:
            raise ModelError(
                f"there is a model {source.name!r} already; remove it first, or choose another name"
            )
        self.sources[source.name] = source
        self._deaths[source.name] = 0
        try:
            setup = setup_of(source)
            if sum(map(size_of, (setup, *self._setups.values()))) > MAX_HEADER - SPARE_HEADER:
                raise ModelError(
                    f"the options of {source.name} and of the models before it are too long together"
                )
        except ModelError as exc:
            self.failed(source.name, str(exc), permanent=True)
        else:
            self._setups[source.name] = setup

    def remove(self, name: str) -> None:
        """Forget a model.

        Raises:
            KeyError: there is none of that name.
        """
        del self.sources[name], self._deaths[name]
        self.available(name)
        self._setups.pop(name, None)
        self._newest.pop(name, None)
        for held in [held for held in self._loads if held.name == name]:
            del self._loads[held], self._infer_ms[held]

    @property
    def loadable(self) -> set[str]:
        """The models that a new worker loads."""
        return {name for name in self._setups if self._deaths[name] < LOAD_DEATHS}

    def setup(
        self, options: WorkerOptions, without: Set[str] = frozenset()
    ) -> tuple[dict[str, ModelSource], bytes]:
        """Return what a new worker is to load, some models left out, and the message that tells it."""
        names = self.loadable - without
        loadable = [model for name, model in self._setups.items() if name in names]
        message = messages.Setup(loadable, options.sandbox, options.memory_mb)
        return {model.name: self.sources[model.name] for model in loadable}, messages.encode(message)

    def described(self, source: ModelSource, card: ModelCard) -> ModelCard | None:
        """Apply the operator's settings to a card that a worker reports; None if the model is not to be used."""
        if self.sources.get(source.name) is not source:
            return None  # removed meanwhile, and perhaps another one has its name
        try:
            card = replace(
                source.settings.apply(card), description=card.description[: messages.MAX_DESCRIPTION]
            )
        except ModelError as exc:
            self.failed(source.name, str(exc), permanent=True)
            return None
        return card

    def loaded(self, source: ModelSource, card: ModelCard, infer_ms: float, generation: int) -> bool:
        """A worker of that generation has loaded a model; whether the model is still one of these."""
        if self.sources.get(source.name) is not source:
            return False
        self._count += 1
        load = (generation, self._count)
        self._loads[card.id] = max(load, self._loads.get(card.id, load))
        self._infer_ms[card.id] = infer_ms
        newest = self._newest.get(card.name)
        # a worker that started before a renewal may load after it
        if newest is None or load >= self._loads.get(newest.id, load):
            self._newest[card.name] = card
        self._deaths[card.name] = 0
        return True

    def failed(self, name: str, reason: str, *, permanent: bool = False) -> None:
        """A model cannot be used, and why; permanent: its code or an option is wrong."""
        if name not in self.reasons:
            log.error("model %s is unavailable: %s", name, reason)
        self.reasons[name] = reason
        (self.permanent.add if permanent else self.permanent.discard)(name)

    def available(self, name: str) -> bool:
        """Forget why a model was unavailable; whether it was."""
        self.permanent.discard(name)
        return self.reasons.pop(name, None) is not None

    def died_loading(self, name: str, *, late: bool) -> bool:
        """A worker ended while it loaded a model; whether the model is left out from now on.

        One that took too long is left out at once: to wait as long again would keep the others from serving.
        """
        if name not in self._deaths:
            return False
        self._deaths[name] = LOAD_DEATHS if late else self._deaths[name] + 1
        return self._deaths[name] >= LOAD_DEATHS

    def forgive(self) -> None:
        """Try every model again, however many workers it ended."""
        self._deaths = dict.fromkeys(self._deaths, 0)

    def one_more_try(self) -> None:
        """Let a worker try the unavailable models again; one more death leaves each out again."""
        for name in self.retryable:
            self._deaths[name] = min(self._deaths[name], LOAD_DEATHS - 1)

    @property
    def retryable(self) -> set[str]:
        """The unavailable models that a worker could try again."""
        return self.reasons.keys() & self._setups.keys()

    def keep(self, held: set[ModelId]) -> None:
        """Forget what was measured of versions that no worker holds, except the newest of each model."""
        kept = held | {card.id for card in self._newest.values()}
        for gone in self._loads.keys() - kept:
            del self._loads[gone], self._infer_ms[gone]

    def card(self, name: str) -> ModelCard | None:
        """Return the card of the newest version that was loaded; it outlives the workers."""
        return self._newest.get(name)

    def infer_ms(self, model: ModelId) -> float:
        """Return what an inference took when the version was warmed up; 0 if that is not known."""
        return self._infer_ms.get(model, 0.0)

    def load_order(self, card: ModelCard) -> tuple[int, int]:
        """Sort cards by this: a version is as new as the generation of the last worker that loaded it."""
        return self._loads.get(card.id, (0, 0))


def setup_of(source: ModelSource) -> messages.ModelSetup:
    """Encode what a worker must know of a model.

    Raises:
        ModelError: its options are not JSON values.
    """
    try:
        options = json.dumps(dict(source.options), allow_nan=False).encode()
        msgspec.json.decode(options)  # the worker's reader: it refuses half of a surrogate pair, for one
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as exc:
        raise ModelError(f"the options of {source.name} are not JSON values: {exc}") from exc
    return messages.ModelSetup(source.name, source.reference, msgspec.Raw(options))


def size_of(setup: messages.ModelSetup) -> int:
    """Return what a model takes up in the set-up message, in bytes."""
    return len(messages.encode(setup)) + 1
