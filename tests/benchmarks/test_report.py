"""The table and the JSON of the figures."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from benchmarks.report import as_json, spread, table, written
from benchmarks.results import Figure, none


def shown(*figures: Figure) -> str:
    file = io.StringIO()
    Console(file=file, width=170).print(table(figures))
    return file.getvalue()


def test_the_median_of_the_rounds_counts() -> None:
    figure = Figure("age", (9.0, 1.0, 3.0), "ms", "<=", 3.0)
    assert figure.measured == 3
    assert figure.reached
    assert spread(figure) == "1 to 9"


@pytest.mark.parametrize(
    ("sense", "measured", "verdict"),
    [
        ("<=", 2.0, "reached"),
        ("<=", 2.1, "short"),
        ("<=", 1.9, "reached"),
        (">=", 2.0, "reached"),
        (">=", 1.9, "short"),
        (">=", 2.1, "reached"),
    ],
)
def test_a_target_is_reached_from_the_right_side(sense: str, measured: float, verdict: str) -> None:
    assert Figure("x", (measured,), "", sense, 2.0).verdict == verdict  # type: ignore[arg-type]


def test_one_round_has_no_spread() -> None:
    assert spread(Figure("age", (9.0,), "ms", "<=", 3.0)) == ""


def test_what_shall_not_be_is_short_from_the_first_on() -> None:
    assert none("lost", 0).reached
    assert not none("lost", 1).reached


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.2536, "0.254"), (12.34, "12.3"), (7.0, "7"), (123.4, "123"), (50000.0, "50,000")],
)
def test_numbers_are_written_with_what_counts(value: float, text: str) -> None:
    assert written(value) == text


def test_the_table_has_a_row_per_figure_with_target_and_verdict() -> None:
    text = shown(
        Figure("dispatch", (0.2, 0.3, 0.25), "ms", "<=", 0.3, "42,000 bytes"), none("frames lost", 2)
    )
    (dispatch,) = [line for line in text.splitlines() if "dispatch" in line]
    assert [cell.strip() for cell in dispatch.split("│")[1:-1]] == [
        "dispatch",
        "0.25 ms",
        "0.2 to 0.3",
        "<= 0.3",
        "reached",
        "42,000 bytes",
    ]
    (lost,) = [line for line in text.splitlines() if "frames lost" in line]
    assert "short" in lost


def test_json_holds_every_round_and_the_machine() -> None:
    figures = [Figure("dispatch", (0.2, 0.3, 0.25), "ms", "<=", 0.3), none("lost", 2, "of 9")]
    document = json.loads(as_json(figures, {"cores": 2}))
    assert document["machine"] == {"cores": 2}
    assert document["figures"] == [
        {
            "figure": "dispatch",
            "measured": 0.25,
            "rounds": [0.2, 0.3, 0.25],
            "unit": "ms",
            "target": "<= 0.3",
            "verdict": "reached",
            "note": "",
        },
        {
            "figure": "lost",
            "measured": 2.0,
            "rounds": [2.0],
            "unit": "",
            "target": "<= 0",
            "verdict": "short",
            "note": "of 9",
        },
    ]
