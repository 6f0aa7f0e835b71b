"""Which models share workers: plain values, and the rule that every model is in one group. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference.model import DEFAULT_GROUP, ModelError, ModelSource


@dataclass(frozen=True, slots=True)
class Group:
    """Models that share workers of their own, so that they do not delay the others.

    Attributes:
        name: what settings call it.
        models: their names.
        workers: how many processes, each of which holds all of them.
    """

    name: str
    models: tuple[str, ...]
    workers: int = 1


def resolve_groups(sources: Sequence[ModelSource], workers: int, groups: Sequence[Group]) -> list[Group]:
    """Put the models that no group names into one of their own, which `workers` serve.

    Raises:
        ModelError: there is no model, or a name twice; or a group has no worker, no model, one that is not there,
            or a name that is another's.
    """
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ModelError(f"two models have the same name; give one another with name=... ({names})")
    if not names:
        raise ModelError("there is no model to run; name one")
    grouped: set[str] = set()
    for group in groups:
        for name in group.models:
            if name not in names:
                raise ModelError(f"group {group.name} has no model {name!r} to hold; there are {names}")
            if name in grouped:
                raise ModelError(f"model {name} is in two groups; each has one")
            grouped.add(name)
    rest = tuple(name for name in names if name not in grouped)
    resolved = [*([Group(DEFAULT_GROUP, rest, workers)] if rest else []), *groups]
    _check(resolved, named=groups)
    return resolved


def _check(resolved: Sequence[Group], named: Sequence[Group]) -> None:
    called = [group.name for group in named]
    if DEFAULT_GROUP in called or len(set(called)) < len(called):
        raise ModelError(
            f"groups need names of their own, and other than {DEFAULT_GROUP!r}; there are {called}"
        )
    for group in resolved:
        if not group.models or group.workers < 1:
            raise ModelError(f"group {group.name} needs a model and a worker, at least")
