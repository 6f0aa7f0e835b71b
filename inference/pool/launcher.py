"""What the pool needs from outside: something that starts workers, a way to talk to one, a clock. Protocols only.

`inference.pool.process` starts workers as processes of this machine and talks on socket pairs. A worker elsewhere,
or one that a test scripts, implements the same. Nothing above these protocols may assume a process number, a socket
or a clock that is shared with the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from inference.wire.framing import Buffer


class LaunchError(Exception):
    """A worker cannot be started now. Nothing of it is left."""


class Transport(Protocol):
    """The server's end of the way to one worker: framed messages, in order, each whole or not at all.

    Attributes:
        unread: this end or the worker's was closed before the worker had taken all that was sent; True where that
            cannot be known to be False.
    """

    @property
    def unread(self) -> bool:
        """See the class."""

    def send(self, header: bytes, body: Sequence[Buffer] = ()) -> None:
        """Send a message without waiting. It calls nobody back, and does nothing once the transport is closed."""

    def finish(self) -> None:
        """Deliver what has arrived from a worker that has exited, without waiting; then the loss, if it is seen."""

    def close(self) -> None:
        """Close this end, which tells the worker to exit. No callback comes after it."""


class Events(Protocol):
    """Who is told about one worker. All calls come on the event loop, none from within a call of ours."""

    def received(self, header: memoryview, body: memoryview) -> None:
        """Take a message. If it raises, the transport is lost."""

    def lost(self, reason: str) -> None:
        """The transport broke, or the worker closed it. At most once; the worker may live on."""

    def exited(self, status: int) -> None:
        """The worker has exited and nothing of it is left. Exactly once; negative is a signal's number."""


class Launched(Protocol):
    """A worker that has been started.

    Attributes:
        name: for logs, e.g. its process number.
        pid: its process number on this machine; None if it runs elsewhere.
        transport: the way to it.
    """

    @property
    def name(self) -> str:
        """See the class."""

    @property
    def pid(self) -> int | None:
        """See the class."""

    @property
    def transport(self) -> Transport:
        """See the class."""

    def memory_sufficed(self) -> bool:
        """Whether the kernel has surely ended no process for want of memory since this one was launched."""

    def dump(self) -> None:
        """Let it write the stacks of its threads to its log, if it can."""

    def kill(self) -> None:
        """End it now, whatever it is doing; its exit is reported. Harmless once it has exited."""


class Launcher(Protocol):
    """Starts workers."""

    def launch(self, events: Events) -> Launched:
        """Start a worker. It waits for its `Setup`.

        Raises:
            LaunchError: it cannot be started now.
        """


class Timer(Protocol):
    """A call that comes later."""

    def cancel(self) -> None:
        """Do not make the call. Harmless after it."""


class Clock(Protocol):
    """The time, in seconds of the monotonic clock of items, and calls at a time."""

    def now(self) -> float:
        """The time."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call back on the event loop after `delay` seconds in which this process ran."""
