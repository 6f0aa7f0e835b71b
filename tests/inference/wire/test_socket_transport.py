"""Both ends of a worker's socket, on real socket pairs. No worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from inference.wire.framing import MAX_ANSWER, MAX_HEADER, PREFIX, frame
from inference.wire.socket_transport import READ_SIZE, SocketTransport
from inference.wire.worker_channel import KEPT, WorkerChannel
from tests.conftest import WAIT

Message = tuple[dict[str, Any], bytes]


def text(header: Any) -> bytes:
    return json.dumps(header).encode()


def framed(header: Any, *body: bytes) -> bytes:
    return b"".join(frame(text(header), body))


def raw(head: bytes, body: bytes = b"") -> bytes:
    return PREFIX.pack(len(head), len(body)) + head + body


@dataclass
class Heard:
    """What a channel reported, and an event for waiting on it."""

    messages: list[Message] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def message(self, header: memoryview, body: memoryview) -> None:
        self.messages.append((json.loads(bytes(header)), bytes(body)))
        self.changed.set()

    def loss(self, why: str) -> None:
        self.lost.append(why)
        self.changed.set()

    async def until(self, *, messages: int = 0, lost: int = 0) -> None:
        async with asyncio.timeout(WAIT):
            while len(self.messages) < messages or len(self.lost) < lost:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def channel(sock: socket.socket, heard: Heard) -> SocketTransport:
    return SocketTransport(sock, asyncio.get_running_loop(), heard.message, heard.loss)


Pair = tuple[socket.socket, socket.socket]


async def test_both_ends_speak_the_same(pair: Pair) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    worker = WorkerChannel(pair[1])
    server.send(text({"model": "m", "lengths": [1, 0, 2]}), [b"a", b"", b"bc"])
    received = await asyncio.to_thread(worker.receive)
    assert received
    assert json.loads(received[0]) == {"model": "m", "lengths": [1, 0, 2]}
    assert received[1] == b"abc"
    worker.send(text({"type": "answers"}), [b"x", b"", b"yz"])
    await heard.until(messages=1)
    assert heard.messages == [({"type": "answers"}, b"xyz")]
    server.close()


async def test_20_mb_pass_whole_and_in_order_through_partial_writes(pair: Pair) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    worker = WorkerChannel(pair[1])
    big = os.urandom(1 << 20) * 20
    parts = [big[i : i + 1_000_001] for i in range(0, len(big), 1_000_001)]

    def answer() -> None:
        while (message := worker.receive()) is not None:
            worker.send(message[0], [bytes(message[1])])

    thread = threading.Thread(target=answer)
    thread.start()
    server.send(text({"n": 0}), parts)
    for n in range(1, 4):
        server.send(text({"n": n}), [bytes([n])])
    await heard.until(messages=4)
    server.close()
    thread.join(10)
    assert not thread.is_alive()
    assert [header["n"] for header, _ in heard.messages] == [0, 1, 2, 3]
    assert heard.messages[0][1] == big
    assert [body for _, body in heard.messages[1:]] == [b"\1", b"\2", b"\3"]
    assert heard.lost == []


async def test_the_loop_goes_on_while_the_other_end_does_not_read(pair: Pair) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    server.send(text({}), [bytes(5 << 20)])
    assert server._unsent
    pair[1].sendall(framed({"still": "here"}))
    await heard.until(messages=1)
    server.close()


async def test_many_messages_in_one_read_come_one_by_one(pair: Pair) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    pair[1].sendall(b"".join(framed({"n": n}, b"x" * n) for n in range(500)))
    await heard.until(messages=500)
    assert heard.messages == [({"n": n}, b"x" * n) for n in range(500)]
    server.close()


async def test_a_message_larger_than_a_read_comes_whole(pair: Pair) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    body = os.urandom(3 * READ_SIZE + 1)
    await asyncio.to_thread(pair[1].sendall, framed({}, body))
    await heard.until(messages=1)
    assert heard.messages == [({}, body)]
    server.close()


@pytest.mark.parametrize("sent", [b"", framed({}, b"whole")[:-1], PREFIX.pack(5, 5)[:3]])
async def test_a_peer_that_closes_is_lost_once(pair: Pair, sent: bytes) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    pair[1].sendall(framed({"first": 1}) + sent)
    pair[1].close()
    await heard.until(lost=1)
    assert heard.messages == [({"first": 1}, b"")]
    assert heard.lost == ["it closed its end"]
    assert pair[0].fileno() == -1
    server.send(text({"too": "late"}))
    server.close()
    await asyncio.sleep(0)
    assert len(heard.lost) == 1


async def test_broken_framing_is_a_loss_after_the_messages_before_it(pair: Pair) -> None:
    heard = Heard()
    channel(pair[0], heard)
    pair[1].sendall(framed({"good": 1}) + PREFIX.pack(MAX_HEADER + 1, 0) + framed({"unheard": 1}))
    await heard.until(lost=1)
    assert heard.messages == [({"good": 1}, b"")]
    assert heard.lost == [f"it broke the framing: a message of {MAX_HEADER + 1} + 0 bytes"]


async def test_an_answer_over_the_limit_is_a_loss(pair: Pair) -> None:
    heard = Heard()
    channel(pair[0], heard)
    pair[1].sendall(PREFIX.pack(2, MAX_ANSWER + 1) + b"{}")
    await heard.until(lost=1)
    assert heard.lost[0].startswith("it broke the framing")


async def test_writing_to_a_peer_that_has_gone_is_a_loss_but_not_from_within_send(pair: Pair) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    pair[1].close()
    server.send(text({}), [b"payload"])
    assert heard.lost == []
    await heard.until(lost=1)
    assert len(heard.lost) == 1


async def test_closing_after_a_failed_write_is_no_loss(pair: Pair) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    pair[1].close()
    server.send(text({}), [b"payload"])
    server.close()
    await asyncio.sleep(0.01)
    assert heard.lost == []


async def test_a_socket_that_takes_nothing_gets_the_message_later(pair: Pair) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    before = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            before += pair[0].send(b"x")
    server.send(text({"n": 1}), [b"", b"body"])
    expected = framed({"n": 1}, b"body")
    pair[1].settimeout(10)
    got = b""
    while len(got) < before + len(expected):
        got += await asyncio.to_thread(pair[1].recv, 1 << 20)
    assert got == b"x" * before + expected
    assert heard.lost == []
    server.close()


async def test_a_peer_that_goes_in_the_middle_of_a_write_is_lost_once(pair: Pair) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    server.send(text({}), [bytes(5 << 20)])
    pair[1].recv(1000)
    pair[1].close()
    await heard.until(lost=1)
    await asyncio.sleep(0)
    assert len(heard.lost) == 1


@pytest.mark.parametrize(("reads", "unread"), [(0, True), (5, True), (None, False)])
async def test_a_loss_tells_whether_all_had_been_read(pair: Pair, reads: int | None, unread: bool) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    server.send(text({"a": 1}), [bytes(100)])
    if reads is None:
        assert WorkerChannel(pair[1]).receive()
    elif reads:
        pair[1].recv(reads)
    pair[1].close()
    await heard.until(lost=1)
    assert server.unread is unread


async def test_what_was_never_written_is_unread_though_all_else_was_read(pair: Pair) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    server.send(text({}), [bytes(4 << 20)])
    pair[1].setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while pair[1].recv(1 << 20):
            pass
    pair[1].close()
    server.finish()
    assert heard.lost == ["it closed its end"]
    assert server.unread


async def test_what_is_not_written_before_the_closing_is_unread(pair: Pair) -> None:
    server = channel(pair[0], Heard())
    server.send(text({}), [bytes(4 << 20)])
    server.finish()
    assert not server.unread
    server.close()
    assert server.unread


async def test_what_cannot_be_written_is_unread(pair: Pair) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    pair[1].close()
    server.send(text({}), [b"late"])
    assert server.unread
    await heard.until(lost=1)


async def test_finishing_passes_on_what_was_said_last_and_then_the_loss(pair: Pair) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    for part in frame(text({"a": 1})), frame(text({"b": 2}), [bytes(READ_SIZE // 2)]):
        pair[1].sendall(b"".join(part))
    pair[1].close()
    server.finish()
    assert [header for header, _ in heard.messages] == [{"a": 1}, {"b": 2}]
    assert heard.lost == ["it closed its end"]
    server.finish()
    assert len(heard.lost) == 1


async def test_finishing_waits_for_nothing(pair: Pair) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    server.finish()
    assert heard.lost == []
    server.close()


async def test_closing_stops_the_callbacks(pair: Pair) -> None:
    heard = Heard()
    server = channel(pair[0], heard)
    pair[1].sendall(framed({"unheard": 1}))
    server.close()
    server.close()
    server.send(text({"unsent": 1}))
    await asyncio.sleep(0.01)
    assert heard.messages == []
    assert heard.lost == []
    with pytest.raises(ConnectionResetError):  # Linux says so of a socket closed with unread bytes in it
        pair[1].recv(10)


async def test_closing_in_a_callback_stops_the_messages_after_it(pair: Pair) -> None:
    got = []

    def close_at_once(header: memoryview, _: memoryview) -> None:
        got.append(json.loads(bytes(header)))
        server.close()

    heard = Heard()
    server = SocketTransport(pair[0], asyncio.get_running_loop(), close_at_once, heard.loss)
    pair[1].sendall(framed({"n": 1}) + framed({"n": 2}) + PREFIX.pack(MAX_HEADER + 1, 0))
    async with asyncio.timeout(10):
        while not got:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert got == [{"n": 1}]
    assert heard.lost == []


@pytest.mark.parametrize("error", [OverflowError, KeyError, RecursionError])
async def test_a_message_that_cannot_be_taken_is_a_loss_so_that_nothing_piles_up(
    pair: Pair, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    got = []

    def fail(header: memoryview, _: memoryview) -> None:
        got.append(json.loads(bytes(header)))
        raise error("of our own")

    heard = Heard()
    server = SocketTransport(pair[0], asyncio.get_running_loop(), fail, heard.loss)
    pair[1].sendall(framed({"n": 1}) + framed({"n": 2}))
    await heard.until(lost=1)
    assert got == [{"n": 1}]
    assert heard.lost == ["the server failed to take its message"]
    assert pair[0].fileno() == -1, "it is read no more"
    assert [record.exc_info is not None for record in caplog.records] == [True], (
        "told once, with its traceback"
    )
    server.finish()
    assert len(heard.lost) == 1


@pytest.mark.parametrize("sent", [b"", b"\0", PREFIX.pack(2, 3), PREFIX.pack(2, 3) + b"{}ab"])
def test_a_worker_reads_the_end_of_the_server_as_none(pair: Pair, sent: bytes) -> None:
    pair[0].sendall(sent)
    pair[0].close()
    assert WorkerChannel(pair[1]).receive() is None


def test_a_worker_reads_a_server_that_left_its_bytes_unread_as_none(pair: Pair) -> None:
    worker = WorkerChannel(pair[1])
    worker.send(text({"unread": 1}))
    pair[0].close()
    assert worker.receive() is None


def test_a_worker_cannot_write_to_a_server_that_has_gone(pair: Pair) -> None:
    pair[0].close()
    with pytest.raises(BrokenPipeError):
        WorkerChannel(pair[1]).send(text({}))


def test_a_worker_sends_256_parts_whole(pair: Pair) -> None:
    parts = [bytes([n]) * 20_000 for n in range(256)]
    thread = threading.Thread(target=WorkerChannel(pair[1]).send, args=(text({"n": 1}), parts))
    thread.start()
    received = WorkerChannel(pair[0]).receive()
    thread.join(10)
    assert received
    assert received[1] == b"".join(parts)


@pytest.mark.parametrize("size", [300_000, 5_000_000])
@pytest.mark.parametrize("words", [1, 60_000])
def test_a_worker_without_room_for_a_message_reads_its_header_and_goes_on(
    pair: Pair, size: int, words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(what: int | memoryview) -> bytearray:
        if what == size + len(framed(header)):
            raise MemoryError
        return bytearray(what)

    header = {"words": "word " * words}
    worker = WorkerChannel(pair[1])
    monkeypatch.setattr("inference.wire.worker_channel.bytearray", scarce, raising=False)
    sent = framed(header, bytes(size)) + framed({"n": 2}, b"next")
    thread = threading.Thread(target=pair[0].sendall, args=(sent,))
    thread.start()
    first = worker.receive()
    second = worker.receive()
    thread.join(10)
    assert first == (text(header), None)
    assert second
    assert (json.loads(second[0]), bytes(second[1] or b"")) == ({"n": 2}, b"next")


def test_a_worker_keeps_its_buffer_for_the_next_batch_but_no_huge_one(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def noting(size: int) -> bytearray:
        made.append(size)
        return bytearray(size)

    worker = WorkerChannel(pair[1])
    monkeypatch.setattr("inference.wire.worker_channel.bytearray", noting, raising=False)
    bodies = [bytes([n]) * size for n, size in enumerate((1_000_000, 900_000, KEPT, 10, KEPT))]
    thread = threading.Thread(target=lambda: [pair[0].sendall(framed({}, body)) for body in bodies])
    thread.start()
    for body in bodies:
        received = worker.receive()
        assert received
        assert received[1] == body
    thread.join(10)
    assert made == [1_000_000 + len(framed({})), *[KEPT + len(framed({}))] * 2]
