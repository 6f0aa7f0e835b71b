"""What a worker may no longer do once its models are loaded: a fence that the kernel keeps. It knows no model.

The order: `separate` first thing in the process, then the models load with everything that the server may
do, then `seal`. After it the worker computes on what it has, talks on its socket and its error output, and
reads the Python installation and the models' own packages. So a model reads its other files in ``load``;
what ``predict`` tries beyond the fence raises `PermissionError`, which costs that item alone.

Every part is tried by itself and reported, because kernels and containers differ in what they have:

- ``core_dumps``: none, as they would put clients' frames on a disk.
- ``network``: an empty network namespace.
- ``landlock``: reads as above, writes nothing, signals nobody else, from Linux 5.13 on (landlock(7)).
- ``capabilities``: all dropped, so that root in here is no more than its files' owner.
- ``no_new_privileges``: no setuid program gives any back.
- ``seccomp``: no new process or program, no socket, no other process touched, and what Landlock does not see.

It does not hide names and sizes of files, what the environment holds, or the processor's time.
"""

from __future__ import annotations

import ctypes
import errno
import os  # without pathlib, whose import alone takes longer than all of this
import re
import resource
import site
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeAlias

from inference.wire.features import ON

CLONE_NEWUSER, CLONE_NEWNET, CLONE_THREAD = 0x10000000, 0x40000000, 0x10000
PR_SET_NO_NEW_PRIVS = 38
CAP_SYS_ADMIN = 21
CAPABILITY_VERSION = 0x20080522

MAX_THREADS = 256
"""A worker is one core: a model has a handful of threads, and a thread bomb ends here."""

THREADS_COUNTED = (5, 14)
"""The first Linux that counts RLIMIT_NPROC by user namespace; before, the user's other programs count too."""

PER_THREAD = ("network", "landlock", "capabilities")
"""What holds for the thread that asks for it and for those it starts, not for those that run already."""

# Landlock: numbers, the same on every architecture, and rights by ABI (linux/landlock.h).
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_VERSION = 1
RULE_PATH_BENEATH = 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
TCP_ABI, TCP_RIGHTS = 4, 0b11
SCOPE_ABI, SCOPES = 6, 0b11

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

CLONE, CLONE3 = (56, 220), (435, 435)
FCNTL, IOCTL, SOCKETPAIR = (72, 25), (16, 29), (53, 199)
TO_ITSELF = ((62, 129), (200, 130), (234, 131), (129, 138), (297, 240))
"""kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo: a process may signal itself, as abort() does."""
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
ALLOW, ERROR = 0x7FFF0000, 0x00050000

Instruction: TypeAlias = tuple[int, int, int, int]
"""Operation; how many instructions to skip if it holds, and if not; operand."""

_libc = ctypes.CDLL(None, use_errno=True)


class Unsupported(Exception):
    """This machine has no such feature. The message says what is missing."""


def limit_memory(megabytes: int) -> None:
    """Cap the address space; beyond it an allocation raises MemoryError."""
    _lower(resource.RLIMIT_AS, megabytes << 20)


def separate() -> None:
    """Enter a user namespace, in which alone an ordinary user may make a network namespace later.

    It must be called before any thread exists (unshare(2)). Where it is not permitted, `seal` will report
    that there is no network namespace.
    """
    if sys.platform != "linux" or _capable():
        return
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(CLONE_NEWUSER):
        return
    # without a map the ids read as nobody's; root without capabilities may not map its own, and lives so
    with suppress(OSError):
        for name, line in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123  # see the imports
                file.write(line)
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if found and (int(found[1]), int(found[2])) >= THREADS_COUNTED:
        _lower(resource.RLIMIT_NPROC, MAX_THREADS)


def seal(readable: Iterable[str]) -> dict[str, str]:
    """Close the fence around this process for good.

    Args:
        readable: folders and files that stay readable besides the Python installation.

    Returns:
        Each feature with "on", or with "partial: ", "unsupported: " or "denied: " and the reason.
    """
    threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1  # noqa: PTH208
    parts: dict[str, Callable[[], None]] = {
        "core_dumps": lambda: _lower(resource.RLIMIT_CORE, 0),
        "network": _leave_network,
        "no_new_privileges": _renounce_privileges,
        "landlock": lambda: _restrict_files([*installation(), "/proc/self", *readable]),
        "capabilities": _drop_capabilities,
        "seccomp": _filter_calls,
    }
    features = {name: _tried(part) for name, part in parts.items()}
    if threads > 1:
        for name in PER_THREAD:
            if features[name] == ON:
                features[name] = f"partial: not for the threads that loading started ({threads - 1})"
    return features


def installation() -> list[str]:
    """Give the folders that a late import, and the libraries that it links, may be read from."""
    prefixes = {sys.prefix, sys.base_prefix, "/usr", "/"}
    folders = [f"{prefix.rstrip('/')}/{name}" for prefix in prefixes for name in ("lib", "lib64")]
    if site.ENABLE_USER_SITE and site.USER_SITE:
        folders.append(site.USER_SITE)
    return [*folders, os.path.dirname(os.path.dirname(__file__)), "/etc/ld.so.cache"]  # noqa: PTH120


def _lower(limit: int, most: int) -> None:
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)  # what an operator has set lower stays
    resource.setrlimit(limit, (most, most))


def _tried(part: Callable[[], None]) -> str:
    if sys.platform != "linux":
        return "unsupported: this is not Linux"
    try:
        part()
    except Unsupported as exc:
        return f"unsupported: {exc}"
    except OSError as exc:
        known = exc.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
        return f"{'denied' if known else 'unsupported'}: {exc.strerror}"
    return ON


def _call(number: int, *args: object) -> int:
    ctypes.set_errno(0)
    # syscall(2) is variadic: an int would leave the upper half of a register undefined
    result = _libc.syscall(
        ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args)
    )
    return _checked(result)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def _leave_network() -> None:
    _checked(_libc.unshare(CLONE_NEWNET))


def _renounce_privileges() -> None:
    _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _capable() -> bool:
    data = ctypes.create_string_buffer(24)
    _checked(_libc.capget(struct.pack("=Ii", CAPABILITY_VERSION, 0), data))
    effective: int = struct.unpack_from("=I", data)[0]
    return bool(effective >> CAP_SYS_ADMIN & 1)


def _drop_capabilities() -> None:
    _checked(_libc.capset(struct.pack("=Ii", CAPABILITY_VERSION, 0), bytes(24)))


def _restrict_files(readable: Iterable[str]) -> None:
    abi = _call(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION)
    handled = struct.pack(
        "=QQQ",
        FILE_RIGHTS[min(abi, max(FILE_RIGHTS))],
        TCP_RIGHTS if abi >= TCP_ABI else 0,
        SCOPES if abi >= SCOPE_ABI else 0,
    )
    ruleset = _call(LANDLOCK_CREATE_RULESET, handled, len(handled), 0)
    try:
        for path in readable:
            _allow_reading(ruleset, path)
        _call(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow_reading(ruleset: int, path: str) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    try:
        rights = READ_FILE | READ_DIR if stat.S_ISDIR(os.fstat(fd).st_mode) else READ_FILE
        _call(LANDLOCK_ADD_RULE, ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)


def _filter_calls() -> None:
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
    if thread := _call(SECCOMP[column], SET_MODE_FILTER, EVERY_THREAD | KEEP_SPEED, filters):
        raise OSError(errno.EPERM, f"thread {thread} has a filter of its own")


def program(column: int, architecture: int, pid: int) -> list[Instruction]:
    """Write the filter for one architecture and one process.

    What is refused gets EPERM, never a signal: a model's libraries and its author see an ordinary error.
    """
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
    for numbers in TO_ITSELF:
        unless(numbers[column], 0, (EQUAL, 1, 0, pid))
    for numbers in ON_ITSELF:
        unless(numbers[column], 0, (EQUAL, 2, 0, 0), (EQUAL, 1, 0, pid))
    for numbers, commands in ((FCNTL, SIGNAL_OWNERS), (IOCTL, TERMINAL_WRITES)):
        tests = [(EQUAL, len(commands) - n, 0, command) for n, command in enumerate(commands)]
        when(numbers[column], (LOAD, 0, 0, ARGUMENTS + 8), *tests, allow, refuse)
    return [*code, allow]
