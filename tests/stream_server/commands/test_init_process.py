"""The first process of a container: orphans are reaped, signals arrive, exit statuses are told."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.conftest import START_TIMEOUT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process namespaces are a feature of Linux")

FIRST = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]

SPLIT = "from stream_server.commands.init_process import split_if_first; split_if_first()\n"

LEAVES_AN_ORPHAN = (
    SPLIT
    + """
import os, subprocess, sys, time
pid = int(subprocess.check_output(["sh", "-c", "sleep 0 >&- & echo $!"]))
give_up = time.monotonic() + 30
while time.monotonic() < give_up:
    try:
        os.kill(pid, 0)  # a zombie is there
    except ProcessLookupError:
        sys.exit(7)
    time.sleep(0.01)
"""
)

WAITS_FOR_A_SIGNAL = (
    SPLIT
    + """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
assert os.getpid() != 1
print("ready", flush=True)
while True:
    signal.pause()
"""
)


@pytest.fixture(autouse=True)
def permitted() -> None:
    if not shutil.which("unshare") or subprocess.run([*FIRST, "true"], check=False).returncode:
        pytest.skip("process namespaces are not permitted")


def run(code: str) -> int:
    done = subprocess.run([*FIRST, sys.executable, "-c", code], timeout=START_TIMEOUT, check=False)
    return done.returncode


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([*FIRST, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()  # and with it all of the namespace
        process.communicate()


def test_orphans_are_reaped() -> None:
    assert run(LEAVES_AN_ORPHAN) == 7


def test_signal_is_passed_on() -> None:
    with running(WAITS_FOR_A_SIGNAL) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        (first,) = psutil.Process(process.pid).children()
        first.send_signal(signal.SIGTERM)
        assert process.wait(START_TIMEOUT) == 9


@pytest.mark.parametrize(("code", "status"), [("pass", 0), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_exit_status_is_the_commands(code: str, status: int) -> None:
    assert run(SPLIT + code) == status


def test_command_is_not_the_first_process() -> None:
    code = (
        "import os\nfrom stream_server.cli import main\nmain(['serve', '--port=70000'])\nprint(os.getpid())"
    )
    command = [*FIRST, sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 1
