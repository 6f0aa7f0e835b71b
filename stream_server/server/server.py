"""The server's life: start, warm, serve, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping

from aiohttp import web

from inference.engine import Engine, ModelStatus
from inference.machine import cpu_quota, memory_bytes
from inference.pool.pool import WorkerOptions
from inference.wire.features import missing
from stream_server.errors import ConfigError
from stream_server.server.addresses import Addresses, listen, notify
from stream_server.server.app import make_app
from stream_server.server.config import Settings
from stream_server.server.connection_table import ConnectionTable
from stream_server.server.free_memory import FreeMemory
from stream_server.server.http_api import CONNECTIONS, LAG, METRICS
from stream_server.server.http_connection import HttpConnection
from stream_server.server.listener import INTERVALS, Listener, connection_capacity

log = logging.getLogger(__name__)

FULL_COLLECTION = 100
"""How many collections of the middle generation come before a full one. A full one visits every object of every
stream, about 95 each, and stops the loop: for some 200 ms with 4,000 idle streams. It finds next to nothing,
because a stream that ends leaves no reference cycles. With Python's default of 10, every few hundred new streams
trigger one."""

RETRY_AFTER_MS = 1000
"""What a drained client is told to wait: a restart takes about that long."""


class Server:
    """One server: an engine, an application and a listening socket.

    Attributes:
        url: where it listens, once started: the first of its addresses.
    """

    def __init__(self, settings: Settings, log_dropped: Mapping[str, int] | None = None) -> None:
        self._settings = settings
        memory_mb = settings.worker_memory(memory_bytes())
        quota = cpu_quota()
        log.info(
            "%d workers, at most %s MiB of private memory each; the CPU quota of the cgroup is %s",
            settings.workers,
            memory_mb or "unlimited",
            "not set" if quota is None else f"{quota:g} cores",
        )
        self._engine = Engine(
            settings.models,
            settings.workers,
            WorkerOptions(
                settings.sandbox,
                memory_mb,
                settings.spares,
                settings.recycle_mb,
                settings.recycle_batches,
            ),
            settings.groups,
            fair_by=settings.fair_by,
            max_unanswered_bytes=settings.limits.max_unanswered_bytes,
        )
        self._app = make_app(settings, self._engine)
        self._app[METRICS].log_dropped = log_dropped or {}
        self._runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=1.0)
        self._addresses: Addresses | None = None
        self._listener: Listener | None = None
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
            ConfigError: the address cannot be used, the sandbox that was required is not whole, or a model's code
                or an option is wrong, so that it would not load at another try.
        """
        await self._runner.setup()
        self._addresses = listen(self._settings.host, self._settings.port)
        self.url = self._addresses.url
        self._listener = self._make_listener()
        self._listener.start(self._addresses.sockets)
        self._app[LAG].start()
        self._free_memory.start()
        self._engine.start()
        await self._engine.warm(until_permanent=True)
        if wrong := [status for status in self._engine.models() if status.permanent]:
            reasons = "; ".join(f"model {status.name} cannot be served: {status.reason}" for status in wrong)
            raise ConfigError(reasons)
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
        self._free_addresses()
        grace = self._settings.timeouts.drain_s
        log.info("draining: %d streams, at most %.0f s", len(connections), grace)
        connections.drain(round(grace * 1000), RETRY_AFTER_MS)
        if not await connections.closed(grace):
            log.warning("the drain's time is over with %d streams left", len(connections))

    async def stop(self) -> None:
        """End the workers, close every connection, free the address."""
        if self._listener:
            self._listener.stop()
        self._app[LAG].stop()
        self._free_memory.stop()
        connections = self._app[CONNECTIONS]
        connections.drain(0, RETRY_AFTER_MS)
        await self._engine.stop()  # whatever still waited or ran has its outcome now, so the streams end
        if not await connections.closed(self._settings.timeouts.close_s):
            connections.abort()
        await self._runner.cleanup()
        self._free_addresses()
        connections.hangups.close()

    def _free_addresses(self) -> None:
        """Accept nothing more. Once only: another server may listen on the path of a unix socket by then."""
        addresses, self._addresses = self._addresses, None
        if self._listener:
            self._listener.stop_accepting()
        if addresses:
            addresses.close()

    def _make_listener(self) -> Listener:
        server, settings = self._runner.server, self._settings
        assert server
        limits, timeouts = settings.limits, settings.timeouts
        processes = sum(group.workers + settings.spares for group in settings.all_groups)
        table = ConnectionTable[HttpConnection](connection_capacity(limits.max_streams, processes))
        return Listener(
            table, lambda: HttpConnection(server, table, limits, timeouts), timeouts.hello_s / INTERVALS
        )


async def serve(
    settings: Settings,
    on_ready: Callable[[Server], None],
    log_dropped: Mapping[str, int] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain; a second signal cuts the drain short.

    SIGHUP renews the workers.

    Args:
        on_ready: called on the event loop; it must not block.
        log_dropped: records that are not in the log, by reason, for the metrics.
    """
    loop = asyncio.get_running_loop()
    stopping, forced = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (forced if stopping.is_set() else stopping).set()

    server = Server(settings, log_dropped)
    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop}
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = server.renew
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        if await run_until(stopping, server.start()):
            tune_gc()
            on_ready(server)
            notify("READY=1")
            await stopping.wait()
        notify("STOPPING=1")
        await run_until(forced, server.drain())  # streams of some models may be served while others load
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
