"""What the README shows is run as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from stream_server import Result, connect
from stream_server.server.config_file import read_settings
from tests.conftest import RunningServer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def block(word: str) -> str:
    (found,) = [text for text in blocks("python") if word in text]
    return found


def picture_of_a_code(text: str) -> bytes:
    code = cv2.resize(
        cv2.QRCodeEncoder.create().encode(text), None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST
    )
    framed = cv2.copyMakeBorder(code, 40, 40, 40, 40, cv2.BORDER_CONSTANT, value=255)
    ok, encoded = cv2.imencode(".jpg", np.asarray(framed))
    assert ok
    return encoded.tobytes()


async def test_own_model(tmp_path: Path, start_server: Callable[..., RunningServer]) -> None:
    model = block("QRCodes")
    assert len([line for line in model.splitlines() if line.strip()]) < 15
    (tmp_path / "qr_codes.py").write_text(model)
    server = start_server("--model", "qr=qr_codes:QRCodes", "--workers", "1", cwd=tmp_path)
    async with connect(server.url, model="qr") as stream:
        answers = [answer async for answer in stream.process([picture_of_a_code("Hello, camera")])]
    assert [a.outputs for a in answers if isinstance(a, Result)] == [{"codes": ["Hello, camera"]}]


def test_own_model_without_a_server(tmp_path: Path) -> None:
    (tmp_path / "qr_codes.py").write_text(block("QRCodes"))
    (tmp_path / "photo.png").write_bytes(picture_of_a_code("42"))
    command = [sys.executable, "-m", "stream_server", "predict", "qr=qr_codes:QRCodes", "photo.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["outputs"] == {"codes": ["42"]}


def test_async_client(tmp_path: Path, server: RunningServer) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (photos / name).write_bytes((ROOT / "web_client" / "sample.jpg").read_bytes())
    lines = run_script(block("async def main"), tmp_path, server).splitlines()
    assert [line.split()[:3] for line in lines] == [["1", "1", "faces,"], ["2", "1", "faces,"]]


def test_sync_client(tmp_path: Path, server: RunningServer) -> None:
    lines = run_script(block("import connect_sync"), tmp_path, server).splitlines()
    assert [line.split()[0] for line in lines] == ["ham", "spam"]


def run_script(script: str, folder: Path, server: RunningServer) -> str:
    local = script.replace("http://127.0.0.1:8080", server.url)
    assert local != script
    command = [sys.executable, "-W", "error", "-c", local]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_settings_file() -> None:
    (text,) = blocks("toml")
    settings = read_settings(tomllib.loads(text))
    assert [model.name for model in settings.models] == ["faces", "qr"]
    assert settings.models[0].options == {"long_side": 1280}
    assert settings.models[0].settings.min_rate == 5


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z]+) ", README))))
def test_make_targets(target: str) -> None:
    assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "docs/api.md",
        "docs/benchmarks.md",
        "docs/clients.md",
        "docs/internals.md",
        "docs/operations.md",
        "docs/protocol.md",
        "THIRD_PARTY.md",
    ],
)
def test_links(document: str) -> None:
    path = ROOT / document
    for link, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", path.read_text("utf-8")):
        target = path.parent / link if link else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text("utf-8")), anchor


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_environment_is_entered_before_the_first_command() -> None:
    """After `make run`, `stream-server` is in .venv/bin alone."""
    entered = README.index(". .venv/bin/activate")
    commands = [
        found.start() for found in re.finditer(r"^    (?!make).*stream-server ", README, re.MULTILINE)
    ]
    assert commands
    assert entered < min(commands)
