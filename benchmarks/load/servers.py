"""Starts the servers that are measured, reads CPU time and memory of their process trees, and ends them."""

from __future__ import annotations

import re
import resource
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
"""On an idle machine a start takes under a second, with scikit-learn under five, of Ray Serve ten."""

STOP_S = 15.0
"""The server's own drain takes at most ten."""

POLITELY = ("nice", "-n", "5")
"""Prefix of the command of a server that yields the cores to the load, as if the load came from another machine:
overloaded servers would keep it from its schedule."""

SPARE = 200
"""Descriptors of the server that belong to no idle connection: its own, its workers', the live stream's."""

SETTLED_S, SETTLE_LIMIT_S = 0.5, 10.0
"""Memory is settled if it has not changed for the first time; the second limits the wait."""

STREAM_SERVER = (*python("stream_server"), "serve", "--workers", "2")

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Limits numeric libraries to one thread, as in the stream server's workers."""


def runs(process: Process) -> bool:
    """Whether a process runs; one that has ended may remain as a zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def waits(process: Process) -> int:
    """How often a process has blocked so far."""
    return int(process.num_ctx_switches().voluntary)


def cpu(process: Process) -> float:
    """CPU seconds of a process and of its children that have ended and been waited for."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def stopped(process: Process) -> bool:
    """Whether a process is stopped or has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.status() in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}
    return True


@dataclass(frozen=True, slots=True)
class Program:
    """A running server."""

    process: Process
    url: str  # its address; of a plain transport the complete address of the endpoint
    ready_s: float  # seconds from its start until it said so, or answered
    transport: Transport = "stream"  # of a load on it

    @property
    def workers(self) -> list[Process]:
        """All its descendants; none if it has ended."""
        with suppress(psutil.NoSuchProcess):
            return list(self.process.children(recursive=True))
        return []

    def cpu(self) -> float:
        """CPU seconds of the whole tree so far, including workers that have ended.

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
        """Resident bytes of the whole tree; shared pages count in each process."""
        held = 0
        for process in (self.process, *self.workers):
            with suppress(psutil.NoSuchProcess):
                held += process.memory_info().rss
        return held

    def pause(self) -> None:
        """Stop every process of the tree, so that it does not disturb other measurements.

        Raises:
            RunFailed: one has not stopped within `STOP_S`.
        """
        deadline = time.monotonic() + STOP_S
        paused: set[Process] = set()
        # look again: processes may have been started until all that could start one are stopped
        while fresh := [one for one in (self.process, *self.workers) if one not in paused]:
            for process in fresh:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            # the signal is only pending when kill(2) returns; on a busy machine its receiver goes on for a while
            while not all(map(stopped, fresh)):
                if time.monotonic() > deadline:
                    raise RunFailed("the server cannot be paused: it does not stop")
                time.sleep(0.001)  # only its parent is notified
            paused.update(fresh)

    def resume(self) -> None:
        """Continue a paused tree."""
        # workers first: a parent might take stopped ones for dead
        for process in (*reversed(self.workers), self.process):
            with suppress(psutil.NoSuchProcess):
                process.resume()


def end(process: subprocess.Popen[str] | subprocess.Popen[bytes], known: Iterable[Process] = ()) -> None:
    """End a server and the rest of its tree: some end at SIGTERM without their workers.

    Args:
        known: descendants, for a server that has already ended.
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
            left.kill()  # psutil checks that the pid was not reused


@contextmanager
def running(*command: str, quiet: bool = False) -> Iterator[Program]:
    """Run a server that prints its address when ready.

    Args:
        quiet: discard its log, if it would only report what is done on purpose.

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
def serving(model: str, *args: str, quiet: bool = False, max_streams: int | None = None) -> Iterator[Program]:
    """Run the stream server with one model and two workers on a free port.

    Args:
        max_streams: how many it admits, also from one address; None for its defaults.
    """
    names = ("max_streams", "max_streams_per_principal") if max_streams else ()
    limits = [part for name in names for part in ("--set", f"limits.{name}={max_streams}")]
    with running(*STREAM_SERVER, "--port", "0", "--model", model, *limits, *args, quiet=quiet) as program:
        yield program


@dataclass(frozen=True, slots=True)
class Usage:
    """The memory and the descriptors of a process."""

    rss: int  # resident bytes
    uss: int  # those of them that no other process shares
    descriptors: int  # open files and sockets


def settled(process: Process) -> Usage:
    """Wait until the usage of a process does not change, and return it."""
    deadline = time.monotonic() + SETTLE_LIMIT_S
    last = None
    while (now := _usage(process)) != last and time.monotonic() < deadline:
        last = now
        time.sleep(SETTLED_S)  # the criterion itself
    return now


def _usage(process: Process) -> Usage:
    memory = process.memory_full_info()
    return Usage(memory.rss, memory.uss, process.num_fds())


def raise_descriptors(wanted: int) -> int:
    """Raise the limit of open files for this process and those it starts; return how many connections it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, wanted + SPARE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, hard - SPARE)
