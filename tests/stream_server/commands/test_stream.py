"""`stream-server stream` as a process of its own, against the real server and one that fails on purpose."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stream_server.cli import make_parser
from tests.conftest import RunningServer
from tests.stream_server.peer import Peer, obedient, scripted

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "web_client" / "sample.jpg"
AGREES = "every item has its one answer, and the server's counts agree"


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "stream_server", "stream", *map(str, args)]


def stream(*args: str | Path, stdin: bytes = b"") -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, answers, and what people read."""
    done = subprocess.run(command(*args), input=stdin, capture_output=True, timeout=60, check=False, cwd=ROOT)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, lines, done.stderr.decode()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of a portrait that moves, at 30 frames a second."""
    path = tmp_path_factory.mktemp("video") / "portrait.mp4"
    portrait = cv2.resize(cv2.imread(str(SAMPLE)), (320, 240))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (320, 240))
    for number in range(300):
        move = np.array([[1, 0, 40 * np.sin(number / 20)], [0, 1, 0]])
        writer.write(cv2.warpAffine(portrait, move, (320, 240)))
    writer.release()
    return path


def test_every_frame_of_a_video_gets_one_answer_in_order(server: RunningServer, video: Path) -> None:
    status, answers, words = stream("faces", video, "--url", server.url)
    assert [(answer["seq"], answer["item"]) for answer in answers] == [(n, str(n)) for n in range(1, 301)]
    assert {answer["type"] for answer in answers} == {"result"}
    assert sum(len(answer["outputs"]["faces"]) == 1 for answer in answers) > 290
    assert all(answer["round_trip_ms"] > answer["age_ms"] >= answer["infer_ms"] for answer in answers)
    assert AGREES in words
    assert status == 0


def test_a_latest_stream_goes_out_on_time_and_the_server_drops(server: RunningServer, video: Path) -> None:
    options = ("--policy", "latest", "--fps", "1000")
    status, answers, words = stream("faces", video, "--url", server.url, *options)
    kinds = [answer["type"] for answer in answers]
    assert len(answers) == 300
    assert set(kinds) == {"result", "dropped"}
    assert {answer["reason"] for answer in answers if answer["type"] == "dropped"} == {"superseded"}
    assert f"{kinds.count('dropped')} superseded" in words
    assert AGREES in words
    assert status == 0


def test_a_latest_stream_without_a_pace_goes_as_fast_as_it_is_answered(
    server: RunningServer, video: Path
) -> None:
    status, answers, _ = stream("faces", video, "--url", server.url, "--policy", "latest", "--limit", "20")
    assert [answer["type"] for answer in answers] == ["result"] * 20
    assert status == 0


async def test_options_are_asked_for() -> None:
    asked: list[str] = []

    async def listen(peer: Peer) -> None:
        assert peer.ws.request is not None
        asked.append(peer.ws.request.path.partition("?")[2])
        await obedient(peer)

    options = ("--policy", "queue", "--window", "4", "--max-age-ms", "5000", "--weight", "0.25")
    for given in (options, ()):
        status, _, _ = await against(listen, "sample", *given)
        assert status == 0
    assert asked == ["policy=queue&window=4&max_age_ms=5000&weight=0.25", "policy=queue"]


async def test_a_version_is_asked_for() -> None:
    paths: list[str] = []

    async def listen(peer: Peer) -> None:
        assert peer.ws.request is not None
        paths.append(peer.ws.request.path.partition("?")[0])
        await obedient(peer)

    async with scripted(listen) as url:
        for model in ("echo", "echo@2023mar"):
            await asyncio.to_thread(stream, model, "sample", "--url", url)
    assert paths == ["/v2/models/echo/stream", "/v2/models/echo/versions/2023mar/stream"]


def test_an_error_is_written_as_the_server_said_it(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    _, (answer,), _ = stream("echo", tmp_path, "--url", server.url)
    assert set(answer) == {"seq", "item", "type", "code", "message", "retryable", "round_trip_ms"}


def test_fps_is_an_absolute_schedule(server: RunningServer, video: Path) -> None:
    began = time.monotonic()
    status, answers, _ = stream("echo", video, "--url", server.url, "--fps", "50", "--limit", "51")
    assert time.monotonic() - began > 1.0
    assert (len(answers), status) == (51, 0)


def test_a_folder_goes_in_natural_order_and_faces_are_drawn(server: RunningServer, tmp_path: Path) -> None:
    folder, drawn = tmp_path / "in", tmp_path / "out" / "deep"
    folder.mkdir()
    for name in ("10.jpg", "9.jpg", "me & you.jpg"):
        (folder / name).write_bytes(SAMPLE.read_bytes())
    (folder / "broken.jpg").write_bytes(b"no picture")
    status, answers, words = stream("faces", folder, "--url", server.url, "--draw", drawn)
    assert [answer["item"] for answer in answers] == ["9.jpg", "10.jpg", "broken.jpg", "me & you.jpg"]
    assert answers[2]["code"] == "unsupported_image"
    assert "1 (1 unsupported_image)" in words
    assert sorted(file.name for file in drawn.iterdir()) == [
        "000001.jpg",
        "000002.jpg",
        "000004-me & you.jpg",
    ]
    before, after = (cv2.imread(str(path)).astype(int) for path in (SAMPLE, drawn / "000001.jpg"))
    x, y, width, height = map(round, answers[0]["outputs"]["faces"][0]["box"])
    changed = np.abs(before - after).max(axis=2) > 60
    assert changed[y - 1 : y + height + 2, x - 1 : x + width + 2].sum() > width
    assert changed[y + height + 4 :].sum() == 0
    assert status == 1


def test_only_faces_are_drawn_and_it_says_so(server: RunningServer, tmp_path: Path) -> None:
    status, _, words = stream("echo", "sample", "--url", server.url, "--draw", tmp_path)
    assert "nothing drawn: no answer holds faces" in words
    assert list(tmp_path.iterdir()) == []
    assert status == 0


def test_standard_input_is_text_or_pictures_as_the_model_takes(server: RunningServer) -> None:
    status, answers, _ = stream("spam", "-", "--url", server.url, stdin="Grüße\nWIN $$$ now\n".encode())
    assert [answer["item"] for answer in answers] == ["1", "2"]
    assert {answer["outputs"]["label"] for answer in answers} <= {"ham", "spam"}
    assert status == 0
    status, answers, _ = stream("faces", "-", "--url", server.url, stdin=2 * SAMPLE.read_bytes())
    assert [len(answer["outputs"]["faces"]) for answer in answers] == [1, 1]
    assert status == 0


def test_output_and_quiet_keep_both_channels_free(server: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    assert stream("faces", "sample", "--url", server.url, "--output", file, "--quiet") == (0, [], "")
    assert json.loads(file.read_text("utf-8"))["item"] == "sample.jpg"


def test_oversized_item_is_skipped(server: RunningServer, tmp_path: Path) -> None:
    for name, size in (("1", 10), ("2", (8 << 20) + 1), ("3", 30)):
        (tmp_path / name).write_bytes(bytes(size))
    status, answers, words = stream("echo", tmp_path, "--url", server.url)
    assert [(answer["seq"], answer["item"], answer["type"]) for answer in answers] in (
        [(1, "1", "result"), (None, "2", "error"), (2, "3", "result")],
        [(None, "2", "error"), (1, "1", "result"), (2, "3", "result")],
    )
    assert "1 items were not sent; the first, 2: an item of 8,388,609 bytes" in words
    assert status == 1


def test_a_damaged_frame_in_a_pipe_costs_itself_alone(server: RunningServer) -> None:
    whole = SAMPLE.read_bytes()
    pipe = whole + whole[:20] + bytes(4) + whole[20:] + whole + whole
    status, answers, words = stream("faces", "-", "--url", server.url, stdin=pipe)
    assert {(answer["item"], answer["type"]) for answer in answers} == {
        ("1", "result"),
        ("2", "error"),
        ("3", "result"),
        ("4", "result"),
    }
    assert "1 items were not sent; the first, 2: the JPEG is damaged" in words
    assert status == 1


def test_a_picture_is_not_sent_to_a_text_model(server: RunningServer) -> None:
    status, answers, words = stream("spam", SAMPLE, "--url", server.url)
    (answer,) = answers
    assert answer["code"] == "bad_item"
    assert "sample.jpg is not UTF-8, and this model takes text" in answer["message"]
    assert "1 items were not sent; the first, sample.jpg: " in words
    assert status == 1


def test_ctrl_c_ends_the_stream_politely(server: RunningServer) -> None:
    process = subprocess.Popen(
        command("spam", "-", "--url", server.url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdin.write("hello\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["item"] == "1"
    process.send_signal(signal.SIGINT)  # and standard input stays open: its reader never returns
    words = process.stderr.read()
    assert process.wait(20) == 0
    assert AGREES in words
    assert "Traceback" not in words
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()


def test_a_reader_that_has_seen_enough_ends_it(server: RunningServer, video: Path) -> None:
    process = subprocess.Popen(
        command("echo", video, "--url", server.url, "--quiet"),
        pipesize=4096,  # or all its answers might be in there before we close it
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(20) == 1
    process.stderr.close()


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (("nothing", "sample"), 1, "unknown_model: no model 'nothing'; there are faces, spam, echo"),
        (("faces@1", "sample"), 1, "unknown_model"),
        (("faces@", "sample"), 2, "invalid NAME or NAME@VERSION value: 'faces@'"),
        (("faces", "sample", "--window", "0"), 2, "invalid number from 1 to 64 value: '0'"),
        (("faces", "sample", "--max-age-ms", "4000000"), 2, "invalid number from 1 to 3,600,000 value"),
        (("faces", "no/such/file"), 2, "no file or folder no/such/file"),
        (("spam", "sample"), 2, "sample gives pictures, and this model takes text"),
        (("faces", "sample", "--fps", "0"), 2, "invalid number above 0 value: '0'"),
        (("faces", "sample", "--weight", "nan"), 2, "invalid number above 0 value: 'nan'"),
        (("faces", "sample", "--weight", "2"), 1, "weight must be a number from 0.01 to 1, not '2.0'"),
        (("faces", "sample", "--limit", "x"), 2, "invalid number above 0 value: 'x'"),
        (("faces", "sample", "--output", "/no/such/folder/file"), 2, "cannot write the answers"),
    ],
)
def test_impossible_request_gets_one_line(
    server: RunningServer, args: tuple[str, ...], status: int, words: str
) -> None:
    got, answers, said = stream(*args, "--url", server.url)
    assert (got, answers) == (status, [])
    assert words in said
    assert "Traceback" not in said


def test_missing_server_gets_one_line(unused_tcp_port: int) -> None:
    status, _, words = stream("faces", "sample", "--url", f"http://127.0.0.1:{unused_tcp_port}")
    assert words.count("\n") == 1
    assert "stream-server serve" in words
    assert status == 1


async def against(script: Any, *args: str) -> tuple[int, list[dict[str, Any]], str]:
    async with scripted(script) as url:
        return await asyncio.to_thread(stream, "echo", *args, "--url", url)


async def test_disagreeing_counts_fail() -> None:
    async def miscount(peer: Peer) -> None:
        await peer.ready()
        await peer.ws.recv()
        await peer.result(1)
        await peer.ws.recv()
        await peer.say("end", received=2, results=2, dropped=0, errors=0)

    status, answers, words = await against(miscount, "sample")
    assert len(answers) == 1
    assert "not every item is accounted for" in words
    assert "'received': 2" in words.replace("\n", " ")
    assert status == 1


async def test_cut_connection_fails_and_is_summed_up() -> None:
    async def vanish(peer: Peer) -> None:
        await peer.ready()
        await peer.ws.recv()
        peer.cut()

    status, answers, words = await against(vanish, "sample")
    assert answers == []
    assert "1 items unanswered" in words
    assert "not every item is accounted for" in words
    assert "Traceback" not in words
    assert status == 1


async def test_server_that_drains_meanwhile_is_a_failure() -> None:
    async def drain(peer: Peer) -> None:
        await peer.ready(input="text")
        await peer.ws.recv()
        await peer.say("goaway", grace_ms=1000, retry_after_ms=1000)
        await peer.result(1)
        await peer.say("end", received=1, results=1, dropped=0, errors=0)
        await peer.ws.close(1001)

    async with scripted(drain) as url:
        process = await asyncio.create_subprocess_exec(
            *command("echo", "-", "--url", url),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(b"one\n")  # and more may come, which nobody waits for
        async with asyncio.timeout(20):
            answer = json.loads(await process.stdout.readline())
            words = (await process.stderr.read()).decode()
            assert await process.wait() == 1
        process.stdin.close()
    assert answer["seq"] == 1
    assert "is it stopping?" in words


async def test_an_obedient_server_is_a_success() -> None:
    status, answers, words = await against(obedient, "sample")
    assert (status, len(answers)) == (0, 1)
    assert AGREES in words


def test_the_command_line_does_not_import_what_a_server_must_not() -> None:
    seen = (
        "import sys, stream_server.cli; stream_server.cli.make_parser('serve'); "
        "print(*{'cv2', 'websockets'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_the_help_explains_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        make_parser("stream").parse_args(["stream", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for word in ("webcam:1", "sample", "standard input", "folder", "video", "Exit status 0", "--draw"):
        assert word in text
