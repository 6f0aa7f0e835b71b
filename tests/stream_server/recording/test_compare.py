"""What is said of two answers that are not the same, and of those that are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stream_server.recording.compare import difference

FACES = {"type": "result", "outputs": {"faces": [{"box": [1.5, 2, 3, 4], "score": 0.94}], "width": 640}}


def changed(**changes: Any) -> dict[str, Any]:
    return {"type": "result", "outputs": FACES["outputs"] | changes}


def test_equal_answers_have_none() -> None:
    assert difference(FACES, json.loads(json.dumps(FACES))) is None
    assert difference({"a": 1, "b": [2.0]}, {"b": [2], "a": 1.0}) is None


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (
            changed(faces=[{"box": [1.5, 2, 3, 4], "score": 0.91}]),
            "outputs.faces[0].score is 0.91, was 0.94",
        ),
        (
            changed(faces=[{"box": [1.5, 2, 9, 8], "score": 0.91}]),
            "outputs.faces[0].box[2] is 9, was 3",
        ),
        (changed(faces=[]), "outputs.faces has 0 elements, had 1"),
        (changed(height=480), "outputs.height is new"),
        (changed(width=None), "outputs.width is null, was 640"),
        ({"type": "error", "code": "model_error"}, "outputs is gone"),
        (
            changed(faces="x" * 50),
            f'outputs.faces is "{"x" * 39}..., was [{{"box": [1.5, 2, 3, 4], "score": 0.94}}]',
        ),
    ],
)
def test_first_difference_is_named(now: Any, said: str) -> None:
    assert difference(FACES, now) == said


@pytest.mark.parametrize(
    ("old", "new", "tolerance", "same"),
    [
        (0.94, 0.941, 0.002, True),
        (0.94, 0.943, 0.002, False),
        (1, 1.001, 0.002, True),
        (640, 641, 2.0, False),  # whole numbers are counts
        (True, 1, 2.0, False),
        (0, False, 0.0, False),
        (None, 0, 1.0, False),
        ("a", "b", 1.0, False),
        (10**400, 1.5, 1.0, False),
        (10**400, 10**400, 0.0, True),
    ],
)
def test_a_tolerance_is_for_fractions_alone(old: Any, new: Any, tolerance: float, same: bool) -> None:
    assert (difference([old], [new], tolerance) is None) is same


def test_deep_values_are_compared() -> None:
    def nested(value: Any) -> Any:
        for _ in range(50_000):
            value = [value]
        return value

    assert difference(nested(1), nested(1)) is None
    assert str(difference(nested(1), nested(2))).endswith("[0] is 2, was 1")


def test_strange_names_are_written_as_json() -> None:
    assert difference({"a b\x1b": 1}, {}) == '"a b\\u001b" is gone'
