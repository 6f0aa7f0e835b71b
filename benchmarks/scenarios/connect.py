"""What connections cost: thousands that are idle, and those that come and go; the null model behind them."""

from __future__ import annotations

import argparse
import sys

from benchmarks.report.results import Say, Section
from benchmarks.report.terminal import run
from benchmarks.scenarios import churn, idle

IDLE, QUICK_IDLE = 10_000, 1_000
ROUNDS, QUICK_ROUNDS = 3, 1
HEARTBEATS, QUICK_HEARTBEATS = 3, 0
"""A client that the server forgot to ping would be cut off two and a half of them after it has come."""

QUICK_LIVE_SECONDS = 2.0
CHURN_SECONDS, QUICK_CHURN_SECONDS = 4.0, 1.5


def measure(say: Say, quick: bool) -> list[Section]:
    """Hold many connections open beside one that is in use; then open and close as many as the server can."""
    if quick:
        idling = idle.measure(say, QUICK_IDLE, QUICK_ROUNDS, QUICK_HEARTBEATS, QUICK_LIVE_SECONDS)
        return [*idling, churn.measure(say, QUICK_CHURN_SECONDS)]
    return [*idle.measure(say, IDLE, ROUNDS, HEARTBEATS), churn.measure(say, CHURN_SECONDS)]


def main() -> int:
    """Read the command line, measure, and print the figures; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenarios.connect", description=__doc__)
    add = parser.add_argument
    add("--idle", type=int, default=IDLE, metavar="N", help="idle connections (default %(default)s)")
    add("--rounds", type=int, default=ROUNDS, metavar="N", help="of the live stream (default %(default)s)")
    add("--churn-seconds", type=float, default=CHURN_SECONDS, metavar="S", help="default %(default)s")
    args = parser.parse_args()

    def suite(say: Say, _: bool) -> list[Section]:
        idling = idle.measure(say, args.idle, args.rounds, HEARTBEATS)
        return [*idling, churn.measure(say, args.churn_seconds)]

    return run({"connect": suite})


if __name__ == "__main__":
    sys.exit(main())
