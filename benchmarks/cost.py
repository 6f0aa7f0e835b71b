"""What a frame costs: CPU time of the server's whole process tree per item, its memory and its time to ready.

``python -m benchmarks.cost`` starts a server of its own for each round, streams to it from this process over
8 websockets that keep their windows full, and prints medians. It measures the server, not the client.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import resources

import psutil

from stream_server.answers import Result
from stream_server.client import connect

STREAMS = 8
ECHO_BYTES = 42_000  # a 640x480 JPEG of a webcam


@dataclass(frozen=True, slots=True)
class Cost:
    """One round's figures.

    Attributes:
        parent_ms, tree_ms: CPU milliseconds per item, of the server's own process and with its workers.
        rate: items per second of wall time.
        ready_s: seconds from start to ready.
        rss_mb: resident megabytes of the server's own process, and of its workers together.
    """

    parent_ms: float
    tree_ms: float
    rate: float
    ready_s: float
    rss_mb: tuple[float, float]


def cpu(process: psutil.Process) -> float:
    """CPU seconds of one process."""
    times = process.cpu_times()
    return times.user + times.system


async def load(url: str, model: str, payload: bytes, count: int) -> None:
    """Stream `count` items over all streams together."""

    async def one() -> None:
        async with connect(url, model=model, policy="queue", window=4) as stream:
            async for answer in stream.process(payload for _ in range(count // STREAMS)):
                if not isinstance(answer, Result):
                    raise TypeError(f"an item was not answered: {answer}")

    await asyncio.gather(*(one() for _ in range(STREAMS)))


def measure(model: str, payload: bytes, count: int) -> Cost:
    """Start a server, warm it, stream to it, stop it."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "stream_server", "serve", "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            found = re.search(r"ready at (\S+)", server.stdout.readline())
            ready_s = time.perf_counter() - started
            if not found:
                raise RuntimeError("the server did not start")
            url = found.group(1)
            asyncio.run(load(url, model, payload, max(STREAMS, count // 10)))
            parent = psutil.Process(server.pid)
            workers = parent.children()
            before = cpu(parent), sum(map(cpu, workers))
            begun = time.perf_counter()
            asyncio.run(load(url, model, payload, count))
            seconds = time.perf_counter() - begun
            own, theirs = cpu(parent) - before[0], sum(map(cpu, workers)) - before[1]
            rss = parent.memory_info().rss / 1e6, sum(w.memory_info().rss for w in workers) / 1e6
        finally:
            server.terminate()
    items = count // STREAMS * STREAMS
    return Cost(own / items * 1e3, (own + theirs) / items * 1e3, items / seconds, ready_s, rss)


def main() -> None:
    """Measure each model in interleaved rounds and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each model (default 3)")
    args = parser.parse_args()
    portrait = (resources.files("web_client") / "sample.jpg").read_bytes()
    work = {"echo": (bytes(ECHO_BYTES), 8000), "faces": (portrait, 400)}
    rounds: dict[str, list[Cost]] = {model: [] for model in work}
    for _ in range(args.rounds):
        for model, (payload, count) in work.items():
            rounds[model].append(measure(model, payload, count))
    print("model   CPU ms/item (server, with workers)   items/s   ready s   RSS MB (server, workers)")
    for model, costs in rounds.items():
        columns = [
            [c.parent_ms for c in costs],
            [c.tree_ms for c in costs],
            [c.rate for c in costs],
            [c.ready_s for c in costs],
            [c.rss_mb[0] for c in costs],
            [c.rss_mb[1] for c in costs],
        ]
        parent, tree, rate, ready, rss, workers = map(statistics.median, columns)
        print(f"{model:6} {parent:12.3f} {tree:12.3f} {rate:20.0f} {ready:9.2f} {rss:10.0f} {workers:8.0f}")


if __name__ == "__main__":
    main()
