"""Makes pictures of plots: SVG in the page's colours, and the summary as one PNG. It measures nothing."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.report.formatting import counting
from benchmarks.report.panels import LEGEND_COLUMNS, LIGHT, draw, legend_size
from benchmarks.report.results import Plot, Results

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
"""Colours that nothing else has, to be found in an SVG and given over to the page's style."""

WIDTH_IN = 4.8
"""Inches of a plot on the page at 72 points each: small enough that its text can be read on a phone."""

SUMMARY = ((("overload", "camera"), "line"), (("echo",), "bar"), (("text",), "line"))
"""The plots that say most: of each the first of that kind in a section of the first of these names that has one."""

SUMMARY_IN, SUMMARY_DPI = (16.0, 6.0), 100
TITLE_WIDTH = 40
"""Characters of a line of a title in the summary."""

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "none",
    "axes.grid": True,
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that a picture looks the same everywhere
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar is a dollar
}


def headlines(results: Results) -> list[Plot]:
    """Give those plots of `SUMMARY` that there are; what is void is left out."""
    found = []
    for names, kind in SUMMARY:
        there = [
            plot
            for name in names
            for section in counting(results)
            if section.name == name
            for plot in section.plots
            if plot.kind == kind
        ]
        found += there[:1]
    return found


def svg(plot: Plot) -> str:
    """Draw a plot as an `<svg>` element whose colours are CSS variables, `--ink` and so on as in `LIGHT`.

    Its title is not in it, and its text has the font of the page.
    """
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
    """Draw the headlines side by side on white, `SUMMARY_IN` at `SUMMARY_DPI`, as a PNG.

    Raises:
        ValueError: there is none of them.
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
    """Make of matplotlib's document an element of a page: its size, its font and its colours are the page's."""
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
