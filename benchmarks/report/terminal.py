"""Measures suites one after the other and shows their results: on the terminal, as JSON, and as a page."""

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

from benchmarks.failures import RunFailed, unplaced
from benchmarks.report.environment import Observation
from benchmarks.report.formatting import cell, count, measured, spread, target, written
from benchmarks.report.results import Figure, Grid, Plot, Results, Section, Series, Suite
from benchmarks.report.stored import as_json

PLAIN_WIDTH = 170
"""Characters of a line where the output is no terminal: every row in one line, as a log wants it."""

BARS = "▁▂▃▄▅▆▇█"
SPARK_POINTS = 32
"""A curve's length in characters: it leaves room for a name and the numbers in 80 columns."""


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
    """Measure suites, print what comes of them with the facts of the machine, and write it where asked.

    A suite that fails is a void section with the reason, and the others go on. SIGTERM ends the run as Ctrl-C does,
    with everything that was started.

    Args:
        quick: what each suite is told.
        output: where to write the results as JSON, anew after each suite; until the last one, those that are
            missing are void.
        html: where to write them as a page.
        check: whether a target that is missed counts for the exit status.
        told: what else the suites were told, for the facts.

    Returns:
        The exit status: 1 if anything is void, or missed where that counts, else 0.
    """
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    observation = Observation()
    facts = {**(told or {}), "quick": "yes" if quick else "no"}
    results = Results()
    with _ended_by_sigterm():
        for number, (name, suite) in enumerate(suites.items(), 1):
            made = _measured(console, observation, name, suite, quick=quick)
            results = Results({**observation.facts(), **facts}, (*results.sections, *made))
            if output:
                missing = (Section(name, "", void=NOT_MEASURED) for name in list(suites)[number:])
                _replace(output, as_json(Results(results.facts, (*results.sections, *missing))))
    for shown in shapes(results):
        console.print(shown)
    if html:
        from benchmarks.report.page import page  # noqa: PLC0415  # only a page needs matplotlib

        html.write_text(page(results), "utf-8")
    void = any(section.void for section in results.sections)
    return int(void or (check and not all(figure.reached for s in results.sections for figure in s.figures)))


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Make of SIGTERM an exception: left to the kernel, it would leave stopped servers behind for good."""

    def leave(number: int, _: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # another one would break off what the first one began
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _replace(path: Path, text: str) -> None:
    """Write a file so that there is a whole one at every moment."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, "utf-8")
    part.replace(path)


def _measured(
    console: Console, observation: Observation, name: str, suite: Suite, *, quick: bool
) -> list[Section]:
    """Run one suite with its steps shown."""
    with console.status(escape(name)) as status:

        def say(step: str) -> None:
            status.update(escape(f"{name}: {step}"))
            console.print(f"[dim]{observation.seconds:4.0f} s  {escape(f'{name}: {step}')}[/]")

        try:
            sections = suite(say, quick)
            # a number that no JSON can hold is the suite's fault, and found while the others' results are safe
            as_json(Results({}, tuple(sections)))
        except RunFailed as exc:
            return [Section(name, "", void=str(exc))]
        except Exception as exc:  # noqa: BLE001  # twenty minutes of others' results outlive a fault in one
            console.print_exception()
            return [
                Section(name, "", void=unplaced(f"the benchmark itself failed: {type(exc).__name__}: {exc}"))
            ]
    return sections


def shapes(results: Results) -> Iterator[RenderableType]:
    """Lay results out for a terminal."""
    for section in results.sections:
        yield f"\n[bold]{escape(section.name)}[/]  {escape(section.about)}"
        if section.void:
            yield Panel(f"[red]void: {escape(section.void)}[/]", border_style="red", expand=False)
        if section.figures:
            yield table(section.figures)
        yield from map(_grid, section.grids)
        yield from map(_plot, section.plots)
    if said := count(results):
        yield f"\n[bold]{escape(said)}[/]"
    yield escape(", ".join(f"{name} {cell(value)}" for name, value in results.facts.items()))


def table(figures: Sequence[Figure]) -> Table:
    """Lay figures out for a terminal."""
    grid = Table()
    for heading in ("figure", "measured", "rounds", "target", "verdict", "note"):
        grid.add_column(heading, justify="right" if heading in ("measured", "target") else "left")
    for figure in figures:
        grid.add_row(
            escape(figure.name),
            escape(measured(figure)),
            spread(figure),
            target(figure),
            f"[{'green' if figure.reached else 'red'}]{figure.verdict}[/]",
            escape(figure.note),
        )
    return grid


def _grid(grid: Grid) -> Table:
    shown = Table(title=escape(grid.title), title_justify="left")
    for number, heading in enumerate(grid.headings):
        numbers = any(not isinstance(row[number], str) for row in grid.rows)
        shown.add_column(escape(heading), justify="right" if numbers else "left")
    for row in grid.rows:
        shown.add_row(*(escape(cell(value)) for value in row))
    return shown


def _plot(plot: Plot) -> Table:
    """Give a plot's essence: of bars every value, of a line its course; the page has the picture."""
    shown = Table(title=escape(f"{plot.title}: {plot.y}"), title_justify="left")
    if plot.kind == "bar":
        shown.add_column("")
        for series in plot.series:
            shown.add_column(escape(series.name), justify="right")
        values = [dict(series.points) for series in plot.series]
        for number, category in enumerate(plot.categories):
            cells = [written(each[number]) if number in each else "" for each in values]
            shown.add_row(escape(category), *cells)
        return shown
    for heading in ("", f"over {plot.x}", "first", "last", "greatest"):
        shown.add_column(
            escape(heading), justify="right" if heading in ("first", "last", "greatest") else "left"
        )
    everything = [y for series in plot.series for _, y in series.points]
    for series in filter(lambda each: each.points, plot.series):
        ys = [y for _, y in series.points]
        curve = spark(series, min(everything), max(everything), log=plot.log)
        shown.add_row(escape(series.name), curve, *map(written, (ys[0], ys[-1], max(ys))))
    return shown


def spark(series: Series, least: float, greatest: float, *, log: bool) -> str:
    """Draw a line with a character for each point, or for the greatest of several where there are many.

    Args:
        least, greatest: the y of the lowest and of the highest character.
        log: put the steps between them at equal ratios, if all are above 0.
    """
    ys = [y for _, y in series.points]
    per = math.ceil(len(ys) / SPARK_POINTS)
    tops = [max(ys[start : start + per]) for start in range(0, len(ys), per)]
    if log and least > 0:
        least, greatest, tops = math.log(least), math.log(greatest), list(map(math.log, tops))
    height = (greatest - least) or 1.0
    return "".join(BARS[round((top - least) / height * (len(BARS) - 1))] for top in tops)
