"""Processes that benchmarks start: lines, failures and the environment."""

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
LINE_WRITER = "tests.benchmarks.line_writer"


@pytest.fixture
def writer() -> Iterator[Child]:
    with Child(LINE_WRITER, {}) as child:
        yield child


def tell(child: Child, text: str, times: int = 1) -> None:
    child.tell(json.dumps([text, times]))


def test_lines_written_together_are_separate(writer: Child) -> None:
    tell(writer, "one\ntwo\nthree\n")
    assert [writer.line(LONG) for _ in range(3)] == ["one", "two", "three"]


def test_partial_lines_are_joined(writer: Child) -> None:
    tell(writer, "one\nbegun, ")
    assert writer.line(LONG) == "one"
    assert writer.line(0.01) is None
    tell(writer, "ended\n")
    assert writer.line(LONG) == "begun, ended"


def test_line_longer_than_pipe_capacity(writer: Child) -> None:
    tell(writer, "x", 300_000)
    tell(writer, "\n")
    assert writer.line(LONG) == "x" * 300_000


def test_line_can_be_polled(writer: Child) -> None:
    tell(writer, "one\n")
    while (line := writer.line(0)) is None:
        time.sleep(0.001)
    assert line == "one"


def test_line_times_out(writer: Child) -> None:
    os.kill(writer.pid, signal.SIGSTOP)
    assert writer.line(0.01) is None


def test_reported_failure_is_raised(writer: Child) -> None:
    tell(writer, "failed: no such thing\n")
    with pytest.raises(RunFailed, match=r"^no such thing$"):
        writer.line(LONG)
    tell(writer, "refused: overloaded there is no room\n")
    with pytest.raises(Refused, match="there is no room") as refused:
        writer.line(LONG)
    assert refused.value.code == "overloaded"


def test_incomplete_last_line_is_a_failure(writer: Child) -> None:
    tell(writer, '{"accounts": [')
    tell(writer, "")
    with pytest.raises(RunFailed, match="line_writer ended before it was done"):
        writer.line(LONG)
    os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)
    tell(writer, "go\n")
    with pytest.raises(RunFailed, match="line_writer ended before it was done"):
        writer.line(LONG)


def test_package_in_current_folder_is_not_run(tmp_path: Path) -> None:
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


def test_environment_keeps_pythonpath(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    given = environment(OMP_NUM_THREADS="1")
    assert given["PYTHONPATH"].split(os.pathsep) == [str(Path(__file__).parents[3]), "/elsewhere"]
    assert given["OMP_NUM_THREADS"] == "1"
    assert python("benchmarks.scenarios.baseline")[0] == sys.executable
