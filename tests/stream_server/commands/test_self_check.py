"""The self-check: its words and its exit status, against a server that answers as a test tells it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from stream_server.commands import self_check
from tests.stream_server.peer import Peer, scripted


async def run(monkeypatch: pytest.MonkeyPatch, url: str) -> int:
    monkeypatch.setattr(sys, "argv", ["self_check", url])
    return await asyncio.to_thread(self_check.main)


async def test_faces_found_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answers(peer: Peer) -> None:
        await peer.ready(model="faces", input="image")
        await peer.ws.recv()
        await peer.result(1, {"faces": [{"score": 0.94}]})
        await peer.ws.wait_closed()

    async with scripted(answers) as url:
        assert await run(monkeypatch, url) == 0
    assert capsys.readouterr().out.startswith(
        "self-check: 1 face in the sample portrait (score 0.94), answered"
    )


async def test_error_is_printed_and_sets_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuses(peer: Peer) -> None:
        await peer.ready(model="faces", input="image")
        await peer.ws.recv()
        await peer.say("error", seq=1, code="bad_image", message="it is damaged", retryable=False)
        await peer.ws.wait_closed()

    async with scripted(refuses) as url:
        assert await run(monkeypatch, url) == 1
    said = capsys.readouterr().out
    assert said.startswith("self-check failed: ")
    assert "bad_image" in said
    assert f"open {url} in a browser" in said


def test_how_to_enter_the_environment_is_printed_if_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert self_check.entering() is None, "there is no environment to enter"
    scripts = tmp_path / ".venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "activate").touch()
    assert self_check.entering() == "for stream-server in another terminal: . .venv/bin/activate"
    monkeypatch.chdir(scripts)
    assert self_check.entering() == f"for stream-server in another terminal: . {scripts / 'activate'}"
    (scripts / "stream-server").touch(0o755)
    monkeypatch.setenv("PATH", str(scripts))
    assert self_check.entering() is None, "a shell finds it"
