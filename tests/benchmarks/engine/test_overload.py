"""The engine's overload section, on made-up runs."""

from __future__ import annotations

from benchmarks.engine.overload import FPS, IDLE_SECONDS, SECONDS, Round, section
from benchmarks.load.accounts import Account
from benchmarks.load.run import Run


def run(seconds: float, late_ms: float, *, void: str = "") -> Run:
    """A camera's answers, 10 ms old by the server's clock and older by the client's."""
    count = int(seconds * FPS)
    due = [number / FPS for number in range(count)]
    answers = [(at + late_ms / 1e3, 10.0, late_ms) for at in due]
    return Run([[Account(count, count, answers=answers)]], seconds, 1.0, 0.0, void=void)


def rounds(overload: Run) -> list[Round]:
    flood = run(4.0, 20.0)
    flood.accounts.append(flood.accounts[0])
    return [Round((run(4.0, 20.0), run(4.0, 20.0)), overload, flood)]


def test_age_is_measured_by_client() -> None:
    age, *_ = section(run(IDLE_SECONDS, 20.0), rounds(run(SECONDS, 500.0))).figures
    assert age.measured == 500
    assert not age.reached
    assert "by the server's age_ms 10 ms" in age.note


def test_void_run_voids_section() -> None:
    idle = run(IDLE_SECONDS, 20.0)
    assert section(idle, rounds(run(SECONDS, 20.0))).void == ""
    assert section(idle, rounds(run(SECONDS, 20.0, void="late"))).void == "late"
