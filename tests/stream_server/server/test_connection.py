"""A running server and its streams: bad input, broken connections, floods, and clients that do not read.

Whatever one client does, its neighbours go on being answered and no worker ends: fixtures watch both.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import weakref
from collections.abc import AsyncIterator, Callable
from importlib import resources
from typing import Any
from unittest.mock import Mock, patch

import aiohttp
import aiohttp.web
import psutil
import pytest

from stream_server import Result, connect
from stream_server.protocol import server_side as protocol
from stream_server.protocol.client_side import Answer
from stream_server.server.config import Limits
from stream_server.server.config_file import read_settings
from stream_server.server.connection import LONG_TEXT, READ_AT_ONCE, Connection
from stream_server.server.server import Server
from stream_server.server.session import MAX_META_BYTES
from tests.conftest import WAIT, RunningServer
from tests.stream_server.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Wire, dial, frame

ECHO, FACES, SPAM = (f"/v2/models/{name}/stream" for name in ("echo", "faces", "spam"))
PATIENT_STREAM = "/v2/models/patient/stream"
PATIENT = "--model=patient=tests.inference.sample_models:Patient"
"""A model that sleeps and answers as it is told, one item at a time."""


SWELLS = "--model=swells=tests.stream_server.sample_models:Swells"
SWELLS_STREAM = "/v2/models/swells/stream"

END = '{"type": "end"}'

SAMPLE = (resources.files("web_client") / "sample.jpg").read_bytes()


def patched(jpeg: bytes, width: int, height: int) -> bytes:
    """The same JPEG with another size in its header (SOF0: marker, length, precision, height, width)."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + jpeg[at + 4 :]


async def answer(ws: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await ws.receive_str())
    return message


async def close_code(ws: aiohttp.ClientWebSocketResponse) -> int:
    message = await ws.receive()
    assert message.type is aiohttp.WSMsgType.CLOSE, message
    code: int = message.data
    return code


async def until(happened: Callable[[], bool]) -> None:
    """Wait for something that only asking can tell."""
    while not await asyncio.to_thread(happened):
        await asyncio.sleep(0.02)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with asyncio.timeout(3 * WAIT), aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def neighbours(server: RunningServer, http: aiohttp.ClientSession) -> AsyncIterator[None]:
    """Streams that keep asking, one item at a time, and get a result for every one."""

    async def ask(path: str, item: bytes | str, answered: asyncio.Event) -> None:
        async with http.ws_connect(server.url + path) as ws:
            await answer(ws)
            seq = 0
            while not (over.is_set() and answered.is_set()):
                await (ws.send_bytes(item) if isinstance(item, bytes) else ws.send_str(item))
                seq += 1
                said = await answer(ws)
                assert (said["type"], said["seq"]) == ("result", seq)
                answered.set()
                await asyncio.sleep(0.005)
            await ws.send_str(END)
            assert await answer(ws) == {
                "type": "end",
                "received": seq,
                "results": seq,
                "dropped": 0,
                "errors": 0,
            }
            assert await close_code(ws) == 1000

    over = asyncio.Event()
    items = ((ECHO, b"x"), (FACES, SAMPLE), (SPAM, '{"type": "item", "text": "Shall we meet?"}'))
    answered = [asyncio.Event() for _ in items]
    tasks = [asyncio.create_task(ask(*item, event)) for item, event in zip(items, answered, strict=True)]
    await asyncio.gather(*(event.wait() for event in answered))
    yield
    for event in answered:
        event.clear()  # each is answered once more, whatever happened in between
    over.set()
    await asyncio.gather(*tasks)


async def test_a_weight_is_a_share_of_the_workers(start_server: Callable[..., RunningServer]) -> None:
    """Two streams on one worker: from the moment that both have a window waiting until one has none left."""
    server = start_server("--workers=1", "--model=numbered=tests.stream_server.sample_models:Numbered")

    async def results(answers: AsyncIterator[Answer]) -> list[Result]:
        return [said async for said in answers if isinstance(said, Result)]

    async with (
        asyncio.timeout(3 * WAIT),
        connect(server.url, "numbered") as first,
        connect(server.url, "numbered", window=64) as whole,
        connect(server.url, "numbered", window=64, weight=0.25) as quarter,
    ):
        # what an item costs is estimated by those before; in the beginning by the warm-up, of which we know nothing
        before = [await results(stream.process([b"x"] * 40)) for stream in (whole, quarter)]
        await first.send(b"stop")
        worker = server.stopped_worker()
        for stream in (whole, quarter):
            for _ in range(64):
                await stream.send(b"x")
        await until(lambda: total(server, "stream_items_waiting{") == 128)
        worker.resume()
        for stream in (whole, quarter):
            await stream.end()
        after = [await results(stream) for stream in (whole, quarter)]
    assert [len(answers) for answers in after] == [64, 64]
    last = min(answers[-1].outputs for answers in after)
    # the share is one of time: an item during which the machine stood still is charged with that
    spent = [sum(said.infer_ms for said in answers if said.outputs <= last) for answers in after]
    longest = [
        max(said.infer_ms for said in (*early, *late)) for early, late in zip(before, after, strict=True)
    ]
    # an item runs whole, on an estimate, and one may be under way at either end
    assert abs(spent[0] - 4 * spent[1]) <= 3 * (longest[0] + 4 * longest[1])


@pytest.mark.parametrize("workers", [1, 2])
async def test_items_that_end_workers_end_their_stream_and_no_other(
    workers: int, start_server: Callable[..., RunningServer], http: aiohttp.ClientSession
) -> None:
    """A window of them: the first is tried twice; the end after that is the stream's, and its last word."""
    server = start_server(f"--workers={workers}", PATIENT)
    async with http.ws_connect(server.url + PATIENT_STREAM) as neighbour:
        await answer(neighbour)
        async with http.ws_connect(server.url + PATIENT_STREAM) as ws:
            await answer(ws)
            for _ in range(8):
                await ws.send_bytes(b"exit 1")
            said = [await answer(ws)]
            while "seq" in said[-1]:
                said.append(await answer(ws))
            assert await close_code(ws) == 1011
        assert [error["seq"] for error in said[:-1]] == list(range(1, len(said)))
        assert {error["code"] for error in said[:-1]} <= {"worker_lost", "poison"}
        assert [error["code"] for error in said[-2:]] == ["poison", "poison"]
        assert not any(error["retryable"] for error in said)
        # before the first is proven each worker may end with one; one more end condemns, while the others have one
        assert 3 <= server.metrics()["stream_worker_deaths_total"] <= workers + 2 + (workers - 1)
        await neighbour.send_bytes(b"answer yes")
        assert (await answer(neighbour))["type"] == "result"


BAD_IMAGES = {
    "empty": (b"", "empty"),
    "no image": (b"no image", "unsupported_image"),
    "zeros": (bytes(1000), "unsupported_image"),
    "markup": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_image"),
    "a GIF": (b"GIF89a\x01\x00\x01\x00\x80\x00\x00", "unsupported_image"),
    "the beginning of a JPEG": (SAMPLE[:3], "bad_image"),
    "a JPEG's header alone": (SAMPLE[:620], "bad_image"),
    "half a JPEG": (SAMPLE[: len(SAMPLE) // 2], "bad_image"),
    "a JPEG that lacks its last pixels": (SAMPLE[:-200], "bad_image"),
    "a JPEG with a hole": (SAMPLE[:158] + SAMPLE[400:], "bad_image"),
    "30000x30000 by its header": (patched(SAMPLE, 30000, 30000), "too_large"),
    "65535x1 by its header": (patched(SAMPLE, 65535, 1), None),
    "0x0 by its header": (patched(SAMPLE, 0, 0), "bad_image"),
}


@pytest.mark.usefixtures("neighbours")
@pytest.mark.parametrize(("payload", "code"), BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
async def test_a_bad_image_costs_itself_alone(
    payload: bytes, code: str | None, server: RunningServer, http: aiohttp.ClientSession
) -> None:
    async with http.ws_connect(server.url + FACES) as ws:
        await answer(ws)
        await ws.send_bytes(payload)
        said = await answer(ws)
        assert said["seq"] == 1
        if code is not None:  # else a decoder may make something of it, or not
            assert (said["type"], said["code"], said["retryable"]) == ("error", code, False)
        await ws.send_bytes(SAMPLE)
        said = await answer(ws)
        assert (said["type"], said["seq"], len(said["outputs"]["faces"])) == ("result", 2, 1)


BAD_TEXTS = {
    "empty": "",
    "no JSON": "hello",
    "cut off": '{"type": "item", "text": "He',
    "nested 100,000 deep": "[" * 100_000,
    "an item nested 50,000 deep": '{"type": "item", "text": ' + "[" * 50_000 + "]" * 50_000 + "}",
    "huge": json.dumps(list(range(20_000))),
    "huge, with a type": json.dumps({"type": "item", "text": "a", "more": "x" * 100_000}),
    "a number of 5,000 digits": '{"type": "item", "text": ' + "9" * 5000 + "}",
    "no number": '{"type": "item", "text": NaN}',
    "an unknown field": '{"type": "item", "text": "a", "volume": 11}',
    "an unknown type": '{"type": "items", "text": "a"}',
    "a number for a text": '{"type": "item", "text": 1}',
    "a NUL": "\0",
}


@pytest.mark.usefixtures("neighbours")
@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=BAD_TEXTS.keys())
async def test_a_malformed_message_is_said_so_and_the_stream_lives_on(
    text: str, server: RunningServer, http: aiohttp.ClientSession
) -> None:
    async with http.ws_connect(server.url + SPAM) as ws:
        await answer(ws)
        await ws.send_str(text)
        said = await answer(ws)
        assert (said["type"], said["code"], said.get("seq")) == ("error", "malformed", None)
        await ws.send_str('{"type": "item", "text": "Shall we meet at noon?"}')
        said = await answer(ws)
        assert (said["type"], said["seq"], set(said["outputs"]["scores"])) == ("result", 1, {"spam", "ham"})


STRANGE_TEXTS = {
    "half a surrogate pair": '"\\ud800"',
    "a NUL": '"\\u0000"',
    "right to left": '"\\u202e\\u200b\\u2066"',
    "one word of 100 KB": json.dumps("x" * 100_000),
    "a great many words": json.dumps("a !" * 30_000),
}


@pytest.mark.usefixtures("neighbours")
@pytest.mark.parametrize("text", STRANGE_TEXTS.values(), ids=STRANGE_TEXTS.keys())
async def test_a_strange_text_is_a_text(
    text: str, server: RunningServer, http: aiohttp.ClientSession
) -> None:
    async with http.ws_connect(server.url + SPAM) as ws:
        await answer(ws)
        await ws.send_str(f'{{"type": "item", "text": {text}}}')
        said = await answer(ws)
        assert said["type"] == "result"
        assert set(said["outputs"]["scores"]) == {"spam", "ham"}


@pytest.mark.usefixtures("neighbours")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        (FACES, '{"type": "item", "text": "hello"}'),
        (ECHO, '{"type": "item", "data": 1}'),
        (SPAM, SAMPLE),
        (SPAM, '{"type": "item", "data": 1}'),
        (SPAM, '{"type": "meta", "id": "1"}'),
    ],
)
async def test_the_wrong_kind_closes(
    path: str, message: str | bytes, server: RunningServer, http: aiohttp.ClientSession
) -> None:
    async with http.ws_connect(server.url + path) as ws:
        await answer(ws)
        await (ws.send_str(message) if isinstance(message, str) else ws.send_bytes(message))
        said = await answer(ws)
        assert (said["code"], said.get("seq")) == ("wrong_kind", None)
        assert await close_code(ws) == 1003


class TestSize:
    """Exactly at the limit is in, one byte over it is out."""

    async def refused(
        self, ws: aiohttp.ClientWebSocketResponse, code: str = "too_large", close: int = 1009
    ) -> None:
        said = await answer(ws)
        assert (said["type"], said["code"], said.get("seq")) == ("error", code, None)
        assert await close_code(ws) == close

    async def test_binary(self, server: RunningServer, http: aiohttp.ClientSession) -> None:
        async with http.ws_connect(server.url + ECHO) as ws:
            limit = (await answer(ws))["max_item_bytes"]
            assert limit == Limits().max_item_bytes
            await ws.send_bytes(bytes(limit))
            assert (await answer(ws))["outputs"] == {"bytes": limit}
            await ws.send_bytes(bytes(limit + 1))
            await self.refused(ws)

    @pytest.mark.parametrize("letter", ["x", "\u00fc", "\u732b", "\U0001f408"])
    async def test_text(self, letter: str, server: RunningServer, http: aiohttp.ClientSession) -> None:
        async with http.ws_connect(server.url + SPAM) as ws:
            limit = (await answer(ws))["max_item_bytes"]
            assert limit == Limits().max_text_bytes
            text = letter * ((limit - 40) // len(letter.encode()))
            item = json.dumps({"type": "item", "text": text}, ensure_ascii=False)
            item += " " * (limit - len(item.encode()))
            await ws.send_str(item)
            assert (await answer(ws))["type"] == "result"
            await ws.send_str(item + " ")
            await self.refused(ws)

    async def test_text_beside_binary(self, server: RunningServer, http: aiohttp.ClientSession) -> None:
        async with http.ws_connect(server.url + ECHO) as ws:
            await answer(ws)
            meta = '{"type": "meta", "id": "a"}'.ljust(MAX_META_BYTES)
            await ws.send_str(meta)
            await ws.send_bytes(b"x")
            assert (await answer(ws))["id"] == "a"
            await ws.send_str(meta + " ")
            await self.refused(ws, "wrong_kind", 1003)

    async def test_a_size_that_is_claimed_counts(self, server: RunningServer) -> None:
        async with asyncio.timeout(WAIT), dial(server.url, ECHO) as wire:
            await wire.send(b"\x82\xff" + (1 << 62).to_bytes(8, "big") + bytes(4))
            assert await wire.close_code() == 1009

    async def test_fragments_add_up(self, server: RunningServer) -> None:
        part = bytes(1 << 20)
        async with asyncio.timeout(WAIT), dial(server.url, ECHO) as wire:
            await wire.send(frame(BINARY, part, fin=False), *[frame(CONTINUATION, part, fin=False)] * 7)
            await wire.send(frame(CONTINUATION, b"x"))
            assert (await wire.message())["code"] == "too_large"
            assert await wire.close_code() == 1009


class TestFrames:
    """What may be sent in other ways than libraries do, and what may not."""

    async def test_a_message_of_one_byte_fragments_is_whole(self, server: RunningServer) -> None:
        async with asyncio.timeout(WAIT), dial(server.url, ECHO) as wire:
            frames = [frame(BINARY, b"x", fin=False), *[frame(CONTINUATION, b"x", fin=False)] * 150]
            await wire.send(*frames, *[frame(CONTINUATION, b"", fin=False)] * 150, frame(CONTINUATION, b"x"))
            assert (await wire.message())["outputs"] == {"bytes": 152}

    async def test_a_frame_that_comes_byte_by_byte_is_whole(self, server: RunningServer) -> None:
        async with asyncio.timeout(WAIT), dial(server.url, ECHO) as wire:
            for byte in frame(BINARY, b"hello"):
                await wire.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await wire.message())["outputs"] == {"bytes": 5}

    async def test_pings_between_fragments_are_answered_at_once(self, server: RunningServer) -> None:
        async with asyncio.timeout(WAIT), dial(server.url, ECHO) as wire:
            await wire.send(frame(BINARY, b"he", fin=False), frame(PING, b"one"))
            assert await wire.receive() == (PONG, b"one")
            await wire.send(frame(CONTINUATION, b"ll", fin=False), frame(PONG, b"unasked"), frame(PING, b""))
            assert await wire.receive() == (PONG, b"")
            await wire.send(frame(CONTINUATION, b"o"))
            assert (await wire.message())["outputs"] == {"bytes": 5}

    @pytest.mark.usefixtures("neighbours")
    async def test_of_a_flood_of_pings_the_newest_are_answered(self, server: RunningServer) -> None:
        """What waits to be sent to a client that only pings is one pong."""
        async with asyncio.timeout(WAIT), dial(server.url, ECHO) as wire:
            flood = asyncio.create_task(wire.send(*[frame(PING, b"%d" % n) for n in range(400)]))
            answered = [-1]
            while answered[-1] < 399:
                opcode, payload = await wire.receive()
                assert opcode == PONG
                answered.append(int(payload))
            await flood
        assert answered == sorted(set(answered)), "none is answered twice, or after a newer one"
        assert len(answered) < 400

    @pytest.mark.parametrize(
        "payload", [b"\xff\xfe", b'{"type": "item", "text": "\xed\xa0\x80"}', b"\xc3", b"\xc0\xaf"]
    )
    async def test_a_text_that_is_no_utf8_closes(self, payload: bytes, server: RunningServer) -> None:
        async with asyncio.timeout(WAIT), dial(server.url, SPAM) as wire:
            await wire.send(frame(TEXT, payload))
            assert await wire.close_code() == 1007

    @pytest.mark.parametrize(
        "broken",
        [
            frame(BINARY, b"x", reserved=4),
            frame(BINARY, b"x", reserved=2),
            frame(3, b"x"),
            frame(11),
            frame(PING, b"x" * 126),
            frame(PING, b"x", fin=False),
            frame(CONTINUATION, b"x"),
            frame(BINARY, b"x", fin=False) + frame(BINARY, b"x"),
            frame(CLOSE, b"\x03"),
            frame(CLOSE, b"\x03\xec"),
            frame(BINARY, b"x", mask=False),
            frame(PING, mask=False),
            b"\x82\xfe\x00\x01" + bytes(4) + b"x",
            b"\x82\xff" + (300).to_bytes(8, "big") + bytes(4 + 300),
        ],
        ids=[
            "compressed",
            "reserved bit",
            "reserved opcode",
            "reserved control",
            "long ping",
            "fragmented ping",
            "continues nothing",
            "a message within another",
            "half a close code",
            "a close code nobody may send",
            "no mask",
            "a ping without a mask",
            "a length of two bytes too many",
            "a length of eight bytes too many",
        ],
    )
    @pytest.mark.usefixtures("neighbours")
    async def test_a_breach_of_the_websocket_protocol_closes(
        self, broken: bytes, server: RunningServer
    ) -> None:
        async with asyncio.timeout(WAIT), dial(server.url, ECHO) as wire:
            await wire.send(broken)
            assert await wire.close_code() == 1002
            await wire.closed()


def total(server: RunningServer, prefix: str) -> float:
    return sum(value for name, value in server.metrics().items() if name.startswith(prefix))


def streams(server: RunningServer) -> float:
    return total(server, "streams{")


def resident(server: RunningServer) -> int:
    assert server.process
    size: int = psutil.Process(server.process.pid).memory_info().rss
    return size


def steady(server: RunningServer) -> Callable[[], bool]:
    """Asks whether the server's memory has not grown for a while; if that is too early, a test sees less."""
    seen: list[int] = []

    def ask() -> bool:
        seen.append(resident(server) >> 20)
        return len(seen) > 50 and max(seen[-50:]) <= seen[-50]

    return ask


class TestLeaving:
    """Clients that go without a word cost nobody anything, and leave nothing behind."""

    @pytest.mark.usefixtures("neighbours")
    async def test_in_the_middle_of_a_frame(self, server: RunningServer) -> None:
        before = streams(server)
        async with asyncio.timeout(WAIT), dial(server.url, FACES) as wire:
            await wire.send(frame(BINARY, SAMPLE)[:-1000])
            wire.reset()
            await until(lambda: streams(server) == before)

    @pytest.mark.usefixtures("neighbours")
    async def test_in_the_middle_of_a_message(self, server: RunningServer) -> None:
        before = streams(server)
        async with asyncio.timeout(WAIT), dial(server.url, ECHO) as wire:
            await wire.send(frame(BINARY, b"x", fin=False))
            wire.reset()
            await until(lambda: streams(server) == before)

    @pytest.mark.parametrize("item", [SAMPLE, SAMPLE[:5000]], ids=["good", "bad"])
    @pytest.mark.usefixtures("neighbours")
    async def test_with_items_on_their_way(self, item: bytes, server: RunningServer) -> None:
        """The fixture checks that each of them is counted, though nobody is left to be told."""
        before = streams(server)
        async with asyncio.timeout(WAIT):
            for _ in range(10):
                async with dial(server.url, FACES) as wire:
                    await wire.item(item)
                    await asyncio.sleep(0.002)
                    wire.reset()
            await until(lambda: streams(server) == before)
            await until(lambda: total(server, 'stream_items_waiting{model="faces') == 0)

    async def test_what_waits_is_not_run(self, start_server: Callable[..., RunningServer]) -> None:
        server = start_server("--workers=1", PATIENT)
        async with asyncio.timeout(WAIT), dial(server.url, "/v2/models/patient/stream") as wire:
            for item in [b"stop"] + [b"sleep 0"] * 9:
                await wire.item(item)
            await until(lambda: total(server, "stream_items_received") == 10)
            worker = server.stopped_worker()
            wire.reset()
            await until(lambda: streams(server) == 0)
            worker.resume()  # not before: however late all this is, the first still runs
            await until(lambda: total(server, "stream_items_running") == 0)
            metrics = server.metrics()
        assert metrics['stream_items_results_total{model="patient"}'] == 1
        assert metrics['stream_items_dropped_total{model="patient",reason="cancelled"}'] == 9

    async def test_what_it_held_is_there_for_others(self, start_server: Callable[..., RunningServer]) -> None:
        server = start_server("--workers=1", PATIENT, "--set=limits.max_unanswered_bytes=1000000")
        item = b"sleep 50".ljust(400_000)
        async with asyncio.timeout(WAIT):
            async with dial(server.url, PATIENT_STREAM) as wire:
                for _ in range(2):
                    await wire.item(item)
                await until(lambda: total(server, "stream_items_received") == 2)
                wire.reset()
                await until(lambda: streams(server) == 0)
            async with dial(server.url, PATIENT_STREAM, limit=1 << 22) as wire:
                for _ in range(4):
                    wire.writer.write(frame(BINARY, item))
                await until(lambda: total(server, "stream_items_waiting") == 3)

    async def test_a_polite_close_is_answered_with_items_running(
        self, start_server: Callable[..., RunningServer]
    ) -> None:
        server = start_server("--workers=1", PATIENT)
        async with asyncio.timeout(WAIT), dial(server.url, "/v2/models/patient/stream") as wire:
            await wire.item(b"sleep 50")  # longer than we wait
            await wire.send(frame(CLOSE, b"\x03\xe8"))
            assert await wire.close_code() == 1000
            await wire.closed()

    async def test_a_close_that_is_never_answered_ends_all_the_same(self, server: RunningServer) -> None:
        async with asyncio.timeout(WAIT), dial(server.url, ECHO) as wire:
            await wire.say(END)
            assert await wire.close_code() == 1000
            await wire.closed()


class TestFlood:
    """More than can be answered: `latest` says what it drops, `queue` stops reading."""

    @pytest.mark.parametrize("window", [1, 3])
    @pytest.mark.usefixtures("neighbours")
    async def test_latest(self, window: int, server: RunningServer, http: aiohttp.ClientSession) -> None:
        async with http.ws_connect(f"{server.url}{FACES}?window={window}") as ws:
            await answer(ws)

            async def flood() -> None:
                for _ in range(300):
                    await ws.send_bytes(SAMPLE)
                await ws.send_str(END)

            flooding = asyncio.create_task(flood())
            said = [await answer(ws) for _ in range(300)]
            await flooding
            end = await answer(ws)
            assert await close_code(ws) == 1000
        assert [message["seq"] for message in said] == list(range(1, 301))
        results = [message for message in said if message["type"] == "result"]
        assert {m["reason"] for m in said if m["type"] == "dropped"} == {"superseded"}
        assert said[-1]["type"] == "result", "the newest is always answered"
        assert end == {
            "type": "end",
            "received": 300,
            "results": len(results),
            "dropped": 300 - len(results),
            "errors": 0,
        }

    async def test_old_items_expire(self, start_server: Callable[..., RunningServer]) -> None:
        server = start_server("--workers=1", PATIENT)
        async with (
            asyncio.timeout(WAIT),
            dial(server.url, "/v2/models/patient/stream?max_age_ms=100") as wire,
        ):
            await wire.say('{"type": "meta", "max_age_ms": 60000}')
            await wire.item(b"stop")
            worker = server.stopped_worker()
            for _ in range(2):
                await wire.item(b"sleep 0")
            await until(lambda: total(server, "stream_items_dropped") == 2)
            worker.resume()
            assert (await wire.message())["type"] == "result"
            for seq in (2, 3):
                assert await wire.message() == {"type": "dropped", "seq": seq, "reason": "expired"}

    async def test_queue(self, start_server: Callable[..., RunningServer]) -> None:
        """A thousand items from a client that does not read meanwhile: nothing is lost, and no pile grows."""
        server = start_server("--workers=1", PATIENT)
        path = "/v2/models/patient/stream"
        async with (
            asyncio.timeout(2 * WAIT),
            dial(server.url, path, receive_buffer=1 << 13, limit=1 << 11) as wire,
        ):
            item = frame(BINARY, b"sleep 0.001".ljust(20_000))
            sending = asyncio.create_task(wire.send(*[item] * 1000))
            most = 0.0
            while not sending.done() or most == 0:
                waiting = await asyncio.to_thread(total, server, "stream_items_waiting{")
                running = await asyncio.to_thread(total, server, "stream_items_running{")
                most = max(most, waiting + running)
                if total(server, "stream_items_received") > 200:
                    break
                await asyncio.sleep(0.01)
            assert not sending.done(), (
                "the server takes no more than it can answer, so the sender has to wait"
            )
            assert 0 < most <= 18, "a window and one, and one more that is answered while they are counted"
            seqs = [(await wire.message())["seq"] for _ in range(1000)]
            await sending
            assert seqs == list(range(1, 1001))
            await wire.say(END)
            assert await wire.message() == {
                "type": "end",
                "received": 1000,
                "results": 1000,
                "dropped": 0,
                "errors": 0,
            }


BIG = b"answer " + b"x" * 1_000_000
"""An item whose answer is a megabyte."""


@pytest.mark.parametrize(
    ("first", "flood"),
    [
        (b"", frame(PING)),
        (b"", frame(PONG)),
        (frame(BINARY, b"x", fin=False), frame(CONTINUATION, b"", fin=False)),
        (b"", frame(TEXT, b'{"type": "meta"}')),
        (b"", frame(TEXT, b"x")),
        (b"", frame(BINARY)),
    ],
    ids=["pings", "pongs", "fragments", "metas", "malformed", "empty"],
)
async def test_a_flood_of_what_is_no_item_is_closed(first: bytes, flood: bytes) -> None:
    """After a while in which it is read as slowly as it may send; and nobody else notices."""
    settings = {"server": {"port": 0, "workers": 1, "models": ["echo"]}, "limits": {"max_overhead_per_s": 20}}
    server = Server(read_settings(settings))
    await server.start()
    try:
        async with asyncio.timeout(WAIT), dial(server.url, ECHO) as wire, dial(server.url, ECHO) as other:
            with patch("stream_server.server.allowance.FLOOD_S", 0.2):
                await wire.send(first)
                sending = asyncio.create_task(wire.send(flood * 100_000))
                while (received := await wire.receive())[0] != TEXT or b"flooding" not in received[1]:
                    pass
            error = json.loads(received[1])
            assert (error["type"], error["code"], error["retryable"]) == ("error", "flooding", False)
            assert await wire.close_code() == 1008
            sending.cancel()
            await other.item(b"xyz")
            assert (await other.message())["outputs"] == {"bytes": 3}
    finally:
        await server.stop()


async def test_the_time_that_a_long_text_takes_to_parse_is_told() -> None:
    """The session is told what it has taken of the loop's time."""
    session = Mock(wants_input=True, has_outgoing=False)
    session.receive.side_effect = lambda *_: sum(range(300_000)) and None
    connection = object.__new__(Connection)
    connection._session, connection._last_receive = session, 5.0
    connection._parse("x" * LONG_TEXT)
    [(seconds, now)] = [call.args for call in session.spend_parsing.call_args_list]
    assert (seconds > 0, now) == (True, 5.0)


async def test_messages_that_have_come_already_keep_nobody_waiting() -> None:
    read = 0

    class Full(Connection):
        """Has received everything that is ever read."""

        def __init__(self) -> None:
            self._outgoing = asyncio.Event()
            self._hung_up = False

        async def _read_one(self) -> bool:
            nonlocal read
            read += 1
            return read < 10 * READ_AT_ONCE

    reading = asyncio.create_task(Full()._read())
    for turn in range(1, 4):
        await asyncio.sleep(0)
        assert read == turn * READ_AT_ONCE
    await reading


class TestReaders:
    """Clients that read late or never."""

    async def test_one_that_never_reads_is_cut_off_and_fills_no_memory(
        self, start_server: Callable[..., RunningServer], http: aiohttp.ClientSession
    ) -> None:
        server = start_server("--workers=1", "--model=echo", PATIENT, "--set=timeouts.write_s=1")
        assert server.process
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        async with (
            asyncio.timeout(WAIT),
            http.ws_connect(server.url + ECHO) as other,
            dial(server.url, "/v2/models/patient/stream", receive_buffer=1 << 12, limit=1 << 11) as wire,
        ):
            await answer(other)
            flood = asyncio.create_task(wire.send(*[frame(BINARY, BIG)] * 100))
            most = 0
            while await asyncio.to_thread(total, server, 'streams{model="patient"}') == 1:
                most = max(most, process.memory_info().rss - before)
                await other.send_bytes(b"x")
                assert (await answer(other))["type"] == "result"
            with pytest.raises(ConnectionError):
                await flood
        assert most < 60 << 20, "two of the largest items, their answers, and what the sockets hold"

    async def test_one_that_reads_slowly_gets_everything(
        self, start_server: Callable[..., RunningServer]
    ) -> None:
        """The limit is on not reading at all: twenty megabytes may take longer than that."""
        server = start_server("--workers=1", PATIENT, "--set=timeouts.write_s=5")
        path = "/v2/models/patient/stream"
        async with (
            asyncio.timeout(2 * WAIT),
            dial(server.url, path, receive_buffer=1 << 16, limit=1 << 16) as wire,
        ):
            sending = asyncio.create_task(wire.send(*[frame(BINARY, BIG)] * 20))
            for seq in range(1, 21):
                await asyncio.sleep(0.3)
                assert (await wire.message())["seq"] == seq
            await sending


class TestHeartbeat:
    """Silence is asked about, and what stays silent goes."""

    @pytest.fixture
    def url(self, start_server: Callable[..., RunningServer]) -> str:
        return start_server("--workers=1", PATIENT, "--set=timeouts.heartbeat_s=1").url

    @pytest.fixture
    def patient_url(self, start_server: Callable[..., RunningServer]) -> str:
        """For clients that must not be late: half of it is what they may stand still."""
        return start_server("--workers=1", PATIENT, "--set=timeouts.heartbeat_s=6").url

    path = "/v2/models/patient/stream?window=1"

    async def test_a_client_that_answers_pings_lives(self, patient_url: str) -> None:
        async with asyncio.timeout(2 * WAIT), dial(patient_url, self.path) as wire:
            # a pong comes just after a beat, and two beats later silence is not quite as long
            for _ in range(2):
                assert await wire.receive() == (PING, b"")
                await wire.send(frame(PONG))
            await wire.item(b"answer yes")
            assert (await wire.message())["type"] == "result"

    async def test_one_that_does_not_is_told_and_cut_off(self, url: str) -> None:
        async with asyncio.timeout(WAIT), dial(url, self.path) as wire:
            error = await wire.message()
            assert (error["code"], error["retryable"]) == ("idle", True)
            assert await wire.close_code() == 4408
            await wire.closed()

    async def test_a_client_that_sends_needs_no_pings(self, patient_url: str) -> None:
        async with asyncio.timeout(2 * WAIT), dial(patient_url, self.path) as wire:
            for _ in range(20):
                await wire.item(b"sleep 0.4")
                assert (await wire.receive())[0] == TEXT

    async def test_a_client_that_keeps_its_window_has_its_pings_answered(self, patient_url: str) -> None:
        async with asyncio.timeout(WAIT), dial(patient_url, self.path) as wire:
            await wire.item(b"sleep 50")  # longer than we wait
            await wire.send(frame(PING, b"there?"))
            while (received := await wire.receive())[0] == PING:
                await wire.send(frame(PONG))
            assert received == (PONG, b"there?")

    async def test_a_client_waits_for_its_answers_as_long_as_they_take(self, url: str) -> None:
        """While more than its window is unanswered nobody reads its pongs, so that they cannot be missed."""
        async with asyncio.timeout(WAIT), dial(url, self.path) as wire:
            await wire.item(b"sleep 3.5")
            await wire.item(b"sleep 0")
            await wire.item(b"sleep 0")
            for seq in (1, 2, 3):
                while (received := await wire.receive())[0] == PING:
                    await wire.send(frame(PONG))
                message = json.loads(received[1])
                assert (message["type"], message["seq"]) == ("result", seq)


class TestSlowness:
    """Slow is not dead, in either direction; what stands still or only dribbles is."""

    async def test_a_frame_may_take_longer_than_the_heartbeats(
        self, start_server: Callable[..., RunningServer]
    ) -> None:
        """And pings go out meanwhile: a proxy may close what carries nothing in one direction."""
        server = start_server("--workers=1", PATIENT, "--set=timeouts.heartbeat_s=2")
        message = frame(BINARY, b"answer yes ".ljust(600_000, b"x"))
        async with asyncio.timeout(2 * WAIT), dial(server.url, PATIENT_STREAM) as wire:
            for at in range(0, len(message), 10_000):
                await wire.send(message[at : at + 10_000])
                await asyncio.sleep(0.1)
            assert await wire.receive() == (PING, b"")
            assert (await wire.message())["type"] == "result"

    @pytest.mark.parametrize("size", [10, 300_000], ids=["small", "large"])
    async def test_a_frame_that_dribbles_is_cut_off(
        self, size: int, start_server: Callable[..., RunningServer]
    ) -> None:
        server = start_server("--workers=1", PATIENT, "--set=timeouts.heartbeat_s=1")
        async with asyncio.timeout(WAIT), dial(server.url, PATIENT_STREAM) as wire:
            dribbling = asyncio.create_task(self.dribble(wire, frame(BINARY, bytes(2 * size))[:size]))
            error = await wire.message()
            dribbling.cancel()
            assert (error["code"], error["retryable"]) == ("idle", True)
            assert await wire.close_code() == 4408

    async def dribble(self, wire: Wire, begun: bytes) -> None:
        await wire.send(begun)
        while True:
            await wire.send(b"x")
            await asyncio.sleep(0.1)

    async def test_pongs_are_no_excuse_for_a_large_message_that_dribbles(
        self, start_server: Callable[..., RunningServer]
    ) -> None:
        server = start_server("--workers=1", PATIENT, "--set=timeouts.heartbeat_s=1")
        async with asyncio.timeout(WAIT), dial(server.url, PATIENT_STREAM) as wire:
            await wire.send(frame(BINARY, bytes(300_000), fin=False))
            while (received := await wire.receive())[0] == PING:
                await wire.send(frame(CONTINUATION, b"x", fin=False), frame(PONG))
            assert json.loads(received[1])["code"] == "idle"

    async def test_an_answer_may_take_longer_than_write_s(
        self, start_server: Callable[..., RunningServer]
    ) -> None:
        server = start_server("--workers=1", SWELLS, "--set=timeouts.write_s=1")
        async with (
            asyncio.timeout(2 * WAIT),
            dial(server.url, SWELLS_STREAM, receive_buffer=1 << 16, limit=1 << 16) as wire,
        ):
            await wire.say('{"type": "item", "data": 12000000}')
            got = 0
            while got < 12_000_000:
                got += len(await wire.reader.read(1 << 18))
                await asyncio.sleep(0.05)

    async def test_a_reader_that_dribbles_is_cut_off(
        self, start_server: Callable[..., RunningServer]
    ) -> None:
        server = start_server("--workers=1", SWELLS, "--set=timeouts.write_s=1")
        async with (
            asyncio.timeout(WAIT),
            dial(server.url, SWELLS_STREAM, receive_buffer=1 << 12, limit=1 << 10) as wire,
        ):
            await wire.say('{"type": "item", "data": 12000000}')
            while streams(server):
                await wire.reader.read(1)
                await asyncio.sleep(0.05)


class TestMemory:
    """One budget for what has come, what has not come whole, and what has not left."""

    async def test_unfinished_messages_count_and_are_finished_all_the_same(
        self, start_server: Callable[..., RunningServer]
    ) -> None:
        server = start_server("--workers=1", "--model=echo", "--set=limits.max_unanswered_bytes=8000000")
        message = frame(BINARY, bytes(7_000_000))
        before = resident(server)
        async with asyncio.timeout(3 * WAIT), contextlib.AsyncExitStack() as stack:
            wires = [
                await stack.enter_async_context(dial(server.url, ECHO, limit=1 << 20)) for _ in range(20)
            ]
            for wire in wires:
                wire.writer.write(message[:-8])
            await until(steady(server))
            assert resident(server) - before < 60 << 20, "not 20 times 7 MB"
            for wire in wires:
                wire.writer.write(message[-8:])
            for wire in wires:
                assert (await wire.message())["type"] == "result"

    async def test_answers_that_are_not_read_count(self, start_server: Callable[..., RunningServer]) -> None:
        """No further ones are computed; every one comes when the client reads."""
        server = start_server("--workers=1", SWELLS, "--set=timeouts.write_s=600")
        before = resident(server)
        async with (
            asyncio.timeout(3 * WAIT),
            dial(server.url, SWELLS_STREAM + "?window=64", receive_buffer=1 << 16, limit=1 << 16) as wire,
        ):
            for _ in range(64):
                await wire.say('{"type": "item", "data": 2000000}')
            await until(lambda: total(server, "stream_items_results") > 0)
            await until(steady(server))
            assert resident(server) - before < 60 << 20, "not 64 times 2 MB, twice"
            assert total(server, "stream_items_waiting{") > 32
            for seq in range(1, 65):
                assert (await wire.message())["seq"] == seq

    async def test_what_vanished_clients_held_is_given_back(
        self, start_server: Callable[..., RunningServer]
    ) -> None:
        server = start_server("--workers=1", "--model=echo")
        before = resident(server)
        async with asyncio.timeout(2 * WAIT):
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(20):
                    wire = await stack.enter_async_context(dial(server.url, ECHO))
                    await wire.send(frame(BINARY, bytes(8_000_000))[:-8])
                await until(lambda: resident(server) - before > 100 << 20)
            await until(lambda: resident(server) - before < 50 << 20)

    @pytest.mark.parametrize("how", ["reset", "end"])
    async def test_a_client_with_a_full_window_is_missed_at_once(
        self, how: str, start_server: Callable[..., RunningServer]
    ) -> None:
        """No timer helps here: nothing is read from it, and nothing is written to it."""
        server = start_server(
            "--workers=1", PATIENT, "--set=timeouts.heartbeat_s=3600", "--set=timeouts.write_s=3600"
        )
        async with asyncio.timeout(WAIT), dial(server.url, PATIENT_STREAM, limit=1 << 23) as wire:
            wire.writer.write(frame(BINARY, b"sleep 50") + frame(BINARY, b"sleep 0".ljust(40_000)) * 40)
            await until(lambda: total(server, "stream_items_waiting{") == 16)
            wire.reset() if how == "reset" else wire.writer.close()
            await until(lambda: streams(server) == 0)
            assert total(server, "stream_items_waiting{") == 0


@pytest.mark.parametrize("how", ["reset", "end"])
@pytest.mark.parametrize("what", ["full window", "unread answers"])
async def test_a_client_that_vanishes_leaves_no_reference_cycle(what: str, how: str) -> None:
    """A full collection is rare, and what is left for it has a message or an answer of megabytes."""
    items = {
        "full window": [b"sleep 0.5", *[b"sleep 0".ljust(40_000)] * 40],
        "unread answers": [BIG] * 6,
    }[what]
    models = [PATIENT.removeprefix("--model=")]
    document = {"server": {"port": 0, "workers": 1, "models": models}, "timeouts": {"write_s": 1}}
    server = Server(read_settings(document))
    await server.start()
    gc.collect()
    gc.disable()
    try:
        async with (
            asyncio.timeout(WAIT),
            dial(server.url, PATIENT_STREAM, receive_buffer=1 << 12, limit=1 << 11) as wire,
        ):
            (websocket,) = map(weakref.ref, websockets())
            wire.writer.write(b"".join(frame(BINARY, item) for item in items))
            await asyncio.sleep(0.3)
            wire.reset() if how == "reset" else wire.writer.transport.close()
            while websocket():
                await asyncio.sleep(0.02)
    finally:
        gc.enable()
        await server.stop()


def websockets() -> list[aiohttp.web.WebSocketResponse]:
    return [it for it in gc.get_objects() if isinstance(it, aiohttp.web.WebSocketResponse)]


async def test_dropped_frames_do_not_stop_the_reading(start_server: Callable[..., RunningServer]) -> None:
    """Their bytes are released when they are dropped, so that the frame that runs next is the newest (law 2)."""
    server = start_server("--workers=1", PATIENT)
    frames = 100
    async with (
        asyncio.timeout(3 * WAIT),
        dial(server.url, PATIENT_STREAM + "?policy=latest", limit=1 << 20) as wire,
    ):
        await wire.item(b"stop")
        worker = await asyncio.to_thread(server.stopped_worker)
        for number in range(frames):
            await wire.item(f"answer {number} ".encode().ljust(300_000, b"x"))
        while server.metrics()['stream_items_received_total{model="patient"}'] < frames + 1:
            await asyncio.sleep(0.01)
        worker.resume()
        answers = [await wire.message() for _ in range(frames + 1)]
    assert [answer["type"] for answer in answers] == ["result", *["dropped"] * (frames - 1), "result"]
    assert answers[-1]["outputs"]["answer"][0] == str(frames - 1)


async def test_a_stream_whose_answers_cannot_be_delivered_is_closed_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A defect of ours, planted: a hole would keep every later answer of the stream waiting."""
    server = Server(read_settings({"server": {"port": 0, "workers": 1, "models": ["echo"]}}))
    await server.start()
    try:
        async with asyncio.timeout(WAIT), dial(server.url, ECHO) as broken, dial(server.url, ECHO) as other:
            with patch.object(protocol, "write_result", side_effect=[ZeroDivisionError, *["{}"] * 9]):
                await broken.item(b"x")
                error = await broken.message()
            assert (error["type"], error["code"], error["retryable"]) == ("error", "internal", True)
            assert (await broken.receive())[0] == CLOSE
            await other.item(b"xyz")
            assert (await other.message())["outputs"] == {"bytes": 3}
    finally:
        await server.stop()
    assert "its owner failed to take an outcome" in caplog.text
