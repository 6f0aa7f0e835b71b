"""The server's life: start, warm, serve, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Callable, Coroutine

from aiohttp import web

from inference.engine import Engine, ModelStatus
from inference.pool.pool import WorkerOptions
from inference.wire.features import missing
from stream_server.errors import ConfigError
from stream_server.server.app import make_app
from stream_server.server.config import Settings
from stream_server.server.free_memory import FreeMemory
from stream_server.server.http_api import CALLERS, CONNECTIONS, LAG

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections the kernel holds until we accept them: a thousand clients may come back at once."""

FULL_COLLECTION = 100
"""How many collections of the middle generation come before a full one. A full one visits every object of every
stream, about 95 each, and stops the loop: for some 200 ms with 4,000 idle streams. It finds next to nothing,
because a stream that ends leaves no reference cycles. With Python's default of 10, every few hundred new streams
trigger one."""

INTERVALS = 4
"""How many intervals ``hello_s`` is divided into: a silent connection may last for one interval longer."""

RETRY_AFTER_MS = 1000
"""What a drained client is told to wait: a restart takes about that long."""


class Server:
    """One server: an engine, an application and a listening socket.

    Attributes:
        url: where it listens, once started.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine = Engine(
            settings.models,
            settings.workers,
            WorkerOptions(
                settings.sandbox,
                settings.worker_memory_mb,
                settings.spares,
                settings.recycle_mb,
                settings.recycle_batches,
            ),
            settings.groups,
            fair_by=settings.fair_by,
            max_unanswered_bytes=settings.limits.max_unanswered_bytes,
        )
        self._app = make_app(settings, self._engine)
        self._runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=1.0)
        self._closing_silent: asyncio.Task[None] | None = None
        self._free_memory = FreeMemory(lambda: self._engine.budget.used)
        self.url = ""

    def models(self) -> list[ModelStatus]:
        """What is known of each model."""
        return self._engine.models()

    async def start(self) -> None:
        """Listen, start the workers, and come back when every model is ready or unavailable.

        Requests are answered from the first moment on; streams to a model that still loads are refused
        (`Unavailable`). What has failed to start must be stopped as well.

        Raises:
            ConfigError: the address cannot be used, or the sandbox that was required is not whole.
        """
        await self._runner.setup()
        host, port = self._settings.host, self._settings.port
        self._site = web.TCPSite(self._runner, host, port, backlog=BACKLOG)
        try:
            await self._site.start()
        except OSError as exc:
            raise ConfigError(
                f"cannot listen on {host} port {port}: {exc.strerror}; choose another with --port"
            ) from exc
        self._closing_silent = asyncio.create_task(self._close_silent())
        self._app[LAG].start()
        self._free_memory.start()
        self._engine.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        await self._engine.warm()
        lacking = missing(self._engine.workers().sandbox)
        if self._settings.sandbox == "require" and lacking:
            raise ConfigError(f"the sandbox is not whole: {lacking}; serve without with --sandbox auto")

    def renew(self) -> None:
        """Replace the workers one after the other, each when it is idle: no stream notices."""
        log.warning("replacing every worker, one after the other")
        self._engine.renew()

    async def drain(self) -> None:
        """Refuse what is new and answer what was accepted, for at most ``drain_s`` seconds."""
        connections = self._app[CONNECTIONS]
        await self._site.stop()
        grace = self._settings.timeouts.drain_s
        log.info("draining: %d streams, at most %.0f s", len(connections), grace)
        connections.drain(round(grace * 1000), RETRY_AFTER_MS)
        if not await connections.closed(grace):
            log.warning("the drain's time is over with %d streams left", len(connections))

    async def stop(self) -> None:
        """End the workers, close every connection, free the address."""
        if self._closing_silent:
            self._closing_silent.cancel()
        self._app[LAG].stop()
        self._free_memory.stop()
        connections = self._app[CONNECTIONS]
        connections.drain(0, RETRY_AFTER_MS)
        await self._engine.stop()  # whatever still waited or ran has its outcome now, so the streams end
        if not await connections.closed(self._settings.timeouts.close_s):
            connections.abort()
        await self._runner.cleanup()
        connections.hangups.close()

    async def _close_silent(self) -> None:
        """Close connections that ask for nothing: aiohttp waits for the end of a request's head for ever.

        One that has been silent for `INTERVALS` intervals is closed. An interval in which the loop stood still does
        not count: what came meanwhile is still unread.
        """
        callers, server = self._app[CALLERS], self._runner.server
        assert server
        interval = self._settings.timeouts.hello_s / INTERVALS
        silent: dict[web.RequestHandler, int] = {}
        while True:
            due = time.monotonic() + interval
            await asyncio.sleep(interval)
            if time.monotonic() - due > interval:
                continue
            connected = set(server.connections)
            callers &= connected
            silent = {connection: silent.get(connection, -1) + 1 for connection in connected - callers}
            for connection, intervals in silent.items():
                if intervals >= INTERVALS:
                    connection.force_close()


async def serve(settings: Settings, on_ready: Callable[[Server], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain; a second signal cuts the drain short.

    SIGHUP renews the workers.
    """
    loop = asyncio.get_running_loop()
    stopping, forced = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (forced if stopping.is_set() else stopping).set()

    server = Server(settings)
    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop}
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = server.renew
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        if await run_until(stopping, server.start()):
            tune_gc()
            on_ready(server)
            await stopping.wait()
            await run_until(forced, server.drain())
    finally:
        await server.stop()
        for number in handlers:  # uvloop would leave them to whatever this process does next
            loop.remove_signal_handler(number)


def tune_gc() -> None:
    """Freeze the objects that the start has made, and make full collections rarer."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION)


async def run_until(event: asyncio.Event, work: Coroutine[None, None, None]) -> bool:
    """Do work until it is done or the event is set, which cancels it; whether it is done."""
    loop = asyncio.get_running_loop()
    working, waiting = loop.create_task(work), loop.create_task(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return working.done() and working.result() is None
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.wait({working, waiting})
