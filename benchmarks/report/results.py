"""What a benchmark gives back: figures with targets, tables, plots, and what they mean. It draws nothing.

A suite returns sections. The terminal, the JSON and the page are made of the same sections, so that none of
them can tell what the others do not.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Figure:
    """Something measured that has a target.

    Attributes:
        rounds: what each round gave; their median counts.
        sense: whether the figure shall be at most or at least the target.
        note: what else there is to know, measured in the same run.
    """

    name: str
    rounds: tuple[float, ...]
    unit: str
    sense: Literal["<=", ">="]
    target: float
    note: str = ""

    @property
    def measured(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    @property
    def reached(self) -> bool:
        """Whether it keeps the target."""
        return self.measured <= self.target if self.sense == "<=" else self.measured >= self.target

    @property
    def verdict(self) -> str:
        """`reached`, or `missed`."""
        return "reached" if self.reached else "missed"


def none(name: str, count: int, note: str = "") -> Figure:
    """Make the figure of something of which there shall be none."""
    return Figure(name, (float(count),), "", "<=", 0.0, note)


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of what has no target.

    Attributes:
        rows: as many cells each as there are headings; numbers are written with three digits that count.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or one colour of bars.

    Attributes:
        points: x and y; of bars x is the index of the category.
        spread: the least and the greatest y of each point over the rounds, where there were several.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    spread: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture of series.

    Attributes:
        kind: lines, or bars: of a logarithmic y dots in their place, since a bar without a zero has no length.
        x, y: what the axes show, with the unit.
        categories: the names along x, of bars.
        limit: a level of y that is a bound or a target, drawn as a line with its `limit_name`.
        log: whether y is logarithmic, where series differ by tens.
    """

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    kind: Literal["line", "bar"] = "line"
    categories: tuple[str, ...] = ()
    limit: float | None = None
    limit_name: str = ""
    log: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark's results.

    Attributes:
        about: what was done and on what, and what it does not show, for somebody who did not see the code.
        void: why it counts for nothing, such as a generator that did not keep its schedule; empty if it counts.
    """

    name: str
    about: str
    figures: tuple[Figure, ...] = ()
    grids: tuple[Grid, ...] = ()
    plots: tuple[Plot, ...] = ()
    void: str = ""


@dataclass(frozen=True, slots=True)
class Results:
    """All sections of one run.

    Attributes:
        facts: machine, versions, date; no name of the machine and no path.
    """

    facts: dict[str, str | float] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()


Say: TypeAlias = Callable[[str], None]
"""Told of each step of a suite, for the progress that is shown."""

Suite: TypeAlias = Callable[[Say, bool], list[Section]]
"""A benchmark: it is given `say`, and whether it shall be quick; a quick one takes a fifth of the time, and its
figures are rougher.

Raises:
    RunFailed: it came to no figure.
"""
