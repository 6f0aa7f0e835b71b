"""Processes that benchmarks start and talk to: what they say arrives line by line, and what ends them is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.failures import Refused, RunFailed
from benchmarks.load.subprocesses import Child, environment, python

LONG = 60.0
SAYING = "tests.benchmarks.saying"


@pytest.fixture
def saying() -> Iterator[Child]:
    """It writes what it is told to, in one piece, and ends when that is nothing."""
    with Child(SAYING, {}) as child:
        yield child


def tell(child: Child, text: str, times: int = 1) -> None:
    child.tell(json.dumps([text, times]))


def test_lines_that_come_together_are_heard_one_by_one(saying: Child) -> None:
    tell(saying, "one\ntwo\nthree\n")
    assert [saying.line(LONG) for _ in range(3)] == ["one", "two", "three"]


def test_a_line_that_comes_in_pieces_is_heard_whole(saying: Child) -> None:
    tell(saying, "one\nbegun, ")
    assert saying.line(LONG) == "one"
    assert saying.line(0.01) is None
    tell(saying, "ended\n")
    assert saying.line(LONG) == "begun, ended"


def test_a_line_may_be_longer_than_a_pipe(saying: Child) -> None:
    tell(saying, "x", 300_000)
    tell(saying, "\n")
    assert saying.line(LONG) == "x" * 300_000


def test_line_can_be_polled(saying: Child) -> None:
    tell(saying, "one\n")
    while (line := saying.line(0)) is None:
        time.sleep(0.001)
    assert line == "one"


def test_a_stopped_process_is_not_waited_for_longer_than_asked(saying: Child) -> None:
    os.kill(saying.pid, signal.SIGSTOP)
    assert saying.line(0.01) is None


def test_whoever_cannot_go_on_says_why(saying: Child) -> None:
    tell(saying, "failed: no such thing\n")
    with pytest.raises(RunFailed, match=r"^no such thing$"):
        saying.line(LONG)
    tell(saying, "refused: overloaded there is no room\n")
    with pytest.raises(Refused, match="there is no room") as refused:
        saying.line(LONG)
    assert refused.value.code == "overloaded"


def test_an_end_in_the_middle_of_a_line_is_a_failure_also_for_whoever_talks_on(saying: Child) -> None:
    tell(saying, '{"accounts": [')
    tell(saying, "")
    with pytest.raises(RunFailed, match="saying ended before it was done"):
        saying.line(LONG)
    os.waitid(os.P_PID, saying.pid, os.WEXITED | os.WNOWAIT)
    tell(saying, "go\n")
    with pytest.raises(RunFailed, match="saying ended before it was done"):
        saying.line(LONG)


def test_a_package_of_the_users_with_the_same_name_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "bare.py").write_text("print('the wrong one')")
    done = subprocess.run(
        python("benchmarks.scenarios.baseline", "--help"),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "python -m benchmarks.scenarios.baseline" in done.stdout


def test_an_environment_keeps_where_else_modules_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    given = environment(OMP_NUM_THREADS="1")
    assert given["PYTHONPATH"].split(os.pathsep) == [str(Path(__file__).parents[3]), "/elsewhere"]
    assert given["OMP_NUM_THREADS"] == "1"
    assert python("benchmarks.scenarios.baseline")[0] == sys.executable
