"""The server in containers that give it little: it starts, and says what is missing."""

from __future__ import annotations

import json
import platform
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import pytest

from tests.conftest import START_TIMEOUT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these are features of Linux")

EMPTY_PROC = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /proc && exec "$@"', "sh"]

REFUSING = """
import ctypes, errno, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
code = [(0x20, 0, 0, 0)]  # the call's number
for number in map(int, sys.argv[1].split(",")):
    code += [(0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | errno.EPERM)]
code.append((0x06, 0, 0, 0x7FFF0000))
packed = b"".join(struct.pack("=HBBI", *line) for line in code)
buffer = ctypes.create_string_buffer(packed, len(packed))
program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(buffer)))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
    sys.exit(77)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Runs a command with calls refused, as a container's seccomp profile does."""

UNSHARE, LANDLOCK, SECCOMP, CAPGET, CAPSET, PRLIMIT, PIDFD_OPEN = 272, "444,445,446", 317, 125, 126, 302, 434
"""Numbers of x86-64."""


@dataclass
class Confined:
    process: subprocess.Popen[str]
    ready: dict[str, Any]
    metrics: str


@contextmanager
def serving(prefix: list[str], log: IO[str]) -> Iterator[Confined]:
    """Run a server behind a command; ask it once it says that it is ready."""
    serve = [sys.executable, "-m", "stream_server", "serve", "--port=0", "--workers=1", "--model=echo"]
    process = subprocess.Popen([*prefix, *serve], stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout
        found = re.search(r"ready at (http://\S+)", process.stdout.readline())
        assert found, "it did not start"

        def get(path: str) -> str:
            with urllib.request.urlopen(found[1] + path, timeout=START_TIMEOUT) as answer:
                return str(answer.read().decode())

        yield Confined(process, json.loads(get("/v2/health/ready")), get("/metrics"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_TIMEOUT) == 0
    finally:
        process.kill()
        process.communicate()


def test_server_without_proc(tmp_path: Any) -> None:
    if not shutil.which("unshare") or subprocess.run([*EMPTY_PROC, "true"], check=False).returncode:
        pytest.skip("mounting is not permitted")
    file = tmp_path / "log"
    with file.open("w") as log, serving(EMPTY_PROC, log) as server:
        assert server.ready["ready"]
        assert "stream_workers_resident_bytes 0.0" in server.metrics
        assert "unknown without /proc" in server.ready["sandbox"]["landlock"]
    text = file.read_text()
    assert "resident memory is unknown" in text
    assert "the workers' sandbox is not whole" in text
    assert "Traceback" not in text


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
@pytest.mark.parametrize(
    ("calls", "denied"),
    [
        (f"{UNSHARE}", {"network"}),
        (LANDLOCK, {"landlock"}),
        (f"{SECCOMP}", {"seccomp"}),
        (f"{CAPGET},{CAPSET}", {"capabilities"}),
        (f"{PRLIMIT}", {"core_dumps"}),
        (f"{PIDFD_OPEN}", set()),
    ],
)
def test_server_whose_sandbox_is_denied_says_so(calls: str, denied: set[str], tmp_path: Any) -> None:
    refusing = [sys.executable, "-c", REFUSING, calls]
    if subprocess.run([*refusing, "true"], check=False).returncode:
        pytest.skip("no call can be refused")
    file = tmp_path / "log"
    with file.open("w") as log, serving(refusing, log) as server:
        assert server.ready["ready"]
        told = {name for name, state in server.ready["sandbox"].items() if state.startswith("denied: ")}
    assert denied <= told
    text = file.read_text()
    for name in denied:
        assert re.search(rf"the workers' sandbox is not whole: .*{name} \(denied: ", text)
    assert "Traceback" not in text
