"""Writes results as one HTML page: ``python -m benchmarks.report.page RESULTS.json --html FILE --png FILE``.

Several files are joined into one page.
"""

from __future__ import annotations

if __name__ == "__main__":
    from benchmarks.failures import check_installed

    check_installed()

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from benchmarks.report.plots import DARK, LIGHT, headlines, summary_plot, svg
from benchmarks.report.results import (
    FIGURE_HEADINGS,
    Facts,
    Figure,
    Grid,
    Plot,
    Results,
    Section,
    Unreadable,
    cell,
    count,
    figure_cells,
    merge,
    numeric,
    read_json,
)

TITLE = "stream-server: benchmarks"

SHOWN_FIRST = "date", "processor", "cores", "python"
"""Facts shown under the title; all of them are at the end."""

Cells: TypeAlias = Sequence[tuple[str, str]]
"""The cells of a row: text, and CSS class."""


def page(results: Results) -> str:
    """Write results as one HTML document without scripts and external resources; all text is escaped."""
    style = resources.files("benchmarks.report").joinpath("page.css").read_text("utf-8")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(TITLE)}</title>",
            f"<style>\n{_variables(LIGHT)}\n@media (prefers-color-scheme: dark) {{ {_variables(DARK)} }}",
            f"{style}</style>",
            *_head(results),
            *(line for number, section in enumerate(results.sections) for line in _section(number, section)),
            *_facts(results.facts),
            "</html>\n",
        ]
    )


def _variables(colours: Mapping[str, str]) -> str:
    return ":root { " + " ".join(f"--{role}: {colour};" for role, colour in colours.items()) + " }"


def _head(results: Results) -> Iterator[str]:
    facts = [_fact(name, results.facts[name]) for name in SHOWN_FIRST if name in results.facts]
    yield f"<header><h1>{escape(TITLE)}</h1>"
    yield f'<p class="muted">{escape(" · ".join(facts))}</p>'
    yield f"<p>{escape(count(results))}</p></header>"
    yield "<nav>"
    for number, section in enumerate(results.sections):
        void = ' class="void"' if section.void else ""
        yield f'<a href="#s{number}"{void}>{escape(section.name)}</a>'
    yield "</nav>"
    yield from _plots(headlines(results))


def _fact(name: str, value: str | float) -> str:
    """Write a fact without a label beside it."""
    return f"{value} {name}" if name == "cores" else f"Python {value}" if name == "python" else str(value)


def _section(number: int, section: Section) -> Iterator[str]:
    yield f'<section id="s{number}"><h2>{escape(section.name)}</h2>'
    yield from (f"<p>{escape(part)}</p>" for part in section.about.split("\n\n") if part)
    if section.void:
        yield f'<div class="banner"><b>void:</b> {escape(section.void)}</div>'
    yield '<div class="body">'
    if section.plots:
        yield from _plots(section.plots)
    if section.figures or section.grids:
        yield '<div class="tables">'
        if section.figures:
            yield from _figures(section.figures)
        for grid in section.grids:
            yield from _grid(grid)
        yield "</div>"
    yield "</div></section>"


def _plots(plots: Iterable[Plot]) -> Iterator[str]:
    yield '<div class="plots">'
    for plot in plots:
        yield f'<figure class="plot"><figcaption>{escape(plot.title)}</figcaption>'
        yield svg(plot).replace("<svg", f'<svg role="img" aria-label="{escape(plot.title)}"', 1)
        yield "</figure>"
    yield "</div>"


def _figures(figures: Sequence[Figure]) -> Iterator[str]:
    kinds = ("", "number", "number", "number", "chip", "note")
    rows = [
        [(text, kind if kind != "chip" else f"chip {text}") for text, kind in zip(cells, kinds, strict=True)]
        for cells in map(figure_cells, figures)
    ]
    yield from _table([(heading, "") for heading in FIGURE_HEADINGS], rows, kind=' class="figures"')


def _grid(grid: Grid) -> Iterator[str]:
    kinds = ["number" if numeric(grid, column) else "" for column in range(len(grid.headings))]
    rows = [list(zip(map(cell, row), kinds, strict=True)) for row in grid.rows]
    yield from _table(list(zip(grid.headings, kinds, strict=True)), rows, grid.title)


def _table(head: Cells, rows: Sequence[Cells], caption: str = "", kind: str = "") -> Iterator[str]:
    yield f'<div class="table"><table{kind}>'
    if caption:
        yield f"<caption>{escape(caption)}</caption>"
    yield f"<thead>{_row('th', head)}</thead><tbody>"
    yield from (_row("td", row) for row in rows)
    yield "</tbody></table></div>"


def _row(tag: str, cells: Cells) -> str:
    return f"<tr>{''.join(_cell(tag, text, kind) for text, kind in cells)}</tr>"


def _cell(tag: str, text: str, kind: str) -> str:
    if kind.startswith("chip"):
        return f'<{tag}><span class="{kind}">{escape(text)}</span></{tag}>'
    kind = f' class="{kind}"' if kind else ""
    return f"<{tag}{kind}>{escape(text)}</{tag}>"


def _facts(facts: Facts) -> Iterator[str]:
    yield '<section id="facts"><h2>Machine and versions</h2><dl>'
    for name, value in facts.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(cell(value))}</dd>"
    yield "</dl></section>"


def main() -> int:
    """Render stored results; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report.page", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS.json")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the summary as a picture")
    args = parser.parse_args()
    several = []
    for path in args.results:
        try:
            several.append(read_json(path.read_text("utf-8")))
        except (OSError, Unreadable) as exc:
            parser.error(f"{path}: {exc}")
    results = merge(several)
    if args.html:
        args.html.write_text(page(results), "utf-8")
    if args.png:
        try:
            args.png.write_bytes(summary_plot(results))
        except ValueError as exc:
            parser.error(str(exc))
    return 0


if __name__ == "__main__":
    sys.exit(main())
