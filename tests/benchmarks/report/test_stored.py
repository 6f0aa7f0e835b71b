"""Results as JSON: nothing is lost, and nothing else is taken for results."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.report.results import Figure, Results, Section, none
from benchmarks.report.stored import Unreadable, as_json, merge, read_json
from tests.benchmarks.results_sample import RESULTS


def test_what_is_written_is_read_as_it_was() -> None:
    assert read_json(as_json(RESULTS)) == RESULTS


def test_nothing_measured_is_results_too() -> None:
    assert read_json(as_json(Results())) == Results()


def test_a_program_finds_the_verdict_without_knowing_how_it_is_made() -> None:
    document = json.loads(as_json(RESULTS))
    figure = document["sections"][0]["figures"][0]
    assert (figure["measured"], figure["verdict"], figure["rounds"]) == (0.75, "reached", [0.7, 0.8, 0.75])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json(Results({}, (Section("x", "", (Figure("y", (value,), "", "<=", 1.0),)),)))


def figure_of(document: Any) -> Any:
    return document["sections"][0]["figures"][0]


def plot_of(document: Any) -> Any:
    return document["sections"][0]["plots"][0]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda d: d.update(more=1), "results has 'more', which nothing has that is written here"),
        (lambda d: d["sections"][0].pop("about"), r"results.sections\[0\] lacks 'about'"),
        (lambda d: d.update(sections={}), "results.sections is {}, and shall be a list"),
        (
            lambda d: d["facts"].update(cores=None),
            "results.facts.cores is null, and shall be a finite number",
        ),
        (
            lambda d: d["facts"].update(cores=True),
            "results.facts.cores is true, and shall be a finite number",
        ),
        (lambda d: figure_of(d).update(name=7), r"figures\[0\].name is 7, and shall be a text"),
        (lambda d: figure_of(d).update(sense="<"), r"sense is \"<\", and shall be '<=' or '>='"),
        (lambda d: figure_of(d).update(rounds=[]), r"figures\[0\].rounds is empty"),
        (lambda d: figure_of(d).update(rounds=["1"]), r"rounds\[0\] is \"1\", and shall be a finite number"),
        (
            lambda d: figure_of(d).update(rounds=[math.nan]),
            r"rounds\[0\] is NaN, and shall be a finite number",
        ),
        (
            lambda d: figure_of(d).update(verdict="missed"),
            r"verdict is \"missed\", and its rounds make reached",
        ),
        (lambda d: figure_of(d).update(measured=0.7), "measured is 0.7, and its rounds make 0.75"),
        (lambda d: plot_of(d).update(log="yes"), r"plots\[0\].log is \"yes\", and shall be true or false"),
        (
            lambda d: plot_of(d)["series"][0]["points"].append([1]),
            r"points\[3\] has 1 values, and shall have 2",
        ),
        (lambda d: d["sections"].append([]), r"results.sections\[4\] is \[\], and shall be an object"),
    ],
)
def test_what_does_not_fit_is_named(damage: Callable[[Any], object], sentence: str) -> None:
    document = json.loads(as_json(RESULTS))
    damage(document)
    with pytest.raises(Unreadable, match=sentence):
        read_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "[1, 2"])
def test_what_is_no_json_is_said_to_be_none(text: str) -> None:
    with pytest.raises(Unreadable, match="this is no JSON"):
        read_json(text)


def test_runs_merge_in_their_order_with_facts_that_differ_side_by_side() -> None:
    first = Results({"cores": 2, "date": "2026-01-02"}, (Section("a", "", (none("x", 0),)),))
    second = Results(
        {"cores": 2, "date": "2026-01-03", "uvloop": "0.21"}, (Section("b", ""), Section("a", ""))
    )
    merged = merge([first, second])
    assert [section.name for section in merged.sections] == ["a", "b", "a"]
    assert merged.facts == {"cores": 2, "date": "2026-01-02 and 2026-01-03", "uvloop": "0.21"}
