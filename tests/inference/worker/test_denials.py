"""What an exception in a model says that the sandbox denied; test_sandbox.py has real ones."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from inference.worker.denials import LONGEST_PATH, denial

SEALED = {"landlock": "on", "seccomp": "partial: not for the threads that loading started (1)"}


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as exc:  # noqa: BLE001  # what was raised
        return exc


def test_nothing_is_denied_before_the_sandbox_is_closed(tmp_path: Path) -> None:
    error = raised(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "new")))
    assert denial(error, {}) is None
    assert denial(error, {"landlock": "unsupported: no Landlock", "seccomp": "on"}) is None
    assert denial(error, SEALED) is not None


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(errno.ENOENT, "x", "y"), OSError("x")])
def test_other_errors_are_the_models_own(error: Exception) -> None:
    assert denial(raised(error), SEALED) is None


def test_a_library_may_raise_another_error_from_it(tmp_path: Path) -> None:
    inner = raised(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "new")))
    assert denial(raised(RuntimeError("no labels"), inner), SEALED) == (
        f"the sandbox denied writing {tmp_path / 'new'}: a worker writes no files once it has loaded"
    )


def test_errors_that_cause_each_other_end() -> None:
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    assert denial(first, SEALED) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EPERM, "no"), "a system call in test_denials.py, line "),
        (PermissionError(errno.EPERM, "no", "/x/file"), "changing /x/file: "),
        (socket.gaierror(-3, "Temporary failure in name resolution"), "looking up a host's name"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in []"),
            "writing a temporary ",
        ),
    ],
)
def test_what_has_no_file_is_named_too(error: Exception, words: str) -> None:
    assert str(denial(raised(error), SEALED)).startswith(f"the sandbox denied {words}")


def test_threads_end_at_their_limit() -> None:
    assert "no more threads" in str(denial(raised(RuntimeError("can't start new thread")), SEALED))


def test_of_a_long_path_the_end_is_shown() -> None:
    path = "/" + "a" * 200 + "/labels.txt"
    said = denial(raised(PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)), SEALED)
    assert said is not None
    assert f"...{path[-LONGEST_PATH:]}" in said
    assert len(said) < 240
