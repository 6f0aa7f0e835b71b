"""A process of this package that a benchmark starts, and the lines that the two say to each other."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from benchmarks.failures import Refused, RunFailed

FAILED = "failed: "
"""Begins the line that a process says in place of another one when it cannot go on."""

REFUSED = "refused: "
"""Begins that line where the server did not take a stream; its code and its message follow."""

CHUNK = 1 << 16
"""Bytes of one read: what a pipe holds."""


def python(module: str, *args: str) -> list[str]:
    """Give the command that runs a module; it is to run in `environment`.

    It never looks into the current folder, which may have a package of the module's name.
    """
    return [sys.executable, "-P", "-m", module, *args]


def environment(**more: str) -> dict[str, str]:
    """Give what `python`'s command needs to find this very package, be it installed or not."""
    places = str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), **more}


class Child:
    """The process of a module; a context, at whose end it is gone.

    Args:
        order: what it shall do, which it gets as a line of JSON.
    """

    def __init__(self, module: str, order: dict[str, Any]) -> None:
        self._module = module
        # without buffers: one that a broken pipe has left full would fail once more when it is closed, and a line
        # that waits in one is hidden from `select`
        self._process = subprocess.Popen(
            python(module), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), bufsize=0
        )
        self._held = bytearray()
        self.tell(json.dumps(order))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:  # closes its pipes and waits for it
            pass

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def tell(self, line: str) -> None:
        """Say a line. A process that has ended does not hear it, which `line` finds."""
        assert self._process.stdin
        try:
            self._process.stdin.write(f"{line}\n".encode())
        except BrokenPipeError:
            return

    def line(self, seconds: float) -> str | None:
        """Wait for its next line, for so long at most.

        Returns:
            The line, without its end; None if none came.

        Raises:
            Refused: it says that the server refused a stream.
            RunFailed: it says that it cannot go on, or has ended.
        """
        deadline, left, searched = time.monotonic() + seconds, max(0.0, seconds), 0
        while (end := self._held.find(b"\n", searched)) < 0:
            searched = len(self._held)
            if left < 0 or not self._read(left):
                return None
            left = deadline - time.monotonic()
        line = self._held[:end].decode()
        del self._held[: end + 1]
        if line.startswith(REFUSED):
            raise Refused(*line.removeprefix(REFUSED).split(" ", 1))
        if line.startswith(FAILED):
            raise RunFailed(line.removeprefix(FAILED))
        return line

    def _read(self, seconds: float) -> bool:
        """Take what it has said; whether anything came in that time."""
        assert self._process.stdout
        output = self._process.stdout.fileno()
        if not select.select([output], [], [], seconds)[0]:
            return False
        data = os.read(output, CHUNK)
        if not data:
            raise RunFailed(f"the process of {self._module} ended before it was done")
        self._held += data
        return True
