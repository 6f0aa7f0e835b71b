"""Runs suites one after the other; prints their results, and writes them as JSON and as a page."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from benchmarks.failures import RunFailed, without_paths
from benchmarks.report.environment import Observation
from benchmarks.report.results import (
    FIGURE_HEADINGS,
    Facts,
    Figure,
    Grid,
    Plot,
    Results,
    Section,
    Series,
    Suite,
    as_json,
    cell,
    count,
    figure_cells,
    numeric,
    written,
)

PLAIN_WIDTH = 170
"""Characters per line if the output is not a terminal, so that a row is one line in a log."""

BARS = "▁▂▃▄▅▆▇█"
SPARK_POINTS = 32
"""Characters of a curve, which leaves room for a name and numbers in 80 columns."""

NOT_MEASURED = "not measured: the run ended before"


def run(
    suites: Mapping[str, Suite],
    *,
    quick: bool = False,
    output: Path | None = None,
    html: Path | None = None,
    check: bool = False,
    told: Mapping[str, str | float] | None = None,
) -> int:
    """Run suites and show their results.

    A suite that fails gives a void section, and the others go on. SIGTERM ends the run as Ctrl-C does, and with it
    everything that was started.

    Args:
        output: a JSON file, written after each suite; suites that have not run yet are void in it.
        html: a page, written at the end.
        check: whether a missed target makes the exit status 1.
        told: added to the facts, such as the command.

    Returns:
        The exit status: 1 if a section is void or, with `check`, a target is missed; else 0.
    """
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    observation = Observation()
    facts: Facts = {**(told or {}), "quick": "yes" if quick else "no"}
    results = Results()
    with _sigterm_as_exit():
        for number, (name, suite) in enumerate(suites.items(), 1):
            made = _measure(console, observation, name, suite, quick=quick)
            results = Results({**observation.facts(), **facts}, (*results.sections, *made))
            if output:
                left = (Section(name, "", void=NOT_MEASURED) for name in list(suites)[number:])
                _replace(output, as_json(Results(results.facts, (*results.sections, *left))))
    console.print(*renderables(results), sep="\n")
    if html:
        from benchmarks.report.page import page  # noqa: PLC0415  # only a page needs matplotlib

        html.write_text(page(results), "utf-8")
    void = any(section.void for section in results.sections)
    missed = not all(figure.reached for section in results.sections for figure in section.figures)
    return int(void or (check and missed))


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Raise `SystemExit` at SIGTERM: its default action would leave paused servers behind."""

    def leave(number: int, _: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the cleanup
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _replace(path: Path, text: str) -> None:
    """Write a file atomically."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, "utf-8")
    part.replace(path)


def _measure(
    console: Console, observation: Observation, name: str, suite: Suite, *, quick: bool
) -> list[Section]:
    """Run one suite and show its steps."""
    with console.status(escape(name)) as status:

        def say(step: str) -> None:
            status.update(escape(f"{name}: {step}"))
            console.print(f"[dim]{observation.seconds:4.0f} s  {escape(f'{name}: {step}')}[/]")

        try:
            sections = suite(say, quick)
            as_json(Results({}, tuple(sections)))  # a number that JSON cannot hold voids this suite only
        except RunFailed as exc:
            return [Section(name, "", void=str(exc))]
        except Exception as exc:  # noqa: BLE001  # keep the results of the other suites
            console.print_exception()
            void = without_paths(f"the benchmark itself failed: {type(exc).__name__}: {exc}")
            return [Section(name, "", void=void)]
    return sections


def renderables(results: Results) -> Iterator[RenderableType]:
    """Lay results out for a terminal."""
    for section in results.sections:
        yield f"\n[bold]{escape(section.name)}[/]  {escape(section.about)}"
        if section.void:
            yield Panel(f"[red]void: {escape(section.void)}[/]", border_style="red", expand=False)
        if section.figures:
            yield figures_table(section.figures)
        yield from map(_grid, section.grids)
        yield from map(_plot, section.plots)
    if said := count(results):
        yield f"\n[bold]{escape(said)}[/]"
    yield escape(", ".join(f"{name} {cell(value)}" for name, value in results.facts.items()))


def figures_table(figures: Sequence[Figure]) -> Table:
    """Lay figures out for a terminal."""
    table = _table("", FIGURE_HEADINGS, right=("measured", "target"))
    for figure in figures:
        colour = "green" if figure.reached else "red"
        cells = list(map(escape, figure_cells(figure)))
        cells[4] = f"[{colour}]{cells[4]}[/]"
        table.add_row(*cells)
    return table


def _table(title: str, headings: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=escape(title) or None, title_justify="left")
    for heading in headings:
        table.add_column(escape(heading), justify="right" if heading in right else "left")
    return table


def _grid(grid: Grid) -> Table:
    right = [heading for column, heading in enumerate(grid.headings) if numeric(grid, column)]
    table = _table(grid.title, grid.headings, right)
    for row in grid.rows:
        table.add_row(*(escape(cell(value)) for value in row))
    return table


def _plot(plot: Plot) -> Table:
    """Show every value of bars, and the shape of lines; the page has the picture."""
    title = f"{plot.title}: {plot.y}"
    if plot.kind == "bar":
        names = [series.name for series in plot.series]
        table = _table(title, ("", *names), names)
        values = [dict(series.points) for series in plot.series]
        for number, category in enumerate(plot.categories):
            cells = [written(each[number]) if number in each else "" for each in values]
            table.add_row(escape(category), *cells)
        return table
    numbers = ("first", "last", "greatest")
    table = _table(title, ("", f"over {plot.x}", *numbers), numbers)
    everything = [y for series in plot.series for _, y in series.points]
    for series in filter(lambda each: each.points, plot.series):
        ys = [y for _, y in series.points]
        curve = spark(series, min(everything), max(everything), log=plot.log)
        table.add_row(escape(series.name), curve, *map(written, (ys[0], ys[-1], max(ys))))
    return table


def spark(series: Series, least: float, greatest: float, *, log: bool) -> str:
    """Draw a line with a character per point, or per group of points, which shows the greatest of them.

    Args:
        least, greatest: y of the lowest and the highest character.
        log: scale y logarithmically if all are above 0.
    """
    ys = [y for _, y in series.points]
    per = math.ceil(len(ys) / SPARK_POINTS)
    tops = [max(ys[start : start + per]) for start in range(0, len(ys), per)]
    if log and least > 0:
        least, greatest, tops = math.log(least), math.log(greatest), list(map(math.log, tops))
    height = (greatest - least) or 1.0
    return "".join(BARS[round((top - least) / height * (len(BARS) - 1))] for top in tops)
