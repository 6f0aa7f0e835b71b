"""The engine's texts, on runs made up for them."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.engine.text import section
from benchmarks.load.accounts import Account
from benchmarks.load.run import Run

RUN = Run([[Account(2, 2, answers=[(0.1, 1.0, 2.0), (0.2, 1.0, 3.0)])]], 1.0, 1.0, 0.0)


def test_a_schedule_that_was_not_kept_makes_it_void() -> None:
    assert section([RUN], [RUN], [RUN]).void == ""
    assert section([RUN], [RUN], [RUN, replace(RUN, void="late")]).void == "late"
