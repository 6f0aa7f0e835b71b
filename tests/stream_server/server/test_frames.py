"""Frames in what a client sends: where they end, which are charged, and which the protocol forbids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.server.frames import FREE_FRAGMENTS, SMALL_FRAGMENT, FrameScanner
from tests.stream_server.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

MANY = 1 << 20


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_a_frame_of_any_size_is_passed_on_whole(size: int) -> None:
    data = frame(BINARY, bytes(size)) * 2
    assert FrameScanner().scan(data, MANY) == (len(data), 0)


def test_control_frames_are_charged() -> None:
    data = frame(PING) + frame(TEXT, b"x") + frame(PONG, b"x" * 125) + frame(CLOSE)
    assert FrameScanner().scan(data, MANY) == (len(data), 3)


def test_small_fragments_beyond_the_first_few_of_a_message_are_charged() -> None:
    scanner = FrameScanner()
    small = frame(CONTINUATION, b"x", fin=False)
    message = frame(BINARY, b"x", fin=False) + small * FREE_FRAGMENTS + frame(CONTINUATION, b"x")
    assert scanner.scan(message, MANY) == (len(message), 1)
    assert scanner.scan(message, MANY) == (len(message), 1), "each message has its few"
    large = frame(CONTINUATION, bytes(SMALL_FRAGMENT), fin=False) * 100
    assert scanner.scan(frame(BINARY, b"", fin=False) + large, MANY)[1] == 0


def test_a_ping_within_a_message_does_not_begin_a_new_one() -> None:
    scanner = FrameScanner()
    fragment = frame(CONTINUATION, b"", fin=False) + frame(PING)
    _, cost = scanner.scan(fragment * 100, MANY)
    assert cost == 100 + 100 - FREE_FRAGMENTS


def test_it_stops_after_as_many_frames_as_it_may_walk_over() -> None:
    scanner, ping = FrameScanner(), frame(PING, b"abc")
    data = ping * 10
    end, cost = scanner.scan(data, 4)
    assert (end, cost, scanner.stopped) == (4 * len(ping), 4, True)
    end, cost = scanner.scan(data[end:], 6)
    assert (end, cost, scanner.stopped) == (6 * len(ping), 6, False)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (frame(BINARY, b"x", mask=False), "not masked"),
        (frame(PING, mask=False), "not masked"),
        (frame(CLOSE, b"\x03\xe8", mask=False), "not masked"),
        (b"\x82\xfe\x00\x01" + bytes(5), "length"),
        (b"\x82\xfe\x00\x7d" + bytes(4 + 125), "length"),
        (b"\x82\xff" + (65535).to_bytes(8, "big") + bytes(4 + 65535), "length"),
    ],
)
def test_what_rfc_6455_forbids_is_not_passed_on(bad: bytes, why: str) -> None:
    scanner, good = FrameScanner(), frame(BINARY, b"before")
    assert scanner.scan(good + bad, MANY)[0] == len(good)
    assert why in (scanner.violation or "")


FRAMES = st.builds(
    lambda opcode, size, fin: frame(opcode, bytes(size), fin=fin),
    st.sampled_from([CONTINUATION, TEXT, BINARY, PING, PONG]),
    st.sampled_from([0, 1, 125, 126, 300, 65536]),
    st.booleans(),
)


@given(st.lists(FRAMES, max_size=20).map(b"".join), st.data())
def test_it_makes_no_difference_how_the_bytes_are_cut(data: bytes, draw: st.DataObject) -> None:
    whole, cut = FrameScanner(), FrameScanner()
    expected = whole.scan(data, MANY)
    assert expected[0] == len(data)
    held, passed, charged = b"", 0, 0
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=8)))
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        held += data[start:end]
        done, cost = cut.scan(held, MANY)
        held, passed, charged = held[done:], passed + done, charged + cost
        assert len(held) < 10, "only a header that is not whole is held back"
    assert (passed, charged) == expected
