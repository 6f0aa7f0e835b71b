"""How the client gets a connection."""

from __future__ import annotations

import asyncio
import http
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from inference.items import Item, Result
from inference.model import MAX_OUTPUT
from stream_server.client import connecting as dialing
from stream_server.client.connecting import MAX_ANSWER_BYTES, Backoff, open_connection
from stream_server.errors import ConnectFailed, ConnectionLost, Refused
from stream_server.protocol.server_side import MAX_ID, write_result
from tests.stream_server.peer import Peer, obedient, scripted


def address(url: str) -> str:
    return url.replace("http", "ws") + "/v2/models/echo/stream?window=4"


async def test_the_server_says_ready_and_does_not_compress() -> None:
    async with scripted(obedient, compression="deflate") as url:
        connection, ready = await open_connection(address(url))
        assert ready.model == "echo"
        assert connection.protocol.extensions == []
        await connection.close()


def test_the_longest_answer_is_within_what_the_client_reads() -> None:
    item = Item(1, 2**63, b"", 0.0)
    version, name = "v" * 64, "n" * 64
    answer = Result(item, "x" * MAX_OUTPUT, version, 1e12, 1e12, 256)
    assert len(write_result(answer, "\U0001f600" * MAX_ID, name, 1e12)) <= MAX_ANSWER_BYTES


async def test_missing_server_is_reported_with_what_to_do(unused_tcp_port: int) -> None:
    with pytest.raises(ConnectFailed, match=r"Connection refused\); is it running\? start one") as caught:
        await open_connection(f"ws://127.0.0.1:{unused_tcp_port}/v2/models/echo/stream?window=4")
    assert caught.value.__suppress_context__, "a sentence needs no traceback of what it explains"
    assert "window" not in str(caught.value)


async def test_foreign_websocket_server_is_recognised() -> None:
    async def chat(peer: Peer) -> None:
        await peer.ws.send("hello")

    async with scripted(chat) as url:
        with pytest.raises(ConnectFailed, match="not a message of"):
            await open_connection(address(url))
    async with scripted(obedient, subprotocols=None) as url:
        with pytest.raises(ConnectFailed, match="does not speak"):
            await open_connection(address(url))


async def test_a_binary_message_is_none_of_the_protocol() -> None:
    async def binary(peer: Peer) -> None:
        await peer.ws.send(b"\0")

    async with scripted(binary) as url:
        with pytest.raises(ConnectFailed, match="binary"):
            await open_connection(address(url))


async def test_the_first_message_is_ready() -> None:
    async def hasty(peer: Peer) -> None:
        await peer.result(1)

    async def unkind(peer: Peer) -> None:
        await peer.say("error", seq=1, code="bad_image", message="of no stream", retryable=True)

    async with scripted(hasty, unkind) as url:
        for _ in range(2):
            with pytest.raises(ConnectFailed, match="did not begin with `ready`"):
                await open_connection(address(url))


async def test_a_refusal_carries_its_code() -> None:
    async def refuse(peer: Peer) -> None:
        fields = {"retryable": True, "retry_after_ms": 5000}
        await peer.say("error", code="too_many_streams", message="full", **fields)
        await peer.ws.close(4429)

    async with scripted(refuse) as url:
        with pytest.raises(Refused, match="too_many_streams: full") as caught:
            await open_connection(address(url))
    assert caught.value.code == "too_many_streams"
    assert (caught.value.retryable, caught.value.retry_after_ms) == (True, 5000)


async def test_a_server_that_goes_before_it_says_anything_is_lost() -> None:
    async def go(peer: Peer) -> None:
        peer.cut()

    async with scripted(go) as url:
        with pytest.raises(ConnectionLost):
            await open_connection(address(url))


async def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "OPEN_TIMEOUT_S", 0.05)

    async def silent(peer: Peer) -> None:
        await peer.ws.wait_closed()

    async with scripted(silent) as url:
        with pytest.raises(ConnectFailed, match="did not answer"):
            await open_connection(address(url))


def http_answer(status: int, body: str) -> Callable[[ServerConnection, Request], Response]:
    return lambda ws, _: ws.respond(http.HTTPStatus(status), body)


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (404, "Not here", ConnectFailed, "not a stream server .HTTP status 404."),
        (200, "<html>", ConnectFailed, "HTTP status 200"),
        (503, "<html>", Refused, "http_503"),
        (404, "[]", ConnectFailed, "404"),
        (
            403,
            json.dumps({"error": "not you", "code": "forbidden", "retryable": False}),
            Refused,
            "forbidden: not you",
        ),
    ],
)
async def test_plain_http_answer_is_recognised(
    status: int, body: str, error: type[Exception], words: str
) -> None:
    async with scripted(obedient, process_request=http_answer(status, body)) as url:
        with pytest.raises(error, match=words) as caught:
            await open_connection(address(url))
    if isinstance(caught.value, Refused):
        assert caught.value.retryable is (status == 503)


@given(attempt=st.integers(0, 10_000), seed=st.integers(), base=st.floats(0.001, 10), cap=st.floats(0.1, 60))
def test_a_wait_is_anything_up_to_the_doubled_base_and_the_cap(
    attempt: int, seed: int, base: float, cap: float
) -> None:
    wait_s = Backoff(base_s=base, cap_s=cap).wait_s(attempt, random.Random(seed))
    assert 0 <= wait_s <= cap
    if attempt < 60:
        assert wait_s <= base * 2**attempt


def test_waits_are_spread_over_their_whole_range() -> None:
    """Full jitter: the mean is half of the longest, and clients that lost the same server come back apart."""
    chance = random.Random(1)
    for attempt, longest in ((0, 0.25), (3, 2.0), (20, 30.0)):
        waits = [Backoff().wait_s(attempt, chance) for _ in range(2000)]
        assert sum(waits) / len(waits) == pytest.approx(longest / 2, rel=0.05)
        assert min(waits) < longest * 0.01
        assert max(waits) > longest * 0.99


def test_the_same_chance_gives_the_same_waits() -> None:
    def waits() -> list[float]:
        chance = random.Random(7)
        return [Backoff().wait_s(attempt, chance) for attempt in range(10)]

    assert waits() == waits()


async def reopen_connection(url: str, retry_after_s: float = 0.0, **settings: Any) -> None:
    connection, _ = await dialing.reopen_connection(
        address(url), Backoff(base_s=0.0, **settings), ConnectionLost("cut"), retry_after_s
    )
    await connection.close()


async def cut(peer: Peer) -> None:
    peer.cut()


async def test_dialing_goes_on_until_it_succeeds() -> None:
    async with scripted(cut, cut, cut, obedient) as url:
        await reopen_connection(url)


async def test_dialing_ends_after_so_many_tries_or_so_long() -> None:
    async with scripted(cut) as url:
        with pytest.raises(ConnectionLost, match="did not come back after 3 attempts"):
            await reopen_connection(url, tries=3)
        with pytest.raises(ConnectionLost, match="did not come back"):
            await reopen_connection(url, give_up_s=0.05)


def refusal(**fields: Any) -> Any:
    async def refuse(peer: Peer) -> None:
        await peer.say("error", code="unknown_model", message="gone", **fields)

    return refuse


async def test_dialing_ends_at_a_refusal_that_stays() -> None:
    async with scripted(refusal(retryable=True), refusal(retryable=False), obedient) as url:
        with pytest.raises(Refused, match="gone"):
            await reopen_connection(url)


async def test_each_retry_waits_as_long_as_the_server_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    class Noting:
        """asyncio as `dialing` sees it: by a clock, a wait of none might seem to be one."""

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

        async def sleep(self, seconds: float) -> None:
            waits.append(seconds)

    monkeypatch.setattr(dialing, "asyncio", Noting())
    full = refusal(retryable=True, retry_after_ms=300)
    async with scripted(full, full, cut, obedient) as url:
        await reopen_connection(url, retry_after_s=0.2)
    assert waits == [0.2, 0.3, 0.3, 0.0], "what a server asked for holds once"


async def test_dialing_ends_rather_than_wait_for_longer_than_it_may() -> None:
    async with scripted(refusal(retryable=True, retry_after_ms=60_000)) as url, asyncio.timeout(10):
        with pytest.raises(ConnectionLost, match="after 1 attempts; at last: unknown_model: gone"):
            await reopen_connection(url, give_up_s=30.0)


async def test_a_refusals_connection_is_closed() -> None:
    closed = asyncio.Event()

    async def refuse(peer: Peer) -> None:
        await peer.say("error", code="overloaded", message="full", retryable=True, retry_after_ms=1)
        await peer.ws.wait_closed()  # it does not close by itself
        closed.set()

    async with scripted(refuse) as url, asyncio.timeout(10):
        with pytest.raises(Refused, match="overloaded"):
            await open_connection(address(url))
        await closed.wait()
