"""What a user writes: a class with ``load`` and ``predict``; and the card that describes it to the server.

A model lives in a worker process. The server's own process never imports it: it knows a model by its
`ModelSource` before the worker has loaded it and by its `ModelCard` after.
"""

from __future__ import annotations

import importlib
import inspect
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, get_args

InputKind: TypeAlias = Literal["image", "bytes", "text", "data"]
Policy: TypeAlias = Literal["latest", "queue"]

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""Names of models and versions, in URLs and settings. Nothing else looks at a name before this has."""

DEFAULT_GROUP = "default"
"""The group of the models that are put into no other."""

MAX_BATCH = 256
"""Most items in one batch: larger ones gain nothing measurable, and every item in it waits for the last."""

DEFAULT_TIMEOUT_MS = 10_000
"""How long a batch may take before its worker is ended: far above any model a camera can use."""

DEFAULT_LOAD_TIMEOUT_S = 300
"""How long a model may take to import and load before its worker is ended: large weights from a slow disk take
minutes, a hang takes for ever."""

MAX_STATE = 64 << 10
"""Largest state of a stream, in bytes: it is kept for every stream and sent with every item."""

MAX_OUTPUT = 16 << 20
"""Largest answer to one item, in bytes of JSON: ten times what a mask of 640x480 takes. Clients refuse longer
messages, which would end their stream."""

MAX_RATE = 1000
"""Most items per second that a stream may be promised: far above any camera."""


class ModelId(NamedTuple):
    """What runs and what answers: a model's name and version, written ``name@version``."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class ModelError(Exception):
    """A model that cannot be imported, described or loaded, and would not be at another try.

    The message says what to change.
    """


class ItemError(Exception):
    """Raised, or returned in place of an answer, by `predict` for one bad item.

    Attributes:
        code: a stable word for programs, up to 64 of a-z and _. Any other, and what only the engine may say
            (`inference.items.RESERVED`), is sent as ``model_error``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class StatefulItem:
    """An item of a model with ``stateful = True``.

    Attributes:
        value: what a stateless model would get as the item.
        state: what the model returned for the stream's previous item; None for the first one.
    """

    value: Any
    state: Any = None


class Model(Protocol):
    """What the worker calls. A user's class need not inherit from it.

    Required besides the two methods is ``input``; every other attribute has a default:
    ``version`` ("1"), ``max_batch`` (1), ``latency_target_ms`` (None: batches grow up to ``max_batch``, else until
    one takes so long), ``min_rate`` (0: items per second that each stream is promised; a new stream is refused
    where the workers cannot keep that for all), ``timeout_ms`` (10,000), ``policy`` ("latest" for images, else
    "queue"), and for images ``long_side`` (None: decode at full size; else images arrive no larger than
    this many pixels on their longer side).

    ``stateful`` (False): if True, each item is a `StatefulItem` and each answer a pair ``(answer, state)``. The
    next item of the same stream comes with that state; the first comes with None. A state is bytes or anything
    JSON can hold (a tuple comes back as a list, an array as lists), encoded in less than `MAX_STATE` bytes. It
    travels with the item, so consecutive items of a stream may run in different workers. An item with an exception
    for an answer, or with a state that cannot be kept (error ``bad_output``), leaves the stream's state as it was.
    """

    input: InputKind

    def load(self) -> None:
        """Read weights, build sessions. Called once, in the worker, before the first `predict`.

        What needs files or the network belongs here: after it the worker's sandbox is closed. It may take
        ``load_timeout_s`` seconds (300), the import of its module included.
        """

    def predict(self, items: Sequence[Any], /) -> Sequence[Any]:
        """Answer a batch.

        Args:
            items: 1 to ``max_batch`` of: `inference.image.Image` ("image"), bytes ("bytes"), str ("text"),
                or what the JSON held ("data"); for a stateful model a `StatefulItem` with one of these. The list
                is the model's own: it may change it and what is in it.

        Returns:
            A list, a tuple, another sequence or an array, with as many answers in the same order. An answer is
            anything JSON can hold (numpy scalars and arrays too, but no NaN), up to `MAX_OUTPUT` bytes of it, or an
            exception for an item that cannot be answered. A stateful model returns a pair ``(answer, state)`` for
            each item. Anything else is ``bad_output``: a dict or a text for all items, None, a generator, a
            coroutine, another number of answers.
        """


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """How the operator wants a model to be served; None leaves it to the model's class.

    The attributes are those of `ModelCard`. They are never sent to a worker.
    """

    policy: Policy | None = None
    max_batch: int | None = None
    latency_target_ms: int | None = None
    timeout_ms: int | None = None
    load_timeout_s: int | None = None
    min_rate: float | None = None

    def apply(self, card: ModelCard) -> ModelCard:
        """Return the card with these settings in the place of the class's own.

        Raises:
            ModelError: one is out of range.
        """
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(card, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's class is and what it is built with.

    Attributes:
        name: what URLs call it.
        reference: ``package.module:Class``.
        options: keyword arguments of the class; values that JSON can hold.
        settings: how it is served, where that is not left to the class.
    """

    name: str
    reference: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: ServingSettings = ServingSettings()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ModelError(
                f"{self.name!r} is not a valid name for a model: use up to 64 of a-z 0-9 . _ -, "
                "beginning with a letter or digit"
            )
        module, colon, cls = self.reference.partition(":")
        if not (colon and cls.isidentifier() and all(p.isidentifier() for p in module.split("."))):
            raise ModelError(
                f"{self.reference!r} is not a reference to a model: write it as package.module:Class"
            )

    @classmethod
    def parse(cls, text: str) -> ModelSource:
        """Read ``[name=]package.module:Class``; without a name it is the class's in lower case."""
        name, equals, reference = text.rpartition("=")
        if not equals:
            name = reference.rpartition(":")[2].lower()
        return cls(name, reference)

    def build(self) -> Model:
        """Import the class and make the model, unloaded. Only a worker calls this.

        Raises:
            ModelError: the module, class or an option is wrong.
        """
        module, _, cls = self.reference.partition(":")
        imported = _imported(module)
        factory = getattr(imported, cls, None)
        if factory is None:
            raise ModelError(f"module {module} has no {cls}" + _mistaken(imported))
        if not callable(factory):
            raise ModelError(f"{self.reference} is not a class: its type is {type(factory).__name__}")
        self._check_options(factory)
        try:
            model: Model = factory(**self.options)
        except (TypeError, ValueError) as exc:
            raise ModelError(f"{self.reference}: {exc}; check its options") from exc
        return model

    def _check_options(self, factory: Any) -> None:
        """Say which options there are where one is not; what Python says names only the wrong one."""
        try:
            parameters = inspect.signature(factory).parameters.values()
        except (TypeError, ValueError):  # it cannot be called, or is written in C
            return
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return
        named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        for option in self.options:
            if option not in named:
                there = f"there are {', '.join(named)}" if named else "it has none"
                raise ModelError(f"{self.name} has no option {option!r}; {there}")


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (ModelError, OSError, MemoryError):
        raise
    except ModuleNotFoundError as exc:
        missing = exc.name or ""
        if module == missing or module.startswith(missing + "."):
            advice = "install it, or start the server in the folder that holds it"
        else:
            advice = f"{module} imports it{_at(exc)}; install it"
        raise ModelError(f"cannot import {module}: no module named {missing!r}; {advice}") from exc
    except Exception as exc:
        raise ModelError(f"cannot import {module}: {fault_of(exc)}") from exc


CODE_FAULTS = (ImportError, SyntaxError, NameError, AttributeError, TypeError)
"""Exceptions of code that is wrong, which would be raised at another try too. They name code, and no data."""


def fault_of(error: Exception) -> str:
    """Say what an exception in a model's code was, and where, in words that clients may read."""
    # the words of other exceptions may hold paths
    words = f": {error}" if isinstance(error, CODE_FAULTS) else ""
    return f"{type(error).__name__}{words}{_at(error)}"


def _at(error: Exception) -> str:
    """Name the file, without its folder, and the line; empty if there is none."""
    if isinstance(error, SyntaxError):  # its message has them
        return ""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    return f" ({PurePath(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _mistaken(imported: ModuleType) -> str:
    """Say that a module is another one than the file of that name in the current folder, if there is one."""
    top = imported.__name__.partition(".")[0]
    here = Path.cwd()
    mine = any(place.exists() for place in (here / f"{top}.py", here / top))
    if not mine or Path(imported.__file__ or here).resolve().is_relative_to(here.resolve()):
        return ""
    return f": {top!r} is also the name of an installed package, which was imported instead of yours; rename yours"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a loaded model is, as its worker reports it.

    Attributes:
        name, version: what runs, as in ``name@version``.
        input: which kind of item it takes.
        policy: the policy of a stream that asks for none.
        max_batch: most items in one `predict`.
        timeout_ms: longest time for one batch before its worker is ended.
        description: the first line of its docstring.
        latency_target_ms: how long a batch should take at most; None lets it grow to `max_batch`.
        min_rate: items per second that each stream is promised; 0 promises nothing.
        load_timeout_s: longest time that loading it may take before its worker is ended.
        stateful: whether each item comes with the state that the model returned for the stream's previous one.
    """

    name: str
    version: str
    input: InputKind
    policy: Policy
    max_batch: int
    timeout_ms: int
    description: str
    latency_target_ms: int | None = None
    min_rate: float = 0.0
    load_timeout_s: int = DEFAULT_LOAD_TIMEOUT_S
    stateful: bool = False

    @property
    def id(self) -> ModelId:
        """Its name and version."""
        return ModelId(self.name, self.version)

    def __post_init__(self) -> None:
        if self.input not in get_args(InputKind):
            kinds = ", ".join(get_args(InputKind))
            raise ModelError(f"model {self.name}: `input` is {self.input!r}; set it to one of {kinds}")
        if self.policy not in get_args(Policy):
            raise ModelError(f"model {self.name}: `policy` is {self.policy!r}; set it to latest or queue")
        if not NAME.fullmatch(self.version):
            raise ModelError(f"model {self.name}: {self.version!r} is not a valid version; use a-z 0-9 . _ -")
        if type(self.max_batch) is not int or not 1 <= self.max_batch <= MAX_BATCH:
            raise ModelError(f"model {self.name}: `max_batch` must be 1 to {MAX_BATCH}")
        if type(self.timeout_ms) is not int or not 1 <= self.timeout_ms <= 3_600_000:
            raise ModelError(f"model {self.name}: `timeout_ms` must be 1 to 3,600,000")
        target = self.latency_target_ms
        if target is not None and (type(target) is not int or not 1 <= target <= self.timeout_ms):
            raise ModelError(f"model {self.name}: `latency_target_ms` must be 1 to its `timeout_ms`")
        if type(self.min_rate) not in (int, float) or not 0 <= self.min_rate <= MAX_RATE:
            raise ModelError(f"model {self.name}: `min_rate` must be 0 to {MAX_RATE:,} items per second")
        if type(self.load_timeout_s) is not int or not 1 <= self.load_timeout_s <= 3600:
            raise ModelError(f"model {self.name}: `load_timeout_s` must be 1 to 3,600")
        if type(self.stateful) is not bool:
            raise ModelError(f"model {self.name}: `stateful` must be True or False")


def _check_method(name: str, model: Model, method: str, *arguments: str) -> None:
    """Refuse what a worker could not call, and what would give it something else than a result."""
    call = getattr(model, method, None)
    if not callable(call):
        raise ModelError(f"model {name} has no method `{method}`")
    if inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
        raise ModelError(
            f"model {name}: `{method}` is `async def`; write `def`: a worker does one thing at a time"
        )
    if inspect.isgeneratorfunction(call):
        instead = "return a list with one answer per item" if arguments else "return nothing"
        raise ModelError(f"model {name}: `{method}` uses `yield`; {instead}")
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):  # it is written in C
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        given = f"one argument, {arguments[0]}" if arguments else "no argument"
        raise ModelError(f"model {name}: `{method}` takes {signature}; it is called with {given}") from None


def describe(name: str, model: Model) -> ModelCard:
    """Read a model's card from its attributes.

    Raises:
        ModelError: an attribute is missing or out of range.
    """
    _check_method(name, model, "load")
    _check_method(name, model, "predict", "the list of items")
    kind = getattr(model, "input", None)
    lines = (type(model).__doc__ or "").strip().splitlines()
    return ModelCard(
        name=name,
        version=str(getattr(model, "version", "1")),
        input=kind,  # type: ignore[arg-type]  # the card checks it
        policy=getattr(model, "policy", "latest" if kind == "image" else "queue"),
        max_batch=getattr(model, "max_batch", 1),
        timeout_ms=getattr(model, "timeout_ms", DEFAULT_TIMEOUT_MS),
        description=lines[0] if lines else "",
        latency_target_ms=getattr(model, "latency_target_ms", None),
        min_rate=getattr(model, "min_rate", 0.0),
        load_timeout_s=getattr(model, "load_timeout_s", DEFAULT_LOAD_TIMEOUT_S),
        stateful=getattr(model, "stateful", False),
    )
