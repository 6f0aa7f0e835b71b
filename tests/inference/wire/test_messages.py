"""The messages between server and worker: they come back as they were, and nothing else comes at all."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.model import MAX_BATCH, MAX_OUTPUT, ModelCard
from inference.wire import messages
from inference.wire.framing import MAX_HEADER
from inference.wire.messages import BadMessage

CARD = ModelCard("m", "1", "text", "queue", 4, 1000, "What it does.", 50, 2.5, 30, True)

FROM_WORKER = [
    messages.Importing("m"),
    messages.Described(CARD),
    messages.ModelFailed("m", "why"),
    messages.Sealing(),
    messages.Sandbox({"network": "on"}),
    messages.Loaded("m", 1.5),
    messages.Ready(100),
    messages.Answers(1.5, 100, [10, messages.ItemFailure("code", "message")]),
    messages.Answers(1.5, 100, [10], states=[5]),
]

TO_WORKER = [
    messages.Setup([messages.ModelSetup("m", "module:Class", msgspec.Raw(b'{"a":[1,null]}'))], "auto", 0),
    messages.BatchHeader("m", "1", [1, 2]),
    messages.BatchHeader("m", "1", [1, 2], states=[0, 3]),
]


@pytest.mark.parametrize("message", FROM_WORKER, ids=lambda message: type(message).__name__)
def test_what_a_worker_says_comes_back_as_it_was(message: messages.FromWorker) -> None:
    assert messages.read_from_worker(memoryview(messages.encode(message))) == message


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda message: type(message).__name__)
def test_what_the_server_says_comes_back_as_it_was(message: messages.ToWorker) -> None:
    assert messages.read_to_worker(messages.encode(message)) == message


@pytest.mark.parametrize("message", FROM_WORKER, ids=lambda message: type(message).__name__)
def test_a_field_more_or_less_or_of_another_type_is_refused(message: messages.FromWorker) -> None:
    said = json.loads(messages.encode(message))
    variants: list[Any] = [said | {"more": 1}]
    for name in said:
        variants.append({key: value for key, value in said.items() if key != name})
        variants += [said | {name: value} for value in (None, [None], {"x": None})]
    for variant in variants:
        if "states" in said and "states" not in variant:
            continue  # it has a default
        with pytest.raises(BadMessage):
            messages.read_from_worker(json.dumps(variant).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_bad_one(data: bytes) -> None:
    with contextlib.suppress(BadMessage):
        messages.read_from_worker(data)


@pytest.mark.parametrize("card", [{"version": "../x"}, {"max_batch": 0}, {"stateful": 1}, {"input": "video"}])
def test_a_card_that_no_model_can_have_is_refused(card: dict[str, Any]) -> None:
    said = json.loads(messages.encode(messages.Described(CARD)))
    said["card"] |= card
    with pytest.raises(BadMessage):
        messages.read_from_worker(json.dumps(said).encode())


@pytest.mark.parametrize(
    "items", [[0], [MAX_OUTPUT + 1], [1] * (MAX_BATCH + 1), [{"code": "x" * 65, "message": ""}]]
)
def test_answers_have_bounds(items: list[Any]) -> None:
    said = {"type": "answers", "infer_ms": 1, "resident_mb": 1, "items": items}
    with pytest.raises(BadMessage):
        messages.read_from_worker(json.dumps(said).encode())


def test_a_deep_header_is_refused() -> None:
    with pytest.raises(BadMessage):
        messages.read_from_worker(b'{"type":' * (MAX_HEADER // 8))


def test_a_body_is_cut_into_its_parts() -> None:
    assert [bytes(part) for part in messages.cut(memoryview(b"abcdef"), [1, 0, 5])] == [b"a", b"", b"bcdef"]


@pytest.mark.parametrize("lengths", [[], [5], [7], [3, 4]])
def test_parts_that_do_not_add_up_are_refused(lengths: list[int]) -> None:
    with pytest.raises(BadMessage):
        messages.cut(memoryview(b"abcdef"), lengths)


def test_a_text_is_cut_and_made_fit_for_utf_8() -> None:
    assert messages.short("a\ud800b" * 3, 4) == "a?ba"
