"""What results say of the code and the machine: as much as makes them comparable, and no place of anything."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.report import environment as facts
from benchmarks.report.environment import Observation, commit, cores, quota


@pytest.mark.parametrize(("status", "said"), [("", "clean"), (" M benchmarks/x.py", "changed")])
def test_a_checkout_tells_its_commit_and_whether_it_is_changed(
    status: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(facts, "_git", lambda _, *args: status if "status" in args else "0123456789ab")
    assert commit(tmp_path) == {"commit": "0123456789ab", "working tree": said}


def test_what_is_no_checkout_has_no_commit(tmp_path: Path) -> None:
    assert commit(tmp_path) == {}
    (tmp_path / ".git").mkdir()  # git says that it is none
    assert commit(tmp_path) == {}


@pytest.mark.parametrize("failure", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 1.0)])
def test_without_git_there_is_no_commit(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise failure

    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(facts, "_git", fail)
    assert commit(tmp_path) == {}


def test_the_tightest_limit_of_a_groups_parents_holds(tmp_path: Path) -> None:
    inner = tmp_path / "system.slice" / "bench.service"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    assert quota("0::/system.slice/bench.service\n", tmp_path) == {}
    (inner / "cpu.max").write_text("400000 100000\n")
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    assert quota("1:cpu:/\n0::/system.slice/bench.service\n", tmp_path) == {"cores by quota": 1.5}


def test_a_containers_own_group_is_the_root_that_it_sees(tmp_path: Path) -> None:
    assert quota("0::/\n", tmp_path) == {}
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert quota("0::/\n", tmp_path) == {"cores by quota": 0.5}


def test_the_cores_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts.os, "sched_getaffinity", lambda _: {2, 3, 5}, raising=False)
    assert cores() == 3


def test_the_load_and_the_commit_are_those_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "commit", lambda _: {"commit": "before"})
    monkeypatch.setattr(facts.os, "getloadavg", lambda: (0.25, 0.0, 0.0))
    observation = Observation()
    monkeypatch.setattr(facts, "commit", lambda _: {"commit": "after"})
    monkeypatch.setattr(facts.os, "getloadavg", lambda: (2.0, 0.0, 0.0))
    found = observation.facts()
    assert (found["commit"], found["load average at the start"]) == ("before", 0.25)
