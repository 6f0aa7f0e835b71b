"""Messages of failures: no paths of this machine, and how to install what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.failures import Refused, RunFailed, missing

CHECKOUT = Path(__file__).parents[2]


def test_reason_contains_no_paths() -> None:
    said = f"`nice {sys.executable} -m x` failed: {CHECKOUT}/benchmarks/x.py is wrong"
    assert str(RunFailed(said)) == "`nice python -m x` failed: benchmarks/x.py is wrong"


def test_refusal_keeps_code_and_message() -> None:
    refused = Refused("overloaded", "there is no room")
    assert (str(refused), refused.code) == ("the server refused a stream: there is no room", "overloaded")


@pytest.mark.parametrize("package", ["hdrh", "matplotlib", "psutil"])
@pytest.mark.parametrize(
    "program",
    ["benchmarks", "benchmarks.report.page", "benchmarks.scenarios.connect", "benchmarks.scenarios.peers"],
)
def test_missing_package_is_one_sentence(program: str, package: str) -> None:
    code = f"import runpy, sys; sys.modules[{package!r}] = None; runpy.run_module({program!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"{missing(ModuleNotFoundError(name=package))}\n"
    assert "make .venv/bench" in done.stderr


def test_missing_project_module_is_raised() -> None:
    with pytest.raises(ModuleNotFoundError):
        missing(ModuleNotFoundError(name="benchmarks.nothing"))
