"""The table of a worker's states: what it promises, and that the documentation shows it as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inference.pool.states import DEAF, SERVING, TRANSITIONS, IllegalTransition, State, Stimulus, after

DOCUMENT = Path(__file__).parents[3] / "docs" / "internals.md"


def test_every_state_has_a_row_and_every_stimulus_a_use() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {stimulus for row in TRANSITIONS.values() for stimulus in row} == set(Stimulus)


def test_a_missing_entry_is_an_error_that_names_state_and_stimulus() -> None:
    with pytest.raises(IllegalTransition, match="a worker that is busy has no transition for submit"):
        after(State.BUSY, Stimulus.SUBMIT)


@pytest.mark.parametrize("state", [state for state in State if state is not State.GONE])
def test_whatever_a_worker_does_it_can_exit_and_be_gone(state: State) -> None:
    if state is not State.EXITED:
        state = after(state, Stimulus.EXIT)
    if state is State.EXITED:
        state = after(state, Stimulus.CLOSED)
    assert state is State.GONE


@pytest.mark.parametrize("state", [state for state in State if state is not State.GONE])
def test_whatever_a_worker_does_it_can_be_killed(state: State) -> None:
    assert after(state, Stimulus.KILL) in (State.KILLED, State.EXITED)


def test_nothing_follows_the_end() -> None:
    assert TRANSITIONS[State.GONE] == {}


def test_a_worker_that_is_being_ended_serves_no_more() -> None:
    seen, new = set(), {*DEAF, State.EXITED}
    while new:
        seen |= new
        new = {state for old in new for state in TRANSITIONS[old].values()} - seen
    assert not seen & SERVING


def test_only_an_idle_worker_takes_a_batch() -> None:
    assert [state for state, row in TRANSITIONS.items() if Stimulus.SUBMIT in row] == [State.IDLE]


def test_the_diagram_in_the_documentation_is_the_table() -> None:
    (block,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    drawn: dict[tuple[str, str], set[str]] = {}
    for line in block.splitlines():
        old, new, stimuli = re.fullmatch(r"    (\S+) --> (\S+?)(?:: (.+))?", line).groups()  # type: ignore[union-attr]
        drawn[old, new] = set(stimuli.split(", ")) if stimuli else set()
    expected: dict[tuple[str, str], set[str]] = {("[*]", "starting"): set(), ("gone", "[*]"): set()}
    for old, row in TRANSITIONS.items():
        for stimulus, new in row.items():
            expected.setdefault((old.value, new.value), set()).add(stimulus.value)
    assert drawn == expected
