"""Reads settings from a parsed TOML document. It reads no file itself.

An unknown key is an error, because a misspelt limit would limit nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct, structs

from inference.model import DEFAULT_GROUP, MAX_BATCH, MAX_RATE, ModelSource, Policy, ServingSettings
from inference.naming import SHIPPED
from inference.pool.groups import Group
from stream_server.errors import ConfigError
from stream_server.protocol.decoding import allowed, explain
from stream_server.server.config import (
    MAX_WORKERS,
    Limits,
    Settings,
    Timeouts,
    named_model,
)

TABLES = ("server", "limits", "timeouts", "models", "groups")

T = TypeVar("T", bound=Struct)


class ModelTable(Struct, frozen=True, forbid_unknown_fields=True):
    """``[models.NAME]``: how a model is served, see `inference.model.ServingSettings`; and its own options."""

    policy: Policy | None = None
    max_batch: Annotated[int, Meta(ge=1, le=MAX_BATCH)] | None = None
    latency_target_ms: Annotated[int, Meta(ge=1, le=3_600_000)] | None = None
    timeout_ms: Annotated[int, Meta(ge=1, le=3_600_000)] | None = None
    load_timeout_s: Annotated[int, Meta(ge=1, le=3600)] | None = None
    min_rate: Annotated[float, Meta(ge=0, le=MAX_RATE, description="items per second")] | None = None
    options: dict[str, Any] = {}

    def apply(self, source: ModelSource) -> ModelSource:
        """Return a model's source with these settings and options."""
        serving = {name: value for name, value in structs.asdict(self).items() if name != "options"}
        return replace(source, options=self.options, settings=ServingSettings(**serving))


class GroupTable(Struct, frozen=True, forbid_unknown_fields=True):
    """``[groups.NAME]``: models that have workers of their own."""

    models: tuple[str, ...]
    workers: Annotated[int, Meta(ge=1, le=MAX_WORKERS)] = 1


def read_settings(document: Mapping[str, Any]) -> Settings:
    """Make settings from a parsed TOML document.

    It has the tables ``[server]`` (the plain fields of `Settings`; ``models`` is a list of what ``--model``
    takes), ``[limits]``, ``[timeouts]``, ``[models.NAME]`` with serving settings, ``[models.NAME.options]`` with
    arguments of the model's class, and ``[groups.NAME]``.

    Raises:
        ConfigError: a key is unknown, or a value is of the wrong type or out of range.
    """
    if unknown := set(document) - set(TABLES):
        raise ConfigError(f"unknown table [{min(unknown)}]; there are {', '.join(TABLES)}")
    values = dict(_table(document, "server", "server"))
    for name in ("limits", "timeouts", "groups"):
        if name in values:
            raise ConfigError(f"unknown key {name!r} in [server]; it is a table of its own: [{name}]")
    models = _models(values.pop("models", list(SHIPPED)), _table(document, "models", "models.NAME"))
    server = _read(Settings, values, "server")  # checks the plain fields; the rest below
    settings = structs.replace(
        server,
        models=models,
        groups=_groups(_table(document, "groups", "groups.NAME")),
        limits=_read(Limits, _table(document, "limits", "limits"), "limits"),
        timeouts=_read(Timeouts, _table(document, "timeouts", "timeouts"), "timeouts"),
    )
    if "workers" in values and DEFAULT_GROUP not in (group.name for group in settings.all_groups):
        raise ConfigError(
            "`workers` is for the models that are in no group, and every model is in one: give the groups theirs"
        )
    return settings


def _models(named: Any, tables: Mapping[str, Any]) -> tuple[ModelSource, ...]:
    if not isinstance(named, (list, tuple)) or not all(isinstance(name, str) for name in named):
        raise ConfigError(f"models in [server] must be a list of strings, not {_short(named)}")
    sources = [named_model(name) for name in named]
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ConfigError(f"two models have the same name: {', '.join(names)}; write name=module:Class")
    for name in tables:
        if name not in names:
            raise ConfigError(f"[models.{name}] is not served; there are {', '.join(names)}")
    return tuple(_model(source, _table(tables, source.name, f"models.{source.name}")) for source in sources)


def _model(source: ModelSource, values: Mapping[str, Any]) -> ModelSource:
    where = f"models.{source.name}"
    for name, value in _table(values, "options", f"{where}.options").items():
        _check_json(value, f"{name} in [{where}.options]")
    table = _read(ModelTable, values, where)
    timeout, target = table.timeout_ms, table.latency_target_ms
    if timeout is not None and target is not None and target > timeout:
        raise ConfigError(
            f"latency_target_ms in [{where}] is {target}; use at most its timeout_ms, {timeout}"
        )
    return table.apply(source)


def _check_json(value: Any, where: str) -> None:
    """Make sure that an option can be sent to a worker, which gets it as JSON."""
    match value:
        case str() | bool() | int():
            return
        case float():
            if not math.isfinite(value):
                raise ConfigError(f"{where} is {value}, which JSON cannot hold; use a finite number")
        case list() | tuple():
            for one in value:
                _check_json(one, where)
        case dict():
            for name, one in value.items():
                _check_json(one, f"{name}, of {where},")
        case _:
            raise ConfigError(
                f'{where} is a {type(value).__name__}, which JSON cannot hold; write it as a string: "{value}"'
            )


def _groups(tables: Mapping[str, Any]) -> tuple[Group, ...]:
    groups = []
    for name in tables:
        table = _read(GroupTable, _table(tables, name, f"groups.{name}"), f"groups.{name}")
        groups.append(Group(name, table.models, table.workers))
    return tuple(groups)


def _table(document: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    table = document.get(name, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"{name} must be a table: [{where}]")
    return table


def _read(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    try:
        return msgspec.convert(values, cls)
    except msgspec.ValidationError as exc:
        problem = explain(exc, cls)
    key = problem.key.partition("[")[0]  # a list as a whole is said to be wrong
    if problem.kind == "missing":
        raise ConfigError(f"[{where}] needs {key!r}")
    if problem.kind == "unknown":
        raise ConfigError(_unknown(cls, key, where))
    raise ConfigError(f"{key} in [{where}] must be {allowed(cls, key)}, not {_short(values.get(key))}")


def _unknown(cls: type[Struct], key: str, where: str) -> str:
    tables = {"limits", "timeouts", "groups", "options"}
    known = ", ".join(sorted({field.name for field in structs.fields(cls)} - tables))
    sentence = f"unknown key {key!r} in [{where}]; there are {known}"
    if cls is ModelTable:
        sentence += f"; an argument of the model's class belongs in [{where}.options]"
    return sentence


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
