"""`stream-server record` as a process of its own, against the real server and one that fails on purpose."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stream_server.cli import main
from stream_server.recording.reader import open_recording
from stream_server.recording.writer import Item
from tests.conftest import RunningServer
from tests.stream_server.peer import Peer, scripted

Here = Callable[..., tuple[int, str]]

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "web_client" / "sample.jpg"


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "stream_server", "record", *map(str, args)]


async def record(*args: str | Path) -> tuple[int, str]:
    """Exit status, and what people read."""
    done = await asyncio.to_thread(
        subprocess.run, command(*args), capture_output=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.stdout == b""
    return done.returncode, done.stderr.decode()


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Record in this process, which is sooner: exit status, and what people read."""

    def record(*args: str | Path) -> tuple[int, str]:
        status = main(["record", *map(str, args)])
        said = capsys.readouterr()
        assert said.out == ""
        return status, said.err

    return record


def items(path: Path) -> Sequence[Item]:
    with open_recording(path) as recording:
        return recording.items


def test_a_folder_is_kept_with_its_answers(server: RunningServer, here: Here, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "9.jpg").write_bytes(SAMPLE.read_bytes())
    (photos / "10.jpg").write_bytes(b"no picture")
    status, words = here("faces", photos, "--url", server.url, "--output", tmp_path / "r.zip")
    assert "2 items are in" in words
    with open_recording(tmp_path / "r.zip") as recording:
        about = recording.about
        assert (about.model, about.policy, about.input) == ("faces", "queue", "image")
        good, bad = recording.items
        assert recording.payload(good) == SAMPLE.read_bytes()
        assert recording.payload(bad) == b"no picture"
    assert (good.name, bad.name) == ("9.jpg", "10.jpg")
    assert good.at_ms == 0 < bad.at_ms
    assert good.answer
    assert len(good.answer["outputs"]["faces"]) == 1
    assert bad.answer == {"type": "error", "code": "unsupported_image"}
    assert status == 1


def test_texts_are_kept_on_their_schedule(server: RunningServer, here: Here, tmp_path: Path) -> None:
    mails = tmp_path / "mails"
    mails.mkdir()
    for name in "1234":
        (mails / f"{name}.txt").write_text(f"Grüße {name}", "utf-8")
    options = ("--fps", "100", "--limit", "3", "--quiet")
    assert here("spam", mails, "--url", server.url, "--output", tmp_path / "r.zip", *options) == (0, "")
    with open_recording(tmp_path / "r.zip") as recording:
        kept = recording.items
        assert [recording.payload(item) for item in kept] == ["Grüße 1", "Grüße 2", "Grüße 3"]
    assert [item.at_ms for item in kept] == sorted(item.at_ms for item in kept)
    assert all(item.answer and item.answer["outputs"]["label"] in ("ham", "spam") for item in kept)


def test_oversized_item_is_recorded_as_too_large(
    start_server: Callable[..., RunningServer], here: Here, tmp_path: Path
) -> None:
    server = start_server("--model", "echo", "--workers", "1", "--set", "limits.max_item_bytes=8192")
    for name, size in (("1", 10), ("2", 10_000), ("3", 30)):
        (tmp_path / name).write_bytes(bytes(size))
    output = tmp_path.with_name(f"{tmp_path.name}.zip")
    status, _ = here("echo", tmp_path, "--url", server.url, "--output", output)
    assert [item.answer for item in items(output)] == [
        {"type": "result", "outputs": {"bytes": 10}},
        {"type": "error", "code": "too_large"},
        {"type": "result", "outputs": {"bytes": 30}},
    ]
    assert status == 1


def test_ctrl_c_leaves_a_whole_recording(server: RunningServer, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("spam", "-", "--url", server.url, "--output", tmp_path / "r.zip"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin
    assert process.stderr
    before = server.metrics()['stream_items_results_total{model="spam"}']
    process.stdin.write("hello\n")
    process.stdin.flush()
    while server.metrics()['stream_items_results_total{model="spam"}'] == before:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)  # and standard input stays open: its reader never returns
    words = process.stderr.read()
    assert process.wait(20) == 0
    assert "1 items are in" in words
    assert "Traceback" not in words
    (item,) = items(tmp_path / "r.zip")
    assert item.answer
    process.stdin.close()
    process.stderr.close()


async def test_a_lost_connection_leaves_a_whole_recording(tmp_path: Path) -> None:
    async def vanish(peer: Peer) -> None:
        await peer.ready()
        await peer.ws.recv()
        peer.cut()

    async with scripted(vanish) as url:
        args = ("echo", "sample", "--url", url, "--output", tmp_path / "r.zip")
        status, words = await record(*args)
    assert status == 1
    assert "1 items unanswered" in words
    assert [item.answer for item in items(tmp_path / "r.zip")] == [None]


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (("nothing", "sample", "--output", "{}/r.zip"), 1, "unknown_model"),
        (("faces", "no/such/file", "--output", "{}/r.zip"), 2, "no file or folder no/such/file"),
        (("faces", "sample", "--output", "{}/no/such/folder/r.zip"), 2, "cannot write"),
    ],
)
def test_impossible_request_gets_one_line_and_leaves_no_file(
    server: RunningServer, here: Here, tmp_path: Path, args: tuple[str, ...], status: int, words: str
) -> None:
    got, said = here(*(arg.format(tmp_path) for arg in args), "--url", server.url)
    assert got == status
    assert words in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
