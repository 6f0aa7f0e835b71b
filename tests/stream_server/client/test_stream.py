"""The asynchronous client, against the real server, and against faults that no real one makes on demand."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import cv2
import PIL.Image
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from stream_server.client import stream as client
from stream_server.client.stream import Backoff, Stream, connect
from stream_server.errors import ConnectFailed, ConnectionLost, Refused, StreamClosed, TooLarge
from stream_server.protocol.client_side import Answer, Dropped, End, Error, Result, Statistics
from tests.conftest import RunningServer
from tests.stream_server.peer import Peer, obedient, scripted

PORTRAIT = (Path(client.__file__).parents[2] / "web_client" / "sample.jpg").read_bytes()
AT_ONCE = Backoff(base_s=0.0, give_up_s=30.0)


@pytest_asyncio.fixture(autouse=True)
async def nothing_left_behind() -> AsyncIterator[None]:
    """After every test: no task runs on, and no task's error was lost."""
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    yield
    gc.collect()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert unheard == []


def assert_law(stream: Stream) -> None:
    now = stream.statistics
    assert now.sent == now.results + now.dropped + now.errors + now.unanswered


async def collect(stream: Stream) -> list[Answer]:
    return [answer async for answer in stream]


async def process_all(stream: Stream, items: Any, got: list[Answer] | None = None) -> list[Answer]:
    """Process items and return the answers; `got` holds them even after an error."""
    answers = [] if got is None else got
    async for answer in stream.process(items):
        answers.append(answer)  # see above
    return answers


# The real server.


@pytest.mark.parametrize(
    "one", ["Hello", b"Hello", bytearray(b"Hello"), memoryview(b"Hello"), Path("a.jpg"), {"x": 1}, 5, None]
)
async def test_process_refuses_one_item_where_it_takes_several(one: Any) -> None:
    async with scripted(obedient) as url, connect(url, "echo") as stream:
        with pytest.raises(TypeError, match=rf"not one {type(one).__name__}; write process\(\[item\]\)"):
            await process_all(stream, one)
        assert stream.statistics.sent == 0
        assert len(await process_all(stream, [b"Hello"])) == 1


async def test_a_portrait_has_one_face(server: RunningServer) -> None:
    async with connect(server.url, model="faces") as stream:
        assert stream.ready.input == "image"
        answers = [answer async for answer in stream.process([PORTRAIT])]
    assert len(answers) == 1
    assert isinstance(answers[0], Result)
    assert len(answers[0].outputs["faces"]) == 1
    assert answers[0].age_ms >= answers[0].infer_ms > 0


async def test_pictures_are_sent_as_programs_have_them(server: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "portrait.jpg"
    file.write_bytes(PORTRAIT)
    array = cv2.imread(str(file))
    grey = cv2.cvtColor(array, cv2.COLOR_BGR2GRAY)
    async with connect(server.url, model="faces", policy="queue") as stream:
        answers = await process_all(stream, [PORTRAIT, file, array, grey, PIL.Image.open(file)])
        with pytest.raises(FileNotFoundError):
            await stream.send(tmp_path / "absent.jpg")
        with pytest.raises(TypeError, match="not str; a Path, a numpy array or a PIL image will do too"):
            await stream.send(str(file))
        sent = [
            asyncio.create_task(stream.send(item, id=str(n))) for n, item in enumerate([array, PORTRAIT] * 3)
        ]
        assert await asyncio.gather(*sent) == list(range(6, 12)), "none overtakes one that is encoded"
        await stream.end()
        later = await collect(stream)
    for answer in (*answers, *later):
        assert isinstance(answer, Result)
        assert (answer.outputs["width"], len(answer.outputs["faces"])) == (640, 1)
    assert [answer.id for answer in later] == list("012345")


async def test_a_file_over_the_limit_is_not_read_whole(server: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as writing:
        writing.truncate(1 << 40)
    async with connect(server.url, model="echo") as stream:
        with pytest.raises(TooLarge):
            await stream.send(file)
        assert stream.statistics.sent == 0


async def test_texts_are_answered_in_order_with_their_ids_and_counted_alike(server: RunningServer) -> None:
    async with connect(server.url, "spam", window=4) as stream:
        sent = [await stream.send(f"Win a prize, number {n}!", id=f"mail {n}") for n in range(1, 21)]
        end = await stream.end()
        answers = await collect(stream)
        assert stream.ended == end == End(received=20, results=20, dropped=0, errors=0)
        assert stream.statistics == Statistics(sent=20, results=20, dropped=0, errors=0, unanswered=0)
    assert [answer.seq for answer in answers] == sent == list(range(1, 21))
    assert [answer.id for answer in answers] == [f"mail {n}" for n in range(1, 21)]
    assert all(
        isinstance(answer, Result) and answer.outputs["label"] in ("spam", "ham") for answer in answers
    )


async def test_answers_can_be_read_while_items_are_sent(server: RunningServer) -> None:
    async def feed(stream: Stream) -> None:
        for size in range(1, 101):
            await stream.send(bytes(size))
            assert_law(stream)
        await stream.end()

    async with connect(server.url, "echo") as stream:
        feeding = asyncio.create_task(feed(stream))
        sizes = []
        async for answer in stream:
            assert isinstance(answer, Result)
            assert_law(stream)
            sizes.append(answer.outputs["bytes"])
        await feeding
    assert sizes == list(range(1, 101))


async def test_a_bad_item_gets_an_error_and_the_stream_lives_on(server: RunningServer) -> None:
    async with connect(server.url, "faces", policy="queue") as stream:
        answers = [answer async for answer in stream.process([b"no image", b"", PORTRAIT])]
    assert [type(answer) for answer in answers] == [Error, Error, Result]
    assert [answer.code for answer in answers if isinstance(answer, Error)] == ["unsupported_image", "empty"]


async def test_what_the_model_does_not_take_is_not_sent(server: RunningServer) -> None:
    async with connect(server.url, "faces") as stream:
        with pytest.raises(TypeError, match="not str"):
            await stream.send("photo.jpg")
        with pytest.raises(TooLarge):
            await stream.send(bytes(stream.ready.max_item_bytes + 1))
        assert stream.statistics.sent == 0
        largest = [answer async for answer in stream.process([bytes(stream.ready.max_item_bytes)])]
        assert isinstance(largest[0], Error)
        assert largest[0].code == "unsupported_image"


async def test_a_flood_on_a_latest_stream_is_superseded_and_all_of_it_answered(server: RunningServer) -> None:
    async with connect(server.url, "faces", policy="latest") as stream:
        for _ in range(40):
            await stream.send(PORTRAIT)
        end = await stream.end()
        answers = await collect(stream)
    assert [answer.seq for answer in answers] == list(range(1, 41))
    assert {answer.reason for answer in answers if isinstance(answer, Dropped)} == {"superseded"}
    assert isinstance(answers[-1], Result), "the newest frame is never superseded"
    counts = stream.statistics
    assert end == End(40, counts.results, counts.dropped, 0)
    assert counts.dropped > 0


async def test_process_keeps_a_latest_stream_from_dropping(server: RunningServer) -> None:
    async with connect(server.url, "faces", policy="latest") as stream:
        answers = [answer async for answer in stream.process([PORTRAIT] * 5)]
    assert [type(answer) for answer in answers] == [Result] * 5


async def test_room_lets_a_camera_send_only_what_gets_a_result(server: RunningServer) -> None:
    async with connect(server.url, "faces", policy="latest") as stream:
        for _ in range(5):
            await stream.room()
            await stream.send(PORTRAIT)
        assert await stream.end() == End(received=5, results=5, dropped=0, errors=0)


async def test_an_items_own_age_limit_travels_with_it(server: RunningServer) -> None:
    async with connect(server.url, "faces", policy="queue", window=32) as stream:
        for n in range(32):
            await stream.send(PORTRAIT, max_age_ms=1 if n % 2 else 60_000)
        await stream.end()
        answers = await collect(stream)
    assert all(isinstance(answer, Result) for answer in answers[::2])
    # not each of them: a worker that is free takes an item at once
    assert "expired" in {answer.reason for answer in answers[1::2] if isinstance(answer, Dropped)}


async def test_unknown_model_version_or_option_is_refused(server: RunningServer) -> None:
    for model, options, code in (
        ("nothing", {}, "unknown_model"),
        ("echo", {"version": "99"}, "unknown_model"),
        ("../../etc", {}, "unknown_model"),
        ("echo", {"window": 65}, "bad_option"),
    ):
        with pytest.raises(Refused) as caught:
            async with connect(server.url, model, **options):
                pass
        assert caught.value.code == code
        assert not caught.value.retryable


@pytest.mark.parametrize("age", [33.3, True, "33", float("nan")])
async def test_wrong_age_raises_before_anything_is_sent(server: RunningServer, age: Any) -> None:
    async with connect(server.url, "echo") as stream:
        with pytest.raises(TypeError, match="max_age_ms must be a whole number"):
            await stream.send(b"x", max_age_ms=age)
        assert [type(answer) for answer in await process_all(stream, [b"y"])] == [Result]
        assert stream.statistics.sent == 1
    with pytest.raises(TypeError, match="max_age_ms must be a whole number"):
        async with connect("http://127.0.0.1:9", "echo", max_age_ms=age):
            pass


async def test_a_drained_server_answers_what_it_took_and_ends_the_stream(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server("--workers", "1", "--model", "echo")
    async with connect(server.url, "echo") as stream:
        await stream.send(b"one")
        assert isinstance(await anext(stream), Result)
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        assert await collect(stream) == []
        assert stream.ended == End(received=1, results=1, dropped=0, errors=0)
        with pytest.raises(StreamClosed, match="connect again"):
            await stream.send(b"two")
        assert await stopping == 0


@pytest.mark.parametrize("how", ["drained", "killed"])
async def test_a_reconnecting_stream_outlives_its_server(
    start_server: Callable[..., RunningServer], how: str
) -> None:
    server = start_server("--workers", "1", "--model", "echo")

    def restart() -> None:
        server.stop(signal.SIGTERM if how == "drained" else signal.SIGKILL)
        server.start()

    def items() -> Iterator[bytes]:
        for size in range(1, 41):
            if size == 20:
                restart()
            yield bytes(size)

    async with connect(server.url, "echo", reconnect=Backoff(base_s=0.02, cap_s=0.1)) as stream:
        answers = [answer async for answer in stream.process(items())]
        end = await stream.end()
        assert_law(stream)
    assert [answer.seq for answer in answers] == list(range(1, 41))
    lost = [answer for answer in answers if not isinstance(answer, Result)]
    assert all(isinstance(answer, Error) and answer.code == "connection_lost" for answer in lost)
    assert len(lost) <= stream.ready.window
    assert end is not None
    by_the_second = [answer for answer in answers[19:] if isinstance(answer, Result)]
    assert end.received == len(by_the_second), "the second server counts its own items only"


# Order of flow: who waits for whom.


def counting(stream: Stream, seen: list[int], endless: bool = False) -> Callable[[], AsyncIterator[bytes]]:
    async def items() -> AsyncIterator[bytes]:
        while endless or len(seen) < 20:
            seen.append(stream.statistics.unanswered)
            yield b"item"

    return items


async def test_process_keeps_exactly_the_window_full() -> None:
    async def answers_when_full(peer: Peer) -> None:
        await peer.ready(window=4)
        for first in (1, 5, 9, 13, 17):
            for _ in range(4):
                await peer.ws.recv()
            for seq in range(first, first + 4):
                await peer.result(seq)
        await peer.ws.wait_closed()

    async with scripted(answers_when_full) as url, connect(url, "echo") as stream:
        unanswered: list[int] = []
        answers = [answer.seq async for answer in stream.process(counting(stream, unanswered)())]
    assert answers == list(range(1, 21))
    assert max(unanswered) == 3, "an item is taken when there is room for it, and always then"


async def test_process_does_not_run_ahead_of_a_caller_that_is_slow() -> None:
    async with scripted(obedient) as url, connect(url, "echo", window=4) as stream:
        taken: list[int] = []
        async with aclosing(stream.process(counting(stream, taken, endless=True)())) as answers:
            await anext(answers)
            for _ in range(50):  # round trips, in which a hundred more could have been sent
                assert stream._connection is not None
                await (await stream._connection.ping())
        assert len(taken) <= 1 + 2 * 4


async def test_send_waits_for_the_window_of_a_queue_and_not_of_a_latest_stream() -> None:
    answer = asyncio.Event()

    def script(policy: str) -> Any:
        async def late(peer: Peer) -> None:
            await peer.ready(policy=policy, window=2)
            await answer.wait()
            await peer.serve_on()

        return late

    async with scripted(script("queue"), script("latest")) as url:
        async with connect(url, "echo") as stream:
            await stream.send(b"1")
            await stream.send(b"2")
            third = asyncio.create_task(stream.send(b"3"))
            assert stream._connection is not None
            await (await stream._connection.ping())
            assert not third.done()
            assert stream.statistics.sent == 2
            answer.set()
            assert await third == 3
        answer.clear()
        async with connect(url, "echo") as stream:
            assert [await stream.send(b"") for _ in range(10)] == list(range(1, 11))
            answer.set()


async def test_unread_answers_stop_sending(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "MAX_HELD", 8)
    async with scripted(obedient) as url, connect(url, "echo", policy="latest") as stream:
        for _ in range(8):
            await stream.send(b"")
        while stream.statistics.unanswered:
            assert stream._connection is not None
            await (await stream._connection.ping())
        ninth = asyncio.create_task(stream.send(b""))
        await (await stream._connection.ping())
        assert not ninth.done()
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        await anext(stream)
        assert await ninth == 9


async def test_an_item_whose_meta_was_cut_off_does_not_lend_it_to_the_next() -> None:
    read_on = asyncio.Event()
    heard: list[str | bytes] = []

    async def deaf(peer: Peer) -> None:
        await peer.ready(policy="latest", max_item_bytes=64 << 20)
        await read_on.wait()
        while b"stays" not in heard:
            message = await peer.ws.recv()
            heard.append(message if isinstance(message, str) else message[:8])

    async with scripted(deaf, max_size=None, max_queue=1) as url, connect(url, "echo") as stream:

        async def give_up(item: bytes, **limits: int) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await stream.send(item, **limits)
                pytest.fail("it cannot have left")

        await stream.send(b"1")
        await stream.send(b"2")  # now the peer reads no more
        await give_up(b"too much" + bytes(32 << 20))  # for the sockets' buffers: what follows waits
        assert stream.statistics.sent == 3, "it was written all the same"
        await give_up(b"expires", max_age_ms=5)
        assert stream.statistics.sent == 3, "its meta waits, and it was not sent"
        sending = asyncio.create_task(stream.send(b"stays"))
        read_on.set()
        assert await sending == 4
        with pytest.raises(ConnectionLost):
            await collect(stream)
    assert heard[2:] == [b"too much", '{"type": "meta", "max_age_ms": 5}', '{"type": "meta"}', b"stays"]


# Breaking off.


@pytest.mark.parametrize("polite", [True, False])
async def test_breaking_off_closes_the_source_and_the_stream_can_go_on(
    server: RunningServer, polite: bool
) -> None:
    closed = asyncio.Event()

    async def items() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(7)
        finally:
            closed.set()

    async with connect(server.url, "echo") as stream:
        answers = stream.process(items())
        async for _ in answers:
            break
        if polite:
            await answers.aclose()
            assert closed.is_set()
        else:
            del answers
        again = [answer async for answer in stream.process([bytes(3)] * 3)]
        assert [answer.outputs for answer in again if isinstance(answer, Result)] == [{"bytes": 3}] * 3
        assert closed.is_set()
        end = await stream.end()
        assert end is not None
        assert end.received == stream.statistics.sent
        assert_law(stream)


async def test_an_error_of_the_source_comes_after_the_answers_to_what_it_gave(server: RunningServer) -> None:
    def items() -> Iterator[bytes]:
        yield b"1"
        yield b"22"
        raise LookupError("the disk")

    got: list[Answer] = []
    async with connect(server.url, "echo") as stream:
        with pytest.raises(LookupError, match="the disk"):
            await process_all(stream, items(), got)
        assert [answer.seq for answer in got] == [1, 2]
        with pytest.raises(TypeError):
            await process_all(stream, ["text"])
        assert len(await process_all(stream, [b"3"])) == 1


async def test_two_readers_of_one_stream_are_kept_apart(server: RunningServer) -> None:
    async with connect(server.url, "echo") as stream:
        async with aclosing(stream.process([b"1", b"2"])) as answers:
            await anext(answers)
            with pytest.raises(RuntimeError, match="read them from there"):
                await anext(stream)
            third = stream.process([b"3"])
            assert (await anext(third)).seq == 3
            with pytest.raises(RuntimeError, match="took this stream over"):
                await anext(answers)
            await third.aclose()
        await stream.send(b"4")
        with pytest.raises(RuntimeError, match="read the answers"):
            await process_all(stream, [b"5"])


@pytest.mark.parametrize("what", ["process", "send", "read", "end"])
async def test_cancelling_leaves_nothing_behind(what: str) -> None:
    waiting = asyncio.Event()

    async def mute(peer: Peer) -> None:
        await peer.ready(window=2)
        for _ in range(2):
            await peer.ws.recv()
        waiting.set()
        with suppress(ConnectionClosed):
            await peer.ws.recv()
        await peer.ws.wait_closed()

    async def work(url: str) -> None:
        async with connect(url, "echo") as stream:
            if what == "process":
                await process_all(stream, (b"item" for _ in range(100)))
            for _ in range(100 if what == "send" else 2):
                await stream.send(b"item")
            await (stream.end() if what == "end" else anext(stream))

    async with scripted(mute) as url:
        task = asyncio.create_task(work(url))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_timeout_around_a_read_is_a_timeout() -> None:
    async def mute(peer: Peer) -> None:
        await peer.ready()
        await peer.ws.wait_closed()

    async with scripted(mute) as url, connect(url, "echo") as stream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await anext(stream)


async def test_a_stream_is_closed_outside_its_block(server: RunningServer) -> None:
    async with connect(server.url, "echo") as stream:
        answers = stream.process([b"1", b"2"])
        await anext(answers)
    with pytest.raises(StreamClosed):
        await stream.send(b"3")
    with pytest.raises(StreamClosed):
        await anext(answers)


async def test_end_can_be_called_twice(server: RunningServer) -> None:
    async with connect(server.url, "echo") as stream:
        await stream.send(b"1")
        ends = await asyncio.gather(stream.end(), stream.end())
        assert ends[0] == ends[1] == await stream.end() == End(1, 1, 0, 0)
        with pytest.raises(StreamClosed):
            await stream.send(b"2")


# Faults of the other side.


async def cut_after_two(peer: Peer) -> None:
    """Answer one of three items, then vanish."""
    await peer.ready(window=3)
    for _ in range(3):
        await peer.ws.recv()
    await peer.result(1)
    assert await (await peer.ws.ping()) >= 0  # until the result has arrived: a reset overtakes it
    peer.cut()


async def test_a_lost_connection_says_how_many_items_it_took() -> None:
    async with scripted(cut_after_two) as url, connect(url, "echo") as stream:
        got: list[Answer] = []
        with pytest.raises(ConnectionLost, match="2 items unanswered") as caught:
            await process_all(stream, [b"1", b"2", b"3"], got)
        assert [answer.seq for answer in got] == [1]
        assert caught.value.unanswered == 2
        assert stream.statistics == Statistics(sent=3, results=1, dropped=0, errors=0, unanswered=2)
        for again in (stream.send(b"5"), stream.end(), stream.room(), anext(stream)):
            with pytest.raises(ConnectionLost):
                await again


async def test_a_send_that_waits_when_the_connection_goes_says_so() -> None:
    go = asyncio.Event()

    async def deaf(peer: Peer) -> None:
        await peer.ready(max_item_bytes=64 << 20)
        await go.wait()
        peer.cut()

    async with scripted(deaf, max_size=None, max_queue=1) as url, connect(url, "echo") as stream:
        await stream.send(b"1")
        await stream.send(b"2")  # now the peer reads no more
        sending = asyncio.create_task(stream.send(bytes(32 << 20)))
        while stream.statistics.sent < 3:
            await asyncio.sleep(0)
        go.set()
        with pytest.raises(ConnectionLost, match="3 items"):
            await sending


async def test_unobserved_loss_is_not_logged() -> None:
    async def vanish(peer: Peer) -> None:
        await peer.ready()
        peer.cut()

    async with scripted(vanish) as url, connect(url, "echo") as stream:
        await asyncio.wait({stream._reader})


async def test_a_reconnecting_stream_answers_what_was_lost_and_counts_on() -> None:
    async with scripted(cut_after_two, obedient) as url, connect(url, "echo", reconnect=AT_ONCE) as stream:
        for id_ in "abc":
            await stream.send(b"item", id=id_)
        answers = [await anext(stream) for _ in range(3)]
        assert await stream.send(b"item", id="d") == 4
        assert await stream.end() == End(received=1, results=1, dropped=0, errors=0)
        answers += await collect(stream)
        assert stream.statistics == Statistics(sent=4, results=2, dropped=0, errors=2, unanswered=0)
    assert [(answer.seq, answer.id, type(answer)) for answer in answers] == [
        (1, "a", Result),
        (2, "b", Error),
        (3, "c", Error),
        (4, "d", Result),
    ]
    lost = answers[1]
    assert isinstance(lost, Error)
    assert (lost.code, lost.retryable) == ("connection_lost", True)


async def test_reconnecting_ends_when_the_backoff_does() -> None:
    async def cut(peer: Peer) -> None:
        peer.cut()

    two_tries = Backoff(base_s=0.0, tries=2)
    async with scripted(cut_after_two, cut) as url, connect(url, "echo", reconnect=two_tries) as stream:
        with pytest.raises(ConnectionLost, match="after 2 attempts"):
            await process_all(stream, [b"item"] * 10)
        assert_law(stream)


async def test_reconnecting_does_not_retry_the_first_connection(unused_tcp_port: int) -> None:
    with pytest.raises(ConnectFailed):
        async with connect(f"http://127.0.0.1:{unused_tcp_port}", "echo", reconnect=True):
            pass


async def test_goaway_delays_the_reconnect() -> None:
    loop = asyncio.get_running_loop()
    times: dict[str, float] = {}

    async def leave(peer: Peer) -> None:
        await peer.ready(window=2)
        await peer.ws.recv()
        await peer.ws.recv()
        await peer.say("goaway", grace_ms=60_000, retry_after_ms=150)
        await peer.result(1)
        times["left"] = loop.time()  # it goes when it has the second, and waits from then on
        await peer.result(2)
        await peer.ws.wait_closed()

    async def welcome(peer: Peer) -> None:
        times["back"] = loop.time()
        await obedient(peer)

    async with scripted(leave, welcome) as url, connect(url, "echo", reconnect=AT_ONCE) as stream:
        answers = await process_all(stream, [b"1", b"2", b"3"])
    assert [type(answer) for answer in answers] == [Result, Result, Result], "nothing was lost by it"
    assert times["back"] - times["left"] > 0.14


async def test_a_server_that_ends_a_stream_says_when_it_may_come_back() -> None:
    loop = asyncio.get_running_loop()
    times: dict[str, float] = {}

    async def full(peer: Peer) -> None:
        await peer.ready()
        await peer.ws.recv()
        times["left"] = loop.time()
        await peer.say("error", code="overloaded", message="full", retryable=True, retry_after_ms=150)
        await peer.ws.close(1013)

    async def welcome(peer: Peer) -> None:
        times["back"] = loop.time()
        await obedient(peer)

    async with scripted(full, welcome) as url, connect(url, "echo", reconnect=AT_ONCE) as stream:
        await stream.send(b"1")
        assert isinstance(await anext(stream), Error)
        await stream.send(b"2")
        assert isinstance(await anext(stream), Result)
    assert times["back"] - times["left"] > 0.14


async def test_a_weight_is_asked_for(server: RunningServer) -> None:
    asked: list[str] = []

    async def listen(peer: Peer) -> None:
        assert peer.ws.request is not None
        asked.append(peer.ws.request.path)
        await obedient(peer)

    async with scripted(listen) as url:
        for options in ({"weight": 0.25, "window": 2}, {}):
            async with connect(url, "echo", **options):
                pass
    assert asked == ["/v2/models/echo/stream?window=2&weight=0.25", "/v2/models/echo/stream"]
    async with connect(server.url, "echo", weight=0.25) as stream:
        assert [type(answer) for answer in await process_all(stream, [b"1"])] == [Result]
    with pytest.raises(Refused, match=r"bad_option: weight must be a number from 0\.01 to 1, not '1\.5'"):
        async with connect(server.url, "echo", weight=1.5):
            pass


@pytest.mark.parametrize("retryable", [True, False])
async def test_an_error_of_the_stream_ends_it(retryable: bool) -> None:
    async def idle(peer: Peer) -> None:
        await peer.ready()
        await peer.ws.recv()
        await peer.say("error", code="idle", message="nothing heard", retryable=retryable)
        await peer.ws.close(4408)

    async with scripted(idle, obedient) as url, connect(url, "echo", reconnect=AT_ONCE) as stream:
        await stream.send(b"1")
        if retryable:
            lost = await anext(stream)
            assert isinstance(lost, Error)
            assert "nothing heard" in lost.message
        else:
            with pytest.raises(Refused, match="nothing heard"):
                await anext(stream)


async def test_a_loss_while_ending_leaves_no_item_without_an_answer() -> None:
    async def vanish(peer: Peer) -> None:
        await peer.ready()
        await peer.ws.recv()
        assert await peer.ws.recv() == '{"type": "end"}'
        peer.cut()

    for reconnect in (False, True):
        async with scripted(vanish) as url, connect(url, "echo", reconnect=reconnect) as stream:
            await stream.send(b"1")
            if reconnect:
                assert await stream.end() is None
                assert [type(answer) for answer in await collect(stream)] == [Error]
            else:
                with pytest.raises(ConnectionLost):
                    await stream.end()


async def garbage(peer: Peer) -> None:
    await peer.ws.send("garbage")


async def binary(peer: Peer) -> None:
    await peer.ws.send(b"\0")


async def wrong_seq(peer: Peer) -> None:
    await peer.result(2)


async def answer_twice(peer: Peer) -> None:
    await peer.result(1)
    await peer.result(1)


@pytest.mark.parametrize("fault", [garbage, binary, wrong_seq, answer_twice])
async def test_a_server_that_breaks_the_protocol_is_not_trusted_again(fault: Any) -> None:
    async def script(peer: Peer) -> None:
        await peer.ready()
        await peer.ws.recv()
        await fault(peer)
        await peer.ws.wait_closed()

    async with scripted(script) as url, connect(url, "echo", reconnect=AT_ONCE) as stream:
        await stream.send(b"1")
        with pytest.raises(ConnectFailed):
            await collect(stream)
        assert_law(stream)


async def test_end_with_unanswered_items_is_a_loss() -> None:
    async def cheat(peer: Peer) -> None:
        await peer.ready()
        await peer.ws.recv()
        await peer.say("end", received=0, results=0, dropped=0, errors=0)

    async with scripted(cheat) as url, connect(url, "echo") as stream:
        await stream.send(b"1")
        with pytest.raises(ConnectionLost) as caught:
            await collect(stream)
        assert caught.value.unanswered == 1


async def test_messages_of_a_later_version_are_passed_over() -> None:
    async def modern(peer: Peer) -> None:
        await peer.ready(colour="blue")
        await peer.say("hint", fps=5)
        await peer.serve_on()

    async with scripted(modern) as url, connect(url, "echo") as stream:
        assert [type(answer) for answer in await process_all(stream, [b"1"])] == [Result]
