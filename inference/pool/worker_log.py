"""What workers print: read so that they never wait for it, and logged so that it floods no log. No asyncio."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from inference.token_bucket import TokenBucket

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

log = logging.getLogger("inference.worker.main")

BURST, LINES_PER_S = 200, 20.0
"""Lines that are logged at once, and steadily: a few tracebacks fit, and a flood leaves the log readable."""

LONGEST = 1000
"""Characters of a line that are logged: a traceback's line has a fifth of them."""

READ_SIZE = 64 << 10
"""What one read takes: a pipe holds no more."""


class Lines:
    """Cuts what a worker prints into printable lines, as many as its allowance lets through. No I/O, no clock."""

    def __init__(self, now: float) -> None:
        self._rest = b""
        self._allowance = TokenBucket(LINES_PER_S, BURST, now)
        self._left_out = 0

    def feed(self, data: bytes, now: float) -> Iterator[str]:
        """Take bytes as they come, give the lines to log."""
        allowed = int(self._allowance.available(now))
        # what is left out is counted and not cut: a flood of line ends would cost milliseconds for each read
        *lines, rest = (self._rest + data).split(b"\n", allowed)
        left_out = rest.count(b"\n")
        self._rest = rest[rest.rfind(b"\n") + 1 :]
        if len(self._rest) > LONGEST:  # no line's end in sight: it must not pile up here
            if len(lines) < allowed:
                lines.append(self._rest)
            else:
                left_out += 1
            self._rest = b""
        self._allowance.spend(len(lines), now)
        for line in lines:
            yield from self._told()
            yield _printable(line)
        self._left_out += left_out

    def end(self) -> Iterator[str]:
        """Give what is left when nothing more can come."""
        yield from self._told()
        if self._rest:
            yield _printable(self._rest)

    def _told(self) -> Iterator[str]:
        if self._left_out:
            yield f"({self._left_out:,} lines left out)"
            self._left_out = 0


def _printable(line: bytes) -> str:
    text = line[:LONGEST].decode("utf-8", "backslashreplace")
    # an escape sequence would reach the operator's terminal
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Output:
    """The reading end of a worker's standard output and error, on the event loop. `fd` is closed with it."""

    def __init__(self, fd: int, pid: int, loop: AbstractEventLoop) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._pid = pid
        self._loop = loop
        self._open = True
        self._lines = Lines(time.monotonic())
        try:
            loop.add_reader(fd, self._readable)
        except OSError:  # the kernel watches no more files for this user
            os.close(fd)
            raise

    def close(self) -> None:
        """Log what the pipe still holds, once the worker has ended: it may be why."""
        if self._open:
            self._read()
            self._stop()
        os.close(self._fd)

    def _readable(self) -> None:
        if self._read() == 0:
            self._stop()

    def _read(self) -> int | None:
        """Log what is there; how many bytes, 0 at the end, None if there is nothing now."""
        try:
            data = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return None
        self._log(self._lines.feed(data, time.monotonic()))
        return len(data)

    def _stop(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)
            self._log(self._lines.end())

    def _log(self, lines: Iterator[str]) -> None:
        for line in lines:
            log.warning("%d: %s", self._pid, line)
