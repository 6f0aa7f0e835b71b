"""What an operator may set: frozen values with units in their names, from flags and a TOML file.

A key that nobody knows is an error, because a misspelt limit is no limit. This module reads no file.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from inference.model import DEFAULT_GROUP, ModelError, ModelSource
from inference.pool.groups import Group, resolve_groups
from stream_server.errors import ConfigError
from stream_server.protocol.server_side import MIN_WEIGHT

SHIPPED = {
    "faces": "inference.models.faces:Faces",
    "spam": "inference.models.spam:Spam",
    "echo": "inference.models.echo:Echo",
}
"""The models that come with the package; they are served when none is named."""

ORIGIN = re.compile(r"https?://[a-z0-9.:\[\]_-]+")
"""An origin as browsers write it (RFC 6454 section 6.2): lower case, and nothing after the port."""

RANGES = {
    "port": (0, 65535, "0 takes a free one"),
    "workers": (1, 1024, "one per core is best"),
    "spares": (0, 16, "one is enough, unless workers are lost in series"),
    "worker_memory_mb": (0, 1 << 30, "MiB, 0 is no cap"),
    "recycle_mb": (0, 1 << 30, "MiB, 0 is never"),
    "recycle_batches": (0, 1 << 60, "0 is never"),
}
"""Whole numbers in [server]: the least, the most, and what to know."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much anyone may send or hold.

    Attributes:
        max_item_bytes: largest binary message. A 24-megapixel photo as JPEG takes about this much.
        max_text_bytes: largest text message. It is parsed on the event loop: the worst JSON of this size
            takes it about 10 ms.
        max_streams: most streams at once. Each takes a file descriptor, about 24 KiB, and the items that it has
            unanswered: up to two of the largest.
        max_unanswered_bytes: most bytes of unanswered items of all streams together, before a stream is read only
            while it has none unanswered. The default is 64 of the largest items or ten thousand frames of a
            camera, which no machine answers before they are old; beyond it there is one message of each stream.
        max_streams_per_peer: most of them from one address, so that one client cannot take them all. Behind a
            proxy every client has the proxy's address.
        max_weight: largest weight that a stream may ask for. With 1 nobody can take more than an equal share, and
            a modest client can ask for less.
        max_superseded_per_s: how many items of one stream are read only to be dropped for a newer one, before it
            is read more slowly. No camera has so many frames; to read more takes time from the other streams.
    """

    max_item_bytes: int = 8 << 20
    max_text_bytes: int = 128 << 10
    max_streams: int = 1000
    max_unanswered_bytes: int = 512 << 20
    max_streams_per_peer: int = 250
    max_weight: float = 1.0
    max_superseded_per_s: float = 100.0

    def __post_init__(self) -> None:
        if 0 < self.max_weight < MIN_WEIGHT:  # or every weight would be too large or too small
            raise ConfigError(f"max_weight = {self.max_weight}; use {MIN_WEIGHT}, the least weight, or more")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long anything may take.

    Attributes:
        hello_s: how long a connection may take to ask for anything, so that half a request holds no socket.
        heartbeat_s: silence after which a client is pinged; after half as long again it is cut off.
        write_s: how long a client may refuse to read what is sent to it.
        close_s: how long a client may take to answer a close.
        drain_s: how long the server goes on answering what it has accepted when it shuts down.
    """

    hello_s: float = 10.0
    heartbeat_s: float = 20.0
    write_s: float = 10.0
    close_s: float = 1.0
    drain_s: float = 10.0


def shipped_models() -> tuple[ModelSource, ...]:
    """The models that come with the package."""
    return tuple(ModelSource(name, reference) for name, reference in SHIPPED.items())


def cores() -> int:
    """How many cores this process may use: a container or taskset may leave fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the server is started with.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        workers: how many worker processes; every one holds all models that are in no group.
        allow_host: host names, besides addresses and localhost, under which browsers may reach it.
        allow_origin: origins, besides its own, whose pages may use it: ``https://example.org``.
        models: what it serves.
        sandbox: what workers may do once they have loaded: "auto" takes from them what this machine can,
            "require" serves only if that is everything, "off" takes nothing.
        worker_memory_mb: cap on a worker's address space, models included, in MiB; 0 is none.
        spares: workers, of each group, that are kept ready and idle to take a lost one's place.
        recycle_mb: a worker is replaced when its memory has grown by so many MiB since it was ready; 0 is never.
            A model that keeps more than the default for good reason needs a larger one.
        recycle_batches: a worker is replaced after so many batches; 0 is never.
        groups: models that have workers of their own.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = field(default_factory=cores)
    allow_host: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()
    models: tuple[ModelSource, ...] = field(default_factory=shipped_models)
    sandbox: Literal["auto", "require", "off"] = "auto"
    worker_memory_mb: int = 0
    spares: int = 1
    recycle_mb: int = 512
    recycle_batches: int = 0
    groups: tuple[Group, ...] = ()
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("host is empty; use 127.0.0.1, or 0.0.0.0 for every interface")
        for origin in self.allow_origin:
            if not ORIGIN.fullmatch(origin):
                raise ConfigError(f"{origin!r} is no origin; write it as browsers do: https://example.org")
        for name, (least, most, hint) in RANGES.items():
            _check_range(name, getattr(self, name), least, most, hint)
        for group in self.groups:
            _check_range(f"workers in [groups.{group.name}]", group.workers, *RANGES["workers"])
        try:
            resolve_groups(self.models, self.workers, self.groups)
        except ModelError as exc:
            raise ConfigError(str(exc)) from exc
        for table in (self.limits, self.timeouts):
            for item in fields(table):
                if not 0 < getattr(table, item.name) < math.inf:  # TOML has nan and inf
                    raise ConfigError(f"{item.name} must be above 0, and finite")

    @property
    def all_groups(self) -> list[Group]:
        """The groups, and before them that of the models which are in none, if there are any."""
        return resolve_groups(self.models, self.workers, self.groups)


def _check_range(name: str, value: int, least: int, most: int, hint: str) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name} = {value}; use {least} to {most:,}: {hint}")


def named_model(text: str) -> ModelSource:
    """Read what ``--model`` takes: a shipped model's name, or ``[name=]package.module:Class``.

    Raises:
        ConfigError: it is neither.
    """
    if text in SHIPPED:
        return ModelSource(text, SHIPPED[text])
    try:
        return ModelSource.parse(text)
    except ModelError as exc:
        raise ConfigError(f"{exc}; or name one that ships: {', '.join(SHIPPED)}") from None


def read_settings(document: Mapping[str, Any]) -> Settings:
    """Make settings from a parsed TOML document.

    It has the tables ``[server]`` (the plain fields of `Settings`; ``models`` is a list of what ``--model``
    takes), ``[limits]``, ``[timeouts]``, ``[models.NAME]``, which holds that model's options, and
    ``[groups.NAME]`` with the fields of `Group`.

    Raises:
        ConfigError: a key is unknown, or a value is of the wrong type or out of range.
    """
    tables = ("server", "limits", "timeouts", "models", "groups")
    unknown = set(document) - set(tables)
    if unknown:
        raise ConfigError(f"unknown table [{min(unknown)}]; there are {', '.join(tables)}")
    values = dict(_table(document, "server"))
    for name in ("limits", "timeouts", "groups"):
        if name in values:
            raise ConfigError(f"unknown key {name!r} in [server]; it is a table of its own: [{name}]")
    names = _typed(values.pop("models", list(SHIPPED)), tuple[str, ...], "models in [server]")
    values["models"] = _with_options([named_model(name) for name in names], _table(document, "models"))
    groups = _table(document, "groups")
    for name in groups:
        if "name" in _table(groups, name):
            raise ConfigError(f"unknown key 'name' in [groups.{name}]; there are models and workers")
    values["groups"] = tuple(
        _build(Group, {**_table(groups, name), "name": name}, f"groups.{name}") for name in groups
    )
    values["limits"] = _build(Limits, _table(document, "limits"), "limits")
    values["timeouts"] = _build(Timeouts, _table(document, "timeouts"), "timeouts")
    settings = _build(Settings, values, "server")
    if "workers" in values and DEFAULT_GROUP not in (group.name for group in settings.all_groups):
        raise ConfigError(
            "`workers` is for the models that are in no group, and here is none: give groups theirs"
        )
    return settings


def _with_options(models: Sequence[ModelSource], tables: Mapping[str, Any]) -> tuple[ModelSource, ...]:
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise ConfigError(f"two models have the same name: {', '.join(names)}; write name=module:Class")
    for name in tables:
        if name not in names:
            raise ConfigError(f"[models.{name}] is not served; there are {', '.join(names)}")
    return tuple(replace(m, options=dict(_table(tables, m.name))) for m in models)


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = document.get(name, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"{name} must be a table: [{name}]")
    return table


def _build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    hints = get_type_hints(cls)
    known = {item.name for item in fields(cls)}  # type: ignore[arg-type]  # T is always a dataclass
    checked = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"unknown key {key!r} in [{where}]; there are {', '.join(sorted(known))}")
        checked[key] = _typed(value, hints[key], f"{key} in [{where}]")
    for item in fields(cls):  # type: ignore[arg-type]  # as above
        if item.name not in checked and item.default is MISSING and item.default_factory is MISSING:
            raise ConfigError(f"[{where}] needs {item.name!r}")
    return cls(**checked)


def _typed(value: Any, hint: Any, where: str) -> Any:
    if get_origin(hint) is tuple:
        kind: type = get_args(hint)[0]
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, kind) for v in value):
            raise ConfigError(f"{where} must be a list of {kind.__name__}")
        return tuple(value)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{where} must be one of {', '.join(get_args(hint))}, not {value!r}")
        return value
    # a whole number is a fine duration, and true is no number
    wanted = (int, float) if hint is float else hint
    if not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} must be {hint.__name__}, not {value!r}")
    return value
