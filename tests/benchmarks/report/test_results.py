"""Results as JSON: they round-trip, and anything else is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report.results import Figure, Results, Section, Unreadable, as_json, merge, none, read_json
from tests.benchmarks.results_sample import RESULTS


def test_results_round_trip() -> None:
    assert read_json(as_json(RESULTS)) == RESULTS


def test_empty_results_round_trip() -> None:
    assert read_json(as_json(Results())) == Results()


def test_json_contains_measured_and_verdict() -> None:
    document = json.loads(as_json(RESULTS))
    figure = document["sections"][0]["figures"][0]
    assert (figure["measured"], figure["verdict"], figure["rounds"]) == (0.75, "reached", [0.7, 0.8, 0.75])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_number_is_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="got `null`"):
        as_json(Results({}, (Section("x", "", (Figure("y", (value,), "", "<=", 1.0),)),)))


def figure_of(document: Any) -> Any:
    return document["sections"][0]["figures"][0]


def plot_of(document: Any) -> Any:
    return document["sections"][0]["plots"][0]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda d: d.update(more=1), "unknown field `more`"),
        (lambda d: d["sections"][0].pop("about"), r"missing required field `about` - at `\$.sections\[0\]"),
        (lambda d: d.update(sections={}), r"Expected `array`, got `object` - at `\$.sections"),
        (
            lambda d: d["facts"].update(cores=None),
            r"Expected `(str|int|float)( \| (str|int|float))+`, got `null`",
        ),
        (lambda d: d["facts"].update(cores=True), "got `bool`"),
        (lambda d: figure_of(d).update(name=7), r"Expected `str`, got `int` - at `\$.*figures\[0\].name"),
        (lambda d: figure_of(d).update(sense="<"), r"'<' - at .*sense`; use one of \('<=', '>='\)"),
        (lambda d: figure_of(d).update(rounds=[]), r"length >= 1 - at `\$.*rounds"),
        (lambda d: figure_of(d).update(rounds=["1"]), r"Expected `float`, got `str` - at `.*rounds"),
        (lambda d: figure_of(d).update(rounds=[math.nan]), "JSON is malformed"),
        (
            lambda d: figure_of(d).update(verdict="missed"),
            "verdict missed contradict the rounds: 0.75, reached",
        ),
        (lambda d: figure_of(d).update(measured=0.7), "measured 0.7 .* contradict the rounds: 0.75"),
        (lambda d: plot_of(d).update(log="yes"), r"Expected `bool`, got `str` - at `.*plots\[0\].log"),
        (lambda d: plot_of(d)["series"][0]["points"].append([1]), "length 2"),
        (lambda d: d["sections"].append([]), r"Expected `object`, got `array` - at `\$.sections\[4\]`"),
    ],
)
def test_invalid_document_names_place(damage: Callable[[Any], object], sentence: str) -> None:
    document = json.loads(as_json(RESULTS))
    damage(document)
    with pytest.raises(Unreadable, match=sentence):
        read_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "[1, 2"])
def test_invalid_json_is_refused(text: str) -> None:
    with pytest.raises(Unreadable, match=r"JSON is malformed|truncated|Expected `object`"):
        read_json(text)


def test_merge_keeps_order_and_differing_facts() -> None:
    first = Results({"cores": 2, "date": "2026-01-02"}, (Section("a", "", (none("x", 0),)),))
    second = Results(
        {"cores": 2, "date": "2026-01-03", "uvloop": "0.21"}, (Section("b", ""), Section("a", ""))
    )
    merged = merge([first, second])
    assert [section.name for section in merged.sections] == ["a", "b", "a"]
    assert merged.facts == {"cores": 2, "date": "2026-01-02 and 2026-01-03", "uvloop": "0.21"}


def test_newest_stored_results_can_be_read() -> None:
    newest = max((Path(__file__).parents[3] / "benchmarks" / "results").glob("*.json"))
    results = read_json(newest.read_text("utf-8"))
    assert sum(len(section.figures) for section in results.sections) > 20
