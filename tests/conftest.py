"""The real server as a process, and the law that must hold after every test that used it."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")  # an example takes no time, but the machine may

VECTORS = Path(__file__).parent / "vectors"

START_TIMEOUT = 60.0  # seconds; a start takes under one on an idle machine
WAIT = 20.0  # seconds: above any answer of a machine that has something else to do as well


def pytest_configure() -> None:
    """Hear Ctrl-C: a shell that starts the tests in the background lets them, and their programs, ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def vectors(name: str) -> list[dict[str, Any]]:
    """The wire vectors that every client is tested on."""
    cases: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    return cases


@dataclass
class RunningServer:
    """``stream-server serve`` with its own process; stopping and starting keeps the port."""

    args: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    url: str = ""
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        port = self.url.rpartition(":")[2] or "0"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stream_server", "serve", "--port", port, *self.args],
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.cwd,
            env={**os.environ, **self.env},
        )
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], START_TIMEOUT)
        line = self.process.stdout.readline() if ready else ""
        found = re.search(r"ready at (http://\S+)", line)
        if not found:
            self.kill()
            pytest.fail(f"the server did not start: {line!r}")
        self.url = found.group(1)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit status."""
        assert self.process
        self.process.send_signal(signal_number)
        status = self.process.wait(START_TIMEOUT)
        self._close()
        return status

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        if self.process and self.process.stdout:
            self.process.stdout.close()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any, bytes]:
        """Status, headers and body of a GET."""
        request = urllib.request.Request(self.url + path, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=START_TIMEOUT) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def stopped_worker(self) -> psutil.Process:
        """Wait for the worker that an item has told to stop: it holds that item until it is resumed."""
        assert self.process
        give_up = time.monotonic() + START_TIMEOUT
        while time.monotonic() < give_up:
            for worker in psutil.Process(self.process.pid).children():
                with suppress(psutil.NoSuchProcess):
                    if worker.status() == psutil.STATUS_STOPPED:
                        return worker
            time.sleep(0.01)
        pytest.fail("no worker has stopped")

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels; a model's versions are added up."""
        _, _, body = self.get("/metrics")
        lines = [line for line in body.decode().splitlines() if line and not line.startswith("#")]
        samples: dict[str, float] = {}
        for name, _, value in (line.rpartition(" ") for line in lines):
            of_all = re.sub(r',version="[^"]*"', "", name)
            samples[of_all] = samples.get(of_all, 0.0) + float(value)
        return samples

    def assert_law(self) -> None:
        """Law 1, in total: what was received has its outcome, waits or runs."""
        metrics = self.metrics()

        def total(prefix: str) -> float:
            return sum(value for name, value in metrics.items() if name.startswith(prefix))

        accounted = sum(
            total(
                f"stream_items_{kind}{{" if kind in ("waiting", "running") else f"stream_items_{kind}_total{{"
            )
            for kind in ("results", "dropped", "errors", "waiting", "running", "rebound")
        )
        assert total("stream_items_received_total{") == accounted


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RunningServer]:
    server = RunningServer(("--workers", "2"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(shared_server: RunningServer) -> Iterator[RunningServer]:
    """The server with all models that ship, shared by tests that leave it as it was."""
    assert shared_server.process
    before = shared_server.metrics()["stream_worker_deaths_total"]
    yield shared_server
    assert shared_server.running, "the server ended during the test"
    assert shared_server.metrics()["stream_worker_deaths_total"] == before, "a worker died"
    shared_server.assert_law()


@pytest.fixture
def start_server() -> Iterator[Callable[..., RunningServer]]:
    """Start servers of the test's own, with arguments of ``stream-server serve``."""
    servers: list[RunningServer] = []

    def start(*args: str, cwd: Path | None = None, **env: str) -> RunningServer:
        server = RunningServer(args, env, cwd)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        if server.running:
            server.assert_law()
        server.kill()
