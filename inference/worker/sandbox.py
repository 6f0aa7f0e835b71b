"""Restricts what a worker may do once its models are loaded, by means of the kernel. It knows no model.

The order: `separate` first thing in the process, then the models load with everything that the server may
do, then `seal`. After it the worker computes on what it has, talks on its socket and its error output, and
reads the Python installation and the models' own packages. So a model reads its other files in ``load``;
what ``predict`` tries beyond that raises `PermissionError`, which costs that item alone.

Every part is tried by itself and reported, because kernels and containers differ in what they have:

- ``core_dumps``: none, as they would put clients' frames on a disk.
- ``network``: an empty network namespace.
- ``threads``: `MAX_THREADS` at most.
- ``landlock``: reads as above, writes nothing, signals nobody else, from Linux 5.13 on (landlock(7)).
- ``capabilities``: all dropped, so that root in here is no more than its files' owner.
- ``no_new_privileges``: no setuid program gives any back.
- ``seccomp``: no new process or program, no socket, no shared memory or queue of System V or POSIX, no other
  process touched, the signal kept that ends the worker with the server, and what Landlock does not see.

It does not hide names and sizes of files, what the environment holds, or the processor's time.
"""

from __future__ import annotations

import ctypes
import errno
import os  # without pathlib, whose import alone takes longer than all of this
import re
import resource
import site
import struct
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

from inference.wire.features import ON
from inference.worker.landlock import restrict_files
from inference.worker.seccomp import filter_calls
from inference.worker.system_calls import Unsupported, checked, libc

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_NO_NEW_PRIVS = 38
CAP_SYS_ADMIN = 21
CAPABILITY_VERSION = 0x20080522

MAX_THREADS = 256
"""A worker is one core: a model has a handful of threads, and a thread bomb ends here."""

THREADS_COUNTED = (5, 14)
"""The first Linux that counts RLIMIT_NPROC by user namespace; before, the user's other programs count too."""

UNUSED_IDS = ((0x70000000, 1 << 22), (60514, 64))
"""Ranges of user ids that no system gives out, first and how many; the second is for containers with 65,536 ids
(systemd: "Users, Groups, UIDs and GIDs on systemd Systems"). Root's threads are not counted, so a worker of root's
takes one as its real id. The effective one stays, with which files are opened."""

PER_THREAD = ("network", "landlock", "capabilities")
"""What holds for the thread that asks for it and for those it starts, not for those that run already."""


def limit_memory(megabytes: int) -> None:
    """Cap the private memory; beyond it an allocation raises MemoryError.

    The address space says little: a GPU's driver reserves more than the machine has. On Linux since 4.7,
    RLIMIT_DATA counts private writable mappings (getrlimit(2)): 120 MiB with the shipped models, whose address
    space is 375.
    """
    _lower(resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS, megabytes << 20)


def separate() -> bool:
    """Enter a user namespace, in which alone an ordinary user may make a network namespace later; whether it did.

    It must be called before any thread exists (unshare(2)). Where it is not permitted, `seal` will report
    that there is no network namespace.
    """
    if sys.platform != "linux":
        return False
    try:
        if _capable():
            return False
    except OSError:  # a container may forbid to ask; to try does no harm
        pass
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER):
        return False
    # without a map the ids read as nobody's; root without capabilities may not map its own, and lives so
    with suppress(OSError):
        for name, line in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123  # see the imports
                file.write(line)
    return True


def seal(readable: Iterable[str], *, separated: bool = False) -> dict[str, str]:
    """Restrict this process for good.

    Args:
        readable: folders and files that stay readable besides the Python installation.
        separated: what `separate` returned.

    Returns:
        Each feature with "on", or with "partial: ", "unsupported: " or "denied: " and the reason.
    """
    threads = _others()
    parts: dict[str, Callable[[], None]] = {
        "core_dumps": lambda: _lower(resource.RLIMIT_CORE, 0),
        "network": _leave_network,
        "threads": lambda: _limit_threads(separated=separated),
        "no_new_privileges": _renounce_privileges,
        "landlock": lambda: restrict_files([*installation(), "/proc/self", *readable]),
        "capabilities": _drop_capabilities,
        "seccomp": filter_calls,
    }
    features = {name: _tried(part) for name, part in parts.items()}
    if threads:
        for name in PER_THREAD:
            if features[name] == ON:
                features[name] = f"partial: not for the threads that loading started ({threads})"
    return features


def _others() -> str:
    """How many threads there are besides this one, as a number or in words; empty for none."""
    if sys.platform != "linux":
        return ""
    try:
        others = len(os.listdir("/proc/self/task")) - 1  # noqa: PTH208  # see the imports
    except OSError:  # a container without /proc
        return "if any: their number is unknown without /proc"
    return str(others) if others else ""


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


def _leave_network() -> None:
    checked(libc.unshare(CLONE_NEWNET))


def _limit_threads(*, separated: bool) -> None:
    """Limit this process's threads: see to it first that RLIMIT_NPROC counts them, and no other program's."""
    if separated:
        found = re.match(r"(\d+)\.(\d+)", os.uname().release)
        if not found or (int(found[1]), int(found[2])) < THREADS_COUNTED:
            raise Unsupported("before Linux 5.14 the user's other programs count too")
        if os.geteuid() == 0:
            raise Unsupported("root's threads are not counted in a user namespace of its own")
    else:
        ids = (first + int.from_bytes(os.urandom(4), "big") % size for first, size in UNUSED_IDS)
        if all(libc.setresuid(unused, -1, -1) for unused in ids):
            checked(-1)
    _lower(resource.RLIMIT_NPROC, MAX_THREADS)


def _renounce_privileges() -> None:
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _capable() -> bool:
    data = ctypes.create_string_buffer(24)
    checked(libc.capget(struct.pack("=Ii", CAPABILITY_VERSION, 0), data))
    effective: int = struct.unpack_from("=I", data)[0]
    return bool(effective >> CAP_SYS_ADMIN & 1)


def _drop_capabilities() -> None:
    checked(libc.capset(struct.pack("=Ii", CAPABILITY_VERSION, 0), bytes(24)))
