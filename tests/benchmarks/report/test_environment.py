"""Facts about code and machine: enough to compare results, without names and paths."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.report import environment as facts
from benchmarks.report.environment import Observation, commit


@pytest.mark.parametrize(("status", "said"), [("", "clean"), (" M benchmarks/x.py", "changed")])
def test_checkout_has_commit_and_state(
    status: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(facts, "_git", lambda _, *args: status if "status" in args else "0123456789ab")
    assert commit(tmp_path) == {"commit": "0123456789ab", "working tree": said}


def test_other_folder_has_no_commit(tmp_path: Path) -> None:
    assert commit(tmp_path) == {}
    (tmp_path / ".git").mkdir()  # git says that it is none
    assert commit(tmp_path) == {}


@pytest.mark.parametrize("failure", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 1.0)])
def test_no_commit_without_git(failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise failure

    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(facts, "_git", fail)
    assert commit(tmp_path) == {}


def test_load_and_commit_are_read_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "commit", lambda _: {"commit": "before"})
    monkeypatch.setattr(facts.os, "getloadavg", lambda: (0.25, 0.0, 0.0))
    observation = Observation()
    monkeypatch.setattr(facts, "commit", lambda _: {"commit": "after"})
    monkeypatch.setattr(facts.os, "getloadavg", lambda: (2.0, 0.0, 0.0))
    found = observation.facts()
    assert (found["commit"], found["load average at the start"]) == ("before", 0.25)
