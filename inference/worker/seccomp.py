"""Refuses system calls that no model needs to answer (seccomp(2)): a filter program, and its installation.

What is refused gets EPERM, never a signal: a model's libraries and its author see an ordinary error. The exception
is a process that sends itself SIGKILL: SIGSYS ends it, so that the server can tell this from a kill from outside.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from typing import TypeAlias

from inference.worker.system_calls import Unsupported, call

FORBIDDEN = """
execve 59 221           execveat 322 281        fork 57 -               vfork 58 -
ptrace 101 117          process_vm_readv 310 270        process_vm_writev 311 271       kcmp 312 272
pidfd_open 434 434      pidfd_send_signal 424 424       pidfd_getfd 438 438
process_madvise 440 440 process_mrelease 448 448        migrate_pages 256 238
setpriority 141 140     ioprio_set 251 30       sched_setscheduler 144 119
sched_setparam 142 118  sched_setattr 314 274
socket 41 198           connect 42 203          bind 49 200
io_uring_setup 425 425  io_uring_enter 426 426  io_uring_register 427 427
chmod 90 -              fchmod 91 52            fchmodat 268 53         fchmodat2 452 452
chown 92 -              fchown 93 55            lchown 94 -             fchownat 260 54
utime 132 -             utimes 235 -            utimensat 280 88        futimesat 261 -
setxattr 188 5          lsetxattr 189 6         fsetxattr 190 7         setxattrat 463 463
removexattr 197 14      lremovexattr 198 15     fremovexattr 199 16     removexattrat 466 466
truncate 76 45          file_setattr 469 469
mount 165 40            umount2 166 39          pivot_root 155 41       chroot 161 51
move_mount 429 429      open_tree 428 428       open_tree_attr 467 467  mount_setattr 442 442
fsopen 430 430          fsconfig 431 431        fsmount 432 432         fspick 433 433
unshare 272 97          setns 308 268           swapon 167 224          swapoff 168 225
shmget 29 194           shmat 30 196            shmctl 31 195
semget 64 190           semop 65 193            semctl 66 191           semtimedop 220 192
msgget 68 186           msgsnd 69 189           msgrcv 70 188           msgctl 71 187
mq_open 240 180         mq_unlink 241 181       mq_timedsend 242 182    mq_timedreceive 243 183
mq_notify 244 184       mq_getsetattr 245 185   memfd_secret 447 447    modify_ldt 154 -
statmount 457 457       listmount 458 458
bpf 321 280             perf_event_open 298 241 userfaultfd 323 282     fanotify_init 300 262
keyctl 250 219          add_key 248 217         request_key 249 218
name_to_handle_at 303 264       open_by_handle_at 304 265
init_module 175 105     finit_module 313 273    delete_module 176 106
kexec_load 246 104      kexec_file_load 320 294 reboot 169 142          acct 163 89
quotactl 179 60         quotactl_fd 443 443     syslog 103 116          vhangup 153 58
settimeofday 164 170    clock_settime 227 112   clock_adjtime 305 266   adjtimex 159 171
sethostname 170 161     setdomainname 171 162   iopl 172 -              ioperm 173 -
"""
"""System calls that no model needs to answer, with their numbers on x86_64 and aarch64 (asm/unistd.h).

All sockets are among them, because one of the Unix kind reaches whatever daemon listens on a path. An
io_uring would make these calls past the filter. Changing modes, owners, times and attributes is what
Landlock does not see.
"""

CLONE_THREAD = 0x10000
CLONE, CLONE3 = (56, 220), (435, 435)
FCNTL, IOCTL, SOCKETPAIR = (72, 25), (16, 29), (53, 199)
TO_ITSELF = {(62, 129): 1, (200, 130): 1, (234, 131): 2, (129, 138): 1, (297, 240): 2}
"""kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, with the argument that is the signal: a process may
signal itself, as abort() does."""
PRCTL, SET_DEATH_SIGNAL = (157, 167), 1
"""prctl's PR_SET_PDEATHSIG: by it the worker ends with the server."""
ON_ITSELF = ((302, 261), (203, 122), (279, 239))
"""prlimit64, sched_setaffinity, move_pages: process 0 is the caller."""

SIGNAL_OWNERS = (8, 10, 15)
"""fcntl's F_SETOWN, F_SETSIG, F_SETOWN_EX: input on a descriptor would send any signal to any process."""
TERMINAL_WRITES = (0x5412, 0x541C, 0x8901, 0x8902)
"""ioctl's TIOCSTI and TIOCLINUX type into the operator's terminal; FIOSETOWN and SIOCSPGRP are F_SETOWN."""

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine to its column of numbers and its AUDIT_ARCH (linux/audit.h)."""

X32 = 0x40000000
"""On x86_64, numbers from here on are a second way to the same calls."""

SECCOMP = (317, 277)
SET_MODE_FILTER = 1
EVERY_THREAD, KEEP_SPEED = 1, 4
"""SECCOMP_FILTER_FLAG_TSYNC; and _SPEC_ALLOW, without which Linux before 5.16 slows down the whole worker."""

# Classic BPF: what the filter is written in, on the fields of struct seccomp_data (linux/seccomp.h).
LOAD, AND, RETURN = 0x20, 0x54, 0x06
EQUAL, AT_LEAST, ANY_BIT = 0x15, 0x35, 0x45
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
ALLOW, ERROR, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000

Instruction: TypeAlias = tuple[int, int, int, int]
"""Operation; how many instructions to skip if it holds, and if not; operand."""


def filter_calls() -> None:
    """Install the filter on every thread of this process, for good.

    Raises:
        Unsupported: there is none for this machine.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES or sys.maxsize < 1 << 32:  # a 32-bit Python makes other calls
        raise Unsupported(f"there is no filter for this Python on {machine}")
    column, architecture = ARCHITECTURES[machine]
    _install(column, program(column, architecture, os.getpid()))


def _install(column: int, code: Sequence[Instruction]) -> None:
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    filters = struct.pack("@HP", len(code), ctypes.addressof(buffer))
    # on every thread at once; a positive answer is a thread that has a filter of its own
    if thread := call(SECCOMP[column], SET_MODE_FILTER, EVERY_THREAD | KEEP_SPEED, filters):
        raise OSError(errno.EPERM, f"thread {thread} has a filter of its own")


def program(column: int, architecture: int, pid: int) -> list[Instruction]:
    """Write the filter for one architecture and one process."""
    refuse, allow = (RETURN, 0, 0, ERROR | errno.EPERM), (RETURN, 0, 0, ALLOW)
    code: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, architecture),
        refuse,
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32),
        refuse,
    ]

    def when(number: int, *body: Instruction) -> None:
        code.extend([(EQUAL, 0, len(body), number), *body])

    def unless(number: int, argument: int, *test: Instruction) -> None:
        """Refuse a call unless the test's last line holds, which skips the refusal."""
        when(number, (LOAD, 0, 0, ARGUMENTS + 8 * argument), *test, refuse, allow)

    for row in re.findall(r"\w+ (\d+) (\d+|-)", FORBIDDEN):
        if row[column] != "-":
            when(int(row[column]), refuse)
    when(
        CLONE3[column], (RETURN, 0, 0, ERROR | errno.ENOSYS)
    )  # its flags are in memory; libc then uses clone
    unless(CLONE[column], 0, (ANY_BIT, 1, 0, CLONE_THREAD))
    unless(
        SOCKETPAIR[column], 1, (AND, 0, 0, 0xF), (EQUAL, 1, 0, socket.SOCK_STREAM)
    )  # others can be redirected
    for numbers, which in TO_ITSELF.items():
        killing = [
            (LOAD, 0, 0, ARGUMENTS + 8 * which),
            (EQUAL, 0, 1, signal.SIGKILL),
            (RETURN, 0, 0, KILL_PROCESS),
        ]
        when(numbers[column], (LOAD, 0, 0, ARGUMENTS), (EQUAL, 1, 0, pid), refuse, *killing, allow)
    for numbers in ON_ITSELF:
        unless(numbers[column], 0, (EQUAL, 2, 0, 0), (EQUAL, 1, 0, pid))
    for numbers, which, commands in (
        (FCNTL, 1, SIGNAL_OWNERS),
        (IOCTL, 1, TERMINAL_WRITES),
        (PRCTL, 0, (SET_DEATH_SIGNAL,)),
    ):
        tests = [(EQUAL, len(commands) - n, 0, command) for n, command in enumerate(commands)]
        when(numbers[column], (LOAD, 0, 0, ARGUMENTS + 8 * which), *tests, allow, refuse)
    return [*code, allow]
