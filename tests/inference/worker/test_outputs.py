"""What `predict` may return, and what the sentence says where it returned something else."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inference.model import ItemError, ModelError, ModelSource
from inference.worker.loaded_model import Answer, LoadedModel, Output
from inference.worker.outputs import BadOutput, answers_of, encode_output

SAMPLES = "tests.inference.sample_models"


def loaded(cls: str, **options: Any) -> LoadedModel:
    model = LoadedModel(ModelSource("m", f"{SAMPLES}:{cls}", options))
    model.load()
    return model


def answered(returned: Callable[[list[Any]], Any], *items: bytes) -> list[Answer]:
    """Answer items by a model that returns this."""
    model = loaded("Returns")
    model._model.made = returned  # type: ignore[attr-defined]
    return model.answer([memoryview(item) for item in items])


@pytest.mark.parametrize(
    "returned",
    [[1, 2], (1, 2), deque([1, 2]), range(1, 3), np.array([1, 2]), np.array([1.0, 2.0]).astype(np.float32)],
)
def test_a_sequence_or_an_array_has_an_answer_per_item(returned: Any) -> None:
    given = [encode_output(answer, stateful=False) for answer in answers_of(returned, 2)]
    assert [json.loads(output.text) for output in given] == [1, 2]


def test_a_row_of_an_array_is_an_answer() -> None:
    rows = answers_of(np.arange(6).reshape(2, 3), 2)
    assert [json.loads(encode_output(row, stateful=False).text) for row in rows] == [[0, 1, 2], [3, 4, 5]]


async def coroutine() -> None:
    pass


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (lambda items: None, "`predict` returned None; return a list with one answer per item"),
        (lambda items: {"a": 1, "b": 2}, "`predict` returned a dict; "),
        (lambda items: {1, 2}, "`predict` returned a set; "),
        (lambda items: "ab", "`predict` returned a str; "),
        (lambda items: b"ab", "`predict` returned a bytes; "),
        (lambda items: 7, "`predict` returned an int; "),
        (lambda items: np.float32(1), "`predict` returned an array of shape (); "),
        (lambda items: object(), "`predict` returned an object; "),
        (lambda items: (len(item) for item in items), "`predict` returned a generator; "),
        (lambda items: map(len, items), "`predict` returned a map; "),
        (lambda items: coroutine(), "`predict` returned a coroutine; write `def predict`, without `async`"),
        (lambda items: [0] * (len(items) + 1), "`predict` returned 2 answers to 1 item; "),
        (lambda items: [], "`predict` returned 0 answers to 1 item; "),
        (lambda items: np.zeros((3, 4)), "`predict` returned 3 answers to 1 item; "),
    ],
)
def test_anything_else_is_bad_output_that_says_what_came(
    returned: Callable[[list[Any]], Any], sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    for error in answered(returned, b"a", b"b"):
        assert isinstance(error, ItemError)
        assert error.code == "bad_output"
        assert str(error).startswith(sentence)
        assert str(error) in caplog.text, "the log says it too"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"x": {1}}, "the model's answer holds a set, which JSON cannot hold"),
        (b"raw", "the model's answer holds a bytes, which JSON cannot hold"),
        (float("nan"), "the model's answer holds NaN or infinity, which JSON cannot hold; use None"),
        (np.array([1.0, np.inf]), "the model's answer holds NaN or infinity"),
        ({(1, 2): 3}, "the model's answer holds a dict with a key of type tuple; "),
        ({np.int64(1): 3}, "the model's answer holds a dict with a key of type numpy.int64; "),
        (1j, "the model's answer holds a complex, "),
        (np.complex64(1), "the model's answer holds a complex, "),
        (np.datetime64("2026-01-02"), "the model's answer holds a date, "),
    ],
)
def test_what_json_cannot_hold_is_named_and_costs_its_own_item(answer: Any, sentence: str) -> None:
    good, bad = answered(lambda items: ["good", answer][: len(items)], b"a", b"b")
    assert good == Output(b'"good"')
    assert isinstance(bad, ItemError)
    assert (bad.code, str(bad)[: len(sentence)]) == ("bad_output", sentence)


@pytest.mark.parametrize(
    ("answer", "got"),
    [({"n": 1}, "a dict"), (None, "None"), ((1, 2, 3), "a tuple of length 3"), ([1], "a list of length 1")],
)
def test_a_stateful_answer_is_a_pair(answer: Any, got: str) -> None:
    with pytest.raises(BadOutput) as caught:
        encode_output(answer, stateful=True)
    expected = f"`predict` of a stateful model answered with {got}; return a pair (answer, state)"
    assert str(caught.value) == expected


def test_an_array_of_pairs_is_no_state_of_its_own() -> None:
    assert encode_output(({"n": 1}, np.arange(2)), stateful=True) == Output(b'{"n": 1}', b"j[0, 1]")


def test_items_that_failed_together_are_decoded_again_for_their_own_attempt() -> None:
    model = loaded("Spoils")
    answers = model.answer([memoryview(b'{"n": %d}' % n) for n in range(3)])
    assert [one.text for one in answers if isinstance(one, Output)] == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    ("cls", "sentence"),
    [
        ("AsyncPredict", "model m: `predict` is `async def`; write `def`"),
        ("AsyncLoad", "model m: `load` is `async def`; write `def`"),
        ("Yields", "model m: `predict` uses `yield`; return a list with one answer per item"),
        ("OneItem", "it is called with one argument, the list of items"),
        ("LoadTakes", "model m: `load` takes (path: 'str') -> 'None'; it is called with no argument"),
        ("WholeBatch", "model m: `predict` returned 1 answer to 2 items; "),
    ],
)
def test_what_is_wrong_for_any_item_is_found_before_the_model_is_ready(cls: str, sentence: str) -> None:
    with pytest.raises(ModelError) as caught:
        loaded(cls)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("returned", ["lonely", {"label": "spam"}, None, {1}, [{1}], [b"raw"]])
def test_a_wrong_answer_to_the_sample_keeps_a_model_from_being_ready(
    returned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{SAMPLES}.Returns.made", lambda self, items: returned)
    with pytest.raises(ModelError, match=r"model m: (`predict` returned|the model's answer holds) "):
        loaded("Returns")


def test_a_nan_for_the_sample_is_logged_and_the_model_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(f"{SAMPLES}.Returns.made", lambda self, items: [float("nan")] * len(items))
    loaded("Returns")
    assert "answers the sample that warms it up wrongly: the model's answer holds NaN" in caplog.text
