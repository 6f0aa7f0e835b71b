"""Models for tests of the sandbox: what a hijacked worker would try. Every attack returns if it succeeds."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)

PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17


class IoVector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def called(result: int) -> int:
    """What a C function returned, or its error as Python would raise it."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Hostile:
    """Does what an item says: ``[name of an attack, *its arguments]``."""

    input = "data"

    def load(self) -> None:
        pass

    def predict(self, items: Sequence[list[Any]], /) -> Sequence[Any]:
        return [getattr(self, name)(*arguments) for name, *arguments in items]

    def nothing(self) -> str:
        return "harmless"

    def read(self, path: str) -> str:
        return Path(path).read_text()

    def read_parents_environment(self) -> int:
        return len(Path(f"/proc/{os.getppid()}/environ").read_bytes())

    def write(self, path: str) -> int:
        return Path(path).write_text("was here")

    def cut(self, path: str) -> None:
        os.truncate(path, 0)

    def change_mode(self, path: str) -> None:
        Path(path).chmod(0o777)

    def remove(self, path: str) -> None:
        Path(path).unlink()

    def list_folder(self, path: str) -> list[str]:
        return [entry.name for entry in Path(path).iterdir()]

    def spawn(self) -> int:
        return subprocess.run(["/bin/true"], check=True).returncode

    def become(self) -> None:
        os.execv("/bin/true", ["/bin/true"])

    def fork(self) -> int:
        child = os.fork()
        if not child:
            os._exit(0)
        return os.waitpid(child, 0)[1]

    def fork_by_number(self, name: str) -> int:
        """Make the system call itself, as a C library with other habits would."""
        arguments = {
            "fork": (57,),
            "clone3": (435, struct.pack("=8Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64),
        }
        child = libc.syscall(*arguments[name])
        if not child:
            os._exit(0)
        return os.waitpid(called(child), 0)[1]

    def tcp(self, port: int) -> str:
        with socket.create_connection(("127.0.0.1", port), 5):
            return "connected"

    def udp(self, port: int) -> int:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            return sock.sendto(b"secret", ("127.0.0.1", port))

    def unix(self, path: str) -> str:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            return "connected"

    def unix_datagram(self, path: str) -> int:
        one, _other = socket.socketpair(type=socket.SOCK_DGRAM)
        return one.sendto(b"secret", path)

    def signal_parent(self) -> None:
        os.kill(os.getppid(), signal.SIGURG)  # which by default is ignored

    def signal_parent_by_input(self) -> None:
        """Make the kernel send it, when something can be read from a socket."""
        one, other = socket.socketpair()
        fcntl.fcntl(one, fcntl.F_SETOWN, os.getppid())
        fcntl.fcntl(one, 10, signal.SIGURG)  # F_SETSIG
        fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC)
        other.send(b"x")

    def trace_parent(self) -> None:
        called(libc.ptrace(PTRACE_SEIZE, os.getppid(), None, None))
        libc.ptrace(PTRACE_DETACH, os.getppid(), None, None)

    def read_parents_memory(self) -> int:
        """Read what this interpreter has at an address, from the parent, if it can be read at all."""
        into = ctypes.create_string_buffer(8)
        ours = IoVector(ctypes.addressof(into), 8)
        line = Path("/proc/self/maps").read_text().split("-")[0]
        theirs = IoVector(int(line, 16), 8)
        try:
            return called(
                libc.process_vm_readv(os.getppid(), ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
            )
        except OSError as exc:
            if exc.errno == errno.EFAULT:  # it may read there, and nothing is mapped
                return 0
            raise

    def limit_parent(self) -> Any:
        return resource.prlimit(os.getppid(), resource.RLIMIT_CORE)

    def own_namespace(self) -> None:
        called(libc.unshare(0x10000000))

    def ring(self) -> None:
        called(libc.syscall(425, 1, ctypes.create_string_buffer(120)))  # io_uring_setup

    def shared_memory(self) -> None:
        segment = called(libc.shmget(0, 4096, 0o600))  # of System V
        called(libc.shmctl(segment, 0, None))

    def semaphores(self) -> None:
        called(libc.semctl(called(libc.semget(0, 1, 0o600)), 0, 0))

    def messages(self) -> None:
        called(libc.msgctl(called(libc.msgget(0, 0o600)), 0, None))

    def queue(self) -> None:
        name = b"/hostile-%d" % os.getpid()
        os.close(called(libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None)))
        called(libc.mq_unlink(name))

    def outlive_the_parent(self) -> None:
        called(libc.prctl(1, 0, 0, 0, 0))  # PR_SET_PDEATHSIG

    def call(self, number: int, argument: int) -> None:
        os.close(called(libc.syscall(ctypes.c_long(number), ctypes.c_long(argument), None, ctypes.c_long(0))))

    def kill_itself(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def other_numbers(self) -> int:
        """Call getpid by its x32 number."""
        return called(libc.syscall(ctypes.c_long(0x40000000 + 39)))

    def memory(self, gigabytes: int) -> int:
        return len(bytes(gigabytes << 30))  # zeros that the kernel need not write

    def interfaces(self) -> list[str]:
        lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
        return [line.partition(":")[0].strip() for line in lines]

    def capabilities(self) -> int:
        (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapPrm"))
        return int(line.split()[1], 16)

    def core_limit(self) -> tuple[int, int]:
        return resource.getrlimit(resource.RLIMIT_CORE)

    def import_late(self) -> list[str]:
        import wave

        from tests.inference import sample_models

        return [wave.__name__, sample_models.__name__]

    def compute(self) -> Any:
        """What libraries do that nobody means to forbid."""
        os.kill(os.getpid(), 0)
        with ThreadPoolExecutor(4) as pool:
            squares = list(pool.map(lambda n: n * n, range(4)))
        one, other = socket.socketpair()
        one.send(os.urandom(3))
        return [
            squares,
            len(other.recv(10)),
            os.sched_getaffinity(0) != set(),
            Path("/proc/self/fd/2").exists(),
        ]

    def many_threads(self, count: int) -> int:
        release = threading.Event()
        threads = [threading.Thread(target=release.wait) for _ in range(count)]
        try:
            for thread in threads:
                thread.start()
        finally:
            release.set()
        return count

    def crash(self) -> None:
        ctypes.string_at(0)


class HasAThread(Hostile):
    """Keeps a thread that was there before the sandbox, and lets it do what an item says."""

    def load(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.pool.submit(str).result()

    def predict(self, items: Sequence[list[Any]], /) -> Sequence[Any]:
        return self.pool.submit(super().predict, items).result()


class ReadsInLoad(Hostile):
    """Reads a file while it loads, and keeps it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def load(self) -> None:
        self.text = subprocess.run(["cat", self.path], check=True, capture_output=True, text=True).stdout

    def kept(self) -> str:
        return self.text


def after(parts: Sequence[Callable[[], None]], item: list[Any]) -> None:
    """Close some parts of the sandbox around this process, attack, and print what came of it."""
    for part in parts:
        part()
    try:
        Hostile().predict([item])
    except OSError as exc:
        print(errno.errorcode[exc.errno or 0])
    else:
        print("succeeded")
    sys.stdout.flush()
