"""The values a benchmark returns: figures with targets, tables and plots; as JSON and as text for readers.

A suite returns sections. The terminal, the JSON and the page are all made of them, so none can show what the others
do not. Each figure's JSON also has its `measured` and `verdict`, for programs that do not know how they are made.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args

import msgspec
from msgspec.structs import force_setattr

Sense: TypeAlias = Literal["<=", ">="]
Kind: TypeAlias = Literal["line", "bar"]
Verdict: TypeAlias = Literal["reached", "missed"]
Facts: TypeAlias = dict[str, str | int | float]

ALLOWED: dict[str, tuple[str, ...]] = {
    "kind": get_args(Kind),
    "sense": get_args(Sense),
    "verdict": get_args(Verdict),
}


class Unreadable(ValueError):
    """A document that holds no results."""


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the results."""


class Figure(Value, frozen=True):
    """A measured value with a target.

    Attributes:
        rounds: the value of each round.
        sense: whether the target is an upper or a lower bound.
        note: more about it, measured in the same run.
        measured: the median of the rounds; made from them, and checked against them when it is read.
        verdict: likewise.
    """

    name: str
    rounds: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)]
    unit: str
    sense: Sense
    target: float
    note: str = ""
    measured: float = 0.0
    verdict: Verdict | None = None

    def __post_init__(self) -> None:
        measured = statistics.median(self.rounds)
        reached = measured <= self.target if self.sense == "<=" else measured >= self.target
        verdict = "reached" if reached else "missed"
        if self.verdict and (self.measured, self.verdict) != (measured, verdict):
            raise ValueError(
                f"measured {self.measured} and verdict {self.verdict} contradict the rounds: {measured}, {verdict}"
            )
        force_setattr(self, "measured", measured)
        force_setattr(self, "verdict", verdict)

    @property
    def reached(self) -> bool:
        """Whether the target is met."""
        return self.verdict == "reached"


def at_most(
    name: str, rounds: float | Iterable[float], target: float, unit: str = "", note: str = ""
) -> Figure:
    """Make a figure with an upper bound from one value, or from one per round."""
    return Figure(name, _rounds(rounds), unit, "<=", target, note)


def at_least(
    name: str, rounds: float | Iterable[float], target: float, unit: str = "", note: str = ""
) -> Figure:
    """Make a figure with a lower bound."""
    return Figure(name, _rounds(rounds), unit, ">=", target, note)


def none(name: str, count: int, note: str = "") -> Figure:
    """Make the figure of something that must not happen."""
    return at_most(name, count, 0.0, note=note)


def _rounds(rounds: float | Iterable[float]) -> tuple[float, ...]:
    return tuple(rounds) if isinstance(rounds, Iterable) else (float(rounds),)


class Grid(Value, frozen=True):
    """A table without targets; every row has a cell per heading."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]


Cell: TypeAlias = str | float
T = TypeVar("T")


def grid(title: str, rows: Iterable[T], columns: Mapping[str, Callable[[T], Cell]]) -> Grid:
    """Make a table with a row per value; each column has a heading and what it shows of a value."""
    return Grid(title, tuple(columns), tuple(tuple(of(row) for of in columns.values()) for row in rows))


class Series(Value, frozen=True):
    """One line, or the bars of one colour.

    Attributes:
        points: x and y; x of a bar is the index of its category.
        spread: least and greatest y of each point, where there were several rounds.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    spread: tuple[tuple[float, float], ...] = ()


class Plot(Value, frozen=True):
    """Series to be drawn.

    Attributes:
        x, y: labels of the axes, with the unit.
        kind: bars with a logarithmic y are drawn as dots, since such an axis has no zero to start a bar at.
        categories: names along x, of bars.
        limit: a bound or target on y, drawn as a line that is called `limit_name`.
    """

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    kind: Kind = "line"
    categories: tuple[str, ...] = ()
    limit: float | None = None
    limit_name: str = ""
    log: bool = False


class Section(Value, frozen=True):
    """One benchmark's results.

    Attributes:
        about: what was done, and what it does not show, for readers who have not seen the code.
        void: why the section does not count, such as a late generator; empty if it counts.
    """

    name: str
    about: str
    figures: tuple[Figure, ...] = ()
    grids: tuple[Grid, ...] = ()
    plots: tuple[Plot, ...] = ()
    void: str = ""


class Results(Value, frozen=True):
    """All sections of a run; `facts` are machine, versions and date, without host names and paths."""

    facts: Facts = {}
    sections: tuple[Section, ...] = ()

    @property
    def valid(self) -> list[Section]:
        """The sections that count."""
        return [section for section in self.sections if not section.void]


Say: TypeAlias = Callable[[str], None]
"""Called with each step of a suite, to show progress."""

Suite: TypeAlias = Callable[[Say, bool], list[Section]]
"""A benchmark, called with `say` and `quick`: a quick run takes a fifth of the time and is less precise.

Raises:
    RunFailed: it has no result.
"""


def as_json(results: Results) -> str:
    """Write results with a line per value, so that two runs can be compared line by line.

    Raises:
        Unreadable: a number is not finite, which JSON cannot hold.
    """
    text = msgspec.json.format(msgspec.json.encode(results), indent=2).decode() + "\n"
    read_json(text)  # NaN and infinity were written as null
    return text


def read_json(text: str) -> Results:
    """Read what `as_json` wrote.

    Raises:
        Unreadable: it is something else; the message names the place and what is allowed there.
    """
    try:
        return msgspec.json.decode(text, type=Results)
    except msgspec.DecodeError as exc:
        place = re.search(r"(\w+)`$", str(exc))
        allowed: Any = ALLOWED.get(place[1]) if place and "enum" in str(exc) else None
        raise Unreadable(f"{exc}{f'; use one of {allowed}' if allowed else ''}") from exc


def merge(several: Sequence[Results]) -> Results:
    """Join runs: all sections in order; facts that differ show all their values."""
    facts: Facts = {}
    for name in dict.fromkeys(name for results in several for name in results.facts):
        values = list(dict.fromkeys(results.facts[name] for results in several if name in results.facts))
        facts[name] = values[0] if len(values) == 1 else " and ".join(map(str, values))
    return Results(facts, tuple(section for results in several for section in results.sections))


FIGURE_HEADINGS = ("figure", "measured", "rounds", "target", "verdict", "note")


def written(value: float) -> str:
    """Write a number with three significant digits, and without decimals from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def cell(value: str | float) -> str:
    """Write a cell of a table; text stays as it is."""
    return value if isinstance(value, str) else written(value)


def figure_cells(figure: Figure) -> tuple[str, str, str, str, str, str]:
    """Write a figure as a row under `FIGURE_HEADINGS`."""
    rounds = f"{written(min(figure.rounds))} to {written(max(figure.rounds))}" if figure.rounds[1:] else ""
    measured = f"{written(figure.measured)} {figure.unit}".strip()
    target = f"{figure.sense} {written(figure.target)}"
    return figure.name, measured, rounds, target, str(figure.verdict), figure.note


def numeric(grid: Grid, column: int) -> bool:
    """Whether a column has numbers, which are aligned to the right."""
    return any(not isinstance(row[column], str) for row in grid.rows)


def count(results: Results) -> str:
    """Write how many figures meet their targets, and which sections are void."""
    figures = [figure for section in results.valid for figure in section.figures]
    reached = sum(figure.reached for figure in figures)
    void = [section.name for section in results.sections if section.void]
    said = [f"{reached} of {len(figures)} targets reached"] if figures else []
    return "; ".join([*said, *([f"void: {', '.join(void)}"] if void else [])])
