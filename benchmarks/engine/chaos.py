"""Kills workers under load, then servers; only processes that it has started."""

from __future__ import annotations

import os
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from websockets.sync.client import connect

from benchmarks.failures import RunFailed
from benchmarks.load.accounts import Account
from benchmarks.load.generator import LATE_S, Generator, Load
from benchmarks.load.servers import STREAM_SERVER, Process, Program, running, runs, serving, waits
from benchmarks.report.results import Figure, Say, Section, at_least, none

STREAMS, FRAMES = 16, 50_000
WINDOW = 4
KILL_EVERY_S = 0.5
RUN_S = 90.0
"""Limits the run: 50,000 frames take about ten seconds."""

LEAST_KILLS = 5
"""Fewer kills would show nothing."""

PARENTS = 20
GONE_S = 1.0
"""How long workers and port may outlive their server."""

SEED = 3


def measure(say: Say) -> Section:
    """Kill workers under load, then servers."""
    return Section(
        "chaos",
        f"{FRAMES:,} frames on {STREAMS} streams to the null model while one of its two workers is killed every "
        f"{KILL_EVERY_S} s; then kill -9 of {PARENTS} servers, one after the other on the same port, with a look "
        "at what they leave.",
        (*_workers(say), *_parents(say)),
    )


def _workers(say: Say) -> list[Figure]:
    say(f"{FRAMES:,} frames while a worker is killed every {KILL_EVERY_S} s")
    with serving("echo", quiet=True) as server:
        count = FRAMES // STREAMS
        load = Load(server.url, "echo", "numbered", STREAMS, RUN_S, "queue", window=WINDOW, count=count)
        with Generator(load) as generator:
            generator.connect()
            begun = time.perf_counter()
            generator.go()
            kills = kill_workers(server, generator)
            seconds = time.perf_counter() - begun
            accounts = generator.outcome().accounts
    return accounted(accounts, kills, seconds)


def kill_workers(server: Program, generator: Generator) -> int:
    """Kill one worker at a random moment of every `KILL_EVERY_S` until the run is over; how many it was.

    Raises:
        RunFailed: the run does not end.
    """
    # seeded, so that a failed run can be repeated
    chance = random.Random(SEED)  # noqa: S311
    begun = time.monotonic()
    kills = 0
    for number in range(int((RUN_S + LATE_S) / KILL_EVERY_S)):
        moment = begun + (number + chance.random()) * KILL_EVERY_S
        if generator.done_within(max(0.0, moment - time.monotonic())):
            return kills
        if workers := server.workers:  # both may be restarting
            chance.choice(workers).kill()
            kills += 1
    raise RunFailed("the streams have not ended")


def accounted(accounts: list[Account], kills: int, seconds: float) -> list[Figure]:
    """Make the figures of the frames' outcomes."""
    errors: Counter[str] = Counter()
    for account in accounts:
        errors.update(account.errors)
    results = sum(account.results for account in accounts)
    with_workers = errors.pop("worker_lost", 0)
    unsent = FRAMES // STREAMS * STREAMS - sum(account.sent for account in accounts)
    return [
        at_least("chaos: workers killed under load", float(kills), LEAST_KILLS),
        none(
            "chaos: frames lost",
            unsent + sum(account.lost for account in accounts),
            f"of {FRAMES:,} in {seconds:.1f} s; {results:,} results, {with_workers} worker_lost",
        ),
        none("chaos: answered twice", sum(account.duplicated for account in accounts)),
        none("chaos: out of order", sum(account.disordered for account in accounts)),
        none(
            "chaos: wrong answers, strays, and miscounted by `end`",
            sum(account.wrong + account.strays + account.miscounted for account in accounts),
        ),
        none("chaos: errors other than worker_lost", errors.total(), ", ".join(errors)),
    ]


def _parents(say: Say) -> list[Figure]:
    survivors = unbound = port = 0
    slowest = 0.0
    models = ("--model", "echo", "--model", "hanging=benchmarks.engine.native_hang_model:Hanging")
    for number in range(PARENTS):
        hangs = number % 2 == 1
        say(f"kill -9 of the server, {number + 1} of {PARENTS}" + (", a worker hangs" if hangs else ""))
        # the port of the previous server
        with running(*STREAM_SERVER, "--port", str(port), *models, quiet=True) as server, ExitStack() as held:
            port = urlsplit(server.url).port or 0
            workers = server.workers
            if hangs:
                held.enter_context(_hanging(server, workers))
            server.process.kill()
            killed = time.monotonic()
            while (alive := list(filter(runs, workers))) and time.monotonic() < killed + GONE_S:
                time.sleep(0.001)  # they are not our children, so they cannot be waited for
            slowest = max(slowest, time.monotonic() - killed)
            survivors += len(alive)
            # the server's last thread may close the port after its workers have ended
            while not (free := _binds(port)) and time.monotonic() < killed + GONE_S:
                time.sleep(0.001)  # there is no notification of a free port
            unbound += not free
            for worker in alive:
                worker.kill()
    return [
        none(
            f"kill -9 of the server: workers alive after {GONE_S:.0f} s",
            survivors,
            f"{PARENTS} times, in every second one hangs; the last gone after {slowest * 1e3:.0f} ms",
        ),
        none(
            "kill -9 of the server: times the port does not bind again",
            unbound,
            f"of {PARENTS}, within {GONE_S:.0f} s",
        ),
    ]


@contextmanager
def _hanging(server: Program, workers: Sequence[Process]) -> Iterator[None]:
    """Hold a stream open whose item makes a worker hang."""
    before = [waits(worker) for worker in workers]
    url = server.url.replace("http", "ws", 1) + "/v2/models/hanging/stream"
    # the server is killed before it can answer the close
    with connect(url, close_timeout=0) as ws:
        ws.recv()
        ws.send(b"hang")
        deadline = time.monotonic() + GONE_S
        # a worker that hangs no longer waits for items, so its count of waits changes once
        while [waits(worker) for worker in workers] == before:
            if time.monotonic() > deadline:
                raise RunFailed("no worker took the item that hangs")
            time.sleep(0.01)  # there is no notification of a count in /proc
        yield


def _binds(port: int) -> bool:
    """Whether a server can listen on a port: with the option that asyncio's servers have, too."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name == "posix")
        try:
            sock.bind(("127.0.0.1", port))
            sock.listen()
        except OSError:
            return False
    return True
