"""Framing as pure functions, on any bytes."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.wire.framing import MAX_ANSWER, MAX_HEADER, PREFIX, FramingError, Unpacker, frame

messages = st.tuples(st.binary(max_size=200), st.lists(st.binary(max_size=200), max_size=4))


def framed(header: bytes, *body: bytes) -> bytes:
    return b"".join(frame(header, body))


def unpacked(unpacker: Unpacker, data: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(header), bytes(body)) for header, body in unpacker.feed(data)]


@given(st.lists(messages, max_size=5), st.lists(st.integers(0, 3000), max_size=12))
def test_any_split_gives_the_same_messages(sent: list[tuple[bytes, list[bytes]]], cuts: list[int]) -> None:
    data = b"".join(framed(header, *body) for header, body in sent)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    unpacker = Unpacker(MAX_ANSWER)
    got = []
    for start, end in itertools.pairwise(edges):
        got += unpacked(unpacker, data[start:end])
    assert got == [(header, b"".join(body)) for header, body in sent]


def test_a_message_comes_with_its_last_byte_and_not_before() -> None:
    data = framed(b"header", b"ab", b"c")
    unpacker = Unpacker(10)
    for at in range(len(data) - 1):
        assert unpacked(unpacker, data[at : at + 1]) == []
    assert unpacked(unpacker, data[-1:]) == [(b"header", b"abc")]


def test_framing_copies_no_part_of_the_body() -> None:
    payload = bytes(1000)
    assert frame(b"", [payload])[1] is payload


def test_a_body_outlives_the_bytes_that_follow_it() -> None:
    unpacker = Unpacker(10)
    ((_, body),) = list(unpacker.feed(framed(b"", b"first")))
    list(unpacker.feed(framed(b"", b"other")))
    assert bytes(body) == b"first"


@pytest.mark.parametrize("lengths", [(MAX_HEADER + 1, 0), (2, 101), (2**32 - 1, 2**32 - 1)])
def test_an_announced_length_is_refused_before_its_bytes_come(lengths: tuple[int, int]) -> None:
    with pytest.raises(FramingError, match="bytes"):
        unpacked(Unpacker(100), PREFIX.pack(*lengths))


def test_the_limits_themselves_pass() -> None:
    ((header, body),) = unpacked(Unpacker(100), framed(bytes(MAX_HEADER), bytes(100)))
    assert (len(header), len(body)) == (MAX_HEADER, 100)


@given(st.binary(max_size=300))
def test_any_bytes_are_messages_or_a_framing_error(data: bytes) -> None:
    with contextlib.suppress(FramingError):
        unpacked(Unpacker(100), data)
