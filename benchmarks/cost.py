"""What a frame costs: CPU time of the server's whole process tree per item, its memory and its time to ready.

``python -m benchmarks.cost`` starts a server of its own for each round, streams to it from this process over
8 websockets that keep their windows full, and prints medians. It measures the server, not the client.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass

from benchmarks.payloads import FRAME_BYTES, portrait
from benchmarks.programs import STREAM_SERVER, cpu, running
from stream_server.answers import Result
from stream_server.client import connect

STREAMS = 8


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
    with running(*STREAM_SERVER, "--port", "0") as server:
        asyncio.run(load(server.url, model, payload, max(STREAMS, count // 10)))
        before = cpu(server.process), server.cpu()
        begun = time.perf_counter()
        asyncio.run(load(server.url, model, payload, count))
        seconds = time.perf_counter() - begun
        own, tree = cpu(server.process) - before[0], server.cpu() - before[1]
        rss = [process.memory_info().rss / 1e6 for process in (server.process, *server.workers)]
    items = count // STREAMS * STREAMS
    return Cost(
        own / items * 1e3, tree / items * 1e3, items / seconds, server.ready_s, (rss[0], sum(rss[1:]))
    )


def main() -> None:
    """Measure each model in interleaved rounds and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each model (default 3)")
    args = parser.parse_args()
    work = {"echo": (bytes(FRAME_BYTES), 8000), "faces": (portrait()[0], 400)}
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
