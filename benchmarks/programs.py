"""Starts the servers that are measured, reads the CPU time of their process trees, and ends them, and no others."""

from __future__ import annotations

import re
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias

import psutil  # type: ignore[import-untyped]

from benchmarks.failures import RunFailed
from benchmarks.generator import Transport

Process: TypeAlias = psutil.Process

START_S = 60.0
"""A start takes under a second, and with scikit-learn under five, on an idle machine; Ray Serve's takes ten."""

STOP_S = 15.0
"""The server's own drain takes ten at most."""

POLITELY = ("nice", "-n", "5")
"""Begins the command of a server that leaves the cores to the load when both want them, as if the load came from
another machine: overloaded servers would keep it from its schedule."""

STREAM_SERVER = (sys.executable, "-m", "stream_server", "serve", "--workers", "2")


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
        url: its address; of a plain transport the endpoint's complete one.
        ready_s: seconds from its start until it said so, or answered.
        transport: what a load speaks to it.
    """

    process: Process
    url: str
    ready_s: float
    transport: Transport = "stream"

    @property
    def workers(self) -> list[Process]:
        """Every process below it."""
        return list(self.process.children(recursive=True))

    def cpu(self) -> float:
        """CPU seconds of the whole tree so far; a worker's are gone when it is."""
        used = cpu(self.process)
        for worker in self.workers:
            with suppress(psutil.NoSuchProcess):
                used += cpu(worker)
        return used

    def memory(self) -> int:
        """Resident bytes of the whole tree; what its processes share counts in each."""
        held = 0
        for process in (self.process, *self.workers):
            with suppress(psutil.NoSuchProcess):
                held += process.memory_info().rss
        return held

    def pause(self) -> None:
        """Stop every process of the tree, so that it takes nothing from what is measured meanwhile.

        Raises:
            RunFailed: one has not stopped within `STOP_S`.
        """
        tree = (self.process, *self.workers)
        for process in tree:
            process.suspend()
        # the signal is only pending when kill(2) returns: on a busy machine its receiver may go on for a while
        deadline = time.monotonic() + STOP_S
        while moving := [one for one in tree if runs(one) and one.status() != psutil.STATUS_STOPPED]:
            if time.monotonic() > deadline:
                raise RunFailed(f"cannot pause {moving[0]}: it does not stop")
            time.sleep(0.001)

    def resume(self) -> None:
        """Let a tree that was paused go on."""
        # workers first: a parent that woke up to silent ones might take them for dead
        for process in (*reversed(self.workers), self.process):
            with suppress(psutil.NoSuchProcess):
                process.resume()


def end(process: subprocess.Popen[str] | subprocess.Popen[bytes], known: Iterable[Process] = ()) -> None:
    """End a server, and what it leaves of its tree: some end at SIGTERM without their workers.

    Args:
        known: of its tree; if it has ended already, nothing else tells what it left.
    """
    tree = set(known)
    with suppress(psutil.NoSuchProcess):
        tree |= set(psutil.Process(process.pid).children(recursive=True))
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
    for left in tree:
        with suppress(psutil.NoSuchProcess):
            left.kill()  # psutil looks whether the number still is this process's


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
                # the interpreter's place is this machine's own business
                raise RunFailed(f"`python {' '.join(command[1:])}` did not start: {line!r}")
            yield Program(psutil.Process(process.pid), found.group(1), time.perf_counter() - started)
        finally:
            end(process)


@contextmanager
def serving(model: str, *args: str, quiet: bool = False) -> Iterator[Program]:
    """Run the stream server with one model and two workers on a free port."""
    with running(*STREAM_SERVER, "--port", "0", "--model", model, *args, quiet=quiet) as program:
        yield program
