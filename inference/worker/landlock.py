"""Lets this process read some files and folders, write none, and signal nobody else (landlock(7), Linux 5.13)."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable

from inference.worker.system_calls import call

# Landlock: numbers, the same on every architecture, and rights by ABI (linux/landlock.h).
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_VERSION = 1
RULE_PATH_BENEATH = 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
TCP_ABI, TCP_RIGHTS = 4, 0b11
SCOPE_ABI, SCOPES = 6, 0b11


def restrict_files(readable: Iterable[str]) -> None:
    """Make these files and what is in these folders readable, and nothing else."""
    abi = call(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION)
    handled = struct.pack(
        "=QQQ",
        FILE_RIGHTS[min(abi, max(FILE_RIGHTS))],
        TCP_RIGHTS if abi >= TCP_ABI else 0,
        SCOPES if abi >= SCOPE_ABI else 0,
    )
    ruleset = call(LANDLOCK_CREATE_RULESET, handled, len(handled), 0)
    try:
        for path in readable:
            _allow_reading(ruleset, path)
        call(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow_reading(ruleset: int, path: str) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    try:
        rights = READ_FILE | READ_DIR if stat.S_ISDIR(os.fstat(fd).st_mode) else READ_FILE
        call(LANDLOCK_ADD_RULE, ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)
