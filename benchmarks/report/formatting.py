"""How results are written for people, in the same words on the terminal and on the page."""

from __future__ import annotations

from benchmarks.report.results import Figure, Results, Section


def written(value: float) -> str:
    """Write a number with three digits that count, and whole from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def cell(value: str | float) -> str:
    """Write a cell of a table: text as it is."""
    return value if isinstance(value, str) else written(value)


def spread(figure: Figure) -> str:
    """Write the least and the greatest round, where there are several."""
    if len(figure.rounds) == 1:
        return ""
    return f"{written(min(figure.rounds))} to {written(max(figure.rounds))}"


def measured(figure: Figure) -> str:
    """Write what was measured, with its unit."""
    return f"{written(figure.measured)} {figure.unit}".strip()


def target(figure: Figure) -> str:
    """Write what was to be reached."""
    return f"{figure.sense} {written(figure.target)}"


def count(results: Results) -> str:
    """Write how many figures keep their targets, and which sections do not count."""
    figures = [figure for section in counting(results) for figure in section.figures]
    reached = sum(figure.reached for figure in figures)
    void = [section.name for section in results.sections if section.void]
    said = [f"{reached} of {len(figures)} targets reached"] if figures else []
    return "; ".join([*said, *([f"void: {', '.join(void)}"] if void else [])])


def counting(results: Results) -> list[Section]:
    """Give the sections that are not void."""
    return [section for section in results.sections if not section.void]
