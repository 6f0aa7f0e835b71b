"""The synchronous client: the asynchronous one's behaviour, from code without a loop, and from code inside one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stream_server.client import iteration as feeding
from stream_server.client.stream import Stream, connect
from stream_server.client.sync import SyncStream, _Loop, connect_sync
from stream_server.errors import ConnectFailed, Refused, StreamClosed
from stream_server.protocol.client_side import End, Error, Result, Statistics
from tests.conftest import WAIT, RunningServer
from tests.stream_server.peer import Peer, scripted


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    yield
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("stream-")]
    for thread in ours:
        thread.join(WAIT)  # a thread that reads items ends by itself, a moment after the last one
    assert not [thread for thread in ours if thread.is_alive()]


def test_it_has_every_method_of_the_asynchronous_stream() -> None:
    def public(cls: type) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert public(Stream) <= public(SyncStream)
    assert set(connect_sync.__wrapped__.__annotations__) == set(connect.__wrapped__.__annotations__)


def test_texts_are_sent_answered_and_counted(server: RunningServer) -> None:
    with connect_sync(server.url, "spam") as stream:
        assert stream.ready.model == "spam"
        assert [stream.send(f"Win {n} prizes", id=str(n)) for n in (1, 2, 3)] == [1, 2, 3]
        assert stream.end() == stream.ended == End(3, 3, 0, 0)
        answers = list(stream)
        assert stream.statistics == Statistics(3, 3, 0, 0, 0)
    assert [answer.id for answer in answers] == ["1", "2", "3"]
    assert all(isinstance(answer, Result) for answer in answers)
    assert stream.statistics.sent == 3, "numbers can be read afterwards"


def test_options_reach_the_server(server: RunningServer) -> None:
    with connect_sync(server.url, "echo", policy="latest", window=3, weight=0.5) as stream:
        assert (stream.ready.policy, stream.ready.window) == ("latest", 3)
    with pytest.raises(Refused, match="weight must be"), connect_sync(server.url, "echo", weight=2):
        pass


def test_process_is_a_generator_over_any_iterable(server: RunningServer) -> None:
    with connect_sync(server.url, "echo", window=4) as stream:
        answers = stream.process(bytes(n) for n in range(1, 31))
        sizes = [answer.outputs["bytes"] for answer in answers if isinstance(answer, Result)]
        assert sizes == list(range(1, 31))
        assert [type(answer) for answer in stream.process([b""])] == [Error]
        stream.room()


def test_breaking_off_closes_the_source(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "GRACE_S", WAIT)
    closed = threading.Event()

    def items() -> Iterator[bytes]:
        try:
            while True:
                yield b"item"
        finally:
            closed.set()

    with connect_sync(server.url, "echo") as stream:
        for _ in stream.process(items()):
            break
        assert closed.is_set()
        assert len(list(stream.process([b"more"]))) == 1


def test_error_of_the_source_is_raised(server: RunningServer) -> None:
    def items() -> Iterator[bytes]:
        yield b"item"
        raise LookupError("the disk")

    with connect_sync(server.url, "echo") as stream, pytest.raises(LookupError, match="the disk"):
        list(stream.process(items()))


def test_errors_are_the_asynchronous_clients(server: RunningServer, unused_tcp_port: int) -> None:
    with pytest.raises(ConnectFailed), connect_sync(f"http://127.0.0.1:{unused_tcp_port}"):
        pass
    with pytest.raises(Refused), connect_sync(server.url, "nothing"):
        pass
    with connect_sync(server.url, "echo") as stream, pytest.raises(TypeError):
        stream.send("text")


def test_a_stream_is_closed_outside_its_block(server: RunningServer) -> None:
    with connect_sync(server.url, "echo") as stream:
        answers = stream.process([b"1", b"2"])
        next(answers)
    with pytest.raises(StreamClosed, match="connect again"):
        stream.send(b"3")
    with pytest.raises(StreamClosed):
        next(answers)


async def test_it_works_where_a_loop_runs_as_in_a_notebook(server: RunningServer) -> None:
    with connect_sync(server.url, "echo") as stream:
        assert len(list(stream.process([b"item"] * 3))) == 3


def test_any_thread_may_send(server: RunningServer) -> None:
    with connect_sync(server.url, "echo") as stream:
        threads = [threading.Thread(target=stream.send, args=(bytes(5),)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stream.end()
        assert [answer.seq for answer in stream] == list(range(1, 9))


def test_interrupted_item_is_not_sent_later() -> None:
    answer = threading.Event()
    main = threading.get_ident()

    async def late(peer: Peer) -> None:
        await peer.ready(window=1)
        await peer.ws.recv()
        await asyncio.to_thread(answer.wait)
        await peer.result(1)
        await peer.serve_on(1)

    # whatever the tests before have left: without a KeyboardInterrupt this one would wait for ever
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with _Loop() as loop:
        serving = scripted(late)
        with connect_sync(loop.do(serving.__aenter__()), "echo") as stream:
            stream.send(b"1")

            def press() -> None:
                while not stream._stream._sending.locked():
                    time.sleep(0.01)
                time.sleep(0.2)  # the main thread has only to wait now
                signal.pthread_kill(main, signal.SIGINT)

            threading.Thread(target=press).start()
            with pytest.raises(KeyboardInterrupt):
                stream.send(b"2")  # waits for the window
            answer.set()
            assert stream.end() == End(1, 1, 0, 0)
        loop.do(serving.__aexit__(None, None, None))


def test_ctrl_c_ends_a_script_and_leaves_nothing_hanging(server: RunningServer) -> None:
    script = """
        import sys, threading
        from stream_server.client.sync import connect_sync

        def items():
            yield b"item"
            print("waiting", flush=True)
            threading.Event().wait()  # for ever

        with connect_sync(sys.argv[1], "echo") as stream:
            for answer in stream.process(items()):
                pass
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert process.stdout
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WAIT)
    assert process.returncode == -signal.SIGINT
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert "never" not in errors
    assert "Fatal" not in errors


def test_wrong_option_raises_before_anything_is_sent(server: RunningServer) -> None:
    with connect_sync(server.url, "echo") as stream:
        with pytest.raises(
            TypeError, match=r"max_age_ms must be a whole number from 1 to 3,600,000, not 33\.3"
        ):
            stream.send(b"x", max_age_ms=33.3)  # type: ignore[arg-type]
        assert stream.send(b"x", max_age_ms=3_600_000) == 1
    for options in ({"max_age_ms": "33"}, {"window": True}, {"weight": "1"}):
        with pytest.raises(TypeError), connect_sync("http://127.0.0.1:9", "echo", **options):  # type: ignore[arg-type]
            pass


def test_a_path_and_an_array_are_sent(server: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "grey.png"
    array = np.full((24, 32), 128, np.uint8)
    cv2.imwrite(str(file), array)
    with connect_sync(server.url, model="faces", policy="queue") as stream:
        answers = list(stream.process([file, array]))
    assert [answer.outputs["width"] for answer in answers if isinstance(answer, Result)] == [32, 32]


@pytest.mark.parametrize("one", ["Hello", b"Hello", Path("photo.jpg"), np.zeros((24, 32, 3), np.uint8)])
def test_process_refuses_one_item_where_it_takes_several(server: RunningServer, one: Any) -> None:
    with connect_sync(server.url, "spam") as stream:
        with pytest.raises(TypeError, match="takes an iterable of items"):
            next(stream.process(one))
        assert stream.statistics.sent == 0
