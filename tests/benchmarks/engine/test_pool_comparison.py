"""The engine's texts, on made-up runs."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.engine.pool_comparison import text_section
from benchmarks.load.accounts import Account
from benchmarks.load.run import Run

RUN = Run([[Account(2, 2, answers=[(0.1, 1.0, 2.0), (0.2, 1.0, 3.0)])]], 1.0, 1.0, 0.0)


def test_missed_schedule_voids_section() -> None:
    assert text_section([(RUN, RUN)], [RUN]).void == ""
    assert text_section([(RUN, RUN)], [RUN, replace(RUN, void="late")]).void == "late"
