"""Models with state, in the process of the test: what they get and may return, and what becomes of the state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from inference.model import MAX_STATE, ItemError, ModelSource
from inference.worker.loaded_model import LoadedModel
from inference.worker.outputs import BadOutput, Output, encode_state, read_state


@pytest.fixture
def counts() -> LoadedModel:
    model = LoadedModel(ModelSource("counts", "tests.inference.sample_models:Counts"))
    model.load()
    return model


def ask(model: LoadedModel, *orders: str, states: Sequence[bytes]) -> list[Output | ItemError]:
    return model.answer([memoryview(order.encode()) for order in orders], [memoryview(s) for s in states])


def test_a_state_comes_with_the_streams_next_item(counts: LoadedModel) -> None:
    state = b""
    for n in range(1, 4):
        (given,) = ask(counts, "count", states=[state])
        assert isinstance(given, Output)
        assert json.loads(given.text) == {"n": n}
        state = given.state


def test_each_item_of_a_batch_has_its_own_state(counts: LoadedModel) -> None:
    states = [encode_state({"n": 5}), b"", encode_state(b"xxx")]
    given = ask(counts, "count", "count", "bytes", states=states)
    assert [json.loads(one.text)["n"] for one in given if isinstance(one, Output)] == [6, 1, 4]
    assert [read_state(one.state) for one in given if isinstance(one, Output)] == [
        {"n": 6},
        {"n": 1},
        b"xxxx",
    ]


def test_without_a_keeper_of_states_every_item_is_a_first_one(counts: LoadedModel) -> None:
    assert ask(counts, "count", states=[]) == [Output(b'{"n": 1}', b'j{"n": 1}')]


def test_none_is_no_state(counts: LoadedModel) -> None:
    (given,) = ask(counts, "forget", states=[encode_state({"n": 1})])
    assert given == Output(b'{"n": 2}', b"")


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ("fail", "failed"),
        ("give", "given"),
        ("alone", "bad_output"),
        ("object", "bad_output"),
        (f"pad {MAX_STATE}", "bad_output"),
    ],
)
def test_an_item_that_fails_brings_no_state_and_its_neighbours_keep_theirs(
    counts: LoadedModel, order: str, code: str
) -> None:
    good, bad, other = ask(counts, "count", order, "count", states=[b"", b"", b""])
    assert isinstance(bad, ItemError)
    assert bad.code == code
    assert good == other == Output(b'{"n": 1}', b'j{"n": 1}')


def test_a_state_may_be_as_large_as_the_limit(counts: LoadedModel) -> None:
    room = MAX_STATE - len(encode_state({"n": 1, "pad": ""}))
    (fits,) = ask(counts, f"pad {room}", states=[b""])
    assert isinstance(fits, Output)
    assert len(fits.state) == MAX_STATE
    (large,) = ask(counts, f"pad {room + 1}", states=[b""])
    assert isinstance(large, ItemError)
    assert f"{MAX_STATE + 1:,} bytes" in str(large)


def test_it_is_warmed_up_without_a_state(counts: LoadedModel) -> None:
    assert counts.infer_ms > 0


@pytest.mark.parametrize(
    ("state", "back"),
    [
        (None, None),
        (b"", b""),
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"x"), b"x"),
        ({"a": [1, None, "ü"]}, {"a": [1, None, "ü"]}),
        ("j", "j"),
        (0, 0),
        ((1, 2), [1, 2]),
        (np.arange(3), [0, 1, 2]),
    ],
)
def test_states_come_back_as_they_were(state: Any, back: Any) -> None:
    assert read_state(encode_state(state)) == back
    assert read_state(memoryview(encode_state(state))) == back


@pytest.mark.parametrize("state", [object(), {1}, float("nan"), {"x": b"bytes"}])
def test_what_cannot_be_kept_is_refused(state: Any) -> None:
    with pytest.raises(BadOutput, match="the model's state holds"):
        encode_state(state)
