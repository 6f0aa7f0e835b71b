"""What is said of a value that does not fit its type."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from stream_server.protocol.decoding import Problem, decode, explain, words


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    count: Annotated[int, msgspec.Meta(ge=1, le=1000, description="one is enough")] = 1
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=9)] = "x"
    policy: Literal["latest", "queue"] | None = None
    names: tuple[str, ...] = ()
    there: bool = True
    least: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    inner: Inner
    several: dict[str, Inner] = {}
    rows: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, Problem("missing", "inner")),
        ({"inner": {}, "outer": 1}, Problem("unknown", "outer")),
        ({"inner": {"x": 1}}, Problem("unknown", "inner.x")),
        (
            {"inner": {"count": 0}},
            Problem("invalid", "inner.count", "a whole number from 1 to 1,000 (one is enough)"),
        ),
        ({"inner": {"share": 2}}, Problem("invalid", "inner.share", "a number above 0, at most 1")),
        ({"inner": {"least": 0}}, Problem("invalid", "inner.least", "a number above 0")),
        ({"inner": {"name": ""}}, Problem("invalid", "inner.name", "a string of 1 to 9 characters")),
        ({"inner": {"policy": "both"}}, Problem("invalid", "inner.policy", "latest or queue")),
        ({"inner": {"names": "a"}}, Problem("invalid", "inner.names", "a list of strings")),
        ({"inner": {"there": 1}}, Problem("invalid", "inner.there", "true or false")),
        ({"inner": {}, "rows": [{}, {"there": 0}]}, Problem("invalid", "rows[1].there", "true or false")),
        (
            {"inner": {}, "several": {"a": {"there": 0}}},
            Problem("invalid", "several[...].there", "true or false"),
        ),
        ([], Problem("invalid", "")),
    ],
)
def test_a_problem_names_the_key_and_what_it_may_be(value: Any, problem: Problem) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(value, Outer)
    assert explain(caught.value, Outer) == problem


def test_a_surrogate_makes_no_other_mistake_pass() -> None:
    decoder = msgspec.json.Decoder(Inner)
    assert decode(decoder, '{"name": "\\ud800"}').name == "\ud800"
    for text in (
        '{"name": "\\ud800", "count": 0}',
        '{"name": "\\ud800", "x": 0}',
        '{"name": "\\ud800", "share": NaN}',
    ):
        with pytest.raises(ValueError, match=r"Expected|unknown|NaN"):
            decode(decoder, text)


def test_a_literal_is_written_as_words() -> None:
    assert words(Literal["a"]) == "a"
    assert words(Literal["a", "b", "c"]) == "a, b or c"
