"""Calls the kernel where Python has no function for it. It decides nothing about the sandbox."""

from __future__ import annotations

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)


class Unsupported(Exception):
    """This machine has no such feature. The message says what is missing."""


def call(number: int, *args: object) -> int:
    """Make a system call by its number.

    Raises:
        OSError: the kernel refuses it.
    """
    ctypes.set_errno(0)
    # syscall(2) is variadic: an int would leave the upper half of a register undefined
    result = libc.syscall(
        ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args)
    )
    return checked(result)


def checked(result: int) -> int:
    """Return what a C function returned; a negative result is an error.

    Raises:
        OSError: it is one.
    """
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)
