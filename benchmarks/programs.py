"""Starts the servers that are measured, reads the CPU time of their process trees, and ends them, and no others."""

from __future__ import annotations

import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import psutil  # type: ignore[import-untyped]

from benchmarks.failures import RunFailed

Process: TypeAlias = psutil.Process

START_S = 60.0
"""A start takes under a second, and with scikit-learn under five, on an idle machine."""

STOP_S = 15.0
"""The server's own drain takes ten at most."""

STREAM_SERVER = (sys.executable, "-m", "stream_server", "serve", "--workers", "2")
BASELINE = (sys.executable, "-m", "benchmarks.baseline")


def machine_cpu() -> float:
    """CPU seconds of the whole machine since its start, idle ones left out."""
    times = psutil.cpu_times()
    # what guests take is in `user` already
    return float(sum(times[:8]) - times.idle - getattr(times, "iowait", 0.0))


def runs(process: Process) -> bool:
    """Whether a process still is one: what has ended may wait for long until somebody reaps it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def waits(process: Process) -> int:
    """How often a process has waited so far."""
    return int(process.num_ctx_switches().voluntary)


def cpu(process: Process) -> float:
    """CPU seconds of one process."""
    times = process.cpu_times()
    return float(times.user + times.system)


@dataclass(frozen=True, slots=True)
class Program:
    """A server that runs.

    Attributes:
        url: its address.
        ready_s: seconds from its start until it said so.
    """

    process: Process
    url: str
    ready_s: float

    @property
    def workers(self) -> list[Process]:
        """Every process below it."""
        return list(self.process.children(recursive=True))

    def cpu(self) -> float:
        """CPU seconds of the whole tree so far; a worker's are gone when it is."""
        return cpu(self.process) + sum(map(cpu, self.workers))


@contextmanager
def running(*command: str, quiet: bool = False) -> Iterator[Program]:
    """Run a server from its line with an address to the end of the context.

    Args:
        quiet: leave out its log, where every line of it would be of something done on purpose.
    """
    started = time.perf_counter()
    errors = subprocess.DEVNULL if quiet else None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        try:
            assert process.stdout
            readable, _, _ = select.select([process.stdout], [], [], START_S)
            line = process.stdout.readline() if readable else ""
            found = re.search(r"ready at (http://\S+)", line)
            if not found:
                raise RunFailed(f"{' '.join(command)} did not start: {line!r}")
            yield Program(psutil.Process(process.pid), found.group(1), time.perf_counter() - started)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def serving(model: str, *args: str, quiet: bool = False) -> Iterator[Program]:
    """Run the stream server with one model and two workers on a free port."""
    with running(*STREAM_SERVER, "--port", "0", "--model", model, *args, quiet=quiet) as program:
        yield program
