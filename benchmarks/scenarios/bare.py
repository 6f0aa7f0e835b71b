"""The bare loop: a model's work in one process without any server, to see what serving adds to it.

``python -m benchmarks.scenarios.bare MODEL SECONDS`` prints one line of JSON when it is done.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from benchmarks.failures import RunFailed
from benchmarks.load.payloads import TEXTS, portrait
from benchmarks.load.servers import ONE_THREAD
from benchmarks.load.subprocesses import environment, python

BATCH = 128
"""Texts in one call of the bare loop over texts: the largest batch of the model `spam`."""

GRACE_S = 60.0
"""How long the process may take beyond its work; importing scikit-learn takes up to five seconds."""


@dataclass(frozen=True, slots=True)
class Bare:
    """What a bare loop showed.

    Attributes:
        items: how many it did.
        cpu_ms: CPU milliseconds per item.
        times_ms: milliseconds of each call, on the clock.
    """

    items: int
    cpu_ms: float
    times_ms: list[float]


def bare(model: str, seconds: float, pace: float | None = None) -> Bare:
    """Run a bare loop in a process of its own, single-threaded as a worker is.

    Args:
        pace: calls per second, on a schedule, in place of one after the other.

    Raises:
        RunFailed: the process failed, or had not ended `GRACE_S` after its work should have.
    """
    try:
        done = subprocess.run(
            python(
                "benchmarks.scenarios.bare", model, str(seconds), *(("--pace", str(pace)) if pace else ())
            ),
            env=environment(**ONE_THREAD, ORT_DISABLE_TELEMETRY="1"),
            capture_output=True,
            text=True,
            timeout=seconds + GRACE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise RunFailed(f"the bare loop of {model} has not ended after {seconds + GRACE_S:.0f} s") from exc
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it does not say why"]
        raise RunFailed(f"the bare loop of {model} failed: {said[-1]}")
    return Bare(**json.loads(done.stdout))


def _texts() -> tuple[Callable[[], object], int]:
    from inference.models.spam import WEIGHTS, Weights, normalise  # noqa: PLC0415  # only this loop has it
    from inference.training.spam import pipeline_of  # noqa: PLC0415  # as above

    pipeline = pipeline_of(Weights.read(WEIGHTS.read_bytes()))
    texts = [TEXTS[number % len(TEXTS)] for number in range(BATCH)]
    return lambda: pipeline.predict_proba([normalise(text) for text in texts]), BATCH


def _faces(model: str) -> tuple[Callable[[], object], int]:
    from benchmarks.peers.work import MODELS  # noqa: PLC0415  # as above

    predict = MODELS[model]()
    (picture,) = portrait()
    return lambda: predict(picture), 1


def loop(call: Callable[[], object], size: int, seconds: float, pace: float | None) -> Bare:
    """Call for so long, and once at least; the first calls, which pay for what happens once, do not count.

    Args:
        size: items of one call.
        pace: as for `bare`.
    """
    for _ in range(3):
        call()
    times: list[float] = []
    used, begun = time.process_time(), time.perf_counter()
    while (at := time.perf_counter()) - begun < seconds or not times:
        if pace:
            # the pace: the core shall sleep between calls, as between the frames of a camera
            time.sleep(max(0.0, begun + len(times) / pace - at))
            at = time.perf_counter()
        call()
        times.append((time.perf_counter() - at) * 1e3)
    items = size * len(times)
    return Bare(items, (time.process_time() - used) / items * 1e3, times)


def main() -> None:
    """Run one loop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenarios.bare", description=__doc__)
    parser.add_argument("model", choices=["faces-natural", "faces-ours", "spam"])
    parser.add_argument("seconds", type=float)
    parser.add_argument("--pace", type=float)
    args = parser.parse_args()
    call, size = _texts() if args.model == "spam" else _faces(args.model)
    print(json.dumps(asdict(loop(call, size, args.seconds, args.pace))))


if __name__ == "__main__":
    main()
