"""Starts the servers that are measured, reads the CPU time of their process trees, and ends them, and no others."""

from __future__ import annotations

import re
import select
import shlex
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias

import psutil  # type: ignore[import-untyped]

from benchmarks.failures import RunFailed
from benchmarks.load.generator import Transport
from benchmarks.load.subprocesses import environment, python

Process: TypeAlias = psutil.Process

START_S = 60.0
"""A start takes under a second, and with scikit-learn under five, on an idle machine; Ray Serve's takes ten."""

STOP_S = 15.0
"""The server's own drain takes ten at most."""

POLITELY = ("nice", "-n", "5")
"""Begins the command of a server that leaves the cores to the load when both want them, as if the load came from
another machine: overloaded servers would keep it from its schedule."""

STREAM_SERVER = (*python("stream_server"), "serve", "--workers", "2")

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Gives numeric libraries one thread, as the stream server's workers have."""


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
    """CPU seconds of one process, and of those below it that have ended and been waited for."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def stands(process: Process) -> bool:
    """Whether a process does not run on: it is stopped, or has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.status() in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}
    return True


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
        """Every process below it; none where it has ended."""
        with suppress(psutil.NoSuchProcess):
            return list(self.process.children(recursive=True))
        return []

    def cpu(self) -> float:
        """CPU seconds of the whole tree so far, workers that have ended included.

        Raises:
            RunFailed: the server has ended.
        """
        try:
            used = cpu(self.process)
        except psutil.NoSuchProcess as exc:
            raise RunFailed("the server has ended") from exc
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
        deadline = time.monotonic() + STOP_S
        paused: set[Process] = set()
        # one that has been started meanwhile shows once everything that could start another one stands still
        while fresh := [one for one in (self.process, *self.workers) if one not in paused]:
            for process in fresh:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            # the signal is only pending when kill(2) returns: on a busy machine its receiver goes on for a while
            while not all(map(stands, fresh)):
                if time.monotonic() > deadline:
                    raise RunFailed("the server cannot be paused: it does not stop")
                time.sleep(0.001)  # a process tells only its parent that it has stopped
            paused.update(fresh)

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

    Raises:
        RunFailed: it does not start.
    """
    started = time.perf_counter()
    errors = subprocess.DEVNULL if quiet else None
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment()
    ) as process:
        try:
            assert process.stdout
            readable, _, _ = select.select([process.stdout], [], [], START_S)
            line = process.stdout.readline() if readable else ""
            found = re.search(r"ready at (http://\S+)", line)
            if not found:
                raise RunFailed(f"`{shlex.join(command)}` did not start: {line!r}")
            yield Program(psutil.Process(process.pid), found.group(1), time.perf_counter() - started)
        finally:
            end(process)


@contextmanager
def serving(model: str, *args: str, quiet: bool = False) -> Iterator[Program]:
    """Run the stream server with one model and two workers on a free port."""
    with running(*STREAM_SERVER, "--port", "0", "--model", model, *args, quiet=quiet) as program:
        yield program
