"""Each example runs as its first lines say, as a program of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from stream_server import Error, Result, connect_sync
from tests.conftest import RunningServer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SAMPLE = ROOT / "web_client" / "sample.jpg"

TESTED = {
    "async_client",
    "data_model",
    "engine_without_server",
    "load_a_model",
    "own_model",
    "stateful_model",
    "sync_client",
}


def run(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def predict(model: str, *arguments: str) -> list[dict[str, object]]:
    lines = run("-m", "stream_server", "predict", model, "--workers=1", *arguments, cwd=EXAMPLES).splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def broken(tmp_path: Path) -> str:
    file = tmp_path / "broken.jpg"
    file.write_bytes(SAMPLE.read_bytes()[:5000])
    return str(file)


def test_every_example_is_tested() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == TESTED


def test_async_client(server: RunningServer, broken: str) -> None:
    lines = run("examples/async_client.py", server.url, str(SAMPLE), broken).splitlines()
    assert lines[0].startswith("1: faces: 1, after ")
    assert lines[1].startswith("2: bad_image, ")
    assert lines[2] == "End(received=2, results=1, dropped=0, errors=1)"


@pytest.mark.parametrize("client", ["async_client", "sync_client"])
def test_clients_say_in_a_sentence_that_no_server_is_there(client: str, unused_tcp_port: int) -> None:
    command = [sys.executable, f"examples/{client}.py", f"http://127.0.0.1:{unused_tcp_port}", str(SAMPLE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"no server at 127.0.0.1:{unused_tcp_port}")


def test_sync_client(server: RunningServer) -> None:
    texts = ("Lunch at noon?", "You have won $1,000,000, click here")
    lines = run("examples/sync_client.py", server.url, *texts).splitlines()
    assert lines == [f"ham: {texts[0]}", f"spam: {texts[1]}"]


@pytest.mark.parametrize("example", ["engine_without_server", "load_a_model"])
def test_models_without_a_server(example: str, broken: str) -> None:
    lines = run(f"examples/{example}.py", str(SAMPLE), broken).splitlines()
    assert lines[0] == f"{SAMPLE}: faces: 1"
    assert lines[1].startswith(f"{broken}: bad_image, ")


def test_own_model(start_server: Callable[..., RunningServer]) -> None:
    server = start_server(
        "--workers=1",
        "--model=brightness=own_model:Brightness",
        "--set=models.brightness.options.darkest=10",
        cwd=EXAMPLES,
    )
    black = cv2.imencode(".png", np.zeros((30, 40, 3), np.uint8))[1].tobytes()
    grey = cv2.imencode(".png", np.full((30, 40, 3), 100, np.uint8))[1].tobytes()
    with connect_sync(server.url, "brightness", policy="queue") as stream:
        dark, light = stream.process([black, grey])
    assert isinstance(dark, Error)
    assert dark.code == "too_dark"
    assert isinstance(light, Result)
    assert light.outputs == {"mean": 100.0, "width": 40, "height": 30}


def test_data_model(tmp_path: Path) -> None:
    file = tmp_path / "points.json"
    file.write_text('{"from": [0, 0], "to": [3, 4]}')
    (line,) = predict("data_model:Distance", str(file))
    assert line["outputs"] == {"distance": 5.0}


def test_stateful_model(start_server: Callable[..., RunningServer]) -> None:
    server = start_server("--workers=1", "--model=count=stateful_model:WordCount", cwd=EXAMPLES)
    for _ in range(2):  # each stream has its own state
        with connect_sync(server.url, "count") as stream:
            answers = list(stream.process(["one two", "three", "four five six"]))
        words = [answer.outputs["words"] for answer in answers if isinstance(answer, Result)]
        assert words == [2, 3, 6]
