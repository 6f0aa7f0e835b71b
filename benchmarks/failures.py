"""What ends a benchmark without a figure, and what its messages must not contain."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
"""The folder that contains this package."""

INSTALL = "in a checkout, run `make .venv/bench` or `pip install -e '.[bench,mlperf,training]'`"
"""How to install what the benchmarks need; the project is on no package index."""


def without_paths(text: str) -> str:
    """Remove the paths of interpreter and checkout from a message: results are shown to others."""
    return text.replace(sys.executable, "python").replace(f"{CHECKOUT}{os.sep}", "")


def missing(exc: ModuleNotFoundError) -> str:
    """Say which package is missing and how to install it.

    Raises:
        ModuleNotFoundError: the module is one of ours, which is a defect.
    """
    if (exc.name or "").partition(".")[0] in ("benchmarks", "inference", "stream_server"):
        raise exc
    return f"the package {exc.name} is missing: {INSTALL}"


def check_installed() -> None:
    """Exit with a sentence if a package of the extra `bench` is missing; programs call it before other imports."""
    for package in ("hdrh", "matplotlib", "psutil"):
        try:
            import_module(package)
        except ModuleNotFoundError as exc:
            sys.exit(missing(exc))


class RunFailed(RuntimeError):
    """A load or server did not start or end, so the run has no result.

    Args:
        reason: a sentence for readers; paths are removed from it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(without_paths(reason))


class Refused(RunFailed):
    """The server refused a stream, which is an answer to the question how many it takes.

    Attributes:
        code: the server's error code, such as `too_many_streams`.
        reason: the server's message.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"the server refused a stream: {reason}")
        self.code = code
        self.reason = reason
