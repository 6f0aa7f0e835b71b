"""What a server's own process holds, and servers that admit many streams."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.load.servers import Process, Program, serving

SPARE = 200
"""Descriptors of the server that belong to no idle connection: its own, its workers', the live stream's."""

SETTLED_S, LIMIT_S = 0.5, 10.0
"""Memory is settled if it has not changed for so long; and the longest wait for that."""

KIB = 1024.0


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds.

    Attributes:
        rss, uss: resident bytes, and those of them that no other process shares.
        descriptors: open files and sockets.
    """

    rss: int
    uss: int
    descriptors: int


def settled(process: Process) -> Held:
    """Wait until what a process holds does not change, and return it."""
    deadline = time.monotonic() + LIMIT_S
    last = None
    while (now := _held(process)) != last and time.monotonic() < deadline:
        last = now
        time.sleep(SETTLED_S)  # the criterion itself
    return now


def _held(process: Process) -> Held:
    memory = process.memory_full_info()
    return Held(memory.rss, memory.uss, process.num_fds())


def allowed(wanted: int) -> int:
    """Raise the limit of open files for this process and those it starts; return how many connections it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, wanted + SPARE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, hard - SPARE)


@contextmanager
def serving_many(streams: int) -> Iterator[Program]:
    """Run a server of the null model that admits so many streams from one address."""
    most = streams + SPARE
    limits = ("--set", f"limits.max_streams={most}", "--set", f"limits.max_streams_per_principal={most}")
    with serving("echo", *limits) as server:
        yield server


def address(server: Program) -> str:
    """The address of the null model's streams."""
    return f"{server.url}/v2/models/echo/stream?policy=queue"
