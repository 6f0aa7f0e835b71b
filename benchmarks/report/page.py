"""Results as one page: ``python -m benchmarks.report.page RESULTS.json --html FILE --png FILE``.

Several files make one page, with their sections one after the other. It measures nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from benchmarks.report.formatting import cell, count, measured, spread, target
from benchmarks.report.panels import LIGHT
from benchmarks.report.plots import DARK, headlines, summary_plot, svg
from benchmarks.report.results import Figure, Grid, Plot, Results, Section
from benchmarks.report.stored import Unreadable, merge, read_json

TITLE = "stream-server: benchmarks"

SAID_FIRST = "date", "processor", "cores", "python"
"""The facts that stand under the title; all of them stand at the end."""


def page(results: Results) -> str:
    """Write results as one HTML document, which loads nothing and runs nothing.

    Everything in them is text: what looks like markup is shown as it is.
    """
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
    facts = [_fact(name, results.facts[name]) for name in SAID_FIRST if name in results.facts]
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
    """Write a fact where its name does not stand beside it."""
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
    if not figures:
        return
    yield '<div class="table"><table class="figures">'
    yield _row(
        "th", [(heading, "") for heading in ("figure", "measured", "rounds", "target", "", "note")], "thead"
    )
    yield "<tbody>"
    for figure in figures:
        chip = f'<span class="chip {figure.verdict}">{figure.verdict}</span>'
        yield "<tr>"
        yield _cell("td", figure.name)
        yield _cell("td", measured(figure), "number")
        yield _cell("td", spread(figure), "number")
        yield _cell("td", target(figure), "number")
        yield f"<td>{chip}</td>"
        yield _cell("td", figure.note, "note")
        yield "</tr>"
    yield "</tbody></table></div>"


def _grid(grid: Grid) -> Iterator[str]:
    """Write a table; a column with numbers in it stands to the right."""
    kinds = [
        "number" if any(not isinstance(row[column], str) for row in grid.rows) else ""
        for column in range(len(grid.headings))
    ]
    yield f'<div class="table"><table><caption>{escape(grid.title)}</caption>'
    yield _row("th", zip(grid.headings, kinds, strict=True), "thead")
    yield "<tbody>"
    for row in grid.rows:
        yield _row("td", zip(map(cell, row), kinds, strict=True))
    yield "</tbody></table></div>"


def _row(tag: str, cells: Iterable[tuple[str, str]], group: str = "") -> str:
    row = f"<tr>{''.join(_cell(tag, text, kind) for text, kind in cells)}</tr>"
    return f"<{group}>{row}</{group}>" if group else row


def _cell(tag: str, text: str, kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f"<{tag}{kind}>{escape(text)}</{tag}>"


def _facts(facts: Mapping[str, str | float]) -> Iterator[str]:
    yield '<section id="facts"><h2>Machine and versions</h2><dl>'
    for name, value in facts.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(cell(value))}</dd>"
    yield "</dl></section>"


def main() -> int:
    """Render again what was written as JSON; the exit status."""
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
