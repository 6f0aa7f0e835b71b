"""The engine's figures, each with its target and verdict, measured one after the other in under five minutes."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.engine import chaos, overload, pool_comparison, recovery
from benchmarks.report.results import Say, Section, Suite


def whole(measure: Callable[[Say], Section]) -> Suite:
    """Make a suite of one section, which is never quick: its targets hold for the length that it has."""
    return lambda say, quick: [measure(say)]


SUITES: dict[str, Suite] = {
    "overload": whole(overload.measure),
    "text": whole(pool_comparison.measure_text),
    "dispatch": whole(pool_comparison.measure_dispatch),
    "chaos": whole(chaos.measure),
    "recovery": whole(recovery.measure),
}


def measure(say: Say, quick: bool) -> list[Section]:
    """Measure all of them."""

    def step(name: str) -> Say:
        return lambda text: say(f"{name}: {text}")

    return [made for name, suite in SUITES.items() for made in suite(step(name), quick)]
