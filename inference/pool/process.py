"""Workers as processes of this machine, on socket pairs: started, watched, ended. It decides nothing about work."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from inference.pool.launcher import Events, LaunchError
from inference.pool.worker_log import Output
from inference.wire.socket_transport import SocketTransport
from inference.wire.worker_channel import DUMP_SIGNAL

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

ENVIRONMENT = {
    # one worker is one core: a second thread inside it only takes another worker's
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # glibc gives every thread an arena, and arenas of a long-lived worker only grow
    "MALLOC_ARENA_MAX": "2",
    # ONNX Runtime would report what it runs to its makers, from a thread that the sandbox does not hold
    "ORT_DISABLE_TELEMETRY": "1",
    # OpenCV reads both once, when any module first imports it. A fence behind the readers of images, the number of
    # inference.worker.image_limits.MAX_PIXELS; and silence, as damaged images are answered and may fill no log
    "OPENCV_IO_MAX_IMAGE_PIXELS": "25000000",
    "OPENCV_LOG_LEVEL": "SILENT",
    # a worker's last words must not sit in a buffer when it is killed
    "PYTHONUNBUFFERED": "1",
}

SEND_BUFFER = 1 << 20
"""Bytes of a batch that the kernel is to take at once: 24 frames of 42 KB. Linux's default of 208 KiB holds four,
and each wait for more room costs both ends a wake-up. Where net.core.wmem_max is lower, it takes twice that."""


def search_path() -> str:
    """Where a worker looks for modules: this package, then the current folder, then as the server does.

    A user's own model lies in the current folder, which must not hide this package with a folder of its name.
    """
    ours = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, (ours, str(Path.cwd()), os.environ.get("PYTHONPATH"))))


def _spawn(theirs: socket.socket) -> tuple[subprocess.Popen[bytes], int]:
    """Start a worker with its end of the socket pair; the process, and where to read what it prints.

    Raises:
        OSError: there is no memory, process or file left.
    """
    readable, printed = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603  # our own module, no shell
            [sys.executable, "-P", "-m", "inference.worker.main", str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=printed,  # a model that prints must not mix into what the server prints
            stderr=printed,
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": search_path()},
            process_group=0,  # a Ctrl-C is the server's, and would find a worker that still imports unprepared
        )
    except BaseException:  # whatever it is, nobody will know of the pipe; it is raised again
        os.close(readable)
        raise
    finally:
        os.close(printed)
    return process, readable


class WorkerProcess:
    """A worker, started by exec: never forked, so no lock or thread of the server's is in it.

    Call the constructor from the loop's thread only: on Linux the worker asks to die with the *thread*
    that started it (prctl(2), PR_SET_PDEATHSIG).

    Args:
        on_exit: called on the loop, once, when the process has ended and is reaped, with its exit status;
            negative is a signal's number.

    Attributes:
        sock: the server's end of the socket pair.

    Raises:
        OSError, RuntimeError: it cannot be started or watched; nothing of it is left.
    """

    def __init__(self, loop: AbstractEventLoop, on_exit: Callable[[int], None]) -> None:
        self._loop = loop
        self._on_exit = on_exit
        with ExitStack() as undo:
            self.sock, theirs = socket.socketpair()
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            undo.callback(self.sock.close)
            with theirs:
                self._process, readable = _spawn(theirs)
            undo.callback(self._process.wait)
            undo.callback(self._process.kill)
            self._output = Output(readable, self._process.pid, loop)
            undo.callback(self._output.close)
            self._watch(undo)
            undo.pop_all()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def dump(self) -> None:
        """Let it write where it is, also from inside native code, to its error output."""
        self._process.send_signal(DUMP_SIGNAL)

    def kill(self) -> None:
        """End it now. SIGKILL, because a worker inside native code hears nothing else."""
        self._process.kill()

    def _watch(self, undo: ExitStack) -> None:
        try:
            pidfd = os.pidfd_open(self._process.pid)
        except (AttributeError, OSError):  # not Linux; a kernel before 5.3, or a container that forbids it
            threading.Thread(target=self._wait, daemon=True, name=f"wait-{self.pid}").start()
        else:
            undo.callback(os.close, pidfd)
            self._loop.add_reader(pidfd, self._ended, pidfd)

    def _wait(self) -> None:
        self._process.wait()
        self._loop.call_soon_threadsafe(self._reaped)

    def _ended(self, pidfd: int) -> None:
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        self._reaped()

    def _reaped(self) -> None:
        status = self._process.wait()
        self._output.close()
        self._on_exit(status)


def oom_kills() -> int | None:
    """How many processes Linux has ended for want of memory since it booted; None if it does not tell.

    Source: the field oom_kill of /proc/vmstat, which counts those of every cgroup, from Linux 4.13 on.
    """
    try:
        found = re.search(rb"^oom_kill (\d+)$", Path("/proc/vmstat").read_bytes(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


class LaunchedProcess:
    """Implements `Launched`: a process and the transport on its socket."""

    def __init__(self, loop: AbstractEventLoop, events: Events) -> None:
        self._events: Events | None = None
        self._oom_kills = oom_kills()
        self.process = WorkerProcess(loop, self._exited)
        try:
            self.transport = SocketTransport(self.process.sock, loop, events.received, events.lost)
        except OSError:  # the kernel watches no more files for this user
            self.process.sock.close()
            self.process.kill()
            raise
        self._events = events

    def _exited(self, status: int) -> None:
        if self._events:  # else nobody knows of it
            self._events.exited(status)

    @property
    def name(self) -> str:
        """The process's number."""
        return str(self.process.pid)

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self.process.pid

    def memory_sufficed(self) -> bool:
        """See `Launched`."""
        return self._oom_kills is not None and oom_kills() == self._oom_kills

    def dump(self) -> None:
        """See `Launched`."""
        self.process.dump()

    def kill(self) -> None:
        """See `Launched`."""
        self.process.kill()


class ProcessLauncher:
    """Implements `Launcher` with processes of this machine."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop

    def launch(self, events: Events) -> LaunchedProcess:
        """See `Launcher`."""
        try:
            return LaunchedProcess(self._loop, events)
        except (OSError, RuntimeError) as exc:  # no memory, processes, threads or files left
            raise LaunchError(str(exc)) from exc
