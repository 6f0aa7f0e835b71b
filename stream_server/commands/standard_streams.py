"""Standard input, output and error that whoever started the command has closed, or no longer reads."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO


def open_missing() -> None:
    """Open /dev/null in place of each closed standard stream.

    It must be called before anything else is opened. A socket that got the number 0, 1 or 2 would be taken for a
    standard stream: libuv ends the process, and a library that prints would write into a connection.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            with suppress(OSError):  # a container without /dev/null has nothing better to offer
                # the lowest free number is `fd`, since those below are open
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:  # Python found it closed
            with suppress(OSError):
                setattr(sys, name, os.fdopen(fd, mode, encoding="utf-8", closefd=False))


def discard(stream: TextIO) -> None:
    """Drop what a stream still has in its buffer: at exit Python would fail to write it once more, and say so."""
    with suppress(OSError, ValueError):  # a stream that a test or a library has put there need not be a file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def complain(text: str) -> None:
    """Print a line to standard error if it can be written."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)
