"""What is read as JSON, and what Python alone would take for it."""

from __future__ import annotations

import pytest

from inference.wire import strict_json


def test_json_is_read() -> None:
    assert strict_json.read(' {"a": [1, 0.5, null, true, "\\u00e4"]} ') == {"a": [1, 0.5, None, True, "ä"]}


@pytest.mark.parametrize("text", ["", "{", "NaN", "[Infinity]", '{"a": -Infinity}', "1 2", "'a'", "9" * 5000])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        strict_json.read(text)


def test_what_is_nested_too_deeply_is_said_so() -> None:
    with pytest.raises(RecursionError):
        strict_json.read("[" * 100_000)
