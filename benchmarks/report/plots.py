"""Draws plots with matplotlib: SVG in the page's colours, and a summary as one PNG.

`stream-server` always has the same strong colour. The others' colours are those of Okabe and Ito ("Color Universal
Design", 2008), which people with colour blindness can tell apart, without their green, which is close to ours; each
has its own dash, too.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure, FigureBase
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from benchmarks.report.results import Plot, Results, Series, written

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
OTHERS = tuple(role for role in LIGHT if role[0] == "s")
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
"""Characters per line of a name, so that two fit beside each other in a legend."""

DOT = 80
"""Area of a dot in square points: as high as a small letter."""

LABEL_WIDTH = 40
"""Characters per line above the axes; more would reach into the next panel."""

MARKED = 12
"""A line with at most this many points has markers."""

STEPS = [1, 2, 5, 10]
"""Ticks are multiples of these, times a power of ten."""

PLAIN = FuncFormatter(lambda value, _: written(value))
"""Plain numbers, not powers of ten."""

DARK: Mapping[str, str] = {
    **LIGHT,
    "ink": "#e8ebef",
    "muted": "#98a2b0",
    "rule": "#2a3038",
    "limit": "#f97066",
    "ours": "#2dd4bf",
    "s0": "#f0803c",
    "s1": "#4a9fe0",
    "s5": "#b8977a",
}
SENTINELS: Mapping[str, str] = {role: f"#0101{number:02x}" for number, role in enumerate(LIGHT, 1)}
"""Unique colours, replaced in an SVG by the page's CSS variables."""

WIDTH_IN = 4.8
"""Width of a plot on the page: small enough that its text is readable on a phone."""

SUMMARY = ((("overload", "camera"), "line"), (("echo",), "bar"), (("text",), "line"))
"""Plots of the summary: the first of this kind in a section of the first of these names that has one."""

SUMMARY_IN, SUMMARY_DPI = (16.0, 6.0), 100
TITLE_WIDTH = 40
"""Characters per line of a title in the summary."""

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "none",
    "axes.grid": True,
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that a picture looks the same everywhere
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar is a dollar
}


def headlines(results: Results) -> list[Plot]:
    """Give the plots of `SUMMARY` that exist in valid sections."""
    return [
        plot
        for names, kind in SUMMARY
        for plot in [
            plot
            for name in names
            for section in results.valid
            if section.name == name
            for plot in section.plots
            if plot.kind == kind
        ][:1]
    ]


def svg(plot: Plot) -> str:
    """Draw a plot, without its title, as an `<svg>` element with the page's font and CSS variables for colours."""
    bars = 0.2 * len(plot.categories) * max(1, len(plot.series))
    height = 0.85 + max(1.9, bars) + 0.22 * math.ceil(legend_size(plot) / LEGEND_COLUMNS)
    # the salt keeps two plots of a page from having the same ids
    with mpl.rc_context({**STYLE, "font.size": 11, "svg.hashsalt": plot.title}):
        figure = Figure((WIDTH_IN, height), layout="constrained")
        figure.patch.set_alpha(0)
        draw(plot, figure, SENTINELS)
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return _themed(file.getvalue())


def summary_plot(results: Results) -> bytes:
    """Draw the headlines side by side on white as a PNG.

    Raises:
        ValueError: the results have none.
    """
    plots = headlines(results)
    if not plots:
        wanted = ", ".join(f"a {kind} plot in {' or '.join(names)}" for names, kind in SUMMARY)
        raise ValueError(f"these results have none of the plots of a summary: {wanted}")
    with mpl.rc_context({**STYLE, "font.size": 14}):
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
        figure = Figure(SUMMARY_IN, dpi=SUMMARY_DPI, layout=layout)
        panels = figure.subfigures(1, len(plots), squeeze=False, wspace=0.03)[0]
        for plot, panel in zip(plots, panels, strict=True):
            title = textwrap.fill(plot.title, TITLE_WIDTH)
            panel.suptitle(title, x=0.02, ha="left", fontsize=15, fontweight="bold", color=LIGHT["ink"])
            draw(plot, panel, LIGHT)
        file = io.BytesIO()
        FigureCanvasAgg(figure).print_png(file)  # type: ignore[no-untyped-call]
    return file.getvalue()


def _themed(document: str) -> str:
    """Make an element of a page from matplotlib's document: size, font and colours come from the page."""
    element = document[document.index("<svg") :]
    start, rest = element.split(">", 1)
    start = re.sub(r' (width|height)="[^"]*"', "", start)
    rest = re.sub(r"<metadata>.*?</metadata>\s*", "", rest, flags=re.DOTALL)
    # ids that count up would be in every plot; those that something refers to are hashes
    rest = re.sub(r' id="[\w.]+_\d+"', "", rest)
    rest = re.sub(r"font-family: [^;\"]*|'DejaVu Sans'", lambda font: _inherited(font[0]), rest)
    for role, colour in SENTINELS.items():
        rest = rest.replace(colour, f"var(--{role})")
    return f"{start}>{rest}"


def _inherited(font: str) -> str:
    return "font-family: inherit" if font.startswith("font-family") else "inherit"


def draw(plot: Plot, panel: FigureBase, colours: Mapping[str, str]) -> None:
    """Draw a plot and its legend into a panel; `colours` has one for each role in `LIGHT`."""
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
    """Count a legend's entries; a single series needs no legend."""
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
    """Draw horizontal bars, so that their names are readable, from top to bottom; dots on a logarithmic axis."""
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
    """Label the bars, ours in bold."""
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
    """Scale the axis of the values."""
    ticks = axes.yaxis if axis == "y" else axes.xaxis
    values = [y for series in plot.series for _, y in series.points if y > 0]
    if plot.log and values:
        axes.set(**{f"{axis}scale": "log"})
        # there is less room for numbers beside names
        wide = max(values) / min(values) > (100 if axis == "y" else 10)
        ticks.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        ticks.set_minor_locator(NullLocator())
    else:
        axes.set(**{f"{axis}lim": (0, None)})
        ticks.set_major_locator(MaxNLocator(5, steps=STEPS))
    ticks.set_major_formatter(PLAIN)


def _dressed(several: Sequence[Series]) -> Iterator[tuple[Series, str, object]]:
    """Give each series with the role of its colour and its dash."""
    number = 0
    for series in several:
        if _is_ours(series.name):
            yield series, "ours", "-"
        else:
            yield series, OTHERS[number % len(OTHERS)], DASHES[number % len(DASHES)]
            number += 1


def _is_ours(name: str) -> bool:
    return name.startswith(OURS)
