"""`stream-server models`, against the real server and against others that answer HTTP."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stream_server.commands import models
from stream_server.errors import ConfigError, ConnectFailed
from tests.conftest import RunningServer


def run(url: str, *flags: str) -> int:
    parser = argparse.ArgumentParser()
    models.configure(parser)
    return models.run(parser.parse_args(["--url", url, *flags]))


def test_the_table_names_every_model(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(server.url) == 0
    out = capsys.readouterr().out
    for name, version, takes, policy in (
        ("faces", "2023mar", "image", "latest"),
        ("spam", "1", "text", "queue"),
        ("echo", "1", "bytes", "queue"),
    ):
        row = next(line for line in out.splitlines() if line.split()[:1] == [name])
        assert row.split()[1:5] == [version, "ready", takes, policy]
    assert max(map(len, out.splitlines())) <= 80


def test_json_is_the_servers_own_words(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(server.url.replace("http", "ws") + "/", "--json") == 0
    _, _, body = server.get("/v2/models")
    assert json.loads(capsys.readouterr().out) == json.loads(body)["models"]


BROKEN = "broken=tests.inference.sample_models:LoadRaises"


def test_a_model_that_is_not_ready_says_why(
    start_server: Callable[..., RunningServer], capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_server("--workers", "1", "--model", "echo", "--model", BROKEN)
    assert run(server.url) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "broken" in out
    assert "unavailable" in out
    assert "loading it failed with OSError" in out


def test_missing_server_is_reported_with_what_to_do(unused_tcp_port: int) -> None:
    with pytest.raises(
        ConnectFailed, match=r"Connection refused\); is it running\? start one: stream-server serve"
    ):
        run(f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(ConfigError, match="not a server's address"):
        run("127.0.0.1:8080")


@contextmanager
def http_server(status: int, body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, b"", "HTTP status 404"),
        (200, b"<html>", "lists no models"),
        (200, b"[]", "lists no models"),
        (200, b'{"models": [{}]}', "lists no models"),
        (200, b'{"models": ["faces"]}', "lists no models"),
        (200, b'{"models": 3}', "lists no models"),
    ],
)
def test_foreign_server_is_recognised(status: int, body: bytes, words: str) -> None:
    with http_server(status, body) as url, pytest.raises(ConnectFailed, match=words):
        run(url)
