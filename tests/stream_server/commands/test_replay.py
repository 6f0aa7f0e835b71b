"""`stream-server replay`: what answers as it did is said so, and everything that does not."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stream_server.cli import main
from stream_server.commands.replay import MOST_SHOWN, Comparison
from stream_server.protocol.client_side import Answer, Dropped, Error, Ready, Result
from stream_server.recording.reader import open_recording
from stream_server.recording.writer import About, Writer
from tests.conftest import RunningServer
from tests.stream_server.peer import Peer, Script, scripted

Here = Callable[..., tuple[int, str]]

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "web_client" / "sample.jpg"

LOST = Error("worker_lost", "", retryable=False, seq=1)
DROPPED = Dropped(1, "superseded")


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Here:
    """Run a command in this process, which is sooner: exit status, and what people read."""

    def command(*args: str | Path) -> tuple[int, str]:
        status = main([*map(str, args)])
        said = capsys.readouterr()
        assert said.out == ""
        return status, " ".join(said.err.split())

    return command


async def against(script: Script, *args: str | Path) -> tuple[int, str]:
    """Replay in a process of its own: exit status, and what people read."""
    async with scripted(script) as url:
        command = [sys.executable, "-m", "stream_server", "replay", *map(str, args), "--url", url]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, timeout=60, check=False, cwd=ROOT
        )
    assert done.stdout == b""
    return done.returncode, " ".join(done.stderr.decode().split())


def result(outputs: Any) -> Result:
    return Result(1, outputs, "echo", "1", 2.0, 1.0, 1.0, 1)


def sizes(*numbers: int) -> list[Answer | None]:
    return [result({"bytes": number}) for number in numbers]


def made(
    path: Path,
    answers: Sequence[Answer | None],
    *,
    name: str = "item",
    gap_ms: float = 1.0,
    **about: Any,
) -> Path:
    """A recording of items of 1, 2, 3... bytes with these answers."""
    defaults = {"model": "echo", "version": "1", "policy": "queue", "window": 4, "input": "bytes"}
    with Writer(path) as writer:
        writer.describe(About(**(defaults | about)))
        for number, answer in enumerate(answers, 1):
            writer.add(f"{name} {number}", (number - 1) * gap_ms, bytes(number))
            if answer:
                writer.answer(number, answer)
    return path


@pytest.mark.parametrize("options", [("--fast",), (), ("--speed", "3"), ("--fast", "--policy", "latest")])
def test_a_round_trip_answers_as_recorded(
    server: RunningServer, here: Here, tmp_path: Path, options: tuple[str, ...]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        (photos / f"{number}.jpg").write_bytes(SAMPLE.read_bytes() if number else b"no picture")
    recording = tmp_path / "r.zip"
    assert here("record", "faces", photos, "--url", server.url, "--output", recording)[0] == 1, (
        "one is no picture"
    )
    status, words = here("replay", recording, "--url", server.url, *options)
    assert "4 of 4 answers are as recorded" in words
    assert status == 0


def test_a_version_can_be_named(server: RunningServer, here: Here, tmp_path: Path) -> None:
    recording = tmp_path / "r.zip"
    at = ("--url", server.url)
    assert here("record", "echo@1", "sample", *at, "--output", recording)[0] == 0
    assert here("replay", recording, *at, "--fast", "--model", "echo@1")[0] == 0
    for argv in (
        ("record", "echo@2", "sample", *at, "--output", tmp_path / "no.zip"),
        ("replay", recording, *at, "--model", "echo@2"),
    ):
        status, words = here(*argv)
        assert status == 1
        assert "unknown_model" in words


def test_answers_are_written_as_stream_writes_them(server: RunningServer, here: Here, tmp_path: Path) -> None:
    recording, lines = made(tmp_path / "r.zip", sizes(1, 2)), tmp_path / "answers.jsonl"
    assert here("replay", recording, "--url", server.url, "--output", lines, "--quiet") == (0, "")
    answers = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    assert [(answer["item"], answer["outputs"]) for answer in answers] == [
        ("item 1", {"bytes": 1}),
        ("item 2", {"bytes": 2}),
    ]


def test_difference_fails(server: RunningServer, here: Here, tmp_path: Path) -> None:
    recording = made(tmp_path / "r.zip", [*sizes(1, 7), LOST, *sizes(4)])
    status, words = here("replay", recording, "--url", server.url, "--fast")
    assert "2 │ item 2 │ outputs.bytes is 2, was 7" in words
    assert "2 of 4 answers are as recorded" in words
    assert status == 1


def test_an_item_too_large_by_now_differs(
    start_server: Callable[..., RunningServer], here: Here, tmp_path: Path
) -> None:
    server = start_server("--model", "echo", "--workers", "1", "--set", "limits.max_item_bytes=8192")
    with Writer(tmp_path / "r.zip") as writer:
        writer.describe(About("echo", "1", "queue", 4, "bytes"))
        for number, size in enumerate((1, 10_000, 3), 1):
            writer.add("item", 0.0, bytes(size))
            writer.answer(number, result({"bytes": size}))
    status, words = here("replay", tmp_path / "r.zip", "--url", server.url, "--fast")
    assert "2 of 3 answers are as recorded" in words
    assert status == 1


def compared(path: Path, *now: Answer, tolerance: float = 0.0, version: str = "1") -> tuple[bool, str]:
    """Whether a recording's answers are these, and what is said of it."""
    file = io.StringIO()
    with open_recording(path) as recording:
        comparison = Comparison(recording, tolerance)
        comparison.begins(Ready("s1", "echo", version, "queue", 4, 1 << 20, "bytes"))
        for number, answer in enumerate(now, 1):
            comparison.answered(number, answer)
        comparison.show(Console(file=file, width=200))
    return comparison.same, " ".join(file.getvalue().split())


def test_errors_are_compared_by_their_code(tmp_path: Path) -> None:
    path = made(tmp_path / "r.zip", [LOST])
    other = Error("worker_lost", "said in another way", retryable=True, seq=1)
    assert compared(path, other) == (True, "1 of 1 answers are as recorded")
    same, words = compared(path, Error("timeout", "", retryable=False, seq=1))
    assert 'code is "timeout", was "worker_lost"' in words
    assert not same
    same, words = compared(path, result(1))
    assert "code is gone" in words
    assert not same


def test_a_tolerance_lets_fractions_pass(tmp_path: Path) -> None:
    path = made(tmp_path / "r.zip", [result({"score": 0.94, "width": 640})])
    near, far = result({"score": 0.9401, "width": 640}), result({"score": 0.94, "width": 641})
    assert not compared(path, near)[0]
    assert compared(path, near, tolerance=0.001)[0]
    assert not compared(path, far, tolerance=5.0)[0]


def test_of_many_differences_the_first_are_listed(tmp_path: Path) -> None:
    count = MOST_SHOWN + 3
    same, words = compared(made(tmp_path / "r.zip", sizes(*[0] * count)), *[result({"bytes": 1})] * count)
    assert f"item {MOST_SHOWN} │" in words
    assert f"item {MOST_SHOWN + 1} │" not in words
    assert f"and 3 more 0 of {count} answers are as recorded" in words
    assert not same


def test_items_dropped_in_either_run_are_counted_apart(tmp_path: Path) -> None:
    path = made(tmp_path / "r.zip", [DROPPED, *sizes(2, 3), DROPPED])
    same, words = compared(path, result({"bytes": 1}), DROPPED, result({"bytes": 3}), DROPPED)
    assert "2 items were dropped when they were recorded, 2 now; not compared" in words
    assert "1 of 1 answers are as recorded" in words
    assert same


@pytest.mark.parametrize(("then", "now"), [(DROPPED, result(1)), (result(1), DROPPED), (None, result(1))])
def test_where_nothing_can_be_compared_nothing_is_the_same(
    tmp_path: Path, then: Answer | None, now: Answer
) -> None:
    same, words = compared(made(tmp_path / "r.zip", [then]), now)
    assert words.endswith("no item has an answer in both runs, so nothing was compared")
    assert not same


def test_items_without_a_recorded_answer_are_counted_apart(tmp_path: Path) -> None:
    same, words = compared(made(tmp_path / "r.zip", [*sizes(1), None]), *[result({"bytes": 1})] * 2)
    assert words == "1 items have no answer in the recording; not compared 1 of 1 answers are as recorded"
    assert same


def test_items_without_an_answer_fail(tmp_path: Path) -> None:
    same, words = compared(made(tmp_path / "r.zip", sizes(1, 2)), result({"bytes": 1}))
    assert words == "1 items have no answer now 1 of 1 answers are as recorded"
    assert not same


def test_another_version_is_named(tmp_path: Path) -> None:
    same, words = compared(made(tmp_path / "r.zip", sizes(1)), result({"bytes": 1}), version="2")
    assert "recorded with version 1, answered by 2" in words
    assert same


def test_words_from_a_file_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    path = made(tmp_path / "r.zip", sizes(2), name="[red]\x1b[2J", version="[red]\x1b[2J")
    _, words = compared(path, result({"bytes": 1}))
    assert words.count(r"[red]\x1b[2J") == 2
    assert "\x1b" not in words


async def test_the_stream_is_opened_as_it_was(tmp_path: Path) -> None:
    asked: list[str] = []

    async def listen(peer: Peer) -> None:
        assert peer.ws.request is not None
        asked.append(peer.ws.request.path)
        await peer.ready()
        await peer.ws.recv()
        await peer.result(1, {"bytes": 1})
        await peer.ws.recv()
        await peer.say("end", received=1, results=1, dropped=0, errors=0)

    recording = made(tmp_path / "r.zip", sizes(1), policy="latest")
    for options in ((), ("--fast",)):
        assert (await against(listen, recording, *options))[0] == 0
    stream = "/v2/models/echo/stream?policy="
    assert asked == [f"{stream}latest&window=4", f"{stream}queue"]


async def test_items_go_out_no_earlier_than_recorded(tmp_path: Path) -> None:
    took: list[float] = []

    async def listen(peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await peer.ready()
        for seq in range(1, 4):
            await peer.ws.recv()
            await peer.result(seq, {"bytes": seq})
        took.append(loop.time() - begun)
        await peer.ws.recv()
        await peer.say("end", received=3, results=3, dropped=0, errors=0)

    recording = made(tmp_path / "r.zip", sizes(1, 2, 3), gap_ms=100)
    assert (await against(listen, recording, "--speed", "0.5"))[0] == 0
    assert took[0] >= 0.4


async def test_lost_connection_fails(tmp_path: Path) -> None:
    async def vanish(peer: Peer) -> None:
        await peer.ready()
        await peer.ws.recv()
        await peer.result(1, {"bytes": 1})
        await peer.ws.recv()
        peer.cut()

    status, words = await against(vanish, made(tmp_path / "r.zip", sizes(1, 2, 3), gap_ms=0))
    assert "items unanswered" in words
    assert "Traceback" not in words
    assert status == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xd8\xff and so on, for more than a few bytes in all", "is not a whole recording"),
        (None, "cannot read"),
    ],
)
def test_file_that_is_not_a_recording_gets_one_line(
    here: Here, tmp_path: Path, content: bytes | None, words: str
) -> None:
    if content:
        (tmp_path / "r.zip").write_bytes(content)
    status, said = here("replay", tmp_path / "r.zip", "--fast")
    assert words in said
    assert status == 2


def test_model_of_another_kind_gets_one_line(server: RunningServer, here: Here, tmp_path: Path) -> None:
    status, said = here("replay", made(tmp_path / "r.zip", [None], input="image"), "--url", server.url)
    assert said == "stream-server: echo takes bytes, and the recording holds image"
    assert status == 2
