"""Accepts connections: some at a time, at most as many as there are descriptors for, and closes those overdue."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from stream_server.server.connection_table import ConnectionTable
from stream_server.server.http_connection import HttpConnection, busy_response

log = logging.getLogger(__name__)

ACCEPTED_AT_ONCE = 16
"""Connections that are accepted before the loop sees to others."""

OTHER_CONNECTIONS = 1000
"""Most connections besides streams: requests, and those that have yet to ask for something."""

DESCRIPTORS_PER_WORKER = 4
"""A socket, the pipe of what it prints, and a descriptor of the process."""

SPARE_DESCRIPTORS = 32
"""For `ACCEPTED_AT_ONCE`, and for starting a worker, which needs eight for a moment."""

USUAL_LIMIT, USUAL_DESCRIPTORS = 1024, 16
"""The usual soft limit of open files, and what a server without connections has open."""

INTERVALS = 4
"""How many intervals the time for a request is divided into: a connection may last for one interval longer."""

RETRY_S = 0.1
"""Pause after a connection could not be accepted: the machine, or this process, has no descriptor left."""


class Listener:
    """The sockets that listen, and the connections that came from them.

    Args:
        table: says how many connections there may be.
        make: makes the protocol of a connection.
        interval: seconds between two looks at the deadlines.
    """

    def __init__(
        self, table: ConnectionTable[HttpConnection], make: Callable[[], HttpConnection], interval: float
    ) -> None:
        self._table = table
        self._make = make
        self._interval = interval
        self._connecting: set[asyncio.Task[object]] = set()
        self._closing_overdue: asyncio.Task[None] | None = None
        self._sockets: list[socket.socket] = []
        self._short = False  # of descriptors

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections from sockets that listen; whoever opened them closes them."""
        self._sockets = list(sockets)
        for sock in sockets:
            sock.setblocking(False)
            self._resume(sock)
        self._closing_overdue = asyncio.get_running_loop().create_task(self._close_overdue())

    def stop_accepting(self) -> None:
        """Accept nothing more; connections stay, and so do the sockets."""
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
        self._sockets.clear()

    def stop(self) -> None:
        """Stop accepting, and looking at deadlines."""
        self.stop_accepting()
        if self._closing_overdue:
            self._closing_overdue.cancel()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                client, _ = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # it has gone already
                continue
            except OSError as exc:
                if not self._short:  # one line for each shortage
                    log.warning("a connection cannot be accepted: %s", exc.strerror)
                self._short = True
                self._make_room()
                loop = asyncio.get_running_loop()
                loop.remove_reader(sock)
                loop.call_later(RETRY_S, self._resume, sock)
                return
            self._short = False
            self._connect(client)

    def _resume(self, sock: socket.socket) -> None:
        if sock in self._sockets:
            asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def _connect(self, client: socket.socket) -> None:
        client.setblocking(False)
        if len(self._table) + len(self._connecting) >= self._table.capacity and not self._make_room():
            log.debug("refused a connection: there are %d", len(self._table))
            with suppress(OSError):
                client.send(busy_response())
            client.close()
            return
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._hand_over(client))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _hand_over(self, client: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make, client)
        except OSError:
            client.close()

    def _make_room(self) -> bool:
        """Drop who has been waited for the longest; return whether there was one."""
        oldest = self._table.longest_awaited()
        if oldest is None:
            return False
        self._table.remove(oldest)
        oldest.abort()
        return True

    async def _close_overdue(self) -> None:
        """Close connections whose deadline has passed.

        Not after an interval in which the loop stood still: what came meanwhile is still unread.
        """
        while True:
            due = time.monotonic() + self._interval
            await asyncio.sleep(self._interval)
            now = time.monotonic()
            if now - due <= self._interval:
                for connection in self._table.overdue(now):
                    connection.check_deadline()


def raise_descriptor_limit(wanted: int) -> int:
    """Raise the soft limit of open descriptors as far as needed and allowed; return how many there may be."""
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except OSError as exc:  # a container may forbid it, and even to ask
        log.warning("the limit of open files is not known or cannot be raised: %s", exc.strerror)
        return min(wanted, USUAL_LIMIT)
    return wanted


def open_descriptors() -> int:
    """How many descriptors this process has open; a guess where /dev/fd cannot be read, as without /proc."""
    try:
        return sum(1 for _ in Path("/dev/fd").iterdir())
    except OSError:
        return USUAL_DESCRIPTORS


def connection_capacity(max_streams: int, processes: int) -> int:
    """How many connections to accept, raising the limit of descriptors first, with a reserve for workers.

    Args:
        processes: workers and spares. Each may have a successor before its descriptors are closed.
    """
    reserve = open_descriptors() + 2 * DESCRIPTORS_PER_WORKER * processes + SPARE_DESCRIPTORS
    wanted = max_streams + OTHER_CONNECTIONS
    limit = raise_descriptor_limit(reserve + wanted)
    capacity = limit - reserve
    if capacity < wanted:
        log.warning(
            "at most %d connections: this process may open %d files (ulimit -n), and %d streams need %d",
            *(max(1, capacity), limit, max_streams, reserve + wanted),
        )
    return max(1, capacity)
