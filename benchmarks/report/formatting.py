"""How results are written for readers, the same on the terminal and on the page."""

from __future__ import annotations

from benchmarks.report.results import Figure, Grid, Results

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
