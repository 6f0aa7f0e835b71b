"""Process trees: CPU time is complete, and pausing stops every process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest

from benchmarks.failures import RunFailed
from benchmarks.load.servers import POLITELY, Program, running

RECYCLING = """
import subprocess, sys
sys.stdin.readline()
busy = "import time\\nwhile time.process_time() < 0.5: pass"
subprocess.run([sys.executable, "-c", busy])
print("ended", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def recycling() -> Iterator[subprocess.Popen[str]]:
    """A server that runs a worker between two lines of input."""
    command = [sys.executable, "-c", RECYCLING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_cpu_includes_ended_workers(recycling: subprocess.Popen[str]) -> None:
    program = Program(psutil.Process(recycling.pid), "", 0.0)
    before = program.cpu()
    assert recycling.stdin
    assert recycling.stdout
    recycling.stdin.write("go\n")
    recycling.stdin.flush()
    assert recycling.stdout.readline() == "ended\n"
    assert program.workers == []
    assert program.cpu() - before > 0.4


def test_ended_server_has_no_cpu_and_no_workers(recycling: subprocess.Popen[str]) -> None:
    program = Program(psutil.Process(recycling.pid), "", 0.0)
    recycling.kill()
    recycling.wait()
    assert program.workers == []
    with pytest.raises(RunFailed, match="the server has ended"):
        program.cpu()
    program.pause()
    program.resume()


@dataclass(eq=False)
class Faked:
    """A stand-in for a process.

    Attributes:
        starts: processes that it starts before it is stopped.
        ended: whether it ends before it is stopped.
    """

    starts: list[Any] = field(default_factory=list)
    ended: bool = False
    stopped: bool = False
    below: list[Any] = field(default_factory=list)

    def suspend(self) -> None:
        if self.ended:
            raise psutil.NoSuchProcess(1)
        self.stopped = True
        self.below += self.starts

    def status(self) -> str:
        if self.ended:
            raise psutil.NoSuchProcess(1)
        return psutil.STATUS_STOPPED if self.stopped else psutil.STATUS_RUNNING

    def children(self, *, recursive: bool) -> list[Any]:
        return [*self.below, *(one for child in self.below for one in child.children(recursive=recursive))]


def test_pause_stops_workers_started_meanwhile() -> None:
    last = Faked()
    second = Faked([last])
    server = Faked([second], below=[Faked()])
    Program(server, "", 0.0).pause()
    assert all(process.stopped for process in (server, *server.below, second, last))


def test_pause_ignores_worker_that_ends_meanwhile() -> None:
    server = Faked(below=[Faked(ended=True), Faked()])
    Program(server, "", 0.0).pause()
    assert server.below[1].stopped


def test_failed_start_names_command_without_paths() -> None:
    command = (*POLITELY, sys.executable, "-c", "print('not yet')")
    with pytest.raises(RunFailed) as failed, running(*command):
        pass
    assert (
        str(failed.value)
        == "`nice -n 5 python -c 'print('\"'\"'not yet'\"'\"')'` did not start: 'not yet\\n'"
    )
