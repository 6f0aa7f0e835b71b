"""What the first process of a container owes the others: it reaps orphans, and passes signals on.

Linux gives a process whose parent has exited to process 1, which must reap it once it has exited too; else a zombie
stays, and zombies count in the container's limit of processes. Signals that process 1 does not handle are ignored.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

FORWARDED = {
    getattr(signal, name)
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
}
"""What people and container engines send."""


def split_if_first() -> None:
    """Let process 1 be an init that waits for a child, and return in the child; elsewhere do nothing.

    It must be called before any thread or event loop exists. The init exits with the child's exit status, or as a
    shell says it, 128 and the number of the signal that ended it.
    """
    if os.getpid() != 1 or not hasattr(signal, "sigwaitinfo"):
        return
    watched = FORWARDED | {signal.SIGCHLD}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # were it ignored, the child's exit status would be lost
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)  # none is lost while there is no child yet
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    status = None
    while status is None:
        received = signal.sigwaitinfo(watched)
        if received.si_signo == signal.SIGCHLD:
            status = _reap(child)
        elif received.si_code <= 0:  # of a process; what a terminal sends, the child gets as well
            with suppress(ProcessLookupError):
                os.kill(child, received.si_signo)
    os._exit(status if status >= 0 else 128 - status)


def _reap(child: int) -> int | None:
    """Reap whatever has exited; the child's exit status if it is among them, negative for a signal."""
    found = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                found = os.waitstatus_to_exitcode(ended[1])
    return found
