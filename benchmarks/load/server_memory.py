"""What a server's own process holds, and servers that may hold many streams."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.load.servers import Process, Program, serving

SPARE = 200
"""Descriptors of the server that are no idle connection's: its own, its workers', the live stream's."""

SETTLED_S, UNSETTLED_S = 0.5, 10.0
"""What has not changed for so long is settled; and the longest wait for that."""

KIB = 1024.0


@dataclass(frozen=True, slots=True)
class Held:
    """What the server's own process holds.

    Attributes:
        rss, uss: bytes that are resident, and those of them that no other process shares.
        descriptors: open files and sockets.
    """

    rss: int
    uss: int
    descriptors: int


def settled(process: Process) -> Held:
    """Wait until a process holds the same for a while, and give what that is."""
    deadline = time.monotonic() + UNSETTLED_S
    last = None
    while (now := _held(process)) != last and time.monotonic() < deadline:
        last = now
        time.sleep(SETTLED_S)  # the measure itself: it holds the same for so long
    return now


def _held(process: Process) -> Held:
    memory = process.memory_full_info()
    return Held(memory.rss, memory.uss, process.num_fds())


def allowed(wanted: int) -> int:
    """Let this process and those it starts open all the files they may; how many connections that allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, wanted + SPARE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, hard - SPARE)


@contextmanager
def roomy(streams: int) -> Iterator[Program]:
    """Run a server of the null model that lets so many streams in, all from one address."""
    most = streams + SPARE
    limits = ("--set", f"limits.max_streams={most}", "--set", f"limits.max_streams_per_peer={most}")
    with serving("echo", *limits) as server:
        yield server


def address(server: Program) -> str:
    """Where `roomy`'s streams connect to."""
    return f"{server.url}/v2/models/echo/stream?policy=queue"
