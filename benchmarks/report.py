"""Figures beside their targets: the table for people, JSON for programs, and the facts of the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table

from benchmarks.programs import machine_cpu
from benchmarks.results import Figure, Say

PLAIN_WIDTH = 170
"""Characters of a line where the output is no terminal: every row in one line, as a log wants it."""


Measure: TypeAlias = Callable[[Say], list[Figure]]


def spread(figure: Figure) -> str:
    """Write the least and the greatest round, where there are several."""
    if len(figure.rounds) == 1:
        return ""
    return f"{written(min(figure.rounds))} to {written(max(figure.rounds))}"


def written(value: float) -> str:
    """Write a number with three digits that count, and whole from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def table(figures: Sequence[Figure]) -> Table:
    """Lay figures out for a terminal."""
    grid = Table()
    for heading in ("figure", "measured", "rounds", "target", "verdict", "note"):
        grid.add_column(heading, justify="right" if heading in ("measured", "target") else "left")
    for figure in figures:
        grid.add_row(
            figure.name,
            f"{written(figure.measured)} {figure.unit}".strip(),
            spread(figure),
            f"{figure.sense} {written(figure.target)}",
            f"[{'green' if figure.reached else 'red'}]{figure.verdict}[/]",
            figure.note,
        )
    return grid


def as_json(figures: Sequence[Figure], facts: Mapping[str, Any]) -> str:
    """Write figures and the machine's facts for programs."""
    rows = [
        {
            "figure": figure.name,
            "measured": figure.measured,
            "rounds": figure.rounds,
            "unit": figure.unit,
            "target": f"{figure.sense} {figure.target:g}",
            "verdict": figure.verdict,
            "note": figure.note,
        }
        for figure in figures
    ]
    return json.dumps({"machine": dict(facts), "figures": rows}, indent=2) + "\n"


def _cpu_seconds() -> tuple[float, float]:
    """CPU seconds of the whole machine, and of this process and those that have been waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return machine_cpu(), sum(usage.ru_utime + usage.ru_stime for usage in used)


def run(suites: Mapping[str, Measure], description: str | None) -> None:
    """Measure suites one after the other, as a command: print progress, the table and the facts."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON, too")
    if len(suites) > 1:
        parser.add_argument("only", nargs="*", metavar="NAME", help=f"of {', '.join(suites)}; default: all")
    args = parser.parse_args()
    chosen = getattr(args, "only", []) or list(suites)
    if unknown := set(chosen) - set(suites):
        parser.error(f"no benchmark {min(unknown)!r}; there are {', '.join(suites)}")
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    begun = time.monotonic()
    all_before, own_before = _cpu_seconds()
    figures: list[Figure] = []
    for name in chosen:
        with console.status(name) as status:

            def say(step: str, name: str = name) -> None:
                elapsed = time.monotonic() - begun
                status.update(f"{name}: {step}")
                console.print(f"[dim]{elapsed:4.0f} s  {name}: {step}[/]")

            figures += suites[name](say)
    seconds = time.monotonic() - begun
    everything, own = (
        after - before for after, before in zip(_cpu_seconds(), (all_before, own_before), strict=True)
    )
    cores = os.cpu_count() or 1
    facts = {
        "cores": cores,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(seconds, 1),
        # other programs' work falsifies what is measured in time, and says so here
        "cores_used_by_others": round(max(0.0, everything - own) / seconds, 2),
    }
    console.print(table(figures))
    console.print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items()))
    if args.output:
        args.output.write_text(as_json(figures, facts), "utf-8")
