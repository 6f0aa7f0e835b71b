"""The engine's figures, each with its target and verdict, measured one after the other in under five minutes."""

from __future__ import annotations

from benchmarks import chaos, dispatch, overload, recovery, text
from benchmarks.report import run

SUITES = {
    "overload": overload.measure,
    "text": text.measure,
    "dispatch": dispatch.measure,
    "chaos": chaos.measure,
    "recovery": recovery.measure,
}

if __name__ == "__main__":
    run(SUITES, __doc__)
