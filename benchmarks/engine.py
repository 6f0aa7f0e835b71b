"""The engine's figures, each with its target and verdict, measured one after the other in under five minutes."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from benchmarks import chaos, dispatch, overload, recovery, text
from benchmarks.results import Figure, Say, Section, Suite


def section(module: ModuleType) -> Suite:
    """Make a suite of a module whose `measure(say)` gives figures alone: one section, described by the module.

    Such a suite is never quick: its targets hold for the length that it has.
    """
    measure: Callable[[Say], list[Figure]] = module.measure
    name = module.__name__.rpartition(".")[2]
    about = " ".join((module.__doc__ or "").split())

    def suite(say: Say, quick: bool) -> list[Section]:
        return [Section(name, about, tuple(measure(say)))]

    return suite


SUITES: dict[str, Suite] = {
    name: section(module)
    for name, module in {
        "overload": overload,
        "text": text,
        "dispatch": dispatch,
        "chaos": chaos,
        "recovery": recovery,
    }.items()
}


def measure(say: Say, quick: bool) -> list[Section]:
    """Measure all of them."""

    def step(name: str) -> Say:
        return lambda text: say(f"{name}: {text}")

    return [made for name, suite in SUITES.items() for made in suite(step(name), quick)]
