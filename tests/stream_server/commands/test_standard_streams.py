"""Standard streams that are closed, full, or read by nobody: no command hangs, crashes or prints a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from stream_server.client.sync import connect_sync
from tests.conftest import START_TIMEOUT, RunningServer
from tests.stream_server.server.test_log_writer import fill

SERVE = ("serve", "--workers=1", "--model=echo")


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "stream_server", *argv]


def buffered() -> dict[str, str]:
    """An environment in which Python buffers its output, as it does by default."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@contextmanager
def serving(start: Callable[[list[str]], subprocess.Popen[bytes]]) -> Iterator[tuple[int, Any]]:
    """Run a server that need not print anything; its port and its process."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    process = start(command(*SERVE, f"--port={port}"))
    try:
        for _ in range(int(START_TIMEOUT / 0.1)):
            with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
                    assert answer.status == 200
                break
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended with {process.wait(0.1)}")
        else:
            pytest.fail("it was never ready")
        yield port, process
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()


def ask_wrongly(port: int) -> bytes:
    """Send a request that is not HTTP; the answer."""
    with socket.create_connection(("127.0.0.1", port), START_TIMEOUT) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n")
        return sock.recv(1024)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_server_lives_with_a_full_pipe_that_nobody_reads(stream: str) -> None:
    reader, writer = os.pipe()
    fill(writer)
    with serving(
        lambda argv: subprocess.Popen(argv, **{"stdout": subprocess.DEVNULL, stream: writer})
    ) as found:
        os.close(writer)
        port, _ = found
        for _ in range(150):  # logged without a limit, these fill 64 KiB; nobody reads even the first
            assert b"400 Bad Request" in ask_wrongly(port)
    os.close(reader)


def test_server_lives_with_pipes_whose_readers_have_exited() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with serving(lambda argv: subprocess.Popen(argv, stdout=writer, stderr=writer)) as (port, _):
        os.close(writer)
        for _ in range(3):
            assert b"400 Bad Request" in ask_wrongly(port)


def test_what_a_flood_of_streams_logs_is_counted(start_server: Callable[..., RunningServer]) -> None:
    server = start_server(*SERVE[1:], "--verbose")
    for _ in range(150):
        with connect_sync(server.url, "echo"):
            pass
    assert server.metrics()['stream_log_dropped_total{reason="rate"}'] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_server_with_closed_standard_streams_has_no_socket_in_their_place(closed: str) -> None:
    with serving(
        lambda argv: subprocess.Popen(
            ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *argv],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    ) as (_, process):
        opened = [str(Path(f"/proc/{process.pid}/fd/{fd}").readlink()) for fd in range(3)]
        assert not [target for target in opened if target.startswith(("socket:", "anon_inode:"))]
        assert "/dev/null" in opened


COMMANDS = [
    ("--version",),
    ("predict", "--help"),
    ("predict", "echo", "pyproject.toml", "README.md"),
    ("models", "--url", "{url}"),
    ("models", "--json", "--url", "{url}"),
    ("stream", "echo", "docs", "--url", "{url}"),
    ("stream", "echo", "docs", "--url", "{url}", "--quiet"),
]


def run(argv: tuple[str, ...], server: RunningServer, **options: Any) -> subprocess.CompletedProcess[str]:
    words = [word.format(url=server.url) for word in argv]
    return subprocess.run(
        command(*words),
        stderr=subprocess.PIPE,
        text=True,
        env=buffered(),
        cwd=Path(__file__).parents[3],
        timeout=START_TIMEOUT,
        check=False,
        **options,
    )


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_command_whose_reader_has_exited_ends_without_a_traceback(
    argv: tuple[str, ...], server: RunningServer
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run(argv, server, stdout=writer)
    os.close(writer)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert "Broken pipe" not in done.stderr


def test_self_check_whose_reader_has_exited_ends_without_a_traceback(server: RunningServer) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "stream_server.commands.self_check", server.url],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=buffered(),
        timeout=START_TIMEOUT,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
@pytest.mark.parametrize("argv", COMMANDS[:5], ids=" ".join)
def test_command_that_cannot_write_says_why(argv: tuple[str, ...], server: RunningServer) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(argv, server, stdout=full)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().endswith("stream-server: cannot write: No space left on device")


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_command_with_closed_output_runs(argv: tuple[str, ...], server: RunningServer) -> None:
    words = [word.format(url=server.url) for word in argv]
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- >&-', "sh", *command(*words)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        timeout=START_TIMEOUT,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_mistake_keeps_its_exit_status_when_it_cannot_be_told() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("serve", "--port=70000"), stderr=full, env=buffered(), timeout=START_TIMEOUT, check=False
        )
    assert done.returncode == 2
