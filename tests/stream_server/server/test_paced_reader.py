"""Frames that come all at once are parsed a few at a time, with others in between."""

from __future__ import annotations

import asyncio

from stream_server.server.paced_reader import BREACH, FRAMES_AT_ONCE, PacedReader
from tests.conftest import WAIT
from tests.stream_server.wire import BINARY, CONTINUATION, PING, frame

FAST = 1e6


class Parser:
    """Keeps what it is fed."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False
        self.fed = asyncio.Event()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        self.fed.set()
        return data == BREACH, b""

    def feed_eof(self) -> None:
        self.ended = True

    async def until(self, size: int) -> None:
        while len(self.data) < size:
            self.fed.clear()
            await self.fed.wait()


class Flow:
    """Notes whether the socket is read."""

    def __init__(self) -> None:
        self.queue_is_full = False
        self.reading = True
        self.closed = False

    def hold(self, holder: object) -> None:
        self.reading = False

    def release(self, holder: object) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True


def make(rate: float = FAST) -> tuple[PacedReader, Parser, Flow]:
    parser, flow = Parser(), Flow()
    return PacedReader(parser, flow, rate), parser, flow


async def test_a_frame_is_passed_on_at_once() -> None:
    reader, parser, flow = make()
    data = frame(BINARY, b"x" * 1000)
    for start in range(0, len(data), 100):
        assert reader.feed_data(data[start : start + 100]) == (False, b"")
    assert (parser.data, flow.reading) == (data, True)


async def test_others_run_between_a_few_frames_and_the_next() -> None:
    reader, parser, flow = make()
    fragment = frame(CONTINUATION, b"", fin=False)
    reader.feed_data(fragment * 1000)
    assert len(parser.data) == FRAMES_AT_ONCE * len(fragment)
    assert not flow.reading
    reader.feed_data(fragment)  # what had been read already
    await asyncio.sleep(0)
    assert len(parser.data) == 2 * FRAMES_AT_ONCE * len(fragment)
    async with asyncio.timeout(WAIT):
        await parser.until(1001 * len(fragment))
    assert parser.data == fragment * 1001
    assert flow.reading


async def test_a_stream_over_its_allowance_is_not_read() -> None:
    reader, parser, flow = make(rate=10.0)
    reader.feed_data(frame(PING) * 11)
    assert (len(parser.data), flow.reading) == (11 * len(frame(PING)), False)
    reader.feed_data(frame(PING))
    assert len(parser.data) == 11 * len(frame(PING))
    async with asyncio.timeout(WAIT):
        await parser.until(12 * len(frame(PING)))


async def test_nothing_is_parsed_while_the_queue_is_full() -> None:
    reader, parser, flow = make()
    reader.feed_data(frame(PING) * 1000)
    flow.queue_is_full = True
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(parser.data) == FRAMES_AT_ONCE * len(frame(PING))
    flow.queue_is_full = False
    reader.resume()
    async with asyncio.timeout(WAIT):
        await parser.until(1000 * len(frame(PING)))


async def test_a_flood_is_told_once_and_no_longer_parsed() -> None:
    reader, parser, flow = make(rate=1.0)
    told: list[None] = []
    reader.on_flood = lambda: told.append(None)
    reader.feed_data(frame(PING) * 2)
    reader.allowance.flooding = True
    async with asyncio.timeout(WAIT):
        while not flow.reading:
            await asyncio.sleep(0.01)
    reader.feed_data(frame(PING) * 3)
    reader.feed_data(frame(PING) * 3)
    assert len(told) == 1
    assert parser.data == frame(PING) * 5
    assert flow.reading, "unread bytes would reset the connection"


async def test_a_breach_becomes_one_that_the_parser_knows() -> None:
    reader, parser, flow = make()
    before = frame(BINARY, b"x")
    assert reader.feed_data(before + frame(BINARY, b"y", mask=False)) == (True, b"")
    assert parser.data == before + BREACH
    reader.feed_data(before)
    assert parser.data == before + BREACH
    assert flow.reading


async def test_a_breach_that_is_met_later_closes_too() -> None:
    reader, parser, flow = make()
    reader.feed_data(frame(PING) * FRAMES_AT_ONCE + frame(PING, mask=False))
    async with asyncio.timeout(WAIT):
        await parser.until(FRAMES_AT_ONCE * len(frame(PING)) + len(BREACH))
    assert flow.closed


async def test_with_the_connection_goes_what_is_held() -> None:
    reader, parser, _ = make()
    reader.feed_data(frame(PING) * 1000)
    reader.feed_eof()
    size = len(parser.data)
    await asyncio.sleep(0)
    assert (parser.ended, len(parser.data)) == (True, size)
