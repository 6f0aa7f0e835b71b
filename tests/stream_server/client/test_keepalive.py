"""Slow is not dead, and dead is noticed: what ends a connection, and what is said of it."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.client import keepalive
from stream_server.client.keepalive import LATE_S, SILENCE_S, TICK_S, Silence
from stream_server.client.stream import Backoff, connect
from stream_server.errors import ConnectionLost, Refused
from stream_server.protocol.client_side import Error, Result
from tests.conftest import RunningServer
from tests.stream_server.peer import Peer, obedient, scripted

LARGE = 4 << 20  # bytes


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead server is noticed after half a second."""
    for name, seconds in (("TICK_S", 0.05), ("PING_AFTER_S", 0.15), ("SILENCE_S", 0.5), ("LATE_S", 0.1)):
        monkeypatch.setattr(keepalive, name, seconds)


# How silence is counted.


def test_silence_grows_until_a_byte_moves() -> None:
    silence = Silence(100.0)
    for tick in range(1, 6):
        silence.look(100.0 + tick * TICK_S, moved=False)
        assert silence.seconds == pytest.approx(tick * TICK_S)
    silence.look(100.0 + 6 * TICK_S, moved=True)
    assert silence.seconds == 0.0


def test_a_blocked_loop_is_no_silence() -> None:
    """A program that sleeps for ten minutes finds on waking what came meanwhile; only then one can tell."""
    silence = Silence(0.0)
    silence.look(600.0, moved=False)
    assert silence.seconds == LATE_S < SILENCE_S
    assert silence.blocked_s(600.0) == silence.blocked_s(600.0 + LATE_S) == 600.0
    assert silence.blocked_s(600.0 + LATE_S + 0.1) == pytest.approx(LATE_S + 0.1), "it is blocked again"
    silence.look(600.0 + TICK_S, moved=True)
    silence.look(600.0 + 3 * TICK_S, moved=True)
    assert silence.blocked_s(600.0 + 3 * TICK_S) == 0.0


@given(st.lists(st.floats(0.0, 1000.0), min_size=100, max_size=200))
def test_a_loop_that_is_often_blocked_notices_a_dead_server_all_the_same(waits: list[float]) -> None:
    silence, now = Silence(0.0), 0.0
    for wait in waits:
        now += TICK_S + wait
        silence.look(now, moved=False)
    assert silence.seconds >= SILENCE_S


# Slow is not dead.


async def test_a_large_frame_that_is_read_slowly_keeps_its_stream(impatient: None) -> None:
    """Nothing comes back meanwhile, no pong either: the server reads what was sent before it."""

    async def slow(peer: Peer) -> None:
        await peer.ready(max_item_bytes=LARGE)
        transport: Any = peer.ws.transport
        message = asyncio.create_task(peer.ws.recv())
        while not message.done():
            transport.pause_reading()
            await asyncio.sleep(0.1)
            transport.resume_reading()
            await asyncio.sleep(0.001)
        took.append(asyncio.get_running_loop().time() - began)
        await peer.result(1, {"bytes": len(await message)})
        await peer.ws.wait_closed()

    took: list[float] = []
    began = asyncio.get_running_loop().time()
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)  # it has to be read for more to be sent
    small.bind(("127.0.0.1", 0))
    async with (
        scripted(slow, host=None, port=None, sock=small, max_size=2 * LARGE) as url,
        connect(url, "echo") as stream,
    ):
        await stream.send(bytes(LARGE))
        answer = await anext(stream)
        assert isinstance(answer, Result)
        assert answer.outputs == {"bytes": LARGE}
    assert took[0] > keepalive.SILENCE_S, "it was too fast to show anything"


async def test_an_answer_that_comes_in_drops_keeps_its_stream(impatient: None) -> None:
    async def drip(peer: Peer) -> None:
        await peer.ready()
        await peer.ws.recv()
        numbers = {"age_ms": 2.0, "queue_ms": 0.5, "infer_ms": 1.0, "batch": 1}
        body = {"type": "result", "seq": 1, "outputs": "x" * 60, "model": "echo", "version": "1", **numbers}
        text = json.dumps(body).encode()
        peer.ws.transport.pause_reading()  # so that no pong tells that it lives
        frame = b"\x81\x7e" + len(text).to_bytes(2, "big") + text
        for at in range(0, len(frame), 6):
            peer.ws.transport.write(frame[at : at + 6])
            await asyncio.sleep(0.04)
        peer.ws.transport.resume_reading()
        await peer.ws.wait_closed()

    async with scripted(drip) as url, connect(url, "echo") as stream:
        await stream.send(b"x")
        answer = await anext(stream)
        assert isinstance(answer, Result)


async def test_a_server_that_has_nothing_to_say_is_pinged_and_kept(impatient: None) -> None:
    async with scripted(obedient) as url, connect(url, "echo") as stream:
        await asyncio.sleep(1.2)
        await stream.send(b"x")
        assert isinstance(await anext(stream), Result)


# Dead is noticed.


async def hang(peer: Peer) -> None:
    """Stop reading, as a server that is stopped: its kernel still takes what is sent."""
    await peer.ready(window=8)
    peer.ws.transport.pause_reading()
    await asyncio.sleep(0)
    await peer.ws.wait_closed()


async def test_a_server_that_hangs_is_noticed(impatient: None) -> None:
    async with scripted(hang, close_timeout=0.1) as url, connect(url, "echo") as stream, asyncio.timeout(20):
        for _ in range(8):
            await stream.send(bytes(1000))
        with pytest.raises(ConnectionLost, match=r"8 items unanswered \(no byte moved for ") as caught:
            await anext(stream)
    assert caught.value.unanswered == 8


async def test_a_server_that_hangs_while_a_large_frame_is_sent_is_noticed(impatient: None) -> None:
    async def stuck(peer: Peer) -> None:
        await peer.ready(max_item_bytes=16 * LARGE)
        peer.ws.transport.pause_reading()
        await peer.ws.wait_closed()

    async with scripted(stuck, close_timeout=0.1) as url, connect(url, "echo") as stream, asyncio.timeout(20):
        await stream.send(bytes(16 * LARGE))
        with pytest.raises(ConnectionLost, match=r"1 items unanswered \(no byte moved"):
            await anext(stream)


async def test_a_hung_server_is_left_for_another_one(impatient: None) -> None:
    again = Backoff(base_s=0.0)
    async with (
        scripted(hang, obedient, close_timeout=0.1) as url,
        connect(url, "echo", reconnect=again) as stream,
        asyncio.timeout(20),
    ):
        await stream.send(b"lost")
        lost = await anext(stream)
        assert isinstance(lost, Error)
        assert "no byte moved" in lost.message
        await stream.send(b"x")
        assert isinstance(await anext(stream), Result)


# A program that blocks its event loop.


async def test_a_program_that_blocked_its_loop_is_told_so(
    start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keepalive, "BLOCKED_S", 1.0)
    monkeypatch.setattr(keepalive, "LATE_S", 1.0)
    monkeypatch.setattr(keepalive, "TICK_S", 0.1)
    server: RunningServer = start_server(
        "--workers", "1", "--set", "timeouts.heartbeat_s=0.4", "--model", "echo"
    )
    async with connect(server.url, "echo") as stream:
        await stream.send(b"x")
        await anext(stream)
        time.sleep(3.0)  # the mistake
        with pytest.raises(
            (Refused, ConnectionLost), match=r"blocked its event loop for 3 s.*asyncio.to_thread"
        ):
            await anext(stream)


async def test_a_block_that_the_server_did_not_mind_ends_nothing(
    impatient: None, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own patience does not run out while nobody could read what came."""
    monkeypatch.setattr(keepalive, "SILENCE_S", 2.0)
    async with connect(server.url, "echo") as stream:
        await asyncio.sleep(0.2)
        time.sleep(2.5)  # more than a silent server has
        await stream.send(b"x")
        assert isinstance(await anext(stream), Result)
