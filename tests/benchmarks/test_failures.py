"""Reasons for everybody to read: they tell nothing of where this machine has what."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.failures import Refused, RunFailed

CHECKOUT = Path(__file__).parents[2]


def test_a_reason_names_the_interpreter_and_the_checkout_by_what_they_are() -> None:
    said = f"`nice {sys.executable} -m x` failed: {CHECKOUT}/benchmarks/x.py is wrong"
    assert str(RunFailed(said)) == "`nice python -m x` failed: benchmarks/x.py is wrong"


def test_a_refusal_has_the_servers_code_beside_its_words() -> None:
    refused = Refused("overloaded", "there is no room")
    assert (str(refused), refused.code) == ("the server refused a stream: there is no room", "overloaded")
