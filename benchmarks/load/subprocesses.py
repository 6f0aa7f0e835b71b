"""Processes of this package that a benchmark starts, and the lines they exchange: JSON, or single words."""

from __future__ import annotations

import asyncio
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from io import BufferedReader, RawIOBase
from typing import Any, Self, TypeVar, cast

import msgspec
from aiohttp import ClientError

from benchmarks.failures import CHECKOUT, Refused, RunFailed

FAILED = "failed: "
"""Starts the line that a process writes instead of another one if it cannot go on."""

REFUSED = "refused: "
"""Starts that line if the server refused a stream; error code and message follow."""

T = TypeVar("T")


def python(module: str, *args: str) -> list[str]:
    """Give the command that runs a module; use it with `environment`."""
    # -P: the current folder may have a package of the module's name
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
    """Run a module to its end, for at most `seconds`, and decode its JSON output.

    Args:
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
        # unbuffered: a buffer left full by a broken pipe would fail again when it is closed
        self._process = subprocess.Popen(
            python(module), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), bufsize=0
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.tell(msgspec.json.encode(order).decode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._reader.join()
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
        try:
            line = self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        if not line.endswith("\n"):
            self._lines.put("")  # for the next call
            raise RunFailed(f"the process of {self._module} ended before it was done")
        line = line.removesuffix("\n")
        if line.startswith(REFUSED):
            raise Refused(*line.removeprefix(REFUSED).split(" ", 1))
        if line.startswith(FAILED):
            raise RunFailed(line.removeprefix(FAILED))
        return line

    def _read(self) -> None:
        with BufferedReader(cast(RawIOBase, self._process.stdout)) as lines:
            for line in lines:
                self._lines.put(line.decode())
        self._lines.put("")


def say(line: object) -> None:
    """Write a line for the benchmark; anything but text is written as JSON."""
    print(line if isinstance(line, str) else msgspec.json.encode(line).decode(), flush=True)


def order(kind: type[T]) -> T:
    """Read the order of a `Child`.

    Raises:
        msgspec.ValidationError: it does not fit; the message names the key.
    """
    return msgspec.json.decode(sys.stdin.readline(), type=kind)


def obey(kind: type[T], work: Callable[[T], Coroutine[Any, Any, None]]) -> int:
    """Carry out the order of a `Child` and report why that is not possible; return the exit status."""
    try:
        asyncio.run(work(order(kind)))
    except Refused as exc:
        say(f"{REFUSED}{exc.code} {exc.reason}")
        return 1
    except (ClientError, OSError, RunFailed) as exc:
        say(f"{FAILED}{str(exc) or type(exc).__name__}")
        return 1
    return 0
