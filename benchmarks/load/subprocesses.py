"""Processes of this package that a benchmark starts, and the lines they exchange: JSON, or single words."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Self, TypeVar

import msgspec

from benchmarks.failures import CHECKOUT, Refused, RunFailed

FAILED = "failed: "
"""Starts the line that a process writes instead of another one if it cannot go on."""

REFUSED = "refused: "
"""Starts that line if the server refused a stream; error code and message follow."""

CHUNK = 1 << 16
"""Bytes per read: the capacity of a pipe."""

T = TypeVar("T")


def python(module: str, *args: str) -> list[str]:
    """Give the command that runs a module; use it with `environment`.

    ``-P`` because the current folder may have a package of the module's name.
    """
    return [sys.executable, "-P", "-m", module, *args]


def environment(**more: str) -> dict[str, str]:
    """Give the environment in which `python`'s command finds this package, installed or not."""
    places = str(CHECKOUT), os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), **more}


def call(
    module: str,
    *args: str,
    seconds: float,
    kind: type[T],
    order: object = None,
    env: Mapping[str, str] | None = None,
) -> T:
    """Run a module to its end and decode its output, which is JSON.

    Args:
        seconds: time limit.
        order: written as JSON to its standard input.

    Raises:
        RunFailed: it failed or did not end in time.
    """
    try:
        done = subprocess.run(
            python(module, *args),
            input=msgspec.json.encode(order),
            env=environment(**(env or {})),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise RunFailed(f"it did not end within {seconds:.0f} s") from exc
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise RunFailed(f"it failed: {lines[-1]}")
    return msgspec.json.decode(done.stdout, type=kind)


class Child:
    """The process of a module; a context, at whose end it is killed.

    Args:
        order: written to it as a line of JSON.
    """

    def __init__(self, module: str, order: object) -> None:
        self._module = module
        # unbuffered: a buffer left full by a broken pipe would fail again when it is closed, and lines waiting in
        # a buffer are invisible to `select`
        self._process = subprocess.Popen(
            python(module), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), bufsize=0
        )
        self._buffer = bytearray()
        self.tell(msgspec.json.encode(order).decode())

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
        """Write a line. If the process has ended, `line` finds out."""
        assert self._process.stdin
        try:
            self._process.stdin.write(f"{line}\n".encode())
        except BrokenPipeError:
            return

    def line(self, seconds: float) -> str | None:
        """Wait for its next line.

        Returns:
            The line without its end; None if there was none in time.

        Raises:
            Refused: it reports that the server refused a stream.
            RunFailed: it reports that it cannot go on, or has ended.
        """
        deadline, left, searched = time.monotonic() + seconds, max(0.0, seconds), 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if left < 0 or not self._read(left):
                return None
            left = deadline - time.monotonic()
        line = self._buffer[:end].decode()
        del self._buffer[: end + 1]
        if line.startswith(REFUSED):
            raise Refused(*line.removeprefix(REFUSED).split(" ", 1))
        if line.startswith(FAILED):
            raise RunFailed(line.removeprefix(FAILED))
        return line

    def _read(self, seconds: float) -> bool:
        """Read what it has written; return whether there was anything in time."""
        assert self._process.stdout
        output = self._process.stdout.fileno()
        if not select.select([output], [], [], seconds)[0]:
            return False
        data = os.read(output, CHUNK)
        if not data:
            raise RunFailed(f"the process of {self._module} ended before it was done")
        self._buffer += data
        return True


def say(line: object) -> None:
    """Write a line for the benchmark; anything but text is written as JSON."""
    print(line if isinstance(line, str) else msgspec.json.encode(line).decode(), flush=True)


def order(kind: type[T]) -> T:
    """Read what a `Child` was told to do.

    Raises:
        msgspec.ValidationError: it does not fit; the message names the key.
    """
    return msgspec.json.decode(sys.stdin.readline(), type=kind)
