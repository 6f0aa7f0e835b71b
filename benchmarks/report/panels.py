"""Draws one plot into a panel of matplotlib's, in colours that are given. It decides no size and writes no file.

`stream-server` has the same strong colour everywhere. The others' colours are those of Okabe and Ito, which people
with any kind of colour blindness tell apart ("Color Universal Design", 2008), without their green, which is too
near to ours; each has a dash of its own, too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from benchmarks.report.formatting import written
from benchmarks.report.results import Plot, Series

OURS = "stream-server"

LIGHT: Mapping[str, str] = {
    "ink": "#161b22",
    "muted": "#5a6472",
    "rule": "#e2e5ea",
    "limit": "#b42318",
    "ours": "#0f766e",
    "others": "#8a93a0",
    "s0": "#d55e00",
    "s1": "#0072b2",
    "s2": "#cc79a7",
    "s3": "#e69f00",
    "s4": "#56b4e9",
    "s5": "#8b6b4a",
    "s6": "#7f8894",
}
OTHERS = ("s0", "s1", "s2", "s3", "s4", "s5", "s6")
DASHES = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (3, 1)),
    (0, (8, 2)),
    (0, (1, 2.5)),
)

LEGEND_COLUMNS = 2
NAME_WIDTH = 26
"""Characters of a line of a name: in a legend two fit beside each other, and beside bars there is room for them."""

DOT = 80
"""Square points of a dot in place of a bar: as high as a small letter."""

LABEL_WIDTH = 40
"""Characters of a line above the axes: more would reach into the panel beside it."""

MARKED = 12
"""Most points of a line that are marked: of those a reader may ask where they are."""

STEPS = [1, 2, 5, 10]
"""What numbers along an axis are multiples of, but for powers of ten."""

PLAIN = FuncFormatter(lambda value, _: written(value))
"""Numbers as they are spoken, not powers of ten."""


def draw(plot: Plot, panel: FigureBase, colours: Mapping[str, str]) -> None:
    """Draw a plot into a panel that has room for it and its legend.

    Args:
        colours: of each role in `LIGHT`.
    """
    axes = panel.add_subplot()
    axes.set_facecolor("none")
    if not any(series.points for series in plot.series):
        axes.text(0.5, 0.5, "nothing was measured", ha="center", color=colours["muted"])
        axes.set_axis_off()
        return
    (_bars if plot.kind == "bar" else _lines)(plot, axes, colours)
    axes.tick_params(which="both", length=0)
    axes.tick_params(labelcolor=colours["muted"])
    if plot.kind == "bar":
        _name(plot, axes, colours)
    if legend_size(plot):
        panel.legend(
            loc="outside lower left",
            ncols=LEGEND_COLUMNS,
            frameon=False,
            labelcolor=colours["ink"],
            handlelength=2.4,
        )


def legend_size(plot: Plot) -> int:
    """How many entries a plot's legend has; what is alone needs no name."""
    alone = len(plot.series) == 1 and plot.limit is None
    return 0 if alone else len(plot.series) + (plot.limit is not None)


def _lines(plot: Plot, axes: Axes, colours: Mapping[str, str]) -> None:
    axes.grid(axis="x", visible=False)
    axes.grid(axis="y", color=colours["rule"], linewidth=0.8)
    axes.set_xlabel(plot.x, color=colours["muted"])
    axes.set_title(textwrap.fill(plot.y, LABEL_WIDTH), loc="left", color=colours["muted"], fontsize="medium")
    for series, role, dash in _dressed(plot.series):
        ours = role == "ours"
        xs, ys = zip(*series.points, strict=True) if series.points else ((), ())
        axes.plot(
            xs,
            ys,
            color=colours[role],
            linestyle=dash,
            linewidth=3 if ours else 1.6,
            marker="o" if len(xs) <= MARKED else "",
            markersize=5,
            zorder=4 if ours else 3,
            label=_label(series.name),
        )
        if series.spread:
            low, high = zip(*series.spread, strict=True)
            axes.fill_between(xs, low, high, color=colours[role], alpha=0.16, linewidth=0, zorder=2)
    if plot.limit is not None:
        axes.axhline(plot.limit, label=_label(plot.limit_name), **_limit(colours))
    _scale(plot, axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    axes.xaxis.set_major_formatter(PLAIN)


def _bars(plot: Plot, axes: Axes, colours: Mapping[str, str]) -> None:
    """Draw bars that lie, so that their names can be read; the first category is on top.

    On a logarithmic axis, which has no zero to begin a bar at, they are dots.
    """
    axes.grid(visible=False)
    # a line leads from a name to its dot, as a bar does by itself
    axes.grid(axis="both" if plot.log else "x", color=colours["rule"], linewidth=0.8)
    thickness = 0.8 / len(plot.series)
    for number, (series, role, _) in enumerate(_dressed(plot.series)):
        at = [x + (number - (len(plot.series) - 1) / 2) * thickness for x, _ in series.points]
        values = [y for _, y in series.points]
        fill = [colours[role]] * len(at)
        if len(plot.series) == 1:
            # one series compares its categories: ours, and the others
            fill = [
                colours["ours" if _is_ours(plot.categories[int(x)]) else "others"] for x, _ in series.points
            ]
        if plot.log:
            axes.scatter(values, at, DOT, color=fill, label=_label(series.name), zorder=4)
        else:
            axes.barh(at, values, thickness * 0.92, color=fill, label=_label(series.name), zorder=2)
        tops = values
        if series.spread:
            tops = [max(value, high) for value, (_, high) in zip(values, series.spread, strict=True)]
            axes.hlines(at, *zip(*series.spread, strict=True), color=colours["ink"], linewidth=1.2, zorder=3)
        for y, value, top in zip(at, values, tops, strict=True):
            axes.annotate(
                written(value),
                (top, y),
                (DOT**0.5 / 2 + 4 if plot.log else 4, 0),
                textcoords="offset points",
                va="center",
                color=colours["ink"],
                fontsize="small",
            )
    axes.set_xlabel(plot.y, color=colours["muted"])
    axes.margins(x=0.2)  # room for the numbers at the bars' ends
    axes.set_ylim(-0.5, len(plot.categories) - 0.5)
    if plot.limit is not None:
        axes.axvline(plot.limit, label=_label(plot.limit_name), **_limit(colours))
    _scale(plot, axes, "x")


def _name(plot: Plot, axes: Axes, colours: Mapping[str, str]) -> None:
    """Write the categories beside their bars, ours in bold."""
    names = list(map(_label, plot.categories))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    for label in axes.get_yticklabels():
        label.set_color(colours["ink"])
        label.set_fontweight("bold" if _is_ours(label.get_text()) else "normal")


def _label(name: str) -> str:
    return textwrap.fill(name, NAME_WIDTH)


def _limit(colours: Mapping[str, str]) -> dict[str, Any]:
    return {"color": colours["limit"], "linestyle": (0, (4, 3)), "linewidth": 1.3, "zorder": 2.5}


def _scale(plot: Plot, axes: Axes, axis: str) -> None:
    """Scale the axis of the values, with plain numbers, around what has been drawn."""
    ticks = axes.yaxis if axis == "y" else axes.xaxis
    values = [y for series in plot.series for _, y in series.points if y > 0]
    if plot.log and values:
        axes.set(**{f"{axis}scale": "log"})
        # beside names there is less room for numbers
        wide = max(values) / min(values) > (100 if axis == "y" else 10)
        ticks.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        ticks.set_minor_locator(NullLocator())
    else:
        axes.set(**{f"{axis}lim": (0, None)})
        ticks.set_major_locator(MaxNLocator(5, steps=STEPS))
    ticks.set_major_formatter(PLAIN)


def _dressed(several: Sequence[Series]) -> Iterator[tuple[Series, str, object]]:
    """Give each series with its colour's role and its dash."""
    number = 0
    for series in several:
        if _is_ours(series.name):
            yield series, "ours", "-"
        else:
            yield series, OTHERS[number % len(OTHERS)], DASHES[number % len(DASHES)]
            number += 1


def _is_ours(name: str) -> bool:
    return name.startswith(OURS)
